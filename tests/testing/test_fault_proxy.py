from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from asynccache.errors import ConfigError
from asynccache.testing import FaultProxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, int]]:
    """Sends back what it is sent."""
    listening = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()


@pytest.fixture
async def proxy(server: tuple[str, int]) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(*server) as proxy:
        yield proxy


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange(streams: Streams, sent: bytes) -> bytes:
    reader, writer = streams
    writer.write(sent)
    return await reader.readexactly(len(sent))


def tasks() -> list[asyncio.Task[object]]:
    """The proxy's."""
    return [task for task in asyncio.all_tasks() if "FaultProxy" in repr(task)]


async def settled(proxy: FaultProxy) -> None:
    """The proxy hears from the kernel, a little later, that its clients are gone."""
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks())
    assert proxy.open_connections == 0


async def test_it_passes_everything_on_and_counts(proxy: FaultProxy) -> None:
    data = os.urandom(1_000_000)
    async with connected(proxy) as one, connected(proxy) as other:
        assert tuple(await asyncio.gather(exchange(one, data), exchange(other, b"b"))) == (data, b"b")
        assert (proxy.connections, proxy.open_connections) == (2, 2)
    assert (proxy.bytes_sent, proxy.bytes_received) == (1_000_001, 1_000_001)
    await settled(proxy)


async def test_the_end_of_requests_reaches_the_server_and_its_last_answer_the_client(proxy: FaultProxy) -> None:
    async with connected(proxy) as (reader, writer):
        writer.write(b"last")
        writer.write_eof()
        assert await reader.read() == b"last"
    await settled(proxy)


async def test_delay_holds_back_each_answer_at_least_that_long(proxy: FaultProxy) -> None:
    async with connected(proxy) as streams:
        proxy.delay(0.05)
        for _ in range(2):
            start = time.monotonic()
            assert await exchange(streams, b"a") == b"a"
            assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize(
    "hold",
    [lambda proxy: proxy.delay(3600), lambda proxy: proxy.freeze(), lambda proxy: proxy.throttle(0.001)],
    ids=["delay", "freeze", "throttle"],
)
async def test_what_was_held_back_comes_when_it_is_healed(
    proxy: FaultProxy, hold: Callable[[FaultProxy], None]
) -> None:
    async with connected(proxy) as old:
        assert await exchange(old, b"before") == b"before"
        hold(proxy)
        async with connected(proxy) as new:
            answers = [asyncio.ensure_future(exchange(streams, b"kept")) for streams in (old, new)]
            done, _ = await asyncio.wait(answers, timeout=0.05)
            assert not done
            proxy.heal()
            assert await asyncio.gather(*answers) == [b"kept"] * 2


async def test_frozen_it_accepts_and_passes_nothing_not_even_the_end(proxy: FaultProxy) -> None:
    proxy.freeze()
    async with connected(proxy) as (reader, writer):
        writer.write(b"a")
        writer.write_eof()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(), 0.05)
        assert (proxy.connections, proxy.bytes_sent, proxy.bytes_received) == (1, 0, 0)
        proxy.heal()
        assert await reader.read() == b"a"


async def test_cut_ends_the_stream_after_so_many_bytes(proxy: FaultProxy) -> None:
    async with connected(proxy) as old:
        assert await exchange(old, b"before") == b"before"
        proxy.cut(3)
        async with connected(proxy) as new:
            for reader, writer in (old, new):
                writer.write(b"abcdef")
                assert await reader.read() == b"abc"
    proxy.cut(0)
    async with connected(proxy) as (reader, writer):
        writer.write(b"abcdef")
        assert await reader.read() == b""
    await settled(proxy)
    assert proxy.bytes_received == 6 + 3 + 3


async def test_cut_counts_from_when_it_is_told(proxy: FaultProxy) -> None:
    async with connected(proxy) as streams:
        for _ in range(3):
            proxy.cut(3)
            assert await exchange(streams, b"ab") == b"ab"
        streams[1].write(b"cd")
        assert await streams[0].read() == b"c"


