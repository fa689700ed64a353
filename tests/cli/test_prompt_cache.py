"""`asynccache prompt-cache explain`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asynccache.cli import build_app
from tests.test_traffic_log import SPEND

LONG = "A sentence that is long enough. " * 400


def run(*args: str, stdin: str | None = None) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(build_app(), ["prompt-cache", "explain", *args], input=stdin)


def request(question: str = "Why?", system: str = LONG, model: str = "claude-opus-5") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "request.json").write_text(json.dumps(request()))
    return tmp_path


def test_what_is_marked_and_why(folder: Path) -> None:
    result = run("request.json")
    assert result.exit_code == 0, result.output
    assert "anthropic: claude-opus-5 (chat)" in result.stdout
    assert "0.28 uses a write" in " ".join(result.stdout.split())
    assert "1 mark\n" in result.stdout


def test_as_json(folder: Path) -> None:
    said = json.loads(run("request.json", "--json").stdout)
    assert (said["provider"], said["form"], said["marks"]) == ("anthropic", "chat", 1)
    assert [(place["place"], place["mark"]) for place in said["places"]] == [
        ("message 0 (system)", "5m"),
        ("message 1 (user)", None),
    ]
    assert said["request"]["messages"][0]["cache_control"] == {"type": "ephemeral"}


def test_history_decides(folder: Path) -> None:
    """A system prompt that came again every ten minutes is kept for an hour; one that never did is not kept."""
    lines = [{"time": 600 * n, "request": request(f"Question {n}")} for n in range(6)]
    spend = [
        {**SPEND, "startTime": f"2025-11-03 08:{n}0:00", "proxy_server_request": request(f"Question {n}")}
        for n in range(6)
    ]
    for log in (lines, spend):
        (folder / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
        said = json.loads(run("request.json", "--history", "log.jsonl", "--every", "600", "--json").stdout)
        assert said["places"][0]["mark"] == "1h"
    lines = [request(system=f"{n} {LONG}") for n in range(9)]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    said = json.loads(run("request.json", "--history", "log.jsonl", "--json").stdout)
    assert said["places"][0]["mark"] is None


def test_a_volatile_prefix_is_pointed_at(folder: Path) -> None:
    result = run("-", stdin=json.dumps(request(system=f"It is 2026-11-21 08:15. {LONG}")))
    assert "there is a time in it (2026-11-21 08:15)" in " ".join(result.stdout.split())


def test_points_of_ones_own(folder: Path) -> None:
    result = run("request.json", "--points", '[{"location": "message", "index": 9}]')
    assert "index 9 is out of range" in result.stdout
    assert "0 marks" in result.stdout
    result = run("request.json", "--points", '[{"location": "message", "role": "system"}]')
    (marked,) = [line for line in result.stdout.splitlines() if "5m" in line]
    assert marked.split()[:3] == ["message", "0", "(system)"]


def test_the_form_of_a_request_is_told_by_its_arguments() -> None:
    anthropic = {"model": "claude-opus-5", "system": LONG, "messages": [{"role": "user", "content": "Why?"}]}
    said = json.loads(run("-", "--json", stdin=json.dumps(anthropic)).stdout)
    assert (said["form"], said["places"][0]["place"], said["places"][0]["mark"]) == ("messages", "system", "5m")


@pytest.mark.parametrize(
    ("points", "note"),
    [
        ([], "a context costs by the hour: auto makes none"),
        (["--points", '[{"location": "message", "role": "system"}]'], "a context keeps systemInstruction,"),
    ],
)
def test_gemini_has_contexts_and_no_marks(points: list[str], note: str) -> None:
    result = run("-", *points, stdin=json.dumps(request(model="gemini/gemini-2.5-flash")))
    assert note in " ".join(result.stdout.split())
    assert "0 marks" in result.stdout
    strange = {"model": "gemini/gemini-2.5-flash", "contents": ["Why?"]}
    assert run("-", *points, stdin=json.dumps(strange)).exit_code == 0


def test_a_key_that_leads_to_one_machine(folder: Path) -> None:
    assert "note: prompt_cache_key: 'asynccache-" in run("-", stdin=json.dumps(request(model="gpt-4o"))).stdout


def test_a_provider_that_takes_no_marks(folder: Path) -> None:
    result = run("-", stdin=json.dumps(request(model="llama-3")))
    assert "no provider that takes marks: llama-3" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["missing.json"], "missing.json"),
        (["request.json", "--history", "missing.jsonl"], "missing.jsonl"),
        (["request.json", "--history", "request.txt"], "there is no call in it: no JSON (1)"),
        (["request.json", "--points", "{"], "not JSON"),
        (["request.json", "--points", "{}"], "a list is wanted"),
        (["request.json", "--points", '[{"location": "x"}]'], "'message' or 'tool_config'"),
        (["request.json", "--call-type", "chta"], "known are"),
    ],
)
def test_wrong_input(folder: Path, args: list[str], message: str) -> None:
    (folder / "request.txt").write_text("no JSON")
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr
