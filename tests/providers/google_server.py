"""A loopback server with the shapes of Google's API: `cachedContents` and `generateContent`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asynccache.testing.loopback import serving

_OUTPUT_ONLY = ("contents", "systemInstruction", "tools", "toolConfig", "ttl")


@dataclass
class Google:
    """kept: name → the body it was made of. asked: (method, path, query, headers, body) of all requests.

    refuse: the status for the next requests, by method. held: while it is not set, creating waits. arrived: set when a
    request to create has come.
    """

    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, str, dict[str, str], Any]] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    origin: str = ""

    def __post_init__(self) -> None:
        self.held.set()

    def bodies(self, method: str, ending: str = "") -> list[Any]:
        return [body for asked, path, _, _, body in self.asked if asked == method and path.endswith(ending)]

    async def _contexts(self, request: Request) -> Response:
        body = await self._note(request)
        if (status := self.refuse.get(request.method)) is not None:
            return _error(status)
        parent = request.url.path.removesuffix("/cachedContents").partition("/v1")[2].partition("/")[2]
        name = f"{parent}/cachedContents/{len(self.kept) + 1}".lstrip("/")
        if "model" not in body or not body.keys() & {"contents", "systemInstruction"}:
            return _error(400)
        self.arrived.set()
        await self.held.wait()
        self.kept[name] = body
        return JSONResponse(_resource(name, body))

    async def _context(self, request: Request) -> Response:
        body = await self._note(request)
        name = request.url.path.partition("/v1")[2].partition("/")[2]
        if (status := self.refuse.get(request.method)) is not None:
            return _error(status)
        if name not in self.kept:
            return _error(404)
        if request.method == "DELETE":
            del self.kept[name]
            return JSONResponse({})
        if request.url.query != "updateMask=ttl":
            return _error(400)
        self.kept[name] = {**self.kept[name], **body}
        return JSONResponse(_resource(name, self.kept[name]))

    async def _generate(self, request: Request) -> Response:
        body = await self._note(request)
        name = body.get("cachedContent")
        if name is not None and (name not in self.kept or body.keys() & {"systemInstruction", "tools", "toolConfig"}):
            return _error(400)
        content = {"role": "model", "parts": [{"text": "Blue."}]}
        usage = {"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11}
        candidate = {"content": content, "finishReason": "STOP", "index": 0}
        return JSONResponse({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"})

    async def _note(self, request: Request) -> Any:
        data = await request.body()
        body = await request.json() if data else None
        self.asked.append((request.method, request.url.path, request.url.query, dict(request.headers), body))
        return body

    @property
    def app(self) -> Starlette:
        parents = ("/v1beta", "/v1/projects/{project}/locations/{location}")
        return Starlette(
            routes=[
                *(Route(f"{parent}/cachedContents", self._contexts, methods=["POST"]) for parent in parents),
                *(
                    Route(f"{parent}/cachedContents/{{id}}", self._context, methods=["PATCH", "DELETE"])
                    for parent in parents
                ),
                Route("/{version}/models/{model}:generateContent", self._generate, methods=["POST"]),
            ]
        )


@asynccontextmanager
async def google() -> AsyncIterator[Google]:
    server = Google()
    async with serving(server.app) as origin:
        server.origin = origin
        yield server


def _resource(name: str, body: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    life = timedelta(seconds=float(body["ttl"].removesuffix("s")))
    told = {key: value for key, value in body.items() if key not in _OUTPUT_ONLY}
    times = {"createTime": _time(now), "updateTime": _time(now), "expireTime": _time(now + life)}
    return {"name": name, **told, **times, "usageMetadata": {"totalTokenCount": 1234}}


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _error(status: int) -> JSONResponse:
    return JSONResponse({"error": {"code": status, "message": "refused", "status": "X"}}, status)
