"""What becomes of a request, by provider: a table of cases."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from asynccache.providers import anthropic, bedrock, deepseek, gemini, openai, xai
from asynccache.providers.marking import Marked, apply
from asynccache.providers.points import SYSTEM, Point, read_points

LONG = "A sentence that is long enough. " * 400  # about 4,300 tokens by the estimate
SHORT = "Hi"
M = {"type": "ephemeral"}
H = {"type": "ephemeral", "ttl": "1h"}
B = {"mode": "explicit"}
CP = {"cachePoint": {"type": "default"}}
CPH = {"cachePoint": {"type": "default", "ttl": "1h"}}
TOOL = {"type": "function", "function": {"name": "look_up", "description": LONG, "parameters": {"type": "object"}}}
NATIVE_TOOL = {"name": "look_up", "description": LONG, "input_schema": {"type": "object"}}
SEARCH = {"type": "tool_search_tool_regex_20251119", "name": "search"}
SPEC = {"toolSpec": {"name": "look_up", "description": LONG, "inputSchema": {"json": {"type": "object"}}}}


def say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def ask(*messages: dict[str, Any], model: str = "claude-opus-5", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": list(messages), **more}


SYS, USER, BOT = say("system", LONG), say("user", SHORT), say("assistant", "Hello")


def at(index: Any, **more: Any) -> dict[str, Any]:
    return {"location": "message", "index": index, **more}


def of(role: str, **more: Any) -> dict[str, Any]:
    return {"location": "message", "role": role, **more}


TOOLS = {"location": "tool_config"}


SAME: Any = None


@dataclass(frozen=True)
class Case:
    """expected: the request as it is sent, `SAME` as it was given. note: what is said of it, in part."""

    name: str
    to: str
    request: Mapping[str, Any]
    points: tuple[Mapping[str, Any], ...]
    expected: Mapping[str, Any]
    note: str = ""


def converse(*messages: Any, system: Any = None, model: str = "anthropic.claude-sonnet-4-5-v1:0", **more: Any) -> Any:
    found = {"modelId": model, "messages": list(messages), **more}
    return found if system is None else {**found, "system": system}


def said(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


T = {"text": LONG}
S = {"text": SHORT}
NOVA = "amazon.nova-pro-v1:0"
GPT = "gpt-5.6"
IMPLICIT = {"prompt_cache_options": {"mode": "implicit"}}


def body(value: Any, model: str) -> dict[str, Any]:
    return {"modelId": model, "body": json.dumps(value, separators=(",", ":"), ensure_ascii=False)}


CLAUDE_BODY: dict[str, Any] = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": [USER]}
NOVA_BODY: dict[str, Any] = {"messages": [said("user", S)]}
CLAUDE = "anthropic.claude-opus-5"

FOUR = [say("user", LONG, cache_control=M) for _ in range(4)]
THREE_BLOCKS = [text(LONG, cache_control=M) for _ in range(3)]

CASES = (
    # -- Anthropic behind LiteLLM: OpenAI's form
    Case("system, a text", "chat", ask(SYS, USER), (of("system"),), ask({**SYS, "cache_control": M}, USER)),
    Case(
        "system, a list: its last block",
        "chat",
        ask(say("system", [text(LONG), text("end")]), USER),
        (of("system"),),
        ask(say("system", [text(LONG), text("end", cache_control=M)]), USER),
    ),
    Case(
        "a role: all its messages",
        "chat",
        ask(SYS, USER, BOT, USER),
        (of("user"),),
        ask(SYS, {**USER, "cache_control": M}, BOT, {**USER, "cache_control": M}),
    ),
    Case("an index", "chat", ask(SYS, USER, BOT), (at(1),), ask(SYS, {**USER, "cache_control": M}, BOT)),
    Case("a negative index", "chat", ask(SYS, USER, BOT), (at(-1),), ask(SYS, USER, {**BOT, "cache_control": M})),
    Case("the first by a negative index", "chat", ask(SYS, USER), (at(-2),), ask({**SYS, "cache_control": M}, USER)),
    Case("an index as a text", "chat", ask(SYS, USER), (at("-1"),), ask(SYS, {**USER, "cache_control": M})),
    Case("index beats role", "chat", ask(SYS, USER), (at(1, role="system"),), ask(SYS, {**USER, "cache_control": M})),
    Case(
        "an index that is no number: the role counts",
        "chat",
        ask(SYS, USER),
        (at("last", role="system"),),
        ask({**SYS, "cache_control": M}, USER),
    ),
    Case("an index out of range", "chat", ask(SYS, USER), (at(2),), SAME, "out of range"),
    Case("a negative index out of range", "chat", ask(SYS, USER), (at(-3),), SAME, "out of range"),
    Case("a role that is not there", "chat", ask(USER), (of("system"),), SAME),
    Case("a control of one's own", "chat", ask(SYS), (of("system", control=H),), ask({**SYS, "cache_control": H})),
    Case(
        "tools: the last one",
        "chat",
        ask(USER, tools=[TOOL, TOOL]),
        (TOOLS,),
        ask(USER, tools=[TOOL, {**TOOL, "cache_control": M}]),
    ),
    Case("tools: none", "chat", ask(SYS), (TOOLS,), SAME),
    Case(
        "tools: one that searches takes no mark",
        "chat",
        ask(USER, tools=[TOOL, SEARCH]),
        (TOOLS,),
        ask(USER, tools=[{**TOOL, "cache_control": M}, SEARCH]),
    ),
    Case(
        "tools: one is marked by the client",
        "chat",
        ask(USER, tools=[{**TOOL, "cache_control": H}, TOOL]),
        (TOOLS,),
        SAME,
    ),
    Case(
        "tools: one that is loaded when it is found takes no mark",
        "chat",
        ask(USER, tools=[TOOL, {**TOOL, "defer_loading": True}]),
        (TOOLS,),
        ask(USER, tools=[{**TOOL, "cache_control": M}, {**TOOL, "defer_loading": True}]),
    ),
    Case(
        "a message with a mark of the client's keeps it",
        "chat",
        ask({**SYS, "cache_control": H}, USER),
        (of("system"), at(-1)),
        ask({**SYS, "cache_control": H}, {**USER, "cache_control": M}),
    ),
    Case("no more than four", "chat", ask(*FOUR, SYS), (at(-1),), SAME, "4 marks"),
    Case(
        "earlier points win",
        "chat",
        ask(*[say("user", LONG)] * 5, SYS),
        (of("system"), of("user")),
        ask(*[say("user", LONG, cache_control=M)] * 3, *[say("user", LONG)] * 2, {**SYS, "cache_control": M}),
        "4 marks",
    ),
    Case(
        "one is held back for the tools",
        "chat",
        ask(*[say("user", LONG)] * 4, tools=[TOOL]),
        (of("user"), TOOLS),
        ask(*[say("user", LONG, cache_control=M)] * 3, say("user", LONG), tools=[{**TOOL, "cache_control": M}]),
        "4 marks",
    ),
    Case(
        "marks of the client's on tools, blocks, calls and the whole request count",
        "chat",
        ask(
            say("user", [text(LONG, cache_control=M), text("x")]),
            say("assistant", None, tool_calls=[{"id": "1", "cache_control": M}]),
            USER,
            tools=[{**TOOL, "cache_control": M}],
            cache_control=M,
        ),
        (at(-1),),
        SAME,
        "4 marks",
    ),
    Case(
        "those in extra_body count",
        "chat",
        ask(say("user", THREE_BLOCKS), USER, extra_body={"cache_control": M}),
        (at(-1),),
        SAME,
        "4 marks",
    ),
    Case("below the minimum", "chat", ask(say("system", SHORT), USER), (of("system"),), SAME, "below 512"),
    Case(
        "the minimum is the model's",
        "chat",
        ask(say("system", LONG[:9000]), model="claude-haiku-4-5"),
        (of("system"),),
        SAME,
        "below 4096",
    ),
    Case(
        "the prefix counts, not the message alone",
        "chat",
        ask(SYS, USER),
        (at(1),),
        ask(SYS, {**USER, "cache_control": M}),
    ),
    Case("no content", "chat", ask(SYS, say("assistant", None)), (at(1),), SAME, "neither"),
    Case("an empty list", "chat", ask(SYS, say("user", [])), (at(1),), SAME, "empty"),
    Case("an empty text", "chat", ask(SYS, say("user", "")), (at(1),), SAME, "empty"),
    Case("a last block that is no table", "chat", ask(SYS, say("user", ["x"])), (at(1),), SAME, "no table"),
    Case(
        "thinking takes none",
        "chat",
        ask(SYS, say("assistant", [{"type": "thinking", "thinking": "…"}])),
        (at(1),),
        SAME,
        "thinking",
    ),
    Case(
        "longer lives first: ours grows before the client's",
        "chat",
        ask(SYS, {**USER, "cache_control": H}),
        (of("system"),),
        ask({**SYS, "cache_control": H}, {**USER, "cache_control": H}),
        "longer lives come first",
    ),
    Case(
        "longer lives first: ours shrinks behind the client's",
        "chat",
        ask({**SYS, "cache_control": M}, USER),
        (at(1, control=H),),
        ask({**SYS, "cache_control": M}, {**USER, "cache_control": M}),
        "longer lives come first",
    ),
    Case(
        "longer lives first among ours",
        "chat",
        ask(SYS, USER, tools=[TOOL]),
        (of("system"), at(1, control=H), TOOLS),
        ask({**SYS, "cache_control": H}, {**USER, "cache_control": H}, tools=[{**TOOL, "cache_control": H}]),
        "longer lives come first",
    ),
    Case(
        "an hour, then five minutes, is right",
        "chat",
        ask(SYS, USER),
        (of("system", control=H), at(1)),
        ask({**SYS, "cache_control": H}, {**USER, "cache_control": M}),
    ),
    Case(
        "an hour on the whole request comes last",
        "chat",
        ask(SYS, USER, cache_control=H),
        (of("system"),),
        ask({**SYS, "cache_control": H}, USER, cache_control=H),
        "longer lives come first",
    ),
    Case("the same point twice", "chat", ask(SYS), (of("system"), at(0)), ask({**SYS, "cache_control": M})),
    # -- Anthropic behind a gateway, over HTTP
    Case(
        "a text becomes a block",
        "gateway",
        ask(SYS, USER, model="anthropic/claude-opus-5"),
        (of("system"),),
        ask(say("system", [text(LONG, cache_control=M)]), USER, model="anthropic/claude-opus-5"),
    ),
    Case(
        "a list: its last block",
        "gateway",
        ask(say("user", [text(LONG), text("end")])),
        (at(-1),),
        ask(say("user", [text(LONG), text("end", cache_control=M)])),
    ),
    # -- Anthropic's own form
    Case(
        "system, a text becomes a block",
        "messages",
        ask(USER, system=LONG),
        (of("system"),),
        ask(USER, system=[text(LONG, cache_control=M)]),
    ),
    Case(
        "system, a list: its last block",
        "messages",
        ask(USER, system=[text(LONG), text("end")]),
        (of("system"),),
        ask(USER, system=[text(LONG), text("end", cache_control=M)]),
    ),
    Case(
        "a message, a text becomes a block",
        "messages",
        ask(USER, system=LONG),
        (at(-1),),
        ask(say("user", [text(SHORT, cache_control=M)]), system=LONG),
    ),
    Case(
        "an index does not count the system prompt",
        "messages",
        ask(say("user", LONG), BOT, system=LONG),
        (at(0),),
        ask(say("user", [text(LONG, cache_control=M)]), BOT, system=LONG),
    ),
    Case(
        "tools: the last one",
        "messages",
        ask(USER, tools=[NATIVE_TOOL, NATIVE_TOOL]),
        (TOOLS,),
        ask(USER, tools=[NATIVE_TOOL, {**NATIVE_TOOL, "cache_control": M}]),
    ),
    Case(
        "a tool's result",
        "messages",
        ask(say("user", [{"type": "tool_result", "tool_use_id": "1", "content": LONG}])),
        (at(-1),),
        ask(say("user", [{"type": "tool_result", "tool_use_id": "1", "content": LONG, "cache_control": M}])),
    ),
    Case(
        "a system prompt that the client has marked",
        "messages",
        ask(USER, system=[text(LONG, cache_control=H), text("x")]),
        (of("system"),),
        SAME,
    ),
    Case("no system prompt", "messages", ask(USER), (of("system"),), SAME),
    Case("an index out of range", "messages", ask(USER, system=LONG), (at(1),), SAME, "out of range"),
    Case(
        "no more than four, the whole request's counted",
        "messages",
        ask(say("user", THREE_BLOCKS), system=LONG, cache_control=M),
        (of("system"),),
        SAME,
        "4 marks",
    ),
    Case(
        "marks within a tool's result count",
        "messages",
        ask(
            say("user", [{"type": "tool_result", "content": THREE_BLOCKS}]), USER, system=[text(LONG, cache_control=M)]
        ),
        (at(-1),),
        SAME,
        "4 marks",
    ),
    Case("below the minimum", "messages", ask(USER, system=SHORT), (of("system"),), SAME, "below 512"),
    Case(
        "longer lives first, from tools to messages",
        "messages",
        ask(say("user", [text("x", cache_control=H)]), system=LONG, tools=[NATIVE_TOOL]),
        (of("system"), TOOLS),
        ask(
            say("user", [text("x", cache_control=H)]),
            system=[text(LONG, cache_control=H)],
            tools=[{**NATIVE_TOOL, "cache_control": H}],
        ),
        "longer lives come first",
    ),
    # -- Bedrock: Converse
    Case(
        "system",
        "bedrock",
        converse(said("user", S), system=[T]),
        (of("system"),),
        converse(said("user", S), system=[T, CP]),
    ),
    Case("a message", "bedrock", converse(said("user", T)), (at(-1),), converse(said("user", T, CP))),
    Case(
        "a role",
        "bedrock",
        converse(said("user", T), said("assistant", S), said("user", S)),
        (of("user"),),
        converse(said("user", T, CP), said("assistant", S), said("user", S, CP)),
    ),
    Case(
        "an hour, for Claude 4.5 and later",
        "bedrock",
        converse(said("user", T)),
        (at(0, control=H),),
        converse(said("user", T, CPH)),
    ),
    Case(
        "no life before Claude 4.5",
        "bedrock",
        converse(said("user", T), model="us.anthropic.claude-3-7-sonnet-20250219-v1:0"),
        (at(0, control=H),),
        converse(said("user", T, CP), model="us.anthropic.claude-3-7-sonnet-20250219-v1:0"),
    ),
    Case(
        "no life in Claude 4",
        "bedrock",
        converse(said("user", T), model="anthropic.claude-opus-4-20250514-v1:0"),
        (at(0, control=H),),
        converse(said("user", T, CP), model="anthropic.claude-opus-4-20250514-v1:0"),
    ),
    Case(
        "tools: one behind them all",
        "bedrock",
        converse(said("user", S), toolConfig={"tools": [SPEC, SPEC], "toolChoice": {"auto": {}}}),
        (TOOLS,),
        converse(said("user", S), toolConfig={"tools": [SPEC, SPEC, CP], "toolChoice": {"auto": {}}}),
    ),
    Case("tools: none", "bedrock", converse(said("user", T)), (TOOLS,), SAME),
    Case(
        "Nova takes none behind tools",
        "bedrock",
        converse(said("user", S), model=NOVA, toolConfig={"tools": [SPEC]}),
        (TOOLS,),
        SAME,
        "Nova",
    ),
    Case("a point of the client's", "bedrock", converse(said("user", T, CP)), (at(0),), SAME),
    Case(
        "no more than four",
        "bedrock",
        converse(*[said("user", T, CP)] * 4, said("user", S)),
        (at(-1),),
        SAME,
        "4 marks",
    ),
    Case("below the minimum", "bedrock", converse(said("user", S)), (at(0),), SAME, "below 1024"),
    Case("an index out of range", "bedrock", converse(said("user", T)), (at(7),), SAME, "out of range"),
    Case(
        "a model that keeps none",
        "bedrock",
        converse(said("user", T), model="anthropic.claude-3-sonnet-20240229-v1:0"),
        (at(0),),
        SAME,
        "keeps no prefixes",
    ),
    Case(
        "OpenAI's models on Bedrock keep theirs by themselves",
        "bedrock",
        converse(said("user", T), model="openai.gpt-oss-120b-1:0"),
        (at(0),),
        SAME,
        "keeps no prefixes",
    ),
    Case(
        "a model that is not known is believed to keep them",
        "bedrock",
        converse(said("user", T), model="arn:aws:bedrock:us-east-1:1:application-inference-profile/x"),
        (at(0),),
        converse(said("user", T, CP), model="arn:aws:bedrock:us-east-1:1:application-inference-profile/x"),
    ),
    Case(
        "longer lives first",
        "bedrock",
        converse(said("user", T), said("user", S, CPH)),
        (at(0),),
        converse(said("user", T, CPH), said("user", S, CPH)),
        "longer lives",
    ),
    # -- Bedrock: InvokeModel, and LiteLLM's form
    Case(
        "Claude's body",
        "bedrock",
        body({**CLAUDE_BODY, "system": LONG}, CLAUDE),
        (of("system"),),
        body({**CLAUDE_BODY, "system": [text(LONG, cache_control=M)]}, CLAUDE),
    ),
    Case(
        "Nova's body: a key of the text",
        "bedrock",
        body({**NOVA_BODY, "system": [T]}, NOVA),
        (of("system"),),
        body({**NOVA_BODY, "system": [{**T, **CP}]}, NOVA),
    ),
    Case(
        "Nova's body: behind an image, the text before it",
        "bedrock",
        body({"messages": [said("user", T, {"image": {"format": "png"}})]}, NOVA),
        (at(0),),
        body({"messages": [said("user", {**T, **CP}, {"image": {"format": "png"}})]}, NOVA),
    ),
    Case(
        "Nova's body: tools take none",
        "bedrock",
        body({**NOVA_BODY, "toolConfig": {"tools": [SPEC]}}, NOVA),
        (TOOLS,),
        SAME,
    ),
    Case("a body that is no JSON", "bedrock", {"modelId": NOVA, "body": "{"}, (at(0),), SAME, "no JSON"),
    Case(
        "LiteLLM's form",
        "bedrock-chat",
        ask(SYS, USER, model="bedrock/anthropic.claude-3-7-sonnet-20250219-v1:0", tools=[TOOL]),
        (of("system", control=H), TOOLS),
        ask(
            {**SYS, "cache_control": M},
            USER,
            model="bedrock/anthropic.claude-3-7-sonnet-20250219-v1:0",
            tools=[{**TOOL, "cache_control": M}],
        ),
        "longer lives",
    ),
    Case(
        "LiteLLM's form, a model that keeps none",
        "bedrock-chat",
        ask(SYS, model="bedrock/anthropic.claude-3-sonnet"),
        (of("system"),),
        SAME,
        "keeps no prefixes",
    ),
    # -- OpenAI
    Case("before 5.6 nothing is marked", "openai", ask(SYS, USER, model="gpt-4o"), (of("system"),), SAME),
    Case(
        "a text becomes a block",
        "openai",
        ask(SYS, USER, model=GPT),
        (of("system"),),
        ask(say("system", [text(LONG, prompt_cache_breakpoint=B)]), USER, model=GPT, **IMPLICIT),
    ),
    Case(
        "a list: the last block that takes one",
        "openai",
        ask(say("user", [text(LONG), {"type": "image_url", "image_url": {"url": "u"}}, {"type": "odd"}]), model=GPT),
        (at(0),),
        ask(
            say(
                "user",
                [
                    text(LONG),
                    {"type": "image_url", "image_url": {"url": "u"}, "prompt_cache_breakpoint": B},
                    {"type": "odd"},
                ],
            ),
            model=GPT,
            **IMPLICIT,
        ),
    ),
    Case("never an assistant's", "openai", ask(SYS, BOT, model=GPT), (at(1),), SAME, "assistant"),
    Case(
        "a negative index",
        "openai",
        ask(SYS, USER, model=GPT),
        (at(-1),),
        ask(SYS, say("user", [text(SHORT, prompt_cache_breakpoint=B)]), model=GPT, **IMPLICIT),
    ),
    Case("an index out of range", "openai", ask(SYS, model=GPT), (at(3),), SAME, "out of range"),
    Case("below the minimum", "openai", ask(USER, model=GPT), (at(0),), SAME, "below 1024"),
    Case(
        "three beside OpenAI's own",
        "openai",
        ask(*[say("user", LONG)] * 4, model=GPT),
        (of("user"),),
        ask(*[say("user", [text(LONG, prompt_cache_breakpoint=B)])] * 3, say("user", LONG), model=GPT, **IMPLICIT),
        "3 marks",
    ),
    Case(
        "four where OpenAI sets none",
        "openai",
        ask(*[say("user", LONG)] * 4, model=GPT, prompt_cache_options={"mode": "explicit"}),
        (of("user"),),
        ask(
            *[say("user", [text(LONG, prompt_cache_breakpoint=B)])] * 4,
            model=GPT,
            prompt_cache_options={"mode": "explicit"},
        ),
    ),
    Case(
        "a breakpoint of the client's stays",
        "openai",
        ask(say("user", [text(LONG, prompt_cache_breakpoint={**B, "ttl": "12h"})]), model=GPT),
        (at(0),),
        SAME,
    ),
    Case(
        "a life of OpenAI's",
        "openai",
        ask(say("user", LONG), model=GPT),
        (at(0, control={"type": "ephemeral", "ttl": "12h"}),),
        ask(say("user", [text(LONG, prompt_cache_breakpoint={**B, "ttl": "12h"})]), model=GPT, **IMPLICIT),
    ),
    Case("tools take none", "openai", ask(SYS, model=GPT, tools=[TOOL]), (TOOLS,), SAME, "tools"),
    Case(
        "the guide's cached: taken for a breakpoint",
        "openai",
        ask({**SYS, "cached": True}, USER, model=GPT),
        (),
        ask(say("system", [text(LONG, prompt_cache_breakpoint=B)]), USER, model=GPT, **IMPLICIT),
    ),
    Case(
        "the guide's cached: taken out",
        "openai",
        ask({**SYS, "cached": True}, USER, model="gpt-4o"),
        (),
        ask(SYS, USER, model="gpt-4o"),
    ),
    Case("cached=False is taken out", "openai", ask({**SYS, "cached": False}, model=GPT), (), ask(SYS, model=GPT)),
    Case(
        "cache_control is taken out",
        "openai",
        ask(
            say("user", [text(LONG, cache_control=M)]),
            model="gpt-4o",
            tools=[{**TOOL, "cache_control": M}],
            cache_control=M,
        ),
        (),
        ask(say("user", [text(LONG)]), model="gpt-4o", tools=[TOOL]),
    ),
    Case(
        "responses: a text becomes a message",
        "openai",
        {"model": GPT, "input": LONG},
        (of("user"),),
        {
            "model": GPT,
            "input": [say("user", [{"type": "input_text", "text": LONG, "prompt_cache_breakpoint": B}])],
            **IMPLICIT,
        },
    ),
    Case(
        "responses: a list",
        "openai",
        {"model": GPT, "instructions": LONG, "input": [USER, {"type": "function_call_output", "output": "x"}]},
        (at(0),),
        {
            "model": GPT,
            "instructions": LONG,
            "input": [
                say("user", [{"type": "input_text", "text": SHORT, "prompt_cache_breakpoint": B}]),
                {"type": "function_call_output", "output": "x"},
            ],
            **IMPLICIT,
        },
    ),
    # -- DeepSeek and xAI
    *(
        case
        for name in ("deepseek", "xai")
        for case in (
            Case(
                "the guide's cache_control=True",
                name,
                ask(USER, model="m", cache_control=True),
                (),
                ask(USER, model="m"),
            ),
            Case("nothing is marked", name, ask(SYS, USER, model="m"), (of("system"),), SAME, "by itself"),
            Case(
                "marks on messages, blocks and tools",
                name,
                ask(
                    {**SYS, "cache_control": M},
                    say("user", [text("x", cache_control=M)]),
                    model="m",
                    tools=[{**TOOL, "cache_control": M}],
                ),
                (),
                ask(SYS, say("user", [text("x")]), model="m", tools=[TOOL]),
            ),
            Case(
                "a tool's argument of that name is no mark",
                name,
                ask(
                    USER,
                    model="m",
                    tools=[
                        {
                            "type": "function",
                            "function": {"name": "f", "parameters": {"properties": {"cache_control": {}}}},
                        }
                    ],
                ),
                (),
                SAME,
            ),
        )
    ),
)


def mark(case: Case, request: Mapping[str, Any]) -> Marked:
    points = read_points(case.points)
    match case.to:
        case "chat":
            return anthropic.mark(request, points, chat=True)
        case "gateway":
            return apply(anthropic.GATEWAY, request, points, str(request["model"]))
        case "messages":
            return anthropic.mark(request, points)
        case "bedrock":
            return bedrock.mark(request, points)
        case "bedrock-chat":
            return bedrock.mark(request, points, chat=True)
        case "openai":
            return openai.mark(request, points)
        case "deepseek":
            return deepseek.mark(request, points)
        case _:
            return xai.mark(request, points)


def without_key(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name != "prompt_cache_key"}


IDS = [f"{case.to}: {case.name}" for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_case(case: Case) -> None:
    """The request that is sent is the one that the provider's rules ask for; the one that was given is unchanged; and
    to mark what is marked changes nothing."""
    request = copy.deepcopy(case.request)
    marked = mark(case, request)
    assert without_key(marked.request) == (case.request if case.expected is SAME else case.expected)
    assert request == case.request
    assert case.note in "\n".join(marked.notes)
    assert bool(case.note) == bool(marked.notes)
    assert mark(case, marked.request).request == marked.request


def test_the_table_is_what_it_should_be() -> None:
    assert len(CASES) >= 60
    assert len(set(IDS)) == len(CASES)


@pytest.mark.parametrize(
    ("model", "minimum"),
    [
        ("claude-opus-5", 512),
        ("anthropic/claude-opus-5-5", 512),
        ("claude-mythos-5", 512),
        ("claude-haiku-5-5", 512),
        ("claude-sonnet-5-5", 512),
        ("claude-sonnet-5", 1024),
        ("claude-opus-4-8", 1024),
        ("claude-opus-4-7-20260416", 2048),
        ("claude-opus-4-6", 4096),
        ("claude-opus-4-5-20251101", 4096),
        ("claude-haiku-4-5@20251001", 4096),
        ("claude-sonnet-4-6", 1024),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", 1024),
        ("claude-opus-4-1-20250805", 1024),
        ("anthropic/claude-3.5-sonnet-20240620", 1024),
        ("claude-3-5-haiku-20241022", 2048),
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", 1024),
        ("claude-next", 1024),
    ],
)
def test_minimum_of_claude(model: str, minimum: int) -> None:
    """As Anthropic's documentation and LiteLLM's table have it."""
    assert anthropic.claude_minimum(model) == minimum


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("gpt-5.6", True),
        ("openai/gpt-6", True),
        ("gpt-5.6-sol", True),
        ("gpt-5.5", False),
        ("gpt-5", False),
        ("gpt-4o", False),
        ("o3", False),
    ],
)
def test_which_models_take_breakpoints(model: str, takes: bool) -> None:
    assert openai.takes_breakpoints(model) is takes


def test_the_key_of_openai_is_that_of_the_prefix() -> None:
    """Calls with one prefix have one key, whatever is asked; others have others; a client's own stays."""
    keys = [
        openai.mark(request).request.get("prompt_cache_key")
        for request in (
            ask(SYS, USER, model="gpt-4o"),
            ask(SYS, say("user", "Another"), model="gpt-4o", temperature=1),
            ask(say("system", LONG + "!"), USER, model="gpt-4o"),
            ask(SYS, USER, model="gpt-4o", tools=[TOOL]),
            ask(say("system", SHORT), USER, model="gpt-4o"),
            ask(SYS, USER, model="gpt-4o", prompt_cache_key="mine"),
        )
    ]
    assert keys[0] == keys[1]
    assert len(str(keys[0])) <= 64
    assert len({keys[0], keys[2], keys[3]}) == 3
    assert keys[4:] == [None, "mine"]


