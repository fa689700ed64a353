"""What a policy has learned outlives a restart."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from asynccache.backends.disk import DiskBackend
from asynccache.backends.semantic import SemanticMemoryBackend
from asynccache.errors import BackendUnavailable
from asynccache.model import CacheKey, Entry
from asynccache.semantic.backend import _LEARNED
from asynccache.semantic.budget import BudgetPolicy
from asynccache.semantic.decisions import Candidate, SupportsState
from asynccache.semantic.policies import LayeredPolicy
from asynccache.semantic.scorer import Scorer
from asynccache.testing.contract import entry_of
from tests.semantic.standins import WordEmbedder, key

CANDIDATE = Candidate("d" * 64, "what does it cost to send a parcel", 0.93, 0.0)
QUERY = "what is the price of sending a parcel"


def policy(budget: float = 0.05, **options: Any) -> BudgetPolicy:
    layers = LayeredPolicy(threshold=0.5, scorer=Scorer.shipped())
    return BudgetPolicy(layers, budget, random=random.Random(1).random, **options)


def taught(subject: BudgetPolicy, *, equal: bool, times: int = 300) -> BudgetPolicy:
    for number in range(times):
        decision = subject.decide(f"{QUERY}", [CANDIDATE])
        subject.learn(QUERY, CANDIDATE, equal, explored=decision.explore, digest=f"{number:064d}")
    return subject


@pytest.mark.parametrize("guarantee", ["alarm", "strict"])
@pytest.mark.parametrize("equal", [True, False])
def test_a_policy_that_is_told_its_state_decides_as_before(guarantee: Any, equal: bool) -> None:
    before, after = taught(policy(guarantee=guarantee), equal=equal), policy(guarantee=guarantee)
    assert isinstance(before, SupportsState)
    new = after.decide(QUERY, [CANDIDATE]).score
    after.restore(before.state())
    assert after.state() == before.state()
    was, now = before.decide(QUERY, [CANDIDATE]), after.decide(QUERY, [CANDIDATE])
    assert (now.score, now.reasons) == (was.score, was.reasons)
    assert now.score > new if equal else now.score < new
    assert after.trusted == before.trusted


def test_an_alarm_that_rang_is_not_forgotten() -> None:
    before = policy(0.001, explored=0.5)
    draws = random.Random(2)
    while not before.alarms:
        decision = before.decide(QUERY, [CANDIDATE])
        if decision.explore:
            before.learn(QUERY, CANDIDATE, draws.random() < 0.9, explored=True)
        elif decision.candidate is None:
            before.learn(QUERY, CANDIDATE, True, explored=False)
    after = policy(0.001, explored=0.5)
    assert after.trusted
    after.restore(before.state())
    assert not after.trusted
    assert after.alarms == 1


def test_another_budget_keeps_what_holds_of_answers_and_nothing_of_the_budget() -> None:
    before, after = taught(policy(0.05), equal=False), policy(0.01)
    fresh = orjson.loads(policy(0.01).state())
    after.restore(before.state())
    said = orjson.loads(after.state())
    assert said["fit"] == orjson.loads(before.state())["fit"]
    assert (said["alarm"], said["expected"]) == (fresh["alarm"], fresh["expected"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"no JSON",
        lambda said: orjson.dumps([said]),
        lambda said: orjson.dumps({**said, "fit": {"_mean": [1.0], "_cover": []}}),
        lambda said: orjson.dumps({**said, "alarm": {**said["alarm"], "_requests": "many"}}),
        lambda said: orjson.dumps({name: part for name, part in said.items() if name != "groups"}),
    ],
)
def test_what_is_no_state_changes_nothing(damage: Any) -> None:
    subject = taught(policy(), equal=True)
    before = subject.state()
    with pytest.raises(ValueError, match=r"no state|JSON|unexpected|expected"):
        subject.restore(damage(orjson.loads(before)))
    assert subject.state() == before


async def asked(backend: SemanticMemoryBackend, number: int, answer: bytes) -> None:
    wanted = key(f"what does it cost to send parcel to town {'x' * number}")
    if await backend.get(wanted) is None:
        await backend.set(wanted, entry_of(answer))
        await backend.drain()


def started(folder: Path, now: list[float], learner: BudgetPolicy, vectors: str = "vectors") -> SemanticMemoryBackend:
    return SemanticMemoryBackend(
        store=DiskBackend(folder / "answers"),
        path=folder / vectors,
        embedder=WordEmbedder(),
        embedding_deadline=20.0,
        policy=learner,
        clock=lambda: now[0],
    )


async def test_a_restart_does_not_forget_what_was_learned(tmp_path: Path) -> None:
    now, learner = [1000.0], policy()
    backend = started(tmp_path, now, learner)
    for number in range(1, 12):
        await asked(backend, number, b'"an answer of its own: %d"' % number)
    assert backend.stats.labels
    await backend.aclose()
    again = policy()
    assert again.state() != learner.state()
    backend = started(tmp_path, now, again)
    await backend.get(key("anything at all"))
    assert orjson.loads(again.state())["fit"] == orjson.loads(learner.state())["fit"]
    await backend.aclose()


async def test_it_is_written_now_and_then_for_processes_that_end_badly(tmp_path: Path) -> None:
    now, learner = [1000.0], policy()
    backend = started(tmp_path, now, learner)
    for number in range(1, 6):
        await asked(backend, number, b'"an answer of its own: %d"' % number)
    now[0] += 61.0
    await asked(backend, 7, b'"another"')
    other = policy()
    second = started(tmp_path, [1062.0], other, vectors="others")
    await second.get(key("anything at all"))
    assert orjson.loads(other.state())["fit"] == orjson.loads(learner.state())["fit"]
    await second.aclose()
    await backend.aclose()


async def test_what_could_not_be_written_is_written_on_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, learner = [1000.0], policy()
    backend = started(tmp_path, now, learner)
    await asked(backend, 1, b'"an answer"')
    now[0] += 61.0
    keep = backend.store.set

    async def fail(kept: CacheKey, entry: Entry, /) -> None:
        if kept == _LEARNED:
            raise BackendUnavailable("full")
        await keep(kept, entry)

    with monkeypatch.context() as patch:
        patch.setattr(backend.store, "set", fail)
        for number in range(2, 6):
            await asked(backend, number, b'"an answer of its own: %d"' % number)
    assert await backend.store.get(_LEARNED) is None
    await backend.aclose()
    other = policy()
    second = started(tmp_path, now, other)
    await second.get(key("anything at all"))
    assert orjson.loads(other.state())["fit"] == orjson.loads(learner.state())["fit"]
    await second.aclose()


async def test_a_state_that_says_nothing_is_said_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    backend = started(tmp_path, now, policy())
    for number in range(1, 6):
        await asked(backend, number, b'"an answer of its own: %d"' % number)
    await backend.aclose()

    class Other(BudgetPolicy):
        def restore(self, state: bytes, /) -> None:
            raise ValueError("written by another version")

    backend = started(tmp_path, now, Other(LayeredPolicy(threshold=0.5, scorer=None), 0.05))
    with caplog.at_level(logging.WARNING):
        assert await backend.get(key("anything at all")) is None
    assert "written by another version" in caplog.text
    await backend.aclose()
