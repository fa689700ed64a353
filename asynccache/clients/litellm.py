"""`litellm.acompletion` and its kin: functions, told apart by their names."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from litellm import EmbeddingResponse, ModelResponse, embedding
from litellm.types.llms.openai import ResponsesAPIResponse
from litellm.types.utils import ModelResponseStream

from asynccache.answers import ModelAnswers
from asynccache.call_types import CALL_TYPES
from asynccache.model import Completion
from asynccache.sync import on_callers_thread
from asynccache.targets import function_target, is_async

if TYPE_CHECKING:
    from asynccache.cache import Cache

_CALL_TYPES = {
    "completion": ("chat", ModelResponse, ModelResponseStream),
    "embedding": ("embedding", EmbeddingResponse, None),
    "responses": ("responses", ResponsesAPIResponse, None),
}


class _Answers(ModelAnswers):
    def same(self, again: Any, value: Any) -> bool:
        """By what they say: LiteLLM keeps timings and headers of the call beside it."""
        return bool(again.model_dump() == value.model_dump())

    def carry(self, response: Completion) -> Any:
        """Also says `cache_hit` where LiteLLM's users look for it, and that a hit costs nothing."""
        hidden = getattr(response.value, "_hidden_params", None)
        if isinstance(hidden, dict):
            hit = response.status.outcome not in ("miss", "bypass")
            hidden["cache_hit"] = hit
            if hit:
                hidden.update(cache_key=response.status.key, response_cost=0.0)
        return super().carry(response)


def wrap(cache: Cache, target: Any, name: str | None) -> Any:
    """The wrapped function; None for a function whose answers are of no known type."""
    plain = getattr(target, "__name__", "")
    asynchronous = is_async(target)
    known = _CALL_TYPES.get(plain.removeprefix("a") if asynchronous else plain)
    if known is None or not inspect.isroutine(target):
        return None
    call_type, model, chunk = known
    # `aembedding(*args, **kwargs)` hides the names of its arguments, which its sync twin tells.
    named = embedding if call_type == "embedding" else target
    wanted = function_target(
        named,
        target if asynchronous else on_callers_thread(target),
        call_type=CALL_TYPES[call_type],
        answers=_Answers(model, chunk),
        name=name or "",
    )
    wrapped = cache.around(target, wanted, named=named)
    return wrapped if asynchronous else cache.as_sync(target, wrapped)
