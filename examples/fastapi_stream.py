"""A FastAPI endpoint that streams through the cache. Needs a key in OPENAI_API_KEY (or a local server's address in
OPENAI_BASE_URL). Serve it with `uvicorn fastapi_stream:app`; run as a script it asks itself three times and stops.

Whoever asks while an answer is under way gets what has come so far at once, and then follows it live. A client
that disconnects leaves, and the others go on; when the last one has left, the call is cancelled.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

import asynccache
from asynccache import Cache
from asynccache.testing.loopback import serving

cache = Cache(ttl=3600)
client = cache.wrap(AsyncOpenAI())


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with cache, client:
        yield


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    text: str


@app.post("/ask")
async def ask(question: Question) -> StreamingResponse:
    stream = await client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": question.text}], stream=True
    )
    outcome = asynccache.status(stream).outcome
    return StreamingResponse(events(stream), media_type="text/event-stream", headers={"X-Cache": outcome})


async def events(stream: Any) -> AsyncIterator[str]:
    """The text as server-sent events. However this ends, by a disconnect too, the stream is left."""
    async with stream:
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield f"data: {json.dumps(chunk.choices[0].delta.content)}\n\n"
    yield "data: [DONE]\n\n"


# -- for show -------------------------------------------------------------------------------------------------------


def post(port: int, text: str) -> tuple[str, str]:
    """How a question was answered, and the answer."""
    connection = HTTPConnection("127.0.0.1", port)
    try:
        connection.request("POST", "/ask", json.dumps({"text": text}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        events = response.read().decode().split("\n\n")
    finally:
        connection.close()
    pieces = [event.removeprefix("data: ") for event in events if event and event != "data: [DONE]"]
    return response.headers["X-Cache"], "".join(map(json.loads, pieces))


async def main() -> None:
    question = "Name three rivers in Europe."
    async with lifespan(app), serving(app) as origin:
        port = int(origin.rpartition(":")[2])
        together = [asyncio.to_thread(post, port, question) for _ in range(2)]
        answers = [*await asyncio.gather(*together), await asyncio.to_thread(post, port, question)]
    for outcome, text in answers:
        print(f"{outcome:<10} → {text}")
    assert len({text for _, text in answers}) == 1
    print(f"{cache.stats.upstream_calls} call paid for, {len(answers)} clients answered")


if __name__ == "__main__":
    asyncio.run(main())
