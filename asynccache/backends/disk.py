"""Entries as files in a folder that several processes may share.

One file per entry, `path/ab/abcdef…`, named by the key's digest. A file is written under another
name and renamed, so whoever opens it finds the old entry or the new one, whole; nothing is locked.

What reclaiming needs to know of an entry stands in the file's two times, so that a walk opens nothing:

    access time        when the entry expires
    modification time  when it was last used, within a minute; far in the future for an epoch

They are hints that set the order. Before an entry goes because of them its content is asked, so a
folder that was copied without its times loses nothing it should have kept.
"""

# Each of these is one system call; a Path object would cost as much as the call.
# ruff: noqa: PTH100, PTH103, PTH105, PTH108, PTH111, PTH120, PTH123

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from itertools import islice
from typing import Any, BinaryIO, TypeVar, TypeVarTuple

import aiofiles.os

from asynccache.backends import _files
from asynccache.backends._threads import Threads
from asynccache.codec import PLAIN, Codec, Life
from asynccache.errors import BackendClosed, BackendUnavailable, ConfigError, CorruptEntry, EntryTooLarge, ForeignEntry
from asynccache.model import CacheKey, Entry
from asynccache.protocols import Clock, Size

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NAME = "disk"
logger = logging.getLogger("asynccache")

_SHARE = 16  # the folder is walked after every max_bytes / 16 that this handle has written
_TOUCH = 60.0  # seconds: a hit notes its time in the file at most this often
_FOLDERS = 16  # subfolders that one thread hop lists
_BATCH = 64  # files that one thread hop removes

_SHARD = re.compile("[0-9a-f]{2}")


