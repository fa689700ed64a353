"""A backend that also answers questions which are worded differently: an exact store, an index of vectors beside it,
and a policy that decides whether what is close may serve."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol, get_args

from asynccache.background import cancel
from asynccache.errors import BackendClosed, BackendError, ConfigError, CorruptEntry, EmbeddingError, ForeignEntry
from asynccache.loops import PerLoop
from asynccache.model import CacheKey, Entry, Match, Neighbour
from asynccache.protocols import (
    AsyncCacheBackend,
    Changes,
    Clock,
    Leases,
    Size,
    SupportsAdd,
    SupportsChanges,
    SupportsLease,
    SupportsLeave,
    SupportsPing,
    SupportsSize,
)
from asynccache.semantic import embedders
from asynccache.semantic.answers import same_words, text_of
from asynccache.semantic.decisions import (
    Candidate,
    Decision,
    Policy,
    SupportsState,
    SupportsWithdraw,
    Verifier,
    default_policy,
)
from asynccache.semantic.embedders import DEFAULT_MODEL, OwnEmbedder
from asynccache.semantic.embedding import Embedding
from asynccache.semantic.indexes import Index, Question
from asynccache.semantic.shadow import ShadowLog
from asynccache.semantic.vectors import Vector

logger = logging.getLogger("asynccache")

Mode = Literal["on", "shadow", "off"]
Verify = Literal["inline", "behind"]

LABELLED = 5
"""Of the nearest stored questions: with whose answers a new one is compared."""
_OPEN = 4096  # questions whose answer is waited for
_EXPLORING = 60.0  # seconds that a call which explores may take
_SAVED = 60.0  # seconds between two writes of what the policy has learned
_BEHIND = 64  # comparisons of answers under way at the same time
_BATCH = 16  # entries that leave together: look-ups want room in the store meanwhile
_LEARNED = CacheKey(sha256(b"asynccache/semantic/learned").hexdigest())
"""Where the store keeps what the policy has learned."""
_SURE = 0.5  # a verifier that says more holds the answer for right


@dataclass(slots=True)
class SemanticStats:
    """Counters since the backend was made. They only go up."""

    searches: int = 0
    """Questions without an entry of their own whose neighbours were looked for."""
    found: int = 0
    """Neighbours' entries that the policy let pass. Some may turn out to be invalidated, and the next one is taken."""
    explored: int = 0
    """Those that one could have served, and the policy wanted to be asked all the same."""
    shadowed: int = 0
    """Those that one could have served, had the mode not been "shadow"."""
    unembedded: int = 0
    """Questions and answers that got no vector, or not in time: treated as in a cache without semantics."""
    index_errors: int = 0
    """Searches and additions that the index failed: as above."""
    repaired: int = 0
    """Vectors taken away because their answer had gone."""
    evicted: int = 0
    """Answers taken away because their vector had to leave."""
    verifier_errors: int = 0
    """Verifiers that raised, or took too long: their answer was not served, or taught nothing."""
    labels: int = 0
    """Comparisons of a new answer with a stored one that the policy has learnt from."""


class Shadow(Protocol):
    """Keeps what was, or would have been, decided, beside what the answer then was. In the mode "shadow" it is told of
    the nearest question where none was good enough, too."""

    def record(self, query: str, candidate: Candidate, decision: Decision, equal: bool, /) -> None:
        """The model was asked `query`; its answer is, or is not, that of the candidate. Must not block."""
        ...


