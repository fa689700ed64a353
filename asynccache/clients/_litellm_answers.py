"""LiteLLM's answers, whole and in pieces ⇄ the JSON that is kept of them: that of the API which each of its functions
speaks, so that a recorded stream answers a whole call, and the other way round."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Self, get_args

import litellm
import orjson
from litellm import EmbeddingResponse, ModelResponse, RerankResponse, TextCompletionResponse
from litellm.types.llms.openai import ResponsesAPIResponse, ResponsesAPIStreamingResponse
from litellm.types.utils import ModelResponseStream, TranscriptionResponse
from pydantic import BaseModel, TypeAdapter, ValidationError

from asynccache.answers import JSONAnswers, ModelAnswers
from asynccache.http import sse
from asynccache.model import Completion
from asynccache.streams import close


class _Answers(ModelAnswers):
    def same(self, again: Any, value: Any) -> bool:
        """By what they say: LiteLLM keeps timings and headers of the call beside it."""
        return bool(again.model_dump(warnings=False) == value.model_dump(warnings=False))

    def carry(self, response: Completion) -> Any:
        """Also says `cache_hit` where LiteLLM's users look for it, and that a hit costs nothing."""
        hidden = getattr(response.value, "_hidden_params", None)
        if isinstance(hidden, dict):
            hit = response.status.outcome not in ("miss", "bypass")
            hidden["cache_hit"] = hit
            if hit:
                hidden.update(cache_key=response.status.key, response_cost=0.0)
        return super().carry(response)


class _Transcriptions(_Answers):
    """Their type's constructor takes nothing but the text."""

    def __init__(self) -> None:
        super().__init__(TranscriptionResponse)
        self._validate = _transcription


def _transcription(body: bytes) -> TranscriptionResponse:
    fields = orjson.loads(body)
    answer = TranscriptionResponse(text=fields.pop("text", None))
    if fields.get("usage") is not None:
        usage: Any = TranscriptionResponse.model_fields["usage"].annotation
        fields["usage"] = TypeAdapter(usage).validate_python(fields["usage"])
    for name, value in fields.items():
        setattr(answer, name, value)
    return answer


# -- responses ----------------------------------------------------------------------------------------


class _Responses(_Answers):
    """Their items and events are of the types that LiteLLM reads from the API. Where it makes a response of a chat
    completion, some are of types of its own: a mark in what is kept tells those. What comes back in neither way is not
    kept."""

    def __init__(self) -> None:
        super().__init__(ResponsesAPIResponse)
        self._validate = self._read
        self._own_items = TypeAdapter(get_args(ResponsesAPIResponse.model_fields["output"].annotation)[-1])
        self._own_events = _own_events()

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        if not isinstance(value, ResponsesAPIResponse):
            raise ValueError(f"a {type(value).__name__} where a ResponsesAPIResponse was promised")
        return self._kept(value, self._read), {}

    def encode_chunk(self, chunk: Any) -> bytes:
        if not isinstance(chunk, BaseModel):
            raise ValueError(f"a chunk that is a {type(chunk).__name__}, not a model")
        return self._kept(chunk, self.decode_chunk)

    def decode_chunk(self, body: bytes) -> Any:
        event = orjson.loads(body)
        own, beside = _unmarked(event)
        kind = self._own_events[event["type"]] if own else _kind_on_the_wire(event)
        if isinstance(response := event.get("response"), dict) and MARK in response:
            event["response"] = self._response(response)
        try:
            made = kind(**event)
        except ValidationError:
            made = kind.model_construct(**event)  # as LiteLLM does
        made.__dict__.update(beside)
        return made

    def _read(self, body: bytes) -> Any:
        return self._response(orjson.loads(body))

    def _response(self, fields: dict[str, Any]) -> Any:
        own, beside = _unmarked(fields)
        if own:
            for part in _texts(fields):
                if part.get("logprobs", ...) is None:
                    del part["logprobs"]
            fields["output"] = self._own_items.validate_python(fields["output"])
        made = ResponsesAPIResponse(**fields)
        made.__dict__.update(beside)
        return made

    def _kept(self, value: Any, decode: Callable[[bytes], Any]) -> bytes:
        """The form that comes back with all types as they were; else one that says the same."""
        for same in (_alike, self.same):
            for body in _forms(value):
                try:
                    again = decode(body)
                except (KeyError, ValueError):  # it has no such form; pydantic's ValidationError is one
                    continue
                if type(again) is type(value) and same(again, value):
                    return body
        raise ValueError(f"a {type(value).__name__} would not come back from JSON as it was")


MARK = "litellm"
"""Stands in what is kept of an event, or of a response, whose types are LiteLLM's own. It names what LiteLLM has put
beside the fields of the model."""


