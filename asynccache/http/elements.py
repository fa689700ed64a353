"""Calls about several things whose answers are HTTP bodies, thing by thing. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from asynccache.http.answers import Head, Reply, decoded_headers
from asynccache.http.call_types import refusal_of
from asynccache.protocols import Parts, Split

_OF_THE_BODY = frozenset({b"etag", b"content-md5", b"digest", b"content-digest", b"repr-digest"})


class HTTPParts:
    """The parts of JSON bodies.

    The answer to a whole list is given byte for byte as it came, and that to a list of one also comes again so. Any
    other is put together: the same JSON, in other bytes.

    inner:    the parts of what the bodies say.
    asked:    the fields of a request that mean the same for each thing alone. A list with another one is kept whole:
              it may make each thing's answer depend on those beside it.
    answered: the fields of an answer that can be told of a part of it. Answers with others are kept whole.
    """

    def __init__(self, inner: Parts, *, asked: frozenset[str], answered: frozenset[str]) -> None:
        self._inner = inner
        self._asked = asked
        self._answered = answered

    def split(self, params: Mapping[str, Any]) -> Split | None:
        return self._inner.split(params) if params.keys() <= self._asked else None

    def alone(self, params: Mapping[str, Any], thing: Any) -> dict[str, Any]:
        return self._inner.alone(params, thing)

    def join(self, params: Mapping[str, Any], alone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return self._inner.join(params, alone)

    def divide(self, answer: Any, alone: Sequence[Mapping[str, Any]]) -> list[Any]:
        if not answer.keeps:
            raise ValueError("an answer that is passed on, and not kept")
        said = self._read(answer)
        parts = self._inner.divide(said, alone)
        if parts == [said]:
            return [answer]
        return [Part(answer, place, len(parts), orjson.dumps(part)) for place, part in enumerate(parts)]

    def unite(self, answers: Sequence[Any], places: Sequence[int], latest: int) -> Any:
        if (whole := _whole(answers, places)) is not None:
            return whole
        united = self._inner.unite([self._read(answer) for answer in answers], places, latest)
        if len(places) == 1 and united == orjson.loads(answers[0].text):
            return answers[0]
        content, head = orjson.dumps(united), answers[latest].head
        headers = [pair for pair in decoded_headers(head.headers) if pair[0].lower() not in _OF_THE_BODY]
        return Reply(Head(head.status, headers), content, content, extensions=answers[latest].extensions)

    def _read(self, answer: Reply) -> Any:
        said = orjson.loads(answer.text)
        if refusal := refusal_of(said):
            raise ValueError(f"an answer that is not kept: {refusal}")
        if isinstance(said, Mapping) and (unknown := said.keys() - self._answered):
            raise TypeError(f"an answer with {min(unknown)!r}, which may be about all of its parts")
        return said


class Part(Reply):
    """What a whole answer says of one of the things it is about.

    whole: that answer. place: which of the things it is. number: how many they are.
    """

    __slots__ = ("_made", "number", "place", "whole")

    def __init__(self, whole: Reply, place: int, number: int, text: bytes) -> None:
        head = Head(whole.head.status, decoded_headers(whole.head.headers))
        super().__init__(head, text, text, extensions=whole.extensions)
        self.whole = whole
        self.place = place
        self.number = number
        self._made = text

    @property
    def unchanged(self) -> bool:
        """Whether it says what the whole answer does, and no hook has put something else in."""
        return self.content is self.text is self._made


def _whole(answers: Sequence[Any], places: Sequence[int]) -> Reply | None:
    """The answer that these are all the parts of, in their order; None when there is none."""
    first = answers[0]
    if not isinstance(first, Part) or list(places) != list(range(first.number)):
        return None
    for place, part in enumerate(answers):
        if not (isinstance(part, Part) and part.whole is first.whole and part.place == place and part.unchanged):
            return None
    return first.whole
