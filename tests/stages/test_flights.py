"""The flight table against a model: callers come, read, leave and are cancelled; upstreams give, end and fail; in any
order, at rest and between any two turns of the loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from asynccache import Cache
from asynccache.protocols import Stage
from asynccache.stages.coalesce import Coalesce, OnAbandon

pytestmark = pytest.mark.usefixtures("small_heap")

Chunk = tuple[int, int]
"""The number of the upstream call, and that of the chunk in it."""


class Loop:
    """An event loop that does one turn at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.reported: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, context: self.reported.append(context))

    def turn(self) -> None:
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    def settle(self) -> None:
        """Turn until nobody has anything left to do."""
        while self._loop._ready:  # type: ignore[attr-defined]
            self.turn()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(work)

    def tasks(self) -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks(self._loop)

    def do(self, action: Callable[[], Any]) -> None:
        """Do it in the loop, as what belongs to it must be done."""
        self._loop.call_soon(action)
        self.turn()

    def close(self) -> None:
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


class Gate:
    """Lets one through for each time it is opened."""

    def __init__(self) -> None:
        self.free = 0.0
        self._waiting: asyncio.Future[None] | None = None

    def open(self, times: float = 1) -> None:
        self.free += times
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def passage(self) -> None:
        while not self.free:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        self.free -= 1


class Upstream:
    """One upstream call: what it was told to do, and what became of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.gate = Gate()
        self.opened = False
        self.given: list[Chunk] = []
        self.plan: list[Literal["open", "chunk", "end"] | Exception] = []
        self.outcome: Literal["", "end", "closed"] | Exception = ""
        self.outdated = False

    def then(self, step: Literal["open", "chunk", "end"] | Exception) -> None:
        self.plan.append(step)
        self.gate.open()

    @property
    def planned_end(self) -> bool:
        return any(step not in ("open", "chunk") for step in self.plan) or self.outcome != ""

    async def call(self) -> AsyncIterator[Chunk]:
        try:
            await self.gate.passage()
        except asyncio.CancelledError:
            self.outcome = "closed"
            raise
        step = self.plan.pop(0)
        if isinstance(step, Exception):
            self.outcome = step
            raise step
        self.opened = True
        return self.stream()

    async def stream(self) -> AsyncIterator[Any]:
        try:
            while True:
                await self.gate.passage()
                step = self.plan.pop(0)
                if isinstance(step, Exception):
                    self.outcome = step
                    raise step
                if step == "end":
                    self.outcome = "end"
                    return
                self.given.append((self.number, len(self.given)))
                yield list(self.given[-1])
        except (asyncio.CancelledError, GeneratorExit):
            self.outcome = "closed"
            raise


class Caller:
    """One caller: what it was told to do, and what it got."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.chunks: list[Chunk] = []
        self.between = False
        """Whether it is in the body of its loop."""
        self.leaving: Literal["", "close", "drop"] = ""
        self.outcome: Literal["", "end", "left", "cancelled"] | BaseException = ""
        self.task: asyncio.Task[None]

    async def run(self, call: Callable[..., Any]) -> None:
        stream: Any = None
        try:
            stream = await call("why?", stream=True)
            while True:
                self.between = True
                await self.gate.passage()
                self.between = False
                if self.leaving:
                    self.outcome = "left"
                    if self.leaving == "close":
                        await stream.aclose()
                    return
                chunk = await anext(stream)
                self.chunks.append(tuple(chunk))
        except StopAsyncIteration:
            self.outcome = "end"
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            raise
        except Exception as error:
            self.outcome = error
        finally:
            del stream  # the traceback of what ended this, which the task keeps, would keep it too

    def read(self, times: float = 1) -> None:
        self.gate.open(times)

    def leave(self, how: Literal["close", "drop"]) -> None:
        self.leaving = how
        self.gate.open()


