"""What holds for every backend on an object store, beside `BackendContract`; and servers that misbehave."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from asynccache.backends._objects import ObjectBackend
from asynccache.codec import PLAIN
from asynccache.errors import BackendError, BackendTimeout, BackendUnavailable, ConfigError, CorruptEntry
from asynccache.model import CacheKey, Entry
from asynccache.protocols import Remote, SupportsAdd, SupportsLeave, SupportsPing
from asynccache.testing import FakeClock
from asynccache.testing.blocking import blocking_calls
from asynccache.testing.contract import entry_of, key_of

Backend = ObjectBackend[Any]

KEY = key_of("a")
LONG = 30.0  # seconds: far beyond what any of this takes


class Store(ABC):
    """A bucket of its own on a real server, and what its objects are, read and written without the backend."""

    @abstractmethod
    def backend(self, **options: Any) -> Backend:
        """On this bucket, unless the options say otherwise."""

    @abstractmethod
    def at(self, url: str, **options: Any) -> Backend:
        """On a server at this URL that is none."""

    @abstractmethod
    def missing(self) -> Backend:
        """On a bucket that does not exist."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None: ...

    @abstractmethod
    def names(self) -> list[str]: ...


def verbs(backend: Backend) -> dict[str, Callable[[], Awaitable[Any]]]:
    return {
        "get": lambda: backend.get(KEY),
        "set": lambda: backend.set(KEY, entry_of(b"1")),
        "add": lambda: backend.add(KEY, entry_of(b"1")),
        "delete": lambda: backend.delete(KEY),
        "ping": backend.ping,
    }


async def fails(backend: Backend, expected: type[BackendError], text: str = "") -> list[BackendError]:
    """All verbs fail so. Returns the errors."""
    errors = []
    async with asyncio.timeout(LONG), aclosing(backend):
        for verb, call in verbs(backend).items():
            with pytest.raises(BackendError) as caught:
                await call()
            assert type(caught.value) is expected, f"{verb}: {caught.value!r}"
            assert text in str(caught.value), verb
            assert caught.value.__cause__ is not None, verb
            errors.append(caught.value)
    return errors


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """A server on the loopback interface that treats each connection so. Gives its origin."""
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head of a request. Its body is read and dropped."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    if fields.get(b"expect") == b"100-continue":
        return head  # who gets another answer than "continue" keeps the body
    await reader.readexactly(int(fields.get(b"content-length", 0)))
    return head


def saying(answer: bytes) -> Answer:
    """Give this answer to every request, and hang up."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    return say


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what comes, and say nothing."""
    while await reader.read(65536):
        pass


def response(status: str, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status.encode(), len(body), body)


BROKEN = {
    "500": response("500 Internal Server Error"),
    "503": response("503 Slow Down", b"<html>busy</html>"),
    "403": response("403 Forbidden"),
    "a proxy's 404": response("404 Not Found", b"<html>no such page</html>"),
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "garbage": b"\x00\xff garbage\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half an error": b"HTTP/1.1 500 Oh\r\nContent-Length: 1000\r\n\r\n<Error>",
}

PATHS = ["cache", "cache/", "/cache/", "a/b/c/", "sp ace/", "50%/", "a%2Fb/", "ключ ☃ 𝄞/", "q?x=1#y&z+~/", "a:b=c,d/"]
BAD_PATHS = ["a//b", "..", "a/../b", "./a", "a\nb", "a\\b", "x" * 1000, "\udc80"]


