"""One of a thing for each event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from asynccache import loops
from asynccache.loops import PerLoop


class Thing:
    """Knows where it was made, and where it was closed."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed_on: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        await asyncio.sleep(0)
        assert self.closed_on is None, "closed twice"
        self.closed_on = asyncio.get_running_loop()


@pytest.fixture
def things() -> PerLoop[Thing]:
    return PerLoop(Thing, Thing.close)


class Elsewhere:
    """An event loop that runs in a thread, as `asyncio.run` runs one."""

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._runs = threading.Event()

    async def _run(self) -> None:
        self.loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._runs.set()
        await self._over.wait()

    def __enter__(self) -> Elsewhere:
        self._thread.start()
        assert self._runs.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)

    async def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))


async def here(things: PerLoop[Thing]) -> Thing:
    return things.here()


async def test_one_for_each_loop(things: PerLoop[Thing]) -> None:
    """The same on the same loop, made there; another on another."""
    with Elsewhere() as other:
        mine, theirs = things.here(), await other.do(here(things))
        assert things.here() is mine
        assert await other.do(here(things)) is theirs
        assert (mine.loop, theirs.loop) == (asyncio.get_running_loop(), other.loop)
        await things.aclose()


def test_loops_that_take_turns_in_a_thread_keep_their_own(things: PerLoop[Thing]) -> None:
    one, two = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        for _ in range(3):
            for loop in (one, two):
                assert loop.run_until_complete(here(things)).loop is loop
        assert len(things._made) == 2
    finally:
        one.close()
        two.close()


async def test_a_loop_that_goes_on_in_another_thread_keeps_its_own(things: PerLoop[Thing]) -> None:
    loop = asyncio.new_event_loop()
    try:
        made = {id(await asyncio.to_thread(loop.run_until_complete, here(things))) for _ in range(3)}
        assert len(made) == 1
        assert things.here().loop is asyncio.get_running_loop()
    finally:
        loop.close()


async def test_the_hooks_of_a_loop_may_be_anybody_s(things: PerLoop[Thing]) -> None:
    """They tell loops apart, and are for everybody to set: here to the same in each loop."""

    def mark(_: object) -> None: ...

    async def marked() -> Thing:
        sys.set_asyncgen_hooks(firstiter=mark)
        return things.here()

    mine, hooks = things.here(), sys.get_asyncgen_hooks()
    try:
        with Elsewhere() as other:
            for _ in range(2):
                assert await marked() is mine
                assert (await other.do(marked())).loop is other.loop
            await things.aclose()
    finally:
        sys.set_asyncgen_hooks(*hooks)


async def test_a_loop_within_a_loop_has_its_own(things: PerLoop[Thing], monkeypatch: pytest.MonkeyPatch) -> None:
    """As nest_asyncio runs one, in notebooks: the hooks stay those of the loop around it."""
    monkeypatch.setattr(asyncio, "_nest_patched", True, raising=False)
    mine, inner = things.here(), asyncio.new_event_loop()
    asyncio._set_running_loop(inner)
    try:
        assert things.here().loop is inner
    finally:
        asyncio._set_running_loop(mine.loop)
        inner.close()
    assert things.here() is mine
    await things.aclose()


def test_without_a_loop_there_is_none(things: PerLoop[Thing]) -> None:
    asyncio.run(here(things))
    with pytest.raises(RuntimeError, match="no running event loop"):
        things.here()


async def test_leaving_closes_this_loops_alone(things: PerLoop[Thing]) -> None:
    """Afterwards there is a new one. Leaving where there is none is fine."""
    with Elsewhere() as other:
        mine, theirs = things.here(), await other.do(here(things))
        await things.leave()
        await things.leave()
        assert (mine.closed_on, theirs.closed_on) == (mine.loop, None)
        assert things.here() is not mine
        assert await other.do(here(things)) is theirs
        await things.aclose()


async def test_closing_closes_each_on_its_own_loop(things: PerLoop[Thing]) -> None:
    """Those of other running loops are closed over there, and are when this returns."""
    with Elsewhere() as one, Elsewhere() as two:
        made = [things.here(), await one.do(here(things)), await two.do(here(things))]
        await things.aclose()
        assert [thing.closed_on for thing in made] == [thing.loop for thing in made]
        await things.aclose()


