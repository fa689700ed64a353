"""Calls recorded once and played back from then on: what the pytest fixture `llm_cassette` does for a test."""

import asyncio
from pathlib import Path

from openai import AsyncOpenAI

from asynccache.testing.cassette import Cassette, Mode, NotRecorded


async def ask(mode: Mode, question: str) -> None:
    cassette = Cassette(Path("cassettes/greeting.json"), mode)
    async with AsyncOpenAI() as plain, cassette.cache() as cache:
        client = cache.wrap(plain)
        messages = [{"role": "user", "content": question}]
        answer = await client.chat.completions.create(model="gpt-4o", messages=messages)  # type: ignore[arg-type]
        print(f"{mode}: {answer.choices[0].message.content}")
    cassette.save()


async def main() -> None:
    await ask("record", "Say hello.")  # one call is made; look into the file
    await ask("replay", "Say hello.")  # none is
    try:
        await ask("replay", "Say good bye.")
    except NotRecorded as error:
        print(error)


if __name__ == "__main__":
    asyncio.run(main())
