"""Logs of LLM calls, as several programs write them → calls, one after another.

Read are JSON, one object a line, or one JSON array:
  requests           the arguments of a call: `{"model": …, "messages": […]}`
  batch files        OpenAI's: `{"custom_id": …, "url": "/v1/chat/completions", "body": {…}}`
  calls              `{"request": {…}, "answer": {…}, "began": …, "seconds": …}`; also `call_type`, `tenant`, `usage`
  LiteLLM            rows of LiteLLM_SpendLogs, with prompts where `store_prompts_in_spend_logs` keeps them
  OpenTelemetry      OTLP exports as JSON, whose spans follow the GenAI conventions, with their content
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

import orjson

from asynccache.call_types import ALIASES, CALL_TYPES
from asynccache.errors import ConfigError
from asynccache.telemetry.usage import Usage, usage_in, usage_of

__all__ = ["LoggedCall", "TrafficLog", "by_path", "call_type_of", "prompts", "read_log"]


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """One call that was made.

    params:    its arguments, without any for the cache.
    call_type: one of ours ("chat", "embedding", …).
    answer:    the whole answer as JSON; None: the log does not say.
    began:     seconds since the epoch; None: the log does not say. seconds: how long it took.
    usage:     as the log or the answer tells it; None: unknown.
    usd:       what was paid for it, as the log says; None: it does not say.
    tenant:    whose call it was; None: nobody's in particular.
    cached:    whether a cache answered it, so that its time is none of the provider's.
    failed:    whether there is no answer because the call failed.
    """

    params: Mapping[str, Any]
    call_type: str = "chat"
    answer: Any = None
    began: float | None = None
    seconds: float | None = None
    usage: Usage | None = None
    usd: float | None = None
    provider: str = ""
    tenant: str | None = None
    cached: bool = False
    failed: bool = False

    @property
    def model(self) -> str:
        model = self.params.get("model")
        return model if isinstance(model, str) else ""


@dataclass(slots=True)
class TrafficLog:
    """The calls of a log, in its order, and why the other lines are none: reason → how many."""

    calls: list[LoggedCall] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def timed(self) -> bool:
        """Whether it says of every call when it began."""
        return all(call.began is not None for call in self.calls)

    def top(self, count: int) -> list[LoggedCall]:
        """The `count` requests that were made most often, each once, the most frequent first; requests are the same
        when their arguments are, but for how the answer travels."""
        seen: Counter[bytes] = Counter()
        first: dict[bytes, LoggedCall] = {}
        for call in self.calls:
            asked = {name: value for name, value in call.params.items() if name not in _DELIVERY}
            print_ = orjson.dumps([call.call_type, call.tenant, asked], option=orjson.OPT_SORT_KEYS, default=repr)
            seen[print_] += 1
            first.setdefault(print_, call)
        return [first[each] for each, _ in seen.most_common(count)]


class Unreadable(ValueError):
    """A line that is no call. The message is short and quotes nothing of it, so that lines can be counted by it."""


def read_log(path: str | PathLike[str]) -> TrafficLog:
    """The calls in this file. Lines that are none are counted, with the reason.

    Blocks. Raises ConfigError when it cannot be read, or has no call at all.
    """
    log = TrafficLog()
    for said in _objects(Path(path), log.skipped):
        try:
            log.calls += calls_in(said)
        except Unreadable as error:
            log.skipped[str(error)] += 1
    if not log.calls:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in log.skipped.most_common(3))
        raise ConfigError(f"{path}: there is no call in it{f': {reasons}' if reasons else ''}")
    return log


def prompts(path: str | PathLike[str]) -> list[str] | None:
    """The lines of a file of prompts, one a line; None when it is a log. Raises ConfigError."""
    text = _text(Path(path))
    if text.lstrip().startswith(("{", "[")) and Path(path).suffix != ".txt":
        return None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ConfigError(f"{path}: there is no prompt in it")
    return found


def calls_in(said: Any) -> list[LoggedCall]:
    """The calls that one object of a log tells of: one, or the spans of an export. Raises Unreadable."""
    if not isinstance(said, Mapping):
        raise Unreadable("no JSON object")
    if "resourceSpans" in said:
        return list(_otlp(said))
    if "request_id" in said and ("startTime" in said or "spend" in said):
        return [_litellm(said)]
    if "request" in said:
        return [_own(said)]
    if "body" in said and "url" in said:
        return [_batch(said)]
    return [LoggedCall(params := _params(said), call_type_of(params))]


def call_type_of(params: Mapping[str, Any]) -> str:
    """The kind of call that has these arguments. Raises Unreadable."""
    if "messages" in params:
        return "chat"
    if "documents" in params:
        return "rerank"
    if "prompt" in params:
        return "text_completion"
    if "input" in params:
        return "embedding" if "embed" in str(params.get("model")).lower() else "responses"
    raise Unreadable("no prompt")


_PATHS = {
    "chat": "/v1/chat/completions",
    "text_completion": "/v1/completions",
    "responses": "/v1/responses",
    "embedding": "/v1/embeddings",
    "messages": "/v1/messages",
    "rerank": "/v1/rerank",
}


def by_path(call_type: str) -> str:
    """Where such a call is posted. Raises ConfigError for one that is not made of JSON."""
    if call_type not in _PATHS:
        raise ConfigError(f"a call of type {call_type!r} cannot be made from a log: known are {', '.join(_PATHS)}")
    return _PATHS[call_type]


# -- files ------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _objects(path: Path, skipped: Counter[str]) -> Iterator[Any]:
    text = _text(path)
    if text.lstrip().startswith("["):
        try:
            yield from orjson.loads(text)
            return
        except (ValueError, TypeError):
            pass  # then line by line, which says how many are wrong
    elif (whole := _loads(text)) is not None:  # one object, which may stand on several lines
        yield whole
        return
    for line in text.splitlines():
        if line.strip():
            said = _loads(line)
            if said is None:
                skipped["no JSON"] += 1
            else:
                yield said


def _loads(text: Any) -> Any:
    """The JSON in a text; None when there is none."""
    try:
        return orjson.loads(text)
    except ValueError:
        return None


# -- ours and OpenAI's ------------------------------------------------------------------------------


def _params(said: Any) -> dict[str, Any]:
    if not isinstance(said, Mapping):
        raise Unreadable("a request that is no object")
    return {str(name): value for name, value in said.items() if name != "cache"}


def _own(said: Mapping[str, Any]) -> LoggedCall:
    params = _params(said["request"])
    answer = next((said[name] for name in ("answer", "response") if said.get(name) is not None), None)
    began = _time(next((said[name] for name in ("began", "time", "timestamp") if name in said), None))
    tenant = said.get("tenant")
    return LoggedCall(
        params,
        _known_type(said.get("call_type")) or call_type_of(params),
        answer,
        began,
        _number(next((said[name] for name in ("seconds", "duration") if name in said), None)),
        _usage(said, answer),
        _number(said.get("usd")),
        tenant=tenant if isinstance(tenant, str) and tenant else None,
        cached=said.get("cached") is True,
        failed=bool(said.get("error")),
    )


def _batch(said: Mapping[str, Any]) -> LoggedCall:
    params = _params(said["body"])
    url = str(said["url"]).rstrip("/")
    found = next((kind for kind, path in _PATHS.items() if url.endswith(path.removeprefix("/v1"))), None)
    if found == "text_completion" and url.endswith("/chat/completions"):
        found = "chat"
    return LoggedCall(params, found or call_type_of(params))


def _known_type(name: Any) -> str | None:
    if not isinstance(name, str):
        return None
    name = ALIASES.get(name, name)
    return name if name in CALL_TYPES and name != "function" else None


def _usage(said: Mapping[str, Any], answer: Any) -> Usage | None:
    for told in (said.get("usage"), None if answer is None else usage_in(answer)):
        if isinstance(told, Mapping) and (usage := usage_of(dict(told))) is not None:
            return usage
    return None


# -- LiteLLM's spend logs ---------------------------------------------------------------------------

_LITELLM_REQUEST = ("body", "request")


def _litellm(row: Mapping[str, Any]) -> LoggedCall:
    """A row, as the database or an API gives it: its JSON columns may be texts. The key that was used stands as
    `api_key` in the arguments, where `per_tenant` reads it, and no key of the cache does."""
    asked = _json(row.get("proxy_server_request"))
    if isinstance(asked, Mapping):
        asked = next((asked[name] for name in _LITELLM_REQUEST if isinstance(asked.get(name), Mapping)), asked)
    params = _params(asked) if isinstance(asked, Mapping) and asked else {}
    messages = _json(row.get("messages"))
    kind = _known_type(row.get("call_type"))
    if messages and not ({"messages", "input", "prompt"} & params.keys()):
        params["input" if kind in ("embedding", "responses") else "messages"] = messages
    for name in ("litellm_call_id", "litellm_logging_obj", "proxy_server_request", "metadata"):
        params.pop(name, None)
    if not ({"messages", "input", "prompt"} & params.keys()):
        raise Unreadable("LiteLLM did not keep the prompt (store_prompts_in_spend_logs)")
    params.setdefault("model", row.get("model_group") or row.get("model") or "")
    if isinstance(key := row.get("api_key"), str) and key:
        params["api_key"] = key
    answer = _json(row.get("response")) or None
    began, ended = _time(row.get("startTime")), _time(row.get("endTime"))
    cached = str(row.get("cache_hit")).lower() == "true"
    counted = {name: row.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    usage = _usage({}, answer) or (usage_of(counted) if row.get("total_tokens") else None)
    return LoggedCall(
        params,
        kind or call_type_of(params),
        answer,
        began,
        None if began is None or ended is None else max(0.0, ended - began),
        usage,
        None if cached else _number(row.get("spend")) or None,
        _text_of(row.get("custom_llm_provider")),
        cached=cached,
        failed=str(row.get("status")) == "failure",
    )


# -- OpenTelemetry ----------------------------------------------------------------------------------

_OPERATIONS = {
    "chat": "chat",
    "generate_content": "chat",
    "text_completion": "text_completion",
    "embeddings": "embedding",
}
_REQUEST = {
    "gen_ai.request.model": "model",
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.top_k": "top_k",
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.choice.count": "n",
    "gen_ai.request.frequency_penalty": "frequency_penalty",
    "gen_ai.request.presence_penalty": "presence_penalty",
    "gen_ai.request.stop_sequences": "stop",
    "gen_ai.request.encoding_formats": "encoding_format",
    "gen_ai.output.type": "response_format",
    "gen_ai.tool.definitions": "tools",
    "gen_ai.embeddings.dimension.count": "dimensions",
}
_CONTENT = ("gen_ai.input.messages", "gen_ai.prompt")
_EVENTS = ("gen_ai.client.inference.operation.details", "gen_ai.content.prompt")


def _otlp(said: Mapping[str, Any]) -> Iterator[LoggedCall]:
    """The spans of LLM calls in an export; others are none of ours. Raises Unreadable when there is none of them."""
    found = 0
    unsaid = 0
    for span in _spans(said):
        about = _attributes(span.get("attributes"))
        if (kind := _OPERATIONS.get(_text_of(about.get("gen_ai.operation.name")))) is None:
            continue
        for event in span.get("events") or ():
            if isinstance(event, Mapping) and event.get("name") in _EVENTS:
                about |= _attributes(event.get("attributes"))
        messages = _span_messages(about)
        if not messages:
            unsaid += 1
            continue
        found += 1
        yield _span_call(span, about, kind, messages)
    if not found:
        raise Unreadable("OpenTelemetry did not keep the prompt" if unsaid else "no span of an LLM call")


def _spans(said: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for resource in _items(said.get("resourceSpans")):
        for scope in _items(resource.get("scopeSpans")):
            yield from _items(scope.get("spans"))


def _items(value: Any) -> Iterable[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _attributes(said: Any) -> dict[str, Any]:
    if isinstance(said, Mapping):
        return dict(said)
    return {str(item.get("key")): _value(item.get("value")) for item in _items(said)}


def _value(said: Any) -> Any:
    """OTLP's AnyValue as JSON."""
    if not isinstance(said, Mapping):
        return said
    for kind, value in said.items():
        if kind == "intValue":
            return int(value)
        if kind == "arrayValue":
            return [_value(item) for item in value.get("values", ())]
        if kind == "kvlistValue":
            return {item.get("key"): _value(item.get("value")) for item in value.get("values", ())}
        return value
    return None


