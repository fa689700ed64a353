"""Where vectors are kept and searched: one engine a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from asynccache.semantic.decisions import Candidate
from asynccache.semantic.vectors import Vector


class Question(NamedTuple):
    """What is kept beside a vector.

    scope:   names the partition that alone it is found in, 64 hex digits.
    digest:  of the key that its answer is kept under, 64 hex digits.
    created: when the call began that brought the answer. expires: when that ends; None: never.
    """

    scope: str
    digest: str
    text: str
    created: float
    expires: float | None


class Index(Protocol):
    """Vectors in partitions. A search sees one partition, by construction: its name is the scope.

    Vectors have length 1. All verbs raise BackendError. Safe under cancellation: a vector is there or it is not. One
    that came too late, or whose answer has gone, does no harm: an answer is read before it is served.
    """

    async def search(self, scope: str, vector: Vector, count: int, now: float) -> list[Candidate]:
        """The nearest `count` in this partition that have not expired at `now`, the nearest first."""
        ...

    async def add(self, question: Question, vector: Vector) -> Sequence[str]:
        """Keep it, in the place of an older one under the same digest. The digests of those that had to leave for
        it: their answers are to leave too."""
        ...

    async def remove(self, digest: str, scope: str = "") -> None:
        """Take it away, if it is there. An index that cannot find it without its scope leaves it where it is."""
        ...

    async def older(self, than: float, count: int) -> list[tuple[str, str]]:
        """At most `count` that were created before that time: (digest, scope) of each."""
        ...

    async def ping(self) -> None:
        """Return when searches would work; raise BackendError otherwise."""
        ...

    async def leave(self) -> None:
        """Close what belongs to the running event loop."""
        ...

    async def aclose(self) -> None:
        """Free what the index opened itself. Closing twice is fine."""
        ...
