"""What `asynccache demo` does: many users ask popular questions through a cached client, and what comes of it."""

from __future__ import annotations

import json
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

import asynccache

if TYPE_CHECKING:  # all commands come by here, and only one of them needs it
    import openai
    from openai.types.chat import ChatCompletion

Ask = Callable[[str], Awaitable["ChatCompletion"]]


class QuestionsError(Exception):
    """A file of questions cannot be used; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens read and written by a model."""

    input: int = 0
    output: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.input + other.input, self.output + other.output)


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def of(self, tokens: Tokens) -> float:
        return (tokens.input * self.input + tokens.output * self.output) / 1_000_000


@dataclass(slots=True)
class Tally:
    """What came of the requests so far.

    waits:    outcome ("hit", "miss", …) → seconds that each caller waited for its answer.
    spent:    tokens of the answers that came from the provider.
    saved:    tokens of those that did not.
    failures: error type → how often; `examples`: the text of its first.
    """

    waits: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    spent: Tokens = Tokens()
    saved: Tokens = Tokens()
    unmetered: int = 0
    """Answers that say nothing of their tokens."""
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        return sum(map(len, self.waits.values()))

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def done(self) -> int:
        return self.answered + self.failed

    def count(self, outcome: str) -> int:
        return len(self.waits.get(outcome, ()))

    def add(self, answer: ChatCompletion, seconds: float) -> None:
        outcome = asynccache.status(answer).outcome
        self.waits[outcome].append(seconds)
        if answer.usage is None:
            self.unmetered += 1
            return
        tokens = Tokens(answer.usage.prompt_tokens, answer.usage.completion_tokens)
        if outcome in ("miss", "bypass"):
            self.spent += tokens
        else:
            self.saved += tokens

    def add_failure(self, error: openai.OpenAIError) -> None:
        kind = type(error).__name__
        self.failures[kind] += 1
        self.examples.setdefault(kind, " ".join(str(error).split()))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below `share` (0 to 1) of all. There must be one value at least."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def own_questions() -> Path:
    """The questions that come with the package; in a checkout they are among the examples."""
    packaged = Path(__file__).with_name("questions.jsonl")
    return packaged if packaged.exists() else Path(__file__).parents[2] / "examples" / "questions.jsonl"


def read_questions(path: Path) -> list[str]:
    """The texts under "question" in a file with one JSON object a line. Raises QuestionsError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise QuestionsError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise QuestionsError(f"{path}: not UTF-8 text (byte {error.start})") from error
    questions = [_question(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise QuestionsError(f"{path}: there is no question in it")
    return questions


def _question(line: str, place: str) -> str:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise QuestionsError(f"{place}: not JSON: {error.msg} at column {error.colno}") from error
    question = item.get("question") if isinstance(item, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise QuestionsError(f'{place}: an object like {{"question": "…"}} is wanted')
    return question


def draw(questions: Sequence[str], count: int, exponent: float, seed: int) -> list[str]:
    """Draw `count` questions by Zipf's law: the one of rank r is asked in proportion to 1/r^exponent.

    The seed decides which question has which rank, and the order.
    """
    dice = random.Random(seed)
    ranked = dice.sample(questions, len(questions))
    return dice.choices(ranked, [1 / rank**exponent for rank in range(1, len(ranked) + 1)], k=count)


async def run_users(ask: Ask, questions: Sequence[str], users: int, tally: Tally) -> None:
    """Ask all questions, in order, by so many users at the same time: each asks the next as soon as it has an answer.

    Errors of the provider are counted in `tally`; any other is raised.
    """
    queue = iter(questions)
    async with anyio.create_task_group() as tasks:
        for _ in range(users):
            tasks.start_soon(_user, ask, queue, tally)


async def _user(ask: Ask, queue: Iterator[str], tally: Tally) -> None:
    import openai

    for question in queue:
        started = time.perf_counter()
        try:
            answer = await ask(question)
        except openai.OpenAIError as error:
            tally.add_failure(error)
        else:
            tally.add(answer, time.perf_counter() - started)
        await anyio.lowlevel.checkpoint()  # a hit does not wait for anything: let the others have their turn
