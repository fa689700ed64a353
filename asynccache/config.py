"""Names and options → objects; the only place that knows all names."""

from __future__ import annotations

import functools
import importlib
import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from random import random as _random
from typing import Any

import orjson

from asynccache import backends, key_builders
from asynccache.call_types import ALIASES as CALL_TYPE_ALIASES
from asynccache.call_types import CALL_TYPES
from asynccache.codec import Codec
from asynccache.directives import lifetime, seconds
from asynccache.epochs import Epochs
from asynccache.errors import ConfigError
from asynccache.freshness import Freshness, Random
from asynccache.guard import Guard
from asynccache.key_builders import KeyBuilding
from asynccache.leases import Leadership
from asynccache.pace import Pace
from asynccache.pipeline import Writes
from asynccache.protocols import AsyncCacheBackend, Clock, PostHook, PreHook, Remote, Stage
from asynccache.stages.build_key import BuildCustomKey, BuildKey
from asynccache.stages.coalesce import Coalesce, OnAbandon
from asynccache.stages.elements import Elements, ElementStats
from asynccache.stages.hooks import Hooks, OnError
from asynccache.stages.lookup import HedgedLookup, Lookup
from asynccache.stages.negative import Negative
from asynccache.stages.store import Store
from asynccache.stats import Stats

ErrorTypes = Iterable[type[Exception] | str]

BACKEND_ALIASES = {"local": "memory", "in_memory": "memory", "dual_cache": "dual", "azure": "azure_blob"}
"""Other names of backend types; dashes count as underscores."""

_REDIS = {"redis_url": "url", "max_connections": "connections", "redis_flush_size": "max_batch"}
OPTION_ALIASES = {
    "disk": {"disk_cache_dir": "path"},
    "redis": _REDIS,
    "redis_cluster": {**_REDIS, "redis_startup_nodes": "startup_nodes"},
    "s3": {
        "s3_bucket_name": "bucket",
        "s3_region_name": "region",
        "s3_endpoint_url": "endpoint_url",
        "s3_aws_access_key_id": "access_key_id",
        "s3_aws_secret_access_key": "secret_access_key",
        "s3_aws_session_token": "session_token",
        "s3_path": "path",
        "s3_use_ssl": "use_ssl",
        "s3_verify": "verify",
        "s3_api_version": "api_version",
        "s3_config": "config",
    },
    "gcs": {"gcs_bucket_name": "bucket", "gcs_path_service_account": "service_account_file", "gcs_path": "path"},
    "azure_blob": {"azure_account_url": "account_url", "azure_blob_container": "container"},
}
"""By backend type: the names that users of LiteLLM know → ours."""

TIERS = {"dual": ("l1", "l2")}
"""By backend type: the options that are backends themselves, given as such, as a type, or as a table of options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How calls are treated on their way. Every field is an option of `Cache`.

    key_builder:   what stands in the key for the arguments: a function `(model, messages, **kwargs)`, plain or async,
                   that returns a text; `ignore`, `normalized`, `per_tenant` of `asynccache.key_builders`; or a list
                   of these. In a file: "package.module:function", a name, or {name: arguments}.
    caching_groups: lists of models that share entries; see `CachingGroups`.
    pre_hooks, post_hooks: async callables; see `PreHook` and `PostHook`.
    on_hook_error: "raise": a hook's exception reaches the caller; "skip": it is counted, the call goes on.
    stale_while_revalidate, stale_if_error, early_refresh, jitter: see `Freshness`; 0 is off. The first two
                   prolong a ttl, and serve what a soft purge has ended, with a ttl or without.
    max_refreshes: how many refreshes behind answers may be under way at the same time.
    negative_ttl, negative_errors: for so many seconds after a call raised one of these exception types (or
                   "package.module:Class"), the same call raises it again without calling.
    hedge_after:   seconds a look-up may take before the upstream is called as well; None: as long as it takes.
    on_abandon:    what becomes of an upstream call when its last caller has left: "cancel", or "finish" to
                   fill the cache.
    max_entry_bytes: a larger answer is passed on and not stored.
    pace:          how fast a recorded stream comes again: "instant", "original", or tokens per second.
    write_behind:  how many entries may wait to be written behind the callers' backs; beyond that the oldest
                   is dropped. 0: a miss waits for its write.
    lease_wait:    seconds to wait for the same call of another process, where the backend can lead to that (see
                   `SupportsLease`); 0: each process calls for itself.
    epoch_max_age: seconds for which an invalidation by another process may go unnoticed; and for which entries
                   can be served from a near tier when the far one, which knows of invalidations, is away.
    random:        returns a number from 0 up to 1.

    Raises ConfigError for a wrong value.
    """

    key_builder: KeyBuilding = None
    caching_groups: Sequence[Sequence[str]] = ()
    pre_hooks: Sequence[PreHook] = ()
    post_hooks: Sequence[PostHook] = ()
    on_hook_error: OnError = "raise"
    stale_while_revalidate: float | timedelta = 0
    stale_if_error: float | timedelta = 0
    early_refresh: float = 0
    jitter: float = 0
    max_refreshes: int = 64
    negative_ttl: float | timedelta = 0
    negative_errors: ErrorTypes = ()
    hedge_after: float | timedelta | None = None
    on_abandon: OnAbandon = "cancel"
    max_entry_bytes: int = 16 * 2**20
    pace: Pace = "instant"
    write_behind: int = 0
    lease_wait: float | timedelta = 60
    epoch_max_age: float | timedelta = 1
    random: Random = _random

    def __post_init__(self) -> None:
        for name in ("max_refreshes", "max_entry_bytes", "write_behind"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"{name}={value!r}: an int that is not negative is wanted")
        if bool(seconds(self.negative_ttl, "negative_ttl")) != bool(error_types(self.negative_errors)):
            raise ConfigError("negative caching wants both: negative_ttl and negative_errors")

    @property
    def freshness(self) -> Freshness:
        return Freshness(
            seconds(self.stale_while_revalidate, "stale_while_revalidate"),
            seconds(self.stale_if_error, "stale_if_error"),
            self.early_refresh,
            self.jitter,
        )


