"""A proxy on a real server, with a simulated provider behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from asynccache import Cache
from asynccache.proxy.access import Access
from asynccache.proxy.app import Proxy, create_app
from asynccache.proxy.settings import Settings
from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES}
COMPLETIONS = "/v1/chat/completions"
ANSWER = (
    b'{"id":"1","object":"chat.completion","created":1,"model":"gpt-4o","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
)
"""What a provider may say to a chat."""


@dataclass
class Served:
    """A proxy that is being served."""

    app: Proxy
    origin: str
    client: httpx2.AsyncClient

    async def chat(self, headers: Mapping[str, str] | None = None, /, **fields: Any) -> httpx2.Response:
        return await self.client.post(COMPLETIONS, json={**CHAT, **fields}, headers=dict(headers or {}))

    async def raw(self, data: bytes, *, close: bool = False) -> bytes:
        """What comes back on a connection of its own, until the server ends it or the first answer is whole."""
        async with self.connection() as (reader, writer):
            writer.write(data)
            if close:
                writer.write_eof()
            try:
                async with asyncio.timeout(20):
                    head = await reader.readuntil(b"\r\n\r\n")
                    lengths = [
                        line.partition(b":")[2] for line in head.lower().splitlines() if b"content-length" in line
                    ]
                    return head + await reader.readexactly(int(lengths[0]) if lengths else 0)
            except asyncio.IncompleteReadError as error:
                return error.partial

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to the proxy, closed at the end of the block."""
        host, _, port = self.origin.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def proxied(
    config: Mapping[str, Any] | Path, *, cache: Cache | None = None, access: Access | None = None
) -> AsyncIterator[Served]:
    """Serve a proxy with this config, or file, on the running loop."""
    app = create_app(Settings.load(config, environment={}), cache=cache, access=access)
    try:
        async with serving(app) as origin, httpx2.AsyncClient(base_url=origin, timeout=30) as client:
            yield Served(app, origin, client)
    finally:
        await app.aclose()


def listed(provider: SimulatedProvider, **models: str) -> list[dict[str, Any]]:
    """A `model_list`: the name in the proxy → the model as LiteLLM writes it."""
    return [
        {
            "model_name": name.replace("_", "-"),
            "litellm_params": {"model": model, "api_base": provider.base_url, "api_key": f"sk-of-{name}"},
        }
        for name, model in models.items()
    ]


class Recording:
    """A provider that keeps what it was sent, and says what it is told to say: an ASGI application.

    heard: (method, path with query, headers, body) of each request.
    """

    def __init__(self, status: int = 200, headers: Mapping[str, str] | None = None, body: bytes = b"{}") -> None:
        self.heard: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status = status
        self.headers = {"content-type": "application/json", **(headers or {})}
        self.body = body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        path = scope["raw_path"].decode().partition("?")[0] + (f"?{query}" if query else "")
        self.heard.append((scope["method"], path, headers, body))
        told = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": told})
        await send({"type": "http.response.body", "body": self.body})
