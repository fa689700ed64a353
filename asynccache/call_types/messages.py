"""Anthropic messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.call_types.chat import split_last_turn
from asynccache.call_types.json_text import is_json
from asynccache.protocols import Verdict

_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
    "pause_turn": "unfinished",
}


class MessagesCallType:
    name = "messages"
    turns = "messages"

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
        facts: dict[str, Any] = {}
        stop, ended, spoken = "", False, False
        inputs: defaultdict[int, str] = defaultdict(str)
        for event in chunks:
            kind = event.get("type")
            if kind == "error":
                return Verdict("error", facts)
            if kind == "message_start":
                facts.update({name: event["message"].get(name) for name in ("model", "usage")})
            elif kind == "message_delta":
                stop = (event.get("delta") or {}).get("stop_reason") or stop
                facts["usage"] = {**(facts.get("usage") or {}), **(event.get("usage") or {})}
            elif kind == "content_block_delta":
                delta = event.get("delta") or {}
                spoken = spoken or delta.get("type") != "text_delta" or bool(delta.get("text"))
                inputs[event.get("index", 0)] += delta.get("partial_json") or ""
            elif kind == "content_block_start":
                spoken = spoken or (event.get("content_block") or {}).get("type") not in (None, "text")
            ended = ended or kind == "message_stop"
        if not ended:
            return Verdict("unfinished", facts)
        if not all(map(is_json, inputs.values())):
            return Verdict("tool-arguments", facts)
        return Verdict(_REASONS.get(stop, "") or ("" if spoken else "empty"), facts)


CALL_TYPE = MessagesCallType()
