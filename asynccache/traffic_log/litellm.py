"""Rows of LiteLLM_SpendLogs, as a dump of the database or an API of the proxy has them.

With `store_prompts_in_spend_logs`, `proxy_server_request` is the body that the client sent, and `response` the answer.
Of texts of more than MAX_STRING_LENGTH_PROMPT_IN_DB characters (2,048) LiteLLM leaves out the middle, and with
`turn_off_message_logging` there is one and the same word in the place of every prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from asynccache.telemetry.usage import usage_of
from asynccache.traffic_log.calls import LoggedCall, Unreadable, call_type_of, known_type, params_of, usage_told
from asynccache.traffic_log.values import as_json, as_number, as_text, as_time

_PROMPTS = ("messages", "input", "prompt")
_NOT_ASKED = ("litellm_call_id", "litellm_logging_obj", "proxy_server_request", "metadata")
_REDACTED = [{"role": "user", "content": "redacted-by-litellm"}]
_CUT = b"... (litellm_truncated skipped "


def is_row(said: Mapping[str, Any]) -> bool:
    return "request_id" in said and ("startTime" in said or "spend" in said)


def call_of(row: Mapping[str, Any]) -> LoggedCall:
    """Columns of JSON may be texts. The key that was used stands as `api_key` in the arguments, where `per_tenant`
    reads it, and no key of the cache does. Raises Unreadable."""
    kind = known_type(row.get("call_type"))
    params = _params(row, kind)
    answer = as_json(row.get("response")) or None
    began, ended = as_time(row.get("startTime")), as_time(row.get("endTime"))
    cached = str(row.get("cache_hit")).lower() == "true"
    counted = {name: row.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return LoggedCall(
        params,
        kind or call_type_of(params),
        answer,
        began,
        None if began is None or ended is None else max(0.0, ended - began),
        usage_told(answer) or (usage_of(counted) if row.get("total_tokens") else None),
        None if cached else as_number(row.get("spend")) or None,
        as_text(row.get("custom_llm_provider")),
        cached=cached,
        failed=str(row.get("status")) == "failure",
        whole=_CUT not in orjson.dumps(params, default=repr),
    )


def _params(row: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    asked = as_json(row.get("proxy_server_request"))
    if isinstance(asked, Mapping) and isinstance(asked.get("body"), Mapping):  # with its URL and headers around it
        asked = asked["body"]
    params = params_of(asked) if isinstance(asked, Mapping) else {}
    messages = as_json(row.get("messages"))
    if messages and not params.keys() & _PROMPTS:
        params["input" if kind in ("embedding", "responses") else "messages"] = messages
    if not params.keys() & _PROMPTS:
        raise Unreadable("LiteLLM did not keep the prompt (store_prompts_in_spend_logs)")
    if params.get("messages") == _REDACTED:
        raise Unreadable("LiteLLM has redacted the prompt (turn_off_message_logging)")
    for name in _NOT_ASKED:
        params.pop(name, None)
    params.setdefault("model", row.get("model_group") or row.get("model") or "")
    if isinstance(key := row.get("api_key"), str) and key:
        params["api_key"] = key
    return params
