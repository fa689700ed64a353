"""The laws of keys: what is the same request, what is another one, and that no argument can fail a call."""

from __future__ import annotations

import asyncio
import enum
import functools
import hashlib
import io
import logging
import os
import tempfile
import threading
from collections import ChainMap, OrderedDict, UserDict, UserList, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Any, NamedTuple, TypedDict
from unittest.mock import MagicMock, Mock
from uuid import UUID

import anthropic
import numpy as np
import openai
import pydantic
import pytest
from anthropic.types import Message, TextBlock, ToolUseBlock
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage
from openai.types.responses import ResponseOutputMessage

from asynccache import Cache, CacheKey, Directives, Target, status
from asynccache.answers import JSONAnswers
from asynccache.call_types import CALL_TYPES
from asynccache.keys import INERT, _build_thoroughly, build_key, vocal
from asynccache.material import ReadsFile, Unkeyable
from tests.key_walk import silent_parameters

LAW = settings(derandomize=True, deadline=None, max_examples=300)
MESSAGES = [{"role": "user", "content": "Hello"}]


async def nothing(**_: Any) -> None: ...


def target(call_type: str = "chat", endpoint: str = "", **more: Any) -> Target:
    return Target(nothing, CALL_TYPES[call_type], JSONAnswers(), endpoint, **more)


def key(
    params: Mapping[str, Any], call_type: str = "chat", *, endpoint: str = "", files: bool = True, **directives: Any
) -> CacheKey:
    return build_key(params, target(call_type, endpoint), Directives(**directives), files=files)


def digest(params: Mapping[str, Any], call_type: str = "chat", **more: Any) -> str:
    return key(params, call_type, **more).digest


def of(value: Any) -> str:
    """The digest of a call with this one argument."""
    return digest({"x": value})


def refusal(params: Mapping[str, Any]) -> Unkeyable:
    with pytest.raises(Unkeyable) as caught:
        key(params)
    return caught.value


# -- JSON: which requests are the same ------------------------------------------------------------

TEXTS = st.sampled_from(
    ["", "1", "1.0", "true", "null", "NaN", "a", '"', "{", "[", ",", ":", "\\", "é", "😀"]
) | st.text(max_size=4)
BAD_TEXTS = st.text(st.sampled_from("a\ud83d\ude00\udc80😀"), max_size=3)
NUMBERS = (
    st.integers(-3, 3)
    | st.integers(-3, 3).map(float)
    | st.sampled_from([-0.0, 0.5, 1e22, 10**22, 2**63, -(2**63) - 1, 2**64, 2.0**64, 10**400])
    | st.floats()
)
LEAVES = TEXTS | NUMBERS | st.booleans() | st.none()


def json_values(leaves: st.SearchStrategy[Any] = LEAVES) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(TEXTS, inner, max_size=3)
        ),
        max_leaves=8,
    )


def identity(value: Any) -> Any:
    """What a value is, said another way than the code under test says it."""
    if isinstance(value, bool) or value is None:
        return ("constant", repr(value))
    if isinstance(value, int | float):
        return ("number", "nan" if value != value else value)
    if isinstance(value, list | tuple):
        return ("list", tuple(map(identity, value)))
    if isinstance(value, dict):
        return ("dict", frozenset((identity(name), identity(item)) for name, item in value.items()))
    return (type(value).__name__, value)


@LAW
@given(json_values(), json_values())
def test_two_values_share_a_key_exactly_when_they_are_the_same(a: Any, b: Any) -> None:
    """The type and content of every leaf count, and nothing else: 1 is 1.0, and neither "1" nor True."""
    assert (of(a) == of(b)) == (identity(a) == identity(b))


@LAW
@given(
    st.sampled_from([0, 1, 1.0, "1", "1.0", True, "true", None, "null", 0.5, -0.0, False, "", [], {}, [[]]]),
    json_values(),
)
def test_a_leaf_is_never_taken_for_another(leaf: Any, other: Any) -> None:
    """The same law, at the values that are most alike."""
    assert (of([leaf]) == of([other])) == (identity(leaf) == identity(other))


@LAW
@given(
    st.dictionaries(st.text(max_size=3).filter(lambda name: name not in INERT), json_values(), max_size=4), st.randoms()
)
def test_order_never_matters(params: dict[str, Any], random: Any) -> None:
    """Neither the order of arguments nor that of dicts, at any depth, changes the key."""

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            pairs = [(name, shuffled(item)) for name, item in value.items()]
            random.shuffle(pairs)
            return dict(pairs)
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    assert digest(shuffled(params)) == digest(params)


@LAW
@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)
)
def test_no_two_requests_collide_by_concatenation(a: list[tuple[str, str]], b: list[tuple[str, str]]) -> None:
    """Names, values, roles and contents are delimited: shifting text from one to the next is another request."""
    one, other = dict(a), dict(b)
    assume(one != other and not INERT & {*one, *other})
    assert digest(one) != digest(other)
    turns = [[{"role": role, "content": text} for role, text in pairs] for pairs in (a, b)]
    assert (digest({"messages": turns[0]}) == digest({"messages": turns[1]})) == (turns[0] == turns[1])


