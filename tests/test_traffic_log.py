"""Logs of several programs: what is read of them, and what is none of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asynccache import ConfigError
from asynccache.telemetry.usage import Usage
from asynccache.traffic_log import LoggedCall, Unreadable, calls_in, prompts, read_log
from tests.test_simulation import answer, call

QUESTION = [{"role": "user", "content": "Where is my order?"}]
ASKED = {"model": "smart", "messages": QUESTION, "temperature": 0.2, "user": "u", "metadata": {"tags": ["a"]}}
SPEND: dict[str, Any] = {
    "request_id": "chatcmpl-1",
    "call_type": "acompletion",
    "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
    "spend": 0.0021,
    "total_tokens": 650,
    "prompt_tokens": 500,
    "completion_tokens": 150,
    "startTime": "2025-11-03 08:00:00.250000+00:00",
    "endTime": "2025-11-03 08:00:02.750000+00:00",
    "model": "gpt-4o-2024-08-06",
    "model_group": "smart",
    "custom_llm_provider": "openai",
    "cache_hit": "None",
    "messages": "{}",
    "response": json.dumps(answer("On its way.")),
    "proxy_server_request": json.dumps(ASKED),
    "metadata": "{}",
    "status": "success",
}


def test_a_row_of_litellms_spend_log() -> None:
    """As its database has it, with columns of JSON as texts; an API gives them as JSON, and times with a Z."""
    times = {"startTime": "2025-11-03T08:00:00.250Z", "endTime": "2025-11-03T08:00:02.750Z"}
    columns = {name: json.loads(SPEND[name]) for name in ("messages", "response", "proxy_server_request", "metadata")}
    for row in (SPEND, {**SPEND, **times, **columns}):
        (read,) = calls_in(row)
        asked = {"model": "smart", "messages": QUESTION, "temperature": 0.2, "user": "u"}
        assert read.params == {**asked, "api_key": SPEND["api_key"]}
        assert (read.call_type, read.provider, read.cached, read.failed) == ("chat", "openai", False, False)
        assert (read.began, read.seconds, read.usd) == (1762156800.25, 2.5, 0.0021)
        assert (read.usage, read.whole) == (Usage(500, 150), True)
        assert read.answer == answer("On its way.")


def test_rows_with_the_prompt_elsewhere() -> None:
    """In a column of its own, as older versions have it, or with the URL and the headers around it."""
    for more in (
        {"messages": json.dumps(QUESTION), "proxy_server_request": "{}"},
        {"proxy_server_request": {"url": "http://x", "body": {"model": "smart", "messages": QUESTION}}},
    ):
        (read,) = calls_in({**SPEND, **more})
        assert read.params == {"model": "smart", "messages": QUESTION, "api_key": SPEND["api_key"]}


def test_a_page_of_rows(tmp_path: Path) -> None:
    """As LiteLLM's API gives them."""
    (tmp_path / "page.json").write_text(json.dumps({"data": [SPEND, SPEND], "total": 2, "page": 1}, indent=1))
    assert len(read_log(tmp_path / "page.json").calls) == 2


def test_a_prompt_that_litellm_has_cut_is_not_whole() -> None:
    cut = "Once ... (litellm_truncated skipped 900 chars. It is stored in full elsewhere.) ... the end."
    body = {"model": "smart", "messages": [{"role": "system", "content": cut}, *QUESTION]}
    (read,) = calls_in({**SPEND, "proxy_server_request": json.dumps(body)})
    assert not read.whole


def test_a_redacted_prompt_is_none() -> None:
    """All would be the same."""
    body = {**ASKED, "messages": [{"role": "user", "content": "redacted-by-litellm"}], "prompt": "", "input": ""}
    with pytest.raises(Unreadable, match="turn_off_message_logging"):
        calls_in({**SPEND, "proxy_server_request": json.dumps(body)})


def test_a_hit_of_litellms_cache_has_cost_nothing_and_says_nothing_of_the_price() -> None:
    (read,) = calls_in({**SPEND, "cache_hit": "True", "spend": 0.0})
    assert (read.cached, read.usd, read.usage) == (True, None, Usage(500, 150))


def test_a_row_without_its_prompt() -> None:
    with pytest.raises(Unreadable, match="store_prompts_in_spend_logs"):
        calls_in({**SPEND, "proxy_server_request": {}})


