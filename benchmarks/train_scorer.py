"""Makes asynccache/semantic/scorer.json: the weights of the scorer that ships.

    python -m benchmarks.train_scorer --data DIR --vectors FILE [--model FOLDER] [--out FILE]

DIR has open_dev.jsonl and open_workload_support_dev.jsonl: texts under CC BY, MIT or free-for-any-purpose terms alone.
Added are questions of the project's own making (benchmarks/scorer_questions.txt, CC0), respellings of both that change
nothing, and twins that change one thing (benchmarks/perturbations.py). Nothing else goes into the weights.

Logistic regression whose weights keep their sign (more similarity never lowers the score, a conflict never raises it)
and are held near hand-set ones by a penalty: the open texts are of few kinds, and what they do not speak of
stays as it was set. About a minute, and the time to embed some 20,000 texts the first time. Deterministic.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asynccache.semantic.alignment import align
from asynccache.semantic.features import NAMES, RISES, features
from asynccache.semantic.guards import ALL
from asynccache.semantic.texts import Parser
from benchmarks.embeddings import Embeddings, minilm
from benchmarks.perturbations import respelled, twins

Matrix = NDArray[np.float64]
Pair = tuple[str, str, bool]

QUESTIONS = Path(__file__).with_name("scorer_questions.txt")
SHIPPED = Path(__file__).parents[1] / "asynccache" / "semantic" / "scorer.json"
SEED = 7
HELD = 0.05
"""How strongly weights are held near the hand-set ones."""
LEAST = {"similarity": 16.0, "overlap": 1.5}
"""The least weights: the open texts have rewordings with hardly a word in common, and would take them away."""
STREAM_WEIGHT = 0.05
"""Of a pair from the stream of support questions, whose labels are of intents rather than of answers."""
SOURCES = (
    ("PAWS-Wiki", "free for any purpose"),
    ("BANKING77", "CC BY 4.0"),
    ("CLINC150", "CC BY 3.0"),
    ("MBPP", "CC BY 4.0"),
    ("Disfl-QA", "CC BY 4.0"),
    ("CheckList QQP suite", "MIT"),
    ("text2sql advising", "CC BY 4.0"),
    ("benchmarks/scorer_questions.txt", "CC0"),
)


def hand_set() -> dict[str, float]:
    """The weights before any data: what the guards are meant to say."""
    weights = {name: -1.2 if name.endswith(":open") else -3.6 for name in NAMES}
    return weights | {"similarity": 16.0, "equal": 4.0, "overlap": 1.0, "less": 0.0, "more": 0.0, "loose": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True, help="file that embeddings are kept in")
    parser.add_argument("--model", default=None, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument(
        "--without",
        default=[],
        action="append",
        help="leave out sources that contain this, or the twins: to see what it gives",
    )
    options = parser.parse_args()
    embeddings = Embeddings(options.model or minilm(), options.vectors)
    matrix, labels, importance = gather(options.data, embeddings, options.without)
    weights, bias = fit(matrix, labels, importance)
    document = {
        "made by": "benchmarks/train_scorer.py",
        "from": [{"source": source, "licence": licence} for source, licence in SOURCES],
        "pairs": len(labels),
        "weights": weights,
        "bias": bias,
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    for name, weight in weights.items():
        print(f"{name:20} {weight:8.3f}")
    print(f"{'bias':20} {bias:8.3f}\n{len(labels)} pairs, {options.out.stat().st_size} bytes")


def gather(data: Path, embeddings: Embeddings, without: Collection[str] = ()) -> tuple[Matrix, Matrix, Matrix]:
    """Features, labels and importance of all the pairs, but for sources that contain one of `without`; "twins" are the
    scripted ones."""
    rng = random.Random(SEED)
    twinned = "twins" not in without
    open_pairs, stream = (
        [row for row in read(data / name) if _is_kept(row["source"], without, twinned)]
        for name in ("open_dev.jsonl", "open_workload_support_dev.jsonl")
    )
    own = own_questions()
    pairs: list[tuple[Pair, float]] = [((r["query"], r["cached"], r["should_hit"]), 1.0) for r in open_pairs]
    pairs += [(pair, 1.0) for pair in from_own(own, rng)]
    bases = [text for equal, near in own for text in (*equal, *near)] * 2
    bases += [row["query"] for row in rng.sample(stream, min(1500, len(stream)))]
    bases += [row["cached"] for row in open_pairs if row["source"] != "banking77"]
    pairs += [(pair, 1.0) for text in bases for pair in changed(text, rng) if pair[2] or twinned]
    pairs += [(pair, 1.0) for pair in far_apart(own, embeddings)]
    pairs += [(pair, STREAM_WEIGHT) for pair in neighbours(stream, embeddings)] if stream else []
    similarities = embeddings.similarities((a, b) for (a, b, _), _ in pairs)
    parse = Parser(size=100_000)
    rows = []
    for similarity, ((query, cached, _), _) in zip(similarities, pairs, strict=True):
        a, b = parse(query), parse(cached)
        sides = align(a, b)
        rows.append(features(similarity, a, b, sides, [guard(a, b, sides) for guard in ALL]))
    labels = np.array([right for (_, _, right), _ in pairs], np.float64)
    return np.array(rows, np.float64), labels, np.array([weight for _, weight in pairs], np.float64)


def _is_kept(source: str, without: Collection[str], twinned: bool) -> bool:
    return not any(part in source for part in without) and (twinned or "script" not in source)


def own_questions() -> list[tuple[list[str], list[str]]]:
    """(wordings of one question, near questions that want another answer) of the project's own making."""
    groups = []
    for line in QUESTIONS.read_text().splitlines():
        if line and not line.startswith("#"):
            equal, _, near = line.partition(" ## ")
            groups.append(([text.strip() for text in equal.split(" | ")], [text.strip() for text in near.split(" | ")]))
    return groups


