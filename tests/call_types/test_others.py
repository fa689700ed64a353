"""Embeddings, rerank, plain functions, and what all call types share."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache.call_types import ALIASES, CALL_TYPES
from asynccache.call_types.json_text import is_json

VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5]}


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        ({"data": [VECTOR], "model": "m", "usage": {"total_tokens": 1}}, ""),
        ({"data": []}, "empty"),
        ({"data": None}, "empty"),
        ([[0.5]], ""),
        ([], "empty"),
        (None, "empty"),
    ],
)
def test_embeddings_are_stored_when_there_are_any(value: Any, refusal: str) -> None:
    """An answer without vectors is none."""
    assert CALL_TYPES["embedding"].judge(value).refusal == refusal


@pytest.mark.parametrize("said", [{"late_chunking": True}, {"extra_body": {"late_chunking": True}}])
def test_texts_that_are_read_as_one_stay_together(said: dict[str, Any]) -> None:
    """A list whose texts share their context is no list of calls about each; without that, it is."""
    parts = CALL_TYPES["embedding"].parts
    assert parts is not None
    assert parts.split({"input": ["a", "b"], **said}) is None
    assert parts.split({"input": ["a", "b"], "late_chunking": False, "extra_body": {}}) is not None


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        ({"results": [{"index": 1, "relevance_score": 0.9}], "meta": {}}, ""),
        ({"results": []}, "empty"),
        ({"results": None}, "empty"),
        ({"error": {"message": "overloaded"}}, "error"),
        ({"ranking": [1, 0]}, ""),
        (None, "empty"),
    ],
)
def test_rankings_are_stored_when_there_are_any(value: Any, refusal: str) -> None:
    """A ranking of nothing is none."""
    assert CALL_TYPES["rerank"].judge(value).refusal == refusal


def test_neither_vectors_nor_rankings_are_matched_by_similarity() -> None:
    """They are about the very texts that were given."""
    for name, params in (("embedding", {"input": "a"}), ("rerank", {"query": "a", "documents": ["b"]})):
        assert CALL_TYPES[name].views(params) == (params, "")


@pytest.mark.parametrize(
    ("value", "refusal"), [(0, ""), (False, ""), ([], ""), ({}, ""), ("a", ""), (None, "empty"), ("", "empty")]
)
def test_a_function_is_taken_at_its_word(value: Any, refusal: str) -> None:
    """Zero, False and an empty list are answers; None and an empty text are not."""
    assert CALL_TYPES["function"].judge(value).refusal == refusal
    assert CALL_TYPES["function"].judge_stream([value]).refusal == ""
    assert CALL_TYPES["function"].judge_stream([]).refusal == "empty"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("{}", True),
        ("[1]", True),
        ("", True),
        (None, True),
        ({"a": 1}, True),
        ("{", False),
        ("a", False),
        ("NaN", False),
    ],
)
def test_json_texts(text: Any, whole: bool) -> None:
    """No text at all is a tool's way to have no arguments; half of one is none."""
    assert is_json(text) is whole


def test_names() -> None:
    """A call type stands in the table under its own name, and no other name shadows one."""
    assert {name: each.name for name, each in CALL_TYPES.items()} == {name: name for name in CALL_TYPES}
    assert all(ALIASES.get(name, name) == name for name in CALL_TYPES)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "type"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.sampled_from(sorted(CALL_TYPES)), ODD, ODD)
def test_views_can_look_at_any_arguments(name: str, turns: Any, last: Any) -> None:
    """The text is a text, and everything that is not in it is in the rest."""
    call_type = CALL_TYPES[name]
    argument = call_type.turns or "input"
    for value in (
        turns,
        [turns, last],
        [{"role": "user", "content": last}],
        [turns, {"role": "user", "content": last}],
    ):
        params = {"model": "m", argument: value}
        rest, text = call_type.views(params)
        assert isinstance(text, str)
        assert rest["model"] == "m"
        assert text or rest.keys() == params.keys()
        assert params == {"model": "m", argument: value}
