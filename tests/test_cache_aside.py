"""The laws of reading and writing apart, for frameworks that make their calls themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asynccache import Cache, status
from asynccache.answers import JSONAnswers
from asynccache.backends.memory import MemoryBackend
from asynccache.call_types import CALL_TYPES
from asynccache.errors import BackendUnavailable, ConfigError, NotCached
from asynccache.key_builders import per_tenant
from asynccache.model import CacheKey, CacheStatus, Completion, CompletionStream, Request, Response, Target
from asynccache.protocols import Handler
from asynccache.telemetry.observation import Observation, UpstreamCall
from asynccache.testing import FakeUpstream, FaultyBackend
from asynccache.testing.clock import FakeClock

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}


async def never(**_: Any) -> Any:
    raise AssertionError("the framework makes the calls")


async def embed(model: str, input: Any) -> dict[str, Any]:
    texts = [input] if isinstance(input, str) else input
    return vectors(*texts)


def vectors(*texts: str) -> dict[str, Any]:
    data = [{"index": place, "embedding": [float(len(text))]} for place, text in enumerate(texts)]
    return {"data": data, "usage": {"prompt_tokens": sum(map(len, texts))}}


CHAT = Target(never, CALL_TYPES["chat"], JSONAnswers())
EMBEDDING = Target(never, CALL_TYPES["embedding"], JSONAnswers())


async def answer(**params: Any) -> dict[str, Any]:
    said: dict[str, Any] = await FakeUpstream()(**params)
    return said


async def value(cache: Cache, target: Target, /, **params: Any) -> Any:
    aside = cache.aside()
    found = await aside.read(aside.request(target, params))
    return found.value if isinstance(found, Completion) else found


async def keep(cache: Cache, target: Target, given: Any, /, **params: Any) -> bool:
    aside = cache.aside()
    return await aside.write(aside.request(target, params), given)


# -- both halves --------------------------------------------------------------------------------------


async def test_what_was_written_is_read() -> None:
    """A look-up that finds nothing, the framework's call, and the next look-up; nothing else of a call is counted."""
    async with Cache() as cache:
        aside = cache.aside()
        request = aside.request(CHAT, ASK)
        assert await aside.read(request) is None
        given = await answer(**ASK)
        assert await aside.write(request, given, aside.now()) is True
        found = await aside.read(aside.request(CHAT, ASK))
        assert isinstance(found, Completion)
        assert found.value == given
        assert status(CHAT.answers.carry(found)).outcome == "hit"
        stats = cache.stats
        assert (stats.misses, stats.hits, stats.stored, stats.calls) == (1, 1, 1, 2)
        assert (stats.upstream_calls, stats.rejected, stats.read_errors, stats.write_errors) == (0, 0, 0, 0)


async def test_a_wrapped_function_shares_entries() -> None:
    """Under the same target, either finds what the other has kept."""
    async with Cache() as cache:
        wrapped = cache.wrap(embed, call_type="embedding")
        target = wrapped.__asynccache_targets__[0]  # type: ignore[attr-defined]
        await wrapped(model="m", input=["a", "bb"])
        assert await value(cache, target, model="m", input=["bb"]) == vectors("bb")
        assert await keep(cache, target, vectors("ccc"), model="m", input="ccc")
        assert status(await wrapped(model="m", input="ccc")).outcome == "hit"


async def test_a_stream_is_read_from_a_whole_answer() -> None:
    """Who asks for a stream gets one."""
    async with Cache() as cache:
        given = await answer(**ASK)
        await keep(cache, CHAT, given, **ASK)
        aside = cache.aside()
        found = await aside.read(aside.request(CHAT, {**ASK, "stream": True}))
        assert isinstance(found, CompletionStream)
        said = [chunk["choices"][0]["delta"].get("content") or "" async for chunk in found.chunks if chunk["choices"]]
        assert "".join(said) == given["choices"][0]["message"]["content"]


async def test_admission_is_that_of_calls() -> None:
    """An answer that was cut off, and one that is no answer, are refused."""
    async with Cache() as cache:
        given = await answer(**ASK)
        given["choices"][0]["finish_reason"] = "length"
        assert not await keep(cache, CHAT, given, **ASK)
        assert not await keep(cache, CHAT, object(), **ASK)
        assert cache.stats.reject_reasons == {"length": 1, "answer-type": 1}


