"""The policies that a backend can be given by name: the bare threshold, and layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from asynccache.errors import ConfigError
from asynccache.semantic.alignment import align
from asynccache.semantic.decisions import Candidate, Decision, Policy
from asynccache.semantic.features import NAMES, features
from asynccache.semantic.guards import ALL, CONFLICT, NOTHING, OPEN, Finding, Guard, named
from asynccache.semantic.scorer import Scorer, logistic
from asynccache.semantic.texts import Parser

BARE_THRESHOLD = 0.9
FLOOR = 0.6
CONFIDENCE = 0.75
CANDIDATES = 5


class ThresholdPolicy:
    """Serves the nearest question from a cosine on. It cannot tell "safe" from "not safe": their cosine is 0.97."""

    candidates = 1

    def __init__(self, threshold: float = BARE_THRESHOLD) -> None:
        self._threshold = _share("similarity_threshold", threshold)

    def decide(self, _query: str, candidates: Sequence[Candidate], /) -> Decision:
        best = max(candidates, key=lambda candidate: candidate.similarity, default=None)
        if best is None:
            return NO_CANDIDATE
        enough = best.similarity >= self._threshold
        said = f"threshold: similarity {best.similarity:.3f} {'≥' if enough else '<'} {self._threshold:.3f}"
        return Decision(best if enough else None, "threshold", best.similarity, False, (said,))

    def learn(
        self, query: str, candidate: Candidate, equal: bool, /, *, explored: bool, digest: str | None = None
    ) -> None:
        """Learns nothing."""


class Judgement(NamedTuple):
    """What the layers say of one candidate.

    layer:  the last that was asked: the one that refused it, or the one that would serve it.
    margin: log-odds of the scorer; without a scorer, its similarity's distance from the threshold.
    values: the scorer's features.
    """

    candidate: Candidate
    refused: bool
    layer: str
    score: float
    margin: float
    values: Sequence[float]
    findings: tuple[tuple[Guard, Finding], ...]
    reasons: tuple[str, ...]


class LayeredPolicy:
    """Threshold, then guards, then scorer: the first that refuses a candidate ends it; of the rest the best is served.

    Give it candidates of one scope. It keeps no more than the latest texts it has parsed, and learns nothing.

    threshold:  candidates below this cosine are not looked at. From 0 to 1.
    confidence: the least P(right) that is served. From 0 to 1. Without a scorer it is not looked at.
    guards:     those that are on; a conflict that one of them finds forbids to serve, where it vetoes.
    scorer:     None: what passes the guards is served by its similarity, from the threshold on.
    """

    candidates = CANDIDATES

    def __init__(
        self,
        *,
        threshold: float = FLOOR,
        confidence: float = CONFIDENCE,
        guards: Sequence[Guard] = ALL,
        scorer: Scorer | None = None,
        parser: Parser | None = None,
    ) -> None:
        self._threshold = _share("similarity_threshold", threshold)
        self._confidence = _share("confidence", confidence)
        self._guards = tuple(guards)
        self._on = tuple(guard if guard in self._guards else None for guard in ALL)
        self._own = tuple(guard for guard in self._guards if guard not in ALL)
        self._scorer = scorer
        self._parser = parser or Parser()

    def decide(self, query: str, candidates: Sequence[Candidate], /) -> Decision:
        """The best of those that no layer refuses, when the last layer finds it good enough."""
        best: Judgement | None = None
        for candidate in candidates:
            judgement = self.judge(query, candidate)
            if best is None or (not judgement.refused, judgement.margin) > (not best.refused, best.margin):
                best = judgement
        if best is None:
            return NO_CANDIDATE
        return Decision(None if best.refused else best.candidate, best.layer, best.score, False, self.reasons(best))

    def learn(
        self, query: str, candidate: Candidate, equal: bool, /, *, explored: bool, digest: str | None = None
    ) -> None:
        """Learns nothing."""

    def judge(self, query: str, candidate: Candidate) -> Judgement:
        """What each layer says of one candidate, up to the first that refuses it."""
        similarity = candidate.similarity
        if similarity < self._threshold:
            said = f"threshold: similarity {similarity:.3f} < {self._threshold:.3f}"
            return Judgement(candidate, True, "threshold", similarity, similarity - 100, (), (), (said,))
        a, b = self._parser(query), self._parser(candidate.text)
        sides = align(a, b)
        findings = [NOTHING if guard is None else guard(a, b, sides) for guard in self._on]
        shown = [(guard, finding) for guard, finding in zip(ALL, findings, strict=True) if finding.level]
        for guard in self._own:
            if (finding := guard(a, b, sides)).level:
                shown.append((guard, finding))
        refused = any(finding.level == CONFLICT and guard.vetoes for guard, finding in shown)
        if self._scorer is None:
            layer = "guards" if self._guards else "threshold"
            return Judgement(candidate, refused, layer, similarity, similarity, (), tuple(shown), ())
        values = features(similarity, a, b, sides, findings)
        margin = self._scorer.margin(values)
        score = logistic(margin)
        if refused:
            return Judgement(candidate, True, "guards", score, margin, values, tuple(shown), ())
        return Judgement(candidate, score < self._confidence, "scorer", score, margin, values, tuple(shown), ())

    def reasons(self, judgement: Judgement) -> tuple[str, ...]:
        """What each layer said of a candidate, in words."""
        if judgement.reasons:
            return judgement.reasons
        said = [f"threshold: similarity {judgement.candidate.similarity:.3f} ≥ {self._threshold:.3f}"]
        if self._guards:
            said += [_said(guard, finding) for guard, finding in judgement.findings] or [
                "guards: nothing differs that matters"
            ]
        if self._scorer is not None:
            relation = "≥" if judgement.score >= self._confidence else "<"
            said.append(f"scorer: P(right) {judgement.score:.3f} {relation} {self._confidence:.3f}")
        return tuple(said)


NO_CANDIDATE = Decision(None, "none", 0.0, False, ("no stored question is near",))


def build_policy(
    *,
    policy: str,
    similarity_threshold: float | None,
    confidence: float | None,
    guards: Sequence[str] | None,
    scorer: bool,
    error_budget: float | None,
) -> Policy:
    """See `decisions.default_policy`."""
    if policy == "threshold":
        for name, given in (("confidence", confidence), ("guards", guards), ("error_budget", error_budget)):
            if given is not None:
                raise ConfigError(f'{name}: the policy "threshold" has none; leave it out, or take policy="layered"')
        return ThresholdPolicy(BARE_THRESHOLD if similarity_threshold is None else similarity_threshold)
    if policy != "layered":
        raise ConfigError(f'policy={policy!r}: "layered" or "threshold" is wanted, or an object with decide and learn')
    layers = LayeredPolicy(
        threshold=_floor(similarity_threshold, scorer),
        confidence=CONFIDENCE if confidence is None else confidence,
        guards=ALL if guards is None else named(guards),
        scorer=Scorer.shipped() if scorer else None,
    )
    if error_budget is None:
        return layers
    from asynccache.semantic.budget import BudgetPolicy  # which wraps the layers above

    return BudgetPolicy(layers, error_budget)


def _floor(similarity_threshold: float | None, scorer: bool) -> float:
    if similarity_threshold is not None:
        return similarity_threshold
    return FLOOR if scorer else BARE_THRESHOLD


def _said(guard: Guard, finding: Finding) -> str:
    left, right = (words or "nothing" for words in finding.words)
    if finding.level == OPEN:
        return f"guard {guard.name}: open ({left} / {right})"
    return f"guard {guard.name}: conflict ({left} / {right}){'' if guard.vetoes else ', lowers the score'}"


def _share(name: str, value: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ConfigError(f"{name}={value!r}: a number from 0 to 1 is wanted")
    return float(value)


__all__ = ["BARE_THRESHOLD", "NAMES", "NO_CANDIDATE", "Judgement", "LayeredPolicy", "ThresholdPolicy", "build_policy"]
