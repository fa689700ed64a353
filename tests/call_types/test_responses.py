"""OpenAI's responses: which answers may be stored, and what to remember of them."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from asynccache.call_types import CALL_TYPES

RESPONSES = CALL_TYPES["responses"]
USAGE = {"input_tokens": 1, "output_tokens": 2}


def answer(*output: dict[str, Any], status: str | None = "completed", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "output": list(output), "status": status, "error": None, "usage": USAGE, **more}


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": list(parts)}


TEXT = {"type": "output_text", "text": "Hi"}
REASONING: dict[str, Any] = {"type": "reasoning", "summary": [], "content": None}


def incomplete(reason: str | None) -> dict[str, Any]:
    details = None if reason is None else {"reason": reason}
    return answer(message(TEXT), status="incomplete", incomplete_details=details)


ANSWERS: list[tuple[str, Any, str]] = [
    ("a text", answer(message(TEXT)), ""),
    ("thoughts and a text", answer(REASONING, message(TEXT)), ""),
    ("no status", answer(message(TEXT), status=None), ""),
    ("cut off", incomplete("max_output_tokens"), "length"),
    ("filtered", incomplete("content_filter"), "content_filter"),
    ("incomplete for another reason", incomplete("later"), "unfinished"),
    ("incomplete for no reason", incomplete(None), "unfinished"),
    ("failed", answer(status="failed", error={"code": "server_error"}), "error"),
    ("failed without an error", answer(status="failed"), "error"),
    ("cancelled", answer(status="cancelled"), "error"),
    ("in the background", answer(status="queued"), "unfinished"),
    ("under way", answer(message(TEXT), status="in_progress"), "unfinished"),
    ("refused", answer(message({"type": "refusal", "refusal": "No."})), "refusal"),
    ("no output", answer(), "empty"),
    ("a tool call", answer({"type": "function_call", "arguments": '{"a": 1}'}), ""),
    ("a tool call cut off", answer({"type": "function_call", "arguments": '{"a"'}), "tool-arguments"),
    ("an error alone", {"error": {"message": "overloaded"}}, "error"),
    ("another shape", {"text": "Hi"}, ""),
    ("a text alone", "Hi", ""),
    ("nothing", None, "empty"),
    ("an empty dict", {}, "empty"),
]


@pytest.mark.parametrize(("value", "refusal"), [pytest.param(v, r, id=name) for name, v, r in ANSWERS])
def test_only_whole_and_good_answers_are_stored(value: Any, refusal: str) -> None:
    """An answer that is not whole, failed, was refused, or says nothing, would be wrong for the next caller."""
    assert RESPONSES.judge(value).refusal == refusal


CREATED = {"type": "response.created", "response": answer(status="in_progress")}
STREAMS: list[tuple[str, list[Any], str]] = [
    ("a text", [CREATED, {"type": "response.completed", "response": answer(message(TEXT))}], ""),
    ("no end", [CREATED, {"type": "response.output_text.delta", "delta": "Hi"}], "unfinished"),
    ("nothing", [], "unfinished"),
    ("cut off", [CREATED, {"type": "response.incomplete", "response": incomplete("max_output_tokens")}], "length"),
    ("failed", [CREATED, {"type": "response.failed", "response": answer(status="failed")}], "error"),
    ("an error on the way", [CREATED, {"type": "error", "message": "overloaded"}], "error"),
]


@pytest.mark.parametrize(("events", "refusal"), [pytest.param(e, r, id=name) for name, e, r in STREAMS])
def test_a_stream_is_judged_by_its_last_event(events: list[Any], refusal: str) -> None:
    """That has the whole answer."""
    assert RESPONSES.judge_stream(events).refusal == refusal


def test_the_facts() -> None:
    """The model that answered and what it used are remembered, of a stream too."""
    facts = {"model": "gpt-4o", "usage": USAGE}
    assert RESPONSES.judge(answer(message(TEXT))).facts == facts
    assert RESPONSES.judge_stream([{"type": "response.completed", "response": answer(message(TEXT))}]).facts == facts


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({}, ""),
        ({"store": False, "background": False, "conversation": None}, ""),
        ({"store": openai.omit, "background": openai.NOT_GIVEN}, ""),
        ({"previous_response_id": "resp_1"}, ""),
        ({"store": True}, "store"),
        ({"extra_body": {"store": True}}, "store"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}, "store": False}, "conversation"),
    ],
)
def test_what_changes_something_at_the_provider_gets_there(params: dict[str, Any], reason: str) -> None:
    """A response that is expressly to be kept, is made in the background, or belongs to a conversation."""
    assert RESPONSES.keep_out is not None
    assert RESPONSES.keep_out(params).partition(":")[0] == reason
