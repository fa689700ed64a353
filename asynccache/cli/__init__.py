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

    from asynccache.cli.api_keys import keys
    from asynccache.cli.config import config
    from asynccache.cli.demo import demo
    from asynccache.cli.doctor import doctor
    from asynccache.cli.keys import explain, key
    from asynccache.cli.ledger import report
    from asynccache.cli.prompt_cache import app as prompt_cache
    from asynccache.cli.remote import clear, delete, evict, invalidate, ping, stats
    from asynccache.cli.semantic import semantic
    from asynccache.cli.serve import serve
    from asynccache.cli.simulate import simulate
    from asynccache.cli.warm import warm

    app = typer.Typer(
        help="An asyncio-first cache for LLM calls.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (demo, key, explain, serve, doctor, report, warm, simulate):
        app.command()(command)
    for verb in (stats, ping, delete, invalidate, clear, evict):
        app.command(rich_help_panel="A running proxy")(verb)
    app.add_typer(keys, name="keys")
    app.add_typer(config, name="config")
    app.add_typer(prompt_cache, name="prompt-cache")
    app.add_typer(semantic, name="semantic")
    return app
