"""Marks for the provider's own cache, and the headers that hooks see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from asynccache.proxy.app import create_app
from asynccache.proxy.settings import Settings
from asynccache.testing.loopback import serving
from tests.proxy.proxies import CHAT, Recording, proxied

LONG = "You translate to French. " * 2000
MARK = {"type": "ephemeral"}
ANSWER = orjson.dumps({"type": "message", "content": [{"type": "text", "text": "Bonjour"}], "stop_reason": "end_turn"})
ASKED: dict[str, Any] = {
    "model": "claude",
    "max_tokens": 5,
    "system": LONG,
    "messages": [{"role": "user", "content": "Good morning"}],
}


def config(base: str, model: str = "anthropic/claude-sonnet-4-5", **more: Any) -> dict[str, Any]:
    model_list = [{"model_name": "claude", "litellm_params": {"model": model, "api_base": base, "api_key": "k"}}]
    return {"model_list": model_list, **more}


@pytest.mark.parametrize(
    "said",
    [
        {"cache_control_injection_points": [{"location": "message", "role": "system"}]},
        {"hooks": [{"path": "anthropic_cache_control_hook.py", "async_pre_llm_hook": "async_pre_llm_hook"}]},
    ],
    ids=["points", "hook"],
)
async def test_marks_are_sent_to_the_provider_and_not_in_the_key(said: dict[str, Any]) -> None:
    """The model's name in the config does not tell that it is Anthropic's: the deployment does."""
    claude = Recording(body=ANSWER)
    async with serving(claude) as base, proxied(config(base, **said)) as marking, proxied(config(base)) as plain:
        answers = [await marking.client.post("/v1/messages", json=ASKED) for _ in range(2)]
        unmarked = await plain.client.post("/v1/messages", json=ASKED)
    assert [answer.headers["x-asynccache-outcome"] for answer in answers] == ["miss", "hit"]
    assert answers[0].headers["x-asynccache-key"] == unmarked.headers["x-asynccache-key"]
    marked, bare = (orjson.loads(body) for *_, body in claude.heard)
    assert marked["system"] == [{"type": "text", "text": LONG, "cache_control": MARK}]
    assert bare["system"] == LONG


async def test_a_model_has_points_of_its_own() -> None:
    claude = Recording(body=ANSWER)
    points = [{"location": "message", "index": -1}]
    async with serving(claude) as base:
        said = config(base)
        said["model_list"][0]["litellm_params"]["cache_control_injection_points"] = points
        async with proxied(said) as proxy:
            messages = [{"role": "user", "content": LONG}]
            await proxy.client.post("/v1/messages", json={**ASKED, "messages": messages})
    [(*_, body)] = claude.heard
    sent = orjson.loads(body)
    assert sent["messages"][0]["content"][-1]["cache_control"] == MARK
    assert sent["system"] == LONG


async def test_an_openai_model_is_sent_what_it_was_sent() -> None:
    gpt = Recording(body=b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}')
    points = [{"location": "message", "role": "system"}]
    async with serving(gpt) as base, proxied({"upstream": base, "cache_control_injection_points": points}) as proxy:
        await proxy.chat()
    [(*_, body)] = gpt.heard
    assert orjson.loads(body) == CHAT


async def test_a_hook_sees_the_headers_of_the_request(tmp_path: Path) -> None:
    """And what it notes ends with its tenant's tag."""
    gpt = Recording(body=b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}')
    (tmp_path / "cache_policy.py").write_text(
        "async def async_post_cache_hook(response, request, **_):\n"
        '    response["metadata"]["tenant_id"] = request.headers["X-Tenant"]\n'
    )
    async with serving(gpt) as base:
        hook = {"path": "cache_policy.py", "async_post_cache_hook": "async_post_cache_hook"}
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump({"upstream": base, "hooks": [hook]}))
        app = create_app(Settings.load(file, environment={}))
        async with serving(app) as origin, proxied({"upstream": base}) as other:
            for _ in range(2):
                last = await other.client.post(f"{origin}/v1/chat/completions", json=CHAT, headers={"x-tenant": "acme"})
            assert last.headers["x-asynccache-outcome"] == "hit"
            await app.cache.invalidate("tenant_id:acme")
            after = await other.client.post(f"{origin}/v1/chat/completions", json=CHAT, headers={"x-tenant": "acme"})
            assert after.headers["x-asynccache-outcome"] == "miss"
        await app.aclose()
