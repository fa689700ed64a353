"""Laws of answers in pieces: what is cut is assembled to what it was, and borders between pieces do not matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from asynccache.call_types import chat_chunks, messages_events, responses_events
from asynccache.call_types.pieces import pieces, tokens
from tests import wire
from tests.wire import JSON

LAW = settings(derandomize=True, deadline=None, max_examples=200)
FORMATS: dict[str, ModuleType] = {"chat": chat_chunks, "responses": responses_events, "messages": messages_events}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=5
)
texts = st.text() | st.text("ab 春\u200d👩\ufe0f\n\u0301", max_size=40)
unknown = st.dictionaries(st.text(max_size=5).map("x_{}".format), anything, max_size=2)
counts = st.integers(0, 10**6)


def shape(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> SearchStrategy[JSON]:
    """Objects with these fields, and with some that nobody knows."""

    def field(value: Any) -> SearchStrategy[Any]:
        return value if isinstance(value, SearchStrategy) else st.just(value)

    known = st.fixed_dictionaries(
        {name: field(value) for name, value in required.items()},
        optional={name: field(value) for name, value in (optional or {}).items()},
    )
    return st.builds(lambda known, more: {**more, **known}, known, unknown)


def logprobs_of(said: list[str]) -> list[JSON]:
    return [
        {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []} for token in said if token
    ]


# -- chat ----------------------------------------------------------------------------------------------

arguments = texts | st.none() | anything
function = shape({"name": st.text()}, {"arguments": arguments})
call = shape({"id": st.text(), "type": "function"}, {"function": function, "custom": anything})
indexed = st.lists(shape({"type": "reasoning.text", "index": st.integers(0, 2)}, {"text": texts}), max_size=3)
message = shape(
    {"role": "assistant"},
    {
        **dict.fromkeys(("content", "refusal", "reasoning", "reasoning_content"), texts | st.none()),
        "annotations": st.lists(anything, max_size=2),
        "audio": st.none() | shape({"id": st.text(), "data": st.text(), "expires_at": counts}),
        "function_call": st.none() | function,
        "tool_calls": st.none() | st.lists(call, max_size=3),
        "reasoning_details": indexed,
    },
)
entries = st.lists(texts, max_size=4).map(logprobs_of)


@st.composite
def choices(draw: st.DrawFn) -> list[JSON]:
    made = []
    for index in sorted(draw(st.sets(st.integers(0, 5), max_size=3))):
        logprobs = st.none() | shape({"content": st.none() | entries, "refusal": st.none() | entries})
        choice = draw(shape({"index": index, "message": message, "finish_reason": st.text()}, {"logprobs": logprobs}))
        said = (choice.get("logprobs") or {}).get("content")
        if said and draw(st.booleans()):
            choice["message"]["content"] = "".join(entry["token"] for entry in said)
        made.append(choice)
    return made


completions = shape(
    {"id": st.text(), "object": "chat.completion", "created": counts, "model": st.text(), "choices": choices()},
    {
        "usage": shape({"total_tokens": counts}),
        "service_tier": st.none() | st.text(),
        "system_fingerprint": st.none() | st.text(),
    },
)

# -- responses -----------------------------------------------------------------------------------------

parts = (
    shape({"type": "output_text", "text": texts}, {"annotations": st.lists(anything, max_size=2), "logprobs": entries})
    | shape({"type": "refusal", "refusal": texts})
    | shape({"type": st.text()}, {"text": texts})
)
items = (
    shape({"type": "message", "id": st.text(), "content": st.lists(parts, max_size=3)}, {"status": "completed"})
    | shape(
        {"type": "reasoning", "summary": st.lists(shape({"type": "summary_text", "text": texts}), max_size=2)},
        {"content": st.lists(shape({"type": "reasoning_text", "text": texts}), max_size=2) | st.none()},
    )
    | shape({"type": "function_call", "call_id": st.text(), "arguments": texts}, {"name": st.text()})
    | shape({"type": st.sampled_from(["mcp_call", "custom_tool_call", "code_interpreter_call", "web_search_call"])})
    | shape({"type": st.text()}, {"content": anything, "summary": anything})
)
whole_responses = shape(
    {"id": st.text(), "object": "response", "output": st.lists(items, max_size=3)},
    {"status": st.sampled_from(["completed", "incomplete", "failed"]), "usage": anything, "error": anything},
)

# -- messages ------------------------------------------------------------------------------------------

tool_input = st.dictionaries(st.text(), anything, max_size=3)
blocks = (
    shape({"type": "text", "text": texts}, {"citations": st.none() | st.lists(anything.filter(bool), max_size=2)})
    | shape({"type": "thinking", "thinking": texts}, {"signature": st.text()})
    | shape({"type": st.sampled_from(["tool_use", "server_tool_use"]), "id": st.text(), "input": tool_input})
    | shape({"type": st.text()}, {"input": anything, "content": anything})
)
usage = shape({"input_tokens": counts, "output_tokens": counts}, {"server_tool_use": anything})
whole_messages = shape(
    {
        "id": st.text(),
        "type": "message",
        "role": "assistant",
        "content": st.lists(blocks, max_size=3),
        "stop_reason": st.none() | st.text(),
        "stop_sequence": st.none() | st.text(),
        "usage": usage,
    },
    {"container": anything, "stop_details": anything},
)


@LAW
@given(completions)
def test_a_completion_survives_cutting(answer: JSON) -> None:
    """Whatever it holds; without its usage when nobody asked for that."""
    assert chat_chunks.assemble(chat_chunks.cut(answer, include_usage=True)) == answer
    bare = {name: answer[name] for name in answer if name != "usage"}
    assert chat_chunks.assemble(chat_chunks.cut(answer)) == bare


@LAW
@given(whole_responses)
def test_a_response_survives_cutting(answer: JSON) -> None:
    """Whatever it holds; and its events are numbered."""
    events = responses_events.cut(answer)
    assert responses_events.assemble(events) == answer
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@LAW
@given(whole_messages)
def test_a_message_survives_cutting(answer: JSON) -> None:
    """Whatever it holds."""
    assert messages_events.assemble(messages_events.cut(answer)) == answer


@LAW
@given(completions)
def test_usage_is_asked_for_or_not(answer: JSON) -> None:
    """One recording serves those who asked for the usage and those who did not; doing it twice is doing it once."""
    chunks = chat_chunks.cut(answer, include_usage=True)
    bare = chat_chunks.with_usage(chunks, False)
    assert bare == chat_chunks.cut(answer)
    assert chat_chunks.with_usage(bare, False) == bare
    asked = chat_chunks.with_usage(chunks, True)
    assert asked == (chunks if answer.get("usage") else None)
    assert chat_chunks.with_usage(bare, True) is None


@LAW
@given(texts)
def test_pieces_are_the_text(text: str) -> None:
    """Nothing is lost or added, no piece is empty, and none begins with what belongs to the sign before it."""
    cut = pieces(text)
    assert "".join(cut) == text
    assert all(cut)
    assert not any(piece[0] in "\u0301\u200d\ufe0f" for piece in cut[1:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ab c", ["ab", " c"]),
        ("春眠不覺曉，處處聞啼鳥。", ["春眠不覺曉，處處", "聞啼鳥。"]),
        ("👨‍👩‍👧‍👦👍🏽", ["👨‍👩‍👧‍👦👍🏽"]),
        ("abcdefg\u200d👩x", ["abcdefg\u200d👩", "x"]),
        (" \n", [" \n"]),
        ("", []),
    ],
)
def test_pieces_are_small(text: str, said: list[str]) -> None:
    """About a word each, also where there are no spaces; signs of several characters stay whole."""
    assert pieces(text) == said


def test_tokens_are_used_when_they_make_up_the_text() -> None:
    """And not when they are parts of characters, when some are missing, or when there is nothing to say."""
    logprobs = logprobs_of(["a", " b"])
    assert tokens("a b", logprobs) == [("a", logprobs[0]), (" b", logprobs[1])]
    assert tokens("a bc", logprobs) is None
    assert tokens("a b", None) is None
    assert tokens("ab", [{"token": "ab"}, None]) is None
    assert tokens("", []) is None


# -- other borders -------------------------------------------------------------------------------------

Path = tuple[str | int, ...]

PLACES: dict[str, list[Path]] = {
    "chat": [
        *[("choices", 0, "delta", name) for name in ("content", "refusal", "reasoning", "reasoning_content")],
        ("choices", 0, "delta", "tool_calls", 0, "function", "arguments"),
        ("choices", 0, "delta", "function_call", "arguments"),
        ("choices", 0, "delta", "audio", "data"),
    ],
    "responses": [("delta",)],
    "messages": [("delta", "text"), ("delta", "thinking"), ("delta", "partial_json")],
}
"""Where the texts of an event are."""


def at(value: Any, path: Path) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def put(value: Any, path: Path, leaf: str) -> Any:
    """A copy with another text at that place."""
    if not path:
        return leaf
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], leaf)
    return copy


def alone(value: Any, path: Path, leaf: str) -> Any:
    """That text, and of the rest only what says where it belongs."""
    if not path:
        return leaf
    inner = alone(value[path[0]], path[1:], leaf)
    if isinstance(value, list):
        return [inner]
    return {**{name: value[name] for name in ("index", "type") if name in value}, path[0]: inner}


def places(api: str, events: list[JSON]) -> Iterator[tuple[int, Path]]:
    for number, event in enumerate(events):
        for path in PLACES[api]:
            if isinstance(at(event, path), str):
                yield number, path


SOUND = [name for api in FORMATS for name in wire.names(api) if not name.endswith("_error")]


@pytest.mark.parametrize("name", SOUND)
@settings(LAW, max_examples=20)
@given(st.data())
def test_borders_do_not_matter(name: str, data: st.DataObject) -> None:
    """A recorded stream whose texts are divided at other places assembles to the same answer."""
    api = name.partition("_")[0]
    events = wire.said(name)
    whole = FORMATS[api].assemble(events)
    for _ in range(data.draw(st.integers(1, 6))):
        found = list(places(api, events))
        if not found:
            break
        number, path = data.draw(st.sampled_from(found))
        text = at(events[number], path)
        border = data.draw(st.integers(0, len(text)))
        halves = [put(events[number], path, text[:border]), alone(events[number], path, text[border:])]
        events[number : number + 1] = halves
    assert FORMATS[api].assemble(events) == whole
