"""Connections, and what uvicorn leaves open about them: how large a request's head may be, how long it may take to
come, and how long a client may not read."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from asynccache.proxy.settings import Proxy

_MOST_CORKED = 64 * 2**10
_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


_OF_UPGRADES = (b"upgrade", b"http2-settings")
_HEAD = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"


class Limits:
    """Those of the configuration that is in force. Connections that are there keep what they began with."""

    def __init__(self, proxy: Proxy) -> None:
        self.set(proxy)

    def set(self, proxy: Proxy) -> None:
        self.max_header_bytes = proxy.max_header_bytes
        self.max_connections = proxy.max_connections
        self.header_timeout = proxy.header_timeout
        self.write_timeout = proxy.write_timeout
        self.keep_alive = proxy.keep_alive


class _Unheard(list[Any]):
    """Where trailers go: they are no headers, though uvicorn would add them to those of the request."""

    def append(self, item: Any, /) -> None:
        pass


class Corked(asyncio.Transport):
    """A transport that sends what is written in one turn of the loop as one. uvicorn writes the head of an answer and
    its body apart: that would be two system calls, each of which costs as much as finding the answer."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if not data:
            return  # asyncio's own transport never gets rid of an empty piece of several (Python 3.13)
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _MOST_CORKED:  # whoever writes on and on has to be told when it is too much
            self.flush()

    def flush(self) -> None:
        if self._pieces:
            pieces, self._pieces, self._size = self._pieces, [], 0
            if not self._transport.is_closing():
                self._transport.writelines(pieces)

    def get_write_buffer_size(self) -> int:
        return self._size + self._transport.get_write_buffer_size()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._pieces, self._size = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


class Connection(HttpToolsProtocol):
    """A client's. The time for a head begins with its first byte, so that a head which comes whole costs no timer."""

    limits: Limits
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0
    _coming = 0
    _unsent = 0
    _refused = False
    _data = b""
    _again: bytes | None = None
    """A request to upgrade, as it would be without that, and what came after it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Corked(transport, self.loop))
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, "there are too many connections", "too_many_connections")
            return
        self._timer = self.loop.call_later(self.limits.keep_alive, self._nothing_came)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_timer()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._data, self._coming = data, len(data)
        super().data_received(data)
        while self._again is not None:
            self._data, self._again = self._again, None
            self.parser = httptools.HttpRequestParser(self)
            super().data_received(self._data)
        self._data = b""
        if not self._in_head or self._refused:
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.limits.max_header_bytes:
            self._too_large()
        elif self._head_bytes == len(data):
            self._end_timer()
            self._timer = self.loop.call_later(self.limits.header_timeout, self._too_slow)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._end_timer()
        most = self.limits.max_header_bytes
        # It lies within what has come since it began. Only where that is more does it have to be counted.
        if self._head_bytes + self._coming > most and self._size_of_head() > most:
            self._too_large()
            return
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._refuse(400, "this server is nobody's way to another: it knows no CONNECT", "unsupported_method")
            else:
                self._again = self._head_without_upgrade()
            return
        super().on_headers_complete()
        self.headers = _Unheard()

    def _size_of_head(self) -> int:
        return len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused and self._again is None:
            super().on_message_complete()

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join([token for token in value.split(b",") if token.strip().lower() not in _OF_UPGRADES])
            if name not in _OF_UPGRADES:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _unsupported_upgrade_warning(self) -> None:
        """Called where the parser has stopped after the head of a request to upgrade (Java's client, curl --http2). A
        server may pass over that. uvicorn would pass over the body too, and could read what comes of it later as a
        request of its own."""
        stopped = sys.exc_info()[1]
        if self._again is not None and isinstance(stopped, httptools.HttpParserUpgrade):
            self._again += self._data[stopped.args[0] :]

    def pause_writing(self) -> None:
        if self._stalled is None:
            self._watch_reading()
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg, "invalid_request")

    # -- refusing -------------------------------------------------------------------------------------

    def _too_large(self) -> None:
        most = self.limits.max_header_bytes
        self._refuse(431, f"the request's head is larger than {most} bytes", "headers_too_large")

    def _too_slow(self) -> None:
        self._timer = None
        seconds = self.limits.header_timeout
        self._refuse(408, f"the request's head did not come within {seconds:g} seconds", "request_timeout")

    def _nothing_came(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _watch_reading(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self.limits.write_timeout, self._still_unread)

    def _still_unread(self) -> None:
        """The buffer is not empty yet. A client that reads, if slowly, has time again."""
        self._stalled = None
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch_reading()
            return
        _forget_what_is_unsent(self.transport)
        self.transport.abort()

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer, and close. Where an answer is under way nothing can be said in between: then close only."""
        self._refused = True
        self._end_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
            body = orjson.dumps({"error": error})
            self.transport.write(_HEAD % (status, _REASONS[status], len(body)) + body)
        self.transport.close()

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _forget_what_is_unsent(transport: asyncio.Transport) -> None:
    """So that the kernel resets the connection when it is closed. It would keep megabytes for who does not read."""
    known = transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(known.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def connection_class(limits: Limits) -> type[Connection]:
    """What uvicorn makes for each connection."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
