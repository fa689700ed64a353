"""Tenants told apart by an argument of the call, and one of them forgotten."""

import asyncio

from asynccache import Cache, status
from asynccache.key_builders import normalized, per_tenant
from asynccache.testing import FakeUpstream


async def main() -> None:
    # Each tenant's questions are its own; how they are spelled does not matter.
    async with Cache(key_builder=[per_tenant("user"), normalized()]) as cache:
        acompletion = cache.wrap(FakeUpstream())

        async def ask(tenant: str, text: str) -> None:
            answer = await acompletion(model="gpt-4o", messages=[{"role": "user", "content": text}], user=tenant)
            print(f"{tenant} asks {text!r}: {status(answer).outcome}")

        await ask("acme", "Where is my parcel?")
        await ask("acme", "where is my  parcel")
        await ask("umbrella", "Where is my parcel?")
        await cache.bind(tenant="acme").clear()
        await ask("acme", "Where is my parcel?")
        await ask("umbrella", "where is my parcel?!")


if __name__ == "__main__":
    asyncio.run(main())
