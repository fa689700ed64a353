"""One application after the other, behind one door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from asynccache.background import cancel

logger = logging.getLogger("asynccache")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class StartFailed(Exception):
    """The application could not be started. Its text says why."""


class Generation:
    """An application that has been started, the calls that it is answering, and what is to be closed after it."""

    def __init__(self, app: App, close: Callable[[], Awaitable[None]]) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self.under_way = 0
        self._close = close
        self._empty = asyncio.Event()
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run the application's startup. Raises StartFailed."""
        self._life = asyncio.create_task(self._live(), name="asynccache-lifespan")
        said = await self._tell("lifespan.startup")
        if said["type"] == "lifespan.startup.failed":
            await asyncio.gather(self._life, return_exceptions=True)
            await self._close()
            raise StartFailed(said.get("message") or "the application failed to start")

    async def stop(self) -> None:
        """Run the application's shutdown, and close what stands behind it."""
        said = await self._tell("lifespan.shutdown")
        if said["type"] == "lifespan.shutdown.failed":
            logger.error("closing failed: %s", said.get("message"))
        if self._life is not None:
            await cancel(self._life)
        await self._close()

    async def drained(self) -> None:
        """Until it answers no call any more. No new one may come meanwhile."""
        while self.under_way:
            self._empty.clear()
            await self._empty.wait()

    def left(self) -> None:
        self.under_way -= 1
        if not self.under_way:
            self._empty.set()

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.app(scope, self._inbox.get, self._outbox.put)
        except Exception as error:  # whatever the application raises: it is said to whom waits for it
            logger.debug("the application's lifespan ended", exc_info=error)
            await self._outbox.put({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await self._outbox.put({"type": "lifespan.shutdown.complete"})

    async def _tell(self, kind: str) -> Message:
        await self._inbox.put({"type": kind})
        return await self._outbox.get()


class Door:
    """The application that the server knows: each call goes to the generation that is the present one when it comes."""

    def __init__(self, first: Generation) -> None:
        self.present = first
        self._leaving: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        generation = self.present
        if generation.state:
            scope["state"] = {**scope.get("state", {}), **generation.state}
        generation.under_way += 1
        try:
            await generation.app(scope, receive, send)
        finally:
            generation.left()

    def open(self, generation: Generation) -> None:
        """New calls go to this one. The one before it answers what it has, however long that takes, and is closed."""
        before, self.present = self.present, generation
        task = asyncio.create_task(self._retire(before), name="asynccache-retire")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def aclose(self) -> None:
        """Stop all: no call is under way any more, or those that are may be lost."""
        for task in tuple(self._leaving):
            await cancel(task)
        await self.present.stop()

    async def _retire(self, generation: Generation) -> None:
        try:
            await generation.drained()
        finally:  # also when it is cancelled: what it holds is to be closed
            await generation.stop()
