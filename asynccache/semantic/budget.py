"""A learned policy with an error budget: it serves as much as it can while at most δ of all requests are answered
wrongly.

How it works
    Every miss gives labels for nothing: is the model's answer equal to that of the nearest stored questions? A share
    of would-be hits is explored: the model is called although an answer could be served, and the two are compared. One
    P(right), shared over all entries, is fitted to these labels as they come; it starts at the scorer's. Entries
    with equal answers form groups, and a question's nearest entries vote for theirs. An answer is served from the
    lowest
    P(right) on at which the wrong answers that are to be expected of recent requests stay within the budget.

What is guaranteed, and under which assumptions
    Assumed: labels are right; whether a hit is explored is drawn by `random` alone, after everything else about
    the request is settled. Nothing is assumed of the requests: they may drift, repeat, or be chosen by an adversary who
    does not see the draws. Let ε be the share explored, N the wrong ones among the explored, S the wrong ones served.

    guarantee="strict": with probability 1 - α it holds at every moment that S ≤ (ψN + ln 1/α) / θ, where
        (1 - ε)(e^θ - 1) = ε(1 - e^-ψ): e^(θS - ψN) is a supermartingale, since a hit that is wrong with any
        probability q multiplies it by at most 1 + q((1 - ε)(e^θ - 1) - ε(1 - e^-ψ)) = 1 on average (Ville 1939). An
        answer is
        served only while that bound, with one wrong answer more, is at most δ times the requests so far. So: with
        probability 1 - α, never are more than δ of the requests so far answered wrongly. The price is a
        cold start: at δ = 1 %, ε = 20 %, α = 5 % it is some 2,600 requests until more is served than one answer in 1
        / δ
        requests, which is within the budget whatever they are.

    guarantee="alarm" (default): serves at once, as P(right) says, and rings an alarm when the explored hits
        show that the budget is overdrawn: when Σ ln(1 + c/ε) over the explored wrong ones exceeds cδt + ln 1/α,
        averaged in
        wealth over some c. While the expected wrong answers are within δ, that ever happens with probability α at most
        (same theorem). After an alarm it falls back to exact matching, and from then on is strict: all would-be
        hits are explored until the strict bound, counted from the alarm, allows to serve. That the error stays within δ
        before an alarm is not guaranteed by theorem; it is what P(right) is fitted for, and is measured in
        benchmarks/semantic.py.

One policy for one circle of trust: whoever can make labels (ask questions and get answers) moves the shared P(right).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import exp, expm1, log, log1p
from random import SystemRandom
from typing import Literal, Protocol

import orjson

from asynccache.errors import ConfigError
from asynccache.semantic.decisions import Candidate, Decision
from asynccache.semantic.policies import NO_CANDIDATE, Judgement
from asynccache.semantic.scorer import logistic

Guarantee = Literal["alarm", "strict"]

CANDIDATES = 10
ALPHA = 0.05
EXPLORED = {"alarm": 0.03, "strict": 0.2}
PENDING = 4096
ENTRIES = 200_000
KEPT = 4096
"""Entries whose group a restart does not lose."""
MEMORY = 2000
"""About as many of the latest requests say where the serving threshold lies."""
PRUDENCE = 0.4
"""The share of the budget that expectations may use: P(right) may err, the budget may not."""
VOTE = 12.0
"""How fast a neighbour's vote fades with its distance in cosine."""
STRAY = 0.85
"""The similarity that features are centred on."""


class Layers(Protocol):
    """What judges one pair: `policies.LayeredPolicy`."""

    def judge(self, query: str, candidate: Candidate) -> Judgement: ...

    def reasons(self, judgement: Judgement) -> tuple[str, ...]: ...


@dataclass(slots=True)
class _Asked:
    """A question whose answer has yet to be compared: the candidate that was chosen for it, and with what odds."""

    digest: str
    values: list[float]
    share: float
    would_hit: bool


