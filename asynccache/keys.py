"""Request → key. Pure, but for the content of files.

Everything that can change the answer is in the key unless its name is on `INERT`: a deny-list, so
a parameter that a provider adds tomorrow is in the key by itself. The material is canonical JSON
(sorted, typed, delimited) behind a head that names the version, the call type and the endpoint:
argument order, dict order, object or dict, `1` or `1.0` do not matter; `1` and `"1"` do.

What JSON has no word for (bytes, files, dates, NaN, …) is written as a bare token that no JSON text
contains, so it can never be confused with a string or a dict of the caller's.
"""

from __future__ import annotations

import dataclasses
import enum
import hmac
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path, PurePath
from types import NoneType
from typing import Any, Protocol
from uuid import UUID

import orjson
from orjson import OPT_SORT_KEYS, dumps

from asynccache.model import CacheKey, Directives, Target

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
        "extra_headers",  # but for those of VOCAL_HEADERS
        "headers",
        "client",
        "http_client",
        "shared_session",
        # who listens
        "callbacks",
        "success_callback",
        "failure_callback",
        "logger_fn",
        "verbose",
        "no-log",
        "litellm_call_id",
        "litellm_trace_id",
        "litellm_session_id",
        "litellm_logging_obj",
        # ours and LiteLLM's own caching controls
        "cache",
        "caching",
    }
)
"""Reviewed names that never change the answer."""

VOCAL_HEADERS = ("anthropic-", "openai-")
"""Prefixes of request headers that do change it (`anthropic-beta`, `openai-organization`, …)."""

_HEADERS = frozenset({"extra_headers", "headers"})
_CHUNK = 1 << 20
_DEPTH = 200
_MISSING: Any = object()


