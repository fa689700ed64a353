"""Keys that leave out who asks: calls that differ only in `user` or `metadata` share one entry."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from asynccache import Cache, CacheKey, Directives, Stage, Target, status
from asynccache.keys import build_key
from asynccache.stages.build_key import BuildKey
from asynccache.testing import FakeUpstream


def without_user(params: Mapping[str, Any], target: Target, directives: Directives, *, files: bool = False) -> CacheKey:
    """The default key of the same call without these two arguments; the call itself keeps them."""
    rest = {name: value for name, value in params.items() if name not in ("user", "metadata")}
    return build_key(rest, target, directives, files=files)


def stages(default: list[Stage]) -> Sequence[Stage]:
    """The default stages, with keys of our own."""
    return [BuildKey(without_user) if isinstance(stage, BuildKey) else stage for stage in default]


async def main() -> None:
    async with Cache(stages=stages) as cache:
        acompletion = cache.wrap(FakeUpstream())
        messages = [{"role": "user", "content": "Hello"}]
        for user in ("ann", "bob"):
            answer = await acompletion(model="gpt-4o", messages=messages, user=user)
            print(user, status(answer).outcome)


if __name__ == "__main__":
    asyncio.run(main())
