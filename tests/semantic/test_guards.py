"""Guards: what may not differ, and what may be written in many ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynccache import ConfigError
from asynccache.semantic.alignment import align
from asynccache.semantic.features import NAMES, features
from asynccache.semantic.guards import ALL, CONFLICT, named
from asynccache.semantic.texts import Parser, is_misspelt

parse = Parser()


def conflicts(one: str, other: str) -> set[str]:
    a, b = parse(one), parse(other)
    sides = align(a, b)
    return {guard.name for guard in ALL if guard(a, b, sides).level == CONFLICT}


@pytest.mark.parametrize(
    ("guard", "one", "other"),
    [
        ("number", "Is 5 mg of melatonin too much?", "Is 10 mg of melatonin too much?"),
        ("number", "Name two rivers of Peru", "Name three rivers of Peru"),
        ("number", "Phones under $300", "Phones under $500"),
        ("number", "Who won in 2016?", "Who won in 2017?"),
        ("number", "Is it safe to drive at -10 °C?", "Is it safe to drive at 10 °C?"),
        ("number", "My balance is -$100, why?", "My balance is $100, why?"),
        ("number", "What is minus 5 degrees in Fahrenheit?", "What is 5 degrees in Fahrenheit?"),
        ("number", "What is |-8| + 2?", "What is |8| + 2?"),
        ("number", "Is it \u221240 there?", "Is it 40 there?"),
        ("unit", "How far is 5 km?", "How far is 5 miles?"),
        ("unit", "Best week of your life?", "Best year of your life?"),
        ("date", "Flights to Denver on Monday", "Flights to Denver on Friday"),
        ("date", "Is it open in march?", "Is it open in june?"),
        ("date", "Is Anna Miller an editor?", "Did Anna Miller use to be an editor?"),
        ("name", "What is the capital of France?", "What is the capital of Spain?"),
        ("negation", "Is aspirin safe?", "Is aspirin not safe?"),
        ("negation", "Why do cats purr?", "Why don't cats purr?"),
        ("negation", "Is he friendly?", "Is he unfriendly?"),
        ("negation", "What if I know how to swim?", "What if I don't know how to swim?"),
        ("negation", "Can I find the manual?", "I can't find the manual"),
        ("negation", "Why is the lamp broken?", "Why is the lamp not broken?"),
        ("antonym", "How do I increase the volume?", "How do I decrease the volume?"),
        ("antonym", "Are these tips hopeful ones?", "Are these tips hopeless ones?"),
        ("order", "Flights from Boston to Denver", "Flights from Denver to Boston"),
        ("order", "Did the old baker sue the young painter?", "Did the young painter sue the old baker?"),
        ("code", "Write a function to sort a list", "Write a function to sort a tuple"),
        ("code", "What does read_csv do?", "What does read_json do?"),
        ("code", "Factor x^2 + 5x + 6", "Factor x^2 - 5x + 6"),
        ("code", "solve x > 5", "solve x < 5"),
        ("code", "What does x = y mean?", "What does x == y mean?"),
        ("code", "What is 7+3?", "What is 7-3?"),
        ("code", "What is 2^3?", "What is 2*3?"),
        ("code", "How do I type $?", "How do I type €?"),
        ("code", "Show hello world in Python", "Show hello world in Rust"),
        ("quote", 'Who said "to be or not to be"?', 'Who said "less is more"?'),
        ("question", "When was it built?", "Who was it built by?"),
    ],
)
def test_what_may_not_differ(guard: str, one: str, other: str) -> None:
    assert guard in conflicts(one, other)
    assert guard in conflicts(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I have five apples", "I have 5 apples"),
        ("How come the sky is blue?", "Why is the sky blue?"),
        ("Where do I find the form W-2?", "How can I find the form W2?"),
        ("I do not know why the printer hums", "Why does the printer hum?"),
        ("I can't open the drawer", "How do I open the drawer?"),
        ("The radio isn't working", "The radio is broken"),
        ("I have yet to see the invoice", "I have not seen the invoice"),
        ("Which kitchen tools will mend a garden bench?", "To mend a garden bench, which kitchen tools?"),
        ("It costs $2,000 a month", "It costs 2000 dollars a month"),
        ("It costs 2k USD", "It costs two thousand dollars"),
        ("How long is 5km?", "How long is 5 kilometers?"),
        ("twenty-five people", "25 people"),
        ("Papers from the year 2015", "Papers from 2015"),
        ("Flights on wedesday", "Flights on Wednesday"),
        ("Is it open in Sept?", "Is it open in September?"),
        ("What is the population of the United States?", "What is the population of the USA?"),
        ("What's the best phone?", "What is the best phone?"),
        ("I don't like it", "I do not like it"),
        ("How can I become more positive?", "How can I become less negative?"),
        ("What is the difference between Oslo and Bergen?", "What is the difference between Bergen and Oslo?"),
        ("Is Anna married to Tom?", "Is Tom married to Anna?"),
        ("Write a function to sort a list", "Implement a function to sort a list"),
        ("How do I gold-dig?", "how do i gold dig"),
        ("Hello! How do I cook rice? Thanks!", "How do I cook rice?"),
        ("When did Germany, uh no sorry, France join?", "When did France join?"),
        ("WHY IS THE SKY BLUE?", "Why is the sky blue?"),
    ],
)
def test_what_may_be_written_differently(one: str, other: str) -> None:
    assert conflicts(one, other) == set()


def test_what_a_correction_leaves_is_what_counts() -> None:
    assert "name" in conflicts("When did Germany, no wait, France join?", "When did Germany join?")


def test_small_talk_case_and_slips_are_the_same_text() -> None:
    plain = parse("How do I cook rice?")
    assert parse("Hi there, how do I cook rice? Thanks!").words == plain.words
    a = parse("how do I coko rice")
    values = dict(
        zip(NAMES, features(0.9, a, plain, align(a, plain), [g(a, plain, align(a, plain)) for g in ALL]), strict=True)
    )
    assert values["equal"] == pytest.approx(0.8)


def test_digits_differ_in_any_language() -> None:
    assert "number" in conflicts("日本で5つの城を教えて", "日本で7つの城を教えて")
    assert "number" in conflicts("Nenne 5 Flüsse", "Nenne 7 Flüsse")


def test_a_slip_is_no_other_letter() -> None:
    assert is_misspelt("wieght", "weight")
    assert is_misspelt("diggger", "digger")
    assert is_misspelt("fligts", "flights")
    assert not is_misspelt("iran", "iraq")
    assert not is_misspelt("m605x", "m605d")


def test_guards_by_name() -> None:
    assert [guard.name for guard in named(["number", "date"])] == ["number", "date"]
    assert [guard.name for guard in named("number")] == ["number"]
    with pytest.raises(ConfigError, match="there is no guard 'numbers'"):
        named(["numbers"])


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_texts_can_be_compared(one: str, other: str) -> None:
    """No text makes a guard fail; a text never conflicts with itself."""
    conflicts(one, other)
    assert conflicts(one, one) == set()


def test_the_latest_texts_are_kept() -> None:
    parser = Parser(size=2)
    first = parser("one question")
    assert parser("one question") is first
    parser("another question")
    parser("a third question")
    assert parser("one question") is not first
