"""Text completions: OpenAI's older API, which open models still speak.

A choice has a text where a chat's has a message; in all else they are read, joined and cut alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.call_types import chat_chunks
from asynccache.call_types.chat import ChatCallType
from asynccache.protocols import Verdict

JSON = dict[str, Any]


class TextCompletionCallType(ChatCallType):
    name = "text_completion"
    turns = ""

    def views(self, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        prompt = params.get("prompt")
        return ({**params, "prompt": ""}, prompt) if isinstance(prompt, str) else (params, "")

    def judge(self, answer: Any) -> Verdict:
        return super().judge(_as_chat(answer, "message"))

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        return super().judge_stream([_as_chat(chunk, "delta") for chunk in chunks])

    def assemble(self, chunks: Sequence[Any]) -> Any:
        whole = chat_chunks.assemble([_as_chat(chunk, "delta") for chunk in chunks])
        return _as_text(whole, "message")

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:
        return [_as_text(chunk, "delta") for chunk in super().cut(_as_chat(answer, "message"), params)]


def _as_chat(answer: Any, field: str) -> Any:
    """The same with the text of each choice as the content of a message, or of a delta."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("choices"), list):
        return answer
    return {**answer, "choices": [_choice(choice, field) for choice in answer["choices"]]}


def _choice(choice: Mapping[str, Any], field: str) -> JSON:
    if "text" not in choice:  # as one of a chat has it
        return dict(choice)
    role = {"role": "assistant"} if field == "message" else {}
    return {**_without(choice, "text"), field: {**role, "content": choice["text"]}}


def _as_text(answer: Mapping[str, Any], field: str) -> JSON:
    choices = [
        {"text": (choice.get(field) or {}).get("content") or "", **_without(choice, field)}
        for choice in answer["choices"]
    ]
    return {**answer, "object": "text_completion", "choices": choices}


def _without(choice: Mapping[str, Any], field: str) -> JSON:
    return {name: value for name, value in choice.items() if name != field}


CALL_TYPE = TextCompletionCallType()
