from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from secrets import token_hex
from typing import Any

import pytest
from redis.crc import key_slot

from asynccache.backends.redis_cluster import RedisClusterBackend
from asynccache.errors import BackendClosed, BackendError, BackendUnavailable, ConfigError
from asynccache.model import CacheKey
from asynccache.testing import BackendContract
from asynccache.testing.contract import entry_of, key_of
from tests.servers.redis import RedisCluster

Backend = Callable[..., RedisClusterBackend]

PATIENCE = 20.0
"""Seconds after which what should have happened counts as failed."""

KEYS = [key_of(str(number)) for number in range(300)]


@pytest.fixture
def prefix() -> str:
    return f"test {token_hex(8)}:"


class TestContract(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, redis_cluster: RedisCluster, prefix: str) -> Callable[[], RedisClusterBackend]:
        return lambda: RedisClusterBackend(redis_cluster.nodes, key_prefix=prefix)


class TestUrlAndResp2(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, redis_cluster: RedisCluster, prefix: str) -> Callable[[], RedisClusterBackend]:
        host, port = redis_cluster.nodes[-1]
        return lambda: RedisClusterBackend(url=f"redis://{host}:{port}", protocol=2, key_prefix=prefix)


@pytest.fixture
async def make(prefix: str) -> AsyncIterator[Backend]:
    """Backends on a cluster, closed at the end."""
    async with AsyncExitStack() as stack:

        def make(cluster: RedisCluster, **options: Any) -> RedisClusterBackend:
            backend = RedisClusterBackend(**{"startup_nodes": cluster.nodes, "key_prefix": prefix, **options})
            stack.push_async_callback(backend.aclose)
            return backend

        yield make


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # another process gives no event
            await asyncio.sleep(0.01)


def slot_of(backend: RedisClusterBackend, key: CacheKey) -> int:
    return key_slot(f"{backend.key_prefix}{key.digest}".encode())


def commands(cluster: RedisCluster, *names: str) -> int:
    """How often the nodes have carried out these."""
    lines = [line for server in cluster.servers for line in str(server.ask("INFO", "commandstats")).splitlines()]
    counts = [line for line in lines if line.split(":")[0] in {f"cmdstat_{name}" for name in names}]
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in counts)


# Batches.


async def test_keys_go_to_their_nodes(make: Backend, redis_cluster: RedisCluster) -> None:
    backend = make(redis_cluster)
    await asyncio.gather(*[backend.set(key, entry_of(key.digest.encode())) for key in KEYS])
    found = await asyncio.gather(*[backend.get(key) for key in KEYS])
    assert [entry and entry.body for entry in found] == [key.digest.encode() for key in KEYS]
    owners = {redis_cluster.master_of(slot_of(backend, key)).port for key in KEYS[:20]}
    assert len(owners) == 3


async def test_a_batch_is_one_pipeline_for_each_node(make: Backend, redis_cluster: RedisCluster) -> None:
    backend = make(redis_cluster)
    await asyncio.gather(*[backend.set(key, entry_of(b"1")) for key in KEYS[:200]])
    before = commands(redis_cluster, "publish")
    await asyncio.gather(*[backend.set(key, entry_of(b"2")) for key in KEYS[:200]])
    assert commands(redis_cluster, "publish") - before == 3


async def test_no_slot_is_asked_for_twice(make: Backend, redis_cluster: RedisCluster) -> None:
    """A node that knows better would say MOVED. So all go to the right ones at once."""
    backend = make(redis_cluster)
    await backend.ping()
    before = commands(redis_cluster, "get", "cluster|slots")
    await asyncio.gather(*[backend.get(key) for key in KEYS])
    assert commands(redis_cluster, "get", "cluster|slots") - before == len(KEYS)


async def test_the_last_of_many_writes_stays(make: Backend, redis_cluster: RedisCluster) -> None:
    backend = make(redis_cluster)
    writes = [backend.set(KEYS[number % 7], entry_of(b"%d" % number)) for number in range(700)]
    await asyncio.gather(*writes)
    found = await asyncio.gather(*[backend.get(key) for key in KEYS[:7]])
    assert [entry and entry.body for entry in found] == [b"%d" % number for number in range(693, 700)]


async def test_a_hash_tag_keeps_all_in_one_slot(make: Backend, redis_cluster: RedisCluster, prefix: str) -> None:
    backend = make(redis_cluster, key_prefix=prefix + "{all}:")
    await asyncio.gather(*[backend.set(key, entry_of(key.digest.encode())) for key in KEYS])
    assert None not in await asyncio.gather(*[backend.get(key) for key in KEYS])


# Nodes that move, fail and come back.


