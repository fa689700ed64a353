"""The proxy as its clients see it: the real SDKs against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asynccache import Cache
from asynccache.proxy.access import Caller, Denied
from asynccache.proxy.app import create_app
from asynccache.proxy.settings import Settings
from asynccache.testing.clock import FakeClock
from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import CHAT, COMPLETIONS, MESSAGES, Recording, Served, listed, proxied


@pytest.fixture
async def served(provider: SimulatedProvider) -> AsyncIterator[Served]:
    async with proxied({"upstream": provider.origin}) as proxy:
        yield proxy


@pytest.fixture
async def client(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.origin}/v1", api_key="sk-any", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def claude(served: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=served.origin, api_key="sk-any", max_retries=0) as sdk:
        yield sdk


async def _chat(sdk: openai.AsyncOpenAI) -> Any:
    return (await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)).model_dump()


async def _chat_stream(sdk: openai.AsyncOpenAI) -> Any:
    asked: Any = {"messages": MESSAGES, "stream_options": {"include_usage": True}}
    stream = await sdk.chat.completions.create(model="gpt-4o", stream=True, **asked)
    return [chunk.model_dump() async for chunk in stream]


async def _text(sdk: openai.AsyncOpenAI) -> Any:
    return (await sdk.completions.create(model="gpt-4o", prompt="Once")).model_dump()


async def _responses(sdk: openai.AsyncOpenAI) -> Any:
    return (await sdk.responses.create(model="gpt-4o", input="Rivers")).model_dump()


async def _responses_stream(sdk: openai.AsyncOpenAI) -> Any:
    return [event.model_dump() async for event in await sdk.responses.create(model="g", input="Rivers", stream=True)]


async def _embeddings(sdk: openai.AsyncOpenAI) -> Any:
    return (await sdk.embeddings.create(model="e", input=["one", "two"])).model_dump()


async def _transcription(sdk: openai.AsyncOpenAI) -> Any:
    return (await sdk.audio.transcriptions.create(model="w", file=("a.wav", b"sound" * 100))).model_dump()


async def _transcribed_text(sdk: openai.AsyncOpenAI) -> Any:
    file = ("a.wav", b"sound" * 100)
    return await sdk.audio.transcriptions.create(model="w", file=file, response_format="text")


async def _transcription_stream(sdk: openai.AsyncOpenAI) -> Any:
    stream = await sdk.audio.transcriptions.create(model="w", file=("a.wav", b"sound" * 100), stream=True)
    return [event.model_dump() async for event in stream]


CALLS = [
    _chat,
    _chat_stream,
    _text,
    _responses,
    _responses_stream,
    _embeddings,
    _transcription,
    _transcribed_text,
    _transcription_stream,
]


@pytest.mark.parametrize("call", CALLS)
async def test_openais_sdk_gets_the_same_answer_again(
    call: Any, client: openai.AsyncOpenAI, provider: SimulatedProvider
) -> None:
    """A second call is answered without the provider, and reads the same."""
    first = await call(client)
    assert await call(client) == first
    assert sum(provider.calls.values()) == 1


async def test_anthropics_sdk_gets_the_same_answer_again(
    claude: anthropic.AsyncAnthropic, provider: SimulatedProvider
) -> None:
    """Whole and streamed, each answered by what the other left."""
    asked: Any = {"model": "claude-any", "max_tokens": 4000, "messages": MESSAGES}
    whole: Any = await claude.messages.create(**asked)
    async with claude.messages.stream(**asked) as stream:
        assert await stream.get_final_text() == whole.content[0].text
    assert provider.calls["/v1/messages"] == 1


async def test_a_form_counts_by_its_content(client: openai.AsyncOpenAI, provider: SimulatedProvider) -> None:
    """The name of a file changes nothing, a byte of it does."""
    for file in (("a.wav", b"sound"), ("b.wav", b"sound"), ("a.wav", b"sounds")):
        await client.audio.transcriptions.create(model="w", file=file)
    assert provider.calls["/v1/audio/transcriptions"] == 2


async def test_reranking_and_paths_without_the_version(served: Served, provider: SimulatedProvider) -> None:
    """Paths with and without /v1 are one."""
    body = {"model": "rerank-v3.5", "query": "q", "documents": ["a", "b"]}
    first = await served.client.post("/v1/rerank", json=body)
    again = await served.client.post("/rerank", json=body)
    assert (first.content, "; hit" in again.headers["cache-status"]) == (again.content, True)
    assert provider.calls["/v1/rerank"] == 1


async def test_what_an_answer_says_of_how_it_came_about(served: Served) -> None:
    """Cache-Status, Age and our own headers: of a miss, of a hit, and of a call around the cache."""
    miss, hit = await served.chat(), await served.chat()
    key = miss.headers["x-asynccache-key"]
    assert miss.headers["cache-status"] == (
        f'asynccache; fwd=uri-miss; fwd-status=200; stored; key="{key}"; detail="absent"'
    )
    assert hit.headers["cache-status"] == f'asynccache; hit; key="{key}"'
    assert (miss.headers["x-asynccache-outcome"], hit.headers["x-asynccache-outcome"]) == ("miss", "hit")
    assert (hit.headers["x-asynccache-tier"], hit.headers["age"]) == ("memory", "0")
    assert "age" not in miss.headers
    around = await served.chat({"cache-control": "no-cache, no-store"})
    assert around.headers["cache-status"].startswith("asynccache; fwd=bypass; fwd-status=200;")
    assert miss.headers["x-request-id"] == "req_00000001"
    assert "x-request-id" not in hit.headers


async def test_a_list_of_texts_is_asked_for_in_part(client: openai.AsyncOpenAI, provider: SimulatedProvider) -> None:
    """Only the missing text is sent on, and the header says so."""
    await client.embeddings.create(model="e", input=["one", "two"])
    raw = await client.embeddings.with_raw_response.create(model="e", input=["one", "two", "three"])
    assert raw.headers["cache-status"].startswith("asynccache; fwd=partial; fwd-status=200;")
    assert provider.requests[-1]["input"] == ["three"]


async def test_many_callers_of_one_question_are_one_call(served: Served, provider: SimulatedProvider) -> None:
    """Whole and streamed: the others wait for the first one's answer, and their header says so."""
    for stream in (False, True):
        provider.hold()
        calls = [asyncio.create_task(served.chat(seed=int(stream), stream=stream)) for _ in range(8)]
        await provider.reached(1 + stream)
        await served.app.crowd.until(8)
        provider.release()
        answers = await asyncio.gather(*calls)
        assert len({answer.content for answer in answers}) == 1
        outcomes = [answer.headers["x-asynccache-outcome"] for answer in answers]
        assert outcomes.count("miss") == 1
        assert all(
            ("; collapsed" in a.headers["cache-status"]) == (o == "coalesced")
            for a, o in zip(answers, outcomes, strict=True)
        )
        assert "coalesced" in outcomes
    assert provider.calls[COMPLETIONS] == 2


