"""`asynccache simulate`: what a cache would have done with the traffic of a log."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from asynccache.cli.failing import fail
from asynccache.errors import ConfigError

if TYPE_CHECKING:
    from asynccache.simulation import Outcome, Scenario, Simulation
    from asynccache.telemetry.prices import Prices
    from asynccache.traffic_log import TrafficLog

_BAR = 40


def simulate(
    log: Annotated[
        Path,
        typer.Argument(help="JSON lines: calls with answers and times, LiteLLM's spend logs, or OpenTelemetry's OTLP."),
    ],
    ttl: Annotated[
        list[str] | None, typer.Option(help='Seconds, or "15m", "12h", "7d"; "none": no end. May be repeated.')
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help='Memory: "64MB", "1GiB"; "none": no bound. May be repeated.')
    ] = None,
    key_builder: Annotated[
        list[str] | None,
        typer.Option(
            help='"exact", "normalized", "ignore:user,metadata", "per_tenant", "package.module:function", '
            "or several with a + between. May be repeated."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help='Who goes when memory is full: "s3-fifo", "lru". May be repeated.')
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="Prices of your own: {model: {input: …, output: …}}, dollars per million, JSON.")
    ] = None,
    curve: Annotated[int, typer.Option(min=0, max=50, help="Sizes in the curve over the size of memory.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Say what each of these caches would have saved on the calls of a log. Nobody is called.

    What is compared is all that --ttl, --size, --key-builder and --policy make together; the curve is that of the
    first. Simulated are hits, and calls that wait for the same one under way; not what is served stale, hooks, or
    answers by meaning. Exits with 2 when the log has no call that can be read.
    """
    from asynccache.simulation import scenarios
    from asynccache.simulation import simulate as run
    from asynccache.traffic_log import read_log

    try:
        wanted: Sequence[Scenario] = scenarios(
            policies=[_policy(text) for text in policy or ["s3-fifo"]],
            ttls=[_ttl(text) for text in ttl or ["none"]],
            sizes=[_size(text) for text in size or ["none"]],
            keys=[_rule(text) for text in key_builder or ["exact"]],
        )
        traffic = read_log(log)
        found = asyncio.run(run(traffic.calls, wanted, prices=_prices(prices), curve=curve))
    except ConfigError as error:
        fail(str(error))
    if as_json:
        typer.echo(json.dumps({"log": _of_the_log(traffic), **found.as_dict()}, indent=2))
    else:
        _print(traffic, found)


# -- what was given ---------------------------------------------------------------------------------

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZES = {"": 1, "b": 1} | {
    f"{letter}{ending}": base ** (power + 1)
    for power, letter in enumerate("kmgt")
    for ending, base in (("", 1000), ("b", 1000), ("ib", 1024))
}


