"""What the proxy tells of itself: /metrics, a line a request, OpenTelemetry."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from asynccache.errors import ConfigError
from asynccache.proxy import observers
from asynccache.proxy.description import described
from asynccache.proxy.observers import one_of, watched_cache
from asynccache.proxy.settings import Settings
from asynccache.telemetry.opentelemetry import OpenTelemetryObserver
from asynccache.testing.provider import SimulatedProvider
from tests.proxy.processes import PATIENCE, serve
from tests.proxy.proxies import proxied

SECRET = "the secret of a prompt"
KEY, MASTER = "ak-of-a-caller", "ak-of-the-master"
CALLER, MANAGER = ({"authorization": f"Bearer {key}"} for key in (KEY, MASTER))


def value(text: str, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_they_are_those_of_this_cache(provider: SimulatedProvider) -> None:
    async with proxied({"upstream": provider.origin, "telemetry": {"prometheus": True}}) as served:
        for _ in range(3):
            await served.chat()
        response = await served.client.get("/metrics", headers={"host": "proxy.internal:4000"})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert value(response.text, "asynccache_cache_hits_total") == 2
    assert value(response.text, "asynccache_cache_entries") >= 1
    assert "litellm_cache" not in response.text
    assert not provider.calls["/metrics"]


async def test_they_need_the_master_key_where_there_are_keys(provider: SimulatedProvider) -> None:
    """Unless the file opens them; no tenant and no key is in them."""
    keys: dict[str, Any] = {"api_keys": [{"key": KEY, "tenant": "a-tenant-of-ours"}], "master_key": MASTER}
    for need in (True, False):
        telemetry = {"prometheus": True, "metrics_need_key": need}
        config = {"upstream": provider.origin, "telemetry": telemetry, "proxy": keys}
        async with proxied(config) as served:
            await served.chat(CALLER)
            answers = [await served.client.get("/metrics", headers=each) for each in ({}, CALLER, MANAGER)]
            assert [answer.status_code for answer in answers] == ([401, 403, 200] if need else [200, 200, 200])
            (words,) = [line for line in described(served.app.settings)["telemetry"] if "/metrics" in line]
            assert ("who has the master key" if need else "whoever asks") in words
        assert "a-tenant-of-ours" not in answers[2].text
        assert KEY not in answers[2].text


async def test_without_them_the_path_is_still_ours(provider: SimulatedProvider) -> None:
    async with proxied({"upstream": provider.origin}) as served:
        assert (await served.client.get("/metrics")).status_code == 404
    assert not provider.calls


def test_litellms_words_for_them() -> None:
    litellm = {"enable_prometheus": True, "require_auth_for_metrics_endpoint": False}
    telemetry = Settings.load({"litellm_settings": litellm}, environment={}).telemetry
    assert (telemetry.prometheus, telemetry.litellm_names, telemetry.metrics_need_key) == (True, True, False)
    telemetry = Settings.load({"litellm_settings": {"callbacks": ["prometheus", "otel"]}}, environment={}).telemetry
    assert (telemetry.prometheus, telemetry.opentelemetry, telemetry.metrics_need_key) == (True, True, True)


async def test_the_processes_of_a_proxy_count_together(provider: SimulatedProvider, tmp_path: Path) -> None:
    """Whichever of them is asked, also after a reload that turned metrics on."""
    config = tmp_path / "config.json"
    table: dict[str, Any] = {"upstream": provider.origin, "proxy": {"workers": 2}}
    config.write_text(json.dumps(table))
    async with serve("--config", str(config)) as served:
        config.write_text(json.dumps({**table, "telemetry": {"prometheus": True}}))
        served.signal(signal.SIGHUP)
        for _ in range(2):
            assert await served.line() == "asynccache: the configuration was reloaded"
        asked = 0
        workers: set[str] = set()
        async with asyncio.timeout(PATIENCE):
            while len(workers) < 2:  # the kernel decides who answers
                async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE) as client:
                    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
                    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
                    asked += 1
                    workers.add((await client.get("/cache/stats")).json()["proxy"]["process"])
            while True:  # those of the other process come within half a second, and nothing tells when
                text = (await served.client.get("/metrics")).text
                answered = ("hits", "misses", "coalesced")
                if sum(value(text, f"asynccache_cache_{name}_total") for name in answered) == asked:
                    break
                await asyncio.sleep(0.05)


async def test_each_call_is_one_line_in_the_log(provider: SimulatedProvider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with proxied({"upstream": provider.origin, "telemetry": {"log": "text"}}) as served:
        for _ in range(2):
            await served.chat(messages=[{"role": "user", "content": SECRET}])
    lines = [record.getMessage() for record in caplog.records if record.name == "asynccache.access"]
    assert [line.split(" reason=")[0] for line in lines] == ["CACHE MISS", "CACHE HIT"]
    assert SECRET not in caplog.text


@pytest.mark.parametrize("form", ["text", "json", "off"])
async def test_the_lines_of_a_process(provider: SimulatedProvider, form: str) -> None:
    async with serve("--upstream", provider.origin, "--log", form) as served:
        for _ in range(2):
            await served.ask(SECRET)
        served.process.terminate()
        assert served.process.stderr is not None
        lines = (await served.process.stderr.read()).decode().splitlines()
    assert not any(SECRET in line for line in lines)
    calls = [line for line in lines if "CACHE" in line]
    if form == "off":
        assert calls == []
        return
    assert len(calls) == 2
    if form == "json":
        said = [json.loads(line) for line in calls]
        assert [line["message"] for line in said] == ["CACHE MISS", "CACHE HIT"]
        assert {"time", "level", "reason", "tier", "ms", "key"} <= said[1].keys()
    else:
        assert "INFO CACHE HIT" in calls[1]


def test_opentelemetry_is_told_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody is told that it is, when no SDK is there to send it."""
    settings = Settings.load({"telemetry": {"opentelemetry": True}}, environment={})
    assert one_of(watched_cache(settings).observers, OpenTelemetryObserver) is not None
    assert observers.nobody_listens(settings)
    assert "if it is started by opentelemetry-instrument" in " ".join(described(settings)["telemetry"])

    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)
    assert not observers.nobody_listens(settings)


def test_an_extra_that_is_missing_is_said_with_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("upstream: http://127.0.0.1:1\nlitellm_settings:\n  enable_prometheus: true\n")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"config.yaml:3: .*asynccache\[metrics\]"):
        watched_cache(Settings.load(path, environment={}))
