"""Which entry should go when memory is full: hit ratios and speed of the memory backend and its rivals.

    python -m benchmarks.eviction            about a minute, tables
    python -m benchmarks.eviction --quick    a few seconds, a tenth of the requests
    python -m benchmarks.eviction --json     the same figures for a program

Every policy sees the same requests and, on a miss, sets what it missed. Workloads are drawn from a
seeded generator. Those named "sized" are bounded in bytes, the others in entries; a cache's size is
given as its share of the universe. theine's figures move a little from run to run, since it hashes
text with Python's salt of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from statistics import fmean
from typing import Any, TypeVar

from asynccache.backends.memory import MemoryBackend
from asynccache.model import CacheKey, Entry
from benchmarks.policies import CacheboxLfu, Lru, Policy, S3Fifo, Sieve, Theine

T = TypeVar("T")

SEED = 20230923
UNIVERSE = 10_000
REQUESTS = 80_000
SHARES = (0.01, 0.05, 0.10, 0.25)
UNBOUNDED = 1 << 50


@dataclass(frozen=True)
class Workload:
    """Requests for keys, and what the entry of each key costs: 1 when entries are counted."""

    name: str
    keys: Sequence[str]
    costs: dict[str, int]
    sized: bool
    universe: int


@dataclass(frozen=True)
class Bound:
    """How much a policy may hold: `limit` in entries or bytes, and the mean cost of an entry."""

    limit: int
    sized: bool
    mean: float


@dataclass(frozen=True)
class Ratio:
    """Share of the requests, and of the bytes asked for, that were answered from the cache."""

    workload: str
    share: float
    policy: str
    hits: float
    byte_hits: float


@dataclass(frozen=True)
class Speed:
    """Nanoseconds for one operation of a full cache: a hit, and a set of a new key (with its eviction)."""

    policy: str
    get_ns: float
    set_ns: float


class Ours:
    """The memory backend, driven without an event loop: it never suspends."""

    def __init__(self, bound: Bound, entries: Entries) -> None:
        self.entries = entries
        if bound.sized:
            self.backend = MemoryBackend(max_bytes=bound.limit)
        else:
            self.backend = MemoryBackend(max_bytes=UNBOUNDED, capacity=bound.limit)

    def get(self, key: str) -> bool:
        return finish(self.backend.get(CacheKey(key))) is not None

    def set(self, key: str, size: int) -> None:
        finish(self.backend.set(CacheKey(key), self.entries.of(size)))


class Entries:
    """Entries by what they cost in the memory backend; bodies of one size are shared."""

    def __init__(self) -> None:
        self.by_cost: dict[int, Entry] = {1: Entry(b"", "completion", 0.0)}

    def of(self, cost: int) -> Entry:
        return self.by_cost[cost]

    def make(self, key: str, size: int) -> int:
        """The cost of an entry with a body of that size, known to `of` from now on."""
        probe = MemoryBackend()
        entry = Entry(bytes(size), "completion", 0.0)
        finish(probe.set(CacheKey(key), entry))
        cost = finish(probe.size()).bytes
        self.by_cost.setdefault(cost, entry)
        return cost


Factory = Callable[[Bound, Entries], Policy]

POLICIES: dict[str, Factory] = {
    "ours": Ours,
    "lru": lambda bound, _: Lru(bound.limit),
    "sieve": lambda bound, _: Sieve(bound.limit),
    "s3-fifo": lambda bound, _: S3Fifo(bound.limit),
    "s3-fifo-1": lambda bound, _: S3Fifo(bound.limit, moves=1),
    "s3-fifo-25%": lambda bound, _: S3Fifo(bound.limit, moves=1, small=0.25),
    "s3-sieve": lambda bound, _: S3Fifo(bound.limit, moves=1, sieve=True),
    "theine": lambda bound, _: Theine(max(1, int(bound.limit / bound.mean))),
    "cachebox-lfu": lambda bound, _: CacheboxLfu(bound.limit),
}


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that never suspends returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("the coroutine waits for something")


def zipf(rng: random.Random, alpha: float, count: int) -> list[int]:
    """Ranks 0, 1, 2, … drawn with probability proportional to 1 / (rank + 1) ** alpha."""
    weights = list(itertools.accumulate((rank + 1) ** -alpha for rank in range(UNIVERSE)))
    return rng.choices(range(UNIVERSE), cum_weights=weights, k=count)


def scans(rng: random.Random, count: int) -> list[int]:
    """Zipf 0.9, and after every 3,000 requests a scan over 2,000 keys that are never seen again."""
    popular = zipf(rng, 0.9, count)
    fresh = itertools.count(UNIVERSE)
    mixed: list[int] = []
    for start in range(0, count, 3000):
        mixed += popular[start : start + 3000]
        mixed += itertools.islice(fresh, 2000)
    return mixed[:count]


def one_offs(rng: random.Random, count: int) -> list[int]:
    """Zipf 0.9 in which three requests of ten are for keys that are never seen again."""
    fresh = itertools.count(UNIVERSE)
    return [next(fresh) if rng.random() < 0.3 else rank for rank in zipf(rng, 0.9, count)]


def loop(count: int) -> list[int]:
    """The first fifth of the universe, over and over, in order."""
    return [i % (UNIVERSE // 5) for i in range(count)]


def drift(rng: random.Random, count: int) -> list[int]:
    """Zipf 1.0 whose ranks are dealt to keys anew ten times."""
    requests: list[int] = []
    for _ in range(10):
        keys = rng.sample(range(UNIVERSE), UNIVERSE)
        requests += [keys[rank] for rank in zipf(rng, 1.0, count // 10)]
    return requests


def answer_size(rng: random.Random) -> int:
    """The bytes of an LLM answer: log-normal around 3 KB, 200 B to 64 KB, in steps of 64 B."""
    size = min(max(rng.lognormvariate(8.0, 1.2), 200.0), 65536.0)
    return int(size) // 64 * 64


def workloads(count: int, entries: Entries) -> list[Workload]:
    rng = random.Random(SEED)
    counted = {f"zipf {alpha}": zipf(rng, alpha, count) for alpha in (0.6, 0.8, 1.0, 1.2)}
    counted |= {"scans": scans(rng, count), "one-offs": one_offs(rng, count)}
    counted |= {"loop": loop(count), "drift": drift(rng, count)}
    sized = {"sized zipf 0.8": zipf(rng, 0.8, count), "sized zipf 1.0": zipf(rng, 1.0, count)}
    sized |= {"sized scans": scans(rng, count), "sized drift": drift(rng, count)}
    return [
        *(workload(name, ranks, lambda _: 1, sized=False) for name, ranks in counted.items()),
        *(
            workload(name, ranks, lambda key: entries.make(key, answer_size(rng)), sized=True)
            for name, ranks in sized.items()
        ),
    ]


def workload(name: str, ranks: Iterable[int], cost: Callable[[str], int], *, sized: bool) -> Workload:
    keys = [f"{rank:064x}" for rank in ranks]
    costs = {key: cost(key) for key in dict.fromkeys(keys)}
    universe = int(fmean(costs.values()) * UNIVERSE) if sized else UNIVERSE
    return Workload(name, keys, costs, sized, universe)


def ratio(work: Workload, share: float, name: str, entries: Entries) -> Ratio:
    """Run one workload through a new cache of one policy."""
    bound = Bound(int(work.universe * share), work.sized, fmean(work.costs.values()))
    policy = POLICIES[name](bound, entries)
    hits = bytes_hit = bytes_asked = 0
    for key in work.keys:
        cost = work.costs[key]
        bytes_asked += cost
        if policy.get(key):
            hits += 1
            bytes_hit += cost
        elif not work.sized or cost <= bound.limit:
            policy.set(key, cost)
    return Ratio(work.name, share, name, hits / len(work.keys), bytes_hit / bytes_asked)


def ns_each(operation: Callable[[str], object], keys: Sequence[str]) -> float:
    start = time.perf_counter_ns()
    for key in keys:
        operation(key)
    return (time.perf_counter_ns() - start) / len(keys)


def speed(name: str, rounds: int, entries: Entries) -> Speed:
    """Best of `rounds`. Keys go in as text; the policies of `benchmarks.policies` keep no values."""
    resident = [f"{i:064x}" for i in range(5000)]
    best = Speed(name, float("inf"), float("inf"))
    for turn in range(rounds):
        policy = POLICIES[name](Bound(len(resident), sized=False, mean=1), entries)
        new = [f"{turn:x}{i:063x}" for i in range(len(resident), 4 * len(resident))]
        for key in resident:
            policy.set(key, 1)
        policy_set = policy.set
        get_ns = ns_each(policy.get, resident[-1000:] * 20)
        set_ns = ns_each(lambda key, put=policy_set: put(key, 1), new)  # type: ignore[misc]
        best = Speed(name, min(best.get_ns, get_ns), min(best.set_ns, set_ns))
    return best


async def nothing(_: CacheKey) -> None:
    """The floor of any awaited call."""


async def awaited(rounds: int, entries: Entries) -> list[Speed]:
    """The memory backend as the pipeline uses it, and the floor: an empty coroutine awaited as often."""
    backend = MemoryBackend(capacity=5000)
    entry = entries.of(1)
    resident = [CacheKey(f"{i:064x}") for i in range(5000)]
    for key in resident:
        await backend.set(key, entry)
    floor = gets = sets = float("inf")
    for turn in range(rounds):
        new = [CacheKey(f"{turn:x}{i:063x}") for i in range(5000, 20000)]
        start = time.perf_counter_ns()
        for key in new:
            await nothing(key)
        between = time.perf_counter_ns()
        for key in new:
            await backend.set(key, entry)
        done = time.perf_counter_ns()
        floor = min(floor, (between - start) / len(new))
        sets = min(sets, (done - between) / len(new))
        start = time.perf_counter_ns()
        for key in new[-100:] * 200:
            await backend.get(key)
        gets = min(gets, (time.perf_counter_ns() - start) / 20000)
    return [Speed("await nothing", floor, floor), Speed("await ours", gets, sets)]


def conditions(count: int) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "theine": version("theine"),
        "cachebox": version("cachebox"),
        "seed": SEED,
        "universe": UNIVERSE,
        "requests": count,
    }


def table(ratios: Sequence[Ratio], value: Callable[[Ratio], float]) -> list[str]:
    """One line for each workload and size, one column for each policy, and their means."""
    lines = [f"{'workload':<16}{'size':>5} " + "".join(f"{name:>13}" for name in POLICIES)]
    rows: dict[tuple[str, float], list[float]] = {}
    for item in ratios:
        rows.setdefault((item.workload, item.share), []).append(value(item))
    for (name, share), row in rows.items():
        lines.append(f"{name:<16}{share:>5.0%} " + "".join(f"{cell:>13.3f}" for cell in row))
    means = [fmean(column) for column in zip(*rows.values(), strict=True)]
    return [*lines, f"{'mean':<22}" + "".join(f"{cell:>13.3f}" for cell in means)]


def report(facts: dict[str, object], ratios: Sequence[Ratio], speeds: Sequence[Speed]) -> str:
    sized = [item for item in ratios if item.workload.startswith("sized")]
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    lines += ["hit ratio", *table(ratios, lambda item: item.hits), ""]
    lines += ["byte hit ratio", *table(sized, lambda item: item.byte_hits), ""]
    lines += [f"{'ns, best round':<16}{'get (hit)':>12}{'set (new)':>12}"]
    lines += [f"{item.policy:<16}{item.get_ns:>12.0f}{item.set_ns:>12.0f}" for item in speeds]
    lines += ["", "theine counts entries: for the sized workloads its bound is translated by the mean entry,"]
    lines += ["and does not hold in bytes. `ours` goes through an adapter; `await ours` is what a caller pays."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eviction", description="Compare eviction policies.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    parser.add_argument("--json", action="store_true", help="figures for a program")
    options = parser.parse_args()
    count, rounds = (REQUESTS // 10, 2) if options.quick else (REQUESTS, 7)
    entries = Entries()
    works = workloads(count, entries)
    ratios = [ratio(work, share, name, entries) for work in works for share in SHARES for name in POLICIES]
    speeds = [*asyncio.run(awaited(rounds, entries)), *(speed(name, rounds, entries) for name in POLICIES)]
    facts = conditions(count)
    if options.json:
        figures = {"conditions": facts, "ratios": [asdict(r) for r in ratios], "speeds": [asdict(s) for s in speeds]}
        print(json.dumps(figures, indent=1))
    else:
        print(report(facts, ratios, speeds))


if __name__ == "__main__":
    main()
