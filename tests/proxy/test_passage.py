"""What is no call of a model: passed through untouched."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from asynccache.proxy.passage import sound
from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import CHAT, Recording, listed, proxied


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("base", ["", "/v1", "/gateway/v1"])
async def test_a_request_comes_as_it_was_sent(method: str, base: str) -> None:
    """Its method, path, query, headers and body; and the answer as it was given, with what it says of itself."""
    recording = Recording(207, {"x-request-id": "r", "content-encoding": "gzip"}, gzip.compress(b"{}"))
    async with serving(recording) as origin, proxied({"upstream": f"{origin}{base}"}) as served:
        said = {"authorization": "Bearer sk-client", "x-custom": "1", "cookie": "a=b", "content-type": "text/odd"}
        request = served.client.build_request(method, "/v1/files/a%2Fb?x=%201&key=k", headers=said, content=b"\x00\xff")
        response = await served.client.send(request, stream=True)
        raw = b"".join([piece async for piece in response.aiter_raw()])
    ((heard_method, path, headers, body),) = recording.heard
    expected = f"{base.removesuffix('/v1')}/v1/files/a%2Fb?x=%201&key=k"
    assert (heard_method, path, body) == (method, expected, b"\x00\xff")
    assert said.items() <= headers.items()
    assert (response.status_code, raw, response.headers["x-request-id"]) == (207, recording.body, "r")
    assert "cache-status" not in response.headers


async def test_an_upload_and_a_download_come_piece_by_piece() -> None:
    """Nothing is gathered on the way: each piece is there before the next one is sent."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    to_say: asyncio.Queue[bytes] = asyncio.Queue()

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message.get("body"):
                heard.put_nowait(message["body"])
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while piece := await to_say.get():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def upload() -> AsyncIterator[bytes]:
        for piece in (b"one", b"two"):
            yield piece
            assert await heard.get() == piece

    async with serving(upstream) as origin, proxied({"upstream": origin}) as served:
        request = served.client.build_request("POST", "/v1/files", content=upload())
        response = await served.client.send(request, stream=True)
        pieces = response.aiter_raw()
        for piece in (b"three", b"four"):
            to_say.put_nowait(piece)
            assert await anext(pieces) == piece
        to_say.put_nowait(b"")
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)


async def test_a_client_that_leaves_a_download() -> None:
    """Its upstream is left too."""
    left = asyncio.Event()

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    for method in ("GET", "POST"):
        left.clear()
        async with serving(upstream) as origin, proxied({"upstream": origin}) as served:
            async with served.client.stream(method, "/v1/x", content=b"y" if method == "POST" else None) as response:
                assert await anext(response.aiter_raw()) == b"x"
            async with asyncio.timeout(20):
                await left.wait()
            await served.app.crowd.until(0)


async def test_a_download_that_breaks_off_does_not_look_whole() -> None:
    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async with serving(upstream) as origin, proxied({"upstream": origin}) as served:
        with pytest.raises(httpx2.RemoteProtocolError):
            await served.client.get("/v1/x")


async def test_other_calls_that_are_known_are_cached() -> None:
    """With one upstream: all that the HTTP transport knows, at the upstream's own path."""
    body = b'{"choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop", "index": 0}]}'
    recording = Recording(body=body)
    async with serving(recording) as origin, proxied({"upstream": origin}) as served:
        for outcome in ("miss", "hit"):
            answer = await served.client.post("/v1/fim/completions?x=1", json={"model": "m", "prompt": "p"})
            assert answer.headers["x-asynccache-outcome"] == outcome
    ((_, path, _, _),) = recording.heard
    assert path == "/v1/fim/completions?x=1"


async def test_by_the_model_that_a_body_names() -> None:
    """With a list: where that model is, under its name there, with its key."""
    async with SimulatedProvider() as provider, serving(recording := Recording()) as origin:
        params = {"model": "openai/dall-e-3", "api_base": f"{origin}/v1", "api_key": "sk-config"}
        models = [*listed(provider, a="openai/x"), {"model_name": "art", "litellm_params": params}]
        async with proxied({"model_list": models}) as served:
            said = {"authorization": "Bearer sk-client"}
            answer = await served.client.post(
                "/v1/images/generations", json={"model": "art", "prompt": "p"}, headers=said
            )
            assert answer.status_code == 200
            unknown = await served.client.post("/v1/images/generations", json={"model": "other"})
            assert unknown.status_code == 404
            assert (
                await served.client.post("/v1/x", content=b"{", headers={"content-type": "application/json"})
            ).status_code == 400
    ((_, path, headers, body),) = recording.heard
    assert (path, headers["authorization"]) == ("/v1/images/generations", "Bearer sk-config")
    assert json.loads(body) == {"model": "dall-e-3", "prompt": "p"}


@pytest.mark.parametrize(
    "path", ["/v1@127.0.0.1:{port}/x", "/v1.example.org/x", "/v10/x", "/v1%40127.0.0.1:{port}/x", "/v1beta"]
)
async def test_a_path_is_no_other_host(path: str) -> None:
    """What follows an address without a path could be read as a part of its host; the config's key would go there."""
    async with serving(recording := Recording()) as origin, serving(other := Recording()) as elsewhere:
        params = {"model": "openai/m", "api_base": origin, "api_key": "sk-config"}
        target = path.format(port=elsewhere.rpartition(":")[2])
        async with proxied({"model_list": [{"model_name": "m", "litellm_params": params}]}) as served:
            answer = await served.raw(f"GET {target} HTTP/1.1\r\nhost: proxy\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert other.heard == []
    ((_, heard, headers, _),) = recording.heard
    assert (heard, headers["authorization"]) == (target, "Bearer sk-config")


async def test_a_page_of_another_origin() -> None:
    """May not use the keys of somebody who runs a proxy, with a request for which browsers do not ask."""
    recording = Recording()
    async with serving(recording) as origin, proxied({"upstream": origin}) as served:
        simple = {"sec-fetch-site": "cross-site", "content-type": "text/plain", "origin": "http://other.example"}
        for path in ("/v1/files", "/v1/chat/completions"):
            refused = await served.client.post(path, content=json.dumps(CHAT), headers=simple)
            assert refused.status_code in (403, 415)
    assert recording.heard == []


@pytest.mark.parametrize(
    ("path", "fine"),
    [
        ("/v1/files", True),
        ("/v1/files/a..b/.hidden", True),
        ("/v1/a%20b", True),
        ("/v1/ü", True),
        ("/", True),
        ("", False),
        ("v1", False),
        ("//x", False),
        ("/a/../b", False),
        ("/a/%2e./b", False),
        ("/a/%25252e%25252e/b", False),
        ("/a\\..\\b", False),
        ("/a%0ab", False),
        ("/a\x7fb", False),
    ],
)
def test_sound_paths(path: str, fine: bool) -> None:
    assert sound(path) is fine
