"""`asynccache serve` and those who are slow or too large. One process for all of them, but for two of a kind."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from asynccache.testing.provider import SimulatedProvider
from tests.proxy.processes import PATIENCE, Served, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = "proxy: {header_timeout: 0.5, max_header_bytes: 2048, max_connections: 3, keep_alive: 20}\n"
TIMEOUTS = "proxy: {keep_alive: 0.3, write_timeout: 0.3}\n"
WORDS = 1_200_000
"""Of an answer: 6 MB, more than the 4 MB that Linux takes at most for a client with a small window."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[SimulatedProvider]:
    async with SimulatedProvider() as provider:
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(provider: SimulatedProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serve("--config", str(config_of(tmp_path_factory.mktemp("limited"), provider, LIMITS))) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hurried(provider: SimulatedProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serve("--config", str(config_of(tmp_path_factory.mktemp("hurried"), provider, TIMEOUTS))) as served:
        yield served


def config_of(folder: Path, provider: SimulatedProvider, more: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(f"upstream: {provider.origin}\n{more}")
    return path


async def outcome(served: Served, content: str) -> str:
    """Of a request on a connection of its own: one that is kept would count among the few there may be."""
    response = await served.client.post(
        "/v1/chat/completions",
        json={"model": "m", "messages": [{"role": "user", "content": content}]},
        headers={"connection": "close"},
    )
    assert response.status_code == 200, response.text
    return response.headers["x-asynccache-outcome"]


async def raw(served: Served, data: bytes) -> tuple[int, dict[str, object]]:
    """The status and the JSON of what is answered to this, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(data)
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 4096, 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 4096 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /" + b"a" * 4096 + b" HTTP/1.1\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nx: ", 408, "request_timeout"),
        (b"what is this\r\n\r\n", 400, "invalid_request"),
        (b"GET / HTTP/1.1\r\na b: c\r\n\r\n", 400, "invalid_request"),
        (b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n", 400, "unsupported_method"),
    ],
)
async def test_a_head_that_is_wrong_is_refused(limited: Served, data: bytes, status: int, code: str) -> None:
    found, body = await raw(limited, data)
    assert (found, body["error"]["code"]) == (status, code)  # type: ignore[index]
    assert limited.process.returncode is None


async def test_a_head_that_comes_in_drops_is_refused_in_time(limited: Served) -> None:
    """Each byte is no new beginning."""
    reader, writer = await asyncio.open_connection("127.0.0.1", limited.port)
    answer = asyncio.create_task(reader.read())
    sent = 0
    async with asyncio.timeout(PATIENCE):
        while not answer.done():
            writer.write(b"GET / HTTP/1.1\r\nx: aaaa"[sent : sent + 1] or b"a")
            sent += 1
            await asyncio.wait((answer,), timeout=0.05)
    assert b"408" in answer.result().splitlines()[0]
    writer.close()


async def test_more_connections_than_there_may_be_are_refused(limited: Served) -> None:
    opened = [await asyncio.open_connection("127.0.0.1", limited.port) for _ in range(3)]
    status, body = await raw(limited, b"")
    assert (status, body["error"]["code"]) == (503, "too_many_connections")  # type: ignore[index]
    for _, writer in opened:
        writer.close()
        await writer.wait_closed()


async def test_a_large_body_is_no_large_head(limited: Served) -> None:
    assert await outcome(limited, "word " * 20_000) == "miss"


@pytest.mark.parametrize("pieces", [1, 2, 7, 1000])
async def test_a_request_to_upgrade_is_answered_as_it_is(limited: Served, pieces: int) -> None:
    """As Java's client and `curl --http2` make one. Its body is its own, and what comes after it is the next."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": f"Hi {pieces}"}]}).encode()
    line = b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
    upgrade = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    long = b"content-length: %d\r\n\r\n%b" % (len(body), body)
    chunked = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    asked = [line + upgrade + long, line + upgrade + chunked, line + long, line + b"connection: close\r\n" + long]
    data = b"".join(asked)
    reader, writer = await asyncio.open_connection("127.0.0.1", limited.port)
    size = -(-len(data) // pieces)
    for at in range(0, len(data), size):
        writer.write(data[at : at + size])
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        answers = await reader.read()
    writer.close()
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 4
    assert answers.count(b'"choices"') == 4


async def test_trailers_are_no_headers(limited: Served) -> None:
    """A chunked body may end with fields; they come after all that was decided by the headers."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
    chunked = b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(body), body)
    status, _ = await raw(limited, head + chunked + b"cache-control: only-if-cached\r\n\r\n")
    assert status == 200


async def test_who_says_nothing_is_hung_up_on(hurried: Served) -> None:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", hurried.port)
        assert await reader.read() == b""
        writer.close()


def asking(served: Served, content: str) -> socket.socket:
    """A client that takes little at a time, and has asked for a large answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**17)
    client.connect(("127.0.0.1", served.port))
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
    client.sendall(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    return client


async def test_who_does_not_read_is_cut_off(hurried: Served, provider: SimulatedProvider) -> None:
    """The others do not notice."""
    provider.answer_next("word " * WORDS)
    with asking(hurried, "unread") as client:
        hung_up = select.poll()
        hung_up.register(client, select.POLLERR | select.POLLHUP)
        assert await asyncio.to_thread(hung_up.poll, PATIENCE * 1000)
    assert await outcome(hurried, "another") == "miss"


async def test_who_reads_slowly_is_not_cut_off(hurried: Served, provider: SimulatedProvider) -> None:
    """It takes several times `write_timeout`, in each of which something is read."""
    provider.answer_next("word " * WORDS)
    read = 0
    with asking(hurried, "slowly") as client:
        client.settimeout(PATIENCE)
        while read < 5 * WORDS:
            part = await asyncio.to_thread(client.recv, 2**17)
            assert part, f"it was cut off after {read} bytes"
            read += len(part)
            await asyncio.sleep(0.02)  # so slow
