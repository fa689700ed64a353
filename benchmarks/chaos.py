"""What a failing Redis costs its callers: `python -m benchmarks.chaos [--json] [--rate 5000] [--only frozen]`.

Calls come at a steady rate, three in ten of them for answers that are in Redis, the rest new ones; the provider
answers at once, so that all a call takes is the cache's doing. After a second of health something happens to Redis,
after two more it is undone:

    killed      kill -9; then started again on the same port
    frozen      SIGSTOP; then SIGCONT
    garbage     its answers are replaced by bytes that are no protocol
    late        its answers come after five seconds
    refused     it wants a password that we do not have
    full        it is out of memory: it reads, and refuses to write
    failover    kill -9 of a master under Sentinel, which makes its replica the master; nothing is undone

failed:    calls that raised. It must be 0.
added:     milliseconds by which a call was slower while it lasted than the median in health: at most, and p99.
open:      how many times the breaker opened.
recovered: seconds from the undoing (failover: from the kill) until hits came back to four fifths of their share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from redis.asyncio import Redis

from asynccache import Cache, status
from asynccache.guard import Guard
from asynccache.testing import FaultProxy
from tests.servers.redis import RedisSentinel, RedisServer

_HEALTHY, _ILL, _AFTER = 1.0, 2.0, 6.0  # seconds
_KNOWN = 200
_HITS = 0.3

Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Store:
    """A Redis that something can happen to: how to reach it, what to do to it, how to undo it."""

    options: dict[str, Any]
    hurt: Act
    heal: Act


@dataclass(frozen=True, slots=True)
class Called:
    """One call: when it began, how long it took, both in seconds, and what came of it."""

    began: float
    took: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    calls: int
    failed: int
    median_ms: float
    added_ms_p99: float
    added_ms_max: float
    opened: int
    recovered: float | None
    worst_lag_ms: float


# -- what happens -------------------------------------------------------------------------------------


@asynccontextmanager
async def killed() -> AsyncIterator[Store]:
    with RedisServer() as server:
        yield Store({"url": server.url}, _later(server.kill), _later(server.start))


@asynccontextmanager
async def frozen() -> AsyncIterator[Store]:
    with RedisServer() as server:
        yield Store({"url": server.url}, _later(server.freeze), _later(server.thaw))


@asynccontextmanager
async def garbage() -> AsyncIterator[Store]:
    with _proxied() as (tell, options):
        yield Store(options, lambda: tell("garble"), lambda: tell("heal"))


@asynccontextmanager
async def late() -> AsyncIterator[Store]:
    with _proxied() as (tell, options):
        yield Store(options, lambda: tell("delay", 5.0), lambda: tell("heal"))


@asynccontextmanager
async def refused() -> AsyncIterator[Store]:
    with RedisServer() as server:

        async def hurt() -> None:
            async with Redis.from_url(server.url) as client:
                await client.config_set("requirepass", "another")
                for kind in ("normal", "pubsub"):
                    await client.client_kill_filter(_type=kind, skipme=True)

        async def heal() -> None:
            async with Redis.from_url(server.url, password="another") as client:
                await client.config_set("requirepass", "")

        yield Store({"url": server.url}, hurt, heal)


@asynccontextmanager
async def full() -> AsyncIterator[Store]:
    with RedisServer() as server:

        async def limit(size: str) -> None:
            async with Redis.from_url(server.url) as client:
                await client.config_set("maxmemory", size)

        yield Store({"url": server.url}, lambda: limit("1mb"), lambda: limit("0"))


@asynccontextmanager
async def failover() -> AsyncIterator[Store]:
    with RedisSentinel() as sentinel:
        options = {"sentinel_nodes": sentinel.sentinels, "service_name": sentinel.service}
        yield Store(options, _later(sentinel.master.kill), _nothing)


_CASES = {case.__name__: case for case in (killed, frozen, garbage, late, refused, full, failover)}


@contextmanager
def _proxied() -> Iterator[tuple[Callable[..., Awaitable[None]], dict[str, Any]]]:
    """A Redis behind a proxy, which has a process of its own: its work is not the callers'."""
    with RedisServer() as server:
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(
            target=_serve_proxy, args=(theirs, server.host, server.port), daemon=True
        )
        process.start()

        async def tell(verb: str, *args: float) -> None:
            ours.send((verb, *args))
            await asyncio.to_thread(ours.recv)

        try:
            yield tell, {"host": server.host, "port": ours.recv()}
        finally:
            process.kill()
            process.join()


def _serve_proxy(pipe: Connection, host: str, port: int) -> None:
    async def serve() -> None:
        async with FaultProxy(host, port) as proxy:
            pipe.send(proxy.port)
            while True:
                verb, *args = await asyncio.to_thread(pipe.recv)
                getattr(proxy, verb)(*args)
                pipe.send(None)

    asyncio.run(serve())


def _later(act: Callable[[], object]) -> Act:
    async def run() -> None:
        await asyncio.to_thread(act)  # they wait until it is done

    return run


