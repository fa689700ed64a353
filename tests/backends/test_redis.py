from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from secrets import token_hex
from typing import Any

import pytest
from redis import asyncio as driver
from redis import exceptions

from asynccache.backends import _redis_events
from asynccache.backends.redis import RedisBackend
from asynccache.codec import PLAIN
from asynccache.errors import (
    BackendClosed,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    CorruptEntry,
    EntryTooLarge,
)
from asynccache.model import CacheKey, Entry
from asynccache.testing import BackendContract, FakeClock
from asynccache.testing.contract import entry_of, key_of
from tests.servers.redis import RedisSentinel, RedisServer, TlsRedisServer

NewRedis = Callable[..., RedisServer]
Backend = Callable[..., RedisBackend]

PATIENCE = 20.0
"""Seconds after which what should have happened counts as failed."""


@pytest.fixture
def prefix() -> str:
    """Parts the entries of this test from those of the others on the same server."""
    return f"test {token_hex(8)}:"


# The law, on every way to a server.


class TestPlain(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, redis_server: RedisServer, prefix: str) -> Callable[[], RedisBackend]:
        return lambda: RedisBackend(host=redis_server.host, port=redis_server.port, key_prefix=prefix)


class TestUrlAndResp2(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, redis_server: RedisServer, prefix: str) -> Callable[[], RedisBackend]:
        return lambda: RedisBackend(redis_server.url, protocol=2, key_prefix=prefix)


class TestTlsAndUser(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, redis_tls: TlsRedisServer, prefix: str) -> Callable[[], RedisBackend]:
        return lambda: RedisBackend(
            host=redis_tls.host,
            port=redis_tls.port,
            username=redis_tls.username,
            password=redis_tls.password,
            ssl=True,
            ssl_ca_certs=redis_tls.ca,
            key_prefix=prefix,
        )


class TestUnixSocket(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, redis_server: RedisServer, prefix: str) -> Callable[[], RedisBackend]:
        return lambda: RedisBackend(unix_socket_path=redis_server.unix_socket_path, key_prefix=prefix)


class TestSentinel(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, redis_sentinel: RedisSentinel, prefix: str) -> Callable[[], RedisBackend]:
        return lambda: RedisBackend(
            sentinel_nodes=redis_sentinel.sentinels, service_name=redis_sentinel.service, key_prefix=prefix
        )


class TestClient(BackendContract):
    durable = shared = True

    @pytest.fixture
    async def make_backend(self, redis_server: RedisServer, prefix: str) -> AsyncIterator[Callable[[], RedisBackend]]:
        # It decodes, for its owner. Entries are bytes all the same.
        async with driver.Redis(host=redis_server.host, port=redis_server.port, decode_responses=True) as client:
            yield lambda: RedisBackend(client=client, key_prefix=prefix)


# Helpers.


@pytest.fixture
async def make(redis_server: RedisServer, prefix: str) -> AsyncIterator[Backend]:
    """Backends on the shared server, or on another one, closed at the end."""
    async with AsyncExitStack() as stack:

        def make(server: RedisServer = redis_server, **options: Any) -> RedisBackend:
            options = {"host": server.host, "port": server.port, "key_prefix": prefix, **options}
            backend = RedisBackend(**options)
            stack.push_async_callback(backend.aclose)
            return backend

        yield make


@pytest.fixture
def backend(make: Backend) -> RedisBackend:
    return make()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process brings about."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # another process gives no event
            await asyncio.sleep(0.005)


def calls(server: RedisServer) -> Counter[str]:
    """How often each command was carried out."""
    lines = [line for line in str(server.ask("INFO", "commandstats")).splitlines() if line.startswith("cmdstat_")]
    return Counter({line.split(":")[0][8:]: int(line.split("calls=")[1].split(",")[0]) for line in lines})


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def name_of(backend: RedisBackend, key: CacheKey) -> str:
    return backend.key_prefix + key.digest


# Batches.


