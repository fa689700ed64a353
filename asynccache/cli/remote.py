"""Verbs against a proxy that runs: stats, ping, delete, invalidate, clear, evict."""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from http.client import HTTPException
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from asynccache.cli.failing import fail
from asynccache.cli.report import duration

_PATIENCE = 30.0  # seconds for an answer
_LARGEST = 64 * 2**20
_KEY = re.compile("[0-9a-f]{64}")

Url = Annotated[str, typer.Option(envvar="ASYNCCACHE_URL", help="Where the proxy listens.")]
Key = Annotated[
    str | None,
    typer.Option(
        envvar="ASYNCCACHE_MASTER_KEY",
        help="Its master key; better from the environment, since other users can see a process's arguments.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the proxy says, as JSON.")]
Soft = Annotated[bool, typer.Option("--soft", help="Make them stale, in place of ending them.")]
Tenant = Annotated[str | None, typer.Option(help="Of this tenant alone.")]
Namespace = Annotated[str | None, typer.Option(help="In this namespace, in the place of the proxy's.")]

_HERE = "http://127.0.0.1:4000"


def stats(url: Url = _HERE, key: Key = None, as_json: AsJson = False) -> None:
    """Show how a running proxy's cache does.

    Exits with 0, with 1 when the proxy does not answer or refuses.
    """
    _tell(_Proxy(url, key).get("/cache/stats"), as_json, _print_stats)


def ping(url: Url = _HERE, key: Key = None, as_json: AsJson = False) -> None:
    """Ask a running proxy whether its cache works.

    Exits with 0, with 1 when it does not, or the proxy does not answer or refuses.
    """
    said = _Proxy(url, key).get("/cache/ping")
    _tell(said, as_json, lambda s: typer.echo(f"{s['status']}: {s['cache_type']}, {duration(s['seconds'])}"))