def g(role: str, value: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": value}]}


GEMINI = "gemini-2.5-flash"
INSTRUCTION = {"parts": [{"text": LONG}]}
Divided = tuple[dict[str, Any] | None, dict[str, Any]]


@pytest.mark.parametrize(
    ("request_", "points", "chat", "expected"),
    [
        pytest.param(
            {
                "systemInstruction": INSTRUCTION,
                "contents": [g("user", "Q")],
                "tools": [{"t": 1}],
                "generationConfig": {"x": 1},
            },
            [of("system")],
            False,
            (
                {"systemInstruction": INSTRUCTION, "tools": [{"t": 1}]},
                {"contents": [g("user", "Q")], "generationConfig": {"x": 1}},
            ),
            id="the instruction, with the tools",
        ),
        pytest.param(
            {"contents": [g("user", LONG), g("user", "Q")]},
            [at(0)],
            False,
            ({"contents": [g("user", LONG)]}, {"contents": [g("user", "Q")]}),
            id="an index",
        ),
        pytest.param(
            {"contents": [g("user", LONG), g("user", "Q")]},
            [at(-2)],
            False,
            ({"contents": [g("user", LONG)]}, {"contents": [g("user", "Q")]}),
            id="a negative index",
        ),
        pytest.param({"contents": [g("user", LONG), g("user", "Q")]}, [at(9)], False, None, id="an index out of range"),
        pytest.param(
            {"systemInstruction": INSTRUCTION, "contents": [g("user", "Q")]},
            [of("system"), at(0)],
            False,
            ({"systemInstruction": INSTRUCTION}, {"contents": [g("user", "Q")]}),
            id="something is left to be asked",
        ),
        pytest.param(
            {"contents": [g("user", LONG), g("model", "A"), g("user", "Q")]},
            [at(1)],
            False,
            None,
            id="not up to an answer",
        ),
        pytest.param(
            {"systemInstruction": g("user", "short"), "contents": [g("user", "Q")]},
            [of("system")],
            False,
            None,
            id="below the minimum",
        ),
        pytest.param(
            {"systemInstruction": INSTRUCTION, "contents": [g("user", "Q")], "cachedContent": "cachedContents/1"},
            [of("system")],
            False,
            None,
            id="the client's own",
        ),
        pytest.param(
            ask(SYS, USER, model=GEMINI, tools=[TOOL], tool_choice="required", temperature=0),
            [of("system")],
            True,
            (
                {
                    "systemInstruction": INSTRUCTION,
                    "tools": [
                        {
                            "functionDeclarations": [
                                {"name": "look_up", "description": LONG, "parametersJsonSchema": {"type": "object"}}
                            ]
                        }
                    ],
                    "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
                },
                ask(USER, model=GEMINI, temperature=0),
            ),
            id="OpenAI's form",
        ),
        pytest.param(
            ask(
                say("user", "before"),
                say("user", LONG, cache_control=M),
                USER,
                {**USER, "cache_control": M},
                USER,
                model=GEMINI,
            ),
            [],
            True,
            ({"contents": [g("user", "before"), g("user", LONG)]}, ask(USER, USER, USER, model=GEMINI)),
            id="the client's first run of marks, and all before it",
        ),
        pytest.param(
            ask(SYS, say("user", [{"type": "image_url", "image_url": {"url": "u"}}]), USER, model=GEMINI),
            [of("system")],
            True,
            None,
            id="an image cannot be told",
        ),
    ],
)
def test_gemini(request_: Any, points: list[Any], chat: bool, expected: Divided | None) -> None:
    """What is kept, and what is sent beside its name; nothing is changed in what was given."""
    given = copy.deepcopy(request_)
    division = gemini.divide(given, read_points(points), model=GEMINI, chat=chat)
    assert (division.content, division.rest) == (expected or (None, request_))
    assert given == request_


@pytest.mark.parametrize(
    ("chat", "name"),
    [pytest.param(False, "cachedContent", id="native"), pytest.param(True, "cached_content", id="chat")],
)
def test_context_cache_id(chat: bool, name: str) -> None:
    assert gemini.with_context_id({"context_cache_id": "c", "x": 1}, chat=chat) == {name: "c", "x": 1}
    assert gemini.with_context_id({"context_cache_id": None, "x": 1}, chat=chat) == {"x": 1}


def test_points_default_to_the_system_prompt() -> None:
    assert (Point(role="system"),) == SYSTEM == read_points([of("system")])
