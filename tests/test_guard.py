"""What a guard promises of a store that is slow, dead, frozen or broken, and of an event loop that is."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from asynccache import Cache, ConfigError
from asynccache.backends.disk import DiskBackend
from asynccache.backends.memory import MemoryBackend
from asynccache.errors import (
    BackendClosed,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    CorruptEntry,
    EmbeddingError,
    EntryTooLarge,
)
from asynccache.guard import Guard, State, guarded
from asynccache.model import CacheKey, Entry
from asynccache.protocols import (
    Leases,
    Remote,
    SupportsAdd,
    SupportsChanges,
    SupportsLease,
    SupportsLeave,
    SupportsPing,
    SupportsSize,
)
from asynccache.testing import BackendContract, FakeClock, FakeUpstream, FaultyBackend, LeaseContract, SharedStore
from tests.virtual_time import VirtualLoop, here, in_virtual_time

KEY = CacheKey("a" * 64)
ENTRY = Entry(b"1", "completion", 1.0)


class TestGuardedMemory(BackendContract):
    """A guard takes nothing away from a backend."""

    @pytest.fixture
    def make_backend(self) -> Callable[[], Guard]:
        return lambda: Guard(MemoryBackend(), read_timeout=30, write_timeout=30)


class TestGuardedDisk(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], Guard]:
        return lambda: Guard(DiskBackend(tmp_path), read_timeout=30, write_timeout=30)


class TestGuardedSharedStore(BackendContract, LeaseContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self) -> Callable[[], Guard]:
        store = SharedStore(lease_seconds=0.3)
        return lambda: Guard(store.backend(), read_timeout=30, write_timeout=30)


class Store(MemoryBackend):
    """A remote store of which a test says what each operation does."""

    remote: Literal[True] = True
    read_timeout = 0.1
    write_timeout = 1.0
    max_concurrent = 1_000

    def __init__(self, *acts: Callable[[], Awaitable[Any]]) -> None:
        super().__init__()
        self.acts = list(acts)
        self.calls = 0

    async def get(self, key: CacheKey, /) -> Entry | None:
        self.calls += 1
        if self.acts:
            found: Entry | None = await self.acts.pop(0)()
            return found
        return await super().get(key)


async def never() -> None:
    await asyncio.get_running_loop().create_future()


def after(seconds: float) -> Callable[[], Awaitable[Entry]]:
    async def act() -> Entry:
        await asyncio.sleep(seconds)
        return ENTRY

    return act


def fails(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        raise error

    return act


def stubborn(times: int) -> Callable[[], Awaitable[Entry]]:
    """Swallows its cancellation so often, and then ends by itself; after one more it would end by that."""

    async def act() -> Entry:
        for _ in range(times):
            try:
                await never()
            except asyncio.CancelledError:
                pass
        return ENTRY

    return act


def untouched(guard: Guard) -> bool:
    """Nothing is under way, nor remembered of what was."""
    here = guard._loops.here()
    return here.busy == 0 and not any((timer._ends or timer._overdue) for timer in (here.reads, here.writes))


# Time.


@in_virtual_time
async def test_an_operation_takes_no_longer_than_its_time() -> None:
    """Reads and writes have times of their own; what is cut off is cancelled, and its caller is not."""
    faulty = FaultyBackend(MemoryBackend())
    guard = Guard(faulty, read_timeout=0.1, write_timeout=1.0, max_failures=99)
    faulty.hold()
    for call, seconds in ((guard.get(KEY), 0.1), (guard.set(KEY, ENTRY), 1.0), (guard.delete(KEY), 1.0)):
        began = here().time()
        with pytest.raises(BackendTimeout, match=f"no answer within {seconds:g} s"):
            await call
        assert here().time() - began == pytest.approx(seconds)
        guard.state = State.closed
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert len(asyncio.all_tasks()) == 1
    assert guard.stats.timeouts == 3
    assert untouched(guard)


@in_virtual_time
async def test_what_comes_in_time_comes() -> None:
    guard = Guard(Store(after(0.099), after(0.0), after(0.05)))
    for _ in range(3):
        assert await guard.get(KEY) is ENTRY
    assert guard.stats.timeouts == 0
    assert untouched(guard)


@in_virtual_time
async def test_each_of_many_has_its_own_end() -> None:
    """A thousand that begin one after another end one after another, each when its time is over."""
    store = Store(*[never] * 1_000)
    guard = Guard(store)
    took: list[float] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number / 10_000)
        began = here().time()
        with pytest.raises(BackendTimeout):
            await guard._here().reads.run(store.get, (KEY,))
        took.append(here().time() - began)

    await asyncio.gather(*[one(number) for number in range(1_000)])
    assert took == pytest.approx([0.1] * 1_000)
    assert untouched(guard)


@in_virtual_time
async def test_an_operation_that_swallows_its_cancellation_is_cancelled_again() -> None:
    """After each further half of its time. What it brings in the end is taken; its caller's count is what it was."""
    task = asyncio.current_task()
    assert task is not None
    for times in range(1, 5):
        guard = Guard(Store(stubborn(times)))
        began = here().time()
        assert await guard.get(KEY) is ENTRY
        assert here().time() - began == pytest.approx(0.1 + (times - 1) * 0.05)
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # no cancellation is left over
        assert untouched(guard)


