"""How LiteLLM's own cache hurts its users, and that this one does not.

Each test passes here and fails when `litellm.cache` is LiteLLM 1.106's own; its docstring says what happens then. A
number such as BerriAI/litellm#42400 is that of a report by LiteLLM's users.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litellm
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asynccache import Cache, status
from asynccache.clients.litellm import LiteLLMCache, disable_cache, enable_cache, install
from asynccache.key_builders import ignore, per_tenant
from asynccache.testing.blocking import blocking_calls
from asynccache.testing.clock import FakeClock
from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider
from tests.litellm.test_drop_in import CALLS, MESSAGES, calls, settled, until

if TYPE_CHECKING:
    from tests.servers.azurite import AzuriteServer
    from tests.servers.gcs import GcsServer
    from tests.servers.redis import RedisServer
    from tests.servers.s3 import S3Server

pytestmark = pytest.mark.filterwarnings("default")  # LiteLLM's own warnings are its business
OTHERS = [{"role": "user", "content": "Who am I?"}]
Ask = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    litellm.cache = None


@pytest.fixture
async def cache() -> AsyncIterator[LiteLLMCache]:
    async with LiteLLMCache() as litellm.cache:
        yield litellm.cache


@pytest.fixture
def installed(cache: LiteLLMCache) -> Iterator[None]:
    """The calls go through the cache, not only through LiteLLM's look at it."""
    with install(cache):
        yield


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())  # backends go by the real one


@pytest.fixture
def ask(provider: SimulatedProvider) -> Ask:
    """Makes one chat completion, always the same but for what it is given, and returns when it has been stored."""

    async def ask(**more: Any) -> Any:
        answer = await litellm.acompletion(**{**CALLS["completion"](provider), **more})
        await settled()
        return answer

    return ask


@pytest.fixture
def embed(provider: SimulatedProvider) -> Ask:
    """The same of embeddings."""

    async def embed(*args: Any, **more: Any) -> Any:
        call = {**CALLS["embedding"](provider), **more}
        answer = await litellm.aembedding(*args, **{name: value for name, value in call.items() if value is not None})
        await settled()
        return answer

    return embed


@pytest.fixture
def redis(new_redis: Callable[..., RedisServer]) -> RedisServer:
    """A server for this test alone."""
    return new_redis()


def at(server: RedisServer, **options: Any) -> LiteLLMCache:
    return LiteLLMCache(type="redis", host=server.host, port=server.port, **options)


def lives(server: RedisServer) -> list[int]:
    """How long the server will keep what it has, in seconds; -1: without end."""
    return [server.ask("TTL", key) for key in server.ask("KEYS", "*")]


def text(answer: Any) -> str:
    return str(answer.choices[0].message.content)


# -- A. Wrong answers and leaks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"extra_body": {"guided_json": {"type": "object"}}},
        {"num_ctx": 8192},
        {"safety_settings": [{"category": "HARM", "threshold": "OFF"}]},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"extra_headers": {"openai-organization": "o"}},
    ],
    ids=str,
)
async def test_a_parameter_that_litellm_does_not_know_counts_in_the_key(
    cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider, more: dict[str, Any]
) -> None:
    """Its keys hold 86 names that it knows: what is beside them has the other call's answer (BerriAI/litellm#42400)."""
    await ask()
    for _ in range(2):
        await ask(**more)
    assert calls(provider) == 2


@pytest.mark.parametrize(
    "other", [{"api_base": "localhost"}, {"organization": "o"}, {"api_key": "l"}, {"cache": {"tenant": "t"}}], ids=str
)
async def test_neither_places_nor_tenants_meet(ask: Ask, provider: SimulatedProvider, other: dict[str, Any]) -> None:
    """Whoever asks, and wherever, gets what the first has got (BerriAI/litellm#29955)."""
    if "api_base" in other:
        other = {"api_base": provider.base_url.replace("127.0.0.1", other["api_base"])}
    async with LiteLLMCache(key_builder=per_tenant()) as litellm.cache:
        await ask()
        for _ in range(2):
            await ask(**other)
    assert calls(provider) == 2


async def test_a_caller_cannot_write_or_read_under_the_key_of_another(
    cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider
) -> None:
    """A `cache_key` is taken as it is, and anybody can compute the key of a prompt: answers are planted and read."""
    key = str(cache.get_cache_key(**CALLS["completion"](provider)))
    provider.answer_next("poison")
    await ask(messages=OTHERS, cache_key=key)
    honest = await ask()
    assert text(honest) != "poison"
    assert text(await ask(messages=MESSAGES * 2, cache_key=key)) != text(honest)