@LAW
@given(
    st.dictionaries(st.sampled_from(["model", "temperature", "x", "stream", "extra_headers"]), json_values()),
    json_values(),
    st.sampled_from(["chat", "function"]),
)
def test_the_fast_way_and_the_thorough_way_agree(params: dict[str, Any], messages: Any, call_type: str) -> None:
    """A request has one key, whichever of the two ways builds it."""
    known, said = target(call_type), {**params, "messages": messages}
    assert build_key(said, known, Directives()) == _build_thoroughly(said, known, Directives(), False)


@LAW
@given(st.lists(st.dictionaries(TEXTS, TEXTS | NUMBERS | st.booleans(), max_size=3), max_size=3), TEXTS | NUMBERS)
def test_the_two_ways_agree_on_ordinary_requests(messages: list[dict[str, Any]], extra: Any) -> None:
    """The same law for what nearly all requests look like."""
    said = {"model": "m", "messages": messages, "seed": extra, "temperature": 1.0}
    assert build_key(said, target(), Directives()) == _build_thoroughly(said, target(), Directives(), False)


@LAW
@example("\ud83d\ude00\udc80", "😀\udc80")
@given(BAD_TEXTS | TEXTS, BAD_TEXTS | TEXTS)
def test_lone_surrogates_count(a: str, b: str) -> None:
    """Texts that are no UTF-8 have keys too, as values and as dict's keys, and none is taken for another;
    not even two surrogates for the character that they would make together."""
    assert (of(a) == of(b)) == (a == b)
    assert (of({a: 1}) == of({b: 1})) == (a == b)


DICT_KEYS = st.sampled_from(["1", 1, True, "true", None, "null", 2, 0.5, "0.5", "{1}", "a", (1,), "[1]", b"1"])


@LAW
@given(
    st.dictionaries(DICT_KEYS, st.integers(0, 1), max_size=3), st.dictionaries(DICT_KEYS, st.integers(0, 1), max_size=3)
)
def test_keys_of_dicts_have_types(a: dict[Any, Any], b: dict[Any, Any]) -> None:
    """{1: …}, {"1": …} and {True: …} are three different dicts; order does not matter here either."""
    assert (of(a) == of(b)) == (identity(a) == identity(b))
    assert of(a) == of(dict(reversed(a.items())))


def test_a_large_int_has_a_key_whatever_its_length() -> None:
    """Python refuses to write an int of more than 4,300 digits; its key does not."""
    assert of(10**5000) != of(10**5000 + 1)
    assert of(2**64) == of(2.0**64)


# -- other types ----------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Size(enum.IntEnum):
    ONE = 1


class Point(NamedTuple):
    x: int
    y: int


class Turn(TypedDict):
    role: str
    content: str


@dataclass(slots=True)
class SlottedTurn:
    role: str
    content: str


class ModelTurn(pydantic.BaseModel):
    role: str
    content: str
    name: str | None = None


class Wire(pydantic.BaseModel):
    from_: str = pydantic.Field(alias="from")


SAME: list[tuple[str, Any, Any]] = [
    ("str enum", Color.RED, "red"),
    ("enum as a dict's key", {Color.RED: 1}, {"red": 1}),
    ("int enum", Size.ONE, 1),
    ("str subclass", Name("a"), "a"),
    ("str subclass as a dict's key", {Name("a"): 1}, {"a": 1}),
    ("named tuple", Point(1, 2), [1, 2]),
    ("dict subclass", OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
    ("defaultdict", defaultdict(list, a=[1]), {"a": [1]}),
    ("mapping proxy", MappingProxyType({"a": 1}), {"a": 1}),
    ("chain map", ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    ("user dict", UserDict(a=1), {"a": 1}),
    ("user list", UserList([1, 2]), [1, 2]),
    ("sets in any order", {"a", "b", 3}, frozenset([3, "b", "a"])),
    ("bytes", b"ab", bytearray(b"ab")),
    ("memoryview", b"ab", memoryview(b"ab")),
    ("memoryview with gaps", b"ac", memoryview(b"abcd")[::2]),
    ("file in memory", b"ab", io.BytesIO(b"ab")),
    ("text file in memory", b"\xc3\xa9", io.StringIO("é")),
    ("tuple for an upload", ("a.txt", b"ab"), ("a.txt", io.BytesIO(b"ab"))),
    ("TypedDict", Turn(role="user", content="a"), {"role": "user", "content": "a"}),
    ("dataclass with slots", SlottedTurn("user", "a"), {"role": "user", "content": "a"}),
    ("model by alias", Wire(**{"from": "a"}), {"from": "a"}),
    ("numpy int", np.int32(7), 7),
    ("numpy float", np.float64(0.5), 0.5),
    ("numpy float32", np.float32(0.5), 0.5),
    ("numpy bool", np.bool_(True), True),
    ("numpy str", np.str_("a"), "a"),
    ("array without dimensions", np.array(5), 5),
    ("array in another layout", np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T)),
    ("datetime", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=timezone(timedelta(0)))),
    ("NaN", float("nan"), np.float32("nan")),
]