async def test_two_loops_may_close_at_the_same_time(things: PerLoop[Thing]) -> None:
    """Each is closed once, and neither waits for the other for ever."""
    with Elsewhere() as other:
        mine, theirs = things.here(), await other.do(here(things))
        async with asyncio.timeout(30):
            await asyncio.gather(things.aclose(), other.do(things.aclose()))
        assert (mine.closed_on, theirs.closed_on) == (mine.loop, theirs.loop)


async def test_what_belongs_to_a_closed_loop_is_dropped(things: PerLoop[Thing]) -> None:
    """It is not closed, since nothing can be awaited there, and not kept."""
    with Elsewhere() as other:
        theirs = await other.do(here(things))
        other.stop()
        mine = things.here()
        assert list(things._made.values()) == [mine]
        await things.aclose()
        assert (theirs.closed_on, things._made) == (None, {})


async def test_a_loop_that_stands_still_is_not_waited_for(things: PerLoop[Thing]) -> None:
    """One that is stopped, and not closed, may never run again."""
    loop = asyncio.new_event_loop()
    try:
        stopped = await asyncio.to_thread(loop.run_until_complete, here(things))
        await things.aclose()
        assert (stopped.closed_on, things._made) == (None, {})
    finally:
        loop.close()


async def test_a_blocked_loop_is_not_waited_for_for_ever(
    things: PerLoop[Thing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits for this very call to end. When it goes on, it closes what belongs to it."""
    monkeypatch.setattr(loops, "_PATIENCE", 0.01)
    go_on = threading.Event()
    with Elsewhere() as other:
        theirs = await other.do(here(things))
        other.loop.call_soon_threadsafe(go_on.wait, 30)
        await things.aclose()
        go_on.set()
        await other.do(asyncio.sleep(0))
    assert theirs.closed_on in (None, other.loop)


async def test_a_loop_that_ends_meanwhile_is_not_waited_for_for_ever(
    things: PerLoop[Thing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had been told to close what belongs to it, and never came to that."""
    monkeypatch.setattr(loops, "_PATIENCE", 0.01)
    go_on = threading.Event()

    with Elsewhere() as other:
        await other.do(here(things))
        other.loop.call_soon_threadsafe(go_on.wait, 30)
        other.loop.call_soon_threadsafe(other.loop.stop)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", lambda _: None)  # asyncio.run finds its loop stopped, and says so
            await things.aclose()
            go_on.set()
            other._thread.join(30)
    assert things._made == {}


async def test_what_cannot_be_made_is_tried_again() -> None:
    """The error is passed on, and nothing is kept."""
    failures = [OSError("no"), OSError("still no")]

    def make() -> Thing:
        if failures:
            raise failures.pop(0)
        return Thing()

    things: PerLoop[Thing] = PerLoop(make, Thing.close)
    for text in ("no", "still no"):
        with pytest.raises(OSError, match=f"^{text}$"):
            things.here()
    assert things.here() is things.here()


def test_many_loops_at_once(things: PerLoop[Thing]) -> None:
    """Threads that come and go with loops of their own do not get in each other's way, and leave nothing."""

    async def use() -> None:
        thing = things.here()
        for _ in range(50):
            await asyncio.sleep(0)
            assert things.here() is thing
        await things.leave()
        assert thing.closed_on is thing.loop

    def come_and_go() -> None:
        for _ in range(20):
            asyncio.run(use())

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert things._made == {}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_its_own(things: PerLoop[Thing]) -> None:
    """What the parent made is dropped there, and not closed: its connections are the parent's."""

    made: list[Thing] = []

    async def child() -> bool:
        mine = things.here()
        await things.aclose()
        return mine is not made[0] and mine.closed_on is mine.loop and made[0].closed_on is None

    async def parent() -> int:
        made.append(things.here())
        pid = os.fork()
        if pid == 0:
            os._exit(0 if asyncio.run(child()) else 1)
        return pid

    assert os.waitpid(asyncio.run(parent()), 0)[1] == 0
