"""The places where a cache keeps its entries, and whether they work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asynccache import config
from asynccache.document import Document
from asynccache.errors import BackendError, BackendUnavailable
from asynccache.guard import Guard
from asynccache.protocols import AsyncCacheBackend, SupportsPing

logger = logging.getLogger("asynccache")

PATIENCE = 10.0
"""Seconds for a store to answer, who is asked for the first time: connecting takes longer than a read may."""


@dataclass(frozen=True, slots=True)
class Health:
    """How one store fares.

    tier:    "" where there is one only, else "l1", "l2", …
    seconds: until it answered; None when it did not.
    error:   why it does not work; "" when it does.
    """

    tier: str
    backend: str
    seconds: float | None
    error: str = ""

    @property
    def works(self) -> bool:
        return not self.error


async def health(backend: AsyncCacheBackend, document: Document, *, patience: float = PATIENCE) -> list[Health]:
    """Ask each store behind this backend whether it works. Raises nothing; no secret of the document is in it."""
    stores = list(_stores(backend, ""))
    return list(await asyncio.gather(*(_asked(store, tier, document, patience) for tier, store in stores)))


def _stores(backend: Any, tier: str) -> Iterator[tuple[str, Any]]:
    inner = backend.inner if isinstance(backend, Guard) else backend
    tiers: Mapping[str, Any] = {name: getattr(inner, name) for name in ("l1", "l2") if hasattr(inner, name)}
    for name, store in tiers.items():
        yield from _stores(store, f"{tier}.{name}" if tier else name)
    if not tiers:
        # Without its guard: that would say of a store that is slow to connect that it is too slow to read from.
        yield tier, inner


async def _asked(store: Any, tier: str, document: Document, patience: float) -> Health:
    name = type(store).__module__.rpartition(".")[2]
    began = time.perf_counter()
    try:
        async with asyncio.timeout(patience):
            if isinstance(store, SupportsPing):
                await store.ping()
    except TimeoutError:
        return Health(tier, name, None, f"no answer within {patience:g} seconds")
    except BackendError as error:
        return Health(tier, name, None, document.redacted(_reasons(error)))
    return Health(tier, name, time.perf_counter() - began)


def _reasons(error: BaseException) -> str:
    """The error and what caused it, as far as that says more."""
    said = str(error)
    cause = error.__cause__
    while cause is not None:
        if str(cause) and str(cause) not in said:
            said = f"{said}: {cause}"
        cause = cause.__cause__
    return said


async def skew(options: Mapping[str, Any], *, patience: float = PATIENCE) -> list[tuple[str, float]]:
    """Of each Redis among the stores of this `caching` table (see `config.plain`): where it is, and how many seconds
    its clock is ahead of ours. It is by that clock that entries expire there. A store that cannot be asked is left
    out."""
    found = []
    for table in _redis_tables(options):
        where = f"Redis at {table.get('host', 'localhost')}:{table.get('port', 6379)}"
        try:
            async with asyncio.timeout(patience):
                found.append(("Redis" if "url" in table else where, await _ahead(table)))
        except (TimeoutError, OSError, BackendError) as error:
            logger.debug("the clock of %s is not known: %s", where, error)
    return found


def _redis_tables(options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    kind = config.backend_type(str(options.get("type", "memory")), options)
    aliases = config.OPTION_ALIASES.get(kind, {})
    if kind in ("redis", "redis_semantic") and "sentinel_nodes" not in options:
        yield {aliases.get(name, name): value for name, value in options.items()}
    for tier in config.backends_within(kind):
        if isinstance(options.get(tier), Mapping):
            yield from _redis_tables(options[tier])


async def _ahead(table: Mapping[str, Any]) -> float:
    """Raises BackendUnavailable."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    names = ("host", "port", "db", "username", "password", "unix_socket_path", "ssl", "ssl_ca_certs", "ssl_certfile")
    given = {name: table[name] for name in (*names, "ssl_keyfile") if name in table}
    client = Redis.from_url(table["url"]) if "url" in table else Redis(**given)
    try:
        await client.ping()  # not to count what connecting takes
        before = time.time()
        seconds, microseconds = await client.time()
        return seconds + microseconds / 1e6 - (before + time.time()) / 2
    except RedisError as error:
        raise BackendUnavailable(str(error), backend="redis") from error
    finally:
        await client.aclose()