@pytest.mark.parametrize(("a", "b"), [pytest.param(a, b, id=name) for name, a, b in SAME])
def test_two_ways_to_say_the_same(a: Any, b: Any) -> None:
    """What a value is counts, not the class that carries it."""
    assert of(a) == of(b)
    assert of([{"deep": a}]) == of([{"deep": b}])


MOMENT = datetime(2026, 1, 2, 3, 4, 5)
DISTINCT: list[Any] = [
    *("a", b"a", ["a"], {"a"}, {"a": "a"}, "b", b"b", {"b"}, [], {}, set(), b"", "", None),
    *(0, 1, True, False, "1", "True", 0.1, np.float32(0.1), Decimal("0.1"), Decimal("0.10"), "0.1", 1j, "1j"),
    *(float("nan"), "nan", float("inf"), "inf", -float("inf"), Decimal("NaN")),
    *(MOMENT, MOMENT.replace(tzinfo=UTC), MOMENT.astimezone(timezone(timedelta(hours=1))).replace(hour=3), str(MOMENT)),
    *(MOMENT.isoformat(), MOMENT.date(), "2026-01-02", MOMENT.time(), MOMENT.replace(microsecond=1)),
    *(timedelta(seconds=1), timedelta(microseconds=1), UUID(int=1), str(UUID(int=1))),
    *(np.array([1, 2]), np.array([[1, 2]]), np.array([1.0, 2.0]), [1, 2], np.array([1, 2], "i4"), np.array([])),
    *(np.datetime64("2026-01-02", "ns"), np.datetime64("2026-01-02", "s"), np.datetime64("NaT", "s")),
    *(1767312000000000000, np.array([(1,)], [("a", "i4")]), np.array([(1,)], [("b", "i4")])),
    *(PurePosixPath("a"), "set[]", 'bytes["a"]', "float['nan']", hashlib.sha256(b"a").hexdigest()),
    *(ModelTurn, Wire, "ModelTurn"),
    *({1: "a"}, {"1": "a"}, {True: "a"}, {None: "a"}, {"null": "a"}, {b"a": "a"}, {MOMENT: "a"}, {(1,): "a"}),
    *("\ud83d\ude00", "😀", "\\ud83d\\ude00", "str['\\ud83d\\ude00']", Path("/no/\udcff"), Path("/no/\\udcff")),
]


def test_no_two_of_many_values_share_a_key() -> None:
    """Values of all types have keys of their own; a text that spells what another type is written as, too."""
    found: dict[str, Any] = {}
    for value in DISTINCT:
        made = of(value)
        assert made not in found, f"{value!r} and {found[made]!r}"
        found[made] = value


def test_a_moment_counts_by_what_it_says_whatever_its_class() -> None:
    """A subclass that keeps more than a datetime can, such as nanoseconds, counts with it."""

    class Nano(datetime):
        def isoformat(self, *_: Any, **__: Any) -> str:
            return "2026-01-02T03:04:05.000000001"

    assert of(Nano(2026, 1, 2, 3, 4, 5)) != of(datetime(2026, 1, 2, 3, 4, 5))
    assert of(date(2026, 1, 2)) != of(time(0, 0))


def test_a_sentinel_is_as_good_as_absent() -> None:
    """The SDKs' "not given" leaves no trace, as an argument or inside of one; a namesake of the user's does."""
    sentinels = [openai.NOT_GIVEN, openai.omit, openai.not_given, anthropic.NOT_GIVEN, anthropic.omit]
    plain = digest({"messages": MESSAGES, "tool": {}})
    for sentinel in sentinels:
        assert digest({"messages": MESSAGES, "tool": {"strict": sentinel}, "seed": sentinel}) == plain

    @dataclass
    class Omit:
        what: str

    assert of(Omit("a")) != of(Omit("b"))


def test_a_class_counts_by_its_name_and_schema() -> None:
    """`response_format=Person`: another field makes another key, the same class defined again does not."""

    def person(**fields: Any) -> Any:
        return pydantic.create_model("Person", **fields)

    assert of(person(name=(str, ...))) == of(person(name=(str, ...)))
    assert of(person(name=(str, ...))) != of(person(name=(int, ...)))


# -- messages: objects and dicts ------------------------------------------------------------------


def test_an_openai_message_sent_back() -> None:
    """The message of an answer makes the same key as an object, as either dump, or written by hand."""
    message = ChatCompletionMessage.model_validate(
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        }
    )
    by_hand = {
        "role": "assistant",
        "tool_calls": [{"type": "function", "id": "c", "function": {"arguments": "{}", "name": "f"}}],
    }
    turns = [message, message.to_dict(), message.model_dump(), by_hand]
    assert len({digest({"messages": [*MESSAGES, turn]}) for turn in turns}) == 1


