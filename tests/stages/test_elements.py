"""Calls about several things: each is looked up, coalesced and stored for itself, and what is missing asked at once."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Callable
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache import BackendUnavailable, Cache, CacheStatus, NotCached, status
from asynccache.backends.memory import MemoryBackend
from asynccache.batches import Batch
from asynccache.model import Request, Response
from asynccache.protocols import Handler
from asynccache.stages import elements
from asynccache.stages.elements import ElementsStatus
from asynccache.testing.clock import FakeClock
from asynccache.testing.faulty import FaultyBackend
from asynccache.testing.turnstile import Turnstile

if TYPE_CHECKING:
    from tests.servers.redis import RedisServer

Text = str | list[int]


class Embedder:
    """`await embedder(model=…, input=…)`: the length of a text as its vector, last text first."""

    def __init__(self) -> None:
        self.asked: list[list[Text]] = []
        self.cancelled = 0
        self.extra_tokens = 0
        self.fail: BaseException | None = None
        self.fails: dict[int, BaseException] = {}  # by the number of the call
        self.change: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self._turnstile = Turnstile()
        self.hold, self.release, self.reached = self._turnstile.hold, self._turnstile.release, self._turnstile.reached

    async def __call__(self, *, model: str, input: Any, **params: Any) -> Any:
        one = isinstance(input, str) or isinstance(input[0], int)
        texts = [input] if one else list(input)
        self.asked.append(texts)
        number = self._turnstile.arrive()
        try:
            await self._turnstile.passage()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if (failure := self.fails.get(number, self.fail)) is not None:
            raise failure
        data = [{"object": "embedding", "index": i, "embedding": vector(text)} for i, text in enumerate(texts)]
        used = sum(map(len, texts)) + self.extra_tokens
        usage = {"prompt_tokens": used, "total_tokens": used}
        return self.change({"object": "list", "model": model, "data": data[::-1], "usage": usage})


def vector(text: Text) -> list[float]:
    return [float(len(text)), 0.5]


def vectors(answer: Any) -> list[list[float]]:
    """In the order in which they stand, which must be that of their indices."""
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return [each["embedding"] for each in answer["data"]]


class Embedding:
    """A cache around an embedder."""

    def __init__(self, **options: Any) -> None:
        self.embedder = Embedder()
        self.cache = Cache(**options)
        self._call = self.cache.wrap(self.embedder, call_type="embedding")

    async def __call__(self, texts: Any, **params: Any) -> Any:
        return await self._call(model="m", input=texts, **params)

    def begin(self, texts: Any, **params: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self(texts, **params))


@pytest.fixture
async def embed() -> AsyncIterator[Embedding]:
    embed = Embedding()
    async with embed.cache:
        yield embed


def outcomes(answer: Any) -> list[str]:
    how = status(answer)
    assert isinstance(how, ElementsStatus)
    return [each.outcome for each in how.elements]


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_only_what_is_missing_is_asked_for(embed: Embedding) -> None:
    """In one call, and the answers stand where their texts stand, whatever the order of the reply."""
    first = await embed(["a", "bb", "ccc"])
    assert vectors(first) == [vector("a"), vector("bb"), vector("ccc")]
    assert (status(first).outcome, status(first).reason) == ("miss", "absent")
    second = await embed(["dddd", "ccc", "eeeee", "a"])
    assert vectors(second) == [vector("dddd"), vector("ccc"), vector("eeeee"), vector("a")]
    assert (status(second).outcome, status(second).reason) == ("miss", "partial: 2 of 4")
    assert outcomes(second) == ["miss", "hit", "miss", "hit"]
    third = await embed(["eeeee", "bb"])
    assert (status(third).outcome, status(third).reason, status(third).tier) == ("hit", "", "memory")
    assert embed.embedder.asked == [["a", "bb", "ccc"], ["dddd", "eeeee"]]


async def test_a_list_counts_as_one_call(embed: Embedding) -> None:
    """Whatever is in it. What is stored, and what the upstream is asked, is counted as it is."""
    await embed(["a", "bb", "ccc"])
    await embed(["a", "dddd"])
    await embed(["a", "bb"])
    stats = embed.cache.stats
    assert (stats.calls, stats.hits, stats.misses, stats.upstream_calls, stats.stored) == (3, 1, 2, 2, 4)


async def test_a_text_alone_and_in_a_list_are_one(embed: Embedding) -> None:
    """`input="a"`, `input=["a"]` and "a" in a longer list share an entry."""
    alone = await embed("a")
    in_a_list = await embed(["a"])
    assert (status(in_a_list).outcome, status(in_a_list).key) == ("hit", status(alone).key)
    assert in_a_list == alone
    assert status(await embed(["a", "bb"])).reason == "partial: 1 of 2"
    assert status(await embed("bb")).outcome == "hit"
    assert await embed.cache.delete(status(in_a_list).key)
    assert status(await embed(["a"])).outcome == "miss"
    assert embed.embedder.asked == [["a"], ["bb"], ["a"]]


async def test_equal_texts_are_asked_for_once(embed: Embedding) -> None:
    """Each place in the list has a vector of its own."""
    answer = await embed(["a", "bb", "a"])
    assert embed.embedder.asked == [["a", "bb"]]
    assert vectors(answer) == [vector("a"), vector("bb"), vector("a")]
    answer["data"][0]["embedding"][0] = 9.0
    assert answer["data"][2]["embedding"] == vector("a")
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert vectors(await embed(["a", "a"])) == [vector("a"), vector("a")]


async def test_tokens(embed: Embedding) -> None:
    """A list of integers is one text; a list of such lists is several, which share with it."""
    await embed([1, 2, 3])
    answer = await embed([[1, 2, 3], [4]])
    assert vectors(answer) == [vector([1, 2, 3]), vector([4])]
    assert status(answer).reason == "partial: 1 of 2"
    assert status(await embed([4])).outcome == "hit"
    assert embed.embedder.asked == [[[1, 2, 3]], [[4]]]


@pytest.mark.parametrize("params", [{"dimensions": 8}, {"encoding_format": "base64"}, {"input_type": "query"}])
async def test_other_arguments_count(embed: Embedding, params: dict[str, Any]) -> None:
    """A vector of another kind is another."""
    await embed(["a", "bb"])
    assert status(await embed(["a", "bb"], **params)).reason == "absent"
    assert status(await embed("a", **params)).outcome == "hit"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=9), min_size=1, max_size=7, unique=True), st.integers(0, 50), st.data())
def test_usage_is_divided_without_remainder(texts: list[str], extra: int, data: st.DataObject) -> None:
    """The shares of the texts add up to what the upstream has counted, to the token, and so do those of any list."""

    async def check() -> None:
        embed = Embedding()
        embed.embedder.extra_tokens = extra
        whole = await embed(texts)
        total = sum(map(len, texts)) + extra
        assert whole["usage"] == {"prompt_tokens": total, "total_tokens": total}
        alone = {text: (await embed(text))["usage"]["total_tokens"] for text in texts}
        assert sum(alone.values()) == total
        some = data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=5))
        assert (await embed(some))["usage"]["total_tokens"] == sum(alone[text] for text in set(some))
        assert len(embed.embedder.asked) == 1

    asyncio.run(check())


async def test_lists_that_overlap_share_what_is_under_way(embed: Embedding) -> None:
    """Each text is asked for once, by whoever came first; a text alone joins in."""
    embed.embedder.hold()
    first = embed.begin(["a", "bb", "ccc"])
    await embed.embedder.reached(1)
    second, third, alone = embed.begin(["bb", "dddd", "ccc"]), embed.begin(["ccc", "a"]), embed.begin("bb")
    await embed.embedder.reached(2)
    await turns()
    assert embed.embedder.asked == [["a", "bb", "ccc"], ["dddd"]]
    embed.embedder.release()
    answers = await asyncio.gather(first, second, third, alone)
    assert vectors(answers[1]) == [vector("bb"), vector("dddd"), vector("ccc")]
    assert outcomes(answers[1]) == ["coalesced", "miss", "coalesced"]
    assert (status(answers[1]).outcome, status(answers[1]).reason) == ("miss", "partial: 2 of 3")
    assert [status(answer).outcome for answer in answers] == ["miss", "miss", "coalesced", "coalesced"]
    assert (embed.cache.stats.coalesced, embed.cache.stats.misses) == (2, 2)


async def test_lists_that_ask_for_each_others_texts(embed: Embedding) -> None:
    """Neither waits for the other before it sends what is its own."""
    embed.embedder.hold()
    lists = [["a", "bb", "ccc"], ["ccc", "bb", "dddd"], ["dddd", "a", "eeeee"]]
    tasks = [embed.begin(texts) for texts in lists]
    await turns()
    asked = [text for texts in embed.embedder.asked for text in texts]
    assert sorted(asked, key=str) == ["a", "bb", "ccc", "dddd", "eeeee"]
    embed.embedder.release()
    for texts, answer in zip(lists, await asyncio.gather(*tasks), strict=True):
        assert vectors(answer) == [vector(text) for text in texts]


async def test_what_fails_fails_all_whose_text_it_is(embed: Embedding) -> None:
    """The upstream's own exception, nothing stored, and what a failed list has asked for beside it is given up."""
    embed.embedder.hold()
    first = embed.begin(["a", "bb"])
    await embed.embedder.reached(1)
    second, other = embed.begin(["bb", "ccc"]), embed.begin(["dddd"])
    await embed.embedder.reached(3)
    embed.embedder.fail = failure = RuntimeError("overloaded")
    embed.embedder.release()
    results = await asyncio.gather(first, second, other, return_exceptions=True)
    assert all(result is failure for result in results)
    assert (failure.__cause__, failure.__context__) == (None, None)
    assert embed.cache.stats.stored == 0
    embed.embedder.fail = None
    assert status(await embed(["a", "bb", "ccc"])).reason == "absent"


