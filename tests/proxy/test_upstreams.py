"""Where calls go, by the model that they name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from asynccache.errors import ConfigError
from asynccache.proxy.litellm_calls import is_for_the_config
from asynccache.proxy.problems import Problem
from asynccache.proxy.providers import parse
from asynccache.proxy.settings import Settings
from asynccache.proxy.upstreams import Deployment, Upstreams
from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import CHAT, COMPLETIONS, MESSAGES, Recording, listed, proxied

ANSWER = b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "type": "message", "content": []}'


def upstreams(*models: Mapping[str, Any], environ: Mapping[str, str] | None = None, **config: Any) -> Upstreams:
    listed_models = [{"model_name": "m", "litellm_params": dict(model)} for model in models]
    return Upstreams(Settings.load({"model_list": listed_models, **config}, environment={}), environ or {})


def only(model: Mapping[str, Any], **environ: str) -> Deployment:
    (deployment,) = upstreams(model, environ=environ).group("m").deployments
    return deployment


@pytest.mark.parametrize(
    ("model", "path", "url", "named"),
    [
        ("gpt-4o", "/chat/completions", "https://api.openai.com/v1/chat/completions", "gpt-4o"),
        ("openai/gpt-4o", "/responses", "https://api.openai.com/v1/responses", "gpt-4o"),
        ("claude-3", "/messages", "https://api.anthropic.com/v1/messages", "claude-3"),
        ("anthropic/claude-3", "/chat/completions", "https://api.anthropic.com/v1/chat/completions", "claude-3"),
        ("groq/llama", "/chat/completions", "https://api.groq.com/openai/v1/chat/completions", "llama"),
        ("mistral/large", "/embeddings", "https://api.mistral.ai/v1/embeddings", "large"),
        ("together_ai/meta/llama", "/completions", "https://api.together.xyz/v1/completions", "meta/llama"),
        ("deepseek/chat", "/messages", "https://api.deepseek.com/anthropic/v1/messages", "chat"),
        ("xai/grok", "/chat/completions", "https://api.x.ai/v1/chat/completions", "grok"),
        (
            "gemini/gemini-2",
            "/chat/completions",
            "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
            "gemini-2",
        ),
        ("cohere/rerank-v3", "/rerank", "https://api.cohere.com/v2/rerank", "rerank-v3"),
        ("openrouter/a/b", "/chat/completions", "https://openrouter.ai/api/v1/chat/completions", "a/b"),
        ("ollama/llama3", "/chat/completions", "http://127.0.0.1:11434/v1/chat/completions", "llama3"),
        ("openai/gpt-4o", "/messages", None, "gpt-4o"),
        ("bedrock/anthropic.claude", "/chat/completions", None, "bedrock/anthropic.claude"),
    ],
)
def test_a_models_name_says_where_it_is(model: str, path: str, url: str | None, named: str) -> None:
    """As LiteLLM writes it, without anything else in the config."""
    deployment = only({"model": model})
    assert (deployment.url(path), deployment.model) == (url, named)


@pytest.mark.parametrize(
    ("params", "path", "url"),
    [
        ({"model": "openai/m", "api_base": "http://127.0.0.1:1/v1/"}, "/chat/completions", "http://127.0.0.1:1/v1/chat/completions"),
        ({"model": "org/m", "api_base": "http://127.0.0.1:1"}, "/embeddings", "http://127.0.0.1:1/embeddings"),
        ({"model": "hosted_vllm/m", "api_base": "http://127.0.0.1:1/v1"}, "/messages", "http://127.0.0.1:1/v1/messages"),
        ({"model": "ollama/m", "api_base": "http://127.0.0.1:1"}, "/messages", "http://127.0.0.1:1/v1/messages"),
        ({"model": "anthropic/m", "api_base": "http://127.0.0.1:1"}, "/messages", "http://127.0.0.1:1/v1/messages"),
        ({"model": "cohere/m", "api_base": "http://127.0.0.1:1/v1"}, "/rerank", "http://127.0.0.1:1/v1/rerank"),
        (
            {"model": "azure/d 1", "api_base": "http://127.0.0.1:1", "api_version": "2024-10-21"},
            "/chat/completions",
            "http://127.0.0.1:1/openai/deployments/d%201/chat/completions?api-version=2024-10-21",
        ),
        (
            {"model": "azure/d", "api_base": "http://127.0.0.1:1", "api_version": "2025-03-01-preview"},
            "/responses",
            "http://127.0.0.1:1/openai/responses?api-version=2025-03-01-preview",
        ),
        ({"model": "azure/d", "api_base": "http://127.0.0.1:1/openai/v1"}, "/embeddings", "http://127.0.0.1:1/openai/v1/embeddings"),
        ({"model": "azure/d", "api_base": "http://127.0.0.1:1"}, "/embeddings", "http://127.0.0.1:1/openai/v1/embeddings"),
    ],
)  # fmt: skip
def test_a_base_of_ones_own(params: dict[str, Any], path: str, url: str) -> None:
    assert only(params).url(path) == url


def test_keys_come_from_the_config_or_the_environment() -> None:
    """The config's counts first; each provider gets it in the header that it wants; it is in no repr, and no key."""
    deployment = only({"model": "anthropic/m"}, ANTHROPIC_API_KEY="sk-secret")
    assert deployment.credentials("/messages") == [(b"x-api-key", b"sk-secret")]
    assert deployment.credentials("/chat/completions") == [(b"authorization", b"Bearer sk-secret")]
    azure = {"model": "azure/m", "api_base": "http://127.0.0.1:1", "api_key": "sk-secret"}
    assert only(azure, AZURE_API_KEY="other").credentials("/embeddings") == [(b"api-key", b"sk-secret")]
    assert "sk-secret" not in json.dumps(deployment.identity) + repr(deployment)
    assert not only({"model": "openai/m"}).keyed


