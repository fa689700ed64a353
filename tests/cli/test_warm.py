"""`asynccache warm`, as a user runs it: against a proxy's configuration, a running proxy, and a provider."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asynccache import Cache
from asynccache.cli import build_app
from asynccache.telemetry.ledger import Ledger
from asynccache.telemetry.prices import Prices
from asynccache.testing.provider import Pace, SimulatedProvider
from tests.proxy.proxies import proxied
from tests.test_traffic_log import ASKED, QUESTION, SPEND

CHAT = "/v1/chat/completions"
PRICES = {"gpt-4o": {"input": 2.5, "output": 10}}


@pytest.fixture
def provider() -> Iterator[SimulatedProvider]:
    with SimulatedProvider() as serving:
        yield serving


def run(*args: str | Path, environment: Mapping[str, str] | None = None) -> Result:
    return CliRunner(env={"COLUMNS": "120", **(environment or {})}).invoke(build_app(), ["warm", *map(str, args)])


def told(*args: str | Path, code: int = 0, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    result = run(*args, "--json", environment=environment)
    assert result.exit_code == code, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def configured(folder: Path, provider: SimulatedProvider, **more: Any) -> Path:
    path = folder / "config.json"
    caching = {"type": "disk", "path": str(folder / "cache"), "ttl": 3600}
    path.write_text(
        json.dumps({"upstream": provider.origin, "caching": caching, "telemetry": {"prices": PRICES}, **more})
    )
    return path


def lines(path: Path, *texts: str) -> Path:
    path.write_text("\n".join(texts))
    return path


def request(text: str, **more: Any) -> str:
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more})


def test_prompts_are_called_once(tmp_path: Path, provider: SimulatedProvider) -> None:
    """The second run finds all of them; what it says is what was done."""
    config, prompts = configured(tmp_path, provider), lines(tmp_path / "p.txt", "One?", "", "Two?", "One?")
    result = run("--config", config, "--prompts", prompts, "--model", "gpt-4o")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:3] == ["3 requests", "         2  called", "         1  the same as one before"]
    assert "cost: $0.00" in result.stdout
    assert provider.calls[CHAT] == 2
    again = told("--config", config, "--prompts", prompts, "--model", "gpt-4o")
    assert (again["present"], again["called"], again["complete"]) == (2, 0, True)
    assert provider.calls[CHAT] == 2


async def test_the_proxy_of_the_same_configuration_has_the_answers(tmp_path: Path) -> None:
    """Its keys are those that were warmed."""
    async with SimulatedProvider() as provider:
        config, prompts = configured(tmp_path, provider), lines(tmp_path / "p.jsonl", request("One?", temperature=0.5))
        process = await started("--config", str(config), "--prompts", str(prompts))
        _, said = await process.communicate()
        assert process.returncode == 0, said
        async with proxied(json.loads(config.read_text())) as served:
            answer = await served.client.post(CHAT, json=json.loads(request("One?", temperature=0.5)))
        assert "; hit" in answer.headers["cache-status"]
        assert provider.calls[CHAT] == 1


async def test_a_running_proxy_is_warmed(tmp_path: Path) -> None:
    ledger = Ledger(Prices(PRICES, library=False))
    async with (
        SimulatedProvider() as provider,
        Cache(observers=[ledger]) as cache,
        proxied({"upstream": provider.origin}, cache=cache) as served,
    ):
        prompts = lines(tmp_path / "p.jsonl", *(request(f"{number}?") for number in range(5)))
        first, second = [await asyncio.to_thread(told, "--url", served.origin, "--prompts", prompts) for _ in range(2)]
        assert (first["called"], second["present"], provider.calls[CHAT]) == (5, 5, 5)
        # What is looked for is no call, and nobody's saving.
        assert (cache.stats.calls, cache.stats.misses, ledger.report().total.calls) == (5, 5, 5)
        # What ends soon is called anew.
        await served.client.post(CHAT, json=json.loads(request("0?", cache={"ttl": 5, "no-cache": True})))
        third = await asyncio.to_thread(told, "--url", served.origin, "--prompts", prompts, "--refresh-within", "60")
        assert (third["refreshed"], third["present"]) == (1, 4)
        assert (await served.client.post(CHAT, json=json.loads(request("0?")))).headers["cache-status"].count(
            "ttl"
        ) == 0


async def test_another_server_is_told_from_a_proxy(tmp_path: Path) -> None:
    async with SimulatedProvider() as provider:
        prompts = lines(tmp_path / "p.jsonl", request("One?"))
        said = await asyncio.to_thread(told, "--url", provider.origin, "--prompts", prompts, code=1)
    assert "no proxy of asynccache" in said["failures"][0]["error"]


def test_embeddings_and_batch_files(tmp_path: Path, provider: SimulatedProvider) -> None:
    """Each request goes where its kind goes."""
    batch = {"custom_id": "1", "method": "POST", "url": CHAT, "body": json.loads(request("Hi"))}
    embedding = {"model": "text-embedding-3-small", "input": ["a", "b"]}
    requests = lines(tmp_path / "r.jsonl", json.dumps(batch), json.dumps(embedding))
    config = configured(tmp_path, provider)
    assert told("--config", config, "--prompts", requests)["called"] == 2
    assert provider.calls == {CHAT: 1, "/v1/embeddings": 1}
    assert told("--config", config, "--prompts", requests)["present"] == 2


def test_the_most_frequent_requests_of_a_log(tmp_path: Path, provider: SimulatedProvider) -> None:
    log = [{"request": json.loads(request(text, stream=True)), "began": n} for n, text in enumerate("abcbab")]
    path = lines(tmp_path / "log.jsonl", *map(json.dumps, log))
    assert told("--config", configured(tmp_path, provider), "--prompts", path, "--top", "2")["called"] == 2
    assert sorted(asked["messages"][0]["content"] for asked in provider.requests) == ["a", "b"]
    assert not any(asked.get("stream") for asked in provider.requests)


def test_a_prompt_that_a_log_has_cut_is_not_sent(tmp_path: Path, provider: SimulatedProvider) -> None:
    cut = [{"role": "user", "content": "Once ... (litellm_truncated skipped 900 chars. More elsewhere.) ... the end."}]
    rows = [{**SPEND, "proxy_server_request": {**ASKED, "messages": messages}} for messages in (cut, QUESTION, cut)]
    path = lines(tmp_path / "spend.jsonl", *map(json.dumps, rows))
    result = run("--config", configured(tmp_path, provider), "--prompts", path, "--top", "1")
    assert "left out 2: the prompt is not all in the log" in result.stderr
    assert [asked["messages"] for asked in provider.requests] == [QUESTION]


def test_failures_are_listed_and_the_rest_is_done(tmp_path: Path, provider: SimulatedProvider) -> None:
    provider.fail_next(500)
    config, prompts = configured(tmp_path, provider), lines(tmp_path / "p.txt", "One?", "Two?", "Three?")
    arguments = ("--config", config, "--prompts", prompts, "--model", "gpt-4o", "--concurrency", "1")
    result = run(*arguments)
    assert result.exit_code == 1
    assert "         1  failed" in result.stdout
    assert "request 1: " in result.stderr
    assert "500" in result.stderr
    assert told(*arguments)["called"] == 1


def test_failures_of_one_kind_are_one_line(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"upstream": "http://127.0.0.1:9", "caching": {"type": "memory"}}))
    prompts = lines(tmp_path / "p.txt", *(f"{number}?" for number in range(30)))
    result = run("--config", config, "--prompts", prompts, "--model", "gpt-4o")
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("request")]
    assert line.startswith("requests 1-30: Refused: 502 ")


def test_the_budget_holds(tmp_path: Path, provider: SimulatedProvider) -> None:
    config = configured(tmp_path, provider)
    prompts = lines(tmp_path / "p.jsonl", *(request(f"{number}?", max_tokens=500) for number in range(20)))
    said = told("--config", config, "--prompts", prompts, "--max-usd", "0.01", code=1)
    assert said["called"] > 0
    assert said["unaffordable"] == 20 - said["called"] == 20 - provider.calls[CHAT] > 0
    assert 0 < float(said["usd"]) <= 0.01


def test_an_unknown_price_needs_to_be_assumed(tmp_path: Path, provider: SimulatedProvider) -> None:
    config, prompts = configured(tmp_path, provider), lines(tmp_path / "p.txt", "One?", "Two?")
    arguments = ("--config", config, "--prompts", prompts, "--model", "homemade", "--max-usd", "1")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "the price of 'homemade' is not known" in result.stderr
    assert provider.calls[CHAT] == 0
    said = told(*arguments, "--assume-usd", "0.6", code=1)
    assert (said["called"], said["unaffordable"], said["unpriced"]) == (1, 1, 1)


def test_a_listed_model_is_priced_by_what_it_stands_for(tmp_path: Path, provider: SimulatedProvider) -> None:
    """And it is the model of prompts without one, being the only one."""
    listed = {"model": "openai/gpt-4o", "api_base": provider.base_url, "api_key": "sk"}
    prices = {"prices": {"openai/gpt-4o": {"input": 2.5, "output": 10}}}
    config = configured(
        tmp_path, provider, model_list=[{"model_name": "smart", "litellm_params": listed}], telemetry=prices
    )
    said = told("--config", config, "--prompts", lines(tmp_path / "p.txt", "One?"), "--max-usd", "1")
    assert (said["called"], said["unpriced"]) == (1, 0)
    assert provider.requests[0]["model"] == "gpt-4o"


def test_spending_goes_into_the_ledger_and_looking_does_not(tmp_path: Path, provider: SimulatedProvider) -> None:
    config = configured(tmp_path, provider, telemetry={"prices": PRICES, "ledger": "ledger.jsonl"})
    prompts = lines(tmp_path / "p.txt", "One?", "Two?")
    for _ in range(2):
        told("--config", config, "--prompts", prompts, "--model", "gpt-4o")
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert kinds == ["upstream", "upstream"]


def test_a_configuration_of_the_cache_alone_warms_a_wrapped_client(tmp_path: Path, provider: SimulatedProvider) -> None:
    """With OpenAI's own environment variables."""
    config = tmp_path / "cache.json"
    config.write_text(json.dumps({"caching": {"type": "disk", "path": str(tmp_path / "cache")}}))
    arguments = ("--config", config, "--prompts", lines(tmp_path / "p.txt", "One?"), "--model", "gpt-4o")
    environment = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": provider.base_url}
    assert told(*arguments, environment=environment)["called"] == 1
    assert told(*arguments, environment=environment)["present"] == 1
    assert provider.calls[CHAT] == 1


