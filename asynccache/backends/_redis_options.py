"""The options of the Redis backends: what may stand beside what, and what redis-py is to be told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from asynccache.backends._redis_driver import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    MaintNotificationsConfig,
    NoBackoff,
    Retry,
    Sentinel,
    SentinelConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from asynccache.backends._redis_lines import Pool
from asynccache.errors import ConfigError

Node = tuple[str, int]

_IN_URL = {"db", "username", "password", "protocol", "client_name", "socket_timeout"}
"""What may stand behind the question mark, and everything that begins with `ssl_`."""


def whole(name: str, value: object, least: int, most: float = math.inf) -> int:
    """The option, or ConfigError when it is no whole number between these."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"{least} or more" if most == math.inf else f"from {least} to {most}"
        raise ConfigError(f"{name} must be a whole number, {bounds}, not {value!r}")
    return value


def seconds(name: str, value: object) -> float:
    """The option, or ConfigError when it is no time span."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a number of seconds above 0, not {value!r}")
    return float(value)


def nodes(name: str, value: object) -> list[Node]:
    """[(host, port)], [{"host": …, "port": …}] or ["host:port"] as the first of these, or ConfigError."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise ConfigError(f'{name} must be a list as [("localhost", 6379)], not {value!r}')
    return [_node(name, item) for item in value]


def _node(name: str, item: object) -> Node:
    match item:
        case {"host": str(host), "port": port}:
            pass
        case str():
            host, _, port = item.rpartition(":")
            host = host.strip("[]")
        case (str(host), port):
            pass
        case _:
            host, port = "", None
    try:
        number = int(port) if isinstance(port, int | str) else 0
    except ValueError:
        number = 0
    if not host or not 1 <= number <= 65535:
        raise ConfigError(
            f'{name}: {item!r} is no node: write ("localhost", 6379), {{"host": "localhost", "port": 6379}} '
            'or "localhost:6379"'
        )
    return host, number


def apart(given: Mapping[str, object], others: Mapping[str, object]) -> None:
    """Raise ConfigError when an option of each is set (is not None): they contradict each other."""
    for one, value in given.items():
        for other, its_value in others.items():
            if value is not None and its_value is not None:
                raise ConfigError(f"{one} and {other} contradict each other: give one of them")


def unless_default(value: object, default: object) -> object:
    return None if value == default else value


class Address:
    """Where a server is and how to be let in. Knows the password, so it shows itself without.

    where:   as text, for repr and errors.
    node:    its host and port; None for a Unix socket.
    secrets: what must not be shown.
    """

    def __init__(
        self,
        *,
        url: str | None,
        host: str,
        port: int,
        db: int,
        username: str | None,
        password: str | None,
        tls: bool,
        tls_options: Mapping[str, Any],
        unix_socket_path: str | None,
        protocol: int,
        timeout: float,
    ) -> None:
        tls_options = {name: value for name, value in tls_options.items() if value is not None}
        options: dict[str, Any] = {"host": host, "port": whole("port", port, 1, 65535), "db": whole("db", db, 0)}
        if unix_socket_path is not None:
            options = {"path": unix_socket_path, "db": db}
        if url is not None:
            options = _of_url(url)
            apart({"the username in url": options.get("username")}, {"username": username})
            apart({"the password in url": options.get("password")}, {"password": password})
            apart({"the database in url": options.get("db")}, {"db": unless_default(db, 0)})
            tls = tls or options.get("connection_class") is SSLConnection
            if tls and options.get("connection_class") is not SSLConnection:
                raise ConfigError("ssl and a url without it contradict each other: write rediss://…")
            options.setdefault("db", db)
        if tls_options and not tls:
            raise ConfigError(f"{next(iter(tls_options))} needs ssl=True, or a url that begins with rediss://")
        self.timeout = seconds("socket_timeout", options.pop("socket_timeout", timeout))
        self.tls = tls
        kind: type[AbstractConnection] = SSLConnection if tls else Connection
        if "path" in options:
            kind = UnixDomainSocketConnection
        options["connection_class"] = kind
        options.setdefault("username", username)
        options.setdefault("password", password)
        options["protocol"] = whole("protocol", options.get("protocol", protocol), 2, 3)
        self._options = {**options, **tls_options}
        self.secrets = [str(options["password"])] if options["password"] else []
        self.db: int = options["db"]
        self.node: Node | None = None if "path" in options else (options["host"], options.get("port", 6379))
        self.where = self._where()
        self._try_out()

    def _where(self) -> str:
        options = self._options
        if "path" in options:
            return f"unix://{options['path']}?db={options['db']}"
        assert self.node is not None
        return f"redis{'s' * self.tls}://{self.node[0]}:{self.node[1]}/{self.db}"

    def _try_out(self) -> None:
        try:
            ConnectionPool(**self.options()).make_connection()  # type: ignore[no-untyped-call]
        except Exception as error:  # redis-py tells of bad options by whatever it stumbles over
            raise ConfigError(f"redis options: {error}") from error

    def options(self) -> dict[str, Any]:
        """What a connection is made with.

        It has no timeout for a single read or write and tries nothing again: an exchange has a deadline as a whole.
        """
        return {
            **self._options,
            "socket_timeout": None,
            "socket_connect_timeout": self.timeout,
            "retry": Retry(NoBackoff(), 0),
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            # Else each connection looks up on disk which version of redis-py it is, in order to tell the server.
            "driver_info": None,
        }

    def pool(self, connections: int, node: Node | None = None) -> Pool:
        """A pool of at most so many connections to this server, or to another one that is entered alike."""
        options = self.options()
        if node is not None:
            options["host"], options["port"] = node
        return Pool(ConnectionPool(max_connections=connections, **options))

    def sentinel_pool(
        self, connections: int, sentinels: list[Node], service: str, username: str | None, password: str | None
    ) -> Pool:
        """A pool of connections to whoever is the master of that service now."""
        options = self.options()
        for name in ("connection_class", "host", "port"):
            options.pop(name, None)
        # All sentinels are to be asked within the deadline of one exchange, even when the first ones hang.
        timeout = self.timeout / (len(sentinels) + 1)
        asking = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "protocol": options["protocol"]}
        tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
        manager = Sentinel(  # type: ignore[no-untyped-call]
            sentinels,
            sentinel_kwargs={
                **asking,
                **tls,
                "ssl": self.tls,
                "username": username,
                "password": password,
                "retry": Retry(NoBackoff(), 0),
                "maint_notifications_config": MaintNotificationsConfig(enabled=False),
                "driver_info": None,
            },
        )
        pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
            service, manager, max_connections=connections, ssl=self.tls, **options
        )
        return Pool(pool, also=manager.aclose)


def _of_url(url: str) -> dict[str, Any]:
    scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("url must begin with redis://, rediss:// or unix://")
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise ConfigError(f"url: {error}") from None  # what is raised may show the url, and so the password
    options.setdefault("connection_class", Connection)
    known = {"host", "port", "path", "connection_class", *_IN_URL}
    for name in options:
        if name not in known and not name.startswith("ssl_"):
            raise ConfigError(f"url: {name} has no meaning there: known are {', '.join(sorted(_IN_URL))} and ssl_…")
    if scheme != "unix":
        options.setdefault("host", "localhost")
    return options
