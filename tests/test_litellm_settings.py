"""`Cache.from_config` of a file in the shape of LiteLLM's proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asynccache import Cache
from asynccache.errors import ConfigError
from asynccache.guard import Guard

FILE = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/A_KEY_THAT_IS_NOT_SET
litellm_settings:
  cache: true
  cache_params:
    type: redis
    host: os.environ/THE_REDIS
    port: 6380
    default_in_redis_ttl: 600
    max_messages: 4
    supported_call_types: [acompletion, aembedding]
  callbacks: [prometheus]
  success_callback: [os.environ/ANOTHER_THAT_IS_NOT_SET]
general_settings:
  master_key: os.environ/A_KEY_THAT_IS_NOT_SET
environment_variables:
  THE_REDIS: redis.internal
"""


def where(cache: Cache) -> str:
    """What the store says of itself."""
    backend = cache.backend
    return repr(backend.inner if isinstance(backend, Guard) else backend)


def test_a_file_of_litellms_proxy(tmp_path: Path) -> None:
    """What is the proxy's alone is not even read: its variables need not be there."""
    (tmp_path / "config.yaml").write_text(FILE)
    cache = Cache.from_config(tmp_path / "config.yaml")
    assert "redis.internal" in where(cache)
    assert "6380" in where(cache)
    assert cache.ttl == 600


def test_its_redis_is_found_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "redis.elsewhere")
    monkeypatch.setenv("REDIS_PORT", "6381")
    monkeypatch.delenv("REDIS_URL", raising=False)
    said = where(Cache.from_config({"litellm_settings": {"cache": True}}))
    assert "redis.elsewhere" in said
    assert "6381" in said


@pytest.mark.parametrize(
    ("settings", "tier", "ttl"),
    [
        ({"cache": True, "cache_params": {"type": "local", "default_in_memory_ttl": 5}}, "memory", 5),
        ({"cache": "true", "cache_params": {"type": "local"}, "default_in_memory_ttl": 6}, "memory", 6),
        ({"cache": True, "cache_params": {"type": "local", "ttl": 7, "default_in_memory_ttl": 5}}, "memory", 7),
        ({"cache": True, "cache_params": {"type": "disk", "disk_cache_dir": "folder"}}, "disk", None),
        ({"drop_params": True}, "memory", None),
    ],
)
def test_its_types_and_lifetimes(settings: dict[str, Any], tier: str, ttl: float | None) -> None:
    cache = Cache.from_config({"litellm_settings": settings})
    assert (cache.tier, cache.ttl) == (tier, ttl)


async def test_its_groups_of_models() -> None:
    groups = [["gpt-4o", "gpt-4o-mini"]]
    memory = {"cache": True, "cache_params": {"type": "local"}}
    for config in (
        {"litellm_settings": {**memory, "caching_groups": groups}},
        {"litellm_settings": memory, "router_settings": {"caching_groups": groups}},
    ):
        async with Cache.from_config(config) as cache:
            keys = {cache.get_cache_key(model=model, messages=[]) for model in ("gpt-4o", "gpt-4o-mini", "other")}
        assert len(keys) == 2


def test_our_table_counts_more() -> None:
    config = {"caching": {"ttl": 1}, "litellm_settings": {"cache": True, "cache_params": {"type": "redis"}}}
    cache = Cache.from_config(config)
    assert (cache.tier, cache.ttl) == ("memory", 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"litellm_settings": {"cache": False}}, "there is no cache to build"),
        ({"litellm_settings": {"cache": True, "cache_params": {"hst": "h"}}}, "did you mean 'host'"),
        ({"ttl": 5, "litellm_settings": {"cache": True}}, "'ttl' stands beside litellm_settings"),
    ],
)
def test_what_cannot_be_built_is_said(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cache.from_config(config)
