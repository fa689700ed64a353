"""An HTTP request for a call → its answer on the wire. The way of every hit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
from starlette.types import Receive, Scope, Send

from asynccache.errors import AsyncCacheError, ConfigError, NotCached
from asynccache.http.answers import Head, Headers, Refused, Reply
from asynccache.http.calls import API, CONTROL_HEADER, TRANSCRIPTIONS, unsealed
from asynccache.http.wire import Bytes, Live
from asynccache.model import CacheStatus, Completion, CompletionStream
from asynccache.proxy.access import Access, Caller, Denied
from asynccache.proxy.bodies import Gone, Patience, Rest, Watch, read_form, read_json
from asynccache.proxy.forward import Call, Forward, answered
from asynccache.proxy.litellm_calls import Written
from asynccache.proxy.manners import CACHE_CONTROL, NOTHING, Asked, asked, told
from asynccache.proxy.problems import Problem
from asynccache.proxy.upstreams import Upstreams
from asynccache.proxy.wire import failure, passed_back
from asynccache.streams import Replay, close

if TYPE_CHECKING:
    from asynccache.proxy.settings import Settings

logger = logging.getLogger("asynccache")

_JSON_TYPE = (b"content-type", b"application/json")
_NAMED = ("/responses", "/messages")
_PIECE = 64 * 2**10


class Crowd:
    """How many requests are under way, and how many may be."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.inside = 0

    def enter(self) -> None:
        """Raises Problem (503) when there are too many. Whoever is in calls `leave`."""
        if self.inside >= self._limit:
            raise Problem(
                503,
                f"{self._limit} requests are under way already (proxy.max_concurrent)",
                code="overloaded",
                headers=[(b"retry-after", b"1")],
            )
        self.inside += 1
        if self._waiting:
            self._tell()

    def leave(self) -> None:
        self.inside -= 1
        if self._waiting:
            self._tell()

    async def until(self, number: int) -> None:
        """Wait until so many are inside: 0, and all answers have been given."""
        if self.inside != number:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append((number, waiting))
            await waiting

    def _tell(self) -> None:
        for number, waiting in self._waiting:
            if number == self.inside and not waiting.done():
                waiting.set_result(None)
        self._waiting = [pair for pair in self._waiting if not pair[1].done()]


