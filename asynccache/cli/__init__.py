"""The command line. One file per group of commands; each imports what it needs when it runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command that the process was started with. Exits with 0, 1 (see the command) or 2 (wrong input)."""
    try:
        app = build_app()
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit("asynccache: the command line needs typer and rich: pip install 'asynccache[cli]'")
    app(prog_name="asynccache")


def build_app() -> typer.Typer:
    """All commands. Raises ModuleNotFoundError without typer and rich."""
    import typer

    from asynccache.cli.demo import demo
    from asynccache.cli.keys import explain, key

    app = typer.Typer(
        help="An asyncio-first cache for LLM calls.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (demo, key, explain):
        app.command()(command)
    return app
