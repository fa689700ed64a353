"""How fast semantic look-ups are, what they cost in memory, and for how long they hold up the event loop.

The part "speed" of `python -m benchmarks.semantic`. The engines are those of the project: vectors in memory, RediSearch
and vector sets in a real Redis 8, Qdrant's engine behind the tests' own HTTP server; GPTCache and RedisVL, where they
are installed, with the same vectors. Stored are questions of the data and, where those do not suffice, vectors near
theirs; asked are the questions that the data pair with them.

search:   the index alone.
look-up:  the whole: the exact look-up first, the vector is known, search, decision, the stored answer.
embedded: the same with a text that no one has embedded yet.
tick:     the longest time for which the event loop stood still with 100 look-ups at once, without that for which its
          thread waited for a core (in brackets: with it). Median of the rounds, and the worst.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib.util
import json
import logging
import os
import platform
import resource
import shutil
import statistics
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from asynccache.backends.qdrant_semantic import QdrantSemanticBackend
from asynccache.backends.redis_semantic import RedisSemanticBackend
from asynccache.backends.semantic import SemanticMemoryBackend
from asynccache.model import CacheKey, Entry
from asynccache.semantic.backend import SemanticBackend
from asynccache.semantic.embedders.local import LocalEmbedder
from asynccache.semantic.indexes import Question
from asynccache.semantic.indexes.memory import MemoryIndex
from benchmarks.embeddings import Embeddings, Floats
from tests.servers.process import Server
from tests.servers.qdrant import QdrantServer
from tests.servers.redis import SearchRedisServer, VectorRedisServer

ENTRIES = (1_000, 10_000, 100_000)
ASKED = 1_000
EMBEDDED = 200
AT_ONCE = 100
FILLING = 32
TICK = 0.001
SCOPE = sha256(b"scope").hexdigest()
TEXTS = 5_000
"""Questions of the data that are stored; what is more is made from their vectors."""


class Bench(Protocol):
    """What the part needs of `benchmarks.semantic`."""

    data: Path
    suffix: str
    embeddings: Embeddings
    model: str
    entries: Sequence[int]


class Data:
    """Questions with their vectors: stored ones without an end, and ones that are asked."""

    def __init__(self, bench: Bench) -> None:
        lines = (bench.data / f"{bench.suffix}.jsonl").read_text().splitlines()
        pairs = [json.loads(line) for line in lines]
        self.texts = list(dict.fromkeys(pair["cached"] for pair in pairs))[:TEXTS]
        known = set(self.texts)
        self.asked = list(dict.fromkeys(pair["query"] for pair in pairs if pair["query"] not in known))[:ASKED]
        self.vectors = bench.embeddings.of(self.texts)
        self.asked_vectors = list(bench.embeddings.of(self.asked))

    def stored(self, count: int) -> Iterator[tuple[str, Floats]]:
        random = np.random.default_rng(1)
        for number in range(count):
            at = number % len(self.texts)
            if number < len(self.texts):
                yield self.texts[at], self.vectors[at]
                continue
            other = self.vectors[int(random.integers(len(self.texts)))]
            noise = random.normal(size=other.size).astype(np.float32) * np.float32(0.02)
            mixed = self.vectors[at] + np.float32(0.35) * other + noise
            yield f"{self.texts[at]} ({number})", mixed / np.float32(np.linalg.norm(mixed))


class Embedder:
    """The vectors of the data at once; those of other texts by the model."""

    def __init__(self, data: Data, model: str) -> None:
        self.known = dict(zip(data.asked, data.asked_vectors, strict=True))
        self.local = LocalEmbedder(model)

    async def __call__(self, texts: Sequence[str], /) -> list[Any]:
        if all(text in self.known for text in texts):
            return [self.known[text] for text in texts]
        return list(await self.local(texts))


def speed(bench: Bench) -> dict[str, Any]:
    """All engines at all sizes, then what else the index in memory does, then the others."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    data = Data(bench)
    gc.collect()
    gc.freeze()  # these are not the cache's: it would not have to look at them
    said: dict[str, Any] = {"conditions": conditions()}
    print(json.dumps(said["conditions"]), flush=True)
    for name, run in ENGINES.items():
        for entries in sorted(bench.entries):
            said[f"{name} {entries}"] = row = asyncio.run(run(data, bench.model, entries))
            show(f"{name} {entries:,}", row)
    said["held up"] = row = asyncio.run(held_up(data, max(bench.entries)))
    show(f"memory {max(bench.entries):,}, longest tick", row)
    for name, peer in PEERS.items():
        for entries in [each for each in sorted(bench.entries) if each <= 10_000]:  # they are slow to fill
            said[f"{name} {entries}"] = row = peer(data, entries)
            show(f"{name} {entries:,}", row)
            if "not there" in row:
                break
    return said