def test_a_base_may_come_from_the_environment() -> None:
    deployment = only({"model": "hosted_vllm/m"}, HOSTED_VLLM_API_BASE="http://127.0.0.1:1/v1")
    assert deployment.url("/chat/completions") == "http://127.0.0.1:1/v1/chat/completions"


@pytest.mark.parametrize("model", ["azure/d", "hosted_vllm/m"])
def test_a_provider_without_an_address_wants_one(model: str) -> None:
    with pytest.raises(ConfigError, match="api_base is missing"):
        only({"model": model})


def test_the_password_of_a_base_is_in_no_message() -> None:
    with pytest.raises(ConfigError) as caught:
        only({"model": "openai/m", "api_base": "http://user:secret@127.0.0.1/v1?x=1"})
    assert "secret" not in str(caught.value)
    deployment = only({"model": "openai/m", "api_base": "http://user:secret@127.0.0.1/v1"})
    assert "secret" not in json.dumps(deployment.identity)


def test_the_word_in_front_of_a_model() -> None:
    assert parse("vllm/m", base=True) == ("hosted_vllm", "m")
    assert parse("meta/llama", base=True) == ("openai", "meta/llama")
    assert parse("unknown/m", base=False) == ("unknown", "m")
    assert parse("m", base=False, named="groq") == ("groq", "m")


def test_a_pattern_stands_for_many_models() -> None:
    """The star is what the client wrote in its place; the first pattern that fits counts, after whole names."""
    config: Any = {
        "model_list": [
            {"model_name": "claude-*", "litellm_params": {"model": "anthropic/claude-*"}},
            {"model_name": "*", "litellm_params": {"model": "openai/*"}},
        ]
    }
    found = Upstreams(Settings.load(config, environment={}), {})
    assert [found.group(name).deployments[0].model for name in ("claude-3", "gpt-4o")] == ["claude-3", "gpt-4o"]
    assert found.group("claude-3").provider == "anthropic"
    assert found.group("gpt-4o") is found.group("gpt-4o")


