"""LangChain's calls, answered from our cache. Needs a key in OPENAI_API_KEY (or a local server's address in
OPENAI_BASE_URL)."""

import asyncio

from langchain_core.globals import set_llm_cache
from langchain_openai import ChatOpenAI

from asynccache import Cache
from asynccache.clients.langchain import LangChainCache


async def main() -> None:
    async with Cache(ttl=3600) as cache:
        set_llm_cache(LangChainCache(cache))
        model = ChatOpenAI(model="gpt-4o-mini")
        for _ in range(3):
            answer = await model.ainvoke("Name three rivers in Europe.")
            print(answer.content)
        await model.root_async_client.close()
        print(f"{cache.stats.misses} call paid for, {cache.stats.hits} answered from the cache")


if __name__ == "__main__":
    asyncio.run(main())
