"""The caching transport over real HTTP, under httpx and httpx2, against servers whose every byte is scripted."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import httpx2
import pytest

from asynccache import Cache, ConfigError, NotCached, status
from asynccache.clients.httpx import AsyncCacheTransport, CacheTransport
from asynccache.http import sse
from asynccache.http.answers import Head, Reply
from asynccache.http.calls import APIS
from asynccache.telemetry.ledger import Ledger
from asynccache.telemetry.prices import Prices
from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider, ToolCall

Client = Callable[..., Any]
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
WHOLE = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris ✓"}, "finish_reason": "stop"}],
}
PATH = "/v1/chat/completions"


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


FIRST, LAST = chunk({"role": "assistant", "content": "Paris ✓"}), chunk({}, "stop")
OK = f"data: {json.dumps(FIRST)}\n\n".encode()
END = f"data: {json.dumps(LAST)}\n\n".encode()
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
SPLIT = json.dumps({**LAST, "usage": USAGE}, indent=1, ensure_ascii=False).split("\n")
ODD_EVENTS = [
    b": a comment\r\n\r\n",
    f"id: 7\r\ndata: {json.dumps(FIRST, ensure_ascii=False)}\r\n\r\n".encode(),
    b":ping\n\n",
    "".join(f"data:{line}\n" for line in SPLIT).encode() + b"\n",
    b"data: [DONE]\n\n",
]
"""CRLF and LF, comments, an id, data in many lines, signs of several bytes."""


class Origin:
    """A server that answers as told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.origin = ""
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.answer(json.dumps(WHOLE).encode())
        self.held: asyncio.Event | None = None
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()

    def answer(
        self,
        *pieces: bytes,
        status: int = 200,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
        breaks: bool = False,
    ) -> None:
        """What comes from now on, in so many pieces; `breaks`: the connection does, in place of the end."""
        self._pieces, self._status, self._breaks = pieces, status, breaks
        self._headers = {"content-type": kind, **(headers or {})}

    def stream(self, *pieces: bytes, **options: Any) -> None:
        self.answer(*pieces, kind="text/event-stream", **options)

    @property
    def calls(self) -> int:
        return len(self.requests)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.requests.append(({name.decode(): value.decode() for name, value in scope["headers"]}, body))
        self.paths.append(scope["path"])
        self.asked.set()
        headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        headers.append((b"x-request-id", b"req_%d" % self.calls))
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        for number, piece in enumerate(self._pieces):
            if number and self.held is not None:
                await self._passage(receive)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._breaks:
            raise ConnectionError("as told")
        await send({"type": "http.response.body", "body": b""})

    async def _passage(self, receive: Any) -> None:
        assert self.held is not None
        released, left = asyncio.create_task(self.held.wait()), asyncio.create_task(receive())
        done, pending = await asyncio.wait((released, left), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if left in done:
            self.gone.set()
            raise ConnectionError("the client has left")


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    server = Origin()
    async with serving(server) as where:
        server.origin = where
        yield server


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def http(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def client(http: Any, origin: Origin, cache: Cache) -> AsyncIterator[Any]:
    async with http.AsyncClient(transport=AsyncCacheTransport(cache), base_url=origin.origin) as client:
        yield client


async def pieces_of(client: Any, body: dict[str, Any], path: str = PATH) -> tuple[Any, list[bytes]]:
    async with client.stream("POST", path, json=body) as response:
        return response, [piece async for piece in response.aiter_bytes()]


# -- hits and misses ------------------------------------------------------------------------------


async def test_a_hit_is_the_same_answer(http: Any, client: Any, origin: Origin) -> None:
    """Status, type and bytes are those of the miss; what belongs to the call that was paid for is not said again."""
    body = json.dumps(WHOLE, indent=2).encode()
    told = {"openai-version": "1", "x-ratelimit-remaining": "9", "set-cookie": "a=b", "openai-organization": "acme"}
    origin.answer(body, headers=told)
    miss = await client.post(PATH, json=CHAT)
    client.cookies.clear()
    hit = await client.post(PATH, json=CHAT)
    assert origin.calls == 1
    assert type(hit) is http.Response
    assert (hit.status_code, hit.content, hit.json()) == (200, body, miss.json())
    assert miss.headers.items() >= {**told, "x-request-id": "req_1"}.items()
    assert {*hit.headers} == {"content-type", "content-length", "openai-version", "cache-status", "age"}
    assert hit.headers["content-type"] == "application/json"
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert hit.extensions["asynccache"] is status(hit)
    assert miss.headers["cache-status"] == f'asynccache; fwd=uri-miss; stored; key="{status(hit).key}"; detail="absent"'
    assert hit.headers["cache-status"] == f'asynccache; hit; key="{status(hit).key}"'
    assert hit.headers["age"] == "0"


async def test_age_and_ttl_are_told(origin: Origin) -> None:
    """In whole seconds, as RFC 9211 has them."""
    now = [1000.0]
    async with (
        Cache(ttl=60, clock=lambda: now[0]) as cache,
        httpx.AsyncClient(transport=AsyncCacheTransport(cache)) as client,
    ):
        await client.post(origin.origin + PATH, json=CHAT)
        now[0] += 12.7
        hit = await client.post(origin.origin + PATH, json=CHAT)
    assert hit.headers["age"] == "12"
    assert "; hit; ttl=47; " in hit.headers["cache-status"]


async def test_a_stream_comes_again_byte_for_byte(client: Any, origin: Origin) -> None:
    """Also when it came byte by byte, so that every border was somewhere within an event."""
    said = b"".join(ODD_EVENTS)
    origin.stream(*(said[i : i + 1] for i in range(len(said))))
    miss, live = await pieces_of(client, {**CHAT, "stream": True})
    hit, again = await pieces_of(client, {**CHAT, "stream": True})
    assert origin.calls == 1
    assert b"".join(live) == b"".join(again) == said
    assert live == again
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert hit.headers["content-type"] == miss.headers["content-type"] == "text/event-stream"
    whole = await client.post(PATH, json=CHAT)
    assert status(whole).outcome == "hit"
    assert whole.json()["choices"][0]["message"]["content"] == "Paris ✓"
    assert whole.json()["usage"] == USAGE


@pytest.mark.parametrize("size", range(1, 40))
def test_events_are_found_wherever_chunks_end(size: int) -> None:
    """What the events say does not depend on the borders, and joined they are the bytes."""
    said = b"".join(ODD_EVENTS) + b"data: no end"
    splitter = sse.Splitter()
    events = [event for at in range(0, len(said), size) for event in splitter.feed(said[at : at + size])]
    rest = splitter.rest()
    assert b"".join(events) + rest == said
    assert rest.lstrip() == b"data: no end"
    read = [sse.read(event.decode()) for event in events]
    assert [event.data is None for event in read] == [True, False, True, False, False]
    assert [json.loads(event.data) for event in read if event.data not in (None, "[DONE]")] == [
        FIRST,
        {**LAST, "usage": USAGE},
    ]


def test_an_event_without_end_does_not_grow_for_ever() -> None:
    """What is longer than the limit is passed on as it came."""
    splitter = sse.Splitter(limit=10)
    assert splitter.feed(b"data: 1") == []
    assert splitter.feed(b"23456789") == [b"data: 123456789"]
    assert splitter.feed(b"\n\n") == [b"\n\n"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, CHAT),
        ("/v1/responses", {"model": "m", "input": "hi"}),
        ("/v1/messages", {**CHAT, "max_tokens": 300}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_one_entry_serves_both_ways(
    http: Any, provider: SimulatedProvider, cache: Cache, path: str, body: dict[str, Any], stream: bool
) -> None:
    """A recorded stream answers a call that wants it whole, and the other way round, in the provider's own format."""
    async with (
        http.AsyncClient(transport=AsyncCacheTransport(cache), base_url=provider.origin) as client,
        http.AsyncClient(base_url=provider.origin) as plain,
    ):
        recorded = {"stream_options": {"include_usage": True}} if stream and path == PATH else {}
        await client.post(path, json={**body, "stream": stream, **recorded})
        crossed = await client.post(path, json={**body, "stream": not stream})
        real = await plain.post(path, json={**body, "stream": not stream})
    assert status(crossed).outcome == "hit"
    assert crossed.headers["content-type"] == real.headers["content-type"]
    if stream:
        assert crossed.json().keys() >= {"id", "model"}
        assert text_of(crossed.json()) == text_of(real.json())
    else:
        events, theirs = ([sse.read(e + "\n\n") for e in r.text.split("\n\n") if e] for r in (crossed, real))
        assert {event.name for event in events} == {event.name for event in theirs} - {"ping"}
        assert events[-1].name == theirs[-1].name
        assert (events[-1].data == "[DONE]") is (theirs[-1].data == "[DONE]")


def text_of(answer: dict[str, Any]) -> str:
    if "choices" in answer:
        return str(answer["choices"][0]["message"]["content"])
    blocks = answer["content"] if "content" in answer else answer["output"][0]["content"]
    return "".join(block["text"] for block in blocks)


async def test_a_stream_without_usage_is_no_whole_answer(client: Any, origin: Origin) -> None:
    """Strict clients would refuse one: it is asked for, and from then on serves both."""
    origin.stream(OK, END, b"data: [DONE]\n\n")
    await client.post(PATH, json={**CHAT, "stream": True})
    body = {**WHOLE, "usage": USAGE}
    origin.answer(json.dumps(body).encode())
    whole = [await client.post(PATH, json=CHAT) for _ in range(2)]
    assert [(status(r).outcome, r.json()) for r in whole] == [("miss", body), ("hit", body)]
    assert status(whole[0]).reason == "other-kind"
    assert status(await client.post(PATH, json={**CHAT, "stream": True})).outcome == "hit"
    assert origin.calls == 2


async def test_usage_of_a_stream_is_for_those_who_ask(client: Any, origin: Origin) -> None:
    """The same recording, with and without the chunk of the usage; what ends the stream is there in both."""
    usage = {**chunk({}), "choices": [], "usage": {"total_tokens": 3}}
    events = [f"data: {json.dumps(each)}\n\n".encode() for each in (FIRST, LAST, usage)]
    origin.stream(*events, b"data: [DONE]\n\n")
    asking = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    _, asked = await pieces_of(client, asking)
    hit, unasked = await pieces_of(client, {**CHAT, "stream": True})
    assert status(hit).outcome == "hit"
    assert b'"usage"' in b"".join(asked)
    assert b'"usage"' not in b"".join(unasked)
    assert b"".join(unasked).endswith(b"data: [DONE]\n\n")
    assert origin.calls == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_compressed_answers(client: Any, origin: Origin, stream: bool) -> None:
    """They are kept without their encoding, and say nothing of it when they come again."""
    said = b"".join(ODD_EVENTS) if stream else json.dumps(WHOLE).encode()
    packed = gzip.compress(said)
    kind = "text/event-stream" if stream else "application/json"
    origin.answer(packed[:20], packed[20:], kind=kind, headers={"content-encoding": "gzip"})
    for outcome in ("miss", "hit"):
        response = await client.post(PATH, json={**CHAT, "stream": stream})
        assert response.content == said
        assert status(response).outcome == outcome
    assert "content-encoding" not in response.headers
    assert origin.calls == 1


async def test_a_body_that_cannot_be_unpacked_fails_as_it_would_alone(http: Any, client: Any, origin: Origin) -> None:
    """The error is the library's own, raised to the reader; nothing is kept."""
    origin.answer(b"not gzip at all", headers={"content-encoding": "gzip"})
    for _ in range(2):
        with pytest.raises(http.DecodingError):
            await client.post(PATH, json=CHAT)
    assert origin.calls == 2


async def test_big_answers(client: Any, origin: Origin) -> None:
    """Megabytes, in one event or whole."""
    text = "ab✓" * 1_000_000
    event = f"data: {json.dumps(chunk({'role': 'assistant', 'content': text}, 'stop'))}\n\n".encode()
    for stream, body in ((True, event), (False, json.dumps({**WHOLE, "pad": text}).encode())):
        kind = "text/event-stream" if stream else "application/json"
        origin.answer(*(body[i : i + 65_000] for i in range(0, len(body), 65_000)), kind=kind)
        asked = {**CHAT, "stream": stream, "seed": int(stream)}
        responses = [await client.post(PATH, json=asked) for _ in range(2)]
        assert [r.content == body for r in responses] == [True, True]
        assert [status(r).outcome for r in responses] == ["miss", "hit"]


# -- what is in the key ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "hit"),
        ({"json": {"temperature": 1, "messages": CHAT["messages"], "model": "m"}}, "hit"),
        ({"json": {**CHAT, "temperature": 0.9}}, "miss"),
        ({"json": {**CHAT, "temperature": 1, "what_is_new": 1}}, "miss"),
        ({"headers": {"authorization": "Bearer other"}}, "hit"),
        ({"headers": {"x-api-key": "other", "user-agent": "other"}}, "hit"),
        ({"params": {"key": "secret"}}, "hit"),
        ({"params": {"api-version": "2"}}, "miss"),
        ({"headers": {"anthropic-version": "2"}}, "miss"),
        ({"headers": {"OpenAI-Organization": "acme"}}, "miss"),
        ({"headers": {"x-route": "b"}}, "miss"),
        ({"url": "/v2/chat/completions"}, "miss"),
    ],
)
async def test_what_counts(origin: Origin, cache: Cache, change: dict[str, Any], outcome: str) -> None:
    """The URL, the fields whatever their order, and headers that change answers; never whose key it is."""
    asked: dict[str, Any] = {"url": PATH, "json": {**CHAT, "temperature": 1.0}}
    async with httpx.AsyncClient(
        transport=AsyncCacheTransport(cache, vary="X-Route"), base_url=origin.origin
    ) as client:
        await client.post(**asked)
        assert status(await client.post(**{**asked, **change})).outcome == outcome


async def test_whole_numbers_beyond_64_bits_are_told_apart(origin: Origin, cache: Cache) -> None:
    outcomes = []
    async with httpx.AsyncClient(transport=AsyncCacheTransport(cache), base_url=origin.origin) as client:
        for seed in (2**64 + 1, 2**64 + 2, 2**64 + 1):
            outcomes.append(status(await client.post(PATH, json={**CHAT, "seed": seed})).outcome)
    assert outcomes == ["miss", "miss", "hit"]
    assert [json.loads(body)["seed"] for _, body in origin.requests] == [2**64 + 1, 2**64 + 2]


async def test_hosts_of_one_name_share(origin: Origin, cache: Cache) -> None:
    """`name` stands in the place of the host; the path still counts."""
    async with serving(origin) as other:
        outcomes = []
        for name in (None, "mine"):
            transport = AsyncCacheTransport(cache, name=name)
            async with httpx.AsyncClient(transport=transport) as client:
                for host in (origin.origin, other):
                    outcomes.append(status(await client.post(host + PATH, json=CHAT)).outcome)
                outcomes.append(status(await client.post(other + "/eu" + PATH, json=CHAT)).outcome)
    assert outcomes == ["miss", "miss", "miss", "miss", "hit", "miss"]


async def test_tenants_are_apart(origin: Origin, cache: Cache) -> None:
    """A bound cache answers from what its own tenant paid for."""
    outcomes = []
    for tenant in ("a", "b", "a"):
        async with httpx.AsyncClient(transport=AsyncCacheTransport(cache.bind(tenant=tenant))) as client:
            outcomes.append(status(await client.post(origin.origin + PATH, json=CHAT)).outcome)
    assert outcomes == ["miss", "miss", "hit"]


# -- what passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", PATH, {}),
        ("POST", "/v1/files", {"json": CHAT}),
        ("POST", "/v1/threads/t1/v1/messages", {"json": CHAT}),
        ("POST", "/v1/threads/t1/messages", {"json": CHAT}),
        ("POST", "/v1/messages/batches", {"json": CHAT}),
        ("POST", "/v1/messages/count_tokens", {"json": CHAT}),
        ("POST", PATH, {"content": b"no json", "headers": {"content-type": "application/json"}}),
        ("POST", PATH, {"json": [1, 2]}),
        ("POST", PATH, {"data": {"a": "b"}}),
        ("POST", PATH, {"files": {"file": b"x"}}),
    ],
)
async def test_what_is_no_call_passes_untouched(
    client: Any, origin: Origin, cache: Cache, method: str, path: str, options: dict[str, Any]
) -> None:
    """Each request reaches the server, and the response says nothing of a cache."""
    for number in (1, 2):
        response = await client.request(method, path, **options)
        assert response.headers["x-request-id"] == f"req_{number}"
        assert "cache-status" not in response.headers
    assert cache.stats.calls == 0


