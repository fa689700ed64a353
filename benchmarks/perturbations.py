"""Texts made from texts: respellings that change nothing, and twins that change one thing. For training the scorer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from asynccache.semantic import lexicon as lx

OPENINGS = (
    "Hello!",
    "Hi,",
    "Hey there.",
    "Quick question:",
    "Please help:",
    "Good morning.",
    "Could you tell me:",
    "I was wondering:",
    "Hi there,",
    "Please,",
)
CLOSINGS = (
    "Thanks!",
    "Please explain.",
    "Thank you.",
    "Any ideas?",
    "Please help.",
    "thanks in advance",
    "Cheers.",
    "Please.",
)
LONG_FORMS = (
    ("don't", "do not"),
    ("doesn't", "does not"),
    ("can't", "cannot"),
    ("isn't", "is not"),
    ("what's", "what is"),
    ("I'm", "I am"),
    ("didn't", "did not"),
    ("won't", "will not"),
    ("it's", "it is"),
    ("I've", "I have"),
    ("aren't", "are not"),
)
SMALL_NUMBERS = {
    str(value): word for word, value in lx.NUMBER_WORDS.items() if value not in (1, 12) and "ft" not in word
}
NAMES = (
    "Anna",
    "Tom",
    "Maria",
    "David",
    "Laura",
    "Kevin",
    "Susan",
    "Peter",
    "Berlin",
    "Madrid",
    "Toronto",
    "Chicago",
    "Denver",
    "Nairobi",
    "Lisbon",
    "Oslo",
    "Peru",
    "Kenya",
    "Norway",
    "Canada",
    "Brazil",
    "Google",
    "Amazon",
    "Sony",
    "Nokia",
    "Toyota",
    "Spotify",
    "Netflix",
    "Twitter",
    "Reddit",
    "Linux",
    "Excel",
    "Paris",
    "Tokyo",
    "Boston",
    "Texas",
    "Ohio",
    "Mozart",
    "Newton",
    "Einstein",
)
UNIT_SWAPS = (
    ("day", "week"),
    ("days", "weeks"),
    ("week", "month"),
    ("weeks", "months"),
    ("month", "year"),
    ("months", "years"),
    ("hours", "minutes"),
    ("hour", "minute"),
    ("miles", "kilometers"),
    ("pounds", "kilograms"),
    ("dollars", "euros"),
    ("year", "month"),
    ("years", "months"),
    ("minutes", "seconds"),
    ("kg", "pounds"),
    ("feet", "inches"),
    ("meters", "feet"),
    ("GB", "MB"),
    ("inches", "centimeters"),
    ("liters", "gallons"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
OPPOSITES = tuple(
    (words[0], words[1])
    for group in lx.OPPOSITES_TEXT.replace("\n", ";").split(";")
    if len(words := group.split()) >= 2
)


def respelled(text: str, rng: random.Random) -> str | None:
    """The same question, written differently: a slip, other case, small talk, a long form. None where that fits not."""
    made = rng.choice(_RESPELLINGS)(text, rng)
    return made if made and made != text else None


def twins(text: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, text) of questions that differ from this one in one thing that matters."""
    for kind, make in _TWINS.items():
        made = make(text, rng)
        if made and made.lower() != text.lower():
            yield kind, made


def _slip(text: str, rng: random.Random) -> str | None:
    words = list(re.finditer(r"[A-Za-z]{5,}", text))
    if not words:
        return None
    match = rng.choice(words)
    word = match.group()
    at = rng.randrange(1, len(word) - 1)
    made = rng.choice(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1 :],
        )
    )
    return text[: match.start()] + made + text[match.end() :]


def _long_form(text: str, rng: random.Random) -> str | None:
    for short, long in LONG_FORMS:
        if short in text:
            return text.replace(short, long)
        if f" {long} " in text:
            return text.replace(long, short)
    return None


def _word_for_number(text: str, rng: random.Random) -> str | None:
    match = re.search(r"(?<![\d.,$:/-])\b(\d{1,2})\b(?![\d.,:%/-])", text)
    return (
        text[: match.start()] + SMALL_NUMBERS[match[1]] + text[match.end() :]
        if match and match[1] in SMALL_NUMBERS
        else None
    )