class DiskBackend:
    """Keeps entries in a folder; they outlive the process, and every process on the folder sees them.

    path:      the folder, made when first written to, then open to its owner alone; files and
               subfolders follow the umask.
    max_bytes: bytes all entries may take together, each counted in whole blocks of 4 KiB.
    codec:     writes and reads the files.
    clock:     tells which entries have expired and which were used last.

    Raises ConfigError for an option that makes no sense.

    Files in the way. A file under an entry's name that is not that entry, whole, is removed, and
    CorruptEntry raised. Files with other names are left alone and not counted.

    Space. It is reclaimed in the background, after every sixteenth of `max_bytes` that this handle
    has written, and first after its first `set`: unfinished files of killed processes, then expired
    entries, then, when the folder is over 15/16 of `max_bytes`, the least recently used until it is
    under 14/16. While writing outruns reclaiming, `set` waits for it. So the folder may be over its
    bound by a sixteenth, an eighth for each other process that writes, and the writes in flight.
    Entries of kind "epoch" go only when nothing else is left.

    Crashes. `kill -9` loses the writes in flight and nothing else. Entries are not synced: after a
    power loss one may be torn, which is a miss, or an old one may be back. Epochs are synced, so an
    invalidation that has returned holds.

    Each call is one hop to a thread. May be used from several event loops, one after another or at
    once, and after a fork.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = ".asynccache",
        *,
        max_bytes: int = 1024 * 1024 * 1024,
        codec: Codec = PLAIN,
        clock: Clock = time.time,
    ) -> None:
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < _files.BLOCK:
            raise ConfigError(f"max_bytes must be a whole number of bytes, {_files.BLOCK} or more, not {max_bytes!r}")
        # Made absolute now, so that the folder stays the same when the process changes its own.
        self.path = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self.max_bytes = max_bytes
        self._codec = codec
        self._clock = clock
        self._closed = False
        self._threads = Threads(NAME)
        self._placing = threading.Lock()  # held while a file takes its place, and between look and removal
        self._reclaimer: asyncio.Task[None] | None = None
        self._unwalked = max_bytes  # written since the last walk: as good as anything before the first

    def __repr__(self) -> str:
        return f"DiskBackend({self.path!r}, max_bytes={self.max_bytes})"

    async def get(self, key: CacheKey, /) -> Entry | None:
        """The entry under this key, expired or not; None when there is none.

        Raises CorruptEntry, and removes the file, when it is not a whole entry of this key;
        BackendUnavailable when the folder cannot be read; BackendClosed.
        """
        return await self._hop(self._read, key)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        """Keep the entry in the place of any other.

        Raises EntryTooLarge, and keeps what was there, when it alone is over `max_bytes`;
        BackendUnavailable when the folder cannot be written (full, forbidden, not a folder); BackendClosed.
        """
        self._unwalked += _files.cost_of(len(entry.body) + 1)  # now, since a cancelled caller may have written
        await self._change(self._write, key, entry)
        if self._unwalked >= self.max_bytes // _SHARE:
            self._start_reclaiming()
        if self._unwalked >= self.max_bytes // _SHARE:
            # As much again was written while one reclaiming is under way: it would never catch up.
            await self._reclaimed()

    async def delete(self, key: CacheKey, /) -> bool:
        """Take the entry away. True when there was a file. Raises BackendUnavailable, BackendClosed."""
        return await self._change(self._unlink, key)

    async def ping(self) -> None:
        """Write, read and remove a small file. Raises BackendUnavailable when that fails; BackendClosed."""
        await self._hop(self._try_out)

    async def size(self) -> Size:
        """The entries in the folder, epochs and expired ones among them, and the bytes they take.

        Walks the folder: a few microseconds per entry. Raises BackendUnavailable, BackendClosed.
        """
        self._check_open()
        try:
            sizes = [await _files.count(folders) async for folders in self._folders()]
        except OSError as error:
            raise self._unavailable(error) from error
        return Size(sum(size.entries for size in sizes), sum(size.bytes for size in sizes))

    async def aclose(self) -> None:
        """Wait for the calls under way, stop reclaiming, end the threads. Closing twice is fine."""
        self._closed = True
        self._notice_fork()
        await self._stop_reclaiming()
        await self._threads.aclose()

    # Calls: from the event loop to a thread and back.

    def _check_open(self) -> None:
        if self._closed:
            raise BackendClosed("used after aclose()", backend=NAME)

    def _hop(self, function: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        self._check_open()
        self._notice_fork()
        return self._threads.submit(self._translated, function, args)

    def _notice_fork(self) -> None:
        """A fork copies neither the threads nor the task's loop, and locks as they happen to be."""
        if self._threads.pid != os.getpid():
            self._threads = Threads(NAME)
            self._placing = threading.Lock()
            self._reclaimer = None

    def _translated(self, function: Callable[[*Ts], T], args: tuple[*Ts]) -> T:
        try:
            return function(*args)
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> BackendUnavailable:
        return BackendUnavailable(f"folder {self.path}: {error.strerror or error}", backend=NAME)

    async def _change(self, function: Callable[[_Commit, *Ts], T], *args: *Ts) -> T:
        """A hop that changes a file in its last step. When the caller is cancelled,

        1. before that step: the step is never taken. Else it could be taken at any time later, and
           undo what the caller does next;
        2. in that step or after it: it is waited for, which is as long as one rename takes.
        """
        commit = _Commit()
        future = self._hop(function, commit, *args)
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            if commit.take():
                future.cancel()
            await _settle(future)
            raise
        return future.result()

    # Files: what the threads do.

    def _file(self, key: CacheKey) -> tuple[str, CacheKey]:
        """The path of an entry, and the key to write it with: what is no digest is not fit to be a name."""
        name = key.digest
        if not _files.DIGEST.fullmatch(name):
            name = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
            key = CacheKey(name, source=key.source)
        return f"{self.path}/{name[:2]}/{name}", key

    def _read(self, key: CacheKey) -> Entry | None:
        path, key = self._file(key)
        try:
            file = _files.open_to_read(path)
        except FileNotFoundError:
            return None
        try:
            facts = os.fstat(file)
            try:
                entry = self._codec.decode(key, _files.content_of(file, facts, self.max_bytes))
            except ForeignEntry as error:
                raise ForeignEntry(f"{error}: {path}", backend=NAME) from error
            except CorruptEntry as error:
                _files.discard(path, facts, self._placing)
                raise CorruptEntry(f"{error}: {path} removed", backend=NAME) from error
            now = self._clock()
            if entry.kind != "epoch" and abs(now - facts.st_mtime) >= _TOUCH:
                # It may be another user's file, or a read-only disk: then it only looks less useful.
                with contextlib.suppress(OSError):
                    _files.stamp(file, Life.of(entry), now)
            return entry
        finally:
            os.close(file)

    def _write(self, commit: _Commit, key: CacheKey, entry: Entry) -> None:
        path, key = self._file(key)
        data = self._codec.encode(key, entry)
        cost = _files.cost_of(len(data))
        if cost > self.max_bytes:
            raise EntryTooLarge(f"an entry of {cost} bytes where max_bytes is {self.max_bytes}", backend=NAME)
        unfinished = f"{path}.{_files.unfinished_name()}"
        try:
            self._write_unfinished(unfinished, data, entry)
            if not commit.take():
                os.unlink(unfinished)
                return
            with self._placing:
                os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            raise
        if entry.kind == "epoch":
            _files.sync_folder(os.path.dirname(path))

    def _write_unfinished(self, path: str, data: bytes, entry: Entry) -> None:
        with self._create(path) as file:
            file.write(data)
            file.flush()
            _files.stamp(file.fileno(), Life.of(entry), self._clock())
            if entry.kind == "epoch":
                os.fsync(file.fileno())

    def _create(self, path: str) -> BinaryIO:
        try:
            return open(path, "xb")
        except FileNotFoundError:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return open(path, "xb")

    def _unlink(self, commit: _Commit, key: CacheKey) -> bool:
        path, _ = self._file(key)
        try:
            if commit.take():
                os.unlink(path)
                return True
        except FileNotFoundError:
            pass
        return False

    def _try_out(self) -> None:
        path = f"{self.path}/00/{_files.unfinished_name()}"
        try:
            with self._create(path) as file:
                file.write(b"ping")
            with open(path, "rb") as file:
                if file.read() != b"ping":
                    raise OSError("does not give back what was written")
        finally:
            with contextlib.suppress(OSError):  # what failed first is what counts
                os.unlink(path)

    # Reclaiming: in the background, by a task of its own.

    def _start_reclaiming(self) -> None:
        running = self._reclaimer
        if self._closed or (running is not None and not running.done() and not running.get_loop().is_closed()):
            return
        self._unwalked = 0
        self._reclaimer = asyncio.get_running_loop().create_task(self._reclaim(), name="asynccache-disk-reclaim")

    async def _reclaimed(self) -> None:
        """Wait until the reclaiming that is under way, if any, has ended."""
        task = self._reclaimer
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            await asyncio.wait((task,))

    async def _stop_reclaiming(self) -> None:
        task = self._reclaimer
        if task is None or task.done() or task.get_loop().is_closed():
            return
        if task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait((task,))
        else:
            task.get_loop().call_soon_threadsafe(task.cancel)

    async def _reclaim(self) -> None:
        """Bring the folder back to its bounds.

        Two processes may do this at once. Both go through the same files in the same order, and what
        one finds gone it counts as freed, so together they remove what each would have alone.
        """
        try:
            await self._sweep(self._clock())
        except OSError as error:
            logger.warning("%s", self._unavailable(error))

    async def _sweep(self, now: float) -> None:
        shards: list[_files.Shard] = []
        async for folders in self._folders():
            shards += await _files.scan(folders, now)
        await _files.remove([path for shard in shards for path in shard.abandoned])
        share = self.max_bytes // _SHARE
        total = sum(shard.cost for shard in shards)
        excess = total - (self.max_bytes - 2 * share) if total > self.max_bytes - share else 0
        # Merged step by step: sorting all at once would hold the interpreter, and so the loop, for long.
        worst_first = heapq.merge(*(shard.files for shard in shards))
        while batch := list(islice(worst_first, _BATCH)):
            excess -= await _files.evict(batch, excess, now, self._codec, self._placing)
            if excess <= 0 and batch[-1].live:
                return

    async def _folders(self) -> AsyncIterator[list[str]]:
        """The subfolders that hold entries, as many at a time as one thread hop should look at."""
        try:
            names = await aiofiles.os.listdir(self.path)
        except FileNotFoundError:
            return
        paths = iter([f"{self.path}/{name}" for name in names if _SHARD.fullmatch(name)])
        while some := list(islice(paths, _FOLDERS)):
            yield some


class _Commit:
    """The right to take the last step of a change. It can be had once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> bool:
        return self._lock.acquire(blocking=False)


async def _settle(future: asyncio.Future[Any]) -> None:
    """Wait for its end, however often the waiting is cancelled. What it raises is of no interest."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((future,))
    if not future.cancelled():
        future.exception()


BACKEND = DiskBackend