async def test_a_text_that_fails_does_not_take_others_down(embed: Embedding) -> None:
    """Two lists with nothing in common know nothing of each other."""
    embed.embedder.fail = RuntimeError("overloaded")
    failing = embed.begin(["a"])
    await asyncio.wait([failing])
    embed.embedder.fail = None
    assert vectors(await embed(["bb"])) == [vector("bb")]
    assert isinstance(failing.exception(), RuntimeError)


async def test_who_leaves_leaves_what_others_wait_for(embed: Embedding) -> None:
    """The call of a cancelled list goes on while another list waits for one of its texts; then all of it is stored."""
    embed.embedder.hold()
    first = embed.begin(["a", "bb", "ccc"])
    await embed.embedder.reached(1)
    second = embed.begin(["ccc", "dddd"])
    await embed.embedder.reached(2)
    first.cancel()
    await asyncio.wait([first])
    assert (first.cancelled(), embed.embedder.cancelled) == (True, 0)
    embed.embedder.release()
    assert vectors(await second) == [vector("ccc"), vector("dddd")]
    assert embed.embedder.asked == [["a", "bb", "ccc"], ["dddd"]]


async def test_the_last_to_leave_ends_the_call(embed: Embedding) -> None:
    """And has waited until it has ended."""
    embed.embedder.hold()
    first = embed.begin(["a", "bb"])
    await embed.embedder.reached(1)
    second = embed.begin(["bb", "a"])
    await turns()
    for task in (first, second):
        assert embed.embedder.cancelled == 0
        task.cancel()
        await asyncio.wait([task])
    assert embed.embedder.cancelled == 1
    assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()


