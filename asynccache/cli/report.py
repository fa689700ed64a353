"""How `asynccache demo` shows what it does: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from asynccache.cli.workload import Price, Tally, Tokens, percentile

_COLOURS = {"hit": "green", "coalesced": "cyan", "miss": "yellow", "failed": "red"}
_PLACES = {"memory": "in memory", "disk": "in a temporary folder"}
_MEANINGS = {
    "hit": "answered from the cache",
    "coalesced": "shared a call under way",
    "miss": "asked the provider",
    "stale": "answered from the cache, too old",
    "bypass": "went past the cache",
    "failed": "got an error",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known before the first request.

    simulated:    the provider is the local one; its latency is made up.
    own_price:    the price is the user's and not the simulated one.
    distinct:     how many different questions are among the requests.
    """

    provider: str
    simulated: bool
    model: str
    requests: int
    distinct: int
    users: int
    zipf: float
    seed: int
    backend: str
    ttl: float
    speed: float
    price: Price | None
    own_price: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What is known after the last.

    upstream_calls: calls that the cache let through.
    provider_calls: those that the provider counted; None when it is not ours to ask.
    """

    facts: Facts
    tally: Tally
    elapsed: float
    interrupted: bool
    upstream_calls: int
    provider_calls: int | None


def as_json(result: Result) -> dict[str, Any]:
    """Everything in one object: times in seconds, money in US dollars (null: the price is not known)."""
    facts, tally = result.facts, result.tally
    known = ("hit", "coalesced", "miss")
    return {
        "provider": facts.provider,
        "simulated": facts.simulated,
        "model": facts.model,
        "backend": facts.backend,
        "ttl": facts.ttl,
        "users": facts.users,
        "zipf": facts.zipf,
        "seed": facts.seed,
        "speed": facts.speed if facts.simulated else None,
        "planned": facts.requests,
        "distinct": facts.distinct,
        "interrupted": result.interrupted,
        "elapsed": round(result.elapsed, 3),
        "requests": tally.done,
        "hits": tally.count("hit"),
        "coalesced": tally.count("coalesced"),
        "misses": tally.count("miss"),
        "others": {outcome: len(waits) for outcome, waits in tally.waits.items() if outcome not in known},
        "failed": tally.failed,
        "failures": dict(tally.failures),
        "upstream_calls": result.upstream_calls,
        "provider_calls": result.provider_calls,
        "latency": {
            outcome: {"p50": round(percentile(waits, 0.5), 6), "p99": round(percentile(waits, 0.99), 6)}
            for outcome, waits in tally.waits.items()
        },
        "tokens": {"spent": _tokens(tally.spent), "saved": _tokens(tally.saved), "unmetered_answers": tally.unmetered},
        "money": _money(facts, tally),
    }


def _tokens(tokens: Tokens) -> dict[str, int]:
    return {"input": tokens.input, "output": tokens.output}


def _money(facts: Facts, tally: Tally) -> dict[str, Any] | None:
    if facts.price is None:
        return None
    return {
        "currency": "USD",
        "simulated_price": not facts.own_price,
        "price_per_million": {"input": facts.price.input, "output": facts.price.output},
        "spent": round(facts.price.of(tally.spent), 6),
        "saved": round(facts.price.of(tally.saved), 6),
    }


def introduction(facts: Facts) -> RenderableType:
    """What is about to happen, and what of it is made up."""
    table = _labels()
    table.add_row("questions", f"{facts.requests:,}, {facts.distinct:,} of them different (Zipf {facts.zipf:g})")
    table.add_row("users", f"{facts.users:,} at the same time, through one wrapped AsyncOpenAI client")
    table.add_row("cache", f"{_PLACES.get(facts.backend, facts.backend)}, ttl {facts.ttl:g} s")
    if facts.simulated:
        pace = "" if facts.speed == 1 else f", {facts.speed:g} × as fast"
        table.add_row("provider", Text.from_markup("[bold yellow]simulated[/], over HTTP on this machine"))
        table.add_row("", f"answers are made up; latency like a real model's{pace}")
    else:
        table.add_row("provider", Text(f"{facts.provider}, model {facts.model}"))
    table.add_row("prices", price_text(facts))
    return Group(table, Text())


def price_text(facts: Facts) -> str:
    """What a token costs, and who says so."""
    if facts.price is None:
        return "unknown"
    text = f"${facts.price.input:,.2f} in, ${facts.price.output:,.2f} out per million tokens"
    return text if facts.own_price else f"{text}, simulated"


def _labels() -> Table:
    """Two columns: what, and how much. The first is as wide everywhere, so that the blocks line up."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", width=14)
    table.add_column()
    return table


def progress(facts: Facts, tally: Tally) -> RenderableType:
    """The state of things, in two lines that are drawn over and over."""
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    bar.add_row(ProgressBar(facts.requests, tally.done), f"{tally.done:,} / {facts.requests:,}")
    return Group(bar, Text.from_markup("   ".join(_counts(facts, tally, coloured=True))))


def progress_line(facts: Facts, tally: Tally) -> str:
    """The same as one line of plain text."""
    return f"{tally.done:,}/{facts.requests:,}: " + ", ".join(_counts(facts, tally, coloured=False))


