"""A question taken apart once: words, numbers, dates, names, negations, code, quotations. Pure Python.

What is kept is small and read-only. `Parser` keeps the latest texts, so that a stored question that comes up as a
candidate again and again is parsed once.
"""

from __future__ import annotations

import re
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

from asynccache.semantic import lexicon as lx

Key = str
"""A word as it is compared: its stem, or a canonical value such as "#5", "y:2016", "m:3", "u:km"."""

PAST: Key = "~past"

_TOKEN = re.compile(
    r"[$€£₹¥₽₩]?\d+(?:[.,:/]\d+)*(?:%|[^\W\d_]+)?(?:[-_]\w+)*"  # 5, $1,000.50, 10km, 3rd, 2016-17, 10-year
    r"|[^\W\d]\w*(?:(?:['’.&+-]|::|->)\w+)*(?:\+\+|#|\(\))?"  # don't, gold-digger, u.s.a, a_name, c++, f()
    r"|[%$€£₹¥₽₩]|!=|[=<>+*/^|&~]+"
)
_NUMBER = re.compile(r"([$€£₹¥₽₩]?)(\d+(?:[.,:/]\d+)*)(%|[^\W\d_]*)(.*)", re.DOTALL)
# A minus that belongs to the number after it: not that of 2016-17, of a range, or of "7 - 3".
_NEGATIVE = re.compile(
    r"(?:(?<![^\s(\[{|,;:=<>+*/^\"'“])[-−–]|\b(?:minus|negative)\s+)(?=[$€£₹¥₽₩]?(\d+(?:[.,]\d+)*))", re.IGNORECASE
)
_LEFT, _RIGHT = r"(?:(?<=[\d)\]|])|(?<=(?<![^\W\d_])[^\W\d_]))\s*", r"\s*(?=[\d(\[|]|[^\W\d_](?![^\W_]))"
_OPERATOR = re.compile(
    r"[=!<>]=+|<>|->|=>|[<>=*^~×÷±√]+"  # everywhere
    rf"|{_LEFT}[-−–+/]{_RIGHT}"  # between numbers, brackets and single letters: not and/or, e-mail
    r"|(?<!\d)(?<!\d\s)[$€£₹¥₽₩](?!\s?\d)"  # a currency of no amount
)
_ONE_SIGN = str.maketrans("−–×÷", "--*/")
_QUOTED = re.compile(r"\"([^\"]{1,80})\"|“([^”]{1,80})”|«([^»]{1,80})»|`([^`]{1,80})`|(?<!\w)'([^']{2,80})'(?!\w)")
_QUOTE_MARKS = frozenset("\"“«`'")
_START = re.compile(r"(?:^|[.?!:;]\s+|[\"“])\s*")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_CODE_WORD = re.compile(r"\w*[^\W_]_\w+|[a-z]{2,}[A-Z]\w*|\w+\(\)|\w+(?:::|->)\w+")
_MARK = re.compile(r"[a-z]{1,3}-\d+")  # w-2, f-16
_CAMEL_NAMES = frozenset({"macOS", "watchOS", "tvOS", "deviantArt"})
_CONTRACTIONS = {
    "can't": ("can", "not"),
    "won't": ("will", "not"),
    "shan't": ("shall", "not"),
    "cannot": ("can", "not"),
    "let's": ("let", "us"),
    "dont": ("do", "not"),
    "cant": ("can", "not"),
    "doesnt": ("does", "not"),
    "didnt": ("did", "not"),
    "isnt": ("is", "not"),
    "arent": ("are", "not"),
    "wasnt": ("was", "not"),
    "wont": ("will", "not"),
    "wouldnt": ("would", "not"),
    "shouldnt": ("should", "not"),
    "couldnt": ("could", "not"),
    "hasnt": ("has", "not"),
    "havent": ("have", "not"),
    "ain't": ("is", "not"),
    "im": ("i", "am"),
    "ive": ("i", "have"),
    "whats": ("what", "is"),
    "hows": ("how", "is"),
    "whos": ("who", "is"),
    "wheres": ("where", "is"),
    "thats": ("that", "is"),
    "theres": ("there", "is"),
    "youre": ("you", "are"),
    "theyre": ("they", "are"),
}
_ENDINGS = {"'m": "am", "'re": "are", "'ve": "have", "'ll": "will", "'d": "would", "'s": "is"}
_BEFORE_IS = frozenset(
    [
        "what",
        "it",
        "that",
        "there",
        "who",
        "how",
        "where",
        "when",
        "why",
        "let",
        "he",
        "she",
        "here",
        "this",
        "everything",
    ]
)
_ROMAN = {"II": 2, "III": 3, "IV": 4, "VI": 6, "VII": 7, "VIII": 8, "IX": 9, "XI": 11, "XII": 12}
_VOWELS = frozenset("aeiouy")
_ASKERS = frozenset({"i", "we"})
_ABLE = frozenset({"can", "could", "am", "are", "was", "were"})


