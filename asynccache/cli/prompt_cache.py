"""`asynccache prompt-cache explain`: what the provider's own cache is told to keep of a request, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from asynccache.call_types import CALL_TYPES
from asynccache.cli.failing import fail
from asynccache.cli.keys import AsJson, RequestFile, read_request
from asynccache.errors import ConfigError
from asynccache.providers.marking import Marked, Slot
from asynccache.providers.planner import Plan, Planner
from asynccache.providers.points import Points
from asynccache.providers.prompt_caching import PromptCaching
from asynccache.providers.recognition import Place

_VOLATILE = (
    ("a time", re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b\d\d:\d\d:\d\d\b")),
    ("a date", re.compile(r"\b\d{4}-\d\d-\d\d\b|\b\d{1,2} (?:January|February|March|April|May|June|July|August|"
                          r"September|October|November|December) \d{4}\b")),
    ("a UUID", re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.I)),
)  # fmt: skip

History = Annotated[
    Path | None,
    typer.Option(
        help="Requests that were made before, JSONL: each a request, or {time: seconds since the epoch, request: …}."
    ),
]
Every = Annotated[float, typer.Option(help="Seconds between requests that do not say when they were made.")]
PointsOption = Annotated[
    str | None,
    typer.Option("--points", help="Injection points as JSON, in the place of the planner."),
]
CallType = Annotated[str, typer.Option(help=f"What kind of call it is: {', '.join(CALL_TYPES)}.")]
BaseURL = Annotated[str, typer.Option(help="Where the request goes, when the model's name does not tell.")]

app = typer.Typer(help="The provider's own prompt cache.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The provider's own prompt cache."""


@app.command()
def explain(
    request: RequestFile,
    history: History = None,
    every: Every = 30,
    points: PointsOption = None,
    as_json: AsJson = False,
    call_type: CallType = "chat",
    base_url: BaseURL = "",
) -> None:
    """Say which parts of a request are marked for the provider's own cache, and why.

    The planner counts how often prefixes come again, in --history if there is one. Where the marks are said by
    --points, it says what becomes of them. Token counts are estimates from above. Nothing is sent anywhere.
    """
    arguments = read_request(request)
    if call_type not in CALL_TYPES:
        fail(f"--call-type {call_type}: known are {', '.join(CALL_TYPES)}")
    now, planner = 0.0, Planner()
    try:
        hook = PromptCaching("auto" if points is None else _points(points), planner=planner)
        if history is not None and points is None:
            for at, earlier in _history(history, every):
                hook.plan(earlier, hook.place(earlier, call_type=call_type, endpoint=base_url), at=at)
                now = at + every
    except ConfigError as error:
        fail(str(error))
    place = hook.place(arguments, call_type=call_type, endpoint=base_url)
    plan: Plan | None = None
    if points is None:
        marked, plan = hook.plan(arguments, place, at=now)
    else:
        marked = hook.mark(arguments, place)
    warnings = [*marked.notes, *_volatile(plan)]
    if as_json:
        typer.echo(json.dumps(_as_dict(place, marked, plan, warnings), indent=2, ensure_ascii=False, default=str))
    else:
        _print(place, marked, plan, warnings)


def _points(text: str) -> Points:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        fail(f'--points: not JSON: {error.msg}; such as \'[{{"location": "message", "role": "system"}}]\'')
    if not isinstance(value, list):
        fail('--points: a list is wanted, such as \'[{"location": "message", "role": "system"}]\'')
    return value


def _history(path: Path, every: float) -> Iterator[tuple[float, dict[str, Any]]]:
    at = 0.0
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path}: {error}")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except json.JSONDecodeError as error:
            fail(f"{path}: line {number} is not JSON: {error.msg}")
        if not isinstance(said, dict):
            fail(f"{path}: line {number}: an object is wanted")
        earlier = said.get("request", said)
        at = float(said["time"]) if isinstance(said.get("time"), int | float) else at + every
        if not isinstance(earlier, dict):
            fail(f"{path}: line {number}: its request is no object")
        yield at, earlier


def _volatile(plan: Plan | None) -> list[str]:
    """What stands in tools or system prompt and looks as if it were another with each request."""
    found = []
    for verdict in plan.verdicts if plan is not None else ():
        if not _is_head(verdict.slot):
            continue
        text = json.dumps(verdict.slot.part, ensure_ascii=False, default=str)
        for what, pattern in _VOLATILE:
            if (match := pattern.search(text)) is not None:
                found.append(
                    f"{verdict.slot.name}: there is {what} in it ({match[0]}): if it changes, so does every prefix "
                    "that has it; put it behind what stays the same"
                )
                break
    return found


def _is_head(slot: Slot) -> bool:
    return slot.place in ("tools", "system") or slot.role in ("system", "developer")


def _as_dict(place: Place, marked: Marked, plan: Plan | None, warnings: list[str]) -> dict[str, Any]:
    verdicts = plan.verdicts if plan is not None else ()
    return {
        "provider": place.provider,
        "form": place.form,
        "model": place.model,
        "marks": marked.marks,
        "places": [
            {
                "place": verdict.slot.name,
                "tokens": verdict.slot.tokens,
                "mark": verdict.life or None,
                "used": verdict.used,
                "written": verdict.written,
                "gain": round(verdict.gain, 4),
                "why": verdict.why,
            }
            for verdict in verdicts
        ],
        "notes": warnings,
        "request": marked.request,
    }


def _print(place: Place, marked: Marked, plan: Plan | None, warnings: list[str]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=False)
    console.print(f"{place.provider or 'no provider that takes marks'}: {place.model or 'no model'} ({place.form})")
    if plan is not None and plan.verdicts:
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("prefix up to", "tokens", "mark", "why"):
            table.add_column(name, justify="right" if name == "tokens" else "left", overflow="fold")
        for verdict in plan.verdicts:
            table.add_row(verdict.slot.name, f"{verdict.slot.tokens:,}", verdict.life or "–", verdict.why)
        console.print(table)
    console.print(f"{marked.marks} mark{'' if marked.marks == 1 else 's'}")
    for warning in warnings:
        console.print(f"note: {warning}")
