"""What LiteLLM tells a cache of a call (its keyword arguments, and much of its own beside them) → what counts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import litellm
from litellm.types.utils import all_litellm_params

from asynccache.call_types import CALL_TYPES
from asynccache.call_types.transcription import by_content
from asynccache.keys import INERT
from asynccache.model import Target
from asynccache.protocols import Answers
from asynccache.targets import function_target

FUNCTIONS = {
    "completion": "chat",
    "text_completion": "text_completion",
    "embedding": "embedding",
    "transcription": "transcription",
    "rerank": "rerank",
    "responses": "responses",
    "anthropic_messages": "messages",
}
"""LiteLLM's functions that can be cached, without the "a" of their async twins → our call types."""

SUPPORTED = [name for plain in FUNCTIONS for name in (plain, f"a{plain}")]
"""What a cache of LiteLLM's supports unless told otherwise."""

_COUNTING = frozenset(
    {
        "api_base",
        "api_version",
        "allowed_openai_params",
        "assistant_continue_message",
        "bos_token",
        "custom_llm_provider",
        "custom_prompt_dict",
        "data_residency",
        "ensure_alternating_roles",
        "eos_token",
        "final_prompt_value",
        "guardrails",
        "hf_model_name",
        "litellm_system_prompt",
        "mock_response",
        "output_vector_size",
        "prompt_environment",
        "prompt_id",
        "prompt_label",
        "prompt_variables",
        "prompt_version",
        "provider_specific_header",
        "region_name",
        "roles",
        "search_tool_name",
        "supports_system_message",
        "user_continue_message",
    }
)
"""Those of LiteLLM's own arguments that can change the answer."""

_BESIDE = frozenset(
    {
        "cache_key",
        "call_type",
        "dynamic_cache_object",
        "litellm_params",
        "metadata",
        "litellm_metadata",
        "parent_otel_span",
        "stream",
        "stream_options",
        "user_api_key",
        "user_api_key_team_id",
        "user_api_key_org_id",
    }
)
"""What stands beside the arguments of a call, or says how its answer travels."""

# What `INERT` names stays, for key builders that ask whose call it is.
_SILENT = (frozenset(all_litellm_params) - _COUNTING - (INERT - {"cache", "caching", "litellm_logging_obj"})) | _BESIDE

_PLACES = frozenset(
    {
        "api_base",
        "api_key",
        "api_version",
        "base_url",
        "client",
        "custom_llm_provider",
        "organization",
        "region_name",
    }
)
"""Where a deployment is: those of one group of a Router answer for one another."""

_OF_RESPONSES = frozenset({"instructions", "max_output_tokens", "previous_response_id", "reasoning", "text", "tools"})


class Targets:
    """The target of each kind of call, as `wrap` has it, so that both find the same entries."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._made: dict[str, Target] = {}

    def of(self, kind: str) -> Target:
        if kind not in self._made:
            self._made[kind] = self._make(kind)
        return self._made[kind]

    def _make(self, kind: str) -> Target:
        if kind in (EVENTS, NAMED):
            return Target(_nobody, CALL_TYPES["function"], self._answers, endpoint=f"litellm.{kind}")
        plain = next(name for name, call_type in FUNCTIONS.items() if call_type == kind)
        call_type = CALL_TYPES[kind]
        return function_target(
            litellm.arerank if kind == "rerank" else getattr(litellm, plain),
            _nobody,
            call_type=call_type,
            answers=self._answers,
            name="",
            keep_out=call_type.keep_out,
        )


EVENTS = "anthropic_messages.events"
"""Streams of Anthropic messages, which LiteLLM keeps as the events that came."""

NAMED = "cache_key"
"""Calls that name their key themselves."""


async def _nobody(**_: Any) -> Any:
    raise AssertionError("LiteLLM makes the calls")


def kind_of_call(kwargs: Mapping[str, Any]) -> str:
    """The kind of call, as LiteLLM's log of it says; else by its arguments."""
    name = _function(kwargs)
    kind = FUNCTIONS.get(name) or FUNCTIONS.get(name.removeprefix("a")) or _by_arguments(kwargs)
    return EVENTS if kind == "messages" and kwargs.get("stream") else kind


def _function(kwargs: Mapping[str, Any]) -> str:
    said = getattr(kwargs.get("litellm_logging_obj"), "call_type", None) or kwargs.get("call_type")
    return str(getattr(said, "value", said))


def _by_arguments(kwargs: Mapping[str, Any]) -> str:
    if "input" in kwargs and "messages" not in kwargs:
        given = kwargs["input"]
        objects = isinstance(given, list) and any(isinstance(item, Mapping) for item in given)
        embeds = "embed" in str(kwargs.get("model")).lower()
        return "responses" if objects or not embeds or _OF_RESPONSES & kwargs.keys() else "embedding"
    known = {"file": "transcription", "documents": "rerank", "prompt": "text_completion"}
    return next((kind for name, kind in known.items() if name in kwargs and "messages" not in kwargs), "chat")


def is_inner(kwargs: Mapping[str, Any]) -> bool:
    """Whether this is the chat completion by which LiteLLM makes a text completion: that one is kept."""
    return kwargs.get("text_completion") is True and "messages" in kwargs


def arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that count, as its caller gave them."""
    said = [source for source in _metadata(kwargs) if isinstance(source, Mapping)]
    found = {
        name: value
        for name, value in kwargs.items()
        if name not in _SILENT and not name.startswith("_") and value is not None
    }
    if (group := _first(said, "model_group")) is not None:
        found = {name: value for name, value in found.items() if name not in _PLACES}
        shared = next((list(g) for s in said for g in s.get("caching_groups") or () if group in g), None)
        found["model"] = {"model_group": group} if shared is None else {"caching_group": shared}
    if _function(kwargs) == "rerank":
        found.setdefault("return_documents", True)  # its own default, which its async twin has not
    if "file" in found:
        found["file"] = _file(found["file"], _first(said, "file_checksum"))
    return found


def _file(given: Any, checksum: str | None) -> Any:
    """A file by its content. One that is open stands elsewhere when LiteLLM has read it: then by the checksum that
    LiteLLM has made before."""
    file = by_content(given)
    if isinstance(file, bytes | os.PathLike) or not hasattr(file, "read"):
        return file
    if checksum is None:
        from litellm.litellm_core_utils.audio_utils.utils import get_audio_file_content_hash

        checksum = get_audio_file_content_hash(given)
    return {"sha256": checksum}


def namespace(kwargs: Mapping[str, Any]) -> Any:
    """The namespace that LiteLLM's proxy puts into the metadata; None when there is none."""
    return _first([source for source in _metadata(kwargs) if isinstance(source, Mapping)], "redis_namespace")


def _metadata(kwargs: Mapping[str, Any]) -> list[Any]:
    within = kwargs.get("litellm_params")
    sources = (kwargs, within) if isinstance(within, Mapping) else (kwargs,)
    return [source.get(name) for source in sources for name in ("metadata", "litellm_metadata")]


def _first(sources: list[Mapping[str, Any]], name: str) -> Any:
    return next((source[name] for source in sources if source.get(name)), None)
