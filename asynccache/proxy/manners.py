"""What a request says of caching, and what an answer says of it. No I/O.

A request may say it in three places, each of which adds to the ones before:
`Cache-Control` with `no-cache`, `no-store`, `max-age`, `only-if-cached`, `stale-if-error` (RFC 9111, RFC 5861);
`X-AsyncCache: {"ttl": 60}`, the controls of `cache={…}` as JSON; and the field `cache` of the body, with the same.
`X-AsyncCache: {"look": true}` asks what there is, calls nobody, and counts as no call: `asynccache warm` does.
It may ask for less than the config gives, never for more: a longer ttl is cut to the config's, a namespace of the
caller's choice is refused unless the config allows it, and a tenant always: whoever has none could name anybody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any

import orjson

from asynccache import directives
from asynccache.errors import ConfigError
from asynccache.http.answers import Headers, status_headers
from asynccache.http.calls import CONTROL_HEADER, standard
from asynccache.model import CacheStatus, Directives
from asynccache.proxy.problems import Problem

CACHE_CONTROL = b"cache-control"

_NO_DIRECTIVES = Directives()


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request asks of the cache.

    controls:       as `cache={…}` would say it.
    stale_if_error: seconds after its end for which it takes an answer when the upstream fails; None: as the config.
    demand:         whether it said so in the standard's own words that it must not be sent on.
    look:           whether it wants to know what there is, and no answer.
    """

    controls: dict[str, Any]
    stale_if_error: float | None = None
    demand: bool = False
    look: bool = False


NOTHING = Asked({})


def asked(headers: Mapping[bytes, bytes], field: Any, *, borders: bool) -> Asked:
    """From the headers, and the body's field `cache` (None when it has none).

    borders: whether a namespace may be named.
    Raises Problem for a control that is unknown, wrong or not allowed.
    """
    controls: dict[str, Any] = {}
    patience, demand = None, False
    if (text := headers.get(CACHE_CONTROL)) is not None:
        words = text.decode("latin-1").lower()
        controls = standard(words) or {}
        patience, demand = _stale_if_error(words), "only-if-cached" in controls
    if (header := headers.get(CONTROL_HEADER)) is not None:
        controls |= _read(header)
    if field is not None:
        controls |= _table(field, "cache")
    look = controls.pop("look", False) is True
    _check(controls, borders)
    return Asked(controls, patience, demand, look)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the config says of some calls.

    given: controls that a call may change. fixed: those that it may not. ttl: seconds that an answer is kept, which a
    call may shorten; None: no end.
    """

    given: Mapping[str, Any]
    fixed: Mapping[str, Any]
    ttl: float | None

    @property
    def says(self) -> bool:
        return bool(self.given or self.fixed)


def tightened(asked: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    """The controls of a call: what it asks for, within the terms."""
    controls = {**terms.given, **{name.replace("_", "-"): value for name, value in asked.items()}, **terms.fixed}
    if "ttl" in controls and terms.ttl is not None:
        wanted = controls["ttl"]
        controls["ttl"] = terms.ttl if wanted is None else min(terms.ttl, wanted)
    return controls


def too_stale(status: CacheStatus, patience: float) -> bool:
    """Whether an answer that stands in for a failed upstream ended longer ago than its caller takes."""
    entry = status.entry
    if entry is None or not status.reason.startswith("stale-if-error"):
        return False
    end = entry.expires if entry.fresh_until is None else entry.fresh_until
    return status.now - (inf if end is None else end) > patience


def told(status: CacheStatus, answered: int | None = None) -> Headers:
    """What an answer says of how it came about: `Cache-Status`, `Age`, and our own headers.

    answered: the HTTP status of the upstream's answer to this very call, where there was one.
    """
    return [*status_headers(status, answered), *_own_headers(status.outcome, status.key, status.tier)]


@lru_cache(1024)
def _own_headers(outcome: str, key: str, tier: str) -> Headers:
    headers = [(b"x-asynccache-outcome", outcome.encode())]
    if key:
        headers.append((b"x-asynccache-key", key.encode()))
    if tier:
        headers.append((b"x-asynccache-tier", tier.encode()))
    return headers


def _read(header: bytes) -> dict[str, Any]:
    try:
        return _table(orjson.loads(header), CONTROL_HEADER.decode())
    except ValueError:
        raise _wrong(f'{CONTROL_HEADER.decode()}: a JSON object is wanted, such as {{"ttl": 60}}') from None


def _table(said: Any, where: str) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise _wrong(f'{where}: an object of controls is wanted, such as {{"ttl": 60}}')
    return said


def _check(controls: Mapping[str, Any], borders: bool) -> None:
    try:
        directives.parse(controls, _NO_DIRECTIVES)
    except ConfigError as error:
        raise _wrong(str(error)) from None
    refused = ("tenant",) if borders else ("namespace", "tenant")
    if (named := next((name for name in refused if controls.get(name) is not None), None)) is not None:
        raise _wrong(f"cache[{named!r}]: which {named} a call belongs to is for the proxy's config to say")


def _wrong(message: str) -> Problem:
    return Problem(400, message, code="invalid_cache_control", param="cache")


def _stale_if_error(words: str) -> float | None:
    for said in words.split(","):
        name, _, value = said.strip().partition("=")
        if name == "stale-if-error" and value.strip('"').isdecimal():
            return float(value.strip('"'))
    return None
