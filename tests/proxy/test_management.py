"""The cache seen and changed over HTTP."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from asynccache import Cache
from asynccache.proxy.app import create_app
from asynccache.proxy.observers import watched_cache
from asynccache.proxy.settings import Settings
from asynccache.telemetry.ledger import Report
from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import CHAT, COMPLETIONS, Served, listed, proxied
from tests.servers import programs

if TYPE_CHECKING:
    from tests.servers.redis import RedisServer

KEY, OTHER, MASTER = "sk-team-a-4711-4711-4711", "sk-team-b-4711-4711-4711", "sk-master-2718-2718-2718"
MANAGER = {"authorization": f"Bearer {MASTER}"}
CALLER = {"authorization": f"Bearer {KEY}"}
VERBS = [
    ("GET", "/cache/ping"),
    ("GET", "/cache/stats"),
    ("GET", "/cache/report"),
    ("POST", "/cache/delete"),
    ("POST", "/cache/invalidate"),
    ("POST", "/cache/flushall"),
    ("POST", "/cache/evict"),
    ("POST", "/cache/explain"),
]
SECRETS = "Zanzibar"
NO_SUCH_KEY = "0" * 64


@pytest.fixture
async def served(provider: SimulatedProvider) -> AsyncIterator[Served]:
    keys = [{"key": KEY, "tenant": "a"}, {"key": OTHER, "tenant": "b"}]
    config = {
        "model_list": listed(provider, gpt_4o="openai/gpt-4o"),
        "caching": {"ttl": 600},
        "proxy": {"api_keys": keys, "master_key": MASTER},
        "telemetry": {"prices": {"gpt-4o": {"input": 1_000_000, "output": 1_000_000}}},
    }
    async with proxied(config) as proxy:
        yield proxy


@pytest.fixture
async def keyless(provider: SimulatedProvider) -> AsyncIterator[Served]:
    async with proxied({"upstream": provider.origin}) as proxy:
        yield proxy


async def ask(served: Served, **fields: Any) -> httpx2.Response:
    response = await served.chat(CALLER, **fields)
    assert response.status_code == 200, response.text
    return response


def outcome(response: httpx2.Response) -> str:
    return str(response.headers["x-asynccache-outcome"])


async def get(served: Served, path: str, **headers: str) -> Any:
    response = await served.client.get(path, headers=headers or MANAGER)
    assert response.status_code == 200, response.text
    return response.json()


async def post(served: Served, path: str, said: Any, **headers: str) -> Any:
    response = await served.client.post(path, json=said, headers=headers or MANAGER)
    assert response.status_code == 200, response.text
    return response.json()


# -- who may ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), VERBS)
async def test_managing_needs_the_master_key(served: Served, method: str, path: str) -> None:
    wanted = {None: 401, KEY: 403, "sk-wrong": 401}
    for key, status in wanted.items():
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        response = await served.client.request(method, path, headers=headers)
        assert response.status_code == status
        assert response.json()["error"]["message"]
        assert ("www-authenticate" in response.headers) == (status == 401)


@pytest.mark.parametrize(("method", "path"), VERBS)
async def test_with_keys_and_without_a_master_key_nobody_manages(
    provider: SimulatedProvider, method: str, path: str
) -> None:
    async with proxied({"upstream": provider.origin, "proxy": {"api_keys": [KEY]}}) as served:
        response = await served.client.request(method, path, headers=CALLER)
        assert response.status_code == 403
        assert "proxy.master_key" in response.json()["error"]["message"]


async def test_a_master_key_alone_leaves_calls_open_and_management_closed(provider: SimulatedProvider) -> None:
    async with proxied({"upstream": provider.origin, "proxy": {"master_key": MASTER}}) as served:
        assert (await served.chat({"authorization": "Bearer sk-provider"})).status_code == 200
        assert (await served.client.get("/cache/stats")).status_code == 401
        assert (await served.client.get("/cache/stats", headers={"x-api-key": "sk-provider"})).status_code == 403
        assert (await served.client.get("/cache/stats", headers=MANAGER)).status_code == 200


async def test_without_any_key_programs_of_this_machine_manage(keyless: Served) -> None:
    await keyless.chat()
    assert (await keyless.client.get("/cache/stats")).json()["counters"]["misses"] == 1
    assert (await keyless.client.post("/cache/flushall")).status_code == 200
    assert (await keyless.client.post("/cache/flushall", json={})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example"},
        {"host": "rebound.example:4000"},
        {"host": "127.0.0.1.rebound.example"},
        {"host": "[::1"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-forwarded-for": "203.0.113.7"},
        {"forwarded": "for=203.0.113.7"},
        {"via": "1.1 edge"},
    ],
)
async def test_without_any_key_no_web_page_and_no_stranger_manages(keyless: Served, headers: dict[str, str]) -> None:
    for method, path in VERBS:
        response = await keyless.client.request(method, path, headers=headers, json={} if method == "POST" else None)
        assert response.status_code == 403, path


async def test_without_any_key_a_form_of_a_web_page_changes_nothing(keyless: Served) -> None:
    """Such a request a browser sends without asking first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = await keyless.client.post("/cache/flushall", content=b"{}", headers={"content-type": kind})
        assert response.status_code == 415


