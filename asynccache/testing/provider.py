"""A simulated LLM provider over real HTTP: for tests that use the real SDKs, and for the demo.

    async with SimulatedProvider() as provider:
        client = AsyncOpenAI(base_url=provider.base_url, api_key="any")
        await client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hi"}])
        assert provider.calls["/v1/chat/completions"] == 1

Needs starlette and uvicorn, which `pip install 'asynccache[demo]'` brings.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from email import policy
from email.parser import BytesParser
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

from anyio import CancelScope, create_task_group
from anyio.from_thread import start_blocking_portal
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from asynccache.testing.answers import Answer, FinishReason, Reply, ToolCall, compose, fingerprint
from asynccache.testing.loopback import serving
from asynccache.testing.shapes import (
    chat,
    embeddings,
    messages,
    rerank,
    responses,
    text_completions,
    transcriptions,
)
from asynccache.testing.turnstile import Turnstile

__all__ = ["Answer", "Latency", "Pace", "SimulatedProvider", "ToolCall", "realistic_latency"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one answer comes, in seconds: until the first token, and then for each token."""

    first: float = 0.0
    per_token: float = 0.0


Latency = Callable[[Mapping[str, Any]], Pace]
"""From the body of a request to the pace of its answer."""


def realistic_latency(speed: float = 1.0) -> Latency:
    """The latency of a hosted model of middle size, `speed` times as fast.

    The first token comes after about 0.45 s (log-normal: a few take twice as long), then one every 10 to 18 ms.
    The same request always gets the same pace.
    """

    def latency(request: Mapping[str, Any]) -> Pace:
        dice = random.Random(fingerprint(request))
        return Pace(dice.lognormvariate(math.log(0.45), 0.35) / speed, dice.uniform(0.010, 0.018) / speed)

    return latency


