"""Which threshold, and which layers, reach a stated precision: from comparisons that shadow mode has logged.

Precision is the share of the served answers that are right. All intervals are exact for a binomial (Clopper and Pearson
1934). A recommendation is made only where the lower end of the interval reaches the target; since many thresholds
are looked at and the best is taken, each interval is widened so that all of them hold together (Bonferroni).
Assumed: the comparisons are independent, of the traffic that is to come, and rightly labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, exp, lgamma, log, log1p

from asynccache.errors import ConfigError
from asynccache.semantic.decisions import Candidate
from asynccache.semantic.policies import LayeredPolicy
from asynccache.semantic.scorer import Scorer
from asynccache.semantic.shadow import Comparison

SURENESS = 0.95
THRESHOLDS = tuple(round(0.50 + 0.01 * step, 2) for step in range(50))
TERMS, EXACT = 2000, 1e-13
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold would have given. `low`, `high`: the interval that holds precision."""

    threshold: float
    served: int
    right: int
    low: float
    high: float

    @property
    def precision(self) -> float:
        return self.right / self.served if self.served else 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """Layers, and the point on their curve that is recommended: None when no threshold is sure to reach the target."""

    layers: str
    option: str
    curve: tuple[Point, ...]
    chosen: Point | None


@dataclass(frozen=True, slots=True)
class Report:
    """What a log says. `chosen`: the setting that serves most of those that reach the target; None: too little is
    known.

    needed: at least so many served answers, all of them right, would be wanted for a recommendation.
    """

    comparisons: int
    target: float
    sureness: float
    settings: tuple[Setting, ...]
    chosen: Setting | None
    needed: int


def calibrate(comparisons: Sequence[Comparison], target: float, *, sureness: float = SURENESS) -> Report:
    """The report on a log. Raises ConfigError for a target or a sureness that is not between 0 and 1."""
    for name, value in (("target precision", target), ("sureness", sureness)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} {value!r}: a number between 0 and 1 is wanted")
    tried = 2 * len(THRESHOLDS) + len(CONFIDENCES)
    miss = (1 - sureness) / tried
    guards, scorer = LayeredPolicy(threshold=0.0), LayeredPolicy(threshold=0.0, scorer=Scorer.shipped())

    def guarded(one: Comparison) -> float:
        judgement = guards.judge(one.query, _candidate(one))
        return -1.0 if judgement.refused else one.similarity

    def scored(one: Comparison) -> float:
        judgement = scorer.judge(one.query, _candidate(one))
        return -1.0 if judgement.layer == "guards" else judgement.score

    settings = tuple(
        _setting(layers, option, comparisons, score, grid, target, miss)
        for layers, option, score, grid in (
            ("threshold", "similarity_threshold", lambda one: one.similarity, THRESHOLDS),
            ("threshold, guards", "similarity_threshold", guarded, THRESHOLDS),
            ("threshold, guards, scorer", "confidence", scored, CONFIDENCES),
        )
    )
    reached = [setting for setting in settings if setting.chosen is not None]
    chosen = max(reached, key=lambda setting: setting.chosen.served if setting.chosen else 0, default=None)
    return Report(len(comparisons), target, sureness, settings, chosen, ceil(log(miss) / log(target)))


def _candidate(one: Comparison) -> Candidate:
    return Candidate("", one.stored, one.similarity, 0.0)


def _setting(
    layers: str,
    option: str,
    comparisons: Sequence[Comparison],
    score: Callable[[Comparison], float],
    grid: Sequence[float],
    target: float,
    miss: float,
) -> Setting:
    scored = [(score(one), one.equal) for one in comparisons]
    curve = []
    for threshold in grid:
        served = [equal for value, equal in scored if value >= threshold]
        curve.append(Point(threshold, len(served), sum(served), *interval(sum(served), len(served), miss)))
    sure = [point for point in curve if point.served and point.low >= target]
    return Setting(layers, option, tuple(curve), max(sure, key=lambda point: point.served, default=None))


def interval(right: int, total: int, miss: float) -> tuple[float, float]:
    """The ends of the interval that holds a share with probability 1 - miss at each end, of `right` in `total`."""
    if not total:
        return 0.0, 1.0
    low = 0.0 if not right else _solve(lambda share: _at_least(right, total, share) - miss)
    high = 1.0 if right == total else _solve(lambda share: miss - _at_most(right, total, share))
    return low, high


def _solve(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _at_least(count: int, total: int, share: float) -> float:
    """P(at least so many of all), each with this probability."""
    if count <= 0 or share >= 1:
        return 1.0
    if count > total or share <= 0:
        return 0.0
    return _beta(share, count, total - count + 1)


def _at_most(count: int, total: int, share: float) -> float:
    return 1 - _at_least(count + 1, total, share)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz's method)."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)  # where it converges fast
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    upper, lower = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    result = lower
    for step in range(1, TERMS):
        even = step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step))
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1))
        for term in (even, odd):
            lower = 1 / (1 + term * lower)
            upper = 1 + term / upper
            result *= lower * upper
        if abs(lower * upper - 1) < EXACT:
            break
    return front * result