async def test_on_abandon_finish_fills_the_cache() -> None:
    """The whole call goes on for nobody, and what it brings is stored."""
    embed = Embedding(on_abandon="finish")
    embed.embedder.hold()
    task = embed.begin(["a", "bb"])
    await embed.embedder.reached(1)
    task.cancel()
    await asyncio.wait([task])
    embed.embedder.release()
    await turns(100)
    assert status(await embed(["bb", "a"])).outcome == "hit"
    await embed.cache.aclose()


async def test_those_whose_leader_fails_by_itself_ask_together(embed: Embedding) -> None:
    """An upstream that cancels itself is its own caller's trouble. All who waited for it ask in one other call."""
    embed.embedder.hold()
    first = embed.begin(["a", "bb", "ccc"])
    await embed.embedder.reached(1)
    second = embed.begin(["a", "bb", "ccc"])
    await turns()
    embed.embedder.fails[1] = asyncio.CancelledError()
    embed.embedder.release()
    await asyncio.wait([first])
    assert first.cancelled()
    assert vectors(await second) == [vector("a"), vector("bb"), vector("ccc")]
    assert embed.embedder.asked == [["a", "bb", "ccc"]] * 2


async def test_a_stage_that_holds_texts_back_cannot_stop_them_all() -> None:
    """A stage of the user's own may let only so many pass at a time: they are then asked for in several calls."""
    permits = asyncio.Semaphore(2)

    async def limited(request: Request, call_next: Handler, /) -> Response:
        async with permits:
            return await call_next(request)

    embed = Embedding(stages=lambda default: [*default[:-1], limited, default[-1]])
    async with embed.cache:
        answer = await asyncio.wait_for(embed(["a", "bb", "ccc", "dddd", "eeeee"]), 10)
    assert vectors(answer) == [[float(n), 0.5] for n in (1, 2, 3, 4, 5)]
    assert sorted(map(len, embed.embedder.asked)) == [1, 2, 2]