async def test_without_any_key_nobody_from_elsewhere_manages(provider: SimulatedProvider) -> None:
    own = next((found[4][0] for found in _own_addresses()), None)
    settings = Settings.load({"upstream": provider.origin, "proxy": {"allow_anonymous": True}}, environment={})
    app = create_app(settings)

    async def from_elsewhere(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "client": (own or "203.0.113.7", 4711)}, receive, send)

    async with serving(from_elsewhere) as origin, httpx2.AsyncClient(base_url=origin) as client:
        assert (await client.get("/cache/stats")).status_code == 403
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.post(COMPLETIONS, json=CHAT)).status_code == 200
    await app.aclose()


def _own_addresses() -> list[Any]:
    """This machine's address as others see it, if it has one."""
    found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM)
    return [each for each in found if not str(each[4][0]).startswith("127.")]


# -- ping and health --------------------------------------------------------------------------------


async def test_ping_says_that_the_cache_works(served: Served) -> None:
    said = await get(served, "/cache/ping")
    assert (said["status"], said["cache_type"], said["ping_response"]) == ("healthy", "memory", True)
    assert 0 <= said["seconds"] < 30


@pytest.mark.parametrize("path", ["/health/live", "/health/liveliness", "/health/ready", "/health/readiness"])
async def test_health_is_open_and_says_little(served: Served, path: str) -> None:
    response = await served.client.get(path)
    assert response.status_code == 200
    assert response.json() in ({"status": "alive"}, {"status": "ready", "cache": "healthy"})
    head = await served.client.head(path)
    assert (head.status_code, head.content) == (200, b"")


async def test_a_store_that_is_away_is_told_and_calls_go_on(
    provider: SimulatedProvider, new_redis: Callable[..., RedisServer]
) -> None:
    redis = new_redis()
    caching = {"type": "dual_cache", "l1": {"type": "memory"}, "l2": {"type": "redis", "host": redis.host}}
    caching["l2"]["port"] = redis.port  # type: ignore[index]
    async with proxied({"upstream": provider.origin, "caching": caching}) as served:
        assert outcome(await served.chat()) == "miss"
        near, far = (await served.client.get("/cache/stats")).json()["tiers"]
        assert (near["tier"], near["backend"], near["breaker"], near["entries"]) == (
            "l1",
            "memory",
            None,
            near["entries"],
        )
        assert near["entries"] >= 1
        assert (far["tier"], far["backend"], far["breaker"]) == ("l2", "redis", "closed")
        assert (await served.client.get("/cache/ping")).status_code == 200
        redis.stop()
        for number in range(12):
            assert (await served.chat(user=f"{number}", seed=number)).status_code == 200
        ping = await served.client.get("/cache/ping")
        assert ping.status_code == 503
        assert ping.json()["error"]["code"] == "cache_unavailable"
        ready = await served.client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "cache": "degraded"})
        assert (await served.client.get("/health/live")).status_code == 200
        _, far = (await served.client.get("/cache/stats")).json()["tiers"]
        assert far["breaker"] == "open"
        assert far["guard"]["opened"] == 1
        for path, said in (("/cache/invalidate", {"tags": ["t"]}), ("/cache/flushall", {})):
            assert (await served.client.post(path, json=said)).status_code == 503