@pytest.mark.parametrize(("model", "status"), [("other", 404), (None, 400), (5, 400), (["m"], 400)])
def test_a_model_that_is_nowhere(model: Any, status: int) -> None:
    with pytest.raises(Problem) as caught:
        upstreams({"model": "openai/m"}).group(model)
    assert (caught.value.status, caught.value.param) == (status, "model")


@pytest.mark.parametrize("model", ["x/hosted_vllm/m", "x/azure/m", "x/.", "x/.."])
def test_a_made_up_name_that_leads_nowhere(model: str) -> None:
    with pytest.raises(Problem) as caught:
        upstreams_of("x/*", "*").group(model)
    assert caught.value.status == 404


def upstreams_of(name: str, model: str) -> Upstreams:
    config = {"model_list": [{"model_name": name, "litellm_params": {"model": model}}]}
    return Upstreams(Settings.load(config, environment={}), {})


async def test_deployments_of_one_name_take_turns(provider: SimulatedProvider) -> None:
    """And share their entries: what one has answered, the other need not."""
    async with serving(Recording(body=ANSWER)) as a, serving(other := Recording(body=ANSWER)) as b:
        models = [
            {"model_name": "m", "litellm_params": {"model": "openai/x", "api_base": f"{base}/v1", "api_key": "k"}}
            for base in (a, b)
        ]
        async with proxied({"model_list": models}) as served:
            outcomes = [
                (await served.chat(model="m", seed=seed)).headers["x-asynccache-outcome"] for seed in (1, 2, 3, 4, 1, 2)
            ]
    assert outcomes == ["miss"] * 4 + ["hit"] * 2
    assert len(other.heard) == 2


async def test_what_is_sent_to_a_listed_model() -> None:
    """The provider's name of the model, its key, the config's headers and defaults; none of the client's credentials,
    nor what the client says to us."""
    recording = Recording(body=ANSWER)
    async with serving(recording) as origin:
        params = {
            "model": "openai/gpt-4o-2024",
            "api_base": f"{origin}/v1",
            "api_key": "sk-config",
            "extra_headers": {"X-Team": "blue"},
            "temperature": 0.2,
        }
        async with proxied({"model_list": [{"model_name": "fast", "litellm_params": params}]}) as served:
            asked = {
                "authorization": "Bearer sk-client",
                "x-api-key": "sk-client",
                "cookie": "session=1",
                "x-asynccache": "{}",
                "cache-control": "max-age=60",
                "x-custom": "kept",
                "connection": "keep-alive, x-hop",
                "x-hop": "1",
            }
            answer = await served.client.post(
                f"{COMPLETIONS}?api_key=sk-client&v=1", json={**CHAT, "model": "fast", "cache": {}}, headers=asked
            )
            assert answer.status_code == 200
    ((method, path, headers, body),) = recording.heard
    assert (method, path) == ("POST", "/v1/chat/completions?v=1")
    assert json.loads(body) == {"model": "gpt-4o-2024", "messages": MESSAGES, "temperature": 0.2}
    assert (headers["authorization"], headers["x-team"], headers["x-custom"]) == ("Bearer sk-config", "blue", "kept")
    assert not headers.keys() & {"x-api-key", "cookie", "x-asynccache", "cache-control", "x-hop"}
    assert "sk-client" not in str(headers) + body.decode()


async def test_anthropic_is_spoken_to_in_both_ways() -> None:
    """At its own endpoint with its own headers, at the compatible one with a bearer's token."""
    recording = Recording(body=ANSWER)
    async with serving(recording) as origin:
        params = {"model": "anthropic/claude-3", "api_base": origin, "api_key": "sk-config"}
        async with proxied({"model_list": [{"model_name": "c", "litellm_params": params}]}) as served:
            await served.client.post("/v1/messages", json={**CHAT, "model": "c", "max_tokens": 5})
            await served.chat(model="c")
    (_, path, native, _), (_, other, compatible, _) = recording.heard
    assert (path, other) == ("/v1/messages", "/v1/chat/completions")
    assert (native["x-api-key"], native["anthropic-version"]) == ("sk-config", "2023-06-01")
    assert compatible["authorization"] == "Bearer sk-config"