def conditions() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load before": round(os.getloadavg()[0], 2),
        "dimensions": 384,
        "blas threads": os.environ.get("OPENBLAS_NUM_THREADS", "all"),
    }


def show(name: str, row: dict[str, Any]) -> None:
    print(f"{name:32} {json.dumps(row)}", flush=True)


# -- ours ---------------------------------------------------------------------------------------------


async def in_memory(data: Data, model: str, entries: int) -> dict[str, Any]:
    tracemalloc.start()  # numpy tells it of its arrays
    index = MemoryIndex(max_vectors=entries)
    for number, (text, vector) in enumerate(data.stored(entries)):
        await index.add(question(number, text), vector)
    allocated = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    searched = await timed(lambda vector: index.search(SCOPE, vector, 5, 0.0), data.asked_vectors)
    exact = np.stack([vector for _, vector in data.stored(entries)])
    right = 0
    for vector in data.asked_vectors:
        found = await index.search(SCOPE, vector, 1, 0.0)
        right += found[0].similarity >= float((exact @ vector).max()) - 1e-5
    await index.aclose()
    backend = SemanticMemoryBackend(embedder=Embedder(data, model), embedding_deadline=30.0, max_vectors=entries)
    row = await looked_up(backend, data, entries)
    return {
        "search": searched,
        **row,
        "recall@1": round(right / ASKED, 4),
        "bytes a vector": round(allocated / entries),
    }


async def in_redis(kind: type[VectorRedisServer], engine: Any, data: Data, model: str, entries: int) -> dict[str, Any]:
    with kind() as server:
        before = used_memory(server)
        backend = RedisSemanticBackend(
            server.url, engine=engine, embedder=Embedder(data, model), embedding_deadline=30.0, socket_timeout=30.0
        )
        return await looked_up(backend, data, entries, lambda: used_memory(server) - before)


async def in_qdrant(data: Data, model: str, entries: int) -> dict[str, Any]:
    with QdrantServer() as server:
        before = resident(server)
        backend = QdrantSemanticBackend(
            server.url, embedder=Embedder(data, model), embedding_deadline=30.0, timeout=30.0
        )
        return await looked_up(backend, data, entries, lambda: resident(server) - before)


