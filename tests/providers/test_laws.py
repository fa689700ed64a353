"""What holds for any request and any points."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache.providers import anthropic, bedrock, deepseek, gemini, openai, xai
from asynccache.providers.marking import Marked, life_of
from asynccache.providers.points import Point

Marking = Callable[[Mapping[str, Any], Sequence[Point]], Marked]


def few(value: Any) -> int:
    """Tokens that are easily enough and easily too few."""
    return len(json.dumps(value, default=str).replace("cache_control", "")) * 4


controls = st.sampled_from(
    [{"type": "ephemeral"}, {"type": "ephemeral", "ttl": "5m"}, {"type": "ephemeral", "ttl": "1h"}]
)
marks = st.one_of(st.just({}), st.builds(lambda control: {"cache_control": control}, controls))
words = st.sampled_from(["", "a", "some words", "w " * 100, "w " * 700])
texts = st.builds(lambda text, mark: {"type": "text", "text": text, **mark}, words, marks)
odd = st.sampled_from(
    [{"type": "thinking", "thinking": "…"}, {"type": "image_url", "image_url": {"url": "u"}}, {"type": "x"}, "text", 7]
)
contents = st.one_of(words, st.none(), st.lists(st.one_of(texts, odd), max_size=3))
roles = st.sampled_from(["system", "user", "assistant", "tool", "developer"])
messages = st.builds(
    lambda role, content, mark, more: {"role": role, "content": content, **mark, **more},
    roles,
    contents,
    marks,
    st.sampled_from([{}, {"cached": True}, {"tool_calls": [{"id": "1", "function": {"name": "f"}}]}]),
)
tools = st.builds(
    lambda mark, kind: {**kind, **mark},
    marks,
    st.sampled_from(
        [
            {"type": "function", "function": {"name": "f"}},
            {"name": "g", "input_schema": {}},
            {"type": "tool_search_tool_bm25_20251119"},
        ]
    ),
)
requests = st.builds(
    lambda model, messages, tools, system, mark: {"model": model, "messages": messages, **tools, **system, **mark},
    st.sampled_from(["claude-opus-5", "claude-haiku-4-5", "gpt-5.6", "gpt-4o", "deepseek-chat", "grok-4"]),
    st.lists(messages, max_size=6),
    st.one_of(st.just({}), st.builds(lambda tools: {"tools": tools}, st.lists(tools, max_size=3))),
    st.one_of(
        st.just({}), st.builds(lambda content: {"system": content}, st.one_of(words, st.lists(texts, max_size=3)))
    ),
    marks,
)
indices = st.one_of(st.none(), st.integers(-8, 8))
points = st.lists(
    st.one_of(
        st.builds(Point, st.just("message"), roles, indices, controls),
        st.builds(Point, st.just("tool_config"), st.none(), st.none(), controls),
    ),
    max_size=4,
)

bedrock_blocks = st.sampled_from(
    [{"text": "w " * 700}, {"text": "x"}, {"cachePoint": {"type": "default"}}, {"image": {}}]
)
converses = st.builds(
    lambda model, messages, system, tools: {"modelId": model, "messages": messages, **system, **tools},
    st.sampled_from(
        ["anthropic.claude-opus-5", "anthropic.claude-3-7-sonnet-v1:0", "amazon.nova-pro-v1:0", "meta.llama3"]
    ),
    st.lists(
        st.builds(
            lambda role, content: {"role": role, "content": content}, roles, st.lists(bedrock_blocks, max_size=3)
        ),
        max_size=6,
    ),
    st.one_of(st.just({}), st.builds(lambda system: {"system": system}, st.lists(bedrock_blocks, max_size=3))),
    st.one_of(st.just({}), st.just({"toolConfig": {"tools": [{"toolSpec": {"name": "f"}}]}})),
)

MARKINGS: dict[str, tuple[Marking, Any]] = {
    "anthropic": (lambda r, p: anthropic.mark(r, p, count=few), requests),
    "anthropic, chat": (lambda r, p: anthropic.mark(r, p, chat=True, count=few), requests),
    "bedrock": (lambda r, p: bedrock.mark(r, p, count=few), converses),
    "bedrock, nova's body": (lambda r, p: _in_body(r, p), converses),
    "bedrock, chat": (lambda r, p: bedrock.mark(r, p, chat=True, count=few), requests),
    "openai": (lambda r, p: openai.mark(r, p), requests),
    "openai, responses": (lambda r, p: openai.mark(_as_response(r), p), requests),
    "deepseek": (deepseek.mark, requests),
    "xai": (xai.mark, requests),
    "gemini": (lambda r, p: Marked(gemini.divide(r, p, model="gemini-2.5-pro", chat=True).rest), requests),
}


def _in_body(request: Mapping[str, Any], points: Sequence[Point]) -> Marked:
    given = request if "body" in request else {"modelId": "amazon.nova-pro-v1:0", "body": json.dumps(request)}
    return bedrock.mark(given, points, count=few)


def _as_response(request: Mapping[str, Any]) -> Mapping[str, Any]:
    if "messages" not in request:
        return request
    return {"input" if name == "messages" else name: value for name, value in request.items()}


def unmarked(value: Any) -> Any:
    """What is left without marks, with a text for a block that is nothing but that text."""
    if isinstance(value, dict):
        names = (
            "cache_control",
            "cachePoint",
            "prompt_cache_breakpoint",
            "cached",
            "prompt_cache_key",
            "prompt_cache_options",
        )
        return {name: unmarked(part) for name, part in value.items() if name not in names}
    if isinstance(value, list):
        left = [unmarked(part) for part in value if not (isinstance(part, dict) and list(part) == ["cachePoint"])]
        if len(left) == 1 and isinstance(left[0], dict) and left[0].get("type") in ("text", "input_text"):
            return left[0]["text"]
        return left
    if isinstance(value, str) and value.startswith("{"):
        return unmarked(json.loads(value))
    return value


@pytest.mark.parametrize("name", [name for name in MARKINGS if name != "gemini"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_marks_only(name: str, data: st.DataObject) -> None:
    """What is given stays as it is; what comes differs from it in marks alone; to mark it again changes nothing."""
    mark, strategy = MARKINGS[name]
    request, wanted = data.draw(strategy), data.draw(points)
    if name == "openai, responses":
        request = _as_response(request)
    if name == "bedrock, nova's body":
        request = {"modelId": "amazon.nova-pro-v1:0", "body": json.dumps(request)}
    before = copy.deepcopy(request)
    marked = mark(request, wanted)
    assert request == before
    assert unmarked(dict(marked.request)) == unmarked(before) or isinstance(before.get("input"), str)
    assert mark(marked.request, wanted).request == marked.request


@settings(max_examples=150, deadline=None)
@given(request=requests, wanted=points)
def test_gemini_changes_nothing_in_what_is_given(request: dict[str, Any], wanted: list[Point]) -> None:
    """The caller's request is as it was; and no message is lost or moved."""
    before = copy.deepcopy(request)
    division = gemini.divide(request, wanted, model="gemini-2.5-pro", chat=True, count=few)
    assert request == before
    if division.content is not None:
        spoken = [m for m in before["messages"] if m["role"] not in ("system", "developer")]
        taken = len(division.content.get("contents", ()))
        assert unmarked(division.rest["messages"]) == unmarked(spoken[taken:])
        assert division.rest["messages"]