async def test_what_a_header_says_to_the_model_is_in_the_key(provider: SimulatedProvider) -> None:
    """`anthropic-*` and `openai-*`; no other."""
    async with proxied({"model_list": listed(provider, c="anthropic/claude-3")}) as served:
        outcomes = []
        for headers in ({}, {"anthropic-beta": "a"}, {"anthropic-beta": "b"}, {"user-agent": "x"}):
            answer = await served.client.post(
                "/v1/messages", json={**CHAT, "model": "c", "max_tokens": 4000}, headers=headers
            )
            outcomes.append(answer.headers["x-asynccache-outcome"])
    assert outcomes == ["miss", "miss", "miss", "hit"]


async def test_a_form_is_sent_on_with_the_providers_name_of_the_model(provider: SimulatedProvider) -> None:
    async with proxied({"model_list": listed(provider, whisper="openai/whisper-1")}) as served:
        for _ in range(2):
            answer = await served.client.post(
                "/v1/audio/transcriptions",
                data={"model": "whisper", "timestamp_granularities[]": ["word", "segment"], "language": "en"},
                files={"file": ("a.wav", b"sound", "audio/wav")},
            )
            assert answer.status_code == 200
    (heard,) = provider.requests
    assert (heard["model"], heard["language"], heard["file"]["filename"]) == ("whisper-1", "en", "a.wav")


async def test_azures_paths(provider: SimulatedProvider) -> None:
    params = {"model": "azure/dep", "api_base": provider.origin, "api_key": "k", "api_version": "2024-10-21"}
    async with proxied({"model_list": [{"model_name": "m", "litellm_params": params}]}) as served:
        for outcome in ("miss", "hit"):
            assert (await served.chat(model="m")).headers["x-asynccache-outcome"] == outcome
    assert provider.calls[COMPLETIONS] == 1


async def test_a_provider_that_only_litellm_can_reach() -> None:
    """Without it: a clear error that names the package."""
    params = {"model": "bedrock/anthropic.claude", "aws_region_name": "eu-west-1"}
    async with proxied({"model_list": [{"model_name": "m", "litellm_params": params}]}) as served:
        answer = await served.chat(model="m")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], "litellm" in error["message"]) == (501, "litellm_missing", True)


@pytest.mark.parametrize(
    "name",
    [
        *("base_url", "api_base", "api_key", "extra_headers", "aws_sts_endpoint", "aws_bedrock_runtime_endpoint"),
        *("vertex_credentials", "custom_llm_provider", "success_callback", "mock_response", "user_config", "client"),
    ],
)
def test_what_no_caller_may_tell_litellm(name: str) -> None:
    """With `base_url` the config's credential would go to anybody."""
    assert is_for_the_config(name, ["mock_response", "client"])


@pytest.mark.parametrize("name", ["model", "messages", "max_tokens", "top_k", "metadata", "user", "image_generation"])
def test_what_a_caller_may(name: str) -> None:
    assert not is_for_the_config(name, ["metadata"])


async def test_an_upstream_beside_the_list(provider: SimulatedProvider) -> None:
    """What the list does not have goes there."""
    recording = Recording(body=ANSWER)
    models = listed(provider, fast="openai/x")
    async with serving(recording) as origin, proxied({"upstream": f"{origin}/v1", "model_list": models}) as served:
        await served.chat(model="fast")
        await served.chat({"authorization": "Bearer mine"}, model="other")
    assert provider.calls[COMPLETIONS] == 1
    ((_, path, headers, _),) = recording.heard
    assert (path, headers["authorization"]) == (COMPLETIONS, "Bearer mine")
