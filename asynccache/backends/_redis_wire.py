"""Exchanges on a connection to a Redis server: on its transport, or by redis-py's streams."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from asynccache.backends._redis_driver import (
    AbstractConnection,
    InvalidResponse,
    PushNotification,
    Reader,
    ReadOnlyError,
    RedisError,
    ResponseError,
    SentinelManagedConnection,
)

_AT_ONCE = 256 * 1024  # bytes that are read
_KEPT = 512 * 1024  # bytes that a reader keeps room for between two replies: room that is found anew is paged in anew
_MORE: Any = object()


class Dialogue(Protocol):
    """One connection, on which one exchange is made at a time."""

    @property
    def connection(self) -> AbstractConnection: ...

    @property
    def transport(self) -> asyncio.WriteTransport | None:
        """What it sends through, if that can be reached."""
        ...

    async def is_silent(self) -> bool:
        """Whether nothing has come that is to be read, its end included."""
        ...

    async def exchange(self, packed: bytes, replies: int, end: float, /) -> list[Any]:
        """Send these commands and return their replies in bytes; those that are errors are among them.

        end: when it must be over, by the loop's clock; then it raises TimeoutError. After it has raised anything, or
        was cancelled, the connection is of no use.
        """
        ...


def dialogue_on(connection: AbstractConnection, *, keep: bool) -> Dialogue:
    """A connection that is connected and greeted. keep: whether it is ours until it is cut."""
    transport = transport_of(connection)
    errors = getattr(getattr(connection, "_parser", None), "parse_error", None)
    if keep and transport is not None and callable(errors):
        return Wire(
            connection, transport, Reader(protocolError=InvalidResponse, replyError=errors, notEnoughData=_MORE)
        )
    return Streams(connection, transport)


def transport_of(connection: AbstractConnection) -> asyncio.WriteTransport | None:
    """What it sends through; None when a later redis-py has it elsewhere, which has no public way to it."""
    return getattr(getattr(connection, "_writer", None), "transport", None)


class Wire(asyncio.BufferedProtocol):
    """Takes the transport from redis-py's streams, for good: these, with their wake-ups and deadlines for each piece of
    a reply, take as long as all else in an exchange.

    Replies are read as far as they are wanted. What comes beyond them, or unasked, is not: a reader that stands amid a
    reply does not say so, and would take the next one for the rest of it. It ends the connection.
    """

    def __init__(self, connection: AbstractConnection, transport: asyncio.WriteTransport, reader: Reader) -> None:
        self.connection = connection
        self.transport = transport
        # By it redis-py knows that sentinels have named another master meanwhile.
        self._demoted = ReadOnlyError if isinstance(connection, SentinelManagedConnection) else ()
        self._reader = reader
        self._reader.setmaxbuf(_KEPT)
        # A view: TLS fills a buffer bit by bit, in slices of it, and those of an array would be copies.
        self._buffer = memoryview(bytearray(_AT_ONCE))
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiting: asyncio.Future[list[Any]] | None = None  # while an exchange is under way
        self._over = False
        self._streams = transport.get_protocol()
        transport.set_protocol(self)

    async def is_silent(self) -> bool:
        return not (self._over or self._reader.has_data() or self.transport.is_closing())

    async def exchange(self, packed: bytes, replies: int, end: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        self._replies, self._wanted = [], replies
        waiting: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting = waiting
        timer = loop.call_at(end, self._fail, TimeoutError())
        try:
            self.transport.write(packed)
            return await waiting
        finally:
            timer.cancel()
            self._waiting = None

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._waiting is None or self._waiting.done():
            self._end(ConnectionError("the server says what nobody has asked for"))
            return
        try:
            self._reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # its stub knows of no buffers
            while len(self._replies) < self._wanted and (reply := self._reader.gets(False)) is not _MORE:
                self._take(reply)
        except Exception as error:  # whatever hiredis, or redis-py's names for errors, make of what has come
            self._end(error)
        else:
            if len(self._replies) == self._wanted:
                self._waiting.set_result(self._replies)

    def eof_received(self) -> None:
        self._end(ConnectionError("the server has closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("the connection was closed"))
        self._streams.connection_lost(exc)  # somebody may wait for that

    def _take(self, reply: Any) -> None:
        if isinstance(reply, Exception) and (not isinstance(reply, ResponseError) or isinstance(reply, self._demoted)):
            raise reply
        if not isinstance(reply, PushNotification):  # nobody here has asked for any
            self._replies.append(reply)

    def _end(self, error: Exception) -> None:
        """The connection is of no more use."""
        self._over = True
        self._fail(error)
        self.transport.abort()

    def _fail(self, error: Exception) -> None:
        """So does the exchange, if one is under way."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


class Streams:
    """By redis-py itself: on connections that are another's, and on those whose transport cannot be reached."""

    def __init__(self, connection: AbstractConnection, transport: asyncio.WriteTransport | None) -> None:
        self.connection = connection
        self.transport = transport

    async def is_silent(self) -> bool:
        try:
            return not await self.connection.can_read()
        except (RedisError, OSError):  # it knows that it is closed
            return False

    async def exchange(self, packed: bytes, replies: int, end: float) -> list[Any]:
        async with asyncio.timeout_at(end):
            await self.connection.send_packed_command(packed, check_health=False)
            return [await self._reply() for _ in range(replies)]

    async def _reply(self) -> Any:
        try:
            return await self.connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error
