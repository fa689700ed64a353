"""Which prefixes are worth a mark: those that come again before what is kept of them is over.

Writing a prefix costs more than reading it anew (1.25 × for five minutes, 2 × for an hour), and using what was written
costs a tenth. So n uses of what was written once save n × 0.9 and cost 0.25 (or 1.0): for five minutes it pays from
0.28 uses a write on, for an hour from 1.12. The planner counts, for the end of the tools, of the system prompt and of
each message, how often a prefix came again in time, and how often it had to be written; of a prefix that is new it
believes what others of its place have done. It knows hashes and times, and no text.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from asynccache.material import Reader, dumps_tree
from asynccache.protocols import Clock
from asynccache.providers.marking import Control, Dialect, Placement, Slot, longer_first
from asynccache.providers.stripping import stripped

SECONDS: Mapping[str, float] = {"5m": 300, "30m": 1800, "1h": 3600}
"""How long each life is."""

_LANES = 512
_HALVED_AT = 1_000
_LOOKBACK = 20  # blocks before a mark in which Anthropic looks for what it has
_WATCHED = 64  # ends of messages of one request, the last ones


@dataclass(slots=True)
class Tally:
    """For each life: how often a prefix was there again in time, and how often it had to be written."""

    used: dict[str, float] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)

    def gain(self, life: str, write: float, read: float) -> float:
        """What a mark of this life saves with each request, in the price of the prefix read anew."""
        used, written = self.used.get(life, 0.0), self.written.get(life, 0.0)
        total = used + written
        return (used * (1 - read) - written * (write - 1)) / total if total else 0.0

    def count(self, table: str, life: str) -> None:
        counts = getattr(self, table)
        counts[life] = counts.get(life, 0.0) + 1
        if counts[life] >= _HALVED_AT:  # what was long ago counts for less
            for both in (self.used, self.written):
                both[life] = both.get(life, 0.0) / 2


@dataclass(slots=True)
class _Prefix:
    """A prefix that was seen: when last, in which lane, and what has become of it."""

    seen: float
    lane: Tally
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of one place.

    used, written: how often such a prefix came again in time, and how often it had to be written, so far.
    gain:  what a mark saves with each request, as a share of the prefix' price; negative: it costs that.
    life:  of the mark; "" for none. why: in words.
    """

    slot: Slot
    used: float
    written: float
    gain: float
    life: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the marks of one request go, and why."""

    placement: Placement
    verdicts: tuple[Verdict, ...] = ()


class Planner:
    """Watches requests and plans their marks.

    max_prefixes: how many prefixes are remembered, those seen last; about 1 kB each.
    """

    def __init__(self, *, max_prefixes: int = 4096, clock: Clock = time.time) -> None:
        self._max = max_prefixes
        self._clock = clock
        self._prefixes: OrderedDict[bytes, _Prefix] = OrderedDict()
        self._lanes: OrderedDict[tuple[str, str, bytes], Tally] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prefixes)

    def plan(
        self,
        slots: Sequence[Slot],
        dialect: Dialect,
        *,
        request: Mapping[str, Any],
        model: str,
        at: float | None = None,
    ) -> Plan:
        """Take note of a request, and say where its marks go. at: when it was made; None: now.

        A client that has marked its request knows what it does: nothing is added.
        """
        try:
            digests = _digests(slots, model)
        except Exception:  # what has no stable value comes never again
            return Plan(Placement({}, ("nothing is marked: the request has no stable value",)))
        now = self._clock() if at is None else at
        verdicts = self._judge(slots, digests, dialect, model, now)
        if any(slot.lives for slot in slots):
            return Plan(
                Placement({}, ("nothing is marked: the client has marks of its own",)), tuple(verdicts.values())
            )
        return _chosen(slots, verdicts, dialect.cap(request))

    def _judge(
        self, slots: Sequence[Slot], digests: Sequence[bytes], dialect: Dialect, model: str, now: float
    ) -> dict[int, Verdict]:
        """What is thought of each candidate, by the number of its slot."""
        tools = next((digest for slot, digest in zip(slots, digests, strict=True) if slot.place == "tools"), b"")
        system, last = _system(slots), _last(slots)
        least, shared = dialect.minimum(model), -1
        found: dict[int, Verdict] = {}
        messages = [number for number, slot in enumerate(slots) if slot.place == "message" and number != system]
        watched = [number for number, slot in enumerate(slots) if slot.place in ("tools", "system")]
        watched += [*([system] if system is not None else []), *messages[-_WATCHED:]]
        for number in dict.fromkeys(watched):
            kind = _kind(slots[number], number == system, number == last)
            name = model, kind, b"" if kind == "tools" else tools
            whose = "prefixes that ended here" if name in self._lanes else ""
            lane = self._lane(name, dialect)
            known = digests[number] in self._prefixes
            prefix = self._note(digests[number], lane, dialect, now)
            if kind != "history":
                tally, whose = (prefix.tally, "this prefix") if known else (lane, whose)
                found[number] = _verdict(slots[number], tally, dialect, least, whose)
            elif known:
                shared = number  # the deepest that others have had, too
        if shared >= 0:
            tally = self._prefixes[digests[shared]].tally
            found[shared] = _verdict(slots[shared], tally, dialect, least, "this prefix")
        return dict(sorted(found.items()))

    def _lane(self, name: tuple[str, str, bytes], dialect: Dialect) -> Tally:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _prior(name[1], min(dialect.writes, key=lambda life: SECONDS[life]))
            if len(self._lanes) > _LANES:
                self._lanes.popitem(last=False)
        self._lanes.move_to_end(name)
        return lane

    def _note(self, digest: bytes, lane: Tally, dialect: Dialect, now: float) -> _Prefix:
        """Count this sight of a prefix: what was written at the last one is used, or it is written now."""
        prefix = self._prefixes.get(digest)
        if prefix is None:
            prefix, past = _Prefix(now, lane), None
        else:
            past = now - prefix.seen
        for life in dialect.writes:
            if past is not None and past <= SECONDS[life]:
                prefix.lane.count("used", life)
                prefix.tally.count("used", life)
            else:
                lane.count("written", life)
                prefix.tally.count("written", life)
        prefix.seen, prefix.lane = now, lane
        self._prefixes[digest] = prefix
        self._prefixes.move_to_end(digest)
        if len(self._prefixes) > self._max:
            self._prefixes.popitem(last=False)
        return prefix


def break_even(write: float, read: float) -> float:
    """Uses for each write from which on a mark pays."""
    return (write - 1) / (1 - read)


def _prior(kind: str, life: str) -> Tally:
    """What is believed before anything was seen: that tools and system prompts come again, and questions do not."""
    return Tally({life: 1.0}, {life: 1.0}) if kind in ("tools", "system") else Tally({}, {life: 1.0})


def _verdict(slot: Slot, tally: Tally, dialect: Dialect, least: int, whose: str) -> Verdict:
    """whose: what has been counted; "" when nothing has, and the tally is what is believed."""
    gains = {life: tally.gain(life, write, dialect.reads) for life, write in dialect.writes.items()}
    life = max(gains, key=lambda life: gains[life])
    gain, used, written = gains[life], tally.used.get(life, 0.0), tally.written.get(life, 0.0)
    seen = f"{whose} came again {_times(used, 'time')} within {life} for {_times(written, 'write')}"
    if not whose:
        seen = "nothing was seen yet, and it is " + ("believed" if used else "not believed") + " to come again"
    needed = f"{break_even(dialect.writes[life], dialect.reads):.2f} uses a write are needed"
    if slot.refusal:
        return Verdict(slot, used, written, gain, "", slot.refusal)
    if slot.tokens < least:
        return Verdict(slot, used, written, gain, "", f"about {slot.tokens} tokens; below {least} nothing is kept")
    if gain <= 0:
        return Verdict(slot, used, written, gain, "", f"{seen}; {needed}")
    return Verdict(slot, used, written, gain, life, f"{seen}; {needed}; saves about {gain:.0%} of its price")


def _times(count: float, what: str) -> str:
    return f"{count:g} {what}{'' if count == 1 else 's'}"


def _chosen(slots: Sequence[Slot], verdicts: Mapping[int, Verdict], cap: int) -> Plan:
    """The marks that are left when none is there that another one makes needless, and no more than the cap."""
    told = dict(verdicts)
    paying = [number for number, verdict in told.items() if verdict.life]
    system, last = _system(slots), _last(slots)

    def drop(number: int, why: str) -> None:
        if number in paying:
            paying.remove(number)
            verdict = told[number]
            told[number] = Verdict(verdict.slot, verdict.used, verdict.written, verdict.gain, "", why)

    for number in list(paying):
        slot = slots[number]
        if slot.place == "tools" and system in paying and told[number].used <= told[system].used * 1.1 + 1:
            drop(number, "the mark behind the system prompt covers it")
        elif number not in (system, last) and slot.place == "message" and last in paying and last - number <= _LOOKBACK:
            drop(number, "the mark behind the last message finds it")
    for number in sorted(paying, key=lambda number: told[number].gain * slots[number].tokens)[
        : max(0, len(paying) - cap)
    ]:
        drop(number, f"a request may have {cap} marks, and others save more")
    notes: list[str] = []
    marks: dict[int, Control] = {number: _control(told[number].life) for number in paying}
    return Plan(Placement(longer_first(slots, marks, notes), tuple(notes)), tuple(told.values()))


def _control(life: str) -> Control:
    return {"type": "ephemeral", **({"ttl": life} if life == "1h" else {})}


def _kind(slot: Slot, system: bool, last: bool) -> str:
    if slot.place == "tools":
        return "tools"
    return "system" if system or slot.place == "system" else "last" if last else "history"


def _system(slots: Sequence[Slot]) -> int | None:
    """The slot that ends the system prompt."""
    found = None
    for number, slot in enumerate(slots):
        if slot.place == "system" or slot.role in ("system", "developer"):
            found = number
        elif slot.place == "message":
            break
    return found


def _last(slots: Sequence[Slot]) -> int:
    return max((number for number, slot in enumerate(slots) if slot.place == "message"), default=-1)


def _digests(slots: Sequence[Slot], model: str) -> list[bytes]:
    """One digest for each slot: of all that is read up to its end. Marks do not count."""
    found, chain = [], sha256(model.encode())
    reader = Reader(False)
    for slot in slots:
        bare = stripped({"messages": [{"content": slot.part}] if slot.place != "message" else _as_message(slot.part)})
        chain.update(sha256(dumps_tree(reader.read([slot.place, slot.role, bare["messages"]]))).digest())
        found.append(chain.copy().digest()[:16])
    return found


def _as_message(part: Any) -> list[Any]:
    if isinstance(part, list) and len(part) == 2:
        return [{"content": part[0], "tool_calls": part[1]}]
    return [{"content": part}]
