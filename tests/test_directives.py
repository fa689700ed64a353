"""What a call may say of caching, and what is refused."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache import Cache, ConfigError, Directives
from asynccache.directives import CONTROLS, lifetime, parse, word, words

LAW = settings(derandomize=True, deadline=None, max_examples=200)
BASE = Directives(ttl=60.0, namespace="n", tags=("a",))


class Tenant(str, enum.Enum):  # noqa: UP042 (users have these, and str() of them is their name)
    ACME = "acme"


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ({}, {}),
        ({"ttl": 5}, {"ttl": 5}),
        ({"ttl": 0}, {"ttl": 0}),
        ({"ttl": None}, {"ttl": None}),
        ({"ttl": timedelta(minutes=1)}, {"ttl": 60.0}),
        ({"ttl": np.float64(1.5)}, {"ttl": 1.5}),
        ({"s-maxage": 5}, {"max_age": 5}),
        ({"s_maxage": 5}, {"max_age": 5}),
        ({"s-max-age": 5}, {"max_age": 5}),
        ({"max_age": None}, {"max_age": None}),
        ({"no-cache": True, "no_store": False}, {"no_cache": True}),
        ({"use-cache": False}, {"enabled": False}),
        ({"namespace": "m"}, {"namespace": "m"}),
        ({"namespace": None}, {"namespace": ""}),
        ({"tenant": "t"}, {"tenant": "t"}),
        ({"tenant": Tenant.ACME}, {"tenant": "acme"}),
        ({"tenant": None}, {}),
        ({"tags": "b"}, {"tags": ("a", "b")}),
        ({"tags": ["c", "b"]}, {"tags": ("a", "c", "b")}),
        ({"tags": {"c", "b"}}, {"tags": ("a", "b", "c")}),
        ({"tags": []}, {}),
        ({"tags": iter(["b"])}, {"tags": ("a", "b")}),
        (MappingProxyType({"ttl": 5}), {"ttl": 5}),
    ],
)
def test_a_control_changes_one_thing(control: Mapping[str, Any], expected: dict[str, Any]) -> None:
    """What a call says replaces the handle's default; tags are added to the handle's."""
    found = parse(control, BASE)
    fields = ("ttl", "max_age", "no_cache", "no_store", "enabled", "namespace", "tenant", "tags")
    base = {name: getattr(BASE, name) for name in fields}
    assert {name: getattr(found, name) for name in fields} == {**base, **expected}


def test_nothing_said_changes_nothing() -> None:
    """`cache=None` is no control at all."""
    assert parse(None, BASE) is BASE


WRONG: dict[str, list[Any]] = {
    "ttl": [True, "60", -1, -0.1, math.nan, math.inf, 10**400, timedelta(seconds=-1), [], Decimal(1)],
    "s-maxage": [False, "1", -1, math.nan, {}],
    "no-cache": [None, 1, 0, "true"],
    "no-store": [None, 1, "yes"],
    "use-cache": [None, 0, "no"],
    "namespace": ["", 1, b"n", ["n"], "\ud800"],
    "tenant": ["", 1, b"t", "\udfff"],
    "only-if-cached": [None, 1, "true"],
    "semantic": [None, 0, "off"],
    "tags": [None, 1, [1], ["a", None], {"a": 1}, b"ab", ["\ud800"]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    """Nothing is guessed: a wrong type, a number that is none, a text that cannot be written."""
    with pytest.raises(ConfigError) as caught:
        parse({name: value}, BASE)
    assert repr(name) in str(caught.value)


def test_every_control_has_wrong_values_here() -> None:
    """So that none is forgotten."""
    assert set(WRONG) == set(CONTROLS)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("tll", "did you mean 'ttl'?"),
        ("TTL", "did you mean 'ttl'?"),
        ("nocache", "did you mean 'no-cache'?"),
        ("No-Store", "did you mean 'no-store'?"),
        ("name-space", "did you mean 'namespace'?"),
        ("tag", "did you mean 'tags'?"),
        ("zzz", "known are ttl, s-maxage"),
        (1, "known are ttl, s-maxage"),
    ],
)
def test_an_unknown_control_is_refused_with_the_nearest(given: Any, hint: str) -> None:
    """A control that was misspelt never passes for one that was not given."""
    with pytest.raises(ConfigError) as caught:
        parse({given: 1}, BASE)
    assert hint in str(caught.value)


@pytest.mark.parametrize("control", [True, False, 1, "ttl", ["ttl"], [("ttl", 1)], object()])
def test_what_is_no_dict_of_controls_is_refused(control: Any) -> None:
    """Only a mapping can say something."""
    with pytest.raises(ConfigError, match="dict of controls"):
        parse(control, BASE)


def test_two_spellings_of_one_control_are_refused() -> None:
    """Otherwise the order of a dict would decide."""
    for control in ({"no-cache": True, "no_cache": False}, {"s-maxage": 1, "max-age": 2}):
        with pytest.raises(ConfigError, match="twice"):
            parse(control, BASE)


@pytest.mark.parametrize("border", ["tenant", "namespace"])
@pytest.mark.parametrize("value", ["b", "A", "a ", "a\0", None])
def test_a_bound_border_cannot_be_crossed(border: str, value: str | None) -> None:
    """The caller of a bound handle may name its own border, and no other; not even none."""
    bound = Cache().bind(**{border: "a"})  # type: ignore[arg-type]
    base, fixed = bound._defaults, bound._fixed
    assert parse({border: "a"}, base, fixed) == base
    with pytest.raises(ConfigError, match=f"another {border}"):
        parse({border: value}, base, fixed)
    with pytest.raises(ConfigError, match=f"another {border}"):
        bound.bind(**{border: "b"})  # type: ignore[arg-type]
    assert bound.bind(**{border: "a"}).get_cache_key(model="m") == bound.get_cache_key(model="m")  # type: ignore[arg-type]


def test_a_border_that_is_not_bound_may_be_named() -> None:
    """A tenant-bound handle still takes a namespace, and the other way round."""
    bound = Cache().bind(tenant="a")
    assert parse({"namespace": "n"}, bound._defaults, bound._fixed).namespace == "n"
    both = bound.bind(namespace="n")
    for border in ("tenant", "namespace"):
        with pytest.raises(ConfigError):
            parse({border: "b"}, both._defaults, both._fixed)


@pytest.mark.parametrize("value", [True, -1, math.nan, math.inf, "5"])
def test_the_same_rules_hold_for_the_cache_itself(value: Any) -> None:
    """A default that a call could not give is refused when the cache is made, bound or changed."""
    with pytest.raises(ConfigError):
        Cache(ttl=value)
    cache = Cache()
    with pytest.raises(ConfigError):
        cache.ttl = value
    with pytest.raises(ConfigError):
        cache.bind(ttl=value)
    for name in ("tenant", "namespace"):
        with pytest.raises(ConfigError):
            cache.bind(**{name: ""})  # type: ignore[arg-type]


def test_bind_takes_any_iterable_of_tags() -> None:
    """A generator too; they come before those of a call."""
    bound = Cache().bind(tags=(tag for tag in "ba"))
    assert parse({"tags": "c"}, bound._defaults).tags == ("b", "a", "c")


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=3)
    | st.binary(max_size=2)
    | st.timedeltas()
    | st.lists(st.text(max_size=2) | st.integers(), max_size=2)
)


@LAW
@given(st.dictionaries(st.sampled_from(CONTROLS) | st.text(max_size=5) | st.integers(), ANYTHING, max_size=3))
def test_a_control_is_good_or_refused_as_a_whole(control: dict[Any, Any]) -> None:
    """Nothing but ConfigError comes of any control, and what is accepted can be used."""
    try:
        found = parse(control, BASE)
    except ConfigError:
        return
    assert found.ttl is None or 0 <= 1_800_000_000.0 + found.ttl < math.inf
    assert all(isinstance(tag, str) for tag in found.tags)
    assert isinstance(found.head, bytes)


def test_small_readers() -> None:
    """What they return is plain: a float or int, a tuple, a str and no subclass of one."""
    assert lifetime(None) is None
    assert words(("b", "a"), "tags") == ("b", "a")
    assert type(word(Tenant.ACME, "tenant")) is str
    assert type(words([Tenant.ACME], "tags")[0]) is str
