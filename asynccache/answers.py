"""One wrapped callable's answers ⇄ JSON.

Which type to rebuild comes from the callable (a client's known types, a return annotation,
`wrap(f, returns=T)`), never from an entry: an entry is data and can never choose code. An answer
that would not come back equal is not stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, get_origin

import orjson
from orjson import loads

from asynccache.model import CacheStatus, Completion, CompletionStream, Entry
from asynccache.streams import AnswerStream

_STATUS = "_asynccache_status"


class AnswerDict(dict[str, Any]):
    """A dict answer that carries its status."""

    __slots__ = ("_asynccache_status",)

    _asynccache_status: CacheStatus


def status(answer: Any) -> CacheStatus:
    """How this answer came about. The answer is what a wrapped call returned: an SDK's object, a
    dict, a stream.

    Raises TypeError for an answer that did not come through a cache, or that nothing can be
    attached to (a str, a list, a number).
    """
    found = getattr(answer, _STATUS, None)
    if isinstance(found, CacheStatus):
        return found
    raise TypeError(
        f"no cache status on this {type(answer).__name__}: it did not come from a wrapped call, "
        "or its type cannot carry one (only objects, dicts and streams can)"
    )


class JSONAnswers:
    """Answers that are plain JSON already. `hint` says what to do for those that are not."""

    def __init__(self, hint: str = "") -> None:
        self._hint = hint

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        return self.encode_chunk(value), {}

    def decode(self, entry: Entry) -> Any:
        return loads(entry.body)

    def encode_chunk(self, chunk: Any) -> bytes:
        try:
            body = orjson.dumps(chunk)
        except TypeError as error:
            raise ValueError(f"{error}{self._hint}") from error
        if orjson.loads(body) != chunk:
            raise ValueError(f"a {type(chunk).__name__} would not come back from JSON as it was{self._hint}")
        return body

    def decode_chunk(self, body: bytes) -> Any:
        return orjson.loads(body)

    def carry(self, response: Completion) -> Any:
        """The value with the status on it, as far as its type allows."""
        value = response.value
        if type(value) is dict:
            value = AnswerDict(value)
            value._asynccache_status = response.status
            return value
        try:
            # Past pydantic's __setattr__: it is none of the model's fields.
            value.__dict__["_asynccache_status"] = response.status
        except (AttributeError, TypeError):
            pass  # a str, a list, a number, an object with slots: goes without
        return value

    def stream(self, response: CompletionStream) -> AsyncIterator[Any]:
        return AnswerStream(response.chunks, response.status, response.source)


class ModelAnswers(JSONAnswers):
    """Answers that are pydantic models, of one type each for whole answers and for chunks.

    construct: (type, JSON value) → object without validation: how the client itself reads the wire.
               Used for chunks, and for an answer that strays so far from its type that validation
               would refuse or change it.
    """

    def __init__(self, model: Any, chunk: Any = None, *, construct: Callable[[Any, Any], Any] | None = None) -> None:
        super().__init__()
        self._model = model
        self._chunk = chunk
        self._construct = construct
        self._validate: Callable[[bytes], Any] = model.model_validate_json

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        if not isinstance(value, self._model):
            raise ValueError(f"a {type(value).__name__} where a {self._model.__name__} was promised")
        # What was never set stays unset, so that dumps of both are equal too; but a default that is
        # made anew for each object (an id, a time) has to be written down.
        for unset in (True, False):
            body = _dump(value, exclude_unset=unset)
            if self._equal(self._validate, body, value):
                return body, {}
            if self._construct is not None and self._equal(self._build, body, value):
                return body, {"loose": True}
        raise ValueError(f"a {type(value).__name__} would not come back from JSON as it was")

    def decode(self, entry: Entry) -> Any:
        if "loose" in entry.meta:
            return self._build(entry.body)
        return self._validate(entry.body)

    def encode_chunk(self, chunk: Any) -> bytes:
        if not callable(getattr(chunk, "model_dump_json", None)):
            raise ValueError(f"a chunk that is a {type(chunk).__name__}, not a model")
        return _dump(chunk, exclude_unset=True)

    def decode_chunk(self, body: bytes) -> Any:
        if self._construct is None:
            return self._chunk.model_validate_json(body)
        return self._construct(self._chunk, orjson.loads(body))

    def _build(self, body: bytes) -> Any:
        assert self._construct is not None
        return self._construct(self._model, orjson.loads(body))

    def same(self, again: Any, value: Any) -> bool:
        """Whether what came back from JSON is what was answered."""
        return bool(again == value)

    def _equal(self, decode: Callable[[bytes], Any], body: bytes, value: Any) -> bool:
        try:
            return self.same(decode(body), value)
        except ValueError:  # pydantic's ValidationError is one
            return False


class AdaptedAnswers(JSONAnswers):
    """Answers of any type that pydantic knows how to read: dataclasses, TypedDicts, lists of models, …"""

    def __init__(self, adapter: Any) -> None:
        super().__init__()
        self._adapter = adapter

    def encode_chunk(self, chunk: Any) -> bytes:
        body: bytes = self._adapter.dump_json(chunk, warnings=False)
        if self._adapter.validate_json(body) != chunk:
            raise ValueError(f"a {type(chunk).__name__} would not come back from JSON as it was")
        return body

    def decode(self, entry: Entry) -> Any:
        return self._adapter.validate_json(entry.body)

    def decode_chunk(self, body: bytes) -> Any:
        return self._adapter.validate_json(body)


_PLAIN = (Any, None, type(None), dict, list, str, int, float, bool, object)
_HINT = ": annotate its return type, or say wrap(f, returns=T)"


def answers_for(returns: Any) -> JSONAnswers:
    """How to rebuild answers of this type. A type that is not plain JSON needs pydantic; without it
    such answers are passed on and not stored."""
    if returns in _PLAIN or get_origin(returns) is dict:
        return JSONAnswers(_HINT)
    if isinstance(returns, type) and callable(getattr(returns, "model_validate_json", None)):
        return ModelAnswers(returns, returns)
    try:
        from pydantic import PydanticUserError, TypeAdapter
    except ImportError:
        return JSONAnswers(_HINT)
    try:
        return AdaptedAnswers(TypeAdapter(returns))
    except PydanticUserError:  # a type without a schema: its answers are passed on, and not stored
        return JSONAnswers(_HINT)


def _dump(value: Any, *, exclude_unset: bool) -> bytes:
    text: str = value.model_dump_json(by_alias=True, exclude_unset=exclude_unset, warnings=False)
    return text.encode()