class Calls:
    """Takes requests for calls, whatever their API."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        upstreams: Upstreams,
        forward: Forward,
        crowd: Crowd,
        patience: Patience,
    ) -> None:
        self._borders = settings.proxy.allow_namespace
        self._access = access
        self._upstreams = upstreams
        self._forward = forward
        self._crowd = crowd
        self._patience = patience

    async def take(
        self, api: API, path: str, scope: Scope, receive: Receive, send: Send, *, whole: bool = False
    ) -> None:
        """Answer one request. `path` and `whole` are those of `Call`."""
        anthropic = path == "/messages"
        try:
            self._crowd.enter()
        except Problem as problem:
            await refuse(send, problem, anthropic=anthropic)
            return
        sending = Sending(send, anthropic=anthropic, named=path in _NAMED)
        try:
            await self._answer(api, path, scope, receive, sending, whole)
        except Gone:
            pass
        except Denied as denied:
            await sending.refuse(denial(denied))
        except Problem as problem:
            await sending.refuse(problem, rest=self._patience.rest(receive, problem))
        except Refused as refusal:
            await sending.whole(refusal.reply, told(_FORWARDED, refusal.status_code))
        except NotCached as error:
            await sending.refuse(_not_cached(error))
        except httpx2.TransportError as error:
            await sending.refuse(failure(error))
        except ConfigError as error:  # of what the call itself says: to try again would bring the same
            await sending.refuse(Problem(400, f"{error}", code="invalid_request"))
        except AsyncCacheError as error:
            await sending.refuse(Problem(503, f"{error}", code="unavailable"))
        except Exception:  # whatever it is, the client must get an answer, and its operator must hear of it
            logger.exception("a call at %s failed", path)
            await sending.refuse(Problem(500, "the proxy failed; its log says why", code="internal_error"))
        finally:
            self._crowd.leave()

    async def _answer(self, api: API, path: str, scope: Scope, receive: Receive, sending: Sending, whole: bool) -> None:
        raw: Headers = scope["headers"]
        headers = dict(raw)
        caller = self._access.admit(headers)
        with self._patience.watch(receive) as watch:
            try:
                body = await self._patience.whole(receive, headers)
                watch.answering()
                form = api is TRANSCRIPTIONS
                params = await read_form(body, headers) if form else read_json(body, headers)
                said = NOTHING
                if "cache" in params or CACHE_CONTROL in headers or CONTROL_HEADER in headers:
                    for header in (CACHE_CONTROL, CONTROL_HEADER):  # in several lines all count, or none is right
                        if header in headers:
                            headers[header] = b", ".join([value for name, value in raw if name == header])
                    field = _unwrapped(params.pop("cache", None), form)
                    said = asked(headers, field, borders=self._borders)
                call = Call(unsealed(api, headers), path, params, raw, scope["query_string"], form=form, whole=whole)
                call.group = group = self._upstreams.group(params.get("model"))
                call.own = self._access.open and not group.keyed and not caller.manager
                await self._reply(call, caller, said, sending, watch)
            except asyncio.CancelledError:
                if not watch.over():
                    raise
                if watch.late:
                    raise self._patience.too_slow() from None

    async def _reply(self, call: Call, caller: Caller, said: Asked, sending: Sending, watch: Watch) -> None:
        if said.look:
            await sending.json((await self._forward.look(call, caller, said))._asdict())
            return
        response = await self._forward.answer(call, caller, said)
        headers = told(response.status, answered(response))
        if isinstance(response, Completion):
            await sending.whole(response.value, headers)
        else:
            await sending.stream(response, headers, watch)


class Sending:
    """The answer to one request."""

    def __init__(self, send: Send, *, anthropic: bool, named: bool) -> None:
        self._send = send
        self._anthropic = anthropic
        self._named = named

    async def whole(self, reply: Reply, headers_told: Headers) -> None:
        content = reply.text
        headers = [*reply.head.headers, *headers_told, (b"content-length", b"%d" % len(content))]
        await self._send({"type": "http.response.start", "status": reply.head.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})

    async def json(self, value: Any) -> None:
        """Something of our own."""
        content = orjson.dumps(value)
        headers = [_JSON_TYPE, (b"content-length", b"%d" % len(content))]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})

    async def refuse(self, problem: Problem, *, rest: Rest | None = None) -> None:
        await refuse(self._send, problem, anthropic=self._anthropic, rest=rest)

    async def stream(self, response: CompletionStream, headers_told: Headers, watch: Watch) -> None:
        """Events as they come. One that breaks off says so, and then ends without its end, as it came."""
        chunks = response.chunks
        try:
            head: Head = await anext(chunks)
            live = response.source if isinstance(response.source, Live | Written) else None
            headers = head.headers if live is None else live.headers
            headers = [*passed_back(headers), *headers_told]
            await self._send({"type": "http.response.start", "status": head.status, "headers": headers})
            try:
                async for piece in _joined(chunks) if isinstance(chunks, Replay) else Bytes(chunks):
                    await watch.send(self._send, {"type": "http.response.body", "body": piece, "more_body": True})
            except Exception as error:  # of whatever library; the head has been sent, so that this is all that can be
                logger.info("a stream broke off: %s", type(error).__name__)
                broken = Problem(502, "the answer broke off", code="stream_broken")
                event = broken.event(anthropic=self._anthropic, named=self._named)
                await watch.send(self._send, {"type": "http.response.body", "body": event, "more_body": True})
                return
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            await close(chunks)


async def refuse(send: Send, problem: Problem, *, anthropic: bool = False, rest: Rest | None = None) -> None:
    """Send an error of our own. rest: awaited when it has been said, before the connection may be closed."""
    body = problem.body(anthropic=anthropic)
    headers = [_JSON_TYPE, (b"content-length", b"%d" % len(body)), *problem.headers]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": rest is not None})
    if rest is not None:
        await rest()
        await send({"type": "http.response.body", "body": b""})


def denial(denied: Denied) -> Problem:
    code = "invalid_api_key" if denied.status == 401 else "forbidden"
    return Problem(denied.status, denied.message, code=code)


_FORWARDED = CacheStatus("miss")
"""Of an error there is no more to say: nothing was found, and it is not kept."""


def _not_cached(error: NotCached) -> Problem:
    """What RFC 9111 wants for `only-if-cached`. To ask again would bring the same."""
    headers = [*told(CacheStatus("miss", error.reason)), (b"x-should-retry", b"false")]
    return Problem(504, str(error), code="not_cached", headers=headers)


def _unwrapped(field: Any, form: bool) -> Any:
    """A form has it as a text."""
    if not form or not isinstance(field, str):
        return field
    try:
        return orjson.loads(field)
    except ValueError:
        return field


async def _joined(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What is all there already, in fewer pieces. Joined, they are the same bytes."""
    ready, size = [], 0
    async for chunk in chunks:
        ready.append(chunk)
        size += len(chunk)
        if size >= _PIECE:
            yield b"".join(ready)
            ready, size = [], 0
    if ready:
        yield b"".join(ready)