class SimulatedProvider:
    """Answers like an LLM provider, on a free port of the loopback interface, with any key.

    It speaks `/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/embeddings`, `/v1/audio/transcriptions`
    (OpenAI; under Azure's paths too), `/v1/messages` (Anthropic) and `/v1/rerank` (Cohere), whole or, where the API
    knows it, streamed. What it says depends on the content of the request alone; ids are new for each call. Token
    counts fit the texts, and token limits are kept.

    `async with` serves on the running loop and leaves no task, socket or thread behind: what is under way when the
    block ends loses its connection. `with` does the same on a loop in a thread of its own.

    calls:    path → how many requests it got, failed ones included.
    requests: their bodies, in the order in which they came; an uploaded file is there by its name, size and digest.
    """

    def __init__(self, latency: Latency | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route(place, _Endpoint(self, path, api), methods=["POST"])
                for path, api in _APIS.items()
                for place in (path, f"/openai/deployments/{{deployment}}{path.removeprefix('/v1')}")
            ],
            exception_handlers={HTTPException: _http_error},
        )
        self._latency = latency or (lambda _: Pace())
        self._turnstile = Turnstile()
        self._failures: deque[_Failure] = deque()
        self._sayings: deque[_Saying] = deque()
        self._cuts: deque[_Cut] = deque()
        self._origin = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving = AsyncExitStack()
        self._thread = ExitStack()

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`. Raises RuntimeError while it is not serving."""
        return f"{self.origin}/v1"

    @property
    def origin(self) -> str:
        """The same without `/v1`: what an Anthropic client takes. Raises RuntimeError while it is not serving."""
        if not self._origin:
            raise RuntimeError("the simulated provider is not serving: use it in `async with` or `with`")
        return self._origin

    def fail_next(
        self,
        status: int = 500,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        """Answer the next `times` requests with this status; without a body, with the API's own kind of error.

        SDKs try again on their own after 408, 409, 429 and 5xx: each of these counts as a request.
        """
        self._failures.extend([_Failure(status, dict(headers or {}), body)] * times)

    def answer_next(
        self,
        text: str | None = None,
        *,
        finish_reason: FinishReason | None = None,
        refusal: str = "",
        tool_calls: Sequence[ToolCall] = (),
        times: int = 1,
    ) -> None:
        """Say this in the next `times` answers; with `n`, in each choice. An embedding uses one up unseen.

        What is not given stays as it would be, but a refusal or a tool call comes without a text unless one is given.
        The finish reason is in OpenAI's terms whatever the API; with tool calls it is "tool_calls" unless given.
        """
        reason: FinishReason | None = "tool_calls" if tool_calls and finish_reason is None else finish_reason
        self._sayings.extend([_Saying(text, reason, refusal, tuple(tool_calls))] * times)

    def abort_next(self, *, after: int = 2, error: Mapping[str, Any] | None = None, times: int = 1) -> None:
        """Break the next `times` answers off: a stream after `after` events, a whole answer in its middle.

        The connection is cut, or, with `error`, the stream goes on with this error as its last event.
        """
        self._cuts.extend([_Cut(after, error)] * times)

    def hold(self) -> None:
        """Take requests, but answer none; streams under way stop before their next event."""
        self._on_its_loop(self._turnstile.hold)

    def release(self) -> None:
        """Go on answering."""
        self._on_its_loop(self._turnstile.release)

    async def reached(self, calls: int) -> None:
        """Wait until so many requests have come since the beginning. Only under `async with`."""
        await self._turnstile.reached(calls)

    async def __aenter__(self) -> Self:
        if self._origin:
            raise RuntimeError("the simulated provider is serving already")
        self._loop = asyncio.get_running_loop()
        self._origin = await self._serving.enter_async_context(serving(self.app))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._origin, self._loop = "", None
        await self._serving.aclose()

    def __enter__(self) -> Self:
        portal = self._thread.enter_context(start_blocking_portal("asyncio"))
        self._thread.enter_context(portal.wrap_async_context_manager(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.close()

    def _on_its_loop(self, action: Callable[[], None]) -> None:
        """A turnstile may be touched from its own loop only; `with` runs that in another thread."""
        if self._loop is None:
            action()
        else:
            self._loop.call_soon_threadsafe(action)

    async def _respond(self, path: str, api: _Api, body: dict[str, Any], send: Send) -> None:
        """Take one request and send its answer, or whatever the script says instead."""
        self.calls[path] += 1
        self.requests.append(body)
        number = self._turnstile.arrive()
        if problem := _problem(body, api):
            await _send_body(send, 400, api.error(400, problem), number)
            return
        if self._failures:
            failure = self._failures.popleft()
            await self._turnstile.passage()
            content = api.error(failure.status, "scripted failure") if failure.body is None else failure.body
            await _send_body(send, failure.status, content, number, failure.headers)
            return
        reply = self._reply(body, number)
        cut = self._cuts.popleft() if self._cuts else None
        await self._turnstile.passage()
        if body.get("stream") and api.events is not None:
            await self._stream(api, api.events(reply), self._latency(body), cut, send, number)
        else:
            await self._whole(api.whole(reply), reply, cut, send)

    def _reply(self, body: dict[str, Any], number: int) -> Reply:
        answers = tuple(compose(body, index) for index in range(_choices(body)))
        if self._sayings:
            saying = self._sayings.popleft()
            answers = tuple(saying.instead_of(answer) for answer in answers)
        return Reply(body, answers, number, int(time.time()))

    async def _whole(self, content: dict[str, Any] | str, reply: Reply, cut: _Cut | None, send: Send) -> None:
        pace = self._latency(reply.request)
        await _pause(pace.first + pace.per_token * reply.output_tokens)
        await self._turnstile.passage()
        await _send_body(send, 200, content, reply.number, whole=cut is None)

    async def _stream(
        self, api: _Api, events: Iterable[dict[str, Any]], pace: Pace, cut: _Cut | None, send: Send, number: int
    ) -> None:
        """One event after another; without the last message, the server drops the connection."""
        await _pause(pace.first)
        await send(_start(200, number, {"content-type": "text/event-stream; charset=utf-8"}))
        for count, event in enumerate(events):
            if cut is not None and count == cut.after:
                break
            await self._turnstile.passage()
            await send(_part(api.frame(event)))
            await _pause(pace.per_token)
        if cut is None:
            await send(_part(api.end, last=True))
        elif cut.error is not None:
            await send(_part(api.frame({"type": "error", "error": cut.error}), last=True))


@dataclass(frozen=True, slots=True)
class _Api:
    """How one path's answers look: as a whole, as events, as bytes of a stream, and as errors."""

    whole: Callable[[Reply], dict[str, Any] | str]
    events: Callable[[Reply], Iterable[dict[str, Any]]] | None
    required: tuple[str, ...]
    frame: Callable[[Mapping[str, Any]], bytes]
    end: bytes
    error: Callable[[int, str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Failure:
    status: int
    headers: dict[str, str]
    body: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Saying:
    text: str | None
    finish_reason: FinishReason | None
    refusal: str
    tool_calls: tuple[ToolCall, ...]

    def instead_of(self, answer: Answer) -> Answer:
        usual = "" if self.refusal or self.tool_calls else answer.text
        return Answer(
            usual if self.text is None else self.text,
            self.finish_reason or answer.finish_reason,
            self.refusal,
            self.tool_calls,
        )


@dataclass(frozen=True, slots=True)
class _Cut:
    after: int
    error: Mapping[str, Any] | None


class _Endpoint:
    """The ASGI application of one path. A client that goes away ends the work on its answer."""

    def __init__(self, provider: SimulatedProvider, path: str, api: _Api) -> None:
        self._provider = provider
        self._path = path
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _body(Request(scope, receive))
        except ClientDisconnect:
            return
        except ValueError:
            body = None
        async with create_task_group() as tasks:
            tasks.start_soon(_cancel_on_disconnect, receive, tasks.cancel_scope)
            await self._provider._respond(self._path, self._api, body if isinstance(body, dict) else {}, send)
            tasks.cancel_scope.cancel()


async def _body(request: Request) -> Any:
    """What a request says, in JSON or as a form. Raises ValueError."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        return await request.json()
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    form: dict[str, Any] = {}
    for part in BytesParser(policy=policy.HTTP).parsebytes(head + await request.body()).iter_parts():
        name, content = str(part.get_param("name", header="content-disposition")), part.get_payload(decode=True)
        form[name] = _field(part.get_filename(), content if isinstance(content, bytes) else b"")
    return form | {"stream": form.get("stream") == "true"}


def _field(filename: str | None, content: bytes) -> str | dict[str, Any]:
    if filename is None:
        return content.decode()
    return {"filename": filename, "size": len(content), "sha256": sha256(content).hexdigest()}


def _choices(body: Mapping[str, Any]) -> int:
    """How many answers are wanted: `n` for each prompt."""
    prompts = body.get("prompt")
    several = isinstance(prompts, list) and prompts and not isinstance(prompts[0], int)
    return (body.get("n") or 1) * (len(prompts) if several and isinstance(prompts, list) else 1)


async def _cancel_on_disconnect(receive: Receive, scope: CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def _start(status: int, number: int, headers: Mapping[str, str]) -> dict[str, Any]:
    named = {"x-request-id": f"req_{number:08d}", "request-id": f"req_{number:08d}", **headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


def _part(body: bytes, *, last: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": not last}


async def _send_body(
    send: Send,
    status: int,
    content: Mapping[str, Any] | str,
    number: int,
    headers: Mapping[str, str] | None = None,
    *,
    whole: bool = True,
) -> None:
    """Send JSON, or a text; or only half of what was announced, upon which the server drops the connection."""
    body = (content if isinstance(content, str) else json.dumps(content)).encode()
    kind = "text/plain; charset=utf-8" if isinstance(content, str) else "application/json"
    about = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    await send(_start(status, number, about))
    await send(_part(body, last=True) if whole else _part(body[: len(body) // 2]))


def _problem(body: Mapping[str, Any], api: _Api) -> str:
    missing = [name for name in api.required if name not in body]
    return f"Missing required parameter: '{missing[0]}'." if missing else ""


def _openai_error(status: int, message: str) -> dict[str, Any]:
    kinds = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _anthropic_error(status: int, message: str) -> dict[str, Any]:
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


async def _http_error(_: Any, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSONResponse(_openai_error(status, "Invalid URL or method"), status)


def _data(event: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


def _named(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


_APIS: Mapping[str, _Api] = {
    "/v1/chat/completions": _Api(
        chat.completion, chat.chunks, ("model", "messages"), _data, b"data: [DONE]\n\n", _openai_error
    ),
    "/v1/completions": _Api(
        text_completions.completion,
        text_completions.chunks,
        ("model", "prompt"),
        _data,
        b"data: [DONE]\n\n",
        _openai_error,
    ),
    "/v1/audio/transcriptions": _Api(
        transcriptions.transcription,
        transcriptions.events,
        ("model", "file"),
        _data,
        b"data: [DONE]\n\n",
        _openai_error,
    ),
    "/v1/rerank": _Api(rerank.rerank, None, ("model", "query", "documents"), _data, b"", _openai_error),
    "/v1/responses": _Api(responses.response, responses.events, ("model",), _named, b"", _openai_error),
    "/v1/embeddings": _Api(
        lambda reply: embeddings.embeddings(reply.request), None, ("model", "input"), _data, b"", _openai_error
    ),
    "/v1/messages": _Api(
        messages.message, messages.events, ("model", "messages", "max_tokens"), _named, b"", _anthropic_error
    ),
}