_RESPELLINGS: tuple[Callable[[str, random.Random], str | None], ...] = (
    _slip,
    _slip,
    _long_form,
    _word_for_number,
    lambda text, _: text.lower(),
    lambda text, _: text.upper(),
    lambda text, _: text.rstrip("?.! "),
    lambda text, rng: f"{rng.choice(OPENINGS)} {text}",
    lambda text, rng: f"{text} {rng.choice(CLOSINGS)}",
)


def _number(text: str, rng: random.Random) -> str | None:
    found = [match for match in re.finditer(r"(?<![\w.,-])\d+(?![\w.,-])", text) if not 1500 <= int(match[0]) < 2100]
    if not found:
        return None
    match = rng.choice(found)
    value = int(match[0])
    return (
        text[: match.start()]
        + str(rng.choice((value + 1, value * 2 or 3, value * 10 or 4, max(0, value - 1))))
        + text[match.end() :]
    )


def _number_word(text: str, rng: random.Random) -> str | None:
    found = [match for match in re.finditer(r"[a-z]+", text) if lx.NUMBER_WORDS.get(match[0], 1) > 1]
    if not found:
        return None
    match = rng.choice(found)
    return (
        text[: match.start()]
        + rng.choice(("two", "three", "four", "five", "seven", "ten", "twenty"))
        + text[match.end() :]
    )


def _date(text: str, rng: random.Random) -> str | None:
    for names in (DAYS, MONTHS):
        for name in names:
            if re.search(rf"\b{name}\b", text):
                return re.sub(rf"\b{name}\b", rng.choice([other for other in names if other != name]), text)
    match = re.search(r"\b(19|20)\d\d\b", text)
    return (
        text[: match.start()] + str(int(match[0]) + rng.choice((-3, -1, 1, 2))) + text[match.end() :] if match else None
    )


def _unit(text: str, rng: random.Random) -> str | None:
    fitting = [pair for pair in UNIT_SWAPS if re.search(rf"\b{pair[0]}\b", text)]
    if not fitting:
        return None
    old, new = rng.choice(fitting)
    return re.sub(rf"\b{old}\b", new, text, count=1)


def _name(text: str, rng: random.Random) -> str | None:
    found = list(re.finditer(r"(?<=[a-z,] )[A-Z][a-z]{2,}", text))
    if not found:
        return None
    match = rng.choice(found)
    return text[: match.start()] + rng.choice(NAMES) + text[match.end() :]


def _negated(text: str, rng: random.Random) -> str | None:
    match = re.search(
        r"\b(is|are|was|were|can|could|will|would|should|does|do|did) (it|i|you|he|she|we|they|the \w+|my \w+|\w+s) ",
        text,
    )
    if match:
        return f"{text[: match.end()]}not {text[match.end() :]}"
    match = re.search(r"\b(to|that|which|who|he|she|they|I|you) (?=[a-z]{3,} )", text)
    return f"{text[: match.start()]}not {text[match.start() :]}" if match and match[1] == "to" else None


def _opposite(text: str, rng: random.Random) -> str | None:
    words = set(re.findall(r"[a-z-]+", text))
    fitting = [(old, new) for one, other in OPPOSITES for old, new in ((one, other), (other, one)) if old in words]
    if not fitting:
        return None
    old, new = rng.choice(fitting)
    return re.sub(rf"\b{old}\b", new, text, count=1)


def _order(text: str, rng: random.Random) -> str | None:
    match = re.search(r"\bfrom (\w+) to (\w+)\b", text) or re.search(r"\b(\w+) than (\w+)\b", text)
    if not match:
        return None
    return text[: match.start(1)] + match[2] + text[match.end(1) : match.start(2)] + match[1] + text[match.end(2) :]


_TWINS: dict[str, Callable[[str, random.Random], str | None]] = {
    "number": _number,
    "number word": _number_word,
    "date": _date,
    "unit": _unit,
    "name": _name,
    "negation": _negated,
    "opposite": _opposite,
    "order": _order,
}
