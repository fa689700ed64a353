"""Entries in a Redis Cluster: many servers, of which each keeps a share of the keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from asynccache.backends._redis_lines import Failures
from asynccache.backends._redis_options import Address, Node, apart, nodes, unless_default
from asynccache.backends._redis_topology import Cluster
from asynccache.backends._redis_verbs import RedisVerbs
from asynccache.codec import PLAIN, Codec
from asynccache.errors import ConfigError
from asynccache.protocols import Clock

NAME = "redis_cluster"


class RedisClusterBackend(RedisVerbs):
    """Keeps entries in the masters of a Redis Cluster (6 or later).

    startup_nodes:   [("host", 6379), …], also as {"host": …, "port": …} or "host:6379": any of the cluster's nodes;
                     they are asked for the others.
    url:             redis://user:password@host:6379, rediss://… for TLS: one node, and how to enter all of them.
    ssl, ssl_…:      TLS, as redis-py understands it: files in PEM.
    key_prefix:      stands before the digest in the name of each key. With a {hash tag} all keys are in one slot.
    max_batch:       commands in one pipeline, at most. A batch is split by the node that its keys belong to.
    connections:     batches of gets that are under way at the same time with one node on one event loop. One more
                     connection to each is for writes, and one for news while somebody watches or listens.
    socket_timeout:  seconds that an exchange with a node may take, connecting and greeting included.
    protocol, max_entry_bytes, lease_seconds, codec, clock: as for `RedisBackend`.

    Raises ConfigError for options that make no sense or contradict each other.

    While a master is down, calls on its share of the keys fail as on a server that is down, and the others go on as
    far as the cluster lets them. Who has taken over is found out in the background, on account of the failures.

    A command that is sent on by its node (MOVED, ASK) goes to where it is sent. While slots are being moved between
    nodes, writes on one key that are under way at the same time may change places.

    May be used from several event loops at once, and after a fork.
    """

    def __init__(
        self,
        startup_nodes: Sequence[Any] | None = None,
        *,
        url: str | None = None,
        username: str | None = None,
        password: str | None = None,
        ssl: bool = False,
        ssl_ca_certs: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_check_hostname: bool | None = None,
        ssl_cert_reqs: str | None = None,
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
        apart({"startup_nodes": startup_nodes}, {"url": url})
        if startup_nodes is None and url is None:
            raise ConfigError('startup_nodes or url is needed: startup_nodes=[("localhost", 6379)]')
        tls = {
            "ssl_ca_certs": ssl_ca_certs,
            "ssl_certfile": ssl_certfile,
            "ssl_keyfile": ssl_keyfile,
            "ssl_check_hostname": ssl_check_hostname,
            "ssl_cert_reqs": ssl_cert_reqs,
        }
        self._known: list[Node] = []
        if startup_nodes is not None:
            self._known = nodes("startup_nodes", startup_nodes)
        host, port = self._known[0] if self._known else ("localhost", 6379)
        self._address = Address(
            url=url,
            host=host,
            port=port,
            db=0,
            username=username,
            password=password,
            tls=ssl,
            tls_options=tls,
            unix_socket_path=None,
            protocol=protocol,
            timeout=socket_timeout,
        )
        if self._address.node is None:
            raise ConfigError("url: a cluster is not reached over a Unix socket: write redis://host:6379")
        if unless_default(self._address.db, 0):
            raise ConfigError(f"url: a cluster has no databases but 0, not {self._address.db}")
        self._known = self._known or [self._address.node]
        super().__init__(
            NAME,
            Failures(NAME, self._address.timeout, self._address.secrets),
            key_prefix=key_prefix,
            max_batch=max_batch,
            connections=connections,
            max_entry_bytes=max_entry_bytes,
            lease_seconds=lease_seconds,
            codec=codec,
            clock=clock,
        )

    def __repr__(self) -> str:
        where = [f"{host}:{port}" for host, port in self._known]
        return f"RedisClusterBackend({where!r}, key_prefix={self.key_prefix!r})"

    def _link(self) -> Cluster:
        return Cluster(
            self._address,
            self._known,
            self._failures,
            channel=self._channel,
            origin=self._origin,
            max_batch=self.max_batch,
            connections=self.connections,
            announce=self._announcement,
        )


BACKEND = RedisClusterBackend
