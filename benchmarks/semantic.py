"""Semantic caching, measured: how often stored answers are served, and how often wrongly.

    python -m benchmarks.semantic --data DIR                 quality: pairs, workloads, learned policy (some minutes)
    python -m benchmarks.semantic --data DIR --quick         the same with 2 shuffles in the place of 20
    python -m benchmarks.semantic --data DIR --part pairs    one part: pairs, workloads, family, budget, judge, layers,
                                                             speed
    python -m benchmarks.semantic --data DIR --part speed --entries 10000      look-ups, by engine and size
    python -m benchmarks.semantic --data DIR --json FILE     the figures for a program, too

DIR has dev.jsonl (pairs) and workload_{support,longtail,hostile}_dev.jsonl (streams of questions); --suffix names
another split. They are not committed. Beside every figure stands the static cosine threshold in the same run. One
configuration, the default policy, serves all workloads; the scorer that ships saw none of the texts but those of open_*
files. "rewordings only" leaves out the questions that are mere respellings: slips, case, small talk.
"family" trains a scorer for each workload without whatever of its sources, and of scripted twins, is in the open files.

"attainable" is the share of questions that some earlier one has the answer to: no policy can serve more. How much of it
can be had at an error of at most δ, is "attainable within δ": the most of what this run has found, which is the best
threshold for the layers, chosen in hindsight, or the learned policy with labels that are right.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asynccache.semantic.backend import LABELLED
from asynccache.semantic.budget import BudgetPolicy
from asynccache.semantic.decisions import Candidate, Policy
from asynccache.semantic.policies import Judgement, LayeredPolicy
from asynccache.semantic.scorer import Scorer
from asynccache.semantic.texts import Parser
from benchmarks.embeddings import Embeddings, Floats, minilm
from benchmarks.semantic_speed import ENTRIES, speed
from benchmarks.train_scorer import fit, gather

WORKLOADS = {"support": (0.25,), "longtail": (0.30, 0.35), "hostile": (0.25, 0.30)}
ERRORS = (0.005, 0.01, 0.02)
NEAREST = 120
"""Neighbours that are worked out beforehand; of these, those that are stored by then are candidates."""
TOP = 5
DELTA = 0.01
SHUFFLES = 20
JUDGE_RIGHT = 0.95
FAMILIES = {
    "support": ("banking77", "clinc150"),
    "longtail": ("mbpp", "text2sql", "checklist"),
    "hostile": ("mbpp", "text2sql", "checklist", "twins"),
}
"""What of each workload's kind is in the open files: CheckList's pairs are of Quora questions, as most of longtail."""

PARTS: dict[str, Callable[[Bench], object]] = {}
"""What can be run, by name. A further part adds itself here."""


@dataclass(frozen=True)
class Stream:
    """Questions in order, which of them want the same answer, and each one's nearest among all the others."""

    name: str
    texts: list[str]
    topics: list[str]
    nearest: list[list[int]]
    similarities: list[list[float]]


class RememberedLayers(LayeredPolicy):
    """The usual layers, which judge each pair once: replays ask again and again."""

    def __init__(self, scorer: Scorer | None = None) -> None:
        super().__init__(threshold=0.5, scorer=scorer or Scorer.shipped(), parser=Parser(100_000))
        self._judged: dict[tuple[str, str], Judgement] = {}

    def judge(self, query: str, candidate: Candidate) -> Judgement:
        known = self._judged.get((query, candidate.text))
        if known is None:
            known = self._judged[query, candidate.text] = super().judge(query, candidate)
        return known if known.candidate is candidate else known._replace(candidate=candidate)

    def reasons(self, judgement: Judgement) -> tuple[str, ...]:  # noqa: ARG002 - a replay shows none
        return ()


@dataclass
class Bench:
    """What the parts share."""

    data: Path
    suffix: str
    embeddings: Embeddings
    shuffles: int
    layers: RememberedLayers
    model: str
    entries: Sequence[int]

    def stream(self, name: str, *, reworded_only: bool = False) -> Stream:
        rows = [
            row
            for row in read(self.data / f"workload_{name}_{self.suffix}.jsonl")
            if not (reworded_only and row["surface"])
        ]
        texts = [row["query"] for row in rows]
        vectors = self.embeddings.of(texts)
        nearest, similarities = neighbours(vectors)
        return Stream(name, texts, [row["topic"] for row in rows], nearest, similarities)


