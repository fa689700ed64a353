"""Several processes behind one socket."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from asynccache.background import cancel
from asynccache.errors import ConfigError
from asynccache.proxy.generations import StartFailed
from asynccache.proxy.observers import watched_cache
from asynccache.proxy.server import ProxyServer, Source, run
from asynccache.proxy.settings import Settings

logger = logging.getLogger("asynccache")

_GRACE = 5.0  # seconds beyond drain_seconds until a worker that does not end is killed
_SOON = 5.0  # a worker that dies sooner after its start is not started again at once
_PAUSE = 1.0

STARTED, RELOADED, KEPT = b"s", b"r", b"k"
"""What a worker tells, a byte each: it answers; the new configuration is in force; the old one is kept."""


class _Worker:
    """A process, and the pipe on which it tells how it fares."""

    def __init__(self, process: asyncio.subprocess.Process, told: asyncio.StreamReader, transport: Any) -> None:
        self.process = process
        self.told = told
        self.began = time.monotonic()
        self._transport = transport

    @classmethod
    async def start(cls, source: Source, listening: socket.socket, log: str, environment: dict[str, str]) -> _Worker:
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "asynccache.proxy.worker"),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(listening.fileno(), writing),
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches this process, which tells the workers
            )
        finally:
            os.close(writing)
        told = asyncio.StreamReader()
        pipe = os.fdopen(reading, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(told), pipe
        )
        order = {
            "path": None if source.path is None else str(source.path),
            "overrides": source.overrides,
            "socket": listening.fileno(),
            "tell": writing,
            "log": log,
        }
        assert process.stdin is not None
        # On a pipe, since a process's arguments can be seen by all; it stays open: its end is this process's.
        process.stdin.write(json.dumps(order).encode() + b"\n")
        return cls(process, told, transport)

    async def answers(self) -> bool:
        """Wait until it does. False when it has died before."""
        return await self.told.read(1) == STARTED

    def send(self, number: int) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def end(self, seconds: float) -> None:
        """Wait for it so long, then kill it."""
        try:
            async with asyncio.timeout(seconds):
                await self.process.wait()
        except TimeoutError:
            logger.error("worker %d did not end within %g seconds: killed", self.process.pid, seconds)
            self.process.kill()
            await self.process.wait()
        self._transport.close()


class Supervisor:
    """Starts the workers, starts those again that die, and passes on the signals.

    SIGHUP: the configuration is checked here first; a wrong one reaches no worker. SIGTERM and SIGINT: all workers end,
    as a server does by itself.
    """

    def __init__(self, source: Source, listening: socket.socket, *, log: str) -> None:
        self._source = source
        self._listening = listening
        self._log = log
        self._ending = asyncio.Event()
        self._workers: set[_Worker] = set()
        self._environment: dict[str, str] = {}

    async def run(self, settings: Settings, *, started: Callable[[], None], reloaded: Callable[[bool], None]) -> None:
        """Serve until a signal ends it. Raises ConfigError, and StartFailed when the workers cannot be started."""
        watched_cache(settings)  # so that what is wrong with it is said once, and not by each worker
        self._settings = settings
        self._reloaded = reloaded
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        with ExitStack() as kept:
            # Also without metrics: a reload may turn them on, and by then the workers run.
            if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
                folder = kept.enter_context(tempfile.TemporaryDirectory(prefix="asynccache-metrics-"))
                self._environment["PROMETHEUS_MULTIPROC_DIR"] = folder
            watches: list[asyncio.Task[None]] = []
            try:
                workers = [await self._start() for _ in range(settings.proxy.workers)]
                if not all(await asyncio.gather(*(worker.answers() for worker in workers))):
                    raise StartFailed("a worker did not start: see above")
                started()
                watches = [asyncio.create_task(self._watch(worker)) for worker in workers]
                await self._ending.wait()
            finally:
                for watch in watches:
                    await cancel(watch)
                await self._end_all()
                for number in handlers:
                    loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Begin to end, as SIGTERM does."""
        self._ending.set()

    def reload(self) -> None:
        """Load the settings again, as SIGHUP does."""
        try:
            settings = self._source.load()
            watched_cache(settings)
        except ConfigError as error:
            logger.error("the configuration was not reloaded, the old one stays in force: %s", error)
            self._reloaded(False)
            return
        self._settings = settings
        for worker in self._workers:
            worker.send(signal.SIGHUP)

    async def _start(self) -> _Worker:
        worker = await _Worker.start(self._source, self._listening, self._log, self._environment)
        self._workers.add(worker)
        return worker

    async def _watch(self, worker: _Worker) -> None:
        """Hear what it tells, and start another one in its place when it dies."""
        while True:
            while told := await worker.told.read(1):
                if told in (RELOADED, KEPT):
                    self._reloaded(told == RELOADED)
            await worker.process.wait()
            self._workers.discard(worker)
            logger.error("worker %d died (%s): another one is started", worker.process.pid, _how(worker.process))
            self._died(worker.process.pid)
            if time.monotonic() - worker.began < _SOON:
                await asyncio.sleep(_PAUSE)
            worker = await self._start()

    def _died(self, pid: int) -> None:
        """Its gauges are no longer true."""
        folder = self._environment.get("PROMETHEUS_MULTIPROC_DIR") or os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder and self._settings.telemetry.prometheus:
            for path in Path(folder).glob(f"gauge_live*_{pid}.db"):
                path.unlink(missing_ok=True)

    async def _end_all(self) -> None:
        # First: while one process has it open, new connections would wait in it for nobody, and be reset at the end.
        self._listening.close()
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        seconds = self._settings.proxy.drain_seconds + _GRACE
        await asyncio.gather(*(worker.end(seconds) for worker in self._workers))


async def work(order: dict[str, Any]) -> None:
    """Serve as one of several, until a signal or the end of the process that started it."""
    source = Source(None if order["path"] is None else Path(order["path"]), order["overrides"])
    listening = socket.socket(fileno=order["socket"])
    server = ProxyServer(source, listening)
    tell = order["tell"]

    def parent_is_gone() -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            server.stop()

    def started() -> None:
        os.write(tell, STARTED)
        asyncio.get_running_loop().add_reader(0, parent_is_gone)

    await server.run(source.load(), started=started, reloaded=lambda done: _write(tell, RELOADED if done else KEPT))


def main() -> None:
    """What a worker process does."""
    from asynccache.proxy.logs import set_up

    order = json.loads(_line())
    set_up(order["log"])
    try:
        run(lambda: work(order))
    except (ConfigError, StartFailed) as error:
        logger.error("%s", error)
        sys.exit(1)


def _line() -> bytes:
    """The first line of stdin, and not a byte more: its end is waited for later."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit("asynccache: this is started by asynccache serve --workers")
        line += byte
    return line


def _write(pipe: int, told: bytes) -> None:
    try:
        os.write(pipe, told)
    except OSError as error:  # who wanted to hear it is gone; that is noticed elsewhere
        logger.debug("not told: %s", error)


def _how(process: asyncio.subprocess.Process) -> str:
    code = process.returncode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
