"""The YAML files of LiteLLM's caching guide, as they are printed, do what the guide says.

Their hosts are names of somebody's network: a file loads as it is printed, and runs with the address of a Redis of
these tests in the place of its own.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from asynccache.backends.dual import DualBackend
from asynccache.document import Document
from asynccache.guard import Guard
from asynccache.model import CacheKey
from asynccache.proxy.observers import watched_cache
from asynccache.proxy.settings import Settings
from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import COMPLETIONS, Served, proxied
from tests.servers.redis import RedisServer, SearchRedisServer

FOLDER = Path(__file__).parent / "guide"
GUIDE = sorted(FOLDER.glob("*.yaml"))
BUILDERS = {
    "custom_key_hook.py": """
from asynccache.key_builders import cache_key_generator

def build_cache_key(model, messages, **kwargs):
    kwargs.pop("user", None)
    return cache_key_generator(model=model, messages=messages, **kwargs)
""",
    "tenant_cache_hook.py": """
from asynccache.key_builders import cache_key_generator

told = set()

def tenant_key_builder(api_key, **kwargs):
    told.add(api_key)
    default_key = cache_key_generator(**kwargs)
    return f"tenant:{api_key}:{default_key}"
""",
}
"""The files that the guide puts beside them, with our function in the place of LiteLLM's."""


