"""`litellm.cache = LiteLLMCache(…)`: LiteLLM's own calls, over real HTTP, answered from our cache."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litellm
import pytest

from asynccache import Cache, Handler, Request, Response, Stage, status
from asynccache.clients.litellm import LiteLLMCache, disable_cache, enable_cache, get_cache_key, install, update_cache
from asynccache.errors import BackendError, ConfigError
from asynccache.testing.clock import FakeClock
from asynccache.testing.faulty import FaultyBackend
from asynccache.testing.provider import SimulatedProvider

if TYPE_CHECKING:
    from tests.servers.redis import RedisServer

pytestmark = pytest.mark.filterwarnings("default")  # LiteLLM's own warnings are its business
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def _no_cache() -> Iterator[None]:
    yield
    litellm.cache = None


@pytest.fixture
async def cache() -> AsyncIterator[LiteLLMCache]:
    async with LiteLLMCache() as cache:
        litellm.cache = cache
        yield cache


@pytest.fixture
def where(provider: SimulatedProvider) -> dict[str, Any]:
    return {"api_base": provider.base_url, "api_key": "k"}


def calls(provider: SimulatedProvider) -> int:
    return sum(provider.calls.values())


async def settled() -> None:
    """Wait for what LiteLLM writes behind its callers."""
    from litellm.caching.caching_handler import _PENDING_CACHE_WRITES
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    await GLOBAL_LOGGING_WORKER.flush()
    while _PENDING_CACHE_WRITES:
        await asyncio.wait(set(_PENDING_CACHE_WRITES))
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what LiteLLM does behind a stream, of whose end it tells nobody."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0.01)


async def twice(function: Callable[..., Any], **call: Any) -> list[Any]:
    """The call, and the call again when the first has been stored. A sync function on a thread of its own."""
    if asyncio.iscoroutinefunction(function):
        first = await function(**call)
        await settled()
        return [first, await function(**call)]
    return [await asyncio.to_thread(function, **call) for _ in range(2)]


def _chat(provider: SimulatedProvider) -> dict[str, Any]:
    return {"model": "openai/gpt-4o", "messages": MESSAGES, "api_base": provider.base_url, "api_key": "k"}


CALLS: dict[str, Callable[[SimulatedProvider], dict[str, Any]]] = {
    "completion": _chat,
    "text_completion": lambda provider: {
        "model": "text-completion-openai/gpt-3.5-turbo-instruct",
        "prompt": "Once upon a time",
        "api_base": provider.base_url,
        "api_key": "k",
    },
    "embedding": lambda provider: {
        "model": "openai/text-embedding-3-small",
        "input": ["one", "two"],
        "api_base": provider.base_url,
        "api_key": "k",
    },
    "transcription": lambda provider: {
        "model": "openai/whisper-1",
        "file": ("speech.wav", b"RIFF1234"),
        "api_base": provider.base_url,
        "api_key": "k",
    },
    "rerank": lambda provider: {
        "model": "cohere/rerank-v3.5",
        "query": "Where?",
        "documents": ["here", "there"],
        "return_documents": True,
        "api_base": f"{provider.origin}/v1/rerank",
        "api_key": "k",
    },
    "responses": lambda provider: {
        "model": "openai/gpt-4o",
        "input": "Hello",
        "api_base": provider.base_url,
        "api_key": "k",
    },
}


@pytest.mark.parametrize("name", [*(f"a{name}" for name in CALLS), *CALLS])
async def test_a_hit_says_what_the_miss_said(cache: LiteLLMCache, provider: SimulatedProvider, name: str) -> None:
    """Each of LiteLLM's functions, async and sync: the second call makes no request and has the same answer, and
    says so where LiteLLM's users look."""
    function = getattr(litellm, name)
    miss, hit = await twice(function, **CALLS[name.removeprefix("a") if name not in CALLS else name](provider))
    assert calls(provider) == 1
    assert type(hit) is type(miss)
    assert _said(hit) == _said(miss)
    assert _hidden(hit)["cache_hit"] is True
    assert not _hidden(miss).get("cache_hit")
    assert cache.stats.hits >= 1
    assert cache.stats.stored == (2 if "embedding" in name else 1)


