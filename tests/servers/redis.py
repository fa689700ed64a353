"""Redis as one server, with TLS and a user, as a cluster, and under sentinels."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from typing import Any, ClassVar, Self

from tests.servers import programs
from tests.servers.process import Server, stop_all, wait_until

SLOTS = 16384


class RedisServer(Server):
    """One redis-server that keeps nothing on disk. It listens on a port and on a Unix socket.

    `options` go to the program as they are: `RedisServer("--maxmemory", "1mb")`.
    """

    name = "redis-server"
    listening = "Ready to accept connections"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def unix_socket_path(self) -> str:
        return str(self.folder / "redis.sock")

    def command(self) -> list[str]:
        fixed = ["--bind", self.host, "--dir", str(self.folder), "--save", "", "--appendonly", "no"]
        return [programs.redis_server(), *self._listeners(), *fixed, *self.options]

    def answers(self) -> bool:
        return bool(self.ask("PING") == "PONG")

    def ask(self, *command: str | int) -> Any:
        """Send one command on a connection of its own, and give the answer as the server put it.

        Raises OSError when there is none, and redis.ResponseError when it is an error.
        """
        import redis

        connection = self._connection()
        try:
            connection.connect()
            connection.send_command(*command)
            return connection.read_response()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.disconnect()

    def _listeners(self) -> list[str]:
        return ["--port", str(self.port), "--unixsocket", self.unix_socket_path]

    def _connection(self) -> Any:  # the driver's own has no types
        import redis

        # Not the client: it would retry, and turn answers into what it thinks of them.
        connect: Any = redis.Connection
        return connect(self.host, self.port, protocol=2, socket_timeout=5, decode_responses=True)


class VectorRedisServer(RedisServer):
    """A Redis 8, which has vector sets (VADD, VSIM)."""

    name = "redis-server 8"

    def command(self) -> list[str]:
        return [programs.redis_server_8(), *super().command()[1:]]


class SearchRedisServer(VectorRedisServer):
    """The same with RediSearch (FT.SEARCH) as well, as Redis Stack and Redis 8's full build have it."""

    name = "redis-server 8 with RediSearch"

    def command(self) -> list[str]:
        return [*super().command(), "--loadmodule", programs.redisearch()]


