"""Shadow mode's log: what would have been served, and whether it would have been right.

A file of JSON lines, one for each comparison: the two questions, their similarity, what was decided and by whom, and
whether the stored answer equals the new one. `asynccache semantic calibrate` reads it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from asynccache.errors import ConfigError
from asynccache.semantic.decisions import Candidate, Decision

BATCH = 64
FLOOR = 0.5
MOST = 10_000
"""Lines that wait to be written. Further ones are dropped, and counted."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the log. `served`: whether it would have been; `score`, `layer`: what the policy said then."""

    query: str
    stored: str
    similarity: float
    equal: bool
    served: bool
    score: float
    layer: str


class ShadowLog:
    """Appends comparisons to a file. `record` never blocks: lines are written in batches, in a worker thread.

    path: made when the first line is written; its folder has to be there. A file that cannot be written to costs
    lines, which are
    counted in `lost`; never a call. Has the texts of questions: keep it where those may be kept.

    floor: the least similarity that is kept: `calibrate` can recommend no threshold below it. From 0 to 1. Questions
           that nothing served are kept from there on, so that a threshold may turn out to be too high.
    """

    def __init__(self, path: str | Path, *, floor: float = FLOOR) -> None:
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
            raise ConfigError(f"floor={floor!r}: a number from 0 to 1 is wanted")
        self._path = Path(path)
        self._floor = floor
        self._lines: list[str] = []
        self._writing: asyncio.Future[None] | None = None
        self.recorded = 0
        self.lost = 0

    def record(self, query: str, candidate: Candidate, decision: Decision, equal: bool, /) -> None:
        """Take one comparison, if it is near enough. Belongs to a running loop."""
        if candidate.similarity < self._floor:
            return
        if len(self._lines) >= MOST:
            self.lost += 1
            return
        line = {
            "query": query,
            "stored": candidate.text,
            "similarity": round(candidate.similarity, 6),
            "equal": bool(equal),
            "served": decision.candidate is not None and decision.candidate.digest == candidate.digest,
            "score": round(decision.score, 6),
            "layer": decision.layer,
        }
        self._lines.append(json.dumps(line, ensure_ascii=False))
        self.recorded += 1
        if len(self._lines) >= BATCH and (self._writing is None or self._writing.done()):
            self._writing = asyncio.ensure_future(self._write())

    async def flush(self) -> None:
        """Return when all that was recorded so far is written, or lost."""
        if self._writing is not None:
            await self._writing
        if self._lines:
            self._writing = asyncio.ensure_future(self._write())
            await self._writing

    async def _write(self) -> None:
        lines, self._lines = self._lines, []
        try:
            await asyncio.to_thread(self._append, "".join(f"{line}\n" for line in lines))
        except OSError:
            self.lost += len(lines)

    def _append(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)


def read_log(path: str | Path) -> list[Comparison]:
    """The comparisons of a log. Raises ConfigError for a file that is none, and names the line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    return list(_comparisons(text.splitlines(), str(path)))


def _comparisons(lines: Iterable[str], name: str) -> Iterable[Comparison]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found = Comparison(
                query=row["query"], stored=row["stored"], similarity=float(row["similarity"]), equal=row["equal"],
                served=row["served"], score=float(row["score"]), layer=row["layer"],
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{name}, line {number}: not a line of a shadow log ({error!r})") from error
        if not (isinstance(found.equal, bool) and isinstance(found.query, str) and isinstance(found.stored, str)):
            raise ConfigError(f"{name}, line {number}: texts and true or false are wanted")
        yield found
