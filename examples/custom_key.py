"""Keys that leave out who asks: calls that differ only in `user` or `metadata` share one entry."""

import asyncio
from typing import Any

from asynccache import Cache, status
from asynccache.key_builders import default_key, ignore
from asynccache.testing import FakeUpstream


def build_cache_key(model: str, messages: list[Any], **kwargs: Any) -> str:
    """The default key of the same call without these two arguments; the call itself keeps them."""
    for name in ("user", "metadata"):
        kwargs.pop(name, None)
    return default_key(model=model, messages=messages, **kwargs)


async def main() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    # A function of your own, or what is ready to be taken: here they come to the same.
    for key_builder in (build_cache_key, ignore("user", "metadata")):
        async with Cache(key_builder=key_builder) as cache:
            acompletion = cache.wrap(FakeUpstream())
            for user in ("ann", "bob"):
                answer = await acompletion(model="gpt-4o", messages=messages, user=user)
                print(user, status(answer).outcome)


if __name__ == "__main__":
    asyncio.run(main())