def _span_messages(about: Mapping[str, Any]) -> list[Any]:
    said = next((_json(about[name]) for name in _CONTENT if about.get(name)), None)
    if isinstance(said, str):
        said = [{"role": "user", "content": said}]
    if not isinstance(said, list):
        said = _numbered(about)
    system = _json(about.get("gen_ai.system_instructions"))
    if system:
        said = [{"role": "system", "parts": system if isinstance(system, list) else [system]}, *said]
    return [_message(item) for item in said if isinstance(item, Mapping)]


def _numbered(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`gen_ai.prompt.0.role`, `gen_ai.prompt.0.content`, …: how OpenLLMetry says it."""
    found: list[dict[str, Any]] = []
    while (content := about.get(f"gen_ai.prompt.{len(found)}.content")) is not None:
        found.append({"role": about.get(f"gen_ai.prompt.{len(found)}.role", "user"), "content": content})
    return found


def _message(said: Mapping[str, Any]) -> dict[str, Any]:
    """A message in the conventions' words (`parts`) as OpenAI words it, where it is a text; else as it is."""
    parts = said.get("parts")
    if not isinstance(parts, list):
        return dict(said)
    texts = [part if isinstance(part, str) else part.get("content") for part in parts if _is_text(part)]
    if len(texts) == len(parts):
        return {"role": said.get("role", "user"), "content": "\n".join(map(str, texts))}
    return dict(said)


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, Mapping) and part.get("type", "text") == "text")


