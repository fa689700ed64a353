"""The laws of sync functions in the cache: they run where they are called, and nothing waits that need not."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from asynccache import Cache, status
from asynccache.backends.dual import DualBackend
from asynccache.backends.memory import MemoryBackend
from asynccache.errors import BackendUnavailable
from asynccache.model import Request
from asynccache.sync import CallersThread
from asynccache.testing import FaultyBackend, SharedStore


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("asynccache")]


def double(n: int) -> int:
    return n * 2


def closing(*caches: Cache) -> None:
    for cache in caches:
        asyncio.run(cache.aclose())
    assert not ours()


def test_a_sync_function_stays_one() -> None:
    """A wrapped sync function has the same signature and is called without a loop; a second call is a hit."""
    calls = []

    def complete(prompt: str, /, *more: int, temperature: float = 1.0) -> dict[str, Any]:
        """Completes."""
        calls.append(prompt)
        return {"text": prompt, "more": list(more)}

    cache = Cache()
    call = cache.wrap(complete)
    assert not inspect.iscoroutinefunction(call)
    assert inspect.signature(call) == inspect.signature(complete)
    assert (call.__name__, call.__doc__) == ("complete", "Completes.")
    assert call("a", 1, 2) == {"text": "a", "more": [1, 2]}
    assert status(call("a", 1, 2, temperature=1.0)).outcome == "hit"
    assert calls == ["a"]
    closing(cache)


def test_it_runs_on_its_callers_thread_in_its_context() -> None:
    """The function runs on the thread that called it, sees its context variables, and what it sets stays set."""
    name = contextvars.ContextVar("name", default="")

    def whoami(prompt: str) -> list[Any]:
        name.set(name.get() + "!")
        return [threading.get_ident(), name.get()]

    cache = Cache()
    name.set("ann")
    assert cache.wrap(whoami)("?") == [threading.get_ident(), "ann!"]
    assert name.get() == "ann!"
    closing(cache)


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError()], ids=repr
)
def test_exceptions_pass_through(error: BaseException) -> None:
    """What the function raises reaches its caller as it is, an interrupt too, and the cache works on."""
    errors = [error]

    def complete(prompt: str) -> str:
        if errors:
            raise errors.pop()
        return prompt

    cache = Cache()
    call = cache.wrap(complete)
    with pytest.raises(type(error)) as raised:
        call("a")
    assert raised.value is error
    assert call("a") == "a"
    closing(cache)


def test_stop_iteration() -> None:
    """StopIteration, which no coroutine can raise, becomes a RuntimeError with that cause."""

    def complete(prompt: str) -> str:
        raise StopIteration(prompt)

    cache = Cache()
    with pytest.raises(RuntimeError) as raised:
        cache.wrap(complete)("a")
    assert isinstance(raised.value.__cause__, StopIteration)
    closing(cache)


def test_one_calls_another() -> None:
    """A wrapped function may call another, of the same cache or of another one, and itself with other arguments."""
    cache, other = Cache(), Cache()

    def factorial(n: int) -> int:
        return 1 if n == 0 else n * cached(n - 1)

    doubled = other.wrap(double)
    cached: Callable[[int], int] = cache.wrap(factorial)

    def both(n: int) -> int:
        return doubled(cached(n))

    outer = cache.wrap(both)
    assert outer(10) == 2 * 3628800
    assert cached(9) == 362880
    assert (cache.stats.hits, cache.stats.misses) == (1, 12)
    closing(other, cache)


def test_fifty_threads_are_not_throttled() -> None:
    """Fifty threads with fifty keys are all in the function at the same time."""
    barrier = threading.Barrier(50)

    def complete(n: int) -> int:
        barrier.wait(30)
        return n

    cache = Cache()
    call = cache.wrap(complete)
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(call, range(50))) == list(range(50))
    closing(cache)


def test_fifty_threads_share_one_call() -> None:
    """Fifty threads with one key make one call."""
    cache = Cache()
    calls: list[int] = []
    joined, begun = threading.Event(), threading.Event()

    def complete(prompt: str) -> list[str]:
        calls.append(threading.get_ident())
        begun.set()
        joined.wait(30)
        return [prompt]

    call = cache.wrap(complete)
    with ThreadPoolExecutor(50) as pool:
        first = pool.submit(call, "a")
        begun.wait(30)
        arrived = threading.Barrier(50)
        rest = [pool.submit(lambda: (arrived.wait(30), call("a"))[1]) for _ in range(49)]
        arrived.wait(30)
        joined.set()
        assert [future.result() for future in (first, *rest)] == [["a"]] * 50
    assert len(calls) == 1
    assert cache.stats.calls == 50
    closing(cache)


def test_an_interrupted_leader_does_not_take_the_others_down() -> None:
    """When the thread that runs the function is interrupted, another caller runs it again for itself."""
    cache = Cache()
    calls: list[str] = []
    begun, joined = threading.Event(), threading.Event()

    def complete(prompt: str) -> str:
        calls.append(threading.current_thread().name)
        if len(calls) == 1:
            begun.set()
            joined.wait(30)
            raise KeyboardInterrupt
        return prompt

    call = cache.wrap(complete)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(call, "a")
        begun.wait(30)
        second = pool.submit(call, "a")
        while not any(flight.waiters == 2 for flight in flights(cache)):
            pass
        joined.set()
        assert isinstance(first.exception(), KeyboardInterrupt)
        assert second.result() == "a"
    assert len(calls) == 2
    closing(cache)


def flights(cache: Cache) -> list[Any]:
    """The flights of the cache's Coalesce stage."""
    from asynccache.stages.coalesce import Coalesce

    (stage,) = (cell for cell in found_stages(cache) if isinstance(cell, Coalesce))
    return list(stage._flights.values())


