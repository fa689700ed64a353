"""Which words of two questions stand for each other, and which have no counterpart."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from asynccache.semantic import lexicon as lx
from asynccache.semantic.texts import Key, Text, is_misspelt, stem

MOST_LEFT = 14
"""Words without a counterpart that are looked at one by one on either side; further ones stay without."""


@dataclass(slots=True)
class Alignment:
    """Two questions laid side by side.

    common:    keys that both have.
    left, right: keys that only the first, or only the second has, and that nothing below explains.
    spelled:   pairs that are one word misspelt; derived: forms of one word; synonyms: pairs that often say the same.
    moved:     common keys that stand elsewhere: the fewest whose taking out leaves the others in the same order.
    opposites: pairs such as ("buy", "sell"); negated: pairs such as ("happy", "unhappy").
    """

    common: list[Key] = field(default_factory=list)
    left: list[Key] = field(default_factory=list)
    right: list[Key] = field(default_factory=list)
    spelled: list[tuple[Key, Key]] = field(default_factory=list)
    derived: list[tuple[Key, Key]] = field(default_factory=list)
    synonyms: list[tuple[Key, Key]] = field(default_factory=list)
    opposites: list[tuple[Key, Key]] = field(default_factory=list)
    negated: list[tuple[Key, Key]] = field(default_factory=list)
    moved: list[Key] = field(default_factory=list)


def align(a: Text, b: Text) -> Alignment:
    """Lay two texts side by side. What a self-correction took back is left out where it has no counterpart."""
    result = Alignment()
    keys_a, keys_b = a.weights, b.weights
    result.common = [key for key in keys_a if key in keys_b]
    result.moved = _moved(a, b, result.common)
    left = [key for key in keys_a if key not in keys_b and key not in a.optional and _bare(key) not in b.function]
    right = [key for key in keys_b if key not in keys_a and key not in b.optional and _bare(key) not in a.function]
    if (left or right) and (len(a.content) > len(keys_a) or len(b.content) > len(keys_b)):
        # "a list of tuples" and "a tuple of tuples": the second tuple is what stands in the place of the list.
        left, right = left + (_surplus(a, b) if right else []), right + (_surplus(b, a) if left else [])
    if left and right:
        _join_parts(left, right)
        _join_parts(right, left)
    if not left or not right:
        result.left, result.right = left, right
        return result
    open_right = right[:MOST_LEFT]
    rest: list[Key] = []
    for key in left[:MOST_LEFT]:
        best: tuple[int, Key, list[tuple[Key, Key]]] | None = None
        for other in open_right:
            rank, kind = _relation(key, other, result)
            if kind is not None and (best is None or rank < best[0]):
                best = (rank, other, kind)
                if not rank:
                    break
        if best is None:
            rest.append(key)
            continue
        best[2].append((key, best[1]))
        open_right.remove(best[1])
    if rest and open_right:
        _initials(rest, open_right, a, b, result)
    result.left = rest + left[MOST_LEFT:]
    result.right = open_right + right[MOST_LEFT:]
    return result


def _moved(a: Text, b: Text, common: list[Key]) -> list[Key]:
    if len(common) < 2:
        return []
    order = {key: at for at, key in enumerate(key for key in b.weights if key in a.weights)}
    places = [order[key] for key in common]
    if all(x < y for x, y in pairwise(places)):
        return []
    # The longest increasing subsequence stays; `ends[n]` is the place of the last key of the best one of length n + 1.
    ends: list[int] = []
    chain: list[tuple[int, int]] = []
    for at, place in enumerate(places):
        length = bisect_left(ends, place)
        ends[length : length + 1] = [place]
        chain.append((length, at))
    kept: set[int] = set()
    wanted, bound = len(ends) - 1, len(places)
    for length, at in reversed(chain):
        if length == wanted and places[at] < bound:
            kept.add(at)
            wanted, bound = wanted - 1, places[at]
    return [key for at, key in enumerate(common) if at not in kept]


def _surplus(text: Text, other: Text) -> list[Key]:
    """Keys that both have, and this one has more often; each once."""
    counts = Counter(key for key, _ in text.content)
    if len(counts) == len(text.content):
        return []
    others = Counter(key for key, _ in other.content)
    return [key for key, count in counts.items() if count > 1 and 0 < others[key] < count and key not in text.optional]


def _bare(key: Key) -> str:
    return key[1:] if key[0] == "=" else key


def _relation(key: Key, other: Key, result: Alignment) -> tuple[int, list[tuple[Key, Key]] | None]:
    """What two words are to each other: the list of the alignment they belong into, and its rank (0 is surest)."""
    if key == other or not key[0].isalpha() or not other[0].isalpha() or key[1:2] == ":" or other[1:2] == ":":
        return 9, None
    pair = (key, other) if key < other else (other, key)
    if pair in _OPPOSITES or _ends_differently(key, other):
        return 0, result.opposites
    if _is_negated(key, other):
        return 0, result.negated
    if pair in _SYNONYMS:
        return 3, result.synonyms
    if key[0] == other[0]:
        if is_misspelt(key, other):
            return 1, result.spelled
        if is_derived(key, other):
            return 2, result.derived
    return 9, None


def _is_negated(one: Key, other: Key) -> bool:
    short, long = (one, other) if len(one) < len(other) else (other, one)
    if len(short) < 4 or not long.endswith(short):
        return False
    return long[: -len(short)] in lx.NEGATIVE_PREFIXES


def _ends_differently(one: Key, other: Key) -> bool:
    """ "hopeful" and "hopeless"."""
    return (one.endswith("ful") and other == f"{one[:-3]}less") or (
        other.endswith("ful") and one == f"{other[:-3]}less"
    )


def is_respelled(a: Text, b: Text) -> bool:
    """Whether the two say the same word by word, but for slips of the fingers."""
    if len(a.words) != len(b.words):
        return False
    return all(
        x == y or (is_misspelt(x, y) and (min(x, y), max(x, y)) not in _OPPOSITES)
        for x, y in zip(a.words, b.words, strict=True)
    )


def is_derived(one: str, other: str) -> bool:
    """Forms of one word: a long common beginning, and only a short ending beyond it."""
    if not one.isalpha() or not other.isalpha():
        return False  # M605x, M605dh
    common = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        common += 1
    longest = max(len(one), len(other))
    return common >= 4 and longest - common <= 4 and common >= 0.6 * longest and min(len(one), len(other)) - common <= 2


def _join_parts(wholes: list[Key], parts: list[Key]) -> None:
    """ "golddigger" against "gold digger": both go."""
    if len(parts) < 2:
        return
    for whole in list(wholes):
        if len(whole) < 6 or not whole.isalpha():
            continue
        for first in parts:
            if whole.startswith(first) and len(first) < len(whole):
                for second in parts:
                    if second != first and first + second == whole:
                        wholes.remove(whole)
                        parts.remove(first)
                        parts.remove(second)
                        break
                else:
                    continue
                break


def _initials(left: list[Key], right: list[Key], a: Text, b: Text, result: Alignment) -> None:
    """An acronym on one side against its words on the other."""
    for shorts, longs, text, swap in ((left, right, a, False), (right, left, b, True)):
        for short in list(shorts):
            if short not in text.initials or not 2 <= len(short) <= 6:
                continue
            for at in range(len(longs) - len(short) + 1):
                words = longs[at : at + len(short)]
                if "".join(word[0] for word in words) == short:
                    shorts.remove(short)
                    del longs[at : at + len(short)]
                    result.synonyms.append((words[0], short) if swap else (short, words[0]))
                    break


def _pairs(text: str, stemmed: bool = True) -> frozenset[tuple[str, str]]:
    pairs: set[tuple[str, str]] = set()
    for group in text.replace("\n", ";").split(";"):
        words = [stem(part) if stemmed else part for part in group.split()]
        pairs.update((min(x, y), max(x, y)) for x in words for y in words if x != y)
    return frozenset(pairs)


_OPPOSITES = _pairs(lx.OPPOSITES_TEXT)
_SYNONYMS = _pairs(lx.SYNONYMS_TEXT) - _OPPOSITES