def test_anthropic_and_responses_content_sent_back() -> None:
    """So do the content blocks of Anthropic's answers, and the items of OpenAI's responses."""
    blocks = [TextBlock(type="text", text="a"), ToolUseBlock(type="tool_use", id="t", name="f", input={"x": None})]
    message = Message.model_construct(content=blocks)
    by_hand = [
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"x": None}},
    ]
    contents = [message.content, [b.to_dict() for b in blocks], [b.model_dump() for b in blocks], by_hand]
    turns = [[*MESSAGES, {"role": "assistant", "content": content}] for content in contents]
    assert len({digest({"messages": turn}, "messages") for turn in turns}) == 1

    parts = [{"type": "output_text", "text": "a", "annotations": []}]
    item = {"id": "i", "type": "message", "role": "assistant", "status": "completed", "content": parts}
    output = ResponseOutputMessage.model_validate(item)
    assert len({digest({"input": [turn]}, "responses") for turn in (output, output.to_dict(), item)}) == 1


def test_none_counts_where_it_is_a_value() -> None:
    """None in a tool's own arguments, in a schema, or as an argument is something else than nothing."""

    def with_input(value: dict[str, Any]) -> str:
        block = {"type": "tool_use", "id": "t", "name": "f", "input": value}
        return digest({"messages": [{"role": "assistant", "content": [block]}]}, "messages")

    assert with_input({"x": None}) != with_input({})
    assert digest({"messages": MESSAGES, "top_k": None}) != digest({"messages": MESSAGES})
    assert of({"default": None}) != of({})


def test_the_default_that_stands_for_not_given() -> None:
    """An argument with its default value is as good as left out: None where None is the default, and a
    default that says something whether it is said aloud or not."""
    known = target(absent={"seed": None}, fill={"temperature": 0.5})
    calls: list[dict[str, Any]] = [{}, {"seed": None}, {"temperature": 0.5}, {"temperature": 0.5, "seed": None}]
    assert len({build_key({"model": "m", **call}, known, Directives()).digest for call in calls}) == 1
    assert build_key({"model": "m", "temperature": 1}, known, Directives()) != build_key(
        {"model": "m"}, known, Directives()
    )


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.wav"
    path.write_bytes(b"RIFF" * 100)
    return path


def test_files_count_by_content(recording: Path, tmp_path: Path) -> None:
    """An open file, its path, a copy of it and its bytes are one; another content is another request."""
    copy = tmp_path / "copy.wav"
    copy.write_bytes(recording.read_bytes())
    with (
        recording.open("rb") as opened,
        recording.open(encoding="ascii") as text,
        tempfile.SpooledTemporaryFile() as spooled,
    ):
        spooled.write(recording.read_bytes())
        spooled.seek(0)
        with os.scandir(tmp_path) as entries:
            entry = next(entry for entry in entries if entry.name == "copy.wav")
        same = [opened, text, recording, copy, entry, recording.read_bytes(), spooled]
        assert len({digest({"file": file}) for file in same}) == 1
    before = digest({"file": recording})
    recording.write_bytes(b"RIFX")
    assert digest({"file": recording}) != before


def test_a_file_is_read_from_where_it_stands_and_put_back(recording: Path) -> None:
    """The call will read the file from the same place, and only what it will read counts."""
    with recording.open("rb") as file:
        whole = digest({"file": file})
        file.seek(4)
        assert digest({"file": file}) != whole
        assert file.tell() == 4
    memory = io.BytesIO(b"abcd")
    memory.seek(2)
    assert digest({"file": memory}) == of_file(b"cd")
    assert memory.read() == b"cd"


def of_file(content: bytes) -> str:
    return digest({"file": content})


def test_files_are_read_only_where_blocking_is_allowed(recording: Path) -> None:
    """The event loop never waits for a disk: a file asks to be called again elsewhere. Memory does not."""
    with recording.open("rb") as file:
        for value in (file, recording, {"deep": [recording]}):
            with pytest.raises(ReadsFile):
                key({"file": value}, files=False)
    assert key({"file": io.BytesIO(b"a")}, files=False).digest == of_file(b"a")


async def test_a_call_with_a_file_is_cached(recording: Path) -> None:
    """End to end: by content, read in a thread, and the function finds the file where it stood."""

    async def transcribe(file: IO[bytes]) -> dict[str, int]:
        return {"length": len(await asyncio.to_thread(file.read))}

    async with Cache() as cache:
        wrapped = cache.wrap(transcribe)
        answers = []
        for _ in range(2):
            with recording.open("rb") as file:
                answers.append(await wrapped(file=file))
    assert answers == [{"length": 400}] * 2
    assert [status(answer).outcome for answer in answers] == ["miss", "hit"]


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    """A folder, or a path to nothing, counts by its name; none is taken for a file's content or a text."""
    paths = [tmp_path, tmp_path / "a", tmp_path / "b", tmp_path / "a" / "b", Path("a\0b"), PurePosixPath("a")]
    assert len({of(path) for path in paths} | {of(str(path)) for path in paths}) == 2 * len(paths)


def test_a_pipe_is_never_waited_for(tmp_path: Path, recording: Path) -> None:
    """Reading a pipe or a device would take from the call what it needs, or never end."""
    os.mkfifo(tmp_path / "pipe")
    assert refusal({"file": tmp_path / "pipe"}).place == "file"
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as pipe, os.fdopen(write_end, "wb") as writer, Path("/dev/zero").open("rb") as zeros:
        writer.write(b"abc")
        writer.flush()
        assert refusal({"file": pipe}).place == refusal({"file": zeros}).place == "file"
        assert pipe.read(3) == b"abc"
    recording.chmod(0)
    if os.geteuid():  # root may read anything
        assert refusal({"file": recording}).place == "file"


