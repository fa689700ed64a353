"""Any argument → a tree of plain JSON values, in which equal arguments are equal and others are not.

What JSON has no word for (bytes, files, dates, NaN, …) becomes a bare token that no JSON text
contains, so it can never be confused with a string or a dict of the caller's. No argument can make
this raise anything but Unkeyable and ReadsFile, whatever its own methods do.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import io
import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path, PurePath
from types import NoneType
from typing import Any, NamedTuple
from uuid import UUID

from orjson import OPT_SORT_KEYS, Fragment, dumps

_CHUNK = 1 << 20
_DEPTH = 200


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


class Pairs:
    """A dict with a key that is no str, or no UTF-8: (how the key is written, value) pairs, sorted."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = sorted(pairs, key=lambda pair: pair[0])


class Reader:
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
            raise Unkeyable("", f"{_a(value)} that cannot be read ({kind_of(error)})") from error
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
        return Pairs([(_text(name), item) for name, item in tree.items()]) if odd else tree

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
        return _token(kind_of(value), str(value))

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


def _keep(_: Reader, value: Any) -> Any:
    return value


_Read = Callable[[Reader, Any], Any]

_READERS: tuple[tuple[tuple[type, ...], _Read], ...] = (
    ((enum.Enum,), Reader._enum),
    ((str,), Reader._str),
    ((int,), Reader._int),
    ((float,), Reader._float),
    ((Mapping,), Reader._dict),
    ((bytes, bytearray, memoryview), Reader._bytes),
    ((list, tuple, Sequence), Reader._list),
    ((set, frozenset), Reader._set),
    ((type,), Reader._class),
    ((timedelta,), Reader._timedelta),
    ((datetime, date, time), Reader._moment),
    ((UUID, Decimal, complex), Reader._tagged),
    ((os.PathLike,), Reader._path),
)
# The order matters: an Enum may be a str or an int too, bytes are a sequence, a datetime is a date.

_BY_TYPE: dict[type, _Read] = {
    NoneType: _keep,
    bool: _keep,
    str: Reader._str,
    int: Reader._int,
    float: Reader._float,
    dict: Reader._dict,
    list: Reader._list,
}


def _pick(value: Any) -> _Read:
    for kinds, read in _READERS:
        if isinstance(value, kinds):
            return read
    # Methods are looked for on the class: a mock has any that it is asked for.
    if callable(getattr(type(value), "model_dump", None)):
        return Reader._model
    if dataclasses.is_dataclass(value):
        return Reader._dataclass
    if type(value).__module__ == "numpy" and hasattr(value, "dtype") and hasattr(value, "tobytes"):
        return Reader._numpy
    if callable(getattr(type(value), "read", None)) or callable(getattr(value, "read", None)):
        return Reader._file
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


def without_none(tree: Any) -> Any:
    """In the list of turns, a field that is None is as good as absent, so that a message object, its
    dump and the same message written by hand agree; so too in the lists that a turn has (its parts,
    its tool calls). What lies deeper may be a tool's own arguments: there, None is a value."""
    if not isinstance(tree, list):
        return tree
    return [
        {name: without_none(value) for name, value in item.items() if value is not None}
        if isinstance(item, dict)
        else item
        for item in tree
    ]


def is_sentinel(value: Any) -> bool:
    """The SDKs' "not given": `openai.NOT_GIVEN`, `openai.omit` and their namesakes elsewhere, which hold
    nothing, so that nothing is lost when they are left out."""
    if kind_of(value) not in ("NotGiven", "Omit"):
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


def _write_pairs(node: Pairs) -> Fragment:
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


def kind_of(value: Any) -> str:
    """The name of a value's type. Not asked of the type itself: a metaclass may say anything."""
    return str(_type_name(type(value)))


def _a(value: Any) -> str:
    noun = kind_of(value)
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
