"""Keys of the user's choice: the guide's builders, the ready ones, caching groups, and that none can fail a call."""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from asynccache import Cache, CacheKey, ConfigError, NotCached, status
from asynccache.key_builders import (
    CachingGroups,
    cache_key_generator,
    default_key,
    ignore,
    normalized,
    per_tenant,
)
from asynccache.material import Unkeyable
from asynccache.model import Request, Response
from asynccache.protocols import Handler
from asynccache.testing import FakeClock, FakeUpstream

HELLO = [{"role": "user", "content": "Hello"}]
CALL: dict[str, Any] = {"model": "gpt-4o", "messages": HELLO}


async def outcomes(cache: Cache, *requests: dict[str, Any], target: Any = None) -> list[str]:
    """How these calls end, one after the other."""
    call = cache.wrap(target or FakeUpstream())
    return [status(await call(**copy.deepcopy(request))).outcome for request in requests]


async def shared(cache: Cache, a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether the second call gets the answer of the first; all that speaks of keys has to agree."""
    first, second = await outcomes(cache, a, b)
    assert first == "miss"
    assert (cache.get_cache_key(**a) == cache.get_cache_key(**b)) == (second == "hit")
    explanation = cache.explain(a, b)
    assert explanation.same == (second == "hit") == (not explanation.differences)
    return second == "hit"


# -- the guide's own ------------------------------------------------------------------------------


def build_cache_key(model: Any, messages: Any, **kwargs: Any) -> str:
    """The guide's example, with another import."""
    kwargs.pop("user", None)
    return cache_key_generator(model=model, messages=messages, **kwargs)


def tenant_key_builder(api_key: str, **kwargs: Any) -> str:
    """The guide's, with another import."""
    default = cache_key_generator(**kwargs)
    return f"tenant:{api_key}:{default}"


def smart_cache_key(model: str, messages: Any, **kwargs: Any) -> str:
    """The guide's, with an intent that is easy to tell."""
    user_msg = messages[-1]["content"]
    intent = "refund" if "money" in user_msg else "other"
    return f"{model}:{intent}"


async def awaited(model: Any, messages: Any, **kwargs: Any) -> str:
    await asyncio.sleep(0)
    return build_cache_key(model, messages, **kwargs)


async def test_the_guides_builder_ignores_the_user() -> None:
    """Users share an entry; all else counts as it does by default."""
    assert await shared(Cache(key_builder=build_cache_key), {**CALL, "user": "ann"}, {**CALL, "user": "bob"})
    assert not await shared(Cache(key_builder=build_cache_key), {**CALL, "seed": 1}, {**CALL, "seed": 2})
    assert await shared(Cache(key_builder=build_cache_key), {**CALL, "stream": False}, {**CALL, "timeout": 3})


async def test_the_guides_builder_serves_calls_without_messages() -> None:
    """Also embeddings, for which `messages` is None."""

    async def embed(*, model: str, input: list[str], user: str = "") -> dict[str, Any]:
        data = [{"object": "embedding", "index": index, "embedding": [0.5]} for index in range(len(input))]
        return {"object": "list", "data": data, "model": model}

    cache = Cache(key_builder=build_cache_key)
    call = cache.wrap(embed, call_type="embedding")
    for user, outcome in (("ann", "miss"), ("bob", "hit")):
        assert status(await call(model="m", input=["a"], user=user)).outcome == outcome
    assert status(await call(model="m", input=["b"], user="bob")).outcome == "miss"


async def test_the_guides_tenants_are_apart() -> None:
    """`api_key` reaches the builder, though it is in no key by default."""
    a, b = {**CALL, "api_key": "sk-a"}, {**CALL, "api_key": "sk-b"}
    assert await shared(Cache(), a, b)
    assert not await shared(Cache(key_builder=tenant_key_builder), a, b)
    assert await shared(Cache(key_builder=tenant_key_builder), a, a)


async def test_the_guides_intents_share() -> None:
    """Whatever the builder does not look at does not count."""
    texts = ("I want my money", "Give back the money!", "Hello")
    calls = [{"model": "m", "messages": [{"role": "user", "content": text}]} for text in texts]
    assert await outcomes(Cache(key_builder=smart_cache_key), *calls) == ["miss", "hit", "miss"]


def by_position(model: Any, messages: Any, /, **kwargs: Any) -> str:
    return str((model, messages, sorted(kwargs)))


class Method:
    def build(self, model: Any, messages: Any, **kwargs: Any) -> str:
        return str((model, messages))

    def __call__(self, model: Any, messages: Any, **kwargs: Any) -> str:
        return str((model, messages))


@pytest.mark.parametrize(
    "builder",
    [
        by_position,
        Method().build,
        Method(),
        functools.partial(build_cache_key),
        awaited,
        functools.partial(awaited),
        lambda model, messages, **_: awaited(model, messages),
        f"{__name__}:build_cache_key",
        f"{__name__}.build_cache_key",
        f"{__name__}:METHOD.build",
        [f"{__name__}:build_cache_key"],
    ],
    ids=lambda builder: getattr(builder, "__name__", str(builder).partition(" at ")[0]),
)
async def test_any_callable_will_do(builder: Any) -> None:
    """Plain or async, by position or name, a method, an object, a partial, or the path of one."""
    requests = [CALL, CALL, {**CALL, "model": "other"}]
    assert await outcomes(Cache(key_builder=builder), *requests) == ["miss", "hit", "miss"]


METHOD = Method()


async def test_a_path_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the guide writes it in YAML; and the ready ones by name."""
    (tmp_path / "custom_key_hook.py").write_text(
        "from asynccache.key_builders import default_key\n\n"
        "def build_cache_key(model, messages, **kwargs):\n"
        "    kwargs.pop('user', None)\n"
        "    return default_key(model=model, messages=messages, **kwargs)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text("cache_responses: true\ncaching:\n  key_builder: custom_key_hook.build_cache_key\n")
    assert await shared(Cache.from_config(config), {**CALL, "user": "ann"}, {**CALL, "user": "bob"})
    config.write_text(
        "caching:\n  key_builder:\n    - ignore: [user, metadata]\n    - normalized\n    - per_tenant: user_id\n"
        "  caching_groups:\n    - [gpt-4o, o9]\n"
    )
    cache = Cache.from_config(config)
    a = {**CALL, "user": "ann", "user_id": "1", "metadata": {"a": 1}}
    b = {"model": "o9", "messages": [{"role": "user", "content": " HELLO!"}], "user_id": "1"}
    assert await outcomes(cache, a, b, {**b, "user_id": "2"}) == ["miss", "hit", "miss"]


def without_kwargs(model: Any, messages: Any) -> str:
    return ""


@pytest.mark.parametrize(
    ("builder", "text"),
    [
        ("no_such_module:f", "no_such_module"),
        (f"{__name__}.nothing", "nothing"),
        (f"{__name__}:HELLO", "no function"),
        ("build", "'build' is no"),
        (7, "key_builder=7"),
        (int, "key_builder="),
        ({"norm": []}, "'norm'"),
        ({"normalized": ["x"]}, "normalized"),
        (without_kwargs, "takes no **kwargs"),
        ([build_cache_key, normalized()], "put it last"),
        ([per_tenant(), per_tenant("user")], "one can say whose"),
        ({"ignore": 7}, "ignore"),
    ],
)
def test_what_is_no_builder_is_refused(builder: Any, text: str) -> None:
    """When the cache is made, and in words."""
    with pytest.raises(ConfigError) as caught:
        Cache(key_builder=builder)
    assert text in str(caught.value)


# -- borders --------------------------------------------------------------------------------------


def constant(**_: Any) -> str:
    return "the same for all"


async def constant_later(**_: Any) -> str:
    return "the same for all"


@pytest.mark.parametrize("builder", [constant, constant_later])
async def test_no_builder_crosses_a_border(builder: Any) -> None:
    """One text for everything: still nothing is shared among namespaces, tenants, call types or functions."""
    cache = Cache(key_builder=builder)

    async def one(x: int) -> dict[str, str]:
        return {"said": "one"}

    async def two(x: int) -> dict[str, str]:
        return {"said": "two"}

    handles = [cache, *(cache.bind(tenant=t) for t in ("a", "a\0")), cache.bind(namespace="a")]
    handles.append(cache.bind(namespace="a", tenant="a"))
    for handle in handles:
        assert await outcomes(handle, CALL) == ["miss"]
        for function in (one, two):
            answer = await handle.wrap(function)(1)
            assert (answer["said"], status(answer).outcome) == (function.__name__, "miss")
    for handle in handles:
        assert await outcomes(handle, {"model": "other", "messages": []}) == ["hit"]
        assert (await handle.wrap(one)(2))["said"] == "one"
    assert cache.stats.upstream_calls == 3 * len(handles)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4)), min_size=2, max_size=2))
def test_texts_are_told_apart_whatever_they_hold(calls: list[tuple[str, str, str]]) -> None:
    """Namespace, tenant and text: equal keys exactly when all three are equal; and never the key of arguments."""
    keys = []
    for namespace, tenant, text in calls:
        cache = Cache(key_builder=lambda *, said, **_: said)
        borders: dict[str, Any] = {"namespace": namespace or None, "tenant": tenant or None}
        keys.append(cache.bind(**borders).get_cache_key(said=text))
        assert keys[-1] != Cache().bind(**borders).get_cache_key(said=text)
    assert (keys[0] == keys[1]) == (calls[0] == calls[1])


def test_no_text_is_taken_for_arguments() -> None:
    """Not even one that is written as they are."""
    key = Cache().get_cache_key(said="a")
    for text in ('{"said":"a"}', '"key_builder"{"said":"a"}'):
        assert Cache(key_builder=lambda text=text, **_: text).get_cache_key(said="a") != key


def test_any_text_makes_a_key() -> None:
    """Lone surrogates, NUL, none at all, a subclass."""

    class Text(str):
        def encode(self, *_: Any) -> bytes:
            raise AssertionError

    texts = ["", "\0", "\ud83d\ude00", "😀", "\ud83d", "{}", '"', "a" * 10_000]
    keys = {Cache(key_builder=lambda text=text, **_: text).get_cache_key(**CALL) for text in texts}
    assert len(keys) == len(texts)
    assert Cache(key_builder=lambda **_: Text("a")).get_cache_key(**CALL) == Cache(
        key_builder=lambda **_: "a"
    ).get_cache_key(**CALL)


class Keys:
    """A stage that keeps the requests that come by."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
        self.requests.append(request)
        return call_next(request)


async def keys_of(cache_options: dict[str, Any], *requests: dict[str, Any], **borders: Any) -> list[CacheKey]:
    seen = Keys()
    cache = Cache(stages=lambda default: [default[0], seen, *default[1:]], **cache_options)
    await outcomes(cache.bind(**borders), *requests)
    return [request.key for request in seen.requests]


@pytest.mark.parametrize("builder", [ignore("user"), normalized(), build_cache_key, awaited])
async def test_the_key_knows_its_borders(builder: Any) -> None:
    """Encryption and the disk ask the key whose it is."""
    (key,) = await keys_of({"key_builder": builder}, CALL, namespace="n", tenant="t")
    assert key.border == ("n", "t")
    (key,) = await keys_of({"key_builder": builder}, CALL)
    assert key.border == ("", None)


# -- errors ---------------------------------------------------------------------------------------


class Boom(Exception):
    pass


def raising(**_: Any) -> str:
    raise Boom("no intent")


async def raising_later(**_: Any) -> str:
    await asyncio.sleep(0)
    raise Boom("no intent")


async def number_later(**_: Any) -> Any:
    return 7


@pytest.mark.parametrize(
    ("builder", "why"),
    [
        (raising, "raising: it raised Boom: no intent"),
        (raising_later, "raising_later: it raised Boom: no intent"),
        (lambda **_: 7, "<lambda>: it returned a value of type int, where a str is wanted"),
        (lambda **_: None, "<lambda>: it returned a value of type NoneType, where a str is wanted"),
        (lambda **_: b"x", "<lambda>: it returned a value of type bytes, where a str is wanted"),
        (number_later, "number_later: it returned a value of type int, where a str is wanted"),
        (tenant_key_builder, "it raised TypeError: tenant_key_builder() missing 1 required"),
    ],
)
async def test_a_builder_never_fails_a_call(builder: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """The call is made, uncached; the reason names builder and error; it is logged once."""
    cache = Cache(key_builder=builder)
    upstream = FakeUpstream()
    call = cache.wrap(upstream)
    for _ in range(3):
        answer = await call(**CALL)
        assert status(answer).outcome == "bypass"
        assert why in status(answer).reason
    assert upstream.calls == 3
    assert cache.stats.bypass_reasons == {"unkeyable": 3}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert why in record.getMessage()
    with pytest.raises(NotCached, match="key_builder"):
        await call(**CALL, cache={"only-if-cached": True})


async def test_a_cancelled_builder_is_cancelled() -> None:
    """Who waits for an async builder can leave, and no call is made."""
    began = asyncio.Event()

    async def endless(**_: Any) -> str:
        began.set()
        await asyncio.Event().wait()
        return ""

    upstream = FakeUpstream()
    task = asyncio.create_task(Cache(key_builder=endless).wrap(upstream)(**CALL))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upstream.calls == 0


async def test_what_cannot_be_read_can_be_left_out() -> None:
    """An argument without a stable value, which by default keeps the cache out."""
    calls = [{**CALL, "metadata": {"lock": object}} for _ in range(2)]
    cache = Cache()
    await outcomes(cache, *calls)
    assert cache.stats.bypass_reasons == {"unkeyable": 2}
    for builder in (ignore("metadata"), lambda model, messages, **_: default_key(model=model, messages=messages)):
        assert await outcomes(Cache(key_builder=builder), *calls) == ["miss", "hit"]


# -- what is sent, what is stored -----------------------------------------------------------------


def vandal(model: Any, messages: Any, **kwargs: Any) -> str:
    """A builder that works in place."""
    messages[-1]["content"] = messages[-1]["content"].lower()
    messages.append("x")
    kwargs.clear()
    return str(messages)


@pytest.mark.parametrize("builder", [vandal, normalized(), ignore("user"), CachingGroups([["gpt-4o", "x"]])])
async def test_the_model_gets_what_the_caller_sent(builder: Any) -> None:
    """Whatever the key reads, and whatever a builder does to its arguments."""
    upstream = FakeUpstream()
    sent: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": " HELLO? "}], "user": "ann"}
    await Cache(key_builder=builder).wrap(upstream)(**sent)
    assert upstream.requests == [
        {"model": "gpt-4o", "messages": [{"role": "user", "content": " HELLO? "}], "user": "ann"}
    ]


@pytest.mark.parametrize("builder", [None, build_cache_key, awaited, normalized(), ignore("user")])
async def test_what_changes_meanwhile_is_not_stored(builder: Any) -> None:
    """A caller who changes his messages between the key and the call: the answer is to another request."""
    messages = [{"role": "user", "content": "Hello"}]

    class Meddling:
        def __call__(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
            messages[0]["content"] = "Bye"
            return call_next(request)

    cache = Cache(key_builder=builder, stages=lambda default: [*default[:-1], Meddling(), default[-1]])
    await cache.wrap(FakeUpstream())(model="m", messages=messages)
    assert cache.stats.reject_reasons == {"changed": 1}
    assert cache.stats.stored == 0


async def test_a_sync_builder_is_asked_once_for_a_hit() -> None:
    """And on a miss once more."""
    asked = []

    def counting(model: Any, messages: Any, **kwargs: Any) -> str:
        asked.append(messages)
        return build_cache_key(model, messages, **kwargs)

    cache = Cache(key_builder=counting)
    await outcomes(cache, CALL)
    assert len(asked) == 2
    await outcomes(cache, CALL)
    assert len(asked) == 3


async def test_a_sync_builder_costs_no_task_and_no_coroutine() -> None:
    """The stage hands on what the next one returns."""
    cache = Cache(key_builder=build_cache_key)
    stage = cache._stages[0]
    sentinel: Any = object()
    target = cache.wrap(FakeUpstream()).__asynccache_targets__[0]  # type: ignore[attr-defined]
    request = Request(dict(CALL), cache._defaults, target)
    assert stage(request, lambda _: sentinel) is sentinel
    assert request.key.digest == cache.get_cache_key(**CALL)


@pytest.mark.parametrize("builder", [build_cache_key, awaited, normalized(), ignore("user")])
async def test_an_entry_is_refreshed_under_its_own_key(builder: Any) -> None:
    """A refresh behind an answer has arguments of its own, and its key is built again from these."""
    clock = FakeClock()
    cache = Cache(key_builder=builder, ttl=10, stale_while_revalidate=10, clock=clock)
    assert await outcomes(cache, CALL) == ["miss"]
    clock.advance(11)
    assert await outcomes(cache, CALL) == ["stale"]
    while cache.stats.stored < 2:
        assert cache.stats.rejected == 0
        await asyncio.sleep(0)
    assert await outcomes(cache, CALL) == ["hit"]


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("builder", [build_cache_key, awaited, [ignore("user"), build_cache_key], ignore("user")])
async def test_files_count_by_content(builder: Any, tmp_path: Path) -> None:
    """Read in a thread; also for an async builder, which itself stays on the loop."""
    path = tmp_path / "a.txt"
    path.write_text("one")
    cache = Cache(key_builder=builder)
    call = cache.wrap(FakeUpstream())
    for user, outcome in (("ann", "miss"), ("bob", "hit")):
        assert status(await call(**CALL, user=user, file=path)).outcome == outcome
    path.write_text("two")
    assert status(await call(**CALL, file=path)).outcome == "miss"


@pytest.mark.parametrize("files", [{}, {"file": "other.txt"}])
async def test_a_file_of_an_async_builders_own_keeps_the_cache_out(tmp_path: Path, files: dict[str, str]) -> None:
    """It could only be read by blocking everybody."""

    async def reads(model: Any, messages: Any, **_: Any) -> str:
        return default_key(model=model, messages=messages, file=tmp_path / "prompt.txt")

    call = Cache(key_builder=reads).wrap(FakeUpstream())
    arguments = {**CALL, **{name: tmp_path / file for name, file in files.items()}}
    answer = await call(**arguments)
    assert status(answer).outcome == "bypass"
    assert status(answer).reason.endswith(".reads: reads a file that is not among the arguments")


@pytest.mark.parametrize("builder", [build_cache_key, awaited])
async def test_a_builder_leaves_no_trace_in_its_callers_task(builder: Any, tmp_path: Path) -> None:
    """Where the default builder goes on reading files on the spot."""
    (tmp_path / "a").write_text("one")
    await outcomes(Cache(key_builder=builder), CALL)
    assert default_key(**CALL, file=tmp_path / "a") != default_key(**CALL)


def test_outside_of_a_builder_the_default_reads_on_the_spot(tmp_path: Path) -> None:
    """64 hex digits, the same for the same arguments."""
    (tmp_path / "a").write_text("one")
    before = default_key(**CALL, file=tmp_path / "a")
    assert len(before) == 64
    assert default_key(**CALL, file=tmp_path / "a", timeout=3, stream=True) == before
    (tmp_path / "a").write_text("two")
    assert default_key(**CALL, file=tmp_path / "a") != before
    assert default_key(model=None, messages=None, x=1) == default_key(x=1)
    with pytest.raises(Unkeyable, match=r"metadata\.lock"):
        default_key(**CALL, metadata={"lock": object()})


# -- similarity -----------------------------------------------------------------------------------


def of(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": text}], **more}


async def test_scope_and_text_are_those_of_what_the_key_reads() -> None:
    """Calls are compared within what the builder holds to be the same but for the prompt."""
    for builder in (ignore("user"), build_cache_key):
        a, b, c = await keys_of({"key_builder": builder}, of("one", user="ann"), of("two", user="bob"), of("one", n=2))
        assert a.scope == b.scope != c.scope
        assert (a.text, b.text) == ("one", "two")
        assert len(a.scope) == 64
    (key,) = await keys_of({"key_builder": normalized()}, of(" ONE!"))
    assert key.text == "one"
    a, b = await keys_of({"key_builder": tenant_key_builder}, of("one", api_key="a"), of("one", api_key="b"))
    assert a.scope != b.scope


async def test_an_async_builders_keys_match_nothing_by_similarity() -> None:
    (key,) = await keys_of({"key_builder": awaited}, of("one"))
    assert (key.scope, key.text) == ("", "")


async def test_a_builder_that_needs_the_prompt_matches_nothing_by_similarity() -> None:
    def picky(model: Any, messages: Any, **_: Any) -> str:
        return {"one": "1"}[messages[-1]["content"]]

    (key,) = await keys_of({"key_builder": picky}, of("one"))
    assert (key.scope, key.text) == ("", "")


# -- the ready ones -------------------------------------------------------------------------------


async def test_ignore() -> None:
    """Names on top of the inert ones; unknown names are fine."""
    cache = Cache(key_builder=ignore("user", "metadata", "no_such_argument"))
    assert await shared(cache, {**CALL, "user": "a", "metadata": {"b": 1}}, {**CALL, "stream": False})
    explanation = cache.explain({**CALL, "user": "ann"}, {**CALL, "stream": True})
    assert explanation.ignored == ("stream", "user")
    assert not await shared(Cache(key_builder=ignore("user")), {**CALL, "seed": 1}, {**CALL, "seed": 2})


async def test_ignore_of_an_argument_with_a_default() -> None:
    """A default that counts is as good as left out, too."""

    async def ask(question: str, level: int = 1) -> dict[str, Any]:
        return {"said": question}

    call = Cache(key_builder=ignore("level")).wrap(ask)
    answers = [await call("a"), await call("a", 1), await call("a", level=2)]
    assert [status(answer).outcome for answer in answers] == ["miss", "hit", "hit"]


SAME = [
    ("Hello", " hello "),
    ("What  is\n\tthis?", "what is this"),
    ("Hi!?.", "HI"),
    ("Hi ?", "hi"),
    ("你好。", "你好"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
@pytest.mark.parametrize(
    "of",
    [
        lambda text: {"messages": [{"role": "user", "content": text}]},
        lambda text: {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
        lambda text: {"messages": ({"role": "system", "content": text}, {"role": "user", "content": "x"})},
        lambda text: {"prompt": text, "messages": []},
        lambda text: {"prompt": [text, "x"], "messages": []},
        lambda text: {"input": [{"role": "user", "content": [{"type": "input_text", "text": text}]}], "messages": []},
    ],
)
async def test_normalized(of: Callable[[str], dict[str, Any]], a: str, b: str) -> None:
    """White space, case and punctuation at the end do not matter, wherever the text stands."""
    assert not await shared(Cache(), {"model": "m", **of(a)}, {"model": "m", **of(b)})
    assert await shared(Cache(key_builder=normalized()), {"model": "m", **of(a)}, {"model": "m", **of(b)})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"messages": [{"role": "user", "content": "a.b"}]}, {"messages": [{"role": "user", "content": "ab"}]}),
        ({"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "User", "content": "a"}]}),
        ({"stop": "A"}, {"stop": "a"}),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://A"}}]}]},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}]},
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": '{"A":1}'}}]}]},
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": '{"a":1}'}}]}]},
        ),
    ],
)
async def test_normalized_touches_texts_only(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Not names, links, arguments of tools, other parameters; nor what stands within a text."""
    cache = Cache(key_builder=normalized())
    assert cache.get_cache_key(**{**CALL, **a}) != cache.get_cache_key(**{**CALL, **b})


def test_normalized_reads_message_objects() -> None:
    """As it reads the same message written by hand."""
    cache = Cache(key_builder=normalized())
    keys = {
        cache.get_cache_key(model="m", messages=[{"role": "user", "content": "x"}, message])
        for message in (
            ChatCompletionMessage(role="assistant", content="Hi."),
            {"role": "assistant", "content": "hi"},
            ChatCompletionMessage(role="assistant", content="HI!").model_dump(),
        )
    }
    assert len(keys) == 1


async def test_per_tenant() -> None:
    """Each API key for itself, as if the handle had been bound; and not at all without one."""
    cache = Cache(key_builder=per_tenant())
    a, b = {**CALL, "api_key": "sk-a"}, {**CALL, "api_key": "sk-b"}
    assert await outcomes(cache, a, b, a, b) == ["miss", "miss", "hit", "hit"]
    call = cache.wrap(upstream := FakeUpstream())
    for missing in ({}, {"api_key": None}, {"api_key": ""}, {"api_key": 7}):
        await call(**CALL, **missing)
    assert upstream.calls == 4
    assert cache.stats.bypass_reasons == {"unkeyable": 4}


async def test_per_tenant_is_the_tenant() -> None:
    """In the key's border, for tags and clearing; the API key itself is in none of these."""
    cache = Cache(key_builder=per_tenant("metadata.tenant_id"))
    a, b = ({**CALL, "metadata": {"tenant_id": tenant}} for tenant in "ab")
    assert await outcomes(cache, a, b) == ["miss", "miss"]
    await cache.bind(tenant="a").clear()
    assert await outcomes(cache, a, b) == ["miss", "hit"]
    (key,) = await keys_of({"key_builder": per_tenant("metadata.tenant_id")}, a)
    assert key.border == ("", "a")
    (key,) = await keys_of({"key_builder": per_tenant()}, {**CALL, "api_key": "sk-secret"})
    assert key.border[1] is not None
    assert key.border[1].startswith("sha256:")
    assert "secret" not in str(cache.explain({**a, "api_key": "sk-secret"}, {**b, "api_key": "sk-secret-2"}))


async def test_a_bound_tenant_stays() -> None:
    """A call that has a tenant keeps it."""
    (key,) = await keys_of({"key_builder": per_tenant()}, {**CALL, "api_key": "sk-a"}, tenant="acme")
    assert key.border == ("", "acme")


async def test_per_tenant_holds_whatever_a_function_says() -> None:
    """Composed with a builder that says the same for all."""
    cache = Cache(key_builder=[per_tenant("user"), constant])
    a, b = {**CALL, "user": "ann"}, {**CALL, "user": "bob"}
    assert await outcomes(cache, a, b, a) == ["miss", "miss", "hit"]


async def test_they_compose() -> None:
    """Each gets the arguments as those before it have left them; a function gets what is left."""
    got = []

    def function(model: Any, messages: Any, **kwargs: Any) -> str:
        got.append((model, messages, kwargs))
        return default_key(model=model, messages=messages, **kwargs)

    cache = Cache(key_builder=[ignore("user"), normalized(), function], caching_groups=[("gpt-4o", "o9")])
    a = {**CALL, "user": "ann"}
    b = {"model": "o9", "messages": [{"role": "user", "content": "hello?"}]}
    assert await outcomes(cache, a, b) == ["miss", "hit"]
    assert got[0] == ('["gpt-4o","o9"]', [{"role": "user", "content": "hello"}], {})
    assert await outcomes(Cache(key_builder=(ignore("user"), normalized())), a, {**b, "model": "gpt-4o"}) == [
        "miss",
        "hit",
    ]


# -- caching groups -------------------------------------------------------------------------------


async def test_models_of_a_group_share() -> None:
    """And the answer says which of them it came from."""
    cache = Cache(caching_groups=[("gpt-3.5", "gpt-4"), ["a", "b"]])
    call = cache.wrap(FakeUpstream())
    first = await call(model="gpt-3.5", messages=HELLO)
    second = await call(model="gpt-4", messages=HELLO)
    assert status(second).outcome == "hit"
    assert second["model"] == first["model"] == "gpt-3.5"
    assert second == first
    for other in ("gpt-5", "a"):
        assert status(await call(model=other, messages=HELLO)).outcome == "miss"
    assert status(await call(model="b", messages=HELLO)).outcome == "hit"


async def test_groups_on_every_handle_and_call_type() -> None:
    """Bound handles, embeddings, plain functions, and a model that is a function's default."""
    cache = Cache(caching_groups=[("a", "b")])

    async def embed(*, input: str, model: str = "a") -> dict[str, Any]:
        return {"data": [input], "model": model}

    for handle in (cache, cache.bind(tenant="t"), cache.bind(namespace="n")):
        for call_type in ("embedding", "responses", "function"):
            call = handle.wrap(embed, call_type=call_type, name=call_type)
            assert status(await call(input="x")).outcome == "miss"
            assert status(await call(input="x", model="b")).outcome == "hit"
            assert status(await call(input="x", model="c")).outcome == "miss"


def test_a_changed_group_shares_nothing_with_what_it_was() -> None:
    """Nor does the order of its names matter."""

    def key(*groups: tuple[str, ...]) -> str:
        return Cache(caching_groups=groups).get_cache_key(model="a", messages=HELLO)

    assert key(("a", "b")) == key(("b", "a")) == key(("b", "a", "b"), ("c", "d"))
    assert len({key(), key(("a", "b")), key(("a", "b", "c")), key(("a", "c"))}) == 4


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([("a", "b"), ("b", "c")], "'b' is in two groups"),
        ("ab", "list of groups"),
        (["ab"], "list of names"),
        ([("a", 1)], "list of str"),
        (7, "list of groups"),
        ({"a": "b"}, "list of groups"),
    ],
)
def test_what_is_no_group_is_refused(groups: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Cache(caching_groups=groups)
    assert text in str(caught.value)


# -- explanations, and the sync side --------------------------------------------------------------


def test_explain_shows_texts_and_fields() -> None:
    """What the builder said, and where the arguments that it was given differ."""
    cache = Cache(key_builder=smart_cache_key)
    other = {"model": "gpt-4o", "messages": [{"role": "user", "content": "money"}]}
    explanation = cache.explain(CALL, other)
    assert [(each.path, each.a, each.b) for each in explanation.differences] == [
        ("key_builder", '"gpt-4o:other"', '"gpt-4o:refund"'),
        ("messages[0].content", '"Hello"', '"money"'),
    ]
    assert cache.explain(CALL, {**CALL, "seed": 1}).same
    (difference,) = (
        Cache(caching_groups=[("a", "b")]).explain({**CALL, "model": "a"}, {**CALL, "model": "c"}).differences
    )
    assert (difference.a, difference.b) == ('"[\\"a\\",\\"b\\"]"', '"c"')


def test_an_async_builder_off_the_loop() -> None:
    """`get_cache_key` waits for it where it can."""
    cache = Cache(key_builder=awaited)
    assert cache.get_cache_key(**CALL, user="ann") == cache.get_cache_key(**CALL)
    call = cache.wrap(sync_upstream)
    assert status(call(**CALL, user="ann")).outcome == "miss"
    assert status(call(**CALL)).outcome == "hit"
    assert status(call(**CALL)).key == cache.get_cache_key(**CALL)
    asyncio.run(cache.aclose())


def sync_upstream(*, model: str, messages: Any, **params: Any) -> dict[str, Any]:
    return {"model": model, "choices": [{"finish_reason": "stop", "message": {"content": "Hi"}}]}


async def test_an_async_builder_on_the_loop() -> None:
    """There it cannot be waited for: an error that says where else the key is."""
    with pytest.raises(ConfigError, match=r"status\(answer\)\.key"):
        Cache(key_builder=awaited).get_cache_key(**CALL)


def test_a_failing_builder_fails_get_cache_key() -> None:
    """There is no call to be passed on."""
    with pytest.raises(ConfigError, match="it raised Boom: no intent"):
        Cache(key_builder=raising).get_cache_key(**CALL)


async def test_deleting_by_key() -> None:
    """The guide's targeted deletion, with a builder."""
    cache = Cache(key_builder=build_cache_key)
    assert await outcomes(cache, {**CALL, "user": "ann"}) == ["miss"]
    assert await cache.delete(key=cache.get_cache_key(**CALL))
    assert await outcomes(cache, CALL) == ["miss"]


async def test_streams_share_with_whole_answers() -> None:
    """As with the default."""
    for builder in (build_cache_key, awaited, ignore("user")):
        cache = Cache(key_builder=builder)
        call = cache.wrap(FakeUpstream())
        chunks: AsyncIterator[Any] = await call(**CALL, stream=True)
        assert [chunk async for chunk in chunks]
        assert status(await call(**CALL)).outcome == "hit"
