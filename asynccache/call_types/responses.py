"""OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.call_types import responses_events
from asynccache.call_types.chat import split_last_turn
from asynccache.call_types.json_text import is_json
from asynccache.model import KeepOut
from asynccache.protocols import Parts, Verdict

_STATUSES = {"failed": "error", "cancelled": "error", "in_progress": "unfinished", "queued": "unfinished"}
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
_LAST = ("response.completed", "response.incomplete", "response.failed")
_KEPT = ("store", "background", "conversation")


def _keep_out(params: Mapping[str, Any]) -> str:
    """What is to change something at the provider has to get there: a response that is expressly to be kept, one
    that is made in the background, an item that is to be added to a conversation. That a provider keeps responses
    unless told otherwise is no wish of the caller's: then a hit has the id of the response that was kept."""
    more = params.get("extra_body")
    said = {**params, **more} if isinstance(more, Mapping) else params
    return next((f"{name}: the provider is to keep something" for name in _KEPT if said.get(name)), "")


class ResponsesCallType:
    name = "responses"
    turns = "input"
    parts: Parts | None = None
    keep_out: KeepOut | None = staticmethod(_keep_out)

    def views(self, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        return split_last_turn(params, self.turns)

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping) or not ("output" in answer or "status" in answer or "error" in answer):
            return Verdict("" if answer else "empty")
        return Verdict(_refusal(answer), {name: answer[name] for name in ("model", "usage") if answer.get(name)})

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        for event in reversed(chunks):
            if event.get("type") in _LAST:
                return self.judge(event.get("response"))
            if event.get("type") == "error":
                return Verdict("error")
        return Verdict("unfinished")

    def assemble(self, chunks: Sequence[Any]) -> Any:
        return responses_events.assemble(chunks)

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:
        return list(responses_events.cut(answer))

    def fit(self, chunks: list[bytes], asked: Any, params: Mapping[str, Any]) -> list[bytes]:
        return chunks


def _refusal(answer: Mapping[str, Any]) -> str:
    if answer.get("error"):
        return "error"
    status = answer.get("status")
    if status == "incomplete":
        reason = (answer.get("incomplete_details") or {}).get("reason")
        return _REASONS.get(reason or "", "unfinished")
    if status in _STATUSES:
        return _STATUSES[status]
    output = answer.get("output") or []
    for item in output:
        if any(part.get("type") == "refusal" for part in item.get("content") or () if isinstance(part, Mapping)):
            return "refusal"
        if item.get("type") == "function_call" and not is_json(item.get("arguments")):
            return "tool-arguments"
    return "" if output else "empty"


CALL_TYPE = ResponsesCallType()