async def test_reset_hits_open_connections_and_new_ones(proxy: FaultProxy) -> None:
    async with connected(proxy) as old:
        assert await exchange(old, b"before") == b"before"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await old[0].read()
    with pytest.raises(ConnectionResetError):
        async with connected(proxy) as new:
            await new[0].read()
    proxy.heal()
    async with connected(proxy) as later:
        assert await exchange(later, b"after") == b"after"
    assert proxy.connections == 3


async def test_refuse_resets_and_refuses_until_it_is_healed_on_the_same_port(proxy: FaultProxy) -> None:
    port = proxy.port
    async with connected(proxy) as old:
        assert await exchange(old, b"before") == b"before"
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            await old[0].read()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, port)
        proxy.refuse()
    proxy.heal()
    assert proxy.port == port
    async with connected(proxy) as later:
        assert await exchange(later, b"after") == b"after"
    assert proxy.connections == 2


async def test_another_fault_ends_a_refusal(proxy: FaultProxy) -> None:
    proxy.refuse()
    proxy.garble()
    async with connected(proxy) as streams:
        assert await exchange(streams, b"a") != b"a"


async def test_throttle_is_no_faster_than_it_says(proxy: FaultProxy) -> None:
    async with connected(proxy) as streams:
        proxy.throttle(10_000)
        start = time.monotonic()
        assert await exchange(streams, bytes(1000)) == bytes(1000)
        assert time.monotonic() - start >= 0.1


async def test_garble_keeps_the_length_and_nothing_else(proxy: FaultProxy) -> None:
    async with connected(proxy) as streams:
        proxy.garble()
        garbage = await exchange(streams, b"+PONG\r\n" * 100)
        assert garbage == (b"\xff\xfe\r\n" * 175)
        proxy.heal()
        assert await exchange(streams, b"+PONG\r\n") == b"+PONG\r\n"


async def test_a_server_that_is_not_there_is_a_reset() -> None:
    nobody = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = nobody.sockets[0].getsockname()
    nobody.close()
    await nobody.wait_closed()
    async with FaultProxy(*address) as proxy, connected(proxy) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_a_client_that_leaves_is_gone_at_the_server_too() -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionError:
            pass
        writer.close()
        left.set()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening, FaultProxy(*listening.sockets[0].getsockname()) as proxy:
        async with connected(proxy) as (_, writer):
            writer.write(b"a")
        async with asyncio.timeout(10):
            await left.wait()


@pytest.mark.parametrize(
    "fault",
    [
        lambda proxy: proxy.heal(),
        lambda proxy: proxy.freeze(),
        lambda proxy: proxy.delay(3600),
        lambda proxy: proxy.throttle(1),
        lambda proxy: proxy.cut(10),
        lambda proxy: proxy.reset(),
        lambda proxy: proxy.refuse(),
    ],
    ids=["heal", "freeze", "delay", "throttle", "cut", "reset", "refuse"],
)
async def test_nothing_is_left_when_it_is_closed(server: tuple[str, int], fault: Callable[[FaultProxy], None]) -> None:
    """No task and no socket; the port is free again. An object that is forgotten would warn, which fails the test."""
    async with FaultProxy(*server) as proxy:
        address = proxy.host, proxy.port
        clients = [await asyncio.open_connection(*address) for _ in range(3)]
        await exchange(clients[0], b"a")
        fault(proxy)
        clients[1][1].write(bytes(100_000))
        await asyncio.sleep(0)  # some are accepted by now, and their tasks have not begun
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    for reader, writer in clients:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(200_000)
        writer.transport.abort()
    assert proxy.open_connections == 0
    assert not tasks()
    gc.collect()


async def test_what_makes_no_sense_is_refused(proxy: FaultProxy) -> None:
    with pytest.raises(ConfigError, match="seconds must be more than 0"):
        proxy.delay(0)
    with pytest.raises(ConfigError, match="bytes_per_second must be more than 0"):
        proxy.throttle(-1)
    with pytest.raises(ConfigError, match="after_bytes must not be negative"):
        proxy.cut(-1)
    with pytest.raises(RuntimeError, match="async with"):
        _ = FaultProxy("127.0.0.1", 1).port