def attribute(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    if isinstance(value, float):
        return {"key": name, "value": {"doubleValue": value}}
    return {"key": name, "value": {"stringValue": value if isinstance(value, str) else json.dumps(value)}}


def otlp(*, without: str = "", **attributes: Any) -> dict[str, Any]:
    """An export with a span of a call. without: an attribute that it has not."""
    about: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 200,
        "gen_ai.usage.input_tokens": 500,
        "gen_ai.usage.output_tokens": 150,
    }
    span = {
        "name": "chat gpt-4o",
        "startTimeUnixNano": "1762156800250000000",
        "endTimeUnixNano": "1762156802750000000",
        "attributes": [attribute(name, value) for name, value in (about | attributes).items() if name != without],
    }
    other = {"name": "GET /", "attributes": [attribute("http.request.method", "GET")]}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [other, span]}]}]}


def test_a_span_of_the_genai_conventions() -> None:
    asked = [{"role": "user", "parts": [{"type": "text", "content": "Where is my order?"}]}]
    said = [{"role": "assistant", "parts": [{"type": "text", "content": "On its way."}], "finish_reason": "stop"}]
    system = [{"type": "text", "content": "Be brief."}]
    content: dict[str, Any] = {
        "gen_ai.input.messages": asked,
        "gen_ai.output.messages": said,
        "gen_ai.system_instructions": system,
    }
    (read,) = calls_in(otlp(**content))
    assert read.params == {
        "model": "gpt-4o",
        "temperature": 0.5,
        "max_tokens": 200,
        "messages": [{"role": "system", "content": "Be brief."}, *QUESTION],
    }
    assert (read.began, read.seconds, read.provider) == (1762156800.25, 2.5, "openai")
    assert read.usage == Usage(500, 150)
    assert read.answer["choices"][0]["message"] == {"role": "assistant", "content": "On its way."}


def test_calls_of_tools_in_a_span() -> None:
    """They become OpenAI's, and so do the tools."""
    asked: list[Any] = [
        {"role": "user", "parts": [{"type": "text", "content": "Where is it?"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "t", "name": "find", "arguments": {"id": 7}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "t", "response": "sent"}]},
    ]
    tools = [{"type": "function", "name": "find", "parameters": {"type": "object"}}]
    content: dict[str, Any] = {"gen_ai.input.messages": asked, "gen_ai.tool.definitions": tools}
    (read,) = calls_in(otlp(**content))
    function = {"name": "find", "arguments": '{"id":7}'}
    assert read.params["messages"] == [
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "t", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "t", "content": "sent"},
    ]
    assert read.params["tools"] == [
        {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    ]
    assert read.whole


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "parts": [{"type": "blob", "modality": "image", "content": "aGk="}]}],
        '[{"role": "user", "parts": [{"type": "text", "content": "Where is',
    ],
)
def test_messages_that_cannot_be_sent_again(messages: Any) -> None:
    """Parts that OpenAI has no word for, and a text that an exporter cut."""
    (read,) = calls_in(otlp(**{"gen_ai.input.messages": messages}))
    assert not read.whole


def test_numbered_prompts() -> None:
    """How OpenLLMetry says it: a message without a content ends nothing."""
    numbered: dict[str, Any] = {
        "llm.request.type": "chat",
        "llm.request.functions.0.name": "find",
        "llm.request.functions.0.parameters": {"type": "object"},
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "Where is my order?",
        "gen_ai.prompt.1.role": "assistant",
        "gen_ai.prompt.1.tool_calls.0.id": "t",
        "gen_ai.prompt.1.tool_calls.0.name": "find",
        "gen_ai.prompt.1.tool_calls.0.arguments": '{"id":7}',
        "gen_ai.prompt.2.role": "tool",
        "gen_ai.prompt.2.content": "sent",
        "gen_ai.prompt.2.tool_call_id": "t",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "On its way.",
        "gen_ai.completion.0.finish_reason": "stop",
    }
    (read,) = calls_in(otlp(without="gen_ai.operation.name", **numbered))
    function = {"name": "find", "arguments": '{"id":7}'}
    assert read.params["messages"] == [
        *QUESTION,
        {"role": "assistant", "tool_calls": [{"id": "t", "type": "function", "function": function}]},
        {"role": "tool", "content": "sent", "tool_call_id": "t"},
    ]
    assert read.params["tools"] == [
        {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    ]
    (choice,) = read.answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "On its way."}


def event(name: str, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "attributes": [attribute(name, value) for name, value in attributes.items()]}


