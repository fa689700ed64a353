"""Which node of a Redis Cluster a key belongs to, as one event loop knows it.

redis-py's own cluster client is not used for the traffic: its pools raise when they are exhausted, it does not
batch, and each look at the cluster fills a table of all 16384 slots. What is asked here is CLUSTER SLOTS, and the
nodes are servers like any other.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from asynccache.backends._redis_batches import Server
from asynccache.backends._redis_driver import (
    AbstractConnection,
    AskError,
    ClusterDownError,
    MovedError,
    ResponseError,
    key_slot,
)
from asynccache.backends._redis_events import Events
from asynccache.backends._redis_lines import Failures, Source, pack
from asynccache.backends._redis_options import Address, Node
from asynccache.errors import BackendClosed, BackendError, CorruptEntry

_HOPS = 4  # nodes that one command is sent to, following MOVED and ASK
_REST = 0.1  # seconds between two looks at a cluster that is in trouble


class _Range(NamedTuple):
    first: int
    last: int
    master: Node


class Cluster:
    """The nodes, and the way to them.

    address: how every node is entered.
    known:   nodes that are asked first for the others.
    """

    def __init__(
        self,
        address: Address,
        known: list[Node],
        failures: Failures,
        *,
        channel: bytes,
        origin: str,
        max_batch: int,
        connections: int,
        announce: Callable[[list[bytes]], bytes],
    ) -> None:
        self._address = address
        self._known = known
        self._failures = failures
        self._max_batch = max_batch
        self._connections = connections
        self._announce = announce
        self._ranges: list[_Range] = []
        self._moved: dict[int, Node] = {}  # slots that a node has named another owner of, since the last look
        self._servers: dict[Node, Server] = {}
        self._look: asyncio.Task[None] | None = None
        self._looked = -_REST  # when the last look began, by the loop's clock
        self._suspect: Node | None = None  # asked last, since it failed
        self._closed = False
        self.events = Events(_AnyMaster(self), channel, origin, failures)

    async def read(self, name: bytes) -> bytes | None:
        async def ask(server: Server, asking: bool) -> bytes | None:
            if not asking:
                return await server.read(name)
            found: bytes | None = await server.send(pack(b"ASKING") + pack(b"GET", name), replies=2)
            return found

        value: bytes | None = await self._routed(name, ask)
        return value

    async def write(self, name: bytes, packed: bytes, changed: bytes = b"") -> Any:
        async def send(server: Server, asking: bool) -> Any:
            if not asking:
                return await server.send(packed, changed=changed)
            return await server.send(pack(b"ASKING") + packed, changed=changed, replies=2)

        return await self._routed(name, send)

    async def ping(self) -> None:
        """Ask all masters. Raises BackendError unless all of them answer."""
        if not self._ranges:
            await self._looked_at()
        for node in {span.master for span in self._ranges}:
            try:
                await self._server(node).ping()
            except BackendError:
                self._doubt(node)
                raise

    async def close(self) -> None:
        """Close all connections; what is under way ends first, as far as its time goes."""
        # First, so that calls which wait for a look do not go on to servers that nobody would close.
        self._closed = True
        await self.events.close()
        if self._look is not None and not self._look.done():
            self._look.cancel()
            await asyncio.wait((self._look,))
        servers, self._servers = self._servers, {}
        await asyncio.gather(*(server.close() for server in servers.values()))

    async def any_master(self) -> Server:
        if not self._ranges:
            await self._looked_at()
        masters = {span.master for span in self._ranges} - {self._suspect}
        return self._server(random.choice(sorted(masters) or self._known))

    # Routing.

    async def _routed(self, name: bytes, call: Callable[[Server, bool], Awaitable[Any]]) -> Any:
        slot = key_slot(name)
        if not self._ranges:
            await self._looked_at()
        node, asking = self._owner(slot), False
        for _ in range(_HOPS):
            try:
                return await call(self._server(node), asking)
            except BackendError as error:
                match error.__cause__:
                    case MovedError() as reply:
                        node, asking = (reply.host or node[0], reply.port), False
                        self._moved[slot] = node
                        self._doubt(None)
                    case AskError() as reply:
                        node, asking = (reply.host or node[0], reply.port), True
                    case cause:
                        if _is_about_the_node(error, cause):
                            self._doubt(node)
                        raise
        raise self._failures.unavailable(f"slot {slot} was passed on {_HOPS} times")

    def _owner(self, slot: int) -> Node:
        """Raises BackendUnavailable when no node serves it."""
        if (node := self._moved.get(slot)) is not None:
            return node
        at = bisect_right(self._ranges, slot, key=lambda span: span.first) - 1
        if at >= 0 and slot <= self._ranges[at].last:
            return self._ranges[at].master
        self._doubt(None)
        raise self._failures.unavailable(f"no node serves slot {slot}")

    def _server(self, node: Node) -> Server:
        server = self._servers.get(node)
        if server is None:
            if self._closed:
                raise BackendClosed("closed before it was sent", backend=self._failures.backend)
            server = self._servers[node] = Server(
                self._address.pool(self._connections + 2, node),
                self._failures,
                max_batch=self._max_batch,
                connections=self._connections,
                multi=False,
                announce=self._announce,
            )
        return server

    # Looking at the cluster: one task at a time, when there is reason to.

    def _doubt(self, node: Node | None) -> None:
        """The cluster may have changed: look, unless that is being done."""
        self._suspect = node or self._suspect
        now = asyncio.get_running_loop().time()
        if (self._look is None or self._look.done()) and now - self._looked >= _REST:
            self._begin_look()

    def _begin_look(self) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        self._looked = loop.time()
        self._look = loop.create_task(self._look_round(), name="asynccache-redis-cluster")
        # Those who wait for it get its error. When nobody does, the calls that fail meanwhile say enough.
        self._look.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._look

    async def _looked_at(self) -> None:
        """Return when a look has shown where things are. Raises BackendError when nobody could be asked."""
        look = self._look if self._look is not None and not self._look.done() else self._begin_look()
        # Not awaited itself: it is everybody's, and goes on when one who waits is cancelled.
        await asyncio.wait((look,))
        if look.cancelled():
            raise BackendClosed("closed before it was sent", backend=self._failures.backend)
        if (error := look.exception()) is not None:
            raise self._failures.of(error)

    async def _look_round(self) -> None:
        masters = [span.master for span in self._ranges]
        candidates = list(dict.fromkeys([*random.sample(masters, len(masters)), *self._known]))
        candidates.sort(key=lambda node: node == self._suspect)
        failure: BackendError | None = None
        for node in candidates:
            try:
                ranges = _ranges_of(await self._server(node).send(pack(b"CLUSTER", b"SLOTS")), node)
            except BackendError as error:
                failure = error
            except (TypeError, ValueError, IndexError, AttributeError) as error:
                failure = self._failures.unavailable(f"{node[0]}:{node[1]}: no answer to CLUSTER SLOTS: {error}")
            else:
                await self._settle(ranges)
                return
        raise failure or self._failures.unavailable("no node of the cluster is known")

    async def _settle(self, ranges: list[_Range]) -> None:
        self._ranges = ranges
        self._moved.clear()
        self._suspect = None
        # A node that is a master no more is closed. What is under way there ends, or has failed already.
        masters = {span.master for span in ranges}
        gone = [self._servers.pop(node) for node in list(self._servers) if node not in masters]
        await asyncio.gather(*(server.close() for server in gone))


def _ranges_of(slots: Any, asked: Node) -> list[_Range]:
    """The answer to CLUSTER SLOTS: [first, last, [host, port, id, …] of the master, of its replicas, …] each."""
    ranges = []
    for first, last, master, *_ in slots:
        # A node that does not know its own name is where it was asked.
        host = master[0].decode() if master[0] else asked[0]
        ranges.append(_Range(int(first), int(last), (host, int(master[1]))))
    if not ranges:
        raise ValueError("it serves no slots")
    return sorted(ranges)


def _is_about_the_node(error: BackendError, cause: BaseException | None) -> bool:
    """Not: an answer to this command alone."""
    if isinstance(error, BackendClosed | CorruptEntry):
        return False
    return isinstance(cause, ClusterDownError) or not isinstance(cause, ResponseError)


class _AnyMaster:
    """Connections to any one of them: what is published on one is told by all."""

    keep = True

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sources: dict[AbstractConnection, Source] = {}

    async def open(self) -> AbstractConnection:
        source = (await self._cluster.any_master()).source
        connection = await source.open()
        self._sources[connection] = source
        return connection

    async def give_back(self, connection: AbstractConnection, /) -> None:
        await self._sources.pop(connection).give_back(connection)

    async def close(self) -> None:
        """Nothing: they are the servers'."""