async def test_a_closed_cache_is_not_ready(provider: SimulatedProvider) -> None:
    cache = Cache()
    async with proxied({"upstream": provider.origin}, cache=cache) as served:
        await cache.backend.aclose()
        response = await served.client.get("/health/ready")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "closing")


# -- stats ------------------------------------------------------------------------------------------


async def test_stats_tell_what_happened(served: Served) -> None:
    for _ in range(3):
        await ask(served)
    await ask(served, temperature=0.5)
    said = await get(served, "/cache/stats")
    assert said["proxy"]["process"] == os.getpid()
    assert said["cache"] == {"type": "memory", "namespace": "", "ttl": 600, "mode": "default_on"}
    assert (said["counters"]["hits"], said["counters"]["misses"]) == (2, 2)
    assert said["tiers"][0]["entries"] >= 2
    assert said["tenants"] == ["a", "b"]
    live = said["recent"]["live"]
    assert (live["saved"], live["missed"], live["hit_ratio"]) == (2, 2, 0.5)
    assert said["recent"]["latency"]["memory"]["calls"] == 2
    assert said["recent"]["latency"]["upstream"]["calls"] == 2
    assert said["recent"]["tenants"] == ["a"]


async def test_stats_tell_why_something_was_not_kept_or_kept_out(served: Served) -> None:
    await ask(served, max_tokens=2)
    await ask(served, cache={"no-cache": True, "no-store": True})
    counters = (await get(served, "/cache/stats"))["counters"]
    assert counters["reject_reasons"] == {"length": 1}
    assert counters["bypass_reasons"] == {"no-cache, no-store": 1}


async def test_money_is_what_the_tokens_cost(served: Served) -> None:
    usage = (await ask(served)).json()["usage"]
    for _ in range(4):
        await ask(served)
    said = await get(served, "/cache/stats")
    each = usage["total_tokens"]  # at a dollar a token
    assert float(said["money"]["spent"]) == each
    assert float(said["money"]["saved"]) == 4 * each
    assert said["models"]["gpt-4o"]["hits"] == 4
    (entry,) = said["recent"]["entries"]
    assert (entry["hits"], entry["saved"], entry["tokens"], entry["model"]) == (4, 4 * each, each, "gpt-4o")


async def test_a_model_without_a_price_is_unknown_and_not_free(provider: SimulatedProvider) -> None:
    config = {"upstream": provider.origin, "telemetry": {"prices": {"some-other": {"input": 1, "output": 1}}}}
    async with proxied(config) as served:
        for _ in range(2):
            await served.chat(model="a-model-that-nobody-sells")
        said = (await served.client.get("/cache/stats")).json()
        assert said["money"]["unknown_saved"] == 1
        assert said["recent"]["entries"][0]["saved"] is None


async def test_a_miss_is_explained_by_the_nearest_earlier_call(served: Served) -> None:
    system = {"role": "system", "content": "You are helpful."}
    await ask(served, messages=[{"role": "user", "content": "Something else altogether"}], max_tokens=7)
    near = await ask(served, messages=[system, {"role": "user", "content": SECRETS}], temperature=0.1)
    await ask(served, messages=[system, {"role": "user", "content": SECRETS}], temperature=0.9)
    said = await get(served, "/cache/stats")
    latest = said["recent"]["misses"][0]
    assert latest["reason"] == "absent"
    assert latest["tenant"] == "a"
    why = latest["why"]
    assert why["key"] == near.headers["x-asynccache-key"][:12]
    assert [each["path"] for each in why["differences"]] == ["temperature"]
    first = said["recent"]["misses"][2]
    assert first["why"] is None


async def test_a_tenant_who_makes_anothers_call_is_told_apart_by_name(served: Served) -> None:
    await ask(served)
    await served.chat({"authorization": f"Bearer {OTHER}"})
    why = (await get(served, "/cache/stats"))["recent"]["misses"][0]["why"]
    assert why["differences"] == [{"path": "cache.tenant", "before": '"a"', "now": '"b"'}]


