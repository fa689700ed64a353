"""Names and options → objects; the only place that knows all names."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from random import random as _random
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from asynccache import backends, hook_files, key_builders, litellm_settings
from asynccache.call_types import ALIASES as CALL_TYPE_ALIASES
from asynccache.call_types import CALL_TYPES
from asynccache.codec import Codec
from asynccache.directives import lifetime, seconds
from asynccache.document import Document
from asynccache.epochs import Epochs
from asynccache.errors import ConfigError
from asynccache.freshness import Freshness, Random
from asynccache.guard import Guard
from asynccache.hook_files import HookFiles
from asynccache.key_builders import KeyBuilding
from asynccache.leases import Leadership
from asynccache.pace import Pace
from asynccache.pipeline import Writes
from asynccache.protocols import AsyncCacheBackend, Clock, PostHook, PreHook, Remote, Stage
from asynccache.providers.points import SYSTEM, Points
from asynccache.stages.build_key import BuildCustomKey, BuildKey
from asynccache.stages.coalesce import Coalesce, OnAbandon
from asynccache.stages.elements import Elements, ElementStats
from asynccache.stages.hooks import Hooks, OnError
from asynccache.stages.lookup import HedgedLookup, Lookup
from asynccache.stages.negative import Negative
from asynccache.stages.observe import Meter, Observe, Observers
from asynccache.stages.store import Store
from asynccache.stats import Stats
from asynccache.telemetry.observation import Observer

ErrorTypes = Iterable[type[Exception] | str]

BACKEND_ALIASES = {"local": "memory", "in_memory": "memory", "dual_cache": "dual", "azure": "azure_blob"}
"""Other names of backend types; dashes count as underscores."""

_REDIS = {"redis_url": "url", "max_connections": "connections", "redis_flush_size": "max_batch"}
_SEMANTIC = {"semantic_mode": "mode"}
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
    # Where `Cache` is made of these options as well, "mode" is its own.
    "semantic": _SEMANTIC,
    "redis_semantic": {
        **_SEMANTIC,
        "redis_url": "url",
        "redis_semantic_cache_embedding_model": "embedding_model",
        "redis_semantic_cache_index_name": "index_name",
    },
    "qdrant_semantic": {
        **_SEMANTIC,
        "qdrant_api_base": "url",
        "qdrant_api_key": "api_key",
        "qdrant_collection_name": "collection_name",
        "qdrant_quantization_config": "quantization_config",
        "qdrant_semantic_cache_embedding_model": "embedding_model",
    },
}
"""By backend type: other names, most of them those that users of LiteLLM know → ours."""

TIERS = {"dual": ("l1", "l2")}
"""By backend type: the options that are backends themselves, given as such, as a type, or as a table of options."""

STORES = {"semantic": ("store",), "qdrant_semantic": ("store",)}
"""Likewise: the options that are backends beside what the type is named for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How calls are treated on their way. Every field is an option of `Cache`.

    key_builder:   what stands in the key for the arguments: a function `(model, messages, **kwargs)`, plain or async,
                   that returns a text; `ignore`, `normalized`, `per_tenant` of `asynccache.key_builders`; or a list
                   of these. In a file: "package.module:function", a name, or {name: arguments}.
    caching_groups: lists of models that share entries; see `CachingGroups`.
    pre_hooks, post_hooks: async callables; see `PreHook` and `PostHook`.
    hooks:         files with hooks: `{"path": …, "async_pre_llm_hook": …, "async_post_cache_hook": …}`; see
                   `hook_files`.
    cache_control_injection_points: what is marked for the provider's own cache: points, or "auto"; see `PromptCaching`.
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
    observers:     are told of every finished call; see `Observer` of asynccache.telemetry.observation.
    random:        returns a number from 0 up to 1.

    Raises ConfigError for a wrong value.
    """

    key_builder: KeyBuilding = None
    caching_groups: Sequence[Sequence[str]] = ()
    pre_hooks: Sequence[PreHook] = ()
    post_hooks: Sequence[PostHook] = ()
    hooks: HookFiles = ()
    cache_control_injection_points: Points | None = None
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
    observers: Sequence[Observer] = ()
    random: Random = _random

    def __post_init__(self) -> None:
        for name in ("max_refreshes", "max_entry_bytes", "write_behind"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"{name}={value!r}: an int that is not negative is wanted")
        for name in ("pre_hooks", "post_hooks", "observers"):
            if not isinstance(getattr(self, name), Sequence) or isinstance(getattr(self, name), str | bytes):
                raise ConfigError(f"{name}={getattr(self, name)!r}: a list is wanted")
        if not callable(self.random):
            raise ConfigError(f"random={self.random!r}: a function is wanted")
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


ATOP = ("hooks", "cache_control_injection_points", "on_hook_error")
"""Options that may stand beside `caching` in a file."""

PROXY = frozenset(
    {"cache_responses", "model_list", "upstream", "proxy", "rules", "telemetry", "environment_variables"}
    | {"litellm_settings", "general_settings", "router_settings"}
)
"""What else stands in a file, and is not the cache's."""

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
    pre, post = all_hooks(policy)
    hooks = Hooks(pre, post, stats=stats, on_error=policy.on_hook_error)
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
    observers = Observers(policy.observers)
    return [
        *([Observe(observers, clock=clock)] if observers else []),
        *([hooks] if pre or post else []),
        build_key,
        Elements(lookup, [build_key, quiet], stats=stats, at_once=tier != "memory"),
        *([Negative(negative_ttl, negative_errors, stats=stats, clock=clock)] if negative_ttl else []),
        Coalesce(lookup.find, store.outdated, leadership=leadership, **flights),
        store,
        *([Meter(observers, clock=clock)] if observers else []),
    ]