@dataclass(frozen=True, slots=True)
class Text:
    """A question taken apart.

    words:     all its words, lower case, small talk at both ends and fillers left out.
    content:   the keys of the words that carry meaning, in order, with the number of each in `words`.
    function:  the words that do not, each once.
    weights:   key → how much its absence would matter, from 0 to 1.
    numbers:   (value, unit or "") in order; dates: keys of years, months, weekdays, "tomorrow".
    names:     keys that have a capital which is not the sentence's.
    initials:  keys that are written in capitals only: they may stand for the initials of others.
    negations: how many words turn the meaning round; complaints: those of them that say what the asker cannot do.
    negative:  the digits of numbers below nought; operators: of sums and comparisons, in order.
    code, quotes, languages: identifiers, quoted passages, programming languages.
    relations: key → the small words such as "from", "to" and "than" it stands after.
    joined:    key → the keys it is "and", "or"-ed with.
    optional:  keys before a correction such as "no, I mean": what is taken back needs no counterpart.
    """

    raw: str
    words: tuple[str, ...]
    content: tuple[tuple[Key, int], ...]
    function: frozenset[str]
    weights: dict[Key, float]
    numbers: tuple[tuple[str, str], ...]
    dates: tuple[Key, ...]
    names: frozenset[Key]
    initials: frozenset[Key]
    negations: int
    complaints: int
    negative: tuple[str, ...]
    operators: tuple[str, ...]
    code: frozenset[str]
    quotes: frozenset[str]
    languages: frozenset[str]
    relations: dict[Key, frozenset[str]]
    joined: dict[Key, frozenset[Key]]
    optional: frozenset[Key]
    asks: str


class Parser:
    """Parses texts, and keeps the latest `size` of them. Belongs to one event loop."""

    def __init__(self, size: int = 20_000) -> None:
        self._size = size
        self._memo: OrderedDict[str, Text] = OrderedDict()
        self._stems: dict[str, str] = {}

    def __call__(self, text: str) -> Text:
        """The text taken apart. Of a very long one only the first and the last thousand characters are looked at."""
        known = self._memo.get(text)
        if known is not None:
            self._memo.move_to_end(text)
            return known
        parsed = self._parse(text if len(text) <= 2000 else f"{text[:1000]} {text[-1000:]}", text)
        self._memo[text] = parsed
        if len(self._memo) > self._size:
            self._memo.popitem(last=False)
        return parsed

    def stem(self, word: str) -> str:
        known = self._stems.get(word)
        if known is None:
            if len(self._stems) > 50_000:
                self._stems.clear()
            known = self._stems[word] = stem(word)
        return known

    def _parse(self, text: str, raw: str) -> Text:
        plain = spaced = text
        if not text.isascii():
            plain = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'")
            spaced = _CJK.sub(lambda match: f" {match.group()} ", plain)
        tokens = _TOKEN.findall(spaced)
        tokens = _without_small_talk([_without_possessive(token) for token in tokens])
        reader = _Reader(self, plain)
        reader.read(tokens)
        return reader.text(raw)


