"""Chat completions, as OpenAI words them and most of the field speaks them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.call_types.json_text import is_json
from asynccache.protocols import Verdict

_REASONS = {"length": "length", "content_filter": "content_filter"}


class ChatCallType:
    name = "chat"
    turns = "messages"

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
        facts: dict[str, Any] = {}
        choices: defaultdict[int, _Choice] = defaultdict(_Choice)
        for chunk in chunks:
            if not isinstance(chunk, Mapping) or "choices" not in chunk:
                if isinstance(chunk, Mapping) and chunk.get("error"):
                    return Verdict("error", facts)
                continue
            facts.update({name: chunk[name] for name in ("model", "usage") if chunk.get(name)})
            for choice in chunk["choices"] or ():
                choices[choice.get("index", 0)].add(choice)
        if not choices:
            return Verdict("" if chunks and not facts else "empty", facts)
        return Verdict(next(filter(None, (choice.refusal() for choice in choices.values())), ""), facts)


class _Choice:
    """What has been heard of one choice of a stream."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self.said: dict[str, Any] = {}
        self.calls: defaultdict[int, str] = defaultdict(str)

    def add(self, choice: Mapping[str, Any]) -> None:
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or {}
        self.said.update({name: value for name, value in delta.items() if value and name != "role"})
        for call in delta.get("tool_calls") or ():
            self.calls[call.get("index", 0)] += (call.get("function") or {}).get("arguments") or ""

    def refusal(self) -> str:
        if self.finish is None:
            return "unfinished"
        calls = [{"function": {"arguments": text}} for text in self.calls.values()]
        return _refusal(self.finish, {**self.said, "tool_calls": calls})


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
