"""How a command ends when it was given something wrong."""

from __future__ import annotations

from typing import NoReturn

import typer


def fail(message: str) -> NoReturn:
    """Say it on stderr, in one line, and exit with 2."""
    typer.echo(f"asynccache: {message}", err=True)
    raise typer.Exit(2)
