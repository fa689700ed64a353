"""Guards: where the surface says that two questions want different answers, however close their embeddings are.

Each guard is an object of its own with a name, looks at one thing, and answers with a finding: "same" (nothing
differs),
"open" (one side says more than the other), or "conflict" (both sides say something, and it is not the same). Together
with the words for it. They look at texts that were parsed once and laid side by side once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from asynccache.errors import ConfigError
from asynccache.semantic import lexicon as lx
from asynccache.semantic.alignment import Alignment
from asynccache.semantic.texts import PAST, Key, Text, stem

Level = Literal[0, 1, 2]
SAME: Level = 0
OPEN: Level = 1
CONFLICT: Level = 2


class Finding(NamedTuple):
    """What a guard found. `words`: the differing parts, of the first and of the second text."""

    level: Level
    words: tuple[str, str] = ("", "")


NOTHING = Finding(SAME)


class Guard(Protocol):
    """Looks at one way in which questions differ. Pure, and at most some microseconds.

    vetoes: whether its conflict alone forbids to serve. Others only lower the score.
    """

    @property
    def name(self) -> str: ...

    @property
    def vetoes(self) -> bool: ...

    def __call__(self, a: Text, b: Text, sides: Alignment, /) -> Finding: ...


class Numbers:
    """Amounts: 5, five, 5.0; 2k, 2,000 and two thousand; $5, 5 USD and five dollars; -5 and minus 5."""

    name = "number"
    vetoes = True

    def __call__(self, a: Text, b: Text, _sides: Alignment, /) -> Finding:
        if not a.numbers and not b.numbers:
            return NOTHING
        if a.negative != b.negative and sorted(a.negative) != sorted(b.negative):
            return Finding(CONFLICT, (_negative(a), _negative(b)))
        one, other = [value for value, _ in a.numbers], [value for value, _ in b.numbers]
        found = _compared(one, other, a.optional, b.optional)
        if found.level == OPEN and len(set(one) & set(other)) >= 2:
            return Finding(CONFLICT, found.words)  # a sum with one more number is another sum
        return found


class Units:
    """What an amount is an amount of: 5 km is not 5 miles. An amount with its unit left out is open."""

    name = "unit"
    vetoes = True

    def __call__(self, _a: Text, _b: Text, sides: Alignment, /) -> Finding:
        left = [key for key in sides.left if key[:2] == "u:"]
        right = [key for key in sides.right if key[:2] == "u:"]
        return _level(left, right)


class Dates:
    """Years, months, weekdays, today and tomorrow; what is, and what used to be."""

    name = "date"
    vetoes = True

    def __call__(self, a: Text, b: Text, _sides: Alignment, /) -> Finding:
        if (PAST in a.weights) != (PAST in b.weights):
            return Finding(CONFLICT, ("used to" * (PAST in a.weights), "used to" * (PAST in b.weights)))
        if not a.dates and not b.dates:
            return NOTHING
        return _compared(_without_numbers(a, b), _without_numbers(b, a), a.optional, b.optional)


class Names:
    """Words with a capital of their own: people, places, products. An alias, an acronym or a misspelling is the
    same."""

    name = "name"
    vetoes = True

    def __call__(self, a: Text, b: Text, sides: Alignment, /) -> Finding:
        left = [key for key in sides.left if key in a.names]
        right = [key for key in sides.right if key in b.names]
        if not left and not right:
            return NOTHING
        if left and right:
            return Finding(CONFLICT, (_words(left), _words(right)))
        # What one side has taken back is all that the other says: "Germany, no, France" is not Germany.
        taken_back = a.optional & a.names if left else b.optional & b.names
        if not taken_back.isdisjoint(sides.common):
            return Finding(CONFLICT, (_words(left), _words(right)))
        return Finding(OPEN, (_words(left or sides.left), _words(right or sides.right)))


class Negation:
    """An odd number of turns of the meaning on one side, an even one on the other: not, never, without, un-.

    "It does not work" and "it is broken", "I cannot find it" and "How do I find it?" are open."""

    name = "negation"
    vetoes = True

    def __call__(self, a: Text, b: Text, sides: Alignment, /) -> Finding:
        turned = len(sides.negated)
        if a.negations == b.negations and not turned:
            return NOTHING
        if (a.negations + b.negations + turned + _degrees(sides)) % 2:
            words = sides.negated[0] if sides.negated else ("not" * bool(a.negations), "not" * bool(b.negations))
            explained = sides.opposites or (not turned and _says_it_otherwise(a, b, sides))
            return Finding(OPEN if explained else CONFLICT, words)
        return Finding(SAME if turned else OPEN)


class Antonyms:
    """A word on one side and its opposite on the other: buy, sell. With a "not" beside one of them it is open."""

    name = "antonym"
    vetoes = True

    def __call__(self, a: Text, b: Text, sides: Alignment, /) -> Finding:
        if not sides.opposites:
            small = _opposite_function_words(a, b)
            return Finding(CONFLICT, small) if small else NOTHING
        turns = a.negations + b.negations + len(sides.negated)
        twice = _degrees(sides) and len(sides.opposites) > 1  # less negative, more positive
        return Finding(OPEN if turns % 2 or twice else CONFLICT, sides.opposites[0])


class Order:
    """Who does what to whom: from A to B is not from B to A. "A and B" is "B and A". A phrase that went as a whole to
    the other end is open."""

    name = "order"
    vetoes = False

    def __call__(self, a: Text, b: Text, sides: Alignment, /) -> Finding:
        if len(sides.common) < 2:
            return NOTHING
        for key in sides.common:
            left, right = a.relations.get(key), b.relations.get(key)
            if left and right and left.isdisjoint(right) and _directions(left) and _directions(right):
                return Finding(CONFLICT, (f"{'/'.join(sorted(left))} {key}", f"{'/'.join(sorted(right))} {key}"))
        moved = sides.moved
        if not moved:
            return NOTHING
        symmetric = not SYMMETRIC.isdisjoint(a.words) and not SYMMETRIC.isdisjoint(b.words)
        if (symmetric and len(moved) <= 2 and max(len(a.words), len(b.words)) <= 14) or _only_joined(moved, a, b):
            return NOTHING
        rest = max(len(sides.left), len(sides.right))
        if _is_carried(sides.common, [key for key in b.weights if key in a.weights]):
            return Finding(OPEN, (moved[0], "elsewhere"))
        if len(moved) >= 2 and len(sides.common) >= 6 and rest <= (2 if len(sides.common) >= 8 else 1):
            return Finding(CONFLICT, (", ".join(moved[:3]), "elsewhere"))
        if not rest and len(a.words) == len(b.words) and a.function == b.function:
            return Finding(CONFLICT, (moved[0], "elsewhere"))
        return Finding(OPEN, (moved[0], "elsewhere"))


class Code:
    """Identifiers, programming languages, operators; and every word of a programming task: a list is not a tuple
    there."""

    name = "code"
    vetoes = True

    def __call__(self, a: Text, b: Text, sides: Alignment, /) -> Finding:
        if sides.left and sides.right and is_task(a) and is_task(b):
            return Finding(CONFLICT, (_words(sides.left), _words(sides.right)))
        if a.operators != b.operators:
            one, other = Counter(a.operators), Counter(b.operators)
            if one - other and other - one:  # where one has none, its author may have written a word for it
                return Finding(CONFLICT, (" ".join(a.operators), " ".join(b.operators)))
        if not a.code and not b.code and not a.languages and not b.languages:
            return NOTHING
        both = [
            _level(sorted(one - other), sorted(other - one))
            for one, other in ((a.code, b.code), (a.languages, b.languages))
            if one != other
        ]
        return max(both, default=NOTHING)


class Quotes:
    """Quoted passages. Without the marks on the other side they are the same."""

    name = "quote"
    vetoes = True

    def __call__(self, a: Text, b: Text, _sides: Alignment, /) -> Finding:
        if a.quotes == b.quotes:
            return NOTHING
        left = [quote for quote in a.quotes - b.quotes if quote not in b.raw.lower()]
        right = [quote for quote in b.quotes - a.quotes if quote not in a.raw.lower()]
        return _level(left, right)


class Question:
    """What is asked for: who and when are never the same; why, how and what may be."""

    name = "question"
    vetoes = False

    def __call__(self, a: Text, b: Text, _sides: Alignment, /) -> Finding:
        if a.asks == b.asks or not a.asks or not b.asks:
            return NOTHING
        pair = frozenset((a.asks, b.asks))
        if pair == _HOW_WHERE and not _FINDING.isdisjoint(a.words) and not _FINDING.isdisjoint(b.words):
            return Finding(OPEN, (a.asks, b.asks))  # how, and where, do I find it
        return Finding(CONFLICT if pair in _APART else OPEN, (a.asks, b.asks))


ALL: tuple[Guard, ...] = (
    Numbers(),
    Units(),
    Dates(),
    Names(),
    Negation(),
    Antonyms(),
    Order(),
    Code(),
    Quotes(),
    Question(),
)


def named(names: Iterable[str]) -> tuple[Guard, ...]:
    """The guards of these names, or of this one. Raises ConfigError for one that there is not."""
    known = {guard.name: guard for guard in ALL}
    if not isinstance(names, Iterable):
        raise ConfigError(f"guards={names!r}: a list of names is wanted; there are: {', '.join(known)}")
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"there is no guard {name!r}; there are: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(wanted))


def _compared(left: Iterable[str], right: Iterable[str], *optional: frozenset[Key]) -> Finding:
    one, other = Counter(left), Counter(right)
    if one == other:
        return NOTHING
    back_a, back_b = optional
    return _level(
        [
            value
            for value in (set(one) - set(other) or _more(one, other))
            if f"#{value}" not in back_a and value not in back_a
        ],
        [
            value
            for value in (set(other) - set(one) or _more(other, one))
            if f"#{value}" not in back_b and value not in back_b
        ],
    )


def _negative(text: Text) -> str:
    return " ".join(f"-{digits}" for digits in text.negative)


def _without_numbers(text: Text, other: Text) -> list[Key]:
    """The dates but for years that stand as a bare number on the other side: before 1800, before 1,800."""
    numbers = {value for value, _ in other.numbers}
    return [key for key in text.dates if key[:2] != "y:" or key[2:] not in numbers or key in other.dates]


def is_task(text: Text) -> bool:
    """Whether code is asked for."""
    return not _CODE_WORDS.isdisjoint(text.words[:9]) and not _CODE_VERBS.isdisjoint(text.words[:6])


def _only_joined(moved: Sequence[Key], a: Text, b: Text) -> bool:
    """Whether all that moved is "and"-ed or "or"-ed with something that both have."""
    return all(a.joined.get(key) and a.joined[key] == b.joined.get(key) for key in moved)


def _says_it_otherwise(a: Text, b: Text, sides: Alignment) -> bool:
    """Whether the side with fewer negations may say without one what the other says with one."""
    if a.negations > b.negations:
        return not _FAILURES.isdisjoint(sides.right) or _asks_for_what_fails(a, b)
    return not _FAILURES.isdisjoint(sides.left) or _asks_for_what_fails(b, a)


def _asks_for_what_fails(a: Text, b: Text) -> bool:
    """ "I cannot find it" beside "How do I find it?"."""
    return (
        0 < a.complaints == a.negations and not b.negations and b.asks in _HOW_WHERE and a.asks in ("whether", b.asks)
    )


def _is_carried(one: Sequence[Key], other: Sequence[Key]) -> bool:
    """Whether two phrases side by side changed places, and all else stands as it did. A word alone may have changed its
    part."""
    start, end = 0, len(one)
    while one[start] == other[start]:
        start += 1
    while one[end - 1] == other[end - 1]:
        end -= 1
    here, there = list(one[start:end]), list(other[start:end])
    at = there.index(here[0])
    return 2 <= at <= len(here) - 2 and there[at:] + there[:at] == here


def _more(one: Counter[str], other: Counter[str]) -> set[str]:
    """What one side has more often, where it has as many in all: something else stands in its place on the other."""
    return set(one - other) if one.total() == other.total() else set()


def _level(left: Sequence[str], right: Sequence[str]) -> Finding:
    if not left and not right:
        return NOTHING
    return Finding(CONFLICT if left and right else OPEN, (_words(left), _words(right)))


def _words(keys: Sequence[str]) -> str:
    return ", ".join(_shown(key) for key in keys[:4])


def _shown(key: str) -> str:
    return key[2:] if key[1:2] == ":" else key.removeprefix("=").removeprefix("#")


def _directions(words: frozenset[str]) -> bool:
    return not words.isdisjoint(_DIRECTED)


def _degrees(sides: Alignment) -> int:
    return sum(pair in _DEGREES for pair in sides.opposites)


def _opposite_function_words(a: Text, b: Text) -> tuple[str, str] | None:
    if a.function == b.function:
        return None
    for one, other in _OPPOSITE_SMALL:
        if (one in a.function and other in b.function and other not in a.function and one not in b.function) or (
            other in a.function and one in b.function and one not in a.function and other not in b.function
        ):
            return (one, other)
    return None


_CODE_WORDS = frozenset(["function", "program", "code", "script", "query", "method", "class", "regex", "regular"])
_CODE_VERBS = frozenset(
    [
        "write",
        "implement",
        "create",
        "develop",
        "build",
        "make",
        "define",
        "code",
        "program",
        "design",
        "give",
        "generate",
    ]
)
SYMMETRIC = lx.SYMMETRIC_PREDICATES
_DEGREES = frozenset({("more", "less"), ("less", "more"), ("most", "least"), ("least", "most")})
_DIRECTED = frozenset({"from", "to", "than", "before", "after", "under", "over"})
_OPPOSITE_SMALL = (
    ("he", "she"),
    ("his", "her"),
    ("and", "or"),
    ("many", "few"),
    ("up", "down"),
    ("on", "off"),
    ("over", "under"),
    ("most", "least"),
    ("more", "less"),
)
_FAILURES = frozenset(map(stem, lx.FAILURES))
_HOW_WHERE = frozenset({"how", "where"})
_FINDING = frozenset({"find", "get", "see", "access", "view", "check", "locate", "buy", "obtain"})
_APART = frozenset(
    frozenset(pair)
    for pair in (
        *(("who", "when"), ("who", "where"), ("when", "where")),
        *(("why", other) for other in ("when", "where", "who")),
        *(("how", other) for other in ("who", "when", "why", "where")),
    )
)