def delete(
    keys: Annotated[list[str], typer.Argument(help="Keys, as x-asynccache-key says them; - for stdin, one a line.")],
    url: Url = _HERE,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Take entries away from a running proxy's cache, by their keys.

    Exits with 0 when all were there, with 1 when one was not, or the proxy does not answer or refuses.
    """
    wanted = [each for given in keys for each in (sys.stdin.read().split() if given == "-" else [given])]
    if not wanted:
        fail("stdin has no key")
    if wrong := next((each for each in wanted if not _KEY.fullmatch(each)), None):
        fail(f"{wrong!r}: a key is 64 hex digits, as the header x-asynccache-key says it")
    said = _Proxy(url, key).post("/cache/delete", {"keys": wanted})
    _tell(said, as_json, lambda s: typer.echo(f"{s['deleted']:,} of {len(s['keys']):,} deleted"))
    if said["deleted"] < len(said["keys"]):
        raise typer.Exit(1)


def invalidate(
    tags: Annotated[list[str], typer.Argument(help="Tags.")],
    url: Url = _HERE,
    key: Key = None,
    as_json: AsJson = False,
    soft: Soft = False,
    tenant: Tenant = None,
    namespace: Namespace = None,
) -> None:
    """End all answers of a running proxy's cache that carry one of the tags.

    Exits with 0, with 1 when the proxy does not answer or refuses.
    """
    said = _Proxy(url, key).post("/cache/invalidate", {"tags": tags, **_where(soft, tenant, namespace)})
    _tell(said, as_json, lambda s: typer.echo(f"{'purged softly' if s['soft'] else 'ended'}: {', '.join(s['tags'])}"))


def clear(
    url: Url = _HERE,
    key: Key = None,
    as_json: AsJson = False,
    soft: Soft = False,
    tenant: Tenant = None,
    namespace: Namespace = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")] = False,
) -> None:
    """End all answers in the namespace of a running proxy's cache. Whatever else is in the store stays.

    Exits with 0, with 1 when the proxy does not answer or refuses, or it was not meant.
    """
    if not yes and sys.stdin.isatty():
        typer.confirm(f"End all answers that {url} keeps?", abort=True)
    said = _Proxy(url, key).post("/cache/flushall", _where(soft, tenant, namespace))
    _tell(said, as_json, lambda s: typer.echo(f"cleared: namespace {s['namespace']!r}"))


def evict(
    older_than: Annotated[float, typer.Option(help="Seconds.", min=0)],
    url: Url = _HERE,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Take away the answers of a running proxy's cache that are found by meaning and are older, whosever they are.

    Exits with 0, with 1 when the proxy does not answer or refuses: as it does when it finds no answer by meaning.
    """
    said = _Proxy(url, key).post("/cache/evict", {"older_than": older_than})
    _tell(said, as_json, lambda s: typer.echo(f"{s['evicted']:,} evicted"))


def _where(soft: bool, tenant: str | None, namespace: str | None) -> dict[str, Any]:
    said = {"soft": soft or None, "tenant": tenant, "namespace": namespace}
    return {name: value for name, value in said.items() if value is not None}


class _Proxy:
    """One that runs. What it refuses, or does not answer, ends the command with 1."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            fail("--url: an address such as http://127.0.0.1:4000 is wanted")
        if key is not None and (not key.isascii() or not key.isprintable()):
            fail("--key: a key is ASCII")
        self._url = url.rstrip("/").removesuffix("/v1")
        self._key = key
        # A proxy of this very machine is not asked for through another.
        proxies: dict[str, str] | None = {} if parts.hostname in ("localhost", "127.0.0.1", "::1") else None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirects())

    def get(self, path: str) -> Any:
        return self._ask(path, None)

    def post(self, path: str, said: dict[str, Any]) -> Any:
        return self._ask(path, json.dumps(said).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        headers = {"content-type": "application/json", "accept": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self._url}{path}", body, headers)
        try:
            with self._opener.open(request, timeout=_PATIENCE) as response:
                answer = response.read(_LARGEST)
        except urllib.error.HTTPError as error:
            with error:
                self._give_up(_message(error.read(_LARGEST)) or f"HTTP {error.code}")
        except (OSError, HTTPException) as error:
            self._give_up(f"no answer: {getattr(error, 'reason', error)}")
        try:
            said = json.loads(answer)
        except ValueError:
            self._give_up("what answers there is no asynccache proxy")
        return said

    def _give_up(self, why: str) -> NoReturn:
        typer.echo(f"asynccache: {self._url}: {why}", err=True)
        raise typer.Exit(1)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key goes nowhere but where it was told to."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _message(body: bytes) -> str:
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    error = said.get("error") if isinstance(said, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return "".join(c if c.isprintable() else "?" for c in message[:500]) if isinstance(message, str) else ""


def _tell(said: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    if as_json:
        typer.echo(json.dumps(said, indent=2))
        return
    try:
        show(said)
    except (KeyError, TypeError, AttributeError, ValueError):
        typer.echo("asynccache: what answers there is no asynccache proxy of this version", err=True)
        raise typer.Exit(1) from None


# -- stats, for people --------------------------------------------------------------------------------


def _print_stats(said: Any) -> None:
    console = Console(highlight=False, markup=False)
    counters, proxy, cache = said["counters"], said["proxy"], said["cache"]
    workers = f", process {proxy['process']}, one of {proxy['workers']}" if proxy["workers"] > 1 else ""
    console.print(f"{cache['type']}, namespace {cache['namespace']!r}, up {duration(proxy['seconds'])}{workers}")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in _lines(said, counters):
        grid.add_row(name, value)
    console.print(grid)
    for head, rows in _tables(said):
        if rows:
            table = Table(*head, box=None, header_style="dim", pad_edge=False)
            for row in rows:
                table.add_row(*row)
            console.print()
            console.print(table)


def _lines(said: Any, counters: Any) -> Iterable[tuple[str, str]]:
    yield "hit ratio", f"{counters['hit_ratio']:.1%} of {counters['calls'] - counters['bypassed']:,} calls"
    shares = ("hits", "stale", "coalesced", "misses", "bypassed")
    yield "calls", ", ".join(f"{counters[name]:,} {name}" for name in shares if counters[name]) or "none"
    yield "upstream", f"{counters['upstream_calls']:,} calls, {counters['upstream_errors']:,} failed"
    if (money := said["money"]) is not None:
        yield "saved", f"{_dollars(money, 'saved')}, spent {_dollars(money, 'spent')}"
    errors = {name: counters[name] for name in ("read_errors", "write_errors", "corrupt", "hook_errors")}
    if any(errors.values()):
        yield "errors", ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in errors.items() if count)


_Rows = list[tuple[str, ...]]


def _tables(said: Any) -> Iterable[tuple[tuple[str, ...], _Rows]]:
    tiers: _Rows = [
        (
            f"{tier['tier']} {tier['backend']}".strip(),
            tier["breaker"] or "in process",
            "" if tier["entries"] is None else f"{tier['entries']:,}",
            "" if tier["bytes"] is None else f"{tier['bytes']:,}",
        )
        for tier in said["tiers"]
    ]
    yield ("store", "breaker", "entries", "bytes"), tiers
    recent = said["recent"] or {}
    times: _Rows = [
        (tier, f"{t['calls']:,}", *(duration(t[share]) for share in ("p50", "p95", "p99")))
        for tier, t in recent.get("latency", {}).items()
    ]
    yield ("latency from", "calls", "50 %", "95 %", "99 %"), times
    entries: _Rows = [
        (e["key"], e["model"], f"{e['hits']:,}", "unknown" if e["saved"] is None else f"${e['saved']:,.4f}")
        for e in recent.get("entries", [])
    ]
    yield ("entry", "model", "hits", "saved"), entries


def _dollars(money: Any, name: str) -> str:
    amount, unknown = float(money[name]), money[f"unknown_{name}"]
    if unknown and not amount:
        return "unknown"
    return f"${amount:,.4f}" + (f" and {unknown:,} calls of unknown price" if unknown else "")
