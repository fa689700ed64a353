"""Whole HTTP answers, and streams as they are recorded ⇄ entries."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from asynccache.answers import JSONAnswers
from asynccache.model import CacheStatus, Completion, CompletionStream, Entry

Headers = list[tuple[bytes, bytes]]

KEPT_HEADERS = frozenset({b"content-type", b"content-language", b"openai-model", b"openai-version"})
"""What is said again on a hit. Not: ids and rate limits of the call that was paid for, nor whose it was."""

_JSON_TYPE = b"application/json"
_USUAL = [["content-type", "application/json"]]
_BODY_HEADERS = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


class Head(NamedTuple):
    """How an answer begins; the first chunk of every stream."""

    status: int
    headers: Headers


class Reply:
    """A whole answer.

    content: its body as it came; when `encoded`, still in its content-encoding.
    text:    the same, decoded.
    keeps:   whether it is one that may be kept at all.
    """

    __slots__ = ("content", "encoded", "extensions", "head", "keeps", "text")

    def __init__(
        self,
        head: Head,
        content: bytes,
        text: bytes,
        *,
        encoded: bool = False,
        keeps: bool = True,
        extensions: dict[str, Any] | None = None,
    ) -> None:
        self.head = head
        self.content = content
        self.text = text
        self.encoded = encoded
        self.keeps = keeps
        self.extensions = extensions or {}


class Refused(Exception):
    """The provider did not answer with success: raised inside the pipeline alone, so that nothing is stored and
    whoever waits for the same answer gets the same response."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.head.status)
        self.reply = reply
        self.status_code = reply.head.status


class HTTPAnswers(JSONAnswers):
    """Bodies byte for byte, once their content-encoding is taken off.

    opaque: whether a body may be anything; else only JSON is kept.
    """

    def __init__(self, *, opaque: bool) -> None:
        super().__init__()
        self._opaque = opaque

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        if not isinstance(value, Reply) or not value.keeps:
            raise ValueError("an answer that is passed on, and not kept")
        kept = [[name.decode("latin-1"), text.decode("latin-1")] for name, text in _kept(value.head.headers)]
        try:
            orjson.loads(value.text)
        except ValueError:
            if not self._opaque:
                raise
            body = orjson.dumps(value.text.decode("latin-1"))
            return body, {"http": {"headers": kept, "text": True}}
        return value.text, {"http": {"headers": kept}}

    def decode(self, entry: Entry) -> Reply:
        meta = entry.meta.get("http")
        if meta is None:  # assembled from a stream
            return Reply(Head(200, [(b"content-type", _JSON_TYPE)]), entry.body, entry.body)
        if not isinstance(meta, dict):
            raise ValueError("the headers of a stored answer cannot be read")
        content = _as_bytes(orjson.loads(entry.body)) if meta.get("text") else entry.body
        return Reply(Head(200, _read_headers(meta.get("headers"))), content, content)

    def encode_chunk(self, chunk: Any) -> bytes:
        if isinstance(chunk, Head):
            kept = [[name.decode("latin-1"), text.decode("latin-1")] for name, text in _kept(chunk.headers)]
            return orjson.dumps([chunk.status, kept])
        if isinstance(chunk, Piece):
            return orjson.dumps({"bytes": chunk.decode("latin-1")})
        try:
            return orjson.dumps(chunk.decode())
        except UnicodeDecodeError:
            return orjson.dumps({"bytes": chunk.decode("latin-1")})

    def decode_chunk(self, body: bytes) -> Any:
        chunk = orjson.loads(body)
        if type(chunk) is str:
            return chunk.encode()
        if type(chunk) is list:
            status, headers = chunk
            return Head(int(status), _read_headers(headers))
        if type(chunk) is dict:
            return Piece(_as_bytes(chunk.get("bytes")))
        raise ValueError(f"a {type(chunk).__name__} is no chunk of a stream")

    def carry(self, response: Completion) -> Any:
        return response

    def stream(self, response: CompletionStream) -> Any:
        return response


class Piece(bytes):
    """Bytes of a stream that has no events."""


def decoded_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Without those that speak of a body as it travels."""
    return [pair for pair in headers if pair[0].lower() not in _BODY_HEADERS]


def status_headers(status: CacheStatus, answered: int | None = None) -> Headers:
    """Cache-Status (RFC 9211), and Age for what came from the cache.

    answered: the HTTP status with which the upstream answered this very call, where it is known.
    """
    if status.outcome == "hit" and status.key and not status.reason:  # the same as below, in one step
        ttl = status.ttl
        return [*_headers_of_hit(status.key, None if ttl is None else int(ttl), int(status.age))]
    found = status.outcome in ("hit", "stale", "semantic")
    words = ["asynccache", "hit" if found else f"fwd={_forwarded(status)}"]
    if found:
        if status.outcome == "stale":
            words.append("ttl=-1")
        elif status.ttl is not None:
            words.append(f"ttl={int(status.ttl)}")
    else:
        words += [] if answered is None else [f"fwd-status={answered}"]
        words += ["collapsed"] if status.outcome == "coalesced" else []
        words += ["stored"] if status.stored else []
    if status.key:
        words.append(f'key="{status.key}"')
    detail = "semantic" if status.outcome == "semantic" else status.reason
    if detail:
        words.append(f'detail="{_quotable(detail)}"')
    told = [(b"cache-status", "; ".join(words).encode("ascii"))]
    return [*told, (b"age", b"%d" % status.age)] if found else told


@lru_cache(1024)
def _headers_of_hit(key: str, ttl: int | None, age: int) -> Headers:
    """For a second they are the same for all hits of an entry."""
    until = "" if ttl is None else f"; ttl={ttl}"
    return [(b"cache-status", f'asynccache; hit{until}; key="{key}"'.encode("ascii")), (b"age", b"%d" % age)]


def _forwarded(status: CacheStatus) -> str:
    if status.outcome == "bypass":
        return "bypass"
    if status.reason.startswith("partial"):
        return "partial"
    reasons = {"expired": "stale", "max-age": "stale", "no-cache": "request", "absent": "uri-miss"}
    return reasons.get(status.reason, "uri-miss" if status.outcome == "coalesced" else "miss")


def _quotable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:200]).replace("\\", "\\\\").replace('"', '\\"')


def _kept(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name.lower(), value) for name, value in headers if name.lower() in KEPT_HEADERS]


def _read_headers(stored: Any) -> Headers:
    """From an entry: data, which cannot bring a header that is not one of those kept."""
    if stored == _USUAL:
        return [(b"content-type", _JSON_TYPE)]
    if not isinstance(stored, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in stored):
        raise ValueError("the headers of a stored answer cannot be read")
    found = [(_as_bytes(name), _as_bytes(value)) for name, value in stored]
    return [pair for pair in found if pair[0] in KEPT_HEADERS and not {10, 13, 0} & set(pair[1])]


def _as_bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"a {type(text).__name__} where a text was stored")
    return text.encode("latin-1")