POLICY = tuple(field.name for field in fields(Policy))
"""The options of `Cache` that are not its backend's."""


def default_stages(
    backend: AsyncCacheBackend,
    policy: Policy,
    *,
    tier: str,
    epochs: Epochs,
    leadership: Leadership | None,
    writes: Writes,
    stats: Stats,
    clock: Clock,
) -> list[Stage]:
    """The stages around the upstream call, outermost first. Their order is spelled here only."""
    hooks = Hooks(policy.pre_hooks, policy.post_hooks, stats=stats, on_error=policy.on_hook_error)
    shared: dict[str, Any] = {"epochs": epochs, "stats": stats, "clock": clock}
    shared |= {"freshness": policy.freshness, "random": policy.random}
    reading = {"tier": tier, "max_refreshes": policy.max_refreshes, "pace": policy.pace, **shared}
    wait = lifetime(policy.hedge_after, "hedge_after")
    look_up = Lookup if wait is None else functools.partial(HedgedLookup, hedge_after=wait)
    lookup, quiet = look_up(backend, **reading), look_up(backend, **{**reading, "stats": ElementStats(stats)})
    flights: dict[str, Any] = {"on_abandon": policy.on_abandon, "max_bytes": policy.max_entry_bytes}
    store = Store(backend, writes=writes, finish=hooks.finish, max_entry_bytes=policy.max_entry_bytes, **shared)
    negative_ttl, negative_errors = seconds(policy.negative_ttl, "negative_ttl"), error_types(policy.negative_errors)
    build = key_builders.resolve(policy.key_builder, policy.caching_groups)
    build_key = BuildKey() if build is None else BuildCustomKey(build)
    return [
        *([hooks] if policy.pre_hooks or policy.post_hooks else []),
        build_key,
        Elements(lookup, [build_key, quiet], stats=stats, at_once=tier != "memory"),
        *([Negative(negative_ttl, negative_errors, stats=stats, clock=clock)] if negative_ttl else []),
        Coalesce(lookup.find, store.outdated, leadership=leadership, **flights),
        store,
    ]


def backend_type(name: str, options: Iterable[str] = ()) -> str:
    """The one name of a backend type that may be written in several ways, or follow from its options."""
    plain = name.replace("-", "_")
    kind = name if ":" in name else BACKEND_ALIASES.get(plain, plain)
    if kind == "redis" and not {"startup_nodes", "redis_startup_nodes"}.isdisjoint(options):
        return "redis_cluster"
    return kind


def build_backend(name: str, options: Mapping[str, Any]) -> AsyncCacheBackend:
    """The backend of this type; `options` are its constructor's arguments, those of the `Codec` that it
    writes with, and those of the `Guard` around it, when it is a remote one.

    Raises ConfigError for a type or an option that does not exist, naming the nearest that does.
    """
    kind = backend_type(name, options)
    factory = _factory(kind)
    aliases = OPTION_ALIASES.get(kind, {})
    renamed = {aliases.get(option, option): value for option, value in options.items()}
    known = [*parameters(factory), *_of_codec(factory), *_of_guard(factory)]
    check_names(renamed, known, f"option of the {kind} backend", [*POLICY, *known])
    guard = {option: renamed.pop(option) for option in _of_guard(factory) if option in renamed}
    codec = {option: renamed.pop(option) for option in _of_codec(factory) if option in renamed}
    if codec:
        if "codec" in renamed:
            raise ConfigError(f"{kind} backend: give a codec, or its options ({', '.join(codec)}), not both")
        renamed["codec"] = Codec(**codec)
    for needed in parameters(factory, required=True):
        if needed not in renamed:
            raise ConfigError(f"{kind} backend: the option {needed!r} is missing")
    for tier in TIERS.get(kind, ()):
        if tier in renamed:
            renamed[tier] = _tier(f"{kind} backend: {tier}", renamed[tier])
    try:
        backend = factory(**renamed)
    except TypeError as error:  # an argument has the wrong type
        raise ConfigError(f"{kind} backend: {error}") from error
    return Guard(backend, **guard) if isinstance(backend, Remote) else backend


