"""`cache.explain`: why two requests have different keys, field by field."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache import Cache, ConfigError, Explanation
from asynccache.keys import INERT

LAW = settings(derandomize=True, deadline=None, max_examples=300)
BASE: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    "temperature": 0.5,
}


def paths(a: dict[str, Any], b: dict[str, Any], cache: Cache | None = None) -> dict[str, tuple[str | None, str | None]]:
    explanation = (cache or Cache()).explain(a, b)
    assert explanation.same == (not explanation.differences)
    return {each.path: (each.a, each.b) for each in explanation.differences}


def test_each_field_that_differs_is_named() -> None:
    """A change, an addition and a removal, each with both sides, at the innermost place."""
    other = {
        "model": "gpt-4o",
        "messages": [BASE["messages"][0], {"role": "user", "content": "Bye", "name": "ann"}],
        "seed": 1,
    }
    assert paths(BASE, other) == {
        "messages[1].content": ('"Hello"', '"Bye"'),
        "temperature": ("0.5", None),
        "messages[1].name": (None, '"ann"'),
        "seed": (None, "1"),
    }


def test_the_same_request_has_nothing_to_explain() -> None:
    """Order, inert arguments, 1 and 1.0 make no difference; what was left out is said."""
    other = {**dict(reversed(BASE.items())), "stream": True, "timeout": 3, "cache": {"ttl": 5}}
    explanation = Cache().explain(BASE, other)
    assert explanation.same
    assert explanation.differences == ()
    assert explanation.ignored == ("stream", "timeout")
    assert str(explanation) == f"same key {explanation.key_a}\n  not in the key: stream, timeout"


def test_it_reads_well() -> None:
    """As text, one line a difference."""
    explanation = Cache().explain(BASE, {**BASE, "temperature": "0.5", "top_k": None})
    assert str(explanation).splitlines() == [
        f"different keys: {explanation.key_a} and {explanation.key_b}",
        '  temperature: 0.5 → "0.5"',
        "  top_k: (nothing) → null",
    ]


@pytest.mark.parametrize(
    ("a", "b", "path"),
    [
        ({"a.b": 1}, {"a": {"b": 1}}, "['a.b']"),
        ({"x": {"0": 1}}, {"x": [1]}, "x.0"),
        ({"x": {0: 1}}, {"x": [1]}, "x{0}"),
        ({"x": {1: 1}}, {"x": {"1": 1}}, "x{1}"),
        ({"x": {"a b": 1}}, {"x": {}}, "x['a b']"),
        ({"x": {"": 1}}, {"x": 1}, "x['']"),
        ({"x": {}}, {"x": []}, "x"),
        ({"x": b"a"}, {"x": io.BytesIO(b"b")}, "x"),
        ({"x": float("nan")}, {"x": "nan"}, "x"),
        ({"extra_headers": {"Anthropic-Beta": "a"}}, {"extra_headers": {}}, "extra_headers.anthropic-beta"),
        ({"client": openai.AsyncOpenAI(api_key="k", base_url="http://x")}, {}, "client.base_url"),
        ({"temperature": openai.omit, "x": 1}, {}, "x"),
    ],
)
def test_places_are_told_apart(a: dict[str, Any], b: dict[str, Any], path: str) -> None:
    """Two places that read alike are written differently, so no difference hides behind another."""
    assert path in paths(a, b)
    assert paths(a, a) == {}


NAMES = st.sampled_from(["a", "b", "a.b", "a[0]", "", "0", "{0}", "cache.tenant", 'a"', "\ud83d\ude00", "😀"])
VALUES = st.recursive(
    st.sampled_from([0, 1, 1.0, "1", True, None, "", b"1", (), "null"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES | st.integers(0, 1), inner, max_size=2),
    max_leaves=5,
)


@LAW
@given(
    st.dictionaries(st.sampled_from(["a", "b", "messages"]), VALUES), st.dictionaries(NAMES.filter(str.isascii), VALUES)
)
def test_keys_differ_exactly_when_a_difference_is_shown(a: dict[str, Any], b: dict[str, Any]) -> None:
    """No difference without different keys, and none that goes unexplained."""
    assert bool(paths(a, b)) == (not Cache().explain(a, b).same)
    assert paths(a, a) == {}


def test_borders_are_explained() -> None:
    """A namespace or tenant that one of the calls names is a difference like any other; naming the one
    that the handle has anyway is none."""
    cache = Cache(namespace="n")
    assert paths(BASE, {**BASE, "cache": {"namespace": "m", "tenant": "t"}}, cache) == {
        "cache.namespace": ('"n"', '"m"'),
        "cache.tenant": (None, '"t"'),
    }
    assert paths(BASE, {**BASE, "cache": {"namespace": "n", "ttl": 5}}, cache) == {}
    assert paths(BASE, {**BASE, "cache": {"tenant": "t"}}, cache.bind(tenant="t")) == {}
    assert paths(BASE, {**BASE, "cache": {"no_store": True, "tags": ["a"]}}) == {}


def test_requests_of_a_wrapped_function() -> None:
    """With a target, its defaults count as given, and what is inert is what is inert for it."""

    async def fetch(query: str, limit: int = 10, headers: dict[str, str] | None = None) -> dict[str, Any]:
        return {"query": query, "limit": limit, "headers": headers}

    cache = Cache()
    wrapped = cache.wrap(fetch)
    assert cache.explain({"query": "a"}, {"query": "a", "limit": 10}, target=wrapped).same
    explanation = cache.explain({"query": "a"}, {"query": "a", "limit": 9, "headers": {"a": "b"}}, target=wrapped)
    assert [each.path for each in explanation.differences] == ["limit", "headers.a"]
    assert explanation.ignored == ()
    assert explanation.key_a == cache.get_cache_key(wrapped, query="a")


def test_files_are_explained_by_content(tmp_path: Path) -> None:
    """Files are read and put back, as for a key."""
    file = io.BytesIO(b"abcd")
    file.seek(1)
    path = tmp_path / "a"
    path.write_bytes(b"bcd")
    assert paths({"file": file}, {"file": path}) == {}
    assert file.tell() == 1
    path.write_bytes(b"bcde")
    assert list(paths({"file": file}, {"file": path})) == ["file"]


def test_a_request_without_a_key_is_refused() -> None:
    """The place of the argument that has no stable value is in the error."""
    with pytest.raises(ConfigError, match=r"messages\[0\]\.content"):
        Cache().explain(BASE, {"messages": [{"content": object()}]})
    with pytest.raises(ConfigError, match="did you mean 'ttl'"):
        Cache().explain(BASE, {**BASE, "cache": {"tll": 1}})
    with pytest.raises(ConfigError, match="was not wrapped"):
        Cache().explain(BASE, BASE, target=print)


def test_every_inert_argument_is_listed_as_left_out() -> None:
    """Whichever of the two requests has it."""
    explanation: Explanation = Cache().explain(BASE, {**BASE, **dict.fromkeys(INERT - {"cache"}, "a")})
    assert explanation.same
    assert set(explanation.ignored) == INERT - {"cache"}
