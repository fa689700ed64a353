"""One of several processes that make the same calls through one Redis: `python -m tests.redis_caller URL PREFIX CALLS`.

Its upstream counts itself in Redis and answers when it is told to. At its end it prints how its calls were answered.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from typing import Any

import orjson
from redis.asyncio import Redis

from asynccache import Cache, status

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "The same for all of us?"}]}


async def main(url: str, prefix: str, calls: int) -> None:
    async with (
        Redis.from_url(url, socket_timeout=None) as redis,
        Cache(type="redis", url=url, key_prefix=prefix) as cache,
    ):

        async def upstream(**_: Any) -> dict[str, Any]:
            await redis.rpush(f"{prefix}calls", os.getpid())
            await redis.blpop([f"{prefix}answer"])
            return {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": str(os.getpid())}}]}

        acompletion = cache.wrap(upstream)
        under_way = asyncio.gather(*[acompletion(**REQUEST) for _ in range(calls)])
        while not (cache.stats.lease_waits or cache.stats.upstream_calls or under_way.done()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # another process decides
        await redis.rpush(f"{prefix}waiting", os.getpid())
        answers = await under_way
        outcomes = Counter(status(answer).outcome for answer in answers)
        said = {answer["choices"][0]["message"]["content"] for answer in answers}
        print(orjson.dumps({"outcomes": outcomes, "said": sorted(said), "stats": cache.stats.as_dict()}).decode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