async def test_a_slot_that_has_moved_is_followed(make: Backend, new_redis_cluster: Callable[[], RedisCluster]) -> None:
    cluster = new_redis_cluster()
    backend = make(cluster)
    key = KEYS[0]
    await backend.set(key, entry_of(b"1"))
    slot = slot_of(backend, key)
    old = cluster.master_of(slot)
    new = next(server for server in cluster.masters() if server is not old)
    new.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", old.identity)
    old.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", new.identity)
    # The key is still where it was; others of the slot are asked for at its new node.
    assert (await backend.get(key)) is not None
    old.ask("MIGRATE", new.host, new.port, f"{backend.key_prefix}{key.digest}", 0, 5000)
    found = await backend.get(key)
    assert found is not None, "ASK was not followed"
    await backend.set(key, entry_of(b"2"))
    for node in (new, old):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", new.identity)
    for _ in range(3):
        found = await backend.get(key)
        assert found is not None, "MOVED was not followed"
        assert found.body == b"2"
        assert await backend.delete(key_of("nothing")) is False
    await until(lambda: cluster.master_of(slot) is new)
    before = commands(cluster, "get")
    await backend.get(key)
    assert commands(cluster, "get") - before == 1, "it is not asked for at its new node at once"


async def test_a_master_that_is_killed_is_replaced(
    make: Backend, new_redis_cluster: Callable[[], RedisCluster]
) -> None:
    cluster = new_redis_cluster()
    backend, other = make(cluster), make(cluster)
    entries = {key: entry_of(key.digest.encode(), expires_in=None) for key in KEYS}
    await asyncio.gather(*[backend.set(key, entry) for key, entry in entries.items()])
    for key, found in zip(KEYS, await asyncio.gather(*[other.get(key) for key in KEYS]), strict=True):
        assert found == entries[key]
    victim = cluster.master_of(slot_of(backend, KEYS[0]))
    names = [f"{backend.key_prefix}{key.digest}" for key in KEYS]
    await until(lambda: sum(server.ask("DBSIZE") for server in cluster.servers) >= 2 * len(names))
    victim.kill()
    started = time.monotonic()
    failures = 0
    async with asyncio.timeout(PATIENCE):
        while True:
            began = time.monotonic()
            outcomes = await asyncio.gather(
                *[backend.get(key) for key in KEYS], backend.set(key_of("new"), entry_of(b"1")), return_exceptions=True
            )
            assert time.monotonic() - began < 3.0, "calls on a dead node are slow to fail"
            for outcome in outcomes:
                assert not isinstance(outcome, BaseException) or isinstance(outcome, BackendError), repr(outcome)
            failed = sum(isinstance(outcome, BaseException) for outcome in outcomes)
            failures += failed
            if not failed:
                break
            await asyncio.sleep(0.05)
    assert failures
    assert outcomes[:-1] == [entries[key] for key in KEYS], "lost"
    assert time.monotonic() - started < PATIENCE
    await asyncio.gather(*[backend.set(key, entry_of(b"again")) for key in KEYS])
    victim.start()
    cluster.wait_until_whole()
    assert None not in await asyncio.gather(*[backend.get(key) for key in KEYS])


async def test_a_frozen_node_does_not_hold_up_the_others(
    make: Backend, new_redis_cluster: Callable[[], RedisCluster]
) -> None:
    cluster = new_redis_cluster()
    backend = make(cluster, socket_timeout=0.5)
    await asyncio.gather(*[backend.set(key, entry_of(b"1")) for key in KEYS])
    frozen = cluster.master_of(slot_of(backend, KEYS[0]))
    elsewhere = [key for key in KEYS[:30] if cluster.master_of(slot_of(backend, key)) is not frozen]
    frozen.freeze()
    stuck = [asyncio.ensure_future(backend.get(KEYS[0])) for _ in range(10)]
    found = await asyncio.gather(*[backend.get(key) for key in elsewhere])
    assert None not in found
    assert not any(task.done() for task in stuck)
    for outcome in await asyncio.gather(*stuck, return_exceptions=True):
        assert isinstance(outcome, BackendError)
    frozen.thaw()


async def test_no_cluster_at_all(make: Backend, new_redis_cluster: Callable[[], RedisCluster]) -> None:
    cluster = new_redis_cluster()
    warm, cold = make(cluster), make(cluster)
    await warm.set(KEYS[0], entry_of(b"1"))
    for server in cluster.servers:
        server.kill()
    for backend in (warm, cold):
        for call in (backend.get(KEYS[0]), backend.set(KEYS[0], entry_of(b"1")), backend.ping()):
            began = time.monotonic()
            with pytest.raises(BackendUnavailable) as caught:
                await call
            assert caught.value.backend == "redis_cluster"
            assert time.monotonic() - began < 1.0


