"""The laws of the handle: what is wrapped, what is kept, who gets what, and what is counted."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import BaseModel

from asynccache import Cache, status
from asynccache.backends import names
from asynccache.backends.memory import MemoryBackend
from asynccache.config import OPTION_ALIASES, POLICY, backend_options
from asynccache.errors import (
    BackendClosed,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    CorruptEntry,
    EntryTooLarge,
)
from asynccache.model import CacheKey, Completion, Request, Response
from asynccache.testing import FakeClock, FakeUpstream, FaultyBackend

ASK: Mapping[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}


class Person(BaseModel):
    name: str
    tags: list[str] = []


@dataclass
class Point:
    x: int
    names: list[str]


class Movie(TypedDict):
    title: str


def conserved(cache: Cache, calls: int) -> bool:
    """Every finished call is exactly one of these."""
    stats = cache.stats
    return stats.calls == stats.hits + stats.stale + stats.coalesced + stats.misses + stats.bypassed == calls


# -- what is wrapped ------------------------------------------------------------------------------


async def test_a_wrapped_function_looks_like_the_original() -> None:
    """Name, docstring, module and signature of an async function are kept; it stays a coroutine function."""

    async def complete(model: str, /, messages: list[Any], *more: int, n: int = 1, **rest: Any) -> dict[str, Any]:
        """Completes."""
        return {}

    call = Cache().wrap(complete)
    assert inspect.signature(call) == inspect.signature(complete)
    assert inspect.iscoroutinefunction(call)
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        assert getattr(call, name) == getattr(complete, name)
    assert inspect.unwrap(call) is complete


async def test_arguments_arrive_however_they_are_passed() -> None:
    """Positional-only, positional, `*args`, keyword-only, defaults and `**kwargs` arrive as without a cache, and
    two ways of passing the same are one key."""
    seen: list[Any] = []

    async def function(a: int, /, b: int, c: int = 3, *more: int, d: int = 4, **rest: int) -> list[Any]:
        seen.append((a, b, c, more, d, rest))
        return [a, b, c, list(more), d, rest]

    call = Cache().wrap(function)
    plain = await call(1, 2)
    assert plain == await call(1, b=2) == await call(1, 2, 3, d=4) == [1, 2, 3, [], 4, {}]
    assert await call(1, 2, 3, 5, 6, d=7, e=8) == [1, 2, 3, [5, 6], 7, {"e": 8}]
    assert seen == [(1, 2, 3, (), 4, {}), (1, 2, 3, (5, 6), 7, {"e": 8})]


async def test_wrong_arguments_fail_as_without_a_cache() -> None:
    """A call that does not fit the signature raises TypeError, and nothing is stored."""

    async def function(a: int) -> int:
        return a

    cache = Cache()
    call: Any = cache.wrap(function)
    for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"a": 1}), ((), {"b": 1})):
        with pytest.raises(TypeError):
            await call(*args, **kwargs)
    assert cache.stats.stored == 0


async def test_two_arguments_of_one_name() -> None:
    """An argument that is positional-only and one of its name in `**kwargs` are refused: neither is ever
    taken for the other."""

    async def function(a: int, /, **rest: int) -> list[Any]:
        return [a, rest]

    with pytest.raises(TypeError, match="'a' is positional-only"):
        await Cache().wrap(function)(1, a=2)


async def test_as_a_decorator_of_a_function_and_of_a_method() -> None:
    """`@cache.wrap` works on functions and methods; of a method, the object is an argument like any other."""
    cache = Cache()

    @cache.wrap
    async def double(n: int) -> int:
        return n * 2

    @dataclass
    class Agent:
        style: str

        @cache.wrap
        async def ask(self, prompt: str) -> str:
            return f"{self.style}: {prompt}"

    assert await double(2) == await double(2) == 4
    assert await Agent("kind").ask("why?") == "kind: why?"
    assert await Agent("rude").ask("why?") == "rude: why?"
    hits = cache.stats.hits
    assert await Agent("kind").ask("why?") == "kind: why?"
    assert cache.stats.hits == hits + 1


async def test_partials_and_callable_objects() -> None:
    """What a partial has fixed is in the key; a callable object is wrapped by its `__call__`."""

    async def ask(model: str, prompt: str, n: int = 1) -> str:
        return f"{model}: {prompt} {n}"

    class Ask:
        async def __call__(self, prompt: str) -> str:
            return prompt

    cache, callable_object = Cache(), Ask()
    for _ in range(2):
        assert await cache.wrap(functools.partial(ask, "a"))("why?") == "a: why? 1"
        assert await cache.wrap(functools.partial(ask, "b"))("why?") == "b: why? 1"
        assert await cache.wrap(functools.partial(ask, model="a", n=2))(prompt="why?") == "a: why? 2"
        assert await cache.wrap(callable_object)("why?") == "why?"
    assert (cache.stats.hits, cache.stats.misses) == (4, 4)


async def test_two_functions_of_one_name() -> None:
    """Methods of two objects, or closures over two values, cannot be given each other's answers."""

    class Bot:
        def __init__(self, mood: str) -> None:
            self.mood = mood

        async def ask(self, prompt: str) -> str:
            return f"{self.mood}: {prompt}"

    def answering(mood: str) -> Any:
        async def anything(**params: Any) -> Any:
            return mood

        return anything

    cache, merry, sad = Cache(), Bot("merry"), Bot("sad")
    assert await cache.wrap(merry.ask)("Hi") == await cache.wrap(merry.ask)("Hi") == "merry: Hi"
    with pytest.raises(ConfigError, match=r"wrap\(…, name=…\)"):
        cache.wrap(sad.ask)
    assert await cache.wrap(sad.ask, name="sad")("Hi") == "sad: Hi"
    assert await cache.wrap(answering("merry"))(prompt="Hi") == "merry"
    assert await cache.wrap(answering("sad"))(prompt="Hi") == "sad"
    assert cache.stats.bypass_reasons == {"name": 1}


