"""Text completions: which may be stored, and how they come in pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache.call_types import CALL_TYPES

TEXT = CALL_TYPES["text_completion"]
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def choice(text: str | None = "Hi", finish: str | None = "stop", index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish, **more}


def answer(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": list(choices), **more}


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        (answer(choice()), ""),
        (answer(choice(), choice("Ho", index=1)), ""),
        (answer(choice(finish="length")), "length"),
        (answer(choice(), choice(finish="content_filter", index=1)), "content_filter"),
        (answer(choice("")), "empty"),
        (answer(), "empty"),
        (answer(choice(), error={"message": "overloaded"}), "error"),
        ("Hi", ""),
        (None, "empty"),
    ],
)
def test_only_whole_and_good_answers_are_stored(value: Any, refusal: str) -> None:
    """By the rules of chats."""
    assert TEXT.judge(value).refusal == refusal


def test_the_facts() -> None:
    """The model that answered and what it used are remembered, of a stream too."""
    facts = {"model": "m", "usage": USAGE}
    assert TEXT.judge(answer(choice(), usage=USAGE)).facts == facts
    assert TEXT.judge_stream([answer(choice()), answer(usage=USAGE)]).facts == facts


@pytest.mark.parametrize(
    ("chunks", "refusal"),
    [
        ([answer(choice("H", None)), answer(choice("i", "stop"))], ""),
        ([answer(choice("H", None)), answer(choice("i", None))], "unfinished"),
        ([answer(choice("H", "stop")), answer(choice("i", None, 1))], "unfinished"),
        ([answer(choice("H", "length"))], "length"),
        ([answer(choice("", "stop"))], "empty"),
        ([], "empty"),
    ],
)
def test_a_stream_is_judged_as_its_answer(chunks: list[Any], refusal: str) -> None:
    assert TEXT.judge_stream(chunks).refusal == refusal


def test_pieces_are_joined() -> None:
    """Texts and log probabilities are continued, choice by choice; all else is as it was said."""
    logprobs = {"tokens": ["H"], "token_logprobs": [-0.5], "top_logprobs": [{"H": -0.5}], "text_offset": [0]}
    chunks = [
        answer(choice("H", None, logprobs=logprobs)),
        answer(choice("a", None, 1)),
        answer(choice("i", "stop", logprobs={**logprobs, "tokens": ["i"], "text_offset": [1]})),
        answer(choice("", "length", 1)),
        answer(usage=USAGE),
    ]
    joined = {**logprobs, "tokens": ["H", "i"], "token_logprobs": [-0.5] * 2, "text_offset": [0, 1]}
    joined["top_logprobs"] = [{"H": -0.5}] * 2
    assert TEXT.assemble(chunks) == answer(choice(logprobs=joined), choice("a", "length", 1), usage=USAGE)


texts = st.text(max_size=30)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(texts, min_size=1, max_size=3), st.booleans())
def test_what_is_cut_is_assembled_to_what_it_was(said: list[str], used: bool) -> None:
    """The usage comes only to those who ask for it."""
    whole = answer(*(choice(text, index=index, x_note=index) for index, text in enumerate(said)), usage=USAGE)
    chunks = TEXT.cut(whole, {"stream_options": {"include_usage": True}} if used else {})
    assert all(chunk["object"] == "text_completion" for chunk in chunks)
    assert all(type(each["text"]) is str for chunk in chunks for each in chunk["choices"])
    assert TEXT.assemble(chunks) == (whole if used else {k: v for k, v in whole.items() if k != "usage"})


def test_the_prompt_is_its_text() -> None:
    """When it is one."""
    assert TEXT.views({"model": "m", "prompt": "Hi"}) == ({"model": "m", "prompt": ""}, "Hi")
    assert TEXT.views({"model": "m", "prompt": ["a", "b"]}) == ({"model": "m", "prompt": ["a", "b"]}, "")
