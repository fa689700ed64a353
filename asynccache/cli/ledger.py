"""`asynccache report`: what was spent, and what was saved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import typer

from asynccache.cli.failing import fail

if TYPE_CHECKING:
    from asynccache.telemetry.ledger import Report

_PATIENCE = 30.0  # seconds for which a proxy may take to answer
_KEY = "ASYNCCACHE_MASTER_KEY"

File = Annotated[Path | None, typer.Argument(help="A ledger's file, as Ledger(path=…) writes it.", show_default=False)]
Url = Annotated[str | None, typer.Option(help="The address of a running proxy, whose ledger is asked instead.")]
By = Annotated[Literal["models", "tags", "tenants", "days"], typer.Option(help="What stands in the table.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Html = Annotated[Path | None, typer.Option(help="Write a page to this file as well.", show_default=False)]


def report(file: File = None, url: Url = None, by: By = "models", as_json: AsJson = False, html: Html = None) -> None:
    """Show what a ledger has counted: tokens and money, spent and saved.

    The key for a proxy that asks for one is read from the environment: ASYNCCACHE_MASTER_KEY.
    Calls whose price nobody knows are counted apart, and are in no sum.
    """
    if (file is None) == (url is None):
        fail("give a ledger's file, or the --url of a proxy")
    found = _read(file) if file is not None else _ask(str(url))
    if html is not None:
        from asynccache.cli.ledger_page import page

        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            fail(f"{html}: {error.strerror}")
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
        return
    from asynccache.cli.ledger_table import show

    show(found, by)
    if html is not None:
        typer.echo(f"written: {html}")


def _read(file: Path) -> Report:
    from asynccache.telemetry.ledger import read_report

    try:
        found = read_report(file)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    if found.unwritten and found.since is None:
        fail(f"{file}: no line of it is a ledger's, as Ledger(path=…) writes them")
    return found


def _ask(url: str) -> Report:
    from asynccache.telemetry.ledger import Report

    if not url.startswith(("http://", "https://")):
        fail(f"--url {url}: an address such as http://127.0.0.1:4000 is wanted")
    asked = Request(f"{url.rstrip('/')}/cache/report", headers={"Accept": "application/json"})
    if key := os.environ.get(_KEY):
        asked.add_header("Authorization", f"Bearer {key}")
    try:
        with urlopen(asked, timeout=_PATIENCE) as answer:
            said: Any = json.load(answer)
        return Report.from_dict(said)
    except HTTPError as error:
        error.close()  # it is an open answer, too
        hint = f": set {_KEY}" if error.code in (401, 403) else ""
        fail(f"{url}: the proxy answered {error.code} {error.reason}{hint}")
    except (URLError, OSError) as error:
        fail(f"{url}: {getattr(error, 'reason', None) or error}")
    except ValueError as error:
        fail(f"{url}: that is no report: {error}")
