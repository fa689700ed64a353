"""Providers that the proxy reaches through LiteLLM: one that LiteLLM knows and the proxy does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import COMPLETIONS, Served, proxied

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LiteLLM's own, and of what it imports


@pytest.fixture
async def served(provider: SimulatedProvider) -> AsyncIterator[Served]:
    params = {"model": "lm_studio/m", "custom_llm_provider": "lm_studio", "api_base": provider.base_url, "api_key": "k"}
    async with proxied({"model_list": [{"model_name": "local", "litellm_params": params}]}) as proxy:
        yield proxy


async def test_a_whole_answer_and_a_stream(served: Served, provider: SimulatedProvider) -> None:
    """In OpenAI's wire format, and from the cache the second time, whichever of the two comes first."""
    whole = await served.chat(model="local")
    assert whole.status_code == 200, whole.text
    assert whole.json()["choices"][0]["message"]["content"]
    again = await served.chat(model="local")
    assert (again.headers["x-asynccache-outcome"], again.content) == ("hit", whole.content)
    stream = await served.chat(model="local", seed=1, stream=True)
    assert stream.text.endswith("data: [DONE]\n\n")
    replay = await served.chat(model="local", seed=1, stream=True)
    assert (replay.headers["x-asynccache-outcome"], replay.content) == ("hit", stream.content)
    assert provider.calls[COMPLETIONS] == 2
    assert provider.requests[0]["model"] == "m"


async def test_embeddings(served: Served, provider: SimulatedProvider) -> None:
    """Text by text, as with any provider."""
    for texts, outcome in ((["a", "b"], "miss"), (["b", "a"], "hit")):
        body: dict[str, Any] = {"model": "local", "input": texts}
        answer = await served.client.post("/v1/embeddings", json=body)
        assert (answer.status_code, answer.headers.get("x-asynccache-outcome")) == (200, outcome), answer.text
    assert provider.calls["/v1/embeddings"] == 1


async def test_a_providers_error(served: Served, provider: SimulatedProvider) -> None:
    """Its status, in OpenAI's shape; not stored."""
    provider.fail_next(400)
    refused = await served.chat(model="local")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "upstream_error")
    assert (await served.chat(model="local")).status_code == 200


async def test_a_path_that_litellm_does_not_have(served: Served) -> None:
    answer = await served.client.post(
        "/v1/audio/transcriptions", data={"model": "local"}, files={"file": ("a.wav", b"x")}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "unsupported_path")