async def test_input_type_counts(cache: LiteLLMCache, embed: Ask, provider: SimulatedProvider) -> None:
    """A document has the vector of a query."""
    for kind in ("query", "document", "query"):
        await embed(model="voyage/voyage-3", input_type=kind)
    assert calls(provider) == 2


async def test_vectors_that_come_in_another_order_are_kept_by_their_index(cache: LiteLLMCache, embed: Ask) -> None:
    """They are kept by their place in the list: each text has another's vector from then on (BerriAI/litellm#20456)."""

    async def backwards(request: Request) -> Response:
        texts = (await request.json())["input"]
        data = [{"object": "embedding", "index": i, "embedding": [len(t)]} for i, t in enumerate(texts)]
        usage = {"prompt_tokens": 9, "total_tokens": 9}
        return JSONResponse({"object": "list", "model": "m", "data": data[::-1], "usage": usage})

    async with serving(Starlette(routes=[Route("/v1/embeddings", backwards, methods=["POST"])])) as origin:
        there = {"api_base": f"{origin}/v1"}
        await embed(input=["1", "22", "333"], **there)
        alone = await embed(input=["333"], **there)
    assert alone.data[0]["embedding"] == [3]


async def test_a_model_given_by_position_counts(
    installed: None, cache: LiteLLMCache, embed: Ask, provider: SimulatedProvider
) -> None:
    """`aembedding("model", input=…)` has no model in its keys: other models have the first one's vectors."""
    for size in ("small", "large", "small"):
        await embed(f"openai/text-embedding-3-{size}", model=None)
    assert calls(provider) == 2