def _amount(text: str, units: dict[str, int], what: str, example: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in units:
        raise ConfigError(f"{what} {text!r}: {example} is wanted")
    return float(match[1]) * units[match[2].lower()]


def _ttl(text: str) -> float | None:
    return None if text.lower() == "none" else _amount(text, _UNITS, "--ttl", 'seconds, "15m", "12h", "7d" or "none"')


def _size(text: str) -> int | None:
    return None if text.lower() == "none" else int(_amount(text, _SIZES, "--size", '"64MB", "1GiB" or "none"'))


def _policy(text: str) -> Any:
    from asynccache.simulation import Scenario

    return Scenario(text).policy  # type: ignore[arg-type]  # which it checks


def _rule(text: str) -> Any:
    from asynccache.simulation import key_rule

    return key_rule(text)


def _prices(path: Path | None) -> Prices:
    """Those of the file, and of the price library if it is installed."""
    from asynccache.telemetry.prices import Prices

    if path is None:
        try:
            return Prices()
        except ConfigError:  # the library is not installed: then prices are unknown, and said to be
            return Prices(library=False)
    try:
        return Prices(json.loads(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: no table of prices as JSON: {error}") from error


# -- what is shown ----------------------------------------------------------------------------------


def _of_the_log(log: TrafficLog) -> dict[str, Any]:
    times = [call.began for call in log.calls if call.began is not None]
    return {
        "calls": len(log.calls),
        "skipped": dict(log.skipped),
        "timed": log.timed,
        "since": min(times, default=None),
        "until": max(times, default=None),
        "without_answer": sum(call.answer is None for call in log.calls),
        "cut": sum(not call.whole for call in log.calls),
    }


def _print(log: TrafficLog, found: Simulation) -> None:
    console = Console(highlight=False, markup=False)
    facts = _of_the_log(log)
    span = ""
    if facts["since"] is not None:
        span = f" in {timedelta(seconds=round(facts['until'] - facts['since']))}"
    console.print(f"{facts['calls']:,} calls{span}", soft_wrap=True)
    notes = [f"left out {count:,}: {reason}" for reason, count in log.skipped.items()]
    if not log.timed:
        notes.append("not all lines say when: a call without a time follows the one before it")
    if facts["without_answer"]:
        notes.append(f"{facts['without_answer']:,} without an answer: taken as kept, with a size by their tokens")
    if facts["cut"]:
        notes.append(f"{facts['cut']:,} whose prompt is not all in the log: what is missing makes no difference")
    if unpriced := max(each.unpriced for each in found.outcomes):
        notes.append(f"{unpriced:,} whose cost nobody knows: they are in no sum of money")
    for note in notes:
        console.print(f"  {note}", style="dim", soft_wrap=True)
    console.print(_table(found.outcomes))
    if found.curve:
        console.print(f"Hit ratio by size of memory ({_named(found.curve[0].scenario)})", style="bold", soft_wrap=True)
        for each in found.curve:
            bar = "█" * round(_BAR * each.hit_ratio)
            size = _bytes(each.scenario.max_bytes)
            console.print(f"  {size:>9}  {each.hit_ratio:>6.1%}  {bar}", soft_wrap=True)


def _table(outcomes: list[Outcome]) -> Table:
    """Of several caches only what they differ in is said of each."""
    table = Table(box=None, pad_edge=False)
    caches = [_options(each.scenario) for each in outcomes]
    told = [name for name in caches[0] if len(caches) == 1 or len({cache[name] for cache in caches}) > 1]
    for name in told:
        table.add_column(name, overflow="fold")
    for name in ("hit ratio", "hits", "waited", "saved", "of", "time saved", "peak"):
        table.add_column(name, justify="right", overflow="fold")
    for each, cache in zip(outcomes, caches, strict=True):
        total = each.usd + each.usd_saved
        known = each.unpriced < each.calls
        table.add_row(
            *(cache[name] for name in told),
            f"{each.hit_ratio:.1%}",
            f"{each.hits:,}",
            f"{each.coalesced:,}",
            f"${each.usd_saved:,.2f}" if known else "unknown",
            f"${total:,.2f}" if known else "unknown",
            str(timedelta(seconds=round(each.seconds_saved))) if each.untimed < each.hits or not each.hits else "?",
            _bytes(each.peak_bytes),
        )
    return table


def _options(scenario: Scenario) -> dict[str, str]:
    return {
        "keys": scenario.keys.name,
        "ttl": _ttl_words(scenario.ttl),
        "size": _bytes(scenario.max_bytes),
        "policy": scenario.policy,
    }


def _named(scenario: Scenario) -> str:
    return f"keys {scenario.keys.name}, ttl {_ttl_words(scenario.ttl)}, {scenario.policy}"


def _ttl_words(ttl: float | None) -> str:
    if ttl is None:
        return "none"
    for unit in ("d", "h", "m"):
        if ttl and ttl % _UNITS[unit] == 0:
            return f"{ttl / _UNITS[unit]:g}{unit}"
    return f"{ttl:g}s"


def _bytes(count: int | None) -> str:
    if count is None:
        return "none"
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
