"""The ugly cases: whatever comes, a clear answer and no hang."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import CHAT, COMPLETIONS, Recording, Served, listed, proxied


@pytest.fixture
async def served(provider: SimulatedProvider) -> AsyncIterator[Served]:
    limits = {"max_body_bytes": 2000, "body_timeout": 0.3, "max_concurrent": 4}
    async with proxied({"upstream": provider.origin, "proxy": limits}) as proxy:
        yield proxy


def request(body: bytes, *headers: str, path: str = COMPLETIONS, method: str = "POST") -> bytes:
    said = [f"{method} {path} HTTP/1.1", "host: localhost", "content-type: application/json", *headers, "", ""]
    return "\r\n".join(said).encode("latin-1") + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/audio/transcriptions", "/v1/unknown", "/cache/explain"])
async def test_a_body_that_says_it_is_too_large(served: Served, path: str) -> None:
    """Refused by its head, unread."""
    answer = await served.raw(request(b"", "content-length: 2001", path=path))
    assert (status(answer), error(answer)["code"]) == (413, "request_too_large")
    answer = await served.raw(request(b"", f"content-length: {'9' * 30}", path=path))
    assert status(answer) in (400, 413)


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/unknown", "/cache/explain"])
async def test_a_client_that_reads_only_when_it_has_sent_all(provider: SimulatedProvider, path: str) -> None:
    """It is told why, too: the connection is not reset under what it still sends."""
    config = {"upstream": provider.origin, "proxy": {"max_body_bytes": 4 * 2**20}}
    async with proxied(config) as served:
        answer = await served.client.post(
            path, content=b" " * (12 * 2**20), headers={"content-type": "application/json"}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/unknown", "/cache/explain"])
async def test_a_body_that_grows_too_large(served: Served, path: str) -> None:
    """Refused as soon as it is, whatever would still come."""
    chunk = b"320\r\n" + b" " * 800 + b"\r\n"
    answer = await served.raw(request(chunk * 3, "transfer-encoding: chunked", path=path))
    assert (status(answer), error(answer)["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/unknown", "/cache/explain"])
@pytest.mark.parametrize("framing", ["content-length: 100", "transfer-encoding: chunked"])
async def test_a_body_that_does_not_come(served: Served, path: str, framing: str) -> None:
    answer = await served.raw(request(b"", framing, path=path))
    assert (status(answer), error(answer)["code"]) == (408, "request_timeout")
    assert served.app.crowd.inside == 0


async def test_a_body_that_comes_byte_by_byte(served: Served) -> None:
    """A byte now and then does not prolong it."""
    async with served.connection() as (reader, writer):
        writer.write(request(b"", "content-length: 1000"))

        async def drip() -> None:
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            async with asyncio.timeout(20):
                head = await reader.readuntil(b"\r\n\r\n")
        finally:
            dripping.cancel()
    assert status(head) == 408


async def test_too_many_at_the_same_time(served: Served, provider: SimulatedProvider) -> None:
    """503 with the time after which to try again; and those who are in are answered."""
    provider.hold()
    calls = [asyncio.create_task(served.chat(seed=seed)) for seed in range(4)]
    await provider.reached(4)
    for refused in (await served.chat(seed=5), await served.client.get("/v1/unknown")):
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    provider.release()
    assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
    assert (await served.chat(seed=5)).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[1]", 400),
        (b"null", 400),
        (b'"text"', 400),
        (b'{"model": "m", "messages": NaN}', 400),
        (b'{"model": "\xff"}', 400),
        (b'{"model": "\\ud800"}', 400),
        (b"[" * 1500, 400),
        (b'{"a":' * 200 + b"1" + b"}" * 200, 400),
    ],
)
async def test_bodies_that_are_none(served: Served, body: bytes, code: int) -> None:
    answer = await served.raw(request(body, f"content-length: {len(body)}"))
    assert status(answer) == code, answer
    if b"provider" not in answer:
        assert error(answer)["message"]


async def test_a_body_that_is_nested_deeply(provider: SimulatedProvider) -> None:
    """Deeper than it can be written again: that is said. Which depth that is Python's version decides."""
    deep = b'{"model": "m", "messages": [], "a":' + b'{"a":' * 1000 + b"1" + b"}" * 1001
    async with proxied({"upstream": provider.origin}) as served:
        answer = await served.raw(request(deep, f"content-length: {len(deep)}"))
    try:
        json.dumps(json.loads(deep))
    except RecursionError:
        assert (status(answer), error(answer)["code"], provider.requests) == (400, "invalid_json", [])
    else:
        assert (status(answer), len(provider.requests)) == (200, 1)


