"""A support bot's day, replayed for real: what exact, normalized and semantic caching save on it, beside a claim.

The claim is that of a well-known guide to LLM caching: 10,000 questions a day, 70 % of them variations of 20 common
ones, 500 tokens read and 150 written each, at $5 and $15 a million; with semantic caching it expects to save 57 %.

Nobody is called: the provider is a function that counts. How people vary a question is an assumption, and decides the
result; here it can be changed:

    python examples/support_bot.py --verbatim 0.2 --respelt 0.3
    python examples/support_bot.py --embedding-model local:FOLDER    (of a MiniLM; needs asynccache[semantic], and time)
"""

import argparse
import asyncio
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from asynccache import Cache, ConfigError, status
from asynccache.telemetry.ledger import Ledger
from asynccache.telemetry.prices import Prices, dollars

MODEL = "gpt-4o"
PRICES = {MODEL: {"input": 5, "output": 15}}
USAGE = {"prompt_tokens": 500, "completion_tokens": 150, "total_tokens": 650}
COMMON, SHARE_COMMON = 20, 0.7
CLAIM, EMBEDDING_FEE = 0.57, 0.0001  # of the guide; dollars for each question
SYSTEM = {"role": "system", "content": "You are the support assistant of an online shop."}

BEFORE = ["Hi,", "Hello!", "Hey there,", "Good morning.", "Quick question:", "Sorry to bother you, but", "Help please:"]
AFTER = ["Thanks!", "Thank you.", "Please help.", "It's urgent.", "Cheers", "Any idea?", "I could not find it."]


class Query(NamedTuple):
    """A question, and what it is about: an answer to another topic is a wrong one."""

    text: str
    topic: str
    common: bool


def days_queries(count: int, verbatim: float, respelt: float, seed: int) -> list[Query]:
    """70 % about one of 20 topics, which have five or six phrasings each; some topics are commoner than others. A
    phrasing is asked as it stands, or respelt (case, spaces, punctuation), or in other words around it, or mistyped.
    The others are each about an order of its own."""
    dice = random.Random(seed)
    phrasings: dict[str, list[str]] = defaultdict(list)
    for line in Path(__file__).with_name("questions.jsonl").read_text().splitlines():
        item = json.loads(line)
        phrasings[item["topic"]].append(item["question"])
    topics = sorted(phrasings)
    dice.shuffle(topics)
    common, rare = topics[:COMMON], topics[COMMON:]
    weights = [1 / rank for rank in range(1, COMMON + 1)]

    def one() -> Query:
        if dice.random() < SHARE_COMMON:
            topic = dice.choices(common, weights)[0]
            return Query(varied(dice.choice(phrasings[topic]), dice, verbatim, respelt), topic, True)
        order = f"{dice.randrange(10**6):06}"
        return Query(f"Order {order}: {dice.choice(phrasings[dice.choice(rare)])}", order, False)

    return [one() for _ in range(count)]


def varied(text: str, dice: random.Random, verbatim: float, respelt: float) -> str:
    drawn = dice.random()
    if drawn < verbatim:
        return text
    if drawn < verbatim + respelt:
        text = dice.choice([text, text.lower(), text.upper(), text.capitalize()])
        return dice.choice(["", " "]) + text.rstrip("?.!") + dice.choice(["", "?", "??", "!", " ?"])
    if dice.random() < 0.5:
        text = f"{dice.choice(BEFORE)} {text}"
    if dice.random() < 0.5:
        text = f"{text} {dice.choice(AFTER)}"
    place = dice.randrange(len(text) - 1)  # two letters in the wrong order
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


class Result(NamedTuple):
    hits: int
    wrong: int
    spent: float
    saved: float


async def replayed(day: list[Query], **options: Any) -> Result:
    """Each question through a cache of its own, one after another."""
    topic_of = {query.text: query.topic for query in day}

    async def acompletion(*, model: str, messages: list[Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": topic_of[messages[-1]["content"]]}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return {"object": "chat.completion", "model": model, "choices": choices, "usage": USAGE}

    ledger = Ledger(Prices(PRICES, library=False))
    wrong = 0
    async with Cache(ttl=24 * 3600, observers=[ledger], **options) as cache:
        ask = cache.wrap(acompletion)
        for query in day:
            answer = await ask(model=MODEL, messages=[SYSTEM, {"role": "user", "content": query.text}])
            served = status(answer).outcome != "miss"
            wrong += served and answer["choices"][0]["message"]["content"] != query.topic
    total = ledger.report().total
    return Result(total.calls - total.misses, wrong, float(dollars(total.spent)), float(dollars(total.saved)))


async def main() -> None:
    parser = argparse.ArgumentParser(description="What caching saves on a support bot's day.")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--verbatim", type=float, default=0.2, help="share of variations that are none")
    parser.add_argument("--respelt", type=float, default=0.3, help="share that differs in case and punctuation alone")
    parser.add_argument("--embedding-model", help='such as "local:FOLDER": semantic caching, too')
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    if given.queries < 1 or min(given.verbatim, given.respelt) < 0 or given.verbatim + given.respelt > 1:
        parser.error("at least one query is wanted, and shares that make no more than 1 together")
    day = days_queries(given.queries, given.verbatim, given.respelt, given.seed)
    common = sum(query.common for query in day)
    print(f"{len(day):,} questions, {len(set(day)):,} different; {common:,} about {COMMON} topics")
    print(f"{'':<12}{'hits':>8}{'wrong':>8}{'spent':>10}{'saved':>9}")
    runs: dict[str, dict[str, Any]] = {"exact": {}, "normalized": {"key_builder": "normalized"}}
    if given.embedding_model:
        runs["semantic"] = {"type": "semantic", "embedding_model": given.embedding_model, "embedding_deadline": 30}
    else:
        print("semantic    not measured: give --embedding-model")
    for name, options in runs.items():
        try:
            result = await replayed(day, **options)
        except ConfigError as error:
            print(f"{name:<12}not here: {error}")
            continue
        ratio = result.saved / (result.spent + result.saved)
        print(f"{name:<12}{result.hits / len(day):>8.1%}{result.wrong:>8}{f'${result.spent:.2f}':>10}{ratio:>9.1%}")
        if name == "semantic":
            fee = len(day) * EMBEDDING_FEE
            with_fee = (result.saved - fee) / (result.spent + result.saved)
            print(f"{'':<12}embedded on this machine; at the guide's ${fee:.2f} for embeddings: {with_fee:.1%} saved")
    print(f"The guide's claim: {CLAIM:.0%} saved, with semantic caching.")


if __name__ == "__main__":
    asyncio.run(main())
