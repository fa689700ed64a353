"""Sums that are divided and added up again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.create_embedding_response import Usage

from asynccache.call_types.fields import changed, field, names
from asynccache.call_types.shares import added, apportioned, divided

LAW = settings(derandomize=True, deadline=None, max_examples=200)
weights = st.lists(st.integers(0, 10**6), min_size=1, max_size=20)


@LAW
@given(st.integers(0, 10**12), weights)
def test_shares_are_exact_and_fair(total: int, weights: list[int]) -> None:
    """They add up, none is off by a whole unit, and equal weights differ by one at most."""
    shares = apportioned(total, weights)
    assert sum(shares) == total
    whole = sum(weights)
    for weight, share in zip(weights, shares, strict=True):
        assert share >= 0
        if whole:
            assert abs(share * whole - total * weight) < whole
    if len(set(weights)) == 1:
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [(10, [1, 1, 1], [4, 3, 3]), (7, [3, 1], [5, 2]), (5, [0, 0], [3, 2]), (3, [0, 1], [0, 3]), (0, [1, 2], [0, 0])],
)
def test_the_largest_remainder_gets_what_is_left(total: int, weights: list[int], shares: list[int]) -> None:
    """Among equals the first; without any weight all are equal."""
    assert apportioned(total, weights) == shares


usages = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 10**6), "total_tokens": st.integers(0, 10**6)},
    optional={
        "details": st.fixed_dictionaries({"text": st.integers(0, 100), "kind": st.just("x")}),
        "note": st.just("n"),
        "none": st.none(),
        "flag": st.booleans(),
    },
)


@LAW
@given(usages, weights)
def test_what_is_divided_adds_up(usage: dict[str, Any], weights: list[int]) -> None:
    """Every number in it, however deep; words, truth values and None are the same in each."""
    parts = divided(usage, weights)
    assert added(parts) == usage
    assert all(part.get("note") == usage.get("note") and part.get("flag") == usage.get("flag") for part in parts)


def test_models_and_unknown_fields() -> None:
    """A model stays one of its type, with what it has beyond that; other numbers are divided as well as they can."""
    usage = Usage.model_validate({"prompt_tokens": 5, "total_tokens": 5, "cost": 0.3, "details": {"audio": 3}})
    parts = divided(usage, [1, 2])
    assert [type(part) for part in parts] == [Usage, Usage]
    assert [part.prompt_tokens for part in parts] == [2, 3]
    assert [field(part, "details") for part in parts] == [{"audio": 1}, {"audio": 2}]
    whole = added(parts)
    assert whole.cost == pytest.approx(0.3)
    assert whole.model_dump(exclude={"cost"}) == usage.model_dump(exclude={"cost"})


def test_usages_that_say_different_things() -> None:
    """What one leaves out the others say; no usage adds nothing."""
    assert added([{"a": 1, "b": None}, None, {"b": 2, "note": "x"}]) == {"a": 1, "b": 2, "note": "x"}
    assert added([None, {"a": 1}]) == {"a": 1}
    assert added([]) is None


def test_what_has_no_fields() -> None:
    with pytest.raises(TypeError, match="a list has no fields"):
        names([1])
    with pytest.raises(TypeError, match="a str has no fields"):
        changed("a", b=1)
