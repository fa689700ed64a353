"""A real instructor over real HTTP, patched onto a wrapped client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import instructor
import pytest
from instructor.core import InstructorRetryException
from openai import AsyncOpenAI
from pydantic import BaseModel

from asynccache import Cache, status
from asynccache.testing.provider import SimulatedProvider, ToolCall

MESSAGES: Any = [{"role": "user", "content": "Jason is 25 years old."}]


class User(BaseModel):
    name: str
    age: int


JASON = ToolCall("User", '{"name": "Jason", "age": 25}')
ASKED: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES, "response_model": User}


@pytest.fixture
async def client(provider: SimulatedProvider) -> AsyncIterator[instructor.AsyncInstructor]:
    plain = AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0)
    async with Cache() as cache, plain:
        yield instructor.from_openai(cache.wrap(plain))


def calls(provider: SimulatedProvider) -> int:
    return sum(provider.calls.values())


async def test_a_miss_and_a_hit(provider: SimulatedProvider, client: instructor.AsyncInstructor) -> None:
    """The second call is answered from the cache, and parsed to the same object."""
    provider.answer_next(tool_calls=[JASON])
    answers = [await client.create_with_completion(**ASKED) for _ in range(2)]
    assert [user.model_dump() for user, _ in answers] == [{"name": "Jason", "age": 25}] * 2
    assert [status(completion).outcome for _, completion in answers] == ["miss", "hit"]
    assert calls(provider) == 1


async def test_a_stream(provider: SimulatedProvider, client: instructor.AsyncInstructor) -> None:
    """Partial objects come from a stored stream as they came from the live one."""
    provider.answer_next(tool_calls=[JASON])
    first, again = [[user.model_dump() async for user in client.create_partial(**ASKED)] for _ in range(2)]
    assert len(first) > 1
    assert first == again
    assert first[-1] == {"name": "Jason", "age": 25}
    assert calls(provider) == 1


async def test_an_error(provider: SimulatedProvider, client: instructor.AsyncInstructor) -> None:
    """An error is instructor's own, and is not kept."""
    provider.fail_next(400)
    with pytest.raises(InstructorRetryException):
        await client.create(**ASKED, max_retries=1)
    provider.answer_next(tool_calls=[JASON])
    assert (await client.create(**ASKED)).model_dump() == {"name": "Jason", "age": 25}
    assert calls(provider) == 2


async def test_an_answer_that_does_not_fit_is_asked_for_again(
    provider: SimulatedProvider, client: instructor.AsyncInstructor
) -> None:
    """Its second question holds the first answer, so it is another call; the next run has both from the cache."""
    provider.answer_next(tool_calls=[ToolCall("User", '{"name": "Jason"}')])
    provider.answer_next(tool_calls=[JASON])
    users = [await client.create(**ASKED, max_retries=2) for _ in range(2)]
    assert [user.model_dump() for user in users] == [{"name": "Jason", "age": 25}] * 2
    assert calls(provider) == 2