# -- what a request may say ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"cache-control": "no-cache"}, {}),
        ({"x-asynccache": '{"no-cache": true}'}, {}),
        ({}, {"cache": {"no-cache": True}}),
        ({"cache-control": "max-age=0"}, {}),
    ],
)
async def test_a_caller_may_want_a_new_answer(
    served: Served, provider: SimulatedProvider, headers: dict[str, str], fields: dict[str, Any]
) -> None:
    """In each of the places where that can be said, none of which reaches the provider."""
    await served.chat()
    again = await served.chat(headers, **fields)
    assert again.headers["x-asynccache-outcome"] == "miss"
    assert (await served.chat()).headers["x-asynccache-outcome"] == "hit"
    assert provider.requests[1] == CHAT


async def test_a_caller_may_want_nothing_stored(served: Served, provider: SimulatedProvider) -> None:
    first = await served.chat({"cache-control": "no-store"})
    assert "stored" not in first.headers["cache-status"]
    await served.chat()
    assert provider.calls[COMPLETIONS] == 2


async def test_only_if_cached(served: Served, provider: SimulatedProvider) -> None:
    """504 without an answer, as RFC 9111 wants it, and no retry of the SDK; 200 with one."""
    wanted = {"cache-control": "only-if-cached"}
    refused = await served.chat(wanted)
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
    assert refused.headers["x-should-retry"] == "false"
    await served.chat()
    assert (await served.chat(wanted)).status_code == 200
    assert provider.calls[COMPLETIONS] == 1