async def test_a_field_that_is_there_twice(served: Served, provider: SimulatedProvider) -> None:
    """The provider reads what the key was built from, and cannot be made to answer another question under it."""
    body = b'{"model": "a", "messages": [], "model": "m"}'
    assert status(await served.raw(request(body, f"content-length: {len(body)}"))) == 200
    assert provider.requests == [{"model": "m", "messages": []}]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/unknown"])
async def test_a_client_that_takes_nothing(path: str) -> None:
    """It does not keep its place for ever."""

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while not left.is_set():
            await send({"type": "http.response.body", "body": b"data: " + b"x" * 100_000 + b"\n\n", "more_body": True})
            await asyncio.sleep(0)

    left = asyncio.Event()
    async with serving(endless) as origin:
        config = {"upstream": origin, "proxy": {"body_timeout": 0.3}, "caching": {"max_entry_bytes": 1000}}
        async with proxied(config) as served, served.connection() as (_, writer):
            body = b'{"model": "m", "messages": [], "stream": true}'
            writer.write(request(body, f"content-length: {len(body)}", path=path))
            await served.app.crowd.until(1)
            async with asyncio.timeout(20):
                await served.app.crowd.until(0)
            left.set()


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_content_types_that_are_wrong(served: Served, headers: dict[str, str]) -> None:
    answer = await served.client.post(COMPLETIONS, content=json.dumps(CHAT), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"xyz", "multipart/form-data; boundary=b"),
        (b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (b'--b\r\ncontent-disposition: form-data; name="a"', "multipart/form-data; boundary=b"),
        (b"{}", "application/json"),
    ],
)
async def test_forms_that_are_none(served: Served, content: bytes, kind: str) -> None:
    answer = await served.client.post("/v1/audio/transcriptions", content=content, headers={"content-type": kind})
    assert answer.status_code in (400, 415), answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../secret",
        "/v1/%2e%2e/secret",
        "/v1/%252e%252e/secret",
        "/v1/./x",
        "//other.example/v1",
        "/v1/..%2fsecret",
        "/v1/..%5csecret",
        "/v1/x%00y",
        "/v1/x%0d%0ahost:%20other",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_paths_that_lead_elsewhere(path: str, method: str) -> None:
    """Refused, and never sent on: the provider's key would go with them."""
    recording = Recording()
    async with serving(recording) as origin, proxied({"upstream": f"{origin}/base/v1"}) as served:
        answer = await served.raw(request(b"", "content-length: 0", path=path, method=method))
    assert status(answer) == 400, answer
    assert recording.heard == []


@pytest.mark.parametrize("target", ["@other.example/v1", "http://other.example/v1/x", ":80/x", "x"])
async def test_targets_that_name_another_host(target: str) -> None:
    """What is sent on goes to the upstream, whatever the request's target says."""
    recording = Recording()
    async with serving(recording) as origin, proxied({"upstream": origin}) as served:
        answer = await served.raw(request(b"", "content-length: 0", path=target, method="GET"))
    assert status(answer) in (200, 400, 404)
    assert all(headers["host"] in origin for _, _, headers, _ in recording.heard)