def all_hooks(policy: Policy) -> tuple[list[PreHook], list[PostHook]]:
    """The hooks before and after, in their order: those given as objects, those of files, the marks. The hook that
    comes with this package marks where the points say, in its place in the files. Raises ConfigError."""
    points = policy.cache_control_injection_points
    if not policy.hooks and not points:
        return [*policy.pre_hooks], [*policy.post_hooks]
    # Loaded for those who want it: most have neither.
    from asynccache.providers import anthropic_cache_control_hook
    from asynccache.providers.prompt_caching import PromptCaching

    loaded = hook_files.load(hook_files.read_files(policy.hooks))
    bundled: PreHook = anthropic_cache_control_hook.async_pre_llm_hook
    marks = PromptCaching(points or SYSTEM) if points or bundled in loaded.pre else None
    files = [hook if marks is None or hook is not bundled else marks for hook in loaded.pre]
    last = [marks] if marks is not None and marks not in files else []
    return [*policy.pre_hooks, *files, *last], [*policy.post_hooks, *loaded.post]


def backend_type(name: str, options: Iterable[str] = ()) -> str:
    """The one name of a backend type that may be written in several ways, or follow from its options."""
    plain = name.replace("-", "_")
    kind = name if ":" in name else BACKEND_ALIASES.get(plain, plain)
    if kind == "redis" and not {"startup_nodes", "redis_startup_nodes"}.isdisjoint(options):
        return "redis_cluster"
    return kind


def backends_within(kind: str) -> tuple[str, ...]:
    """The options of this type that are backends themselves."""
    return (*TIERS.get(kind, ()), *STORES.get(kind, ()))


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
    for tier in backends_within(kind):
        if tier in renamed:
            renamed[tier] = _tier(f"{kind} backend: {tier}", renamed[tier])
    checked = _checked(kind, renamed, types_of(factory))
    try:
        backend = factory(**checked)
    except TypeError as error:  # an argument has the wrong type
        raise ConfigError(f"{kind} backend: {error}") from error
    return Guard(backend, **guard) if isinstance(backend, Remote) else backend


_WORDS: dict[type, str] = {str: "text", PathLike: "a path", bool: "true or false", Codec: "a Codec"}