async def test_a_list_that_is_given_up_before_it_is_sent() -> None:
    """What has arrived so far is not asked for because nothing else is coming any more."""
    held = asyncio.Event()

    async def hold(request: Request, call_next: Handler, /) -> Response:
        if request.params["input"] == "bb":
            await held.wait()
        return await call_next(request)

    embed = Embedding(stages=lambda default: [*default[:-1], hold, default[-1]])
    task = embed.begin(["a", "bb", "ccc"])
    await turns()
    task.cancel()
    await asyncio.wait([task])
    assert embed.embedder.asked == []
    held.set()
    assert len(vectors(await embed(["a", "bb", "ccc"]))) == 3
    assert embed.embedder.asked == [["a", "bb", "ccc"]]
    await embed.cache.aclose()


def too_few(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "data": answer["data"][:-1]}


def one_index(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "data": [{**each, "index": 0} for each in answer["data"]]}


@pytest.mark.parametrize("change", [too_few, one_index])
async def test_a_reply_that_does_not_fit_is_passed_on(embed: Embedding, change: Any) -> None:
    """As it is, and nothing of it is stored: nobody knows whose vector is missing."""
    embed.embedder.change = change
    embed.embedder.hold()
    first = embed.begin(["a", "bb", "ccc"])
    await embed.embedder.reached(1)
    alone = embed.begin("bb")
    await turns()
    embed.embedder.release()
    answer = await first
    assert answer == change(await Embedder()(model="m", input=["a", "bb", "ccc"]))
    assert (status(answer).outcome, status(answer).reason, status(answer).stored) == ("miss", "absent", False)
    # Who waited for one of them asks for himself.
    assert status(await alone).outcome == "miss"
    assert embed.embedder.asked == [["a", "bb", "ccc"], ["bb"]]
    embed.embedder.change = lambda answer: answer
    assert outcomes(await embed(["a", "ccc"])) == ["miss", "miss"]