@pytest.mark.parametrize(
    "line", ["x: a\rb", "x: a\nb: c", "x: a\x00b", "x y: z", ": z", "cache-control: \x01", "x-asynccache: \xff"]
)
async def test_headers_that_are_none(served: Served, provider: SimulatedProvider, line: str) -> None:
    body = json.dumps(CHAT).encode()
    answer = await served.raw(request(body, f"content-length: {len(body)}", line))
    assert status(answer) in (200, 400), answer
    assert b"\r\nb: c" not in answer


@pytest.mark.parametrize("name", ["max-age", "stale-if-error"])
async def test_an_age_beyond_all_numbers(served: Served, name: str) -> None:
    """It is as good as for ever."""
    await served.chat()
    answer = await served.chat({"cache-control": f"{name}={'9' * 5000}"})
    assert (answer.status_code, answer.headers["x-asynccache-outcome"]) == (200, "hit")


async def test_methods(served: Served) -> None:
    """Those of a web page that asks whether it may call are refused: no page of another origin may."""
    assert (await served.client.request("TRACE", "/v1/x")).status_code in (400, 405)
    assert (await served.client.request("OPTIONS", "/v1/x")).status_code == 405
    asked = {"origin": "http://other.example", "access-control-request-method": "POST"}
    answer = await served.client.request("OPTIONS", COMPLETIONS, headers=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_origin")


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\x00"]
)
async def test_what_is_no_http(served: Served, junk: bytes) -> None:
    answer = await served.raw(junk, close=True)
    assert not answer or status(answer) == 400


async def test_a_client_that_hangs_up_in_its_body(served: Served, provider: SimulatedProvider) -> None:
    """Nobody is answered, and nothing is left."""
    for path in (COMPLETIONS, "/v1/unknown"):
        async with served.connection() as (_, writer):
            writer.write(request(b"{", "content-length: 100", path=path))
            await served.app.crowd.until(1)
        await served.app.crowd.until(0)
    assert (await served.chat()).status_code == 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *("model", "messages", "stream", "input", "prompt", "cache", "n", "self", "cls", "params", "args", ""),
        *("stream_options", "query", "documents", "max_tokens", "encoding_format", "tools", "background"),
    ]
)
PATHS = ["chat/completions", "completions", "responses", "embeddings", "rerank", "messages"]


async def _ask(both: tuple[Served, Served], path: str, body: dict[str, Any], listed_model: bool) -> None:
    if listed_model:
        body["model"] = "m"
    for served in both:
        answer = await served.client.post(f"/v1/{path}", json=body)
        assert answer.status_code in (200, 400, 404, 501, 504), (path, body, answer.text)


async def test_any_body_gets_an_answer_that_is_no_500_of_ours() -> None:
    """Whatever a JSON object says at whatever endpoint, with one upstream and with a list."""
    recording = Recording(body=b'{"id": "x"}')
    async with serving(recording) as origin:
        params = {"model": "hosted_vllm/m", "api_base": f"{origin}/v1"}
        models = [{"model_name": "m", "litellm_params": params}]
        async with proxied({"upstream": origin}) as one, proxied({"model_list": models}) as many:
            await _fuzz((one, many))


async def _fuzz(both: tuple[Served, Served]) -> None:
    """Hypothesis drives a sync function: its examples run on a thread, and their requests on this loop."""
    loop = asyncio.get_running_loop()

    @settings(max_examples=150, deadline=None)
    @given(path=st.sampled_from(PATHS), body=st.dictionaries(NAMES, JSON, max_size=6), listed_model=st.booleans())
    def example(path: str, body: dict[str, Any], listed_model: bool) -> None:
        asyncio.run_coroutine_threadsafe(_ask(both, path, body, listed_model), loop).result(30)

    await asyncio.to_thread(example)


async def test_a_list_without_anything_else(provider: SimulatedProvider) -> None:
    """Paths that nobody knows, with a list of several providers: 404, and not a guess."""
    models = [
        *listed(provider, a="openai/x"),
        {"model_name": "b", "litellm_params": {"model": "groq/x", "api_key": "k"}},
    ]
    async with proxied({"model_list": models}) as served:
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/files"), ("GET", COMPLETIONS)):
            answer = await served.client.request(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_path")
