"""A TCP proxy that makes a network bad on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Self

from asynccache.errors import ConfigError

_PIECE = 65_536
_TICK = 0.02
"""Seconds between the pieces of a throttled answer, if a piece of one byte is not slower than that."""

# Never valid: 0xFF is in no ASCII protocol, no UTF-8 and no TLS record. The line ends are there so that
# whoever reads a line finds out at once, and not when it times out.
_GARBAGE = b"\xff\xfe\r\n"


@dataclass(frozen=True, slots=True)
class _Delay:
    seconds: float


@dataclass(frozen=True, slots=True)
class _Cut:
    after_bytes: int


@dataclass(frozen=True, slots=True)
class _Throttle:
    bytes_per_second: float


class _Freeze: ...


class _Reset: ...


class _Garble: ...


_Fault = _Delay | _Cut | _Throttle | _Freeze | _Reset | _Garble | None


class FaultProxy:
    """Stands on the loopback interface before a server, and passes on what comes, until it is told otherwise.

        async with FaultProxy("127.0.0.1", 6379) as proxy:
            client = redis.asyncio.Redis(host=proxy.host, port=proxy.port, socket_timeout=0.1)
            await client.get("a")    # as if the proxy were not there
            proxy.freeze()
            await client.get("a")    # TimeoutError
            proxy.heal()             # as before

    One fault at a time, from now on, for connections that are open and for new ones. What a client sees:

    | call                | what it looks like                                                               |
    |---------------------|----------------------------------------------------------------------------------|
    | `heal()`            | a healthy server; what was held back comes now                                   |
    | `delay(seconds)`    | connects at once; every answer comes at least so many seconds later              |
    | `freeze()`          | connects, sends, and waits for ever: a server that hangs                         |
    | `cut(after_bytes)`  | the end of the stream after so many bytes of answers, often amid one             |
    | `throttle(rate)`    | answers trickle in, so many bytes each second                                    |
    | `garble()`          | answers of the right length that make no sense                                   |
    | `reset()`           | "connection reset by peer", at once: now, and whenever it connects               |
    | `refuse()`          | open connections are reset, and "connection refused" for new ones: a dead server |

    Requests are passed on as they are, except while it is frozen. Where the server itself cannot be reached, the
    proxy accepts a connection and resets it. The calls take effect without `await`. Each object belongs to one event
    loop, and when the block ends, every connection is reset, and no task or socket is left.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.host = "127.0.0.1"
        self.connections = 0
        """How many were accepted since the beginning."""
        self.bytes_sent = 0
        """How many bytes of requests were passed on to the server."""
        self.bytes_received = 0
        """How many bytes of answers were passed on to clients, garbage included."""
        self._port: int | None = None
        self._listener: socket.socket | None = None
        self._reservation: socket.socket | None = None
        self._fault: _Fault = None
        self._changed = asyncio.Event()
        self._open: dict[_Connection, asyncio.Task[None]] = {}

    @property
    def port(self) -> int:
        """Where it listens: stays the same over `refuse()` and `heal()`."""
        if self._port is None:
            raise RuntimeError("the proxy has not been started: use `async with`")
        return self._port

    @property
    def open_connections(self) -> int:
        """How many connections there are now."""
        return len(self._open)

    async def __aenter__(self) -> Self:
        bound = _bound(self.host, self._port or 0)
        self._port = bound.getsockname()[1]
        self._listen(bound)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop_listening()
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def heal(self) -> None:
        """Pass everything on."""
        self._switch(None)

    def delay(self, seconds: float) -> None:
        """Hold each answer back for so many seconds."""
        self._switch(_Delay(_positive("seconds", seconds)))

    def freeze(self) -> None:
        """Accept connections, and pass nothing in either direction, the end of a connection neither. What has come
        is kept."""
        self._switch(_Freeze())

    def cut(self, after_bytes: int) -> None:
        """Close each connection in good order when so many more bytes of answers have passed over it.

        With 0, when the first byte of an answer would have.
        """
        if after_bytes < 0:
            raise ConfigError(f"after_bytes must not be negative, and is {after_bytes}")
        self._switch(_Cut(after_bytes))

    def throttle(self, bytes_per_second: float) -> None:
        """Let no more than so many bytes of answers pass each second, on each connection."""
        self._switch(_Throttle(_positive("bytes_per_second", bytes_per_second)))

    def garble(self) -> None:
        """Pass as many bytes of garbage instead of each answer."""
        self._switch(_Garble())

    def reset(self) -> None:
        """Reset (RST) every connection, and each new one as soon as it is there."""
        self._switch(_Reset())
        self._reset_all()

    def refuse(self) -> None:
        """Stop listening, and reset every connection."""
        self._switch(None)
        self._stop_listening()
        self._reset_all()
        # Bound and not listening: connections are refused, and nobody else gets the port. A client that
        # tries could otherwise be given it as its own, and would be connected to itself.
        self._reservation = _bound(self.host, self.port)

    def _switch(self, fault: _Fault) -> None:
        if self._reservation is not None:
            reservation, self._reservation = self._reservation, None
            self._listen(reservation)
        self._fault = fault
        for connection in self._open:
            connection.passed = 0
        self._changed.set()
        self._changed = asyncio.Event()

    def _listen(self, bound: socket.socket) -> None:
        bound.listen(1024)
        asyncio.get_running_loop().add_reader(bound, self._accept, bound)
        self._listener = bound

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # it has left the queue meanwhile
        self.connections += 1
        client.setblocking(False)
        connection = _Connection(client)
        if isinstance(self._fault, _Reset):
            connection.drop()
            return
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._open[connection] = task
        task.add_done_callback(lambda _: self._forget(connection))

    def _forget(self, connection: _Connection) -> None:
        del self._open[connection]
        connection.drop()  # a task that is cancelled before it has begun has not closed it

    def _reset_all(self) -> None:
        for task in self._open.values():
            task.cancel()

    async def _serve(self, connection: _Connection) -> None:
        try:
            await connection.open_client()
            await self._while_frozen()
            await connection.open_server(self.target)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass_requests(connection))
                ways.create_task(self._pass_answers(connection))
            await connection.close()
        except* OSError:
            pass  # one side is gone, or was never there: the other is told by a reset
        finally:
            await connection.reset()

    async def _pass_requests(self, connection: _Connection) -> None:
        while True:
            request = await connection.client_reader.read(_PIECE)
            await self._while_frozen()
            if not request:
                return connection.server.write_eof()
            connection.server.write(request)
            self.bytes_sent += len(request)
            await connection.server.drain()

    async def _pass_answers(self, connection: _Connection) -> None:
        while True:
            answer = await connection.server_reader.read(_PIECE)
            await self._while_frozen()
            if not answer:
                return connection.client.write_eof()
            while answer:
                piece = await self._let_through(answer, connection)
                connection.client.write(piece)
                connection.passed += len(piece)
                self.bytes_received += len(piece)
                answer = answer[len(piece) :]
                if isinstance(self._fault, _Cut) and connection.passed >= self._fault.after_bytes:
                    return connection.client.close()
                await connection.client.drain()

    async def _let_through(self, answer: bytes, connection: _Connection) -> bytes:
        """The first piece of the answer, once it may pass. A new fault counts at once, also for what waits."""
        while True:
            match self._fault:
                case _Freeze():
                    await self._while_frozen()
                case _Delay(seconds):
                    if not await self._changes_within(seconds):
                        return answer
                case _Throttle(rate):
                    piece = answer[: max(1, int(rate * _TICK))]
                    if not await self._changes_within(len(piece) / rate):
                        return piece
                case _Cut(after_bytes):
                    return answer[: max(0, after_bytes - connection.passed)]
                case _Garble():
                    return bytes(islice(cycle(_GARBAGE), len(answer)))
                case _:
                    return answer

    async def _while_frozen(self) -> None:
        while isinstance(self._fault, _Freeze):
            await self._changed.wait()

    async def _changes_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True


