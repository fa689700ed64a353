"""The policies that a backend can be given by name."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from asynccache import ConfigError
from asynccache.semantic.decisions import Candidate, default_policy
from asynccache.semantic.features import NAMES, RISES
from asynccache.semantic.scorer import Scorer


def near(text: str, similarity: float, digest: str = "d") -> Candidate:
    return Candidate(digest, text, similarity, 0.0)


SAFE, UNSAFE = "Is aspirin safe?", "Is aspirin not safe?"


def test_guards_and_scorer_are_on_by_default() -> None:
    decision = default_policy().decide(SAFE, [near(UNSAFE, 0.972)])
    assert decision.candidate is None
    assert decision.layer == "guards"
    assert any("negation" in reason for reason in decision.reasons)


def test_a_threshold_alone_keeps_guards_on() -> None:
    assert default_policy(similarity_threshold=0.8).decide(SAFE, [near(UNSAFE, 0.972)]).candidate is None


def test_the_bare_threshold_has_to_be_asked_for() -> None:
    decision = default_policy(policy="threshold", similarity_threshold=0.95).decide(SAFE, [near(UNSAFE, 0.972)])
    assert decision.candidate is not None
    assert (decision.layer, decision.score) == ("threshold", 0.972)


def test_a_respelling_is_served_with_its_reasons() -> None:
    stored = near("How do I fly from Boston to Denver?", 0.93)
    decision = default_policy().decide("Hi, how do i fly from boston to Dnever? Thanks!", [stored])
    assert decision.candidate == stored
    assert decision.layer == "scorer"
    assert 0.75 <= decision.score <= 1
    assert not decision.explore
    assert len(decision.reasons) == 3


def test_the_best_that_no_layer_refuses_is_served() -> None:
    right, wrong = near("How do I get to Denver", 0.9, "right"), near("How do I get to Dallas?", 0.99, "wrong")
    for order in ([right, wrong], [wrong, right]):
        assert default_policy().decide("How do I get to Denver?", order).candidate == right


def test_below_the_threshold_nothing_is_looked_at() -> None:
    decision = default_policy(similarity_threshold=0.9).decide(SAFE, [near(SAFE.lower(), 0.89)])
    assert (decision.candidate, decision.layer) == (None, "threshold")


def test_without_candidates() -> None:
    for policy in (default_policy(), default_policy(policy="threshold"), default_policy(error_budget=0.01)):
        assert policy.decide(SAFE, []).candidate is None


def test_layers_can_be_switched_off() -> None:
    stored = [near(UNSAFE, 0.972)]
    assert default_policy(guards=[], scorer=False).decide(SAFE, stored).candidate is not None
    assert default_policy(guards=["number"], scorer=False).decide(SAFE, stored).candidate is not None
    assert default_policy(guards=["negation"], scorer=False).decide(SAFE, stored).candidate is None
    assert default_policy(guards=[], confidence=0).decide(SAFE, stored).layer == "scorer"


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "cosine"},
        {"policy": "threshold", "guards": []},
        {"similarity_threshold": 1.5},
        {"confidence": True},
        {"guards": ["numbers"]},
        {"error_budget": 0},
    ],
)
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        default_policy(**options)  # type: ignore[arg-type]


def test_the_shipped_scorer_is_small_monotone_and_says_what_it_is_made_from() -> None:
    raw = files("asynccache.semantic").joinpath("scorer.json").read_bytes()
    assert len(raw) <= 400_000
    document = json.loads(raw)
    assert all({"source", "licence"} == set(row) for row in document["from"])
    Scorer.of(document)
    flipped = {**document["weights"], "number:conflict": 1.0}
    with pytest.raises(ConfigError, match="wrong sign"):
        Scorer(flipped, 0.0)
    with pytest.raises(ConfigError, match="missing or unknown"):
        Scorer({"similarity": 1.0}, 0.0)


@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_the_score_moves_one_way(at: int) -> None:
    scorer = Scorer.shipped()
    low, high = [0.5] * len(NAMES), [0.5] * len(NAMES)
    high[at] += 0.4
    assert (
        (scorer.margin(high) >= scorer.margin(low))
        if NAMES[at] in RISES
        else (scorer.margin(high) <= scorer.margin(low))
    )
