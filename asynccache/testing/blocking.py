"""Finds calls that block the event loop, without measuring time.

The interpreter tells a thread's profile function of every C function that the thread's Python code
calls. Whoever reads a file or sleeps on the event loop's thread holds up everybody, however short it
was this time, so it is enough to see which functions are called there.
"""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_FILE_SYSTEM = """access chmod chown fsync ftruncate link listdir lstat mkdir open pread pwrite read readlink remove
rename replace rmdir scandir sendfile stat statvfs symlink truncate unlink utime write"""
_FUNCTIONS = {
    "time.sleep",
    "_io.open",
    "io.open",
    "fcntl.flock",
    "fcntl.lockf",
    "_socket.getaddrinfo",
    "_socket.gethostbyaddr",
    "_socket.gethostbyname",
    "_sqlite3.connect",
    "sqlite3.connect",
    *(f"posix.{name}" for name in _FILE_SYSTEM.split()),
    *(f"nt.{name}" for name in _FILE_SYSTEM.split()),
}
_READS_AND_WRITES = {"read", "read1", "readall", "readinto", "readline", "readlines", "write", "flush", "truncate"}
_TALKS = {"accept", "connect", "recv", "recv_into", "recvfrom", "send", "sendall", "sendto"}
_QUERIES = {"commit", "execute", "executemany", "executescript", "fetchall", "fetchmany", "fetchone", "rollback"}


@contextmanager
def blocking_calls() -> Iterator[list[str]]:
    """A list that fills with the blocking calls that this thread makes inside the block.

    Seen are: files and folders, sleeping, name look-ups, sockets that wait, SQLite. Loading a module
    does not count. Not seen is what a C extension does by itself.
    """
    seen: list[str] = []

    def profile(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and _blocks(function) and not _loads_a_module(frame):
            seen.append(f"{_name(function)} in {frame.f_code.co_filename}:{frame.f_lineno}")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(before)


def _blocks(function: Any) -> bool:
    name = getattr(function, "__name__", "")
    match getattr(function, "__self__", None):
        case socket.SocketType() as talker:
            return name in _TALKS and talker.gettimeout() != 0
        case io.FileIO() | io.BufferedReader() | io.BufferedWriter() | io.BufferedRandom():
            return name in _READS_AND_WRITES
        case os.DirEntry():
            return name == "stat"
        case owner if type(owner).__module__ == "sqlite3":
            return name in _QUERIES
    return _name(function) in _FUNCTIONS


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"


def _loads_a_module(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