@pytest.mark.parametrize("target", [1, "f", None, Person, object()])
def test_what_cannot_be_wrapped(target: Any) -> None:
    """Wrapping what is neither a function nor a known client is a ConfigError."""
    with pytest.raises(ConfigError, match="cannot wrap"):
        Cache().wrap(target)


# -- answers --------------------------------------------------------------------------------------


async def as_dict(n: int) -> dict[str, Any]:
    return {"n": n, "list": [1]}


async def as_list(n: int) -> list[Any]:
    return [n, {"a": None}]


async def as_str(n: int) -> str:
    return str(n)


async def as_model(n: int) -> Person:
    return Person(name=str(n))


async def as_models(n: int) -> list[Person]:
    return [Person(name=str(n), tags=["a"])]


async def as_dataclass(n: int) -> Point:
    return Point(n, ["a"])


async def as_typed_dict(n: int) -> Movie:
    return {"title": str(n)}


async def as_union(n: int) -> Point | None:
    return Point(n, [])


@pytest.mark.parametrize(
    "function", [as_dict, as_list, as_str, as_model, as_models, as_dataclass, as_typed_dict, as_union]
)
async def test_answers_come_back_as_what_they_were(function: Any) -> None:
    """A hit equals the answer it was made from, is of the same type, and is a new object each time."""
    cache = Cache()
    call = cache.wrap(function)
    original, first, second = await function(7), await call(7), await call(7)
    assert original == first == second
    assert isinstance(second, type(original))
    assert cache.stats.hits == 1
    if not isinstance(second, str):
        assert second is not await call(7)
        assert status(second).outcome == "hit" if not isinstance(second, list) else True


async def test_an_answer_of_unknown_type_passes_through() -> None:
    """An object that cannot be rebuilt is handed on as it is, each time anew; counted, not stored."""

    class Opaque:
        pass

    made: list[Opaque] = []

    async def opaque(n: int):  # type: ignore[no-untyped-def]
        made.append(Opaque())
        return made[-1]

    cache = Cache()
    call = cache.wrap(opaque)
    assert [await call(1), await call(1)] == made
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {"answer-type": 2})


async def test_none_is_an_empty_answer() -> None:
    """None and the empty str are handed on and not stored."""
    cache = Cache()

    async def nothing(n: int) -> Any:
        return None if n else ""

    call = cache.wrap(nothing)
    assert [await call(1), await call(0), await call(1)] == [None, "", None]
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {"empty": 3})


async def test_status_is_no_part_of_an_answer() -> None:
    """The status an answer carries is in no comparison, dump or repr of it."""
    cache = Cache()
    for _ in range(2):
        person, point = await cache.wrap(as_model)(1), await cache.wrap(as_dataclass)(1)
        plain = await cache.wrap(as_dict)(1)
        assert person.model_dump() == {"name": "1", "tags": []}
        assert person.model_dump_json() == '{"name":"1","tags":[]}'
        assert repr(person) == repr(Person(name="1"))
        assert person == Person(name="1")
        assert (asdict(point), repr(point)) == ({"x": 1, "names": ["a"]}, repr(Point(1, ["a"])))
        assert (dict(plain), repr(plain)) == ({"n": 1, "list": [1]}, repr({"n": 1, "list": [1]}))