async def test_controls() -> None:
    """A call may say what it wants of the cache, as a wrapped one may."""
    clock = FakeClock()
    async with Cache(clock=clock) as cache:
        aside = cache.aside()
        given = await answer(**ASK)
        assert not await aside.write(aside.request(CHAT, ASK, {"no-store": True}), given)
        assert await aside.write(aside.request(CHAT, ASK, {"ttl": 10}), given)
        assert await aside.read(aside.request(CHAT, ASK, {"no-cache": True})) is None
        assert await aside.read(aside.request(CHAT, ASK, {"only-if-cached": True})) is not None
        clock.advance(10)
        assert await aside.read(aside.request(CHAT, ASK)) is None
        with pytest.raises(ConfigError):
            aside.request(CHAT, ASK, {"tll": 10})


@pytest.mark.parametrize("options", [{"mode": "default_off"}, {"supported_call_types": ["embedding"]}], ids=str)
async def test_calls_that_the_cache_keeps_out_of(options: dict[str, Any]) -> None:
    """They are neither read nor stored, and count as bypassed."""
    async with Cache(**options) as cache:
        assert not await keep(cache, CHAT, await answer(**ASK), **ASK)
        assert await value(cache, CHAT, **ASK) is None
        assert (cache.stats.bypassed, cache.stats.calls) == (1, 1)


async def test_a_handle_keeps_its_border_and_a_ttl_that_is_set_later() -> None:
    """What a handle is bound to holds for both halves."""
    clock = FakeClock()
    async with Cache(clock=clock) as cache:
        ours, theirs = cache.bind(tenant="ours"), cache.bind(tenant="theirs")
        aside = ours.aside()
        ours.ttl = 5
        await aside.write(aside.request(CHAT, ASK), await answer(**ASK))
        assert await value(theirs, CHAT, **ASK) is None
        assert await value(ours, CHAT, **ASK) is not None
        clock.advance(5)
        assert await value(ours, CHAT, **ASK) is None


# -- keys ---------------------------------------------------------------------------------------------


async def test_keys() -> None:
    """A key says itself before and after; one that was given stays."""
    async with Cache() as cache:
        aside = cache.aside()
        request = aside.request(CHAT, ASK)
        await aside.read(request)
        assert request.key == aside.key(request) == aside.key(aside.request(CHAT, ASK))
        mine = aside.request(CHAT, ASK)
        mine.key = CacheKey("f" * 64)
        assert await aside.write(mine, await answer(**ASK))
        assert await cache.delete("f" * 64)
        with pytest.raises(ConfigError, match="no key can be built"):
            aside.key(aside.request(CHAT, {**ASK, "seed": object()}))


async def test_what_a_target_keeps_out_has_no_use_for_a_key() -> None:
    """It is neither read nor stored under the key that it was given."""
    target = Target(never, CALL_TYPES["chat"], JSONAnswers(), keep_out=lambda params: "too-hot" * (params["n"] > 1))
    async with Cache() as cache:
        aside = cache.aside()
        for n in (1, 2):
            request = aside.request(target, {**ASK, "n": n})
            request.key = CacheKey("f" * 64)
            assert await aside.write(request, await answer(**ASK)) is (n == 1)
            assert (await aside.read(request) is None) is (n == 2)
        assert cache.stats.bypass_reasons == {"too-hot": 1}


async def test_what_is_written_is_the_answer_to_what_was_read() -> None:
    """Messages that were changed while the call was under way: nobody knows which of them it was about."""
    async with Cache() as cache:
        aside = cache.aside()
        messages = [dict(turn) for turn in ASK["messages"]]
        request = aside.request(CHAT, {**ASK, "messages": messages})
        await aside.read(request)
        messages.append({"role": "user", "content": "and?"})
        assert not await aside.write(request, await answer(**ASK))
        assert cache.stats.reject_reasons == {"changed": 1}


async def test_a_tenant_that_the_key_builder_finds() -> None:
    """Its answers are ended with the tenant's, though the request comes with its key."""
    async with Cache(key_builder=per_tenant()) as cache:
        aside = cache.aside()
        request = aside.request(CHAT, {**ASK, "api_key": "u1"})
        await aside.read(request)
        assert await aside.write(request, await answer(**ASK))
        assert await aside.read(aside.request(CHAT, {**ASK, "api_key": "u1"})) is not None
        assert await aside.read(aside.request(CHAT, {**ASK, "api_key": "u2"})) is None
        _, tenant = request.key.border
        assert tenant is not None
        await cache.bind(tenant=tenant).clear()
        assert await aside.read(aside.request(CHAT, {**ASK, "api_key": "u1"})) is None