def backend_options(name: str, options: Iterable[str] = ()) -> list[str]:
    """The options that a backend of this type takes, other names for them included."""
    kind = backend_type(name, options)
    factory = _factory(kind)
    return [*parameters(factory), *OPTION_ALIASES.get(kind, {}), *_of_codec(factory), *_of_guard(factory)]


def _factory(kind: str) -> Callable[..., AsyncCacheBackend]:
    try:
        return backends.load(kind)
    except ConfigError as error:
        raise ConfigError(f"{error}{_did_you_mean(kind, backends.names())}") from error.__cause__


def _of_codec(factory: Callable[..., Any]) -> list[str]:
    return parameters(Codec) if "codec" in parameters(factory) else []


def _of_guard(factory: Callable[..., Any]) -> list[str]:
    own = {"backend", "clock", *parameters(factory)}
    return [name for name in parameters(Guard) if name not in own] if getattr(factory, "remote", False) else []


def _tier(what: str, given: Any) -> Any:
    """A backend from a table of options with a `type`, or from the type alone; a backend as it is."""
    if isinstance(given, str):
        return build_backend(given, {})
    if not isinstance(given, Mapping):
        return given
    if not isinstance(given.get("type"), str):
        raise ConfigError(f"{what}: a table with a type is wanted, such as {{'type': 'memory'}}")
    return build_backend(given["type"], {name: value for name, value in given.items() if name != "type"})


def call_type_names(names: Iterable[str]) -> frozenset[str]:
    """Our names of call types, from ours or LiteLLM's. Raises ConfigError for an unknown one."""
    names = list(names)
    check_names(names, [*CALL_TYPES, *CALL_TYPE_ALIASES], "call type")
    return frozenset(CALL_TYPE_ALIASES.get(name, name) for name in names)


def error_types(errors: ErrorTypes) -> tuple[type[Exception], ...]:
    """Exception types, each given as such or as "package.module:Class". Raises ConfigError."""
    if isinstance(errors, str) or not isinstance(errors, Iterable):
        raise ConfigError(f"negative_errors={errors!r}: a list of exception types is wanted")
    return tuple(_error_type(error) for error in errors)


def _error_type(error: Any) -> type[Exception]:
    found = error
    if isinstance(error, str):
        module, _, name = error.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as failure:
            raise ConfigError(f"negative_errors: {error!r} is no 'package.module:Class': {failure}") from failure
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    raise ConfigError(f"negative_errors: {error!r} is no exception type")


def read(source: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Cache` from a mapping or a file (.json, .toml, .yaml): at its top level, or
    under `caching`. Raises ConfigError."""
    table = source if isinstance(source, Mapping) else _load(Path(source))
    if not table.get("cache_responses", True):
        raise ConfigError("cache_responses is false: there is no cache to build")
    caching = table.get("caching", {k: v for k, v in table.items() if k != "cache_responses"})
    if not isinstance(caching, Mapping):
        raise ConfigError(f"caching: a table of options is wanted, not {caching!r}")
    return {str(name): value for name, value in caching.items()}


def parameters(factory: Callable[..., Any], *, required: bool = False) -> list[str]:
    """The names a callable takes as keywords; or those alone that it must be given."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = [p for p in inspect.signature(factory).parameters.values() if p.kind not in variable]
    return [p.name for p in named if not required or p.default is p.empty]


def check_names(given: Iterable[str], known: Sequence[str], what: str, near: Sequence[str] = ()) -> None:
    """Raise ConfigError for the first name that is not known, with the nearest that is; `near` are those it
    may have been meant for, when they are more."""
    for name in given:
        if name not in known:
            hint = _did_you_mean(name, near or known) or f": known are {', '.join(known)}"
            raise ConfigError(f"unknown {what} {name!r}{hint}")


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(str(name), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _load(path: Path) -> Mapping[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    try:
        table = _parse(path, data)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: a table of options is wanted at the top level")
    return table


def _parse(path: Path, data: bytes) -> Any:
    if path.suffix == ".json":
        return orjson.loads(data)
    if path.suffix == ".toml":
        return tomllib.loads(data.decode())
    if path.suffix in (".yaml", ".yml"):
        try:
            import yaml
        except ImportError as error:
            raise ConfigError("reading YAML needs the extra asynccache[config]") from error
        try:
            return yaml.safe_load(data)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    raise ConfigError(f"{path}: a .yaml, .toml or .json file is wanted")
