"""Any SDK that lets its HTTP client be set is cached, without a line of ours about it.

Here it is no SDK at all but a plain HTTP client; `Mistral(async_client=http)`, `AsyncGroq(http_client=http)` or
`AsyncOpenAI(http_client=http)` take the same one.
"""

import asyncio
import os
from typing import Any

import httpx

from asynccache import Cache, status
from asynccache.clients.httpx import AsyncCacheTransport

URL = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1") + "/chat/completions"
KEY = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}


async def main() -> None:
    body: dict[str, Any] = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Name three rivers in Europe."}],
    }
    async with Cache(ttl=3600) as cache:
        async with httpx.AsyncClient(transport=AsyncCacheTransport(cache), headers=KEY, timeout=60) as http:
            # The last one wants the answer as a stream: the one entry serves both ways.
            for asked in (body, body, {**body, "stream": True}):
                response = await http.post(URL, json=asked)
                print(f"{status(response).outcome:<5} {response.headers['content-type'].partition(';')[0]}")
        print(f"{cache.stats.upstream_calls} call paid for, {cache.stats.hits} answered from the cache")


if __name__ == "__main__":
    asyncio.run(main())
