"""`asynccache keys`: the proxy's API keys."""

from __future__ import annotations

import getpass
import json
import sys
from typing import Annotated

import typer

from asynccache.cli.failing import fail

keys = typer.Typer(help="API keys of the proxy.", no_args_is_help=True)

_SHORT = 24


@keys.callback()
def _keys() -> None:
    """API keys of the proxy."""


@keys.command("hash")
def hash_key(
    generate: Annotated[bool, typer.Option("--generate", help="Make a new key, and print it too, this once.")] = False,
    slow: Annotated[bool, typer.Option("--scrypt", help="For a key that somebody thought up.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Print the hash of a key, as `proxy.api_keys` takes it.

    The key is read from stdin (one line), never from the arguments, which other users of the machine can see.
    """
    from asynccache.proxy import keys as api_keys

    key = api_keys.generate() if generate else _read()
    if not slow and len(key) < _SHORT:
        typer.echo(
            f"asynccache: a key of {len(key)} characters can be guessed from its hash: use --scrypt, or --generate",
            err=True,
        )
    made = api_keys.hashed_slowly(key) if slow else api_keys.hashed(key)
    if as_json:
        typer.echo(json.dumps({"key": key, "hash": made} if generate else {"hash": made}))
        return
    if generate:
        typer.echo(f"key:  {key}")
    typer.echo(f"hash: {made}" if generate else made)


def _read() -> str:
    key = getpass.getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline()
    key = key.strip()
    if not key:
        fail("stdin has no key in its first line; --generate makes one")
    if not key.isascii() or not key.isprintable() or " " in key:
        fail("a key is ASCII without spaces: it travels in a header")
    return key
