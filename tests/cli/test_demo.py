"""`asynccache demo`, as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asynccache.cli import build_app, demo, main
from asynccache.cli.report import duration
from asynccache.cli.workload import QuestionsError, draw, own_questions, percentile, read_questions
from asynccache.testing.provider import SimulatedProvider

FAST = ("--speed", "1000", "--requests", "150", "--users", "10")
CHAT = "/v1/chat/completions"


def run(*args: str, **env: str) -> Result:
    return CliRunner(env={"OPENAI_API_KEY": None, "COLUMNS": "100", **env}).invoke(build_app(), ["demo", *args])


def figures(*args: str) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert isinstance(values, dict)
    return values


def check(values: dict[str, Any], requests: int) -> None:
    assert values["requests"] == requests
    assert values["hits"] + values["misses"] + values["coalesced"] + values["failed"] == requests
    assert values["others"] == {}
    assert values["hits"] > 0
    assert values["interrupted"] is False
    for times in values["latency"].values():
        assert 0 < times["p50"] <= times["p99"]


@pytest.mark.parametrize("backend", ["memory", "disk"])
def test_every_request_is_accounted_for(backend: str) -> None:
    values = figures(*FAST, "--backend", backend)
    check(values, 150)
    assert values["simulated"] is True
    assert values["upstream_calls"] == values["provider_calls"] == values["misses"] >= values["distinct"]
    assert values["failed"] == 0
    money = values["money"]
    assert money["simulated_price"] is True
    assert money["spent"] > 0
    assert money["saved"] > 0


def test_each_question_is_paid_for_once() -> None:
    values = figures(*FAST)
    assert values["provider_calls"] == values["distinct"]


def test_the_same_seed_asks_the_same_and_costs_the_same() -> None:
    one, again, other = figures(*FAST), figures(*FAST), figures(*FAST, "--seed", "8")
    assert one["tokens"]["spent"] == again["tokens"]["spent"] != other["tokens"]["spent"]
    assert one["money"] == again["money"]


def test_nothing_is_kept_with_a_ttl_of_zero() -> None:
    values = figures(*FAST, "--ttl", "0")
    assert values["hits"] == 0
    assert values["upstream_calls"] == values["provider_calls"] == values["misses"]


def test_a_real_provider_is_asked_when_it_is_named() -> None:
    with SimulatedProvider() as provider:
        values = figures(*FAST, "--base-url", provider.base_url, "--model", "big", "--api-key", "any")
        check(values, 150)
        assert provider.calls == {CHAT: values["upstream_calls"]}
        assert {request["model"] for request in provider.requests} == {"big"}
    assert values["simulated"] is False
    assert values["provider_calls"] is None
    assert values["money"] is None  # its price is not known, which is not the same as nothing


def test_a_real_provider_s_price_may_be_given() -> None:
    with SimulatedProvider() as provider:
        real = ("--base-url", provider.base_url, "--model", "big", "--input-price", "1", "--output-price", "2")
        values = figures(*FAST, *real)
    spent = values["tokens"]["spent"]
    assert values["money"]["spent"] == pytest.approx((spent["input"] + 2 * spent["output"]) / 1e6, abs=1e-6)
    assert values["money"]["simulated_price"] is False


def test_the_cost_is_told_before_a_real_provider_is_called() -> None:
    with SimulatedProvider() as provider:
        result = run(*FAST, "--base-url", provider.base_url, "--model", "big")
    assert "each call costs money" in result.stderr
    assert "150 at most" in result.stderr
    assert "dollars unknown" in result.stdout


def test_failures_are_counted_and_shown() -> None:
    with SimulatedProvider() as provider:
        real = ("--base-url", provider.base_url, "--model", "big")
        provider.fail_next(status=429, times=3)
        values = figures(*FAST, "--users", "1", *real)
        check(values, 150)
        assert values["failures"] == {"RateLimitError": 3}
        assert provider.calls[CHAT] == values["upstream_calls"] == values["misses"] + 3
        provider.fail_next(status=500, times=2)
        shown = run(*FAST, "--users", "1", *real)
    assert "2 × InternalServerError" in shown.stdout
    assert "scripted failure" in shown.stdout


def test_it_exits_with_1_when_nothing_was_answered() -> None:
    with SimulatedProvider() as provider:
        provider.fail_next(status=401, times=1000)
        result = run(*FAST, "--base-url", provider.base_url, "--model", "big", "--json")
    assert result.exit_code == 1
    values = json.loads(result.stdout)
    assert values["failures"] == {"AuthenticationError": 150}
    assert values["latency"] == {}


def test_plain_lines_where_there_is_no_terminal() -> None:
    result = run(*FAST)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "/150: " in result.stdout
    for word in ("simulated", "hit", "coalesced", "miss", "upstream calls", "money spent", "money saved", "p99"):
        assert word in result.stdout


@pytest.mark.parametrize("columns", ["40", "80", "120"])
def test_a_terminal_gets_colours_and_a_moving_display(columns: str) -> None:
    result = run(*FAST, FORCE_COLOR="1", TERM="xterm-256color", COLUMNS=columns)
    assert result.exit_code == 0
    assert "\x1b[" in result.stdout
    assert "━" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "big"], "give its --base-url too"),
        (["--base-url", "http://127.0.0.1:9/v1"], "needs a --model"),
        (["--input-price", "1"], "give both or none"),
        (["--questions", "no-such-file.jsonl"], "no-such-file.jsonl: No such file or directory"),
    ],
)
def test_wrong_options_are_refused(args: list[str], message: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a"}\n\n{"question": }\n', "line 3: not JSON: Expecting value at column 14"),
        ('{"question": "a"}\n["b"]\n', 'line 2: an object like {"question": "…"} is wanted'),
        ('{"question": 7}\n', "line 1: an object like"),
        ("\n", "there is no question in it"),
    ],
)
def test_a_bad_file_of_questions_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(text)
    result = run("--questions", str(file))
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_file_of_questions_must_be_text(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_bytes(b'{"question": "\xff"}')
    with pytest.raises(QuestionsError, match="not UTF-8"):
        read_questions(file)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_is_installed", lambda package: package != "openai")
    result = run(*FAST)
    assert result.exit_code == 2
    assert "needs openai: pip install 'asynccache[demo]'" in result.stderr


def test_without_typer_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert "pip install 'asynccache[cli]'" in str(caught.value)


def test_commands_do_not_need_each_others_packages() -> None:
    """With `asynccache[cli]` alone all of them are there, and say themselves what they lack."""
    missing = ("openai", "anthropic", "httpx", "httpx2", "starlette", "uvicorn", "pydantic_settings", "yaml", "numpy")
    code = (
        f"import sys; sys.modules |= dict.fromkeys({missing!r}); from asynccache.cli import build_app; "
        "build_app()(['serve', '--help'], prog_name='asynccache')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "--upstream" in done.stdout) == (0, True), done.stderr


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "asynccache", "demo", *FAST, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    check(json.loads(done.stdout), 150)


def test_ctrl_c_ends_it_with_the_figures_so_far() -> None:
    command = [sys.executable, "-m", "asynccache", "demo", "--ttl", "0", "--requests", "4000", "--speed", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("4") and "/4,000" in line:  # the first tenth is done
                break
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    assert process.returncode == 130
    assert errors == ""
    assert "Stopped after" in rest
    assert "money spent" in rest


def test_the_questions_that_come_with_it() -> None:
    questions = read_questions(own_questions())
    topics = Counter(json.loads(line)["topic"] for line in own_questions().read_text().splitlines())
    assert len(questions) >= 300
    assert len({question.lower() for question in questions}) == len(questions)
    assert len(topics) >= 60
    assert min(topics.values()) >= 5


def test_zipf_makes_a_few_questions_popular() -> None:
    questions = [str(number) for number in range(100)]
    skewed = Counter(draw(questions, 10_000, 1.0, seed=1)).most_common()
    even = Counter(draw(questions, 10_000, 0.0, seed=1)).most_common()
    assert skewed[0][1] > 1500
    assert even[0][1] < 200


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.9e-5, "19.0 µs"),
        (0.0009994, "999 µs"),
        (0.0009996, "1.00 ms"),
        (0.8124, "812 ms"),
        (1.618, "1.62 s"),
        (75, "75.0 s"),
    ],
)
def test_durations_have_three_digits_and_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
