"""What a memory hit costs, by call type: `python -m benchmarks.call_types [--json]`.

Real clients, wrapped; the answers come from the simulated provider once, and are hits from then on. The floor is that
of `benchmarks.hit` for the same request and the same typed answer: canonical JSON, SHA-256, a dict look-up, decoding
with the SDK's own type. A list of embeddings has the floor of as many texts alone, all of them kept to its end. Rounds,
medians and ratios as there.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson

from asynccache import Cache, status
from asynccache.testing.provider import SimulatedProvider
from benchmarks.hit import REQUEST, TEXT, Call, conditions, floor_round, one_round

QUESTION = "Where is my parcel? " + TEXT * 2
SOUND = b"RIFF" + bytes(200_000)


@dataclass(frozen=True, slots=True)
class Contender:
    """A kind of call: what is called with what, how its floor decodes, and how many answers are one hit."""

    name: str
    create: Callable[..., Any]
    request: dict[str, Any]
    decode: Callable[[bytes], Any]
    texts: int = 1


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    async with AsyncExitStack() as stack:
        rows = [await measure(each, options.rounds) for each in await contenders(stack)]
    about = {name: value for name, value in conditions(options.rounds).items() if not name.endswith("bytes")}
    report = {"conditions": about, "rows": rows}
    print(json.dumps(report, indent=2) if options.json else table(report))


async def contenders(stack: AsyncExitStack) -> list[Contender]:
    from anthropic import AsyncAnthropic
    from anthropic.types import Message
    from openai import AsyncOpenAI
    from openai.types import Completion, CreateEmbeddingResponse
    from openai.types.audio import Transcription, TranscriptionVerbose
    from openai.types.chat import ChatCompletion
    from openai.types.responses import Response

    provider = await stack.enter_async_context(SimulatedProvider())
    cache = await stack.enter_async_context(Cache(max_bytes=2**30))
    openai = cache.wrap(await stack.enter_async_context(AsyncOpenAI(base_url=provider.base_url, api_key="any")))
    claude = cache.wrap(await stack.enter_async_context(AsyncAnthropic(base_url=provider.origin, api_key="any")))

    @cache.wrap
    async def rerank(*, model: str, query: str, documents: list[str]) -> dict[str, Any]:
        results = [{"index": index, "relevance_score": 0.5} for index, _ in enumerate(documents)]
        return {"id": "rerank-1", "results": results, "meta": {"billed_units": {"search_units": 1}}}

    system, user = (message["content"] for message in REQUEST["messages"])
    speech: dict[str, Any] = {"model": "whisper", "file": SOUND}
    hear = openai.audio.transcriptions.create
    vector: dict[str, Any] = {"model": "large", "dimensions": 1536}
    embed = openai.embeddings.create
    read = CreateEmbeddingResponse.model_validate_json
    return [
        Contender("chat", openai.chat.completions.create, REQUEST, ChatCompletion.model_validate_json),
        Contender(
            "text_completion", openai.completions.create, {"model": "b", "prompt": user}, Completion.model_validate_json
        ),
        Contender(
            "responses",
            openai.responses.create,
            {"model": "gpt-4o", "instructions": system, "input": user},
            Response.model_validate_json,
        ),
        Contender(
            "messages",
            claude.messages.create,
            {"model": "c", "max_tokens": 500, "system": system, "messages": [{"role": "user", "content": user}]},
            Message.model_validate_json,
        ),
        Contender("transcription", hear, speech, Transcription.model_validate_json),
        Contender(
            "… verbose_json",
            hear,
            {**speech, "response_format": "verbose_json"},
            TranscriptionVerbose.model_validate_json,
        ),
        Contender("… srt", hear, {**speech, "response_format": "srt"}, orjson.loads),
        Contender("rerank", rerank, {"model": "r", "query": user, "documents": [system] * 10}, orjson.loads),
        Contender("embedding", embed, {**vector, "input": QUESTION}, read),
        Contender("… a list of 1", embed, {**vector, "input": ["one"]}, read),
        Contender("… a list of 100", embed, {**vector, "input": texts(100)}, read, 100),
        Contender("… a list of 1,000", embed, {**vector, "input": texts(1000)}, read, 1000),
        Contender("… 1,000 of 256", embed, {"model": "large", "input": texts(1000)}, read, 1000),
    ]


def texts(count: int) -> list[str]:
    return [f"Parcel number {number} is late, and nobody answers the telephone." for number in range(count)]


async def measure(contender: Contender, rounds: int) -> dict[str, Any]:
    create, request = contender.create, contender.request
    answer = await create(**request)
    found = await create(**request)
    assert isinstance(found, str) or status(found).outcome == "hit"
    assert answer == found
    floor = floor_of(contender, answer)
    hits = max(1, 400 // contender.texts**2) if contender.texts > 1 else 400
    own, base = [], []
    for _ in range(rounds if contender.texts < 1000 else max(3, rounds // 4)):
        base.append(floor_round(floor, hits))
        own.append(await one_round(lambda: create(**request), 1, hits))
    return {
        "call_type": contender.name,
        "answer_bytes": len(body_of(answer)),
        "floor_us": round(statistics.median(base) * 1e6, 2),
        "us_per_hit": round(statistics.median(own) * 1e6, 2),
        "ratio_to_floor": round(statistics.median(mine / theirs for mine, theirs in zip(own, base, strict=True)), 2),
    }


def floor_of(contender: Contender, answer: Any) -> Call:
    dumps, sha256, option = orjson.dumps, hashlib.sha256, orjson.OPT_SORT_KEYS
    request, decode = contender.request, contender.decode
    requests = [request] if contender.texts == 1 else [{**request, "input": text} for text in request["input"]]
    parts = [answer] if contender.texts == 1 else [answer.model_copy(update={"data": [each]}) for each in answer.data]

    def digest(request: dict[str, Any]) -> str:
        if "file" in request:  # JSON has no word for bytes
            request = {**request, "file": sha256(request["file"]).hexdigest()}
        return sha256(dumps(request, option=option)).hexdigest()

    stored = {digest(request): body_of(part) for request, part in zip(requests, parts, strict=True)}

    def hit() -> Any:
        return [decode(stored[digest(request)]) for request in requests]

    return hit


def body_of(answer: Any) -> bytes:
    if hasattr(answer, "model_dump_json"):
        return bytes(answer.model_dump_json(exclude_unset=True, warnings=False), "utf-8")
    return orjson.dumps(answer)


def table(report: dict[str, Any]) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in report["conditions"].items()), ""]
    lines.append(f"{'call type':<20}{'answer bytes':>13}{'floor µs':>12}{'µs per hit':>12}{'× floor':>9}")
    lines += [
        f"{row['call_type']:<20}{row['answer_bytes']:>13}{row['floor_us']:>12.2f}{row['us_per_hit']:>12.2f}"
        f"{row['ratio_to_floor']:>9.2f}"
        for row in report["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    asyncio.run(main())
