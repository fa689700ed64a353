"""The walk over every parameter of an SDK's method: what changes the key, and what does not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import combinations
from typing import Any

from asynccache.keys import build_key
from asynccache.model import Directives, Target

VALUES: tuple[Any, ...] = (
    "a",
    "b",
    "1",
    1,
    2,
    0.5,
    True,
    False,
    [],
    ["a"],
    ["b"],
    {},
    {"x": "a"},
    {"x": "b"},
    {"y": "a"},
    [{"role": "user", "content": "a"}],
    [{"role": "user", "content": "b"}],
    b"a",
)
"""Values of every shape an argument may have, no two of them alike."""


def silent_parameters(method: Callable[..., Any], call: dict[str, Any]) -> set[str]:
    """The parameters of a wrapped method that do not change the key of this call.

    Every other one makes a new key with each of `VALUES`, and with none at all.
    """
    target: Target = method.__asynccache_targets__[0]  # type: ignore[attr-defined]
    parameters = inspect.signature(method).parameters.values()
    silent = set()
    for name in (p.name for p in parameters if p.kind is not p.VAR_KEYWORD):
        rest = {other: value for other, value in call.items() if other != name}
        # A default that says something ([]) is as good as the same value said aloud.
        calls = [rest, *({**rest, name: value} for value in VALUES if target.fill.get(name) != value)]
        keys = [build_key(each, target, Directives()).digest for each in calls]
        distinct = len(set(keys))
        assert distinct in (1, len(keys)), f"{name}: {_alike(name, calls, keys)}"
        if distinct == 1:
            silent.add(name)
    return silent


def _alike(name: str, calls: list[dict[str, Any]], keys: list[str]) -> list[tuple[Any, Any]]:
    pairs = combinations(zip(calls, keys, strict=True), 2)
    return [(a.get(name, "absent"), b.get(name, "absent")) for (a, one), (b, other) in pairs if one == other]
