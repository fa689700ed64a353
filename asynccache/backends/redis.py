"""Entries in a Redis server, which many processes on many machines may share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from asynccache.backends._redis_batches import Server
from asynccache.backends._redis_commands import Commands
from asynccache.backends._redis_driver import Redis
from asynccache.backends._redis_events import Events
from asynccache.backends._redis_lines import Failures, Pool
from asynccache.backends._redis_options import Address, apart, nodes, seconds, unless_default
from asynccache.backends._redis_verbs import RedisVerbs
from asynccache.codec import PLAIN, Codec
from asynccache.errors import ConfigError
from asynccache.protocols import Clock

NAME = "redis"


class RedisBackend(RedisVerbs):
    """Keeps entries in one Redis (6 or later), or in the master that Sentinels name.

    url:              redis://user:password@host:6379/0, rediss://… for TLS, unix:///path; instead of host and port.
    ssl, ssl_…:       TLS, as redis-py understands it: files in PEM.
    unix_socket_path: instead of host and port.
    sentinel_nodes:   [("host", 26379), …], also as {"host": …, "port": …} or "host:26379"; asked for the master of
                      `service_name`. The sentinels' own user and password are `sentinel_username`, `sentinel_password`.
    client:           a redis.asyncio.Redis of your own, instead of all of the above. It is never closed; it belongs
                      to the event loop on which it is first used here, and each batch borrows a connection of it.
    key_prefix:       stands before the digest in the name of each key.
    max_batch:        gets in one command, and writes in one pipeline, at most. A command has 64 gets while few wait.
    connections:      batches of gets that are under way at the same time on one event loop. One more connection is
                      for writes, and one for news while somebody watches or listens.
    socket_timeout:   seconds that an exchange with the server may take, connecting and greeting included.
    protocol:         3 or 2: RESP.
    max_entry_bytes:  an encoded entry is not larger: what the server allows as proto-max-bulk-len.
    lease_seconds:    how long a lease holds unless it is renewed.
    codec, clock:     how an entry becomes bytes; tells how long an entry has still to live.

    Raises ConfigError for options that make no sense or contradict each other.

    A failed exchange is not repeated, so a dead server costs no more than a refused connection, and a frozen one
    `socket_timeout`. A connection that was lost while nothing was under way is made anew without an error.

    May be used from several event loops at once, and after a fork.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        ssl: bool = False,
        ssl_ca_certs: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_check_hostname: bool | None = None,
        ssl_cert_reqs: str | None = None,
        unix_socket_path: str | None = None,
        sentinel_nodes: Sequence[Any] | None = None,
        service_name: str | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        client: Redis | None = None,
        key_prefix: str = "asynccache:",
        max_batch: int = 256,
        connections: int = 4,
        socket_timeout: float = 1.0,
        protocol: int = 3,
        max_entry_bytes: int = 512 * 1024 * 1024,
        lease_seconds: float = 5.0,
        codec: Codec = PLAIN,
        clock: Clock = time.time,
    ) -> None:
        tls = {
            "ssl_ca_certs": ssl_ca_certs,
            "ssl_certfile": ssl_certfile,
            "ssl_keyfile": ssl_keyfile,
            "ssl_check_hostname": ssl_check_hostname,
            "ssl_cert_reqs": ssl_cert_reqs,
        }
        place = {"host": unless_default(host, "localhost"), "port": unless_default(port, 6379)}
        access = {"db": unless_default(db, 0), "username": username, "password": password}
        encrypted = {"ssl": unless_default(ssl, False), **tls}
        whole = {"url": url, "unix_socket_path": unix_socket_path, "sentinel_nodes": sentinel_nodes}
        apart({"client": client}, {**whole, **place, **access, **encrypted})
        apart({"client": client}, {"protocol": unless_default(protocol, 3)})
        apart(whole, place)
        apart({"url": url}, {"unix_socket_path": unix_socket_path, "sentinel_nodes": sentinel_nodes})
        apart({"unix_socket_path": unix_socket_path}, {"sentinel_nodes": sentinel_nodes, **encrypted})
        needed = {
            "service_name": service_name,
            "sentinel_username": sentinel_username,
            "sentinel_password": sentinel_password,
        }
        for option, value in needed.items():
            if value is not None and sentinel_nodes is None:
                raise ConfigError(f"{option} needs sentinel_nodes")
        if sentinel_nodes is not None and not service_name:
            raise ConfigError("sentinel_nodes needs service_name, the name under which the sentinels watch the master")
        self._client = _checked(client)
        self._client_loop: asyncio.AbstractEventLoop | None = None
        self._sentinels = None if sentinel_nodes is None else nodes("sentinel_nodes", sentinel_nodes)
        self._service = service_name or ""
        self._sentinel_access = sentinel_username, sentinel_password
        self._address: Address | None = None
        hidden: list[str] = []
        if client is None:
            self._address = Address(
                url=url,
                host=host,
                port=port,
                db=db,
                username=username,
                password=password,
                tls=ssl,
                tls_options=tls,
                unix_socket_path=unix_socket_path,
                protocol=protocol,
                timeout=socket_timeout,
            )
            socket_timeout = self._address.timeout
            hidden = [*self._address.secrets, sentinel_password or ""]
        super().__init__(
            NAME,
            Failures(NAME, seconds("socket_timeout", socket_timeout), hidden),
            key_prefix=key_prefix,
            max_batch=max_batch,
            connections=connections,
            max_entry_bytes=max_entry_bytes,
            lease_seconds=lease_seconds,
            codec=codec,
            clock=clock,
        )

    def __repr__(self) -> str:
        if self._sentinels is not None:
            where = f"sentinel_nodes={self._sentinels!r}, service_name={self._service!r}"
        else:
            where = "client=…" if self._address is None else repr(self._address.where)
        return f"RedisBackend({where}, key_prefix={self.key_prefix!r})"

    def _link(self) -> _OneServer:
        pool = self._pool()
        server = Server(
            pool,
            self._failures,
            max_batch=self.max_batch,
            connections=self.connections,
            multi=True,
            announce=self._announcement,
        )
        return _OneServer(server, Events(pool, self._channel, self._origin, self._failures))

    def commands(self) -> Commands:
        """Any commands, on connections of their own; closed by who has asked for them."""
        return Commands(self._pool, self._failures, self.connections, self.max_batch)

    def _pool(self) -> Pool:
        most = self.connections + 2
        if self._client is not None:
            loop = asyncio.get_running_loop()
            if self._client_loop not in (None, loop):
                raise self._failures.unavailable("the client that was handed in belongs to another event loop")
            self._client_loop = loop
            return Pool(self._client.connection_pool, owned=False)
        assert self._address is not None
        if self._sentinels is not None:
            return self._address.sentinel_pool(most, self._sentinels, self._service, *self._sentinel_access)
        return self._address.pool(most)


class _OneServer:
    """The link to it."""

    def __init__(self, server: Server, events: Events) -> None:
        self.events = events
        self.read = server.read
        self.ping = server.ping
        self._server = server

    def write(self, name: bytes, packed: bytes, changed: bytes = b"") -> asyncio.Future[Any]:  # noqa: ARG002
        return self._server.send(packed, changed=changed)

    async def close(self) -> None:
        await self.events.close()
        await self._server.close()


def _checked(client: Redis | None) -> Redis | None:
    if client is not None and not isinstance(client, Redis):
        kind = f"{type(client).__module__}.{type(client).__name__}"
        raise ConfigError(f"client must be a redis.asyncio.Redis, not a {kind}")
    return client


BACKEND = RedisBackend
