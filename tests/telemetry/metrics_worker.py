"""A process of a server: calls that miss and hit, and then it waits to be let go. It says what it counts itself."""

from __future__ import annotations

import asyncio
import sys

from asynccache import Cache
from asynccache.telemetry.prices import Prices
from asynccache.telemetry.prometheus import PrometheusObserver
from asynccache.testing import FakeUpstream


async def main(hits: int) -> None:
    observer = PrometheusObserver(Prices({"m": {"input": 1, "output": 1}}, library=False))
    async with Cache(observers=[observer]) as cache:
        observer.watch(cache)
        ask = cache.wrap(FakeUpstream())
        for _ in range(hits + 1):
            await ask(model="m", messages=[{"role": "user", "content": "Hi"}])
        await cache.drain()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        body, _ = await observer.metrics_response()
        sys.stdout.write(body.decode())
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
