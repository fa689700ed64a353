"""Answers in pieces: recording them, replaying them, handing them out. No policy.

A recorded stream is its chunks as JSON, one a line: JSON has no raw line breaks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from asynccache.model import CacheStatus

T = TypeVar("T")


def join(chunks: list[bytes]) -> bytes:
    """Recorded chunks as the body of an entry."""
    return b"\n".join(chunks)


def split(body: bytes) -> list[bytes]:
    """The body of an entry as recorded chunks."""
    return body.split(b"\n") if body else []


class Recorder(Generic[T]):
    """Passes a stream on and keeps its chunks; `done` gets them after a clean end, and only then.

    A consumer that breaks off, an upstream that raises, a cancellation: nothing is handed on, and
    `aborted` is called once with the reason. A chunk that cannot be encoded ends the recording, not the stream.
    """

    def __init__(
        self,
        source: AsyncIterator[T],
        encode: Callable[[T], bytes],
        done: Callable[[list[bytes]], Awaitable[None]],
        aborted: Callable[[str], None],
    ) -> None:
        self._source = source
        self._encode = encode
        self._done = done
        self._aborted = aborted
        self._chunks: list[bytes] = []
        self._recording = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            chunk = await self._source.__anext__()
        except StopAsyncIteration:
            if self._recording:
                self._recording = False
                await self._done(self._chunks)
            raise
        except BaseException:
            self._stop("aborted")
            raise
        if self._recording:
            try:
                self._chunks.append(self._encode(chunk))
            except ValueError:
                self._stop("answer-type")
        return chunk

    async def aclose(self) -> None:
        """Stop listening and close the source. Closing twice is fine."""
        self._stop("aborted")
        await close(self._source)

    def __del__(self) -> None:
        self._stop("aborted")  # dropped by a consumer who broke off and did not close it

    def _stop(self, reason: str) -> None:
        if self._recording:
            self._recording = False
            self._chunks.clear()
            self._aborted(reason)


class Replay(Generic[T]):
    """Gives recorded chunks again, decoding each as it is asked for."""

    def __init__(self, chunks: list[bytes], decode: Callable[[bytes], T]) -> None:
        self._chunks = iter(chunks)
        self._decode = decode

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        for chunk in self._chunks:
            return self._decode(chunk)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._chunks = iter(())


class AnswerStream(Generic[T]):
    """What a caller gets for a stream when the wrapped callable has no stream type of its own."""

    def __init__(self, chunks: AsyncIterator[T], status: CacheStatus, source: Any = None) -> None:
        self._chunks = chunks
        self._source = source
        self._asynccache_status = status

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self._chunks.__anext__()

    async def aclose(self) -> None:
        """Stop, and close what the upstream opened."""
        await close(self._chunks)
        await close(self._source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __getattr__(self, name: str) -> Any:
        # Whatever else the upstream's stream offers; a replay has nothing behind it.
        if name.startswith("__") or self.__dict__.get("_source") is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._source, name)


async def close(stream: Any) -> None:
    """Close a stream by whichever name it has for that."""
    for name in ("aclose", "close"):
        if callable(closing := getattr(stream, name, None)):
            result = closing()
            if hasattr(result, "__await__"):
                await result
            return
