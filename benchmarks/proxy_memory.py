"""The memory of a proxy under mixed load: `python -m benchmarks.proxy_memory [--json] [--seconds N] [--most N]`.

One `asynccache serve`, with metrics and a log line a request, takes requests on 24 connections until the time or their
number is up. Of a hundred requests

    60   ask for one of 500 answers that are kept
    15   are new: kept, and others leave for them
    10   ask for one of 100 streams that are kept, 5 are new streams
     3   are answered by the provider with 500, 2 with 429
     2   are no JSON, 1 is of an unknown kind, passed through
     2   are streams whose reader leaves in the middle

so the store, which has room for 2,000 entries, is full after seconds. Ten times a minute its resident memory is read,
and /metrics once.

first, last: the median of the readings in the second and the last tenth of the run, MiB. slope: MiB a minute by least
squares over the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from benchmarks.hit import ANSWER, REQUEST, conditions
from benchmarks.proxy import PATH, Receive, Send, _lifespan, _running, free_port

CONNECTIONS = 24
_EVERY = 6.0  # seconds between readings
_KINDS = {
    "hit": 60,
    "miss": 15,
    "stream hit": 10,
    "stream miss": 5,
    "500": 3,
    "429": 2,
    "no JSON": 2,
    "passed": 1,
    "left": 2,
}
_CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--most", type=int, default=1_000_000, help="requests")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        import uvicorn

        uvicorn.run(provider, host="127.0.0.1", port=options.port, access_log=False, log_level="error")
        return
    report = measure(options.seconds, options.most)
    print(json.dumps(report, indent=2) if options.json else "\n".join(f"{k:<12}{v}" for k, v in report.items()))


# -- the provider -----------------------------------------------------------------------------------


async def provider(scope: Any, receive: Receive, send: Send) -> None:
    """Answers as the first message of the request asks it to."""
    if scope["type"] != "http":
        await _lifespan(receive, send)
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    asked = orjson.loads(body) if scope["path"] == PATH else {}
    told = asked["messages"][0]["content"] if asked else ""
    status = next((int(code) for code in ("500", "429") if told.startswith(code)), 200)
    kind = b"text/event-stream" if asked.get("stream") and status == 200 else b"application/json"
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    if kind == b"application/json":
        said = ANSWER if status == 200 else {"error": {"message": "as asked for", "type": "x", "code": status}}
        await send({"type": "http.response.body", "body": orjson.dumps(said)})
        return
    for number in range(20):
        end = number == 19
        choice = {"index": 0, "delta": {"content": "word " * 10}, "finish_reason": "stop" if end else None}
        part = b"data: " + orjson.dumps({**_CHUNK, "choices": [choice]}) + b"\n\n"
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


# -- the load ---------------------------------------------------------------------------------------


class Load:
    """Requests on many connections, until `end`."""

    def __init__(self, port: int, seconds: float, most: int) -> None:
        self._port = port
        self._head = f"HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n".encode()
        self.end = time.monotonic() + seconds
        self.left = most
        self.sent: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self._random = random.Random(1)

    async def run(self) -> None:
        await asyncio.gather(*[self._connection() for _ in range(CONNECTIONS)])

    async def _connection(self) -> None:
        kinds, weights = list(_KINDS), list(_KINDS.values())
        opened = await asyncio.open_connection("127.0.0.1", self._port)
        while time.monotonic() < self.end and self.left > 0:
            self.left -= 1
            kind = self._random.choices(kinds, weights)[0]
            self.sent[kind] += 1
            opened[1].write(self._request(kind))
            status, closes = await self._answer(opened[0], leave=kind == "left")
            self.statuses[status] += 1
            if closes:
                opened[1].close()
                opened = await asyncio.open_connection("127.0.0.1", self._port)
        opened[1].close()

    def _request(self, kind: str) -> bytes:
        if kind == "no JSON":
            body = b'{"model": "gpt-4o", "messages": ['
        else:
            number = {"hit": self._random.randrange(500), "stream hit": self._random.randrange(100)}
            own = number.get(kind, self._random.getrandbits(60))
            said = [{"role": "user", "content": f"{kind} {own}"}, *REQUEST["messages"]]
            asked: dict[str, Any] = {**REQUEST, "model": "gpt-4o", "messages": said}
            if kind in ("stream hit", "stream miss", "left"):
                asked["stream"] = True
            body = orjson.dumps(asked)
        path = b"/v1/something/else" if kind == "passed" else PATH.encode()
        return b"POST %b %bcontent-length: %d\r\n\r\n%b" % (path, self._head, len(body), body)

    async def _answer(self, reader: asyncio.StreamReader, *, leave: bool) -> tuple[int, bool]:
        """Its status, and whether the connection is of no use any more."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split()[1])
        if leave:
            await reader.read(200)
            return status, True
        if (length := re.search(rb"content-length: (\d+)", head)) is not None:
            await reader.readexactly(int(length[1]))
        else:
            while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        return status, b"connection: close" in head


def _pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


async def _read(pid: int, port: int, load: Load, readings: list[tuple[float, float]]) -> None:
    """Read the memory until the load ends; /metrics is asked for, since that costs memory too."""
    began = time.monotonic()
    pages = os.sysconf("SC_PAGE_SIZE")
    while True:
        held = _pages(pid) * pages / 2**20
        readings.append((time.monotonic() - began, held))
        if len(readings) % 10 == 0:
            print(f"{time.monotonic() - began:.0f} s: {held:.1f} MiB, {load.sent.total()} requests", file=sys.stderr)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            await reader.read()
            writer.close()
        await asyncio.sleep(_EVERY)


async def _under(pid: int, port: int, load: Load) -> list[tuple[float, float]]:
    readings: list[tuple[float, float]] = []
    reading = asyncio.create_task(_read(pid, port, load, readings))
    await load.run()
    reading.cancel()
    return readings


# -- the report -------------------------------------------------------------------------------------


def measure(seconds: float, most: int) -> dict[str, Any]:
    upstream, port = free_port(), free_port()
    provider_command = [sys.executable, "-m", "benchmarks.proxy_memory", "--serve", "--port", str(upstream)]
    with tempfile.TemporaryDirectory() as folder, _running(provider_command, upstream):
        file = Path(folder, "config.json")
        config = {"upstream": f"http://127.0.0.1:{upstream}", "telemetry": {"prometheus": True}}
        file.write_text(json.dumps({**config, "caching": {"type": "memory", "capacity": 2000}}))
        command = [sys.executable, "-m", "asynccache", "serve", "--config", str(file), "--port", str(port)]
        with _running(command, port) as pid:
            load = Load(port, seconds, most)
            began = time.monotonic()
            readings = asyncio.run(_under(pid, port, load))
            took = time.monotonic() - began
    tenth = max(1, len(readings) // 10)
    half = readings[len(readings) // 2 :]
    slope = statistics.linear_regression([at for at, _ in half], [held for _, held in half]).slope * 60
    return {
        "conditions": conditions(1),
        "requests": load.sent.total(),
        "per_second": round(load.sent.total() / took),
        "seconds": round(took),
        "kinds": dict(load.sent),
        "statuses": dict(load.statuses),
        "first": round(statistics.median(held for _, held in readings[tenth : 2 * tenth]), 1),
        "last": round(statistics.median(held for _, held in readings[-tenth:]), 1),
        "highest": round(max(held for _, held in readings), 1),
        "slope": round(slope, 3),
    }


if __name__ == "__main__":
    main()