ENGINES: dict[str, Callable[[Data, str, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "memory": in_memory,
    "RediSearch": partial(in_redis, SearchRedisServer, "search"),
    "vector sets": partial(in_redis, VectorRedisServer, "sets"),
    "Qdrant's engine": in_qdrant,
}


async def looked_up(
    backend: SemanticBackend, data: Data, entries: int, memory: Callable[[], int] | None = None
) -> dict[str, Any]:
    """Fills the backend, measures it, and closes it."""
    row: dict[str, Any] = {}
    try:
        limit = asyncio.Semaphore(FILLING)

        async def put(number: int, text: str, vector: Floats) -> None:
            async with limit:
                await backend.store.set(key(text), Entry(b'"an answer"', "completion", 0.0))
                await backend.index.add(question(number, text), vector)

        began = time.perf_counter()
        stored = data.stored(entries)
        while some := [one for _, one in zip(range(1000), stored, strict=False)]:
            done = row.get("filled", 0)
            await asyncio.gather(*[put(done + at, *one) for at, one in enumerate(some)])
            row["filled"] = done + len(some)
        row["filled"] = f"{time.perf_counter() - began:.1f} s"
        if memory is not None:
            row["search"] = await timed(lambda vector: backend.index.search(SCOPE, vector, 5, 0.0), data.asked_vectors)
            row["bytes an entry"] = round(memory() / entries)
        row["look-up"] = await timed(lambda text: backend.get(key(text)), data.asked)
        await backend.embedding("the model is loaded")
        gc.collect()
        gc.freeze()  # clients and models that were imported meanwhile, and what is stored
        fresh = [f"{text} Please." for text in data.asked[:EMBEDDED]]
        row["embedded"] = await timed(lambda text: backend.get(key(text)), fresh)
        row["tick"] = await at_once(lambda text: backend.get(key(text)), data.asked)
        fresh = [f"{text} Thanks." for text in data.asked[: 5 * AT_ONCE]]
        row["tick, embedded"] = await at_once(lambda text: backend.get(key(text)), fresh)
    finally:
        await backend.aclose()
    return row


async def held_up(data: Data, entries: int) -> dict[str, Any]:
    """For how long the index in memory holds up the event loop, by what it does while look-ups go on."""
    row = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors")
        index = MemoryIndex(path=path, max_vectors=entries, save_every=1e9)
        stored = list(data.stored(entries))
        gc.freeze()

        async def searching() -> None:
            for vector in data.asked_vectors[:AT_ONCE]:
                await index.search(SCOPE, vector, 5, 0.0)

        async def adding(some: Sequence[tuple[str, Floats]], again: str = "") -> None:
            for number, (text, vector) in enumerate(some):
                await index.add(question(number, text + again), vector)
                if number % 8 == 7:
                    await asyncio.sleep(0)

        async def removing() -> None:
            for number, (text, _) in enumerate(stored[::3]):
                await index.remove(key(text).digest)
                if number % 8 == 7:
                    await asyncio.sleep(0)

        async def with_searches(work: Awaitable[Any]) -> Tick:
            return await longest_tick(lambda: asyncio.gather(work, *[searching() for _ in range(4)]))

        row["nothing"] = await longest_tick(lambda: asyncio.sleep(1))
        row["added"] = await with_searches(adding(stored))
        row["removed here and there"] = await with_searches(removing())
        row["the oldest evicted"] = await with_searches(adding(stored, " again"))
        row["told which are old"] = await with_searches(index.older(1e12, 256))
        row["saved"] = await with_searches(save(index))
        await index.aclose()
        again = MemoryIndex(path=path, max_vectors=entries)
        row["loaded"] = await longest_tick(lambda: again.search(SCOPE, data.asked_vectors[0], 5, 0.0))
        await again.aclose()
    return {what: str(longest) for what, longest in row.items()}


async def save(index: MemoryIndex) -> None:
    """As it does now and then."""
    await index._in_thread(index._save)


# -- others -------------------------------------------------------------------------------------------


def redisvl(data: Data, entries: int) -> dict[str, Any]:
    if importlib.util.find_spec("redisvl") is None:
        return {"not there": "pip install redisvl"}
    from redisvl.extensions.cache.llm import SemanticCache
    from redisvl.utils.vectorize import CustomTextVectorizer

    size = int(data.vectors.shape[1])
    with SearchRedisServer() as server:
        before = used_memory(server)
        embed = CustomTextVectorizer(lambda *_, **__: [1.0] * size)
        cache = SemanticCache(redis_url=server.url, vectorizer=embed, distance_threshold=0.1, overwrite=True)
        for text, vector in data.stored(entries):
            cache.store(text, "an answer", vector=vector.tolist())
        memory = round((used_memory(server) - before) / entries)

        async def measure() -> dict[str, Any]:
            ask = {text: vector.tolist() for text, vector in zip(data.asked, data.asked_vectors, strict=True)}
            return {
                "look-up": await timed(lambda text: cache.acheck(vector=ask[text]), data.asked),
                "tick": await at_once(lambda text: cache.acheck(vector=ask[text]), data.asked),
            }

        return {**asyncio.run(measure()), "bytes an entry": memory}


def gptcache(data: Data, entries: int) -> dict[str, Any]:
    wanted = ("gptcache", "faiss", "sqlalchemy")  # else it would call pip itself
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        return {"not there": f"pip install gptcache faiss-cpu sqlalchemy ({', '.join(missing)} missing)"}
    from gptcache import Cache
    from gptcache.adapter.api import get, put
    from gptcache.manager import CacheBase, VectorBase, get_data_manager
    from gptcache.processor.pre import get_prompt
    from gptcache.similarity_evaluation import SearchDistanceEvaluation

    known = dict(data.stored(entries)) | dict(zip(data.asked, data.asked_vectors, strict=True))
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)  # after GPTCache has written its index there once more
    vectors = VectorBase("faiss", dimension=int(data.vectors.shape[1]), index_path=f"{folder}/faiss.index")
    answers = CacheBase("sqlite", sql_url=f"sqlite:///{folder}/sqlite.db")
    cache = Cache()
    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=lambda text, **_: known[text],
        data_manager=get_data_manager(answers, vectors, max_size=2 * entries),
        similarity_evaluation=SearchDistanceEvaluation(),
    )
    for text, _ in data.stored(entries):
        put(text, "an answer", cache_obj=cache)

    async def ask(text: str) -> Any:
        return get(text, cache_obj=cache)  # it has no async: it holds up the loop

    async def measure() -> dict[str, Any]:
        return {"look-up": await timed(ask, data.asked), "tick": await at_once(ask, data.asked)}

    return asyncio.run(measure())


