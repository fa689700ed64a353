"""Several processes behind one Redis: one upstream call for all of them, also when the one that makes it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from redis.asyncio import Redis

from tests.servers.redis import RedisServer

PROCESSES, CALLS = 4, 200
ROOT = Path(__file__).parent.parent
LONG = 60  # seconds, for what should take a few


class Callers:
    """The processes, and the Redis through which they and the test talk."""

    def __init__(self, redis: Redis, url: str) -> None:
        self.redis = redis
        self.prefix = f"{uuid4().hex}:"
        self._url = url
        self._processes: dict[int, Process] = {}

    async def start(self) -> None:
        command = [sys.executable, "-m", "tests.redis_caller", self._url, self.prefix, str(CALLS)]
        for _ in range(PROCESSES):
            process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
            self._processes[process.pid] = process

    async def next(self, what: str) -> int:
        """The process id of the next one that says this: "waiting", or "calls"."""
        said = await self.redis.blpop([f"{self.prefix}{what}"], timeout=LONG)
        assert said is not None, f"nobody has said {what!r}"
        return int(said[1])

    async def answer(self) -> None:
        await self.redis.rpush(f"{self.prefix}answer", "now")

    async def count(self, what: str) -> int:
        return int(await self.redis.llen(f"{self.prefix}{what}"))

    async def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        await self._processes.pop(pid).wait()

    async def reports(self) -> list[dict[str, Any]]:
        found = []
        for process in self._processes.values():
            out, errors = await asyncio.wait_for(process.communicate(), LONG)
            assert process.returncode == 0, errors.decode()
            found.append(orjson.loads(out))
        return found

    async def stop(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def callers(redis_server: RedisServer) -> Any:
    async with Redis.from_url(redis_server.url, socket_timeout=None) as redis:
        callers = Callers(redis, redis_server.url)
        await callers.start()
        try:
            yield callers
        finally:
            await callers.stop()


async def test_one_upstream_call_for_all_processes(callers: Callers) -> None:
    """Four processes make two hundred identical calls each: one of them calls, all have its answer."""
    leader = await callers.next("calls")
    for _ in range(PROCESSES):
        await callers.next("waiting")
    await callers.answer()
    reports = await callers.reports()
    assert await callers.count("calls") == 0, "more than one upstream call"
    assert [report["said"] for report in reports] == [[str(leader)]] * PROCESSES
    assert sum(report["stats"]["upstream_calls"] for report in reports) == 1
    outcomes = [report["outcomes"] for report in reports]
    assert sum(sum(each.values()) for each in outcomes) == PROCESSES * CALLS
    assert sum(each.get("miss", 0) for each in outcomes) == 1
    assert sum(each.get("coalesced", 0) for each in outcomes) == PROCESSES * CALLS - 1


async def test_another_takes_over_when_the_leader_is_killed(callers: Callers) -> None:
    """`kill -9` amid the call: the others finish, with one more call between them."""
    leader = await callers.next("calls")
    for _ in range(PROCESSES):
        await callers.next("waiting")
    await callers.kill(leader)
    successor = await callers.next("calls")
    await callers.answer()
    reports = await callers.reports()
    assert await callers.count("calls") == 0, "more than two upstream calls"
    assert [report["said"] for report in reports] == [[str(successor)]] * (PROCESSES - 1)