async def test_nobody_sees_what_another_does_to_an_answer() -> None:
    """Whatever a caller does to its answer, the first one too, neither the cache nor another caller sees."""
    upstream = FakeUpstream()
    call = Cache().wrap(upstream)
    pristine = repr(await call(**ASK))
    for _ in range(3):
        answer = await call(**ASK)
        assert repr(answer) == pristine
        answer["choices"][0]["message"]["content"] = "hacked"
        answer["choices"].clear()
    first = await call(**ASK, seed=1)
    pristine = repr(first)
    first["choices"].clear()
    assert repr(await call(**ASK, seed=1)) == pristine


async def test_messages_changed_during_the_call() -> None:
    """When the messages are changed between the building of the key and the upstream call, the answer goes to its
    caller alone and is not stored."""
    faulty = FaultyBackend(MemoryBackend())
    upstream = FakeUpstream()
    cache = Cache(faulty)
    call = cache.wrap(upstream)
    messages = [{"role": "user", "content": "why?"}]
    faulty.hold("get")
    first = asyncio.create_task(call(model="m", messages=messages))
    await faulty.reached("get", 1)
    second = asyncio.create_task(call(**ASK))
    await faulty.reached("get", 2)
    messages.append({"role": "user", "content": "and how?"})
    faulty.release()
    assert (await first)["id"] != (await second)["id"]
    assert cache.stats.reject_reasons == {"changed": 1}
    assert len(upstream.requests[0]["messages"]) == 2
    for _ in range(2):
        assert len(upstream.requests[-1]["messages"]) == 1
        await call(**ASK)


# -- upstream's failures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("no"), GeneratorExit("no"), ExceptionGroup("g", [ValueError()])], ids=repr
)
async def test_exceptions_pass_through_untouched(error: BaseException) -> None:
    """What the upstream raises is what the caller gets: the same object, with nothing stored."""
    upstream = FakeUpstream()
    upstream.fail(error, times=3)
    cache = Cache()
    call = cache.wrap(upstream)
    for control in ({}, {"no-cache": True}, {"no-cache": True, "no-store": True}):
        with pytest.raises(type(error)) as raised:
            await call(**ASK, cache=control)
        assert raised.value is error
        assert error.__cause__ is None
    assert cache.stats.stored == 0
    assert conserved(cache, 3)


# -- backends' failures ---------------------------------------------------------------------------

