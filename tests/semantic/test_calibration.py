"""Shadow mode's log, and what is recommended from it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from asynccache import Cache, ConfigError, status
from asynccache.backends.semantic import SemanticMemoryBackend
from asynccache.cli import build_app
from asynccache.semantic.calibration import calibrate, interval
from asynccache.semantic.decisions import Candidate, Decision
from asynccache.semantic.shadow import Comparison, ShadowLog, read_log
from asynccache.testing import FakeUpstream
from asynccache.testing.contract import entry_of
from tests.semantic.standins import Threshold, WordEmbedder, key


def run(*args: str) -> Result:
    return CliRunner(env={"COLUMNS": "100"}).invoke(build_app(), args)


def comparisons(count: int, seed: int = 1) -> list[Comparison]:
    """From a cosine of 0.9 on all is right, below it half; and twins with another number, which are wrong, at 0.999."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        if number % 4 == 0:
            made.append(
                Comparison(f"Is {number} mg safe?", f"Is {number + 1} mg safe?", 0.999, False, True, 0.9, "scorer")
            )
            continue
        similarity = rng.uniform(0.8, 1)
        equal = similarity >= 0.9 or rng.random() < 0.5
        made.append(Comparison("How do I cook rice?", "How is rice cooked?", similarity, equal, True, 0.9, "scorer"))
    return made


def test_the_interval_is_exact() -> None:
    low, high = interval(0, 10, 0.025)
    assert low == 0
    assert high == pytest.approx(0.3085, abs=1e-4)
    low, high = interval(9, 10, 0.025)
    assert low == pytest.approx(0.5550, abs=1e-4)
    assert high == pytest.approx(0.9975, abs=1e-4)
    assert interval(0, 0, 0.025) == (0.0, 1.0)


def test_guards_are_recommended_where_a_threshold_cannot_do() -> None:
    report = calibrate(comparisons(6000), 0.95)
    assert report.settings[0].chosen is None
    assert report.chosen is not None
    assert "guards" in report.chosen.layers
    point = report.chosen.chosen
    assert point is not None
    assert point.low >= 0.95


def test_too_little_is_refused() -> None:
    report = calibrate(comparisons(40), 0.99)
    assert report.chosen is None
    assert report.needed > 500


def test_a_wrong_target() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        calibrate([], 1.0)


async def test_the_log_comes_back_as_it_was(tmp_path: Path) -> None:
    log = ShadowLog(tmp_path / "log.jsonl")
    candidate = Candidate("d", 'Was kostet "das"?\n', 0.91, 0.0)
    for number in range(200):
        log.record(f"q{number}", candidate, Decision(candidate, "scorer", 0.8, False, ()), number % 2 == 0)
    await log.flush()
    read = read_log(tmp_path / "log.jsonl")
    assert [one.query for one in read] == [f"q{number}" for number in range(200)]
    assert read[1] == Comparison("q1", 'Was kostet "das"?\n', 0.91, False, True, 0.8, "scorer")
    assert (log.recorded, log.lost) == (200, 0)


async def test_what_a_lower_threshold_would_have_served_is_kept_down_to_a_floor(tmp_path: Path) -> None:
    log = ShadowLog(tmp_path / "log.jsonl", floor=0.5)
    policy = Threshold(least=0.99)
    backend = SemanticMemoryBackend(
        embedder=WordEmbedder(), policy=policy, embedding_deadline=20.0, mode="shadow", shadow=log
    )
    for text in ("how long do i boil an egg", "how long do i boil an egg today", "who painted the ceiling"):
        assert await backend.get(key(text)) is None
        await backend.set(key(text), entry_of(b'"5 minutes"'))
        await backend.drain()
    await backend.aclose()
    await log.flush()
    (line,) = read_log(tmp_path / "log.jsonl")
    assert (line.query, line.stored) == ("how long do i boil an egg today", "how long do i boil an egg")
    assert (line.equal, line.served) == (True, False)
    assert 0.5 < line.similarity < 0.99


