"""How fast a recorded stream comes again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Literal, Self, TypeVar

from asynccache.errors import ConfigError
from asynccache.streams import close

T = TypeVar("T")
Pace = Literal["instant", "original"] | float
"""At once; with the gaps it was recorded with; or so many tokens a second."""

Sleep = Callable[[float], Awaitable[Any]]


def check_pace(pace: Any) -> Pace:
    """The pace, if it is one. Raises ConfigError."""
    number = isinstance(pace, int | float) and not isinstance(pace, bool) and 0 < pace < float("inf")
    if number or pace in ("instant", "original"):
        return pace  # type: ignore[no-any-return]
    raise ConfigError(f"pace={pace!r}: it is 'instant', 'original', or a number of tokens per second")


def delays(pace: Pace, chunks: int, meta: Mapping[str, Any]) -> Sequence[float]:
    """Seconds to wait before each of so many chunks. `meta` is that of their entry.

    Tokens are taken to be spread evenly over the chunks; a recording that does not say how many there
    were is taken to have one in each.
    """
    if pace == "instant" or not chunks:
        return ()
    if pace == "original":
        return [gap / 1000 for gap in meta.get("gaps") or ()]
    return [_tokens(meta.get("usage"), chunks) / chunks / float(pace)] * chunks


def _tokens(usage: Any, chunks: int) -> float:
    said = usage if isinstance(usage, Mapping) else {}
    tokens = said.get("completion_tokens") or said.get("output_tokens")
    return float(tokens) if isinstance(tokens, int | float) and tokens > 0 else float(chunks)


class Paced(Generic[T]):
    """A stream, each of whose chunks comes after its delay."""

    def __init__(self, chunks: AsyncIterator[T], waits: Sequence[float], *, sleep: Sleep = asyncio.sleep) -> None:
        self._chunks = chunks
        self._waits = iter(waits)
        self._sleep = sleep

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        for wait in self._waits:
            await self._sleep(wait)
            break
        return await self._chunks.__anext__()

    async def aclose(self) -> None:
        await close(self._chunks)