async def test_one_server_that_is_no_cluster(make: Backend, redis_server: Any) -> None:
    backend = RedisClusterBackend([f"{redis_server.host}:{redis_server.port}"])
    with pytest.raises(BackendUnavailable):
        await backend.get(KEYS[0])
    await backend.aclose()


async def test_some_startup_nodes_may_be_dead(make: Backend, redis_cluster: RedisCluster) -> None:
    backend = make(
        redis_cluster, startup_nodes=[("127.0.0.1", 1), {"host": "127.0.0.1", "port": "2"}, *redis_cluster.nodes]
    )
    await backend.ping()


async def test_cancelled_callers_do_not_stop_the_first_look(make: Backend, redis_cluster: RedisCluster) -> None:
    backend = make(redis_cluster)
    for turns in range(30):
        task = asyncio.ensure_future(backend.get(KEYS[0]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
    assert await backend.get(KEYS[0]) is None


async def test_closing_before_the_first_look_has_ended(make: Backend, redis_cluster: RedisCluster) -> None:
    before = asyncio.all_tasks()
    for turns in range(40):
        backend = make(redis_cluster)
        tasks = [asyncio.ensure_future(backend.get(key)) for key in KEYS[:10]]
        for _ in range(turns):
            await asyncio.sleep(0)
        await backend.aclose()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, BackendClosed), repr(outcome)
        assert asyncio.all_tasks() == before


# Leases and changes go over all nodes.


async def test_leases(make: Backend, redis_cluster: RedisCluster) -> None:
    one, other = make(redis_cluster), make(redis_cluster)
    for key in KEYS[:10]:
        mine, theirs = token_hex(8), token_hex(8)
        assert await one.leases.acquire(key, mine)
        assert not await other.leases.acquire(key, theirs)
        async with other.leases.watch(key) as wait:
            assert await one.leases.renew(key, mine)
            await one.leases.release(key, mine, True)
            assert await wait(PATIENCE) == "stored"
        assert await other.leases.acquire(key, theirs)
        await other.leases.release(key, theirs, False)


async def test_changes(make: Backend, redis_cluster: RedisCluster) -> None:
    one, other = make(redis_cluster), make(redis_cluster)
    heard: list[str | None] = []
    async with other.changes.listen(heard.append):
        await until(lambda: heard == [None])
        await asyncio.gather(*[one.set(key, entry_of(b"1")) for key in KEYS])
        await until(lambda: len(heard) > len(KEYS))
        assert sorted(filter(None, heard)) == sorted(key.digest for key in KEYS)


async def test_news_comes_from_another_node_when_one_dies(
    make: Backend, new_redis_cluster: Callable[[], RedisCluster]
) -> None:
    cluster = new_redis_cluster()
    one, other = make(cluster), make(cluster)
    heard: list[str | None] = []
    async with other.changes.listen(heard.append):
        await until(lambda: heard == [None])
        teller = next(server for server in cluster.servers if "sub=1" in str(server.ask("CLIENT", "LIST")))
        teller.kill()
        await until(lambda: heard == [None, None, None])
        async with asyncio.timeout(PATIENCE):
            while KEYS[0].digest not in heard:
                try:
                    await one.set(KEYS[0], entry_of(b"1"))
                except BackendError:
                    pass  # the cluster has not yet agreed on who takes over
                await asyncio.sleep(0.05)


# Options.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["startup_nodes", "url"]),
        ({"startup_nodes": [("h", 1)], "url": "redis://h"}, ["startup_nodes", "url"]),
        ({"startup_nodes": []}, ["startup_nodes"]),
        ({"startup_nodes": "h:1"}, ["startup_nodes", "h:1"]),
        ({"startup_nodes": [("h", 0)]}, ["startup_nodes", "0"]),
        ({"url": "unix:///tmp/s"}, ["Unix socket", "redis://"]),
        ({"url": "redis://user:s3cret@h/3"}, ["databases", "3"]),
        ({"startup_nodes": [("h", 1)], "ssl_ca_certs": "/ca"}, ["ssl_ca_certs", "ssl=True"]),
        ({"startup_nodes": [("h", 1)], "connections": 0}, ["connections", "0"]),
    ],
    ids=str,
)
def test_options_that_make_no_sense(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisClusterBackend(**options)
    for word in words:
        assert word in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_it_shows_itself_without_passwords() -> None:
    backend = RedisClusterBackend(url="redis://user:s3cret@example.test:7000")
    assert "s3cret" not in repr(backend)
    assert "example.test:7000" in repr(backend)