async def test_no_prompt_is_in_what_is_told(served: Served) -> None:
    for number in (1, 1, 2):
        messages = [{"role": "user", "content": f"{SECRETS} {number}"}]
        await ask(served, messages=messages, metadata={"note": SECRETS}, user=SECRETS)
    for path in ("/cache/stats", "/cache/report"):
        assert SECRETS not in json.dumps(await get(served, path))


async def test_prompts_are_told_where_the_config_wants_it(provider: SimulatedProvider) -> None:
    secret = "x-told-to-the-provider-only"
    config: dict[str, Any] = {
        "model_list": listed(provider, gpt_4o="openai/gpt-4o"),
        "proxy": {"ui_prompts": True},
    }
    config["model_list"][0]["litellm_params"]["extra_headers"] = {"x-secret": secret}
    async with proxied(config) as served:
        for number in (1, 1, 2):
            await served.chat(messages=[{"role": "user", "content": f"{SECRETS} {number}"}])
        said = (await served.client.get("/cache/stats")).json()
        assert said["recent"]["entries"][0]["text"].endswith(f"{SECRETS} 1")
        latest = said["recent"]["misses"][0]
        assert latest["text"].endswith(f"{SECRETS} 2")
        assert latest["why"]["differences"][0]["before"] == f'"{SECRETS} 1"'
        assert secret not in json.dumps(said)


async def test_the_ledgers_report_can_be_read_back(served: Served) -> None:
    for _ in range(2):
        await ask(served)
    report = Report.from_dict(await get(served, "/cache/report"))
    assert (report.total.hits, report.total.misses) == (1, 1)


async def test_a_cache_without_observers_has_counters_and_no_more(provider: SimulatedProvider) -> None:
    async with Cache() as cache, proxied({"upstream": provider.origin}, cache=cache) as served:
        await served.chat()
        said = (await served.client.get("/cache/stats")).json()
        assert (said["counters"]["misses"], said["recent"], said["money"]) == (1, None, None)
        assert (await served.client.get("/cache/report")).status_code == 404


async def test_an_application_of_the_next_generation_knows_what_was_before(provider: SimulatedProvider) -> None:
    """After a reload that leaves the cache as it is: its observers are the cache's."""
    settings = Settings.load({"upstream": provider.origin}, environment={})
    cache = watched_cache(settings)
    for wanted in (1, 2):
        app = create_app(settings, cache=cache)
        async with serving(app) as origin, httpx2.AsyncClient(base_url=origin) as client:
            await client.post(COMPLETIONS, json={**CHAT, "seed": wanted})
            assert (await client.get("/cache/stats")).json()["recent"]["live"]["missed"] == wanted
        await app.aclose()
    await cache.aclose()


# -- changing ---------------------------------------------------------------------------------------


async def test_delete_takes_away_what_is_named(served: Served) -> None:
    keys = [(await ask(served, seed=number)).headers["x-asynccache-key"] for number in range(3)]
    said = await post(served, "/cache/delete", {"keys": [keys[0], keys[1], NO_SUCH_KEY]})
    assert said["status"] == "success"
    assert said["deleted"] == 2
    assert said["keys"] == {keys[0]: True, keys[1]: True, NO_SUCH_KEY: False}
    assert [outcome(await ask(served, seed=number)) for number in range(3)] == ["miss", "miss", "hit"]


async def test_delete_as_litellms_users_write_it(served: Served) -> None:
    """`curl -d '{"keys": […]}'`, which says that it is a form."""
    key = (await ask(served)).headers["x-asynccache-key"]
    kind = {"content-type": "application/x-www-form-urlencoded"}
    body = json.dumps({"keys": [key]}).encode()
    response = await served.client.post("/cache/delete", content=body, headers={**MANAGER, **kind})
    assert response.json()["status"] == "success"
    assert outcome(await ask(served)) == "miss"


