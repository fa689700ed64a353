"""What a hit costs on each backend: `python -m benchmarks.backends [--json] [--readme] [--seconds 1.0] [--only redis]`.

Starts the real servers on this machine (Redis, Redis Cluster; for the object stores the best emulators there are),
stores 500 answers of 1.9 KB, and lets callers ask for them at random, for so many seconds:

    asynccache   the whole pipeline: key, look-up, checks, decoding, on the backend under its guard
    bare         one `get` of the same bytes by the backend's own client, nothing else
    litellm, aiocache, cashews   theirs, whole, where they have such a backend and are installed

p50 and p99 are of single calls, in microseconds; per_second is all callers together. `ratio` compares with the bare
client in the same run (dual: with the memory backend): time per call for one caller (less is better), throughput for
many (more is better). They take turns in short rounds, so that the machine's drift meets all alike.

--readme writes the table into README.md. Loopback has no latency to speak of: read the costs of CPU, not of networks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Any

import orjson

from asynccache import Cache, CacheKey, Entry, status
from asynccache.codec import PLAIN
from benchmarks.hit import ANSWER, BODY, REQUEST, TEXT
from tests.servers.azurite import AzuriteServer
from tests.servers.gcs import GcsServer
from tests.servers.redis import RedisCluster, RedisServer
from tests.servers.s3 import S3Server

Call = Callable[[int], Awaitable[Any]]
"""Ask for the answer with this number; it is there."""
Contender = Callable[[], Any]
"""Makes an async context manager that gives a Call."""

_ANSWERS = 500
_MANY = {"s3": 32, "gcs": 32, "azure_blob": 32}
_ROUNDS = 6
_PEERS = ("litellm", "aiocache", "cashews")
_README = Path(__file__).resolve().parent.parent / "README.md"
_MARKS = ("<!-- benchmarks.backends: begin -->", "<!-- benchmarks.backends: end -->")


@dataclass(frozen=True, slots=True)
class Row:
    backend: str
    who: str
    callers: int
    p50: float
    p99: float
    per_second: float
    ratio: float | None


async def main(seconds: float, only: str) -> list[Row]:
    rows = []
    async with AsyncExitStack() as servers:
        for backend, contenders in (await _backends(servers, only)).items():
            async with AsyncExitStack() as stack:
                calls = await _open(stack, backend, contenders)
                for callers in (1, _MANY.get(backend, 256)):
                    rows += await _compare(backend, calls, callers, seconds)
    return rows


async def _backends(stack: AsyncExitStack, only: str) -> dict[str, dict[str, Contender]]:
    """Backend → who answers from it → how. Starts the servers that it takes."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    found = {}
    for name, make in _BACKENDS.items():
        if only in ("", name):
            found[name] = make(stack, folder)
    return found


def _memory(_: AsyncExitStack, __: Path) -> dict[str, Contender]:
    return {"asynccache": ours, "aiocache": lambda: aiocache(""), "cashews": lambda: cashews("mem://")}


def _dual(stack: AsyncExitStack, _: Path) -> dict[str, Contender]:
    redis = stack.enter_context(RedisServer())
    return {
        "asynccache": lambda: ours(type="dual", l1="memory", l2={"type": "redis", "url": redis.url}),
        "memory alone": ours,
    }


def _disk(_: AsyncExitStack, folder: Path) -> dict[str, Contender]:
    return {
        "asynccache": lambda: ours(type="disk", path=folder / "ours"),
        "bare": lambda: bare_file(folder),
        "litellm": lambda: litellm(type="disk", disk_cache_dir=str(folder / "litellm")),
        "cashews": lambda: cashews(f"disk://?directory={folder}/cashews"),
    }


def _redis(stack: AsyncExitStack, _: Path) -> dict[str, Contender]:
    redis = stack.enter_context(RedisServer())
    return {
        "asynccache": lambda: ours(type="redis", url=redis.url),
        "bare": lambda: bare_redis(redis.url),
        "litellm": lambda: litellm(type="redis", host=redis.host, port=redis.port),
        "aiocache": lambda: aiocache(redis.url),
        "cashews": lambda: cashews(redis.url),
    }


