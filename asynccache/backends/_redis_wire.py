"""Exchanges on a connection to a Redis server: on its transport, or by redis-py's streams."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from asynccache.backends._redis_driver import AbstractConnection, PushNotification, Reader, RedisError, ResponseError

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


def dialogue(connection: AbstractConnection, *, keep: bool) -> Dialogue:
    """On this connection, which is connected and greeted. keep: whether it is ours until it is cut."""
    transport = transport_of(connection)
    errors = getattr(getattr(connection, "_parser", None), "parse_error", None)
    if keep and transport is not None and callable(errors):
        return Wire(connection, transport, Reader(replyError=errors, notEnoughData=_MORE))
    return Streams(connection, transport)


def transport_of(connection: AbstractConnection) -> asyncio.WriteTransport | None:
    """What it sends through; None when a later redis-py has it elsewhere, which has no public way to it."""
    return getattr(getattr(connection, "_writer", None), "transport", None)


class Wire(asyncio.BufferedProtocol):
    """Takes the transport from redis-py's streams, for good: these, with their wake-ups and deadlines for each piece of
    a reply, take as long as all else in an exchange.

    One exchange is under way at a time, and replies that come meanwhile are its own: see `Line`.
    """

    def __init__(self, connection: AbstractConnection, transport: asyncio.WriteTransport, reader: Reader) -> None:
        self.connection = connection
        self.transport = transport
        self._reader = reader
        self._reader.setmaxbuf(_KEPT)
        # A view: TLS fills a buffer bit by bit, in slices of it, and those of an array would be copies.
        self._buffer = memoryview(bytearray(_AT_ONCE))
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiting: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        self._streams = transport.get_protocol()
        transport.set_protocol(self)

    async def is_silent(self) -> bool:
        return not (self._lost or self._replies or self._reader.has_data() or self.transport.is_closing())

    async def exchange(self, packed: bytes, replies: int, end: float) -> list[Any]:
        if self._lost is not None:
            raise self._lost
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        self._wanted = replies
        timer = loop.call_at(end, self._end, TimeoutError())
        try:
            self.transport.write(packed)
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None
        # Those that are too many stay: then it is not silent.
        answers, self._replies = self._replies[:replies], self._replies[replies:]
        return answers

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # its stub knows of no buffers
            while (reply := self._reader.gets(False)) is not _MORE:
                self._take(reply)
        except Exception as error:  # whatever hiredis, or redis-py's names for errors, make of what has come
            self._end(error)
            self.transport.abort()
        else:
            if len(self._replies) >= self._wanted:
                self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionError("the server has closed the connection")
        self._end(self._lost)
        self._streams.connection_lost(exc)  # somebody may wait for that

    def _take(self, reply: Any) -> None:
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            raise reply  # such as a refused password
        if not isinstance(reply, PushNotification):  # nobody here has asked for any
            self._replies.append(reply)

    def _end(self, error: Exception | None) -> None:
        """The exchange is over, if one is under way."""
        if self._waiting is None or self._waiting.done():
            return
        if error is None:
            self._waiting.set_result(None)
        else:
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
