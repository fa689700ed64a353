"""Metrics, as a scraper reads them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from asynccache import BackendUnavailable, Cache, CacheKey, ConfigError, Entry, Size
from asynccache.backends.dual import DualBackend
from asynccache.backends.memory import MemoryBackend
from asynccache.guard import Guard
from asynccache.telemetry.observation import NOTHING
from asynccache.telemetry.prices import Prices
from asynccache.telemetry.prometheus import OTHER, PrometheusObserver
from asynccache.testing import FakeUpstream
from tests.telemetry.samples import made, miss, seen

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
PRICES = Prices({"gpt-4o": {"input": 2.5, "output": 10, "cache_read": 1.25}}, library=False)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(body: bytes) -> Samples:
    families = text_string_to_metric_families(body.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


async def scrape(observer: PrometheusObserver) -> Samples:
    return parse((await observer.metrics_response()).body)


def of(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of this name that have these labels."""
    return sum(value for (n, have), value in samples.items() if n == name and labels.items() <= dict(have).items())


async def test_calls_through_a_cache() -> None:
    observer, upstream = PrometheusObserver(PRICES), FakeUpstream()
    cache = Cache(observers=[observer])
    observer.watch(cache)
    ask = cache.wrap(upstream)
    request: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    for _ in range(3):
        answer = await ask(**request)
    other = await ask(**request, user=object())
    upstream.fail(TimeoutError())
    with pytest.raises(TimeoutError):
        await ask(**request, seed=1)
    found = await scrape(observer)
    usage = answer["usage"]
    who = {"call_type": "chat", "model": "gpt-4o"}
    assert of(found, "asynccache_cache_hits_total", tier="memory", **who) == 2
    assert of(found, "asynccache_cache_misses_total", **who) == 2
    assert of(found, "asynccache_cache_bypassed_total", reason="unkeyable", call_type="chat") == 1
    assert of(found, "asynccache_cache_failed_calls_total", outcome="miss", call_type="chat") == 1
    assert of(found, "asynccache_cache_latency_seconds_count", tier="memory", outcome="hit") == 2
    assert of(found, "asynccache_upstream_latency_seconds_count", **who) == 3
    assert of(found, "asynccache_upstream_errors_total", error="TimeoutError", **who) == 1
    assert of(found, "asynccache_cache_stored_total") == 1
    assert of(found, "asynccache_cache_entries", tier="memory") >= 1
    assert of(found, "asynccache_cache_bytes", tier="memory") > 0
    assert of(found, "asynccache_cache_hit_ratio") == 0.5
    spent = {"input": usage["prompt_tokens"] + other["usage"]["prompt_tokens"]}
    spent["output"] = usage["completion_tokens"] + other["usage"]["completion_tokens"]
    saved = {"input": 2 * usage["prompt_tokens"], "output": 2 * usage["completion_tokens"]}
    for paid, tokens in (("spent", spent), ("saved", saved)):
        assert of(found, "asynccache_tokens_total", paid=paid, kind="input") == tokens["input"]
        assert of(found, "asynccache_tokens_total", paid=paid, kind="output") == tokens["output"]
        worth = (tokens["input"] * 2.5 + tokens["output"] * 10) / 10**6
        assert of(found, "asynccache_dollars_total", paid=paid) == pytest.approx(worth)
    assert of(found, "asynccache_unpriced_calls_total", paid="spent") == 1


async def test_counters_do_not_count_twice() -> None:
    observer = PrometheusObserver()
    cache = Cache(observers=[observer])
    observer.watch(cache)
    await cache.wrap(FakeUpstream())(model="m", messages=[])
    first, second = await scrape(observer), await scrape(observer)
    assert first == second


async def test_every_outcome_has_its_counter() -> None:
    observer = PrometheusObserver()
    for outcome in ("hit", "semantic", "stale", "coalesced", "miss", "bypass"):
        observer.observe(seen(outcome=outcome))
    found = await scrape(observer)
    names = ("hits", "stale", "coalesced", "misses", "bypassed")
    assert [of(found, f"asynccache_cache_{name}_total") for name in names] == [2, 1, 1, 1, 1]
    assert of(found, "asynccache_cache_hit_ratio") == 0.8


