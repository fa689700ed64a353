"""OTLP exports as JSON, whose spans follow the GenAI conventions, with their content.

Prompts stand in a span as `gen_ai.input.messages`, with older instrumentations numbered (`gen_ai.prompt.0.content`) or
as its events (`gen_ai.user.message`). Messages become OpenAI's, so that they could be sent again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from asynccache.telemetry.usage import Usage, usage_of
from asynccache.traffic_log.calls import LoggedCall, Unreadable
from asynccache.traffic_log.values import as_json, as_text

_OPERATIONS = {
    "chat": "chat",
    "generate_content": "chat",
    "text_completion": "text_completion",
    "completion": "text_completion",
    "embeddings": "embedding",
    "embedding": "embedding",
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
    "gen_ai.embeddings.dimension.count": "dimensions",
}
_CONTENT = ("gen_ai.input.messages", "gen_ai.prompt")
_WHOLE_EVENTS = ("gen_ai.client.inference.operation.details", "gen_ai.content.prompt", "gen_ai.content.completion")
_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_CHOICE = "gen_ai.choice"
_FINISHES = {"tool_call": "tool_calls"}
_FAILED = (2, "STATUS_CODE_ERROR")

Attributes = Mapping[str, Any]


def calls_of(export: Mapping[str, Any]) -> Iterator[LoggedCall]:
    """The LLM calls among the spans. Raises Unreadable when there is none."""
    found = unsaid = 0
    for span in _spans(export):
        about = _attributes(span.get("attributes"))
        events = [(as_text(each.get("name")), _attributes(each.get("attributes"))) for each in _items(span["events"])]
        for name, told in events:
            if name in _WHOLE_EVENTS:
                about |= told
        if (kind := _kind(about)) is None:
            continue
        messages = _asked(about) or _by_events(events)
        if not messages:
            unsaid += 1
            continue
        found += 1
        yield _call(span, about, kind, messages, _choices(about) or _choices_by_events(events))
    if not found:
        raise Unreadable("OpenTelemetry did not keep the prompt" if unsaid else "no span of an LLM call")


def _kind(about: Attributes) -> str | None:
    """What kind of call a span is of; None when it is of none."""
    said = about.get("gen_ai.operation.name") or about.get("llm.request.type")
    if said is None:
        return "chat" if about.get("gen_ai.request.model") else None
    return _OPERATIONS.get(as_text(said))


def _call(
    span: Mapping[str, Any], about: Attributes, kind: str, messages: list[dict[str, Any]], choices: list[dict[str, Any]]
) -> LoggedCall:
    params = {name: as_json(about[said]) for said, name in _REQUEST.items() if about.get(said) is not None}
    if about.get("gen_ai.output.type") == "json":
        params["response_format"] = {"type": "json_object"}
    if tools := _tools(about):
        params["tools"] = tools
    if kind == "embedding":
        params["input"] = [message.get("content") for message in messages]
    elif kind == "text_completion":
        params["prompt"] = messages[-1].get("content")
    else:
        params["messages"] = messages
    began, ended = _nanoseconds(span.get("startTimeUnixNano")), _nanoseconds(span.get("endTimeUnixNano"))
    status = span.get("status")
    answer = None
    if kind == "chat" and choices:
        model = about.get("gen_ai.response.model") or about.get("gen_ai.request.model")
        numbered = [{"index": index, **choice} for index, choice in enumerate(choices)]
        answer = {"object": "chat.completion", "model": model, "choices": numbered}
    return LoggedCall(
        params,
        kind,
        answer,
        None if began is None else began / 10**9,
        None if began is None or ended is None else max(0, ended - began) / 10**9,
        _usage(about),
        provider=as_text(about.get("gen_ai.provider.name") or about.get("gen_ai.system")),
        failed=bool(about.get("error.type")) or (isinstance(status, Mapping) and status.get("code") in _FAILED),
        whole=all(_can_be_sent(message) for message in messages),
    )


def _tools(about: Attributes) -> list[Any]:
    said = as_json(about.get("gen_ai.tool.definitions")) or _nested(about, "llm.request.functions")
    return [_tool(each) for each in said] if isinstance(said, list) else []


def _tool(said: Any) -> Any:
    if not isinstance(said, Mapping) or "name" not in said or said.get("type", "function") != "function":
        return said
    function = {name: as_json(value) for name, value in said.items() if name != "type"}
    return {"type": "function", "function": function}


def _usage(about: Attributes) -> Usage | None:
    read = about.get("gen_ai.usage.input_tokens", about.get("gen_ai.usage.prompt_tokens"))
    written = about.get("gen_ai.usage.output_tokens", about.get("gen_ai.usage.completion_tokens"))
    if read is None and written is None:
        return None
    names = {"cached_tokens": "cache_read", "cache_creation_tokens": "cache_creation"}
    details = {
        said: about.get(f"gen_ai.usage.{name}.input_tokens", about.get(f"gen_ai.usage.{name}_input_tokens"))
        for said, name in names.items()
    }
    return usage_of({"prompt_tokens": read or 0, "completion_tokens": written or 0, "prompt_tokens_details": details})


# -- what was asked ---------------------------------------------------------------------------------


def _asked(about: Attributes) -> list[dict[str, Any]]:
    said = next((as_json(about[name]) for name in _CONTENT if about.get(name)), None)
    if isinstance(said, str):
        said = [{"role": "user", "content": said}]
    if not isinstance(said, list):
        said = _nested(about, "gen_ai.prompt")
    system = as_json(about.get("gen_ai.system_instructions"))
    if system:
        said = [{"role": "system", "parts": system if isinstance(system, list) else [system]}, *_items(said)]
    return [message for item in _items(said) for message in _messages(item)]


def _messages(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A message of the conventions, made of parts, in OpenAI's words; as it is where these have none."""
    parts = said.get("parts")
    if not isinstance(parts, list):
        calls = [_tool_call(call) for call in _items(said.get("tool_calls"))]
        return [{**said, **({"tool_calls": calls} if calls else {})}]
    texts: list[str] = []
    calls, results = [], []
    for part in ({"content": part} if isinstance(part, str) else part for part in parts):
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if kind == "text":
            texts.append(str(part.get("content")))
        elif kind == "tool_call":
            calls.append(_tool_call(part))
        elif kind == "tool_call_response":
            results.append({"role": "tool", "tool_call_id": part.get("id"), "content": _text(_result(part))})
        else:
            return [dict(said)]
    if results and not texts and not calls:
        return results
    content = "\n".join(texts) if texts or not calls else None
    return [
        {"role": said.get("role", "user"), "content": content, **({"tool_calls": calls} if calls else {})},
        *results,
    ]


