"""What the scorer looks at: similarity, how much of the two questions stands for each other, and what the guards
found."""

from __future__ import annotations

from collections.abc import Sequence

from asynccache.semantic.alignment import Alignment, is_respelled
from asynccache.semantic.guards import ALL, Finding
from asynccache.semantic.texts import Text

PLAIN: tuple[str, ...] = ("similarity", "equal", "overlap", "less", "more", "loose")
NAMES: tuple[str, ...] = (*PLAIN, *(f"{guard.name}:{kind}" for guard in ALL for kind in ("open", "conflict")))
RISES = frozenset({"similarity", "equal", "overlap"})
"""Features with which P(right) may only rise; with all others it may only fall."""


def features(similarity: float, a: Text, b: Text, sides: Alignment, findings: Sequence[Finding]) -> list[float]:
    """One number for each of `NAMES`. `findings` are those of `ALL` guards, in their order.

    equal:      1 when the two are one after small talk, case, contractions and punctuation; 0.8 with slips of the
    fingers.
    overlap:    weight of the words that have a counterpart, as a share of all.
    less, more: weight of the words without one, of the side that has less of it and of the other.
    loose:      pairs that stand for each other only as synonyms, forms of one word, or misspellings.
    """
    left = sum(map(a.weights.__getitem__, sides.left))
    right = sum(map(b.weights.__getitem__, sides.right))
    loose = len(sides.spelled) + len(sides.derived) + len(sides.synonyms)
    together = sum(map(a.weights.__getitem__, sides.common)) + 0.8 * loose
    apart = left + right + 2 * len(sides.opposites)
    values = [
        similarity,
        1.0 if a.words == b.words else 0.8 if is_respelled(a, b) else 0.0,
        together / (together + apart) if together + apart else 1.0,
        min(left, right, 3.0),
        min(max(left, right), 4.0),
        min(loose, 3.0),
    ]
    for finding in findings:
        level = finding.level
        values.append(1.0 if level == 1 else 0.0)
        values.append(1.0 if level == 2 else 0.0)
    return values
