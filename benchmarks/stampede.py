"""Many callers ask the same at the same moment: `python -m benchmarks.stampede [--json]`.

The cache is empty, and the upstream takes 0.2 s to answer (a stream: to begin). Everybody has to get the
complete answer: 2 KB whole, or 50 chunks. Counted are the calls that the upstream saw. Each contender runs in
a process of its own; the memory is by how much the process grew at its peak, the callers' own tasks
included, which is what "floor" shows: callers that await one shared task and decode its answer; for streams,
callers that each make a call of their own, with nothing between.

Run it where litellm is installed to have that beside (it pins openai < 3); with fewer callers, as it says.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

WAIT = 0.2
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-9x7Tq2",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 400}}],
    "usage": {"prompt_tokens": 412, "completion_tokens": 400, "total_tokens": 812},
}
CHUNKS: list[dict[str, Any]] = [
    {
        "id": "chatcmpl-9x7Tq2",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": "stop" if n == 49 else None}],
    }
    for n in range(50)
]
REQUEST: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Where is my parcel?"}]}

FEWER = {"litellm": 1_000}
"""Contenders that would take too long with all callers."""

Caller = Callable[[bool], Awaitable[bool]]
"""One call, stream or not; whether its answer was complete."""


class Upstream:
    """Whatever is called in the end."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, *, stream: bool = False, **_: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(WAIT)
        return self.chunks() if stream else ANSWER

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        for chunk in CHUNKS:
            yield chunk
            await asyncio.sleep(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--callers", type=int, default=10_000)
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        contender, kind = options.one
        print(json.dumps(asyncio.run(stampede(contender, kind == "stream", options.callers))))
        return
    missing = [name for name in ("cashews", "litellm") if not importlib.util.find_spec(name)]
    rows = [
        apart(contender, kind, min(options.callers, FEWER.get(contender, options.callers)))
        for kind in ("whole", "stream")
        for contender in CONTENDERS
        if contender not in missing
    ]
    report = {"conditions": conditions(), "missing": missing, "rows": rows}
    print(json.dumps(report, indent=2) if options.json else table(report))


def apart(contender: str, kind: str, callers: int) -> dict[str, Any]:
    """Run it in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.stampede", "--one", contender, kind, "--callers", str(callers)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


async def stampede(contender: str, stream: bool, callers: int) -> dict[str, Any]:
    upstream = Upstream()
    call = CONTENDERS[contender](upstream)
    before = peak()
    start = time.perf_counter()
    complete = await asyncio.gather(*[call(stream) for _ in range(callers)])
    seconds = time.perf_counter() - start
    return {
        "contender": contender,
        "kind": "stream" if stream else "whole",
        "callers": callers,
        "upstream_calls": upstream.calls,
        "complete": sum(complete),
        "seconds": round(seconds, 2),
        "grown_mb": round((peak() - before) / 2**20, 1),
    }


async def is_complete(stream: AsyncIterator[Any]) -> bool:
    """Whether it gives all chunks. Keeps none of them."""
    expected = iter(CHUNKS)
    async for chunk in stream:
        if chunk != next(expected, None):
            return False
    return next(expected, None) is None


def peak() -> int:
    """Bytes of memory that this process had at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# -- contenders -----------------------------------------------------------------------------------------------------


def floor(upstream: Upstream) -> Caller:
    shared: asyncio.Task[bytes] | None = None

    async def answer() -> bytes:
        return orjson.dumps(await upstream())

    async def call(stream: bool) -> bool:
        nonlocal shared
        if stream:
            return await is_complete(await upstream(stream=True))
        shared = shared or asyncio.create_task(answer())
        return bool(orjson.loads(await asyncio.shield(shared)) == ANSWER)

    return call


def asynccache(upstream: Upstream) -> Caller:
    from asynccache import Cache

    acompletion = Cache().wrap(upstream)

    async def call(stream: bool) -> bool:
        if not stream:
            return bool(await acompletion(**REQUEST) == ANSWER)
        return await is_complete(await acompletion(**REQUEST, stream=True))

    return call


def cashews(upstream: Upstream) -> Caller:
    """With the lock that it offers against stampedes; its iterators have none."""
    from cashews import Cache as Cashews

    cache: Any = Cashews()
    cache.setup("mem://")

    async def acompletion(content: str) -> Any:
        return await upstream()

    async def astream(content: str) -> AsyncIterator[Any]:
        async for chunk in await upstream(stream=True):
            yield chunk

    whole = cache(ttl="1h", lock=True)(acompletion)
    streamed = cache.iterator("1h", key="stream:{content}")(astream)

    async def call(stream: bool) -> bool:
        if not stream:
            return bool(await whole("Where is my parcel?") == ANSWER)
        return await is_complete(streamed("Where is my parcel?"))

    return call


def litellm(upstream: Upstream) -> Caller:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the network
    import litellm as library
    from litellm.caching.caching import Cache as LiteLLMCache

    class Handler(library.CustomLLM):  # type: ignore[misc]
        async def acompletion(self, *_: Any, **__: Any) -> Any:
            return library.ModelResponse(**await upstream())

        async def astreaming(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
            async for chunk in await upstream(stream=True):
                choice = chunk["choices"][0]
                yield {
                    "text": choice["delta"]["content"],
                    "finish_reason": choice["finish_reason"],
                    "is_finished": choice["finish_reason"] is not None,
                    "index": 0,
                    "tool_use": None,
                    "usage": None,
                }

    library.suppress_debug_info = True
    library.cache = LiteLLMCache(type="local")
    library.custom_provider_map = [{"provider": "counted", "custom_handler": Handler()}]
    request = {**REQUEST, "model": "counted/gpt-4o", "caching": True}

    async def call(stream: bool) -> bool:
        if not stream:
            answer = await library.acompletion(**request)
            return bool(answer.choices[0].message.content == ANSWER["choices"][0]["message"]["content"])
        text = ""
        async for chunk in await library.acompletion(**request, stream=True):
            text += chunk.choices[0].delta.content or ""
        return text == " word" * len(CHUNKS)

    return call


CONTENDERS: dict[str, Callable[[Upstream], Caller]] = {
    "floor": floor,
    "asynccache": asynccache,
    "cashews": cashews,
    "litellm": litellm,
}


def conditions() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "upstream_seconds": WAIT,
        "answer_bytes": len(orjson.dumps(ANSWER)),
        "chunks": len(CHUNKS),
    }


def table(report: dict[str, Any]) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in report["conditions"].items()), ""]
    columns = ("kind", "contender", "callers", "upstream_calls", "complete", "seconds", "grown_mb")
    lines.append("".join(f"{column.replace('_', ' '):>16}" for column in columns))
    lines += ["".join(f"{row[column]:>16}" for column in columns) for row in report["rows"]]
    if report["missing"]:
        lines += ["", f"not installed: {', '.join(report['missing'])} (pip install 'asynccache[bench]')"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