@in_virtual_time
async def test_what_a_driver_makes_of_a_cancellation_is_a_timeout() -> None:
    """Some drivers raise an error of their own when they are cancelled."""

    async def converts() -> None:
        try:
            await never()
        except asyncio.CancelledError:
            raise BackendUnavailable("interrupted") from None

    guard = Guard(Store(converts))
    with pytest.raises(BackendTimeout):
        await guard.get(KEY)
    assert (guard.stats.timeouts, guard.stats.failures) == (1, 0)


@in_virtual_time
async def test_a_driver_that_cancels_itself_does_not_cancel_its_caller() -> None:
    """A CancelledError that nobody asked for is a failure of the store."""
    guard = Guard(Store(fails(asyncio.CancelledError())))
    with pytest.raises(BackendUnavailable, match="cancelled itself"):
        await guard.get(KEY)
    assert guard.stats.failures == 1


# Cancellation by the caller.


@in_virtual_time
async def test_a_callers_cancellation_is_passed_on() -> None:
    """Whenever it comes it ends the operation, as a cancellation, and says nothing of the store."""
    for seconds in (0.0, 0.05, 0.0999):
        guard = Guard(Store(never))
        caller = asyncio.create_task(guard.get(KEY))
        await asyncio.sleep(seconds)
        caller.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert caller.cancelled()
        assert (guard.state, guard.stats.timeouts) == (State.closed, 0)
        assert untouched(guard)


@pytest.mark.parametrize("order", ["caller, timer", "timer, caller", "timer, timer, caller", "caller, timer, timer"])
@in_virtual_time
async def test_a_caller_and_the_timer_cancel_the_same_operation(order: str) -> None:
    """In any order, while the operation cleans up: the caller was cancelled, once, and that is not a timeout."""
    seen: list[int] = []

    async def slow_to_end() -> None:
        for _ in order.split(", "):
            try:
                await never()
            except asyncio.CancelledError:
                pass
        raise asyncio.CancelledError

    async def call() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await guard.get(KEY)
        finally:
            seen.append(task.cancelling())

    guard = Guard(Store(slow_to_end))
    caller = asyncio.create_task(call())
    steps = order.split(", ")
    await asyncio.sleep({0: 0.09, 1: 0.12, 2: 0.16}[steps.index("caller")])
    caller.cancel()
    await asyncio.wait((caller,))
    assert caller.cancelled()
    assert seen == [1]
    assert guard.stats.timeouts == 0
    assert untouched(guard)


@in_virtual_time
async def test_at_the_very_same_moment() -> None:
    """The caller's timeout and the store's fire in one turn of the loop, in either order."""
    for later in (-1e-10, 0.0, 1e-10):
        guard = Guard(Store(never))
        caller = asyncio.create_task(guard.get(KEY))
        here().call_at(here().time() + 0.1 + later, caller.cancel)
        await asyncio.wait((caller,))
        assert caller.cancelled()
        assert caller.cancelling() == 1
        assert untouched(guard)


@pytest.mark.parametrize("outer", [0.05, 0.1, 0.15, 1e-9, 0.1 + 1e-10])
@in_virtual_time
async def test_a_timeout_around_it(outer: float) -> None:
    """`asyncio.timeout` and `asyncio.wait_for` around a call raise TimeoutError when they are over first, and let
    BackendTimeout through when they are not; the task goes on as if nothing had been."""
    task = asyncio.current_task()
    assert task is not None
    for _ in range(3):
        for around in ("timeout", "wait_for"):
            guard = Guard(Store(never))
            try:
                if around == "timeout":
                    async with asyncio.timeout(outer):
                        await guard.get(KEY)
                else:
                    await asyncio.wait_for(guard.get(KEY), outer)
            except TimeoutError:
                assert outer <= 0.1 + 1e-9
            except BackendTimeout:
                assert outer >= 0.1
            else:
                raise AssertionError("neither")
            assert task.cancelling() == 0
            await asyncio.sleep(0)
            assert untouched(guard)