ERRORS: list[Exception] = [
    BackendUnavailable("gone"),
    BackendTimeout("late"),
    BackendClosed("closed"),
    EntryTooLarge("big"),
    CorruptEntry("torn"),
    BackendError("other"),
    ValueError("untyped"),
    TimeoutError("untyped"),
    OSError("untyped"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("verbs", [("get",), ("set",), ("get", "set")], ids="+".join)
async def test_a_failing_backend_fails_no_call(error: Exception, verbs: Any) -> None:
    """Whatever a backend raises, calls are answered as without a cache; it is counted, and ends with the failure."""
    faulty = FaultyBackend(MemoryBackend())
    upstream = FakeUpstream()
    cache = Cache(faulty)
    call = cache.wrap(upstream)
    await call(**ASK)
    faulty.fail(error, *verbs)
    for seed in (1, 2):
        assert status(await call(**ASK, seed=seed)).outcome == "miss"
    stats = cache.stats
    assert stats.read_errors + stats.corrupt == (2 if "get" in verbs else 0)
    assert (stats.write_errors == 2 and stats.stored == 1) is ("set" in verbs)
    faulty.heal()
    assert status(await call(**ASK)).outcome == "hit"
    await call(**ASK, seed=1)
    assert status(await call(**ASK, seed=1)).outcome == "hit"
    assert conserved(cache, 6)


async def test_without_epochs_nothing_is_written() -> None:
    """An answer whose tags' numbers cannot be read is not stored, since nothing could end it."""
    faulty = FaultyBackend(MemoryBackend())
    faulty.fail(BackendUnavailable("gone"), "get")
    cache = Cache(faulty)
    await cache.wrap(FakeUpstream())(**ASK)
    assert (cache.stats.stored, cache.stats.write_errors, faulty.calls("set")) == (0, 1, 0)


@pytest.mark.parametrize("garbage", [1, "x", object(), b"bytes"])
async def test_a_backend_that_returns_garbage(garbage: Any) -> None:
    """What is no entry at all is a miss, and counted."""

    class Garbage(MemoryBackend):
        async def get(self, key: CacheKey, /) -> Any:
            return garbage

    cache = Cache(Garbage())
    assert status(await cache.wrap(FakeUpstream())(**ASK)).outcome == "miss"
    assert cache.stats.read_errors == 1


@pytest.mark.parametrize("verb", ["get", "set"])
async def test_a_backend_that_hangs_lets_its_callers_go(verb: Any) -> None:
    """A caller can be cancelled while the backend hangs; it is counted, and leaves no task but the write."""
    faulty = FaultyBackend(MemoryBackend())
    cache = Cache(faulty)
    call = cache.wrap(FakeUpstream())
    await call(**ASK)
    before = faulty.calls(verb)
    faulty.hold(verb)
    caller = asyncio.create_task(call(**ASK, seed=1))
    await faulty.reached(verb, before + 1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    faulty.release()
    await cache.drain()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert cache.stats.stored == (2 if verb == "set" else 1)
    assert conserved(cache, 2)


async def test_delete_and_invalidate_say_when_they_fail() -> None:
    """Taking away does not fail open: `delete`, `invalidate`, `clear` and `ping` raise the backend's error."""
    faulty = FaultyBackend(MemoryBackend())
    cache = Cache(faulty)
    error = BackendUnavailable("gone")
    faulty.fail(error)
    for work in (cache.delete("0" * 64), cache.invalidate("a"), cache.clear(), cache.ping()):
        with pytest.raises(BackendUnavailable) as raised:
            await work
        assert raised.value is error
    faulty.heal()
    assert await cache.ping()


# -- taking away ----------------------------------------------------------------------------------


async def test_an_invalidation_during_a_call() -> None:
    """What a call brings that was under way when one of its tags was invalidated is not served afterwards,
    whether the call named the tag or a hook did."""
    for by_hook in (False, True):
        clock = FakeClock()

        async def tag(response: Response, request: Request, by_hook: bool = by_hook) -> None:
            response.tag(*(["doc"] if by_hook else []))

        upstream = FakeUpstream()
        cache = Cache(clock=clock, post_hooks=[tag])
        call = cache.wrap(upstream)
        control = {} if by_hook else {"tags": ["doc"]}
        await call(**ASK, seed=0, cache=control)
        clock.advance(10)
        upstream.hold()
        caller = asyncio.create_task(call(**ASK, cache=control))
        await upstream.reached(2)
        clock.advance(1)
        await cache.invalidate("doc")
        upstream.release()
        assert status(await caller).stored is False
        assert cache.stats.reject_reasons == {"invalidated": 1}
        clock.advance(1)
        assert status(await call(**ASK, cache=control)).outcome == "miss"
        assert status(await call(**ASK, cache=control)).outcome == "hit"


async def test_two_processes_on_one_backend() -> None:
    """An invalidation by another process is heard of within a second, and what it cleared stays cleared."""
    clock, backend = FakeClock(), MemoryBackend()
    here, there = Cache(backend, clock=clock), Cache(backend, clock=clock)
    call = here.wrap(FakeUpstream())
    await call(**ASK, cache={"tags": ["doc"]})
    assert status(await there.wrap(FakeUpstream())(**ASK)).outcome == "hit"
    await there.invalidate("doc")
    assert status(await there.wrap(FakeUpstream())(**ASK, cache={"no-store": True})).outcome == "miss"
    for _ in range(2):
        clock.advance(0.6)
        answer = await call(**ASK, cache={"no-store": True})
    assert status(answer).reason == "invalidated"


HANDLES = [(namespace, tenant) for namespace in ("", "n", "m") for tenant in (None, "t", "u")]


def handle(cache: Cache, where: tuple[str, str | None]) -> Cache:
    namespace, tenant = where
    return cache.bind(namespace=namespace or None, tenant=tenant)


@pytest.mark.parametrize("where", HANDLES)
@pytest.mark.parametrize("tag", [None, "x"])
async def test_clearing_reaches_exactly_the_handles_own(where: tuple[str, str | None], tag: str | None) -> None:
    """`clear` and `invalidate` reach the handle's namespace, all tenants of it when it is bound to none, and else
    only its own; never another namespace, another tenant, or another tag."""
    cache = Cache()
    calls = {one: handle(cache, one).wrap(FakeUpstream()) for one in HANDLES}
    for call in calls.values():
        await call(**ASK, cache={"tags": ["x", "y"]})
        await call(**ASK, seed=1, cache={"tags": ["y"]})
    reach = handle(cache, where)
    await (reach.clear() if tag is None else reach.invalidate(tag))
    for (namespace, tenant), call in calls.items():
        mine = namespace == where[0] and where[1] in (None, tenant)
        tagged = status(await call(**ASK)).outcome
        other = status(await call(**ASK, seed=1)).outcome
        assert (tagged == "miss", other == "miss") == (mine, mine and tag is None)


async def test_delete_takes_one_entry() -> None:
    """`delete` takes the entry of that key and says whether there was one."""
    cache = Cache()
    call = cache.wrap(FakeUpstream())
    key = status(await call(**ASK)).key
    await call(**ASK, seed=1)
    assert key == cache.get_cache_key(**ASK)
    assert await cache.delete(key)
    assert not await cache.delete(key)
    assert status(await call(**ASK)).outcome == "miss"
    assert status(await call(**ASK, seed=1)).outcome == "hit"


# -- controls -------------------------------------------------------------------------------------


async def test_default_off() -> None:
    """Under `mode="default_off"` only calls with `use-cache` are cached; the others are bypassed and counted."""
    upstream = FakeUpstream()
    cache = Cache(mode="default_off")
    call = cache.wrap(upstream)
    for _ in range(2):
        assert status(await call(**ASK)).outcome == "bypass"
    outcomes = [status(await call(**ASK, cache={"use-cache": True})).outcome for _ in range(2)]
    assert outcomes == ["miss", "hit"]
    assert cache.stats.bypass_reasons == {"default-off": 2}
    assert all("cache" not in request for request in upstream.requests)
    assert conserved(cache, 4)


async def test_supported_call_types() -> None:
    """Calls of a type that is not supported are bypassed, under our names and LiteLLM's."""
    cache = Cache(supported_call_types=["acompletion"])
    assert status(await cache.wrap(FakeUpstream())(**ASK)).outcome == "miss"
    assert status(await cache.wrap(as_dict)(1)).reason == "call-type"
    assert cache.stats.bypass_reasons == {"call-type": 1}


async def test_ages() -> None:
    """`ttl` ends an answer, `s-maxage` refuses an older one, `no-cache` refreshes, `no-store` leaves what is there."""
    clock = FakeClock()
    cache = Cache(clock=clock, ttl=100)
    call = cache.wrap(FakeUpstream())
    old = await call(**ASK)
    clock.advance(60)
    assert status(await call(**ASK)).ttl == 40
    refused = await call(**ASK, cache={"s-maxage": 50, "no-store": True})
    assert (status(refused).reason, refused["id"] != old["id"]) == ("max-age", True)
    assert (await call(**ASK))["id"] == old["id"]
    new = await call(**ASK, cache={"no-cache": True, "ttl": 10})
    assert (await call(**ASK))["id"] == new["id"]
    clock.advance(10)
    assert status(await call(**ASK, cache={"ttl": 0})).reason == "expired"
    assert cache.stats.reject_reasons == {"ttl": 1}


async def test_an_argument_without_a_stable_value() -> None:
    """A call that no key can be built for is answered as without a cache, and counted, whatever the argument does."""

    class Nasty:
        def model_dump(self) -> Any:
            raise RuntimeError("not now")

    cache = Cache()
    call = cache.wrap(FakeUpstream())
    for argument in (object(), Nasty(), lambda: None):
        assert status(await call(**ASK, extra=argument)).outcome == "bypass"
    assert cache.stats.bypass_reasons == {"unkeyable": 3}
    assert conserved(cache, 3)


# -- hooks ----------------------------------------------------------------------------------------


async def test_pre_hooks_change_what_is_sent_and_the_key() -> None:
    """A pre-LLM hook changes the params in place or returns others; key and upstream both see the result."""

    async def in_place(request: Request) -> None:
        request.params["seed"] = 1

    async def others(request: Request) -> Mapping[str, Any]:
        return {**request.params, "user": "ann"}

    upstream = FakeUpstream()
    cache = Cache(pre_hooks=[in_place, others])
    call = cache.wrap(upstream)
    first = await call(**ASK)
    assert upstream.requests == [{**ASK, "seed": 1, "user": "ann"}]
    assert status(await call(**ASK, seed=2)).outcome == "hit"
    assert status(first).key == cache.get_cache_key(**ASK, seed=1, user="ann")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("kind", ["pre_hooks", "post_hooks"])
async def test_a_hook_that_raises(kind: str, on_error: Any) -> None:
    """A hook's exception reaches the caller, or is skipped, as configured; it is counted either way."""
    error = ValueError("no")

    async def hook(*_: Any) -> None:
        raise error

    cache = Cache(on_hook_error=on_error, **{kind: [hook]})  # type: ignore[arg-type]
    call = cache.wrap(FakeUpstream())
    for count in (1, 2):
        if on_error == "raise":
            with pytest.raises(ValueError, match="no") as raised:
                await call(**ASK)
            assert raised.value is error
        else:
            assert status(await call(**ASK)).outcome == ("miss", "hit")[count - 1]
        assert cache.stats.hook_errors == count
        assert conserved(cache, count)
    assert cache.stats.stored == (on_error == "skip")


async def test_post_hooks_run_once_for_each_caller() -> None:
    """A post-cache hook sees every answer once: the miss, the hit and the coalesced one, each its caller's own."""
    seen: list[str] = []

    async def sign(response: Response, request: Request) -> None:
        assert isinstance(response, Completion)
        seen.append(response.status.outcome)
        response.value["signed"] = response.value.get("signed", 0) + 1

    upstream = FakeUpstream()
    call = Cache(post_hooks=[sign]).wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK)) for _ in range(3)]
    await upstream.reached(1)
    for _ in range(10):
        await asyncio.sleep(0)
    upstream.release()
    answers = [*await asyncio.gather(*callers), await call(**ASK), await call(**ASK, cache={"no-cache": True})]
    assert [answer["signed"] for answer in answers] == [1] * 5
    assert sorted(seen) == ["coalesced", "coalesced", "hit", "miss", "miss"]