@pytest.mark.parametrize(("wanted", "ages"), [(10, 10), (1000, 60), (None, 60)])
async def test_a_ttl_may_be_shorter_and_not_longer(
    provider: SimulatedProvider, wanted: float | None, ages: float
) -> None:
    """What is asked for beyond the config's ttl is cut to it."""
    clock = FakeClock()
    async with Cache(ttl=60, clock=clock) as cache, proxied({"upstream": provider.origin}, cache=cache) as served:
        await served.chat(cache={"ttl": wanted})
        clock.advance(ages - 1)
        assert (await served.chat()).headers["x-asynccache-outcome"] == "hit"
        clock.advance(2)
        assert (await served.chat()).headers["x-asynccache-outcome"] == "miss"


async def test_an_old_answer_in_an_outage(provider: SimulatedProvider) -> None:
    """The config serves one that ended up to 100 seconds ago; a caller may want less, and then gets the error."""
    clock = FakeClock()
    async with (
        Cache(ttl=60, stale_if_error=100, clock=clock) as cache,
        proxied({"upstream": provider.origin}, cache=cache) as served,
    ):
        await served.chat()
        clock.advance(90)
        provider.fail_next(503, times=4)
        stale = await served.chat()
        assert (stale.status_code, stale.headers["x-asynccache-outcome"]) == (200, "stale")
        assert stale.headers["cache-status"].startswith("asynccache; hit; ttl=-1;")
        assert (await served.chat({"cache-control": "stale-if-error=40"})).status_code == 200
        assert (await served.chat({"cache-control": "stale-if-error=20"})).status_code == 503


@pytest.mark.parametrize("border", ["namespace", "tenant"])
async def test_borders_are_for_the_config_to_draw(provider: SimulatedProvider, border: str) -> None:
    """They are refused with a clear message, a namespace unless the config allows it."""
    async with proxied({"upstream": provider.origin}) as served:
        refused = await served.chat(cache={border: "other"})
        assert refused.status_code == 400
        assert "config" in refused.json()["error"]["message"]
    async with proxied({"upstream": provider.origin, "proxy": {"allow_namespace": True}}) as served:
        first, other = await served.chat(), await served.chat(cache={"namespace": "other"})
        assert first.headers["x-asynccache-key"] != other.headers["x-asynccache-key"]


