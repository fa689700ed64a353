"""One upstream call per key, however many processes: who holds the lease calls, the others wait for what it stores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from secrets import token_hex
from typing import Any

from asynccache.errors import BackendError
from asynccache.model import CacheKey
from asynccache.protocols import Leases, Released
from asynccache.stats import Stats

logger = logging.getLogger("asynccache")

Written = Callable[[CacheKey], Awaitable[None]]
Meanwhile = Callable[[], AbstractContextManager[None]]


class Leadership:
    """Agrees with other processes on who calls the upstream for a key.

    patience: seconds to wait for another process' call, for as long as that is alive; then this one calls as well.
    written:  waits until what was stored under a key can be read by others.

    It fails open: when the store cannot be asked, everybody calls, and `stats.lease_errors` counts it.
    """

    def __init__(self, leases: Leases, *, patience: float, stats: Stats, written: Written | None = None) -> None:
        self._leases = leases
        self._patience = patience
        self._stats = stats
        self._written = written
        self._behind: set[asyncio.Task[None]] = set()

    async def take(self, key: CacheKey, meanwhile: Meanwhile = nullcontext) -> Lead:
        """Take the lease, or wait until the process that has it is done: then inside `meanwhile()`. Raises nothing
        but cancellation.

        A process may end at any point while others wait, and this is what they see:
          it has stored and released   "stored": they read what it stored
          it has failed and released   "nothing": each calls for itself, at once and not one after another
          it was killed                no release comes; its lease ends by itself, and one of them takes it
          it was killed, and the lease was taken before they ask   they wait for the new holder
          the news is cut off          "lapsed" at once: they ask for the lease again
        """
        lead = Lead(self, key)
        try:
            await self._take(lead, meanwhile)
        except Exception as error:  # also of a backend that breaks its law: it must not break the call
            self._failed("taken", error)
        except BaseException:
            lead.release(stored=False)
            raise
        return lead

    async def drain(self) -> None:
        """Wait until all releases that this event loop has begun are done."""
        loop = asyncio.get_running_loop()
        while tasks := [task for task in list(self._behind) if task.get_loop() is loop]:
            await asyncio.wait(tasks)

    async def _take(self, lead: Lead, meanwhile: Meanwhile) -> None:
        if await self._acquire(lead):
            return
        self._stats.lease_waits += 1
        lead.waited = True
        with meanwhile():
            await self._wait(lead)

    async def _wait(self, lead: Lead) -> None:
        now = asyncio.get_running_loop().time
        end = now() + self._patience
        async with self._leases.watch(lead.key) as wait:
            released: Released = "lapsed"
            # Asked for once more even before the first wait: it may have been released before the watch began.
            while released == "lapsed" and not await self._acquire(lead) and (left := end - now()) > 0:
                # Half a lease: its holder may have died just after it had renewed it.
                released = await wait(min(left, self._leases.seconds / 2))

    async def _acquire(self, lead: Lead) -> bool:
        lead.held = True  # until it is known that it is not
        lead.held = await self._leases.acquire(lead.key, lead.token)
        if lead.held:
            self._renew_in_time(lead)
        return lead.held

    def _renew_in_time(self, lead: Lead) -> None:
        """Now and then, until it is released or lost."""
        if lead.held:
            loop = asyncio.get_running_loop()
            lead.renewal = loop.call_later(self._leases.seconds / 3, lambda: self._do(self._renew(lead)))

    async def _renew(self, lead: Lead) -> None:
        try:
            if not await self._leases.renew(lead.key, lead.token):
                return  # after a pause of this process; another may have it
        except Exception as error:  # as above; there is time for another try
            self._failed("renewed", error)
        self._renew_in_time(lead)

    def release(self, lead: Lead, stored: bool) -> None:
        self._do(self._release(lead, stored))

    async def _release(self, lead: Lead, stored: bool) -> None:
        try:
            if stored and self._written is not None:
                await self._written(lead.key)
            lead.let_go()
            await self._leases.release(lead.key, lead.token, stored)
        except Exception as error:  # as above; it ends by itself
            self._failed("released", error)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it behind the caller."""
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    def _failed(self, what: str, error: Exception) -> None:
        if isinstance(error, BackendError):
            logger.debug("a lease was not %s: %s", what, error)
        else:
            logger.error("the backend broke its law: it raised what is no BackendError", exc_info=error)
        self._stats.lease_errors += 1


class Lead:
    """A try to be the one who calls for this key.

    held:   whether the lease is ours, as far as is known: what failed or was cancelled may have taken it.
    waited: whether another process had it at first: then there may be an answer by now.
    """

    def __init__(self, leadership: Leadership, key: CacheKey) -> None:
        self.key = key
        self.token = token_hex(8)
        self.held = self.waited = False
        self.renewal: asyncio.TimerHandle | None = None
        self._leadership = leadership
        self._released = False

    def release(self, stored: bool) -> None:
        """Done behind the caller: is there an entry to be read now? Only the first time counts."""
        if self.held and not self._released:
            self._released = True
            self._leadership.release(self, stored)

    def let_go(self) -> None:
        """It is not renewed any more."""
        self.held = False
        if self.renewal is not None:
            self.renewal.cancel()