async def test_a_body_sent_piece_by_piece_passes(client: Any, origin: Origin, cache: Cache) -> None:
    """It cannot be read without being used up."""

    async def body() -> AsyncIterator[bytes]:
        yield json.dumps(CHAT).encode()

    for _ in range(2):
        await client.post(PATH, content=body(), headers={"content-type": "application/json"})
    assert [json.loads(said) for _, said in origin.requests] == [CHAT, CHAT]
    assert cache.stats.calls == 0


@pytest.mark.parametrize("code", [201, 202, 204])
async def test_other_successes_are_not_kept(client: Any, origin: Origin, cache: Cache, code: int) -> None:
    """ "Accepted" is no answer yet."""
    origin.answer(*([] if code == 204 else [b"{}"]), status=code)
    assert [(await client.post(PATH, json=CHAT)).status_code for _ in range(2)] == [code, code]
    assert (origin.calls, cache.stats.stored) == (2, 0)


@pytest.mark.parametrize("extra", [{"store": True}, {"background": True}, {"conversation": "c1"}])
async def test_what_leaves_something_behind_is_done_each_time(
    client: Any, origin: Origin, cache: Cache, extra: dict[str, Any]
) -> None:
    """Responses that are to be kept at the provider are bypassed, and the response says so."""
    for _ in range(2):
        response = await client.post("/v1/responses", json={"model": "m", "input": "hi", **extra})
        assert "; fwd=bypass; " in response.headers["cache-status"]
    assert origin.calls == 2


