"""LangChain: its cache, on top of a `Cache`.

    set_llm_cache(LangChainCache(cache))

What LangChain itself looks up is answered: `invoke`, `batch` and `generate`, with `streaming=True` too. Its `stream`
and `astream` never ask a cache: where they are to be cached, give the model an HTTP client with an
`AsyncCacheTransport`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any

from langchain_core._api import suppress_langchain_beta_warning
from langchain_core.caches import BaseCache
from langchain_core.load import dumps, loads
from langchain_core.load.serializable import Serializable
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk

from asynccache.answers import JSONAnswers
from asynccache.call_types.function import FunctionCallType
from asynccache.model import Completion, Entry, Target
from asynccache.protocols import Verdict

if TYPE_CHECKING:
    from asynccache.cache import Cache

_UNDER_WAY = 10_000
_REASONS = {"length": "length", "max_tokens": "length", "MAX_TOKENS": "length", "content_filter": "content_filter"}
_KNOWN: list[type[Serializable]] = [
    Generation,
    GenerationChunk,
    ChatGeneration,
    ChatGenerationChunk,
    AIMessage,
    AIMessageChunk,
]


class LangChainCache(BaseCache):
    """A `BaseCache` whose answers are kept by a `Cache`: in its backend, namespace and tenant, for its ttl.

    An entry can only become what a model answers with: LangChain's generations and AI messages. Answers of any other
    type, and those that would not come back as they were, are not stored. Nor are those that were cut off.

    It never fails a call: what goes wrong counts in `cache.stats`. Identical calls at the same time are each made:
    LangChain's cache does not see the call itself. What is served stale is not refreshed behind it. Hooks and stages of
    the user's own take part as `CacheAside` says. Closing the cache is its owner's.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        """The cache itself."""
        self._aside = cache.aside()
        self._began: OrderedDict[int, float] = OrderedDict()
        self._sync_look_up = self._aside.as_sync(self._look_up)
        self._sync_update = self._aside.as_sync(self._update)
        self._sync_clear = self._aside.as_sync(cache.clear)

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """As `alookup`. It blocks."""
        found: list[Generation] | None = self._sync_look_up(prompt, llm_string, get_ident())
        return found

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """As `aupdate`. It blocks."""
        self._sync_update(prompt, llm_string, return_val, get_ident())

    def clear(self, **_: Any) -> None:
        """As `aclear`. It blocks."""
        self._sync_clear()

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """What is kept for this call; None when there is nothing. Raises nothing."""
        return await self._look_up(prompt, llm_string, id(asyncio.current_task()))

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep what this call was answered. Raises nothing."""
        await self._update(prompt, llm_string, return_val, id(asyncio.current_task()))

    async def aclear(self, **_: Any) -> None:
        """End all answers of the cache's namespace, as `Cache.clear` does: those of its other users, too. O(1).
        Raises BackendError."""
        await self.cache.clear()

    # LangChain looks up and updates in one task, or one thread: `who`. So calls that are the same, and under way at the
    # same time, do not take each other's beginning.

    async def _look_up(self, prompt: str, llm_string: str, who: int) -> list[Generation] | None:
        response = await self._aside.read(self._aside.request(_TARGET, _params(prompt, llm_string)))
        if isinstance(response, Completion):
            found: list[Generation] = response.value
            return found
        call = hash((who, prompt, llm_string))
        self._began[call] = self._aside.now()
        with suppress(KeyError):  # another thread was faster
            self._began.move_to_end(call)
            if len(self._began) > _UNDER_WAY:
                self._began.popitem(last=False)
        return None

    async def _update(self, prompt: str, llm_string: str, answer: Sequence[Generation], who: int) -> None:
        request = self._aside.request(_TARGET, _params(prompt, llm_string))
        await self._aside.write(request, list(answer), self._began.get(hash((who, prompt, llm_string))))

    def __repr__(self) -> str:
        return f"LangChainCache({self.cache!r})"


def wrap(cache: Cache, target: Any, name: str | None) -> None:
    """None: LangChain's objects take a `LangChainCache` in place of being wrapped."""


class _Generations(JSONAnswers):
    """LangChain's own JSON of its generations."""

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        try:
            text = _written(value)
            again = _written(_revived(text))
        except Exception as error:  # an object in it may refuse in any way
            raise ValueError(f"generations that LangChain cannot write and read: {error}") from error
        if again != text:
            raise ValueError("generations that would not come back from JSON as they were")
        return text.encode(), {}

    def decode(self, entry: Entry) -> Any:
        return _revived(entry.body.decode())


def _written(generations: list[Generation]) -> str:
    # One by one: so LangChain writes the object that a structured output was parsed to, and reads a dict in its place.
    return f"[{', '.join(map(dumps, generations))}]"


def _revived(text: str) -> Any:
    with suppress_langchain_beta_warning():
        return loads(text, allowed_objects=_KNOWN, secrets_from_env=False)


class _LangChainCallType(FunctionCallType):
    name = "chat"

    def judge(self, answer: Any) -> Verdict:
        if not answer:
            return Verdict("empty")
        return Verdict(next(filter(None, map(_refusal, answer)), ""))


def _refusal(generation: Any) -> str:
    """Why this one must not be kept: the providers say it in several places, under two names."""
    said = _kwargs(generation)
    message = _kwargs(said.get("message"))
    for where in (said.get("generation_info"), message.get("response_metadata")):
        for name in ("finish_reason", "stop_reason"):
            reason = where.get(name) if isinstance(where, Mapping) else None
            if isinstance(reason, str) and reason in _REASONS:
                return _REASONS[reason]
    if not (said.get("text") or message.get("content") or message.get("tool_calls")):
        return "empty"
    return ""


def _kwargs(value: Any) -> Mapping[str, Any]:
    found = value.get("kwargs") if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _params(prompt: str, llm_string: str) -> dict[str, Any]:
    return {"prompt": prompt, "llm_string": llm_string}


async def _never(**_: Any) -> Any:
    raise AssertionError("LangChain makes the call itself")


_TARGET = Target(call=_never, call_type=_LangChainCallType(), answers=_Generations(), endpoint="langchain")