class Half(io.BytesIO):
    """Fails in the middle, or cannot be put back."""

    def __init__(self, fault: str) -> None:
        super().__init__(b"abcd")
        self.fault = fault

    def read(self, size: int | None = -1, /) -> bytes:
        if self.fault == "read" and self.tell():
            raise RuntimeError
        return super().read(2)

    def seek(self, *where: int) -> int:
        if self.fault == "seek":
            raise io.UnsupportedOperation
        return super().seek(*where)


@pytest.mark.parametrize("fault", ["read", "seek"])
def test_a_file_that_fails_is_left_as_it_was(fault: str) -> None:
    """Whatever goes wrong, the call finds the file where it stood."""
    file = Half(fault)
    assert refusal({"file": ("a.wav", file)}).place == "file[1]"
    assert file.tell() == 0


def test_a_file_that_is_read_asynchronously_is_bypassed() -> None:
    """Its coroutines are not begun, so that none is left unawaited."""

    class Upload:
        async def read(self, _: int = -1) -> bytes:
            return b""

        async def tell(self) -> int:
            return 0

    assert "asynchronously" in refusal({"file": Upload()}).why


def test_the_scope_of_a_request_with_a_file(recording: Path) -> None:
    """The scope is built with the key, so that a file which the call has read on does not change it."""
    with recording.open("rb") as file:
        params = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"file": file}]}]}
        made = key(params)
        file.read()
        assert made.text == "a"
        file.seek(0)
        assert made.scope == key(params).scope


# -- what has no stable value ---------------------------------------------------------------------


