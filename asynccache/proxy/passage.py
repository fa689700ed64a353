"""All that is no call: passed through untouched, as it comes, both ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

import httpx2
from starlette.types import Receive, Scope, Send

from asynccache.http.answers import Headers
from asynccache.http.calls import CONTROL_HEADER, api_of, dumps, loads
from asynccache.proxy.access import Access, Caller, Denied
from asynccache.proxy.bodies import Gone, Patience, Rest, Watch
from asynccache.proxy.endpoint import Calls, Crowd, denial, refuse
from asynccache.proxy.forward import CREDENTIAL_HEADERS, without_credentials
from asynccache.proxy.problems import Problem
from asynccache.proxy.upstreams import Deployment, Single, Upstreams
from asynccache.proxy.wire import Wire, failure, passed_back, passed_on

logger = logging.getLogger("asynccache")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_NOT_SENT_ON = CREDENTIAL_HEADERS | {b"host", b"expect", CONTROL_HEADER}
_ROUNDS = 4
_VERSION = "/v1"


class Passage:
    """The ASGI application for every path that nothing else is at."""

    def __init__(
        self, calls: Calls, access: Access, upstreams: Upstreams, wire: Wire, crowd: Crowd, patience: Patience
    ) -> None:
        self._calls = calls
        self._access = access
        self._upstreams = upstreams
        self._wire = wire
        self._crowd = crowd
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope)
        if scope["method"] == "POST" and self._upstreams.single is not None and sound(path):
            api = api_of(path)
            if api is not None:
                await self._calls.take(api, _quoted(scope, path), scope, receive, send, whole=True)
                return
        try:
            self._crowd.enter()
        except Problem as problem:
            await refuse(send, problem)
            return
        started = Started(send)
        try:
            await self._pass(path, scope, receive, started)
        except Gone:
            pass
        except Denied as denied:
            await started.refuse(denial(denied))
        except Problem as problem:
            await started.refuse(problem, rest=self._patience.rest(receive, problem))
        except httpx2.TransportError as error:
            await started.refuse(failure(error))
        except Exception:  # as in `Calls`
            logger.exception("a request failed")
            await started.refuse(Problem(500, "the proxy failed; its log says why", code="internal_error"))
        finally:
            self._crowd.leave()

    async def _pass(self, path: str, scope: Scope, receive: Receive, send: Started) -> None:
        headers = dict(scope["headers"])
        # A page in the browser of somebody who can reach the proxy must not call it for that one. Calls are safe from
        # it, since their bodies are of a type for which browsers ask first.
        asks = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if asks or headers.get(b"sec-fetch-site") == b"cross-site":
            raise Problem(403, "web pages of other origins may not call this proxy", code="cross_origin")
        if scope["method"] not in _METHODS:
            allowed = ", ".join(sorted(_METHODS)).encode()
            raise Problem(405, "this method is not allowed", code="method_not_allowed", headers=[(b"allow", allowed)])
        caller = self._access.admit(headers)
        if not sound(path):
            raise Problem(400, "this path is not allowed", code="invalid_path")
        has_body = b"content-length" in headers or b"transfer-encoding" in headers
        with self._patience.watch(receive) as watch:
            try:
                if has_body and (single := self._upstreams.single) is not None:
                    pieces = self._uploaded(receive, headers, watch)
                    await self._exchange(self._request(scope, path, single, pieces, caller), send, watch)
                    return
                body = await self._patience.whole(receive, headers) if has_body else None
                watch.answering()
                deployment, body = self._of_the_model(body, headers)
                await self._exchange(self._request(scope, path, deployment, body, caller), send, watch)
            except asyncio.CancelledError:
                if not watch.over():
                    raise
                if watch.late:
                    raise self._patience.too_slow() from None

    async def _uploaded(self, receive: Receive, headers: Mapping[bytes, bytes], watch: Watch) -> AsyncIterator[bytes]:
        """The body as it comes. It is read from the channel that says later that the client has left."""
        watch.uploading()
        async for piece in self._patience.pieces(receive, headers):
            yield piece
        watch.answering()

    def _request(
        self,
        scope: Scope,
        path: str,
        deployment: Deployment,
        body: bytes | AsyncIterator[bytes] | None,
        caller: Caller,
    ) -> httpx2.Request:
        own = self._access.open and not deployment.keyed and not caller.manager
        return _request(scope, _quoted(scope, path), deployment, body, own)

    def _of_the_model(self, body: bytes | None, headers: Mapping[bytes, bytes]) -> tuple[Deployment, bytes | None]:
        """Where a body goes by the model that it names, and how it reads there."""
        fields: Any = None
        if body is not None and headers.get(b"content-type", b"").lower().startswith(b"application/json"):
            try:
                fields = loads(body)
            except ValueError:
                raise Problem(400, "the body is no JSON", code="invalid_json") from None
        if isinstance(fields, dict) and isinstance(fields.get("model"), str):
            deployment = self._upstreams.group(fields["model"]).next()
            if deployment.model is not None:
                try:
                    body = dumps({**fields, "model": deployment.model})
                except TypeError:  # deeper than can be written, though not than can be read
                    raise Problem(400, "the body is nested too deeply", code="invalid_json") from None
            return deployment, body
        group = self._upstreams.common
        if group is None:
            raise Problem(404, "no such path, and no upstream that it could be passed to", code="unknown_path")
        return group.next(), body

    async def _exchange(self, request: httpx2.Request, send: Started, watch: Watch) -> None:
        response = await self._wire.send(request)
        try:
            headers = passed_back(response.headers.raw)
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for piece in response.aiter_raw():
                await watch.send(send, {"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()


class Started:
    """Sends, and knows whether it has begun: after that no error can be told, and the connection is cut."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def __call__(self, message: Any) -> None:
        self._started = True
        await self._send(message)

    async def refuse(self, problem: Problem, *, rest: Rest | None = None) -> None:
        if not self._started:
            await refuse(self._send, problem, rest=rest)