class _Reader:
    """Fills the fields of one `Text`."""

    def __init__(self, parser: Parser, plain: str) -> None:
        self._stem = parser.stem
        self._plain = plain
        self._words: list[str] = []
        self._content: list[tuple[Key, int]] = []
        self._numbers: list[tuple[str, str]] = []
        self._dates: list[Key] = []
        self._names: set[Key] = set()
        self._initials: set[Key] = set()
        self._code: set[str] = set()
        self._languages: set[str] = set()
        self._negations = 0
        self._complaints = 0
        self._optional: set[Key] = set()
        upper = sum(map(str.isupper, plain))
        self._cased = 0 < upper < 0.5 * sum(map(str.isalpha, plain))  # they say something: not all small, not shouted
        starts = [match.end() for match in _START.finditer(plain)]
        self._starts = frozenset(plain[at : at + 30].split(" ")[0].strip("\"'“”.,?!:;()") for at in starts)

    def read(self, tokens: list[str]) -> None:
        tokens = self._without_corrections(tokens)
        at = 0
        while at < len(tokens):
            if (low := tokens[at].lower()) in _ORDINARY:
                self._words.append(low)
                at += 1
            else:
                at += self._alias(tokens, at) or self._number(tokens, at) or self._word(tokens[at], tokens, at)

    def _without_corrections(self, tokens: list[str]) -> list[str]:
        """Marks of a self-correction and fillers are left out; the words just before the mark become optional."""
        kept: list[str] = []
        at = 0
        small = [token.lower() for token in tokens]
        if _CORRECTIONS.keys().isdisjoint(small) and lx.FILLERS.isdisjoint(small):
            return tokens
        while at < len(tokens):
            length = _starts_with(tokens, at, _CORRECTIONS) if small[at] in _CORRECTIONS else 0
            if length and kept:
                if at + length < len(tokens):
                    for token in kept[-8:]:
                        self._optional.update((self._stem(token.lower()), _ALIASES.get(token.lower(), token.lower())))
                at += length
            elif small[at] in lx.FILLERS and 0 < at < len(tokens) - 1:
                at += 1
            else:
                kept.append(tokens[at])
                at += 1
        return kept

    def _alias(self, tokens: list[str], at: int) -> int:
        first = tokens[at].lower()
        if first in _ALIAS_STARTS:
            for length in (3, 2):
                name = "-".join(tokens[at : at + length]).lower()
                if at + length <= len(tokens) and name in _ALIASES:
                    self._add(_ALIASES[name], name, name=True)
                    return length
        if first in _ALIASES and (first not in _ALIASES_IN_CAPITALS or tokens[at][1:] != first[1:]):
            if first == "pm" and at and tokens[at - 1][:1].isdigit():
                return 0
            self._add(_ALIASES[first], first, name=tokens[at][:1].isupper())
            return 1
        return 0

    def _number(self, tokens: list[str], at: int) -> int:
        token = tokens[at]
        if token[0].isdigit() or (len(token) > 1 and token[0] in "$€£₹¥₽₩" and token[1].isdigit()):
            return self._digits(tokens, at)
        low = token.lower()
        head = low.split("-")[0]
        if head in lx.NUMBER_WORDS and not (low == "one" and not self._counts(tokens, at)):
            return self._number_words(tokens, at)
        if low in lx.ORDINAL_WORDS:
            self._add(f"#{lx.ORDINAL_WORDS[low]}o", low)
            self._numbers.append((f"{lx.ORDINAL_WORDS[low]}o", ""))
            return 1
        return 0

    def _counts(self, tokens: list[str], at: int) -> bool:
        following = tokens[at + 1].lower() if at + 1 < len(tokens) else ""
        return following in lx.UNITS or following in lx.MULTIPLIERS or following in lx.CURRENCIES

    def _digits(self, tokens: list[str], at: int) -> int:
        match = _NUMBER.match(tokens[at])
        assert match is not None
        symbol, digits, suffix, rest = match.groups()
        suffix = suffix.lower()
        unit = lx.CURRENCIES.get(symbol, "")
        if rest[:1] == "-" and rest[1:] and not rest[1].isdigit() and rest[1:].lower() in lx.UNITS:
            unit, rest = lx.UNITS[rest[1:].lower()], ""  # 10-year
        if ":" in digits or "/" in digits:
            self._quantity(digits, suffix)
            return 1
        value = float(digits.replace(",", "")) if digits.replace(",", "").count(".") <= 1 else 0.0
        if digits.replace(",", "").count(".") > 1:
            self._quantity(digits, "")  # a version, an address
            return 1
        used = 1
        if suffix in lx.SUFFIXES and (unit or suffix in ("k", "bn", "mn")):
            value *= lx.SUFFIXES[suffix]
        elif suffix in ("st", "nd", "rd", "th"):
            self._quantity(f"{value:g}o", "")
            return 1
        elif suffix:
            unit = lx.CURRENCIES.get(suffix) or lx.UNITS.get(suffix) or suffix
        if rest:
            if len(digits) == 4 and re.fullmatch(r"-(\d{2}|\d{4})", rest):
                self._year(digits)
                self._year(f"{digits[:2]}{rest[1:]}" if len(rest) == 3 else rest[1:])
                return 1
            self._quantity(f"{value:g}{rest}".lower(), unit)
            return 1
        while at + used < len(tokens) and tokens[at + used].lower() in lx.MULTIPLIERS:
            value *= lx.MULTIPLIERS[tokens[at + used].lower()]
            used += 1
        bare = not unit and not suffix and used == 1
        following = tokens[at + 1].lower() if at + 1 < len(tokens) else ""
        if (
            bare
            and len(digits) == 4
            and 1500 <= value < 2100
            and not (following in lx.UNITS or following in lx.CURRENCIES)
        ):
            self._year(digits)
            return 1
        return used + self._unit(f"{value:.12g}", unit, tokens, at + used)

    def _number_words(self, tokens: list[str], at: int) -> int:
        total = current = 0
        used = 0
        parts = tokens[at].lower().split("-")
        if not all(part in lx.NUMBER_WORDS or part in lx.MULTIPLIERS for part in parts):
            known = lx.NUMBER_WORDS[parts[0]]  # two-factor, three-year
            unit = lx.UNITS.get(parts[1], "")
            self._quantity(str(known), unit)
            for part in () if unit else parts[1:]:
                self._add(self._stem(part), part)
            return 1
        while at + used < len(tokens):
            parts = tokens[at + used].lower().split("-")
            if all(part in lx.NUMBER_WORDS for part in parts):
                value = sum(lx.NUMBER_WORDS[part] for part in parts)
                if used and not (current % 100 == 0 or (current % 10 == 0 and current % 100 >= 20 and value < 10)):
                    break
                current += value
            elif used and len(parts) == 1 and parts[0] in lx.MULTIPLIERS:
                scale = lx.MULTIPLIERS[parts[0]]
                if scale == 100:
                    current = max(current, 1) * 100
                else:
                    total += max(current, 1) * scale
                    current = 0
            elif not (
                used
                and parts == ["and"]
                and at + used + 1 < len(tokens)
                and current % 100 == 0
                and tokens[at + used + 1].lower() in lx.NUMBER_WORDS
            ):
                break
            used += 1
        return used + self._unit(str(total + current), "", tokens, at + used)

    def _unit(self, value: str, unit: str, tokens: list[str], at: int) -> int:
        """Adds a quantity whose unit may be the next token. Returns how many tokens that took."""
        if not unit and at < len(tokens):
            following = tokens[at].lower()
            unit = lx.CURRENCIES.get(following) or lx.UNITS.get(following, "")
            if unit:
                self._quantity(value, unit)
                return 1
        elif at < len(tokens) and lx.CURRENCIES.get(tokens[at].lower()) == unit:
            self._quantity(value, unit)
            return 1
        self._quantity(value, unit)
        return 0

    def _quantity(self, value: str, unit: str) -> None:
        self._numbers.append((value, unit))
        self._add(f"#{value}", value)
        if unit:
            self._add(f"u:{unit}", unit)

    def _year(self, digits: str) -> None:
        self._numbers.append((digits, ""))
        self._dates.append(f"y:{digits}")
        self._add(f"#{digits}", digits)

    def _date(self, key: Key) -> None:
        self._dates.append(key)
        self._add(key, key)

    def _word(self, token: str, tokens: list[str], at: int) -> int:
        low = token.lower()
        plain = token == low and low.isalpha()
        if not plain and _CODE_WORD.fullmatch(token) and token not in _CAMEL_NAMES:
            self._code.add(token.removesuffix("()"))
            self._add(low.removesuffix("()"), low, name=True)
            return 1
        if not token[0].isalnum():
            if token not in ("&", "/", "-"):
                self._add(lx.CURRENCIES.get(token, token), token)
            return 1
        if low in _CONTRACTIONS or (not plain and "'" in low):
            for part in _expanded(low):
                self._simple(part, token, tokens, at)
        elif plain:
            self._simple(low, token, tokens, at)
        elif _MARK.fullmatch(low):
            self._simple(low.replace("-", ""), token, tokens, at)
        elif "-" in low and low not in lx.CODE_LANGUAGES:
            for part in token.split("-"):
                if part:
                    self._simple(part.lower(), part, tokens, at)
        else:
            self._simple(low.replace(".", "") if len(low) < 9 else low, token, tokens, at)
        return 1

    def _simple(self, low: str, token: str, tokens: list[str], at: int) -> None:
        if not low:
            return
        if low in lx.NEGATIONS or (low == "yet" and at + 1 < len(tokens) and tokens[at + 1].lower() == "to"):
            self._negated(tokens, at)
            return
        if low == "come" and self._words[-1:] == ["how"]:
            self._words[-1] = "why"
        elif low in lx.MONTHS and (low not in lx.MONTHS_THAT_ARE_WORDS or self._beside_a_date(token, tokens, at)):
            self._date(f"m:{lx.MONTHS[low]}")
        elif low in lx.DAYS:
            self._date(f"d:{lx.DAYS[low]}")
        elif (misspelt := self._misspelt_date(low)) is not None:
            self._date(misspelt)
        elif low in lx.RELATIVE_DAYS:
            key = self._stem(low)
            self._dates.append(key)
            self._add(key, low)
        elif low in lx.CODE_LANGUAGES and (low not in ("c", "r", "basic", "go") or self._near_code(tokens)):
            self._languages.add(lx.CODE_LANGUAGES[low])
            self._add(lx.CODE_LANGUAGES[low], low, name=True)
        elif low in ("year", "years") and at + 1 < len(tokens) and re.fullmatch(r"(?:1[5-9]|20)\d\d", tokens[at + 1]):
            return  # the year 2015
        elif low in lx.UNITS and low not in lx.UNIT_WORDS_THAT_ARE_COMMON:
            self._add(f"u:{lx.UNITS[low]}", low)
        elif token in _ROMAN and self._cased:
            self._quantity(str(_ROMAN[token]), "")
        elif (
            low in ("use", "used")
            and at + 1 < len(tokens)
            and tokens[at + 1].lower() == "to"
            and _follows_a_person(self._words)
        ):
            self._add(PAST, low)
        elif low in lx.STOPWORDS:
            self._words.append(low)
        else:
            capital = (
                token[:1].isupper() and self._cased and (token not in self._starts or self._before_a_name(tokens, at))
            )
            self._add(self._stem(low), low, name=capital or (self._cased and token.isupper() and len(token) > 1))
            if token.isupper() and self._cased and 2 <= len(token) <= 6:
                self._initials.add(self._stem(low))

    def _negated(self, tokens: list[str], at: int) -> None:
        """Counts a negation, but not that of "I do not know why": it asks why."""
        asker = not _ASKERS.isdisjoint(self._words[-3:]) and "if" not in self._words[-4:]
        following = [token.lower() for token in tokens[at + 1 : at + 4]] if asker else []
        if not (following and following[0] in lx.KNOWING and any(word in lx.INDIRECT for word in following[1:])):
            self._negations += 1
            self._complaints += asker and self._words[-1] in _ABLE
        self._words.append("not")

    def _beside_a_date(self, token: str, tokens: list[str], at: int) -> bool:
        before = tokens[at - 1].lower() if at else ""
        after = tokens[at + 1] if at + 1 < len(tokens) else ""
        capital = token[:1].isupper() and self._cased and at > 0
        return (
            capital
            or after[:1].isdigit()
            or before[:1].isdigit()
            or before in ("in", "last", "next", "since", "until", "of")
        )

    def _misspelt_date(self, low: str) -> Key | None:
        if len(low) < 6 or low in lx.STOPWORDS:
            return None
        for name, key in _DATES_BY_LETTERS.get(low[:1] + low[-1:], ()):
            if is_misspelt(low, name):
                return key
        return None

    def _before_a_name(self, tokens: list[str], at: int) -> bool:
        following = tokens[at + 1] if at + 1 < len(tokens) else ""
        return following[:1].isupper() and following[1:].islower() and following.lower() not in lx.STOPWORDS

    def _near_code(self, tokens: list[str]) -> bool:
        return any(
            token.lower() in ("code", "program", "programming", "function", "language", "in", "write")
            for token in tokens
        )

    def _add(self, key: Key, word: str, *, name: bool = False) -> None:
        self._content.append((key, len(self._words)))
        self._words.append(word)
        if name:
            self._names.add(key)

    def text(self, raw: str) -> Text:
        words = tuple(self._words)
        places = {place: key for key, place in self._content}
        relations: dict[Key, set[str]] = {}
        joined: dict[Key, set[Key]] = {}
        for (before, left), (key, place) in pairwise([("", -1), *self._content]):
            if place == left + 1:
                continue
            between = words[left + 1 : place]
            if directed := lx.ASYMMETRIC.intersection(between):
                relations.setdefault(key, set()).update(directed)
            if before and not lx.SYMMETRIC.isdisjoint(between):
                linking = [word for word in between if word not in ("a", "an", "the")]
                if len(linking) == 1:
                    joined.setdefault(before, set()).add(key)
                    joined.setdefault(key, set()).add(before)
        quotes = {
            " ".join(_TOKEN.findall(next(part for part in match if part).lower()))
            for match in (() if _QUOTE_MARKS.isdisjoint(self._plain) else _QUOTED.findall(self._plain))
        }
        return Text(
            raw=raw,
            words=words,
            content=tuple(self._content),
            function=frozenset(word for place, word in enumerate(words) if place not in places),
            weights={key: _weight(key, words[place], key in self._names) for key, place in self._content},
            numbers=tuple(self._numbers),
            dates=tuple(self._dates),
            names=frozenset(self._names),
            initials=frozenset(self._initials),
            negations=self._negations,
            complaints=self._complaints,
            negative=tuple(_NEGATIVE.findall(self._plain)),
            operators=tuple([sign.strip().translate(_ONE_SIGN) for sign in _OPERATOR.findall(self._plain)]),
            code=frozenset(self._code),
            quotes=frozenset(quote for quote in quotes if quote),
            languages=frozenset(self._languages),
            relations={key: frozenset(value) for key, value in relations.items()},
            joined={key: frozenset(value) for key, value in joined.items()},
            optional=frozenset(self._optional),
            asks=next((lx.QUESTION_WORDS[word] for word in words if word in lx.QUESTION_WORDS), ""),
        )