async def test_a_stream_that_is_none_is_passed_on_live(client: Any, origin: Origin, cache: Cache) -> None:
    """A server with a format of its own: its lines come as they are sent, and are not kept."""
    origin.held = asyncio.Event()
    origin.answer(b'{"a":1}\n', b'{"b":2}\n', kind="application/x-ndjson")
    for asked in (CHAT, {**CHAT, "stream": True}):
        origin.held.clear()
        async with client.stream("POST", PATH, json=asked) as response:
            lines = response.aiter_bytes()
            assert await anext(lines) == b'{"a":1}\n'
            origin.held.set()
            assert b"".join([line async for line in lines]) == b'{"b":2}\n'
            assert response.headers["content-type"] == "application/x-ndjson"
    assert (origin.calls, cache.stats.stored) == (2, 0)


# -- further paths --------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", ["*/generate", ["*/x", "*/generate"], lambda r: r.url.path.endswith("/generate")])
async def test_further_paths(http: Any, origin: Origin, cache: Cache, cached: Any) -> None:
    """By a pattern, several, or a function of the request; others stay out, and whole and streamed stay apart."""
    transport = AsyncCacheTransport(cache, cached=cached)
    async with http.AsyncClient(transport=transport, base_url=origin.origin) as client:
        for path in ("/tgi/generate", "/tgi/info"):
            for _ in range(2):
                last = await client.post(path, json={"inputs": "hi"})
            assert ("cache-status" in last.headers) is (path == "/tgi/generate")
        streamed = await client.post("/tgi/generate", json={"inputs": "hi", "stream": True})
    assert origin.paths == ["/tgi/generate", "/tgi/info", "/tgi/info", "/tgi/generate"]
    assert status(streamed).outcome == "miss"


async def test_bodies_that_are_no_json(origin: Origin, cache: Cache) -> None:
    """Of a further path any bytes are kept; of a known call they would be garbage."""
    origin.answer(sound := bytes(range(256)), kind="audio/mpeg")
    transport = AsyncCacheTransport(cache, cached="*/speech")
    async with httpx.AsyncClient(transport=transport, base_url=origin.origin) as client:
        spoken = [await client.post("/v1/audio/speech", json={"input": "hi"}) for _ in range(2)]
        typed = [await client.post(PATH, json=CHAT) for _ in range(2)]
    assert [r.content for r in (*spoken, *typed)] == [sound] * 4
    assert [status(r).outcome for r in (*spoken, *typed)] == ["miss", "hit", "miss", "miss"]
    assert spoken[1].headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize("wrong", [{"cached": 7}, {"vary": [1]}, {"name": ""}])
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    """They are refused when the transport is made."""
    with pytest.raises(ConfigError):
        AsyncCacheTransport(Cache(), **wrong)


GEMINI = "/v1beta/models/gemini:{}"


def candidate(text: str, reason: str | None = None) -> dict[str, Any]:
    said = {"content": {"role": "model", "parts": [{"text": text}]}, **({"finishReason": reason} if reason else {})}
    return {"candidates": [said]}


