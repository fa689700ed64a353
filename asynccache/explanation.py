"""Why two requests have different keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asynccache.material import Pairs, dumps_tree, step


@dataclass(frozen=True, slots=True)
class Difference:
    """One place in which two requests differ; a side that has nothing there is None."""

    path: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why two requests have different keys, or that they share one.

    ignored: arguments of either that are on the inert list.
    """

    key_a: str
    key_b: str
    differences: tuple[Difference, ...]
    ignored: tuple[str, ...]

    @property
    def same(self) -> bool:
        return self.key_a == self.key_b

    def __str__(self) -> str:
        lines = [f"same key {self.key_a}"] if self.same else [f"different keys: {self.key_a} and {self.key_b}"]
        for d in self.differences:
            lines.append(f"  {d.path}: {'(nothing)' if d.a is None else d.a} → {'(nothing)' if d.b is None else d.b}")
        if self.ignored:
            lines.append(f"  not in the key: {', '.join(self.ignored)}")
        return "\n".join(lines)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The leaves in which two trees from `material` differ, by path."""
    left, right = dict(leaves(a)), dict(leaves(b))
    return tuple(
        Difference(path, left.get(path), right.get(path))
        for path in dict.fromkeys([*left, *right])
        if left.get(path) != right.get(path)
    )


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, what is there as JSON) for all that a tree from `material` ends in."""
    if isinstance(tree, dict) and tree:
        for name in sorted(tree):
            yield from leaves(tree[name], (path + step(name)).removeprefix("."))
    elif isinstance(tree, list) and tree:
        for i, item in enumerate(tree):
            yield from leaves(item, f"{path}[{i}]")
    elif isinstance(tree, Pairs):
        for text, item in tree.pairs:
            yield from leaves(item, f"{path}{{{text}}}")
    else:
        yield path, dumps_tree(tree).decode()
