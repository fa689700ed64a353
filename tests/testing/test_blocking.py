from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asynccache.testing.blocking import blocking_calls


def connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def query() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("select 1").fetchall()
    database.close()


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: time.sleep(0), ["sleep"]),
        (lambda: Path(__file__).read_bytes(), ["open", "read"]),
        (lambda: Path(__file__).stat(), ["stat"]),
        (lambda: list(os.scandir(Path(__file__).parent)), ["scandir"]),
        (connect, ["connect"]),
        (query, ["connect", "execute", "fetchall"]),
        (lambda: sum([1]), []),
    ],
)
def test_a_blocking_call_is_seen(call: Callable[[], object], names: list[str]) -> None:
    with blocking_calls() as calls:
        call()
    seen = [call.split(" in ")[0].rpartition(".")[2] for call in calls]
    assert [name for name in seen if name in names] == names
    assert bool(seen) == bool(names)


async def test_what_asyncio_does_is_not() -> None:
    with blocking_calls() as calls:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await asyncio.sleep(0)
        await asyncio.to_thread(os.stat, "/")
    assert calls == []
