"""Exchanges on a transport: replies come whole, in whatever pieces, and only where they belong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Connection
from redis.exceptions import BusyLoadingError, InvalidResponse, MovedError, ReadOnlyError, ResponseError

from asynccache.backends._redis_lines import Line, pack
from asynccache.backends._redis_wire import Streams, Wire, dialogue_on
from asynccache.backends.redis import RedisBackend
from asynccache.testing.contract import entry_of, key_of
from tests.servers.redis import RedisServer, TlsRedisServer

PING = pack(b"PING")
SOON = 0.2
PATIENCE = 20.0


class Scripted:
    """A server that says what it is told to; its clients are connections of redis-py."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.came, self.heard = asyncio.Event(), asyncio.Event()
        self.keep = True  # as a `Source`
        self._connections: list[Connection] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.came.set()
        while await reader.read(1000):
            self.heard.set()

    async def open(self) -> Any:
        connection = Connection(host="127.0.0.1", port=self.port, protocol=2, driver_info=None)
        self._connections.append(connection)
        await connection.connect()  # type: ignore[no-untyped-call]
        async with asyncio.timeout(PATIENCE):
            await self.came.wait()
        self.came.clear()
        return connection

    async def give_back(self, connection: Any, /) -> None: ...

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
        for connection in self._connections:
            await connection.disconnect(nowait=True)

    async def say(self, *pieces: bytes) -> None:
        """To the newest client, each in a packet of its own, once it has asked something."""
        async with asyncio.timeout(PATIENCE):
            await self.heard.wait()
        for piece in pieces:
            self.writers[-1].write(piece)
            await self.writers[-1].drain()
            await asyncio.sleep(0)

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Scripted]:
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            try:
                yield self
            finally:
                await self.close()


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with Scripted().started() as server:
        yield server


@pytest.fixture
def line(server: Scripted) -> Line:
    return Line(server, PATIENCE)


async def answered(line: Line, server: Scripted, *pieces: bytes, replies: int = 1) -> list[Any]:
    """What an exchange brings when the server says this."""
    saying = asyncio.create_task(server.say(*pieces))
    try:
        return await line.exchange(PING, replies)
    finally:
        await saying


async def test_a_connection_of_our_own_is_read_on_its_transport(server: Scripted) -> None:
    assert isinstance(dialogue_on(await server.open(), keep=True), Wire)
    assert isinstance(dialogue_on(await server.open(), keep=False), Streams)


async def test_one_whose_transport_cannot_be_reached_goes_by_the_driver(server: Scripted) -> None:
    class Hidden:
        def __init__(self, connection: Any) -> None:
            self.can_read, self.read_response = connection.can_read, connection.read_response
            self.send_packed_command, self.disconnect = connection.send_packed_command, connection.disconnect

    opened = server.open

    async def hidden() -> Any:
        return Hidden(await opened())

    server.open = hidden  # type: ignore[method-assign]
    line = Line(server, PATIENCE)
    assert await answered(line, server, b"+PONG\r\n-ERR no\r\n", replies=2) == [b"PONG", ErrorLike("no")]
    assert await answered(line, server, b"+AGAIN\r\n") == [b"AGAIN"]


class ErrorLike:
    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResponseError) and self.text in str(other)


async def test_replies_come_in_any_pieces(line: Line, server: Scripted) -> None:
    said = b"*2\r\n$5\r\nhel\0o\r\n$-1\r\n:7\r\n-ERR no\r\n$0\r\n\r\n"
    wanted = [[b"hel\0o", None], 7, ErrorLike("no"), b""]
    for size in (1, 2, 3, len(said)):
        pieces = [said[at : at + size] for at in range(0, len(said), size)]
        assert await answered(line, server, *pieces, replies=4) == wanted
    assert len(server.writers) == 1


async def test_news_that_nobody_has_asked_for_is_passed_over(line: Line, server: Scripted) -> None:
    push = b">2\r\n+invalidate\r\n*1\r\n+a\r\n"
    assert await answered(line, server, push + b"+ONE\r\n") == [b"ONE"]
    assert await answered(line, server, push[:7], push[7:] + push + b"+TWO\r\n") == [b"TWO"]
    assert len(server.writers) == 1


# What reads as whole replies; as part of one; and as the head of one, of which nothing seems to be left over.
SURPLUS = [b"+TOO MANY\r\n", b"+TOO", b"*2\r\n+extra\r\n", b"*1\r\n", b">2\r\n+invalidate\r\n*1\r\n", b"what?\r\n"]


@pytest.mark.parametrize("surplus", SURPLUS, ids=repr)
async def test_after_what_is_too_much_comes_another_connection(line: Line, server: Scripted, surplus: bytes) -> None:
    assert await answered(line, server, b"+ONE\r\n" + surplus) == [b"ONE"]
    server.heard.clear()
    assert await answered(line, server, b"+TWO\r\n+THREE\r\n", replies=2) == [b"TWO", b"THREE"]
    assert len(server.writers) == 2


@pytest.mark.parametrize("surplus", SURPLUS, ids=repr)
async def test_after_what_comes_unasked_too(line: Line, server: Scripted, surplus: bytes) -> None:
    assert await answered(line, server, b"+ONE\r\n") == [b"ONE"]
    await server.say(surplus)
    await noticed(line)
    server.heard.clear()
    assert await answered(line, server, b"+TWO\r\n+THREE\r\n", replies=2) == [b"TWO", b"THREE"]
    assert len(server.writers) == 2


