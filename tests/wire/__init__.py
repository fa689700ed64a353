"""Answers as providers stream them, byte for byte: server-sent events, written by hand from the published formats.

* `chat_*.sse`: https://platform.openai.com/docs/api-reference/chat-streaming, and what Azure, DeepSeek, OpenRouter,
  vLLM and others make of it.
* `responses_*.sse`: https://platform.openai.com/docs/api-reference/responses-streaming.
* `messages_*.sse`: https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio.lowlevel import checkpoint
from starlette.types import Receive, Scope, Send

from asynccache.testing.loopback import serving

JSON = dict[str, Any]

HERE = Path(__file__).parent
# A few plain bytes, or a line break or one byte of a longer character alone.
_PIECE = re.compile(rb"[^\x80-\xff\r\n]{1,37}|[\x80-\xff\r\n]")


def names(api: str) -> list[str]:
    """The fixtures of one API: "chat", "responses" or "messages"."""
    return sorted(path.stem for path in HERE.glob(f"{api}_*.sse"))


def sse(name: str) -> bytes:
    """The body of the response."""
    return (HERE / f"{name}.sse").read_bytes()


def said(name: str) -> list[JSON]:
    """The objects that the body carries, without pings: what a client ought to hand on."""
    blocks = sse(name).decode().replace("\r\n", "\n").split("\n\n")
    texts = ("\n".join(line[5:] for line in block.split("\n") if line.startswith("data:")) for block in blocks)
    objects = [json.loads(text) for text in texts if text and text.strip() != "[DONE]"]
    return [item for item in objects if item.get("type") != "ping"]


def encoded(events: list[JSON]) -> bytes:
    """Events as a body, in a form that both SDKs read."""
    lines = (f"event: {event.get('type', 'chunk')}\ndata: {json.dumps(event)}\n\n" for event in events)
    return "".join((*lines, "" if events and "type" in events[0] else "data: [DONE]\n\n")).encode()


@dataclass
class Provider:
    """Answers whatever it is asked with one body, in pieces that split lines, events and characters."""

    body: bytes
    origin: str = ""
    calls: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in _PIECE.findall(self.body):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await checkpoint()  # the client, on the same loop, reads this piece before the next is written
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def streaming(body: bytes) -> AsyncIterator[Provider]:
    """A provider that answers with this body over real HTTP."""
    provider = Provider(body)
    async with serving(provider) as provider.origin:
        yield provider
