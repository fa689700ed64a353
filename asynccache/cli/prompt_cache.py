"""`asynccache prompt-cache explain`: what the provider's own cache is told to keep of a request, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from asynccache.call_types import CALL_TYPES
from asynccache.cli.failing import fail
from asynccache.cli.keys import AsJson, RequestFile, read_request
from asynccache.errors import ConfigError

if TYPE_CHECKING:
    from asynccache.providers.marking import Marked, Slot
    from asynccache.providers.planner import Plan
    from asynccache.providers.points import Points
    from asynccache.providers.recognition import Place
    from asynccache.traffic_log import LoggedCall

_VOLATILE = (
    ("a time", re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b\d\d:\d\d:\d\d\b")),
    ("a date", re.compile(r"\b\d{4}-\d\d-\d\d\b|\b\d{1,2} (?:January|February|March|April|May|June|July|August|"
                          r"September|October|November|December) \d{4}\b")),
    ("a UUID", re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.I)),
)  # fmt: skip

History = Annotated[
    Path | None,
    typer.Option(help="Requests that were made before: JSON lines, or any log that `asynccache simulate` reads."),
]
Every = Annotated[float, typer.Option(help="Seconds between requests that do not say when they were made.")]
PointsOption = Annotated[
    str | None,
    typer.Option("--points", help="Injection points as JSON, in the place of the planner."),
]
CallType = Annotated[
    str | None,
    typer.Option(help=f"What kind of call it is, when its arguments do not tell: {', '.join(CALL_TYPES)}."),
]
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
    call_type: CallType = None,
    base_url: BaseURL = "",
) -> None:
    """Say which parts of a request are marked for the provider's own cache, and why.

    The planner counts how often prefixes come again, in --history if there is one. Where the marks are said by
    --points, it says what becomes of them. Token counts are estimates from above. Nothing is sent anywhere.
    """
    from asynccache.providers.planner import Planner
    from asynccache.providers.prompt_caching import PromptCaching

    arguments = read_request(request)
    if call_type not in (None, *CALL_TYPES):
        fail(f"--call-type {call_type}: known are {', '.join(CALL_TYPES)}")
    now, planner = 0.0, Planner()
    try:
        hook = PromptCaching("auto" if points is None else _points(points), planner=planner)
        if history is not None and points is None:
            for at, earlier in _history(history, every):
                kind = call_type or earlier.call_type
                hook.plan(earlier.params, hook.place(earlier.params, call_type=kind, endpoint=base_url), at=at)
                now = at + every
    except ConfigError as error:
        fail(str(error))
    place = hook.place(arguments, call_type=call_type or _call_type(arguments), endpoint=base_url)
    plan: Plan | None = None
    if points is None:
        marked, plan = hook.plan(arguments, place, at=now)
    else:
        marked = hook.mark(arguments, place)
    slots = hook.slots(marked.request, place)
    kept = hook.division(arguments, place).content if place.provider in ("gemini", "vertex") else None
    warnings = [*marked.notes, *_beside(arguments, marked, place, kept or ()), *_volatile(slots)]
    if as_json:
        typer.echo(json.dumps(_as_dict(place, marked, plan, warnings), indent=2, ensure_ascii=False, default=str))
    else:
        _print(place, marked, plan, slots, warnings)


def _points(text: str) -> Points:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        fail(f'--points: not JSON: {error.msg}; such as \'[{{"location": "message", "role": "system"}}]\'')
    if not isinstance(value, list):
        fail('--points: a list is wanted, such as \'[{"location": "message", "role": "system"}]\'')
    return value


def _history(path: Path, every: float) -> Iterator[tuple[float, LoggedCall]]:
    """Raises ConfigError."""
    from asynccache.traffic_log import read_log

    log, at = read_log(path), 0.0
    for reason, count in log.skipped.items():
        typer.echo(f"asynccache: {path}: left out {count}: {reason}", err=True)
    for call in log.calls:
        at = at + every if call.began is None else call.began
        yield at, call


def _call_type(arguments: dict[str, Any]) -> str:
    from asynccache.traffic_log import Unreadable, call_type_of

    try:
        return call_type_of(arguments)
    except Unreadable:
        return "chat"


def _beside(arguments: dict[str, Any], marked: Marked, place: Place, kept: Iterable[str]) -> list[str]:
    """What a provider without marks gets. kept: what of the request goes into a context."""
    if kept:
        return [f"a context keeps {', '.join(kept)}, where PromptCaching(…, contexts=ContextCaches(…)) makes one"]
    key = marked.request.get("prompt_cache_key")
    if key is not None and "prompt_cache_key" not in arguments:
        return [f"prompt_cache_key: {key!r} leads calls with this prefix to one machine"]
    names = {"deepseek": "DeepSeek", "xai": "xAI"}
    if place.provider in names and not marked.notes:
        return [f"{names[place.provider]} keeps prefixes by itself: nothing is marked"]
    return []


def _volatile(slots: Iterable[Slot]) -> list[str]:
    """What stands in tools or system prompt and looks as if it were another with each request."""
    found = []
    for slot in filter(_is_head, slots):
        text = json.dumps(slot.part, ensure_ascii=False, default=str)
        for what, pattern in _VOLATILE:
            if (match := pattern.search(text)) is not None:
                found.append(
                    f"{slot.name}: there is {what} in it ({match[0]}): if it changes, so does every prefix "
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


def _print(place: Place, marked: Marked, plan: Plan | None, slots: list[Slot], warnings: list[str]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=False)
    console.print(f"{place.provider or 'no provider that takes marks'}: {place.model or 'no model'} ({place.form})")
    planned = [(verdict.slot, verdict.life, verdict.why) for verdict in plan.verdicts] if plan is not None else []
    if rows := planned or [(slot, "".join(slot.lives), slot.refusal) for slot in slots if slot.place != "request"]:
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("prefix up to", "tokens", "mark", "why" if planned else ""):
            table.add_column(name, justify="right" if name == "tokens" else "left", overflow="fold")
        for slot, life, why in rows:
            table.add_row(slot.name, f"{slot.tokens:,}", life or "–", why)
        console.print(table)
    console.print(f"{marked.marks} mark{'' if marked.marks == 1 else 's'}")
    for warning in warnings:
        console.print(f"note: {warning}")
