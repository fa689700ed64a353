"""Pay for an answer once. Needs a key in OPENAI_API_KEY (or a local server's address in OPENAI_BASE_URL)."""

import asyncio

from openai import AsyncOpenAI

import asynccache
from asynccache import Cache


async def main() -> None:
    async with Cache(ttl=3600) as cache, cache.wrap(AsyncOpenAI()) as client:
        for _ in range(3):
            answer = await client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": "Name three rivers in Europe."}],
            )
            print(asynccache.status(answer).outcome, "→", answer.choices[0].message.content)
        print(f"{cache.stats.upstream_calls} call paid for, {cache.stats.hits} answered from the cache")


if __name__ == "__main__":
    asyncio.run(main())