async def test_interrupted_and_run_again_it_calls_only_what_was_missing(tmp_path: Path) -> None:
    """A real Ctrl-C in the middle of the third call: two are kept, the second run calls the other two."""
    stuck = True

    def latency(asked: Mapping[str, Any]) -> Pace:
        return Pace(3600.0) if stuck and asked["messages"][0]["content"] == "2?" else Pace()

    async with SimulatedProvider(latency) as provider:
        config = configured(tmp_path, provider)
        prompts = lines(tmp_path / "p.txt", *(f"{number}?" for number in range(4)))
        arguments = ["--config", str(config), "--prompts", str(prompts), "--model", "gpt-4o", "--concurrency", "1"]
        process = await started(*arguments, "--json")
        await provider.reached(3)
        process.send_signal(signal.SIGINT)
        printed, said = await process.communicate()
        assert (process.returncode, said) == (130, b"")
        report = json.loads(printed)
        assert (report["called"], report["interrupted"], report["complete"]) == (2, True, False)
        stuck = False
        process = await started(*arguments, "--json")
        printed, _ = await process.communicate()
        assert process.returncode == 0
        report = json.loads(printed)
        assert (report["present"], report["called"], report["complete"]) == (2, 2, True)
        assert [asked["messages"][0]["content"] for asked in provider.requests] == ["0?", "1?", "2?", "2?", "3?"]


async def started(*args: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "asynccache", "warm", *args]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "p.txt"], "give --config FILE, or the --url"),
        (["--prompts", "p.txt", "--config", "none.json"], "No such file"),
        (["--prompts", "none.txt", "--url", "http://127.0.0.1:1"], "No such file"),
        (["--prompts", "p.txt", "--url", "http://127.0.0.1:1"], "give --model"),
        (["--prompts", "empty.txt", "--url", "http://127.0.0.1:1"], "no prompt in it"),
    ],
)
def test_wrong_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "p.txt", "One?")
    lines(tmp_path / "empty.txt", "")
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
