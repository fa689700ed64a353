"""A small scorer: P(the stored answer is right) from similarity and what the guards found.

Additive and monotone: each feature has one weight, of a sign that is fixed (more similarity never lowers the score,
a differing number never raises it), and the sum goes through a logistic curve. `benchmarks/train_scorer.py` makes the
weights, by maximum likelihood held near hand-set ones; `scorer.json` names what they were made from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from math import exp
from typing import Any

from asynccache.errors import ConfigError
from asynccache.semantic.features import NAMES, RISES


class Scorer:
    """Scores feature vectors. Pure, about two microseconds.

    Raises ConfigError for weights that are not those of this version's features, or of a forbidden sign.
    """

    def __init__(self, weights: Mapping[str, float], bias: float) -> None:
        if set(weights) != set(NAMES):
            odd = sorted(set(weights) ^ set(NAMES))
            raise ConfigError(f"scorer weights: {', '.join(odd)} are missing or unknown; wanted: {', '.join(NAMES)}")
        for name, weight in weights.items():
            if weight < 0 if name in RISES else weight > 0:
                raise ConfigError(f"scorer weights: {name}={weight!r} has the wrong sign")
        self._weights = [weights[name] for name in NAMES]
        self._bias = bias

    @classmethod
    def shipped(cls) -> Scorer:
        """The one that comes with the package."""
        return cls.of(json.loads(files("asynccache.semantic").joinpath("scorer.json").read_bytes()))

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Scorer:
        """One from a document such as `benchmarks/train_scorer.py` writes."""
        return cls(document["weights"], document["bias"])

    def margin(self, values: Sequence[float]) -> float:
        """The log-odds that the answer is right."""
        total = self._bias
        for weight, value in zip(self._weights, values, strict=True):
            if value:
                total += weight * value
        return total

    def probability(self, values: Sequence[float]) -> float:
        """P(right), from 0 to 1."""
        return logistic(self.margin(values))


def logistic(margin: float) -> float:
    """1 / (1 + e^-margin), for any margin."""
    return 1 / (1 + exp(-margin)) if margin > -700 else 0.0
