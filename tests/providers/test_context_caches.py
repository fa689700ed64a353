"""Google's `cachedContents`: made once, used again, kept alive, deleted; and calls that go on without them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from asynccache import Cache, ConfigError
from asynccache.errors import BackendTimeout, BackendUnavailable
from asynccache.providers import ContextCaches, GeminiAPI, PromptCaching, VertexAPI, create_context_cache
from asynccache.testing import FakeClock
from tests.providers.google_server import Google, google

LONG = "A sentence that is long enough. " * 400
MODEL = "gemini/gemini-2.5-flash"
CONTENT: dict[str, Any] = {"systemInstruction": {"parts": [{"text": LONG}]}}


@pytest.fixture
async def server() -> AsyncIterator[Google]:
    async with google() as server:
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def caches(server: Google, clock: FakeClock) -> ContextCaches:
    return ContextCaches(GeminiAPI("secret", f"{server.origin}/v1beta"), ttl=1000, clock=clock)


async def test_create_as_the_guide_prints_it(server: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the API is what its documentation asks for; `id` is its name."""
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    cached_context = await create_context_cache(
        model="gemini/gemini-1.5-pro",
        system_instruction="You are a helpful assistant with extensive knowledge.",
        ttl=3600,
        base_url=f"{server.origin}/v1beta",
    )
    assert cached_context.id == "cachedContents/1"
    assert cached_context.tokens == 1234
    method, path, query, headers, body = server.asked[0]
    assert (method, path, query) == ("POST", "/v1beta/cachedContents", "")
    assert headers["x-goog-api-key"] == "secret"
    assert body == {
        "model": "models/gemini-1.5-pro",
        "systemInstruction": {"parts": [{"text": "You are a helpful assistant with extensive knowledge."}]},
        "ttl": "3600s",
    }


async def test_create_on_vertex(server: Google) -> None:
    async def token() -> str:
        return "bearer"

    context = await create_context_cache(
        "vertex_ai/gemini-2.5-pro",
        contents="A document",
        tools=[{"functionDeclarations": []}],
        project="p",
        location="l",
        token=token,
        base_url=f"{server.origin}/v1",
    )
    assert context.id == "projects/p/locations/l/cachedContents/1"
    _, path, _, headers, body = server.asked[0]
    assert path == "/v1/projects/p/locations/l/cachedContents"
    assert headers["authorization"] == "Bearer bearer"
    assert body["model"] == "projects/p/locations/l/publishers/google/models/gemini-2.5-pro"
    assert body["contents"] == [{"role": "user", "parts": [{"text": "A document"}]}]


async def test_addresses_of_vertex() -> None:
    async def token() -> str:
        return ""

    assert (
        VertexAPI("p", "eu", token).url()
        == "https://eu-aiplatform.googleapis.com/v1/projects/p/locations/eu/cachedContents"
    )
    assert VertexAPI("p", "global", token).url("x").startswith("https://aiplatform.googleapis.com/v1/x")


async def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="GEMINI_API_KEY"):
        await create_context_cache(MODEL, system_instruction="x")
    with pytest.raises(ConfigError, match="a project, a location and a token"):
        await create_context_cache("vertex_ai/gemini-2.5-pro", system_instruction="x")
    with pytest.raises(ConfigError, match="nothing is given"):
        await create_context_cache(MODEL)


async def test_made_once_however_many_ask(server: Google, caches: ContextCaches) -> None:
    """Ten at the same time, one of whom is cancelled, and later ones: one request."""
    server.held.clear()
    asking = [asyncio.create_task(caches.find(MODEL, CONTENT)) for _ in range(10)]
    await server.arrived.wait()
    asking[0].cancel()
    server.held.set()
    names = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(names[0], asyncio.CancelledError)
    assert names[1:] == ["cachedContents/1"] * 9
    assert await caches.find(MODEL, CONTENT) == "cachedContents/1"
    assert len(server.asked) == 1


async def test_other_content_or_model_is_another_one(server: Google, caches: ContextCaches) -> None:
    other = {"systemInstruction": {"parts": [{"text": LONG + "!"}]}}
    names = [await caches.find(MODEL, CONTENT), await caches.find(MODEL, other), await caches.find("gemini-3", CONTENT)]
    assert names == ["cachedContents/1", "cachedContents/2", "cachedContents/3"]


async def test_kept_alive_while_it_is_used(server: Google, caches: ContextCaches, clock: FakeClock) -> None:
    """With less than a quarter of its life left it is given a new one."""
    await caches.find(MODEL, CONTENT)
    clock.advance(700)
    await caches.find(MODEL, CONTENT)
    assert server.bodies("PATCH") == []
    clock.advance(100)
    assert await caches.find(MODEL, CONTENT) == "cachedContents/1"
    assert server.bodies("PATCH") == [{"ttl": "1000s"}]
    clock.advance(700)
    assert await caches.find(MODEL, CONTENT) == "cachedContents/1"
    assert len(server.asked) == 2


async def test_made_anew_when_it_is_over(server: Google, caches: ContextCaches, clock: FakeClock) -> None:
    await caches.find(MODEL, CONTENT)
    clock.advance(1001)
    assert await caches.find(MODEL, CONTENT) == "cachedContents/2"
    assert server.bodies("PATCH") == []


async def test_made_anew_when_somebody_has_deleted_it(server: Google, caches: ContextCaches, clock: FakeClock) -> None:
    await caches.find(MODEL, CONTENT)
    server.kept.clear()
    clock.advance(800)
    assert await caches.find(MODEL, CONTENT) == "cachedContents/1"
    assert [method for method, *_ in server.asked] == ["POST", "PATCH", "POST"]