async def test_an_input_given_by_position_is_embedded(installed: None, embed: Ask, provider: SimulatedProvider) -> None:
    """With a cache `aembedding("model", […])` raises KeyError."""
    for _ in range(2):
        await embed("openai/text-embedding-3-small", ["one"], model=None, input=None)
    assert calls(provider) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"user": "a", "temperature": 0.5}, {"user": "atemperature: 0.5"}),
        ({"seed": 1}, {"seed": "1"}),
        ({"stop": ["a", "b"]}, {"stop": "['a', 'b']"}),
    ],
    ids=str,
)
async def test_values_are_told_apart(
    cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Names and values stand in its keys without a border or a type: other arguments make the same text."""
    for arguments in (one, other, one):
        await ask(**arguments)
    assert calls(provider) == 2


# -- B. Silent misses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"temperature": 0.5, "seed": 1}, {"seed": 1, "temperature": 0.5}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"messages": OTHERS}, {"messages": [dict(reversed(OTHERS[0].items()))]}),
        ({"messages": OTHERS}, {"messages": [litellm.Message(**OTHERS[0])]}),
    ],
    ids=["arguments", "numbers", "keys", "objects"],
)
async def test_the_same_request_written_otherwise_is_a_hit(
    cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """The order of arguments and of keys counts, and how a number or a message is written (BerriAI/litellm#40128)."""
    await ask(**one)
    await ask(**other)
    assert calls(provider) == 1


async def test_long_conversations_are_cached(cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider) -> None:
    """More than four messages are not, and nothing says so (BerriAI/litellm#21906)."""
    for _ in range(2):
        await ask(messages=MESSAGES * 5)
    assert calls(provider) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_at_the_same_time_are_one(
    installed: None, ask: Ask, provider: SimulatedProvider, stream: bool
) -> None:
    """Twenty of them are twenty that are paid for."""

    async def one() -> str:
        answer = await ask(stream=stream)
        return "".join([part.choices[0].delta.content or "" async for part in answer]) if stream else text(answer)

    assert len(set(await asyncio.gather(*(one() for _ in range(20))))) == 1
    assert calls(provider) == 1


async def test_a_stream_serves_whole_calls(cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider) -> None:
    """`stream` is in its keys: what was streamed is paid for again."""
    said = [part.choices[0].delta.content or "" async for part in await ask(stream=True)]
    await until(lambda: cache.stats.stored == 1)
    assert text(await ask()) == "".join(said)
    assert calls(provider) == 1


async def test_embeddings_that_opt_in_are_cached(embed: Ask, provider: SimulatedProvider) -> None:
    """They are never found, and written each time (BerriAI/litellm#29284)."""
    async with LiteLLMCache(mode="default_off") as litellm.cache:
        for _ in range(2):
            await embed(cache={"use-cache": True})
    assert calls(provider) == 1


async def test_embeddings_in_s3_are_found(embed: Ask, provider: SimulatedProvider, s3_server: S3Server) -> None:
    """A list is written under one key and looked for under those of its texts."""
    options: dict[str, Any] = {"s3_endpoint_url": s3_server.url, "s3_region_name": "us-east-1"}
    options |= {"s3_aws_access_key_id": "a", "s3_aws_secret_access_key": "s"}
    async with LiteLLMCache(type="s3", s3_bucket_name=s3_server.new_bucket(), **options) as litellm.cache:
        for _ in range(2):
            await embed()
    assert calls(provider) == 1


async def test_without_a_ttl_answers_stay(ask: Ask, redis: RedisServer) -> None:
    """They stay 60 seconds, of which its guide does not speak."""
    async with at(redis) as litellm.cache:
        await ask()
        assert set(lives(redis)) == {-1}


# -- C. Requests fail or slow down --------------------------------------------------------------------


async def test_a_redis_that_stops_answering_is_not_waited_for(
    ask: Ask, provider: SimulatedProvider, redis: RedisServer
) -> None:
    """Each call waits for seconds, the first ones for five and more (BerriAI/litellm#35273)."""
    async with at(redis) as litellm.cache:
        await ask()
        redis.freeze()
        try:
            async with asyncio.timeout(3):  # what is promised is 0.1 s for the first, and nothing for the others
                for _ in range(3):
                    await litellm.acompletion(**{**CALLS["completion"](provider), "messages": OTHERS})
        finally:
            redis.thaw()


async def test_making_a_cache_connects_to_nothing() -> None:
    """The constructor connects and waits for an answer, on the event loop."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        host, port = listening.getsockname()
        async with LiteLLMCache(type="redis", host=host, port=port):
            with pytest.raises(BlockingIOError):
                listening.accept()


async def test_cache_none_is_no_control(installed: None, ask: Ask, provider: SimulatedProvider) -> None:
    """It is an AttributeError."""
    for _ in range(2):
        await ask(cache=None)
    assert calls(provider) == 1


async def test_the_disk_does_not_hold_up_the_event_loop(ask: Ask, provider: SimulatedProvider, tmp_path: Path) -> None:
    """SQLite runs on the event loop's thread, for reads and for writes."""
    async with LiteLLMCache(type="disk", disk_cache_dir=str(tmp_path / "cache")) as litellm.cache:
        await ask()
        with blocking_calls() as seen:
            await ask()
            await ask(messages=OTHERS)
    assert seen == []
    assert calls(provider) == 2


async def test_a_hit_takes_few_steps(installed: None, provider: SimulatedProvider) -> None:
    """The caller of a hit waits for 1,100 Python functions, and more run behind it."""
    call = CALLS["completion"](provider)
    for _ in range(2):
        await litellm.acompletion(**call)
        await settled()
    entered: Counter[str] = Counter()
    sys.setprofile(lambda _, event, __: entered.update([event]))
    try:
        await litellm.acompletion(**call)
    finally:
        sys.setprofile(None)
    assert calls(provider) == 1
    assert entered["call"] < 300


async def test_writes_in_batches_keep_their_ttl_and_none_is_lost(ask: Ask, redis: RedisServer) -> None:
    """With `redis_flush_size`, answers stay 60 seconds whatever the ttl, and what waits when the cache ends is lost."""
    async with at(redis, redis_flush_size=2, ttl=1000) as litellm.cache:
        for seed in range(3):
            await ask(seed=seed)
    assert sum(900 < seconds <= 1000 for seconds in lives(redis)) == 3


# -- D. Stale data and weak invalidation --------------------------------------------------------------


async def test_what_is_deleted_in_redis_is_gone_from_memory_too(
    ask: Ask, provider: SimulatedProvider, redis: RedisServer
) -> None:
    """The memory in front of Redis goes on serving it, for up to ten minutes."""
    far = {"type": "redis", "host": redis.host, "port": redis.port}
    async with LiteLLMCache(type="dual", l1="memory", l2=far) as litellm.cache:
        await ask()
        hit = await ask()
        await litellm.cache.delete_cache_keys([hit._hidden_params["cache_key"]])
        await ask()
    assert calls(provider) == 2


async def test_clearing_takes_away_nothing_of_others(ask: Ask, provider: SimulatedProvider, redis: RedisServer) -> None:
    """It is FLUSHALL: all that is on the server goes, whosever it is."""
    redis.ask("SET", "another application's", "data")
    async with at(redis) as litellm.cache:
        await ask()
        await litellm.cache.clear()
        await ask()
    assert redis.ask("GET", "another application's") == "data"
    assert calls(provider) == 2


async def test_what_is_refreshed_lives_on(ask: Ask, provider: SimulatedProvider, clock: FakeClock) -> None:
    """In memory it keeps the end of the answer that it replaces."""
    async with LiteLLMCache(ttl=100, clock=clock) as litellm.cache:
        await ask()
        clock.advance(90)
        await ask(cache={"no-cache": True})
        clock.advance(90)
        await ask()
    assert calls(provider) == 2


@pytest.fixture(params=["gcs", "azure_blob"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options of a cache in a new bucket."""
    if request.param == "gcs":
        gcs: GcsServer = request.getfixturevalue("gcs_server")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        return {"type": "gcs", "gcs_bucket_name": gcs.new_bucket(), "gcs_path": "cache/"}
    from azure.storage.blob import generate_container_sas

    azurite: AzuriteServer = request.getfixturevalue("azurite")
    container, end = azurite.new_container(), datetime.now(UTC) + timedelta(hours=1)
    signature = generate_container_sas(azurite.account, container, azurite.key, permission="rwdl", expiry=end)
    account = f"{azurite.url}?{signature}"
    return {"type": "azure_blob", "azure_account_url": account, "azure_blob_container": container}


async def test_a_ttl_ends_in_a_bucket_too(
    ask: Ask, provider: SimulatedProvider, clock: FakeClock, bucket: dict[str, Any]
) -> None:
    """In Google's and Azure's buckets, answers have no end."""
    async with LiteLLMCache(**bucket, ttl=100, clock=clock) as litellm.cache:
        await ask()
        clock.advance(99)
        await ask()
        assert calls(provider) == 1
        clock.advance(1)
        await ask()
    assert calls(provider) == 2


async def test_any_backend_can_be_asked_and_cleared(cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider) -> None:
    """But for Redis, `ping` and `delete_cache_keys` raise AttributeError."""
    assert await cache.ping()
    await ask()
    hit = await ask()
    await cache.delete_cache_keys([hit._hidden_params["cache_key"]])
    await ask()
    assert calls(provider) == 2


async def test_answers_can_be_ended_by_what_they_are_about(
    cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider
) -> None:
    """Nothing can be ended but by its key: neither by tag nor by tenant."""
    for _ in range(2):
        await ask(cache={"tags": ["prices"]})
    await cache.invalidate("prices")
    await ask(cache={"tags": ["prices"]})
    assert calls(provider) == 2


async def test_memory_has_a_limit_in_bytes(ask: Ask, provider: SimulatedProvider) -> None:
    """It keeps 200 answers of any size: its limit of 1 MB an answer does not look inside (BerriAI/litellm#14864)."""
    async with LiteLLMCache(max_bytes=2**20) as litellm.cache:
        provider.answer_next("long " * 2**20, times=2)
        for _ in range(2):
            await ask()
    assert calls(provider) == 2


async def test_what_is_asked_for_most_is_not_what_goes_first(ask: Ask, provider: SimulatedProvider) -> None:
    """What came first goes first, however often it is asked for."""
    async with LiteLLMCache(max_bytes=2**18) as litellm.cache:
        for seed in range(250):
            await ask()
            await ask(seed=seed)
        assert calls(provider) == 251
        assert litellm.cache.cache.evictions > 0


# -- E. Control and truthfulness ----------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True], ids=["cache", "install"])
async def test_caching_false_neither_reads_nor_writes(
    cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider, whole: bool
) -> None:
    """It only reads nothing: the answer is kept all the same."""
    with install(cache) if whole else nullcontext():
        await ask(caching=False)
        await ask()
        await ask(caching=False)
    assert calls(provider) == 3


async def test_a_router_without_a_cache_writes_nothing(cache: LiteLLMCache, provider: SimulatedProvider) -> None:
    """The same of `Router(cache_responses=False)`."""
    there = {"api_base": provider.base_url, "api_key": "k"}
    models = [{"model_name": "m", "litellm_params": {"model": "openai/gpt-4o", **there}}]
    for wanted in (False, True):
        await litellm.Router(model_list=models, cache_responses=wanted).acompletion(model="m", messages=MESSAGES)
        await settled()
    assert calls(provider) == 2


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_answer_that_was_cut_off_is_not_kept(
    cache: LiteLLMCache, ask: Ask, provider: SimulatedProvider, reason: Any
) -> None:
    """It is."""
    provider.answer_next("The capital of", finish_reason=reason)
    answers = [text(await ask()) for _ in range(3)]
    assert answers[0] == "The capital of" != answers[1] == answers[2]


async def test_a_hook_may_forbid_a_write(ask: Ask, provider: SimulatedProvider) -> None:
    """There is none."""

    async def no_refusals(response: Any, request: Any) -> None:
        if "sorry" in text(response.value):
            response.veto("refusal")

    provider.answer_next("I am sorry")
    async with LiteLLMCache(post_hooks=[no_refusals]) as litellm.cache:
        with install(litellm.cache):
            answers = [text(await ask()) for _ in range(3)]
    assert answers[0] == "I am sorry" != answers[1] == answers[2]
    assert calls(provider) == 2


async def test_a_stream_comes_again_as_it_came(installed: None) -> None:
    """A hit streams words of its own making; what the model thought and the details of its usage are gone
    (BerriAI/litellm#32068)."""
    details = {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, **details}
    head: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas = [
        {"role": "assistant", "reasoning_content": "Let me think"},
        {"content": "Four,  in"},
        {"content": "deed."},
    ]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices[-1]["finish_reason"] = "stop"
    events = [*({**head, "choices": [choice]} for choice in choices), {**head, "choices": [], "usage": usage}]
    lines = b"".join(b"data: %b\n\n" % said for said in [*map(orjson.dumps, events), b"[DONE]"])
    asked = 0

    async def think(request: Request) -> Response:
        nonlocal asked
        asked += 1
        return Response(lines, media_type="text/event-stream")

    async with serving(Starlette(routes=[Route("/v1/chat/completions", think, methods=["POST"])])) as origin:
        call = {"model": "openai/gpt-4o", "messages": OTHERS, "api_base": f"{origin}/v1", "api_key": "k"}
        runs = []
        for _ in range(2):
            stream = await litellm.acompletion(**call, stream=True, stream_options={"include_usage": True})
            runs.append([chunk.model_dump() async for chunk in stream])
            await settled()
    assert asked == 1
    assert runs[0] == runs[1]
    assert any(chunk["choices"][0]["delta"].get("reasoning_content") for chunk in runs[0])


async def test_each_answer_says_whether_it_was_a_hit(installed: None, ask: Ask) -> None:
    """Of a miss it says None, so that its share of hits comes out too high (BerriAI/litellm#14749)."""
    answers = [await ask(), await ask()]
    assert [status(answer).outcome for answer in answers] == ["miss", "hit"]
    assert (litellm.cache.stats.misses, litellm.cache.stats.hits) == (1, 1)


async def test_a_hit_costs_nothing(installed: None, ask: Ask) -> None:
    """In `response_cost` it costs what the first call has cost."""
    miss, hit = await ask(), await ask()
    assert miss._hidden_params["response_cost"] > 0
    assert hit._hidden_params["response_cost"] == 0


async def test_a_namespace_can_be_a_border(provider: SimulatedProvider, ask: Ask) -> None:
    """Every caller names the namespace that it wants to read (BerriAI/litellm#19575)."""
    async with Cache() as store:
        for name in ("ours", "theirs"):
            litellm.cache = LiteLLMCache(cache=store.bind(namespace=name))
            await ask(cache={"namespace": "ours"})
    assert calls(provider) == 2


def test_a_cache_leaves_litellm_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is entered into three lists of callbacks, and its end stops at the first of them in which it is missing."""
    lists = ("input_callback", "success_callback", "_async_success_callback")
    for name in lists:
        monkeypatch.setattr(litellm, name, [])
    enable_cache()
    litellm.input_callback = []
    disable_cache()
    assert [getattr(litellm, name) for name in lists] == [[], [], []]


async def test_keys_are_the_users_own(ask: Ask, provider: SimulatedProvider) -> None:
    """There is no option for it: its users replace methods of the cache."""
    async with LiteLLMCache(key_builder=ignore("user")) as litellm.cache:
        for user in ("ann", "bob"):
            await ask(user=user)
    assert calls(provider) == 1