def _counts(facts: Facts, tally: Tally, *, coloured: bool) -> Iterator[str]:
    counts = {"hit": "hits", "coalesced": "coalesced", "miss": "misses"}
    for outcome, name in counts.items():
        number = f"{tally.count(outcome):,}"
        yield f"[{_COLOURS[outcome]}]{number}[/] {name}" if coloured else f"{number} {name}"
    if tally.failed:
        yield f"[red]{tally.failed:,}[/] failed" if coloured else f"{tally.failed:,} failed"
    if facts.price is not None:
        yield f"{_dollars(facts.price.of(tally.saved))} saved"


def results(result: Result, console: Console) -> RenderableType:
    """The figures at the end."""
    facts, tally = result.facts, result.tally
    parts: list[RenderableType] = []
    if result.interrupted:
        parts.append(Text(f"Stopped after {tally.done:,} of {facts.requests:,} requests.\n", style="bold yellow"))
    if console.is_terminal and tally.done:
        parts += [_Shares(_rows(tally)), Text()]
    parts += [_outcomes(tally), Text(), _totals(result)]
    if tally.failures:
        parts += [Text(), _failures(tally)]
    return Group(*parts)


def _rows(tally: Tally) -> list[tuple[str, int]]:
    usual = ["hit", "coalesced", "miss"]
    others = [outcome for outcome in tally.waits if outcome not in usual]
    failed = [("failed", tally.failed)] if tally.failed else []
    return [(outcome, tally.count(outcome)) for outcome in [*usual, *others]] + failed


def _outcomes(tally: Tally) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", width=14)
    for name in ("requests", "share", "p50", "p99"):
        table.add_column(name, justify="right")
    table.add_column("")
    for outcome, count in _rows(tally):
        cells = _figures(tally.waits.get(outcome, []), count, tally.done)
        meaning = Text(_MEANINGS.get(outcome, ""), style="dim")
        table.add_row(Text(outcome, style=f"bold {_COLOURS.get(outcome, '')}"), *cells, meaning)
    everyone = [seconds for waits in tally.waits.values() for seconds in waits]
    table.add_row("all", *_figures(everyone, tally.done, tally.done), style="dim")
    return table


def _figures(waits: list[float], count: int, of: int) -> tuple[str, ...]:
    times = (duration(percentile(waits, share)) if waits else "–" for share in (0.5, 0.99))
    return (f"{count:,}", f"{count / of:.1%}" if of else "–", *times)


def _totals(result: Result) -> Table:
    facts, tally = result.facts, result.tally
    table = _labels()
    table.add_row("upstream calls", _calls(result))
    if facts.price is None:
        table.add_row("spent", f"{_count_tokens(tally.spent)}; dollars unknown")
        table.add_row("saved", f"{_count_tokens(tally.saved)}; dollars unknown")
        table.add_row("", Text("give --input-price and --output-price to see dollars", style="dim"))
    else:
        spent, saved = facts.price.of(tally.spent), facts.price.of(tally.saved)
        share = f", {saved / (spent + saved):.0%} of what it would have cost" if spent + saved else ""
        note = "" if facts.own_price else " [dim](simulated prices)[/]"
        table.add_row("money spent", f"{_dollars(spent)} for {_count_tokens(tally.spent)}")
        table.add_row("money saved", Text.from_markup(f"[bold green]{_dollars(saved)}[/]{share}{note}"))
    if tally.unmetered:
        table.add_row("", Text(f"{tally.unmetered:,} answers did not say how many tokens they took", style="yellow"))
    table.add_row("time", duration(result.elapsed))
    return table


def _calls(result: Result) -> str:
    calls, tally = result.upstream_calls, result.tally
    text = f"{calls:,} for {tally.done:,} requests"
    if result.interrupted:
        text += f"; {calls - tally.count('miss') - tally.failed:,} were under way at the end"
    if result.provider_calls not in (None, calls):
        text += f"; the provider counted {result.provider_calls:,}"
    return text


def _failures(tally: Tally) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold red", no_wrap=True)
    table.add_column()
    for kind, count in tally.failures.most_common():
        table.add_row(f"{count:,} × {kind}", Text(tally.examples[kind][:300]))
    return table


class _Shares:
    """One line across the terminal, divided as the requests are."""

    def __init__(self, rows: list[tuple[str, int]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, _: object) -> Iterator[Segment]:
        width = min(console.width, 100)
        total = sum(count for _, count in self._rows)
        done = begun = 0
        for outcome, count in self._rows:
            done += count
            end = round(width * done / total)
            yield Segment("━" * (end - begun), Style.parse(_COLOURS.get(outcome, "white")))
            begun = end
        yield Segment.line()


def duration(seconds: float) -> str:
    """Three digits and a unit: 95 µs, 1.24 ms, 812 ms, 1.62 s, 74.1 s."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds)} s"


def _three_digits(number: float) -> str:
    decimals = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:,.{decimals}f}"


def _dollars(amount: float) -> str:
    return f"${amount:,.4f}" if amount < 1 else f"${amount:,.2f}"


def _count_tokens(tokens: Tokens) -> str:
    return f"{tokens.input + tokens.output:,} tokens"
