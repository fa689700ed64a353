"""What the backends on object stores share: names, expiry, reclaiming, the order of changes, clients, errors.

An entry is one object, `{path}ab/abcdef…`, whose content is all there is to it: the codec's bytes, the expiry
among them. So a look-up is one request, and nothing depends on metadata that stores treat differently.

Reclaiming. A store does not know when an entry ends. Whoever reads one after its end removes it, on the condition
that it is still what was read: at the store, by ETag or generation, so that an entry that has been put there since
stays. (A process whose clock is ahead removes entries too early, which is a miss.) What nobody reads again stays
too: give the bucket a lifecycle rule (each backend's module shows one) that removes what is older than the longest
time to live in use. Such a rule also removes epochs, the numbers behind `invalidate` and `clear`, although they
never expire. That is safe: an epoch that is lost ends the answers that remember it, and never brings one back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, TypeVarTuple
from urllib.request import getproxies
from weakref import WeakValueDictionary

from asynccache.backends._decoded import Decoded
from asynccache.codec import Codec
from asynccache.errors import BackendClosed, BackendError, BackendTimeout, ConfigError, CorruptEntry, ForeignEntry
from asynccache.loops import PerLoop
from asynccache.model import CacheKey, Entry
from asynccache.protocols import Clock

C = TypeVar("C")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger = logging.getLogger("asynccache")

TIMEOUT = 10.0  # seconds for one operation: the second line, behind the time budget of whoever calls
CONNECT_TIMEOUT = 2.0  # seconds: room for one lost packet, which TCP sends again after a second
CONNECTIONS = 64

ABSENT = ""
"""The version of an object that is not there."""

_DIGEST = re.compile("[0-9a-f]{64}")
_LONGEST = 1024 - len("ab/") - 64  # bytes of UTF-8 that the stores leave for a path before our names
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\\]")  # no store takes all of them, and Azure turns \ into /


class Found(NamedTuple):
    """An object's content, and its version: what changes whenever the content does (ETag, generation)."""

    data: bytes
    version: str


