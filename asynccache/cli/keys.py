"""`asynccache key` and `asynccache explain`: what the cache takes a request for."""

from __future__ import annotations

import json
import sys
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from asynccache import Cache, ConfigError
from asynccache.call_types import CALL_TYPES
from asynccache.cli.failing import fail
from asynccache.explanation import Difference, Explanation

RequestFile = Annotated[
    str, typer.Argument(help="A file with the request's arguments as a JSON object, or - for stdin.")
]
Config = Annotated[
    Path | None,
    typer.Option(help="The cache's configuration file (.yaml, .toml, .json): its namespace and its keys are taken."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Namespace = Annotated[str | None, typer.Option(help="The namespace of the call, in the place of the cache's.")]
Tenant = Annotated[str | None, typer.Option(help="The tenant that the call is made for.")]
CallType = Annotated[str, typer.Option(help=f"What kind of call it is: {', '.join(CALL_TYPES)}.")]


def key(
    request: RequestFile,
    config: Config = None,
    as_json: AsJson = False,
    namespace: Namespace = None,
    tenant: Tenant = None,
    call_type: CallType = "chat",
) -> None:
    """Print a request's cache key, and which of its arguments are not in it.

    The key is that of a wrapped function, such as litellm.acompletion. A wrapped client's key also has the
    address it talks to. Of a key_builder that is a function of your own, all that it is given counts as in the key;
    it is looked for in the current folder, too.
    """
    arguments = read_request(request)
    explanation = _explain(_cache(config, namespace, tenant), arguments, arguments, call_type)
    left_out = list(explanation.ignored)
    counted = [name for name in arguments if name not in left_out]
    if as_json:
        typer.echo(json.dumps({"key": explanation.key_a, "in_key": counted, "left_out": left_out}, indent=2))
        return
    typer.echo(explanation.key_a)
    typer.echo(f"in the key:  {', '.join(counted) or 'nothing'}")
    typer.echo(f"left out:    {', '.join(left_out) or 'nothing'}")


def explain(
    a: RequestFile,
    b: RequestFile,
    config: Config = None,
    as_json: AsJson = False,
    namespace: Namespace = None,
    tenant: Tenant = None,
    call_type: CallType = "chat",
) -> None:
    """Say, field by field, why two requests have different cache keys.

    Exits with 0 when they share one, 1 when they do not, 2 when a file is not a request.
    """
    if a == b == "-":
        fail("only one of the two requests can come from stdin")
    explanation = _explain(_cache(config, namespace, tenant), read_request(a), read_request(b), call_type)
    if as_json:
        typer.echo(json.dumps(_as_dict(explanation), indent=2, ensure_ascii=False))
    else:
        _print(explanation, _names(a, b))
    raise typer.Exit(0 if explanation.same else 1)


def _cache(config: Path | None, namespace: str | None, tenant: str | None) -> Cache:
    """The cache whose keys are asked for. Building it connects to nothing. Ends the command when it cannot be built."""
    try:
        return _configured(config).bind(namespace=namespace, tenant=tenant)
    except ConfigError as error:
        fail(str(error))


def _configured(config: Path | None) -> Cache:
    if config is None:
        return Cache()
    if (here := str(Path.cwd())) not in sys.path:  # for a key_builder that is written there; `python -m` has it
        sys.path.insert(0, here)
    return Cache.from_config(config)


def _explain(cache: Cache, a: dict[str, Any], b: dict[str, Any], call_type: str) -> Explanation:
    async def call(**_: Any) -> None:
        """Never called: it is what has the keys of this call type."""

    try:
        return cache.explain(a, b, target=cache.wrap(call, call_type=call_type, name=""))
    except ConfigError as error:
        fail(str(error))


def read_request(source: str) -> dict[str, Any]:
    """The JSON object in a file, or on stdin. Ends the command when there is none."""
    name = "stdin" if source == "-" else source
    try:
        text = (sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()).decode("utf-8-sig")
        value = json.loads(text)
    except OSError as error:
        fail(f"{name}: {error.strerror}")
    except UnicodeDecodeError as error:
        fail(f"{name}: not UTF-8 text (byte {error.start})")
    except json.JSONDecodeError as error:
        fail(f"{name}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    if not isinstance(value, dict):
        fail(f'{name}: a JSON object with the arguments of one call is wanted, such as {{"model": …, "messages": …}}')
    return value


def _as_dict(explanation: Explanation) -> dict[str, Any]:
    return {
        "same": explanation.same,
        "key_a": explanation.key_a,
        "key_b": explanation.key_b,
        "differences": [{"path": d.path, "a": d.a, "b": d.b} for d in explanation.differences],
        "left_out": list(explanation.ignored),
    }


def _names(a: str, b: str) -> tuple[str, str]:
    """What to call the two sides: their files' names, unless those are the same."""
    one, other = (("stdin" if source == "-" else Path(source).name) for source in (a, b))
    return (one, other) if one != other else (a, b)


def _print(explanation: Explanation, names: tuple[str, str]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    count = len(explanation.differences)
    if explanation.same:
        console.print("Same key", style="bold green")
    else:
        console.print(f"Different keys: {count} difference{'' if count == 1 else 's'}", style="bold")
    margin = max(map(len, names))
    for difference in explanation.differences:
        console.print(f"\n  {difference.path}", style="cyan")
        sides = _excerpts(difference, max(30, console.width - margin - 8))
        for name, text in zip(names, sides, strict=True):
            console.print(f"    {name:<{margin}}  {text}")
    console.print()
    if explanation.same:
        console.print(explanation.key_a)
    else:
        console.print(f"{names[0]:<{margin}}  {explanation.key_a}\n{names[1]:<{margin}}  {explanation.key_b}")
    if explanation.ignored:
        console.print(f"not in the key: {', '.join(explanation.ignored)}", style="dim")


def _excerpts(difference: Difference, width: int) -> tuple[str, str]:
    """Both sides, each in at most `width` characters, among them the first one in which they differ."""
    pairs = zip(difference.a or "", difference.b or "", strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    start = 0 if common < width * 2 // 3 else common - width // 3
    return _excerpt(difference.a, start, width), _excerpt(difference.b, start, width)


def _excerpt(text: str | None, start: int, width: int) -> str:
    if text is None:
        return "(absent)"
    if len(text) <= width:
        return text
    head = "…" if start else ""
    tail = "…" if len(text) - start > width - len(head) else ""
    return head + text[start : start + width - len(head) - len(tail)] + tail
