"""LangChain: its cache, on top of a `Cache`.

    set_llm_cache(LangChainCache(cache))

What LangChain itself looks up is answered: `invoke`, `batch` and `generate`, with `streaming=True` too. Its `stream`
and `astream` never ask a cache: where they are to be cached, give the model an HTTP client with an
`AsyncCacheTransport`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core._api import suppress_langchain_beta_warning
from langchain_core.caches import BaseCache
from langchain_core.load import dumps, loads
from langchain_core.load.serializable import Serializable
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk

from asynccache.answers import JSONAnswers
from asynccache.call_types.function import FunctionCallType
from asynccache.epochs import invalidated_since, scopes, tags
from asynccache.errors import BackendError, ConfigError, NotCached
from asynccache.model import CacheStatus, Completion, Directives, Entry, Request, Response, Target
from asynccache.pipeline import compose
from asynccache.protocols import Verdict
from asynccache.stages.build_key import BuildKey
from asynccache.stages.elements import Elements
from asynccache.stages.hooks import Hooks
from asynccache.stages.store import Store

if TYPE_CHECKING:
    from asynccache.cache import Cache

logger = logging.getLogger("asynccache")

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
    LangChain's cache does not see the call itself. What is served stale is not refreshed behind it. Closing the cache
    is its owner's.

    Raises ConfigError when the cache has stages without which this cannot be done.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        """The cache itself."""
        found: dict[type, Any] = {}
        for stage in cache._stages:
            for kind in (Hooks, BuildKey, Elements, Store):
                if isinstance(stage, kind):
                    found[kind] = stage
        if missing := [kind.__name__ for kind in (BuildKey, Elements, Store) if kind not in found]:
            raise ConfigError(f"a LangChainCache needs a cache with the stages {', '.join(missing)}")
        # Reading and writing apart: what lies between them, LangChain does itself.
        before = [*([found[Hooks]] if Hooks in found else []), found[BuildKey]]
        self._reading = compose([*before, found[Elements]], _absent)
        self._writing = compose([*before, found[Store]], self._given)
        self._epochs, self._clock = found[Store]._epochs, found[Store]._clock
        self._began: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._sync_look_up = cache.as_sync(_nothing, self.alookup)
        self._sync_update = cache.as_sync(_nothing, self.aupdate)
        self._sync_clear = cache.as_sync(_nothing, cache.clear)

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """As `alookup`. It blocks."""
        found: list[Generation] | None = self._sync_look_up(prompt, llm_string)
        return found

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """As `aupdate`. It blocks."""
        self._sync_update(prompt, llm_string, return_val)

    def clear(self, **_: Any) -> None:
        """As `aclear`. It blocks."""
        self._sync_clear()

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """What is kept for this call; None when there is nothing. Raises nothing."""
        try:
            asked = _only_if_cached(self.cache._defaults)
            response = await self._reading(Request(_params(prompt, llm_string), asked, _TARGET))
        except NotCached:
            self._begins(prompt, llm_string)
            return None
        except Exception as error:  # a cache that fails must not fail the call
            self._failed(error)
            self.cache.stats.read_errors += 1
            return None
        return response.value if isinstance(response, Completion) else None

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep what this call was answered. Raises nothing."""
        try:
            request = Request(_params(prompt, llm_string), self.cache._defaults, _TARGET)
            request.attach(_Answer(list(return_val), self._began.pop((prompt, llm_string), None)))
            await self._writing(request)
        except Exception as error:  # as above
            self._failed(error)
            self.cache.stats.write_errors += 1

    async def aclear(self, **_: Any) -> None:
        """End all answers of the cache's namespace, as `Cache.clear` does: those of its other users, too. O(1).
        Raises BackendError."""
        await self.cache.clear()

    def _begins(self, prompt: str, llm_string: str) -> None:
        # Of calls with the same key under way, the first: an invalidation after it ends what either brings.
        self._began.setdefault((prompt, llm_string), self._clock())
        if len(self._began) > _UNDER_WAY:
            with suppress(KeyError):  # another thread was faster
                self._began.popitem(last=False)

    async def _given(self, request: Request) -> Response:
        """In the upstream's place: the answer that LangChain has got."""
        answer = request.find(_Answer)
        assert answer is not None
        response = Completion(CacheStatus("miss", key=request.digest), answer.generations)
        if answer.began is not None and not request.bypass:
            asked = request.directives
            with suppress(BackendError):  # then nothing will be written anyway
                numbers = await self._epochs.read([*scopes(asked), *tags(asked, asked.tags)])
                if invalidated_since(numbers, answer.began):
                    response.veto("invalidated")
        return response

    def _failed(self, error: Exception) -> None:
        if isinstance(error, BackendError):
            logger.debug("LangChain's call goes on without its cache: %s", error)
        else:
            logger.error("LangChain's call goes on without its cache", exc_info=error)

    def __repr__(self) -> str:
        return f"LangChainCache({self.cache!r})"


def wrap(cache: Cache, target: Any, name: str | None) -> None:
    """None: LangChain's objects take a `LangChainCache` in place of being wrapped."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a call was answered, and when its look-up began; None when nothing was looked up."""

    generations: list[Generation]
    began: float | None


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


def _only_if_cached(asked: Directives) -> Directives:
    return replace(asked, only_if_cached=True)


async def _absent(request: Request) -> Response:
    raise NotCached(request.bypass or "absent")


async def _never(**_: Any) -> Any:
    raise AssertionError("LangChain makes the call itself")


def _nothing(*_: Any, **__: Any) -> None:
    """On the cache's own thread, where a hook may call a model: there the cache keeps out."""


_TARGET = Target(call=_never, call_type=_LangChainCallType(), answers=_Generations(), endpoint="langchain")
