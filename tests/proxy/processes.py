"""`asynccache serve` as a user starts it: a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

CHAT = "/v1/chat/completions"
PATIENCE = 30.0
"""Seconds after which a test gives up waiting for what a process does."""


class Served:
    """A proxy that runs. `lines` are those that it has printed when it was ready."""

    def __init__(self, process: asyncio.subprocess.Process, lines: list[str]) -> None:
        self.process = process
        self.lines = lines
        self.url = lines[0].removeprefix("asynccache listens at ").partition(": ")[0]
        self.port = int(self.url.rpartition(":")[2])
        self.client = httpx.AsyncClient(base_url=self.url, timeout=PATIENCE)

    async def ask(self, content: str = "Hi", **fields: object) -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
        return await self.client.post(CHAT, json=body, headers={"authorization": "Bearer k"})

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def line(self) -> str:
        """The next line that it prints on stdout."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().rstrip()

    async def logged(self, words: str) -> str:
        """The next line on stderr with these words."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while words not in (line := (await self.process.stderr.readline()).decode()):
                assert line, f"it ended, and never said {words!r}"
        return line

    async def ended(self) -> int:
        """Its exit code, when it has ended."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def refuses(self) -> None:
        """Return when nothing listens at its port any more. Nothing tells when that is."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    return
                writer.close()
                await asyncio.sleep(0.02)

    def workers(self) -> set[int]:
        """Its child processes."""
        return {
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        }


@asynccontextmanager
async def serve(*options: str, where: Path | None = None, **environment: str) -> AsyncIterator[Served]:
    """`async with serve("--upstream", …) as served`, on a free port. It is killed when the block ends."""
    process = await start(*options, where=where, **environment)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE):
            lines = [(await process.stdout.readline()).decode().rstrip() for _ in range(3)]
        if not lines[0]:
            raise AssertionError((await process.stderr.read()).decode())
        served = Served(process, lines)
        async with served.client:
            yield served
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def start(*options: str, where: Path | None = None, **environment: str) -> asyncio.subprocess.Process:
    """The same, which may end by itself."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asynccache", "serve", "--port", "0", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=where,
        env={**os.environ, **environment},
    )