def _redis_cluster(stack: AsyncExitStack, _: Path) -> dict[str, Contender]:
    nodes = [{"host": host, "port": port} for host, port in stack.enter_context(RedisCluster()).nodes]
    return {
        "asynccache": lambda: ours(type="redis", startup_nodes=nodes),
        "bare": lambda: bare_cluster(nodes),
        "litellm": lambda: litellm(type="redis", redis_startup_nodes=nodes),
    }


def _s3_store(stack: AsyncExitStack, _: Path) -> dict[str, Contender]:
    url = stack.enter_context(S3Server()).url
    return {
        "asynccache": lambda: ours_s3(url),
        "bare": lambda: bare_s3(url),
        "litellm": lambda: litellm_s3(url),
    }


def _gcs_store(stack: AsyncExitStack, _: Path) -> dict[str, Contender]:
    url = stack.enter_context(GcsServer()).url
    return {"asynccache": lambda: ours_gcs(url), "bare": lambda: bare_gcs(url)}


def _azure_store(stack: AsyncExitStack, _: Path) -> dict[str, Contender]:
    connection = stack.enter_context(AzuriteServer()).connection_string
    return {"asynccache": lambda: ours_azure(connection), "bare": lambda: bare_azure(connection)}


_BACKENDS: dict[str, Callable[[AsyncExitStack, Path], dict[str, Contender]]] = {
    "memory": _memory,
    "dual": _dual,
    "redis": _redis,
    "redis_cluster": _redis_cluster,
    "disk": _disk,
    "s3": _s3_store,
    "gcs": _gcs_store,
    "azure_blob": _azure_store,
}


# -- those who answer ---------------------------------------------------------------------------------


def _request(number: int) -> dict[str, Any]:
    messages = [REQUEST["messages"][0], {"role": "user", "content": f"Where is parcel {number}? {TEXT * 2}"}]
    return {**REQUEST, "messages": messages}


_REQUESTS = [_request(number) for number in range(_ANSWERS)]
# What the bare clients keep: the same bytes, under names of the same shape.
_NAMES = [
    f"bare/{digest[:2]}/{digest}" for digest in (sha256(b"%d" % number).hexdigest() for number in range(_ANSWERS))
]
_STORED = PLAIN.encode(CacheKey(_NAMES[0][-64:]), Entry(BODY, "completion", time.time(), expires=time.time() + 3600))
_ORDERS = [random.Random(number).choices(range(_ANSWERS), k=2000) for number in range(256)]


@asynccontextmanager
async def ours(**options: Any) -> AsyncIterator[Call]:
    async with Cache(ttl=3600, **options) as cache:
        acompletion = cache.wrap(_provider)

        def call(number: int) -> Awaitable[Any]:
            return acompletion(**_REQUESTS[number])

        await _fill(call)
        assert status(await call(0)).outcome == "hit", cache.stats
        yield call


async def _provider(**_: Any) -> dict[str, Any]:
    return ANSWER


async def _fill(call: Call) -> None:
    for start in range(0, _ANSWERS, 20):
        await asyncio.gather(*[call(number) for number in range(start, start + 20)])


@asynccontextmanager
async def bare_file(folder: Path) -> AsyncIterator[Call]:
    for name in _NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_STORED)
    yield lambda number: asyncio.to_thread((folder / _NAMES[number]).read_bytes)


@asynccontextmanager
async def bare_redis(url: str) -> AsyncIterator[Call]:
    from redis.asyncio import BlockingConnectionPool, Redis

    # As many connections as it takes for a caller not to wait long for one; the default pool raises beyond 100.
    async with Redis(connection_pool=BlockingConnectionPool.from_url(url, max_connections=32)) as client:
        for number in range(_ANSWERS):
            await client.set(_NAMES[number], _STORED)
        yield lambda number: client.get(_NAMES[number])


@asynccontextmanager
async def bare_cluster(nodes: list[dict[str, Any]]) -> AsyncIterator[Call]:
    from redis.asyncio.cluster import ClusterNode, RedisCluster

    async with RedisCluster(startup_nodes=[ClusterNode(**node) for node in nodes]) as client:
        limit = asyncio.Semaphore(32)
        for number in range(_ANSWERS):
            await client.set(_NAMES[number], _STORED)

        async def call(number: int) -> Any:
            async with limit:  # it has no pool that waits
                return await client.get(_NAMES[number])

        yield call


@asynccontextmanager
async def _s3(url: str) -> AsyncIterator[Any]:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    config = AioConfig(max_pool_connections=64)
    async with get_session().create_client("s3", endpoint_url=url, config=config, **keys) as client:
        yield client


