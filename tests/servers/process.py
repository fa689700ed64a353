"""What all servers have in common: a process, its ports, its log, its readiness and its certain end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Self

HOST = "127.0.0.1"

_TRIES = 3
_PATIENCE = 30.0
"""Seconds until a server that lives must have become ready, also on a machine that is busy."""

# The server waits for a line from us, so that nothing of it runs before its keeper does: when this process is
# killed in between, the line never comes. `exec` keeps the process id.
_WAIT_AND_RUN = 'read -r go && exec "$@" </dev/null'
# The keeper reads a line when the server has been stopped, and the end of the file when this process is gone.
_KEEP = 'read -r bye || { kill -KILL "$1"; rm -rf "$2"; }'


class ServerError(RuntimeError):
    """A server did not start, or did not become what it should. The text has the end of its log."""


class Server(ABC):
    """A server on a free port of the loopback interface, started by `start()` or by `with`.

    It never outlives the process that started it, even when that is killed by SIGKILL: a keeper (a shell that
    waits for the end of a pipe) then kills it and removes its folder. That is so on Linux and on macOS, from
    whichever thread it was started: Linux' parent-death signal would come when the *thread* ends.
    """

    name: ClassVar[str]
    number_of_ports: ClassVar[int] = 1
    listening: ClassVar[str]
    """What it writes to its log once it has its port: an answer alone might be that of someone else, who was
    quicker to take the port."""

    def __init__(self) -> None:
        self.host = HOST
        self._ports: tuple[int, ...] = ()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments. The ports and the folder are there already."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it answers its protocol. May raise OSError, which means no."""

    @property
    def port(self) -> int:
        """Where it listens. Stays the same when it is started again."""
        if not self._ports:
            raise RuntimeError(f"{self.name} has not been started")
        return self._ports[0]

    @property
    def folder(self) -> Path:
        """A folder of its own, removed by `stop()`. The log is in it."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="asynccache-"))
        return self._folder

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        return self._running().pid

    @property
    def runs(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has written since it was started last."""
        return (self.folder / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, again on the same port if it ran before, and return when it answers.

        Raises ServerError when it does not.
        """
        if self._process is not None:
            raise RuntimeError(f"{self.name} runs already")
        known, log = self._ports, ""
        for _ in range(_TRIES):
            # Nothing reserves a port that is free now: whoever loses it tries another one.
            self._ports = known or free_ports(self.number_of_ports)
            try:
                self._spawn()
                if self._became_ready():
                    return
                log = self.log
            except BaseException:
                self.stop()
                raise
            self._release()
        self.stop()
        self._ports = known
        raise ServerError(f"{self.name} did not start. The end of its log:\n{log[-2000:]}")

    def stop(self) -> None:
        """End it and remove its folder. Does nothing when it does not run."""
        if self._process is not None:
            self.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._release()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def terminate(self) -> None:
        """Ask it to end, also when it is frozen, and do not wait: `stop()` must follow."""
        self._running().terminate()
        self._running().send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL. Its folder stays, and `start()` brings it back on the same port."""
        self._running().kill()
        self._release()

    def freeze(self) -> None:
        """SIGSTOP: connections are still accepted, by the kernel, and nothing is answered."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # macOS has none before Python 3.13; there the signal is as good as delivered
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """SIGCONT: what came in meanwhile is answered now."""
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process

    def _spawn(self) -> None:
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WAIT_AND_RUN, "sh", *self.command()],
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for whoever started it, who then stops it
            )
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEP, "sh", str(self._process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        _tell(self._process)

    def _became_ready(self) -> bool:
        process, deadline = self._running(), time.monotonic() + _PATIENCE
        while process.poll() is None:
            try:
                if self.listening in self.log and self.answers():
                    return True
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} gave no answer within {_PATIENCE:g} s. Its log:\n{self.log[-2000:]}")
            time.sleep(0.01)
        return False

    def _release(self) -> None:
        """Reap the process, which is dead or dying, and then dismiss the keeper."""
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._keeper is not None:
            _tell(self._keeper)
            self._keeper.wait()
            self._keeper = None


def stop_all(servers: Iterable[Server]) -> None:
    """Stop them side by side: each takes a moment to end."""
    servers = list(servers)
    for server in servers:
        if server.runs:
            server.terminate()
    for server in servers:
        server.stop()


def _tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(b"\n")
        process.stdin.close()
    except BrokenPipeError:
        pass  # it is gone already


def free_ports(number: int) -> tuple[int, ...]:
    """So many ports of the loopback interface that nobody listens on.

    They lie below those that the kernel gives to outgoing connections. Otherwise a client of a server that is down
    can be given the very port it tries to reach, and is then connected to itself.
    """
    with_sockets: list[socket.socket] = []
    try:
        while len(with_sockets) < number:
            candidate = socket.socket()
            with_sockets.append(candidate)
            try:
                candidate.bind((HOST, random.randrange(20_000, 32_768)))
            except OSError:
                with_sockets.pop().close()
        return tuple(candidate.getsockname()[1] for candidate in with_sockets)
    finally:
        for candidate in with_sockets:
            candidate.close()


def wait_until(condition: Callable[[], bool], what: str, patience: float = _PATIENCE) -> None:
    """Ask again and again, as long as foreign processes need to agree. Raises ServerError after so many seconds.

    An OSError means: not yet. A server that changes its part hangs up on its clients.
    """
    deadline = time.monotonic() + patience
    while not _holds(condition):
        if time.monotonic() > deadline:
            raise ServerError(f"{what}: not within {patience:g} s")
        time.sleep(0.02)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except OSError:
        return False