def _result(part: Mapping[str, Any]) -> Any:
    return part.get("response", part.get("result"))


def _tool_call(said: Mapping[str, Any]) -> dict[str, Any]:
    if "name" not in said:  # OpenAI's already
        return dict(said)
    function = {"name": said["name"], "arguments": _text(said.get("arguments", {}))}
    return {"id": said.get("id"), "type": "function", "function": function}


def _can_be_sent(message: Mapping[str, Any]) -> bool:
    """Not one in words that are left as they were, nor a list of messages that was cut, which is no JSON any more."""
    return "parts" not in message and not str(message.get("content")).startswith(('[{"role"', '[{"parts"'))


def _by_events(events: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """`gen_ai.system.message`, `gen_ai.user.message`, …: how the conventions were up to 1.36."""
    found = []
    for name, told in events:
        if name in _ROLES:
            said = _body(told)
            message = {"role": said.get("role") or _ROLES[name], "content": _plain(said.get("content"))}
            if calls := [_tool_call(call) for call in _items(as_json(said.get("tool_calls")))]:
                message["tool_calls"] = calls
            if name == "gen_ai.tool.message":
                message["tool_call_id"] = said.get("id")
            found.append(message)
    return found


def _body(told: dict[str, Any]) -> Mapping[str, Any]:
    said = as_json(told.get("gen_ai.event.content"))
    return said if isinstance(said, Mapping) else told


# -- what was answered ------------------------------------------------------------------------------


def _choices(about: Attributes) -> list[dict[str, Any]]:
    """What the span says of the answer, as far as the cache looks at it: the messages, and why they ended."""
    said = as_json(about.get("gen_ai.output.messages"))
    items = _items(said if isinstance(said, list) else _nested(about, "gen_ai.completion"))
    return [_choice(_messages(item)[0], item.get("finish_reason")) for item in items]


def _choices_by_events(events: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    found = []
    for name, told in events:
        if name == _CHOICE:
            said = _body(told)
            message = as_json(said.get("message", said.get("content")))
            message = dict(message) if isinstance(message, Mapping) else {"content": _plain(message)}
            found.append(_choice({"role": "assistant", **message}, said.get("finish_reason")))
    return found


def _choice(message: dict[str, Any], finish: Any) -> dict[str, Any]:
    message.pop("finish_reason", None)
    finish = as_text(finish) or "stop"
    return {"message": message, "finish_reason": _FINISHES.get(finish, finish)}


# -- OTLP -------------------------------------------------------------------------------------------


def _spans(export: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for resource in _items(export.get("resourceSpans")):
        for scope in _items(resource.get("scopeSpans")):
            for span in _items(scope.get("spans")):
                yield {"events": [], **span}


def _items(value: Any) -> list[Mapping[str, Any]]:
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


def _nested(about: Attributes, name: str) -> Any:
    """`name.0.role`, `name.0.tool_calls.0.id`, …, as OpenLLMetry writes lists: a list of objects."""
    tree: dict[str, Any] = {}
    for attribute, value in about.items():
        if attribute.startswith(f"{name}."):
            *path, last = attribute.removeprefix(f"{name}.").split(".")
            branch = tree
            for step in path:
                if not isinstance(branch.get(step), dict):
                    branch[step] = {}
                branch = branch[step]
            branch[last] = value
    return _lists(tree)


def _lists(tree: Any) -> Any:
    """Objects whose names are all numbers as lists."""
    if not isinstance(tree, dict):
        return tree
    found = {name: _lists(value) for name, value in tree.items()}
    if all(name.isdecimal() for name in found):
        return [found[name] for name in sorted(found, key=int)]
    return found


def _nanoseconds(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _plain(value: Any) -> Any:
    """The text that a list of texts makes together, which may stand as JSON; all else as it is."""
    parts = as_json(value)
    if isinstance(parts, list) and parts:
        texts = [part.get("text", part.get("content")) if isinstance(part, Mapping) else part for part in parts]
        if all(isinstance(text, str) for text in texts):
            return "\n".join(texts)
    return value
