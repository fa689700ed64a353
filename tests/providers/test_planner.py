"""`auto`: marks where prefixes come again in time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache.providers import Planner, PromptCaching
from asynccache.providers.marking import Slot
from asynccache.providers.planner import Tally, break_even
from asynccache.testing import FakeClock

LONG = "A sentence that is long enough. " * 400
MODEL = "claude-opus-5"


def chat(*turns: str, system: str = LONG, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    spoken = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return {"model": MODEL, "messages": [{"role": "system", "content": system}, *spoken], **more}


class Run:
    """Requests, one after the other, on a clock of its own."""

    def __init__(self, every: float, **options: Any) -> None:
        self.clock = FakeClock()
        self.every = every
        self.planner = Planner(clock=self.clock, **options)
        self.hook = PromptCaching("auto", planner=self.planner)

    def ask(self, request: dict[str, Any]) -> list[str]:
        """What is marked, and for how long."""
        self.clock.advance(self.every)
        marked = self.hook.mark(request, self.hook.place(request)).request
        found = [
            f"{message['role']} {index}: {message['cache_control'].get('ttl', '5m')}"
            for index, message in enumerate(marked["messages"])
            if "cache_control" in message
        ]
        tools = [tool for tool in marked.get("tools", ()) if isinstance(tool, dict) and "cache_control" in tool]
        return [*("tools" for _ in tools), *found]


def test_a_stable_system_prompt_is_marked_from_the_first_request_on() -> None:
    run = Run(every=10)
    assert [run.ask(chat(f"Question {n}")) for n in range(5)] == [["system 0: 5m"]] * 5


def test_a_system_prompt_that_is_another_each_time_is_not() -> None:
    """Some marks are spent on finding that out."""
    run = Run(every=10)
    marks = [run.ask(chat("Q", system=f"It is {n} o'clock. {LONG}")) for n in range(20)]
    assert marks[0] == ["system 0: 5m"]
    assert marks[3:] == [[]] * 17


def test_what_comes_again_every_ten_minutes_is_kept_for_an_hour() -> None:
    run = Run(every=600)
    marks = [run.ask(chat(f"Question {n}")) for n in range(6)]
    assert marks[-1] == ["system 0: 1h"]


def test_what_comes_again_once_a_day_is_not_kept() -> None:
    run = Run(every=86_400)
    marks = [run.ask(chat(f"Question {n}")) for n in range(8)]
    assert marks[4:] == [[]] * 4


def test_a_growing_conversation_is_marked_at_its_end() -> None:
    run = Run(every=20)
    turns = ["Hello there"]
    found = []
    for number in range(5):
        found.append(run.ask(chat(*turns)))
        turns += [f"Answer {number}", f"Question {number}"]
    assert found[0] == ["system 0: 5m"]
    assert found[-1] == ["system 0: 5m", "user 9: 5m"]


def test_questions_that_are_asked_once_are_not_marked() -> None:
    run = Run(every=5)
    assert all("user" not in mark for n in range(50) for mark in run.ask(chat(f"{LONG} {n}")))


def test_examples_that_all_requests_share_are_marked_behind_the_last_of_them() -> None:
    run = Run(every=5)
    examples = ("one", LONG, "two", LONG)
    marks = [run.ask(chat(*examples, f"Question {n}")) for n in range(4)]
    assert marks[-1] == ["system 0: 5m", "assistant 4: 5m"]


def test_tools_are_marked_when_the_system_prompt_changes() -> None:
    run = Run(every=5)
    tools = [{"type": "function", "function": {"name": "f", "description": LONG}}]
    stable = [run.ask(chat(f"Q{n}", tools=tools)) for n in range(5)]
    assert stable[-1] == ["system 0: 5m"]  # which covers them
    run = Run(every=5)
    changing = [run.ask(chat("Q", system=f"{n} {LONG}", tools=tools)) for n in range(8)]
    assert changing[-1] == ["tools"]


def test_below_the_minimum_nothing_is_marked() -> None:
    run = Run(every=5)
    assert [run.ask(chat("Q", system="Be brief.")) for _ in range(5)] == [[]] * 5


def test_the_client_marks_alone_or_not_at_all() -> None:
    run = Run(every=5)
    request = chat("Q")
    request["messages"][1]["cache_control"] = {"type": "ephemeral"}
    assert run.ask(request) == ["user 1: 5m"]


def test_memory_is_bounded() -> None:
    run = Run(every=1, max_prefixes=100)
    for n in range(200):
        run.ask(chat("one", "two", f"Question {n}", system=f"{LONG} {n}", tools=[{"name": f"t{n}"}]))
    assert len(run.planner) == 100
    assert len(run.planner._lanes) <= 512


def test_break_even() -> None:
    """0.28 uses a write for five minutes, 1.12 for an hour."""
    assert round(break_even(1.25, 0.1), 2) == 0.28
    assert round(break_even(2.0, 0.1), 2) == 1.11


@given(used=st.integers(0, 400), written=st.integers(1, 400))
def test_a_mark_pays_exactly_when_it_costs_less(used: int, written: int) -> None:
    """The sum of what is paid with marks, against what is paid without."""
    with_marks, without = written * 1.25 + used * 0.1, written + used
    gain = Tally({"5m": used}, {"5m": written}).gain("5m", 1.25, 0.1)
    assert abs(gain * (used + written) - (without - with_marks)) < 1e-6


class Bill:
    """What Anthropic would charge, in the price of a token read anew: it keeps each marked prefix for its life, and
    what a request shares with one that is kept costs a tenth."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[float, float]] = {}
        self.paid = self.unmarked = 0.0

    def charge(self, request: dict[str, Any], now: float) -> None:
        prefix, read, written, total = "", 0, 0.0, 0
        for message in request["messages"]:
            prefix += json.dumps([message["role"], message["content"]])
            total = len(prefix)
            control = message.get("cache_control")
            if control is None:
                continue
            life, price = (3600.0, 2.0) if control.get("ttl") == "1h" else (300.0, 1.25)
            end = self.kept.get(prefix, (0.0, 0.0))[0]
            if end >= now:
                read = total
            else:
                written += (total - read - (written / price)) * price
            self.kept[prefix] = (now + life, price)
        once = written / 1.25
        self.paid += read * 0.1 + written + max(0.0, total - read - once)
        self.unmarked += total


