"""A backend of your own is one class with four methods: here, one that keeps entries in SQLite.

The test class below is all it takes to hold it to the law of a backend: `pytest examples/custom_backend.py`.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from asynccache import BackendClosed, BackendUnavailable, Cache, CacheKey, Entry, codec, status
from asynccache.testing import BackendContract, FakeUpstream

T = TypeVar("T")


class SQLiteBackend:
    """Entries in one SQLite file.

    All work is done, in order, by one thread: a caller that is cancelled does not wait for its work any
    more, but nobody else gets the connection in the middle of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "sqlite")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def get(self, key: CacheKey, /) -> Entry | None:
        row = await self._run(lambda db: db.execute("SELECT data FROM entries WHERE key = ?", (key.digest,)).fetchone())
        return None if row is None else codec.PLAIN.decode(key, row[0])

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        row = (key.digest, codec.PLAIN.encode(key, entry))
        await self._run(lambda db: db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", row))

    async def delete(self, key: CacheKey, /) -> bool:
        return await self._run(lambda db: db.execute("DELETE FROM entries WHERE key = ?", (key.digest,)).rowcount > 0)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise BackendClosed("used after aclose()", backend="sqlite")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
                self._connection.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, data BLOB)")
            return work(self._connection)
        except sqlite3.Error as error:
            raise BackendUnavailable(str(error), backend="sqlite") from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class TestSQLite(BackendContract):
    """The law of a backend, as the package's own backends are held to it."""

    durable = True
    shared = True

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], SQLiteBackend]:
        return lambda: SQLiteBackend(tmp_path / "cache.sqlite")


async def main() -> None:
    backend = SQLiteBackend(Path("cache.sqlite"))
    async with Cache(backend, ttl=3600) as cache:
        acompletion = cache.wrap(FakeUpstream())
        for _ in range(2):
            answer = await acompletion(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
            print(status(answer))
    await backend.aclose()  # a backend that was handed in is its owner's to close


if __name__ == "__main__":
    asyncio.run(main())
