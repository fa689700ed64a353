"""What a stream costs: `python -m benchmarks.stream [--json]`.

One answer of 200 chunks, as plain dicts and as the OpenAI client's own chunks. Record and replay are
given per chunk and beyond decoding: the decoding of the same chunks, and a bare `async for` over them, are
measured in the same rounds. Fan-out gives one stream to many readers who came before its first chunk; every
reader but the first decodes each chunk for itself. Contenders take turns in short rounds; a figure is the
median of the rounds, a difference the median of the differences within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

from asynccache import Cache, status

CHUNKS: list[dict[str, Any]] = [
    {
        "id": "chatcmpl-9x7Tq2",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "gpt-4o-2024-08-06",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": [{"index": 0, "delta": {"content": f" word{n}"}, "logprobs": None, "finish_reason": None}],
    }
    for n in range(199)
]
CHUNKS.append({**CHUNKS[0], "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]})
BODIES = [orjson.dumps(chunk) for chunk in CHUNKS]
REQUEST: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "why?"}], "stream": True}

Run = Callable[[], Awaitable[float]]
"""One round: seconds per chunk."""


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()

    kinds: dict[str, Callable[[bytes], Any]] = {"dict": orjson.loads}
    missing = [] if importlib.util.find_spec("openai") else ["openai"]
    if not missing:
        kinds["openai"] = typed
    report = {
        "conditions": conditions(options.rounds),
        "missing": missing,
        "per_chunk": [row for kind, decode in kinds.items() for row in await per_chunk(kind, decode, options.rounds)],
        "fan_out": [await fan_out(readers, max(3, options.rounds // 8)) for readers in (1, 10, 100, 1_000)],
        "first_chunk_of_a_follower": await first_chunk(2_000),
    }
    print(json.dumps(report, indent=2) if options.json else table(report))


def typed(body: bytes) -> Any:
    from openai._models import construct_type
    from openai.types.chat import ChatCompletionChunk

    return construct_type(type_=ChatCompletionChunk, value=orjson.loads(body))


# -- record and replay ----------------------------------------------------------------------------------------------


async def per_chunk(kind: str, decode: Callable[[bytes], Any], rounds: int) -> list[dict[str, Any]]:
    chunks = [decode(body) for body in BODIES]
    record, replay = await cached(kind, chunks)
    runs: dict[str, Run] = {
        "async for": lambda: bare(chunks),
        "decode": lambda: decoding(decode),
        "record": record,
        "replay": replay,
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(await run())
    beyond = {"async for": "", "decode": "", "record": "async for", "replay": "decode"}
    rows = []
    for name, own in times.items():
        base = times.get(beyond[name], [0.0] * rounds)
        difference = statistics.median(mine - theirs for mine, theirs in zip(own, base, strict=True))
        rows.append(
            {
                "chunks": kind,
                "what": name,
                "us": round(statistics.median(own) * 1e6, 3),
                "beyond": beyond[name],
                "us_beyond": round(difference * 1e6, 3) if beyond[name] else None,
            }
        )
    return rows


async def give(chunks: list[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


async def bare(chunks: list[Any]) -> float:
    start = time.perf_counter()
    async for _ in give(chunks):
        pass
    return (time.perf_counter() - start) / len(chunks)


async def decoding(decode: Callable[[bytes], Any]) -> float:
    start = time.perf_counter()
    for body in BODIES:
        decode(body)
    return (time.perf_counter() - start) / len(BODIES)


async def cached(kind: str, chunks: list[Any]) -> tuple[Run, Run]:
    """A round of recording, each under a key of its own, and one of replaying."""
    cache = Cache()
    create = openai_create(cache, chunks) if kind == "openai" else cache.wrap(upstream(chunks))
    number = 0

    async def read(request: dict[str, Any], outcome: str) -> float:
        stream = await create(**request)
        start = time.perf_counter()
        async for _ in stream:
            pass
        seconds = time.perf_counter() - start
        assert status(stream).outcome == outcome
        return seconds / len(chunks)

    async def record() -> float:
        nonlocal number
        number += 1
        return await read({**REQUEST, "seed": number}, "miss")

    await read(REQUEST, "miss")
    return record, lambda: read(REQUEST, "hit")


def upstream(chunks: list[Any]) -> Any:
    async def acompletion(**_: Any) -> Any:
        return give(chunks)

    return acompletion


def openai_create(cache: Cache, chunks: list[Any]) -> Any:
    """The `create` of a wrapped client, that has its chunks from here."""
    from openai import AsyncOpenAI

    class Chunks:
        response = None

        def __aiter__(self) -> AsyncIterator[Any]:
            return give(chunks)

    client = AsyncOpenAI(api_key="k", base_url="http://127.0.0.1:1")
    completions = type(client.chat.completions)
    create = completions.create

    async def ours(self: Any, **_: Any) -> Any:
        return Chunks()

    completions.create = ours  # type: ignore[method-assign]
    try:
        return cache.wrap(client).chat.completions.create
    finally:
        completions.create = create  # type: ignore[method-assign]


# -- fan-out --------------------------------------------------------------------------------------------------------


async def fan_out(readers: int, rounds: int) -> dict[str, Any]:
    """One stream for so many: wall time per chunk and reader, and what decoding it is of that."""
    times, decodes = [], []
    for _ in range(rounds):
        times.append(await one_fan_out(readers))
        decodes.append(await decoding(orjson.loads))
    us = statistics.median(times) * 1e6
    decode = statistics.median(decodes) * 1e6
    return {"readers": readers, "us_per_chunk_and_reader": round(us, 3), "us_of_that_decoding": round(decode, 3)}


async def one_fan_out(readers: int) -> float:
    cache, begin = Cache(), asyncio.Event()

    async def chunks() -> AsyncIterator[Any]:
        await begin.wait()
        for chunk in CHUNKS:
            yield chunk

    async def acompletion(**_: Any) -> Any:
        return chunks()

    call = cache.wrap(acompletion)

    async def read() -> None:
        seen = 0
        async for _ in await call(**REQUEST):
            seen += 1
        assert seen == len(CHUNKS)

    tasks = [asyncio.create_task(read()) for _ in range(readers)]
    for _ in range(20):
        await asyncio.sleep(0)
    start = time.perf_counter()
    begin.set()
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - start
    assert cache.stats.upstream_calls == 1
    return seconds / readers / len(CHUNKS)


async def first_chunk(followers: int) -> dict[str, Any]:
    """From the call of one who comes while a stream is under way to the first chunk in its hands. Half of the stream
    has come, and each follower stays."""
    cache, end = Cache(), asyncio.Event()

    async def chunks() -> AsyncIterator[Any]:
        for chunk in CHUNKS[:100]:
            yield chunk
        await end.wait()

    async def acompletion(**_: Any) -> Any:
        return chunks()

    call = cache.wrap(acompletion)
    streams = [await call(**REQUEST)]
    for _ in range(100):
        await anext(streams[0])
    times = []
    for _ in range(followers):
        start = time.perf_counter()
        streams.append(await call(**REQUEST))
        await anext(streams[-1])
        times.append(time.perf_counter() - start)
        assert status(streams[-1]).outcome == "coalesced"
    end.set()
    cuts = statistics.quantiles(times, n=100)
    us = {"p50": cuts[49], "p99": cuts[98], "max": max(times)}
    return {"followers": followers, **{f"us_{name}": round(value * 1e6, 1) for name, value in us.items()}}


def conditions(rounds: int) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "chunks": len(CHUNKS),
        "bytes_per_chunk": round(statistics.mean(map(len, BODIES))),
        "rounds": rounds,
    }


def table(report: dict[str, Any]) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in report["conditions"].items()), ""]
    lines.append(f"{'chunks':<10}{'what':<12}{'µs per chunk':>14}{'beyond':>12}{'µs':>8}")
    for row in report["per_chunk"]:
        beyond = "" if row["us_beyond"] is None else f"{row['us_beyond']:.2f}"
        lines.append(f"{row['chunks']:<10}{row['what']:<12}{row['us']:>14.2f}{row['beyond']:>12}{beyond:>8}")
    lines += ["", f"{'readers':<10}{'µs per chunk and reader':>24}{'of that decoding':>18}"]
    for row in report["fan_out"]:
        one = "-" if row["readers"] == 1 else f"{row['us_of_that_decoding']:.2f}"
        lines.append(f"{row['readers']:<10}{row['us_per_chunk_and_reader']:>24.2f}{one:>18}")
    first = report["first_chunk_of_a_follower"]
    lines += [
        "",
        f"first chunk of a follower: p50 {first['us_p50']} µs, p99 {first['us_p99']} µs, max {first['us_max']}",
    ]
    if report["missing"]:
        lines.append(f"not installed: {', '.join(report['missing'])} (pip install 'asynccache[bench]')")
    return "\n".join(lines)


if __name__ == "__main__":
    asyncio.run(main())