class SemanticBackend:
    """Looks up a key exactly, and then, if it has a text, the nearest texts in its scope.

    store:   keeps the answers: any exact backend. Closed with this one.
    index:   keeps the vectors of their questions, in partitions of one scope each. Closed with this one.
    Everything else has the meaning that it has in `options`.

    An answer found by its own key comes back as it is; one found by similarity as a `Neighbour`. The embedder gets
    `embedding_deadline` seconds: past them the look-up finds nothing. No failure of it, or of the index, fails a
    look-up or a write: they are counted. Of what the store fails, all is raised.

    Vector and answer leave together, and nothing is served that is in one of the two alone:
      the answer has gone (expired, evicted, lost)   its vector is met once more, and taken away
      the vector has gone, or was never made         the answer is found by its own key alone
      the answer is stored again while its vector    it may stay without one until it is stored once more
      is taken away

    What the policy learns is in the store as well, under a key of its own: read at the first look-up, and written once
    a minute in which it has learned, and on closing. Of several processes the last one's is what stays.
    """

    def __init__(
        self,
        store: AsyncCacheBackend,
        index: Index,
        *,
        name: str,
        embedder: Any = None,
        embedding_model: str | None = None,
        embedding_api_base: str | None = None,
        embedding_api_key: str | None = None,
        embedding_deadline: float = 0.2,
        embedding_memo: int = 10_000,
        policy: Policy | str = "layered",
        similarity_threshold: float | None = None,
        confidence: float | None = None,
        guards: Sequence[str] | None = None,
        scorer: bool = True,
        error_budget: float | None = None,
        verifier: Verifier | None = None,
        verify: Verify = "inline",
        verifier_deadline: float = 1.0,
        mode: Mode = "on",
        shadow: Shadow | str | os.PathLike[str] | None = None,
        max_text: int = 1000,
        equal_answers: float = 0.9,
        clock: Clock = time.time,
    ) -> None:
        if mode not in get_args(Mode):
            raise ConfigError(f"mode={mode!r}: 'on', 'shadow' or 'off' is wanted")
        if verify not in get_args(Verify):
            raise ConfigError(f"verify={verify!r}: 'inline' or 'behind' is wanted")
        if verifier is not None and not callable(verifier):
            raise ConfigError(f"verifier={verifier!r}: an async callable is wanted")
        if isinstance(max_text, bool) or not isinstance(max_text, int) or max_text < 1:
            raise ConfigError(f"max_text={max_text!r}: a whole number of characters is wanted")
        if not _is_number(verifier_deadline) or not verifier_deadline > 0:
            raise ConfigError(f"verifier_deadline={verifier_deadline!r}: a number of seconds greater than 0 is wanted")
        if not _is_number(equal_answers) or not -1 <= equal_answers <= 1:
            raise ConfigError(f"equal_answers={equal_answers!r}: a cosine is wanted, from -1 to 1")
        if not isinstance(policy, str) and not callable(getattr(policy, "decide", None)):
            raise ConfigError(f"policy={policy!r}: 'layered', 'threshold' or an object with decide() is wanted")
        if not isinstance(shadow, str | os.PathLike | None) and not callable(getattr(shadow, "record", None)):
            raise ConfigError(f"shadow={shadow!r}: a path or an object with record() is wanted")
        layers = {
            "similarity_threshold": similarity_threshold,
            "confidence": confidence,
            "guards": guards,
            "error_budget": error_budget,
        }
        if isinstance(policy, str):
            self.policy = default_policy(policy=policy, scorer=scorer, **layers)  # type: ignore[arg-type]
        else:
            given = [option for option, value in layers.items() if value is not None]
            if given:
                raise ConfigError(f"{given[0]} belongs to the usual policy: give it, or a policy of your own")
            self.policy = policy
        self._own: OwnEmbedder | None = None
        if embedder is None:
            self._own = embedder = embedders.load(
                embedding_model or DEFAULT_MODEL, api_base=embedding_api_base, api_key=embedding_api_key
            )
        elif embedding_api_base is not None or embedding_api_key is not None:
            raise ConfigError("embedding_api_base and embedding_api_key say nothing to an embedder of your own")
        else:
            embedder = embedders.adapt(embedder, embedding_model)
        self.store = store
        self.index = index
        self.embedding = Embedding(embedder, deadline=embedding_deadline, memo=embedding_memo)
        self.stats = SemanticStats()
        self.mode: Mode = mode
        self._name = name
        self._verifier = verifier
        self._verify = verify
        self._verifier_deadline = verifier_deadline
        self._shadow: Shadow | None = ShadowLog(Path(shadow)) if isinstance(shadow, str | os.PathLike) else shadow
        self._max_text = max_text
        self._equal_answers = equal_answers
        self._clock = clock
        self._lock = Lock()  # a policy belongs to one loop: those of several take turns
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._recalled = False
        self._unsaved = 0
        self._saved = clock()
        self._behind = PerLoop(_Tasks, _Tasks.aclose)
        self._closed = False
        if isinstance(store, SupportsAdd):
            self.add = self._add
        if isinstance(store, SupportsSize):
            self.size = self._size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r}, {self.index!r}, mode={self.mode!r})"

    # -- the backend ----------------------------------------------------------------------------------

    async def get(self, key: CacheKey, /) -> Entry | None:
        """The entry under this key; else that of a question in the same scope whose answer may serve, as a
        `Neighbour`; else None. Raises what the store raises."""
        self._check_open()
        entry = await self.store.get(key)
        if entry is not None or self.mode == "off" or not self._is_semantic(key):
            return entry
        if not self._recalled:
            await self._recall()
        waited = self._open.get(key.digest)
        if waited is not None and waited.decision.explore and self._clock() - waited.since < _EXPLORING:
            return None  # its call is under way: one label is one question
        try:
            vector = await self.embedding(key.text)
        except EmbeddingError as error:
            self._unembedded(error)
            return None
        # Vectors come by the batch, and neighbours when the loop gets to them: together they would hold it up.
        await self._behind.here().turn()
        found = await self._search(key, vector)
        await self._behind.here().turn()
        return await self._nearest(key, found)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        """Keep the entry, then the vector of its question. Raises what the store raises."""
        self._check_open()
        await self.store.set(key, entry)
        await self._stored(key, entry)

    async def delete(self, key: CacheKey, /) -> bool:
        """Take the entry away, and its vector. True when there was an entry. Raises what the store raises."""
        self._check_open()
        found = await self.store.delete(key)
        await self._forget(key.digest, key.scope)
        return found

    async def evict_older_than(self, seconds: float) -> int:
        """Take away all answers that have a vector and are older: for questions that drift. How many there were.
        An answer that is stored again in the same moment may go too: that is a miss. Raises BackendError."""
        self._check_open()
        before, gone = self._clock() - seconds, 0
        while found := await self.index.older(before, _BATCH):
            await asyncio.gather(*[self.store.delete(CacheKey(digest)) for digest, _ in found])
            await asyncio.gather(*[self.index.remove(digest, scope) for digest, scope in found])
            gone += len(found)
        return gone

    async def ping(self) -> None:
        """Ask the store and the index. Raises BackendError."""
        self._check_open()
        if isinstance(self.store, SupportsPing):
            await self.store.ping()
        await self.index.ping()

    async def drain(self) -> None:
        """Wait until the answers that were stored on the running loop have been compared."""
        await self._behind.here().drain()

    async def leave(self) -> None:
        await self._behind.leave()
        await self.embedding.leave()
        await self.index.leave()
        if isinstance(self.store, SupportsLeave):
            await self.store.leave()

    async def aclose(self) -> None:
        """Close the store and the index, and the embedder unless it was handed in."""
        if self._closed:
            return
        self._closed = True
        async with AsyncExitStack() as stack:  # all of them, also when this is cancelled
            stack.push_async_callback(self.store.aclose)
            stack.push_async_callback(self.index.aclose)
            if self._own is not None:
                stack.push_async_callback(self._own.aclose)
            if isinstance(self._shadow, ShadowLog):
                stack.push_async_callback(self._shadow.flush)
            stack.push_async_callback(self.embedding.aclose)
            await self._behind.aclose()
            if self._unsaved:
                await self._save()

    # -- powers, if the store has them ----------------------------------------------------------------

    async def _add(self, key: CacheKey, entry: Entry, /) -> bool:
        self._check_open()
        added: bool = await self.store.add(key, entry)  # type: ignore[attr-defined]
        if added:
            await self._stored(key, entry)
        return added

    async def _size(self) -> Size:
        self._check_open()
        size: Size = await self.store.size()  # type: ignore[attr-defined]
        return size

    @property
    def leases(self) -> Leases | None:
        return self.store.leases if isinstance(self.store, SupportsLease) else None

    @property
    def changes(self) -> Changes | None:
        return self.store.changes if isinstance(self.store, SupportsChanges) else None

    # -- looking up -----------------------------------------------------------------------------------

    @property
    def lookup_time(self) -> float:
        """Seconds that a look-up may wait for the embedder and the verifier."""
        inline = self._verifier is not None and self._verify == "inline"
        return self.embedding.deadline + (self._verifier_deadline if inline else 0.0)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendClosed("used after aclose()", backend=self._name)

    def _is_semantic(self, key: CacheKey) -> bool:
        """A longer text than the embedder reads would be as good as equal to all that begin as it does."""
        return key.semantic and bool(key.text.strip()) and bool(key.scope) and len(key.text) <= self._max_text

    async def _search(self, key: CacheKey, vector: Vector) -> list[Candidate]:
        """The nearest stored questions, the same one aside: its answer has gone."""
        self.stats.searches += 1
        try:
            found = await self.index.search(key.scope, vector, self.policy.candidates, self._clock())
        except BackendClosed:
            raise
        except BackendError as error:
            self._index_failed(error)
            return []
        if any(one.digest == key.digest for one in found):
            await self._repair(key.digest, key.scope)
        return [one for one in found if one.digest != key.digest]

    async def _nearest(self, key: CacheKey, candidates: list[Candidate]) -> Neighbour | None:
        """The answer of one of these, if the policy and the verifier find that it serves."""
        candidates = list(candidates)
        while True:
            with self._lock:
                decision = self.policy.decide(key.text, candidates)
            chosen = decision.candidate
            if chosen is None or decision.explore or self.mode == "shadow":
                self._await_answer(key, candidates, decision)
                return None
            candidates.remove(chosen)
            entry = await self._answer_of(key, chosen)
            if entry is not None and await self._verified(key, chosen, entry):
                self.stats.found += 1
                layer = "verifier" if self._verifier is not None and self._verify == "inline" else decision.layer
                match = Match(
                    chosen.text, chosen.digest, chosen.similarity, layer, decision.score, tuple(decision.reasons)
                )
                return _neighbour(entry, match, partial(self._next, key, chosen, candidates))
            self._withdraw(key, chosen)

    async def _next(self, key: CacheKey, refused: Candidate, rest: list[Candidate], over: bool) -> Neighbour | None:
        """Instead of one that may not be served."""
        if over:
            await self.store.delete(_key_of(key, refused))
            await self._forget(refused.digest, key.scope)
        self._withdraw(key, refused)
        return await self._nearest(key, rest)

    def _withdraw(self, key: CacheKey, candidate: Candidate) -> None:
        """One request is one request, however often the policy has to choose for it."""
        if isinstance(self.policy, SupportsWithdraw):
            with self._lock:
                self.policy.withdraw(key.text, candidate)

    async def _answer_of(self, key: CacheKey, candidate: Candidate) -> Entry | None:
        """The answer of a stored question; None, and its vector is taken away, when it has none any more."""
        try:
            entry = await self.store.get(_key_of(key, candidate))
        except ForeignEntry:
            return None  # others may be able to read it
        except CorruptEntry:
            entry = None
        if entry is None:
            await self._repair(candidate.digest, key.scope)
        return entry

    async def _verified(self, key: CacheKey, candidate: Candidate, entry: Entry) -> bool:
        if self._verifier is None:
            return True
        if self._verify == "behind":
            # The next asker profits.
            self._behind.here().start(self._learn_by_verifier(key.text, candidate, entry))
            return True
        right = await self._opinion(key.text, candidate, entry)
        return right is not None and right > _SURE

    async def _opinion(self, query: str, candidate: Candidate, entry: Entry) -> float | None:
        assert self._verifier is not None
        try:
            async with asyncio.timeout(self._verifier_deadline):
                return await self._verifier(query, candidate.text, text_of(entry))
        except Exception as error:  # it is anybody's: without an opinion nothing is served, and nothing learnt
            logger.debug("the verifier failed: %r", error)
            self.stats.verifier_errors += 1
            return None

    # -- storing --------------------------------------------------------------------------------------

    async def _stored(self, key: CacheKey, entry: Entry) -> None:
        if self.mode == "off" or entry.kind == "epoch" or not self._is_semantic(key):
            return
        try:
            vector = await self.embedding(key.text)
            question = Question(key.scope, key.digest, key.text, entry.created, entry.expires)
            for digest in await self.index.add(question, vector):
                self.stats.evicted += 1
                await self.store.delete(CacheKey(digest))
        except EmbeddingError as error:
            self._unembedded(error)
        except BackendClosed:
            pass  # the entry is stored
        except BackendError as error:
            self._index_failed(error)
        waited = self._open.pop(key.digest, None)
        if waited is not None and waited.candidates:
            self._behind.here().start(self._learn(key, entry, waited))

    async def _repair(self, digest: str, scope: str) -> None:
        self.stats.repaired += 1
        await self._forget(digest, scope)

    async def _forget(self, digest: str, scope: str) -> None:
        try:
            await self.index.remove(digest, scope)
        except BackendClosed:
            raise
        except BackendError as error:
            self._index_failed(error)  # it is met again

    def _unembedded(self, error: EmbeddingError) -> None:
        self.stats.unembedded += 1
        logger.debug("no semantic look-up: %s", error)

    def _index_failed(self, error: BackendError) -> None:
        self.stats.index_errors += 1
        logger.debug("the index of the %s backend failed: %s", self._name, error)

    # -- labels ---------------------------------------------------------------------------------------

    def _await_answer(self, key: CacheKey, candidates: list[Candidate], decision: Decision) -> None:
        """Remember with whom the answer is to be compared when it comes."""
        if decision.candidate is not None:
            self.stats.explored += decision.explore
            self.stats.shadowed += not decision.explore
        nearest = sorted(candidates, key=lambda one: -one.similarity)[:LABELLED]
        if decision.candidate is not None and decision.candidate not in nearest:
            nearest[-1:] = [decision.candidate]
        self._open[key.digest] = _Open(tuple(nearest), decision, self._clock())
        self._open.move_to_end(key.digest)
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)

    async def _learn(self, key: CacheKey, entry: Entry, waited: _Open) -> None:
        for candidate in waited.candidates:
            stored = await self._answer_of(key, candidate)
            equal = None if stored is None else await self._equal(key, entry, candidate, stored)
            if equal is None:
                continue
            chosen = candidate == waited.decision.candidate
            self._label(key.text, candidate, equal, explored=chosen and waited.decision.explore, digest=key.digest)
            if self._shadow is not None and (chosen or self._is_doubted(waited, candidate)):
                self._shadow.record(key.text, candidate, waited.decision, equal)
        if self._unsaved and self._clock() - self._saved >= _SAVED:
            await self._save()

    async def _recall(self) -> None:
        """Tell the policy what it had learned before a restart."""
        if not isinstance(self.policy, SupportsState):
            self._recalled = True
            return
        try:
            entry = await self.store.get(_LEARNED)
        except CorruptEntry:
            entry = None
        except BackendError as error:
            logger.debug("what the policy had learned cannot be read yet: %s", error)
            return
        if entry is not None and not self._recalled:  # another look-up may have been quicker
            try:
                with self._lock:
                    self.policy.restore(entry.body)
            except ValueError as error:
                logger.warning("what the policy had learned is of no use to it: %s", error)
        self._recalled = True

    async def _save(self) -> None:
        if not isinstance(self.policy, SupportsState) or not self._recalled:
            return
        self._saved, written = self._clock(), self._unsaved
        with self._lock:
            state = self.policy.state()
        try:
            await self.store.set(_LEARNED, Entry(state, "completion", self._clock()))
        except BackendError as error:
            logger.debug("what the policy has learned was not written: %s", error)
        else:
            self._unsaved -= written

    def _is_doubted(self, waited: _Open, candidate: Candidate) -> bool:
        """Whether it is the nearest, and nothing was good enough: what a lower threshold would have served. Where
        answers are served, only the doubted ones are compared, and would speak against all."""
        return self.mode == "shadow" and waited.decision.candidate is None and candidate == waited.candidates[0]

    async def _equal(self, key: CacheKey, entry: Entry, candidate: Candidate, stored: Entry) -> bool | None:
        """Whether the stored answer would have done; None when nobody can say."""
        new, old = text_of(entry), text_of(stored)
        if new is None or old is None:
            return None
        if same_words(new, old):
            return True
        if self._verifier is not None:
            right = await self._opinion(key.text, candidate, stored)
            return None if right is None else right > _SURE
        if max(len(new), len(old)) > self._max_text:
            return None
        one, other = await asyncio.gather(self.embedding(new), self.embedding(old))
        return float(one @ other) >= self._equal_answers

    async def _learn_by_verifier(self, query: str, candidate: Candidate, entry: Entry) -> None:
        right = await self._opinion(query, candidate, entry)
        if right is not None:
            self._label(query, candidate, right > _SURE, explored=False)

    def _label(
        self, query: str, candidate: Candidate, equal: bool, *, explored: bool, digest: str | None = None
    ) -> None:
        with self._lock:
            self.policy.learn(query, candidate, equal, explored=explored, digest=digest)
        self.stats.labels += 1
        self._unsaved += 1


@dataclass(frozen=True, slots=True)
class _Open:
    """A question whose answer is waited for: with whose it is to be compared, and what was decided."""

    candidates: tuple[Candidate, ...]
    decision: Decision
    since: float


class _Tasks:
    """Work behind the callers of one event loop, and whose turn it is before them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    async def turn(self) -> None:
        """Return to one caller at a time: the loop does everything else before the next one."""
        async with self._turn:
            await asyncio.sleep(0)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= _BEHIND:
            work.close()  # a label less
            return
        task = asyncio.create_task(_quietly(work), name="asynccache-semantic")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def aclose(self) -> None:
        for task in list(self._tasks):
            await cancel(task)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:  # nobody is there to hear it: a label less
        logger.debug("an answer was not compared: %r", error)


def _key_of(asked: CacheKey, candidate: Candidate) -> CacheKey:
    """The key of a stored question: it has the border of the one that is asked, since it has its scope."""
    return CacheKey(candidate.digest, (asked.scope, candidate.text), asked.source)


def _neighbour(entry: Entry, match: Match, following: Any) -> Neighbour:
    facts = (entry.body, entry.kind, entry.created, entry.fresh_until, entry.expires, entry.tags, entry.meta)
    return Neighbour(*facts, match=match, next=following)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