async def test_auto_keeps_what_the_client_has_marked_and_chooses_nothing(server: Google, caches: ContextCaches) -> None:
    hook = PromptCaching("auto", contexts=caches)
    system: dict[str, Any] = {"role": "system", "content": LONG}
    for more, made in (({}, 0), ({"cache_control": {"type": "ephemeral"}}, 1)):
        messages = [{**system, **more}, {"role": "user", "content": "Why?"}]
        sent = await hook.outgoing({"model": MODEL, "messages": messages})
        assert len(server.kept) == made
        assert sent.get("cached_content") == ("cachedContents/1" if made else None)


async def test_a_refusal_is_remembered(server: Google, caches: ContextCaches, clock: FakeClock, caplog: Any) -> None:
    """The calls go on; the next try comes a minute later. The key is in no log."""
    server.refuse["POST"] = 500
    with caplog.at_level(logging.DEBUG, "asynccache"):
        assert [await caches.find(MODEL, CONTENT) for _ in range(3)] == [None] * 3
    assert len(server.asked) == 1
    assert "secret" not in caplog.text
    server.refuse.clear()
    clock.advance(61)
    assert await caches.find(MODEL, CONTENT) == "cachedContents/1"


async def test_one_that_cannot_be_kept_alive_is_used_to_its_end(
    server: Google, caches: ContextCaches, clock: FakeClock
) -> None:
    await caches.find(MODEL, CONTENT)
    server.refuse.update(PATCH=500, POST=500)
    clock.advance(800)
    assert [await caches.find(MODEL, CONTENT) for _ in range(2)] == ["cachedContents/1"] * 2
    assert len(server.asked) == 2
    clock.advance(150)  # so little is left that a call may come too late
    assert await caches.find(MODEL, CONTENT) is None


async def test_delete(server: Google, caches: ContextCaches) -> None:
    name = await caches.find(MODEL, CONTENT)
    assert name is not None
    assert await caches.delete(name) is True
    assert server.kept == {}
    assert await caches.delete(name) is False
    assert await caches.find(MODEL, CONTENT) == "cachedContents/1"
    assert await caches.delete_all() == 1
    assert server.kept == {}


async def test_no_server(clock: FakeClock) -> None:
    """Calls go on without; who asks for one himself learns why there is none."""
    caches = ContextCaches(GeminiAPI("k", "http://127.0.0.1:9/v1beta"), clock=clock)
    assert await caches.find(MODEL, CONTENT) is None
    with pytest.raises(BackendUnavailable) as caught:
        await caches.create(MODEL, CONTENT)
    assert caught.value.__cause__ is not None


async def test_a_server_that_does_not_answer(server: Google) -> None:
    server.held.clear()
    caches = ContextCaches(GeminiAPI("k", f"{server.origin}/v1beta"), timeout=0.05)
    with pytest.raises(BackendTimeout):
        await caches.create(MODEL, CONTENT)
    assert await caches.find(MODEL, CONTENT) is None
    server.held.set()


async def test_how_many_are_remembered_is_bounded(server: Google) -> None:
    caches = ContextCaches(GeminiAPI("k", f"{server.origin}/v1beta"), max_contexts=2)
    for n in range(5):
        await caches.find(MODEL, {"contents": [{"role": "user", "parts": [{"text": str(n)}]}]})
    assert await caches.delete_all() == 2


async def test_secrets_are_in_no_repr() -> None:
    assert "secret" not in repr(GeminiAPI("secret"))


# -- through a cache ----------------------------------------------------------------------------------

Ask = Callable[..., Any]


def asking(caches: ContextCaches | None) -> tuple[Ask, list[dict[str, Any]], Cache]:
    """An acompletion-like function behind a cache, and what reaches it."""
    got: list[dict[str, Any]] = []

    async def acompletion(**params: Any) -> dict[str, Any]:
        got.append(params)
        return {"choices": [{"message": {"content": "Blue."}, "finish_reason": "stop"}]}

    cache = Cache(pre_hooks=[PromptCaching(contexts=caches)])
    return cache.wrap(acompletion, call_type="chat"), got, cache


def question(text: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": LONG}, {"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages}


async def test_calls_name_what_is_kept(server: Google, caches: ContextCaches) -> None:
    """Two questions: one context; and none is made for what is answered from the cache."""
    ask, got, cache = asking(caches)
    for text in ("one", "two", "one"):
        await ask(**question(text))
    assert got == [
        {"model": MODEL, "messages": [{"role": "user", "content": text}], "cached_content": "cachedContents/1"}
        for text in ("one", "two")
    ]
    assert len(server.asked) == 1
    assert cache.stats.hits == 1


async def test_calls_go_on_whole_when_nothing_can_be_kept(server: Google, caches: ContextCaches) -> None:
    server.refuse["POST"] = 403
    ask, got, _ = asking(caches)
    await ask(**question("one"))
    assert got == [question("one")]


async def test_context_cache_id_as_the_guide_prints_it(server: Google, caches: ContextCaches) -> None:
    """It is sent as LiteLLM wants it, and counts in the key: another context, another answer."""
    ask, got, cache = asking(None)
    messages = [{"role": "user", "content": "What is quantum computing?"}]
    for name in ("cachedContents/1", "cachedContents/2", "cachedContents/1"):
        await ask(model="gemini/gemini-1.5-pro", messages=messages, context_cache_id=name)
    assert [params.get("cached_content") for params in got] == ["cachedContents/1", "cachedContents/2"]
    assert all("context_cache_id" not in params for params in got)
    assert cache.stats.hits == 1


async def test_contexts_of_gemini_are_not_those_of_vertex(server: Google, caches: ContextCaches) -> None:
    ask, got, _ = asking(caches)
    await ask(**{**question("one"), "model": "vertex_ai/gemini-2.5-flash"})
    assert "cached_content" not in got[0]
    assert server.asked == []