async def test_a_hook_may_veto() -> None:
    """A vetoed answer goes to its caller and is not stored; counted under the hook's own word."""

    async def veto(response: Response, request: Request) -> None:
        response.veto(*([request.params["user"]] if "user" in request.params else []))

    cache = Cache(post_hooks=[veto])
    call = cache.wrap(FakeUpstream())
    await call(**ASK)
    await call(**ASK, user="private")
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {"veto": 1, "private": 1})


def test_a_hook_must_be_async() -> None:
    """A hook that is a plain function is a ConfigError when the cache is made."""
    with pytest.raises(ConfigError, match="not async"):
        Cache(pre_hooks=[lambda _: None])


# -- what it is made of ---------------------------------------------------------------------------


async def embedder(texts: list[str]) -> list[list[float]]:
    raise AssertionError


# Options without which there is no such backend.
NEEDED: dict[str, dict[str, Any]] = {
    "memory": {},
    "disk": {"path": "nowhere"},
    "dual": {"l1": "memory", "l2": {"type": "redis"}},
    "redis": {},
    "redis_cluster": {"startup_nodes": ["localhost:1"]},
    "s3": {"bucket": "b"},
    "gcs": {"bucket": "b"},
    "azure_blob": {"account_url": "http://localhost:1/a", "container": "c"},
    "semantic": {"embedder": embedder},
    "redis_semantic": {"embedder": embedder},
    "qdrant_semantic": {"embedder": embedder, "path": ":memory:"},
}