@in_virtual_time
async def test_in_a_timeout_that_is_far_away() -> None:
    """The scope around does not take the store's timeout for its own."""
    async with asyncio.timeout(10) as scope:
        with pytest.raises(BackendTimeout):
            await Guard(Store(never)).get(KEY)
        await asyncio.sleep(1)
    assert not scope.expired()


@pytest.mark.parametrize("body", [True, False])
@pytest.mark.parametrize("seconds", [0.05, 0.0999, 0.1, 0.1001])
@in_virtual_time
async def test_in_a_task_group_that_fails(seconds: float, body: bool) -> None:
    """Its members are cancelled, and the group raises what went wrong; also when it is the group's own body that
    waits, at the very moment when its time is over."""
    guard = Guard(Store(never))

    async def fail() -> None:
        await asyncio.sleep(seconds)
        raise ValueError("elsewhere")

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            if body:
                await guard.get(KEY)
            else:
                group.create_task(guard.get(KEY))

    with pytest.raises(ExceptionGroup) as raised:
        await together()
    kinds = {type(error) for error in raised.value.exceptions}
    if seconds < 0.1:
        assert kinds == {ValueError}
    elif seconds > 0.1:
        assert kinds == {BackendTimeout}
    else:
        assert kinds <= {ValueError, BackendTimeout}
    assert untouched(guard)


@in_virtual_time
async def test_in_the_cleanup_of_a_cancelled_task() -> None:
    """There is a timeout there as anywhere else, and the task's own cancellation stays what it was."""
    outcomes: list[Any] = []

    async def cleans_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await never()
        finally:
            try:
                await Guard(Store(never)).get(KEY)
            except BackendError as error:
                outcomes.append(type(error))
            outcomes.append(task.cancelling())

    task = asyncio.create_task(cleans_up())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert outcomes == [BackendTimeout, 1]


def test_in_whatever_order() -> None:
    """Operations that answer, fail, hang, clean up or swallow; callers that cancel, have timeouts, or wait; a loop that
    stands still now and then. Who was not cancelled is not, who was is, and nothing is left."""

    @in_virtual_time
    async def run(seed: int) -> None:
        chance = random.Random(seed)

        async def act() -> Entry:
            await asyncio.sleep(chance.choice([0, 0.01, 0.0999, 0.1, 0.1001, 0.2, 0.3]))
            if chance.random() < 0.2:
                raise BackendUnavailable("gone")
            return ENTRY

        async def cleans_up() -> Entry:
            try:
                return await act()
            finally:
                await asyncio.sleep(chance.choice([0, 0.01, 0.05]))

        async def swallows() -> Entry:
            try:
                return await act()
            except asyncio.CancelledError:
                return ENTRY

        store = Store(*chance.choices([act, cleans_up, swallows], k=60))
        guard = Guard(store, max_failures=1_000)

        async def call() -> str:
            task = asyncio.current_task()
            assert task is not None
            outcome = ""
            try:
                if chance.random() < 0.3:
                    async with asyncio.timeout(chance.choice([0.05, 0.1, 0.2])):
                        await guard.get(KEY)
                else:
                    await guard.get(KEY)
            except asyncio.CancelledError:
                outcome = "cancelled"
                raise
            except (BackendError, TimeoutError):
                pass
            finally:
                assert task.cancelling() == (task in cancelled), outcome
                assert outcome != "cancelled" or task in cancelled
            return outcome

        cancelled: set[asyncio.Task[Any]] = set()
        callers = []
        for _ in range(60):
            guard.state = State.closed
            callers.append(asyncio.create_task(call()))
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.02]))
            victim = chance.choice(callers)
            if chance.random() < 0.3 and not victim.done() and victim not in cancelled:
                cancelled.add(victim)
                victim.cancel()
            if chance.random() < 0.05:
                here().now += 0.2
        await asyncio.wait(callers)
        for caller in callers:
            if not caller.cancelled():
                assert caller.exception() is None
        await asyncio.sleep(1)
        assert untouched(guard)
        assert guard._here().reads._handle is None

    for seed in range(150):
        run(seed)