def lives(request: Mapping[str, Any], apart: bool) -> list[str]:
    """All marks, in the order in which Anthropic reads them."""

    def of(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [life_of(value["cache_control"])] if value.get("cache_control") else []
            return [*of(value.get("content")), *own]
        return [life for part in value for life in of(part)] if isinstance(value, list) else []

    spoken = request["messages"]
    first = (
        of(request.get("system"))
        if apart
        else [x for m in spoken if m["role"] in ("system", "developer") for x in of(m)]
    )
    rest = spoken if apart else [m for m in spoken if m["role"] not in ("system", "developer")]
    whole = of({"cache_control": request.get("cache_control")})
    return [*of(request.get("tools")), *first, *of(rest), *whole]


@pytest.mark.parametrize("chat", [False, True])
@settings(max_examples=300, deadline=None)
@given(request=requests, wanted=points)
def test_anthropic_takes_it(chat: bool, request: dict[str, Any], wanted: list[Point]) -> None:
    """There are no more than four marks unless the client has more; and their lives do not grow unless the client's
    do."""
    marked = anthropic.mark(request, wanted, chat=chat, count=few).request
    before, after = lives(request, not chat), lives(marked, not chat)
    assert len(after) <= max(4, len(before))
    if sorted(before, key="1h5m".index) == before:
        assert sorted(after, key="1h5m".index) == after
