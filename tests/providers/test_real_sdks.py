"""Real SDKs against a provider on the loopback interface: what reaches it is what its documentation asks for."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from asynccache import Cache, status
from asynccache.clients.httpx import AsyncCacheTransport
from asynccache.providers import ContextCaches, GeminiAPI, PromptCaching
from asynccache.testing.provider import SimulatedProvider
from tests.providers.google_server import google

LONG = "A sentence that is long enough. " * 400
SYSTEM = [{"location": "message", "role": "system"}]
MARK = {"type": "ephemeral"}


async def test_anthropic(provider: SimulatedProvider) -> None:
    """System prompt, tools and the last message are marked, as blocks, for an hour; a second call is a hit."""
    points = [
        {**SYSTEM[0], "control": {**MARK, "ttl": "1h"}},
        {"location": "tool_config", "control": {**MARK, "ttl": "1h"}},
        {"location": "message", "index": -1},
    ]
    messages: Any = [{"role": "user", "content": "Why?"}]
    tools: Any = [{"name": "look_up", "description": LONG, "input_schema": {"type": "object"}}]
    async with Cache(cache_control_injection_points=points) as cache:
        client = cache.wrap(anthropic.AsyncAnthropic(base_url=provider.origin, api_key="k"))
        outcomes = []
        for _ in range(2):
            answer = await client.messages.create(
                model="claude-opus-5", max_tokens=1000, system=LONG, messages=messages, tools=tools
            )
            outcomes.append(status(answer).outcome)
        await client.close()
    assert outcomes == ["miss", "hit"]
    [sent] = provider.requests
    hour = {**MARK, "ttl": "1h"}
    assert sent["system"] == [{"type": "text", "text": LONG, "cache_control": hour}]
    assert sent["tools"] == [{**tools[0], "cache_control": hour}]
    assert sent["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Why?", "cache_control": MARK}]}]
    assert messages == [{"role": "user", "content": "Why?"}]


async def test_anthropic_streamed_through_a_transport(provider: SimulatedProvider) -> None:
    """Marked, too, where only the HTTP client is ours; and a stream is replayed to an unmarked reader."""
    async with Cache(cache_control_injection_points=SYSTEM) as cache:
        http = httpx2.AsyncClient(transport=AsyncCacheTransport(cache))
        client = anthropic.AsyncAnthropic(base_url=provider.origin, api_key="k", http_client=http)
        for _ in range(2):
            async with client.messages.stream(
                model="claude-opus-5", max_tokens=1000, system=LONG, messages=[{"role": "user", "content": "Why?"}]
            ) as stream:
                assert await stream.get_final_text()
        await client.close()
    [sent] = provider.requests
    assert sent["system"] == [{"type": "text", "text": LONG, "cache_control": MARK}]


async def test_openai(provider: SimulatedProvider) -> None:
    """Breakpoints, options and a key that is the same for both questions."""
    hook = PromptCaching(SYSTEM, provider="openai")  # which its address does not tell
    async with Cache(pre_hooks=[hook]) as cache:
        client = cache.wrap(openai.AsyncOpenAI(base_url=provider.base_url, api_key="k"))
        for question in ("Why?", "How?", "Why?"):
            await client.chat.completions.create(
                model="gpt-5.6",
                messages=[{"role": "system", "content": LONG}, {"role": "user", "content": question}],
            )
        await client.responses.create(model="gpt-5.6", instructions="Be brief.", input=LONG, store=False)
        await client.close()
    first, second, response = provider.requests
    block = {"type": "text", "text": LONG, "prompt_cache_breakpoint": {"mode": "explicit"}}
    assert first["messages"] == [{"role": "system", "content": [block]}, {"role": "user", "content": "Why?"}]
    assert first["prompt_cache_options"] == {"mode": "implicit"}
    assert first["prompt_cache_key"] == second["prompt_cache_key"]
    assert response["input"] == LONG
    assert cache.stats.hits == 1


async def test_openai_of_older_models(provider: SimulatedProvider) -> None:
    """The guide's `cached` is accepted and not sent; a key is."""
    async with Cache(pre_hooks=[PromptCaching(SYSTEM, provider="openai")]) as cache:
        client = cache.wrap(openai.AsyncOpenAI(base_url=provider.base_url, api_key="k"))
        messages: Any = [{"role": "system", "content": LONG, "cached": True}, {"role": "user", "content": "Hello!"}]
        await client.chat.completions.create(model="gpt-4o", messages=messages)
        await client.close()
    [sent] = provider.requests
    assert sent["messages"] == [{"role": "system", "content": LONG}, {"role": "user", "content": "Hello!"}]
    assert sent["prompt_cache_key"].startswith("asynccache-")
    assert "prompt_cache_options" not in sent


