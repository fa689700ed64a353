"""Request → key. Pure, but for the content of files.

Everything that can change the answer is in the key unless its name is on `INERT`: a deny-list, so
a parameter that a provider adds tomorrow is in the key by itself. The material is canonical JSON
(sorted, typed, delimited) behind a head that names the version, the call type and the endpoint:
argument order, dict order, object or dict, `1` or `1.0` do not matter; `1` and `"1"` do.

What JSON has no word for (bytes, files, dates, NaN, …) is written as a bare token that no JSON text
contains, so it can never be confused with a string or a dict of the caller's.

No argument can make `build_key` fail a call: whatever an object's own methods raise is an Unkeyable.
"""

from __future__ import annotations

import dataclasses
import enum
import hmac
import inspect
import io
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path, PurePath
from types import NoneType
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from orjson import OPT_SORT_KEYS, Fragment, dumps

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
_TAKEN_OUT = "\0"  # what no header can say
_CHUNK = 1 << 20
_DEPTH = 200
_MISSING: Any = object()


class Unkeyable(Exception):
    """An argument has no stable value to build a key from.

    place: where it stands among the arguments, such as `messages[0].content[1]`.
    why:   what it is.
    """

    def __init__(self, place: str, why: str) -> None:
        super().__init__(place, why)
        self._steps = [place] if place else []
        self.why = why

    def inside(self, step: str) -> None:
        """Say where it stands one level further out."""
        self._steps.append(step)

    @property
    def place(self) -> str:
        place = "".join(reversed(self._steps))
        return place if len(place) <= 120 else f"{place[:100]}…"  # the caller's own names may be of any length

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"


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
        silent = inert(target)
        kept = {name: value for name, value in params.items() if name not in silent}
        plain = _READ_FOR_MORE.isdisjoint(params)
    if plain and (not target.fill or target.fill.keys() <= kept.keys()):
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
    reader = _Reader(files)
    digest = _digest(_tree(params, target, reader), target, directives)
    # With files, the other views now: while they say what they say here, and where reading them may block.
    views = _views(params, target, directives, reader) if reader.known else _views
    return CacheKey(digest, views, (params, target, directives))


def _digest(tree: dict[str, Any], target: Target, directives: Directives) -> str:
    data = target.head + directives.head + dumps_tree(tree)
    tenant = directives.tenant
    return sha256(data).hexdigest() if tenant is None else _keyed(tenant, data)


def _keyed(tenant: str, data: bytes) -> str:
    # Hashed first: HMAC fills a short key up with zeros, so that "a" and "a\0" would be one tenant.
    return hmac.digest(sha256(tenant.encode()).digest(), data, sha256).hex()


def _views(
    params: Mapping[str, Any], target: Target, directives: Directives, reader: _Reader | None = None
) -> tuple[str, str]:
    """(scope, text) of a request that has a key, so that all of it is known to be keyable."""
    try:
        rest, text = target.call_type.views(params)
        return _digest(_tree(rest, target, reader or _Reader(True)), target, directives), text
    except Exception:  # an object of the caller's that has changed since, or that only `views` looks into
        return "", ""  # never matches by similarity


def inert(target: Target) -> frozenset[str]:
    """The arguments of this target that never change the answer. What a header says to a function
    that is no known kind of call, nobody can tell."""
    return _INERT_OF_FUNCTIONS if target.call_type.name == "function" else INERT


def material(params: Mapping[str, Any], target: Target, *, files: bool = False) -> dict[str, Any]:
    """The arguments that count, as a tree that `dumps_tree` writes canonically.

    Raises as `build_key` does.
    """
    return _tree(params, target, _Reader(files))


def _tree(params: Mapping[str, Any], target: Target, reader: _Reader) -> dict[str, Any]:
    turns, silent = target.call_type.turns, inert(target)
    tree: dict[str, Any] = {}
    for name, value in {**target.fill, **params}.items():
        if name in silent or target.absent.get(name, _MISSING) is value or is_sentinel(value):
            continue
        try:
            tree[name] = _without_none(reader.read(value)) if name == turns else reader.read(value)
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
            if isinstance(value, str) or _kind(value) == "URL":
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


