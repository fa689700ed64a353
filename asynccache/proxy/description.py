"""What a configuration means, in words: for `asynccache config check`, and the first lines of `asynccache serve`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from asynccache import config
from asynccache.proxy.rules import Rule
from asynccache.proxy.server import address, exposed
from asynccache.proxy.settings import Model, Settings

Lines = list[str]

_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_NAMES = {
    "memory": "this process's memory",
    "disk": "a folder",
    "redis": "Redis",
    "redis_cluster": "Redis Cluster",
    "redis_semantic": "Redis, found by similarity too,",
    "qdrant_semantic": "Qdrant, found by similarity too,",
    "semantic": "this process, found by similarity too,",
    "s3": "S3",
    "gcs": "Google Cloud Storage",
    "azure_blob": "Azure Blob Storage",
}


def described(settings: Settings) -> dict[str, Lines]:
    """What will happen, by subject: "address", "callers", "models", "cache", "rules", "hooks", "telemetry", "notes"."""
    return {
        "address": [_address(settings)],
        "callers": list(_callers(settings)),
        "models": list(_models(settings)),
        "cache": list(_cache(settings)),
        "rules": list(_rules(settings)),
        "hooks": list(_hooks(settings)),
        "telemetry": list(_telemetry(settings)),
        "notes": list(settings.notes),
    }


def first_lines(settings: Settings, url: str) -> Lines:
    """Three lines: where it listens, where calls go, what is kept."""
    return [
        f"asynccache listens at {url}: {_reach(settings)}",
        f"Calls go to {_destinations(settings)}",
        next(_cache(settings)),
    ]


def span(seconds: float) -> str:
    """7200 as "2 hours"."""
    for size, name in _UNITS:
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"


def place(options: Mapping[str, Any]) -> str:
    """Where a backend with these options keeps what it is given. No secret is in it."""
    kind = config.backend_type(str(options.get("type", "memory")), options)
    name = _NAMES.get(kind, kind)
    aliases = config.OPTION_ALIASES.get(kind, {})
    said = {aliases.get(option, option): value for option, value in options.items()}
    if kind == "memory":
        return f"{name} (at most {_room(said)})"
    if kind in config.TIERS:
        near, far = (_tier(said.get(tier)) for tier in config.TIERS[kind])
        return f"{near}, and behind that in {far}"
    where = _where(kind, said)
    answers = [_tier(said[store]) for store in config.STORES.get(kind, ()) if said.get(store) is not None]
    if answers:
        return f"{name}{f' at {where},' if where else ''} with the answers in {answers[0]}"
    return f"{name}{f' at {where}' if where else ''}"


# -- the server -------------------------------------------------------------------------------------


def _address(settings: Settings) -> str:
    proxy = settings.proxy
    host = address(proxy)
    text = f"It listens at http://{f'[{host}]' if ':' in host else host}:{proxy.port}: {_reach(settings)}"
    return text + (f", with {proxy.workers} processes" if proxy.workers > 1 else "")


def _reach(settings: Settings) -> str:
    proxy = settings.proxy
    if exposed(proxy):
        return f"this machine only, although proxy.host is {proxy.host}, because there are no proxy.api_keys"
    if proxy.has_keys:
        where = ", from this machine" if proxy.is_loopback else ""
        return f"for who has {'the key' if len(proxy.api_keys) == 1 else f'one of {len(proxy.api_keys)} keys'}{where}"
    if proxy.is_loopback:
        return "this machine only, without keys"
    return "ANYBODY who can reach it may call, without a key (allow_anonymous)"


def _callers(settings: Settings) -> Iterator[str]:
    proxy = settings.proxy
    for key in proxy.api_keys:
        owner = f"the tenant {key.tenant!r}, which shares entries with no other" if key.tenant else "those who share"
        yield f"The key {key.name!r} belongs to {owner}"
    if not proxy.has_keys:
        yield "Anybody who reaches it may call; a credential that a caller brings is sent on to the provider"
    if proxy.master_key is not None:
        yield "The master key manages the cache"


def _models(settings: Settings) -> Iterator[str]:
    for model in settings.model_list:
        yield f"{model.model_name!r} goes to {_destination(model)}"
    if settings.upstream is not None:
        yield f"{'All other calls go' if settings.model_list else 'All calls go'} to {_plain(settings.upstream)}"
    elif settings.model_list:
        yield "Any other model is refused (404)"
    else:
        yield "There is no model_list and no upstream: every call is refused (404)"


def _destinations(settings: Settings) -> str:
    models = len({model.model_name for model in settings.model_list})
    named = f"the providers of {_count(models, 'model')}" if models else ""
    rest = _plain(settings.upstream) if settings.upstream else ""
    return " and ".join(part for part in (named, rest) if part) or "nobody: there is no model_list and no upstream"


def _destination(model: Model) -> str:
    params = model.litellm_params
    where = f" at {_plain(params.base)}" if params.base else ""
    return f"{params.model}{where}" + (", with a key of the file" if params.api_key is not None else "")


def _plain(url: str) -> str:
    """The URL without what may be secret in it."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}"


# -- the cache --------------------------------------------------------------------------------------