def _hidden(answer: Any) -> Any:
    return getattr(answer, "_hidden_params", None) or answer.hidden_params


def _said(answer: Any) -> Any:
    dump = answer.model_dump(exclude_none=True)  # LiteLLM adds fields without a value when it rebuilds an answer
    return {name: value for name, value in dump.items() if name not in ("_hidden_params", "_response_headers")}


async def test_anthropic_messages(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """Anthropic's messages: whole answers and streams; and they are not given a chat completion's answer."""
    call = {"model": "anthropic/claude-sonnet-4", "messages": MESSAGES, "max_tokens": 500}
    call |= {"api_base": provider.origin, "api_key": "k"}
    miss, hit = await twice(litellm.anthropic_messages, **call)
    assert hit["content"] == miss["content"]
    assert calls(provider) == 1
    streams = []
    for _ in range(2):
        streams.append([event async for event in await litellm.anthropic_messages(**call, stream=True)])
        await settled()
    assert b"".join(streams[0]) == b"".join(streams[1])
    assert calls(provider) == 2


async def test_streams(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """A stream that has ended comes again, and a whole call is answered by it."""

    async def text() -> str:
        stream = await litellm.acompletion(**_chat(provider), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    first = await text()
    await until(lambda: cache.stats.stored == 1)
    assert await text() == first
    whole = await litellm.acompletion(**_chat(provider))
    assert whole.choices[0].message.content == first
    assert calls(provider) == 1


async def test_sync_streams(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """The same for sync callers."""

    def text() -> str:
        stream = litellm.completion(**_chat(provider), stream=True)
        return "".join([chunk.choices[0].delta.content or "" for chunk in stream])

    assert await asyncio.to_thread(text) == await asyncio.to_thread(text) != ""
    assert calls(provider) == 1


async def test_abandoned_streams_are_not_stored(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """A stream that its caller leaves is asked for again."""
    stream = await litellm.acompletion(**_chat(provider), stream=True)
    await stream.__anext__()
    await stream.aclose()
    await settled()
    assert cache.stats.stored == 0


async def test_errors_are_not_stored(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """LiteLLM's exception reaches the caller, and the next call is made."""
    provider.fail_next(status=429)
    with pytest.raises(litellm.RateLimitError):
        await litellm.acompletion(**_chat(provider), max_retries=0)
    await litellm.acompletion(**_chat(provider), max_retries=0)
    await settled()
    assert cache.stats.stored == 1


async def test_embeddings_partial_hits(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """Only what is missing is asked for; the usage of the parts is that of the whole."""
    call = CALLS["embedding"](provider)
    first = await litellm.aembedding(**call)
    await settled()
    second = await litellm.aembedding(**{**call, "input": ["two", "three", "one"]})
    await settled()
    third = await litellm.aembedding(**{**call, "input": ["three", "two"]})
    assert calls(provider) == 2
    vectors = [vector["embedding"] for vector in first.data]
    assert [second.data[2]["embedding"], second.data[0]["embedding"]] == vectors
    assert third.data[0]["embedding"] == second.data[1]["embedding"]
    again = await litellm.aembedding(**call)
    assert again.usage.prompt_tokens == first.usage.prompt_tokens


async def test_sync_embeddings_find_what_async_ones_stored(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """A list is answered from its texts, however they came in (under LiteLLM's cache, a list is one entry)."""
    call = CALLS["embedding"](provider)
    first = await litellm.aembedding(**call)
    await settled()
    swapped = await asyncio.to_thread(litellm.embedding, **{**call, "input": ["two", "one"]})
    assert [vector["embedding"] for vector in swapped.data] == [v["embedding"] for v in reversed(first.data)]
    assert calls(provider) == 1


@pytest.mark.parametrize(
    "more",
    [{"extra_body": {"top_k": 3}}, {"min_p": 0.2}, {"extra_headers": {"openai-organization": "o"}}, {"seed": 7}],
    ids=str,
)
async def test_what_litellm_leaves_out_of_its_keys_counts(
    cache: LiteLLMCache, provider: SimulatedProvider, more: dict[str, Any]
) -> None:
    """Under LiteLLM's cache, all but the last are answered as if they had not been given."""
    await litellm.acompletion(**_chat(provider))
    await settled()
    await litellm.acompletion(**_chat(provider), **more, allowed_openai_params=["min_p"])
    assert calls(provider) == 2


async def test_argument_order_does_not_count(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """Under LiteLLM's cache, it does."""
    call = {**_chat(provider), "temperature": 0.5}
    await litellm.acompletion(**call)
    await settled()
    await litellm.acompletion(**dict(reversed(call.items())))
    assert calls(provider) == 1


async def test_wrapping_finds_what_the_drop_in_stored(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """Users move in two steps: the cache under LiteLLM first, `wrap` later. No answer is paid for twice."""
    first = await litellm.acompletion(**_chat(provider))
    await settled()
    litellm.cache = None
    hit = await cache.handle.wrap(litellm.acompletion)(**_chat(provider))
    assert status(hit).outcome == "hit"
    assert hit.choices[0].message.content == first.choices[0].message.content


async def test_the_drop_in_finds_what_wrapping_stored(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """And back."""
    litellm.cache = None
    await cache.handle.wrap(litellm.acompletion)(**_chat(provider))
    litellm.cache = cache
    hit = await litellm.acompletion(**_chat(provider))
    assert hit._hidden_params["cache_hit"] is True
    assert calls(provider) == 1


async def test_controls_of_a_call(provider: SimulatedProvider) -> None:
    """`ttl`, `s-maxage`, `no-cache`, `no-store`, `namespace`."""
    clock = FakeClock()
    async with LiteLLMCache(clock=clock, ttl=100) as cache:
        litellm.cache = cache
        call = _chat(provider)

        async def ask(**control: Any) -> bool:
            before = calls(provider)
            await litellm.acompletion(**call, **({"cache": control} if control else {}))
            await settled()
            return calls(provider) == before

        assert not await ask(**{"no-store": True})
        assert not await ask()
        assert await ask()
        assert not await ask(namespace="production")
        assert await ask(namespace="production")
        assert not await ask(**{"no-cache": True})
        clock.advance(50)
        assert not await ask(**{"s-maxage": 50})
        clock.advance(100)
        assert not await ask(ttl=500)
        clock.advance(400)
        assert await ask()
        assert not await ask(unheard="of")  # a call is never failed: it is not cached


async def test_s_maxage_of_embeddings(provider: SimulatedProvider) -> None:
    """Under LiteLLM's cache, async embeddings do not know it."""
    clock = FakeClock()
    async with LiteLLMCache(clock=clock) as litellm.cache:
        call = CALLS["embedding"](provider)
        await litellm.aembedding(**call)
        await settled()
        clock.advance(10)
        await litellm.aembedding(**call, cache={"s-maxage": 20})
        assert calls(provider) == 1
        await litellm.aembedding(**call, cache={"s-maxage": 5})
        assert calls(provider) == 2


async def test_opt_in(provider: SimulatedProvider) -> None:
    """`mode="default_off"`: only calls that say so, embeddings as well."""
    async with LiteLLMCache(mode="default_off") as litellm.cache:
        for _ in range(2):
            await litellm.acompletion(**_chat(provider))
            await settled()
        assert calls(provider) == 2
        for _ in range(2):
            await litellm.acompletion(**_chat(provider), cache={"use-cache": True})
            await litellm.aembedding(**CALLS["embedding"](provider), cache={"use-cache": True})
            await settled()
        assert calls(provider) == 4


async def test_supported_call_types(provider: SimulatedProvider) -> None:
    """Others are not cached."""
    async with LiteLLMCache(supported_call_types=["aembedding"]) as litellm.cache:
        await twice(litellm.acompletion, **_chat(provider))
        await twice(litellm.aembedding, **CALLS["embedding"](provider))
    assert calls(provider) == 3


async def test_max_messages(provider: SimulatedProvider) -> None:
    """Longer conversations are cached too, unless told otherwise."""
    long = {**_chat(provider), "messages": MESSAGES * 5}
    async with LiteLLMCache() as litellm.cache:
        await twice(litellm.acompletion, **long)
    assert calls(provider) == 1
    async with LiteLLMCache(max_messages=4) as litellm.cache:
        await twice(litellm.acompletion, **long)
    assert calls(provider) == 3


async def test_ttl_can_be_set(provider: SimulatedProvider) -> None:
    """`litellm.cache.ttl = 900`."""
    clock = FakeClock()
    async with LiteLLMCache(clock=clock) as litellm.cache:
        litellm.cache.ttl = 900
        await litellm.acompletion(**_chat(provider))
        await settled()
        clock.advance(899)
        await litellm.acompletion(**_chat(provider))
        assert calls(provider) == 1
        clock.advance(1)
        await litellm.acompletion(**_chat(provider))
        assert calls(provider) == 2


async def test_invalidation(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """By tag, by key, and all of it."""
    call = _chat(provider)
    await litellm.acompletion(**call, cache={"tags": ["prices"]})
    await settled()
    await cache.invalidate("prices")
    key = get_cache_key(**call)
    await litellm.acompletion(**call)
    await settled()
    assert calls(provider) == 2
    assert await cache.delete_cache_keys([key]) == 1
    assert await cache.delete_cache_keys([key]) == 0
    await litellm.acompletion(**call)
    await settled()
    await cache.clear()
    await litellm.acompletion(**call)
    assert calls(provider) == 4


async def test_an_answer_that_was_invalidated_under_way_is_not_kept(provider: SimulatedProvider) -> None:
    """It was asked for before: it may say what is no longer so."""
    clock = FakeClock()
    async with LiteLLMCache(clock=clock) as cache:
        litellm.cache = cache
        provider.hold()
        call = asyncio.create_task(litellm.acompletion(**_chat(provider)))
        await provider.reached(1)
        clock.advance(1)
        await cache.clear()
        provider.release()
        await call
        await settled()
        assert cache.stats.reject_reasons["invalidated"] == 1
        assert cache.stats.stored == 0


async def test_tenants_do_not_meet(provider: SimulatedProvider) -> None:
    """Nor can one name another's key."""
    async with Cache() as store:
        for tenant in ("a", "b"):
            litellm.cache = LiteLLMCache(cache=store.bind(tenant=tenant))
            await twice(litellm.acompletion, **_chat(provider), cache_key="mine")
    assert calls(provider) == 2


async def test_cut_off_answers_are_not_kept(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """An answer that ran into its length is passed on (LiteLLM's cache keeps it)."""

    provider.answer_next("The capital of", finish_reason="length")
    await litellm.acompletion(**_chat(provider))
    await settled()
    assert cache.stats.reject_reasons["length"] == 1


async def test_a_backend_that_fails_fails_no_call(provider: SimulatedProvider) -> None:
    """It counts."""
    from asynccache.backends.memory import MemoryBackend

    backend = FaultyBackend(MemoryBackend())
    backend.fail(BackendError("away"), "get", "set")
    async with Cache(backend) as store:
        cache = litellm.cache = LiteLLMCache(cache=store)
        miss, again = await twice(litellm.acompletion, **_chat(provider))
        assert miss.choices[0].message.content == again.choices[0].message.content
        await settled()
        assert cache.stats.read_errors == 2
        assert cache.stats.write_errors >= 2


async def test_redis(redis_server: RedisServer, provider: SimulatedProvider) -> None:
    """Two processes' caches share what is in redis; sync and async, on loops of their own."""
    options: dict[str, Any] = {"type": "redis", "host": redis_server.host, "port": str(redis_server.port)}
    options |= {"namespace": "drop-in", "ttl": 60}
    async with LiteLLMCache(**options) as cache:
        litellm.cache = cache
        assert await cache.ping()
        await litellm.acompletion(**_chat(provider))
        await litellm.aembedding(**CALLS["embedding"](provider))
        await settled()
    async with LiteLLMCache(**options) as cache:
        litellm.cache = cache
        await asyncio.to_thread(litellm.completion, **_chat(provider))
        await asyncio.to_thread(litellm.embedding, **CALLS["embedding"](provider))
        await litellm.acompletion(**_chat(provider))
        assert calls(provider) == 2
        assert cache.type == "redis"
        await cache.clear()


async def test_router(cache: LiteLLMCache, provider: SimulatedProvider, where: dict[str, Any]) -> None:
    """Deployments of one group share entries, and so do groups that are told to."""
    models = [
        {"model_name": "small", "litellm_params": {"model": "openai/gpt-4o-mini", **where}},
        {"model_name": "small", "litellm_params": {"model": "openai/gpt-4o-mini", **where, "api_key": "other"}},
        {"model_name": "large", "litellm_params": {"model": "openai/gpt-4o", **where}},
        {"model_name": "other", "litellm_params": {"model": "openai/gpt-4o", **where}},
    ]
    router = litellm.Router(model_list=models, caching_groups=[("small", "large")], cache_responses=True)
    for model in ("small", "small", "small", "large"):
        await router.acompletion(model=model, messages=MESSAGES)
        await settled()
    assert calls(provider) == 1
    await router.acompletion(model="other", messages=MESSAGES)
    assert calls(provider) == 2


async def test_async_key_builder(provider: SimulatedProvider) -> None:
    """LiteLLM asks for keys where nothing can be waited for: then they are built when the cache is asked."""

    async def build(model: str, messages: Any, **kwargs: Any) -> str:
        await asyncio.sleep(0)
        return f"{model} {messages} {kwargs.get('input')}"

    async with LiteLLMCache(key_builder=build) as litellm.cache:
        await twice(litellm.acompletion, **_chat(provider))
        await twice(litellm.aembedding, **CALLS["embedding"](provider))
        assert litellm.cache.stats.stored == 3
    assert calls(provider) == 2


async def test_a_call_without_a_key_is_bypassed(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """An argument without a stable value: the call is made, and not kept."""
    call = {**_chat(provider), "litellm_system_prompt": object()}
    assert cache.get_cache_key(**call) == ""
    assert await cache.async_get_cache(**call) is None
    await cache.async_add_cache("{}", **call)
    assert cache.stats.bypass_reasons == {"unkeyable": 1}
    assert cache.stats.stored == 0


@pytest.mark.parametrize("given", ["one", ["one"]], ids=str)
async def test_the_key_of_an_embedding(cache: LiteLLMCache, provider: SimulatedProvider, given: Any) -> None:
    """That of a text, and that of a list of one, is the key under which it is kept."""
    call = {**CALLS["embedding"](provider), "input": given}
    await litellm.aembedding(**call)
    await settled()
    assert await cache.delete_cache_keys([cache.get_cache_key(**call)]) == 1


@pytest.mark.parametrize(
    "file",
    [
        lambda path: ("speech.wav", path.read_bytes()),
        lambda path: ("speech.wav", path.read_bytes(), "audio/wav"),
        lambda path: path,
        lambda path: path.open("rb"),
        lambda path: ("speech.wav", path.open("rb")),
    ],
    ids=["named", "typed", "path", "open", "named-open"],
)
async def test_the_key_of_a_file(
    cache: LiteLLMCache, provider: SimulatedProvider, tmp_path: Path, file: Callable[[Path], Any]
) -> None:
    """However it was given, its content counts, and its name does not: another one with the same is a hit."""
    path = tmp_path / "given.wav"
    path.write_bytes(b"RIFF1234")
    with ExitStack() as files:
        given = [file(path) for _ in range(3)]
        for one in given:
            content = one[1] if isinstance(one, tuple) else one
            if hasattr(content, "close"):
                files.enter_context(content)
        call = CALLS["transcription"](provider)
        for each in given[:2]:
            await litellm.atranscription(**{**call, "file": each})
            await settled()
        assert calls(provider) == 1
        assert await cache.delete_cache_keys([cache.get_cache_key(**{**call, "file": given[2]})]) == 1


async def test_other_content_is_another_file(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """Under the same name."""
    call = CALLS["transcription"](provider)
    await litellm.atranscription(**call)
    await settled()
    await litellm.atranscription(**{**call, "file": ("speech.wav", b"RIFF5678")})
    assert calls(provider) == 2


async def test_stages_of_ones_own(provider: SimulatedProvider) -> None:
    """They take part: one before the look-up in what is read and in what is written, one after it in the latter."""
    seen: list[str] = []

    def spy(name: str) -> Stage:
        async def stage(request: Request, call_next: Handler, /) -> Response:
            seen.append(name)
            return await call_next(request)

        return stage

    before, after = spy("before"), spy("after")
    async with LiteLLMCache(stages=lambda default: [before, *default[:-1], after, default[-1]]) as litellm.cache:
        await litellm.acompletion(**_chat(provider))
        await settled()
        assert seen == ["before", "before", "after"]
        await litellm.acompletion(**_chat(provider))
        assert seen[3:] == ["before"]
    assert calls(provider) == 1


async def test_what_a_hook_makes_of_the_arguments_makes_the_key(provider: SimulatedProvider) -> None:
    """As with `wrap`, which finds what was stored so."""

    async def everybody(request: Request, /) -> dict[str, Any]:
        return {**request.params, "user": "everybody"}

    async with LiteLLMCache(pre_hooks=[everybody]) as litellm.cache:
        await litellm.acompletion(**_chat(provider), user="a")
        await settled()
        await litellm.acompletion(**_chat(provider), user="b")
        assert calls(provider) == 1
        cache, litellm.cache = litellm.cache, None
        assert status(await cache.handle.wrap(litellm.acompletion)(**_chat(provider))).outcome == "hit"


def test_enable_update_disable() -> None:
    """As the guide prints them: enabling does nothing when there is a cache, updating replaces it."""
    enable_cache(ttl=5)
    first = litellm.cache
    enable_cache(ttl=6)
    assert litellm.cache is first
    assert first.ttl == 5
    update_cache(type="local", ttl=7)
    assert litellm.cache.ttl == 7
    disable_cache()
    assert litellm.cache is None
    with pytest.raises(ConfigError, match="enable_cache"):
        get_cache_key(model="m", messages=MESSAGES)


@pytest.mark.parametrize(
    "options",
    [{"type": "hosted"}, {"supported_call_types": ["chatt"]}, {"tll": 3}, {"cache": Cache(), "ttl": 3}],
    ids=str,
)
def test_wrong_options(options: dict[str, Any]) -> None:
    """At once (with LiteLLM's cache, an unknown type fails every call)."""
    with pytest.raises(ConfigError):
        LiteLLMCache(**options)


def test_keys_travel() -> None:
    """A key is copied and pickled as the text that it is."""
    key = LiteLLMCache().get_cache_key(model="m", messages=MESSAGES)
    assert len(key) == 64
    assert type(pickle.loads(pickle.dumps(key))) is str
    assert copy.deepcopy({"key": key}) == {"key": key}


async def test_install(provider: SimulatedProvider) -> None:
    """LiteLLM's functions are wrapped where they are, so that calls under way are shared too; and put back."""
    plain = litellm.acompletion, litellm.completion
    async with Cache() as cache:
        with install(cache):
            provider.hold()
            tasks = [asyncio.create_task(litellm.acompletion(**_chat(provider))) for _ in range(5)]
            await provider.reached(1)
            provider.release()
            assert len({status(answer).outcome for answer in await asyncio.gather(*tasks)}) == 2
            with pytest.raises(ConfigError, match="installed already"):
                install(cache)
            await asyncio.to_thread(litellm.completion, **_chat(provider))
        assert (litellm.acompletion, litellm.completion) == plain
    assert calls(provider) == 1


async def test_install_leaves_routers_alone(provider: SimulatedProvider, where: dict[str, Any]) -> None:
    """Their calls would be kept by their deployments: `wrap` a Router."""
    models = [{"model_name": "g", "litellm_params": {"model": "openai/gpt-4o", **where}}]
    router = litellm.Router(model_list=models)
    async with Cache() as cache:
        with install(cache):
            await router.acompletion(model="g", messages=MESSAGES)
            await router.aembedding(model="g", input=["a"])
        assert cache.stats.calls == 0