@pytest.mark.parametrize(("stable", "every"), [(1.0, 10), (1.0, 200), (0.5, 10), (0.1, 10), (0.0, 10), (1.0, 4000)])
def test_it_costs_less_or_hardly_more(stable: float, every: float) -> None:
    """Over 300 requests, of which a share has a stable system prompt: the bill is lower where prefixes come again,
    and no more than 2 % higher where they do not."""
    run, bill = Run(every=every), Bill()
    for number in range(300):
        own = "" if (number % 10) / 10 < stable else f"{number} "
        request = chat(f"Question {number}", system=f"{own}{LONG}")
        run.clock.advance(every)
        marked = run.hook.mark(request, run.hook.place(request)).request
        bill.charge(dict(marked), run.clock())
    saved = 1 - bill.paid / bill.unmarked
    assert saved > -0.02
    if stable >= 0.5 and every < 300:
        assert saved > 0.3


@settings(max_examples=30, deadline=None)
@given(turns=st.lists(st.text(max_size=5), max_size=12))
def test_it_never_raises(turns: list[str]) -> None:
    run = Run(every=1)
    for _ in range(2):
        run.ask(chat(*turns))


def test_what_has_no_stable_value_is_not_planned() -> None:
    run = Run(every=1)
    assert run.ask(chat("Q") | {"tools": [object()]}) == []


def test_slots_have_names() -> None:
    assert [Slot("tools").name, Slot("message", 3, "user").name] == ["tools", "message 3 (user)"]
