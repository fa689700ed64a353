"""The learned policy: what its bound promises, and that it keeps to it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from asynccache import ConfigError
from asynccache.backends.semantic import SemanticMemoryBackend
from asynccache.semantic.budget import Alarm, Bound, BudgetPolicy, Guarantee
from asynccache.semantic.decisions import Candidate, Decision
from asynccache.semantic.policies import Judgement
from asynccache.testing.contract import entry_of
from tests.semantic.standins import Threshold, WordEmbedder, key

DELTA = 0.02


class Rated:
    """Layers that take a similarity for log-odds: the policy alone is under test."""

    def judge(self, query: str, candidate: Candidate) -> Judgement:
        margin = 16 * candidate.similarity - 8
        return Judgement(candidate, False, "scorer", 0.5, margin, (), (), ())

    def reasons(self, judgement: Judgement) -> tuple[str, ...]:
        return ()


def policy(seed: int = 1, *, guarantee: Guarantee = "alarm", explored: float = 0.2) -> BudgetPolicy:
    return BudgetPolicy(Rated(), DELTA, guarantee=guarantee, explored=explored, random=random.Random(seed).random)


def ask(budget: BudgetPolicy, number: int, right: bool, similarity: float = 0.95) -> Decision:
    """One request with one neighbour; a miss, and what is explored, is labelled."""
    candidate = Candidate(f"c{number}", f"stored {number}", similarity, 0.0)
    decision = budget.decide(f"query {number}", [candidate])
    if decision.candidate is None or decision.explore:
        budget.learn(f"query {number}", candidate, right, explored=decision.explore, digest=f"q{number}")
    return decision


def served(decision: Decision) -> bool:
    return decision.candidate is not None and not decision.explore


def test_right_answers_are_served_from_the_start_and_some_are_explored() -> None:
    budget = policy()
    decisions = [ask(budget, number, right=True) for number in range(2000)]
    explored = sum(decision.explore for decision in decisions)
    assert 0.1 < explored / 2000 < 0.3
    assert sum(map(served, decisions)) > 1200
    assert budget.alarms == 0


def test_it_learns_what_the_scorer_got_wrong() -> None:
    """Similarities of 0.75 are right here, though the scorer doubts them; at 0.95 they are wrong half the time."""
    budget = policy()
    rng = random.Random(5)
    wrong = late = 0
    for number in range(4000):
        similarity = rng.choice((0.75, 0.95))
        right = similarity < 0.9 or rng.random() < 0.5
        if served(ask(budget, number, right, similarity)):
            wrong += not right
            late += number >= 2000
    assert wrong / 4000 <= 2 * DELTA
    assert late > 200


def overdrawn() -> BudgetPolicy:
    """The world has changed while the answers of 500 questions were waited for: all that was explored is wrong."""
    budget = policy()
    asked = []
    for number in range(500):
        candidate = Candidate(f"c{number}", f"stored {number}", 0.95, 0.0)
        asked.append((f"query {number}", candidate, budget.decide(f"query {number}", [candidate])))
    for query, candidate, decision in asked:
        if decision.explore:
            budget.learn(query, candidate, False, explored=True)
    return budget


def test_an_alarm_falls_back_to_exact_matching() -> None:
    budget = overdrawn()
    assert budget.alarms >= 1
    assert not budget.trusted
    assert not any(served(ask(budget, number, right=True)) for number in range(1000, 1020))


def test_after_an_alarm_it_serves_again_when_the_bound_allows() -> None:
    budget = overdrawn()
    hits = [served(ask(budget, number, right=True)) for number in range(1000, 6000)]
    assert sum(hits[:500]) <= 500 * DELTA
    assert sum(hits[-500:]) > 250


def test_strict_serves_more_than_a_trickle_only_once_enough_was_explored() -> None:
    budget = policy(guarantee="strict")
    hits = [served(ask(budget, number, right=True)) for number in range(4000)]
    assert sum(hits[:1000]) <= 1000 * DELTA
    assert sum(hits[-1000:]) > 500


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
def test_strict_keeps_its_promise_at_every_moment(rate: float) -> None:
    """In at most alpha of the runs is there a moment with more wrong answers than the budget: here in none of 20."""
    for seed in range(20):
        budget = policy(seed, guarantee="strict")
        rng = random.Random(seed + 100)
        wrong = 0
        for number in range(2000):
            right = rng.random() >= rate
            wrong += served(ask(budget, number, right)) and not right
            assert wrong <= DELTA * (number + 1)


def test_what_was_not_served_after_all_counts_for_nothing() -> None:
    """A request for which the policy has to choose twice, the first answer having gone, is one request."""
    budget = policy(guarantee="strict")
    asked = hits = withdrawn = 0
    for number in range(400):
        asked += 1
        gone = [Candidate(f"gone {number}", "stored", 0.95, 0.0)] if number >= 100 else []
        if served(budget.decide(f"query {number}", gone)):
            budget.withdraw(f"query {number}", gone[0])
            withdrawn += 1
            budget.decide(f"query {number}", [])
    while budget.trusted:
        asked += 1
        hits += served(budget.decide(f"query {asked}", [Candidate(f"c{asked}", f"stored {asked}", 0.95, 0.0)]))
    assert withdrawn > 100
    assert 0 < hits <= DELTA * asked


@pytest.mark.parametrize("refused", ["gone", "verifier"])
async def test_one_look_up_is_one_request(refused: str) -> None:
    class Counting(Threshold):
        requests = 0

        def decide(self, query: str, candidates: Sequence[Candidate], /) -> Decision:
            self.requests += 1
            return super().decide(query, candidates)

        def withdraw(self, query: str, candidate: Candidate, /) -> None:
            self.requests -= 1

    async def never(_query: str, _stored: str, _answer: str | None, /) -> float:
        return 0.0

    counting = Counting(least=0.5)
    options: dict[str, Any] = {"verifier": never, "verifier_deadline": 20.0} if refused == "verifier" else {}
    backend = SemanticMemoryBackend(embedder=WordEmbedder(), policy=counting, embedding_deadline=20.0, **options)
    stored = [key(f"how do i boil {count} eggs") for count in ("two", "three", "four")]
    for one in stored:
        await backend.set(one, entry_of(b"5 minutes"))
        if refused == "gone":
            await backend.store.delete(one)
    assert await backend.get(key("how do i boil five eggs")) is None
    assert counting.requests == 1
    await backend.aclose()


def test_the_bound_holds_against_an_adversary() -> None:
    """Who sees all outcomes, and makes hits wrong just when it hurts most, beats it in at most alpha of the runs."""
    broken = 0
    for seed in range(200):
        rng = random.Random(seed)
        bound = Bound(DELTA, 0.2, 0.05)
        wrong = found = 0
        for _ in range(300):
            bad = found < 3  # stop as soon as the bound has taken notice
            if rng.random() < 0.2:
                if bad:
                    found += 1
                    bound.wrong(0.2)
            else:
                bound.served()
                wrong += bad
            broken += wrong > bound.most
            if wrong > bound.most:
                break
    assert broken / 200 <= 0.05


def test_false_alarms_are_rare() -> None:
    """Wrong answers just within the budget ring in at most alpha of the runs."""
    rung = 0
    for seed in range(200):
        rng = random.Random(seed)
        alarm = Alarm(DELTA, 0.05)
        for _ in range(3000):
            alarm.request()
            if rng.random() < DELTA * 0.2:
                alarm.wrong(0.2)
            if alarm.rings():
                rung += 1
                break
    assert rung / 200 <= 0.05


def test_two_who_ask_the_same_at_once_are_labelled_apart() -> None:
    """Tenants have each their own candidate for a question."""
    budget = policy(explored=0.5)
    mine, yours = (Candidate(digest, "stored", 0.95, 0.0) for digest in ("mine", "yours"))
    for candidate in (mine, yours):
        budget.decide("query", [candidate])
    known = [budget.state()]
    for candidate, right in ((mine, True), (yours, False)):
        budget.learn("query", candidate, right, explored=True)
        known.append(budget.state())
    assert len(set(known)) == 3


def test_equal_answers_vote_together() -> None:
    """Ten neighbours of one answer carry more than one of them among nine others."""
    budget = policy()
    for number in range(1, 10):
        budget.learn(f"e{number}", Candidate("e0", "x", 0.9, 0.0), True, explored=False, digest=f"e{number}")
    together = budget.decide("a", [Candidate(f"e{n}", "x", 0.6, 0.0) for n in range(10)])
    alone = budget.decide("b", [Candidate(f"f{n}", "x", 0.6, 0.0) for n in range(10)])
    assert together.score > alone.score


def test_wrong_labels_are_allowed_for() -> None:
    """A judge that is wrong in one of twenty would otherwise be taken for wrong answers, and ring."""
    allowing = BudgetPolicy(Rated(), DELTA, explored=0.2, label_error=0.05, random=random.Random(3).random)
    rng = random.Random(4)
    hits = sum(served(ask(allowing, number, right=rng.random() >= 0.05)) for number in range(5000))
    assert allowing.alarms == 0
    assert hits > 2500


@pytest.mark.parametrize(
    "options", [{"guarantee": "none"}, {"explored": 0}, {"alpha": 1}, {"label_error": 0.5}, {"explored": True}]
)
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BudgetPolicy(Rated(), DELTA, **options)  # type: ignore[arg-type]
