"""Stages, composed once into a chain of plain closures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any

from asynccache.model import Request, Response
from asynccache.protocols import Handler, Stage


def compose(stages: Iterable[Stage], innermost: Handler) -> Handler:
    """One handler that runs the stages, outermost first, around the innermost handler."""
    handler = innermost
    for stage in reversed(list(stages)):
        handler = _bind(stage, handler)
    return handler


def _bind(stage: Stage, call_next: Handler) -> Handler:
    run = stage.__call__  # looked up once: per call it would cost as much as the layer itself

    def handler(request: Request) -> Awaitable[Response]:
        return run(request, call_next)

    return handler


class Writes:
    """Writes under way. Each is a task of its own, so that its caller's cancellation cannot undo it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, write: Coroutine[Any, Any, None]) -> None:
        """Do it and wait for it; if the waiting is cancelled it is done all the same."""
        task = asyncio.create_task(write)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait((task,))

    async def drain(self) -> None:
        """Wait until all writes that this event loop has begun are done."""
        loop = asyncio.get_running_loop()
        while tasks := [task for task in list(self._tasks) if task.get_loop() is loop]:
            await asyncio.wait(tasks)