# -- the thorough way -----------------------------------------------------------------------------


class _Pairs:
    """A dict with a key that is no str, or no UTF-8: (how the key is written, value) pairs, sorted."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = sorted(pairs, key=lambda pair: pair[0])


class _Reader:
    """Turns any argument into a tree that `dumps_tree` writes canonically.

    files: whether blocking is allowed.
    known: what files said, by identity: each is read once. The file is kept beside its token, so that
           no other object can come to its address meanwhile.
    """

    def __init__(self, files: bool) -> None:
        self.files = files
        self.known: dict[int, tuple[Any, Fragment]] = {}
        self._depth = 0

    def read(self, value: Any) -> Any:
        self._depth += 1
        if self._depth > _DEPTH:
            raise Unkeyable("", "nested too deeply, or within itself")
        try:
            tree = (_BY_TYPE.get(type(value)) or _pick(value))(self, value)
        except (Unkeyable, ReadsFile):
            raise
        except Exception as error:  # the caller's own objects may raise anything when they are looked at
            raise Unkeyable("", f"{_a(value)} that cannot be read ({_kind(error)})") from error
        self._depth -= 1
        return tree

    def _str(self, value: str) -> Any:
        text = str.__str__(value)  # not what a subclass makes of it
        try:
            if not text.isascii():
                text.encode()
        except UnicodeEncodeError:  # a lone surrogate
            return _token("str", text)
        return text

    def _int(self, value: int) -> Any:
        number = int.__int__(value)
        # Beyond 64 bits in hex, since the length of a decimal that Python will write is limited.
        return number if -(1 << 63) <= number < 1 << 64 else _token("int", hex(number))

    def _float(self, value: float) -> Any:
        number = float.__float__(value)
        if not math.isfinite(number):
            return _token("float", str(number))
        return self._int(int(number)) if number.is_integer() else number

    def _dict(self, value: Mapping[Any, Any]) -> Any:
        tree: dict[Any, Any] = {}
        odd = False
        for key, item in value.items():
            name = self._key(key)
            if name in tree:
                raise Unkeyable("", f"two keys of a dict are both written {_text(name)}")
            odd = odd or type(name) is not str
            if is_sentinel(item):
                continue
            try:
                tree[name] = self.read(item)
            except Unkeyable as error:
                error.inside(step(name))
                raise
        return _Pairs([(_text(name), item) for name, item in tree.items()]) if odd else tree

    def _key(self, key: Any) -> str | _Word:
        """A dict's key: a str as it is, anything else as it is written."""
        try:
            tree = self.read(key)
        except Unkeyable as error:
            raise Unkeyable("", f"{_a(key)} as a dict's key has no stable value") from error
        return tree if type(tree) is str else _Word(dumps_tree(tree).decode())

    def _list(self, value: Sequence[Any]) -> list[Any]:
        tree = []
        for item in value:
            try:
                tree.append(self.read(item))
            except Unkeyable as error:
                error.inside(f"[{len(tree)}]")
                raise
        return tree

    def _set(self, value: set[Any] | frozenset[Any]) -> Any:
        try:
            items = sorted(dumps_tree(self.read(item)) for item in value)
        except Unkeyable as error:
            error.inside("{}")
            raise
        return Fragment(b"set[" + b",".join(items) + b"]")

    def _bytes(self, value: bytes | bytearray | memoryview) -> Any:
        return _token("bytes", sha256(memoryview(value).tobytes()).hexdigest())

    def _enum(self, value: enum.Enum) -> Any:
        return self.read(value.value)

    def _timedelta(self, value: timedelta) -> Any:
        return _token("timedelta", str(value // timedelta(microseconds=1)))

    def _moment(self, value: datetime | date | time) -> Any:
        kind = next(kind for kind in (datetime, date, time) if isinstance(value, kind))
        return _token(kind.__name__, value.isoformat())

    def _tagged(self, value: UUID | Decimal | complex) -> Any:
        return _token(_kind(value), str(value))

    def _model(self, value: Any) -> Any:
        try:
            tree = value.model_dump(by_alias=True, warnings=False)  # as it goes over the wire
        except TypeError:  # not pydantic's own
            tree = value.model_dump()
        return self.read(tree)

    def _dataclass(self, value: Any) -> Any:
        return self._dict({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})

    def _class(self, value: type[Any]) -> Any:
        """A class of answers (`response_format=Person`) counts by its name and schema."""
        if not callable(schema := getattr(value, "model_json_schema", None)):
            raise Unkeyable("", f"the class {value.__name__} has no schema")
        text = json.dumps(schema(), sort_keys=True, default=str)
        return _token("class", value.__name__, sha256(text.encode()).hexdigest())

    def _numpy(self, value: Any) -> Any:
        if value.dtype.hasobject:
            raise Unkeyable("", "an array of objects has no stable value")
        if value.dtype.char in "gG":
            raise Unkeyable("", "a number wider than its value has no stable bytes")
        if value.shape == () and type(item := value.item()).__module__ == "builtins" and value.dtype.kind not in "mMV":
            return self.read(item)
        return _token("array", f"{value.dtype.descr}{value.shape}", sha256(value.tobytes()).hexdigest())

    def _path(self, value: os.PathLike[Any]) -> Any:
        name = os.fsdecode(value)
        if isinstance(value, PurePath) and not isinstance(value, Path):
            return _token("path", name)  # only a name: it cannot be opened
        return self._content(value, lambda: self._read_path(Path(name)))

    def _read_path(self, path: Path) -> Fragment:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return _token("path", str(path))  # not there: then the path itself is all that counts
        if stat.S_ISDIR(mode):
            return _token("path", str(path))
        if not stat.S_ISREG(mode):
            raise Unkeyable("", "a path to what is no regular file")
        with path.open("rb") as file:
            return _hash_rest(file)

    def _file(self, file: Any) -> Any:
        """By content from where it stands, and put back there: the call will read it from there."""
        if isinstance(file, io.BytesIO | io.StringIO):
            self.known[id(file)] = file, (token := _hash_rest(file))
            return token
        return self._content(file, lambda: _hash_rest(file))

    def _content(self, source: Any, read: Callable[[], Fragment]) -> Fragment:
        if not self.files:
            raise ReadsFile
        if id(source) not in self.known:
            self.known[id(source)] = source, read()
        return self.known[id(source)][1]


class _Word(NamedTuple):
    """How a dict's key is written that is no str. No str itself, so that 1 and "1" may be in one dict."""

    text: str


def _keep(_: _Reader, value: Any) -> Any:
    return value


_Read = Callable[[_Reader, Any], Any]

_READERS: tuple[tuple[tuple[type, ...], _Read], ...] = (
    ((enum.Enum,), _Reader._enum),
    ((str,), _Reader._str),
    ((int,), _Reader._int),
    ((float,), _Reader._float),
    ((Mapping,), _Reader._dict),
    ((bytes, bytearray, memoryview), _Reader._bytes),
    ((list, tuple, Sequence), _Reader._list),
    ((set, frozenset), _Reader._set),
    ((type,), _Reader._class),
    ((timedelta,), _Reader._timedelta),
    ((datetime, date, time), _Reader._moment),
    ((UUID, Decimal, complex), _Reader._tagged),
    ((os.PathLike,), _Reader._path),
)
# The order matters: an Enum may be a str or an int too, bytes are a sequence, a datetime is a date.

_BY_TYPE: dict[type, _Read] = {
    NoneType: _keep,
    bool: _keep,
    str: _Reader._str,
    int: _Reader._int,
    float: _Reader._float,
    dict: _Reader._dict,
    list: _Reader._list,
}


def _pick(value: Any) -> _Read:
    for kinds, read in _READERS:
        if isinstance(value, kinds):
            return read
    # Methods are looked for on the class: a mock has any that it is asked for.
    if callable(getattr(type(value), "model_dump", None)):
        return _Reader._model
    if dataclasses.is_dataclass(value):
        return _Reader._dataclass
    if type(value).__module__ == "numpy" and hasattr(value, "dtype") and hasattr(value, "tobytes"):
        return _Reader._numpy
    if callable(getattr(type(value), "read", None)) or callable(getattr(value, "read", None)):
        return _Reader._file
    raise Unkeyable("", f"{_a(value)} has no stable value")


def _hash_rest(file: Any) -> Fragment:
    """What a file says from where it stands; it stands there again afterwards."""
    if inspect.iscoroutinefunction(file.read) or inspect.iscoroutinefunction(file.tell):
        raise Unkeyable("", f"{_a(file)} is read asynchronously")
    if _endless(file):
        raise Unkeyable("", f"{_a(file)} on what is no regular file")
    start = file.tell()
    file.seek(start)  # fails for a file that could not be put back, before anything of it is gone
    digest = sha256()
    try:
        while piece := file.read(_CHUNK):
            digest.update(piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece)
    finally:
        file.seek(start)
    return _token("bytes", digest.hexdigest())


def _endless(file: Any) -> bool:
    """Whether this is an open pipe or device, such as /dev/zero: reading might never end."""
    if not isinstance(file, io.RawIOBase | io.BufferedReader | io.BufferedRandom | io.TextIOWrapper):
        return False
    try:
        return not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:  # in memory
        return False


def _without_none(tree: Any) -> Any:
    """In the list of turns, a field that is None is as good as absent, so that a message object, its
    dump and the same message written by hand agree; so too in the lists that a turn has (its parts,
    its tool calls). What lies deeper may be a tool's own arguments: there, None is a value."""
    if not isinstance(tree, list):
        return tree
    return [
        {name: _without_none(value) for name, value in item.items() if value is not None}
        if isinstance(item, dict)
        else item
        for item in tree
    ]


def is_sentinel(value: Any) -> bool:
    """The SDKs' "not given": `openai.NOT_GIVEN`, `openai.omit` and their namesakes elsewhere, which hold
    nothing, so that nothing is lost when they are left out."""
    if _kind(value) not in ("NotGiven", "Omit"):
        return False
    state = object.__getstate__(value)
    return state is None or (isinstance(state, dict) and state.keys() <= {"__module__"})


def _token(kind: str, *texts: str) -> Fragment:
    # ascii() tells any two texts apart, lone surrogates included; JSON's escapes do not.
    return Fragment(f"{kind}[{','.join(map(ascii, texts))}]")


def dumps_tree(tree: Any) -> bytes:
    """A tree from `material`, as it stands in the key."""
    try:
        return dumps(tree, _write_pairs, OPT_SORT_KEYS)
    except TypeError as error:  # the name of an argument, or a header, that is no UTF-8
        raise Unkeyable("request", str(error)) from error


def _write_pairs(node: _Pairs) -> Fragment:
    return Fragment(b"{" + b",".join(name.encode() + b":" + dumps_tree(item) for name, item in node.pairs) + b"}")


def _text(name: str | _Word) -> str:
    return name.text if isinstance(name, _Word) else dumps(name).decode()


def step(name: str | _Word) -> str:
    """A dict's key in a place, so that no two places are written alike."""
    if isinstance(name, _Word):
        return f"{{{name.text}}}"
    return f".{name}" if _SIMPLE(name) else f"[{name!a}]"


_SIMPLE = re.compile(r"[\w-]+").fullmatch
_type_name = type.__dict__["__name__"].__get__


def _kind(value: Any) -> str:
    """The name of a value's type. Not asked of the type itself: a metaclass may say anything."""
    return str(_type_name(type(value)))


def _a(value: Any) -> str:
    noun = _kind(value)
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
    if isinstance(tree, dict) and tree:
        for name in sorted(tree):
            yield from _leaves(tree[name], (path + step(name)).removeprefix("."))
    elif isinstance(tree, list) and tree:
        for i, item in enumerate(tree):
            yield from _leaves(item, f"{path}[{i}]")
    elif isinstance(tree, _Pairs):
        for text, item in tree.pairs:
            yield from _leaves(item, f"{path}{{{text}}}")
    else:
        yield path, dumps_tree(tree).decode()
