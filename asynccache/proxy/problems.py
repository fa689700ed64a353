"""What goes wrong on our side of the provider, as a client's SDK reads it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from asynccache.http.answers import Headers

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Problem(Exception):
    """An answer of our own that is no success.

    message: for whoever wrote the request; it names no secret. code: one word for programs. param: the field that it
    is about. headers: beside its content type.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers: Headers = list(headers)

    def body(self, *, anthropic: bool = False) -> bytes:
        """As OpenAI writes its errors, or as Anthropic does."""
        if anthropic:
            kind = _ANTHROPIC_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
            return orjson.dumps({"type": "error", "error": {"type": kind, "message": self.message}})
        kind = _OPENAI_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        said = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": said})

    def event(self, *, anthropic: bool = False, named: bool = False) -> bytes:
        """The same as the last event of a stream that cannot go on."""
        body = self.body(anthropic=anthropic)
        if named and not anthropic:
            said: dict[str, Any] = {"type": "error", "code": self.code, "message": self.message, "param": self.param}
            body = orjson.dumps(said)
        return b"event: error\ndata: " + body + b"\n\n" if anthropic or named else b"data: " + body + b"\n\n"
