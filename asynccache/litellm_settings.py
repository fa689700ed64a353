"""What a configuration file of LiteLLM's proxy says of caching, as a `caching` table of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FOREIGN = {
    "max_messages": "calls are cached however many messages they have",
    "semantic_cache_scope": "entries are never shared across tenants",
    "gcp_service_account": "",
    "gcp_ssl_ca_certs": "",
    "enable_redis_auth_cache": "",
    "default_in_memory_ttl": "",
    "default_in_redis_ttl": "",
    "default_redis_ttl": "",
}
"""What `cache_params` may have and `Cache` has not, and why not."""

LIFETIMES = ("default_in_redis_ttl", "default_redis_ttl", "default_in_memory_ttl")
"""Of these, what becomes our `ttl`."""

READ = ("cache", "cache_params", "caching_groups", *LIFETIMES)
"""What of `litellm_settings` is about caching."""

_PLACES = frozenset(
    {"host", "url", "redis_url", "startup_nodes", "redis_startup_nodes", "sentinel_nodes", "unix_socket_path"}
)
_SAID = {True: True, "true": True, "True": True, False: False, "false": False, "False": False}


def table_in(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The table of this name; an empty one when there is none."""
    found = table.get(name)
    return found if isinstance(found, Mapping) else {}


def wanted(file: Mapping[str, Any]) -> bool | None:
    """Whether `litellm_settings` want a cache; None when they do not say it."""
    said = table_in(file, "litellm_settings").get("cache")
    return _SAID.get(said) if isinstance(said, bool | str) else None


def translated(file: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The file with a `caching` table, when it has none and LiteLLM's tables want a cache; with `cache_responses` false
    when they want none. What `cache_params` do not say of Redis, `REDIS_HOST` and its like do."""
    made = dict(file)
    litellm = table_in(file, "litellm_settings")
    want = wanted(file)
    if "caching" not in file and want is not None:
        made.setdefault("cache_responses", want)
        if want:
            made["caching"] = _caching(litellm, environment)
    groups = litellm.get("caching_groups") or table_in(file, "router_settings").get("caching_groups")
    if groups and isinstance(made.get("caching", {}), Mapping):
        made["caching"] = {"caching_groups": groups, **made.get("caching", {})}
    return made


def _caching(litellm: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    params = table_in(litellm, "cache_params")
    lifetimes = {**litellm, **params}
    options = {str(name): value for name, value in params.items() if name not in FOREIGN}
    kind = str(options.setdefault("type", "redis")).replace("-", "_")
    for name in LIFETIMES[:2] if kind.startswith("redis") else LIFETIMES[2:]:
        if lifetimes.get(name) is not None:
            options.setdefault("ttl", lifetimes[name])
    if kind.startswith("redis") and _PLACES.isdisjoint(options):
        known = {"url": environment.get("REDIS_URL")} if environment.get("REDIS_URL") else _redis_at(environment)
        options = {**known, **options}
    return options


def _redis_at(environment: Mapping[str, str]) -> dict[str, str]:
    names = ("host", "port", "username", "password")
    return {name: value for name in names if (value := environment.get(f"REDIS_{name.upper()}"))}