class Flights(RuleBasedStateMachine):
    """What must hold at any time and in any order. Actions may be any number of turns apart."""

    on_abandon: OnAbandon = "cancel"
    at_rest = False
    """Whether each action waits until the one before it has had all its effects."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.upstreams: list[Upstream] = []
        self.callers: list[Caller] = []
        self.cache = Cache(stages=self._stages)
        self.call = self.cache.wrap(self._call)

    def _stages(self, default: list[Stage]) -> list[Stage]:
        place = next(i for i, stage in enumerate(default) if isinstance(stage, Coalesce))
        old = default[place]
        assert isinstance(old, Coalesce)
        self.coalesce = Coalesce(old._look_again, old._outdated, on_abandon=self.on_abandon)
        return [*default[:place], self.coalesce, *default[place + 1 :]]

    async def _call(self, prompt: str, stream: bool = False) -> Any:
        self.upstreams.append(Upstream(len(self.upstreams)))
        return await self.upstreams[-1].call()

    # -- the model ------------------------------------------------------------------------------------

    def live(self) -> list[Upstream]:
        return [upstream for upstream in self.upstreams if not upstream.planned_end]

    def staying(self) -> list[Caller]:
        return [caller for caller in self.callers if not caller.task.done() and not caller.leaving]

    def able_to_leave(self) -> list[Caller]:
        return [caller for caller in self.staying() if caller.between or not self.at_rest]

    def after(self, turns: int) -> None:
        if self.at_rest:
            self.loop.settle()
        for _ in range(turns):
            self.loop.turn()
        self.check()

    def check(self) -> None:
        for caller in self.callers:
            if not caller.chunks:
                continue
            # All of it from one call, in order, from its first chunk on.
            upstream = self.upstreams[caller.chunks[0][0]]
            assert caller.chunks == upstream.given[: len(caller.chunks)]
            if caller.outcome == "end":
                assert upstream.outcome == "end"
                assert caller.chunks == upstream.given
            elif isinstance(caller.outcome, BaseException):
                assert caller.outcome is upstream.outcome
                assert caller.chunks == upstream.given

    # -- what may happen ------------------------------------------------------------------------------

    turns = st.integers(0, 4)

    @rule(turns=turns)
    def come(self, turns: int) -> None:
        before = len(self.upstreams)
        expected = self.expected_calls()
        caller = Caller()
        caller.task = self.loop.start(caller.run(self.call))
        self.callers.append(caller)
        self.after(turns)
        if self.at_rest:
            assert len(self.upstreams) == before + expected

    def expected_calls(self) -> int:
        """At rest: how many calls of the upstream one more caller makes."""
        return int(not self.stored() and not any(not upstream.outdated for upstream in self.live()))

    def stored(self) -> bool:
        return any(
            upstream.outcome == "end" and upstream.given and not upstream.outdated for upstream in self.upstreams
        )

    @precondition(lambda self: self.live())
    @rule(data=st.data(), turns=turns)
    def give(self, data: st.DataObject, turns: int) -> None:
        upstream = data.draw(st.sampled_from(self.live()), label="upstream")
        self.loop.do(lambda: upstream.then("chunk" if upstream.opened or upstream.plan else "open"))
        self.after(turns)

    @precondition(lambda self: any(upstream.opened for upstream in self.live()))
    @rule(data=st.data(), turns=turns)
    def end(self, data: st.DataObject, turns: int) -> None:
        opened = [upstream for upstream in self.live() if upstream.opened]
        upstream = data.draw(st.sampled_from(opened), label="upstream")
        self.loop.do(lambda: upstream.then("end"))
        self.after(turns)

    @precondition(lambda self: self.live())
    @rule(data=st.data(), turns=turns)
    def fail(self, data: st.DataObject, turns: int) -> None:
        upstream = data.draw(st.sampled_from(self.live()), label="upstream")
        self.loop.do(lambda: upstream.then(ConnectionError(upstream.number)))
        self.after(turns)

    @precondition(lambda self: self.staying())
    @rule(data=st.data(), times=st.integers(1, 3), turns=turns)
    def read(self, data: st.DataObject, times: int, turns: int) -> None:
        caller = data.draw(st.sampled_from(self.staying()), label="caller")
        self.loop.do(lambda: caller.read(times))
        self.after(turns)

    @precondition(lambda self: self.able_to_leave())
    @rule(data=st.data(), how=st.sampled_from(["close", "drop"]), turns=turns)
    def leave(self, data: st.DataObject, how: Literal["close", "drop"], turns: int) -> None:
        caller = data.draw(st.sampled_from(self.able_to_leave()), label="caller")
        self.loop.do(lambda: caller.leave(how))
        self.after(turns)

    @precondition(lambda self: self.staying())
    @rule(data=st.data(), turns=turns)
    def cancel(self, data: st.DataObject, turns: int) -> None:
        caller = data.draw(st.sampled_from(self.staying()), label="caller")
        self.loop.do(caller.task.cancel)
        self.after(turns)

    @rule()
    def invalidate(self) -> None:
        self.loop.start(self.cache.clear())
        self.loop.settle()
        for upstream in self.upstreams:
            upstream.outdated = True
        self.check()

    # -- how it must end ------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self._wind_up()
        finally:
            self.loop.close()

    def _wind_up(self) -> None:
        self.loop.settle()
        self.check()
        if self.on_abandon == "cancel":
            self._all_abandoned_are_closed()
        # All upstreams end, all who stay read to the end.
        for upstream in self.live():
            for step in ("chunk", "end") if upstream.opened or upstream.plan else ("open", "chunk", "end"):
                self.loop.do(lambda upstream=upstream, step=step: upstream.then(step))  # type: ignore[misc]
        for caller in self.staying():
            self.loop.do(lambda caller=caller: caller.read(1_000))  # type: ignore[misc]
        for _ in range(len(self.callers)):  # those who try anew need an end too
            self.loop.settle()
            for upstream in self.live():
                for step in ("open", "end"):
                    self.loop.do(lambda upstream=upstream, step=step: upstream.then(step))  # type: ignore[misc]
        self.loop.settle()
        self.check()
        assert all(caller.outcome != "" for caller in self.callers)
        gc.collect()
        self.loop.settle()
        assert not self.loop.tasks()
        assert not self.loop.reported
        assert not self.coalesce._flights
        assert not self.coalesce._under_way
        assert all(upstream.outcome != "" for upstream in self.upstreams)
        self._nothing_partial_is_stored()

    def _all_abandoned_are_closed(self) -> None:
        """At rest, an upstream call goes on for somebody."""
        if all(caller.task.done() for caller in self.callers):
            assert all(upstream.outcome for upstream in self.upstreams)

    def _nothing_partial_is_stored(self) -> None:
        last = Caller()
        last.read(1_000)
        before = len(self.upstreams)
        last.task = self.loop.start(last.run(self.call))
        self.loop.settle()
        if len(self.upstreams) == before:
            assert last.outcome == "end"
            assert last.chunks == self.upstreams[last.chunks[0][0]].given
        else:
            self.loop.do(last.task.cancel)
            self.loop.settle()
        if self.at_rest:
            assert (len(self.upstreams) == before) is self.stored()


class FlightsAtRest(Flights):
    """The same, one thing after another: then it is known how many calls are made."""

    at_rest = True


class FlightsThatFinish(Flights):
    on_abandon: OnAbandon = "finish"


class FlightsThatFinishAtRest(FlightsThatFinish):
    at_rest = True


@pytest.mark.parametrize("machine", [Flights, FlightsAtRest, FlightsThatFinish, FlightsThatFinishAtRest])
def test_flights(machine: type[Flights]) -> None:
    """In any order of coming, reading, leaving, cancelling, giving, ending, failing and invalidating: every caller has
    the chunks of one upstream call from the first on, who stays has its outcome, callers share calls, nothing partial
    is stored, and no task, future or flight is left."""
    machine.TestCase.settings = settings(
        derandomize=True,
        deadline=None,
        max_examples=40,
        stateful_step_count=30,
        suppress_health_check=list(HealthCheck),
    )
    machine.TestCase().runTest()
