"""A backend that fails on demand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from asynccache.model import CacheKey, Entry
from asynccache.protocols import AsyncCacheBackend, SupportsPing
from asynccache.testing.turnstile import Turnstile

Verb = Literal["get", "set", "delete", "ping", "aclose"]
_VERBS: tuple[Verb, ...] = ("get", "set", "delete", "ping", "aclose")


class FaultyBackend:
    """Passes calls on to another backend until it is told to fail them or to hold them back.

    Each method that takes verbs means all of them when it gets none:

        faulty = FaultyBackend(MemoryBackend())
        faulty.fail(BackendUnavailable("gone"), "get")   # every `get` raises this from now on
        faulty.hold("set")                               # every `set` waits …
        await faulty.reached("set", 1)                   # … and now one does
        faulty.release("set")                            # it goes on
        faulty.heal()                                    # no more errors
        faulty.calls("get")                              # how many came, failed ones included

    A call is counted when it arrives, waits while it is held, and then fails or is passed on: an
    error that is set while it waits is raised. Each object belongs to one event loop.
    """

    def __init__(self, backend: AsyncCacheBackend) -> None:
        self.backend = backend
        self._errors: dict[Verb, BaseException] = {}
        self._gates = {verb: Turnstile() for verb in _VERBS}

    def fail(self, error: BaseException, *verbs: Verb) -> None:
        """Raise this error from now on."""
        self._errors.update(dict.fromkeys(verbs or _VERBS, error))

    def heal(self, *verbs: Verb) -> None:
        """Raise no error any more."""
        for verb in verbs or _VERBS:
            self._errors.pop(verb, None)

    def hold(self, *verbs: Verb) -> None:
        """Let calls wait from now on, for ever if need be."""
        for gate in self._chosen(verbs):
            gate.hold()

    def release(self, *verbs: Verb) -> None:
        """Let the waiting calls go on, and new ones pass."""
        for gate in self._chosen(verbs):
            gate.release()

    def calls(self, *verbs: Verb) -> int:
        """How many calls have arrived since the beginning."""
        return sum(gate.arrived for gate in self._chosen(verbs))

    async def reached(self, verb: Verb, number: int) -> None:
        """Wait until so many calls have arrived since the beginning."""
        await self._gates[verb].reached(number)

    async def get(self, key: CacheKey, /) -> Entry | None:
        await self._pass("get")
        return await self.backend.get(key)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await self._pass("set")
        await self.backend.set(key, entry)

    async def delete(self, key: CacheKey, /) -> bool:
        await self._pass("delete")
        return await self.backend.delete(key)

    async def ping(self) -> None:
        """Passed on when the other backend has it; otherwise it works unless told to fail."""
        await self._pass("ping")
        if isinstance(self.backend, SupportsPing):
            await self.backend.ping()

    async def aclose(self) -> None:
        await self._pass("aclose")
        await self.backend.aclose()

    def _chosen(self, verbs: Iterable[Verb]) -> list[Turnstile]:
        return [self._gates[verb] for verb in verbs or _VERBS]

    async def _pass(self, verb: Verb) -> None:
        gate = self._gates[verb]
        gate.arrive()
        await gate.passage()
        if verb in self._errors:
            raise self._errors[verb]
