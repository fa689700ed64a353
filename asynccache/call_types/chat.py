"""Chat completions, as OpenAI words them and most of the field speaks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from asynccache.call_types import chat_chunks
from asynccache.call_types.json_text import is_json
from asynccache.model import KeepOut
from asynccache.protocols import Parts, Verdict

_REASONS = {"length": "length", "content_filter": "content_filter"}


class ChatCallType:
    name = "chat"
    turns = "messages"
    parts: Parts | None = None
    keep_out: KeepOut | None = None

    def views(self, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        return split_last_turn(params, self.turns)

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping) or "choices" not in answer:
            return Verdict("" if answer else "empty")
        facts = {name: answer[name] for name in ("model", "usage") if answer.get(name)}
        if answer.get("error"):
            return Verdict("error", facts)
        choices = answer["choices"] or []
        refusals = [_refusal(choice.get("finish_reason"), choice.get("message") or {}) for choice in choices]
        return Verdict(next(filter(None, refusals), "") if choices else "empty", facts)

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        told = [chunk for chunk in chunks if isinstance(chunk, Mapping)]
        if any(chunk.get("error") for chunk in told):
            return Verdict("error")
        spoken = [chunk for chunk in told if "choices" in chunk]
        if not spoken:
            return Verdict("" if chunks else "empty")
        whole = chat_chunks.assemble(spoken)
        verdict = self.judge(whole)
        if any(choice.get("finish_reason") is None for choice in whole["choices"]):
            return Verdict("unfinished", verdict.facts)
        return verdict

    def assemble(self, chunks: Sequence[Any]) -> Any:
        return chat_chunks.assemble(chunks)

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:
        wanted = _wants_usage(params.get("stream_options"))
        if wanted and not answer.get("usage"):
            raise ValueError("the usage is asked for, and was not answered")
        return list(chat_chunks.cut(answer, include_usage=wanted))

    def fit(self, chunks: list[bytes], asked: Any, params: Mapping[str, Any]) -> list[bytes]:
        wanted = _wants_usage(params.get("stream_options"))
        if wanted is _wants_usage(asked):
            return chunks  # also what a server tells that nobody asked for
        fitted = chat_chunks.with_usage([orjson.loads(chunk) for chunk in chunks], wanted)
        if fitted is None:
            raise ValueError("the usage is asked for, and was not recorded")
        return [orjson.dumps(chunk) for chunk in fitted]


def _wants_usage(options: Any) -> bool:
    return isinstance(options, Mapping) and bool(options.get("include_usage"))


def _refusal(finish: str | None, message: Mapping[str, Any]) -> str:
    if finish in _REASONS:
        return _REASONS[finish]
    if message.get("refusal"):
        return "refusal"
    for call in (*(message.get("tool_calls") or ()), {"function": message.get("function_call")}):
        if not is_json((call.get("function") or {}).get("arguments")):
            return "tool-arguments"
    spoken = any(value for name, value in message.items() if name != "role")
    return "" if spoken else "empty"


def split_last_turn(params: Mapping[str, Any], turns: str) -> tuple[Mapping[str, Any], str]:
    """Take the text of the last turn out, when it is the user's; its images and files stay."""
    messages = params.get(turns)
    if isinstance(messages, str):
        return {**params, turns: ""}, messages
    if not isinstance(messages, list | tuple) or not messages:
        return params, ""
    *earlier, last = messages
    if callable(getattr(type(last), "model_dump", None)):  # a message object of an SDK
        last = last.model_dump()
    if not isinstance(last, Mapping) or last.get("role") != "user":
        return params, ""
    content = last.get("content")
    if isinstance(content, str):
        return {**params, turns: [*earlier, {**last, "content": ""}]}, content
    if not isinstance(content, list | tuple):
        return params, ""
    texts = [part["text"] for part in content if _is_text(part)]
    rest = [{**part, "text": ""} if _is_text(part) else part for part in content]
    return {**params, turns: [*earlier, {**last, "content": rest}]}, "\n".join(texts)


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)


CALL_TYPE = ChatCallType()