class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    client_reader: asyncio.StreamReader
    client: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server: asyncio.StreamWriter

    def __init__(self, accepted: socket.socket) -> None:
        self.passed = 0
        """Bytes of answers since the fault was changed last."""
        self._accepted = accepted
        self._writers: list[asyncio.StreamWriter] = []

    async def open_client(self) -> None:
        self.client_reader, self.client = await asyncio.open_connection(sock=self._accepted)
        self._writers.append(self.client)

    async def open_server(self, target: tuple[str, int]) -> None:
        self.server_reader, self.server = await asyncio.open_connection(*target)
        self._writers.append(self.server)

    async def close(self) -> None:
        """Close both sides in good order: what has been written arrives."""
        for writer in self._writers:
            writer.close()
        await self._closed()

    async def reset(self) -> None:
        """Reset the client, unless the connection is closed already, and leave the server."""
        self._reset_on_close()
        for writer in self._writers:
            writer.transport.abort()
        await self._closed()

    def drop(self) -> None:
        """Reset the client on a connection that nobody serves."""
        self._reset_on_close()
        self._accepted.close()

    async def _closed(self) -> None:
        for writer in self._writers:
            with suppress(OSError):
                await writer.wait_closed()

    def _reset_on_close(self) -> None:
        if self._accepted.fileno() != -1:
            # Closing does not wait then, and sends a RST instead of a FIN.
            self._accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _bound(host: str, port: int) -> socket.socket:
    # With the protocol spelled out asyncio sets TCP_NODELAY on what is accepted.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def _positive(name: str, number: float) -> float:
    if not number > 0:
        raise ConfigError(f"{name} must be more than 0, and is {number}")
    return number
