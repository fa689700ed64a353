"""Two proxies, each a process of its own, over one Redis."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from asynccache.testing.provider import SimulatedProvider
from tests.proxy.processes import CHAT, Served, serve
from tests.servers.redis import RedisServer


@pytest.fixture
async def pair(
    provider: SimulatedProvider, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[tuple[Served, Served]]:
    # Patient, so that a busy machine is not taken for a Redis that hangs. A lease of one who was killed ends soon.
    redis = {"type": "redis", "host": redis_server.host, "port": redis_server.port, "namespace": tmp_path.name}
    config = {"upstream": provider.origin, "caching": {**redis, "read_timeout": 20.0, "write_timeout": 20.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    where = ("--config", str(tmp_path / "config.json"))
    async with serve(*where) as one, serve(*where) as other:
        yield one, other


def outcome(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.headers["x-asynccache-outcome"]


async def test_what_one_has_bought_the_other_has(pair: tuple[Served, Served], provider: SimulatedProvider) -> None:
    one, other = pair
    bought = await one.ask("bought")
    found = await other.ask("bought")
    assert (outcome(bought), outcome(found)) == ("miss", "hit")
    assert found.content == bought.content
    streamed = await one.ask("streamed", stream=True)
    again = await other.ask("streamed", stream=True)
    assert (outcome(streamed), outcome(again)) == ("miss", "hit")
    assert again.text.endswith("data: [DONE]\n\n")
    assert provider.calls[CHAT] == 2


async def test_the_same_question_at_both_is_asked_once(
    pair: tuple[Served, Served], provider: SimulatedProvider
) -> None:
    provider.hold()
    asked = [asyncio.create_task(served.ask("at once")) for served in pair for _ in range(10)]
    await provider.reached(1)
    provider.release()
    answers = await asyncio.gather(*asked)
    assert [outcome(answer) for answer in answers].count("miss") == 1
    assert len({answer.content for answer in answers}) == 1
    assert provider.calls[CHAT] == 1


async def test_one_that_is_killed_fails_no_request_of_the_other(
    pair: tuple[Served, Served], provider: SimulatedProvider
) -> None:
    """It held the lease of a question that the other was waiting for, and was reading a stream."""
    one, other = pair
    assert outcome(await one.ask("before")) == "miss"
    provider.hold()
    lost = [asyncio.create_task(one.ask("shared")), asyncio.create_task(one.ask("stream", stream=True))]
    await provider.reached(3)
    waiting = [asyncio.create_task(other.ask(text)) for text in ("shared", "shared", "new")]
    await provider.reached(4)
    one.signal(signal.SIGKILL)
    assert await one.ended() == -signal.SIGKILL
    provider.release()
    answers = await asyncio.gather(*waiting)
    assert sorted(outcome(answer) for answer in answers) == ["coalesced", "miss", "miss"]
    assert outcome(await other.ask("before")) == "hit"
    assert [outcome(await other.ask(text)) for text in ("shared", "new")] == ["hit", "hit"]
    for failed in await asyncio.gather(*lost, return_exceptions=True):
        assert isinstance(failed, httpx.TransportError)
