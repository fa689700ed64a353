"""Google's `cachedContents`: made, used again, kept alive and deleted.

    context = await create_context_cache(model="gemini/gemini-2.5-pro", system_instruction=manual, ttl=3600)
    answer = await acompletion(model="gemini/gemini-2.5-pro", messages=[…], context_cache_id=context.id)

`ContextCaches` does it for calls behind their backs: what they have in common is kept once, under a digest of it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any, Protocol

import orjson

from asynccache.directives import seconds
from asynccache.errors import BackendError, BackendTimeout, BackendUnavailable, ConfigError
from asynccache.material import Reader, dumps_tree
from asynccache.protocols import Clock
from asynccache.providers.gemini import GeminiAPI
from asynccache.providers.vertex import VertexAPI

logger = logging.getLogger("asynccache")

_LIBRARIES = ("httpx2", "httpx")
_GONE = (403, 404)  # what the API says of a context that is over


class ContextAPI(Protocol):
    """Where contexts are kept: `GeminiAPI` or `VertexAPI`."""

    def resource(self, model: str) -> str: ...

    def url(self, name: str = "") -> str: ...

    async def headers(self) -> Mapping[str, str]: ...


Send = Callable[[str, str, Mapping[str, str], bytes | None], Awaitable[tuple[int, bytes]]]
"""(method, URL, headers, body) → (status, body). Raises TimeoutError when it took too long, OSError when there is no
way to get there."""


@dataclass(frozen=True, slots=True)
class ContextCache:
    """A prefix that Google keeps.

    id:      its name: what `context_cache_id` takes.
    model:   whose calls alone can use it.
    expires: when it ends, in seconds since the epoch.
    tokens:  how many it has; None when the API did not say.
    """

    id: str
    model: str
    expires: float
    tokens: int | None = None


class ContextCaches:
    """The contexts of one account.

    ttl:         seconds for which one is kept; it begins anew when one that is used has less than a quarter left.
    timeout:     seconds for one request to the API.
    retry_after: seconds for which a prefix that could not be kept is sent whole, without another try.
    max_contexts: how many are remembered; those beyond that end by themselves.
    send:        sends a request; None: httpx2 or httpx does, whichever is there.

    Does no I/O before the first request. Raises ConfigError for a wrong argument.
    """

    def __init__(
        self,
        api: ContextAPI,
        *,
        ttl: float | timedelta = 3600,
        timeout: float | timedelta = 10,
        retry_after: float | timedelta = 60,
        max_contexts: int = 1024,
        send: Send | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.api = api
        self._ttl = seconds(ttl, "ttl")
        self._timeout = seconds(timeout, "timeout")
        self._retry_after = seconds(retry_after, "retry_after")
        self._max = max_contexts
        self._send = send or self._over_http
        self._clock = clock
        self._known: OrderedDict[str, ContextCache] = OrderedDict()
        self._resting: OrderedDict[str, float] = OrderedDict()
        self._flights: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Task[ContextCache | None]] = {}

    async def find(self, model: str, content: Mapping[str, Any]) -> str | None:
        """The name of what keeps this content for this model. It is made when there is none, once however many ask at
        the same time, and kept alive while it is used.

        Never raises: None when it cannot be kept, and the calls are to be sent whole.
        """
        digest = _digest(model, content)
        if digest is None:
            return None
        now = self._clock()
        context = self._known.get(digest)
        left = 0.0 if context is None else context.expires - now
        if context is not None and left >= self._ttl / 4:
            self._known.move_to_end(digest)
            return context.id
        if self._resting.get(digest, now) > now:
            return context.id if context is not None and self._lasts(context, now) else None
        place = asyncio.get_running_loop(), digest
        flight = self._flights.get(place)
        if flight is None:
            flight = self._flights[place] = asyncio.create_task(self._bring(digest, model, content))
            flight.add_done_callback(lambda _: self._flights.pop(place, None))
        await asyncio.wait((flight,))  # whoever is cancelled leaves the others what they wait for
        found = None if flight.cancelled() else flight.result()
        return None if found is None else found.id

    async def create(
        self, model: str, content: Mapping[str, Any], *, ttl: float | timedelta | None = None, name: str = ""
    ) -> ContextCache:
        """Keep this content: `systemInstruction`, `contents`, `tools` and `toolConfig`, in Gemini's words.

        name: shown in lists, 128 characters at most. Raises BackendError, as do all verbs below.
        """
        life = self._ttl if ttl is None else seconds(ttl, "ttl")
        asked = self._clock()
        body = {**content, "model": self.api.resource(model), "ttl": _duration(life)}
        made = await self._ask("POST", self.api.url(), {**body, **({"displayName": name} if name else {})})
        if not isinstance(made.get("name"), str):
            raise BackendUnavailable("an answer without a name", backend="cachedContents")
        tokens = (made.get("usageMetadata") or {}).get("totalTokenCount")
        return ContextCache(made["name"], model, asked + life, tokens)

    async def refresh(self, context: ContextCache, *, ttl: float | timedelta | None = None) -> ContextCache:
        """Let it live for so long from now on."""
        life = self._ttl if ttl is None else seconds(ttl, "ttl")
        asked = self._clock()
        await self._ask("PATCH", f"{self.api.url(context.id)}?updateMask=ttl", {"ttl": _duration(life)})
        return replace(context, expires=asked + life)

    async def delete(self, id: str) -> bool:
        """End it now. False when it was over."""
        for digest in [digest for digest, context in self._known.items() if context.id == id]:
            del self._known[digest]
        try:
            await self._ask("DELETE", self.api.url(id), None)
        except _Answered as error:
            if error.status in _GONE:
                return False
            raise
        return True

    async def delete_all(self) -> int:
        """End all that `find` has made here. How many there were."""
        contexts = list(self._known.values())
        return sum([await self.delete(context.id) for context in contexts])

    async def _bring(self, digest: str, model: str, content: Mapping[str, Any]) -> ContextCache | None:
        known, now = self._known.get(digest), self._clock()
        try:
            context = await self._anew(known, model, content, digest)
        except Exception as error:  # a saving must never fail a call, whatever the user's `send` or token raises
            logger.warning("no context is kept at %s: %s", self.api.url(), error)
            _remember(self._resting, digest, self._clock() + self._retry_after, self._max)
            return known if known is not None and self._lasts(known, now) else None
        self._resting.pop(digest, None)
        _remember(self._known, digest, context, self._max)
        return context

    async def _anew(
        self, known: ContextCache | None, model: str, content: Mapping[str, Any], digest: str
    ) -> ContextCache:
        if known is not None and self._lasts(known, self._clock()):
            try:
                return await self.refresh(known)
            except _Answered as error:
                if error.status not in _GONE:
                    raise
                self._known.pop(digest, None)  # somebody has deleted it
        return await self.create(model, content, name=f"asynccache-{digest[:32]}")

    def _lasts(self, context: ContextCache, now: float) -> bool:
        """Whether a call that is sent now will still find it."""
        return context.expires - now > min(60, self._ttl / 10)

    async def _ask(self, method: str, url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        headers = {**await self.api.headers(), "content-type": "application/json"}
        data = None if body is None else orjson.dumps(body)
        try:
            status, said = await self._send(method, url, headers, data)
        except TimeoutError as error:
            raise BackendTimeout(f"no answer within {self._timeout} s", backend="cachedContents") from error
        except OSError as error:
            raise BackendUnavailable(str(error), backend="cachedContents") from error
        if not 200 <= status < 300:
            raise _Answered(status, said)
        try:
            found = orjson.loads(said or b"{}")
        except ValueError as error:
            raise BackendUnavailable("an answer that is no JSON", backend="cachedContents") from error
        return found if isinstance(found, dict) else {}

    async def _over_http(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Any:
        # A client for each request: they are rare, and no connection is left on whatever loop it was made.
        http = _library()
        try:
            async with http.AsyncClient(timeout=self._timeout) as client:
                response = await client.request(method, url, headers=headers, content=body)
        except http.TimeoutException as error:
            raise TimeoutError(str(error)) from error
        except http.HTTPError as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        return response.status_code, response.content


class _Answered(BackendUnavailable):
    """The API refused."""

    def __init__(self, status: int, said: bytes) -> None:
        super().__init__(f"status {status}: {said[:200].decode(errors='replace')}", backend="cachedContents")
        self.status = status


async def create_context_cache(
    model: str,
    *,
    system_instruction: str | Mapping[str, Any] | None = None,
    contents: str | Sequence[Mapping[str, Any]] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    ttl: float | timedelta = 3600,
    display_name: str = "",
    api_key: str | None = None,
    base_url: str | None = None,
    project: str | None = None,
    location: str | None = None,
    token: Callable[[], Awaitable[str]] | None = None,
) -> ContextCache:
    """Have Google keep this for `ttl` seconds. Its `id` is what a call's `context_cache_id` takes.

    model:   "gemini/…" with an `api_key` (else that of GEMINI_API_KEY or GOOGLE_API_KEY); or "vertex_ai/…" with
             `project`, `location` and `token`, which gives an access token.
    contents, tools: in Gemini's words; a text is one of the user's.

    Raises ConfigError when something is missing, and BackendError when it cannot be kept.
    """
    if isinstance(contents, str):
        contents = [{"role": "user", "parts": [{"text": contents}]}]
    if isinstance(system_instruction, str):
        system_instruction = {"parts": [{"text": system_instruction}]}
    kept = {"systemInstruction": system_instruction, "contents": list(contents), "tools": list(tools)}
    content = {name: value for name, value in kept.items() if value}
    if not content:
        raise ConfigError("create_context_cache: nothing is given to be kept: system_instruction, contents or tools")
    api = _api(model, api_key, base_url, project, location, token)
    return await ContextCaches(api, ttl=ttl).create(model, content, name=display_name)


def _api(
    model: str,
    api_key: str | None,
    base_url: str | None,
    project: str | None,
    location: str | None,
    token: Callable[[], Awaitable[str]] | None,
) -> ContextAPI:
    if model.startswith(("vertex_ai/", "vertex_ai_beta/")) or token is not None:
        if project is None or location is None or token is None:
            raise ConfigError("contexts on Vertex AI want a project, a location and a token")
        return VertexAPI(project, location, token, base_url)
    key = api_key or os.environ.get("GEMINI_API_KEY") or os.environ.get("GOOGLE_API_KEY")
    if not key:
        raise ConfigError("contexts at Gemini want an api_key, or GEMINI_API_KEY in the environment")
    return GeminiAPI(key) if base_url is None else GeminiAPI(key, base_url)


def _library() -> Any:
    for name in _LIBRARIES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ConfigError("Google's contexts need an HTTP client: pip install 'asynccache[gemini]'")


def _digest(model: str, content: Mapping[str, Any]) -> str | None:
    try:
        return sha256(dumps_tree(Reader(False).read([model, content]))).hexdigest()
    except Exception:  # an argument without a stable value cannot be found again
        return None


def _duration(life: float) -> str:
    return f"{life:.9f}".rstrip("0").rstrip(".") + "s"


def _remember(table: OrderedDict[str, Any], digest: str, value: Any, limit: int) -> None:
    table[digest] = value
    table.move_to_end(digest)
    while len(table) > limit:
        table.popitem(last=False)


__all__ = ["BackendError", "ContextAPI", "ContextCache", "ContextCaches", "Send", "create_context_cache"]
