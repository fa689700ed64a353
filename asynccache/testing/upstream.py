"""An upstream without HTTP: a callable like `acompletion`, for tests of whatever wraps one."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from asynccache.testing.answers import Answer, Reply, ToolCall, compose
from asynccache.testing.shapes import chat
from asynccache.testing.turnstile import Turnstile

__all__ = ["Answer", "FakeUpstream", "ToolCall"]

Scripted = str | Answer | Mapping[str, Any]
CREATED = 1_750_000_000
"""Every answer's `created`: the same in each run."""


class FakeUpstream:
    """`await upstream(model=…, messages=…)` gives a chat completion as a dict; with `stream=True`, an async iterator
    of its chunks. What it says depends on the content of the request alone; ids are new for each call.

    answer: what to say instead: a text, an `Answer` (refusals, tool calls, finish reasons), a whole completion (given
    out as a copy; it cannot be streamed), or a function from the call's parameters to one of those.

        upstream = FakeUpstream()
        upstream.hold()
        callers = [asyncio.create_task(cached(model="m", messages=messages)) for _ in range(100)]
        await upstream.reached(1)
        upstream.release()
        await asyncio.gather(*callers)
        assert upstream.calls == 1

    requests:  the parameters of each call, in order; they are not copied.
    cancelled: how many calls and streams were given up by their callers before their end.
    """

    def __init__(self, answer: Scripted | Callable[[Mapping[str, Any]], Scripted] | None = None) -> None:
        self.requests: list[dict[str, Any]] = []
        self.cancelled = 0
        self._answer = answer
        self._turnstile = Turnstile()
        self._failures: list[tuple[BaseException, int]] = []

    @property
    def calls(self) -> int:
        """How many calls have come, failed ones included."""
        return len(self.requests)

    def hold(self) -> None:
        """Take calls, but answer none; streams under way stop before their next chunk."""
        self._turnstile.hold()

    def release(self) -> None:
        """Go on answering."""
        self._turnstile.release()

    async def reached(self, calls: int) -> None:
        """Wait until so many calls have come since the beginning."""
        await self._turnstile.reached(calls)

    def fail(self, error: BaseException, *, times: int = 1, after: int = 0) -> None:
        """Raise this very object in the next `times` calls; with `after`, in a stream that has given so many chunks
        (a call that is no stream raises at once)."""
        self._failures.extend([(error, after)] * times)

    async def __call__(self, *, model: str, messages: Sequence[Any], stream: bool = False, **params: Any) -> Any:
        """One call. Raises what `fail` was given."""
        request = {"model": model, "messages": messages, **({"stream": stream} if stream else {}), **params}
        self.requests.append(request)
        number = self._turnstile.arrive()
        failure = self._failures.pop(0) if self._failures else None
        try:
            await self._turnstile.passage()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if failure is not None and not (stream and failure[1]):
            raise failure[0]
        said = self._say(request)
        if isinstance(said, Mapping):
            return _copy(said, stream)
        reply = Reply(request, said, number, CREATED)
        return self._stream(reply, failure) if stream else chat.completion(reply)

    def _say(self, request: Mapping[str, Any]) -> tuple[Answer, ...] | Mapping[str, Any]:
        """One answer for each of the `n` choices, or a whole completion."""
        wanted = request.get("n") or 1
        said = self._answer(request) if callable(self._answer) else self._answer
        if said is None:
            return tuple(compose(request, index) for index in range(wanted))
        if isinstance(said, Mapping):
            return said
        return (Answer(said) if isinstance(said, str) else said,) * wanted

    async def _stream(self, reply: Reply, failure: tuple[BaseException, int] | None) -> AsyncIterator[dict[str, Any]]:
        try:
            for count, chunk in enumerate(chat.chunks(reply)):
                if failure is not None and count == failure[1]:
                    raise failure[0]
                await self._turnstile.passage()
                yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


def _copy(completion: Mapping[str, Any], stream: bool) -> dict[str, Any]:
    if stream:
        raise TypeError("a whole completion cannot be streamed: give FakeUpstream a text or an Answer")
    return copy.deepcopy(dict(completion))
