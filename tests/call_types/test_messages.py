"""Anthropic's messages: which answers may be stored, and what to remember of them."""

from __future__ import annotations

from typing import Any

import pytest

from asynccache.call_types import CALL_TYPES

MESSAGES = CALL_TYPES["messages"]
USAGE = {"input_tokens": 1, "output_tokens": 2}


def answer(*content: dict[str, Any], stop: str | None = "end_turn", **more: Any) -> dict[str, Any]:
    return {"type": "message", "model": "claude", "content": list(content), "stop_reason": stop, "usage": USAGE, **more}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


TOOL = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
ANSWERS: list[tuple[str, Any, str]] = [
    ("a text", answer(text("Hi")), ""),
    ("a stop sequence", answer(text("Hi"), stop="stop_sequence"), ""),
    ("a tool call", answer(TOOL, stop="tool_use"), ""),
    ("cut off", answer(text("Hi"), stop="max_tokens"), "length"),
    ("the context is full", answer(text("Hi"), stop="model_context_window_exceeded"), "length"),
    ("refused", answer(text("No."), stop="refusal"), "refusal"),
    ("paused", answer(text("Wait"), stop="pause_turn"), "unfinished"),
    ("no content", answer(), "empty"),
    ("content is null", answer() | {"content": None}, "empty"),
    ("no text", answer(text("")), "empty"),
    ("an error", {"type": "error", "error": {"type": "overloaded_error"}}, "error"),
    ("another shape", {"said": "Hi"}, ""),
    ("nothing", None, "empty"),
    ("an empty dict", {}, "empty"),
]


@pytest.mark.parametrize(("value", "refusal"), [pytest.param(v, r, id=name) for name, v, r in ANSWERS])
def test_only_whole_and_good_answers_are_stored(value: Any, refusal: str) -> None:
    """An answer that was cut off, refused, paused, or says nothing, would be wrong for the next caller."""
    assert MESSAGES.judge(value).refusal == refusal


def test_the_facts_of_an_answer() -> None:
    """The model that answered and what it used are remembered."""
    assert MESSAGES.judge(answer(text("Hi"))).facts == {"model": "claude", "usage": USAGE}


START = {"type": "message_start", "message": {"model": "claude", "usage": {"input_tokens": 1, "output_tokens": 1}}}
STOP = {"type": "message_stop"}
PING = {"type": "ping"}


def begin(kind: str, index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind}}


def delta(kind: str, said: str, index: int = 0) -> dict[str, Any]:
    name = {"text_delta": "text", "input_json_delta": "partial_json", "thinking_delta": "thinking"}[kind]
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: said}}


def end(stop: str) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 2}}


HI = [START, begin("text"), PING, delta("text_delta", "Hi")]
CALL = [START, begin("tool_use"), delta("input_json_delta", '{"a"')]
STREAMS: list[tuple[str, list[Any], str]] = [
    ("a text", [*HI, end("end_turn"), STOP], ""),
    ("no end", [*HI, end("end_turn")], "unfinished"),
    ("nothing", [], "unfinished"),
    ("cut off", [*HI, end("max_tokens"), STOP], "length"),
    ("refused", [*HI, end("refusal"), STOP], "refusal"),
    ("paused", [*HI, end("pause_turn"), STOP], "unfinished"),
    ("no text", [START, begin("text"), end("end_turn"), STOP], "empty"),
    ("an empty text", [START, begin("text"), delta("text_delta", ""), end("end_turn"), STOP], "empty"),
    ("an error on the way", [*HI, {"type": "error", "error": {}}], "error"),
    ("a tool call", [*CALL, delta("input_json_delta", ": 1}"), end("tool_use"), STOP], ""),
    ("a tool call without arguments", [START, begin("tool_use"), end("tool_use"), STOP], ""),
    ("a tool call cut off", [*CALL, end("tool_use"), STOP], "tool-arguments"),
    (
        "two blocks",
        [
            *CALL,
            begin("tool_use", 1),
            delta("input_json_delta", "{}", 1),
            delta("input_json_delta", ":1}"),
            end("tool_use"),
            STOP,
        ],
        "",
    ),
    ("thoughts", [START, begin("thinking"), delta("thinking_delta", "Hm"), end("end_turn"), STOP], ""),
]


@pytest.mark.parametrize(("events", "refusal"), [pytest.param(e, r, id=name) for name, e, r in STREAMS])
def test_a_stream_is_judged_as_its_answer(events: list[Any], refusal: str) -> None:
    """By its last event and all of its blocks."""
    assert MESSAGES.judge_stream(events).refusal == refusal


def test_the_facts_of_a_stream() -> None:
    """What it used at its end replaces what it said at its start."""
    verdict = MESSAGES.judge_stream([*HI, end("end_turn"), STOP])
    assert verdict.facts == {"model": "claude", "usage": USAGE}
