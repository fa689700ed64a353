"""Chat completions: which answers may be stored, and what to remember of them."""

from __future__ import annotations

from typing import Any

import pytest

from asynccache.call_types import CALL_TYPES

CHAT = CALL_TYPES["chat"]
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def choice(finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}


def answer(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-2024", "choices": list(choices), "usage": USAGE, **more}


def call(arguments: str) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}


ANSWERS: list[tuple[str, Any, str]] = [
    ("a text", answer(choice(content="Hi")), ""),
    ("no finish reason", answer(choice(None, content="Hi")), ""),
    ("two choices", answer(choice(content="Hi"), choice(content="Ho")), ""),
    ("cut off", answer(choice("length", content="Hi")), "length"),
    ("the second choice cut off", answer(choice(content="Hi"), choice("length", content="Ho")), "length"),
    ("filtered", answer(choice("content_filter", content="")), "content_filter"),
    ("refused", answer(choice(content=None, refusal="No.")), "refusal"),
    ("no text", answer(choice(content="")), "empty"),
    ("no message", answer({"finish_reason": "stop"}), "empty"),
    ("no choices", answer(), "empty"),
    ("choices is null", answer() | {"choices": None}, "empty"),
    ("an error in a 200", answer(choice(content="Hi"), error={"message": "overloaded"}), "error"),
    ("a tool call", answer(choice("tool_calls", content=None, tool_calls=[call('{"a": 1}')])), ""),
    ("a tool call without arguments", answer(choice("tool_calls", tool_calls=[call("")])), ""),
    ("a tool call cut off", answer(choice("tool_calls", tool_calls=[call("{}"), call('{"a": ')])), "tool-arguments"),
    ("an old function call", answer(choice("function_call", function_call={"name": "f", "arguments": "{}"})), ""),
    (
        "an old one cut off",
        answer(choice("function_call", function_call={"name": "f", "arguments": "{"})),
        "tool-arguments",
    ),
    ("a custom tool", answer(choice("tool_calls", tool_calls=[{"type": "custom", "custom": {"input": "x("}}])), ""),
    ("audio", answer(choice(content=None, audio={"id": "a"})), ""),
    ("another shape", {"text": "Hi"}, ""),
    ("a text alone", "Hi", ""),
    ("nothing", None, "empty"),
    ("an empty dict", {}, "empty"),
    ("an empty text", "", "empty"),
]


@pytest.mark.parametrize(("value", "refusal"), [pytest.param(v, r, id=name) for name, v, r in ANSWERS])
def test_only_whole_and_good_answers_are_stored(value: Any, refusal: str) -> None:
    """An answer that was cut off, filtered, refused, or says nothing, would be wrong for the next caller."""
    assert CHAT.judge(value).refusal == refusal


def test_the_facts_of_an_answer() -> None:
    """The model that answered and what it used are remembered, also of an answer that is refused."""
    assert CHAT.judge(answer(choice(content="Hi"))).facts == {"model": "gpt-4o-2024", "usage": USAGE}
    assert CHAT.judge(answer()).facts == {"model": "gpt-4o-2024", "usage": USAGE}
    assert CHAT.judge("Hi").facts == {}


def chunk(finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {
        "model": "gpt-4o-2024",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
        "usage": None,
    }


def part(text: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": text}}


USED = {"choices": [], "usage": USAGE}
HEAD = chunk(role="assistant", content="")
STREAMS: list[tuple[str, list[Any], str]] = [
    ("a text", [HEAD, chunk(content="H"), chunk(content="i"), chunk("stop"), USED], ""),
    ("the end in the last text", [HEAD, chunk("stop", content="Hi")], ""),
    ("no end", [HEAD, chunk(content="Hi")], "unfinished"),
    ("cut off", [HEAD, chunk(content="Hi"), chunk("length")], "length"),
    ("filtered", [HEAD, chunk("content_filter")], "content_filter"),
    ("refused", [HEAD, chunk(refusal="No."), chunk("stop")], "refusal"),
    ("no text", [HEAD, chunk("stop")], "empty"),
    ("nothing", [], "empty"),
    ("only usage", [USED], "empty"),
    ("an error on the way", [HEAD, chunk(content="H"), {"error": {"message": "overloaded"}}], "error"),
    ("two choices", [chunk("stop", content="a"), chunk("stop", 1, content="b")], ""),
    ("one of two has no end", [chunk("stop", content="a"), chunk(None, 1, content="b")], "unfinished"),
    ("a tool call", [chunk(tool_calls=[part('{"a"')]), chunk(tool_calls=[part(": 1}")]), chunk("tool_calls")], ""),
    (
        "two tool calls",
        [chunk(tool_calls=[part("{"), part("{", 1)]), chunk(tool_calls=[part("}", 1), part("}")]), chunk("tool_calls")],
        "",
    ),
    ("a tool call cut off", [chunk(tool_calls=[part('{"a"')]), chunk("tool_calls")], "tool-arguments"),
    ("another shape", ["H", "i"], ""),
]


@pytest.mark.parametrize(("chunks", "refusal"), [pytest.param(c, r, id=name) for name, c, r in STREAMS])
def test_a_stream_is_judged_as_its_answer(chunks: list[Any], refusal: str) -> None:
    """By all of its choices, each to its end."""
    assert CHAT.judge_stream(chunks).refusal == refusal


def test_the_facts_of_a_stream() -> None:
    """They may stand in any of its chunks."""
    verdict = CHAT.judge_stream([HEAD, chunk("stop", content="Hi"), USED])
    assert verdict.facts == {"model": "gpt-4o-2024", "usage": USAGE}
