"""Sync functions in an async pipeline: the pipeline runs on a loop in a thread of its own, and the
wrapped function on the thread of its caller, where its thread-locals and connections are."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

T = TypeVar("T")
Job = Callable[[], None]

_caller: ContextVar[CallersThread] = ContextVar("asynccache_callers_thread")


class LoopThread:
    """An event loop in a daemon thread, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._calls: set[Future[Any]] = set()

    def sync(self, function: Callable[..., T], wrapped: Callable[..., Awaitable[T]]) -> Callable[..., T]:
        """`wrapped` as a sync function with the signature of `function`."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> T:
            thread = CallersThread()

            async def answer() -> T:
                thread.begin()
                return await wrapped(*args, **kwargs)

            if threading.current_thread() is self._thread:
                # A hook called it, on the very loop that would have to answer: it goes without the cache.
                kwargs.pop("cache", None)
                return function(*args, **kwargs)
            try:
                token = _caller.set(thread)
                try:
                    # The task copies this context, so that the wrapped function finds its caller's thread.
                    future = self._start(answer)
                finally:
                    _caller.reset(token)
                return thread.wait(future)
            except BaseException:  # also KeyboardInterrupt, wherever it comes: the call must not go on for nobody
                thread.give_up()
                raise

        return call

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this on the loop, when there is one."""
        with self._lock:
            if not self._alive():
                return
            future = asyncio.run_coroutine_threadsafe(work(), cast(asyncio.AbstractEventLoop, self._loop))
        await asyncio.wrap_future(future)

    async def aclose(self, leave: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """End the loop and its thread, when the calls under way are done, and what was opened there has been closed
        by `leave`. A later call starts them anew."""
        with self._lock:
            if not self._alive():
                return
            loop, thread = cast(asyncio.AbstractEventLoop, self._loop), cast(threading.Thread, self._thread)
            # From here on calls get a new loop; those that have this one began before `_finish`.
            self._loop = self._thread = None
            future = asyncio.run_coroutine_threadsafe(_finish(tuple(self._calls), leave), loop)
        await asyncio.wrap_future(future)
        thread.join()  # it has nothing left to do

    def _start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        with self._lock:
            if not self._alive():
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="asynccache", daemon=True)
                self._thread.start()
            call = asyncio.run_coroutine_threadsafe(work(), cast(asyncio.AbstractEventLoop, self._loop))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def _alive(self) -> bool:
        # A forked child has the loop's memory, but not its thread.
        return self._loop is not None and self._pid == os.getpid()


class CallersThread:
    """A thread that waits for its answer, and meanwhile runs there what the call needs run."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._left = False
        self._task: asyncio.Task[Any] | None = None
        self._given_up = False

    def begin(self) -> None:
        """The running task answers the call. Raises CancelledError when its caller has left before."""
        with self._lock:
            if self._given_up:
                raise asyncio.CancelledError
            self._task = asyncio.current_task()

    def give_up(self) -> None:
        """Cancel the call, whether it has begun or not. Nothing, when it has ended."""
        with self._lock:
            self._given_up = True
            task = self._task
        if task is not None and not task.done():
            _tell(task.get_loop(), task.cancel)

    async def run(self, function: Callable[..., T], params: dict[str, Any]) -> T:
        """Run the function on that thread, from the loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        job = functools.partial(_work, loop, future, function, params)
        with self._lock:
            if self._left:
                _spawn(job)
            else:
                self._jobs.put(job)
        return await future

    def wait(self, answer: Future[T]) -> T:
        """The answer. Runs jobs on this thread until it is there."""
        answer.add_done_callback(lambda _: self._jobs.put(None))
        try:
            while (job := self._jobs.get()) is not None:
                job()
            return answer.result()
        finally:
            self.leave()

    def leave(self) -> None:
        """From here on jobs get threads of their own."""
        # An interrupted caller may have begun a flight that others wait for. What its flight wants run
        # was put before we leave (it is in the queue), or comes later (it sees that we have left).
        with self._lock:
            self._left = True
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is not None:
                _spawn(job)


def leave_caller() -> None:
    """What this task calls from here on runs on threads of its own: its caller does not wait for it."""
    thread = CallersThread()
    thread.leave()
    _caller.set(thread)


def on_callers_thread(function: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """An async form of a sync function, that runs it on the thread which called its wrapper."""

    async def call(**params: Any) -> T:
        return await _caller.get().run(function, params)

    return call


def _work(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], function: Callable[..., T], params: dict[str, Any]
) -> None:
    try:
        result = function(**params)
    except StopIteration as error:  # a future cannot hold it; a generator makes the same of it
        wrapped = RuntimeError("the function raised StopIteration")
        wrapped.__cause__ = error
        _tell(loop, _fail, future, wrapped)
    except Exception as error:  # whatever the function raises is its caller's
        _tell(loop, _fail, future, error)
    except BaseException:  # an interrupt is this thread's own, and would end the loop's
        _tell(loop, future.cancel)
        raise
    else:
        _tell(loop, _settle, future, result)


def _tell(loop: asyncio.AbstractEventLoop, act: Callable[..., object], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(act, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
        # Given up when the cache was closed: nobody is there to be told.


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _spawn(job: Job) -> None:
    threading.Thread(target=job, name="asynccache-left", daemon=True).start()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _finish(calls: Iterable[Future[Any]], leave: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = asyncio.get_running_loop()
    if under_way := [asyncio.wrap_future(call) for call in calls]:
        await asyncio.wait(under_way)
    # Flights that go on for nobody may open again what was closed, and some of that has tasks without an end.
    await leave()
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await leave()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
    loop.call_soon(loop.stop)