async def noticed(line: Line) -> None:
    """Return when the line knows that something has come."""
    async with asyncio.timeout(PATIENCE):
        while await line._dialogue.is_silent():  # type: ignore[union-attr]  # noqa: ASYNC110  # a socket gives no event
            await asyncio.sleep(0)


async def test_who_talks_on_and_on_is_not_listened_to(line: Line, server: Scripted) -> None:
    assert await answered(line, server, b"+ONE\r\n") == [b"ONE"]

    async def talk() -> None:
        while True:
            await server.say(b"+ON\r\n" * 10_000)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(talk(), PATIENCE)


async def test_an_end_between_two_exchanges_is_no_error(line: Line, server: Scripted) -> None:
    assert await answered(line, server, b"+ONE\r\n") == [b"ONE"]
    server.writers[-1].close()
    await noticed(line)
    server.heard.clear()
    assert await answered(line, server, b"+TWO\r\n") == [b"TWO"]


async def test_errors_have_the_driver_s_names(line: Line, server: Scripted) -> None:
    [error] = await answered(line, server, b"-MOVED 7 127.0.0.1:1\r\n")
    assert isinstance(error, MovedError)
    with pytest.raises(BusyLoadingError):
        await answered(line, server, b"-LOADING Redis is loading the dataset in memory\r\n")


READ_ONLY = b"-READONLY You can't write against a read only replica.\r\n"


async def test_a_replica_s_refusal_is_an_answer(line: Line, server: Scripted) -> None:
    [error] = await answered(line, server, READ_ONLY)
    assert isinstance(error, ReadOnlyError)
    assert await answered(line, server, b"+ONE\r\n") == [b"ONE"]
    assert len(server.writers) == 1


async def test_under_sentinels_it_was_the_master(line: Line, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """They know another by now, and are asked when the next connection is made."""
    monkeypatch.setattr("asynccache.backends._redis_wire.SentinelManagedConnection", Connection)
    with pytest.raises(ReadOnlyError):
        await answered(line, server, READ_ONLY)
    server.heard.clear()
    assert await answered(line, server, b"+ONE\r\n") == [b"ONE"]
    assert len(server.writers) == 2


@pytest.mark.parametrize("said", [b"what?\r\n", b"$-5\r\n", b"*1\r\n\0\r\n"], ids=repr)
async def test_nonsense_ends_the_connection(line: Line, server: Scripted, said: bytes) -> None:
    with pytest.raises(InvalidResponse):
        await answered(line, server, said)
    server.heard.clear()
    assert await answered(line, server, b"+ONE\r\n") == [b"ONE"]
    assert len(server.writers) == 2


async def test_half_a_reply_is_none(server: Scripted) -> None:
    line = Line(server, SOON)
    with pytest.raises(TimeoutError):
        await answered(line, server, b"$5\r\nhel")
    server.heard.clear()
    assert await answered(line, server, b"$5\r\nother\r\n") == [b"other"]

    async def hang_up() -> None:
        await server.say(b"$5\r\nhel")
        server.writers[-1].close()

    server.heard.clear()
    hanging = asyncio.create_task(hang_up())
    with pytest.raises(ConnectionError):
        await line.exchange(PING, 1)
    await hanging
    server.heard.clear()
    assert await answered(line, server, b"+ONE\r\n") == [b"ONE"]
    assert len(server.writers) == 3


async def test_one_who_is_cancelled_leaves_nothing_behind(line: Line, server: Scripted) -> None:
    assert await answered(line, server, b"+ONE\r\n") == [b"ONE"]
    server.heard.clear()
    asking = asyncio.create_task(line.exchange(PING, 1))
    await server.heard.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    server.writers[-1].write(b"+STALE\r\n")
    server.heard.clear()
    assert await answered(line, server, b"+TWO\r\n") == [b"TWO"]
    assert len(server.writers) == 2


@pytest.mark.parametrize("protocol", [2, 3])
async def test_large_values_come_whole(redis_server: RedisServer, protocol: int) -> None:
    await whole(RedisBackend(redis_server.url, key_prefix="wire:", protocol=protocol))


async def test_large_values_come_whole_through_tls(redis_tls: TlsRedisServer) -> None:
    """A buffer is filled in slices there."""
    await whole(RedisBackend(redis_tls.url, key_prefix="wire:"))


async def whole(backend: RedisBackend) -> None:
    """Whatever the sizes, and however they fall together with those of buffers, records and packets."""
    sizes = [1, 1000, 16_383, 16_384, 65_536, 100_000, 262_143, 262_145, 1_000_000, 3_000_000]
    entries = {
        key_of(str(size)): entry_of(bytes(at % 251 for at in range(1000)) * (size // 1000 + 1)) for size in sizes
    }
    try:
        await asyncio.gather(*[backend.set(key, entry) for key, entry in entries.items()])
        for keys in (list(entries), list(entries)[::-1], *([key] for key in entries)):
            assert await asyncio.gather(*[backend.get(key) for key in keys]) == [entries[key] for key in keys]
    finally:
        await asyncio.gather(*[backend.delete(key) for key in entries])
        await backend.aclose()
