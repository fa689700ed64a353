"""Lines in a file that nobody waits for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

logger = logging.getLogger("asynccache")

_BATCH = 1_000


class Lines:
    """Writes lines to a file, in a thread of its own, which begins with the first.

    encode: makes the line of what was put, in that thread. limit: how many may wait; beyond that they are lost.
    """

    def __init__(self, path: Path, encode: Callable[[Any], bytes], limit: int) -> None:
        self.lost = 0
        """Lines that are not in the file, and never will be."""
        self._path = path
        self._encode = encode
        self._limit = limit
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._thread: Thread | None = None
        self._lock = Lock()
        self._failed = False

    def put(self, told: Any) -> None:
        if self._queue.qsize() >= self._limit:
            self.lost += 1
            return
        self._queue.put(told)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = Thread(target=self._run, name="asynccache-ledger", daemon=True)
                    self._thread.start()

    def flush(self) -> None:
        """Block until all that was put so far is in the file, or lost."""
        with self._lock:
            running = self._thread is not None
        if running:
            done = Event()
            self._queue.put(done)
            done.wait()

    def close(self) -> None:
        """The same, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
                thread.join()
                if not self._queue.empty():  # put while it was ending
                    self._thread = Thread(target=self._run, name="asynccache-ledger", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        going = True
        while going:
            batch, events = [self._queue.get()], []
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            if None in batch:
                going = False
            lines = []
            for told in batch:
                if isinstance(told, Event):
                    events.append(told)
                elif told is not None:
                    lines.append(told)
            if lines:
                self._write(lines)
            for event in events:
                event.set()

    def _write(self, told: list[Any]) -> None:
        lines = []
        for each in told:
            try:
                lines.append(self._encode(each))
            except Exception as error:  # a name that is no text, a price list that fails: the others are written
                self._lose(1, error)
        try:
            with self._path.open("ab") as file:
                file.write(b"".join(lines))
        except OSError as error:
            self._lose(len(lines), error)

    def _lose(self, count: int, error: Exception) -> None:
        self.lost += count
        if not self._failed:
            self._failed = True
            logger.error("the ledger cannot write to its file; said once, lost lines are counted", exc_info=error)