# A loop that stands still.


@pytest.mark.parametrize("begins", [0.0, 0.01, 0.024, 0.05, 0.09, 0.099])
@pytest.mark.parametrize("lasts", [0.05, 0.09, 0.1, 0.12, 0.3, 10.0])
@in_virtual_time
async def test_a_loop_that_stands_still_does_not_cost_an_answer(begins: float, lasts: float) -> None:
    """Whenever the pause comes, and whether it ends before the operation's time or after it."""
    loop = here()
    over = asyncio.Event()

    def pause() -> None:
        loop.now += lasts
        over.set()

    async def asks_after_the_pause() -> Entry:
        await over.wait()
        await asyncio.sleep(0.02)
        return ENTRY

    guard = Guard(Store(asks_after_the_pause))
    loop.call_later(begins, pause)
    assert await guard.get(KEY) is ENTRY
    assert guard.state is State.closed


@in_virtual_time
async def test_a_dead_store_and_a_loop_that_stands_still() -> None:
    """The operation gets half its time again, no more. By itself that does not open the breaker."""
    guard = Guard(Store(never, never))
    here().call_later(0.05, lambda: setattr(here(), "now", here().now + 1))
    began = here().time()
    with pytest.raises(BackendTimeout):
        await guard.get(KEY)
    assert here().time() - began == pytest.approx(1.05 + 0.05)
    assert (guard.stats.timeouts, guard.stats.stalls, guard.state) == (1, 1, State.closed)
    # The next one finds out.
    with pytest.raises(BackendTimeout):
        await guard.get(KEY)
    assert (guard.stats.timeouts, guard.stats.stalls, guard.state) == (2, 1, State.open)


@in_virtual_time
async def test_a_dead_store_and_a_loop_that_never_turns_in_time() -> None:
    """Then it takes as many failures in a row as any others to find out."""
    guard = Guard(Store(*[never] * 10), max_failures=3)
    loop = here()

    def busy() -> None:
        loop.now += 0.06
        loop.call_soon(busy)

    busy()
    for count in range(3):
        assert guard.state is State.closed, count
        with pytest.raises(BackendTimeout):
            await guard.get(KEY)
    assert (guard.stats.stalls, guard.state) == (3, State.open)


async def test_a_real_pause() -> None:
    """A callback that blocks the loop for three times as long as a read may take does not open the breaker."""
    store = Store(*[after(0.01)] * 50)
    guard = Guard(store)
    calls = [asyncio.create_task(guard.get(KEY)) for _ in range(50)]
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 that is the point
    assert await asyncio.gather(*calls) == [ENTRY] * 50
    assert (guard.state, guard.stats.timeouts) == (State.closed, 0)


# The breaker.


@in_virtual_time
async def test_a_store_that_stops_answering_is_left_alone() -> None:
    """Who is under way pays once; who comes later is refused at once, and does not reach the store."""
    faulty = FaultyBackend(MemoryBackend())
    guard = Guard(faulty, retry_after=0.5, clock=here().time)
    faulty.hold()
    began = here().time()
    first = await asyncio.gather(*[guard.get(KEY) for _ in range(200)], return_exceptions=True)
    assert here().time() - began == pytest.approx(0.1)
    assert all(type(error) is BackendTimeout for error in first)
    began = here().time()
    for _ in range(1_000):
        with pytest.raises(BackendUnavailable):
            await guard.get(KEY)
    assert here().time() == began
    assert faulty.calls("get") <= 201
    assert guard.stats.refused == 1_000


@in_virtual_time
async def test_writes_under_way_when_it_opens_have_the_time_of_a_read_left() -> None:
    """Unless they have less anyway, or are answered. Those that begin when it is closed again have all of theirs."""
    faulty = FaultyBackend(MemoryBackend())
    guard = Guard(faulty, read_timeout=0.1, write_timeout=1.0, clock=here().time)
    took: list[float] = []

    async def write(begins: float, wanted: float) -> None:
        await asyncio.sleep(begins)
        began = here().time()
        with pytest.raises(BackendTimeout):
            await guard.set(KEY, ENTRY)
        took.append(here().time() - began - wanted)

    async def read() -> None:
        await asyncio.sleep(0.95)
        with pytest.raises(BackendTimeout):
            await guard.get(KEY)

    faulty.hold()
    writes = write(0.0, 1.0), write(0.06, 1.0), write(0.5, 0.6), write(0.9, 0.2), write(0.99, 0.11)
    await asyncio.gather(*writes, read())
    assert took == pytest.approx([0.0] * 5)
    assert untouched(guard)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    guard.state = State.closed
    began = here().time()
    with pytest.raises(BackendTimeout, match="within 1 s"):
        await guard.set(KEY, ENTRY)
    assert here().time() - began == pytest.approx(1.0)


