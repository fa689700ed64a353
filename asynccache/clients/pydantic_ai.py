"""pydantic-ai: a model whose requests go through a cache.

    agent = Agent(cache.wrap(OpenAIChatModel("gpt-4o")))

What counts is what reaches the model: the messages (without their times and the ids of the run), the settings, the
tools and the output that is asked for, and the model itself with the address it is asked at.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ConfigDict, TypeAdapter
from pydantic_ai import RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from asynccache.answers import JSONAnswers
from asynccache.call_types.function import FunctionCallType
from asynccache.keys import vocal
from asynccache.model import Entry, Target
from asynccache.protocols import Verdict
from asynccache.streams import close

if TYPE_CHECKING:
    from asynccache.cache import Cache

_BYTES = ConfigDict(defer_build=True, ser_json_bytes="base64", val_json_bytes="base64")
_CHUNK: TypeAdapter[Any] = TypeAdapter(ModelResponse | PartStartEvent | PartDeltaEvent, config=_BYTES)
_PARAMETERS: TypeAdapter[ModelRequestParameters] = TypeAdapter(ModelRequestParameters)

_OF_THE_RUN = ("timestamp", "run_id", "conversation_id", "metadata", "usage", "workspace_ref", "model_id")
"""What messages and their parts say that never reaches a model."""

_INERT_SETTINGS = ("timeout", "extra_headers")
_REASONS = {"length": "length", "content_filter": "content_filter", "error": "error"}


class CachedModel(WrapperModel):
    """A model whose answers are cached, whole or streamed: one entry serves both.

    wrapped: the model, or its name as an `Agent` takes it.
    name:    keeps its entries apart from those of others.

    All of its exceptions are those of the wrapped model.
    """

    def __init__(self, wrapped: Model | str, cache: Cache, *, name: str | None = None) -> None:
        super().__init__(wrapped)
        self.cache = cache
        self._name = name or ""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        async def call(**_: Any) -> ModelResponse:
            return await self.wrapped.request(messages, model_settings, model_request_parameters)

        cached = self.cache.around(call, self._target(call))
        answer: ModelResponse = await cached(**self._asked(messages, model_settings, model_request_parameters))
        return answer

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        async def events() -> AsyncGenerator[Any]:
            opened = self.wrapped.request_stream(messages, model_settings, model_request_parameters, run_context)
            async with opened as stream:
                yield stream.timestamp  # it is open: what refuses the request is raised before there is a stream
                async for event in stream:
                    if isinstance(event, PartStartEvent | PartDeltaEvent):  # the others follow from these
                        yield event
                yield stream.get()

        async def call(**_: Any) -> AsyncGenerator[Any]:
            stream = events()
            await anext(stream)
            return stream

        cached = self.cache.around(call, self._target(call))
        asked = self._asked(messages, model_settings, model_request_parameters)
        chunks = await cached(**asked, stream=True)
        try:
            yield _Streamed(model_request_parameters, chunks, self.wrapped)
        finally:
            await close(chunks)

    def _target(self, call: Any) -> Target:
        return Target(call=call, call_type=_CALL_TYPE, answers=_ANSWERS, endpoint=f"pydantic_ai {self._name}".rstrip())

    def _asked(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> dict[str, Any]:
        """The arguments that count. An argument without a stable value is found when the key is built."""
        told: dict[str, Any] = {**(self.wrapped.settings or {}), **(settings or {})}
        return {
            "model": self.wrapped.model_id,
            "base_url": self.wrapped.base_url,
            "messages": _messages(messages),
            "settings": {name: value for name, value in told.items() if name not in _INERT_SETTINGS},
            "headers": vocal(told.get("extra_headers")),
            "parameters": _PARAMETERS.dump_python(parameters, warnings=False),
        }


def wrap(cache: Cache, target: Any, name: str | None) -> Any:
    """The model, cached; None for anything else of pydantic-ai."""
    return CachedModel(target, cache, name=name) if isinstance(target, Model) else None


def _messages(messages: list[ModelMessage]) -> list[Any]:
    """As they are sent."""
    told = ModelMessagesTypeAdapter.dump_python(messages, warnings=False)
    return [{**_without(message), "parts": [_without(part) for part in message["parts"]]} for message in told]


def _without(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in _OF_THE_RUN}


class _PydanticAICallType(FunctionCallType):
    """A stream is its events and, last, the whole answer."""

    name = "chat"

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping) or answer.get("kind") != "response":
            return Verdict("unfinished")
        facts = {fact: answer[name] for fact, name in (("model", "model_name"), ("usage", "usage")) if answer.get(name)}
        if answer.get("state", "complete") != "complete":
            return Verdict("unfinished", facts)
        if not answer.get("parts"):
            return Verdict("empty", facts)
        return Verdict(_REASONS.get(answer.get("finish_reason") or "", ""), facts)

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        return self.judge(chunks[-1]) if chunks else Verdict("empty")

    def assemble(self, chunks: Sequence[Any]) -> Any:
        if not chunks or chunks[-1].get("kind") != "response":
            raise ValueError("a stream without its end")
        return chunks[-1]

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:  # noqa: ARG002
        starts = [
            {"event_kind": "part_start", "index": index, "part": part} for index, part in enumerate(answer["parts"])
        ]
        return [*starts, answer]


class _ResponseAnswers(JSONAnswers):
    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        if not isinstance(value, ModelResponse):
            raise ValueError(f"a {type(value).__name__} where a ModelResponse was promised")
        return self.encode_chunk(value), {}

    def decode(self, entry: Entry) -> Any:
        return self.decode_chunk(entry.body)

    def encode_chunk(self, chunk: Any) -> bytes:
        body = orjson.dumps(orjson.loads(_CHUNK.dump_json(chunk, warnings=False)))
        if self.decode_chunk(body) != chunk:
            raise ValueError(f"a {type(chunk).__name__} would not come back from JSON as it was")
        return body

    def decode_chunk(self, body: bytes) -> Any:
        chunk = _CHUNK.validate_json(body)
        # The one value in there that is no JSON: the library writes it as a text, and reads that as a text.
        details = chunk.provider_details if isinstance(chunk, ModelResponse) else None
        if details and isinstance(when := details.get("timestamp"), str):
            with suppress(ValueError):
                details["timestamp"] = datetime.fromisoformat(when)
        return chunk


_CALL_TYPE = _PydanticAICallType()
_ANSWERS = _ResponseAnswers()


@dataclass
class _Streamed(StreamedResponse):
    """A stream made of its events, and of the whole answer, which comes last."""

    chunks: AsyncIterator[Any]
    model: Model

    def __post_init__(self) -> None:
        self._whole: ModelResponse | None = None
        self._opened = datetime.now(UTC)

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        async for chunk in self.chunks:
            if isinstance(chunk, ModelResponse):
                self._end(chunk)
            else:
                self._parts_manager.apply_event(chunk)
                yield chunk

    def _end(self, whole: ModelResponse) -> None:
        self._whole = whole
        self.state = whole.state
        self.finish_reason = whole.finish_reason
        self.provider_response_id = whole.provider_response_id
        self.provider_details = whole.provider_details
        self.canonical_system = whole.canonical_system
        self.metadata = whole.metadata

    async def close_stream(self) -> None:
        await close(self.chunks)

    def get(self) -> ModelResponse:
        response = super().get()
        if self._whole is None:
            return response
        return replace(self._whole, state=response.state, failed_attempts=response.failed_attempts)

    @property
    def usage(self) -> RequestUsage:
        return RequestUsage() if self._whole is None else self._whole.usage

    @property
    def model_name(self) -> str:
        return (self._whole and self._whole.model_name) or self.model.model_name

    @property
    def provider_name(self) -> str | None:
        return self.model.system if self._whole is None else self._whole.provider_name

    @property
    def provider_url(self) -> str | None:
        return self.model.base_url if self._whole is None else self._whole.provider_url

    @property
    def timestamp(self) -> datetime:
        return self._opened if self._whole is None else self._whole.timestamp
