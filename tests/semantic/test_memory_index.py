from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynccache.errors import BackendClosed, ConfigError, EmbeddingError
from asynccache.semantic.indexes import Question, memory
from asynccache.semantic.indexes.memory import MemoryIndex

SIZE = 96
SCOPE, ANOTHER = "a" * 64, "b" * 64

Make = Callable[..., MemoryIndex]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> MemoryIndex:
            index = MemoryIndex(**options)
            stack.push_async_callback(index.aclose)
            return index

        yield make


def vectors(number: int, seed: int = 0) -> Any:
    found = np.random.default_rng(seed).normal(size=(number, SIZE)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def near(vector: Any, cosine: float, seed: int) -> Any:
    other = vectors(1, seed)[0]
    other = other - (other @ vector) * vector
    other /= np.linalg.norm(other)
    return (cosine * vector + (1 - cosine**2) ** 0.5 * other).astype(np.float32)


def question(number: int, *, scope: str = SCOPE, created: float = 0.0, expires: float | None = None) -> Question:
    return Question(scope, f"{number:064d}", f"question {number}", created, expires)


async def grown(index: MemoryIndex) -> None:
    """Wait until all vectors of large partitions are in their graphs."""
    async with asyncio.timeout(60):
        while any(partition.growing for partition in index._partitions.values()):  # noqa: ASYNC110 (a thread does it)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("limit", [10_000, 100], ids=["scanned", "graph"])
async def test_the_nearest_are_found_as_by_brute_force(make: Make, limit: int) -> None:
    index, stored = make(scan_limit=limit), vectors(3000)
    for number, vector in enumerate(stored):
        await index.add(question(number), vector)
    await grown(index)
    right = 0
    for number in range(200):
        asked = near(stored[number * 7], 0.8, 1000 + number)
        found = await index.search(SCOPE, asked, 5, 1.0)
        exact = np.argsort(-(stored @ asked))[:5]
        right += found[0].digest == f"{exact[0]:064d}"
        assert found[0].similarity == pytest.approx(float(stored[exact[0]] @ asked), abs=1e-5)
        assert [one.similarity for one in found] == sorted([one.similarity for one in found], reverse=True)
        assert found[0].text == f"question {exact[0]}"
        assert await index.search(ANOTHER, asked, 5, 1.0) == []
    assert right >= 196, "recall@1 of .98"


async def test_what_is_not_in_the_graph_yet_is_found(make: Make) -> None:
    index, stored = make(scan_limit=100), vectors(600)
    for number, vector in enumerate(stored):
        await index.add(question(number), vector)
        [found] = await index.search(SCOPE, vector, 1, 1.0)
        assert found.digest == f"{number:064d}"


@pytest.mark.parametrize("limit", [10_000, 50], ids=["scanned", "graph"])
async def test_what_is_removed_or_over_hides_nothing(make: Make, limit: int) -> None:
    index, vector = make(scan_limit=limit), vectors(1)[0]
    for number in range(300):
        expires = 10.0 if number % 3 == 0 else None
        await index.add(question(number, expires=expires), near(vector, 0.99 - number / 1000, number + 1))
    await grown(index)
    for number in range(300):
        if number % 3 == 1:
            await index.remove(f"{number:064d}")
    found = await index.search(SCOPE, vector, 3, 11.0)
    assert [one.digest for one in found] == [f"{number:064d}" for number in (2, 5, 8)]
    assert len(await index.search(SCOPE, vector, 300, 11.0)) == 100
    assert len(await index.search(SCOPE, vector, 300, 9.0)) == 200
    assert len(index) == 200
    for number in range(300):
        await index.remove(f"{number:064d}")
    assert await index.search(SCOPE, vector, 3, 0.0) == []
    assert not index._partitions, "memory of a scope that is empty"


async def test_a_digest_has_one_vector(make: Make) -> None:
    index, (one, other) = make(), vectors(2)
    await index.add(question(1), one)
    await index.add(question(1, expires=5.0), other)
    [found] = await index.search(SCOPE, other, 5, 1.0)
    assert found.similarity == pytest.approx(1.0)
    assert await index.search(SCOPE, other, 5, 6.0) == []
    assert len(index) == 1


async def test_the_oldest_leave_when_there_are_too_many(make: Make) -> None:
    index = make(max_vectors=10)
    left: list[str] = []
    for number, vector in enumerate(vectors(25)):
        left += await index.add(question(number, scope=SCOPE if number % 2 else ANOTHER), vector)
    assert left == [f"{number:064d}" for number in range(15)]
    assert len(index) == 10


async def test_memory_of_a_scope_that_is_overwritten_does_not_grow(make: Make) -> None:
    index = make()
    stored = vectors(10)
    for number in range(5000):
        await index.add(question(number % 10), stored[number % 10])
    assert index._partitions[SCOPE].used < 100
    [found] = await index.search(SCOPE, stored[3], 1, 1.0)
    assert found.digest == f"{3:064d}"


async def test_memory_of_a_large_scope_that_is_renewed_is_freed(make: Make) -> None:
    index = make(scan_limit=100, max_vectors=3000)
    stored = vectors(12_000)
    for number, vector in enumerate(stored):
        await index.add(question(number), vector)
        if number % 1000 == 0:
            await grown(index)
    await grown(index)
    partition = index._partitions[SCOPE]
    assert sum(len(block.vectors) for block in partition.blocks) <= 9000
    right = 0
    for number in range(9000, 12_000, 30):
        found = await index.search(SCOPE, near(stored[number], 0.9, number), 5, 1.0)
        right += found[0].digest == f"{number:064d}"
    assert right >= 98, "recall@1 of .98"
    assert partition.graph is not None
    assert len(partition.graph) <= 3000


async def test_memory_of_what_is_removed_here_and_there_is_freed(make: Make) -> None:
    """The rest of a block that is mostly gaps moves, and is found where it went."""
    index, stored = make(), vectors(6000)
    for number, vector in enumerate(stored):
        await index.add(question(number, created=float(number)), vector)
    kept = range(0, 6000, 20)
    for number in range(6000):
        if number not in kept:
            await index.remove(f"{number:064d}")
    partition = index._partitions[SCOPE]
    assert (len(index), partition.live) == (300, 300)
    assert len(partition.blocks) == 1, "the last one"
    for number in kept:
        [found] = await index.search(SCOPE, stored[number], 1, 1.0)
        assert found.digest == f"{number:064d}"
    assert await index.older(100.0, 9) == [(f"{number:064d}", SCOPE) for number in range(0, 100, 20)], "the order stays"


async def test_far_neighbours_are_found_among_vectors_that_have_nothing_in_common(make: Make) -> None:
    """The hard case: uniformly random vectors, and more of them than are scanned one by one."""
    index, stored = make(), vectors(20_000)
    for number, vector in enumerate(stored):
        await index.add(question(number, expires=5.0 if number % 100 == 0 else None), vector)
    right = 0
    for number in range(1, 20_000, 99):
        found = await index.search(SCOPE, near(stored[number], 0.7, number), 1, 9.0)
        right += found[0].digest == f"{number:064d}" or number % 100 == 0
    assert right >= 200, "recall@1 of .99"


async def test_many_equal_vectors_do_not_make_a_search_long(make: Make) -> None:
    """All have the same signs: as many are scored as usual, no more."""
    index, vector = make(), vectors(1)[0]
    for number in range(5000):
        await index.add(question(number, expires=5.0 if number < 4500 else None), vector)
    assert len(await index.search(SCOPE, vector, 5, 1.0)) == 5
    found = await index.search(SCOPE, vector, 500, 9.0)
    assert sorted(one.digest for one in found) == [f"{number:064d}" for number in range(4500, 5000)]


async def test_graphs_are_searched_and_grow_off_the_loop(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, set[int]] = {"add": set(), "search": set(), "remove": set()}

    class Watched(memory.Graph):  # type: ignore[misc, name-defined, unused-ignore]
        def add(self, *args: Any, **options: Any) -> Any:
            threads["add"].add(threading.get_ident())
            return super().add(*args, **options)

        def search(self, *args: Any, **options: Any) -> Any:
            threads["search"].add(threading.get_ident())
            return super().search(*args, **options)

        def remove(self, *args: Any, **options: Any) -> Any:
            threads["remove"].add(threading.get_ident())
            return super().remove(*args, **options)

    monkeypatch.setattr(memory, "Graph", Watched)
    index, stored = make(scan_limit=100), vectors(1000)
    for number, vector in enumerate(stored):
        await index.add(question(number), vector)
    await grown(index)
    await index.remove(f"{3:064d}")
    await asyncio.gather(*[index.search(SCOPE, stored[number], 5, 1.0) for number in range(100)])
    for verb, seen in threads.items():
        assert len(seen) == 1, f"{verb}: graphs belong to one thread"
        assert threading.get_ident() not in seen, verb


async def test_old_ones_are_told(make: Make) -> None:
    index = make()
    for number, vector in enumerate(vectors(6)):
        await index.add(question(number, created=float(number), scope=SCOPE if number % 2 else ANOTHER), vector)
    assert await index.older(3.0, 2) == [(f"{0:064d}", ANOTHER), (f"{1:064d}", SCOPE)]
    assert len(await index.older(3.0, 10)) == 3


async def test_vectors_come_back_from_their_file(make: Make, tmp_path: Path) -> None:
    path, stored = tmp_path / "deep" / "vectors", vectors(400)
    index = make(path=path, scan_limit=100)
    for number, vector in enumerate(stored):
        await index.add(question(number, expires=None if number else 5.0), vector)
    await index.remove(f"{7:064d}")
    await index.aclose()
    again = make(path=path, scan_limit=100)
    for number in (0, 7, 8, 399):
        found = await again.search(SCOPE, stored[number], 1, 1.0)
        assert (found[0].digest == f"{number:064d}") is (number != 7)
    assert (await again.search(SCOPE, stored[0], 1, 6.0))[0].digest != f"{0:064d}"
    assert len(again) == 399
    few = make(path=path, max_vectors=10)
    assert (await few.search(SCOPE, stored[399], 1, 1.0))[0].digest == f"{399:064d}"
    assert len(few) == 10
    assert [file.name for file in path.parent.iterdir()] == ["vectors"]


async def test_a_text_that_is_none_is_written_too(make: Make, tmp_path: Path) -> None:
    """Half of a surrogate pair: nothing else would ever be written again."""
    path, stored = tmp_path / "vectors", vectors(1)
    index = make(path=path)
    await index.add(question(0)._replace(text="cut off \ud83d"), stored[0])
    await index.aclose()
    assert (await make(path=path).search(SCOPE, stored[0], 1, 1.0))[0].text == "cut off ?"


async def test_they_are_written_now_and_then(make: Make, tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "vectors"
    index = make(path=path, save_every=60.0, monotonic=lambda: now)
    stored = vectors(3)
    await index.add(question(0), stored[0])
    assert not path.exists()
    now = 61.0
    await index.add(question(1), stored[1])
    async with asyncio.timeout(20):
        while not path.exists():  # noqa: ASYNC110 (a thread does it)
            await asyncio.sleep(0.01)
    other = make(path=path)
    assert (await other.search(SCOPE, stored[1], 1, 1.0))[0].digest == f"{1:064d}"


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: b"no vectors" + data, lambda data: data[:20] + b"x" + data[21:]]
)
async def test_a_file_that_cannot_be_read_is_as_good_as_none(
    make: Make, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path, stored = tmp_path / "vectors", vectors(2)
    index = make(path=path)
    await index.add(question(0), stored[0])
    await index.aclose()
    path.write_bytes(damage(path.read_bytes()))
    again = make(path=path)
    assert await again.search(SCOPE, stored[0], 1, 1.0) == []
    await again.add(question(1), stored[1])
    await again.aclose()
    assert len(await make(path=path).search(SCOPE, stored[1], 5, 1.0)) == 1


async def test_vectors_of_another_size_and_use_after_closing_are_refused(make: Make) -> None:
    index = make()
    await index.add(question(0), vectors(1)[0])
    with pytest.raises(EmbeddingError):
        await index.search(SCOPE, np.ones(3, np.float32), 1, 0.0)
    with pytest.raises(EmbeddingError):
        await index.add(question(1), np.ones(3, np.float32))
    await index.aclose()
    await index.aclose()
    with pytest.raises(BackendClosed):
        await index.search(SCOPE, vectors(1)[0], 1, 0.0)


@pytest.mark.parametrize("options", [{"max_vectors": 0}, {"scan_limit": True}, {"save_every": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        MemoryIndex(**options)