@in_virtual_time
async def test_a_write_that_is_answered_after_it_opened_is_done() -> None:
    faulty = FaultyBackend(MemoryBackend())
    guard = Guard(faulty, read_timeout=0.1, write_timeout=1.0)
    faulty.hold()
    write = asyncio.create_task(guard.set(KEY, ENTRY))
    with pytest.raises(BackendTimeout):
        await guard.get(KEY)
    assert guard.state is State.open
    await asyncio.sleep(0.05)
    faulty.release()
    await write
    assert untouched(guard)


@in_virtual_time
async def test_a_write_that_is_cut_short_says_so() -> None:
    faulty = FaultyBackend(MemoryBackend())
    guard = Guard(faulty, read_timeout=0.1, write_timeout=1.0)
    faulty.hold()
    write = asyncio.create_task(guard.set(KEY, ENTRY))
    with pytest.raises(BackendTimeout, match="no answer within"):
        await guard.get(KEY)
    with pytest.raises(BackendTimeout, match="after the store was given up"):
        await write


@in_virtual_time
async def test_it_is_found_out_when_the_store_is_back() -> None:
    """Within `retry_after` and one read, when somebody asks. Nobody who asks waits for that."""
    for back in (0.0, 0.3, 0.7, 1.1):
        faulty = FaultyBackend(MemoryBackend())
        guard = Guard(faulty, retry_after=0.5, clock=here().time)
        faulty.hold()
        with pytest.raises(BackendTimeout):
            await guard.get(KEY)
        here().call_later(back, faulty.release)
        opened = here().time()
        while guard.state is not State.closed:
            asked = here().time()
            assert asked - opened < back + 0.5 + 0.1 + 0.02
            with pytest.raises(BackendUnavailable):
                await guard.get(KEY)
            assert here().time() == asked
            await asyncio.sleep(0.01)
        assert await guard.get(KEY) is None
        assert faulty.calls("get") <= 4 + back / 0.5


@in_virtual_time
async def test_nobody_asks_nobody_tries() -> None:
    """A store that is left alone is not called behind the back of a program that does not call it either."""
    faulty = FaultyBackend(MemoryBackend())
    guard = Guard(faulty, clock=here().time)
    faulty.hold()
    with pytest.raises(BackendTimeout):
        await guard.get(KEY)
    await asyncio.sleep(60)
    assert faulty.calls("get") == 1
    assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_failures_in_a_row_open_it() -> None:
    """And a success among them begins the row anew."""
    gone = BackendUnavailable("refused")
    guard = Guard(Store(*[fails(gone)] * 2, after(0), *[fails(gone)] * 3), max_failures=3)
    for count in range(6):
        assert guard.state is State.closed, count
        await asyncio.gather(guard.get(KEY), return_exceptions=True)
    assert guard.state is State.open
    assert (guard.stats.failures, guard.stats.opened) == (5, 1)


@in_virtual_time
async def test_a_slow_answer_among_others_is_no_outage() -> None:
    """One operation is timed out, while others are answered: the store works."""
    guard = Guard(Store(never, after(0.01)))
    slow, quick = asyncio.create_task(guard.get(KEY)), asyncio.create_task(guard.get(KEY))
    await asyncio.wait((slow, quick))
    assert isinstance(slow.exception(), BackendTimeout)
    assert quick.result() is ENTRY
    assert guard.state is State.closed


@pytest.mark.parametrize(
    "error", [CorruptEntry("torn"), EntryTooLarge("17 MB"), BackendClosed("used after aclose()"), EmbeddingError("no")]
)
@in_virtual_time
async def test_what_is_wrong_with_one_entry_does_not_open_it(error: BackendError) -> None:
    """Nor does a backend that was closed by its owner: it goes on to say so itself."""
    guard = Guard(Store(*[fails(error)] * 100))
    for _ in range(100):
        with pytest.raises(type(error)):
            await guard.get(KEY)
    assert (guard.state, guard.stats.failures) == (State.closed, 0)