@asynccontextmanager
async def ours_s3(url: str) -> AsyncIterator[Call]:
    async with _s3(url) as client:
        await client.create_bucket(Bucket="ours")
    keys = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}
    async with ours(type="s3", bucket="ours", endpoint_url=url, **keys) as call:
        yield call


@asynccontextmanager
async def bare_s3(url: str) -> AsyncIterator[Call]:
    async with _s3(url) as client:
        await client.create_bucket(Bucket="bare")
        for number in range(_ANSWERS):
            await client.put_object(Bucket="bare", Key=_NAMES[number], Body=_STORED)

        async def call(number: int) -> Any:
            answer = await client.get_object(Bucket="bare", Key=_NAMES[number])
            async with answer["Body"] as body:
                return await body.read()

        yield call


@asynccontextmanager
async def litellm_s3(url: str) -> AsyncIterator[Call]:
    async with _s3(url) as client:
        await client.create_bucket(Bucket="litellm")
    keys = {"s3_aws_access_key_id": "test", "s3_aws_secret_access_key": "test", "s3_region_name": "us-east-1"}
    async with litellm(type="s3", s3_bucket_name="litellm", s3_endpoint_url=url, **keys) as call:
        yield call


@asynccontextmanager
async def ours_gcs(url: str) -> AsyncIterator[Call]:
    async with _gcs_bucket(url, "ours"), ours(type="gcs", bucket="ours", api_root=url) as call:
        yield call


@asynccontextmanager
async def bare_gcs(url: str) -> AsyncIterator[Call]:
    async with _gcs_bucket(url, "bare") as storage:
        for number in range(_ANSWERS):
            await storage.upload("bare", _NAMES[number], _STORED)
        yield lambda number: storage.download("bare", _NAMES[number])


@asynccontextmanager
async def _gcs_bucket(url: str, name: str) -> AsyncIterator[Any]:
    import aiohttp
    from gcloud.aio.storage import Storage

    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/storage/v1/b?project=test", json={"name": name}) as answer:
            assert answer.status in (200, 409), await answer.text()
        yield Storage(session=session, api_root=url)  # type: ignore[arg-type]  # it takes aiohttp's own


@asynccontextmanager
async def ours_azure(connection: str) -> AsyncIterator[Call]:
    options = {"connection_string": connection, "container": "ours"}
    async with _azure(connection, "ours"), ours(type="azure_blob", **options) as call:
        yield call


@asynccontextmanager
async def bare_azure(connection: str) -> AsyncIterator[Call]:
    async with _azure(connection, "bare") as container:
        for number in range(_ANSWERS):
            await container.upload_blob(_NAMES[number], _STORED)

        async def call(number: int) -> Any:
            return await (await container.download_blob(_NAMES[number])).readall()

        yield call


@asynccontextmanager
async def _azure(connection: str, name: str) -> AsyncIterator[Any]:
    from azure.storage.blob.aio import BlobServiceClient

    async with BlobServiceClient.from_connection_string(connection) as service:
        yield await service.create_container(name)


@asynccontextmanager
async def litellm(**options: Any) -> AsyncIterator[Call]:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the network
    import litellm
    from litellm.caching.caching import Cache as LiteLLMCache

    litellm.cache = LiteLLMCache(ttl=3600, **options)
    common = {"mock_response": ANSWER["choices"][0]["message"]["content"], "caching": True}

    async def call(number: int) -> Any:
        return await litellm.acompletion(**_REQUESTS[number], **common)

    for number in range(_ANSWERS):
        await call(number)
    await asyncio.sleep(1)  # it writes in tasks that nobody can wait for
    answer = await call(0)
    assert answer._hidden_params.get("cache_hit") is True
    yield call
    litellm.cache = None


@asynccontextmanager
async def aiocache(url: str) -> AsyncIterator[Call]:
    import aiocache

    options: dict[str, Any] = {}
    if url:
        from aiocache.serializers import JsonSerializer
        from redis.asyncio import Redis

        options = {"cache": aiocache.RedisCache, "client": Redis.from_url(url), "serializer": JsonSerializer()}
    acompletion: Any = aiocache.cached(ttl=3600, **options)(_provider)

    async def call(number: int) -> Any:
        return await acompletion(**_REQUESTS[number])

    await _fill(call)
    yield call


