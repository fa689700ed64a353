"""Request → key. Pure, but for the content of files.

Everything that can change the answer is in the key unless its name is on `INERT`: a deny-list, so
a parameter that a provider adds tomorrow is in the key by itself. The material is canonical JSON
(sorted, typed, delimited) behind a head that names the version, the call type and the endpoint:
argument order, dict order, object or dict, `1` or `1.0` do not matter; `1` and `"1"` do.

Most requests are plain JSON values, for which orjson's own text is canonical: that is the fast way.
All others are read by `material.Reader`.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from orjson import OPT_SORT_KEYS, dumps

from asynccache.material import Reader, Unkeyable, dumps_tree, is_sentinel, kind_of, step, without_none
from asynccache.model import CacheKey, Directives, Target

_HEADERS = frozenset({"extra_headers", "headers"})

INERT = frozenset(
    {
        # how the answer travels, not what it says: one entry serves both ways
        "stream",
        "stream_options",
        # how long and how often to try
        "timeout",
        "request_timeout",
        "stream_timeout",
        "force_timeout",
        "max_retries",
        "num_retries",
        "retry_policy",
        "retry_strategy",
        "cooldown_time",
        # who pays and over which connection; what to reach is told by base_url and organization
        "api_key",
        *_HEADERS,  # but for those of VOCAL_HEADERS
        "client",  # but for where it goes: see `_reach`
        "http_client",
        "shared_session",
        # who listens
        "callbacks",
        "success_callback",
        "failure_callback",
        "logger_fn",
        "no-log",
        "litellm_call_id",
        "litellm_trace_id",
        "litellm_session_id",
        "litellm_logging_obj",
        "litellm_request_debug",
        "completion_call_id",
        # ours and LiteLLM's own caching controls
        "cache",
        "caching",
    }
)
"""Reviewed names that never change the answer."""

VOCAL_HEADERS = ("anthropic-", "openai-")
"""Prefixes of request headers that do change it (`anthropic-beta`, `openai-organization`, …)."""

_READ_FOR_MORE = _HEADERS | {"client"}
_INERT_OF_FUNCTIONS = INERT - _HEADERS
_LABEL = b'"key_builder"'
_TAKEN_OUT = "\0"  # what no header can say
_MISSING: Any = object()


class KeyBuilder(Protocol):
    """`build_key`, or a function of yours in its place, which may call it with changed arguments.

    With `files=False` it may raise ReadsFile, and is then called again in a thread with `files=True`.
    """

    def __call__(
        self, params: Mapping[str, Any], target: Target, directives: Directives, *, files: bool = False
    ) -> CacheKey: ...


class AsyncKeyBuilder(Protocol):
    """The same, of which some keys have to be waited for."""

    def __call__(
        self, params: Mapping[str, Any], target: Target, directives: Directives, *, files: bool = False
    ) -> CacheKey | Awaitable[CacheKey]: ...


class Source(NamedTuple):
    """The source of a key that `build_key` did not make, or not from these arguments.

    directives: of the call, with the tenant that the builder found.
    build: makes the key again.
    text:  what stood for the arguments; None when they stood for themselves.
    """

    params: Mapping[str, Any]
    target: Target
    directives: Directives
    build: KeyBuilder
    text: str | None = None


def build_key(params: Mapping[str, Any], target: Target, directives: Directives, *, files: bool = False) -> CacheKey:
    """The key of one call.

    Raises Unkeyable for an argument without a stable value, and ReadsFile for a file while `files`
    is False (reading blocks).
    """
    data = None
    kept, plain = params, True
    if not INERT.isdisjoint(params):
        silent = inert(target)
        kept = {name: value for name, value in params.items() if name not in silent}
        plain = _READ_FOR_MORE.isdisjoint(params)
    if plain and target.reads is None and (not target.fill or target.fill.keys() <= kept.keys()):
        try:
            if _plain_arguments(kept) or ((kept := _whole(kept)) and _plain_arguments(kept)):
                data = dumps(kept, None, OPT_SORT_KEYS)
        except (TypeError, RuntimeError):
            # A key that is no str, an int beyond 64 bits, a lone surrogate, nesting without end, a dict
            # that another thread changes: the thorough way knows them, or says what is wrong.
            pass
    if data is None:
        return _build_thoroughly(params, target, directives, files)
    data = target.head + directives.head + data
    tenant = directives.tenant
    digest = sha256(data).hexdigest() if tenant is None else _keyed(tenant, data)
    return CacheKey(digest, _views, (params, target, directives))


def _build_thoroughly(params: Mapping[str, Any], target: Target, directives: Directives, files: bool) -> CacheKey:
    reader = Reader(files)
    digest = _digest(_tree(params, target, reader), target, directives)
    # With files, the other views now: while they say what they say here, and where reading them may block.
    views = _views(params, target, directives, reader) if reader.known else _views
    return CacheKey(digest, views, (params, target, directives))


def rebuild(key: CacheKey) -> str:
    """The digest that a key with a source would have now. Raises what building it raises."""
    params, target, directives, *more = key.source
    build: KeyBuilder = more[0] if more else build_key
    return build(params, target, directives).digest


def digest_of(params: Mapping[str, Any], target: Target, directives: Directives, reader: Reader) -> str:
    """The digest of `build_key`, with files as this reader knows them. Raises as `build_key` does."""
    return _digest(_tree(params, target, reader), target, directives)


def digest_of_text(text: str, target: Target, directives: Directives) -> str:
    """The digest of a call for whose arguments this text stands. It is no other call's: what stands before the
    text says where it begins, and no arguments are written as the label is."""
    data = target.head + directives.head + _LABEL + str.encode(text, errors="surrogatepass")
    tenant = directives.tenant
    return sha256(data).hexdigest() if tenant is None else _keyed(tenant, data)


def _digest(tree: dict[str, Any], target: Target, directives: Directives) -> str:
    data = target.head + directives.head + dumps_tree(tree)
    tenant = directives.tenant
    return sha256(data).hexdigest() if tenant is None else _keyed(tenant, data)


def _keyed(tenant: str, data: bytes) -> str:
    digest = _hmac(tenant).copy()
    digest.update(data)
    return digest.hexdigest()


@lru_cache(1024)
def _hmac(tenant: str) -> hmac.HMAC:
    """Where each key of a tenant begins: to make it anew takes as long as all the rest."""
    # Hashed first: HMAC fills a short key up with zeros, so that "a" and "a\0" would be one tenant.
    return hmac.new(sha256(tenant.encode()).digest(), digestmod=sha256)


def _views(
    params: Mapping[str, Any], target: Target, directives: Directives, reader: Reader | None = None
) -> tuple[str, str]:
    """(scope, text) of a request that has a key, so that all of it is known to be keyable."""
    try:
        rest, text = target.call_type.views(params)
        return _digest(_tree(rest, target, reader or Reader(True)), target, directives), text
    except Exception:  # an object of the caller's that has changed since, or that only `views` looks into
        return "", ""  # never matches by similarity


def inert(target: Target) -> frozenset[str]:
    """The arguments of this target that never change the answer. What a header says to a function
    that is no known kind of call, nobody can tell."""
    return _INERT_OF_FUNCTIONS if target.call_type.name == "function" else INERT


def tree_of(params: Mapping[str, Any], target: Target, *, files: bool = False) -> dict[str, Any]:
    """The arguments that count, as a tree that `dumps_tree` writes canonically.

    Raises as `build_key` does.
    """
    return _tree(params, target, Reader(files))


def _tree(params: Mapping[str, Any], target: Target, reader: Reader) -> dict[str, Any]:
    turns, silent = target.call_type.turns, inert(target)
    tree: dict[str, Any] = {}
    given: Mapping[str, Any] = {**target.fill, **params}
    if target.reads is not None:
        given = target.reads(given)
    for name, value in given.items():
        if name in silent or target.absent.get(name, _MISSING) is value or is_sentinel(value):
            continue
        try:
            tree[name] = without_none(reader.read(value)) if name == turns else reader.read(value)
        except Unkeyable as error:
            error.inside(step(name).removeprefix("."))
            raise
    for name in _READ_FOR_MORE & silent & params.keys():
        if said := _reach(params[name]) if name == "client" else vocal(params[name]):
            tree[name] = said
    return tree


def vocal(headers: Any) -> dict[str, str]:
    """Those of the request headers that can change the answer, by lower-case name."""
    found: dict[str, list[str]] = {}
    try:
        pairs = list(headers.items()) if isinstance(headers, Mapping) else []
    except Exception:  # a mapping that cannot be read says nothing that we could hear
        pairs = []
    for name, value in pairs:
        lower = _header(name).lower()
        if lower.startswith(VOCAL_HEADERS):
            found.setdefault(lower, []).append(_header(value))
    return {name: ", ".join(sorted(values)) for name, values in found.items()}


def _header(text: Any) -> str:
    """A header's name or value; what is neither str nor bytes takes the header out (`openai.omit`)."""
    if isinstance(text, bytes):
        return text.decode("latin-1")
    return str.__str__(text) if issubclass(type(text), str) else _TAKEN_OUT