@in_virtual_time
async def test_errors_that_say_nothing_do_not_hide_those_that_do() -> None:
    """An entry that is too large is refused without asking the store; one that is torn is an answer."""
    gone, large, torn = (fails(error) for error in (BackendUnavailable("x"), EntryTooLarge("x"), CorruptEntry("x")))
    guard = Guard(Store(gone, large, gone), max_failures=2)
    for _ in range(3):
        await asyncio.gather(guard.get(KEY), return_exceptions=True)
    assert guard.state is State.open
    guard = Guard(Store(gone, torn, gone), max_failures=2)
    for _ in range(3):
        await asyncio.gather(guard.get(KEY), return_exceptions=True)
    assert guard.state is State.closed


@in_virtual_time
async def test_an_error_that_is_none_of_ours_passes() -> None:
    """A backend that breaks its law is not hidden, and holds nothing up."""
    guard = Guard(Store(*[fails(RuntimeError("a bug"))] * 10))
    for _ in range(10):
        with pytest.raises(RuntimeError, match="a bug"):
            await guard.get(KEY)
    assert untouched(guard)


@in_virtual_time
async def test_each_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many are under way when it happens."""
    caplog.set_level(logging.INFO, "asynccache")
    faulty = FaultyBackend(MemoryBackend())
    guard = Guard(faulty, clock=here().time)
    for outage in range(1, 4):
        faulty.hold()
        await asyncio.gather(*[guard.get(KEY) for _ in range(100)], return_exceptions=True)
        for _ in range(300):
            await asyncio.gather(*[guard.get(KEY) for _ in range(3)], return_exceptions=True)
            await asyncio.sleep(0.01)
        faulty.release()
        while guard.state is not State.closed:
            await asyncio.gather(*[guard.get(KEY) for _ in range(3)], return_exceptions=True)
            await asyncio.sleep(0.01)
        logged = [record.getMessage() for record in caplog.records]
        assert len(logged) == 2 * outage
        assert logged[-2] == "the faulty backend is left alone until it answers again: faulty: no answer within 0.1 s"
        assert logged[-1].startswith("the faulty backend is back after 3.")
        assert guard.stats.opened == outage


@pytest.mark.parametrize("error", [CorruptEntry("torn"), None])
@in_virtual_time
async def test_any_answer_closes_it(error: BackendError | None) -> None:
    """Also one that is no whole entry."""
    store = Store(never, *([] if error is None else [fails(error)]))
    guard = Guard(store, clock=here().time)
    for kind in (BackendTimeout, BackendUnavailable):
        with pytest.raises(kind):
            await guard.get(KEY)
    await asyncio.sleep(0.01)
    assert guard.state is State.closed


@pytest.mark.parametrize("error", [BackendUnavailable("x"), BackendTimeout("x"), BackendClosed("x"), RuntimeError("x")])
@in_virtual_time
async def test_an_attempt_that_fails_leaves_it_open(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it raises; nothing is heard of it."""
    store = Store(never, fails(error))
    guard = Guard(store, clock=here().time)
    for kind in (BackendTimeout, BackendUnavailable):
        with pytest.raises(kind):
            await guard.get(KEY)
    await asyncio.sleep(0.01)
    assert guard.state is State.open
    assert len(asyncio.all_tasks()) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_attempt_that_is_lost_with_its_loop_is_made_again() -> None:
    """A loop that is closed takes its tasks with it, whether it cancels them or not."""
    for politely in (True, False):
        clock = FakeClock()
        store = Store(never, never)
        guard = Guard(store, clock=clock)

        async def open_and_try(guard: Guard = guard) -> None:
            for kind in (BackendTimeout, BackendUnavailable):
                with pytest.raises(kind):
                    await guard.get(KEY)
            assert guard.state is State.half_open
            await asyncio.sleep(0)

        async def try_again(guard: Guard = guard, clock: FakeClock = clock) -> None:
            clock.advance(0.8)
            with pytest.raises(BackendUnavailable):
                await guard.get(KEY)
            for _ in range(5):
                await asyncio.sleep(0)
            assert guard.state is State.closed
            assert await guard.get(KEY) is None

        if politely:
            in_virtual_time(open_and_try)()
        else:
            loop = VirtualLoop()
            loop.set_exception_handler(lambda *_: None)  # a task was destroyed while it was pending: so it was
            loop.run_until_complete(open_and_try())
            loop.close()
        in_virtual_time(try_again)()
        gc.collect()