class ObjectStoreTests:
    """Subclass it, and give it a fixture `store`."""

    # Names.

    @pytest.mark.parametrize("path", ["", *PATHS])
    async def test_objects_lie_under_the_path(self, store: Store, path: str) -> None:
        async with aclosing(store.backend(path=path)) as backend:
            assert await backend.get(KEY) is None
            entry = entry_of(b"1")
            await backend.set(KEY, entry)
            assert await backend.get(KEY) == entry
            under = f"{path.strip('/')}/" if path else ""
            assert store.names() == [f"{under}{KEY.digest[:2]}/{KEY.digest}"]
            assert await backend.delete(KEY)
            assert store.names() == []

    @pytest.mark.parametrize("path", BAD_PATHS)
    def test_a_path_that_cannot_be(self, store: Store, path: str) -> None:
        with pytest.raises(ConfigError, match="path"):
            store.backend(path=path)

    async def test_two_paths_do_not_meet(self, store: Store) -> None:
        async with aclosing(store.backend(path="one")) as one, aclosing(store.backend(path="two")) as two:
            await one.set(KEY, entry_of(b"1"))
            assert await two.get(KEY) is None
            assert await two.delete(KEY) is False
            assert await one.get(KEY) is not None

    async def test_a_key_that_is_no_digest(self, store: Store) -> None:
        async with aclosing(store.backend()) as backend:
            keys = [CacheKey(text) for text in ("", "..", "a/b", "A" * 64, "\0", "\udc80", "x" * 5000)]
            for number, key in enumerate(keys):
                await backend.set(key, entry_of(b"%d" % number))
            for number, key in enumerate(keys):
                found = await backend.get(key)
                assert found is not None
                assert found.body == b"%d" % number

    # Options.

    @pytest.mark.parametrize("option", ["timeout", "connect_timeout", "connections"])
    @pytest.mark.parametrize("value", [0, -1, "1", None, True])
    def test_an_option_that_makes_no_sense(self, store: Store, option: str, value: Any) -> None:
        with pytest.raises(ConfigError, match=option):
            store.backend(**{option: value})

    async def test_its_powers_are_seen(self, store: Store) -> None:
        async with aclosing(store.backend()) as backend:
            for power in (SupportsAdd, SupportsPing, SupportsLeave, Remote):
                assert isinstance(backend, power)

    # What is wrong with the store.

    async def test_a_missing_bucket_is_no_miss(self, store: Store) -> None:
        await fails(store.missing(), BackendUnavailable, "does not exist")

    async def test_a_dead_server_is_told_at_once(self, store: Store) -> None:
        with socket.socket() as taken:  # bound, and not listening: connections are refused
            taken.bind(("127.0.0.1", 0))
            backend = store.at(f"http://127.0.0.1:{taken.getsockname()[1]}", timeout=1000.0)
            async with asyncio.timeout(10):
                await fails(backend, BackendUnavailable)

    async def test_a_frozen_server_is_left_when_the_timeout_is_over(self, store: Store) -> None:
        async with server(silent) as url:
            await fails(store.at(url, timeout=0.3), BackendTimeout)

    @pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
    async def test_a_broken_server(self, store: Store, answer: bytes) -> None:
        async with server(saying(answer)) as url:
            await fails(store.at(url), BackendUnavailable)

    async def test_half_an_object_is_none(self, store: Store) -> None:
        head = b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nETag: "1"\r\nx-goog-generation: 1\r\n'
        head += b"Content-Range: bytes 0-4999/5000\r\nx-ms-blob-type: BlockBlob\r\n\r\n"
        async with server(saying(head + b"x" * 100)) as url, aclosing(store.at(url, timeout=0.5)) as backend:
            with pytest.raises(BackendError) as caught:
                await backend.get(KEY)
            assert type(caught.value) in (BackendUnavailable, BackendTimeout)

    async def test_what_failed_is_tried_again(self, store: Store) -> None:
        answers = itertools.chain([b"garbage\r\n\r\n"] * 2, itertools.repeat(response("500 No")))

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await saying(next(answers))(reader, writer)

        async with server(answer) as url, aclosing(store.at(url)) as backend:
            for _ in range(4):
                with pytest.raises(BackendUnavailable):
                    await backend.get(KEY)

    # Conditions.

    async def test_one_of_many_adds(self, store: Store) -> None:
        backends = [store.backend() for _ in range(8)]
        entries = [entry_of(b"%d" % number) for number in range(8)]
        added = await asyncio.gather(*[b.add(KEY, e) for b, e in zip(backends, entries, strict=True)])
        assert sum(added) == 1
        assert await backends[0].get(KEY) == entries[added.index(True)]
        assert not await backends[0].add(KEY, entry_of(b"again"))
        assert await backends[0].delete(KEY)
        assert await backends[0].add(KEY, entry_of(b"after"))
        for backend in backends:
            await backend.aclose()

    async def test_one_of_many_adds_in_the_place_of_an_expired_entry(self, store: Store) -> None:
        async with aclosing(store.backend()) as backend:
            await backend.set(KEY, entry_of(b"old", expires_in=-1))
        backends = [store.backend() for _ in range(8)]
        entries = [entry_of(b"%d" % number) for number in range(8)]
        added = await asyncio.gather(*[b.add(KEY, e) for b, e in zip(backends, entries, strict=True)])
        assert sum(added) == 1
        assert await backends[0].get(KEY) == entries[added.index(True)]
        for backend in backends:
            await backend.aclose()

    async def test_an_add_in_the_place_of_what_is_no_entry(self, store: Store) -> None:
        store.put(name_of(KEY), b"no entry")
        async with aclosing(store.backend()) as backend:
            assert await backend.add(KEY, entry_of(b"1"))
            found = await backend.get(KEY)
            assert found is not None
            assert found.body == b"1"

    # Reclaiming.

    async def test_an_expired_entry_is_removed_by_its_reader(self, store: Store) -> None:
        clock = FakeClock()
        backend = store.backend(clock=clock)
        entry = Entry(b"1", "completion", clock(), expires=clock() + 10)
        await backend.set(KEY, entry)
        clock.advance(9.999)
        assert await backend.get(KEY) == entry
        clock.advance(0.001)
        assert await asyncio.gather(*[backend.get(KEY) for _ in range(20)]) == [None] * 20
        await backend.aclose()  # what is under way has then ended
        assert store.names() == []

    async def test_what_is_no_entry_is_removed_by_its_reader(self, store: Store) -> None:
        for data in (b"", b"no entry", PLAIN.encode(key_of("another"), entry_of(b"1"))):
            store.put(name_of(KEY), data)
            backend = store.backend()
            with pytest.raises(CorruptEntry, match=KEY.digest):
                await backend.get(KEY)
            await backend.aclose()
            assert store.names() == []

    async def test_an_entry_that_never_expires_stays(self, store: Store) -> None:
        clock = FakeClock()
        async with aclosing(store.backend(clock=clock)) as backend:
            entry = Entry(b"7", "epoch", clock())
            await backend.set(KEY, entry)
            clock.advance(1e9)
            assert await backend.get(KEY) == entry

    async def test_what_was_put_there_since_stays(self, store: Store) -> None:
        """Between the reading of an expired entry and its removal another process puts a new one there."""
        new = entry_of(b"new")
        looked: list[int] = []

        def clock() -> float:
            """Asked after the object was read, and before it is removed."""
            store.put(name_of(KEY), PLAIN.encode(KEY, new))
            looked.append(1)
            return time.time()

        async with aclosing(store.backend()) as other:
            await other.set(KEY, entry_of(b"old", expires_in=-1))
            backend = store.backend(clock=clock)
            assert await backend.get(KEY) is None
            await backend.aclose()
            assert looked == [1]
            assert await other.get(KEY) == new

    # Loops and connections.

    async def test_two_loops_at_once(self, store: Store) -> None:
        backend = store.backend()

        async def use(name: str) -> None:
            for number in range(10):
                key, entry = key_of(f"{name} {number}"), entry_of(name.encode())
                await backend.set(key, entry)
                assert await backend.get(key) == entry
                assert await backend.delete(key)

        async def visit() -> None:
            await use("there")
            await backend.leave()

        await asyncio.gather(use("here"), asyncio.to_thread(asyncio.run, visit()))
        await asyncio.to_thread(asyncio.run, use("left open"))
        await backend.aclose()

    async def test_a_loop_may_end_with_the_backend_open(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        backend = store.backend()
        await asyncio.to_thread(asyncio.run, backend.set(KEY, entry_of(b"1")))
        assert await backend.get(KEY) is not None
        await backend.aclose()
        assert not caplog.records

    async def test_use_after_leaving_opens_anew(self, store: Store) -> None:
        before = asyncio.all_tasks()
        async with aclosing(store.backend()) as backend:
            await backend.leave()
            await backend.set(KEY, entry_of(b"1"))
            await asyncio.gather(backend.leave(), backend.get(KEY), backend.leave())
            assert asyncio.all_tasks() == before
            assert await backend.get(KEY) is not None

    async def test_the_first_use_does_not_block_the_loop(self, store: Store) -> None:
        async with aclosing(store.backend()) as backend:
            await backend.get(KEY)  # modules that are loaded late are loaded now
        async with aclosing(store.backend()) as backend:
            with blocking_calls() as calls:
                await backend.get(KEY)
        assert not calls

    async def test_a_caller_that_is_cancelled_while_a_client_is_opened_takes_it_from_nobody(self, store: Store) -> None:
        async with aclosing(store.backend()) as backend:
            first = asyncio.ensure_future(backend.get(KEY))
            others = [asyncio.ensure_future(backend.get(KEY)) for _ in range(5)]
            await asyncio.sleep(0)
            first.cancel()
            assert await asyncio.gather(*others) == [None] * 5

    # Cancellation.

    @pytest.mark.parametrize("verb", ["get", "set", "add", "delete", "ping"])
    async def test_who_is_cancelled_returns_at_once(self, store: Store, verb: str) -> None:
        arrived = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            arrived.set()
            await silent(reader, writer)

        async with server(answer) as url:
            backend = store.at(url, timeout=LONG)
            task = asyncio.ensure_future(verbs(backend)[verb]())
            await arrived.wait()
            task.cancel()
            for _ in range(4):
                await asyncio.sleep(0)
            assert task.cancelled()
        await backend.aclose()  # the server has hung up, so nothing is under way any more

    async def test_a_change_waits_for_the_cancelled_one_before(self, store: Store) -> None:
        """The store sees the second change of a name only when it has answered the first, whose caller is gone."""
        log: list[str] = []
        arrived, go = asyncio.Event(), asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await read_request(reader)
            if KEY.digest.encode() in head:
                log.append("asked")
                arrived.set()
                await go.wait()
                log.append("answered")
            writer.write(response("500 No"))
            await writer.drain()

        async with server(answer) as url, aclosing(store.at(url, timeout=LONG)) as backend:
            first = asyncio.ensure_future(backend.set(KEY, entry_of(b"1")))
            await arrived.wait()
            first.cancel()
            second = asyncio.ensure_future(backend.set(KEY, entry_of(b"2")))
            withdrawn = asyncio.ensure_future(backend.delete(KEY))
            with pytest.raises(BackendUnavailable):
                await backend.set(key_of("another"), entry_of(b"3"))  # goes there and back meanwhile
            withdrawn.cancel()
            await asyncio.wait((withdrawn,))
            go.set()
            with pytest.raises(BackendUnavailable):
                await second
        assert log == ["asked", "answered", "asked", "answered"]

    async def test_a_change_does_not_wait_for_ever_for_the_one_before(self, store: Store) -> None:
        async with server(silent) as url, aclosing(store.at(url, timeout=0.3)) as backend:
            calls = [backend.set(KEY, entry_of(b"%d" % number)) for number in range(5)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {BackendTimeout}
            assert any("earlier change" in str(outcome) for outcome in outcomes)


def name_of(key: CacheKey) -> str:
    return f"{key.digest[:2]}/{key.digest}"


def whole_text(error: BaseException) -> str:
    """All that a log would show of an error, its causes among it."""
    return "".join(traceback.format_exception(error)) + repr(error)