def route_path(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def sound(path: str) -> bool:
    """Whether a path leads nowhere but where it says: no steps up, however they are written, no other host."""
    for _ in range(_ROUNDS):
        odd = "\\" in path or path.startswith("//") or any(ord(c) < 32 or ord(c) == 127 for c in path)
        if odd or not path.startswith("/") or not {".", ".."}.isdisjoint(path.split("/")):
            return False
        plain = unquote(path)
        if plain == path:
            return True
        path = plain
    return False


def below_version(path: str) -> str:
    """A path without the version in front. What is left is a path again: "@host/x" after an address without one would
    be another host."""
    return path[len(_VERSION) :] if path == _VERSION or path.startswith(f"{_VERSION}/") else path


def _quoted(scope: Scope, path: str) -> str:
    """The path as it came, or as it would have."""
    raw: bytes | None = scope.get("raw_path")
    if raw is None or scope.get("root_path"):
        return quote(path, safe="/:@!$&'()*+,;=~-._")
    return raw.partition(b"?")[0].decode("ascii", errors="replace")


def _request(
    scope: Scope, path: str, deployment: Deployment, body: bytes | AsyncIterator[bytes] | None, own: bool
) -> httpx2.Request:
    below = below_version(path)
    url = deployment.raw(path) if isinstance(deployment, Single) else deployment.url(below)
    if url is None:
        raise Problem(501, f"{deployment.provider} cannot be reached at this path", code="unsupported_path")
    query: bytes = scope["query_string"]
    if not own:
        query = without_credentials(query)
    if query:
        url += f"{'&' if '?' in url else '?'}{query.decode('latin-1')}"
    left_out = _NOT_SENT_ON | ({b"content-length"} if isinstance(body, bytes) else set())
    headers: Headers = passed_on(scope["headers"], frozenset(left_out))
    if own:
        headers += [pair for pair in scope["headers"] if pair[0] in CREDENTIAL_HEADERS]
    headers += deployment.credentials(below)
    try:
        return httpx2.Request(scope["method"], url, headers=headers, content=body)
    except httpx2.InvalidURL:
        raise Problem(400, "this path or query cannot be sent on", code="invalid_path") from None
