"""`asynccache serve`: the caching proxy."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asynccache.cli.failing import fail
from asynccache.errors import ConfigError

if TYPE_CHECKING:
    from asynccache.proxy.settings import Settings


class Log(StrEnum):
    """What log lines look like."""

    text = "text"
    json = "json"
    off = "off"


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The configuration (.yaml, .toml, .json). None: memory.")
    ] = None,
    upstream: Annotated[str | None, typer.Option(help="Where all calls go that are of no model in model_list.")] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; another than loopback wants api_keys.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default 4000; 0: a free one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds that answers under way have to end on SIGTERM.")
    ] = None,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Let anybody call who can reach it, without a key.")
    ] = False,
    log: Annotated[Log | None, typer.Option(help="One line a request; off: none.")] = None,
) -> None:
    """Serve the OpenAI and Anthropic APIs from the cache, and pass on what is not in it.

    SIGHUP loads the configuration again without dropping a request; SIGTERM lets answers under way end first. Exits
    with 0 after that, with 1 when it cannot start, with 2 for a wrong configuration.
    """
    try:
        from asynccache.proxy.server import Source
    except ModuleNotFoundError as error:
        fail(f"the proxy needs the extra asynccache[proxy] ({error.name} is not installed)")
    proxy: dict[str, Any] = {"host": host, "port": port, "workers": workers, "drain_seconds": drain_seconds}
    proxy["allow_anonymous"] = True if allow_anonymous else None
    told = {"proxy": _said(proxy), "telemetry": _said({"log": log and log.value}), **_said({"upstream": upstream})}
    source = Source(config, {name: value for name, value in told.items() if value})
    try:
        settings = source.load()
    except ConfigError as error:
        fail(str(error))
    _serve(source, settings)


def _serve(source: Any, settings: Settings) -> None:
    from asynccache.proxy.description import first_lines
    from asynccache.proxy.generations import StartFailed
    from asynccache.proxy.logs import set_up
    from asynccache.proxy.server import ProxyServer, listen, notify, run, url_of
    from asynccache.proxy.workers import Supervisor

    set_up(settings.telemetry.log)
    try:
        listening = listen(settings.proxy)
    except ConfigError as error:
        typer.echo(f"asynccache: {error}", err=True)
        sys.exit(1)
    url = url_of(listening)

    def started() -> None:
        for line in first_lines(settings, url):
            typer.echo(line)
        notify("READY=1")

    async def main() -> None:
        several = settings.proxy.workers > 1
        server = (
            Supervisor(source, listening, log=settings.telemetry.log) if several else ProxyServer(source, listening)
        )
        await server.run(settings, started=started, reloaded=_reloaded)

    try:
        run(main)
    except ConfigError as error:
        fail(str(error))
    except StartFailed as error:
        typer.echo(f"asynccache: {error}", err=True)
        sys.exit(1)
    finally:
        notify("STOPPING=1")


def _reloaded(done: bool) -> None:
    typer.echo("asynccache: the configuration was reloaded" if done else "asynccache: the old configuration stays")


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