class Hostile:
    """Raises wherever it is looked at."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        raise RuntimeError

    def __bool__(self) -> bool:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError

    @property
    def __class__(self) -> Any:
        raise RuntimeError

    @__class__.setter
    def __class__(self, _: Any) -> None: ...


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


class HostileClass(metaclass=HostileMeta):
    pass


class HostileDump:
    def model_dump(self) -> Any:
        raise KeyError("x")


class HostileMapping(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise RuntimeError

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


class HostileSequence(Sequence[Any]):
    def __getitem__(self, index: Any) -> Any:
        raise OSError

    def __len__(self) -> int:
        return 3


class HostilePath:
    def __fspath__(self) -> str:
        raise RuntimeError


class HostileFile:
    def read(self, _: int) -> bytes:
        raise RuntimeError

    def tell(self) -> Any:
        return object()


class HostileStr(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def encode(self, *_: Any) -> bytes:
        raise RuntimeError

    def isascii(self) -> bool:
        raise RuntimeError

    __hash__ = str.__hash__


class HostileInt(int):
    def __int__(self) -> int:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = int.__hash__


@dataclass(slots=True)
class Unfinished:
    missing: int

    def __init__(self) -> None: ...


def endless() -> list[Any]:
    within: list[Any] = []
    within.append({"again": within})
    return within


def deep(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def closed() -> IO[bytes]:
    file = io.BytesIO()
    file.close()
    return file


def released() -> memoryview:
    view = memoryview(b"a")
    view.release()
    return view


UNKEYABLE: dict[str, Callable[[], Any]] = {
    "object": object,
    "lambda": lambda: lambda: 1,
    "partial": lambda: functools.partial(print),
    "method": lambda: [].append,
    "generator": lambda: (i for i in "ab"),
    "iterator": lambda: iter([1]),
    "map": lambda: map(str, [1]),
    "dict view": lambda: {}.values(),
    "lock": threading.Lock,
    "module": lambda: os,
    "ellipsis": lambda: ...,
    "exception": ValueError,
    "class without a schema": lambda: Color,
    "generic alias": lambda: list[int],
    "array of objects": lambda: np.array([object()]),
    "long double": lambda: np.longdouble(1),
    "dtype": lambda: np.dtype("f4"),
    "random generator": lambda: np.random.default_rng(0),
    "masked array": lambda: np.ma.masked_array([1, 2], [True, False]),
    "mock": Mock,
    "mock of a dict": lambda: Mock(spec=dict),
    "mock of a str": lambda: Mock(spec=str),
    "mock of a bool": lambda: Mock(spec=bool),
    "mock of an enum": lambda: Mock(spec=Color.RED),
    "mock of a file": lambda: MagicMock(spec=io.BytesIO),
    "hostile": Hostile,
    "hostile class": lambda: HostileClass,
    "of a hostile class": lambda: object.__new__(HostileClass),
    "hostile dump": HostileDump,
    "hostile mapping": HostileMapping,
    "hostile sequence": HostileSequence,
    "hostile path": HostilePath,
    "hostile file": HostileFile,
    "dataclass without its field": Unfinished,
    "endless": endless,
    "deep": lambda: deep(300),
    "too deep for Python": lambda: deep(100_000),
    "closed file": closed,
    "released memoryview": released,
    "key that is an object": lambda: {object(): 1},
    "keys that are written alike": lambda: {Color.RED: 1, "red": 2},
    "set of objects": lambda: {object()},
    "secret": lambda: pydantic.SecretStr("a"),
    "model with an object": lambda: pydantic.create_model("M", x=(Any, ...))(x=object()),
}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in UNKEYABLE.items()])
def test_what_has_no_stable_value_is_refused_by_its_place(make: Callable[[], Any]) -> None:
    """Nothing but Unkeyable comes of it, wherever it stands, and that says where."""
    assert refusal({"x": make()}).place.startswith("x")
    assert refusal({"messages": [{"content": ["a", make()]}]}).place.startswith("messages[0].content[1]")
    assert refusal({"messages": make()}).place.startswith("messages")
    said = {"messages": MESSAGES, "extra_headers": make(), "client": make(), "timeout": make()}
    assert len(digest(said)) == 64


@pytest.mark.parametrize("value", [HostileStr("a"), HostileInt(3)], ids=["str", "int"])
def test_a_subclass_is_read_past_its_own_methods(value: Any) -> None:
    """What a str or an int is does not depend on what its subclass says of itself."""
    plain = str.__str__(value) if isinstance(value, str) else 3
    assert of([value]) == of([plain])


PLACES: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": ["a", object()]}]}, "messages[0].content[1]"),
    ({"x": {"a": {"b c": [object()]}}}, "x.a['b c'][0]"),
    ({"x": {1: object()}}, "x{1}"),
    ({"x": {"a.b": object()}}, "x['a.b']"),
    ({"x": [{object()}]}, "x[0]{}"),
    ({"x": {object(): 1}}, "x"),
    ({"x": [ModelTurn.model_construct(role="a", content=object())]}, "x[0].content"),
    ({"x": [SlottedTurn("a", object())]}, "x[0].content"),  # type: ignore[arg-type]
    ({"no-such": object()}, "no-such"),
    ({"x": {"a" * 500: object()}}, "x." + "a" * 98 + "…"),
]


@pytest.mark.parametrize(("params", "place"), PLACES, ids=[place[:30] for _, place in PLACES])
def test_the_place_is_exact(params: dict[str, Any], place: str) -> None:
    """The reason names the innermost argument that has no stable value."""
    assert refusal(params).place == place


def test_a_generator_of_messages_is_not_consumed() -> None:
    """The call finds all of its messages still there."""
    messages = (message for message in MESSAGES)
    assert refusal({"messages": messages}).place == "messages"
    assert list(messages) == MESSAGES


async def test_a_call_that_cannot_be_keyed_is_made_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """It is bypassed with a reason that names the place, and that is logged once per place."""

    async def ask(messages: list[Any], tool: Any = None) -> dict[str, Any]:
        return {"seen": len(messages), "tool": tool is not None}

    caplog.set_level(logging.WARNING, "asynccache")
    async with Cache() as cache:
        wrapped = cache.wrap(ask)
        for _ in range(3):
            answer = await wrapped([{"role": "user", "content": [1, object()]}])
            assert status(answer).outcome == "bypass"
            assert status(answer).reason.startswith("unkeyable: messages[0].content[1]: ")
        answer = await wrapped(MESSAGES, tool=HostileMapping())
        assert answer == {"seen": 1, "tool": True}
        assert cache.stats.bypassed == 4
    assert [record.message.split(":")[0].rpartition(" ")[2] for record in caplog.records] == [
        "messages[0].content[1]",
        "tool",
    ]


@dataclass(frozen=True)
class Hole:
    """Where one of UNKEYABLE goes: Hypothesis itself cannot bear to look at all of them."""

    name: str


def filled(value: Any) -> Any:
    if isinstance(value, Hole):
        return UNKEYABLE[value.name]()
    if isinstance(value, SlottedTurn):
        return SlottedTurn(filled(value.role), filled(value.content))
    if isinstance(value, ModelTurn):
        return ModelTurn.model_construct(role=filled(value.role))
    if type(value) is list:
        return [filled(item) for item in value]
    return {name: filled(item) for name, item in value.items()} if type(value) is dict else value


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([*UNKEYABLE]).map(Hole) | st.sampled_from(DISTINCT) | LEAVES | BAD_TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(DICT_KEYS | BAD_TEXTS, inner, max_size=3)
        | st.builds(SlottedTurn, inner, inner)
        | inner.map(lambda role: ModelTurn.model_construct(role=role))
    ),
    max_leaves=6,
)


@LAW
@given(
    st.dictionaries(TEXTS | BAD_TEXTS | st.sampled_from([*INERT, "messages", "model"]), ANYTHING, max_size=4),
    st.sampled_from([*CALL_TYPES]),
)
def test_nothing_but_a_key_or_a_refusal_comes_of_any_arguments(params: dict[str, Any], call_type: str) -> None:
    """A cache never makes a good call fail: no argument of any kind raises anything else, in the key or
    in its other views."""
    try:
        made = key(filled(params), call_type)
    except Unkeyable as error:
        said = str(error)
    else:
        said = made.text
        assert len(made.digest) == 64
        assert len(made.scope) in (0, 64)
    assert isinstance(said, str)


# -- the three views ------------------------------------------------------------------------------

WORDS = st.sampled_from(["", "a", "b", "ab", "a\n", "b\na"])
SYSTEM = st.fixed_dictionaries({"role": st.just("system"), "content": WORDS})
EARLIER = st.lists(SYSTEM | st.fixed_dictionaries({"role": st.just("assistant"), "content": WORDS}), max_size=2)


@LAW
@given(EARLIER, EARLIER, WORDS, WORDS, st.sampled_from(["m", "n"]), st.sampled_from(["text", "parts", "object"]))
def test_scope_is_everything_but_the_last_text(
    one: list[Any], other: list[Any], a: str, b: str, model: str, form: str
) -> None:
    """Changing the last user text does not change the scope; changing anything else does."""

    def asked(earlier: list[Any], text: str, model: str = "m") -> CacheKey:
        last: Any = {"role": "user", "content": text}
        if form == "parts":
            last["content"] = [{"type": "text", "text": text}, {"type": "image_url", "image_url": "u"}]
        elif form == "object":
            last = ModelTurn(role="user", content=text)
        return key({"model": model, "messages": [*earlier, last]})

    first, second = asked(one, a), asked(other, b, model)
    assert (first.scope == second.scope) == (one == other and model == "m")
    assert (first.text, second.text) == (a, b)
    assert (first == second) == (first.scope == second.scope and a == b)


def test_scope_covers_what_stands_beside_the_text() -> None:
    """An image beside the last text, the tenant, the namespace and the endpoint are in the scope."""

    def scope(image: str = "a", *, endpoint: str = "", **borders: Any) -> str:
        parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": image}]
        return key({"messages": [{"role": "user", "content": parts}]}, endpoint=endpoint, **borders).scope

    scopes = [scope(), scope("b"), scope(tenant="a"), scope(tenant="b"), scope(namespace="a"), scope(endpoint="a")]
    assert len(set(scopes)) == len(scopes)


@pytest.mark.parametrize(
    ("call_type", "params", "text"),
    [
        ("chat", {"messages": [*MESSAGES, {"role": "assistant", "content": "a"}]}, ""),
        ("chat", {"messages": []}, ""),
        ("chat", {"messages": "Hi"}, "Hi"),
        ("chat", {"messages": ({"role": "user", "content": "Hi"},)}, "Hi"),
        ("chat", {"messages": [{"role": "user", "content": None}]}, ""),
        ("chat", {"messages": [ChatCompletionMessage(role="assistant", content="a")]}, ""),
        ("responses", {"input": "Hi"}, "Hi"),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}, "Hi"),
        ("responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": "o"}]}, ""),
        ("messages", {"system": "s", "messages": MESSAGES}, "Hello"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "r"}]}]}, ""),
        ("embedding", {"input": "Hi"}, ""),
        ("function", {"messages": MESSAGES}, ""),
    ],
)
def test_text_is_what_the_user_said_last(call_type: str, params: dict[str, Any], text: str) -> None:
    """Only a last turn that is the user's has a text to be compared; tools' answers and vectors have none."""
    made = key(params, call_type)
    assert made.text == text
    assert len(made.scope) == 64
    if not text:
        assert made.scope == made.digest


# -- borders --------------------------------------------------------------------------------------

BORDERS = st.sampled_from(
    ["", "a", "b", "ab", '"', '","', "a\0", "\0", "a" * 64, "a" * 65, hashlib.sha256(b"a").hexdigest()]
)


@LAW
@given(st.tuples(BORDERS, BORDERS, BORDERS | st.none()), st.tuples(BORDERS, BORDERS, BORDERS | st.none()))
def test_no_two_borders_collide(a: tuple[str, str, str | None], b: tuple[str, str, str | None]) -> None:
    """Endpoint, namespace and tenant each keep apart, whatever their names contain."""
    one, other = (
        digest({"messages": MESSAGES}, endpoint=endpoint, namespace=namespace, tenant=tenant)
        for endpoint, namespace, tenant in (a, b)
    )
    assert (one == other) == (a == b)


def test_a_short_tenant_is_not_padded_into_another() -> None:
    """HMAC fills short keys up with zeros: that does not make two tenants one."""
    tenants = ["a", "a\0", "a\0\0"]
    assert len({digest({"messages": MESSAGES}, tenant=tenant) for tenant in tenants}) == 3


def test_call_types_keep_apart() -> None:
    """The same arguments of two kinds of call are two requests."""
    assert len({digest({"model": "m"}, name) for name in CALL_TYPES}) == len(CALL_TYPES)


# -- every parameter of the SDKs ------------------------------------------------------------------

CREATE = {"stream", "extra_headers", "timeout"}


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "sync"])
def test_every_parameter_counts_or_is_known_to_be_inert(asynchronous: bool) -> None:
    """Changing any parameter in the signatures of the SDKs changes the key, but for those that were reviewed."""
    cache = Cache()
    gpt = cache.wrap(openai.AsyncOpenAI(api_key="k") if asynchronous else openai.OpenAI(api_key="k"))
    claude = cache.wrap(anthropic.AsyncAnthropic(api_key="k") if asynchronous else anthropic.Anthropic(api_key="k"))
    chat = {"model": "m", "messages": MESSAGES}
    assert silent_parameters(gpt.chat.completions.create, chat) == CREATE | {"stream_options"}
    assert silent_parameters(gpt.responses.create, {"model": "m", "input": "Hello"}) == CREATE | {"stream_options"}
    assert silent_parameters(gpt.embeddings.create, {"model": "m", "input": "Hello"}) == CREATE - {"stream"}
    assert silent_parameters(claude.messages.create, {**chat, "max_tokens": 9}) == CREATE


@LAW
@given(st.text(min_size=1, max_size=12), st.sampled_from(sorted(CALL_TYPES)))
def test_what_a_provider_adds_tomorrow_counts(name: str, call_type: str) -> None:
    """An argument of any other name is in the key by itself."""
    assume(name not in INERT)
    calls: list[dict[str, Any]] = [{"model": "m"}, {"model": "m", name: 1}, {"model": "m", name: "1"}]
    assume(name != "model")
    assert len({digest(call, call_type) for call in calls}) == 3


@pytest.mark.parametrize("name", sorted(INERT - {"client"}))
def test_inert_arguments_do_not_count(name: str) -> None:
    """Those on the list do not, whatever they are; not even when they are no stable values."""
    plain = digest({"messages": MESSAGES})
    for value in (True, "a", {"x": "y"}, object(), None, Hostile()):
        assert digest({"messages": MESSAGES, name: value}) == plain


def test_headers_that_change_the_answer_count() -> None:
    """`anthropic-…` and `openai-…` count, whatever their case and order; a trace id does not."""

    def with_headers(headers: Any) -> str:
        return digest({"messages": MESSAGES, "extra_headers": headers})

    plain = with_headers(None)
    beta = with_headers({"anthropic-beta": "a"})
    assert with_headers({"X-Trace": "1", "Authorization": "secret"}) == plain
    assert with_headers({"X-Trace": "1", "Anthropic-Beta": "a"}) == beta != plain
    assert with_headers({b"anthropic-beta": b"a"}) == beta
    assert with_headers({"anthropic-beta": "b"}) not in (plain, beta)
    assert with_headers({"anthropic-beta": "a", "Anthropic-Beta": "b"}) == with_headers(
        {"Anthropic-Beta": "b", "anthropic-beta": "a"}
    )
    # Taking out a header that the client would send is a change too, and the same one every time.
    assert with_headers({"anthropic-beta": openai.omit}) not in (plain, beta)
    assert with_headers({"anthropic-beta": openai.omit}) == with_headers({"anthropic-beta": anthropic.omit})
    assert digest({"messages": MESSAGES, "headers": {"anthropic-beta": "a"}}) not in (plain, beta)
    assert vocal([("anthropic-beta", "a")]) == {}


def test_headers_of_a_plain_function_count_in_full() -> None:
    """What a header says to a function that is no known kind of call, nobody can tell."""
    calls = [{}, {"headers": {"accept-language": "de"}}, {"headers": {"accept-language": "fr"}}]
    assert len({digest(call, "function") for call in calls}) == 3


def test_a_client_counts_by_where_it_goes() -> None:
    """A client in the arguments counts by its base URL, organization and project, and by nothing else."""

    def with_client(**options: Any) -> str:
        return digest({"messages": MESSAGES, "client": openai.AsyncOpenAI(api_key="k", **options)})

    assert with_client() == with_client(timeout=3, max_retries=0)
    other = [with_client(), with_client(base_url="http://x"), with_client(organization="o"), with_client(project="p")]
    assert len(set(other)) == 4
    assert digest({"messages": MESSAGES, "client": Mock()}) == digest({"messages": MESSAGES})


# -- the wrapped function knows its key ------------------------------------------------------------


async def test_get_cache_key_is_the_key_of_the_call() -> None:
    """For every kind of function: async, sync, one that takes anything, with messages or without."""

    async def chat(messages: list[Any], temperature: float = 1.0) -> dict[str, Any]:
        return {"choices": messages, "temperature": temperature}

    async def anything(**params: Any) -> dict[str, Any]:
        return {"said": [*params]}

    def sync(messages: list[Any]) -> dict[str, Any]:
        return {"choices": messages}

    async with Cache() as cache:
        for function in (chat, anything):
            wrapped: Any = cache.wrap(function)
            answer = await wrapped(messages=MESSAGES)
            assert status(answer).key == cache.get_cache_key(wrapped, messages=MESSAGES)
        other: Any = cache.wrap(anything)
        assert status(await other(query="a")).key == cache.get_cache_key(other, query="a")
        wrapped_sync = cache.wrap(sync)
        answer = await asyncio.to_thread(wrapped_sync, messages=MESSAGES)
        assert status(answer).key == cache.get_cache_key(wrapped_sync, messages=MESSAGES)


def test_directives_that_are_no_borders_do_not_count() -> None:
    """How long an answer is kept, and under which tags, does not make it another answer."""
    base = Directives()
    changes: list[dict[str, Any]] = [{"ttl": 5.0}, {"max_age": 5.0}, {"no_cache": True}, {"no_store": True}]
    for change in (*changes, {"tags": ("a",)}):
        changed = replace(base, **change)
        assert build_key({"model": "m"}, target(), changed) == build_key({"model": "m"}, target(), base)