async def test_a_list_of_one_has_the_key_of_that_one() -> None:
    """Whoever asks for its key can take its entry away."""
    async with Cache() as cache:
        wrapped = cache.wrap(embed, call_type="embedding")
        target = wrapped.__asynccache_targets__[0]  # type: ignore[attr-defined]
        aside = cache.aside()
        key = status(await wrapped(model="m", input=["a"])).key
        for given in (["a"], "a"):
            assert cache.get_cache_key(wrapped, model="m", input=given) == key
            assert aside.key(aside.request(target, {"model": "m", "input": given})).digest == key
        assert await cache.delete(key)


# -- several things -----------------------------------------------------------------------------------


async def test_a_list_is_kept_text_by_text() -> None:
    """Any other list of the same texts is answered; one with another text is not. A look-up is one call."""
    async with Cache() as cache:
        assert await keep(cache, EMBEDDING, vectors("a", "a", "bb"), model="m", input=["a", "a", "bb"])
        assert cache.stats.stored == 2
        found = await value(cache, EMBEDDING, model="m", input=["bb", "a", "bb"])
        assert found["data"] == vectors("bb", "a", "bb")["data"]
        assert await value(cache, EMBEDDING, model="m", input="a") == vectors("a")
        assert await value(cache, EMBEDDING, model="m", input=["a", "ccc"]) is None
        assert (cache.stats.hits, cache.stats.misses) == (2, 1)


@pytest.mark.parametrize("given", [vectors("a"), "no vectors", None], ids=repr)
async def test_a_list_with_an_answer_of_another_shape(given: Any) -> None:
    """It is refused."""
    async with Cache() as cache:
        assert not await keep(cache, EMBEDDING, given, model="m", input=["a", "bb"])
        assert cache.stats.stored == 0
        assert cache.stats.reject_reasons == {"answer-type": 1}


# -- invalidation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", [None, "t"])
@pytest.mark.parametrize("how", ["clear", "tag", "elsewhere"])
async def test_an_answer_that_was_invalidated_under_way_is_not_stored(how: str, tenant: str | None) -> None:
    """By clearing, by tag, by another process; the next one is."""
    clock, backend = FakeClock(), MemoryBackend()
    options: dict[str, Any] = {} if tenant is None else {"tenant": tenant}
    async with Cache(backend, clock=clock) as store, Cache(backend, clock=clock) as other:
        cache = store.bind(**options)
        aside = cache.aside()
        given = await answer(**ASK)
        outcomes: list[bool] = []
        for _ in range(2):
            request = aside.request(CHAT, ASK, {"tags": ["x"]})
            assert await aside.read(request) is None
            began = aside.now()
            if not outcomes:
                clock.advance(0.5)
                await {"clear": cache.clear, "tag": lambda: cache.invalidate("x"), "elsewhere": other.clear}[how]()
                clock.advance(0.5)
            outcomes.append(await aside.write(request, given, began))
            clock.advance(2)
        assert outcomes == [False, True]
        assert cache.stats.reject_reasons == {"invalidated": 1}


async def test_a_tag_that_a_hook_gives_was_invalidated_under_way() -> None:
    """The answer is known to carry it only when it is there, and is not stored all the same."""

    async def tag(response: Response, request: Request, /) -> None:
        response.tag("prices")

    clock, backend = FakeClock(), MemoryBackend()
    async with Cache(backend, clock=clock, post_hooks=[tag]) as cache, Cache(backend, clock=clock) as other:
        aside = cache.aside()
        began = aside.now()
        clock.advance(1)
        await other.invalidate("prices")
        clock.advance(1)
        request = aside.request(CHAT, ASK)
        assert not await aside.write(request, await answer(**ASK), began)
        assert await aside.write(request, await answer(**ASK), aside.now())


async def test_an_answer_is_as_old_as_its_call() -> None:
    """Its age counts from when the call began; its life, from when it was written."""
    clock = FakeClock()
    async with Cache(clock=clock, ttl=100) as cache:
        aside = cache.aside()
        request, began = aside.request(CHAT, ASK), aside.now()
        clock.advance(20)
        await aside.write(request, await answer(**ASK), began)
        found = await aside.read(request)
        assert found is not None
        assert (found.status.age, found.status.ttl) == (20, 100)
        entry = found.status.entry
        assert entry is not None
        assert entry.meta["duration"] == 20