def _reach(client: Any) -> dict[str, str]:
    """Where the calls of a client given as an argument go, as far as it says so."""
    said = {}
    for name in ("base_url", "organization", "project"):
        try:
            value = getattr(client, name, None)
            if isinstance(value, str) or kind_of(value) == "URL":
                said[name] = str(value)
        except Exception:  # any object may be named so, and its attributes may raise
            continue
    return said


# -- the fast way ---------------------------------------------------------------------------------


def _plain_arguments(params: Mapping[str, Any]) -> bool:
    """`_plain` for each argument, with a list of messages walked on the spot: a call costs more than
    all there is to see in one."""
    for value in params.values():
        kind = type(value)
        if kind is str or kind is int or kind is bool or (kind is float and value % 1 > 0):
            continue
        if kind is not list:
            if not _plain(value):
                return False
            continue
        for item in value:
            if type(item) is not dict:
                if not _plain(item):
                    return False
                continue
            for leaf in item.values():
                if type(leaf) is not str and not _plain(leaf):
                    return False
    return True


def _whole(params: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with whole floats as ints (`temperature=0.0` is the commonest reason why a request is
    not plain); empty when there are none."""
    if not any(type(value) is float and value.is_integer() for value in params.values()):
        return {}
    return {
        name: int(value) if type(value) is float and value.is_integer() else value for name, value in params.items()
    }


def _plain(value: Any) -> bool:
    """True when orjson's text for the value is canonical as it stands.

    Not so for a float without a fraction (1.0 is 1), for NaN and infinities (orjson writes null),
    for None (it may stand for "not given"), and for whatever is not a plain JSON type.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool:
        return True
    if kind is float:
        return bool(value % 1 > 0)
    if kind is dict:
        value = value.values()
    elif kind is not list and kind is not tuple:
        return False
    for item in value:
        if type(item) is not str and not _plain(item):
            return False
    return True