def _cache(settings: Settings) -> Iterator[str]:
    if not settings.cache_responses:
        yield "Nothing is cached: cache_responses is false"
        return
    options = config.plain(settings.caching)
    yield f"Answers are kept in {place(options)}, {_lifetime(options.get('ttl'))}"
    if "similarity_threshold" in options:
        yield f"A question as similar as {options['similarity_threshold']} to one that was answered may get its answer"
    if settings.proxy.workers > 1 and _in_memory(options):
        yield f"Each of the {settings.proxy.workers} processes has a memory of its own"
    if str(options.get("mode")) == "default_off":
        yield "Only calls that ask for it (use-cache) are cached"
    if "supported_call_types" in options:
        kinds = options["supported_call_types"]
        yield (
            f"Only these kinds of calls are cached: {', '.join(map(str, kinds or ()))}"
            if kinds
            else "No call is cached"
        )
    for name in ("stale_while_revalidate", "stale_if_error"):
        if isinstance(value := options.get(name), int | float) and value:
            yield f"After that an answer may be served for {span(value)} more: {name}"
    if "namespace" in options:
        yield f"The namespace is {options['namespace']!r}"
    if "key_builder" in options:
        yield f"What counts in a key says {options['key_builder']}"
    yield "Errors, empty, truncated and filtered answers, and streams that were broken off, are never kept"


def _lifetime(ttl: Any) -> str:
    try:
        return f"for {span(float(ttl))}" if ttl is not None else "without an end, as long as there is room"
    except (TypeError, ValueError):
        return f"for {ttl}"


def _in_memory(options: Mapping[str, Any]) -> bool:
    kind = config.backend_type(str(options.get("type", "memory")), options)
    return kind in ("memory", "semantic")


def _tier(given: Any) -> str:
    return place(given if isinstance(given, Mapping) else {"type": str(given)})


def _room(options: Mapping[str, Any]) -> str:
    entries = options.get("capacity")
    size = options.get("max_bytes", 256 * 2**20)
    return " and ".join(
        part
        for part in (f"{entries} entries" if entries else "", _bytes(size) if isinstance(size, int) else str(size))
        if part
    )


def _bytes(count: int) -> str:
    return f"{round(count / 2**20, 1):g} MiB" if count >= 2**20 else f"{count} bytes"


def _where(kind: str, options: Mapping[str, Any]) -> str:
    if isinstance(url := options.get("url") or options.get("qdrant_api_base"), str):
        return _plain(url)
    for name in ("startup_nodes", "sentinel_nodes"):
        if name in options:
            return f"{_count(len(options[name]), 'node')}"
    for name in ("unix_socket_path", "path", "bucket", "account_url"):
        if name in options:
            return str(options[name])
    if kind.startswith("redis"):
        return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return ""


# -- the rest ---------------------------------------------------------------------------------------


def _rules(settings: Settings) -> Iterator[str]:
    by_meaning = _by_meaning(config.plain(settings.caching))
    for number, rule in enumerate(settings.rules, 1):
        yield f"Rule {number}, {_matching(rule)}: {_treated(rule, by_meaning=by_meaning)}"


def _matching(rule: Rule) -> str:
    named = {"model": "model", "path": "path", "tenant": "tenant", "call_type": "kind"}
    said = [
        f"{word} {' or '.join(patterns)}"
        for field, word in named.items()
        if "*" not in (patterns := getattr(rule.match, field))
    ]
    return ", ".join(said) or "all calls"


def _by_meaning(options: Mapping[str, Any]) -> bool:
    """Whether questions are compared by what they mean, at any tier."""
    kind = config.backend_type(str(options.get("type", "memory")), options)
    tiers = [given for tier in config.TIERS.get(kind, ()) if isinstance(given := options.get(tier), Mapping)]
    return kind.endswith("semantic") or any(_by_meaning(tier) for tier in tiers)


def _treated(rule: Rule, *, by_meaning: bool) -> str:
    said = []
    if rule.mode == "off":
        return "not cached"
    if rule.mode is not None:
        said.append("cached" if rule.mode == "default_on" else "cached only if the caller asks for it")
    if rule.ttl is not None:
        said.append(f"kept for {span(rule.ttl)}")
    if rule.semantic is not None and not by_meaning:
        said.append("`semantic` changes nothing: this cache finds no answer by similarity")
    elif rule.semantic is not None:
        said.append("similar questions share answers" if rule.semantic else "only the same question gets an answer")
    if rule.store is not None:
        said.append("new answers are stored" if rule.store else "nothing new is stored")
    return ", ".join(said) or "as all others"


def _hooks(settings: Settings) -> Iterator[str]:
    for hook in settings.hooks:
        names = [name for name in (hook.async_pre_llm_hook, hook.async_post_cache_hook) if name]
        yield f"{hook.path}: {' and '.join(names)}"
    if settings.cache_control_injection_points:
        points = settings.cache_control_injection_points
        where = "where it pays" if isinstance(points, str) else f"at {_count(len(points), 'point')}"
        yield f"The provider's own cache is used {where}"


def _telemetry(settings: Settings) -> Iterator[str]:
    if settings.telemetry.prometheus:
        yield f"GET /metrics tells {_readers(settings)} what Prometheus counts"
    if settings.telemetry.opentelemetry:
        yield "Traces and metrics go to OpenTelemetry, if it is started by opentelemetry-instrument"
    if settings.telemetry.log == "off":
        yield "No line is logged for a request"
    else:
        yield f"One line for each request goes to stderr, as {settings.telemetry.log}"
    if settings.telemetry.ledger is not None:
        yield f"Each call is written to {settings.telemetry.ledger}"


def _readers(settings: Settings) -> str:
    proxy = settings.proxy
    if not settings.telemetry.metrics_need_key or not (proxy.has_keys or proxy.master_key):
        return "whoever asks"
    return "who has the master key" if proxy.master_key else "nobody (there is no master key, and metrics_need_key)"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