def found_stages(cache: Cache) -> list[Any]:
    handler: Any = cache._handler
    stages = []
    while closure := getattr(handler, "__closure__", None):
        cells = dict(zip(handler.__code__.co_freevars, (cell.cell_contents for cell in closure), strict=True))
        stages.append(cells["run"].__self__)
        handler = cells["call_next"]
    return stages


def test_a_caller_interrupted_while_it_waits() -> None:
    """An interrupt reaches a caller that waits for the backend; its call goes on for nobody and is counted."""
    calls: list[str] = []

    def complete(prompt: str) -> str:
        calls.append(prompt)
        return prompt

    async def interrupt(request: Request) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        await asyncio.Event().wait()

    cache = Cache(pre_hooks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        cache.wrap(complete)("a")
    closing(cache)
    assert (calls, cache.stats.bypass_reasons) == ([], {"hook": 1})


def test_a_caller_interrupted_before_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the beginning of its call and its waiting: it is the same."""
    begun = threading.Event()

    async def wait_for_ever(request: Request) -> None:
        begun.set()
        await asyncio.Event().wait()

    def interrupted(thread: CallersThread, answer: Any) -> Any:
        begun.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(CallersThread, "wait", interrupted)
    cache = Cache(pre_hooks=[wait_for_ever])
    with pytest.raises(KeyboardInterrupt):
        cache.wrap(double)(1)
    closing(cache)


def test_a_caller_interrupted_before_its_call_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    begin = CallersThread.begin

    def late(thread: CallersThread) -> None:
        thread.give_up()
        begin(thread)

    monkeypatch.setattr(CallersThread, "begin", late)
    cache = Cache()
    with pytest.raises(CancelledError):
        cache.wrap(calls.append)(1)
    closing(cache)
    assert calls == []


def test_a_backend_that_fails() -> None:
    """A sync call fails open as an async one does."""
    faulty = FaultyBackend(MemoryBackend())
    faulty.fail(BackendUnavailable("gone"))
    cache = Cache(faulty)
    assert cache.wrap(double)(2) == 4
    assert cache.stats.read_errors == 1
    closing(cache)


def test_called_by_a_hook() -> None:
    """A wrapped sync function that a hook calls, on the cache's own loop, runs without the cache: nobody can wait."""
    cache: Cache

    async def hook(request: Request) -> None:
        request.params["prompt"] += helper("!", cache={"ttl": 1})

    cache = Cache(pre_hooks=[hook])
    helper: Any = cache.wrap(lambda text: text * 2, name="helper")
    assert cache.wrap(lambda prompt: prompt, name="complete")(prompt="a") == "a!!"
    closing(cache)


def test_within_a_running_loop() -> None:
    """A wrapped sync function may be called from a coroutine, and blocks it as it would without a cache."""
    cache = Cache()
    call = cache.wrap(double)

    async def main() -> int:
        return call(2) + call(2)

    assert asyncio.run(main()) == 8
    closing(cache)


def test_closing_twice_and_going_on() -> None:
    """After `aclose` no thread is left; closing twice is fine; a later call starts anew."""
    backend = MemoryBackend()
    cache = Cache(backend)
    call = cache.wrap(double)
    call(1)
    assert len(ours()) == 1
    closing(cache)
    closing(cache)
    assert call(1) == 2
    assert cache.stats.hits == 1
    closing(cache)


def test_closing_waits_for_calls_under_way() -> None:
    """A call that is under way when the cache is closed gets its answer."""
    cache = Cache()
    begun, go = threading.Event(), threading.Event()

    def complete(n: int) -> list[int]:
        begun.set()
        go.wait(30)
        return [n]

    with ThreadPoolExecutor(2) as pool:
        calling = pool.submit(cache.wrap(complete), 1)
        begun.wait(30)
        ending = pool.submit(asyncio.run, cache.aclose())
        assert not ending.done()
        go.set()
        assert calling.result() == [1]
        ending.result()
    assert not ours()


# -- streams ------------------------------------------------------------------------------------------

HELLO = [{"role": "user", "content": "Hello"}]


def chunk(text: str, *, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def test_a_sync_stream() -> None:
    """A generator is recorded as it is read, and comes again as a sync iterator; both have their status."""
    calls = []

    def complete(messages: list[Any], stream: bool = False) -> Any:
        calls.append(stream)
        yield from (chunk("Hel"), chunk("lo", finish="stop"))

    cache = Cache()
    call = cache.wrap(complete)
    miss = call(HELLO, stream=True)
    first = list(miss)
    hit = call(HELLO, stream=True)
    assert first == list(hit) == [chunk("Hel"), chunk("lo", finish="stop")]
    assert [status(stream).outcome for stream in (miss, hit)] == ["miss", "hit"]
    assert iter(hit) is hit
    assert next(hit, "over") == "over"
    hit.close()
    hit.close()
    assert calls == [True]
    closing(cache)


def test_a_sync_stream_of_a_whole_answer() -> None:
    """What was answered whole comes as a sync stream, and a recorded stream as a whole answer."""
    calls = []

    def complete(messages: list[Any], stream: bool = False, seed: int = 0) -> Any:
        calls.append((stream, seed))
        if stream:
            return iter([chunk("Hel"), chunk("lo", finish="stop")])
        message = {"role": "assistant", "content": "Hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}

    cache = Cache()
    call = cache.wrap(complete)
    whole = call(HELLO)
    with call(HELLO, stream=True) as stream:
        assert status(stream).outcome == "hit"
        said = [piece["choices"][0]["delta"].get("content") or "" for piece in stream]
    assert "".join(said) == whole["choices"][0]["message"]["content"]

    assert len(list(call(HELLO, stream=True, seed=1))) == 2
    again = call(HELLO, seed=1)
    assert (status(again).outcome, again["choices"][0]["message"]["content"]) == ("hit", "Hello")
    assert calls == [(False, 0), (True, 1)]
    closing(cache)


def test_a_sync_streams_own_thread_and_context() -> None:
    """All of a generator runs on one thread, in one context, which its caller's was copied for."""
    name = contextvars.ContextVar("name", default="")
    seen = []

    def count(stream: bool) -> Any:
        token = name.set(name.get() + "!")
        try:
            for n in range(3):
                seen.append((threading.get_ident(), name.get()))
                yield n
        finally:
            seen.append((threading.get_ident(), name.get()))
            name.reset(token)

    cache = Cache()
    name.set("ann")
    assert list(cache.wrap(count)(stream=True)) == [0, 1, 2]
    assert len(set(seen)) == 1
    assert seen[0][1] == "ann!"
    assert name.get() == "ann"
    closing(cache)


def test_a_sync_stream_that_is_left() -> None:
    """The generator is closed, and nothing is stored. So it is when it raises, upon which its reader gets that."""
    closed, error = threading.Event(), KeyError("no")

    def count(n: int, stream: bool) -> Any:
        try:
            yield from range(n)
            raise error
        finally:
            closed.set()

    cache = Cache(max_entry_bytes=100)
    call = cache.wrap(count)
    with call(10**9, stream=True) as stream:
        assert next(stream) == 0
    assert closed.wait(30)
    failing = call(3, stream=True)
    with pytest.raises(KeyError) as raised:
        list(failing)
    assert raised.value is error
    assert cache.stats.stored == 0
    closing(cache)


def test_many_sync_streams_within_each_other() -> None:
    """Fifty threads each read a stream that reads another one, and none waits for the others."""
    cache = Cache()
    barrier = threading.Barrier(50)

    def inner(n: int, stream: bool) -> Any:
        barrier.wait(30)
        yield n
        yield -n

    cached = cache.wrap(inner)

    def outer(n: int, stream: bool) -> Any:
        for said in cached(n, stream=True):
            yield said * 2

    call = cache.wrap(outer)
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(lambda n: list(call(n, stream=True)), range(50))) == [[n * 2, n * -2] for n in range(50)]
    closing(cache)


def test_an_iterator_that_is_no_stream() -> None:
    """What a call without `stream` returns is passed on as it is: it may be an open file."""
    given = iter([1, 2])

    def opened(name: str) -> Any:
        return given if name else None

    cache = Cache()
    assert cache.wrap(opened)("a") is given
    assert cache.stats.reject_reasons == {"answer-type": 1}
    closing(cache)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_closing_over_a_backend_that_listens() -> None:
    """A call that ends while the cache is closed opens the news of changes again; closing ends it again."""
    begun, go = threading.Event(), threading.Event()

    def slow(prompt: str) -> str:
        begun.set()
        assert go.wait(30)
        return prompt

    async def close() -> None:
        closing = asyncio.create_task(cache.aclose())
        await asyncio.sleep(0)
        go.set()
        async with asyncio.timeout(30):
            await closing

    cache = Cache(DualBackend(MemoryBackend(), SharedStore().backend()))
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(cache.wrap(slow), "x")
        assert begun.wait(30)
        asyncio.run(close())
        assert answer.result() == "x"
    assert not ours()


def test_a_forked_child() -> None:
    """A child of `fork` goes on with a loop of its own, and its parent's is not disturbed."""
    script = """
        import asyncio, os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from asynccache import Cache
        cache = Cache()
        call = cache.wrap(lambda n: [n, os.getpid()], name="pid")
        first = call(1)
        child = os.fork()
        if child == 0:
            ok = call(1) == first and call(2) == [2, os.getpid()] and call(2) == [2, os.getpid()]
            asyncio.run(cache.aclose())
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert call(1) == first and call(3) == [3, os.getpid()]
        asyncio.run(cache.aclose())
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], timeout=60, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
