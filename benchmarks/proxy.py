"""Hits per second of the proxy: `python -m benchmarks.proxy [--json] [--seconds N]`.

Each contender is a process of its own under uvicorn with uvloop and httptools, and answers the same 2 KB chat request
with the same completion, already stored, to 16 connections. Ours is `asynccache serve` as it comes, with its ledger and
its page; its access log, a line of JSON for each request, is off in one row and on in another. The floor is a bare ASGI
application that hashes the body and answers from a dict: the least that any cache behind that server must do.
Contenders take turns in short rounds; a figure is the median of the rounds, and a ratio the median of the ratios within
a round.

The load comes from `wrk`, where it is installed (Debian: `apt-get install wrk`); else from a generator in this
process, which is slower than what it measures and says so. LiteLLM's proxy is measured beside ours when
`pip install 'litellm[proxy]'` was run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from benchmarks.hit import ANSWER, REQUEST, conditions

CONNECTIONS = 16
PATH = "/v1/chat/completions"
BODY = orjson.dumps({**REQUEST, "model": "gpt-4o"})
KEY = f"sk-{secrets.token_hex(32)}"  # LiteLLM does not start without one
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class Round(NamedTuple):
    """What one contender did in one round. p50, p99: seconds."""

    per_second: float
    p50: float
    p99: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=2, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=("floor", "provider"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.port)
        return
    report = measure(options.rounds, options.seconds)
    print(json.dumps(report, indent=2) if options.json else table(report))


# -- the contenders -------------------------------------------------------------------------------

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def serve(what: str, port: int) -> None:
    """Be one of the servers until killed."""
    import uvicorn

    app: Any = {"floor": floor, "provider": provider}[what]
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="error")


stored: dict[str, bytes] = {hashlib.sha256(BODY).hexdigest(): orjson.dumps(ANSWER)}


async def floor(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Hash the body, answer from a dict."""
    if scope["type"] != "http":
        await _lifespan(receive, send)
        return
    body = (await receive()).get("body", b"")
    await _answer(send, stored.get(hashlib.sha256(body).hexdigest(), b"{}"))


async def provider(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer everything with the completion."""
    if scope["type"] != "http":
        await _lifespan(receive, send)
        return
    while (await receive()).get("more_body"):
        pass
    await _answer(send, orjson.dumps(ANSWER))


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


@contextlib.contextmanager
def server(what: str) -> Iterator[str]:
    """The origin of one of the servers above."""
    port = free_port()
    with _running([sys.executable, "-m", "benchmarks.proxy", "--serve", what, "--port", str(port)], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def asynccache(upstream: str, log: str) -> Iterator[str]:
    """The origin of our proxy."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(json.dumps({"upstream": upstream, "proxy": {"port": port}, "telemetry": {"log": log}}))
        with _running([sys.executable, "-m", "asynccache", "serve", "--config", str(file)], port):
            yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def litellm(upstream: str) -> Iterator[str]:
    """LiteLLM's proxy with its local cache."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        params = {"model": "openai/gpt-4o", "api_base": f"{upstream}/v1", "api_key": "sk-any"}
        config = {
            "model_list": [{"model_name": "gpt-4o", "litellm_params": params}],
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"cache": True, "cache_params": {"type": "local"}},
        }
        file = Path(folder, "config.json.yaml")
        file.write_text(json.dumps(config))
        code = "from litellm import run_server; run_server()"
        command = [sys.executable, "-c", code, "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}
        with _running(command, port, quiet, seconds=120):
            yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _running(command: list[str], port: int, extra: dict[str, str] | None = None, seconds: float = 30) -> Iterator[int]:
    """The process that listens at this port; its id."""
    environment = {**os.environ, **(extra or {})}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it did not start: {' '.join(command)}")
            time.sleep(0.05)  # another process gives no event
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """One that nobody listens at just now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


# -- the load -------------------------------------------------------------------------------------


def wrk(origin: str, seconds: float) -> Round:
    said = ", ".join(f'["{name}"] = "{value}"' for name, value in HEADERS.items())
    script = f'wrk.method = "POST"\nwrk.headers = {{ {said} }}\nwrk.body = {_lua(BODY)}\n'
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "--latency", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", file.name, origin + PATH]
        # wrk knows whole seconds only.
        command[4] = f"-d{max(1, round(seconds))}s"
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(f"not all requests were answered:\n{told}")
    return Round(float(_found(r"Requests/sec:\s+([\d.]+)", told)), _seconds("50", told), _seconds("99", told))


def _lua(body: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in body) + '"'


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk said something else:\n{text}")
    return match[1]


def _seconds(percentile: str, text: str) -> float:
    said = _found(rf"\s{percentile}%\s+([\d.]+(?:us|ms|s|m))", text)
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", said).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def own_load(origin: str, seconds: float) -> Round:
    """The same from this process: one request after the other on each connection."""
    port = int(origin.rpartition(":")[2])
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: {len(BODY)}\r\n"
    request = (head + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items()) + "\r\n").encode() + BODY
    times: list[float] = []

    async def connection(end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"not all requests were answered: {answer[:80]!r}")
            await reader.readexactly(int(_found(r"content-length: (\d+)", answer.decode().lower())))
            times.append(time.perf_counter() - began)
        writer.close()

    async def all_of_them() -> float:
        began = time.perf_counter()
        await asyncio.gather(*[connection(began + seconds) for _ in range(CONNECTIONS)])
        return time.perf_counter() - began

    took = asyncio.run(all_of_them())
    cuts = statistics.quantiles(times, n=100)
    return Round(len(times) / took, cuts[49], cuts[98])