@in_virtual_time
async def test_ping_asks_whatever_the_breaker_says() -> None:
    """It is for those who want to know, within the time of a write."""
    faulty = FaultyBackend(MemoryBackend())
    guard = Guard(faulty, clock=here().time)
    faulty.hold()
    with pytest.raises(BackendTimeout):
        await guard.get(KEY)
    began = here().time()
    with pytest.raises(BackendTimeout):
        await guard.ping()
    assert here().time() - began == pytest.approx(1.0)
    faulty.release()
    await guard.ping()
    assert guard.state is State.open


# The bulkhead.


@in_virtual_time
async def test_too_many_at_a_time_are_refused() -> None:
    """At once, reads and writes together; when some have ended others may come."""
    faulty = FaultyBackend(MemoryBackend())
    guard = Guard(faulty, max_concurrent=10)
    faulty.hold()
    under_way: list[asyncio.Task[Any]] = [asyncio.create_task(guard.get(KEY)) for _ in range(5)]
    under_way += [asyncio.create_task(guard.delete(KEY)) for _ in range(5)]
    await asyncio.sleep(0)
    for _ in range(7):
        with pytest.raises(BackendUnavailable, match="10 operations are under way already"):
            await guard.get(KEY)
    assert (guard.stats.crowded, guard.stats.failures, guard.state) == (7, 0, State.closed)
    assert faulty.calls() == 10
    under_way[0].cancel()
    await asyncio.sleep(0)
    another = asyncio.create_task(guard.get(KEY))
    await asyncio.sleep(0)
    faulty.release()
    assert await another is None
    await asyncio.gather(*under_way, return_exceptions=True)
    assert untouched(guard)


