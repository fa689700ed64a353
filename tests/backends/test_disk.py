from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import aiofiles.os
import pytest

from asynccache.backends import _files
from asynccache.backends.disk import DiskBackend
from asynccache.codec import PLAIN, Codec
from asynccache.errors import BackendUnavailable, ConfigError, CorruptEntry, EntryTooLarge, ForeignEntry
from asynccache.model import CacheKey, Entry
from asynccache.testing import BackendContract, FakeClock
from asynccache.testing.contract import key_of
from tests.backends.disk_writer import KEYS, is_whole

BLOCK = 4096
ROOT = Path(__file__).parents[2]


class TestContract(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], DiskBackend]:
        return lambda: DiskBackend(tmp_path / "a" / "cache")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def backend(tmp_path: Path, clock: FakeClock) -> AsyncIterator[DiskBackend]:
    """A backend that holds 32 blocks, and is walked after every second block that was written."""
    backend = DiskBackend(tmp_path, max_bytes=32 * BLOCK, clock=clock)
    yield backend
    await backend.aclose()


def file_of(backend: DiskBackend, key: CacheKey) -> Path:
    return Path(backend.path) / key.digest[:2] / key.digest


def paths_in(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in folder.rglob("*")]


def files(backend: DiskBackend) -> set[str]:
    return {path.name for path in Path(backend.path).rglob("*") if path.is_file()}


def entry(body: bytes = b"x", *, blocks: int = 1, expires: float | None = None) -> Entry:
    return Entry(body.ljust((blocks - 1) * BLOCK + 1, b"."), "completion", 1.0, expires=expires)


async def reclaimed(backend: DiskBackend) -> None:
    """Wait until the backend has done what it does in the background."""
    task = backend._reclaimer
    if task is not None:
        await task


async def kept(backend: DiskBackend, *names: str) -> set[str]:
    """Those of the keys that still have an entry, without reading any."""
    there = files(backend)
    return {name for name in names if key_of(name).digest in there}


# Files that are not what they should be.


async def torn(backend: DiskBackend, key: CacheKey) -> None:
    data = file_of(backend, key).read_bytes()
    file_of(backend, key).write_bytes(data[:-100] + bytes(100))


async def truncated(backend: DiskBackend, key: CacheKey) -> None:
    os.truncate(file_of(backend, key), 100)


async def emptied(backend: DiskBackend, key: CacheKey) -> None:
    os.truncate(file_of(backend, key), 0)


async def too_long(backend: DiskBackend, key: CacheKey) -> None:
    with file_of(backend, key).open("ab") as file:
        file.write(b"\0")


async def foreign(backend: DiskBackend, key: CacheKey) -> None:
    file_of(backend, key).write_text("shopping: milk, eggs\n" * 10)


async def other_version(backend: DiskBackend, key: CacheKey) -> None:
    data = file_of(backend, key).read_bytes()
    file_of(backend, key).write_bytes(b"ACE\xff" + data[4:])


async def other_keys(backend: DiskBackend, key: CacheKey) -> None:
    other = key_of("another")
    await backend.set(other, entry(b"secret of another"))
    file_of(backend, other).rename(file_of(backend, key))


async def enormous(backend: DiskBackend, key: CacheKey) -> None:
    os.truncate(file_of(backend, key), 2**40)


async def pipe(backend: DiskBackend, key: CacheKey) -> None:
    file_of(backend, key).unlink()
    os.mkfifo(file_of(backend, key))


@pytest.mark.parametrize("spoil", [torn, truncated, emptied, too_long, foreign, other_keys, enormous, pipe])
async def test_a_spoilt_file_is_reported_once_and_removed(
    backend: DiskBackend, spoil: Callable[[DiskBackend, CacheKey], Awaitable[None]]
) -> None:
    key = key_of("spoilt")
    await backend.set(key, entry(blocks=2))
    await reclaimed(backend)
    await spoil(backend, key)
    with pytest.raises(CorruptEntry) as caught:
        await backend.get(key)
    assert caught.value.backend == "disk"
    assert await backend.get(key) is None
    assert not file_of(backend, key).exists()
    await backend.set(key, entry(b"good"))
    assert await backend.get(key) == entry(b"good")


async def test_a_file_of_another_version_stays(backend: DiskBackend) -> None:
    """Processes of two versions share the folder: neither takes away what only the other can read."""
    key = key_of("theirs")
    await backend.set(key, entry(b"theirs"))
    await reclaimed(backend)
    await other_version(backend, key)
    for _ in range(2):
        with pytest.raises(ForeignEntry, match="another version"):
            await backend.get(key)


