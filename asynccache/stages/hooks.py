"""User code before the key is built, and before an answer leaves."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

from asynccache.errors import ConfigError
from asynccache.model import CompletionStream, Request, Response
from asynccache.protocols import Handler, PostHook, PreHook
from asynccache.stats import Stats
from asynccache.streams import close

OnError = Literal["raise", "skip"]


class Hooks:
    """Pre-LLM hooks on the way in, so that the key covers what the model will really see; post-cache
    hooks on the way out, on hits as on misses.

    on_error: "raise" lets a hook's exception reach the caller; "skip" counts it and goes on.
    """

    def __init__(
        self, pre: Sequence[PreHook] = (), post: Sequence[PostHook] = (), *, stats: Stats, on_error: OnError = "raise"
    ) -> None:
        for hook in (*pre, *post):
            if not _is_async(hook):
                raise ConfigError(f"hook {hook!r} is not async: write it as `async def`")
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_hook_error={on_error!r}: it is 'raise' or 'skip'")
        self._pre = tuple(pre)
        self._post = tuple(post)
        self._stats = stats
        self._skip = on_error == "skip"

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        try:
            for hook in self._pre:
                params = await self._run(hook, request)
                if params is not None:
                    request.params = dict(params)
        except BaseException:
            self._stats.count_bypass("hook")
            raise
        response = await call_next(request)
        await self.finish(response, request)
        return response

    async def finish(self, response: Response, request: Request) -> None:
        """Run the post-cache hooks on this answer, unless they have run on it already."""
        if response.hooked:
            return
        response.hooked = True
        try:
            for hook in self._post:
                await self._run(hook, response, request)
        except BaseException:
            if isinstance(response, CompletionStream):
                await close(response.chunks)  # nobody gets it, so nobody else can
            raise

    async def _run(self, hook: Any, *args: Any) -> Any:
        try:
            return await hook(*args)
        except Exception:  # user code may raise anything; what then is the user's choice
            self._stats.hook_errors += 1
            if not self._skip:
                raise
            return None


def _is_async(hook: Any) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)
