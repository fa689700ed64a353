"""`asynccache config check` and `asynccache config schema`: what a configuration means, before it is used."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from asynccache.cli.failing import fail
from asynccache.errors import ConfigError

if TYPE_CHECKING:
    from asynccache.proxy.settings import Settings
    from asynccache.proxy.stores import Health

config = typer.Typer(help="What a configuration file means, and what may stand in it.", no_args_is_help=True)

_TITLES = {
    "address": "Where it listens",
    "callers": "Who may call",
    "models": "Where calls go",
    "cache": "What is kept",
    "rules": "Exceptions",
    "hooks": "Hooks",
    "telemetry": "What it tells",
    "notes": "Notes",
}


@config.command()
def check(
    file: Annotated[Path, typer.Argument(help="The configuration (.yaml, .toml, .json).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds each store has to answer.")] = 10.0,
) -> None:
    """Say in words what the proxy would do with this file, and ask each store whether it works.

    Exits with 0 when all is well, and with 1 when the file is wrong or a store does not work, saying why.
    """
    try:
        from asynccache.proxy.description import described
        from asynccache.proxy.settings import Settings
    except ModuleNotFoundError as error:
        fail(f"this needs the extra asynccache[proxy] ({error.name} is not installed)")
    try:
        settings = Settings.load(file)
        stores = asyncio.run(_stores(settings, timeout))
    except ConfigError as error:
        _wrong(str(error), as_json=as_json)
    words = described(settings)
    works = all(store.works for store in stores)
    if as_json:
        typer.echo(json.dumps({"ok": works, **words, "stores": [_as_dict(store) for store in stores]}, indent=2))
    else:
        _print(words, stores)
    raise typer.Exit(0 if works else 1)


@config.command()
def schema() -> None:
    """Print the JSON Schema of a configuration file, for editors and other checks."""
    try:
        from asynccache.proxy.settings import json_schema
    except ModuleNotFoundError as error:
        fail(f"this needs the extra asynccache[proxy] ({error.name} is not installed)")
    typer.echo(json.dumps(json_schema(), indent=2))


async def _stores(settings: Settings, timeout: float) -> list[Health]:
    """Build all that the proxy would build, and ask the stores. Raises ConfigError."""
    from asynccache.proxy.app import create_app
    from asynccache.proxy.observers import watched_cache
    from asynccache.proxy.stores import health

    cache = watched_cache(settings)
    try:
        app = create_app(settings, cache=cache)
        try:
            return await health(cache.backend, settings.document, patience=timeout)
        finally:
            await app.aclose()
    finally:
        await cache.aclose()


def _wrong(message: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"ok": False, "errors": message.splitlines()}, indent=2))
    else:
        for line in message.splitlines():
            typer.echo(line, err=True)
    raise typer.Exit(1)


def _as_dict(store: Health) -> dict[str, Any]:
    milliseconds = None if store.seconds is None else round(store.seconds * 1000, 1)
    said = {"tier": store.tier, "backend": store.backend, "works": store.works}
    return {**said, "milliseconds": milliseconds, "error": store.error}


def _print(words: dict[str, list[str]], stores: list[Health]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for subject, lines in words.items():
        if lines:
            console.print(_TITLES[subject], style="bold")
        for line in lines:
            console.print(f"  {line}")
    console.print("Whether the stores work", style="bold")
    for store in stores:
        name = f"{store.tier}: {store.backend}" if store.tier else store.backend
        if store.seconds is None:
            console.print(f"  {name} does NOT work: {store.error}", style="red")
        else:
            console.print(f"  {name} works ({store.seconds * 1000:.1f} ms)", style="green")