def _checked(kind: str, options: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The options, a path as text where text is wanted.

    Raises ConfigError for one that is to be one of `_WORDS` and is not: drivers take what they are given, and fail when
    they connect. What was given is not repeated, since it may be a password."""
    checked = {}
    for name, value in options.items():
        allowed = _alternatives(wanted.get(name, Any))
        if isinstance(value, PathLike) and str in allowed:
            value = os.fspath(value)
        if allowed <= {*_WORDS, type(None)} and not isinstance(value, tuple(allowed)):
            words = " or ".join(word for kind_of, word in _WORDS.items() if kind_of in allowed)
            raise ConfigError(f"{kind} backend: {name} must be {words}, not a value of type {type(value).__name__}")
        checked[name] = value
    return checked


def backend_options(name: str, options: Iterable[str] = ()) -> list[str]:
    """The options that a backend of this type takes, other names for them included."""
    kind = backend_type(name, options)
    factory = _factory(kind)
    return [*parameters(factory), *OPTION_ALIASES.get(kind, {}), *_of_codec(factory), *_of_guard(factory)]


def option_types(name: str, options: Iterable[str] = ()) -> dict[str, Any]:
    """The types of the options that a backend of this type takes, under our names."""
    factory = _factory(backend_type(name, options))
    found = {**types_of(Codec), **types_of(Guard), **types_of(factory)}
    return {option: found[option] for option in backend_options(name, options) if option in found}


def types_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The types of what a callable takes as keywords, as far as they can be told."""
    made = getattr(factory, "__init__", factory) if isinstance(factory, type) else factory
    unknown: dict[str, Any] = {}  # what is imported for type checkers only
    while True:
        try:
            return get_type_hints(made, localns=unknown)
        except NameError as error:
            if error.name is None or error.name in unknown:
                return {}
            unknown[error.name] = Any
        except Exception:  # an annotation of the user's may be any expression
            return {}


def _alternatives(annotation: Any) -> set[Any]:
    """The types that it allows, without what stands in their brackets."""
    union = get_origin(annotation) in (Union, UnionType)
    return {get_origin(one) or one for one in (get_args(annotation) if union else (annotation,))}


def typed(arguments: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Cache`, with what comes as text, as from the environment, read as the number or truth value
    that is wanted, where no text is. own: the types of those that are neither the backend's nor the policy's."""
    kind = backend_type(str(arguments.get("type", "memory")), arguments)
    aliases = OPTION_ALIASES.get(kind, {})
    wanted = {**option_types(kind, arguments), **own}
    found = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Mapping) and name in backends_within(kind):
            found[name] = typed(value, {})
        elif isinstance(value, str):
            found[name] = _as_wanted(value, wanted.get(aliases.get(name, name)))
    return found


_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _as_wanted(text: str, annotation: Any) -> Any:
    allowed = _alternatives(annotation)
    if annotation is None or str in allowed:
        return text
    if bool in allowed:
        return _TRUTH.get(text.strip().lower(), text)
    for kind in (int, float):
        if kind in allowed or (kind is int and float in allowed):
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _factory(kind: str) -> Callable[..., AsyncCacheBackend]:
    try:
        return backends.load(kind)
    except ConfigError as error:
        hint = "" if kind in backends.names() else _did_you_mean(kind, backends.names())
        raise ConfigError(f"{error}{hint}") from error.__cause__


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
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ConfigError(f"supported_call_types={names!r}: a list is wanted, such as ['chat']")
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
    """The arguments of `Cache` from a mapping or a file (.json, .toml, .yaml): at its top level, or under `caching`,
    with hooks and injection points at the top; or as LiteLLM's proxy has it, in `litellm_settings`. What is the
    proxy's alone is left out.

    In a file, `os.environ/NAME`, `${NAME}` and `${NAME:-default}` are variables. Raises ConfigError."""
    given = source if isinstance(source, Mapping) else _load(source)
    table = litellm_settings.translated(given, os.environ)
    beside = [name for name in given if name not in PROXY and name not in ATOP]
    if "caching" in table and "caching" not in given and beside:
        raise ConfigError(f"{beside[0]!r} stands beside litellm_settings, which say what to cache: put it there")
    if not table.get("cache_responses", True):
        raise ConfigError("cache_responses (or litellm_settings.cache) is false: there is no cache to build")
    caching = table.get("caching", {k: v for k, v in table.items() if k not in PROXY})
    if not isinstance(caching, Mapping):
        raise ConfigError(f"caching: a table of options is wanted, not {caching!r}")
    arguments = {**{name: table[name] for name in ATOP if name in table}, **caching}
    if "hooks" in arguments:
        folder = "" if isinstance(source, Mapping) else Path(source).parent
        arguments["hooks"] = hook_files.read_files(arguments["hooks"] or (), folder)
    return plain({str(name): value for name, value in arguments.items()})


def plain(caching: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Cache` from a `caching` table as LiteLLM's guide writes it: what stands in its `params` is
    an option as any other, `ttl` in the far tier is the entries', and in the near one it is `max_stale`.
    Raises ConfigError where that is said twice."""
    options = dict(caching)
    kind = backend_type(str(options.get("type", "memory")))
    if kind.endswith("_semantic") and isinstance(params := options.get("params"), Mapping):
        del options["params"]
        for name, value in params.items():
            _say_once(options, str(name), value, f"params.{name}")
    if kind in TIERS:
        near, far = TIERS[kind]
        for tier, meant in ((near, "max_stale"), (far, "ttl")):
            inner = options.get(tier)
            if not isinstance(inner, Mapping):
                continue
            inner = plain(inner)
            if "ttl" in inner:
                _say_once(options, meant, inner.pop("ttl"), f"{tier}.ttl")
            options[tier] = inner
    return options


def _say_once(options: dict[str, Any], name: str, value: Any, said: str) -> None:
    if options.setdefault(name, value) != value:
        raise ConfigError(f"{name}={options[name]!r} and {said}={value!r} say the same thing twice: give one of them")


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


def _load(path: str | PathLike[str]) -> Mapping[str, Any]:
    document = Document.read(path)
    table = document.table
    ours = {name: value for name, value in table.items() if name not in PROXY or name == "cache_responses"}
    # Of LiteLLM's tables what is about caching: the rest may name variables that are the proxy's alone.
    for name in ("litellm_settings", "router_settings"):
        if found := litellm_settings.table_in(table, name):
            ours[name] = {option: found[option] for option in litellm_settings.READ if option in found}
    own = litellm_settings.table_in(table, "environment_variables")
    return document.with_table(ours).resolved({**{str(k): str(v) for k, v in own.items()}, **os.environ}).table