async def test_labels_are_bounded_and_never_a_tenant_or_key() -> None:
    observer = PrometheusObserver(max_models=3)
    observer.observe_upstream(made(model="made-up", error="NotFoundError", usage=NOTHING))
    for number in range(200):
        observer.observe_upstream(made(model=f"m{number}", error=f"Error{number}" if number > 10 else ""))
        observer.observe(seen(model=f"m{number}", tenant=f"acme-{number}", key=f"key-{number}", tags=("t",)))
        observer.observe(seen(outcome="bypass", model="m0", reason=f"because {number}"))
    found = await scrape(observer)
    models = {dict(labels)["model"] for _, labels in found if "model" in dict(labels)}
    assert models == {"m0", "m1", "m2", OTHER}
    assert of(found, "asynccache_cache_hits_total", model=OTHER) == 197
    for label in ("reason", "error"):
        assert len({dict(labels)[label] for _, labels in found if label in dict(labels)}) == 51
    names = {name for _, labels in found for name in dict(labels)}
    assert names <= {"call_type", "model", "tier", "outcome", "reason", "le", "kind", "paid", "error"}
    assert not re.search("acme|key-", str(found))


async def test_the_names_of_litellms_guide() -> None:
    observer = PrometheusObserver(litellm_names=True)
    observer.observe(seen())
    observer.observe(miss())
    found = await scrape(observer)
    assert of(found, "litellm_cache_hits_total") == of(found, "litellm_cache_misses_total") == 1
    assert of(found, "litellm_cache_hit_ratio") == 0.5
    assert of(found, "litellm_cache_latency_seconds_count") == 2
    plain = PrometheusObserver()
    plain.observe(seen())
    assert not [name for name, _ in await scrape(plain) if name.startswith("litellm")]


class Far(MemoryBackend):
    """Another memory, that can be broken."""

    broken = False
    evictions = 0

    async def get(self, key: CacheKey, /) -> Entry | None:
        if self.broken:
            raise BackendUnavailable("away")
        return await super().get(key)

    async def size(self) -> Size:
        if self.broken:
            raise BackendUnavailable("away")
        return await super().size()


async def test_tiers_breakers_evictions_and_errors() -> None:
    near, far, observer = MemoryBackend(capacity=2), Far(), PrometheusObserver()
    guard = Guard(far, max_failures=1)
    async with Cache(DualBackend(near, guard), observers=[observer]) as cache:
        observer.watch(cache)
        ask = cache.wrap(FakeUpstream())
        for number in range(4):
            await ask(model="m", messages=[{"role": "user", "content": str(number)}])
        whole = await scrape(observer)
        assert of(whole, "asynccache_cache_breaker_state", tier="Far", state="closed") == 1
        assert of(whole, "asynccache_cache_entries", tier="memory") == (await near.size()).entries
        assert of(whole, "asynccache_cache_entries", tier="Far") == (await far.size()).entries > 2
        assert of(whole, "asynccache_cache_evictions_total", tier="memory") == near.evictions > 0
        far.broken = True
        await ask(model="m", messages=[{"role": "user", "content": "new"}])
        found = await scrape(observer)
    assert of(found, "asynccache_cache_breaker_state", tier="Far", state="open") == 1
    assert of(found, "asynccache_cache_breaker_state", tier="Far", state="closed") == 0
    assert of(found, "asynccache_cache_errors_total", kind="read") >= 1
    # What cannot say how full it is keeps what it said.
    size = "asynccache_cache_entries"
    assert of(found, size, tier="Far") == of(whole, size, tier="Far")


async def test_answers_that_are_not_stored() -> None:
    observer, upstream = PrometheusObserver(), FakeUpstream({"choices": []})
    cache = Cache(observers=[observer])
    observer.watch(cache)
    await cache.wrap(upstream)(model="m", messages=[])
    assert of(await scrape(observer), "asynccache_cache_rejected_total", reason="empty") == 1


def test_a_registry_of_ones_own() -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry=registry)
    observer.observe(seen())
    assert of(parse(generate_latest(registry)), "asynccache_cache_hits_total") == 1