async def test_gets_of_one_turn_are_one_command(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    keys = [key_of(str(number)) for number in range(50)]
    for number, key in enumerate(keys[:40]):
        await backend.set(key, entry_of(b"%d" % number))
    before = calls(server)
    found = await asyncio.gather(*[backend.get(key) for key in keys])
    assert (calls(server) - before)["mget"] == 1
    assert (calls(server) - before)["get"] == 0
    assert [entry and entry.body for entry in found] == [b"%d" % number for number in range(40)] + [None] * 10


async def test_a_lone_get_is_a_get(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    before = calls(server)
    assert await backend.get(key_of("a")) is None
    assert (calls(server) - before)["get"] == 1
    assert (calls(server) - before)["mget"] == 0


async def test_equal_keys_are_asked_for_once(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    key, entry = key_of("a"), entry_of(b"1")
    await backend.set(key, entry)
    before = calls(server)
    assert await asyncio.gather(*[backend.get(CacheKey(key.digest)) for _ in range(100)]) == [entry] * 100
    assert (calls(server) - before)["get"] == 1
    assert (calls(server) - before)["mget"] == 0


async def test_a_batch_is_bounded(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server, max_batch=10, connections=2)
    before = calls(server)
    await asyncio.gather(*[backend.get(key_of(str(number))) for number in range(100)])
    assert (calls(server) - before)["mget"] == 10


async def test_when_all_connections_are_busy_the_next_batch_grows(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server, connections=1)
    await backend.get(key_of("a"))
    before = calls(server)
    server.freeze()
    waiting = []
    for number in range(30):
        waiting.append(asyncio.ensure_future(backend.get(key_of(str(number)))))
        await turns(3)
    server.thaw()
    await asyncio.gather(*waiting)
    done = calls(server) - before
    assert (done["get"], done["mget"]) == (1, 1)


async def test_writes_of_one_turn_are_one_pipeline_in_order(make: Backend, prefix: str, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    key = key_of("a")
    writes: list[Awaitable[Any]] = [
        backend.set(key, entry_of(b"1")),
        backend.delete(key),
        backend.add(key, entry_of(b"2")),
        backend.add(key, entry_of(b"3")),
        backend.set(key_of("b"), entry_of(b"4")),
        backend.delete(key_of("c")),
    ]
    assert await asyncio.gather(*writes) == [None, True, True, False, None, False]
    assert (await asyncio.gather(backend.get(key), backend.get(key_of("b"))))[0].body == b"2"  # type: ignore[union-attr]
    assert calls(server)["publish"] == 1, "more than one pipeline"


async def test_the_last_of_many_writes_stays(backend: RedisBackend) -> None:
    """However they fall into pipelines."""
    keys = [key_of(str(number)) for number in range(5)]
    dice = random.Random(1)
    last: dict[CacheKey, bytes] = {}
    under_way = []
    for number in range(3000):
        key = dice.choice(keys)
        last[key] = b"%d" % number
        under_way.append(asyncio.ensure_future(backend.set(key, entry_of(last[key]))))
        if dice.random() < 0.1:
            await turns(dice.randrange(8))
    await asyncio.gather(*under_way)
    for key in keys:
        found = await backend.get(key)
        assert found is not None
        assert found.body == last[key]


async def test_a_get_after_a_set_sees_it(backend: RedisBackend) -> None:
    async def own(number: int) -> None:
        key = key_of(str(number))
        for version in range(20):
            await backend.set(key, entry_of(b"%d" % version))
            found = await backend.get(key)
            assert found is not None
            assert found.body == b"%d" % version

    await asyncio.gather(*[own(number) for number in range(50)])


# Cancellation.


async def test_a_get_that_was_cancelled_before_it_left_is_not_sent(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    before = calls(server)
    task = asyncio.ensure_future(backend.get(key_of("a")))
    kept = asyncio.ensure_future(backend.get(key_of("b")))
    await turns(1)  # both have asked; the batch leaves in the next turn
    task.cancel()
    assert await kept is None
    assert (calls(server) - before)["get"] == 1
    assert (calls(server) - before)["mget"] == 0


async def test_one_of_several_who_ask_for_the_same_may_be_cancelled(backend: RedisBackend) -> None:
    key, entry = key_of("a"), entry_of(b"1")
    await backend.set(key, entry)
    for number in range(12):
        tasks = [asyncio.ensure_future(backend.get(key)) for _ in range(3)]
        await turns(number)
        tasks[number % 3].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each for at, each in enumerate(found) if at != number % 3] == [entry, entry]


async def test_a_cancelled_set_that_has_not_left_is_taken_back(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    await backend.ping()
    server.freeze()
    first = asyncio.ensure_future(backend.set(key_of("a"), entry_of(b"1")))
    await turns(5)  # under way
    second = asyncio.ensure_future(backend.set(key_of("b"), entry_of(b"2")))
    third = asyncio.ensure_future(backend.set(key_of("c"), entry_of(b"3")))
    await turns(5)
    second.cancel()
    server.thaw()
    await asyncio.gather(first, third)
    assert second.cancelled()
    assert await backend.get(key_of("b")) is None
    assert await backend.get(key_of("a")) is not None
    assert calls(server)["set"] == 2


async def test_what_comes_after_a_cancelled_set_that_has_left_comes_later(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    await backend.ping()
    for body in (b"small", b"large" * 1_000_000):
        server.freeze()
        task = asyncio.ensure_future(backend.set(key_of("a"), entry_of(body)))
        await turns(5)
        task.cancel()
        after = asyncio.ensure_future(backend.set(key_of("a"), entry_of(b"after")))
        await turns(5)
        server.thaw()
        await after
        found = await backend.get(key_of("a"))
        assert found is not None
        assert found.body == b"after"


@pytest.mark.parametrize("protocol", [2, 3])
async def test_no_reply_goes_to_another_question(backend: RedisBackend, make: Backend, protocol: int) -> None:
    """Ten thousand gets, of which many are cancelled at any point, while connections are killed."""
    dice = random.Random(protocol)
    reader = make(max_batch=16, protocol=protocol)
    raw = {key_of(str(number)): b"%d " % number * dice.randrange(1, 3000) for number in range(100)}
    await asyncio.gather(*[backend.set(key, entry_of(body)) for key, body in raw.items()])
    outcomes: Counter[str] = Counter()

    async def one(key: CacheKey) -> None:
        await turns(dice.randrange(4))
        try:
            found = await reader.get(key)
        except BackendUnavailable:
            outcomes["cut off"] += 1
        else:
            assert found is not None
            assert found.body == raw[key], "another key's entry"
            outcomes["right"] += 1

    names = list(raw)
    async with driver.Redis(host=reader._address.node[0], port=reader._address.node[1]) as client:  # type: ignore
        for wave in range(100):
            tasks = [asyncio.ensure_future(one(dice.choice(names))) for _ in range(100)]
            for task in dice.sample(tasks, 30):
                await turns(dice.randrange(2))
                task.cancel()
            if wave % 10 == 0:
                await client.client_kill_filter(_type="normal", skipme=True)
            for task in tasks:
                try:
                    await task
                except asyncio.CancelledError:
                    outcomes["cancelled"] += 1
    assert outcomes["right"] > 5000, outcomes
    assert outcomes["cancelled"] > 100, outcomes


async def test_cancelled_exchanges_do_not_leave_their_replies(make: Backend, new_redis: NewRedis) -> None:
    """A connection whose exchange was given up is not used again: its reply is still to come."""
    server = new_redis()
    backend = make(server, socket_timeout=0.2, connections=1)
    keys = {key_of(str(number)): entry_of(b"%d" % number) for number in range(20)}
    for key, entry in keys.items():
        await backend.set(key, entry)
    for key in list(keys)[:8]:  # each costs the timeout
        server.freeze()
        with pytest.raises(BackendTimeout):
            await backend.get(key)
        server.thaw()
        other = random.choice([another for another in keys if another != key])
        assert await backend.get(other) == keys[other]


async def test_what_a_failed_set_had_not_sent_is_never_sent(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server, socket_timeout=0.2)
    await backend.ping()
    server.freeze()
    with pytest.raises(BackendTimeout):
        await backend.set(key_of("a"), entry_of(b"x" * 32 * 1024 * 1024))  # more than the kernels buffer
    server.thaw()
    await backend.ping()
    await until(lambda: clients(server) == 1)
    assert await backend.get(key_of("a")) is None


# Expiry.


async def test_entries_expire_by_themselves(make: Backend, redis_server: RedisServer) -> None:
    clock = FakeClock()
    backend = make(clock=clock)
    key = key_of("a")
    await backend.set(key, Entry(b"1", "completion", clock.now, expires=clock.now + 1000.0001))
    left = redis_server.ask("PTTL", name_of(backend, key))
    assert 990_000 < left <= 1_000_001
    await backend.set(key, Entry(b"2", "completion", clock.now))
    assert redis_server.ask("PTTL", name_of(backend, key)) == -1
    await backend.set(key, Entry(b"3", "completion", clock.now, expires=clock.now + 0.0201))
    await until(lambda: redis_server.ask("EXISTS", name_of(backend, key)) == 0)
    assert await backend.get(key) is None


@pytest.mark.parametrize(("left", "milliseconds"), [(0.0001, 1), (1.0, 1000), (1.0001, 1001), (-0.1, 0), (0.0, 0)])
async def test_expiry_is_rounded_up(make: Backend, left: float, milliseconds: int) -> None:
    clock = FakeClock(0.0)
    assert make(clock=clock)._lifetime(Entry(b"", "completion", 0.0, expires=left)) == milliseconds


@pytest.mark.parametrize("never", [None, 1e300])
async def test_some_never_expire(make: Backend, redis_server: RedisServer, never: float | None) -> None:
    backend = make()
    await backend.set(key_of("a"), Entry(b"1", "completion", 1.0, expires=never))
    assert redis_server.ask("PTTL", name_of(backend, key_of("a"))) == -1


async def test_what_has_expired_takes_the_old_entry_away(backend: RedisBackend) -> None:
    for expires in (0.0, -float("inf"), time.time() - 0.001):
        await backend.set(key_of("a"), entry_of(b"old"))
        await backend.set(key_of("a"), Entry(b"new", "completion", 1.0, expires=expires))
        assert await backend.get(key_of("a")) is None


# Adding.


async def test_of_many_who_add_one_succeeds(make: Backend) -> None:
    backends = [make() for _ in range(4)]
    entries = [entry_of(b"%d" % number) for number in range(40)]
    put = await asyncio.gather(*[backends[at % 4].add(key_of("a"), entry) for at, entry in enumerate(entries)])
    assert sum(put) == 1
    assert await backends[0].get(key_of("a")) == entries[put.index(True)]


async def test_adding_respects_expiry(backend: RedisBackend) -> None:
    over = Entry(b"over", "completion", 1.0, expires=2.0)
    assert await backend.add(key_of("a"), over) is True
    assert await backend.get(key_of("a")) is None
    assert await backend.add(key_of("a"), entry_of(b"1", expires_in=None)) is True
    assert await backend.add(key_of("a"), over) is False
    assert await backend.get(key_of("a")) is not None


# Failures.


async def failing(call: Awaitable[Any], kind: type[BackendError], cause: type[BaseException] | None = None) -> str:
    with pytest.raises(BackendError) as caught:
        await call
    assert type(caught.value) is kind, repr(caught.value)
    assert caught.value.backend == "redis"
    assert cause is None or isinstance(caught.value.__cause__, cause), repr(caught.value.__cause__)
    return str(caught.value)


async def test_a_server_that_is_full_fails_each_write_and_serves_reads(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    await backend.set(key_of("kept"), entry_of(b"1"))
    server.ask("CONFIG", "SET", "maxmemory", "1")
    outcomes = await asyncio.gather(
        backend.set(key_of("a"), entry_of(b"2")),
        backend.delete(key_of("kept")),
        backend.add(key_of("b"), entry_of(b"3")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [BackendUnavailable, bool, BackendUnavailable]
    assert isinstance(outcomes[0].__cause__, exceptions.OutOfMemoryError)  # type: ignore[union-attr]
    assert await backend.get(key_of("kept")) is None
    server.ask("CONFIG", "SET", "maxmemory", "0")
    await backend.set(key_of("a"), entry_of(b"2"))


async def test_a_replica_refuses_writes(make: Backend, new_redis: NewRedis) -> None:
    server, master = new_redis(), new_redis()
    backend = make(server)
    server.ask("REPLICAOF", master.host, master.port)
    await failing(backend.set(key_of("a"), entry_of(b"1")), BackendUnavailable, exceptions.ReadOnlyError)


async def test_what_is_no_entry_is_corrupt(make: Backend, redis_server: RedisServer) -> None:
    backend = make()
    key = key_of("a")
    redis_server.ask("SET", name_of(backend, key), "something else")
    await failing(backend.get(key), CorruptEntry)
    redis_server.ask("DEL", name_of(backend, key))
    redis_server.ask("RPUSH", name_of(backend, key), "1")
    await failing(backend.get(key), CorruptEntry, exceptions.ResponseError)
    await backend.set(key, entry_of(b"good"))
    assert await backend.get(key) is not None


async def test_an_entry_too_large_is_refused_before_it_is_sent(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server, max_entry_bytes=1000)
    size = len(PLAIN.encode(key_of("a"), entry_of(b"")))
    await backend.set(key_of("a"), entry_of(b"x" * (900 - size)))
    for write in (backend.set, backend.add):
        await failing(write(key_of("a"), entry_of(b"x" * 1001)), EntryTooLarge)
    assert calls(server)["set"] == 1
    assert await backend.get(key_of("a")) is not None, "the old one is kept"


async def test_an_entry_that_json_cannot_say_is_a_backend_error(backend: RedisBackend) -> None:
    await failing(backend.set(key_of("a"), Entry(b"", "completion", 1.0, meta={"model": object()})), BackendError)


async def test_nobody_there(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    server.kill()
    backend = make(server)
    for call in (backend.get(key_of("a")), backend.set(key_of("a"), entry_of(b"1")), backend.ping()):
        started = time.monotonic()
        await failing(call, BackendUnavailable, exceptions.ConnectionError)
        assert time.monotonic() - started < 1.0


async def test_a_server_that_was_started_again_costs_no_error(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    await started_again(make(server), server)


async def test_one_with_tls_that_was_started_again_neither(make: Backend, new_redis_tls: NewRedis) -> None:
    """It says no farewell there."""
    server: Any = new_redis_tls()
    user = {"username": server.username, "password": server.password}
    await started_again(make(server, ssl=True, ssl_ca_certs=server.ca, **user), server)


async def started_again(backend: RedisBackend, server: RedisServer) -> None:
    for _ in range(3):
        await backend.set(key_of("a"), entry_of(b"1"))
        assert await backend.get(key_of("a")) is not None
        server.kill()
        server.start()
        assert await backend.get(key_of("a")) is None
        await backend.set(key_of("b"), entry_of(b"1"))


async def test_a_server_that_dies_amid_calls_fails_them_and_comes_back(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    await backend.ping()
    server.freeze()
    under_way = [
        *[asyncio.ensure_future(backend.get(key_of(str(number)))) for number in range(20)],
        *[asyncio.ensure_future(backend.set(key_of(str(number)), entry_of(b"1"))) for number in range(20)],
    ]
    await turns(10)
    server.kill()
    for outcome in await asyncio.gather(*under_way, return_exceptions=True):
        assert isinstance(outcome, BackendUnavailable), repr(outcome)
    server.start()
    await backend.set(key_of("a"), entry_of(b"1"))
    assert await backend.get(key_of("a")) is not None


async def test_a_frozen_server_costs_the_timeout(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    warm, cold = make(server, socket_timeout=0.2), make(server, socket_timeout=0.2)
    await warm.set(key_of("a"), entry_of(b"1"))
    await warm.get(key_of("a"))
    server.freeze()
    for backend in (warm, cold):
        for call in (backend.get(key_of("a")), backend.set(key_of("a"), entry_of(b"2")), backend.ping()):
            started = time.monotonic()
            await failing(call, BackendTimeout)
            assert time.monotonic() - started < 1.0
    server.thaw()
    for backend in (warm, cold):
        assert await backend.get(key_of("a")) is not None


async def test_a_server_that_is_forbidden(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    server.ask("CONFIG", "SET", "requirepass", "s3cret")
    for options in ({}, {"password": "wr0ng"}, {"username": "somebody", "password": "wr0ng"}):
        backend = make(server, **options)
        message = await failing(backend.get(key_of("a")), BackendUnavailable)
        assert "wr0ng" not in message + repr(backend)
        await failing(backend.set(key_of("a"), entry_of(b"1")), BackendUnavailable)
        await failing(backend.ping(), BackendUnavailable)
    right = make(server, password="s3cret")
    await right.ping()
    by_url = make(url=f"redis://:s3cret@{server.host}:{server.port}/0", host="localhost", port=6379)
    await by_url.ping()
    assert "s3cret" not in repr(right) + repr(by_url)


async def test_a_user_who_may_not_touch_these_keys(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis("--user", "app", "on", ">pw", "~mine:*", "&*", "+@all")
    access = {"username": "app", "password": "pw"}
    theirs, mine = make(server, key_prefix="theirs:", **access), make(server, key_prefix="mine:", **access)
    await failing(theirs.get(key_of("a")), BackendUnavailable, exceptions.NoPermissionError)
    await failing(theirs.set(key_of("a"), entry_of(b"1")), BackendUnavailable, exceptions.NoPermissionError)
    await mine.set(key_of("a"), entry_of(b"1"))
    assert await mine.get(key_of("a")) is not None


async def test_without_the_right_to_publish_writes_work(
    make: Backend, new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis("--user", "app", "on", ">pw", "~*", "resetchannels", "+@all")
    backend = make(server, username="app", password="pw")
    for _ in range(3):
        await backend.set(key_of("a"), entry_of(b"1"))
    assert await backend.get(key_of("a")) is not None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_an_unknown_authority(make: Backend, redis_tls: TlsRedisServer) -> None:
    access = {"username": redis_tls.username, "password": redis_tls.password}
    for options in ({"ssl": True, **access}, access):
        await failing(make(redis_tls, **options).get(key_of("a")), BackendUnavailable)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n",
        b"+OK\r\n" * 10,
        b":5\r\n" * 10,
        b"*1\r\n:5\r\n" * 10,
        b"%1\r\n+proto\r\n:3\r\n" * 10,
        b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 's3cret'\r\n" * 10,
        b"$-5\r\n",
        b"\0" * 100,
        b"",
    ],
    ids=lambda garbage: repr(garbage[:20]),
)
@pytest.mark.parametrize("password", [None, "s3cret"])
async def test_a_server_that_talks_nonsense(make: Backend, garbage: bytes, password: str | None) -> None:
    async with talking(garbage) as (host, port):
        backend = make(host=host, port=port, password=password, socket_timeout=0.2)
        for call in (
            backend.get(key_of("a")),
            asyncio.gather(backend.get(key_of("a")), backend.get(key_of("b"))),
            backend.ping(),
        ):
            with pytest.raises((BackendUnavailable, BackendTimeout, CorruptEntry)) as caught:
                await call
            assert password is None or password not in str(caught.value)
        await backend.aclose()


@asynccontextmanager
async def talking(garbage: bytes) -> AsyncIterator[tuple[str, int]]:
    """A server that says this whatever it is told, and hangs up."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(100)
        writer.write(garbage)
        if not garbage:
            writer.close()

    # From Python 3.12 on its end waits for that of its connections.
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        try:
            yield server.sockets[0].getsockname()
        finally:
            for writer in writers:
                writer.close()


# Leases.


def token() -> str:
    return token_hex(8)


async def test_a_lease_is_one_s_alone(make: Backend) -> None:
    one, other = make().leases, make().leases
    mine, theirs = token(), token()
    assert await one.acquire(key_of("a"), mine)
    assert not await other.acquire(key_of("a"), theirs)
    assert not await one.acquire(key_of("a"), theirs)
    assert await other.acquire(key_of("b"), theirs)
    assert await one.renew(key_of("a"), mine)
    assert not await other.renew(key_of("a"), theirs)
    await other.release(key_of("a"), theirs, False)
    assert not await other.acquire(key_of("a"), theirs), "somebody else has released it"
    await one.release(key_of("a"), mine, True)
    assert await other.acquire(key_of("a"), theirs)
    assert not await one.renew(key_of("a"), mine)


async def test_of_many_who_want_a_lease_one_gets_it(make: Backend) -> None:
    all_leases = [make().leases for _ in range(4)]
    got = await asyncio.gather(*[all_leases[number % 4].acquire(key_of("a"), token()) for number in range(100)])
    assert sum(got) == 1


async def test_a_lease_ends_by_itself_unless_it_is_renewed(make: Backend) -> None:
    one, other = make(lease_seconds=0.3).leases, make(lease_seconds=0.3).leases
    assert one.seconds == 0.3
    mine, theirs = token(), token()
    assert await one.acquire(key_of("a"), mine)
    end = asyncio.get_running_loop().time() + 0.6
    while asyncio.get_running_loop().time() < end:
        assert await one.renew(key_of("a"), mine)
        assert not await other.acquire(key_of("a"), theirs)
        await asyncio.sleep(0.02)
    async with asyncio.timeout(PATIENCE):
        while not await other.acquire(key_of("a"), theirs):  # noqa: ASYNC110  # nobody tells of its end
            await asyncio.sleep(0.02)
    assert not await one.renew(key_of("a"), mine)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_release_wakes_all_who_wait(make: Backend, stored: bool, protocol: int) -> None:
    holder, others = make(protocol=protocol), [make(protocol=protocol) for _ in range(3)]
    mine = token()
    assert await holder.leases.acquire(key_of("a"), mine)
    async with AsyncExitStack() as stack:
        waits = [
            await stack.enter_async_context(backend.leases.watch(key_of("a"))) for backend in (holder, *others, *others)
        ]
        elsewhere = await stack.enter_async_context(others[0].leases.watch(key_of("b")))
        waiting = [asyncio.ensure_future(wait(PATIENCE)) for wait in waits]
        await turns(3)
        await holder.leases.release(key_of("a"), mine, stored)
        assert await asyncio.gather(*waiting) == ["stored" if stored else "nothing"] * 7
        assert await elsewhere(0.05) == "lapsed"


async def test_a_release_is_not_missed_before_the_wait(make: Backend) -> None:
    holder, other = make(), make()
    mine = token()
    await holder.leases.acquire(key_of("a"), mine)
    async with other.leases.watch(key_of("a")) as wait:
        await holder.leases.release(key_of("a"), mine, True)
        assert await wait(PATIENCE) == "stored"
        assert await wait(0.05) == "lapsed", "it was told already"


async def test_only_the_holder_s_release_wakes(make: Backend) -> None:
    holder, other = make(), make()
    await holder.leases.acquire(key_of("a"), token())
    async with other.leases.watch(key_of("a")) as wait:
        await other.leases.release(key_of("a"), token(), True)
        assert await wait(0.1) == "lapsed"


async def test_who_waits_when_the_news_is_cut_off_looks_again(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    holder, other = make(server), make(server)
    mine = token()
    await holder.leases.acquire(key_of("a"), mine)
    async with other.leases.watch(key_of("a")) as wait:
        waiting = asyncio.ensure_future(wait(PATIENCE))
        await turns(3)
        server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        assert await waiting == "lapsed"
        assert await wait(PATIENCE) == "lapsed", "it has come back: there may have been a release meanwhile"
        await holder.leases.release(key_of("a"), mine, True)
        assert await wait(PATIENCE) == "stored"


async def test_leases_of_a_dead_server(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    mine = token()
    async with backend.leases.watch(key_of("a")) as wait:
        server.kill()
        assert await wait(PATIENCE) == "lapsed"
        for call in (backend.leases.acquire, backend.leases.renew):
            await failing(call(key_of("a"), mine), BackendUnavailable)
        await failing(backend.leases.release(key_of("a"), mine, True), BackendUnavailable)
        await failing(backend.leases.watch(key_of("b")).__aenter__(), BackendUnavailable)
        server.start()
        assert await wait(PATIENCE) == "lapsed"
        assert await backend.leases.acquire(key_of("a"), mine)
    await failing(make(server, port=1).leases.watch(key_of("b")).__aenter__(), BackendUnavailable)


async def test_nothing_runs_when_nobody_waits(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    before = asyncio.all_tasks()
    async with backend.leases.watch(key_of("a")), backend.leases.watch(key_of("a")), backend.changes.listen(print):
        assert len(asyncio.all_tasks() - before) == 1
        assert server.ask("PUBSUB", "NUMSUB", f"{backend.key_prefix}events")[1] == 1
    assert asyncio.all_tasks() == before
    await until(lambda: server.ask("PUBSUB", "NUMSUB", f"{backend.key_prefix}events")[1] == 0)


async def test_a_watcher_may_be_cancelled_anywhere(make: Backend) -> None:
    backend = make()
    before = asyncio.all_tasks()

    async def watch() -> None:
        async with backend.leases.watch(key_of("a")) as wait:
            await wait(PATIENCE)

    for number in range(40):
        task = asyncio.ensure_future(watch())
        await turns(number)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
    await turns(5)
    assert asyncio.all_tasks() == before


# Changes.


class Ear:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []

    def __call__(self, digest: str | None) -> None:
        self.heard.append(digest)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_changes_are_told_to_others(make: Backend, protocol: int) -> None:
    one, other = make(protocol=protocol), make(protocol=protocol)
    mine, theirs = Ear(), Ear()
    async with one.changes.listen(mine), other.changes.listen(theirs):
        await until(lambda: mine.heard == theirs.heard == [None])
        await one.set(key_of("a"), entry_of(b"1"))
        await one.delete(key_of("b"))
        await one.add(key_of("c"), entry_of(b"1"))
        await asyncio.gather(*[one.set(key_of(text), entry_of(b"1")) for text in "defd"])
        await other.set(key_of("end"), entry_of(b"1"))
        await until(lambda: mine.heard[1:] == [key_of("end").digest])
        await until(lambda: theirs.heard[1:] == [key_of(text).digest for text in "abcdef"])


async def test_silence_is_asked_for_a_sign_of_life(
    make: Backend, new_redis: NewRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_events, "_HEARTBEAT", 0.05)
    server = new_redis()
    backend = make(server, socket_timeout=0.3)
    ear = Ear()
    async with backend.changes.listen(ear):
        await until(lambda: calls(server)["ping"] > 3 + 1)  # one was the server's fixture's
        assert ear.heard == [None], "an answer in time is no gap"
        await make(server).delete(key_of("a"))
        await until(lambda: ear.heard == [None, key_of("a").digest])
        server.freeze()
        await until(lambda: len(ear.heard) == 3)
        server.thaw()
        await until(lambda: len(ear.heard) == 4)
    assert ear.heard[2:] == [None, None]


async def test_other_prefixes_are_other_worlds(make: Backend) -> None:
    one, other = make(), make(key_prefix="another:")
    ear = Ear()
    async with one.changes.listen(ear):
        await until(lambda: ear.heard == [None])
        await other.set(key_of("a"), entry_of(b"1"))
        await make().set(key_of("b"), entry_of(b"1"))
        await until(lambda: len(ear.heard) > 1)
    assert ear.heard == [None, key_of("b").digest]


async def test_a_gap_in_the_news_is_told(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    ear = Ear()
    server.kill()
    backend = make(server)
    async with backend.changes.listen(ear):
        await turns(20)
        assert ear.heard == []
        server.start()
        await until(lambda: ear.heard == [None])
        server.kill()
        await until(lambda: ear.heard == [None, None])
        server.start()
        await until(lambda: ear.heard == [None, None, None])
        await make(server).delete(key_of("a"))
        await until(lambda: ear.heard[3:] == [key_of("a").digest])


async def test_a_second_listener_begins_with_a_gap(make: Backend) -> None:
    backend = make()
    first, second = Ear(), Ear()
    async with backend.changes.listen(first):
        await until(lambda: first.heard == [None])
        async with backend.changes.listen(second):
            await until(lambda: second.heard == [None])
            assert first.heard == [None]


async def test_a_listener_that_fails_is_not_the_others_fault(make: Backend, caplog: pytest.LogCaptureFixture) -> None:
    one, other = make(), make()
    ear = Ear()

    def broken(digest: str | None) -> None:
        raise ValueError("mine")

    async with one.changes.listen(broken), one.changes.listen(ear):
        await until(lambda: None in ear.heard)
        await other.set(key_of("a"), entry_of(b"1"))
        await until(lambda: key_of("a").digest in ear.heard)
    assert any("a listener" in record.message for record in caplog.records)


async def test_foreign_messages_on_the_channel_do_no_harm(make: Backend, redis_server: RedisServer) -> None:
    backend = make()
    ear = Ear()
    async with backend.changes.listen(ear), backend.leases.watch(key_of("a")) as wait:
        await until(lambda: ear.heard == [None])
        for message in ("", " ", "changed", "released", "released x", "hello world", "changed x", "\x00"):
            redis_server.ask("PUBLISH", f"{backend.key_prefix}events", message)
        redis_server.ask("PUBLISH", f"{backend.key_prefix}events", f"released {key_of('a').digest} stored")
        assert await wait(PATIENCE) == "stored"
    assert ear.heard == [None]


# Loops, forks, the end.


async def test_two_loops_at_once(make: Backend, redis_server: RedisServer) -> None:
    backend = make()
    done: list[int] = []

    async def work(base: int) -> None:
        for number in range(30):
            keys = [key_of(f"{base} {number} {each}") for each in range(10)]
            await asyncio.gather(*[backend.set(key, entry_of(key.digest.encode())) for key in keys])
            for key, found in zip(keys, await asyncio.gather(*map(backend.get, keys)), strict=True):
                assert found is not None
                assert found.body == key.digest.encode()
        await backend.leave()
        done.append(base)

    threads = [threading.Thread(target=lambda base=base: asyncio.run(work(base))) for base in range(2)]
    for thread in threads:
        thread.start()
    await work(2)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(done) == [0, 1, 2]


async def test_closing_closes_the_connections_of_all_loops(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    opened, closed = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        await backend.set(key_of("a"), entry_of(b"1"))
        opened.set()
        await asyncio.to_thread(closed.wait, PATIENCE)

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    await backend.get(key_of("a"))
    await asyncio.to_thread(opened.wait, PATIENCE)
    assert clients(server) == 2
    await backend.aclose()
    await until(lambda: clients(server) == 0)
    closed.set()
    await asyncio.to_thread(thread.join)


def clients(server: RedisServer) -> int:
    """How many are connected, beside the one who asks."""
    return len(str(server.ask("CLIENT", "LIST")).splitlines()) - 1


async def test_leaving_closes_everything_here_and_later_use_opens_it_again(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server)
    before = asyncio.all_tasks()
    ear = Ear()
    async with backend.changes.listen(ear), backend.leases.watch(key_of("a")) as wait:
        await until(lambda: ear.heard == [None])
        waiting = asyncio.ensure_future(wait(PATIENCE))
        await backend.set(key_of("a"), entry_of(b"1"))
        await asyncio.gather(*[backend.get(key_of(str(number))) for number in range(600)])
        await backend.leave()
        assert await waiting == "lapsed"
        assert ear.heard == [None, None]
        await until(lambda: clients(server) == 0)
        assert asyncio.all_tasks() == before
    assert await backend.get(key_of("a")) is not None


async def test_closing_a_backend_whose_server_is_frozen(make: Backend, new_redis: NewRedis) -> None:
    server = new_redis()
    backend = make(server, socket_timeout=0.2, max_batch=1, connections=1)
    await backend.ping()
    before = asyncio.all_tasks()
    server.freeze()
    under_way = [asyncio.ensure_future(backend.get(key_of(str(number)))) for number in range(20)]
    under_way += [asyncio.ensure_future(backend.delete(key_of(str(number)))) for number in range(20)]  # type: ignore
    await turns(3)
    started = time.monotonic()
    await backend.aclose()
    assert time.monotonic() - started < 5.0
    outcomes = {type(each) for each in await asyncio.gather(*under_way, return_exceptions=True)}
    assert outcomes <= {BackendTimeout, BackendClosed}
    assert asyncio.all_tasks() == before
    server.thaw()


async def test_a_client_that_was_handed_in_stays_open(redis_server: RedisServer, prefix: str) -> None:
    async with driver.Redis(host=redis_server.host, port=redis_server.port, max_connections=3) as client:
        backend = RedisBackend(client=client, key_prefix=prefix, connections=2)
        await backend.set(key_of("a"), entry_of(b"1"))
        found = await asyncio.gather(*[backend.get(key_of("a")) for _ in range(100)])
        assert None not in found
        await backend.aclose()
        assert await client.ping()


async def test_a_client_belongs_to_one_loop(redis_server: RedisServer, prefix: str) -> None:
    async with driver.Redis(host=redis_server.host, port=redis_server.port) as client:
        backend = RedisBackend(client=client, key_prefix=prefix)
        await backend.ping()

        def elsewhere() -> str:
            return asyncio.run(failing(backend.get(key_of("a")), BackendUnavailable))

        assert "another event loop" in await asyncio.to_thread(elsewhere)
        await backend.aclose()


FORKS = """
import asyncio, os, sys
from asynccache.backends import _redis_events
from asynccache.backends.redis import RedisBackend
from asynccache.testing.contract import entry_of, key_of

host, port = sys.argv[1], int(sys.argv[2])
backend = RedisBackend(host=host, port=port, socket_timeout=10.0)  # parent and child, on a machine that may be busy
keys = [key_of(str(number)) for number in range(50)]

async def work(word):
    for _ in range(50):
        await asyncio.gather(*[backend.set(key_of(word + key.digest), entry_of(word.encode())) for key in keys])
        for found in await asyncio.gather(*[backend.get(key_of(word + key.digest)) for key in keys]):
            assert found.body == word.encode()

async def in_child():
    await work("child")
    await backend.aclose()

async def main():
    await work("before")
    child = os.fork()
    if child == 0:
        # The parent's loop must not turn once more here: it would read what was answered to the parent.
        asyncio._set_running_loop(None)
        asyncio.run(in_child())
        os._exit(0)
    await work("parent")
    assert os.waitpid(child, 0)[1] == 0
    await work("after")
    await backend.aclose()

asyncio.run(main())
print("done")
"""


async def test_after_a_fork_each_has_connections_of_its_own(new_redis: NewRedis) -> None:
    server = new_redis()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", FORKS, server.host, str(server.port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert out == b"done\n", err.decode()


# A master that is replaced.


async def test_the_new_master_is_found(new_redis_sentinel: Callable[[], RedisSentinel]) -> None:
    sentinel = new_redis_sentinel()
    backend = RedisBackend(
        sentinel_nodes=[f"{host}:{port}" for host, port in sentinel.sentinels], service_name=sentinel.service
    )
    async with aclosing(backend):
        await backend.set(key_of("a"), entry_of(b"1", expires_in=None))
        await until(lambda: sentinel.replica.ask("EXISTS", name_of(backend, key_of("a"))) == 1)
        sentinel.master.kill()
        failures = 0
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await backend.set(key_of("b"), entry_of(b"2"))
                except (BackendUnavailable, BackendTimeout):
                    failures += 1
                    await asyncio.sleep(0.02)
                else:
                    break
        assert failures
        found = await backend.get(key_of("a"))
        assert found is not None
        assert found.body == b"1"


async def test_sentinels_that_hang_are_passed_over(new_redis_sentinel: Callable[[], RedisSentinel]) -> None:
    sentinel = new_redis_sentinel()
    sentinel._sentinels[0].freeze()
    backend = RedisBackend(sentinel_nodes=sentinel.sentinels, service_name=sentinel.service)
    async with aclosing(backend):
        await backend.ping()
    sentinel._sentinels[0].thaw()


async def test_a_service_that_sentinels_do_not_know(redis_sentinel: RedisSentinel) -> None:
    async with aclosing(RedisBackend(sentinel_nodes=redis_sentinel.sentinels, service_name="other")) as backend:
        await failing(backend.get(key_of("a")), BackendUnavailable)


# Options.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "redis://h", "host": "other"}, ["url", "host"]),
        ({"url": "redis://h", "port": 1}, ["url", "port"]),
        ({"url": "redis://h", "unix_socket_path": "/s"}, ["url", "unix_socket_path"]),
        ({"url": "redis://h", "sentinel_nodes": [("h", 1)], "service_name": "m"}, ["url", "sentinel_nodes"]),
        ({"url": "redis://u:s3cret@h", "password": "other"}, ["password in url", "password"]),
        ({"url": "redis://h/1", "db": 2}, ["database in url", "db"]),
        ({"url": "redis://h", "ssl": True}, ["ssl", "rediss://"]),
        ({"url": "http://user:s3cret@h"}, ["rediss://"]),
        ({"url": "redis://user:s3cret@h:port"}, ["url"]),
        ({"url": "redis://h?max_connections=4"}, ["max_connections"]),
        ({"url": "redis://h?db=x"}, ["db"]),
        ({"unix_socket_path": "/s", "host": "other"}, ["unix_socket_path", "host"]),
        ({"unix_socket_path": "/s", "ssl": True}, ["unix_socket_path", "ssl"]),
        ({"ssl_ca_certs": "/ca"}, ["ssl_ca_certs", "ssl=True"]),
        ({"ssl": True, "ssl_cert_reqs": "sometimes"}, ["sometimes"]),
        ({"sentinel_nodes": [("h", 1)]}, ["sentinel_nodes", "service_name"]),
        ({"service_name": "m"}, ["sentinel_nodes", "service_name"]),
        ({"sentinel_password": "s3cret"}, ["sentinel_nodes", "sentinel_password"]),
        ({"sentinel_nodes": ["h"], "service_name": "m"}, ["'h'", "localhost:6379"]),
        ({"sentinel_nodes": "h:1", "service_name": "m"}, ["sentinel_nodes", "h:1"]),
        ({"client": 7}, ["client", "redis.asyncio.Redis", "builtins.int"]),
        ({"client": 7, "host": "other"}, ["client", "host"]),
        ({"client": 7, "url": "redis://h"}, ["client", "url"]),
        ({"port": 0}, ["port", "0"]),
        ({"db": -1}, ["db", "-1"]),
        ({"protocol": 4}, ["protocol", "4"]),
        ({"socket_timeout": 0}, ["socket_timeout", "0"]),
        ({"lease_seconds": -1}, ["lease_seconds", "-1"]),
        ({"max_batch": 0}, ["max_batch", "0"]),
        ({"connections": True}, ["connections", "True"]),
        ({"key_prefix": 5}, ["key_prefix", "5"]),
    ],
    ids=str,
)
def test_options_that_make_no_sense(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisBackend(**options)
    for word in words:
        assert word in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_it_shows_itself_without_passwords() -> None:
    for backend in (
        RedisBackend("rediss://user:s3cret@example.test:7000/3?ssl_check_hostname=no"),
        RedisBackend(username="user", password="s3cret"),
        RedisBackend("unix://user:s3cret@/tmp/s?db=2"),
        RedisBackend(sentinel_nodes=["h:1"], service_name="m", password="s3cret", sentinel_password="s3cret"),
    ):
        assert "s3cret" not in repr(backend)
    assert "example.test:7000/3" in repr(RedisBackend("rediss://user:s3cret@example.test:7000/3"))


def test_without_the_driver_it_says_which_extra_is_missing() -> None:
    code = """
import sys
sys.modules["redis"] = sys.modules["hiredis"] = None
from asynccache.backends import load
from asynccache.errors import ConfigError
for name in ("redis", "redis_cluster"):
    try:
        load(name)
    except ConfigError as error:
        print(str(error).partition(": ")[0])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, env=os.environ
    ).stdout
    assert out.splitlines() == ["the redis backends need the extra asynccache[redis]"] * 2
