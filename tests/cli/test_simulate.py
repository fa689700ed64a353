"""`asynccache simulate`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asynccache.cli import build_app
from tests.test_simulation import answer, traffic
from tests.test_traffic_log import ASKED, SPEND, otlp


def run(*args: str | Path, width: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(build_app(), ["simulate", *map(str, args)])


def told(*args: str | Path) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def request(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def write(path: Path, *objects: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, objects)))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    said = [
        {"request": dict(call.params), "answer": call.answer, "began": call.began, "seconds": call.seconds}
        for call in traffic(400, 60)
    ]
    return write(tmp_path / "log.jsonl", *said)


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    return write(tmp_path / "prices.json", {"m": {"input": 5, "output": 15}})


def test_what_the_guides_prices_make_of_three_calls(tmp_path: Path, prices: Path) -> None:
    """Two questions, one of them twice: one answer of $0.00475 and two seconds saved."""
    calls = [
        {"request": request(text), "answer": answer("Yes."), "began": 10 * n, "seconds": 2}
        for n, text in enumerate("aba")
    ]
    (found,) = told(write(tmp_path / "log.jsonl", *calls), "--prices", prices)["outcomes"]
    assert (found["calls"], found["hits"], found["misses"], found["hit_ratio"]) == (3, 1, 2, pytest.approx(1 / 3))
    assert found["usd_saved"] == pytest.approx(0.00475)
    assert found["usd"] == pytest.approx(0.0095)
    assert found["seconds_saved"] == 2


def test_all_that_the_options_make_together(log: Path) -> None:
    said = told(
        log,
        *("--ttl", "1m", "--ttl", "none", "--size", "20kB", "--size", "none", "--policy", "s3-fifo"),
        *("--policy", "lru", "--key-builder", "exact", "--key-builder", "normalized"),
    )
    found = said["outcomes"]
    assert len(found) == 2 * 2 * 3
    assert {each["ttl"] for each in found} == {60, None}
    assert {each["max_bytes"] for each in found} == {20_000, None}

    def ratio(**wanted: Any) -> float:
        (one,) = [each for each in found if wanted.items() <= each.items()]
        value: float = one["hit_ratio"]
        return value

    whole: dict[str, Any] = {"policy": "s3-fifo", "ttl": None, "max_bytes": None}
    assert ratio(**whole, keys="normalized") > ratio(**whole, keys="exact")
    assert ratio(**whole, keys="exact") > ratio(**{**whole, "ttl": 60}, keys="exact")
    assert ratio(**whole, keys="exact") > ratio(**{**whole, "max_bytes": 20_000}, keys="exact")


def test_for_people(log: Path, prices: Path) -> None:
    result = run(log, "--prices", prices, "--ttl", "15m", "--curve", "4")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("400 calls in 0:0")
    heads = ["keys", "ttl", "size", "policy", "hit ratio", "hits", "waited", "saved", "of", "time saved", "peak"]
    assert lines[1].split() == " ".join(heads).split()
    assert lines[2].split()[:4] == ["exact", "15m", "none", "s3-fifo"]
    assert lines[3] == "Hit ratio by size of memory (keys exact, ttl 15m, s3-fifo)"
    assert len(lines) == 4 + 4
    assert lines[-1].count("█") > lines[4].count("█")


def test_of_several_caches_the_differences_are_told(log: Path) -> None:
    """So that the table is legible in 80 columns."""
    result = run(log, "--ttl", "1m", "--ttl", "none", "--key-builder", "exact", "--key-builder", "normalized", width=80)
    lines = result.stdout.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("keys"))
    assert lines[head].split()[:2] == ["keys", "ttl"]
    assert [line.split()[:2] for line in lines[head + 1 : head + 5]] == [
        [keys, ttl] for keys in ("exact", "normalized") for ttl in ("1m", "none")
    ]
    assert "…" not in result.stdout


def test_unknown_money_is_said_to_be_unknown(log: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.json", {"another": {"input": 1}})
    result = run(log, "--prices", other, "--curve", "0")
    assert "400 whose cost nobody knows" in result.stdout
    assert result.stdout.splitlines()[-1].count("unknown") == 2


def test_logs_of_other_programs(tmp_path: Path) -> None:
    """LiteLLM's money is what it says; a span's answer has the size that its tokens make."""
    rows = [
        {**SPEND, "request_id": f"{n}", "startTime": f"2025-11-03T08:0{n}:00", "endTime": f"2025-11-03T08:0{n}:02"}
        for n in range(3)
    ]
    (found,) = told(write(tmp_path / "spend.jsonl", *rows), "--curve", "0")["outcomes"]
    assert (found["hits"], found["usd_saved"], found["seconds_saved"]) == (2, pytest.approx(0.0042), 4)
    content = {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "Where is my order?"}
    said = told(write(tmp_path / "otlp.jsonl", *[otlp(**content)] * 2), "--curve", "0")
    assert said["log"]["without_answer"] == 2
    assert said["outcomes"][0]["coalesced"] == 1  # both began at the same moment


def test_cut_prompts_are_told(tmp_path: Path) -> None:
    cut = [{"role": "user", "content": "Once ... (litellm_truncated skipped 900 chars. More elsewhere.) ... the end."}]
    row = {**SPEND, "proxy_server_request": {**ASKED, "messages": cut}}
    path = write(tmp_path / "spend.jsonl", row, row)
    assert told(path)["log"]["cut"] == 2
    assert "2 whose prompt is not all in the log" in run(path).stdout


def test_a_line_that_is_no_call_is_said(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"request": request("a")}) + "\n{oops\n")
    assert "left out 1: no JSON" in run(path).stdout
    assert "not all lines say when" in run(path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "No such file"),
        (["empty.jsonl"], "there is no call in it"),
        (["log.jsonl", "--ttl", "soon"], "--ttl 'soon'"),
        (["log.jsonl", "--size", "much"], "--size 'much'"),
        (["log.jsonl", "--size", "0"], "max_bytes=0"),
        (["log.jsonl", "--policy", "fifo"], "s3-fifo, lru"),
        (["log.jsonl", "--key-builder", "normalised"], "normalised"),
        (["log.jsonl", "--prices", "none.json"], "No such file"),
        (["log.jsonl", "--prices", "empty.jsonl"], "no table of prices"),
    ],
)
def test_wrong_input_is_refused(log: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(log.parent)
    (log.parent / "empty.jsonl").write_text("")
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_as_a_program(log: Path) -> None:
    command = [sys.executable, "-m", "asynccache", "simulate", str(log), "--curve", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("400 calls")
