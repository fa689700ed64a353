"""Serves an ASGI application for real, on a free port of the loopback interface. Needs uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serve on the running loop, and give the origin: `async with serving(app) as origin`.

    Lifespan events are not sent. When the block ends, answers under way lose their connection (the application is
    told so: `http.disconnect`), and no task or socket is left. Signals are left alone.
    """
    listening = _listen()
    server = await _start(app, listening)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        await _stop(server)


def _listen() -> socket.socket:
    # With the protocol spelled out asyncio sets TCP_NODELAY; without, a response in two parts may take 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    return listening


async def _start(app: ASGIApp, listening: socket.socket) -> uvicorn.Server:
    """Start uvicorn without its `serve()`, which polls ten times a second and takes over Ctrl-C."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, ws="none", server_header=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    return server


async def _stop(server: uvicorn.Server) -> None:
    for listener in server.servers:
        listener.close()
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    # Each answer under way hears that its client is gone and ends by itself.
    await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
    for listener in server.servers:
        await listener.wait_closed()
