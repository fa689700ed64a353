"""An entry's file: its name, its two times (see `disk`), its content; and folders full of them."""

# Each of these is one system call; a Path object would cost as much as the call.
# ruff: noqa: PTH108, PTH119

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import threading
from typing import NamedTuple

import aiofiles.os

from asynccache.codec import Codec, Life
from asynccache.errors import CorruptEntry
from asynccache.protocols import Size

logger = logging.getLogger("asynccache")

BLOCK = 4096  # file systems hand out space in such blocks, whatever the length of the file
_ABANDONED = 3600.0  # seconds after which an unfinished file has lost its writer
_NEVER = 2.0**33  # in the year 2242: no expiry, and more recently used than anything else

DIGEST = re.compile("[0-9a-f]{64}")
_UNFINISHED = re.compile(r"([0-9a-f]{64}\.)?[0-9a-f]{16}\.tmp")

# Reading must not move the access time, nor wait for the other end of a pipe that somebody put there.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_READ_UNSEEN = _READ | getattr(os, "O_NOATIME", 0)


class File(NamedTuple):
    """An entry's file as a walk saw it. Files sort by value, the least first: expired, then longest unused."""

    live: bool
    used: int
    path: str
    cost: int
    inode: int


class Shard(NamedTuple):
    """What one folder holds: the entries, least valuable first, their cost, and files without a writer."""

    files: list[File]
    cost: int
    abandoned: list[str]


def unfinished_name() -> str:
    return f"{os.urandom(8).hex()}.tmp"


def cost_of(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def open_to_read(path: str) -> int:
    try:
        return os.open(path, _READ_UNSEEN)
    except PermissionError:
        return os.open(path, _READ)  # only a file's owner may read it unseen


def content_of(file: int, facts: os.stat_result, limit: int) -> bytes:
    """All bytes of an open file. Raises CorruptEntry when it cannot be one that this backend wrote."""
    size = facts.st_size
    if not stat.S_ISREG(facts.st_mode) or size > limit:
        raise CorruptEntry("not a file of this cache")
    data = os.read(file, size)
    while len(data) < size and (more := os.read(file, size - len(data))):
        data += more  # one call reads 2 GiB at most
    return data


def stamp(file: int, life: Life, used: float) -> None:
    """Note in the file's times what reclaiming needs to know."""
    never = life.expires is None or not life.expires < _NEVER  # "not <" covers NaN
    expires = _NEVER if life.expires is None or never else max(0.0, life.expires)
    os.utime(file, ns=(_ns(expires), _ns(_NEVER if life.epoch else used)))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def discard(path: str, facts: os.stat_result, placing: threading.Lock) -> None:
    """Remove a file that was found to be bad, unless its place has been taken. `facts` are those of
    the open file, whose inode number cannot be used again while it is open. This handle puts no file
    anywhere meanwhile: it holds `placing` for that. At the time of the look,

    1. the path names the bad file: it goes;
    2. another process has put a good file there: it stays;
    3. the path is gone: fine.

    A good file that another process puts there between the look and the removal is lost. That is a
    miss, and never a wrong answer; moving the file away first, and back if it was good, could undo a
    `delete` instead.
    """
    with placing, contextlib.suppress(OSError):  # what cannot be removed stays a miss
        if os.lstat(path).st_ino == facts.st_ino:
            os.unlink(path)


@aiofiles.os.wrap
def scan(folders: list[str], now: float) -> list[Shard]:
    return [_shard(folder, now) for folder in folders]


@aiofiles.os.wrap
def count(folders: list[str]) -> Size:
    shards = [_shard(folder, 0.0) for folder in folders]
    return Size(sum(len(shard.files) for shard in shards), sum(shard.cost for shard in shards))


def _shard(folder: str, now: float) -> Shard:
    files: list[File] = []
    abandoned: list[str] = []
    try:
        found = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return Shard([], 0, [])
    with found:
        for item in found:
            try:
                facts = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(facts.st_mode):
                continue
            if DIGEST.fullmatch(item.name):
                live = facts.st_atime > now
                files.append(File(live, facts.st_mtime_ns, item.path, cost_of(facts.st_size), facts.st_ino))
            elif _UNFINISHED.fullmatch(item.name) and now - facts.st_ctime > _ABANDONED:
                abandoned.append(item.path)
    files.sort()
    return Shard(files, sum(file.cost for file in files), abandoned)


@aiofiles.os.wrap
def remove(paths: list[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):  # gone already, or another user's: that is up to its process
            os.unlink(path)


@aiofiles.os.wrap
def evict(files: list[File], excess: int, now: float, codec: Codec, placing: threading.Lock) -> int:
    """Remove, in this order, the expired, and others until `excess` bytes are free. Returns the bytes freed.
    Between look and removal nothing may take a file's place: see `discard`."""
    freed = 0
    for file in files:
        if file.live and freed >= excess:
            break
        try:
            with placing:
                if _may_go(file, now, codec):
                    os.unlink(file.path)
                    freed += file.cost
        except FileNotFoundError:
            freed += file.cost  # another process did it
        except OSError as error:
            logger.debug("not reclaimed: %s", error)  # the next one will do
    return freed


def _may_go(file: File, now: float, codec: Codec) -> bool:
    """Whether the file is still what the walk saw. Where its times could be wrong and it would matter,
    its content is asked, and the times are put right."""
    opened = open_to_read(file.path)
    try:
        facts = os.fstat(opened)
        if (facts.st_ino, facts.st_mtime_ns) != (file.inode, file.used):
            return False  # replaced or used since
        if file.live and file.cost > BLOCK:
            return True  # longest unused, and too long for an epoch
        life = codec.life(os.path.basename(file.path), content_of(opened, facts, facts.st_size))
        expired = life.expires is not None and life.expires <= now
        hidden = life.epoch and file.used <= _ns(now)
        if (file.live or expired) and not hidden:
            return True
        with contextlib.suppress(OSError):
            stamp(opened, life, file.used / 1e9)
        return False
    except CorruptEntry:  # one of others', too: it takes space, and is the longest unused
        return True
    finally:
        os.close(opened)