def is_misspelt(one: str, other: str) -> bool:
    """One slip of the fingers apart: two letters swapped, one dropped, or one doubled. No other letter instead:
    that is how Iran and Iraq differ."""
    short, long = (one, other) if len(one) <= len(other) else (other, one)
    if len(long) < 4 or len(long) - len(short) > 1 or not short.isalpha():
        return False
    at = 0
    while at < len(short) and short[at] == long[at]:
        at += 1
    if len(short) == len(long):
        return short[at + 2 :] == long[at + 2 :] and short[at : at + 2] == long[at : at + 2][::-1]
    return len(long) > 4 and short[at:] == long[at + 1 :]


def stem(word: str) -> str:
    """The word without its commonest English endings. Not a linguist's stem: equal for forms of a word, mostly."""
    if len(word) <= 3 or not word.isascii():
        return word
    word = _IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        word = f"{word[:-3]}y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "edly", "ed", "ly"):
        rest = word[: -len(ending)]
        if word.endswith(ending) and len(rest) >= 3 and not _VOWELS.isdisjoint(rest):
            if ending == "ed" and rest.endswith("e"):
                break  # need, speed
            word = rest
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    if len(word) > 4 and word.endswith("e"):
        word = word[:-1]
    if len(word) > 3 and word.endswith("i"):
        word = f"{word[:-1]}y"
    return word


