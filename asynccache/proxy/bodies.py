"""Requests' bodies, and clients that are too slow, too much, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message, Receive, Send

from asynccache.call_types.transcription import NamedBytes
from asynccache.http.calls import loads
from asynccache.proxy.problems import Problem

_JSON = (b"application/json", b"text/json")
_FORM = b"multipart/form-data"
_FIELDS = 100
_SPARE = 4  # times the limit
_LINGER = 10.0  # seconds
_TICK = 0.05
"""Seconds after which it is looked who is late, and whether clients are still there."""


Rest = Callable[[], Awaitable[None]]


class Gone(Exception):
    """The client has left: nobody waits for an answer."""


class Patience:
    """How long and how large the body of a request may be.

    limit: bytes. seconds: from the end of the headers to the end of the body.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self._watches = Watches(seconds)

    def watch(self, receive: Receive) -> Watch:
        """For one request: `with patience.watch(receive) as watch`."""
        return Watch(self._watches, receive)

    async def whole(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        """The body. Raises Problem (413) and Gone."""
        self.check(headers)
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
            if len(body) > self.limit:
                raise self.too_large()
            return body
        pieces, size = [], 0
        while True:
            piece = _piece(message)
            size += len(piece)
            if size > self.limit:
                raise self.too_large()
            pieces.append(piece)
            if not message.get("more_body"):
                return b"".join(pieces)
            message = await receive()

    async def pieces(self, receive: Receive, headers: Mapping[bytes, bytes]) -> AsyncIterator[bytes]:
        """The body as it comes. Raises as `whole` does, and Problem (408) when nothing comes for so long."""
        self.check(headers)
        size = 0
        while True:
            try:
                async with asyncio.timeout(self.seconds):
                    message = await receive()
            except TimeoutError:
                raise self.too_slow() from None
            piece = _piece(message)
            size += len(piece)
            if size > self.limit:
                raise self.too_large()
            if piece:
                yield piece
            if not message.get("more_body"):
                return

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse by what the headers announce. Raises Problem (413)."""
        length = headers.get(b"content-length")
        if length is not None and (not length.isdigit() or len(length) > 18 or int(length) > self.limit):
            raise self.too_large()

    def rest(self, receive: Receive, problem: Problem) -> Rest | None:
        """What is to be done when a body was refused before it was read: a client that is still sending it would find
        the connection reset, and never see why. So some more of it is taken, and thrown away."""
        if problem.status != 413:
            return None

        async def read() -> None:
            left = _SPARE * self.limit
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self.seconds, _LINGER)):
                    while left > 0:
                        message = await receive()
                        if message["type"] != "http.request" or not message.get("more_body"):
                            return
                        left -= len(message.get("body", b""))

        return read

    def too_large(self) -> Problem:
        # After that the connection cannot be used again.
        return Problem(
            413,
            f"the body is larger than {self.limit} bytes (proxy.max_body_bytes)",
            code="request_too_large",
            headers=[(b"connection", b"close")],
        )

    def too_slow(self) -> Problem:
        return Problem(
            408,
            f"the body did not come within {self.seconds:g} seconds (proxy.body_timeout)",
            code="request_timeout",
            headers=[(b"connection", b"close")],
        )


class Watches:
    """Looks after the requests under way, all with one timer: one for each would cost a hit more than its look-up.

    seconds: that a body may take to come, and a piece of an answer to be taken.
    """

    def __init__(self, seconds: float) -> None:
        self.ticks = 0
        self._most = max(1, round(seconds / _TICK))
        self._watches: dict[Watch, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, watch: Watch) -> None:
        self._watches[watch] = None
        if self._loop is not watch.loop:
            self._loop = watch.loop
            self._loop.call_later(_TICK, self._tick, self._loop)

    def remove(self, watch: Watch) -> None:
        self._watches.pop(watch, None)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        self.ticks += 1
        for watch in list(self._watches):
            watch.look(self.ticks, self._most)
        if self._watches:
            loop.call_later(_TICK, self._tick, loop)
        else:
            self._loop = None


class Watch:
    """Cancels the task of a request whose body does not come, whose client takes nothing of what is sent, or, once
    `answering` was called, has left.

    Whoever catches the cancellation asks `over`, which ends it: then it was this one.
    """

    __slots__ = (
        "_answering",
        "_hands_off",
        "_receive",
        "_sending",
        "_since",
        "_task",
        "_watches",
        "_watching",
        "gone",
        "late",
        "loop",
    )

    def __init__(self, watches: Watches, receive: Receive) -> None:
        self._watches = watches
        self._receive = receive
        self._watching: asyncio.Task[None] | None = None
        self._answering = self._hands_off = False
        self._sending = -1
        self.gone = False
        self.late = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self.loop = task.get_loop()
        self._since = self._watches.ticks
        self._watches.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watches.remove(self)
        if self._watching is not None:
            self._watching.cancel()

    def uploading(self) -> None:
        """The body is read by somebody who sees to its pace, until `answering` is called."""
        self._hands_off = True

    def answering(self) -> None:
        """The body is there: nobody else receives from now on."""
        self._hands_off = False
        self._answering = True
        self._since = self._watches.ticks

    async def send(self, send: Send, message: Message) -> None:
        """Send a piece of an answer, for which a client must have room at some time."""
        self._sending = self._watches.ticks
        await send(message)
        self._sending = -1

    def over(self) -> bool:
        """Whether the cancellation that was caught came from here; it ends with this."""
        if not (self.gone or self.late):
            return False
        self._task.uncancel()
        return True

    def look(self, ticks: int, most: int) -> None:
        """Called again and again. A hit has been answered before it is called twice."""
        if self._sending >= 0 and ticks - self._sending > most and not self.gone:
            self.gone = True
            self._task.cancel()
        if self._hands_off or self.gone:
            return
        if self._answering:
            if self._watching is None and ticks - self._since > 1:
                self._watching = self.loop.create_task(self._watch())
        elif ticks - self._since > most and not self.late:
            self.late = True
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._task.cancel()


def read_json(body: bytes, headers: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The fields of a body. Raises Problem (400, 415)."""
    kind = headers.get(b"content-type", b"").lower()
    if not kind.startswith(_JSON):
        raise Problem(415, "the body has to be JSON: content-type: application/json", code="unsupported_media_type")
    _check_encoding(headers)
    try:
        fields = loads(body)
    except ValueError as error:
        # Of the error only where it is, since it may quote the body.
        place = (
            f"line {error.lineno}, column {error.colno}" if isinstance(error, orjson.JSONDecodeError) else "somewhere"
        )
        raise Problem(400, f"the body is no JSON ({place})", code="invalid_json") from None
    if type(fields) is not dict:
        raise Problem(400, "the body has to be a JSON object", code="invalid_json")
    return fields


async def read_form(body: bytes, headers: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The fields of a form; a file is bytes that know their name, so that only its content counts. A field that is
    there more than once is a list. Raises Problem (400, 415)."""
    kind = headers.get(b"content-type", b"")
    if not kind.lower().startswith(_FORM):
        raise Problem(
            415, "the body has to be a form: content-type: multipart/form-data", code="unsupported_media_type"
        )
    _check_encoding(headers)

    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _Parser(Headers(raw=[(b"content-type", kind)]), once(), max_fields=_FIELDS, max_part_size=len(body) + 1)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Problem(400, f"the form cannot be read: {error}", code="invalid_form") from None
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(form):
        values = [await _value(value) for value in form.getlist(name)]
        fields[name] = values if len(values) > 1 or name.endswith("[]") else values[0]
    await form.close()
    if (streamed := fields.get("stream")) is not None:
        fields["stream"] = streamed in ("true", "True", "1")
    return fields


class _Parser(MultiPartParser):
    spool_max_size = 2**62  # it is in memory already; a file on the disk would be in the way of the event loop


async def _value(value: UploadFile | str) -> Any:
    if isinstance(value, str):
        return value
    content = NamedBytes(await value.read())
    content.given = (value.filename or "", bytes(content), value.content_type or "application/octet-stream")
    return content


def _check_encoding(headers: Mapping[bytes, bytes]) -> None:
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem(415, "the body has to come without a content-encoding", code="unsupported_media_type")


def _piece(message: Message) -> bytes:
    if message["type"] != "http.request":
        raise Gone
    piece: bytes = message.get("body", b"")
    return piece