class ObjectBackend(ABC, Generic[C]):
    """Keeps entries in an object store, through an asyncio client of type C. The part for one vendor is below."""

    remote: Literal[True] = True
    read_timeout = 1.0  # a read takes 20 to 200 ms; beyond a second the call itself is the better answer
    write_timeout = 10.0  # nobody waits for a write, and a large answer needs some time on its way up
    max_concurrent = 256  # four for each connection: fewer would leave connections idle, more only queue up

    name: ClassVar[str]

    def __init__(self, *, path: str, timeout: float, codec: Codec, clock: Clock) -> None:
        self.path = _normal(path)
        self.timeout = seconds("timeout", timeout)
        self._codec = codec
        self._decoded = Decoded(codec)
        self._clock = clock
        self._closed = False
        self._loops: PerLoop[_Here[C]] = PerLoop(self._new_here, _Here.leave)

    async def get(self, key: CacheKey, /) -> Entry | None:
        """The entry under this key; None when there is none, or when it has expired: then it is removed behind.

        Raises CorruptEntry when the object is not a whole entry of this key, and removes it behind;
        BackendTimeout, BackendUnavailable (also when the bucket is missing), BackendClosed.
        """
        name, key = self._object(key)
        found = await self._call(self._fetch, name)
        if found is None:
            return None
        try:
            entry = self._decoded.entry(key, found.data)
        except ForeignEntry as error:
            raise ForeignEntry(f"{error}: object {name}", backend=self.name) from error
        except CorruptEntry as error:
            self._remove_behind(name, found.version)
            raise CorruptEntry(f"{error}: object {name} removed", backend=self.name) from error
        if self._has_ended(entry):
            self._remove_behind(name, found.version)
            return None
        return entry

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        """Put the entry there, in the place of any other.

        Raises BackendTimeout, BackendUnavailable, BackendClosed; BackendError for what cannot be written.
        """
        name, key = self._object(key)
        await self._change(name, self._put, name, self._codec.encode(key, entry), None)

    async def add(self, key: CacheKey, entry: Entry, /) -> bool:
        """Put the entry there unless there is one. True when it was put: the store lets one of several do it.

        One that has expired, or is not a whole entry of this key, counts as none. Raises as `set` does.
        """
        name, key = self._object(key)
        return await self._change(name, self._add, name, key, self._codec.encode(key, entry))

    async def delete(self, key: CacheKey, /) -> bool:
        """Take the entry away. True when there was an object. Raises as `set` does, but for BackendError."""
        name, _ = self._object(key)
        return await self._change(name, self._delete, name)

    async def ping(self) -> None:
        """Read an object that is not there.

        That checks that the store can be reached, takes the credentials, has the bucket, and lets its objects be
        read. Whether they may be written shows only when one is. Raises as `get` does.
        """
        await self._call(self._fetch, f"{self.path}ping")

    async def leave(self) -> None:
        """Wait for the calls under way on the running loop, and close its connections. Later use opens new ones."""
        await self._loops.here().leave()

    async def aclose(self) -> None:
        """Refuse new calls, wait for those under way, and close what the backend has opened, on every loop.

        That takes no longer than `timeout`. Closing twice is fine.
        """
        self._closed = True
        await self._loops.aclose()

    # The part for one vendor. What these raise may be anything: `_translated` names it.

    @abstractmethod
    def _open(self) -> AbstractAsyncContextManager[C]:
        """Opens a client for the running loop, and closes it afterwards unless it was handed in."""

    @abstractmethod
    async def _fetch(self, client: C, name: str) -> Found | None:
        """The object of this name, in one request; None when the bucket is there and the object is not."""

    @abstractmethod
    async def _put(self, client: C, name: str, data: bytes, version: str | None) -> bool:
        """Write the object if it has this version (None: in any case), and say whether it was written."""

    @abstractmethod
    async def _remove(self, client: C, name: str, version: str) -> None:
        """Remove the object if it has this version."""

    @abstractmethod
    async def _delete(self, client: C, name: str) -> bool:
        """Remove the object, and say whether there was one."""

    @abstractmethod
    def _translated(self, error: Exception) -> BackendError:
        """What an error of the driver means. The text holds nothing that came from options or from the server's
        text: either may hold credentials."""

    # Names and entries.

    def _object(self, key: CacheKey) -> tuple[str, CacheKey]:
        """An entry's name, and the key to seal it with: what is no digest is not fit to be a name."""
        digest = key.digest
        if not _DIGEST.fullmatch(digest):
            digest = sha256(digest.encode("utf-8", "surrogatepass")).hexdigest()
            key = CacheKey(digest)
        return f"{self.path}{digest[:2]}/{digest}", key

    def _has_ended(self, entry: Entry) -> bool:
        return entry.expires is not None and entry.expires <= self._clock()

    async def _add(self, client: C, name: str, key: CacheKey, data: bytes) -> bool:
        if await self._put(client, name, data, ABSENT):
            return True
        found = await self._fetch(client, name)
        if found is None or self._is_live(key, found.data):
            return False  # also when it is gone again: there was one when we came
        return await self._put(client, name, data, found.version)

    def _is_live(self, key: CacheKey, data: bytes) -> bool:
        try:
            return not self._has_ended(self._codec.decode(key, data))
        except ForeignEntry:
            return True  # for others
        except CorruptEntry:
            return False

    # Calls.

    def _new_here(self) -> _Here[C]:
        return _Here(lambda: _Connection(self._open(), self.timeout))

    def _call(self, verb: Callable[[C, *Ts], Awaitable[T]], *args: *Ts) -> Coroutine[Any, Any, T]:
        """What is begun before `aclose()` is carried out; nothing is begun after it."""
        if self._closed:
            raise BackendClosed("used after aclose()", backend=self.name)
        return self._run(verb, *args)

    async def _run(self, verb: Callable[[C, *Ts], Awaitable[T]], *args: *Ts) -> T:
        """One operation with the running loop's client, bounded by `timeout`, its errors translated."""
        connection = self._loops.here().connection()
        connection.users += 1
        try:
            async with asyncio.timeout(self.timeout):
                return await verb(connection.client or await connection.opened(), *args)
        except BackendError:
            raise
        except TimeoutError as error:
            raise BackendTimeout(f"no answer within {self.timeout:g} s", backend=self.name) from error
        except Exception as error:  # drivers raise all sorts of things over what a broken server sends
            raise self._translated(error) from error
        finally:
            connection.left()

    async def _change(self, name: str, verb: Callable[[C, *Ts], Awaitable[T]], *args: *Ts) -> T:
        if self._closed:
            raise BackendClosed("used after aclose()", backend=self.name)
        try:
            return await self._loops.here().turns.run(name, lambda: self._call(verb, *args), self.timeout)
        except TimeoutError as error:
            reason = f"an earlier change of this entry has not ended within {self.timeout:g} s"
            raise BackendTimeout(reason, backend=self.name) from error

    def _remove_behind(self, name: str, version: str) -> None:
        if version and not self._closed:
            self._loops.here().turns.run_behind(name, lambda: self._run(self._remove, name, version))