class Secret:
    """Of no use for anything."""

    def __repr__(self) -> str:
        return "s3cret"


def said(**options: Any) -> str | None:
    """What is wrong with these; None when nothing is."""
    try:
        Cache(**options)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", names())
def test_an_option_of_the_wrong_type_is_a_config_error(kind: str) -> None:
    """Said when the cache is made, with the option's name. Objects of drivers are taken as they are."""
    assert said(type=kind, **NEEDED[kind]) is None
    contradicted = {"url": ("startup_nodes", "path"), "connection_string": ("account_url",)}
    for option in backend_options(kind):
        needed = {name: value for name, value in NEEDED[kind].items() if name not in contradicted.get(option, ())}
        error = said(type=kind, **{**needed, option: Secret()})
        if option in ("client", "session", "credential"):
            continue
        assert error is not None, option
        assert option in error or OPTION_ALIASES[kind][option] in error
        if "password" in option or "secret" in option or option.endswith("_key"):
            assert "s3cret" not in error


@pytest.mark.parametrize("option", [*POLICY, *inspect.signature(Cache).parameters])
def test_so_is_one_of_the_cache_itself(option: str) -> None:
    assert option in (said(**{option: Secret()}) or "")


def test_a_path_is_as_good_as_text() -> None:
    files: dict[str, Any] = {"ssl_ca_certs": Path("ca.pem"), "ssl_certfile": "cert.pem", "ssl_keyfile": Path("key.pem")}
    Cache(type="redis", ssl=True, **files)
    Cache(type="redis", unix_socket_path=Path("/run/redis.sock"))