async def test_nobody_names_the_tenant_of_another(provider: SimulatedProvider) -> None:
    """A key without a tenant of its own could read anybody's entries so."""
    keys = [{"key": "k-shop", "tenant": "shop"}, {"key": "k-all", "shared": True}]
    async with proxied({"upstream": provider.origin, "proxy": {"allow_namespace": True, "api_keys": keys}}) as served:
        assert (await served.chat({"authorization": "Bearer k-shop"})).status_code == 200
        for key in ("k-shop", "k-all"):
            refused = await served.chat({"authorization": f"Bearer {key}"}, cache={"tenant": "shop"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_cache_control")


async def test_all_lines_of_a_header_count(served: Served, provider: SimulatedProvider) -> None:
    lines = [("cache-control", "no-store"), ("cache-control", "max-age=60")]
    for outcome in ("miss", "miss"):
        answer = await served.client.post(COMPLETIONS, json=CHAT, headers=lines)
        assert answer.headers["x-asynccache-outcome"] == outcome
    assert provider.calls[COMPLETIONS] == 2


@pytest.mark.parametrize("header", ["ocp-apim-subscription-key", "cf-aig-authorization", "x-auth-token"])
async def test_a_credential_of_a_gateway_is_one(served: Served, header: str) -> None:
    """It is sent on, so that the answer is for who has it."""
    said = [{header: "a"}, {header: "b"}, {header: "a"}, {header: "b"}, {}]
    outcomes = [(await served.chat(one)).headers["x-asynccache-outcome"] for one in said]
    assert outcomes == ["miss", "miss", "hit", "hit", "miss"]


async def test_a_header_counts_that_the_config_names(provider: SimulatedProvider) -> None:
    async with proxied({"upstream": provider.base_url, "proxy": {"vary": ["X-Region"]}}) as served:
        answers = [await served.chat({"x-region": region, "x-trace": f"{n}"}) for n, region in enumerate("aba")]
    assert [answer.headers["x-asynccache-outcome"] for answer in answers] == ["miss", "miss", "hit"]


@pytest.mark.parametrize("header", ["x-portkey-config", "helicone-target-url", "azureml-model-deployment"])
async def test_a_header_that_names_the_model_to_a_gateway(served: Served, header: str) -> None:
    outcomes = [(await served.chat({header: i})).headers["x-asynccache-outcome"] for i in "aba"]
    assert outcomes == ["miss", "miss", "hit"]


async def test_an_id_of_a_request_is_no_credential(served: Served) -> None:
    outcomes = [(await served.chat({"idempotency-key": i})).headers["x-asynccache-outcome"] for i in "ab"]
    assert outcomes == ["miss", "hit"]


@pytest.mark.parametrize("field", ["api_key", "extra_headers", "timeout", "client"])
async def test_what_sdks_take_for_themselves_is_the_providers_in_a_body(served: Served, field: str) -> None:
    outcomes = [(await served.chat(**{field: i})).headers["x-asynccache-outcome"] for i in "aba"]
    assert outcomes == ["miss", "miss", "hit"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_encoding_that_cannot_be_undone(stream: bool) -> None:
    recording = Recording(headers={"content-encoding": "br"}, body=b"\x0b\x02\x80abc\x03")
    async with serving(recording) as origin, proxied({"upstream": origin}) as served:
        for _ in range(2):
            answer = await served.chat(stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "bad_encoding")
    assert len(recording.heard) == 2


async def test_a_proxy_behind_a_proxy(provider: SimulatedProvider) -> None:
    """What the other one says of its cache is not said as ours."""
    async with proxied({"upstream": provider.origin}) as inner, proxied({"upstream": inner.origin}) as outer:
        assert (await inner.chat()).headers["x-asynccache-outcome"] == "miss"
        answer = await outer.chat()
    assert answer.headers.get_list("x-asynccache-outcome") == ["miss"]
    assert len(answer.headers.get_list("x-asynccache-key")) == 1


@pytest.mark.parametrize("where", ["cache", "x-asynccache"])
@pytest.mark.parametrize("control", [{"tll": 5}, {"ttl": "x"}, {"ttl": -1}, [], 5, {"no-cache": 1}])
async def test_a_wrong_control_is_a_clear_error(served: Served, where: str, control: Any) -> None:
    if where == "cache":
        refused = await served.chat(cache=control)
    else:
        refused = await served.chat({"x-asynccache": str(control).replace("'", '"')})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_cache_control", "cache")


async def test_rules(provider: SimulatedProvider) -> None:
    """Of those that match the first counts; a caller cannot undo them."""
    rules = [
        {"match": {"model": "fresh-*"}, "mode": "off"},
        {"match": {"call_type": "embedding"}, "store": False},
        {"match": {"path": "/v1/completions"}, "mode": "default_off"},
    ]
    async with proxied({"upstream": provider.origin, "rules": rules}) as served:
        for _ in range(2):
            fresh = await served.chat(model="fresh-1", cache={"use-cache": True})
            assert fresh.headers["x-asynccache-outcome"] == "bypass"
            assert (await served.chat()).status_code == 200
            body: dict[str, Any] = {"model": "e", "input": "x", "cache": {"no-store": False}}
            embedded = await served.client.post("/v1/embeddings", json=body)
            assert embedded.headers["x-asynccache-outcome"] == "miss"
            for cache in ({}, {"use-cache": True}):
                said = {"model": "t", "prompt": "p", "cache": cache}
                assert (await served.client.post("/v1/completions", json=said)).status_code == 200
    expected = {COMPLETIONS: 3, "/v1/embeddings": 2, "/v1/completions": 3}
    assert provider.calls == expected


# -- who calls -----------------------------------------------------------------------------------


async def test_entries_of_different_credentials_are_apart(served: Served, provider: SimulatedProvider) -> None:
    """The provider's own key goes on to it, and its answers are nobody else's."""
    for key in ("one", "two", "one"):
        await served.chat({"authorization": f"Bearer {key}"})
    await served.chat({"x-api-key": "one"})
    await served.chat()
    assert provider.calls[COMPLETIONS] == 4


class _Keys:
    """Who may call, by a header."""

    open = False

    def admit(self, headers: Any) -> Caller:
        name = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        if not name:
            raise Denied(401, "no key")
        return Caller(tenant=name.partition("-")[0], name=name)


async def test_keys_of_ours(provider: SimulatedProvider) -> None:
    """They never go on; those of one tenant share its entries; without one nothing is answered."""
    recording = Recording(body=b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}')
    async with serving(recording) as origin, proxied({"upstream": origin}, access=_Keys()) as served:
        for key in ("blue-1", "blue-2", "red-1"):
            assert (await served.chat({"authorization": f"Bearer {key}"})).status_code == 200
        for path in (COMPLETIONS, "/v1/files"):
            refused = await served.client.post(path, json=CHAT)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        await served.client.get("/v1/files", headers={"authorization": "Bearer blue-1", "x-api-key": "blue-1"})
    assert len(recording.heard) == 3
    for _, _, headers, _ in recording.heard:
        assert not headers.keys() & {"authorization", "x-api-key"}


async def test_anthropics_shape_of_our_errors(provider: SimulatedProvider) -> None:
    async with proxied({"upstream": provider.origin}, access=_Keys()) as served:
        refused = await served.client.post("/v1/messages", json={})
        assert refused.status_code == 401
        assert refused.json() == {"type": "error", "error": {"type": "authentication_error", "message": "no key"}}


# -- errors of the provider -----------------------------------------------------------------------


async def test_a_providers_error_passes_through(served: Served, client: openai.AsyncOpenAI) -> None:
    """Its status, body and headers; the SDK raises what it would have raised; nothing is stored."""
    recording = Recording(
        429, {"retry-after": "7", "x-ratelimit-remaining-requests": "0"}, b'{"error": {"message": "m"}}'
    )
    async with serving(recording) as origin, proxied({"upstream": origin}) as proxy:
        for _ in range(2):
            refused = await proxy.chat()
            assert (refused.status_code, refused.content) == (429, recording.body)
            assert (refused.headers["retry-after"], refused.headers["x-ratelimit-remaining-requests"]) == ("7", "0")
            assert refused.headers["cache-status"].startswith("asynccache; fwd=miss; fwd-status=429")
        sdk = client.with_options(base_url=f"{proxy.origin}/v1")
        with pytest.raises(openai.RateLimitError) as caught:
            await _chat(sdk)
        assert caught.value.response.headers["retry-after"] == "7"
    assert len(recording.heard) == 3


async def test_a_provider_that_is_not_there(provider: SimulatedProvider) -> None:
    """502, in the shape that the client reads; 504 when it is too slow."""
    async with serving(Recording()) as gone:
        pass
    async with proxied({"upstream": gone}) as served:
        for path in (COMPLETIONS, "/v1/files"):
            answer = await served.client.post(path, json=CHAT)
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
        answer = await served.client.post("/v1/messages", json=CHAT)
        assert (answer.status_code, answer.json()["type"]) == (502, "error")
    provider.hold()
    slow = {"upstream": provider.origin, "proxy": {"request_timeout": 0.2}}
    async with proxied(slow) as served:
        answer = await served.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")


async def test_a_stream_that_breaks_off_does_not_look_whole(served: Served, provider: SimulatedProvider) -> None:
    """What came, an error as an event, and a connection that ends without its end; nothing is stored."""
    provider.abort_next(after=3)
    with pytest.raises(httpx2.RemoteProtocolError):
        await served.chat(stream=True)
    provider.abort_next(after=3)
    async with openai.AsyncOpenAI(base_url=f"{served.origin}/v1", api_key="any", max_retries=0) as sdk:
        with pytest.raises(openai.APIError, match="broke off"):
            await _chat_stream(sdk)
    assert (await served.chat(stream=True)).headers["x-asynccache-outcome"] == "miss"


async def test_a_broken_whole_answer(served: Served, provider: SimulatedProvider) -> None:
    provider.abort_next()
    broken = await served.chat()
    assert (broken.status_code, broken.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert (await served.chat()).status_code == 200


# -- clients that leave ---------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("on_abandon", ["cancel", "finish"])
async def test_a_client_that_leaves(provider: SimulatedProvider, on_abandon: str, stream: bool) -> None:
    """Its call is given up, or ended to fill the cache, as the config says."""
    config = {"upstream": provider.origin, "caching": {"on_abandon": on_abandon}}
    async with proxied(config) as served:
        provider.hold()
        task = asyncio.create_task(served.chat(stream=stream))
        await provider.reached(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await served.app.crowd.until(0)
        provider.release()
        again = await served.chat(stream=stream)
        assert again.status_code == 200
        assert provider.calls[COMPLETIONS] == (1 if on_abandon == "finish" else 2)


async def test_a_client_that_leaves_in_the_middle_of_a_stream(provider: SimulatedProvider) -> None:
    """The provider's connection is closed too, and nothing is stored."""
    async with proxied({"upstream": provider.origin}) as served:
        body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
        async with served.connection() as (_, writer):
            provider.hold()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n" % len(body) + body
            )
            await provider.reached(1)
        await served.app.crowd.until(0)
        assert served.app.cache.stats.stored == 0


# -- as a part of another application ---------------------------------------------------------------


async def test_mounted_in_an_application(provider: SimulatedProvider) -> None:
    """Below a path of its own: calls, models, and what is passed through."""
    inner = create_app(Settings.load({"upstream": provider.origin}, environment={}))
    app = Starlette(routes=[Mount("/llm", inner)])
    async with serving(app) as origin, httpx2.AsyncClient(base_url=f"{origin}/llm") as client:
        for outcome in ("miss", "hit"):
            answer = await client.post(COMPLETIONS, json=CHAT)
            assert answer.headers["x-asynccache-outcome"] == outcome
        assert (await client.post("/v1/unknown", json={})).status_code == 404
    await inner.aclose()
    await inner.aclose()
    assert provider.calls[COMPLETIONS] == 1


async def test_models(provider: SimulatedProvider) -> None:
    """From the config, in the shape of whoever asks; from the upstream, when the config names none."""
    async with proxied({"model_list": listed(provider, fast="openai/gpt-4o-mini", deep="openai/o3")}) as served:
        async with openai.AsyncOpenAI(base_url=f"{served.origin}/v1", api_key="any") as sdk:
            assert [model.id async for model in sdk.models.list()] == ["fast", "deep"]
            assert (await sdk.models.retrieve("deep")).id == "deep"
            with pytest.raises(openai.NotFoundError):
                await sdk.models.retrieve("other")
        async with anthropic.AsyncAnthropic(base_url=served.origin, api_key="any") as sdk:
            assert [model.id async for model in sdk.models.list()] == ["fast", "deep"]
    recording = Recording(body=b'{"object": "list", "data": []}')
    async with serving(recording) as origin, proxied({"upstream": origin}) as served:
        assert (await served.client.get("/v1/models")).content == recording.body
