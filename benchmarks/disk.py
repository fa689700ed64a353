"""What the disk backend takes, beside two yardsticks on the same files in the same run.

    python -m benchmarks.disk [--json] [--seconds 1.0] [--folder FOLDER]

For each size and number of concurrent callers, every caller repeats one operation for so many
seconds on one of 1,000 entries in a fresh folder:

    disk        the backend: get, set and delete of whole entries, checked and bounded
    to_thread   a bare file: `asyncio.to_thread` around open, read, close (or write, rename)
    aiofiles    the same with aiofiles, which takes a thread hop for each of the three

p50 and p99 are of single calls, in microseconds. Lag is the most that a ticking task was held up, in
milliseconds; `idle` is its lag with nothing to do. Before each row every entry is used once. Before
each delete the entry is set: that is not in the delete's times, but in its calls per second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import aiofiles
import aiofiles.os
import orjson

from asynccache.backends.disk import DiskBackend
from asynccache.model import CacheKey, Entry

_CALLERS = (1, 64, 1000)
_SIZES = (2 * 1024, 64 * 1024)
_KEYS = [CacheKey(sha256(b"%d" % number).hexdigest()) for number in range(1000)]
_TICK = 0.001

Operation = Callable[[CacheKey], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Figure:
    """Times in microseconds, lag in milliseconds, throughput per second."""

    what: str
    size: int
    callers: int
    calls: int
    p50: float
    p99: float
    per_second: float
    lag: float


async def main(seconds: float, folder: str | None) -> list[Figure]:
    figures = [await _measure("idle", _idle, 0, 1, min(seconds, 0.5))]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for size in _SIZES:
            place = Path(name) / str(size)
            place.mkdir()
            backend = DiskBackend(place / "cache", max_bytes=8 * 1024**3)
            operations = _operations(backend, place, size)
            for what, operation in operations.items():
                before = operations["disk set"] if what == "disk delete" else None
                figures += [await _measure(what, operation, size, n, seconds, before) for n in _CALLERS]
            await backend.aclose()
    return figures


def _operations(backend: DiskBackend, place: Path, size: int) -> dict[str, Operation]:
    """What is measured, in this order: what is read was written before."""
    body = random.Random(size).randbytes(size)
    entry = Entry(body, "completion", time.time(), expires=time.time() + 3600)

    async def write(key: CacheKey) -> None:
        await backend.set(key, entry)

    return {
        "disk set": write,
        "disk get": backend.get,
        "disk delete": backend.delete,
        "to_thread write": lambda key: asyncio.to_thread(_write, place / key.digest, body),
        "to_thread read": lambda key: asyncio.to_thread(_read, place / key.digest),
        "aiofiles write": lambda key: _stream_in(place / key.digest, body),
        "aiofiles read": lambda key: _stream_out(place / key.digest),
    }


def _write(path: Path, body: bytes) -> None:
    unfinished = f"{path}.{os.urandom(8).hex()}.tmp"
    Path(unfinished).write_bytes(body)
    Path(unfinished).replace(path)


def _read(path: Path) -> bytes:
    return path.read_bytes()


async def _stream_in(path: Path, body: bytes) -> None:
    unfinished = f"{path}.{os.urandom(8).hex()}.tmp"
    async with aiofiles.open(unfinished, "wb") as file:
        await file.write(body)
    await aiofiles.os.replace(unfinished, path)


async def _stream_out(path: Path) -> bytes:
    async with aiofiles.open(path, "rb") as file:
        return await file.read()


async def _idle(_: CacheKey) -> None:
    await asyncio.sleep(0.01)


async def _measure(
    what: str, operation: Operation, size: int, callers: int, seconds: float, before: Operation | None = None
) -> Figure:
    for key in _KEYS if size else ():
        await operation(key)
    times: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds

    async def call(number: int) -> None:
        chance = random.Random(number)
        while time.perf_counter() < end:
            key = chance.choice(_KEYS)
            if before is not None:
                await before(key)
            start = time.perf_counter()
            await operation(key)
            times.append(time.perf_counter() - start)

    ticks = asyncio.create_task(_worst_tick(end))
    await asyncio.gather(*[call(number) for number in range(callers)])
    took = time.perf_counter() - begin
    lag = await ticks
    times.sort()
    middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
    return Figure(what, size, callers, len(times), middle * 1e6, late * 1e6, len(times) / took, lag * 1e3)


async def _worst_tick(end: float) -> float:
    """The most that a sleep of one millisecond took too long, in seconds."""
    worst = 0.0
    while (before := time.perf_counter()) < end:
        await asyncio.sleep(_TICK)
        worst = max(worst, time.perf_counter() - before - _TICK)
    return worst


def _conditions(folder: str) -> dict[str, str | int]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count() or 0,
        "file system": _file_system(folder),
    }


def _file_system(folder: str) -> str:
    """The type of the file system, where the system tells."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    place = Path(folder).resolve()
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    return max((len(point), kind) for point, kind in found if place.is_relative_to(point))[1]


def _print_table(conditions: dict[str, str | int], figures: list[Figure]) -> None:
    print(", ".join(f"{name}: {value}" for name, value in conditions.items()))
    print(f"\n{'':16} {'size':>6} {'callers':>7} {'p50 µs':>9} {'p99 µs':>9} {'calls/s':>9} {'lag ms':>7}")
    for row in figures:
        which = f"{row.what:16} {row.size:6} {row.callers:7}"
        print(f"{which} {row.p50:9.0f} {row.p99:9.0f} {row.per_second:9.0f} {row.lag:7.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks.disk", description="Measure the disk backend.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--folder", help="where to make the files; default: the system's place for temporary ones")
    options = parser.parse_args()
    conditions = _conditions(options.folder or tempfile.gettempdir())
    figures = asyncio.run(main(options.seconds, options.folder))
    if options.json:
        print(orjson.dumps({"conditions": conditions, "figures": [asdict(row) for row in figures]}).decode())
    else:
        _print_table(conditions, figures)