@pytest.mark.parametrize("wrong", [{"host": 5}, {"password": 12345}, {"ssl": "yes"}, {"url": b"redis://localhost"}])
def test_what_a_driver_would_stumble_over_later_is_refused_at_once(wrong: dict[str, Any]) -> None:
    [(option, value)] = wrong.items()
    with pytest.raises(ConfigError, match=f"redis backend: {option} must be ") as caught:
        Cache(type="redis", **wrong)
    assert str(value) not in str(caught.value)


class Annotated(MemoryBackend):
    """As users write their own: with types that are imported for type checkers only, or are none."""

    def __init__(self, name: str, hosts: list[str], far: Faraway | None = None) -> None:  # type: ignore[name-defined]  # noqa: F821
        super().__init__()


class Nonsense(MemoryBackend):
    def __init__(self, name: "no type at all" = "") -> None:  # type: ignore[valid-type]  # noqa: F722
        super().__init__()


def test_a_backend_of_the_users_own_may_have_any_annotations() -> None:
    kind = f"{__name__}:Annotated"
    assert said(type=kind, name="a", hosts=["b"], far=1) is None
    assert said(type=kind, name=1, hosts=["b"]) == f"{kind} backend: name must be text, not a value of type int"
    assert said(type=f"{__name__}:Nonsense", name=1) is None


def test_a_backends_class_is_no_backend() -> None:
    with pytest.raises(ConfigError, match=r"backend=.*MemoryBackend.*: a backend is wanted, an object"):
        Cache(MemoryBackend)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"l1=.*MemoryBackend.*: a backend is wanted, an object"):
        Cache(type="dual", l1=MemoryBackend, l2="memory")


# -- life -----------------------------------------------------------------------------------------