def test_loops_in_threads_do_not_get_in_each_others_way() -> None:
    """Each has a time and a bulkhead of its own, and what one leaves behind is no other's."""

    async def use(seed: int) -> None:
        chance = random.Random(seed)

        async def one() -> None:
            for _ in range(100):
                call = asyncio.ensure_future(guard.get(KEY))
                if chance.random() < 0.1:
                    await asyncio.sleep(0)
                    call.cancel()
                await asyncio.wait((call,))
                assert call.cancelled() or call.exception() is None

        await asyncio.gather(*[one() for _ in range(20)])
        assert untouched(guard)
        await guard.leave()

    class Yields(MemoryBackend):
        async def get(self, key: CacheKey, /) -> Entry | None:
            await asyncio.sleep(0)
            return await super().get(key)

    guard = Guard(Yields(), read_timeout=30, max_concurrent=20)
    failures: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            asyncio.run(use(seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert guard.stats.crowded == 0
    assert guard._loops._made == {}


# Powers, options, life.


async def test_it_has_the_powers_of_what_it_guards() -> None:
    """No more, and no less."""
    shared, plain = Guard(SharedStore().backend()), Guard(MemoryBackend())
    assert isinstance(shared, SupportsAdd)
    assert not isinstance(plain, SupportsAdd)
    assert isinstance(plain, SupportsSize)
    assert not isinstance(shared, SupportsSize)
    for guard in (shared, plain):
        for power in (SupportsPing, SupportsLeave, SupportsLease, SupportsChanges):
            assert isinstance(guard, power)
    assert (plain.leases, plain.changes) == (None, None)
    assert shared.changes is not None
    assert await shared.add(KEY, ENTRY) is True
    assert await shared.add(KEY, ENTRY) is False
    await shared.aclose()


def test_its_defaults_are_those_of_the_backends_class() -> None:
    guard = Guard(Store())
    assert (guard.read_timeout, guard.write_timeout, guard._limit) == (0.1, 1.0, 1_000)
    plain = Guard(MemoryBackend(), read_timeout=0.2)
    assert (plain.read_timeout, plain.write_timeout, plain._limit) == (0.2, 1.0, 10_000)
    assert isinstance(Store(), Remote)


def test_only_what_is_remote_gets_a_guard_unasked() -> None:
    memory, guard = MemoryBackend(), Guard(Store())
    assert guarded(memory) is memory
    assert guarded(guard) is guard
    assert isinstance(guarded(Store()), Guard)


@pytest.mark.parametrize("option", ["read_timeout", "write_timeout", "max_concurrent", "max_failures", "retry_after"])
@pytest.mark.parametrize("value", [0, -1, True, "1", float("nan")])
def test_a_wrong_option_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{option}=.*greater than 0"):
        Guard(MemoryBackend(), **{option: value})


async def test_detaching_leaves_the_backend_open() -> None:
    """The guard is closed; what it guarded is its owner's."""
    memory = MemoryBackend()
    guard = Guard(memory)
    await guard.detach()
    for call in (guard.get(KEY), guard.set(KEY, ENTRY), guard.delete(KEY), guard.ping()):
        with pytest.raises(BackendClosed):
            await call
    assert await memory.get(KEY) is None
    await guard.aclose()
    with pytest.raises(BackendClosed):
        await memory.get(KEY)


@in_virtual_time
async def test_closing_ends_the_attempt_under_way() -> None:
    store = Store(never, never)
    guard = Guard(store, clock=here().time)
    for kind in (BackendTimeout, BackendUnavailable):
        with pytest.raises(kind):
            await guard.get(KEY)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 2
    await guard.leave()
    assert len(asyncio.all_tasks()) == 1
    await guard.aclose()


@in_virtual_time
async def test_what_is_under_way_when_it_is_closed_has_its_end() -> None:
    """A frozen store does not hold on to who asked it before."""
    guard = Guard(Store(never))
    call = asyncio.create_task(guard.get(KEY))
    await asyncio.sleep(0)
    await guard.aclose()
    began = here().time()
    with pytest.raises(BackendTimeout):
        await call
    assert here().time() - began == pytest.approx(0.1)


async def test_a_cache_guards_a_remote_backend_that_is_handed_in() -> None:
    """A store that does not answer costs its callers the budget and no error; the backend is not closed with the
    cache."""
    upstream = FakeUpstream()
    store = Store(*[never] * 1_000)
    ask: Any = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}
    async with Cache(store) as cache:
        call = cache.wrap(upstream)
        for _ in range(5):
            assert "choices" in await call(**ask)
        assert isinstance(cache.backend, Guard)
        assert cache.backend.state is not State.closed
        assert cache.stats.read_errors == 5
    assert store.calls < 10
    store.acts = []
    assert await store.get(KEY) is None
    assert len(asyncio.all_tasks()) == 1


# Leases under a guard.


class Frozen:
    """Leases that never answer: not even when a watch is to end."""

    seconds = 10.0

    async def acquire(self, key: CacheKey, token: str, /) -> bool:
        await never()
        return True

    renew = acquire

    async def release(self, key: CacheKey, token: str, stored: bool, /) -> None:
        await never()

    @asynccontextmanager
    async def watch(self, key: CacheKey, /) -> AsyncIterator[Any]:
        async def wait(seconds: float, /) -> str:
            await asyncio.sleep(seconds)
            return "lapsed"

        try:
            yield wait
        finally:
            await never()


class FrozenStore(Store):
    leases: Leases = Frozen()


@in_virtual_time
async def test_leases_have_the_time_of_a_read() -> None:
    """Waiting for a release has a time of its own; leaving it is bounded, and raises nothing."""
    for verb in ("acquire", "renew", "release"):
        leases = Guard(FrozenStore()).leases
        assert leases is not None
        assert leases.seconds == 10.0
        began = here().time()
        with pytest.raises(BackendTimeout):
            await getattr(leases, verb)(KEY, "token", *([True] if verb == "release" else []))
        assert here().time() - began == pytest.approx(0.1)
    leases = Guard(FrozenStore()).leases
    assert leases is not None
    began = here().time()
    async with leases.watch(KEY) as wait:
        assert await wait(5.0) == "lapsed"
    assert here().time() - began == pytest.approx(5.1)


@in_virtual_time
async def test_leaving_a_watch_hides_no_cancellation() -> None:
    """Who is cancelled while it waits is cancelled, also when the store is frozen."""
    leases = Guard(FrozenStore()).leases
    assert leases is not None

    async def wait_for_it() -> None:
        async with leases.watch(KEY) as wait:
            await wait(60.0)

    waiting = asyncio.create_task(wait_for_it())
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert waiting.cancelled()


async def test_waiting_for_a_release_is_no_operation() -> None:
    """It takes no place in the bulkhead, and no time out of the budget."""
    store = SharedStore()
    async with aclosing(Guard(store.backend(), read_timeout=30, max_concurrent=1)) as guard:
        leases = guard.leases
        assert leases is not None
        assert await leases.acquire(KEY, "a")
        async with leases.watch(KEY) as wait:
            waiting = asyncio.ensure_future(wait(30.0))
            await asyncio.sleep(0)
            assert await guard.get(KEY) is None
            await leases.release(KEY, "a", True)
            assert await waiting == "stored"