async def test_parts_of_a_list_that_was_invalidated_under_way() -> None:
    """None of them is stored."""
    clock = FakeClock()
    async with Cache(clock=clock) as cache:
        aside = cache.aside()
        began = aside.now()
        clock.advance(1)
        await cache.clear()
        request = aside.request(EMBEDDING, {"model": "m", "input": ["a", "bb"]})
        assert not await aside.write(request, vectors("a", "bb"), began)
        assert cache.stats.reject_reasons == {"invalidated": 2}


# -- hooks and stages of the user's own ---------------------------------------------------------------


async def test_hooks() -> None:
    """What a pre-hook makes of the arguments makes the key, in both halves; a post-hook may refuse, and sees hits."""
    seen = []

    async def trim(request: Request, /) -> dict[str, Any]:
        return {**request.params, "user": None, "messages": [*request.params["messages"], {"role": "system"}]}

    async def note(response: Response, request: Request, /) -> None:
        seen.append((response.status.outcome, len(request.params["messages"])))
        if request.params.get("seed") == 1:
            response.veto("unwanted")

    async with Cache(pre_hooks=[trim], post_hooks=[note]) as cache:
        aside = cache.aside()
        request = aside.request(CHAT, {**ASK, "user": "a"})
        assert await aside.read(request) is None
        given = await answer(**ASK)
        assert await aside.write(request, given)
        assert await value(cache, CHAT, **ASK, user="b") == given
        assert seen == [("miss", 2), ("hit", 2)]
        assert not await keep(cache, CHAT, given, **ASK, seed=1)
        assert cache.stats.reject_reasons == {"unwanted": 1}


class Spy:
    """Notes what it sees of both halves."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        try:
            response = await call_next(request)
        except NotCached as error:
            self.seen.append(f"NotCached: {error.reason}")
            raise
        self.seen.append(response.status.outcome)
        return response


async def test_stages_of_ones_own() -> None:
    """One before the look-up runs in both halves, one after it when an answer is written."""
    before, after, innermost = Spy(), Spy(), Spy()

    async def one_model(request: Request, call_next: Handler, /) -> Response:
        request.params = {**request.params, "model": "any"}
        return await call_next(request)

    async with Cache(stages=lambda default: [one_model, before, *default[:-1], after, default[-1], innermost]) as cache:
        given = await answer(**ASK)
        assert await value(cache, CHAT, **ASK) is None
        assert before.seen == ["NotCached: absent"]
        assert await keep(cache, CHAT, given, **ASK)
        assert await value(cache, CHAT, **{**ASK, "model": "another"}) == given
        assert before.seen == ["NotCached: absent", "miss", "hit"]
        assert after.seen == innermost.seen == ["miss"]


async def test_a_stage_of_ones_own_may_answer() -> None:
    """Its answer is read; and where it answers in the place of a call, there is nothing to be stored."""
    own = {"own": True}

    async def stage(request: Request, call_next: Handler, /) -> Response:
        return Completion(CacheStatus("hit"), own)

    async with Cache(stages=lambda default: [stage, *default]) as cache:
        assert await value(cache, CHAT, **ASK) == own
        assert not await keep(cache, CHAT, await answer(**ASK), **ASK)
        assert cache.stats.stored == 0


async def test_a_stage_of_ones_own_among_the_texts_of_a_list() -> None:
    """One after the look-up sees each text that is written."""
    inputs = []

    async def note(request: Request, call_next: Handler, /) -> Response:
        inputs.append(request.params["input"])
        return await call_next(request)

    async with Cache(stages=lambda default: [*default[:-1], note, default[-1]]) as cache:
        assert await keep(cache, EMBEDDING, vectors("a", "bb"), model="m", input=["a", "bb"])
        assert await value(cache, EMBEDDING, model="m", input=["a", "bb"]) == vectors("a", "bb")
        assert inputs == ["a", "bb"]


async def test_no_stage_at_all() -> None:
    """Then nothing is kept, and nothing is found."""
    async with Cache(stages=lambda _: []) as cache:
        assert not await keep(cache, CHAT, await answer(**ASK), **ASK)
        assert await value(cache, CHAT, **ASK) is None


async def test_identical_calls_are_each_written() -> None:
    """They were each made: nothing is left to share."""
    async with Cache() as cache:
        given = await answer(**ASK)
        assert await asyncio.gather(*(keep(cache, CHAT, given, **ASK) for _ in range(3))) == [True] * 3
        assert (cache.stats.stored, cache.stats.coalesced, cache.stats.calls) == (3, 0, 0)


async def test_an_error_that_is_remembered_keeps_no_answer_out() -> None:
    """The framework has got one meanwhile."""

    async def fail(model: str, messages: Any) -> dict[str, Any]:
        raise ValueError("no")

    async with Cache(negative_ttl=60, negative_errors=[ValueError]) as cache:
        wrapped = cache.wrap(fail)
        target = wrapped.__asynccache_targets__[0]  # type: ignore[attr-defined]
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                await wrapped(**ASK)
        assert cache.stats.negative_hits == 1
        given = await answer(**ASK)
        assert await keep(cache, target, given, **ASK)
        assert await wrapped(**ASK) == given


class Watcher:
    """Is told of calls, and of what reaches the upstream."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.upstream: list[int] = []

    def observe(self, seen: Observation) -> None:
        self.outcomes.append(seen.outcome)

    def observe_upstream(self, made: UpstreamCall) -> None:
        assert made.usage is not None
        self.upstream.append(made.usage.input + made.usage.output)


