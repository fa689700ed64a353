"""Server-sent events as bytes: where one ends, and what it says. Pure.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from typing import NamedTuple

_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(r"\r\n|\n|\r")
_LONGEST_END = 4
_LAST = tuple(
    f"{field}:{space}{word}".encode()
    for field, word in (
        ("data", "[DONE]"),
        ("event", "message_stop"),
        ("event", "response.completed"),
        ("event", "response.incomplete"),
        ("event", "response.failed"),
    )
    for space in ("", " ")
)
_LIMIT = 16 * 2**20


class Event(NamedTuple):
    """name: "" when it has none. data: None for a comment, and for whatever else says nothing."""

    name: str
    data: str | None


class Splitter:
    """Bytes, cut anywhere → events, each with the blank line that ends it. Joined, they are the bytes again.

    An event is given as soon as it is whole. A line break that was cut in two (CR | LF) may leave its second half in
    front of the next event, which reads the same. What grows beyond `limit` bytes is given as far as it has come.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> list[bytes]:
        rest, events = self._rest, []
        rest += data
        begin, at = 0, max(0, self._seen - _LONGEST_END + 1)
        while (end := _EVENT_END.search(rest, at)) is not None:
            events.append(bytes(rest[begin : end.end()]))
            begin = at = end.end()
        del rest[:begin]
        if len(rest) > self._limit:
            events.append(self.rest())
        self._seen = len(rest)
        return events

    def rest(self) -> bytes:
        """What came after the last event that was whole."""
        left = bytes(self._rest)
        self._rest.clear()
        self._seen = 0
        return left


def is_last(event: bytes) -> bool:
    """Whether this is how providers say that nothing more will come. Many SDKs stop reading there."""
    return event.startswith(_LAST)


def read(text: str) -> Event:
    """What an event says."""
    name, data = "", []
    for line in _LINE_END.split(text.removeprefix("\ufeff")):
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif field == "event":
            name = value.removeprefix(" ")
    return Event(name, "\n".join(data) if data else None)


def write(data: str, name: str = "") -> str:
    """An event that says this. The data has no line breaks."""
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"
