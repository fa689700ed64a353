"""`asynccache doctor`: what there is to say about this machine before the proxy runs on it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from asynccache.errors import ConfigError

if TYPE_CHECKING:
    from asynccache.proxy.settings import Settings

_EXTRAS = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
_OF_DEVELOPERS = {"test", "test-litellm", "test-frameworks", "bench", "all"}
_NAMES = ("config.yaml", "config.yml", "asynccache.yaml", "asynccache.toml", "asynccache.json")
_FILES = 4096
_SKEW = 2.0
"""Seconds by which the clocks of machines that share a store may differ: by so much entries live longer or shorter."""


class Level(StrEnum):
    """How a finding is to be taken."""

    ok = "ok"
    note = "note"
    warning = "warning"
    error = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Level
    text: str


def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The configuration; None: config.yaml, if it is here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds each store has to answer.")] = 5.0,
) -> None:
    """Look for what keeps the proxy from running well here: versions, extras, limits, ports, stores, clocks.

    Exits with 1 when something is wrong that has to be mended, else with 0.
    """
    found = list(findings(config, timeout))
    failed = any(finding.level == Level.error for finding in found)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        _print(found)
    raise typer.Exit(1 if failed else 0)


def findings(config: Path | None, timeout: float) -> Iterator[Finding]:
    """All there is to say. Without a configuration, what can be said without."""
    version = importlib.metadata.version("asynccache")
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding("versions", Level.ok, f"asynccache {version}, {python}, {platform.system()} {platform.release()}")
    yield _extras()
    yield _loop()
    yield _processors()
    yield _open_files()
    file = config if config is not None else next((Path(name) for name in _NAMES if Path(name).is_file()), None)
    if importlib.util.find_spec("pydantic_settings") is None:
        yield Finding("config", Level.note, "the proxy's extra is not installed: pip install 'asynccache[proxy]'")
    else:
        yield from _configured(file, timeout)


def _extras() -> Finding:
    missing: dict[str, list[str]] = {}
    known: set[str] = set()
    for requirement in importlib.metadata.requires("asynccache") or ():
        match = _EXTRAS.search(requirement)
        if match is None or match[1] in _OF_DEVELOPERS:
            continue
        known.add(match[1])
        name = _name(requirement)
        if name != "asynccache" and not _is_installed(name):
            missing.setdefault(match[1], []).append(name)
    there = ", ".join(sorted(known - missing.keys())) or "none"
    absent = "; ".join(f"{extra} (wants {', '.join(names)})" for extra, names in sorted(missing.items()))
    return Finding("extras", Level.ok, f"{there}{f'. Not installed: {absent}' if absent else ''}")


def _name(requirement: str) -> str:
    match = _REQUIREMENT.match(requirement)
    return match[0] if match else requirement


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _loop() -> Finding:
    absent = [name for name in ("uvloop", "httptools") if importlib.util.find_spec(name) is None]
    if absent:
        said = f"{' and '.join(absent)} not installed: pip install 'asynccache[proxy]' brings them"
        return Finding("event loop", Level.warning, said)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("uvloop", "httptools")]
    return Finding("event loop", Level.ok, ", ".join(versions))


def _processors() -> Finding:
    # What this process may use, which in a container can be fewer than there are.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("processors", Level.ok, f"{count}: --workers {count} uses them all")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES:
        return Finding("open files", Level.ok, f"{soft} at most")
    said = f"{soft} at most: each caller and each call upstream takes one. ulimit -n {_FILES} (hard limit {hard})"
    return Finding("open files", Level.warning, said)


# -- with a configuration ----------------------------------------------------------------------------


def _configured(file: Path | None, timeout: float) -> Iterator[Finding]:
    from asynccache.proxy.settings import Settings

    try:
        settings = Settings.load({} if file is None else file)
    except ConfigError as error:
        yield from (Finding("config", Level.error, line) for line in str(error).splitlines())
        return
    if file is None:
        yield Finding("config", Level.note, f"none found here ({', '.join(_NAMES)}): answers are kept in memory")
    else:
        yield Finding("config", Level.ok, str(file))
    yield _port(settings)
    try:
        yield from asyncio.run(_stores(settings, timeout))
    except ConfigError as error:
        yield Finding("config", Level.error, str(error))


def _port(settings: Settings) -> Finding:
    from asynccache.proxy.server import address, listen

    where = f"{address(settings.proxy)}, port {settings.proxy.port}"
    try:
        listen(settings.proxy).close()
    except ConfigError as error:
        return Finding("port", Level.warning, str(error))
    return Finding("port", Level.ok, f"{where} is free")


async def _stores(settings: Settings, timeout: float) -> list[Finding]:
    from asynccache.proxy.settings import build_cache, caching_options
    from asynccache.proxy.stores import health, skew

    found = []
    async with build_cache(settings) as cache:
        for store in await health(cache.backend, settings.document, patience=timeout):
            name = f"{store.tier} ({store.backend})" if store.tier else store.backend
            if store.seconds is None:
                found.append(Finding("store", Level.error, f"{name} does not work: {store.error}"))
            else:
                found.append(Finding("store", Level.ok, f"{name} works ({store.seconds * 1000:.1f} ms)"))
        for store_name, seconds in await skew(caching_options(settings), patience=timeout):
            level = Level.ok if abs(seconds) <= _SKEW else Level.warning
            found.append(Finding("clock", level, f"{abs(seconds):.1f} s apart from that of {store_name}"))
    return found


def _print(found: list[Finding]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    styles = {Level.ok: "green", Level.note: "cyan", Level.warning: "yellow", Level.error: "bold red"}
    width = max(len(finding.subject) for finding in found)
    for finding in found:
        console.print(f"{finding.level:<8}", style=styles[finding.level], end="")
        console.print(f"{finding.subject:<{width}}  {finding.text}")