@pytest.fixture(autouse=True)
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the configuration."""
    for name, text in BUILDERS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("sys.path", [*sys.path])  # the folder is put there
    return tmp_path


def moved(folder: Path, name: str, *, to: Any = None, **more: Any) -> Path:
    """The file of the guide in a folder of its own, with this server in the place of each that it names."""
    table = Document.read(FOLDER / f"{name}.yaml").table
    caching = table.get("caching", {})
    for tier in (caching, caching.get("l2", {})):
        if str(tier.get("type")).startswith("redis"):
            # And patience, so that a busy machine is not taken for a Redis that hangs.
            tier.update(host=to.host, port=to.port, read_timeout=20.0, write_timeout=20.0)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**table, **more}))
    return path


async def outcome(served: Served, headers: Mapping[str, str] | None = None, /, **fields: Any) -> str:
    response = await served.chat(headers, **fields)
    assert response.status_code == 200, response.text
    return response.headers["x-asynccache-outcome"]


@pytest.mark.parametrize("file", GUIDE, ids=lambda file: file.stem)
async def test_as_printed_it_loads_and_builds(file: Path, beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    shutil.copy(file, beside / "config.yaml")
    settings = Settings.load(beside / "config.yaml", environment={})
    async with watched_cache(settings) as cache:
        assert cache.backend is not None


def test_these_are_the_files_that_the_guide_prints() -> None:
    """Each has a test below."""
    assert [file.stem for file in GUIDE] == [
        "dual_cache",
        "key_builder",
        "prometheus",
        "provider_caching",
        "redis",
        "redis_semantic",
        "tenant_key_builder",
    ]


def test_its_proxy_listens_where_it_says_as_soon_as_there_are_keys() -> None:
    """Without keys it is a loopback address: see test_serve."""
    proxy = Settings.load(FOLDER / "redis.yaml", environment={}).proxy
    assert (proxy.host, proxy.port) == ("0.0.0.0", 4000)


async def test_redis(beside: Path, provider: SimulatedProvider, redis_server: RedisServer) -> None:
    """An answer is in Redis for two hours, under the prefix; another proxy with another prefix has none."""
    config = moved(beside, "redis", to=redis_server, upstream=provider.origin)
    async with proxied(config) as served:
        assert [await outcome(served, seed=1) for _ in range(2)] == ["miss", "hit"]
        key = (await served.chat(seed=1)).headers["x-asynccache-key"]
        found = [name for name in redis_server.ask("KEYS", "litellm:v1:*") if key in name]
        assert len(found) == 1
        assert 7100 < redis_server.ask("TTL", found[0]) <= 7200
    config.write_text(config.read_text().replace("litellm:v1:", "litellm:v2:"))
    async with proxied(config) as served:
        assert await outcome(served, seed=1) == "miss"
    assert provider.calls[COMPLETIONS] == 2


async def test_dual_cache(beside: Path, provider: SimulatedProvider, redis_server: RedisServer) -> None:
    """A second proxy finds in Redis what the first has bought, and then in its memory."""
    config = moved(beside, "dual_cache", to=redis_server, upstream=provider.origin)
    async with proxied(config) as served:
        assert await outcome(served, seed=2) == "miss"
        key = (await served.chat(seed=2)).headers["x-asynccache-key"]
    (name,) = [name for name in redis_server.ask("KEYS", "*") if key in name]
    assert 3500 < redis_server.ask("TTL", name) <= 3600
    async with proxied(config) as served:
        dual = served.app.cache.backend
        dual = dual.inner if isinstance(dual, Guard) else dual
        assert isinstance(dual, DualBackend)
        assert await outcome(served, seed=2) == "hit"
        async with asyncio.timeout(20):
            # The near tier is emptied when news of the far one begin to come; after that it keeps what it is given.
            while await dual.l1.get(CacheKey(key)) is None:
                assert await outcome(served, seed=2) == "hit"
    assert provider.calls[COMPLETIONS] == 1


async def test_key_builder(beside: Path, provider: SimulatedProvider, redis_server: RedisServer) -> None:
    """From the file beside it: users share entries, other arguments count."""
    config = moved(beside, "key_builder", to=redis_server, upstream=provider.origin)
    async with proxied(config) as served:
        assert await outcome(served, seed=3, user="ann") == "miss"
        assert await outcome(served, seed=3, user="bob") == "hit"
        assert await outcome(served, seed=3, user="bob", temperature=0.5) == "miss"
    assert provider.requests[0]["user"] == "ann"


async def test_tenant_key_builder(beside: Path, provider: SimulatedProvider, redis_server: RedisServer) -> None:
    """It is told the key that was shown, and no other; the provider is told none of it."""
    config = moved(beside, "tenant_key_builder", to=redis_server, upstream=provider.origin)
    for keys in ({}, {"proxy": {"api_keys": [{"key": f"key-{name}", "shared": True} for name in "ab"]}}):
        table = {**yaml.safe_load(config.read_text()), **keys}
        config.write_text(yaml.safe_dump(table))
        seed = 40 + len(keys)
        async with proxied(config) as served:
            one, other = ({"authorization": f"Bearer key-{name}"} for name in "ab")
            assert [await outcome(served, one, seed=seed) for _ in range(2)] == ["miss", "hit"]
            assert await outcome(served, other, seed=seed) == "miss"
            assert await outcome(served, other, seed=seed, api_key="made up") == "miss"
        assert sys.modules["tenant_cache_hook"].told == {"key-a", "key-b"}
    assert provider.calls[COMPLETIONS] == 6
    assert not any("api_key" in request for request in provider.requests)


@pytest.mark.parametrize("semantic", [None, False])
async def test_redis_semantic(
    beside: Path,
    provider: SimulatedProvider,
    redis_search: SearchRedisServer,
    monkeypatch: pytest.MonkeyPatch,
    semantic: bool | None,
) -> None:
    """A question that means the same gets the answer; unless a rule says that this route is to be exact."""
    monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    rules = [] if semantic is None else [{"match": {"model": "gpt-*"}, "semantic": semantic}]
    names = {"namespace": f"guide-{semantic}"}
    config = moved(beside, "redis_semantic", to=redis_search, upstream=provider.origin, rules=rules)
    table = yaml.safe_load(config.read_text())
    table["caching"] |= {**names, "embedding_deadline": 10.0}
    config.write_text(yaml.safe_dump(table))
    questions = ("How do I reset my password?", "How do I reset my password", "How do I bake a cake?")
    asked = [[{"role": "user", "content": text}] for text in (*questions, questions[0])]
    async with proxied(config) as served:
        found = [await outcome(served, messages=messages) for messages in asked]
    if semantic is None:
        assert found == ["miss", "semantic", "miss", "hit"]
        assert provider.calls["/v1/embeddings"] > 0
    else:
        assert found == ["miss", "miss", "miss", "hit"]
        assert provider.calls["/v1/embeddings"] == 0


async def test_provider_caching(beside: Path, provider: SimulatedProvider) -> None:
    """The bundled hook is called, and marks the system prompt; what the answer is kept under is the same."""
    config = moved(beside, "provider_caching")
    table = yaml.safe_load(config.read_text())
    table["model_list"][0]["litellm_params"] |= {"api_base": provider.origin, "api_key": "k"}
    config.write_text(yaml.safe_dump(table))
    messages = [{"role": "user", "content": "Good morning"}]
    asked = {"model": "claude-3.5-cached", "max_tokens": 2000, "messages": messages, "system": "Translate. " * 2000}
    async with proxied(config) as served:
        for expected in ("miss", "hit"):
            response = await served.client.post("/v1/messages", json=asked)
            assert response.status_code == 200, response.text
            assert response.headers["x-asynccache-outcome"] == expected
    (sent,) = provider.requests
    assert sent["system"][-1]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in json.dumps(sent["messages"])


async def test_prometheus(beside: Path, provider: SimulatedProvider) -> None:
    """By the names that the guide gives, too."""
    config = moved(beside, "prometheus", upstream=provider.origin)
    async with proxied(config) as served:
        for _ in range(4):
            await outcome(served)
        text = (await served.client.get("/metrics")).text
    for line in (
        "litellm_cache_hit_ratio 0.75",
        'litellm_cache_hits_total{call_type="chat",model="gpt-4o",tier="memory"} 3.0',
        'litellm_cache_misses_total{call_type="chat",model="gpt-4o"} 1.0',
        'litellm_cache_latency_seconds_count{outcome="hit",tier="memory"} 3.0',
        "asynccache_cache_hit_ratio 0.75",
    ):
        assert line in text.splitlines(), line