PEERS: dict[str, Callable[[Data, int], dict[str, Any]]] = {"RedisVL": redisvl, "GPTCache": gptcache}


# -- measuring ----------------------------------------------------------------------------------------


async def timed(ask: Callable[[Any], Awaitable[Any]], asked: Sequence[Any]) -> str:
    """p50 and p99, in milliseconds, one after another."""
    for one in asked[: len(asked) // 10]:
        await ask(one)
    took = []
    for one in asked[len(asked) // 10 :]:
        began = time.perf_counter()
        await ask(one)
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return f"{statistics.median(took):.2f} / {took[int(len(took) * 0.99)]:.2f} ms"


async def at_once(ask: Callable[[Any], Awaitable[Any]], asked: Sequence[Any]) -> str:
    """The longest tick of each round of look-ups at once: the median of the rounds, and of all."""
    rounds = []
    for start in range(0, len(asked), AT_ONCE):
        some = asked[start : start + AT_ONCE]
        rounds.append(await longest_tick(lambda some=some: asyncio.gather(*map(ask, some))))  # type: ignore[misc]
    return str(Tick(*(statistics.median(some) for some in zip(*rounds, strict=True)))) + f", worst {max(rounds)}"


class Tick(NamedTuple):
    """Milliseconds for which the loop stood still: without the time for which its thread waited for a core that others
    had, and with it."""

    ours: float
    wall: float

    def __str__(self) -> str:
        return f"{self.ours:.1f} ms ({self.wall:.1f})"


async def longest_tick(work: Callable[[], Awaitable[Any]]) -> Tick:
    """By how much at most a task that wakes every millisecond woke too late, while this was done."""
    wall = ours = 0.0
    thread = threading.get_native_id()

    async def ticking() -> None:
        nonlocal wall, ours
        while True:
            began, queued = time.perf_counter(), waited_for_a_core(thread)
            await asyncio.sleep(TICK)
            late = time.perf_counter() - began - TICK
            wall = max(wall, late)
            ours = max(ours, late - (waited_for_a_core(thread) - queued))

    ticker = asyncio.create_task(ticking())
    await asyncio.sleep(0)
    try:
        await work()
        await asyncio.sleep(TICK)
    finally:
        ticker.cancel()
    return Tick(ours * 1000, wall * 1000)


def waited_for_a_core(thread: int) -> float:
    """Seconds that this thread was ready to run, and did not."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_bytes().split()[1]) / 1e9


def key(text: str) -> CacheKey:
    return CacheKey(sha256(text.encode()).hexdigest(), (SCOPE, text))


def question(number: int, text: str) -> Question:
    return Question(SCOPE, key(text).digest, text, float(number), None)


def used_memory(server: VectorRedisServer) -> int:
    return next(int(line[12:]) for line in server.ask("INFO", "memory").splitlines() if line.startswith("used_memory:"))


def resident(server: Server | None = None) -> int:
    """Bytes of memory of this process, or of a server's."""
    pid = "self" if server is None else server.pid
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