def _forms(value: BaseModel) -> Iterator[bytes]:
    for unset in (True, False):
        body = value.model_dump_json(by_alias=True, exclude_unset=unset, warnings=False).encode()
        yield body
        fields = orjson.loads(body)
        yield orjson.dumps(_marked(fields, value))
        if isinstance(response := getattr(value, "response", None), BaseModel):
            fields["response"] = _marked(fields["response"], response)
            yield orjson.dumps(fields)
            yield orjson.dumps(_marked(fields, value))


def _marked(fields: dict[str, Any], value: BaseModel) -> dict[str, Any]:
    """With what LiteLLM has put beside the fields of the model, such as the number of an event."""
    known = type(value).model_fields
    beside = {
        name: said
        for name, said in vars(value).items()
        if name not in known and not name.startswith("_") and isinstance(said, str | int | float | None)
    }
    for part in _texts(fields):
        part.setdefault("logprobs", None)  # which it has in the events of a stream
    return {**fields, **beside, MARK: list(beside)}


def _texts(response: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of its messages that are texts."""
    for item in response.get("output") or ():
        for part in (item.get("content") if isinstance(item, dict) else None) or ():
            if isinstance(part, dict) and part.get("type") == "output_text":
                yield part


def _unmarked(fields: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether there was a mark, and what is to stand beside the fields. Takes both out."""
    names = fields.pop(MARK, None)
    return names is not None, {name: fields.pop(name) for name in names or ()}


def _alike(a: Any, b: Any) -> bool:
    """Equal, and of equal types all the way down; but for what a model keeps to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, BaseModel):
        return _alike(_open(a), _open(b)) and _alike(a.__pydantic_extra__, b.__pydantic_extra__)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(item, b[name]) for name, item in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return bool(a == b)


def _open(model: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in vars(model).items() if not name.startswith("_")}


def _kind_on_the_wire(event: Mapping[str, Any]) -> Any:
    return litellm.OpenAIResponsesAPIConfig.get_event_model_class(event_type=str(event.get("type")))


def _own_events() -> dict[str, Any]:
    """What an event says its type is → LiteLLM's class for it, also where it reads another from the wire."""
    found: dict[str, Any] = {}
    for kind in get_args(get_args(ResponsesAPIStreamingResponse)[0]):
        said = kind.model_fields.get("type")
        for name in () if said is None else get_args(said.annotation):
            found[str(getattr(name, "value", name))] = kind
    return found


# -- messages -----------------------------------------------------------------------------------------


class _Messages(JSONAnswers):
    """Dicts; and the server-sent events of streams, as bytes (see `MessageEvents`)."""

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        return super().encode_chunk(value), {}

    def encode_chunk(self, chunk: Any) -> bytes:
        if not isinstance(chunk, bytes):
            raise ValueError(f"a {type(chunk).__name__} where the bytes of an event are wanted")
        said = sse.read(chunk.decode())
        event = orjson.loads(said.data or "")
        if not isinstance(event, Mapping) or said.name not in ("", event.get("type")):
            raise ValueError("an event that is none of a message")
        return orjson.dumps(event)

    def decode_chunk(self, body: bytes) -> Any:
        event = orjson.loads(body)
        return sse.write(json.dumps(event), event["type"]).encode()  # written as LiteLLM writes its own


class MessageEvents:
    """A stream of bytes, cut anywhere → the same bytes, cut after each event. A comment comes with the event that
    follows it. Whatever else the stream has is found here too."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._splitter = sse.Splitter()
        self._begun = b""  # comments before an event
        self._ready: deque[Any] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._ready:
            try:
                chunk = await self._stream.__anext__()
            except StopAsyncIteration:
                self._flush()
                if not self._ready:
                    raise
            else:
                self._take(chunk)
        return self._ready.popleft()

    async def aclose(self) -> None:
        await close(self._stream)

    def _take(self, chunk: Any) -> None:
        if not isinstance(chunk, bytes):  # it is passed on as it is, in its turn
            self._flush()
            self._ready.append(chunk)
            return
        for event in self._splitter.feed(chunk):
            self._begun += event
            if sse.read(event.decode(errors="replace")).data is not None:
                self._ready.append(self._begun)
                self._begun = b""

    def _flush(self) -> None:
        rest, self._begun = self._begun + self._splitter.rest(), b""
        if rest.strip():
            self._ready.append(rest)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_stream" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._stream, name)


def in_events(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The same async function, whose streams of bytes are cut into events."""

    async def call(**params: Any) -> Any:
        answer = await function(**params)
        return MessageEvents(answer) if hasattr(answer, "__anext__") else answer

    return call


ANSWERS: dict[str, JSONAnswers] = {
    "completion": _Answers(ModelResponse, ModelResponseStream),
    "text_completion": _Answers(TextCompletionResponse, TextCompletionResponse),
    "embedding": _Answers(EmbeddingResponse),
    "transcription": _Transcriptions(),
    "rerank": _Answers(RerankResponse),
    "responses": _Responses(),
    "anthropic_messages": _Messages(),
}
"""By LiteLLM's functions."""

STREAMED = frozenset({"completion", "text_completion", "responses", "anthropic_messages"})
"""Those whose streams are kept."""