async def test_observers() -> None:
    """They are told of each call once, and of what the framework's own call has cost."""
    watcher = Watcher()
    async with Cache(observers=[watcher]) as cache:
        given = await answer(**ASK)
        assert await value(cache, CHAT, **ASK) is None
        assert await keep(cache, CHAT, given, **ASK)
        assert await value(cache, CHAT, **ASK) == given
        assert watcher.outcomes == ["miss", "hit"]
        assert watcher.upstream == [given["usage"]["total_tokens"]]


# -- failures -----------------------------------------------------------------------------------------


async def test_a_backend_that_fails_fails_no_call() -> None:
    """It counts."""
    backend = FaultyBackend(MemoryBackend())
    backend.fail(BackendUnavailable("gone"), "get", "set")
    async with Cache(backend) as cache:
        aside = cache.aside()
        request = aside.request(CHAT, ASK)
        assert await aside.read(request) is None
        assert not await aside.write(request, await answer(**ASK), aside.now())
        assert (cache.stats.misses, cache.stats.read_errors, cache.stats.write_errors) == (1, 1, 1)


async def test_a_stage_or_a_hook_that_fails_fails_no_call() -> None:
    """It is logged, and counts in both halves."""

    async def broken(request: Request, call_next: Handler, /) -> Response:
        raise RuntimeError("broken")

    async def hook(request: Request, /) -> None:
        raise RuntimeError("broken")

    for options in ({"stages": lambda default: [broken, *default]}, {"pre_hooks": [hook]}):
        async with Cache(**options) as cache:
            assert await value(cache, CHAT, **ASK) is None
            assert not await keep(cache, CHAT, {}, **ASK)
            assert (cache.stats.read_errors, cache.stats.write_errors) == (1, 1)


async def test_one_text_that_cannot_be_written_does_not_keep_out_the_others() -> None:
    """A stage that fails for one of them."""

    async def broken(request: Request, call_next: Handler, /) -> Response:
        if request.params["input"] == "a":
            raise RuntimeError("broken")
        for _ in range(10):
            await asyncio.sleep(0)  # so that the other has failed by then
        return await call_next(request)

    async with Cache(stages=lambda default: [*default[:-1], broken, default[-1]]) as cache:
        assert not await keep(cache, EMBEDDING, vectors("a", "bb"), model="m", input=["a", "bb"])
        assert (cache.stats.stored, cache.stats.write_errors) == (1, 1)
        assert await value(cache, EMBEDDING, model="m", input="bb") == vectors("bb")


async def test_cancellation_gets_through() -> None:
    """A look-up that is given up ends at once."""
    backend = FaultyBackend(MemoryBackend())
    async with Cache(backend) as cache:
        backend.hold("get")
        task = asyncio.create_task(value(cache, CHAT, **ASK))
        await backend.reached("get", 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        backend.release()


# -- sync ---------------------------------------------------------------------------------------------


async def test_sync() -> None:
    """Sync frameworks share with async ones. A hook that calls what is cached, on the cache's own thread, gets None."""
    within: list[Any] = []

    async with Cache() as cache:
        aside = cache.aside()
        read, write = aside.as_sync(aside.read), aside.as_sync(aside.write)
        given = await answer(**ASK)

        def call() -> Any:
            assert read(aside.request(CHAT, ASK)) is None
            assert write(aside.request(CHAT, ASK), given, aside.now()) is True
            return read(aside.request(CHAT, ASK)).value

        assert await asyncio.to_thread(call) == given
        assert await value(cache, CHAT, **ASK) == given

        async def on_its_thread() -> None:
            within.append(read(aside.request(CHAT, ASK)))

        await asyncio.to_thread(aside.as_sync(on_its_thread))
        assert within == [None]
