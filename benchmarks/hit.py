"""What a memory hit costs: `python -m benchmarks.hit [--json]`.

Each contender answers the same 2 KB chat request with the same 2 KB completion, already stored. The
floor is the least any correct cache must do: canonical JSON of the request, SHA-256 of it, a dict
look-up, decoding the answer for this caller. Contenders take turns in short rounds, so that the
machine's drift meets all of them alike; a figure is the median of the rounds, and a ratio the median
of the ratios within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson

from asynccache import Cache, status

Call = Callable[[], Any]
"""One hit; what it returns is awaited, but for the floor, which is a plain function."""

TEXT = (
    "Your order leaves our warehouse within one working day.\n\nYou can follow it under **Account → Orders**: "
    'choose the parcel and press "Track". If the page shows nothing after 24 hours, the carrier has not scanned '
    "it yet; that is no reason to worry.\n\n1. Check the address on the confirmation.\n2. Ask your neighbours.\n"
)
REQUEST: dict[str, Any] = {
    "model": "gpt-4o",
    "temperature": 0.2,
    "max_tokens": 500,
    "messages": [
        {"role": "system", "content": "You are the support assistant of a parcel service.\n" + TEXT * 3},
        {"role": "user", "content": "Where is my parcel? " + TEXT * 2},
    ],
}
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-9x7Tq2",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": TEXT * 5, "refusal": None},
        }
    ],
    "usage": {"prompt_tokens": 412, "completion_tokens": 380, "total_tokens": 792},
    "system_fingerprint": "fp_44709d6fcb",
}
BODY = orjson.dumps(ANSWER)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()

    contenders, missing = await prepare()
    rows = []
    for callers in (1, 64):
        rows += await measure(contenders, callers, options.rounds)
    report = {"conditions": conditions(options.rounds), "missing": missing, "rows": rows, **verdict(rows)}
    print(json.dumps(report, indent=2) if options.json else table(report))


async def prepare() -> tuple[dict[str, Call], list[str]]:
    """Contender → a call that is a hit; and the packages that are not installed."""
    contenders: dict[str, Call] = {"floor dict": floor(orjson.loads), "asynccache dict": await ours(dict[str, Any])}
    missing = []
    if importlib.util.find_spec("openai"):
        from openai.types.chat import ChatCompletion

        contenders["floor typed"] = floor(ChatCompletion.model_validate_json)
        contenders["asynccache typed"] = await ours(ChatCompletion)
    for name, make in (("aiocache", aiocache_hit), ("cashews", cashews_hit), ("litellm", litellm_hit)):
        if importlib.util.find_spec(name):
            contenders[name] = await make()
        else:
            missing.append(name)
    return contenders, missing


def floor(decode: Callable[[bytes], Any]) -> Call:
    dumps, sha256, option = orjson.dumps, hashlib.sha256, orjson.OPT_SORT_KEYS
    stored = {sha256(dumps(REQUEST, option=option)).hexdigest(): BODY}

    def hit() -> Any:
        return decode(stored[sha256(dumps(REQUEST, option=option)).hexdigest()])

    return hit


async def ours(returns: Any) -> Call:
    cache = Cache()

    async def acompletion(**_: Any) -> Any:
        return ANSWER if returns == dict[str, Any] else returns.model_validate_json(BODY)

    call = cache.wrap(acompletion, returns=returns)
    await call(**REQUEST)
    assert status(await call(**REQUEST)).outcome == "hit"
    return lambda: call(**REQUEST)


async def aiocache_hit() -> Call:
    from aiocache import cached

    calls = 0

    async def acompletion(**_: Any) -> Any:
        nonlocal calls
        calls += 1
        return ANSWER

    hit: Any = cached()(acompletion)
    await hit(**REQUEST)
    await hit(**REQUEST)
    assert calls == 1
    return lambda: hit(**REQUEST)


async def cashews_hit() -> Call:
    from cashews import Cache as Cashews

    cache = Cashews()
    cache.setup("mem://")
    calls = 0

    async def acompletion(**_: Any) -> Any:
        nonlocal calls
        calls += 1
        return ANSWER

    hit: Any = cache(ttl="1h")(acompletion)
    await hit(**REQUEST)
    await hit(**REQUEST)
    assert calls == 1
    return lambda: hit(**REQUEST)


async def litellm_hit() -> Call:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the network
    import litellm
    from litellm.caching.caching import Cache as LiteLLMCache

    litellm.cache = LiteLLMCache(type="local")
    request = {**REQUEST, "mock_response": ANSWER["choices"][0]["message"]["content"], "caching": True}
    await litellm.acompletion(**request)
    await asyncio.sleep(0.2)  # it writes in a task that nobody can wait for
    answer = await litellm.acompletion(**request)
    assert answer._hidden_params.get("cache_hit") is True
    return lambda: litellm.acompletion(**request)


async def measure(contenders: dict[str, Call], callers: int, rounds: int) -> list[dict[str, Any]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            if name.startswith("floor"):
                times[name].append(floor_round(call, 640))
            elif name == "litellm":
                times[name].append(await one_round(call, callers, 20))
                await asyncio.sleep(0.05)  # what it leaves behind must not run in the next one's round
            else:
                times[name].append(await one_round(call, callers, 640))
    rows = []
    for name, own in times.items():
        base = times["floor typed" if "typed" in name or name == "litellm" else "floor dict"]
        ratios = [mine / theirs for mine, theirs in zip(own, base, strict=True)]
        rows.append(
            {
                "contender": name,
                "callers": callers,
                "us_per_hit": round(statistics.median(own) * 1e6, 3),
                "ratio_to_floor": round(statistics.median(ratios), 2),
            }
        )
    return rows


def floor_round(call: Call, hits: int) -> float:
    """Seconds per hit."""
    start = time.perf_counter()
    for _ in range(hits):
        call()
    return (time.perf_counter() - start) / hits


async def one_round(call: Call, callers: int, hits: int) -> float:
    """Seconds per hit."""
    each = max(1, hits // callers)

    async def caller() -> None:
        for _ in range(each):
            await call()

    start = time.perf_counter()
    if callers == 1:
        await caller()
    else:
        await asyncio.gather(*[caller() for _ in range(callers)])
    return (time.perf_counter() - start) / (each * callers)


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    alone = {row["contender"]: row for row in rows if row["callers"] == 1}
    result: dict[str, Any] = {
        "ratio_to_floor": {
            kind: alone[f"asynccache {kind}"]["ratio_to_floor"]
            for kind in ("dict", "typed")
            if f"asynccache {kind}" in alone
        }
    }
    if "litellm" in alone:
        ours_typed = alone["asynccache typed"]["us_per_hit"]
        result["times_faster_than_litellm"] = round(alone["litellm"]["us_per_hit"] / ours_typed, 1)
    return result


def conditions(rounds: int) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "request_bytes": len(orjson.dumps(REQUEST)),
        "answer_bytes": len(BODY),
        "rounds": rounds,
    }


def table(report: dict[str, Any]) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in report["conditions"].items()), ""]
    lines.append(f"{'contender':<20}{'callers':>8}{'µs per hit':>12}{'× floor':>9}")
    lines += [
        f"{row['contender']:<20}{row['callers']:>8}{row['us_per_hit']:>12.2f}{row['ratio_to_floor']:>9.2f}"
        for row in report["rows"]
    ]
    lines += ["", "aiocache and cashews hand all callers the same object, and do not hash; the floor decodes and does."]
    if report["missing"]:
        lines.append(f"not installed: {', '.join(report['missing'])} (pip install 'asynccache[bench]')")
    return "\n".join(lines)


if __name__ == "__main__":
    asyncio.run(main())
