"""Which places of a request are marked: the rules that all providers share. Pure.

A request is looked at as slots: the end of its tools, of its system prompt, and of each message, in the order in which
the provider reads them. What a mark looks like in a slot, the provider's own file knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from asynccache.call_types.fields import field
from asynccache.providers.points import Point, targets

Control = Mapping[str, Any]
Count = Callable[[Any], int]
"""How many tokens a part of a request has: a text, or what JSON has."""

CAP = 4
"""Marks that one request may have, those of the client counted."""

_MARKS = ("cache_control", "prompt_cache_breakpoint")
_WEIGHTLESS = frozenset({*_MARKS, "cachePoint", "cached"})
_PLAIN = frozenset({"type", "text", "content", "role"})
_IMAGE = 1_000
_HEAVY = frozenset({"image", "image_url", "input_image", "document", "file", "input_file", "input_audio", "video"})


@dataclass(frozen=True, slots=True)
class Slot:
    """A place where a prefix may end.

    place:   "tools", "system" or "message"; "request" for the provider's own choice (Anthropic's `cache_control` of
             the whole request).
    index:   of the message, in its list.
    role:    of the message.
    tokens:  about how many the prefix has that ends here.
    lives:   of the marks that the client has put here: "5m" or "1h" each.
    refusal: why it can take no mark; "" when it can.
    part:    what is read between the slot before and this one.
    """

    place: Literal["tools", "system", "message", "request"]
    index: int = -1
    role: str = ""
    tokens: int = 0
    lives: tuple[str, ...] = ()
    refusal: str = ""
    part: Any = None

    @property
    def name(self) -> str:
        return f"message {self.index} ({self.role})" if self.place == "message" else self.place


@dataclass(frozen=True, slots=True)
class Placement:
    """What is to be marked: the slots' numbers and what their marks say; and what was not done, and why."""

    marks: Mapping[int, Control]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Marked:
    """A request as it is to be sent: a new one, or the one that was given when nothing is to be changed.

    notes: what was left out, and why, for people.
    marks: how many were put in.
    """

    request: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    marks: int = 0


class Dialect(Protocol):
    """How one provider wants its requests marked. Pure: no request is ever changed.

    apart:  whether the system prompt has a place of its own, beside the messages.
    writes: life of a mark → what writing a token costs, in ordinary ones. reads: what reading one costs.
    """

    apart: bool
    writes: Mapping[str, float]
    reads: float

    def cap(self, request: Mapping[str, Any]) -> int:
        """Marks that this request may have."""
        ...

    def minimum(self, model: str) -> int:
        """Tokens below which the provider keeps no prefix."""
        ...

    def slots(self, request: Mapping[str, Any], model: str, count: Count) -> list[Slot]:
        """The places where its prefixes may end, in the order in which they are read."""
        ...

    def write(
        self, request: Mapping[str, Any], slots: Sequence[Slot], marks: Mapping[int, Control], model: str
    ) -> Mapping[str, Any]:
        """A request with marks in these slots, and nothing in it that the provider would refuse."""
        ...


def estimate(value: Any) -> int:
    """About how many tokens this has; rather too many than too few: a mark below the minimum costs nothing, and one
    that is missing costs its whole prefix."""
    return -(-_weight(value) // 3)


def _weight(value: Any) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="replace"))
    if isinstance(value, Mapping):
        if value.get("type") in _HEAVY or "inlineData" in value or "fileData" in value:
            return 3 * _IMAGE
        # A text and a block with that text weigh the same, and so do a request with marks and one without.
        return sum(
            (0 if name in _PLAIN else len(str(name))) + _weight(part)
            for name, part in value.items()
            if name not in _WEIGHTLESS and not (name == "type" and "text" in value)
        )
    if isinstance(value, list | tuple):
        return sum(map(_weight, value))
    if isinstance(value, bytes):
        return 3 * _IMAGE
    dump = getattr(type(value), "model_dump", None)
    return _weight(value.model_dump()) if callable(dump) else len(str(value)) if value is not None else 0


def place(slots: Sequence[Slot], points: Sequence[Point], *, cap: int, minimum: int, apart: bool = False) -> Placement:
    """Where these points lead to, in their order: no slot that is marked already, none below the minimum, no more
    than the cap, and the lives of marks from longer to shorter."""
    notes: list[str] = []
    wanted = _wanted(slots, points, apart, notes)
    used = sum(len(slot.lives) for slot in slots)
    tools = next((number for number, _ in wanted if slots[number].place == "tools"), None)
    marks: dict[int, Control] = {}
    for number, control in wanted:
        slot = slots[number]
        if number in marks or slot.lives:
            continue
        reserved = tools is not None and tools not in marks and number != tools and _takes(slots[tools], minimum)
        if slot.refusal:
            notes.append(f"{slot.name}: not marked: {slot.refusal}")
        elif slot.tokens < minimum:
            notes.append(
                f"{slot.name}: not marked: its prefix has about {slot.tokens} tokens, and below {minimum} this model "
                "keeps none"
            )
        elif used + len(marks) + reserved >= cap:
            notes.append(f"{slot.name}: not marked: a request may have {cap} marks")
        else:
            marks[number] = control
    return Placement(longer_first(slots, marks, notes), tuple(notes))


