"""Anthropic messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.call_types import messages_events
from asynccache.call_types.chat import split_last_turn
from asynccache.model import KeepOut
from asynccache.protocols import Parts, Verdict

_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
    "pause_turn": "unfinished",
}


class MessagesCallType:
    name = "messages"
    turns = "messages"
    parts: Parts | None = None
    keep_out: KeepOut | None = None

    def views(self, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        return split_last_turn(params, self.turns)

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping) or "content" not in answer:
            if isinstance(answer, Mapping) and answer.get("error"):
                return Verdict("error")
            return Verdict("" if answer else "empty")
        facts = {name: answer[name] for name in ("model", "usage") if answer.get(name)}
        reason = _REASONS.get(answer.get("stop_reason") or "", "")
        spoken = any(block.get("type") != "text" or block.get("text") for block in answer["content"] or ())
        return Verdict(reason or ("" if spoken else "empty"), facts)

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        kinds = [event.get("type") for event in chunks]
        if "error" in kinds:
            return Verdict("error")
        if "message_stop" not in kinds:
            return Verdict("unfinished")
        try:
            return self.judge(messages_events.assemble(chunks))
        except ValueError:  # a tool's input that is no JSON
            return Verdict("tool-arguments")

    def assemble(self, chunks: Sequence[Any]) -> Any:
        return messages_events.assemble(chunks)

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:
        return list(messages_events.cut(answer))

    def fit(self, chunks: list[bytes], asked: Any, params: Mapping[str, Any]) -> list[bytes]:
        return chunks


CALL_TYPE = MessagesCallType()