async def test_a_cache_writes_the_log(tmp_path: Path) -> None:
    """From its options alone, as a file has them."""
    log = tmp_path / "log.jsonl"
    cache = Cache(type="semantic", embedder=WordEmbedder(), semantic_mode="shadow", shadow=str(log), policy=Threshold())
    async with cache:
        ask = cache.wrap(FakeUpstream())
        for text in ("what does it cost to send a parcel", "what does it cost to send the parcel"):
            answer = await ask(model="m", messages=[{"role": "user", "content": text}])
            assert status(answer).outcome == "miss"
        await cache.drain()
        assert isinstance(cache.backend, SemanticMemoryBackend)
        await cache.backend.drain()
    (line,) = read_log(log)
    assert (line.query, line.stored) == (
        "what does it cost to send the parcel",
        "what does it cost to send a parcel",
    )


def test_a_threshold_that_was_too_high_is_lowered() -> None:
    """All from 0.8 on is right, and what was below 0.95 was not served."""
    rng = random.Random(2)
    log = []
    for _ in range(1500):
        similarity = rng.uniform(0.7, 1)
        texts = ("How do I cook rice?", "How is rice cooked?")
        log.append(Comparison(*texts, similarity, similarity >= 0.8, similarity >= 0.95, 0.9, "threshold"))
    chosen = calibrate(log, 0.95).settings[0].chosen
    assert chosen is not None
    assert chosen.threshold == pytest.approx(0.8, abs=0.011)


@pytest.mark.parametrize("floor", [-0.1, 1.1, True])
def test_a_wrong_floor(tmp_path: Path, floor: float) -> None:
    with pytest.raises(ConfigError, match="floor"):
        ShadowLog(tmp_path / "log", floor=floor)


async def test_a_log_that_cannot_be_written_costs_lines_only(tmp_path: Path) -> None:
    log = ShadowLog(tmp_path / "missing" / "log.jsonl")
    candidate = Candidate("d", "x", 0.9, 0.0)
    log.record("q", candidate, Decision(None, "scorer", 0.1, False, ()), True)
    await log.flush()
    assert log.lost == 1


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"query": "a"}', '{"query": 1, "stored": "b", "similarity": 1, "equal": 1}']
)
def test_what_is_no_log(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(f"\n{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_log(tmp_path / "log")


def write(file: Path, rows: list[Comparison]) -> str:
    names = Comparison.__slots__
    file.write_text("".join(json.dumps({name: getattr(row, name) for name in names}) + "\n" for row in rows))
    return str(file)


def test_calibrate_on_the_command_line(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", comparisons(6000))
    result = run("semantic", "calibrate", log, "--target-precision", "0.95")
    assert result.exit_code == 0
    assert "recommended: layers threshold, guards" in result.stdout
    said = json.loads(run("semantic", "calibrate", log, "--target-precision", "0.95", "--json").stdout)
    assert said["recommended"]["low"] >= 0.95


def test_calibrate_refuses(tmp_path: Path) -> None:
    result = run("semantic", "calibrate", write(tmp_path / "log.jsonl", comparisons(20)))
    assert result.exit_code == 1
    assert "no recommendation" in result.stdout


def test_calibrate_without_a_log() -> None:
    assert run("semantic", "calibrate", "nowhere.jsonl").exit_code == 2


def test_explain_on_the_command_line() -> None:
    result = run("semantic", "explain", "Is aspirin safe?", "Is aspirin not safe?", "--similarity", "0.972")
    assert result.exit_code == 1
    assert "guard negation: conflict" in result.stdout
    said = json.loads(run("semantic", "explain", "How do I cook rice?", "how do i cook rice", "--json").stdout)
    assert said["serves"] is True
    assert said["similarity_assumed"] is True


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (("", "Hi"), "empty"),
        (("Hi", "Hello", "--embedding-model", "local:/nowhere"), "/nowhere"),
        (("Hi", "Hello", "--embedding-model", "nothing"), "nothing"),
    ],
)
def test_explain_what_cannot_be_explained(asked: tuple[str, ...], word: str) -> None:
    result = run("semantic", "explain", *asked)
    assert result.exit_code == 2
    assert word in result.stderr
    assert "Traceback" not in result.stderr