def _wanted(slots: Sequence[Slot], points: Sequence[Point], apart: bool, notes: list[str]) -> list[tuple[int, Control]]:
    """(slot, what its mark says) in the order of the points. Where the system prompt has a place of its own, points
    with that role mean it, and come first."""
    system = next((number for number, slot in enumerate(slots) if slot.place == "system"), None)
    messages = [number for number, slot in enumerate(slots) if slot.place == "message"]
    messages.sort(key=lambda number: slots[number].index)
    found: list[tuple[int, Control]] = []
    first: list[tuple[int, Control]] = []
    for point in points:
        if point.location == "tool_config":
            found += [(number, point.control) for number, slot in enumerate(slots) if slot.place == "tools"]
        elif apart and point.role == "system":
            first += [(system, point.control)] if system is not None and not first else []
        else:
            indices, wrong = targets(point, [slots[number].role for number in messages])
            if wrong:
                notes.append(f"not marked: {wrong}")
            found += [(messages[index], point.control) for index in indices]
    return [*first, *found]


def _takes(slot: Slot, minimum: int) -> bool:
    return not slot.lives and not slot.refusal and slot.tokens >= minimum


def longer_first(slots: Sequence[Slot], marks: dict[int, Control], notes: list[str]) -> dict[int, Control]:
    """The marks with lives that never grow from one slot to a later one, as Anthropic wants it.

    The client's marks stay as they are. Before one of an hour, ours becomes one of an hour; behind one of five minutes
    ours becomes one of five minutes.
    """
    lives = {number: life_of(control) for number, control in marks.items()}
    short = next((number for number, slot in enumerate(slots) if "5m" in slot.lives), len(slots))
    long = max((number for number, slot in enumerate(slots) if "1h" in slot.lives), default=-1)
    if short < long:
        notes.append(f"the client's marks grow in life, from {slots[short].name} to {slots[long].name}")
    long = max([long, *(number for number, life in lives.items() if life == "1h" and number < short)])
    changed = dict(marks)
    for number, life in lives.items():
        fits = "5m" if number > short else "1h" if number < long else life
        if fits != life:
            notes.append(f"{slots[number].name}: its mark lives for {fits}: longer lives come first")
            rest = {name: value for name, value in marks[number].items() if name != "ttl"}
            changed[number] = {**rest, "ttl": fits} if fits == "1h" else rest
    return changed


def life_of(control: Any) -> str:
    """How long a mark lives, as it says: five minutes unless it says an hour."""
    return "1h" if isinstance(control, Mapping) and control.get("ttl") == "1h" else "5m"


def apply(
    dialect: Dialect, request: Mapping[str, Any], points: Sequence[Point], model: str, count: Count = estimate
) -> Marked:
    """The request with the marks that these points ask for."""
    slots = dialect.slots(request, model, count)
    cap, minimum = dialect.cap(request), dialect.minimum(model)
    placement = place(slots, points, cap=cap, minimum=minimum, apart=dialect.apart)
    return written(dialect, request, slots, placement, model)


def written(
    dialect: Dialect, request: Mapping[str, Any], slots: Sequence[Slot], placement: Placement, model: str
) -> Marked:
    """The request with these marks."""
    made = dialect.write(request, slots, placement.marks, model)
    return Marked(made, placement.notes, len(placement.marks))


# -- for the dialects ---------------------------------------------------------------------------------


def items(value: Any) -> list[Any]:
    """The items of a list; none for anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def lives_in(value: Any) -> tuple[str, ...]:
    """The marks that stand on a block, a message or a tool itself."""
    return tuple(life_of(field(value, name)) for name in _MARKS if field(value, name) is not None)


def message_lives(message: Any) -> tuple[str, ...]:
    """The marks of a message: its own, its blocks', those within its blocks and of its tool calls."""
    found = list(lives_in(message))
    for block in items(field(message, "content")):
        found += lives_in(block)
        for inner in items(field(block, "content")):
            found += lives_in(inner)
    for call in items(field(message, "tool_calls")):
        found += lives_in(call)
    return tuple(found)


def tool_lives(tools: Any) -> tuple[str, ...]:
    return tuple(life for tool in items(tools) for life in (*lives_in(tool), *lives_in(field(tool, "function"))))


def block_refusal(block: Any) -> str:
    """Why Anthropic would not take a mark on this block; "" when it would."""
    if not isinstance(block, Mapping):
        return "its last block is no table"
    if block.get("type") in ("thinking", "redacted_thinking"):
        return "its last block is thinking"
    if block.get("type", "text") == "text" and block.get("text") == "":
        return "its last block is empty"
    return ""


def content_refusal(content: Any) -> str:
    """Why the content of a message could take no mark; "" when it could."""
    if isinstance(content, str):
        return "" if content else "it is empty"
    if isinstance(content, list | tuple):
        return block_refusal(content[-1]) if content else "it is empty"
    return "it has neither a text nor blocks"


def in_order(slots: Sequence[Slot], count: Count) -> list[Slot]:
    """The slots with the sizes of their prefixes: those of all parts up to theirs."""
    total, found = 0, []
    for slot in slots:
        total += count(slot.part)
        found.append(replace(slot, tokens=total))
    return found


def with_item(values: Any, index: int, value: Any) -> list[Any]:
    """A list with another item in this place."""
    changed = list(values)
    changed[index] = value
    return changed