def from_own(groups: Sequence[tuple[list[str], list[str]]], rng: random.Random) -> list[Pair]:
    pairs: list[Pair] = []
    for equal, near in groups:
        for at, text in enumerate(equal):
            pairs += [(text, other, True) for other in equal[at + 1 :]]
            pairs += [(text, other, False) for other in near]
            if made := respelled(text, rng):
                pairs += [(made, other, True) for other in equal if other != text]
    return pairs


def changed(text: str, rng: random.Random) -> list[Pair]:
    """The text against respellings of itself, and against its twins."""
    pairs: list[Pair] = []
    if made := respelled(text, rng):
        pairs.append((made, text, True))
    for _, twin in twins(text, rng):
        pairs.append((twin, text, False))
        if rng.random() < 0.3 and (made := respelled(twin, rng)):
            pairs.append((made, text, False))
    return pairs


def far_apart(groups: Sequence[tuple[list[str], list[str]]], embeddings: Embeddings) -> list[Pair]:
    """Each of the project's own questions against the three nearest of other groups."""
    texts = [(text, at) for at, (equal, near) in enumerate(groups) for text in (*equal, *near)]
    vectors = embeddings.of([text for text, _ in texts])
    pairs: list[Pair] = []
    for (text, group), row in zip(texts, vectors @ vectors.T, strict=True):
        others = [at for at in np.argsort(-row) if texts[at][1] != group][:3]
        pairs += [(text, texts[at][0], False) for at in others]
    return pairs


def neighbours(stream: Sequence[dict[str, Any]], embeddings: Embeddings, count: int = 4) -> list[Pair]:
    """Each question of the stream against the nearest that came before it."""
    vectors = embeddings.of([row["query"] for row in stream])
    pairs: list[Pair] = []
    for at in range(1, len(stream)):
        row = vectors[:at] @ vectors[at]
        for other in np.argsort(-row)[:count]:
            pairs.append((stream[at]["query"], stream[other]["query"], stream[at]["topic"] == stream[other]["topic"]))
    return pairs


def fit(matrix: Matrix, labels: Matrix, importance: Matrix, steps: int = 600) -> tuple[dict[str, float], float]:
    """Weights and bias: projected gradient descent with momentum on the weighted log-loss."""
    signs = np.array([1.0 if name in RISES else -1.0 for name in NAMES])
    mean, spread = matrix.mean(0), matrix.std(0) + 1e-3
    scaled = (matrix - mean) / spread
    start = np.array([hand_set()[name] for name in NAMES]) * spread
    least = np.array([LEAST.get(name, 0.0) for name in NAMES]) * spread
    weights, bias = start.copy(), 0.0
    share = importance / importance.sum()
    speed, bias_speed = np.zeros_like(weights), 0.0
    for _ in range(steps):
        odds = np.clip(scaled @ weights + bias, -30, 30)
        off = (1 / (1 + np.exp(-odds)) - labels) * share
        speed = 0.9 * speed + scaled.T @ off + HELD * (weights - start)
        bias_speed = 0.9 * bias_speed + off.sum()
        weights = signs * np.maximum(signs * (weights - 0.5 * speed), least)
        bias -= 0.5 * bias_speed
    plain = weights / spread
    return {name: round(float(w), 4) for name, w in zip(NAMES, plain, strict=True)}, round(
        float(bias - plain @ mean), 4
    )


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


if __name__ == "__main__":
    main()