async def test_invalidate_ends_what_carries_a_tag_of_whichever_tenant(served: Served) -> None:
    async def all_of() -> list[str]:
        found = []
        for key in (KEY, OTHER):
            for tag in ("red", "blue"):
                headers = {"authorization": f"Bearer {key}"}
                found.append(outcome(await served.chat(headers, seed=len(tag), cache={"tags": [tag]})))
        return found

    assert await all_of() == ["miss"] * 4
    assert (await post(served, "/cache/invalidate", {"tags": ["red"]}))["tags"] == ["red"]
    assert await all_of() == ["miss", "hit", "miss", "hit"]
    await post(served, "/cache/invalidate", {"tags": "blue", "tenant": "b"})
    assert await all_of() == ["hit", "hit", "hit", "miss"]


async def test_a_soft_purge_makes_answers_stale(provider: SimulatedProvider) -> None:
    config = {"upstream": provider.origin, "caching": {"ttl": 600, "stale_while_revalidate": 600}}
    async with proxied(config) as served:
        await served.chat(cache={"tags": ["t"]})
        response = await served.client.post("/cache/invalidate", json={"tags": ["t"], "soft": True})
        assert response.json()["soft"] is True
        assert outcome(await served.chat(cache={"tags": ["t"]})) == "stale"


async def test_flushall_ends_our_namespace_and_nobody_elses(
    provider: SimulatedProvider, redis_server: RedisServer
) -> None:
    where = {"type": "redis", "host": redis_server.host, "port": redis_server.port, "key_prefix": "p4"}
    redis_server.ask("SET", "somebody-elses", "data")
    configs = [{"upstream": provider.origin, "caching": {**where, "namespace": name}} for name in ("p4-a", "p4-b")]
    async with proxied(configs[0]) as ours, proxied(configs[1]) as theirs:
        assert [outcome(await each.chat()) for each in (ours, theirs, ours, theirs)] == ["miss", "miss", "hit", "hit"]
        said = (await ours.client.post("/cache/flushall")).json()
        assert said == {"status": "success", "namespace": "p4-a", "soft": False}
        assert [outcome(await each.chat()) for each in (ours, theirs)] == ["miss", "hit"]
    assert redis_server.ask("GETDEL", "somebody-elses") == "data"


async def test_flushall_of_one_tenant_leaves_the_others(served: Served) -> None:
    both = [CALLER, {"authorization": f"Bearer {OTHER}"}]
    assert [outcome(await served.chat(each)) for each in both] == ["miss", "miss"]
    await post(served, "/cache/flushall", {"tenant": "a"})
    assert [outcome(await served.chat(each)) for each in both] == ["miss", "hit"]


async def test_evict_takes_away_what_is_found_by_meaning_and_is_older(provider: SimulatedProvider) -> None:
    caching = {"type": "semantic", "embedding_model": f"local:{programs.minilm()}"}
    async with proxied({"upstream": provider.origin, "caching": caching}) as proxy:
        assert outcome(await proxy.chat()) == "miss"
        for older_than, evicted in ((3600, 0), (0, 1), (0, 0)):
            assert await post(proxy, "/cache/evict", {"older_than": older_than}) == {
                "status": "success",
                "evicted": evicted,
            }
        assert outcome(await proxy.chat()) == "miss"


@pytest.mark.parametrize(
    "said", [{"older_than": -1}, {"older_than": True}, {"older_than": "1d"}, {}, {"older_than": 1}]
)
async def test_evict_refuses_what_it_cannot_do(keyless: Served, said: dict[str, Any]) -> None:
    """The last of them is well-formed: but this cache finds nothing by meaning."""
    response = await keyless.client.post("/cache/evict", json=said)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "older_than"


# -- explain ----------------------------------------------------------------------------------------


async def test_explain_names_the_keys_that_calls_have(served: Served) -> None:
    a, b = CHAT, {**CHAT, "temperature": 0.5, "stream": True}
    keys = [(await served.chat(CALLER, **{**each, "stream": False})).headers["x-asynccache-key"] for each in (a, b)]
    said = await post(served, "/cache/explain", {"a": a, "b": b, "tenant": "a"})
    assert [said["key_a"], said["key_b"]] == keys
    assert said["same"] is False
    assert said["differences"] == [{"path": "temperature", "a": None, "b": "0.5"}]
    assert said["left_out"] == ["stream"]