class Unkeyable(Exception):
    """An argument has no stable value to build a key from."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: {why}")
        self.place = place
        self.why = why


class ReadsFile(Exception):
    """The key needs the content of a file: build it again where blocking is allowed."""


class KeyBuilder(Protocol):
    """`build_key`, or a function of yours in its place, which may call it with changed arguments.

    With `files=False` it may raise ReadsFile, and is then called again in a thread with `files=True`.
    """

    def __call__(
        self, params: Mapping[str, Any], target: Target, directives: Directives, *, files: bool = False
    ) -> CacheKey: ...


def build_key(params: Mapping[str, Any], target: Target, directives: Directives, *, files: bool = False) -> CacheKey:
    """The key of one call.

    Raises Unkeyable for an argument without a stable value, and ReadsFile for a file while `files`
    is False (reading blocks).
    """
    data = None
    kept, plain = params, True
    if not INERT.isdisjoint(params):
        kept = {name: value for name, value in params.items() if name not in INERT}
        plain = _HEADERS.isdisjoint(params)  # headers have to be read for what they say
    if plain and (not target.fill or target.fill.keys() <= kept.keys()) and _plain_arguments(kept):
        try:
            data = dumps(kept, None, OPT_SORT_KEYS)
        except TypeError:
            pass  # a key that is no str, an int beyond 64 bits, a lone surrogate: the slow way knows them
    if data is None:
        data = dumps_tree(material(params, target, files=files), "request")
    data = target.head + directives.head + data
    tenant = directives.tenant
    digest = sha256(data).hexdigest() if tenant is None else hmac.digest(tenant.encode(), data, sha256).hex()
    return CacheKey(digest, _views, (params, target, directives))


def material(params: Mapping[str, Any], target: Target, *, files: bool = False) -> dict[str, Any]:
    """The arguments that count, as a tree that orjson writes canonically."""
    reader = _Reader(files)
    turns = target.call_type.turns
    tree: dict[str, Any] = {}
    for name, value in {**target.fill, **params}.items():
        if name in INERT or target.absent.get(name, _MISSING) is value or is_sentinel(value):
            continue
        tree[name] = _turns(reader, value, name) if name == turns else reader.read(value, name)
    for name in sorted(_HEADERS):
        if headers := vocal(params.get(name)):
            tree[name] = headers
    return tree


def vocal(headers: Any) -> dict[str, str]:
    """Those of the request headers that can change the answer, by lower-case name."""
    if not isinstance(headers, Mapping):
        return {}
    pairs = ((str(name).lower(), str(value)) for name, value in headers.items())
    return {name: value for name, value in pairs if name.startswith(VOCAL_HEADERS)}


def _views(params: Mapping[str, Any], target: Target, directives: Directives) -> tuple[str, str]:
    """(scope, text) of a request that has a key, so that all of it is known to be keyable."""
    rest, text = target.call_type.views(params)
    return build_key(rest, target, directives, files=True).digest, text


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


# -- the thorough way -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Reader:
    """Turns any argument into a JSON tree; `place` is where it stands, for the error's text."""

    files: bool
    depth: int = 0

    def read(self, value: Any, place: str) -> Any:
        self.depth += 1
        if self.depth > _DEPTH:
            raise Unkeyable(place, "nested too deeply, or within itself")
        try:
            for kinds, read in _READERS:
                if isinstance(value, kinds):
                    return read(self, value, place)
            return self._object(value, place)
        finally:
            self.depth -= 1

    def _object(self, value: Any, place: str) -> Any:
        if isinstance(value, type):
            return _schema(value, place)
        if callable(dump := getattr(value, "model_dump", None)):
            return self.read(dump(), place)
        if dataclasses.is_dataclass(value):
            return self._dict({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, place)
        if type(value).__module__.partition(".")[0] == "numpy":
            return self._numpy(value, place)
        if callable(getattr(value, "read", None)):
            return self._file(value, place)
        raise Unkeyable(place, f"{_article(type(value).__name__)} has no stable value")

    def _str(self, value: str, _: str) -> Any:
        text = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate: as an escape, which orjson never writes
            return orjson.Fragment(json.dumps(text))
        return text

    def _int(self, value: int, _: str) -> Any:
        number = int(value)
        return number if -(1 << 63) <= number < 1 << 64 else orjson.Fragment(str(number))

    def _float(self, value: float, place: str) -> Any:
        if not math.isfinite(value):
            return _token("float", str(float(value)))
        return self._int(int(value), place) if float(value).is_integer() else float(value)

    def _dict(self, value: Mapping[Any, Any], place: str) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key, item in value.items():
            name = _name(key, place)
            if name in tree:
                raise Unkeyable(place, f"two keys are written {name!r}")
            if not is_sentinel(item):
                tree[name] = self.read(item, f"{place}.{name}")
        return tree

    def _list(self, value: list[Any] | tuple[Any, ...], place: str) -> list[Any]:
        return [self.read(item, f"{place}[{i}]") for i, item in enumerate(value)]

    def _set(self, value: set[Any] | frozenset[Any], place: str) -> Any:
        items = sorted(dumps_tree(self.read(item, f"{place}{{}}"), place) for item in value)
        return orjson.Fragment(b"set[" + b",".join(items) + b"]")

    def _path(self, value: PurePath, place: str) -> Any:
        if not self.files:
            raise ReadsFile
        try:
            with Path(value).open("rb") as file:
                return self._file(file, place)
        except OSError:  # a folder, or not there: then the path itself is all that counts
            return _token("path", str(value))

    def _file(self, file: Any, place: str) -> Any:
        """By content from where it stands, and put back there: the call will read it from there."""
        if not self.files and not isinstance(file, io.BytesIO | io.StringIO):
            raise ReadsFile
        digest = sha256()
        try:
            start = file.tell()
            while piece := file.read(_CHUNK):
                digest.update(piece.encode() if isinstance(piece, str) else piece)
            file.seek(start)
        except (AttributeError, TypeError, OSError, ValueError) as error:
            raise Unkeyable(place, f"{_article(type(file).__name__)} that cannot be read twice") from error
        return _token("bytes", digest.hexdigest())

    def _numpy(self, value: Any, place: str) -> Any:
        if not hasattr(value, "dtype"):
            raise Unkeyable(place, f"{_article(type(value).__name__)} has no stable value")
        if value.shape == ():
            return self.read(value.item(), place)
        if value.dtype.hasobject:
            raise Unkeyable(place, "an array of objects has no stable value")
        return _token("array", f"{value.dtype.str}{value.shape}", sha256(value.tobytes()).hexdigest())


def _keep(_: _Reader, value: Any, __: str) -> Any:
    return value


def _bytes(_: _Reader, value: bytes | bytearray | memoryview, __: str) -> Any:
    return _token("bytes", sha256(value).hexdigest())


def _timedelta(_: _Reader, value: timedelta, __: str) -> Any:
    return _token("timedelta", str(value // timedelta(microseconds=1)))


def _tagged(_: _Reader, value: Any, __: str) -> Any:
    return _token(type(value).__name__, str(value))


_READERS: tuple[tuple[tuple[type, ...], Callable[[_Reader, Any, str], Any]], ...] = (
    ((enum.Enum,), lambda self, value, place: self.read(value.value, place)),
    ((bool, NoneType), _keep),
    ((str,), _Reader._str),
    ((int,), _Reader._int),
    ((float,), _Reader._float),
    ((Mapping,), _Reader._dict),
    ((list, tuple), _Reader._list),
    ((set, frozenset), _Reader._set),
    ((bytes, bytearray, memoryview), _bytes),
    ((PurePath,), _Reader._path),
    ((timedelta,), _timedelta),
    ((datetime, date, time, UUID, Decimal, complex), _tagged),
)
# The order matters: an Enum may be a str or an int too, a bool is an int.


def _turns(reader: _Reader, value: Any, place: str) -> Any:
    """The list of turns: a field of a turn that is None is as good as absent, so that a message
    object, its dump and the same message written by hand agree."""
    tree = reader.read(value, place)
    if not isinstance(tree, list):
        return tree
    return [{k: v for k, v in turn.items() if v is not None} if isinstance(turn, dict) else turn for turn in tree]


def _name(key: Any, place: str) -> str:
    """A dict's key as it is written on the wire."""
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    raise Unkeyable(place, f"{_article(type(key).__name__)} as a dict's key has no stable value")


def _schema(cls: type, place: str) -> Any:
    """A class of answers (`response_format=Person`) counts by its name and schema."""
    if callable(schema := getattr(cls, "model_json_schema", None)):
        text = json.dumps(schema(), sort_keys=True, default=str)
        return _token("class", cls.__name__, sha256(text.encode()).hexdigest())
    raise Unkeyable(place, f"the class {cls.__name__} has no schema")


def is_sentinel(value: Any) -> bool:
    """The SDKs' "not given": `openai.NOT_GIVEN`, `openai.omit` and their namesakes elsewhere."""
    return type(value).__name__ in ("NotGiven", "Omit")


def _token(kind: str, *texts: str) -> orjson.Fragment:
    return orjson.Fragment(kind + json.dumps(texts))


def dumps_tree(tree: Any, place: str) -> bytes:
    try:
        return dumps(tree, option=OPT_SORT_KEYS)
    except TypeError as error:  # a lone surrogate in a dict's key, nesting beyond orjson's limit
        raise Unkeyable(place, str(error)) from error


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


# -- why two keys differ --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One place in which two requests differ; a side that has nothing there is None."""

    path: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why two requests have different keys, or that they share one.

    ignored: arguments of either that are on the inert list.
    """

    key_a: str
    key_b: str
    differences: tuple[Difference, ...]
    ignored: tuple[str, ...]

    @property
    def same(self) -> bool:
        return self.key_a == self.key_b

    def __str__(self) -> str:
        lines = [f"same key {self.key_a}"] if self.same else [f"different keys: {self.key_a} and {self.key_b}"]
        for d in self.differences:
            lines.append(f"  {d.path}: {'(nothing)' if d.a is None else d.a} → {'(nothing)' if d.b is None else d.b}")
        if self.ignored:
            lines.append(f"  not in the key: {', '.join(self.ignored)}")
        return "\n".join(lines)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The leaves in which two trees from `material` differ, by path."""
    left, right = dict(_leaves(a, "")), dict(_leaves(b, ""))
    return tuple(
        Difference(path, left.get(path), right.get(path))
        for path in dict.fromkeys([*left, *right])
        if left.get(path) != right.get(path)
    )


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping) and tree:
        for name in sorted(tree):
            yield from _leaves(tree[name], f"{path}.{name}" if path else name)
    elif isinstance(tree, list) and tree:
        for i, item in enumerate(tree):
            yield from _leaves(item, f"{path}[{i}]")
    else:
        yield path, os.fsdecode(dumps_tree(tree, path))