def _follows_a_person(words: list[str]) -> bool:
    """ "did she use to", "he used to"; not "how to use to"."""
    return bool(words) and words[-1] not in (
        "to",
        "can",
        "i",
        "you",
        "we",
        "be",
        "is",
        "are",
        "was",
        "were",
        "been",
        "being",
        "get",
        "gets",
        "got",
        "commonly",
        "often",
    )


def _without_possessive(token: str) -> str:
    """ "Yahoo's" is "Yahoo"; "what's" stays."""
    if token[-2:] in ("'s", "'S") and token[:-2].lower() not in _BEFORE_IS:
        return token[:-2]
    return token


def _expanded(low: str) -> tuple[str, ...]:
    known = _CONTRACTIONS.get(low)
    if known is not None:
        return known
    if low.endswith("n't"):
        return (low[:-3], "not")
    for ending, full in _ENDINGS.items():
        if low.endswith(ending):
            return (low[: -len(ending)], full)
    return (low.replace("'", ""),)


def _weight(key: Key, word: str, name: bool) -> float:
    if key[0] == "#" or key[1:2] == ":" or name:
        return 1.0
    if word in lx.GENERIC:
        return 0.35
    return 1.0 if len(word) > 2 else 0.6


def _phrases(phrases: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Phrases by their first word, the longest first."""
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for phrase in phrases:
        words = tuple(_TOKEN.findall(phrase))
        by_first.setdefault(words[0], []).append(words)
    return {first: tuple(sorted(each, key=len, reverse=True)) for first, each in by_first.items()}


def _reversed(phrases: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], ...]]:
    return _phrases(tuple(" ".join(reversed(_TOKEN.findall(phrase))) for phrase in phrases))


_OPENERS = _phrases(lx.OPENERS)
_CLOSERS = _reversed(lx.CLOSERS)
_CORRECTIONS = _phrases(lx.CORRECTIONS)


def _starts_with(tokens: list[str], at: int, phrases: dict[str, tuple[tuple[str, ...], ...]]) -> int:
    """The length of the longest phrase that begins there, or 0."""
    for phrase in phrases.get(tokens[at].lower(), ()):
        if tuple(token.lower() for token in tokens[at : at + len(phrase)]) == phrase:
            return len(phrase)
    return 0


def _without_small_talk(tokens: list[str]) -> list[str]:
    for _ in range(3):
        length = _starts_with(tokens, 0, _OPENERS) if len(tokens) > 3 else 0
        if not length or len(tokens) - length < 2:
            break
        tokens = tokens[length:]
    for _ in range(2):
        length = _starts_with(tokens[::-1], 0, _CLOSERS) if len(tokens) > 3 else 0
        if not length or len(tokens) - length < 3:
            break
        tokens = tokens[:-length]
    return tokens


_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
    "bought": "buy",
    "thought": "think",
    "taught": "teach",
    "caught": "catch",
    "went": "go",
    "gone": "go",
    "made": "make",
    "making": "make",
    "took": "take",
    "taken": "take",
    "taking": "take",
    "gave": "give",
    "given": "give",
    "giving": "give",
    "found": "find",
    "wrote": "write",
    "written": "write",
    "writing": "write",
    "said": "say",
    "told": "tell",
    "knew": "know",
    "known": "know",
    "came": "come",
    "coming": "come",
    "became": "become",
    "becoming": "become",
    "began": "begin",
    "begun": "begin",
    "felt": "feel",
    "kept": "keep",
    "left": "leave",
    "lost": "lose",
    "losing": "lose",
    "won": "win",
    "paid": "pay",
    "sent": "send",
    "spent": "spend",
    "built": "build",
    "broke": "break",
    "broken": "break",
    "chose": "choose",
    "chosen": "choose",
    "drove": "drive",
    "driven": "drive",
    "ate": "eat",
    "eaten": "eat",
    "fell": "fall",
    "fallen": "fall",
    "flew": "fly",
    "flown": "fly",
    "forgot": "forget",
    "forgotten": "forget",
    "grew": "grow",
    "grown": "grow",
    "heard": "hear",
    "held": "hold",
    "met": "meet",
    "ran": "run",
    "saw": "see",
    "seen": "see",
    "sold": "sell",
    "slept": "sleep",
    "spoke": "speak",
    "spoken": "speak",
    "stole": "steal",
    "stolen": "steal",
    "stood": "stand",
    "understood": "understand",
    "wore": "wear",
    "worn": "wear",
    "using": "use",
    "used": "use",
    "dying": "die",
    "lying": "lie",
    "living": "live",
    "having": "have",
    "being": "be",
    "moving": "move",
    "changing": "change",
    "hiding": "hide",
    "driving": "drive",
    "riding": "ride",
    "analysis": "analyze",
    "lives": "life",
    "wives": "wife",
    "knives": "knife",
    "worse": "worse",
    "this": "this",
    "news": "news",
    "always": "always",
    "during": "during",
    "morning": "morning",
    "evening": "evening",
    "nothing": "nothing",
    "something": "something",
    "species": "species",
    "series": "series",
    "india": "india",
    "during ": "during",
    "only": "only",
    "family": "family",
    "early": "early",
    "daily": "daily",
    "reply": "reply",
    "apply": "apply",
}

_ALIASES: dict[str, Key] = {
    name: f"={group.split()[0]}" for group in lx.ALIASES_TEXT.replace("\n", ";").split(";") for name in group.split()
}
_ALIASES_IN_CAPITALS = frozenset({"us", "la", "pm", "ms", "got", "os", "hp", "ac", "cv", "cm", "ee", "un", "wa"})
"""Small, they are other words."""
_ALIAS_STARTS = frozenset(name.split("-")[0] for name in _ALIASES if "-" in name)
_ORDINARY = frozenset(filter(str.isalpha, lx.STOPWORDS)).difference(
    _ALIASES, _ALIAS_STARTS, _CONTRACTIONS, lx.NEGATIONS, lx.NUMBER_WORDS, lx.ORDINAL_WORDS, lx.MONTHS, lx.DAYS,
    lx.RELATIVE_DAYS, lx.CODE_LANGUAGES, lx.UNITS, ("year", "years", "use", "used", "yet", "come"),
)  # fmt: skip
"""Words that are never anything else."""


def _dates_by_letters() -> dict[str, list[tuple[str, Key]]]:
    """Long names of days and months by their first and last letter."""
    named = {
        **{name: f"d:{day}" for name, day in lx.DAYS.items()},
        **{name: f"m:{month}" for name, month in lx.MONTHS.items()},
    }
    by_letters: dict[str, list[tuple[str, Key]]] = {}
    for name, key in named.items():
        if len(name) >= 6:
            by_letters.setdefault(name[0] + name[-1], []).append((name, key))
    return by_letters


_DATES_BY_LETTERS = _dates_by_letters()