class Turns:
    """The changes under way on one event loop: one at a time for each name, in the order in which they came.

    A request that was sent cannot be taken back: the store may carry it out although nobody waits for the answer.
    So each change is a task of its own, which its caller's cancellation does not reach. When a caller is cancelled

    1. before its turn: the change is withdrawn; nothing has been sent, and nothing will be;
    2. while its change is under way: the caller returns at once, and the change goes on to its end. What the
       caller does next with that name waits for this end, so it is done later, and stays done;
    3. and the change ends by its timeout: the connection is cut. A store that has the whole request, and has not
       answered it for so long, may still carry it out after the next change. Nothing on this side can prevent that.

    Reads wait for nobody: beside a change under way they see the object before it or after it. Changes on other
    loops, and in other processes, are in the order in which the store carries them out.
    """

    def __init__(self) -> None:
        # A lock lives as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, name: str, change: Callable[[], Coroutine[Any, Any, T]], patience: float) -> T:
        """The change's result, when its turn has come and it is done. TimeoutError: the turn has not come in time.

        change: called when the turn has come. What it raises then is raised, and nothing is changed.
        """
        lock = self._lock(name)
        async with asyncio.timeout(patience):
            await lock.acquire()
        # From here to the task's callback there is no await: the lock is released whatever happens.
        try:
            task = self._start(change())
        except BaseException:
            lock.release()
            raise
        task.add_done_callback(lambda _: lock.release())
        await asyncio.wait((task,))
        return task.result()

    def run_behind(self, name: str, change: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Make a change that nobody waits for, unless another one of that name is under way."""
        lock = self._lock(name)
        if not lock.locked():
            self._start(self._if_free(lock, change))

    async def settle(self) -> None:
        """Return when all that are under way now have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    def _start(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone: then nobody else takes note of it

    @staticmethod
    async def _if_free(lock: asyncio.Lock, change: Callable[[], Coroutine[Any, Any, object]]) -> None:
        if lock.locked():
            return
        async with lock:
            try:
                await change()
            except BackendError as error:
                logger.debug("not removed: %s", error)  # whoever reads it next will try again


class _Connection(Generic[C]):
    """An open client, and how many calls use it.

    It is opened by a task of its own: a caller who is cancelled meanwhile takes it from nobody else.
    """

    def __init__(self, context: AbstractAsyncContextManager[C], timeout: float) -> None:
        self.client: C | None = None
        self.users = 0
        self._context = context
        self._timeout = timeout
        self._unused: asyncio.Future[None] | None = None
        self._opening = asyncio.get_running_loop().create_task(self._open())
        self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def failed(self) -> bool:
        return self.client is None and self._opening.done()

    async def opened(self) -> C:
        return await asyncio.shield(self._opening)

    async def _open(self) -> C:
        async with asyncio.timeout(self._timeout):
            self.client = await self._context.__aenter__()
            return self.client

    def left(self) -> None:
        self.users -= 1
        if not self.users and self._unused is not None and not self._unused.done():
            self._unused.set_result(None)

    async def close(self) -> None:
        """Wait for those who use it, and close it. Raises nothing."""
        await asyncio.wait((self._opening,))
        while self.users:
            self._unused = asyncio.get_running_loop().create_future()
            await self._unused
        if self.client is not None:
            with contextlib.suppress(Exception):  # it is given up in any case, and nothing is lost with it
                await self._context.__aexit__(None, None, None)


class _Here(Generic[C]):
    """What a backend has on one event loop: the changes under way, and at most one open client."""

    def __init__(self, connect: Callable[[], _Connection[C]]) -> None:
        self.turns = Turns()
        self._connect = connect
        self._connection: _Connection[C] | None = None

    def connection(self) -> _Connection[C]:
        connection = self._connection
        if connection is None or connection.failed:
            connection = self._connection = self._connect()
        return connection

    async def leave(self) -> None:
        await self.turns.settle()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


# Options.


def _normal(path: str) -> str:
    """The path with one slash at its end, and none before it; "" stays."""
    if not isinstance(path, str):
        raise ConfigError(f"path must be text such as 'cache/', not {type(path).__name__}")
    path = path.strip("/")
    if not path:
        return ""
    # HTTP libraries resolve "." and "..", and the stores do not agree on empty parts.
    if _FORBIDDEN.search(path) or {"", ".", ".."} & set(path.split("/")):
        raise ConfigError(f"path {path!r}: no control characters, no backslash, and no part that is empty, '.' or '..'")
    path += "/"
    if len(path.encode()) > _LONGEST:
        raise ConfigError(f"path must have {_LONGEST} bytes or fewer, not {len(path.encode())}")
    return path


def seconds(option: str, value: float) -> float:
    """The value of an option that is a time span. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{option} must be a number of seconds above 0, not {value!r}")
    return float(value)


def count(option: str, value: int) -> int:
    """The value of an option that is a number of things. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{option} must be a whole number, 1 or more, not {value!r}")
    return value


def text(option: str, value: str) -> str:
    """The value of an option that is a name. Raises ConfigError, which does not repeat what was given."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{option} must be text that is not empty")
    return value


def word(code: object) -> str:
    """A server's word for an error, if it is one: other text of its may repeat a request, and so credentials."""
    return code if isinstance(code, str) and code.isascii() and code.isidentifier() and len(code) <= 64 else "an error"


def proxies_are_set() -> bool:
    """Whether the environment names a proxy. An aiohttp session that is to look for one also looks for ~/.netrc,
    in a thread and at every request, which costs more than the request itself."""
    return bool(getproxies())