async def test_explain_knows_that_another_model_is_elsewhere(provider: SimulatedProvider) -> None:
    config = {"model_list": listed(provider, gpt_4o="openai/gpt-4o", mini="openai/gpt-4o-mini")}
    async with proxied(config) as served:
        keys = [(await served.chat(model=model)).headers["x-asynccache-key"] for model in ("gpt-4o", "mini")]
        said = (await served.client.post("/cache/explain", json={"a": CHAT, "b": {**CHAT, "model": "mini"}})).json()
        assert [said["key_a"], said["key_b"]] == keys
        assert [each["path"] for each in said["differences"]] == ["model"]


async def test_explain_of_other_paths(served: Served) -> None:
    a = {"model": "gpt-4o", "input": "x"}
    said = await post(served, "/cache/explain", {"a": a, "b": a, "path": "/v1/embeddings"})
    assert said["same"] is True
    wrong = {"a": a, "b": a, "path": "/v1/files"}
    assert (await served.client.post("/cache/explain", json=wrong, headers=MANAGER)).status_code == 400


# -- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/cache/delete", {}),
        ("/cache/delete", {"keys": []}),
        ("/cache/delete", {"keys": [1]}),
        ("/cache/delete", {"keys": ["../../etc/passwd"]}),
        ("/cache/delete", {"keys": ["A" * 64]}),
        ("/cache/delete", {"keys": [NO_SUCH_KEY], "more": 1}),
        ("/cache/delete", {"keys": [f"{n:064x}" for n in range(10_001)]}),
        ("/cache/invalidate", {}),
        ("/cache/invalidate", {"tags": {"a": 1}}),
        ("/cache/invalidate", {"tags": [""]}),
        ("/cache/invalidate", {"tags": ["a"], "soft": "yes"}),
        ("/cache/invalidate", {"tags": ["a"], "tenant": 7}),
        ("/cache/flushall", {"namespace": ""}),
        ("/cache/flushall", {"everything": True}),
        ("/cache/explain", {"a": {}}),
        ("/cache/explain", {"a": [], "b": {}}),
        ("/cache/explain", {"a": {}, "b": {}}),
        ("/cache/explain", {"a": {"model": "gpt-4o"}, "b": {"model": "gpt-4o", "cache": 7}}),
        ("/cache/explain", {"a": CHAT, "b": CHAT, "path": 7}),
        ("/cache/explain", [CHAT, CHAT]),
    ],
)
async def test_a_wrong_body_is_a_400_that_says_what_is_wrong(served: Served, path: str, body: Any) -> None:
    response = await served.client.post(path, json=body, headers=MANAGER)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_body_that_is_no_json_or_too_large(provider: SimulatedProvider) -> None:
    async with proxied({"upstream": provider.origin, "proxy": {"max_body_bytes": 1000}}) as served:
        kind = {"content-type": "application/json"}
        for body, status in ((b"{", 400), (b"\xff", 400), (b"[" * 900, 400), (b" " * 1001, 413)):
            assert (await served.client.post("/cache/delete", content=body, headers=kind)).status_code == status


@pytest.mark.parametrize(("method", "path"), VERBS)
async def test_a_wrong_method_is_a_405_and_never_reaches_the_provider(
    served: Served, provider: SimulatedProvider, method: str, path: str
) -> None:
    for wrong in {"GET", "POST", "PUT", "DELETE", "PATCH"} - {method}:
        response = await served.client.request(wrong, path, headers=MANAGER)
        assert response.status_code == 405
        assert method in response.headers["allow"]
    assert not provider.calls


@pytest.mark.parametrize(
    "path", ["/cache", "/cache/", "/cache/other", "/cache/ping/more", "/health/other", "/ui/other"]
)
async def test_nothing_else_below_is_passed_to_the_provider(
    served: Served, provider: SimulatedProvider, path: str
) -> None:
    response = await served.client.get(path, headers=MANAGER)
    assert response.status_code == 404
    assert not provider.calls