async def _nothing() -> None:
    pass


# -- the load -----------------------------------------------------------------------------------------


async def measure(what: str, rate: float) -> Row:
    async with _CASES[what]() as store, Cache(type="redis", ttl=3600, **store.options) as cache:
        acompletion = cache.wrap(_provider)
        await _fill(acompletion)
        calls: list[Called] = []
        start = time.perf_counter()
        load = asyncio.create_task(_load(acompletion, rate, calls, start + _HEALTHY + _ILL + _AFTER))
        lags = [0.0]
        lag = asyncio.create_task(_watch_lag(lags))
        await asyncio.sleep(_HEALTHY)
        hurt = time.perf_counter()
        await store.hurt()
        await asyncio.sleep(_ILL)
        healed = time.perf_counter()
        await store.heal()
        healed = hurt if what == "failover" else healed
        await load
        lag.cancel()
        opened = cache.backend.stats.opened if isinstance(cache.backend, Guard) else 0
        return _row(what, calls, hurt, healed, opened, max(lags))


async def _provider(**_: Any) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "x" * 1000}}]}


def _request(name: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": name}]}


async def _fill(acompletion: Callable[..., Awaitable[Any]]) -> None:
    for number in range(_KNOWN):
        await acompletion(**_request(f"known {number}"))


async def _load(acompletion: Callable[..., Awaitable[Any]], rate: float, calls: list[Called], end: float) -> None:
    chance = random.Random(1)
    under_way: set[asyncio.Task[None]] = set()
    sent, start = 0, time.perf_counter()

    async def call(name: str) -> None:
        began = time.perf_counter()
        try:
            outcome = status(await acompletion(**_request(name))).outcome
        except Exception as error:  # what the benchmark counts
            outcome = f"failed: {error!r}"  # type: ignore[assignment]
        calls.append(Called(began, time.perf_counter() - began, outcome))

    while (now := time.perf_counter()) < end:
        while sent < (now - start) * rate:
            name = f"known {chance.randrange(_KNOWN)}" if chance.random() < _HITS else f"new {sent}"
            task = asyncio.create_task(call(name))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            sent += 1
        await asyncio.sleep(0.002)
    while under_way:
        await asyncio.wait(under_way)


async def _watch_lag(lags: list[float]) -> None:
    """How much too late a task was that wants to run every millisecond."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - before - 0.001)


def _row(what: str, calls: list[Called], hurt: float, healed: float, opened: int, lag: float) -> Row:
    healthy = sorted(call.took for call in calls if call.began < hurt - 0.2)
    median = healthy[len(healthy) // 2]
    ill = sorted(call.took for call in calls if hurt - 0.2 <= call.began)
    failed = [call.outcome for call in calls if call.outcome.startswith("failed")]
    for outcome in sorted(set(failed)):
        print(outcome)
    return Row(
        what,
        len(calls),
        len(failed),
        median * 1e3,
        (ill[len(ill) * 99 // 100] - median) * 1e3,
        (ill[-1] - median) * 1e3,
        opened,
        _recovered(calls, healed),
        lag * 1e3,
    )


def _recovered(calls: list[Called], healed: float) -> float | None:
    """Seconds after it was healed until a tenth of a second had its share of hits again, and each one after it."""
    window = 0.1
    found = None
    last = max(call.began for call in calls)
    at = healed
    while at + window < last:
        inside = [call.outcome for call in calls if at <= call.began < at + window]
        good = inside and sum(outcome == "hit" for outcome in inside) >= 0.8 * _HITS * len(inside)
        found = (at - healed if found is None else found) if good else None
        at += window
    return found


async def main(rate: float, only: str) -> list[Row]:
    return [await measure(what, rate) for what in _CASES if only in ("", what)]


def _table(rows: list[Row]) -> str:
    heads = f"{'median ms':>11}{'added p99':>11}{'added max':>11}{'opened':>8}{'back s':>8}{'lag ms':>8}"
    lines = [f"{'':10}{'calls':>8}{'failed':>8}{heads}"]
    for row in rows:
        back = "-" if row.recovered is None else f"{row.recovered:.1f}"
        figures = f"{row.median_ms:>11.2f}{row.added_ms_p99:>11.1f}{row.added_ms_max:>11.1f}{row.opened:>8}{back:>8}"
        lines.append(f"{row.what:10}{row.calls:>8}{row.failed:>8}{figures}{row.worst_lag_ms:>8.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rate", type=float, default=5000, help="calls per second")
    parser.add_argument("--only", default="", choices=["", *_CASES], help="one of them")
    options = parser.parse_args()
    conditions = {"python": platform.python_version(), "cpus": os.cpu_count(), "rate": options.rate, "hits": _HITS}
    found = asyncio.run(main(options.rate, options.only))
    if options.json:
        print(json.dumps({"conditions": conditions, "rows": [asdict(row) for row in found]}, indent=2))
    else:
        print(", ".join(f"{name} {value}" for name, value in conditions.items()), _table(found), sep="\n\n")