async def test_a_good_file_that_has_taken_the_place_of_a_torn_one_stays(
    backend: DiskBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes between our reading of the torn file and our removing of it."""
    key = key_of("raced")
    await backend.set(key, entry(b"old"))
    await truncated(backend, key)
    path = file_of(backend, key)

    def decode(key: CacheKey, data: bytes) -> Entry:
        assert len(data) == 100
        fresh = path.with_suffix(".new")
        fresh.write_bytes(PLAIN.encode(key, entry(b"good")))
        fresh.rename(path)
        raise CorruptEntry("torn")

    with monkeypatch.context() as patch:
        codec = Codec()
        patch.setattr(codec, "decode", decode)
        patch.setattr(backend, "_codec", codec)
        with pytest.raises(CorruptEntry):
            await backend.get(key)
    assert await backend.get(key) == entry(b"good")


@pytest.mark.parametrize("digest", ["", ".", "..", "../../x", "/etc/passwd", "a\0b", "A" * 64, "x" * 5000, "\ud800"])
async def test_a_digest_is_never_a_path(tmp_path: Path, digest: str) -> None:
    backend = DiskBackend(tmp_path / "cache")
    await backend.set(CacheKey(digest), entry(b"1"))
    await backend.set(CacheKey(digest + "x"), entry(b"2"))
    assert await backend.get(CacheKey(digest)) == entry(b"1")
    assert await backend.delete(CacheKey(digest))
    await backend.aclose()
    assert all(path.parts[0] == "cache" for path in paths_in(tmp_path))
    assert all(len(name) == 64 for name in files(backend))


# Where the folder cannot be used.


async def test_a_path_that_is_a_file_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("hello")
    for path in (tmp_path / "cache", tmp_path / "cache" / "below"):
        backend = DiskBackend(path)
        for call in (
            backend.get(key_of("a")),
            backend.set(key_of("a"), entry()),
            backend.delete(key_of("a")),
            backend.ping(),
            backend.size(),
        ):
            with pytest.raises(BackendUnavailable, match=rf"disk: folder {path}: (Not a directory|File exists)"):
                await call
        await backend.aclose()
    assert (tmp_path / "cache").read_text() == "hello"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc on this system")
async def test_a_folder_that_cannot_be_written_is_said_to_be() -> None:
    """Not even root may make files here."""
    backend = DiskBackend("/proc/asynccache")
    with pytest.raises(BackendUnavailable, match="folder /proc/asynccache: "):
        await backend.set(key_of("a"), entry())
    with pytest.raises(BackendUnavailable, match="folder /proc/asynccache: "):
        await backend.ping()
    assert await backend.get(key_of("a")) is None
    assert (await backend.size()).entries == 0
    await backend.aclose()


async def test_a_full_disk_leaves_the_old_entry_and_no_rubbish(
    backend: DiskBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.set(key_of("a"), entry(b"old"))
    before = files(backend)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", full)
        with pytest.raises(BackendUnavailable, match="No space left on device") as caught:
            await backend.set(key_of("a"), entry(b"new"))
    assert isinstance(caught.value.__cause__, OSError)
    assert await backend.get(key_of("a")) == entry(b"old")
    assert files(backend) == before


async def test_an_entry_over_the_bound_is_refused_and_the_old_one_stays(backend: DiskBackend) -> None:
    await backend.set(key_of("a"), entry(b"old"))
    with pytest.raises(EntryTooLarge):
        await backend.set(key_of("a"), entry(blocks=33))
    assert await backend.get(key_of("a")) == entry(b"old")


@pytest.mark.parametrize("max_bytes", [0, -1, 4095, True, 1e9, "1GiB", None])
def test_a_bound_that_makes_no_sense_is_refused(max_bytes: object) -> None:
    with pytest.raises(ConfigError, match="max_bytes"):
        DiskBackend(max_bytes=max_bytes)  # type: ignore[arg-type]


def test_paths_are_understood_when_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    backend = DiskBackend("cache")
    monkeypatch.chdir("/")
    assert backend.path == str(tmp_path / "cache")
    assert DiskBackend("~/cache").path == str(tmp_path / "cache")
    assert not any(tmp_path.iterdir())


async def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    backend = DiskBackend(tmp_path / "cache")
    await backend.set(key_of("a"), entry())
    await reclaimed(backend)
    (tmp_path / "cache").rename(tmp_path / "away")
    assert await backend.get(key_of("a")) is None
    await backend.set(key_of("a"), entry())
    assert await backend.get(key_of("a")) == entry()
    await backend.aclose()


async def test_only_the_owner_may_look_into_a_folder_that_was_made(tmp_path: Path) -> None:
    backend = DiskBackend(tmp_path / "cache")
    await backend.set(key_of("a"), entry())
    await backend.aclose()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


# Reclaiming.


async def test_the_folder_stays_within_its_bound(backend: DiskBackend) -> None:
    for number in range(200):
        await backend.set(key_of(str(number)), entry(blocks=1 + number % 3))
        await reclaimed(backend)
        assert (await backend.size()).bytes <= backend.max_bytes
    assert (await backend.size()).bytes > backend.max_bytes // 2


async def test_writers_wait_when_they_outrun_the_reclaiming(backend: DiskBackend) -> None:
    async def write(writer: int) -> None:
        for number in range(25):
            await backend.set(key_of(f"{writer} {number}"), entry())
            assert len(files(backend)) <= 32 + 4 + 8, "bound, two more sixteenths, and the other writers"

    await asyncio.gather(*[write(writer) for writer in range(8)])


async def test_what_was_used_longest_ago_goes_first(backend: DiskBackend, clock: FakeClock) -> None:
    names = [f"{number:02}" for number in range(30)]
    for name in names:
        clock.advance(100)
        await backend.set(key_of(name), entry())
        await reclaimed(backend)
    for name in ("00", "03"):
        await backend.get(key_of(name))  # from now on the most recently used
    clock.advance(100)
    await backend.set(key_of("last"), entry())
    await backend.set(key_of("last"), entry())
    await reclaimed(backend)
    there = await kept(backend, *names)
    assert there == {"00", "03", *names[5:]}


async def test_a_hit_is_noted_once_a_minute(backend: DiskBackend, clock: FakeClock) -> None:
    await backend.set(key_of("a"), entry())
    written = clock()
    for advance, noted in ((59, written), (1, written + 60), (59, written + 60), (1, written + 120)):
        clock.advance(advance)
        await backend.get(key_of("a"))
        assert file_of(backend, key_of("a")).stat().st_mtime == noted


async def test_the_expired_go_first_and_even_when_there_is_room(backend: DiskBackend, clock: FakeClock) -> None:
    await backend.set(key_of("old"), entry(expires=clock() + 1000))
    await backend.set(key_of("short"), entry(expires=clock() + 10, blocks=3))
    await backend.set(key_of("long"), entry(expires=clock() + 1000, blocks=3))
    await backend.get(key_of("short"))
    await reclaimed(backend)
    clock.advance(11)
    await backend.set(key_of("new"), entry(blocks=2))
    await reclaimed(backend)
    assert await kept(backend, "old", "short", "long", "new") == {"old", "long", "new"}


async def test_an_entry_that_was_given_a_later_end_is_not_reclaimed(backend: DiskBackend, clock: FakeClock) -> None:
    await backend.set(key_of("a"), entry(expires=clock() + 10))
    await backend.set(key_of("a"), entry(expires=clock() + 1000))
    clock.advance(11)
    await backend.set(key_of("b"), entry(blocks=2))
    await reclaimed(backend)
    assert await kept(backend, "a") == {"a"}


def epoch(number: int) -> Entry:
    return Entry(b"%d" % number, "epoch", 1.0)


async def test_epochs_go_when_nothing_else_is_left(backend: DiskBackend, clock: FakeClock) -> None:
    epochs = [f"epoch {number}" for number in range(20)]
    for number, name in enumerate(epochs):
        await backend.set(key_of(name), epoch(number))
    for number in range(100):
        clock.advance(100)
        await backend.set(key_of(str(number)), entry(blocks=2))
        await reclaimed(backend)
    assert await kept(backend, *epochs) == set(epochs)
    assert await kept(backend, "99") == {"99"}
    for number in range(20, 60):
        await backend.set(key_of(f"epoch {number}"), epoch(number))
        await reclaimed(backend)
    assert (await backend.size()).bytes <= backend.max_bytes
    assert await kept(backend, "99") == set()


async def test_a_folder_copied_without_its_times_loses_nothing_it_should_keep(
    backend: DiskBackend, clock: FakeClock
) -> None:
    await backend.set(key_of("epoch"), epoch(7))
    await backend.set(key_of("never ends"), entry(blocks=2))
    await backend.set(key_of("ends later"), entry(expires=clock() + 100))
    await reclaimed(backend)
    for name in ("epoch", "never ends", "ends later"):
        os.utime(file_of(backend, key_of(name)), (clock() - 50, clock() - 50))
    await backend.set(key_of("new"), entry(blocks=2))
    await reclaimed(backend)
    assert await kept(backend, "epoch", "never ends", "ends later") == {"epoch", "never ends", "ends later"}
    for number in range(40):
        clock.advance(10)
        await backend.set(key_of(str(number)), entry(blocks=2))
        await reclaimed(backend)
    assert await kept(backend, "epoch", "never ends", "ends later") == {"epoch"}


async def test_unfinished_files_are_removed_when_they_are_old(tmp_path: Path) -> None:
    clock = FakeClock(time.time())
    backend = DiskBackend(tmp_path, clock=clock)
    await backend.set(key_of("a"), entry())
    await reclaimed(backend)
    path = file_of(backend, key_of("a"))
    leftovers = [path.with_name(f"{path.name}.0123456789abcdef.tmp"), path.with_name("0123456789abcdef.tmp")]
    strangers = [path.with_name("notes.tmp"), path.parent.parent / "README", path.with_name("x" * 64)]
    for file in (*leftovers, *strangers):
        file.write_bytes(b"half an ent")
    assert (await backend.size()).entries == 1
    for advance, left in ((3500, leftovers), (200, [])):
        clock.advance(advance)
        await backend.aclose()
        backend = DiskBackend(tmp_path, clock=clock)
        await backend.set(key_of("b"), entry())  # a new handle looks around after its first write
        await reclaimed(backend)
        assert [file for file in leftovers if file.exists()] == left
    assert all(file.exists() for file in strangers)
    assert await kept(backend, "a", "b") == {"a", "b"}
    await backend.aclose()


async def test_several_reclaimers_remove_no_more_than_one(tmp_path: Path, clock: FakeClock) -> None:
    roomy = DiskBackend(tmp_path, clock=clock)
    for number in range(100):
        clock.advance(1)
        await roomy.set(key_of(str(number)), entry())
    await roomy.aclose()
    handles = [DiskBackend(tmp_path, max_bytes=64 * BLOCK, clock=clock) for _ in range(4)]
    await asyncio.gather(*[handle.set(key_of("last"), entry()) for handle in handles])
    await asyncio.gather(*[reclaimed(handle) for handle in handles])
    assert (await handles[0].size()).entries == 64 * 14 // 16
    assert await kept(handles[0], "99", "last", "44") == {"99", "last"}
    for handle in handles:
        await handle.aclose()


async def test_what_is_used_or_replaced_meanwhile_is_not_reclaimed(
    backend: DiskBackend, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the walk that finds two entries the least valuable and the removing of them."""
    for name in ("used", "replaced", "neither"):
        await backend.set(key_of(name), entry(blocks=4))
        await reclaimed(backend)
        clock.advance(100)
    evict = _files.evict

    async def late(*args: object) -> int:
        await backend.get(key_of("used"))
        async with aclosing(DiskBackend(backend.path, clock=clock)) as other:
            await other.set(key_of("replaced"), entry(b"new", blocks=4))
        return await evict(*args)

    with monkeypatch.context() as patch:
        patch.setattr(_files, "evict", late)
        await backend.set(key_of("large"), entry(blocks=20))
        await reclaimed(backend)
    assert await kept(backend, "used", "replaced", "neither", "large") == {"used", "replaced", "large"}


async def test_closing_stops_the_reclaiming(backend: DiskBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: str) -> None:
        await asyncio.get_running_loop().create_future()

    with monkeypatch.context() as patch:
        patch.setattr(aiofiles.os, "listdir", never)
        await backend.set(key_of("a"), entry())
        task = backend._reclaimer
        assert task is not None
        await asyncio.sleep(0)
        await backend.aclose()
    assert task.cancelled()


async def test_a_write_that_ends_while_the_backend_is_closed_starts_nothing(backend: DiskBackend) -> None:
    write = asyncio.ensure_future(backend.set(key_of("a"), entry()))
    await asyncio.sleep(0)
    await backend.aclose()
    await write
    assert backend._reclaimer is None


async def test_a_reclaimer_that_fails_harms_nobody(
    backend: DiskBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(_: str) -> list[str]:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(aiofiles.os, "listdir", aiofiles.os.wrap(denied))
        await backend.set(key_of("a"), entry())
        await reclaimed(backend)
    assert "Permission denied" in caplog.text
    assert await backend.get(key_of("a")) == entry()


# Event loops, tasks, processes.


def test_one_backend_serves_one_loop_after_another(tmp_path: Path) -> None:
    backend = DiskBackend(tmp_path, max_bytes=16 * BLOCK)

    async def use(number: int) -> None:
        for size in range(40):
            await backend.set(key_of(f"{number} {size}"), entry())
        await backend.get(key_of(f"{number} 39"))

    for number in range(3):
        asyncio.run(use(number))

    async def end() -> None:
        await backend.set(key_of("a"), entry())
        await reclaimed(backend)
        assert (await backend.size()).bytes <= backend.max_bytes
        await backend.aclose()

    asyncio.run(end())


async def test_one_backend_serves_two_loops_at_once(backend: DiskBackend) -> None:
    async def use(name: str) -> None:
        for number in range(100):
            key = key_of(f"{name} {number}")
            await backend.set(key, entry(name.encode()))
            assert await backend.get(key) in (entry(name.encode()), None)

    await asyncio.gather(use("here"), asyncio.to_thread(asyncio.run, use("there")))


async def test_thousands_of_calls_at_once(backend: DiskBackend) -> None:
    await backend.set(key_of("a"), entry())
    assert await asyncio.gather(*[backend.get(key_of("a")) for _ in range(10_000)]) == [entry()] * 10_000


async def test_a_write_withdrawn_in_time_leaves_no_file(backend: DiskBackend) -> None:
    await backend.set(key_of("a"), entry(b"old"))
    await reclaimed(backend)
    task = asyncio.ensure_future(backend.set(key_of("a"), entry(b"new" * BLOCK)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    await backend.aclose()
    assert files(backend) == {key_of("a").digest}


SCRIPT = """
import asyncio, os, sys
from asynccache.backends.disk import DiskBackend
from asynccache.model import CacheKey, Entry

backend = DiskBackend(sys.argv[1])
entry = Entry(b"from another process", "completion", 1.0)

async def write(digit):
    await backend.set(CacheKey(digit * 64), entry)
    assert await backend.get(CacheKey("a" * 64)) == entry

asyncio.run(write("a"))
if os.fork() == 0:
    asyncio.run(write("b"))
    asyncio.run(backend.aclose())
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


async def test_another_process_and_its_fork_write_what_we_read(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRIPT, tmp_path), cwd=ROOT, start_new_session=True
    )
    try:
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    backend = DiskBackend(tmp_path)
    for digit in "ab":
        found = await backend.get(CacheKey(digit * 64))
        assert found is not None
        assert found.body == b"from another process"
    await backend.aclose()


@asynccontextmanager
async def writers(folder: Path) -> AsyncIterator[Callable[[int], Awaitable[int]]]:
    """A function that starts a writer process and returns its id."""
    nursery = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.backends.disk_writer", folder),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    stdin, stdout = nursery.stdin, nursery.stdout

    async def start(seed: int) -> int:
        stdin.write(b"%d\n" % seed)
        return int(await stdout.readline())

    try:
        yield start
    finally:
        stdin.close()
        await nursery.wait()


async def test_kill_9_never_shows_a_reader_half_an_entry(tmp_path: Path) -> None:
    """200 rounds: one of two processes that write without pause is killed and another started, while
    all keys are read. No read raises, and all that is read was written so."""
    chance = random.Random(42)
    backend = DiskBackend(tmp_path)
    found = 0
    async with writers(tmp_path) as start, asyncio.timeout(120):
        alive = [await start(0), await start(1)]
        for seed in range(2, 202):
            for _ in range(chance.randrange(1, 4)):
                for key in chance.sample(KEYS, len(KEYS)):
                    entry = await backend.get(key)
                    found += entry is not None
                    assert entry is None or is_whole(key, entry)
            os.kill(alive.pop(0), signal.SIGKILL)
            alive.append(await start(seed))
        for writer in alive:
            os.kill(writer, signal.SIGKILL)
    assert found > 1000, "the writers hardly wrote: this has shown nothing"
    await backend.aclose()