async def test_a_reply_to_a_part_that_does_not_fit(embed: Embedding) -> None:
    """It cannot be passed on as the answer to all: then all are asked for once more, and the reply to that is."""
    await embed(["a"])
    embed.embedder.change = too_few
    answer = await embed(["a", "bb", "ccc"])
    assert len(answer["data"]) == 2
    assert embed.embedder.asked == [["a"], ["bb", "ccc"], ["a", "bb", "ccc"]]
    assert (status(answer).outcome, status(answer).reason, status(answer).stored) == ("miss", "partial: 1 of 3", False)
    assert embed.cache.stats.calls == 2
    embed.embedder.change = lambda answer: answer
    assert status(await embed(["a", "bb"])).reason == "partial: 1 of 2"


async def test_a_reply_without_indices_means_the_order(embed: Embedding) -> None:
    """Some servers leave them out."""
    embed.embedder.change = lambda answer: {
        **answer,
        "data": [{"embedding": each["embedding"]} for each in reversed(answer["data"])],
    }
    assert vectors(await embed(["a", "bb"])) == [vector("a"), vector("bb")]
    assert vectors(await embed(["bb", "a"])) == [vector("bb"), vector("a")]
    assert len(embed.embedder.asked) == 1


async def test_a_function_with_a_shape_of_its_own_is_kept_whole(embed: Embedding) -> None:
    """Its first list is passed on; from then on lists are kept as they are, and alone is not the same as in a list."""
    embed.embedder.change = lambda answer: [each["embedding"] for each in reversed(answer["data"])]
    assert await embed(["a", "bb"]) == [vector("a"), vector("bb")]
    assert [await embed(["a", "bb"]) for _ in range(2)] == [[vector("a"), vector("bb")]] * 2
    assert embed.embedder.asked == [["a", "bb"]] * 2
    assert (embed.cache.stats.hits, embed.cache.stats.misses) == (1, 2)
    assert await embed("a") == [vector("a")]
    assert embed.embedder.asked[2:] == [["a"]]


async def test_answers_of_ones_own_that_were_kept_before(embed: Embedding) -> None:
    """Answers to texts alone that cannot be put together are not put together."""
    embed.embedder.change = lambda answer: answer["data"][0]["embedding"]
    assert await embed("a") == vector("a")
    embed.embedder.change = lambda answer: [each["embedding"] for each in reversed(answer["data"])]
    assert await embed(["a"]) == [vector("a")]
    assert embed.embedder.asked == [["a"], ["a"]]


@pytest.mark.parametrize("texts", [[], ["a", 1], [["a"]], [{"text": "a"}, {"image": "b"}], [[]], [True]])
async def test_what_is_no_list_of_texts_is_kept_whole(embed: Embedding, texts: list[Any]) -> None:
    """It goes to the upstream as it is, and under a key of its own."""
    call = embed.cache.wrap(self_answering, call_type="embedding")
    assert [(await call(input=texts))["input"] for _ in range(2)] == [texts] * 2
    assert (embed.cache.stats.misses, embed.cache.stats.hits) == (1, 1)


async def self_answering(*, input: Any) -> dict[str, Any]:
    return {"input": input}


async def test_a_tuple_of_texts(embed: Embedding) -> None:
    """As good as a list."""
    assert vectors(await embed(("a", "bb"))) == [vector("a"), vector("bb")]
    assert status(await embed(["bb", "a"])).outcome == "hit"


async def test_controls(embed: Embedding) -> None:
    """`cache={…}` is about each text: what may not be read is asked for, what may not be stored is not."""
    await embed(["a"])
    again = await embed(["a", "bb"], cache={"no-cache": True})
    assert (status(again).outcome, status(again).reason) == ("miss", "no-cache")
    assert embed.embedder.asked[1:] == [["a", "bb"]]
    await embed(["bb", "ccc", "ccc"], cache={"no-store": True})
    assert embed.embedder.asked[2:] == [["ccc"]]
    assert status(await embed(["ccc"])).reason == "absent"
    with pytest.raises(NotCached):
        await embed(["a", "dddd"], cache={"only-if-cached": True})
    assert status(await embed(["a", "bb"], cache={"only-if-cached": True})).outcome == "hit"
    kept_out = await embed(["a", "bb"], cache={"no-cache": True, "no-store": True})
    assert (status(kept_out).outcome, embed.embedder.asked[-1]) == ("bypass", ["a", "bb"])
    assert embed.cache.stats.calls == 7


