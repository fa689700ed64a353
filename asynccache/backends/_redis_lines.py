"""One connection to a Redis server, on which questions and answers cannot get mixed up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from asynccache.backends._redis_driver import (
    AbstractConnection,
    ConnectionPool,
    RedisError,
    RedisTimeoutError,
    ResponseError,
    pack_command,
)
from asynccache.backends._redis_wire import Dialogue, dialogue_on, transport_of
from asynccache.errors import BackendError, BackendTimeout, BackendUnavailable, CorruptEntry

_IDLE = 0.01  # seconds


def pack(*arguments: bytes) -> bytes:
    """One command as it goes over the wire."""
    packed: bytes = pack_command(arguments)  # type: ignore[arg-type]  # its stub asks for a tuple of one
    return packed


class Failures:
    """What a driver's errors are called here.

    backend:  the name that errors carry.
    patience: seconds that an exchange may take.
    secrets:  texts that stand in no message.
    """

    def __init__(self, backend: str, patience: float, secrets: Sequence[str] = ()) -> None:
        self.backend = backend
        self.patience = patience
        self._secrets = [secret for secret in secrets if secret]

    def of(self, error: BaseException) -> BackendError:
        """A new BackendError whose cause is this error."""
        failure = self._of(error)
        failure.__cause__ = error.__cause__ if isinstance(error, BackendError) else error
        return failure

    def unavailable(self, message: str) -> BackendUnavailable:
        return BackendUnavailable(message, backend=self.backend)

    def _of(self, error: BaseException) -> BackendError:
        if isinstance(error, BackendError):
            return type(error)(self._text(error).removeprefix(f"{self.backend}: "), backend=self.backend)
        if isinstance(error, TimeoutError | RedisTimeoutError):
            return BackendTimeout(f"no answer within {self.patience:g} s", backend=self.backend)
        if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
            return CorruptEntry(f"not an entry: {error}", backend=self.backend)
        return self.unavailable(self._text(error))

    def _text(self, error: BaseException) -> str:
        # Old servers repeat in their errors what they did not understand: the password too.
        text = str(error) or type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class Source(Protocol):
    """Where connections come from."""

    @property
    def keep(self) -> bool:
        """Whether a connection may be kept between two exchanges. Those of a foreign pool are given back."""
        ...

    async def open(self) -> AbstractConnection:
        """A connection that is connected, greeted and free."""
        ...

    async def give_back(self, connection: AbstractConnection, /) -> None: ...

    async def close(self) -> None:
        """Close all that was opened here. Raises nothing."""
        ...


class Pool:
    """Connections from a pool of redis-py, which knows about TLS, passwords, sentinels and the rest.

    pool:  made when first needed, since it belongs to an event loop.
    owned: whether it is to be closed; connections of another's are given back after each exchange.
    also:  what else to close, after it.
    """

    def __init__(
        self, pool: ConnectionPool, *, owned: bool = True, also: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.keep = owned
        self._pool = pool
        self._also = also

    async def open(self) -> AbstractConnection:
        connection: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        return connection

    async def give_back(self, connection: AbstractConnection, /) -> None:
        await self._pool.release(connection)

    async def close(self) -> None:
        if not self.keep:
            return
        # Whatever is wrong with connections that are being closed is of no interest any more.
        with contextlib.suppress(RedisError, OSError):
            await self._pool.disconnect()
        if self._also is not None:
            with contextlib.suppress(RedisError, OSError):
                await self._also()


async def cut(connection: AbstractConnection, source: Source, transport: asyncio.WriteTransport | None = None) -> None:
    """End a connection that must not be used again, and what is still to be sent on it with it.

    A closed stream sends what it has buffered first. These are commands that have failed for their callers, and
    could be carried out after later ones. So it is broken off.

    transport: the connection's, for one that redis-py may have closed, and forgotten, already. Without any, what is
               buffered may still be sent.
    """
    transport = transport or transport_of(connection)
    if transport is not None:
        transport.abort()
    with contextlib.suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)
    with contextlib.suppress(RedisError, OSError):
        await source.give_back(connection)


class Line:
    """A place for one connection, made when first needed and again after it was lost.

    Whoever holds a line makes one exchange at a time on it. No reply ever goes to another question than its own:

    1. A server answers the commands of one connection in their order, each with one reply.
    2. An exchange sends its commands and reads as many replies; nothing else uses the connection meanwhile.
    3. An exchange that ends in any other way (lost, out of time, cancelled, not understood) leaves an unknown
       number of replies to come. Its connection is cut and never used again.
    4. A connection must be silent before an exchange. One that has something to be read, be it a reply too many or
       its end, is cut and replaced. This is also the one attempt to reconnect there is: what was sent is
       never sent again, since the server may have done it.
    """

    def __init__(self, source: Source, patience: float) -> None:
        self._source = source
        self._patience = patience
        self._dialogue: Dialogue | None = None
        self._used = 0.0  # when the last exchange ended, by the loop's clock

    async def exchange(self, packed: bytes, replies: int) -> list[Any]:
        """Send these commands and return their replies; those that are errors are among them.

        Raises TimeoutError after `patience` seconds, connecting included, and what redis-py raises.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._patience
        dialogue = await self._ready(loop, end)
        try:
            answers = await dialogue.exchange(packed, replies, end)
        except BaseException:
            await self._cut()
            raise
        if self._source.keep:
            self._used = loop.time()
        else:
            self._dialogue = None
            await self._source.give_back(dialogue.connection)
        return answers

    async def _ready(self, loop: asyncio.AbstractEventLoop, end: float) -> Dialogue:
        if self._dialogue is not None:
            if loop.time() - self._used > _IDLE:
                # The loop has perhaps not looked at it since; then the server may be gone, and nobody knows.
                await asyncio.sleep(0)
            if await self._dialogue.is_silent():
                return self._dialogue
        async with asyncio.timeout_at(end):
            await self._cut()
            connection = await self._source.open()
        self._dialogue = dialogue_on(connection, keep=self._source.keep)
        return self._dialogue

    async def close(self) -> None:
        """Cut the connection, if there is one."""
        await self._cut()

    async def _cut(self) -> None:
        dialogue, self._dialogue = self._dialogue, None
        if dialogue is not None:
            await cut(dialogue.connection, self._source, dialogue.transport)