@asynccontextmanager
async def cashews(url: str) -> AsyncIterator[Call]:
    from cashews import Cache as Cashews

    cache = Cashews()
    cache.setup(url)
    acompletion: Any = cache(ttl="1h", key="{messages}")(_keyed)

    async def call(number: int) -> Any:
        return await acompletion(str(_REQUESTS[number]))

    await _fill(call)
    yield call
    await cache.close()


async def _keyed(messages: str) -> dict[str, Any]:
    return ANSWER


# -- measuring ----------------------------------------------------------------------------------------


async def _open(stack: AsyncExitStack, backend: str, contenders: dict[str, Contender]) -> dict[str, Call]:
    calls = {}
    for who, contender in contenders.items():
        try:
            calls[who] = await stack.enter_async_context(contender())
        except ImportError:
            continue  # one that is not installed
        except Exception as error:  # a peer that cannot is left out, and said
            if who not in _PEERS:
                raise
            print(f"{who} on {backend}: {type(error).__name__}: {error}")
    return calls


async def _compare(backend: str, calls: dict[str, Call], callers: int, seconds: float) -> list[Row]:
    times: dict[str, list[float]] = {who: [] for who in calls}
    rates: dict[str, list[float]] = {who: [] for who in calls}
    for call in calls.values():
        await _round(call, callers, seconds / _ROUNDS)
    for _ in range(_ROUNDS):
        for who, call in calls.items():
            took, rate = await _round(call, callers, seconds / _ROUNDS)
            times[who] += took
            rates[who].append(rate)
    base = rates.get("bare") or rates.get("memory alone")
    return [_row(backend, who, callers, sorted(times[who]), rates[who], base) for who in calls]


async def _round(call: Call, callers: int, seconds: float) -> tuple[list[float], float]:
    took: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds

    async def caller(number: int) -> None:
        numbers = cycle(_ORDERS[number % len(_ORDERS)])  # drawn before: it should not be what is measured
        while (start := time.perf_counter()) < end:
            await call(next(numbers))
            took.append(time.perf_counter() - start)

    await asyncio.gather(*[caller(number) for number in range(callers)])
    return took, len(took) / (time.perf_counter() - begin)


def _row(backend: str, who: str, callers: int, times: list[float], rates: list[float], base: list[float] | None) -> Row:
    ratio = None
    if base is not None and rates is not base:
        pairs = list(zip(rates, base, strict=True))
        ratio = statistics.median(theirs / mine if callers == 1 else mine / theirs for mine, theirs in pairs)
    middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
    return Row(backend, who, callers, middle * 1e6, late * 1e6, statistics.median(rates), ratio)


def _conditions(seconds: float) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "request_bytes": len(orjson.dumps(_REQUESTS[0])),
        "answer_bytes": len(BODY),
        "seconds": seconds,
    }


def _table(rows: list[Row]) -> list[str]:
    lines = [
        "| backend | who | callers | p50 µs | p99 µs | calls/s | beside the bare client (dual: beside memory) |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        beside = "" if row.ratio is None else f"{row.ratio:.2f} × {'time' if row.callers == 1 else 'throughput'}"
        figures = f"{row.p50:,.0f} | {row.p99:,.0f} | {row.per_second:,.0f} | {beside}"
        lines.append(f"| {row.backend} | {row.who} | {row.callers} | {figures} |")
    return lines


def _write_readme(lines: list[str]) -> None:
    text = _README.read_text()
    before, _, rest = text.partition(_MARKS[0])
    _, _, after = rest.partition(_MARKS[1])
    _README.write_text("\n".join([f"{before}{_MARKS[0]}", *lines, f"{_MARKS[1]}{after}"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    parser.add_argument("--seconds", type=float, default=1.2, help="for each row")
    parser.add_argument("--only", default="", help="one backend")
    options = parser.parse_args()
    conditions = _conditions(options.seconds)
    found = asyncio.run(main(options.seconds, options.only))
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in conditions.items())
    if options.json:
        print(json.dumps({"conditions": conditions, "rows": [asdict(row) for row in found]}, indent=2))
    else:
        print("\n".join([said, "", *_table(found)]))
    if options.readme:
        _write_readme(["", f"Conditions: {said}; servers on the same machine.", "", *_table(found), ""])
