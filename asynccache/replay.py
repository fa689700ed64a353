"""An entry → what its caller gets: as it was stored, or across the border between whole and streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from asynccache.model import Entry, Request
from asynccache.pace import Pace, Paced, delays
from asynccache.streams import Replay, split


class OtherKind(ValueError):
    """The entry does not make an answer of the kind that is asked for."""


def value_of(entry: Entry, request: Request) -> Any:
    """A recorded stream as a whole answer of this caller's own type. Raises OtherKind when it makes none."""
    answers = request.target.answers
    try:
        whole = request.target.call_type.assemble([orjson.loads(chunk) for chunk in split(entry.body)])
        body = orjson.dumps(whole)
        try:
            return answers.decode(Entry(body, "completion", entry.created))
        except ValueError:
            # What strays from the types is read as the client reads it from the wire.
            return answers.decode(Entry(body, "completion", entry.created, meta={"loose": True}))
    except Exception as error:  # a server's own dialect, that was recorded as it came and can be replayed so
        raise OtherKind(str(error)) from error


def stream_of(entry: Entry, request: Request, pace: Pace) -> AsyncIterator[Any]:
    """The answer in chunks of this caller's own type. Raises OtherKind when it does not make them."""
    call_type, decode = request.target.call_type, request.target.answers.decode_chunk
    try:
        if entry.kind == "stream":
            chunks = call_type.fit(split(entry.body), entry.meta.get("asked"), request.params)
        else:
            chunks = [orjson.dumps(chunk) for chunk in call_type.cut(orjson.loads(entry.body), request.params)]
    except Exception as error:  # as above
        raise OtherKind(str(error)) from error
    waits = delays(pace, len(chunks), entry.meta)
    replay = Replay(chunks, decode)
    return Paced(replay, waits) if waits else replay
