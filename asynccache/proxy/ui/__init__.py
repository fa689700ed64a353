"""`/ui`: a page that shows how the cache does. It has nothing in it: what it shows it asks of `/cache/stats`."""

from __future__ import annotations

import asyncio
from importlib.resources import files

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from asynccache.proxy.endpoint import refuse
from asynccache.proxy.problems import Problem

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do in a browser: nothing but load its own parts, and ask this server."""

_HEADERS = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]
_PARTS = {
    "/ui": ("index.html", b"text/html; charset=utf-8"),
    "/ui/style.css": ("style.css", b"text/css; charset=utf-8"),
    "/ui/script.js": ("script.js", b"text/javascript; charset=utf-8"),
    "/ui/icon.svg": ("icon.svg", b"image/svg+xml"),
}


def pages() -> list[BaseRoute]:
    """The page and its parts. Below /ui is nothing else, and nothing that reaches a provider."""
    return [*(Route(path, _Part(*part)) for path, part in _PARTS.items()), Route("/ui/{path:path}", _nothing)]


class _Part:
    """An ASGI application that sends one file of this package."""

    def __init__(self, name: str, kind: bytes) -> None:
        self._name = name
        self._kind = kind
        self._content: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        if scope["method"] not in ("GET", "HEAD"):
            await refuse(
                send,
                Problem(405, "this method is not allowed here", code="method_not_allowed", headers=[_ALLOW]),
            )
            return
        if self._content is None:
            self._content = await asyncio.to_thread((files(__package__) / self._name).read_bytes)
        headers = [*_HEADERS, (b"content-type", self._kind), (b"content-length", b"%d" % len(self._content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self._content})


class _Nothing:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        if scope["path"].endswith("/ui/"):
            head = {"type": "http.response.start", "status": 308, "headers": [(b"location", b"../ui"), _EMPTY]}
            await send(head)
            await send({"type": "http.response.body", "body": b""})
            return
        await refuse(send, Problem(404, "there is nothing here", code="unknown_path"))


_ALLOW = (b"allow", b"GET, HEAD")
_EMPTY = (b"content-length", b"0")
_nothing = _Nothing()