async def test_tags_and_age() -> None:
    """Each text has the tags of its call, and the age and end of its own entry; the list those of the oldest, and of
    the one that ends first."""
    clock = FakeClock()
    embed = Embedding(clock=clock, ttl=100)
    await embed(["a"], cache={"tags": ["doc:1"]})
    clock.advance(30)
    await embed(["bb"], cache={"tags": ["doc:2"], "ttl": 40})
    clock.advance(5)
    how = status(await embed(["a", "bb"]))
    assert isinstance(how, ElementsStatus)
    assert (how.outcome, how.age, how.ttl, how.stored) == ("hit", 35, 35, True)
    assert [(each.age, each.ttl) for each in how.elements] == [(35, 65), (5, 35)]
    await embed.cache.invalidate("doc:1")
    assert outcomes(await embed(["a", "bb"])) == ["miss", "hit"]
    assert embed.embedder.asked == [["a"], ["bb"], ["a"]]


async def test_the_status_before_anything_is_stored() -> None:
    """A list whose parts are not all stored is not, and has no end."""
    parts = [CacheStatus("hit", stored=True), CacheStatus("miss", "absent")]
    how = ElementsStatus(parts)
    assert (how.stored, how.ttl, how.age) == (False, None, 0.0)
    parts[1].stored = True
    assert how.stored
    assert [ElementsStatus([CacheStatus(a), CacheStatus(b)]).outcome for a, b in ORDER] == [b for _, b in ORDER]


ORDER: list[tuple[Any, Any]] = [("hit", "hit"), ("hit", "stale"), ("stale", "coalesced"), ("coalesced", "miss")]


async def test_stale_texts_are_refreshed_in_one_call() -> None:
    """They are served at once, and asked for together behind the answer."""
    clock = FakeClock()
    embed = Embedding(clock=clock, ttl=10, stale_while_revalidate=100)
    await embed(["a", "bb", "ccc"])
    clock.advance(20)
    answer = await embed(["a", "bb", "ccc"])
    assert (status(answer).outcome, status(answer).reason) == ("stale", "stale-while-revalidate")
    await embed.embedder.reached(2)
    assert [sorted(texts, key=str) for texts in embed.embedder.asked] == [["a", "bb", "ccc"]] * 2
    await turns(100)
    assert status(await embed(["a", "bb", "ccc"])).outcome == "hit"
    assert (embed.cache.stats.stale, embed.cache.stats.refreshes) == (1, 3)
    await embed.cache.aclose()


async def test_stale_texts_when_the_upstream_fails() -> None:
    """A list of which all is there, if old, is answered in an outage."""
    clock = FakeClock()
    embed = Embedding(clock=clock, ttl=10, stale_if_error=100)
    await embed(["a", "bb"])
    clock.advance(20)
    embed.embedder.fail = ConnectionError("down")
    answer = await embed(["a", "bb"])
    assert (status(answer).outcome, status(answer).reason) == ("stale", "stale-if-error: ConnectionError")
    with pytest.raises(ConnectionError):
        await embed(["a", "ccc"])
    await embed.cache.aclose()


async def test_hooks_see_each_new_text_and_the_whole_answer() -> None:
    """What a hook says of a new text's answer holds for its entry; each call's answer goes through it too."""
    seen: list[Any] = []

    async def hook(response: Response, request: Request) -> None:
        given = request.params["input"]
        seen.append(given)
        if given == "bb":
            response.veto("secret")

    embed = Embedding(post_hooks=[hook])
    await embed(["a", "bb"])
    assert seen == ["a", "bb", ["a", "bb"]]
    seen.clear()
    assert outcomes(await embed(["a", "bb"])) == ["hit", "miss"]
    assert seen == ["bb", ["a", "bb"]]
    assert embed.cache.stats.reject_reasons == {"secret": 2}
    await embed.cache.aclose()