async def test_a_write_survives_its_caller() -> None:
    """A caller cancelled while its answer is being written leaves at once; the answer is written, `drain` waits."""
    faulty = FaultyBackend(MemoryBackend())
    cache = Cache(faulty)
    call = cache.wrap(FakeUpstream())
    await call(**ASK, seed=0)
    sets = faulty.calls("set")
    faulty.hold("set")
    caller = asyncio.create_task(call(**ASK))
    await faulty.reached("set", sets + 1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    draining = asyncio.create_task(cache.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    faulty.release()
    await draining
    assert status(await call(**ASK)).outcome == "hit"


def test_one_loop_after_another() -> None:
    """One cache serves `asyncio.run` after `asyncio.run`, and leaves nothing in either."""
    cache = Cache()
    call = cache.wrap(as_dict)

    async def main() -> list[str]:
        answers = await asyncio.gather(*(call(n % 3) for n in range(9)))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return [status(answer).outcome for answer in answers]

    threads = threading.active_count()
    assert asyncio.run(main()).count("miss") == 3
    assert set(asyncio.run(main())) == {"hit"}
    asyncio.run(cache.aclose())
    assert threading.active_count() == threads


async def test_closing() -> None:
    """A cache closes the backend it made and no other; closing twice is fine; calls afterwards fail open."""
    own, handed = Cache(), MemoryBackend()
    async with Cache(handed) as cache:
        await cache.wrap(as_dict)(1)
    await handed.ping()
    await own.aclose()
    await own.aclose()
    assert await own.wrap(as_dict)(1) == await as_dict(1)
    with pytest.raises(BackendClosed):
        await own.ping()


# -- everything together --------------------------------------------------------------------------

KEYS = st.integers(0, 2)
PLACES = st.sampled_from([("", None), ("", "t"), ("", "u"), ("n", None), ("n", "t")])
TAGS = st.sampled_from(["x", "y"])


class CacheAsDict(RuleBasedStateMachine):
    """Whatever is done to a cache, it answers as a plain dict with the same rules would."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.cache = Cache(clock=self.clock)
        self.made = 0
        self.calls = 0
        self.bypassed = 0
        # (place, key) → (answer, created, expires, tags)
        self.model: dict[Any, tuple[int, float, float | None, set[str]]] = {}

        async def upstream(key: int) -> dict[str, int]:
            self.made += 1
            return {"key": key, "made": self.made}

        self.call = self.cache.wrap(upstream)

    def teardown(self) -> None:
        self.loop.run_until_complete(self.cache.aclose())
        self.loop.close()

    @rule(
        key=KEYS,
        place=PLACES,
        ttl=st.sampled_from(["default", None, 0, 5, 50]),
        max_age=st.sampled_from([None, 0, 3]),
        tags=st.lists(TAGS, max_size=2),
        no_cache=st.booleans(),
        no_store=st.booleans(),
        bound=st.booleans(),
    )
    def ask(
        self, key: int, place: Any, ttl: Any, max_age: Any, tags: Any, no_cache: bool, no_store: bool, bound: bool
    ) -> None:
        control: dict[str, Any] = {"tags": tags, "no-cache": no_cache, "no-store": no_store, "s-maxage": max_age}
        if ttl != "default":
            control["ttl"] = ttl
        call = self.call
        if bound:
            call = handle(self.cache, place).wrap(inspect.unwrap(call))
        else:
            control.update({"namespace": place[0], "tenant": place[1]} if place[0] else {"tenant": place[1]})
        answer: Any = self.loop.run_until_complete(call(key, cache=control))  # type: ignore[call-arg]
        self.calls += 1
        now, made = self.clock(), status(answer)
        found = self.model.get((place, key))
        good = (
            found is not None
            and (found[2] is None or found[2] > now)
            and (max_age is None or now - found[1] <= max_age)
        )
        assert answer["key"] == key
        if no_cache and no_store:
            self.bypassed += 1
            assert made.outcome == "bypass"
        elif good and not no_cache and found is not None:
            assert (made.outcome, answer["made"]) == ("hit", found[0])
            return
        else:
            assert made.outcome == "miss"
        assert answer["made"] == self.made
        lasts = None if ttl == "default" else ttl
        if not no_store and lasts != 0:
            self.model[place, key] = (self.made, now, None if lasts is None else now + lasts, set(tags))

    @rule(seconds=st.sampled_from([0.1, 1, 4, 30]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(place=PLACES, tag=st.none() | TAGS)
    def end(self, place: Any, tag: str | None) -> None:
        reach = handle(self.cache, place)
        self.loop.run_until_complete(reach.clear() if tag is None else reach.invalidate(tag))
        for (where, key), (_, _, _, tags) in list(self.model.items()):
            if where[0] == place[0] and place[1] in (None, where[1]) and (tag is None or tag in tags):
                del self.model[where, key]

    @rule(place=PLACES, key=KEYS)
    def delete(self, place: Any, key: int) -> None:
        digest = handle(self.cache, place).get_cache_key(self.call, key=key)
        found = self.loop.run_until_complete(self.cache.delete(digest))
        assert found or (place, key) not in self.model
        self.model.pop((place, key), None)

    @precondition(lambda self: self.model)
    @rule()
    def lose_the_numbers(self) -> None:
        """The backend evicts every epoch: all answers are over, and none comes back."""
        backend = self.cache.backend
        assert isinstance(backend, MemoryBackend)
        for digest, node in list(backend._nodes.items()):
            if node.entry.kind == "epoch":
                self.loop.run_until_complete(backend.delete(CacheKey(digest)))
        self.clock.advance(1.1)
        self.model.clear()

    @invariant()
    def every_call_is_counted_once(self) -> None:
        assert conserved(self.cache, self.calls)
        assert self.cache.stats.bypassed == self.bypassed
        assert self.cache.stats.upstream_calls == self.made


CacheAsDict.TestCase.settings = settings(max_examples=60, stateful_step_count=30, derandomize=True, deadline=None)
TestCacheAsDict = CacheAsDict.TestCase


@given(plan=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["stay", "leave", "fail"])), max_size=12))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_concurrent_callers(plan: list[tuple[int, str]]) -> None:
    """However callers come together and leave, nobody gets another key's answer, all are counted, none is left."""

    async def main() -> None:
        upstream = FakeUpstream()
        failing = {seed for seed, what in plan if what == "fail"}
        error = ValueError("no")

        async def complete(seed: int) -> Any:
            answer = await upstream(**ASK)
            if seed in failing:
                raise error
            return {**answer, "seed": seed}

        cache = Cache()
        call = cache.wrap(complete)
        upstream.hold()
        callers = [asyncio.create_task(call(seed)) for seed, _ in plan]
        for _ in range(8):
            await asyncio.sleep(0)
        for caller, (_, what) in zip(callers, plan, strict=True):
            if what == "leave":
                caller.cancel()
        for _ in range(8):
            await asyncio.sleep(0)
        upstream.release()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        for answer, (seed, what) in zip(answers, plan, strict=True):
            if what == "leave":
                assert isinstance(answer, asyncio.CancelledError)
            elif seed in failing:
                assert answer is error
            else:
                assert isinstance(answer, dict)
                assert answer["seed"] == seed
        assert upstream.calls == len({seed for seed, _ in plan})
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert conserved(cache, len(plan))

    asyncio.run(main())