class TlsRedisServer(RedisServer):
    """TLS only, and one user, who may not use the dangerous commands (FLUSHALL, KEYS, INFO, CONFIG …).

    `rules` are the user's ACL rules.
    """

    username: ClassVar[str] = "app"
    password: ClassVar[str] = "s3cret"

    def __init__(self, *options: str, rules: tuple[str, ...] = ("~*", "&*", "+@all", "-@dangerous")) -> None:
        super().__init__(*options)
        self.rules = rules

    @property
    def url(self) -> str:
        return f"rediss://{self.username}:{self.password}@{self.host}:{self.port}/0?ssl_ca_certs={self.ca}"

    @property
    def ca(self) -> str:
        """The path of the certificate of the authority that signed the server's."""
        return str(self.folder / "ca.crt")

    def command(self) -> list[str]:
        user = ["--user", self.username, "on", f">{self.password}", *self.rules]
        return [*super().command(), "--user", "default", "off", *user]

    def _listeners(self) -> list[str]:
        from tests.servers import certificates

        files = certificates.write(self.folder)
        return [
            *("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key)),
            *("--tls-ca-cert-file", str(files.authority)),
        ]

    def _connection(self) -> Any:  # the driver's own has no types
        import redis

        return redis.SSLConnection(
            host=self.host,
            port=self.port,
            username=self.username,
            password=self.password,
            ssl_ca_certs=self.ca,
            protocol=2,
            socket_timeout=5,
            decode_responses=True,
        )


class ClusterNode(RedisServer):
    """One node of a cluster. Killed and started again it is the same node; stopped, it has forgotten itself."""

    # The port of the cluster's bus is by default 10,000 above the other: that may be taken, or too high.
    number_of_ports = 2

    def _listeners(self) -> list[str]:
        return [
            *("--port", str(self.port), "--cluster-port", str(self._ports[1])),
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000"),
            # A replica may stand for election however old its data is, and a full sync starts at once.
            *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
        ]

    @property
    def bus_port(self) -> int:
        return self._ports[1]

    @property
    def identity(self) -> str:
        return str(self.ask("CLUSTER", "MYID"))

    @property
    def knows(self) -> int:
        """How many nodes of the cluster it has shaken hands with, itself included."""
        lines = str(self.ask("CLUSTER", "NODES")).splitlines()
        return sum("handshake" not in line for line in lines)

    @property
    def in_service(self) -> bool:
        """Whether it finds the cluster whole, and, if a replica, has its master's data."""
        replication = str(self.ask("INFO", "replication"))
        linked = "role:master" in replication or "master_link_status:up" in replication
        return linked and "cluster_state:ok" in str(self.ask("CLUSTER", "INFO"))

    @property
    def offers(self) -> set[tuple[str, int]]:
        """Host and port of the nodes that it tells clients about."""
        return {(node[0], node[1]) for _, _, *nodes in self.ask("CLUSTER", "SLOTS") for node in nodes}

    @property
    def is_master(self) -> bool:
        return "role:master" in str(self.ask("INFO", "replication"))

    @property
    def slots(self) -> list[tuple[int, int]]:
        """First and last of each range of slots that it serves itself."""
        own = next(line for line in str(self.ask("CLUSTER", "NODES")).splitlines() if "myself" in line)
        ranges = [word.partition("-") for word in own.split()[8:] if not word.startswith("[")]
        return [(int(first), int(last or first)) for first, _, last in ranges]


class RedisCluster:
    """Three masters, who share the slots evenly, and a replica for each.

    A replica takes over about two seconds after its master was killed.
    """

    def __init__(self) -> None:
        self.servers = [ClusterNode() for _ in range(6)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def nodes(self) -> list[tuple[str, int]]:
        """Host and port of all six."""
        return [(server.host, server.port) for server in self.servers]

    def start(self) -> None:
        """Return when every node finds the cluster whole and tells clients about all six."""
        with ExitStack() as undo:
            undo.callback(self.stop)
            for server in self.servers:
                server.start()
            self._found()
            self.wait_until_whole()
            undo.pop_all()

    def stop(self) -> None:
        stop_all(self.servers)

    def wait_until_whole(self) -> None:
        """Wait until all six are in service again, after some have been killed and started."""
        everybody = set(self.nodes)
        wait_until(lambda: all(_offers(server, everybody) for server in self.servers), "the cluster is whole")

    def masters(self) -> list[ClusterNode]:
        """Who serves slots now, as far as each itself knows. Those that do not answer are left out."""
        return [server for server in self.servers if server.runs and _serves(server)]

    def master_of(self, slot: int) -> ClusterNode:
        """Who serves this slot now. Raises LookupError while nobody does."""
        for server in self.masters():
            if any(first <= slot <= last for first, last in server.slots):
                return server
        raise LookupError(f"nobody serves slot {slot}")

    def _found(self) -> None:
        first, masters, replicas = self.servers[0], self.servers[:3], self.servers[3:]
        borders = [SLOTS * share // len(masters) for share in range(len(masters) + 1)]
        for epoch, (server, (start, end)) in enumerate(zip(masters, pairwise(borders), strict=True), start=1):
            # Own epochs from the start: masters that found out that theirs are equal would first have to agree.
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            server.ask("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        for server in self.servers[1:]:
            server.ask("CLUSTER", "MEET", first.host, first.port, first.bus_port)
        everybody = len(self.servers)
        wait_until(lambda: all(server.knows == everybody for server in self.servers), "the nodes know one another")
        for master, replica in zip(masters, replicas, strict=True):
            replica.ask("CLUSTER", "REPLICATE", master.identity)
        wait_until(lambda: all(replica.in_service for replica in replicas), "the replicas have the data")
        for master in masters:
            # Clients are not told of a replica that has received nothing yet. They are empty, so this does nothing.
            master.ask("FLUSHALL")


def _offers(node: ClusterNode, nodes: set[tuple[str, int]]) -> bool:
    try:
        return node.in_service and node.offers == nodes
    except OSError:
        return False


def _serves(node: ClusterNode) -> bool:
    try:
        return node.is_master and bool(node.slots)
    except OSError:
        return False


class Sentinel(RedisServer):
    """One sentinel, which watches one master."""

    listening = "Sentinel ID is"

    def __init__(self, service: str, master: RedisServer, quorum: int) -> None:
        super().__init__()
        self.service = service
        self.master = master
        self.quorum = quorum

    def command(self) -> list[str]:
        configuration = self.folder / "sentinel.conf"  # it writes what it finds out into this file
        if not configuration.exists():
            lines = [
                f"monitor {self.service} {self.master.host} {self.master.port} {self.quorum}",
                f"down-after-milliseconds {self.service} 1000",
                f"failover-timeout {self.service} 3000",
            ]
            configuration.write_text("".join(f"sentinel {line}\n" for line in lines))
        where = ["--port", str(self.port), "--bind", self.host, "--dir", str(self.folder)]
        return [programs.redis_server(), str(configuration), "--sentinel", *where]

    @property
    def knows(self) -> tuple[int, int]:
        """How many other sentinels and how many linked replicas of the master it knows."""
        others = self.ask("SENTINEL", "SENTINELS", self.service)
        replicas = [_pairs(answer) for answer in self.ask("SENTINEL", "REPLICAS", self.service)]
        return len(others), sum(replica["master-link-status"] == "ok" for replica in replicas)

    @property
    def address(self) -> tuple[str, int]:
        """Where it says that the master is."""
        host, port = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return host, int(port)


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class RedisSentinel:
    """A master, its replica, and three sentinels, of which two must agree that the master is down.

    Kill `master`, and about two seconds later `replica` is the master. Started again, it becomes the replica.
    """

    service = "mymaster"

    def __init__(self) -> None:
        self.master = RedisServer("--repl-diskless-sync-delay", "0")
        self.replica = RedisServer("--repl-diskless-sync-delay", "0")
        self._sentinels = [Sentinel(self.service, self.master, quorum=2) for _ in range(3)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        """Host and port of the three."""
        return [(sentinel.host, sentinel.port) for sentinel in self._sentinels]

    @property
    def servers(self) -> list[RedisServer]:
        """All five processes: the sentinels, then the replica and the master."""
        return [*self._sentinels, self.replica, self.master]

    def start(self) -> None:
        """Return when the sentinels know one another and the replica, which has the master's data."""
        with ExitStack() as undo:
            undo.callback(self.stop)
            self.master.start()
            self.replica.start()
            self.replica.ask("REPLICAOF", self.master.host, self.master.port)
            for sentinel in self._sentinels:
                sentinel.start()
                # By default they say hello every two seconds and look at the master every ten.
                sentinel.ask("SENTINEL", "DEBUG", "PUBLISH-PERIOD", "100", "INFO-PERIOD", "100")
            self.wait_until_whole()
            undo.pop_all()

    def stop(self) -> None:
        stop_all(self.servers)

    def wait_until_whole(self) -> None:
        """Wait until each sentinel knows the two others and a linked replica."""
        wait_until(lambda: all(sentinel.knows == (2, 1) for sentinel in self._sentinels), "the sentinels agree")

    def current_master(self) -> RedisServer:
        """Whom the first sentinel names as the master now."""
        address = self._sentinels[0].address
        return next(server for server in (self.master, self.replica) if (server.host, server.port) == address)