def test_mounted_in_an_app() -> None:
    observer = PrometheusObserver()
    observer.observe(seen())
    client = TestClient(Starlette(routes=[Mount("/metrics", observer.app)]))
    plain = client.get("/metrics/")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert of(parse(plain.content), "asynccache_cache_hits_total") == 1
    openmetrics = client.get("/metrics/", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    assert client.head("/metrics/").content == b""
    assert client.post("/metrics/").status_code == 405


async def test_many_observations_are_folded() -> None:
    """What waits to be counted is bounded, and nothing of it is lost."""
    observer = PrometheusObserver()
    for number in range(5_000):
        observer.observe(seen(model=f"m{number % 700}"))
    assert len(observer._sums) <= 512
    assert of(await scrape(observer), "asynccache_cache_hits_total") == 5_000


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Three processes that count together; they have made 1, 2 and 3 hits, and a miss each."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with ExitStack() as started:
        found = []
        for hits in (1, 2, 3):
            command = [sys.executable, "-W", "error", "-m", "tests.telemetry.metrics_worker", str(hits)]
            worker = subprocess.Popen(
                command,
                cwd=EXAMPLES.parent,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            started.callback(worker.wait)
            started.enter_context(worker)
            started.callback(worker.kill)
            found.append(worker)
        yield found


def test_several_processes_count_together(workers: list[subprocess.Popen[str]]) -> None:
    """Each of them says what all have counted; sizes of memories add up, and the ratio is that of all."""
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    said = []
    for worker in workers[:2]:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        lines = []
        while not (line := worker.stdout.readline()).startswith("asynccache_cache_hit_ratio"):
            lines.append(line)
        said.append(parse("".join([*lines, line]).encode()))
    for found in said:
        assert of(found, "asynccache_cache_hits_total", tier="memory") == 6
        assert of(found, "asynccache_cache_misses_total") == 3
        assert of(found, "asynccache_cache_latency_seconds_count", outcome="hit") == 6
        assert of(found, "asynccache_upstream_latency_seconds_count") == 3
        assert of(found, "asynccache_cache_stored_total") == 3
        assert of(found, "asynccache_cache_entries", tier="memory") % 3 == 0
        assert of(found, "asynccache_cache_entries", tier="memory") >= 3
        assert of(found, "asynccache_cache_hit_ratio") == pytest.approx(6 / 9)


async def everything() -> set[str]:
    """The names of all metrics there are."""
    observer = PrometheusObserver(PRICES)
    cache = Cache(Guard(MemoryBackend()), observers=[observer])
    observer.watch(cache)
    body = (await observer.metrics_response()).body.decode()
    names = set(re.findall(r"^# TYPE (\S+) ", body, re.MULTILINE))
    histograms = set(re.findall(r"^# TYPE (\S+) histogram", body, re.MULTILINE))
    return names | {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}


def named(expression: str) -> set[str]:
    return set(re.findall(r"\basynccache_\w+", expression))


def labelled(expression: str) -> set[str]:
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    chosen = re.findall(r'(\w+)="', expression)
    return {label.strip() for group in grouped for label in group.split(",")} | set(chosen)


LABELS = {"call_type", "model", "tier", "outcome", "reason", "le", "kind", "paid", "error", "state"}


async def test_the_dashboard_asks_for_what_there_is() -> None:
    board = json.loads((EXAMPLES / "grafana.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    known = await everything()
    for expression in asked:
        assert named(expression), expression
        assert named(expression) <= known
        assert labelled(expression) <= LABELS
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) > 10
    places = [panel["gridPos"] for panel in board["panels"]]
    taken = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


async def test_the_recording_rules_ask_for_what_there_is() -> None:
    groups = yaml.safe_load((EXAMPLES / "recording_rules.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    known = await everything()
    for rule in rules:
        assert named(rule["expr"]) | set(re.findall(r"\basynccache:[\w:]+", rule["expr"]))
        assert named(re.sub(r"asynccache:[\w:]+", "", rule["expr"])) <= known
        assert set(re.findall(r"\basynccache:[\w:]+", rule["expr"])) <= recorded
        assert labelled(rule["expr"]) <= LABELS
    assert any("alert" in rule for rule in rules)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"asynccache\[metrics\]"):
        PrometheusObserver()


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="max_models"):
        PrometheusObserver(max_models=-1)
