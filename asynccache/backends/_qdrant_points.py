"""A Qdrant: a server by its URL, or qdrant-client's own local mode behind one thread."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asynccache.backends._objects import Turns, seconds
from asynccache.codec import Codec
from asynccache.errors import (
    BackendClosed,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    CorruptEntry,
    EntryTooLarge,
)
from asynccache.loops import PerLoop
from asynccache.model import CacheKey, Entry
from asynccache.protocols import Clock
from asynccache.semantic.indexes.qdrant import is_missing, make, point_id

try:
    from qdrant_client import AsyncQdrantClient, QdrantClient, models
    from qdrant_client.http.exceptions import UnexpectedResponse
except ImportError as error:
    raise ConfigError(f"the qdrant_semantic backend needs the extra asynccache[qdrant]: {error}") from error

NAME = "qdrant_semantic"

_AT_ONCE = 8  # calls of one event loop: of each the client computes for half a millisecond, in one piece
_SWEEP = 60.0  # seconds between two sweeps of what has expired


class Points:
    """Calls the methods of a Qdrant client, whichever it is.

    url, api_key: of a server. Each event loop has a client of its own.
    path:    without a url: a folder for the local mode, or ":memory:". That is a single-threaded imitation in Python:
             it runs in one thread here, one call after another.
    timeout: seconds that a call may take.
    """

    def __init__(self, *, url: str | None, api_key: str | None, path: str | None, timeout: float) -> None:
        if (url is None) == (path is None):
            raise ConfigError("give a url, or a path for the local mode (':memory:'), and not both")
        if path is not None and api_key is not None:
            raise ConfigError("api_key says nothing to the local mode")
        self.where = url or path
        self.local = path is not None
        self.timeout = seconds("timeout", timeout)
        self._url = url
        self._key = api_key
        self._path = path
        self._clients = PerLoop(lambda: _Client(self._connect()), _Client.close)
        self._thread: ThreadPoolExecutor | None = None
        self._local: Any = None
        self._closed = False

    async def call(self, verb: str, **arguments: Any) -> Any:
        """What the client's method of this name returns. Raises BackendError, with the driver's as its cause."""
        if self._closed:
            raise BackendClosed("used after aclose()", backend=NAME)
        try:
            async with asyncio.timeout(self.timeout):
                if self._path is None:
                    return await self._clients.here().call(verb, arguments)
                return await self._in_thread(lambda: getattr(self._locally(), verb)(**arguments))
        except TimeoutError as error:
            raise BackendTimeout(f"no answer within {self.timeout:g} s", backend=NAME) from error
        except BackendError:
            raise
        except Exception as error:  # drivers raise all sorts of things over what a broken server sends
            raise BackendUnavailable(_said(error), backend=NAME) from error

    async def leave(self) -> None:
        await self._clients.leave()

    async def aclose(self) -> None:
        """Close what was opened here. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        await self._clients.aclose()
        if self._thread is not None:
            thread = self._thread
            thread.submit(self._close_local)
            await asyncio.to_thread(thread.shutdown)

    def _connect(self) -> Any:
        make: Any = AsyncQdrantClient
        # It would ask for the server's version as it is made, and warn of what it does not find.
        return make(url=self._url, api_key=self._key, timeout=self.timeout, check_compatibility=False)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="asynccache-qdrant")
        # Shielded: what is under way cannot be taken back, and what comes after it waits for the same thread.
        waiting = asyncio.wrap_future(self._thread.submit(function))
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(waiting)

    def _locally(self) -> Any:
        if self._local is None:
            self._local = (
                QdrantClient(location=":memory:") if self._path == ":memory:" else QdrantClient(path=self._path)
            )
        return self._local

    def _close_local(self) -> None:
        if self._local is not None:
            self._local.close()