async def test_a_gateway_that_speaks_like_openai_gets_what_it_was_sent(provider: SimulatedProvider) -> None:
    """Nobody knows what it takes."""
    async with Cache(cache_control_injection_points=SYSTEM) as cache:
        client = cache.wrap(openai.AsyncOpenAI(base_url=provider.base_url, api_key="k"))
        messages: Any = [{"role": "system", "content": LONG, "cache_control": MARK}]
        await client.chat.completions.create(model="gpt-5.6", messages=messages)
        await client.close()
    assert provider.requests == [{"model": "gpt-5.6", "messages": messages}]


async def test_claude_behind_a_gateway(provider: SimulatedProvider) -> None:
    """OpenAI's client, another address: the mark stands on a block, as OpenRouter documents it."""
    async with Cache(cache_control_injection_points=SYSTEM) as cache:
        client = cache.wrap(openai.AsyncOpenAI(base_url=provider.base_url, api_key="k"))
        messages: Any = [{"role": "system", "content": LONG}, {"role": "user", "content": "Why?"}]
        await client.chat.completions.create(model="anthropic/claude-opus-5", messages=messages)
        await client.close()
    [sent] = provider.requests
    assert sent["messages"][0]["content"] == [{"type": "text", "text": LONG, "cache_control": MARK}]


@pytest.mark.parametrize("name", ["deepseek", "xai"])
async def test_deepseek_and_xai(provider: SimulatedProvider, name: Any) -> None:
    """The guide's `cache_control=True` is accepted and not sent."""
    async with Cache(pre_hooks=[PromptCaching(SYSTEM, provider=name)]) as cache:
        client = cache.wrap(openai.AsyncOpenAI(base_url=provider.base_url, api_key="k"))
        await client.chat.completions.create(
            model="m",
            messages=[{"role": "system", "content": LONG}, {"role": "user", "content": "Hello!"}],
            extra_body={"cache_control": True},
        )
        await client.close()
    [sent] = provider.requests
    assert sent == {
        "model": "m",
        "messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "Hello!"}],
    }


async def test_bedrock_converse() -> None:
    """What botocore accepts as a request of Converse: its own model of the API reads the points."""
    import botocore.loaders
    import botocore.model
    import botocore.serialize
    import botocore.validate

    got: list[dict[str, Any]] = []

    async def converse(**params: Any) -> dict[str, Any]:
        got.append(params)
        return {"output": {"message": {"role": "assistant", "content": [{"text": "Blue."}]}}}

    spec = {"toolSpec": {"name": "look_up", "description": "d", "inputSchema": {"json": {"type": "object"}}}}
    async with Cache(cache_control_injection_points=[*SYSTEM, {"location": "tool_config"}]) as cache:
        await cache.wrap(converse)(
            modelId="anthropic.claude-opus-5",
            system=[{"text": LONG}],
            messages=[{"role": "user", "content": [{"text": "Why?"}]}],
            toolConfig={"tools": [spec]},
        )
    [sent] = got
    assert sent["system"] == [{"text": LONG}, {"cachePoint": {"type": "default"}}]
    # The tools alone are below the minimum: they are part of what the point behind the system prompt keeps.
    assert sent["toolConfig"] == {"tools": [spec]}
    described = botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    service = botocore.model.ServiceModel(described, "bedrock-runtime")
    operation = service.operation_model("Converse")
    report = botocore.validate.ParamValidator().validate(sent, operation.input_shape)
    assert not report.has_errors(), report.generate_report()


async def test_gemini() -> None:
    """google-genai: the instruction is kept once, and requests name it in its place."""
    from google import genai
    from google.genai import types

    async with google() as server:
        contexts = ContextCaches(GeminiAPI("k", f"{server.origin}/v1beta"))
        hook = PromptCaching(SYSTEM, contexts=contexts, provider="gemini")
        async with Cache(pre_hooks=[hook]) as cache:
            http = httpx.AsyncClient(transport=AsyncCacheTransport(cache))
            client = genai.Client(
                api_key="k", http_options=types.HttpOptions(base_url=server.origin, httpx_async_client=http)
            )
            config = types.GenerateContentConfig(system_instruction=LONG)
            for question in ("Why?", "How?", "Why?"):
                answer = await client.aio.models.generate_content(
                    model="gemini-2.5-flash", contents=question, config=config
                )
                assert answer.text == "Blue."
            await http.aclose()
            client.close()
    [kept] = server.bodies("POST", "/cachedContents")
    assert kept["model"] == "models/gemini-2.5-flash"
    assert kept["systemInstruction"]["parts"] == [{"text": LONG}]
    sent = server.bodies("POST", ":generateContent")
    assert [body["contents"][0]["parts"] for body in sent] == [[{"text": "Why?"}], [{"text": "How?"}]]
    assert all(body["cachedContent"] == "cachedContents/1" and "systemInstruction" not in body for body in sent)