async def test_gemini(client: Any, origin: Origin) -> None:
    """Whole and streamed, whose asking stands in the path; the API key in the query does not count."""
    origin.answer(json.dumps(candidate("Paris", "STOP")).encode())
    asked = {"contents": [{"parts": [{"text": "Capital?"}]}]}
    whole = [await client.post(GEMINI.format("generateContent") + f"?key={k}", json=asked) for k in "ab"]
    parts = (candidate("Pa"), candidate("ris", "STOP"))
    origin.stream(*(f"data: {json.dumps(part)}\r\n\r\n".encode() for part in parts))
    path = GEMINI.format("streamGenerateContent") + "?alt=sse"
    streamed = [await client.post(path, json=asked) for _ in range(2)]
    assert [status(r).outcome for r in (*whole, *streamed)] == ["miss", "hit", "miss", "hit"]
    assert streamed[0].content == streamed[1].content
    assert "stream" not in json.loads(origin.requests[-1][1])


async def test_what_gemini_says_of_tokens(origin: Origin) -> None:
    """In words of its own, whole and in each piece of a stream: a hit saves what its call has cost."""
    ledger = Ledger(Prices({"gemini-2.5-flash": {"input": 1, "output": 10, "cache_read": "0.1"}}, library=False))
    usage = {"promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 5, "thoughtsTokenCount": 5}
    said = {**candidate("Paris", "STOP"), "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}
    first = {**candidate("Pa"), "usageMetadata": {"promptTokenCount": 100}, "modelVersion": "gemini-2.5-flash"}
    async with (
        Cache(observers=[ledger]) as cache,
        httpx.AsyncClient(transport=AsyncCacheTransport(cache), base_url=origin.origin) as client,
    ):
        origin.answer(json.dumps(said).encode())
        for _ in range(2):
            await client.post(GEMINI.format("generateContent"), json={"contents": []})
        origin.stream(*(f"data: {json.dumps(part)}\r\n\r\n".encode() for part in (first, said)))
        for _ in range(2):
            await client.post(GEMINI.format("streamGenerateContent") + "?alt=sse", json={"contents": []})
    total = ledger.report().total
    assert (total.upstream_calls, total.hits, total.unknown_spent, total.unknown_saved) == (2, 2, 0, 0)
    assert total.spent == total.saved == 2 * (60 * 1_000_000 + 40 * 100_000 + 10 * 10_000_000)


# -- what is not kept -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "model_length"}, "length"),
        ({"finish_reason": "content_filter"}, "content_filter"),
        ({"finish_reason": "error"}, "error"),
        ({"refusal": "I cannot."}, "refusal"),
        ({"text": ""}, "empty"),
        ({"tool_calls": [ToolCall("f", '{"a":')]}, "tool-arguments"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_answers_that_are_not_kept(
    provider: SimulatedProvider, cache: Cache, said: dict[str, Any], reason: str, stream: bool
) -> None:
    """Their callers get them, streamed or not; the next one asks again."""
    async with httpx.AsyncClient(transport=AsyncCacheTransport(cache), base_url=provider.origin) as client:
        for _ in range(2):
            provider.answer_next(**said)
            assert (await client.post(PATH, json={**CHAT, "stream": stream})).status_code == 200
    assert (provider.calls[PATH], cache.stats.reject_reasons) == (2, {reason: 2})


@pytest.mark.parametrize(
    ("path", "answer", "reason"),
    [
        (GEMINI.format("generateContent"), candidate("Pa", "MAX_TOKENS"), "length"),
        (GEMINI.format("generateContent"), candidate("", "SAFETY"), "content_filter"),
        (GEMINI.format("generateContent"), {"promptFeedback": {"blockReason": "OTHER"}}, "content_filter"),
        (GEMINI.format("generateContent"), {"candidates": []}, "empty"),
        ("/v2/chat", {"finish_reason": "MAX_TOKENS", "message": {"content": []}}, "length"),
        ("/v2/embed", {"embeddings": []}, "empty"),
        ("/v1/embeddings", {"data": []}, "empty"),
        ("/v2/rerank", {"results": []}, "empty"),
        (PATH, {"error": {"message": "overloaded"}}, "error"),
        (PATH, [1], "unreadable"),
    ],
)
async def test_signs_that_providers_have_in_common(
    client: Any, origin: Origin, cache: Cache, path: str, answer: Any, reason: str
) -> None:
    """An answer with status 200 may still say that it is none."""
    origin.answer(json.dumps(answer).encode())
    assert (await client.post(path, json=CHAT)).json() == answer
    assert cache.stats.reject_reasons == {reason: 1}


@pytest.mark.parametrize(
    ("path", "events", "reason"),
    [
        (PATH, [OK], "unfinished"),
        (PATH, [OK, END[:-20]], "unreadable"),
        (PATH, [OK, END, b'event: error\ndata: {"message": "x"}\n\n'], "error"),
        (PATH, [OK, END, b'data: {"error": {"message": "x"}}\n\n'], "error"),
        (PATH, [OK, END, b"data: oops\n\n"], "unreadable"),
        (PATH, [OK, END, b": \xff\n\n"], "answer-type"),
        (PATH, [], "empty"),
        (GEMINI.format("streamGenerateContent") + "?alt=sse", [OK.replace(b"finish_reason", b"x")], "unfinished"),
    ],
)
async def test_streams_that_are_not_kept(
    client: Any, origin: Origin, cache: Cache, path: str, events: list[bytes], reason: str
) -> None:
    """Each comes to its caller as it was sent."""
    origin.stream(*events)
    response = await client.post(path, json={**CHAT, "stream": True})
    assert response.content == b"".join(events)
    assert cache.stats.reject_reasons == {reason: 1}


# -- errors ---------------------------------------------------------------------------------------


async def test_a_failure_passes_with_all_its_headers(client: Any, origin: Origin, cache: Cache) -> None:
    """Compressed or not, and it is not remembered."""
    packed = gzip.compress(b'{"error": {"message": "slow down"}}')
    origin.answer(packed, status=429, headers={"retry-after": "7", "content-encoding": "gzip"})
    for number in (1, 2):
        response = await client.post(PATH, json=CHAT)
        assert (response.status_code, response.headers["retry-after"]) == (429, "7")
        assert response.headers["x-request-id"] == f"req_{number}"
        assert response.json() == {"error": {"message": "slow down"}}
    assert (cache.stats.upstream_errors, cache.stats.stored) == (2, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_those_who_wait_share_a_failure(client: Any, origin: Origin, stream: bool) -> None:
    """One request is made; each gets a response object of its own."""
    origin.held = asyncio.Event()
    origin.answer(b'{"error":', b'"x"}', status=500)
    tasks = [asyncio.create_task(client.post(PATH, json={**CHAT, "stream": stream})) for _ in range(5)]
    await origin.asked.wait()
    origin.held.set()
    responses = await asyncio.gather(*tasks)
    assert origin.calls == 1
    assert len({id(r) for r in responses}) == 5
    assert {(r.status_code, r.text, r.headers["x-request-id"]) for r in responses} == {(500, '{"error":"x"}', "req_1")}


async def test_a_redirect_is_followed(client: Any, origin: Origin) -> None:
    """By the client, as ever."""
    origin.answer(b"", status=307, headers={"location": "/elsewhere"})
    response = await client.post(PATH, json=CHAT)
    assert (response.status_code, response.next_request.url.path) == (307, "/elsewhere")


async def test_an_error_of_the_connection_is_the_librarys_own(http: Any, cache: Cache, origin: Origin) -> None:
    """Refused, or broken in a body or a stream: the error has its type and its request."""
    async with http.AsyncClient(transport=AsyncCacheTransport(cache)) as client:
        with pytest.raises(http.ConnectError) as caught:
            await client.post("http://127.0.0.1:1" + PATH, json=CHAT)
        assert caught.value.request.url.path == PATH
        origin.answer(b'{"id":', breaks=True)
        with pytest.raises(http.RemoteProtocolError):
            await client.post(origin.origin + PATH, json=CHAT)
        origin.stream(OK, END, breaks=True)
        async with client.stream("POST", origin.origin + PATH, json={**CHAT, "stream": True}) as response:
            pieces = response.aiter_bytes()
            got = b""
            while len(got) < len(OK + END):
                got += await anext(pieces)
            with pytest.raises(http.RemoteProtocolError):
                await anext(pieces)
    assert got == OK + END
    assert cache.stats.stored == 0


async def test_an_older_answer_when_the_provider_is_down(origin: Origin) -> None:
    """`stale_if_error` sees a 503 as the outage it is, and a 400 as the caller's own fault."""
    now = [1000.0]
    async with (
        Cache(ttl=10, stale_if_error=60, clock=lambda: now[0]) as cache,
        httpx.AsyncClient(transport=AsyncCacheTransport(cache), base_url=origin.origin) as client,
    ):
        await client.post(PATH, json=CHAT)
        now[0] += 20
        origin.answer(b"{}", status=503)
        stale = await client.post(PATH, json=CHAT)
        origin.answer(b"{}", status=400)
        refused = await client.post(PATH, json=CHAT)
    assert (stale.status_code, stale.json(), status(stale).outcome) == (200, WHOLE, "stale")
    assert stale.headers["cache-status"].startswith("asynccache; hit; ttl=-1; ")
    assert refused.status_code == 400


# -- many at a time -------------------------------------------------------------------------------


async def test_one_call_for_many(client: Any, origin: Origin, cache: Cache) -> None:
    """Twenty identical calls make one request; each has a response of its own."""
    origin.held = asyncio.Event()
    body = json.dumps(WHOLE).encode()
    origin.answer(body[:10], body[10:])
    tasks = [asyncio.create_task(client.post(PATH, json=CHAT)) for _ in range(20)]
    await origin.asked.wait()
    origin.held.set()
    responses = await asyncio.gather(*tasks)
    assert origin.calls == 1
    assert {r.content for r in responses} == {body}
    assert sorted(status(r).outcome for r in responses) == ["coalesced"] * 19 + ["miss"]
    assert any("; collapsed; " in r.headers["cache-status"] for r in responses)


async def test_a_stream_is_fanned_out_live(client: Any, origin: Origin) -> None:
    """Two readers have its first event while the second has not been sent yet."""
    origin.held = asyncio.Event()
    origin.stream(OK, END + b"data: [DONE]\n\n")
    asked = {**CHAT, "stream": True}
    async with client.stream("POST", PATH, json=asked) as one, client.stream("POST", PATH, json=asked) as two:
        readers = [one.aiter_bytes(), two.aiter_bytes()]
        assert [await anext(reader) for reader in readers] == [OK, OK]
        assert two.headers["content-type"] == "text/event-stream"
        origin.held.set()
        rests = [b"".join([piece async for piece in reader]) for reader in readers]
    assert rests == [END + b"data: [DONE]\n\n"] * 2
    assert origin.calls == 1
    assert (status(one).outcome, status(two).outcome) == ("miss", "coalesced")


async def test_who_leaves_early_stores_nothing(client: Any, origin: Origin, cache: Cache) -> None:
    """And the server's connection is closed."""
    origin.held = asyncio.Event()
    origin.stream(OK, END)
    async with client.stream("POST", PATH, json={**CHAT, "stream": True}) as response:
        assert await anext(response.aiter_bytes()) == OK
    await asyncio.wait_for(origin.gone.wait(), 10)
    assert cache.stats.reject_reasons == {"aborted": 1}


async def test_who_stops_at_the_last_event_has_read_it_all(client: Any, origin: Origin, cache: Cache) -> None:
    """As many SDKs do, whether they close the response or drop it."""
    origin.stream(OK, END, b"data: [DONE]\n\n")
    async with client.stream("POST", PATH, json={**CHAT, "stream": True}) as response:
        async for piece in response.aiter_bytes():
            if b"[DONE]" in piece:
                break
    assert cache.stats.stored == 1


async def test_a_body_that_is_not_ended_keeps_nobody_waiting(client: Any, origin: Origin, cache: Cache) -> None:
    """A server that says it is done, and holds the connection, is hung up on; what it said is kept."""
    origin.held = asyncio.Event()
    origin.stream(OK + END + b"data: [DONE]\n\n", b": never")
    response = await asyncio.wait_for(client.post(PATH, json={**CHAT, "stream": True}), 20)
    assert response.content == OK + END + b"data: [DONE]\n\n"
    assert cache.stats.stored == 1
    await asyncio.wait_for(origin.gone.wait(), 10)


# -- lists of embeddings --------------------------------------------------------------------------

EMBED = "/v1/embeddings"
TEXTS = ["Where is my parcel?", "How do I reset my password?", "Can I pay later?"]


def vectors(*numbers: float, **more: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": i, "embedding": [number]} for i, number in enumerate(numbers)]
    return {"object": "list", "data": data, "model": "small", "usage": {"prompt_tokens": 9, "total_tokens": 9}, **more}


async def embed(client: Any, texts: Any, **more: Any) -> Any:
    options = {name: more.pop(name) for name in ("headers", "extensions") if name in more}
    return await client.post(EMBED, json={"model": "small", "input": texts, **more}, **options)


def sent(origin: Origin) -> list[Any]:
    return [json.loads(body)["input"] for _, body in origin.requests]


@pytest.mark.parametrize("extra", [{}, {"encoding_format": "base64"}, {"dimensions": 8}])
async def test_a_list_is_looked_up_text_by_text(
    http: Any, provider: SimulatedProvider, cache: Cache, extra: dict[str, Any]
) -> None:
    """Found in part, then as a whole: the same JSON as the provider's, and only what is missing is asked for."""
    async with http.AsyncClient(base_url=provider.origin) as plain:
        expected = await embed(plain, TEXTS, **extra)
        client = cache.wrap(plain)
        await embed(client, TEXTS[1:], **extra)
        mixed, hit = [await embed(client, TEXTS, **extra) for _ in range(2)]
        alone = await embed(client, TEXTS[1], **extra)
    assert [request["input"] for request in provider.requests] == [TEXTS, TEXTS[1:], TEXTS[:1]]
    assert [{**request, "input": ""} for request in provider.requests] == [{"model": "small", "input": "", **extra}] * 3
    assert mixed.json() == hit.json() == expected.json()
    assert alone.json()["data"] == [{**expected.json()["data"][1], "index": 0}]
    assert [status(response).outcome for response in (mixed, hit, alone)] == ["miss", "hit", "hit"]
    assert mixed.headers["cache-status"] == 'asynccache; fwd=partial; stored; detail="partial: 2 of 3"'
    assert hit.headers["cache-status"] == "asynccache; hit"
    assert (mixed.headers["content-length"], "age" in hit.headers) == (str(len(mixed.content)), True)


async def test_a_list_that_is_not_split_comes_byte_for_byte(client: Any, origin: Origin) -> None:
    """As the server sent it and with all of its headers; of a list of one, and of a text, a hit is the same too."""
    odd = json.dumps(vectors(1.50, 2e-7), indent=3).replace("1.5", "1.500").encode()
    origin.answer(odd, headers={"etag": '"1"'})
    body = b'{ "input": ["a", "b"],  "model": "small" }'
    miss = await client.post(EMBED, content=body, headers={"content-type": "application/json"})
    hit = await embed(client, ["a", "b"])
    assert origin.requests[0][1] == body
    assert miss.content == odd
    assert (miss.headers["etag"], miss.headers["x-request-id"]) == ('"1"', "req_1")
    assert hit.json() == miss.json()
    assert {"etag", "x-request-id"}.isdisjoint(hit.headers)
    origin.answer(one := json.dumps(vectors(3), indent=1).encode())
    assert [(await embed(client, given)).content for given in (["c"], ["c"], "c", "d", "d", ["d"])] == [one] * 6
    assert sent(origin) == [["a", "b"], ["c"], "d"]


async def test_what_is_asked_for_the_rest(client: Any, origin: Origin) -> None:
    """The caller's own request with another input: its headers, but the length and our own."""
    origin.answer(json.dumps(vectors(1)).encode(), headers={"etag": '"1"', "x-ratelimit-remaining": "7"})
    await embed(client, ["a"])
    said = {"Authorization": "Bearer k", "x-asynccache": '{"ttl": 60}', "x-of-mine": "1"}
    mixed = await embed(client, ["a", "b", "a"], headers=said)
    headers, body = origin.requests[1]
    assert json.loads(body) == {"model": "small", "input": ["b"]}
    assert headers["content-length"] == str(len(body))
    assert (headers["authorization"], headers["x-of-mine"]) == ("Bearer k", "1")
    assert "x-asynccache" not in headers
    assert (mixed.headers["x-request-id"], mixed.headers["x-ratelimit-remaining"]) == ("req_2", "7")
    assert "etag" not in mixed.headers
    assert [vector["index"] for vector in mixed.json()["data"]] == [0, 1, 2]


async def test_compressed_lists(client: Any, origin: Origin) -> None:
    """What came compressed is read for its parts, and passed on as it came."""
    packed = gzip.compress(json.dumps(vectors(1, 2)).encode())
    origin.answer(packed, headers={"content-encoding": "gzip"})
    async with client.stream("POST", EMBED, json={"model": "small", "input": ["a", "b"]}) as miss:
        assert b"".join([piece async for piece in miss.aiter_raw()]) == packed
    hit = await embed(client, ["b", "a"])
    assert [vector["embedding"] for vector in hit.json()["data"]] == [[2], [1]]
    assert "content-encoding" not in hit.headers


async def test_lists_that_overlap_share_what_is_under_way(http: Any, provider: SimulatedProvider, cache: Cache) -> None:
    """Each text is asked for once, whoever wants it."""
    async with http.AsyncClient(transport=AsyncCacheTransport(cache), base_url=provider.origin) as client:
        provider.hold()
        first = asyncio.create_task(embed(client, TEXTS[:2]))
        await provider.reached(1)
        second = asyncio.create_task(embed(client, TEXTS[::-1]))
        await provider.reached(2)
        provider.release()
        one, two = await asyncio.gather(first, second)
    assert [request["input"] for request in provider.requests] == [TEXTS[:2], TEXTS[2:]]
    assert [v["embedding"] for v in two.json()["data"]][:0:-1] == [v["embedding"] for v in one.json()["data"]]
    assert (status(one).outcome, status(two).outcome) == ("miss", "miss")


async def test_a_failure_for_the_rest_is_the_lists(client: Any, origin: Origin, cache: Cache) -> None:
    """The provider's response with its headers; what was known stays known."""
    origin.answer(json.dumps(vectors(1)).encode())
    await embed(client, ["a"])
    origin.answer(b'{"error": {"message": "slow down"}}', status=429, headers={"retry-after": "7"})
    failed = await embed(client, ["a", "b"])
    assert (failed.status_code, failed.headers["retry-after"]) == (429, "7")
    assert failed.json() == {"error": {"message": "slow down"}}
    origin.answer(json.dumps(vectors(2)).encode())
    assert status(await embed(client, ["a", "b"])).reason == "partial: 1 of 2"
    assert sent(origin) == [["a"], ["b"], ["b"]]


@pytest.mark.parametrize(
    ("extra", "headers"),
    [
        ({"late_chunking": True}, {}),
        ({"of_tomorrow": 1}, {}),
        ({}, {"content-digest": "sha-256=:AAAA:"}),
        ({}, {"x-amz-content-sha256": "0" * 64}),
    ],
)
async def test_lists_that_are_asked_for_as_a_whole(
    client: Any, origin: Origin, extra: dict[str, Any], headers: dict[str, str]
) -> None:
    """Where a text's vector may depend on those beside it, or the body must stay what it is: kept byte for byte."""
    origin.answer(body := json.dumps(vectors(1, 2), indent=1).encode())
    await embed(client, ["c", "d"])
    responses = [await embed(client, ["a", "b"], headers=headers, **extra) for _ in range(2)]
    assert [response.content for response in responses] == [body] * 2
    assert [status(response).outcome for response in responses] == ["miss", "hit"]
    assert status(await embed(client, ["a"], headers=headers, **extra)).outcome == "miss"
    assert sent(origin) == [["c", "d"], ["a", "b"], ["a"]]


@pytest.mark.parametrize("said", [vectors(1, 2, of_the_list="x"), {"vectors": [[1.0], [2.0]]}])
async def test_lists_that_are_answered_as_a_whole(client: Any, origin: Origin, said: Any) -> None:
    """Replies that say more of the list than can be told of its parts are kept byte for byte, once that is known."""
    origin.answer(body := json.dumps(said, indent=1).encode())
    responses = [await embed(client, ["a", "b"]) for _ in range(3)]
    assert [response.content for response in responses] == [body] * 3
    assert [status(response).outcome for response in responses] == ["miss", "miss", "hit"]


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (json.dumps(vectors(1)).encode(), {}),
        (json.dumps(vectors(1, 2, error={"message": "overloaded"})).encode(), {}),
        (b"no JSON", {}),
        (b'{"a": 1}\n{"b": 2}\n', {"kind": "application/x-ndjson"}),
        (json.dumps(vectors(1, 2)).encode(), {"status": 201}),
    ],
)
async def test_replies_that_cannot_be_taken_apart(
    client: Any, origin: Origin, cache: Cache, body: bytes, options: dict[str, Any]
) -> None:
    """They are passed on as they are, not kept, and no reason to keep the next ones whole."""
    origin.answer(body, **options)
    for _ in range(2):
        response = await embed(client, ["a", "b"])
        assert (response.content, response.status_code) == (body, options.get("status", 200))
    assert cache.stats.stored == 0
    origin.answer(json.dumps(vectors(1, 2)).encode())
    await embed(client, ["a", "b"])
    assert status(await embed(client, "b")).outcome == "hit"
    assert origin.calls == 3


def test_parts_in_another_order_are_not_the_whole() -> None:
    """What was divided is united to the very answer only as it was."""
    parts: Any = next(api.call_type.parts for api in APIS if api.ending == "/embeddings")
    body = json.dumps(vectors(1, 2)).encode()
    whole = Reply(Head(200, []), body, body)
    one, two = parts.divide(whole, [{"input": "a"}, {"input": "b"}])
    assert parts.unite([one, two], [0, 1], 0) is whole
    swapped = json.loads(parts.unite([two, one], [0, 1], 0).text)
    assert [vector["embedding"] for vector in swapped["data"]] == [[2], [1]]
    repeated = json.loads(parts.unite([one, two], [0, 1, 0], 0).text)
    assert [vector["embedding"] for vector in repeated["data"]] == [[1], [2], [1]]


async def test_a_list_in_a_stream(client: Any, origin: Origin, cache: Cache) -> None:
    """Whoever asks for a stream gets it as it comes, whole."""
    origin.held = asyncio.Event()
    origin.stream(b"data: {}\n\n", b"data: [DONE]\n\n")
    asked = {"model": "small", "input": ["a", "b"], "stream": True}
    async with client.stream("POST", EMBED, json=asked) as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"data: {}\n\n"
        origin.held.set()
        assert b"".join([piece async for piece in pieces]) == b"data: [DONE]\n\n"


async def test_a_hook_changes_a_part_of_a_list(origin: Origin) -> None:
    """What it makes of the answer to one text is what the caller gets, also where the list was asked for as it is."""

    async def erase(response: Any, request: Any) -> None:
        said = json.loads(response.value.text)
        if request.params["input"] == "b":
            said["data"][0]["embedding"] = []
            response.value.text = response.value.content = json.dumps(said).encode()

    origin.answer(json.dumps(vectors(1, 2)).encode())
    async with (
        Cache(post_hooks=[erase]) as cache,
        httpx.AsyncClient(transport=AsyncCacheTransport(cache), base_url=origin.origin) as client,
    ):
        response = await embed(client, ["a", "b"])
    assert [vector["embedding"] for vector in response.json()["data"]] == [[1], []]


# -- controls -------------------------------------------------------------------------------------

Ask = Callable[[Any, dict[str, Any]], Awaitable[Any]]


def by_extension(client: Any, control: dict[str, Any]) -> Awaitable[Any]:
    return client.post(PATH, json=CHAT, extensions={"asynccache": control})  # type: ignore[no-any-return]


def by_header(client: Any, control: dict[str, Any]) -> Awaitable[Any]:
    return client.post(PATH, json=CHAT, headers={"X-AsyncCache": json.dumps(control)})  # type: ignore[no-any-return]


@pytest.mark.parametrize("ask", [by_extension, by_header])
async def test_controls_of_our_own(client: Any, origin: Origin, cache: Cache, ask: Ask) -> None:
    """They say what `cache={…}` says, and none reaches the server."""
    assert status(await ask(client, {"ttl": 60, "tags": ["doc:1"]})).ttl == pytest.approx(60, abs=5)
    assert status(await ask(client, {})).outcome == "hit"
    await cache.invalidate("doc:1")
    assert status(await ask(client, {"no-store": True})).outcome == "miss"
    assert status(await ask(client, {"namespace": "other"})).outcome == "miss"
    with pytest.raises(NotCached):
        await ask(client, {"only-if-cached": True, "namespace": "third"})
    with pytest.raises(ConfigError, match="did you mean 'ttl'"):
        await ask(client, {"tll": 1})
    assert not any("asynccache" in name for headers, _ in origin.requests for name in headers)


async def test_our_header_never_goes_on(client: Any, origin: Origin) -> None:
    """Not with a request that is no call either; what is no JSON is refused."""
    await client.post("/v1/files", json=CHAT, headers={"x-asynccache": '{"ttl": 1}'})
    await client.get("/v1/models", headers={"x-asynccache": '{"ttl": 1}'})
    assert not any("x-asynccache" in headers for headers, _ in origin.requests)
    assert json.loads(origin.requests[0][1]) == CHAT
    with pytest.raises(ConfigError, match="no JSON"):
        await client.post(PATH, json=CHAT, headers={"x-asynccache": "ttl=60"})


async def test_the_standards_own_header(origin: Origin) -> None:
    """Cache-Control, as RFC 9111 lets a request say it; it goes on as it is."""
    now = [1000.0]
    async with (
        Cache(clock=lambda: now[0]) as cache,
        httpx.AsyncClient(transport=AsyncCacheTransport(cache), base_url=origin.origin) as client,
    ):

        async def ask(said: str, **more: Any) -> Any:
            return await client.post(PATH, json=CHAT, headers={"Cache-Control": said}, **more)

        demanded = await ask("only-if-cached")
        assert (demanded.status_code, demanded.headers["x-should-retry"], origin.calls) == (504, "false", 0)
        assert status(await ask("no-store")).outcome == "miss"
        assert status(await ask("max-age=60")).outcome == "miss"
        assert origin.requests[-1][0]["cache-control"] == "max-age=60"
        assert status(await ask("only-if-cached")).outcome == "hit"
        now[0] += 30
        assert status(await ask("Max-Age=60, x-unknown=1")).outcome == "hit"
        assert status(await ask("max-age=10")).outcome == "miss"
        assert status(await ask("no-cache")).outcome == "miss"
        assert status(await ask("no-cache", extensions={"asynccache": {}})).outcome == "hit"


async def test_a_field_named_cache_is_the_providers(client: Any, origin: Origin) -> None:
    """It reaches the provider, and is no control of ours."""
    said = {**CHAT, "cache": {"no-such-control": 1}}
    assert status(await client.post(PATH, json=said)).outcome == "miss"
    assert json.loads(origin.requests[0][1]) == said
    assert status(await client.post(PATH, json=said)).outcome == "hit"


async def test_hooks_change_what_is_sent(origin: Origin) -> None:
    """A hook that puts another list in, or changes the one that is there: the body says it, and so does the key."""

    async def add(request: Any) -> None:
        request.params["messages"].insert(0, {"role": "system", "content": "Be brief."})

    async with (
        Cache(pre_hooks=[add]) as cache,
        httpx.AsyncClient(transport=AsyncCacheTransport(cache), base_url=origin.origin) as client,
    ):
        responses = [await client.post(PATH, json=CHAT) for _ in range(2)]
    sent = json.loads(origin.requests[0][1])
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, *CHAT["messages"]]
    assert [status(r).outcome for r in responses] == ["miss", "hit"]


async def test_kinds_of_calls_can_be_left_out(origin: Origin) -> None:
    """`supported_call_types` has the same names for all providers."""
    async with (
        Cache(supported_call_types=["embedding"]) as cache,
        httpx.AsyncClient(transport=AsyncCacheTransport(cache), base_url=origin.origin) as client,
    ):
        chat = await client.post(PATH, json=CHAT)
        gemini = await client.post(GEMINI.format("generateContent"), json={"contents": []})
    assert [(status(r).outcome, status(r).reason) for r in (chat, gemini)] == [("bypass", "call-type")] * 2


async def test_what_a_tampered_entry_cannot_do(client: Any, origin: Origin, cache: Cache) -> None:
    """An entry is data: headers that are not kept are not told, and what cannot be read is a miss."""
    from dataclasses import replace

    from asynccache.model import CacheKey

    key = CacheKey(status(await client.post(PATH, json=CHAT)).key)
    entry = await cache.backend.get(key)
    assert entry is not None
    for headers in ([["set-cookie", "a=b"], ["content-type", "a/b\r\nx: y"]], [["content-type"]], 7, [[1, 2]]):
        await cache.backend.set(key, replace(entry, meta={"http": {"headers": headers}}))
        response = await client.post(PATH, json=CHAT)
        assert response.json() == WHOLE
        assert not {"set-cookie", "x"} & {*response.headers}


# -- clients --------------------------------------------------------------------------------------


async def test_a_client_can_be_wrapped(http: Any, origin: Origin, cache: Cache) -> None:
    """A copy of the same type, with cached transports for all its mounts; the original stays as it was."""
    mounts = {"http://mounted": http.MockTransport(lambda _: http.Response(200, json=WHOLE))}
    async with http.AsyncClient(base_url=origin.origin, mounts=mounts) as plain:
        client = cache.wrap(plain)
        assert type(client) is http.AsyncClient
        for where in (PATH, "http://mounted" + PATH):
            assert [status(await client.post(where, json=CHAT)).outcome for _ in range(2)] == ["miss", "hit"]
        assert "cache-status" not in (await plain.post(PATH, json=CHAT)).headers


async def test_something_else_of_the_library_is_refused(http: Any, cache: Cache) -> None:
    """Only clients are wrapped."""
    with pytest.raises(ConfigError, match="a function or a known client"):
        cache.wrap(http.Headers())


async def test_closing_closes_what_is_behind(http: Any, cache: Cache) -> None:
    """The transport that was handed in is closed with the client; the cache goes on."""

    class Inner(http.AsyncBaseTransport):  # type: ignore[misc]
        closed = 0

        async def handle_async_request(self, request: Any) -> Any:
            return http.Response(200, json=WHOLE)

        async def aclose(self) -> None:
            self.closed += 1

    inner = Inner()
    async with http.AsyncClient(transport=AsyncCacheTransport(cache, inner)) as client:
        await client.post("http://any" + PATH, json=CHAT)
    assert inner.closed == 1
    async with http.AsyncClient(transport=AsyncCacheTransport(cache, inner)) as client:
        assert status(await client.post("http://any" + PATH, json=CHAT)).outcome == "hit"


def test_neither_library_is_loaded_for_the_other() -> None:
    """The module alone loads none; a client of one does not load the other."""
    for code, loaded in (
        ("import asynccache.clients.httpx", set()),
        ("import asynccache.clients.httpx2, httpx2; asynccache.clients.httpx2.AsyncCacheTransport", {"httpx2"}),
        ("import httpx, asynccache; asynccache.Cache().wrap(httpx.AsyncClient())", {"httpx"}),
    ):
        show = "import sys; print(*{m.partition('.')[0] for m in sys.modules} & {'httpx', 'httpx2'})"
        done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, check=True, text=True)
        assert set(done.stdout.split()) == loaded


# -- the sync twin --------------------------------------------------------------------------------


def test_the_sync_twin(http: Any) -> None:
    """Misses, hits, streams both ways and failures, over a sync client."""
    cache = Cache()
    with SimulatedProvider() as provider, http.Client(base_url=provider.origin) as plain:
        with http.Client(transport=CacheTransport(cache), base_url=provider.origin) as client:
            miss, hit = (client.post(PATH, json=CHAT) for _ in range(2))
            assert hit.content == miss.content
            assert [status(r).outcome for r in (miss, hit)] == ["miss", "hit"]
            asked = {**CHAT, "stream": True, "seed": 1}
            with client.stream("POST", PATH, json=asked) as live:
                first = b"".join(live.iter_bytes())
            with cache.wrap(plain).stream("POST", PATH, json=asked) as again:
                assert b"".join(again.iter_bytes()) == first
            assert (status(live).outcome, status(again).outcome) == ("miss", "hit")
            provider.fail_next(429, headers={"retry-after": "7"})
            failed = client.post(PATH, json={**CHAT, "seed": 2})
            assert (failed.status_code, failed.headers["retry-after"]) == (429, "7")
            with pytest.raises(http.ConnectError):
                client.post("http://127.0.0.1:1" + PATH, json=CHAT)
            assert "cache-status" not in client.get("/v1/models").headers
        assert provider.calls[PATH] == 3
    asyncio.run(cache.aclose())


def test_lists_of_the_sync_twin(http: Any) -> None:
    """They are looked up text by text as well."""
    cache = Cache()
    with SimulatedProvider() as provider, http.Client(base_url=provider.origin) as plain:
        expected = plain.post(EMBED, json={"model": "small", "input": TEXTS})
        client = cache.wrap(plain)
        for given in (TEXTS[:1], TEXTS):
            answer = client.post(EMBED, json={"model": "small", "input": given})
        assert answer.json() == expected.json()
        assert status(answer).reason == "partial: 1 of 3"
        assert [request["input"] for request in provider.requests] == [TEXTS, TEXTS[:1], TEXTS[1:]]
    asyncio.run(cache.aclose())


def test_threads_share_one_call_and_one_stream(http: Any) -> None:
    """A sync stream that is left early stores nothing; those of several threads are one."""
    cache = Cache()
    with SimulatedProvider() as provider, http.Client(transport=CacheTransport(cache)) as client:
        with client.stream("POST", provider.origin + PATH, json={**CHAT, "stream": True, "seed": 9}) as left:
            next(left.iter_bytes())
        assert cache.stats.stored == 0
        bodies: list[bytes] = []
        ready = threading.Barrier(6)

        def ask() -> None:
            ready.wait()
            with client.stream("POST", provider.origin + PATH, json={**CHAT, "stream": True}) as response:
                bodies.append(b"".join(response.iter_bytes()))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(bodies)) == 1
        assert len(bodies) == 6
        assert provider.calls[PATH] == 2
    asyncio.run(cache.aclose())
