"""A provider, a cache, and the real servers, started when the first test asks for one. Share servers by a prefix, a
bucket or container of your own, never by FLUSHALL. A test that kills or freezes a server takes one of its own:
`new_redis` and the like.

Nothing is skipped: a program that is missing fails the test, and says what gets it. The servers are imported where
they are used, because not every environment of the tests has what they need.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from asynccache import Cache

if TYPE_CHECKING:
    from asynccache.testing.provider import SimulatedProvider
    from tests.servers.azurite import AzuriteServer
    from tests.servers.gcs import GcsServer
    from tests.servers.qdrant import QdrantServer
    from tests.servers.redis import (
        RedisCluster,
        RedisSentinel,
        RedisServer,
        SearchRedisServer,
        TlsRedisServer,
        VectorRedisServer,
    )
    from tests.servers.s3 import S3Server


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    async with Cache() as cache:
        yield cache


@pytest.fixture
async def provider() -> AsyncIterator[SimulatedProvider]:
    """Real HTTP, simulated answers."""
    from asynccache.testing.provider import SimulatedProvider

    async with SimulatedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def small_heap() -> Iterator[None]:
    """For modules that collect garbage hundreds of times: what the modules before them have left, SDKs and all, is not
    looked through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    from tests.servers.redis import RedisServer

    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_tls() -> Iterator[TlsRedisServer]:
    from tests.servers.redis import TlsRedisServer

    with TlsRedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    from tests.servers.redis import RedisCluster

    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[RedisSentinel]:
    from tests.servers.redis import RedisSentinel

    with RedisSentinel() as sentinel:
        yield sentinel


@pytest.fixture
def new_redis() -> Iterator[Callable[..., RedisServer]]:
    """Start a server for this test alone: `new_redis("--maxmemory", "1mb")`."""
    from tests.servers.redis import RedisServer

    with ExitStack() as started:
        yield lambda *options: started.enter_context(RedisServer(*options))


@pytest.fixture
def new_redis_tls() -> Iterator[Callable[..., TlsRedisServer]]:
    from tests.servers.redis import TlsRedisServer

    with ExitStack() as started:
        yield lambda *options, **acl: started.enter_context(TlsRedisServer(*options, **acl))


@pytest.fixture
def new_redis_cluster() -> Iterator[Callable[[], RedisCluster]]:
    from tests.servers.redis import RedisCluster

    with ExitStack() as started:
        yield lambda: started.enter_context(RedisCluster())


@pytest.fixture
def new_redis_sentinel() -> Iterator[Callable[[], RedisSentinel]]:
    from tests.servers.redis import RedisSentinel

    with ExitStack() as started:
        yield lambda: started.enter_context(RedisSentinel())


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    from tests.servers.s3 import S3Server

    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    from tests.servers.gcs import GcsServer

    with GcsServer() as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzuriteServer]:
    from tests.servers.azurite import AzuriteServer

    with AzuriteServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_vectors() -> Iterator[VectorRedisServer]:
    """A Redis 8 with vector sets, and no RediSearch."""
    from tests.servers.redis import VectorRedisServer

    with VectorRedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_search() -> Iterator[SearchRedisServer]:
    from tests.servers.redis import SearchRedisServer

    with SearchRedisServer() as server:
        yield server


@pytest.fixture
def new_redis_search() -> Iterator[Callable[..., SearchRedisServer]]:
    from tests.servers.redis import SearchRedisServer

    with ExitStack() as started:
        yield lambda *options: started.enter_context(SearchRedisServer(*options))


@pytest.fixture(scope="session")
def qdrant_server() -> Iterator[QdrantServer]:
    from tests.servers.qdrant import QdrantServer

    with QdrantServer() as server:
        yield server


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of a small embedding model."""
    from tests.servers import programs

    return str(programs.minilm())