@pytest.mark.parametrize(
    "events",
    [
        [
            event("gen_ai.user.message", content="Where is my order?"),
            event("gen_ai.choice", message={"role": "assistant", "content": "On its way."}, finish_reason="stop"),
        ],
        [
            event("gen_ai.user.message", content=[{"text": "Where is my order?"}]),
            event("gen_ai.choice", message="On its way.", finish_reason="stop"),
        ],
        [
            event("gen_ai.user.message", **{"gen_ai.event.content": QUESTION[0]}),
            event("gen_ai.choice", **{"gen_ai.event.content": {"message": {"content": "On its way."}, "index": 0}}),
        ],
    ],
)
def test_prompts_as_events(events: list[Any]) -> None:
    export = otlp()
    export["resourceSpans"][0]["scopeSpans"][0]["spans"][1]["events"] = events
    (read,) = calls_in(export)
    assert read.params["messages"] == QUESTION
    (choice,) = read.answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "On its way."}


def test_a_span_that_failed() -> None:
    export = otlp(**{"gen_ai.prompt": "Where is my order?"})
    export["resourceSpans"][0]["scopeSpans"][0]["spans"][1]["status"] = {"code": 2, "message": "429"}
    (read,) = calls_in(export)
    assert (read.failed, read.params["messages"]) == (True, QUESTION)


def test_spans_without_content() -> None:
    with pytest.raises(Unreadable, match="did not keep the prompt"):
        calls_in(otlp())


def test_a_batch_file_of_openais() -> None:
    for url, kind in (("/v1/chat/completions", "chat"), ("/v1/completions", "text_completion")):
        (read,) = calls_in({"custom_id": "1", "method": "POST", "url": url, "body": {"model": "m", "prompt": "x"}})
        assert (read.call_type, read.params) == (kind, {"model": "m", "prompt": "x"})


def test_a_call_of_our_own_format() -> None:
    request = {"model": "m", "messages": QUESTION, "cache": {"ttl": 5}}
    (read,) = calls_in({"request": request, "answer": answer("x"), "began": 5, "seconds": 2, "tenant": "t"})
    assert read == LoggedCall(
        {"model": "m", "messages": QUESTION}, "chat", answer("x"), 5.0, 2.0, Usage(500, 150), tenant="t"
    )


def test_lines_that_are_no_calls_are_counted(tmp_path: Path) -> None:
    lines = [
        json.dumps(SPEND),
        "{oops",
        json.dumps({"model": "m"}),
        json.dumps({**SPEND, "proxy_server_request": {}}),
        "[1]",
    ]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, "{oops", ""]))
    log = read_log(tmp_path / "log.jsonl")
    assert len(log.calls) == 1
    assert log.skipped == {
        "no JSON": 2,
        "no prompt": 1,
        "no JSON object": 1,
        "LiteLLM did not keep the prompt (store_prompts_in_spend_logs)": 1,
    }


def test_a_ledgers_file_is_no_log(tmp_path: Path) -> None:
    lines = [{"kind": "call", "outcome": "hit", "model": "m"}, {"kind": "upstream", "model": "m"}]
    (tmp_path / "calls.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ConfigError, match=r"a ledger's line, which has no prompt \(2\)"):
        read_log(tmp_path / "calls.jsonl")


def test_an_array_is_a_log_too(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(json.dumps([SPEND, SPEND], indent=2))
    assert len(read_log(tmp_path / "log.json").calls) == 2


def test_a_log_without_a_call_says_why(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({**SPEND, "proxy_server_request": {}}))
    with pytest.raises(ConfigError, match="store_prompts_in_spend_logs"):
        read_log(tmp_path / "log.jsonl")
    with pytest.raises(ConfigError, match="No such file"):
        read_log(tmp_path / "none.jsonl")


def test_the_most_frequent_requests(tmp_path: Path) -> None:
    """How an answer travels makes no request another."""
    asked = [call(text) for text in "abbcbca"]
    asked.append(replace(asked[2], params={**asked[2].params, "stream": True}))
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps({"request": dict(each.params)}) for each in asked))
    found = [each.params["messages"][0]["content"] for each in read_log(tmp_path / "log.jsonl").top(2)]
    assert found == ["b", "a"]


def test_prompts_are_lines(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("Where is my order?\n\n  Hello  \n")
    assert prompts(tmp_path / "prompts.txt") == ["Where is my order?", "Hello"]
    (tmp_path / "log.jsonl").write_text(json.dumps({"model": "m", "messages": QUESTION}))
    assert prompts(tmp_path / "log.jsonl") is None