async def test_a_store_that_fails_is_counted_for_each_text() -> None:
    """A list's failed look-ups count as look-ups, and its texts are asked for."""
    backend = FaultyBackend(MemoryBackend())
    embed = Embedding(backend=backend)
    backend.fail(BackendUnavailable("gone"), "get")
    answer = await embed(["a", "bb"])
    assert vectors(answer) == [vector("a"), vector("bb")]
    assert status(answer).reason == "backend-error"
    stats = embed.cache.stats
    assert (stats.read_errors, stats.misses, stats.calls) == (2, 1, 1)
    await embed.cache.aclose()


async def test_a_hedged_look_up() -> None:
    """It goes for lists as it does for a text alone: the texts are asked for together."""
    backend = FaultyBackend(MemoryBackend())
    embed = Embedding(backend=backend, hedge_after=0.01)
    backend.hold("get")
    task = embed.begin(["a", "bb"])
    await embed.embedder.reached(1)
    await turns()
    assert embed.embedder.asked == [["a", "bb"]]
    backend.release()
    assert vectors(await task) == [vector("a"), vector("bb")]
    await embed.cache.aclose()


async def test_look_ups_travel_as_one(redis_server: RedisServer) -> None:
    """On a store that is asked over a network, the texts of a list are one question."""
    url, prefix = redis_server.url, token_hex(4)
    embed = Embedding(type="redis", url=url, key_prefix=prefix)
    texts = ["x" * length for length in range(1, 64)]
    async with embed.cache:
        await embed(texts)
        await embed.cache.drain()
        before = mgets(redis_server)
        assert status(await embed(texts)).outcome == "hit"
        assert mgets(redis_server) - before == 1
        assert embed.embedder.asked == [texts]


def mgets(server: RedisServer) -> int:
    """How many the server has answered."""
    found = re.search(r"cmdstat_mget:calls=(\d+)", str(server.ask("INFO", "commandstats")))
    return int(found[1]) if found else 0


async def test_texts_that_another_process_asks_for(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are waited for, and those that nobody asks for do not wait with them."""
    monkeypatch.setattr(elements, "Batch", functools.partial(Batch, patience=3600))
    prefix = token_hex(4)
    here, there = (Embedding(type="redis", url=redis_server.url, key_prefix=prefix) for _ in range(2))
    async with here.cache, there.cache:
        here.embedder.hold()
        first = here.begin(["a", "bb"])
        await here.embedder.reached(1)
        second = there.begin(["bb", "ccc", "a"])
        await asyncio.wait_for(there.embedder.reached(1), 30)
        assert there.embedder.asked == [["ccc"]]
        here.embedder.release()
        assert vectors(await first) == [vector("a"), vector("bb")]
        answer = await second
        assert vectors(answer) == [vector("bb"), vector("ccc"), vector("a")]
        assert outcomes(answer) == ["coalesced", "miss", "coalesced"]
        assert there.embedder.asked == [["ccc"]]


async def test_a_long_list_leaves_time_for_others(embed: Embedding) -> None:
    """All of it is there, and still the event loop goes round while it is put together."""
    texts = ["x" * length for length in range(1, 501)]
    await embed(texts)
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert status(await embed(texts)).outcome == "hit"
    counting.cancel()
    assert rounds >= 10


async def test_a_long_list_that_fails_at_once(embed: Embedding) -> None:
    """Its own error, whichever text it is that fails, and nothing is left behind."""
    texts = ["x" * length for length in range(1, 301)]
    await embed(texts[:120])
    for asked in (texts, texts[::-1], texts[100:]):
        with pytest.raises(NotCached):
            await embed(asked, cache={"only-if-cached": True})
    assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()
    assert len(embed.embedder.asked) == 1