def neighbours(vectors: Floats) -> tuple[list[list[int]], list[list[float]]]:
    count = min(NEAREST, len(vectors) - 1)
    nearest, similarities = [], []
    for start in range(0, len(vectors), 1000):
        block = vectors[start : start + 1000] @ vectors.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -2
        found = np.argpartition(-block, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(block, found, 1)
        order = np.argsort(-values, 1)
        nearest += np.take_along_axis(found, order, 1).tolist()
        similarities += np.take_along_axis(values, order, 1).tolist()
    return nearest, similarities


Score = Callable[[str, Candidate], float]


def replay(stream: Stream, score: Score, threshold: float, top: int = TOP) -> tuple[float, float]:
    """(hit rate, wrong answers per request) when the best of the nearest stored ones is served from a score on."""
    stored = [False] * len(stream.texts)
    hits = wrong = 0
    for at, text in enumerate(stream.texts):
        best, chosen = float("-inf"), -1
        for other, candidate in candidates(stream, at, stored, top):
            if (value := score(text, candidate)) > best:
                best, chosen = value, other
        if best >= threshold:
            hits += 1
            wrong += stream.topics[chosen] != stream.topics[at]
        else:
            stored[at] = True
    return hits / len(stored), wrong / len(stored)


def candidates(stream: Stream, at: int, stored: Sequence[bool], top: int) -> list[tuple[int, Candidate]]:
    found = []
    for other, similarity in zip(stream.nearest[at], stream.similarities[at], strict=True):
        if stored[other]:
            found.append((other, Candidate(str(other), stream.texts[other], similarity, 0.0)))
            if len(found) == top:
                break
    return found


def curve(stream: Stream, score: Score, top: int, points: int = 40) -> list[tuple[float, float, float]]:
    """(threshold, hit rate, error) at thresholds over the whole range of scores."""
    values = sorted(
        score(stream.texts[at], candidate)
        for at in range(1, len(stream.texts))
        for candidate in [Candidate("", stream.texts[stream.nearest[at][0]], stream.similarities[at][0], 0.0)]
    )
    wanted = sorted({values[min(len(values) - 1, int(len(values) * share / points))] for share in range(points)})
    return [(threshold, *replay(stream, score, threshold, top)) for threshold in wanted]


def wrong_at(stream: Stream, score: Score, top: int, wanted: float) -> float:
    """Wrong answers per 1,000 requests at the strictest threshold that still serves that share of the requests."""
    low, high, result = -50.0, 50.0, float("nan")
    for _ in range(26):
        middle = (low + high) / 2
        hits, wrong = replay(stream, score, middle, top)
        if hits >= wanted:
            low, result = middle, wrong
        else:
            high = middle
    return result * 1000


def cosine(text: str, candidate: Candidate) -> float:
    return candidate.similarity


def rated(layers: LayeredPolicy) -> Score:
    """The scorer's margin; whatever the guards refuse comes last."""

    def score(text: str, candidate: Candidate) -> float:
        judgement = layers.judge(text, candidate)
        return judgement.margin - 40 * (judgement.layer == "guards")

    return score


def workloads(bench: Bench) -> dict[str, Any]:
    """Wrong answers per 1,000 at equal hit rate, and the hit rate at a stated error; beside the static threshold."""
    results: dict[str, Any] = {}
    ours = rated(bench.layers)
    for name, rates in WORKLOADS.items():
        for reworded_only in (False, True):
            stream = bench.stream(name, reworded_only=reworded_only)
            title = f"{name}, rewordings only" if reworded_only else name
            if reworded_only and name == "support":
                continue  # it has no mere respellings
            attainable = attainable_hits(stream)
            wanted = [rate if not reworded_only else round(rate * attainable / 0.5 * 0.4, 2) for rate in rates]
            row: dict[str, Any] = {"attainable": round(attainable, 3), "wrong per 1000": {}, "hit rate at error": {}}
            for rate in wanted:
                row["wrong per 1000"][rate] = {
                    "static": round(wrong_at(stream, cosine, 1, rate), 2),
                    "ours": round(wrong_at(stream, ours, TOP, rate), 2),
                }
            if not reworded_only:
                for label, score, top in (("static", cosine, 1), ("ours", ours, TOP)):
                    points = curve(stream, score, top)
                    row["hit rate at error"][label] = {
                        error: round(max((hits for _, hits, wrong in points if wrong <= error), default=0.0), 3)
                        for error in ERRORS
                    }
                hits, wrong = default_replay(bench, stream)
                row["default policy"] = {"hit rate": round(hits, 3), "wrong per 1000": round(wrong * 1000, 2)}
            results[title] = row
            print(f"{title:28} {json.dumps(row)}", flush=True)
    return results


def family(bench: Bench) -> dict[str, Any]:
    """Wrong answers per 1,000 at equal hit rate, with a scorer that was trained without the family under test."""
    results: dict[str, Any] = {}
    for name, rates in WORKLOADS.items():
        weights, bias = fit(*gather(bench.data, bench.embeddings, FAMILIES[name]))
        ours = rated(RememberedLayers(Scorer(weights, bias)))
        stream = bench.stream(name)
        row: dict[str, Any] = {"trained without": FAMILIES[name]}
        for rate in rates:
            static, own = wrong_at(stream, cosine, 1, rate), wrong_at(stream, ours, TOP, rate)
            fewer = round(static / own, 1) if own else "all"
            row[str(rate)] = {"static": round(static, 2), "ours": round(own, 2), "times fewer": fewer}
        results[name] = row
        print(f"{name:10} {json.dumps(row)}", flush=True)
    return results


def default_replay(bench: Bench, stream: Stream) -> tuple[float, float]:
    """What the default policy serves as it comes."""
    return served(stream, bench.layers, range(len(stream.texts)))


def served(
    stream: Stream, policy: Policy, order: Sequence[int], judge: Callable[[bool], bool] | None = None
) -> tuple[float, float]:
    """(hit rate, error) of a policy over the stream in this order; misses and what it explores give labels."""
    stored = [False] * len(stream.texts)
    hits = wrong = 0
    for at in order:
        text, topic = stream.texts[at], stream.topics[at]
        near = candidates(stream, at, stored, policy.candidates)
        decision = policy.decide(text, [candidate for _, candidate in near])
        if decision.candidate is not None and not decision.explore:
            hits += 1
            wrong += stream.topics[int(decision.candidate.digest)] != topic
            continue
        stored[at] = True
        for other, candidate in labelled(near, decision.candidate):
            equal = stream.topics[other] == topic
            policy.learn(
                text, candidate, judge(equal) if judge else equal, digest=str(at),
                explored=decision.explore and candidate is decision.candidate,
            )  # fmt: skip
    return hits / len(stored), wrong / len(stored)


def labelled(near: list[tuple[int, Candidate]], chosen: Candidate | None) -> list[tuple[int, Candidate]]:
    """Those whose answers the new one is compared with, as the backend does: some of the nearest, and the chosen."""
    some = near[:LABELLED]
    if chosen is not None and all(candidate is not chosen for _, candidate in some):
        some[-1:] = [(int(chosen.digest), chosen)]
    return some


def attainable_hits(stream: Stream) -> float:
    """The share of questions whose answer some earlier one has."""
    return 1 - len(set(stream.topics)) / len(stream.topics)


def budget(bench: Bench) -> dict[str, Any]:
    """The learned policy from a cold start, over shuffles of each workload."""
    return {name: _shuffled(bench, name, None) for name in WORKLOADS}


def judge(bench: Bench) -> dict[str, Any]:
    """The same with labels of a judge that is right 95 % of the time, off the path; and how much that costs."""
    results = {}
    for name in WORKLOADS:
        row, right = _shuffled(bench, name, JUDGE_RIGHT), _shuffled(bench, name, None)
        stream = bench.stream(name)
        points = curve(stream, rated(bench.layers), TOP)
        hindsight = max((hits for _, hits, wrong in points if wrong <= DELTA), default=0.0)
        most = max(hindsight, right["hit rate"] if right["wrong per 1000"] <= DELTA * 1000 else 0.0)
        row["attainable within δ"] = {
            "best threshold in hindsight": round(hindsight, 3),
            "right labels": right["hit rate"],
        }
        row["of what is attainable within δ"] = round(row["hit rate"] / most, 3)
        print(f"{name:10} {json.dumps({key: row[key] for key in list(row)[-2:]}, ensure_ascii=False)}", flush=True)
        results[f"{name}, judge"] = row
    return results


def _shuffled(bench: Bench, name: str, right: float | None) -> dict[str, Any]:
    stream = bench.stream(name)
    runs = []
    for seed in range(bench.shuffles):
        rng = random.Random(seed)
        order = list(range(len(stream.texts)))
        if seed:
            rng.shuffle(order)
        policy = BudgetPolicy(bench.layers, DELTA, random=rng.random, label_error=0.0 if right is None else 1 - right)
        say = None if right is None else lambda equal, rng=rng: equal == (rng.random() < right)
        runs.append((*served(stream, policy, order, say), policy.alarms))
    hits, wrong = np.array([run[0] for run in runs]), np.array([run[1] for run in runs])
    row = {
        "hit rate": round(float(hits.mean()), 3), "least": round(float(hits.min()), 3),
        "wrong per 1000": round(float(wrong.mean() * 1000), 2), "most": round(float(wrong.max() * 1000), 2),
        "within the budget": f"{int((wrong <= DELTA).sum())} of {len(runs)}", "alarms": sum(run[2] for run in runs),
        "of what is attainable": round(float(hits.mean()) / attainable_hits(stream), 3),
    }  # fmt: skip
    print(f"{name:10} δ={DELTA} {'judge ' if right else ''}{json.dumps(row)}", flush=True)
    return row


def pairs(bench: Bench) -> dict[str, Any]:
    """Pairs: false hits by kind at 50 % recall, and what harmless rewordings keep."""
    rows = read(bench.data / f"{bench.suffix}.jsonl")
    similarities = bench.embeddings.similarities((row["query"], row["cached"]) for row in rows)
    ours = []
    for row, similarity in zip(rows, similarities, strict=True):
        judgement = bench.layers.judge(row["query"], Candidate("", row["cached"], similarity, 0.0))
        ours.append(judgement.margin - 40 * (judgement.layer == "guards"))
    results = {"static": _by_kind(rows, similarities), "ours": _by_kind(rows, ours)}
    for label, row in results.items():
        print(f"pairs {label:8} {json.dumps(row)}", flush=True)
    return results


def _by_kind(rows: Sequence[dict[str, Any]], scores: Sequence[float]) -> dict[str, Any]:
    right = sorted(score for row, score in zip(rows, scores, strict=True) if row["should_hit"])
    threshold = right[len(right) // 2]

    def share(wanted: Callable[[dict[str, Any]], bool]) -> float:
        fitting = [score >= threshold for row, score in zip(rows, scores, strict=True) if wanted(row)]
        return round(sum(fitting) / max(1, len(fitting)), 4)

    hits = sum(score >= threshold for score in scores)
    kinds = sorted({row["kind"] for row in rows if not row["should_hit"]})
    return {
        "precision": round((len(right) - bisect_left(right, threshold)) / hits, 4),
        "false hits": share(lambda row: not row["should_hit"]),
        **{kind: share(partial(_is_trap, kind)) for kind in kinds},
        "recall, harmless rewordings": share(lambda row: row["should_hit"] and row["sub"].startswith("benign")),
    }


def _is_trap(kind: str, row: dict[str, Any]) -> bool:
    return not row["should_hit"] and row["kind"] == kind


def layers(bench: Bench) -> dict[str, Any]:
    """Microseconds for one candidate: parsing a text (the median of five passes, each with an empty parser), and guards
    with scorer on parsed ones."""
    rows = read(bench.data / f"{bench.suffix}.jsonl")[:2000]
    layers = LayeredPolicy(threshold=0.0, scorer=Scorer.shipped(), parser=Parser(10_000))
    passes = []
    for _ in range(5):
        parse = Parser(10_000)
        start = time.perf_counter()
        for row in rows:
            parse(row["query"])
        passes.append((time.perf_counter() - start) / len(rows))
    parsed = sorted(passes)[2]
    some = [(row["query"], Candidate("", row["cached"], 0.9, 0.0)) for row in rows]
    for query, candidate in some:
        layers.judge(query, candidate)
    took = []
    for query, candidate in some:
        start = time.perf_counter()
        layers.judge(query, candidate)
        took.append(time.perf_counter() - start)
    took.sort()
    row = {
        "parse, mean": round(parsed * 1e6, 1), "pair, p50": round(took[len(took) // 2] * 1e6, 1),
        "pair, p99": round(took[int(len(took) * 0.99)] * 1e6, 1),
    }  # fmt: skip
    print(f"µs {json.dumps(row)}", flush=True)
    return row


PARTS |= {
    "pairs": pairs, "workloads": workloads, "family": family, "budget": budget, "judge": judge, "layers": layers,
    "speed": speed,
}  # fmt: skip


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--suffix", default="dev", help="the split: workload_NAME_SUFFIX.jsonl and SUFFIX.jsonl")
    parser.add_argument("--model", default=None, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--vectors", type=Path, default=None, help="file that embeddings are kept in between runs")
    parser.add_argument("--part", choices=sorted(PARTS), action="append")
    parser.add_argument("--entries", type=int, action="append", help="of the part speed: stored questions")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    vectors = options.vectors or options.data / "vectors.npz"
    model = options.model or minilm()
    bench = Bench(
        options.data,
        options.suffix,
        Embeddings(model, vectors),
        2 if options.quick else SHUFFLES,
        RememberedLayers(),
        model,
        options.entries or ENTRIES,
    )
    results = {name: PARTS[name](bench) for name in options.part or PARTS}
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