class _Client:
    """A client of one event loop, and how many calls use it: one that is closed beneath a call that just connects
    leaves the connection open."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._users = 0
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._unused = asyncio.Event()
        self._unused.set()

    async def call(self, verb: str, arguments: dict[str, Any]) -> Any:
        self._users += 1
        self._unused.clear()
        try:
            async with self._room:
                return await getattr(self._client, verb)(**arguments)
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def close(self) -> None:
        """Wait for the calls under way, each of which has its own deadline."""
        await self._unused.wait()
        try:
            await self._client.close()
        except Exception:  # whatever is wrong with a client that is being closed is of no interest any more
            pass


def _said(error: Exception) -> str:
    if isinstance(error, UnexpectedResponse):
        return f"the server answered {error.status_code}: {error.content[:200].decode('utf-8', 'replace')}"
    return str(error) or type(error).__name__


class QdrantAnswers:
    """Keeps entries in a collection of their own, without vectors to speak of: exact look-ups by the point's id.

    The bytes of an entry are base64 in the payload, since that has to be JSON.
    """

    def __init__(self, points: Points, collection: str, *, max_entry_bytes: int, codec: Codec, clock: Clock) -> None:
        self._points = points
        self._collection = collection
        self._max = max_entry_bytes
        self._codec = codec
        self._clock = clock
        self._made = False
        self._swept = clock()
        self._turns = PerLoop(Turns, Turns.settle)

    def __repr__(self) -> str:
        return f"QdrantAnswers({self._points.where!r}, {self._collection!r})"

    async def get(self, key: CacheKey, /) -> Entry | None:
        wanted = {"ids": [point_id(key.digest)], "with_payload": True, "with_vectors": False}
        try:
            found = await self._points.call("retrieve", collection_name=self._collection, **wanted)
        except BackendUnavailable as error:
            if not is_missing(error.__cause__):
                raise
            self._made = False
            return None
        if not found:
            return None
        try:
            data = base64.b64decode(found[0].payload["entry"], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptEntry("a point that is no entry", backend=NAME) from error
        try:
            return self._codec.decode(key, data)
        except CorruptEntry as error:
            raise type(error)(str(error), backend=NAME) from error

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        data = self._codec.encode(key, entry)
        if len(data) > self._max:
            raise EntryTooLarge(f"an entry of {len(data)} bytes where max_entry_bytes is {self._max}", backend=NAME)
        payload = {"entry": base64.b64encode(data).decode(), "expires": entry.expires}
        await self._in_turn(key.digest, lambda: self._put(key.digest, payload))

    async def delete(self, key: CacheKey, /) -> bool:
        found: bool = await self._in_turn(key.digest, lambda: self._delete(key.digest))
        return found

    async def ping(self) -> None:
        await self._points.call("get_collections")

    async def leave(self) -> None:
        await self._turns.leave()
        await self._points.leave()

    async def aclose(self) -> None:
        await self._turns.aclose()
        await self._points.aclose()

    async def _in_turn(self, digest: str, change: Callable[[], Any]) -> Any:
        try:
            return await self._turns.here().run(digest, change, self._points.timeout)
        except TimeoutError as error:
            reason = f"an earlier change of this entry has not ended within {self._points.timeout:g} s"
            raise BackendTimeout(reason, backend=NAME) from error

    async def _put(self, digest: str, payload: dict[str, Any]) -> None:
        await self._make()
        point = models.PointStruct(id=point_id(digest), vector=[1.0], payload=payload)
        try:
            await self._points.call("upsert", collection_name=self._collection, points=[point], wait=True)
        except BackendUnavailable as error:
            if is_missing(error.__cause__):
                self._made = False  # the server has forgotten it: the next one makes it again
            raise
        if self._clock() - self._swept >= _SWEEP:
            await self._sweep()

    async def _delete(self, digest: str) -> bool:
        ids: list[Any] = [point_id(digest)]
        wanted = {"collection_name": self._collection, "ids": ids, "with_payload": False}
        try:
            there = bool(await self._points.call("retrieve", **wanted))
            if there:
                selector = models.PointIdsList(points=ids)
                await self._points.call("delete", collection_name=self._collection, points_selector=selector, wait=True)
        except BackendUnavailable as error:
            if not is_missing(error.__cause__):
                raise
            return False
        return there

    async def _make(self) -> None:
        if not self._made:
            vectors = models.VectorParams(size=1, distance=models.Distance.DOT)
            await make(self._points, self._collection, vectors, {"expires": models.PayloadSchemaType.FLOAT})
            self._made = True

    async def _sweep(self) -> None:
        """Take away what has expired."""
        self._swept = self._clock()
        over = models.FieldCondition(key="expires", range=models.Range(lte=self._swept))
        selector = models.FilterSelector(filter=models.Filter(must=[over]))
        await self._points.call("delete", collection_name=self._collection, points_selector=selector)