def _span_call(
    span: Mapping[str, Any], about: Mapping[str, Any], kind: str, messages: list[dict[str, Any]]
) -> LoggedCall:
    params = {name: _json(about[said]) for said, name in _REQUEST.items() if about.get(said) is not None}
    if kind == "embedding":
        params["input"] = [message.get("content") for message in messages]
    elif kind == "text_completion":
        params["prompt"] = messages[-1].get("content")
    else:
        params["messages"] = messages
    began, ended = _nanoseconds(span.get("startTimeUnixNano")), _nanoseconds(span.get("endTimeUnixNano"))
    return LoggedCall(
        params,
        kind,
        _span_answer(about, kind),
        None if began is None else began / 10**9,
        None if began is None or ended is None else max(0, ended - began) / 10**9,
        _span_usage(about),
        provider=_text_of(about.get("gen_ai.provider.name") or about.get("gen_ai.system")),
        failed=bool(about.get("error.type")),
    )


def _span_answer(about: Mapping[str, Any], kind: str) -> Any:
    """What the span says of the answer, as far as the cache looks at it: the texts, and why they ended."""
    said = _json(about.get("gen_ai.output.messages"))
    if kind != "chat" or not isinstance(said, list):
        return None
    choices = []
    for index, item in enumerate(_items(said)):
        message = _message(item)
        finish = message.pop("finish_reason", None) or item.get("finish_reason") or "stop"
        choices.append({"index": index, "message": message, "finish_reason": _FINISHES.get(finish, finish)})
    model = about.get("gen_ai.response.model") or about.get("gen_ai.request.model")
    return {"object": "chat.completion", "model": model, "choices": choices}


_FINISHES = {"tool_call": "tool_calls"}


def _span_usage(about: Mapping[str, Any]) -> Usage | None:
    read = about.get("gen_ai.usage.input_tokens", about.get("gen_ai.usage.prompt_tokens"))
    written = about.get("gen_ai.usage.output_tokens", about.get("gen_ai.usage.completion_tokens"))
    if read is None and written is None:
        return None
    details = {
        "cached_tokens": about.get("gen_ai.usage.cache_read.input_tokens"),
        "cache_creation_tokens": about.get("gen_ai.usage.cache_creation.input_tokens"),
    }
    return usage_of({"prompt_tokens": read or 0, "completion_tokens": written or 0, "prompt_tokens_details": details})


# -- values -----------------------------------------------------------------------------------------

_DELIVERY = frozenset({"stream", "stream_options", "api_key"})


def _json(value: Any) -> Any:
    """A value that may stand as a text of JSON."""
    if isinstance(value, str) and value[:1] in "[{" and (found := _loads(value)) is not None:
        return found
    return value


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        return None
    return float(value)


def _nanoseconds(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _time(value: Any) -> float | None:
    """Seconds since the epoch, from such a number or a date of ISO 8601, which is UTC unless it says otherwise."""
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return _number(value)