def ask(origin: str) -> tuple[str, bytes]:
    """(how it came about, the answer) of one request."""
    request = urllib.request.Request(origin + PATH, BODY, HEADERS)
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.headers.get("cache-status", ""), response.read()


def warm(origin: str, patience: float = 60) -> None:
    """Until the server answers, and has the answer."""
    deadline = time.monotonic() + patience
    while True:
        try:
            ask(origin)
            break
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # as above
    time.sleep(0.5)  # LiteLLM writes in a task that nobody can wait for
    ask(origin)


# -- the report -----------------------------------------------------------------------------------


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    load = wrk if shutil.which("wrk") else own_load
    missing = [] if load is wrk else ["wrk"]
    with contextlib.ExitStack() as running:
        upstream = running.enter_context(server("provider"))
        origins = {
            "bare ASGI": running.enter_context(server("floor")),
            "asynccache": running.enter_context(asynccache(upstream, "off")),
            "with its log": running.enter_context(asynccache(upstream, "json")),
        }
        if importlib.util.find_spec("litellm") and importlib.util.find_spec("apscheduler"):
            origins["litellm"] = running.enter_context(litellm(upstream))
        else:
            missing.append("litellm[proxy]")
        for origin in origins.values():
            warm(origin)
        status, _ = ask(origins["asynccache"])
        assert "; hit" in status, status
        told: dict[str, list[Round]] = {name: [] for name in origins}
        for _ in range(rounds):
            for name, origin in origins.items():
                told[name].append(load(origin, seconds))
    rows = [_row(name, own, told["bare ASGI"]) for name, own in told.items()]
    facts = {**conditions(rounds), "request_bytes": len(BODY), "connections": CONNECTIONS, "load": load.__name__}
    report: dict[str, Any] = {"conditions": {**facts, "seconds": seconds}, "missing": missing, "rows": rows}
    if "litellm" in told:
        pairs = zip(told["asynccache"], told["litellm"], strict=True)
        times: float = statistics.median([mine.per_second / theirs.per_second for mine, theirs in pairs])
        report["times_litellm"] = round(times, 1)
    return report


def _row(name: str, own: list[Round], base: list[Round]) -> dict[str, Any]:
    ratios = [mine.per_second / floor.per_second for mine, floor in zip(own, base, strict=True)]
    return {
        "contender": name,
        "hits_per_second": round(statistics.median(r.per_second for r in own)),
        "ratio_to_floor": round(statistics.median(ratios), 3),
        "p50_ms": round(statistics.median(r.p50 for r in own) * 1e3, 2),
        "p99_ms": round(statistics.median(r.p99 for r in own) * 1e3, 2),
    }


def table(report: dict[str, Any]) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in report["conditions"].items()), ""]
    lines.append(f"{'contender':<14}{'hits/s':>9}{'× floor':>9}{'p50 ms':>9}{'p99 ms':>9}")
    lines += [
        f"{row['contender']:<14}{row['hits_per_second']:>9}{row['ratio_to_floor']:>9.3f}"
        f"{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        for row in report["rows"]
    ]
    if "times_litellm" in report:
        lines += ["", f"asynccache: {report['times_litellm']} × LiteLLM's proxy"]
    if report["missing"]:
        lines += ["", f"not installed: {', '.join(report['missing'])}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