class BudgetPolicy:
    """See the module's docstring for what it does and what it guarantees.

    layers:       threshold, guards and scorer, which refuse and rate single candidates.
    error_budget: δ, wrong answers per request, between 0 and 1.
    guarantee:    "alarm" or "strict".
    explored:     the share of would-be hits that is explored; default 3 %, and 20 % where strict.
    alpha:        the probability with which a guarantee may fail.
    label_error:  the share of labels that is wrong, below 0.5: what the judge that compares answers is known to
    miss. "strict"
                  then counts labels as they come, and is only stricter where they call right answers wrong.
    random:       draws from 0 to 1; by default such as nobody can foresee.

    Raises ConfigError for a value that is none of these.
    """

    candidates = CANDIDATES

    def __init__(
        self,
        layers: Layers,
        error_budget: float,
        *,
        guarantee: Guarantee = "alarm",
        explored: float | None = None,
        alpha: float = ALPHA,
        label_error: float = 0.0,
        random: Callable[[], float] | None = None,
    ) -> None:
        if guarantee not in EXPLORED:
            raise ConfigError(f'guarantee={guarantee!r}: "alarm" or "strict" is wanted')
        self._explored = EXPLORED[guarantee] if explored is None else explored
        for name, value in (("error_budget", error_budget), ("explored", self._explored), ("alpha", alpha)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise ConfigError(f"{name}={value!r}: a number between 0 and 1 is wanted")
        if isinstance(label_error, bool) or not isinstance(label_error, int | float) or not 0 <= label_error < 0.5:
            raise ConfigError(f"label_error={label_error!r}: a share from 0 up to, and not including, 0.5 is wanted")
        self._layers = layers
        self._noise = float(label_error)
        self._budget = float(error_budget)
        self._alpha = alpha
        self._random = random or SystemRandom().random
        self._strict = guarantee == "strict"
        self._fit = _Calibration(self._noise)
        self._groups = _Groups()
        self._expected = _Expectation(self._budget * PRUDENCE)
        # By question and candidate: tenants may ask the same at the same time, and have each its own candidate.
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()
        self._alarm = Alarm(self._budget, alpha)
        self._bound: Bound | None = Bound(self._budget, self._explored, alpha) if self._strict else None
        self.alarms = 0

    @property
    def trusted(self) -> bool:
        """Whether answers are served now; False while the bound does not allow it."""
        return self._bound is None or self._bound.allows()

    def decide(self, query: str, candidates: Sequence[Candidate], /) -> Decision:
        """The best candidate, when it may be served; drawn for exploration now and then."""
        self._alarm.request()
        if self._bound is not None:
            self._bound.request()
        chosen = self._chosen(query, candidates)
        if chosen is None:
            self._expected.add(0.0)
            return NO_CANDIDATE if not candidates else self._refusal(query, candidates)
        judgement, values = chosen
        score = self._fit.probability(values)
        would_hit = score >= self._expected.threshold()
        if would_hit and self._noise:
            self._alarm.mislabelled(self._noise)
        self._expected.add(score)
        serve, share = self._drawn(would_hit)
        self._remember(query, _Asked(judgement.candidate.digest, values, share, would_hit))
        explore = would_hit and not serve
        said = f"budget: P(right) {score:.4f} {'≥' if would_hit else '<'} {self._expected.threshold():.4f}"
        if explore:
            said += ", to be compared" if self.trusted else ", to be compared: the bound does not allow to serve yet"
        candidate = judgement.candidate if would_hit else None
        reasons = (*self._layers.reasons(judgement), said)
        return Decision(candidate, "budget", score, explore, reasons)

    def learn(
        self, query: str, candidate: Candidate, equal: bool, /, *, explored: bool, digest: str | None = None
    ) -> None:
        """Take a label. Labels of one question may come in any order; of candidates that were not chosen, too."""
        asked = self._asked.get((query, candidate.digest))
        if digest is not None and equal and (not self._noise or asked is not None or self._likely(query, candidate)):
            self._groups.join(digest, candidate.digest)
        if asked is None:
            return
        del self._asked[query, candidate.digest]
        before = self._fit.probability(asked.values)
        self._fit.learn(asked.values, equal, 1 / asked.share if explored else 1.0)
        if asked.would_hit and explored:
            self._expected.observed(before * (1 - self._noise) + (1 - before) * self._noise, equal)
            if not equal:
                self._wrong(asked.share)

    def withdraw(self, query: str, candidate: Candidate, /) -> None:
        """The candidate was not served after all: the request is not counted, until `decide` is asked again."""
        asked = self._asked.pop((query, candidate.digest), None)
        if asked is None:
            return
        self._alarm.withdraw(self._noise)
        self._expected.withdraw(self._fit.probability(asked.values))
        if self._bound is not None:
            self._bound.withdraw()

    def state(self) -> bytes:
        """What was learned, as JSON. Not the questions whose answer is waited for."""
        said = {name: _learned(getattr(self, f"_{name}"), fields) for name, fields in _LEARNED.items()}
        return orjson.dumps({"terms": self._terms(), "alarms": self.alarms, "groups": self._groups.latest(), **said})

    def restore(self, state: bytes, /) -> None:
        """Know that again. A state of another budget or guarantee tells what P(right) is and which answers are equal,
        and of the budget nothing. Raises ValueError, and changes nothing, for what is no state."""
        fit, groups, expected = _Calibration(self._noise), _Groups(), _Expectation(self._budget * PRUDENCE)
        alarm, bound = Alarm(self._budget, self._alpha), Bound(self._budget, self._explored, self._alpha)
        said = orjson.loads(state)
        try:
            _learn_again(fit, said["fit"], _LEARNED["fit"])
            for digest, group in said["groups"]:
                groups.put(str(digest), str(group))
            same = said["terms"] == self._terms()
            if same:
                _learn_again(expected, said["expected"], _LEARNED["expected"])
                _learn_again(alarm, said["alarm"], _LEARNED["alarm"])
                if bounded := said["bound"] is not None:
                    _learn_again(bound, said["bound"], _LEARNED["bound"])
                alarms = int(said["alarms"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state of a budget policy: {error!r}") from error
        self._fit, self._groups = fit, groups
        if same:
            self._expected, self._alarm, self.alarms = expected, alarm, alarms
            self._bound = bound if bounded else None

    def _terms(self) -> list[object]:
        return [self._budget, self._strict, self._explored, self._alpha, self._noise]

    def _likely(self, query: str, candidate: Candidate) -> bool:
        """Whether a label that says "equal", and may be wrong, is to be believed of a pair."""
        judgement = self._layers.judge(query, candidate)
        return judgement.layer == "scorer" and judgement.score >= 2 * self._noise

    def _drawn(self, would_hit: bool) -> tuple[bool, float]:
        """Whether to serve, and the probability with which it would have been explored."""
        if not would_hit:
            return False, 1.0
        if not self.trusted:
            return False, 1.0
        serve = self._random() >= self._explored
        if serve and self._bound is not None:
            self._bound.served()
        return serve, self._explored

    def _wrong(self, share: float) -> None:
        """An explored hit would have been wrong."""
        if self._bound is not None:
            self._bound.wrong(share)
        self._alarm.wrong(share)
        if self._alarm.rings():
            self.alarms += 1
            self._alarm = Alarm(self._budget, self._alpha)
            self._bound = Bound(self._budget, self._explored, self._alpha)  # nothing is served until it allows to

    def _remember(self, query: str, asked: _Asked) -> None:
        place = query, asked.digest
        self._asked[place] = asked
        self._asked.move_to_end(place)
        if len(self._asked) > PENDING:
            self._asked.popitem(last=False)

    def _refusal(self, query: str, candidates: Sequence[Candidate]) -> Decision:
        nearest = max(candidates, key=lambda candidate: candidate.similarity)
        judgement = self._layers.judge(query, nearest)
        return Decision(None, judgement.layer, judgement.score, False, self._layers.reasons(judgement))

    def _chosen(self, query: str, candidates: Sequence[Candidate]) -> tuple[Judgement, list[float]] | None:
        """The best candidate of the best group, and what P(right) is judged by."""
        judged = [self._layers.judge(query, candidate) for candidate in candidates]
        passed = [one for one in judged if one.layer == "scorer"]
        if not passed:
            return None
        nearest = max(one.candidate.similarity for one in judged)
        votes: dict[str, float] = {}
        count: dict[str, int] = {}
        best: dict[str, Judgement] = {}
        total = 0.0
        for one in judged:
            vote = exp(VOTE * (one.candidate.similarity - nearest))
            total += vote
            if one.layer != "scorer":
                continue
            group = self._groups.of(one.candidate.digest)
            votes[group] = votes.get(group, 0.0) + vote
            count[group] = count.get(group, 0) + 1
            if group not in best or one.margin > best[group].margin:
                best[group] = one
        strongest: tuple[float, Judgement, list[float]] | None = None
        for group, one in best.items():
            rival = max((other.margin for name, other in best.items() if name != group), default=-8.0)
            values = _values(one, votes[group] / total, count[group], rival)
            odds = self._fit.margin(values)
            if strongest is None or odds > strongest[0]:
                strongest = (odds, one, values)
        assert strongest is not None
        return strongest[1], strongest[2]


_LEARNED = {
    "fit": ("_mean", "_cover"),
    "expected": ("_wrong", "_requests", "_grain", "_threshold", "_since", "_promised", "_found"),
    "alarm": ("_requests", "_mislabelled", "_wealth"),
    "bound": ("_requests", "_sum", "_served"),
}
"""What a restart must not lose: the fields of each part."""


def _learned(part: object, fields: Sequence[str]) -> dict[str, object] | None:
    return None if part is None else {field: getattr(part, field) for field in fields}


def _learn_again(part: object, said: Mapping[str, object], fields: Sequence[str]) -> None:
    """Raises ValueError for values of another shape."""
    for field in fields:
        if not _alike(getattr(part, field), said[field]):
            raise ValueError(f"no state of a budget policy: {field} is {said[field]!r}")
        setattr(part, field, said[field])


def _alike(own: object, given: object) -> bool:
    if isinstance(own, list):
        return isinstance(given, list) and len(given) == len(own) and all(map(_alike, own, given))
    return isinstance(given, int | float) and not isinstance(given, bool)


def _values(one: Judgement, share: float, count: int, rival: float) -> list[float]:
    margin = max(-8.0, min(8.0, one.margin))
    ahead = max(-4.0, min(4.0, one.margin - rival))
    similarity = one.candidate.similarity - STRAY
    return [1.0, margin, 10 * similarity, share - 0.5, log(count), ahead / 4, (share - 0.5) * log(count)]


class _Calibration:
    """Logistic regression, fitted label by label: a Gaussian over the weights, moved by each (extended Kalman filter).

    It starts at the scorer's own P(right), and widens a little with each label, so that old labels are forgotten.
    """

    START = (0.0, 0.8, 0.0, 1.0, 0.5, 0.3, 0.0)
    SPREAD = (1.0, 0.1, 0.3, 1.5, 0.5, 0.5, 0.5)
    FORGET = 1.0002

    def __init__(self, noise: float) -> None:
        self._noise = noise
        self._mean = list(self.START)
        self._cover = [
            [spread**2 if i == j else 0.0 for j in range(len(self.SPREAD))] for i, spread in enumerate(self.SPREAD)
        ]

    def margin(self, values: Sequence[float]) -> float:
        return sum(map(float.__mul__, self._mean, values))

    def probability(self, values: Sequence[float]) -> float:
        return logistic(self.margin(values))

    def learn(self, values: Sequence[float], right: bool, importance: float) -> None:
        expected = self.probability(values)
        importance = min(importance, 4.0)
        moved = [sum(map(float.__mul__, row, values)) for row in self._cover]
        slope = expected * (1 - expected)
        if self._noise:  # the label is right with probability 1 - noise: of a sure pair it says little
            clear = 1 - 2 * self._noise
            seen = self._noise + clear * expected
            pull = clear * slope / (seen * (1 - seen))
            curve = importance * max(1e-4, pull * clear * slope)
        else:
            seen, pull, curve = expected, 1.0, importance * max(1e-4, slope)
        scale = 1 + curve * sum(map(float.__mul__, moved, values))
        step = importance * pull * (right - seen) / scale
        self._mean = [mean + step * by for mean, by in zip(self._mean, moved, strict=True)]
        shrink = curve / scale
        self._cover = [
            [self.FORGET * (cell - shrink * by * to) for cell, to in zip(row, moved, strict=True)]
            for row, by in zip(self._cover, moved, strict=True)
        ]


class _Groups:
    """Which entries have equal answers. Bounded: the oldest are forgotten, and stand alone again."""

    def __init__(self) -> None:
        self._group: OrderedDict[str, str] = OrderedDict()

    def of(self, digest: str) -> str:
        return self._group.get(digest, digest)

    def join(self, digest: str, other: str) -> None:
        """A new entry's answer equals that of one that was there. The first group it joins is the one it stays in."""
        if digest not in self._group:
            self._group.setdefault(other, other)
            self.put(digest, self._group[other])

    def put(self, digest: str, group: str) -> None:
        self._group[digest] = group
        while len(self._group) > ENTRIES:
            self._group.popitem(last=False)

    def latest(self) -> list[tuple[str, str]]:
        """The last that joined, with their groups."""
        return list(islice(reversed(self._group.items()), KEPT))[::-1]


class _Expectation:
    """The serving threshold: the lowest P(right) at which expected wrong answers per recent request stay in the budget.

    Recent requests are a histogram of P(right) that fades. Expectations are corrected by what exploring shows: a
    P(right)
    that promises too much is taken for what it turned out to be.
    """

    BINS = 240
    WIDTH = 0.05
    """Of a bin, in log-odds from 0 on: below a P(right) of one half nothing is served."""

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._wrong = [0.0] * self.BINS
        self._requests = 0.0
        self._grain = 1.0
        self._threshold = 0.99
        self._since = 0
        self._promised = 1.0
        self._found = 1.0

    def add(self, score: float) -> None:
        self._grain *= 1 + 1 / MEMORY  # instead of fading all bins, what comes weighs more
        self._requests += self._grain
        if score > 0.5:
            self._wrong[self._bin(score)] += self._grain * (1 - score)
        self._since += 1
        if self._since >= 20:
            self._since = 0
            self._refit()

    def withdraw(self, score: float) -> None:
        """It was added just now, and is to be added again."""
        self._requests = max(0.0, self._requests - self._grain)
        if score > 0.5:
            at = self._bin(score)
            self._wrong[at] = max(0.0, self._wrong[at] - self._grain * (1 - score))

    def _bin(self, score: float) -> int:
        odds = log(score / (1 - score)) if score < 1 else self.BINS
        return min(self.BINS - 1, int(odds / self.WIDTH))

    def observed(self, score: float, right: bool) -> None:
        """An explored hit's outcome."""
        self._promised = 0.995 * self._promised + (1 - score)
        self._found = 0.995 * self._found + (not right)

    def threshold(self) -> float:
        return self._threshold

    def _refit(self) -> None:
        correction = max(0.7, self._found / self._promised)
        left = self._budget * max(self._requests, self._grain * 200) / correction
        at = self.BINS
        while at and left >= self._wrong[at - 1]:
            at -= 1
            left -= self._wrong[at]
        self._threshold = logistic(at * self.WIDTH)
        if self._grain > 1e9:
            self._wrong = [each / self._grain for each in self._wrong]
            self._requests /= self._grain
            self._grain = 1.0


class Alarm:
    """Rings when explored hits show more wrong answers than the budget: with probability alpha at most, ever, while the
    expected ones are within it (see the module's docstring). One for one watch: a new watch needs a new one."""

    STEPS = (0.003, 0.01, 0.03, 0.1)

    def __init__(self, budget: float, alpha: float) -> None:
        self._budget = budget
        self._level = log(1 / alpha)
        self._requests = 0
        self._mislabelled = 0.0
        self._wealth = [0.0] * len(self.STEPS)

    def request(self) -> None:
        self._requests += 1

    def withdraw(self, share: float) -> None:
        """The latest request, a would-be hit, is not counted: nor what `mislabelled` was told of it."""
        self._requests = max(0, self._requests - 1)
        self._mislabelled = max(0.0, self._mislabelled - share)

    def mislabelled(self, share: float) -> None:
        """There was a would-be hit, of which this share would be called wrong though it were right."""
        self._mislabelled += share

    def wrong(self, share: float) -> None:
        """An explored hit, explored with this probability, was wrong."""
        self._wealth = [wealth + log1p(step / share) for wealth, step in zip(self._wealth, self.STEPS, strict=True)]

    def rings(self) -> bool:
        due = self._budget * self._requests + self._mislabelled
        logs = [wealth - step * due for wealth, step in zip(self._wealth, self.STEPS, strict=True)]
        top = max(logs)
        return top + log(sum(exp(one - top) for one in logs) / len(logs)) >= self._level


class Bound:
    """At most how many wrong answers have been served, with probability 1 - alpha at every moment; and whether one more
    is within the budget (see the module's docstring)."""

    def __init__(self, budget: float, explored: float, alpha: float) -> None:
        self._budget = budget
        self._theta = log1p(0.5 * explored / (1 - explored))
        self._level = log(1 / alpha)
        self._requests = 0
        self._sum = 0.0
        self._served = 0

    def request(self) -> None:
        self._requests += 1

    def served(self) -> None:
        self._served += 1

    def withdraw(self) -> None:
        """The latest request, which was served, is not counted."""
        self._requests = max(0, self._requests - 1)
        self._served = max(0, self._served - 1)

    def wrong(self, share: float) -> None:
        if share < 1:
            self._sum -= log1p(-(1 - share) * expm1(self._theta) / share)

    @property
    def most(self) -> float:
        """The bound on wrong answers served so far."""
        return min(self._served, (self._sum + self._level) / self._theta)

    def allows(self) -> bool:
        """Whether one more answer may be served, though it be wrong."""
        return min(self._served + 1, (self._sum + self._level) / self._theta) <= self._budget * self._requests
