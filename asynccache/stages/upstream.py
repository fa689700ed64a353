"""The innermost handler: any acompletion-like callable."""

from __future__ import annotations

from collections.abc import Awaitable

from asynccache.batches import Batch
from asynccache.model import CacheStatus, Completion, CompletionStream, Outgoing, Request, Response
from asynccache.stats import Stats
from asynccache.streams import Iterated


class Upstream:
    """Calls what was wrapped, for those of one `Batch` together. What it raises passes through untouched."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def __call__(self, request: Request) -> Awaitable[Response]:
        batch = request.target.call
        return batch.ask(request, self._call) if isinstance(batch, Batch) else self._call(request)

    async def _call(self, request: Request) -> Response:
        target, params = request.target, request.params
        if (outgoing := request.find(Outgoing)) is not None:
            params = dict(await outgoing.of(params))
        self._stats.upstream_calls += 1
        try:
            answer = await target.call(**params)
        except Exception:
            self._stats.upstream_errors += 1
            raise
        status = CacheStatus("bypass" if request.bypass else "miss", request.bypass, key=request.digest)
        if hasattr(answer, "__aiter__"):
            # Whoever closes the chunks closes what is behind them.
            chunks = answer if hasattr(answer, "__anext__") else Iterated(answer)
            return CompletionStream(status, chunks, answer)
        return Completion(status, answer)
