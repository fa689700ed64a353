"""API keys: who may call, whose answers they share, who may manage; and that no key is told to anybody."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from pydantic import SecretStr

from asynccache.errors import ConfigError
from asynccache.proxy.access import Denied, OpenAccess
from asynccache.proxy.keys import PREFIX, KeyAccess, access_of, generate, hashed, hashed_slowly
from asynccache.proxy.settings import ApiKey, Settings
from asynccache.testing.clock import FakeClock
from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import CHAT, COMPLETIONS, MESSAGES, Recording, Served, listed, proxied

from asynccache.testing.loopback import serving  # isort: skip

A, B, MASTER = "sk-team-a-4711-4711-4711", "sk-team-b-0815-0815-0815", "sk-master-2718-2718-2718"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def outcome(response: Any) -> str:
    assert response.status_code == 200, response.text
    return str(response.headers["x-asynccache-outcome"])


@pytest.fixture
async def served(provider: SimulatedProvider) -> AsyncIterator[Served]:
    keys = [{"hash": hashed(A), "tenant": "a"}, {"key": B, "tenant": "b"}]
    config = {"model_list": listed(provider, gpt_4o="openai/gpt-4o"), "proxy": {"api_keys": keys, "master_key": MASTER}}
    async with proxied(config) as proxy:
        yield proxy


# -- presenting a key -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {A}"},
        {"authorization": f"bearer  {A}"},
        {"x-api-key": A},
        {"api-key": A},
        {"x-goog-api-key": A},
        {"authorization": "Bearer something-else", "x-api-key": A},
    ],
)
async def test_a_key_may_come_in_any_of_the_usual_headers(served: Served, headers: dict[str, str]) -> None:
    assert (await served.chat(headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": A},
        {"authorization": f"Basic {A}"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer sk-wrong"},
        {"authorization": f"Bearer {A}x"},
        {"authorization": f"Bearer {A[:-1]}"},
        {"authorization": f"Bearer {hashed(A)}"},
        {"authorization": f"Bearer {hashed(A).removeprefix('sha256:')}"},
        {"x-api-key": "x" * 5000},
        {"cookie": f"key={A}"},
    ],
)
async def test_without_a_key_that_is_known_nothing_is_answered(
    served: Served, provider: SimulatedProvider, headers: dict[str, str]
) -> None:
    response = await served.chat(headers)
    assert response.status_code == 401
    error = response.json()["error"]
    assert error["type"] == "authentication_error"
    assert error["code"] == "invalid_api_key"
    assert not provider.calls


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files", "/anything", COMPLETIONS])
async def test_no_path_is_open_without_a_key(served: Served, path: str) -> None:
    assert (await served.client.get(path)).status_code == 401


async def test_the_sdks_raise_their_own_error_for_a_wrong_key(served: Served) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.origin}/v1", api_key="sk-wrong", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError):
            await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    async with anthropic.AsyncAnthropic(base_url=served.origin, api_key="sk-wrong", max_retries=0) as claude:
        with pytest.raises(anthropic.AuthenticationError):
            await claude.messages.create(model="gpt-4o", max_tokens=5, messages=MESSAGES)


# -- whose answers ----------------------------------------------------------------------------------


async def test_entries_are_not_shared_across_tenants(served: Served, provider: SimulatedProvider) -> None:
    outcomes = [outcome(await served.chat(bearer(key))) for key in (A, A, B, B, A)]
    assert outcomes == ["miss", "hit", "miss", "hit", "hit"]
    assert provider.calls[COMPLETIONS] == 2


async def test_two_keys_of_one_tenant_share_entries(provider: SimulatedProvider) -> None:
    keys = [{"key": A, "tenant": "us"}, {"key": B, "tenant": "us"}]
    config = {"model_list": listed(provider, gpt_4o="openai/gpt-4o"), "proxy": {"api_keys": keys}}
    async with proxied(config) as served:
        assert [outcome(await served.chat(bearer(key))) for key in (A, B)] == ["miss", "hit"]


async def test_keys_that_say_nothing_have_tenants_of_their_own(provider: SimulatedProvider) -> None:
    config = {"model_list": listed(provider, gpt_4o="openai/gpt-4o"), "proxy": {"api_keys": [A, hashed(B)]}}
    async with proxied(config) as served:
        assert [outcome(await served.chat(bearer(key))) for key in (A, B, A, B)] == ["miss", "miss", "hit", "hit"]


async def test_shared_keys_share_entries_with_each_other_only(provider: SimulatedProvider) -> None:
    keys = [{"key": A, "shared": True}, {"key": B, "shared": True}, {"key": "sk-other-00000000", "tenant": "c"}]
    config = {"model_list": listed(provider, gpt_4o="openai/gpt-4o"), "proxy": {"api_keys": keys}}
    async with proxied(config) as served:
        used = (A, B, "sk-other-00000000")
        assert [outcome(await served.chat(bearer(key))) for key in used] == ["miss", "hit", "miss"]


async def test_a_caller_cannot_name_another_tenant(served: Served) -> None:
    assert outcome(await served.chat(bearer(B))) == "miss"
    for said in ({"cache": {"tenant": "b"}}, {"cache": {"namespace": "b"}}):
        assert (await served.chat(bearer(A), **said)).status_code == 400


async def test_the_master_key_has_answers_of_its_own(served: Served) -> None:
    outcomes = [outcome(await served.chat(bearer(key))) for key in (A, MASTER, MASTER)]
    assert outcomes == ["miss", "miss", "hit"]


# -- what is never told -----------------------------------------------------------------------------


async def test_our_keys_do_not_reach_the_provider_and_its_keys_reach_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "sk-the-providers-own-secret"
    upstream = Recording(body=b'{"choices": []}')
    async with serving(upstream) as origin:
        params = {"model": "openai/m", "api_base": f"{origin}/v1", "api_key": secret}
        proxy = {"api_keys": [{"key": A, "tenant": "a"}], "master_key": MASTER}
        config = {"model_list": [{"model_name": "m", "litellm_params": params}], "proxy": proxy}
        async with proxied(config) as served:
            said = [await served.chat(bearer(A), model="m"), await served.chat({"x-api-key": A}, model="m")]
            said.append(await served.client.post("/v1/other", json={"model": "m"}, headers={"api-key": A}))
            for path in ("/cache/stats", "/cache/report", "/cache/ping"):
                said.append(await served.client.get(path, headers=bearer(MASTER)))
            upstream.status = 401
            said.append(await served.chat(bearer(A), model="m", user="u"))
            said.append(await served.chat(bearer(f"{A}x"), model="m"))
    assert len(upstream.heard) >= 3
    for _, path, headers, body in upstream.heard:
        assert headers["authorization"] == f"Bearer {secret}"
        assert A not in f"{path}{headers}{body!r}"
    told = "".join(f"{response.headers}{response.text}" for response in said) + caplog.text
    for key in (secret, A, MASTER):
        assert key not in told


def test_no_key_is_in_what_settings_say() -> None:
    settings = Settings.load({"proxy": {"api_keys": [A, {"hash": hashed(B), "tenant": "b"}], "master_key": MASTER}})
    said = f"{settings!r}{settings.model_dump()}{settings.model_dump_json()}"
    assert A not in said
    assert MASTER not in said


# -- hashes -----------------------------------------------------------------------------------------


def test_generated_keys_differ_and_are_known_by_their_hash() -> None:
    made = {generate() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith(PREFIX) and len(key) >= 43 for key in made)
    for key in list(made)[:3]:
        access = KeyAccess([ApiKey(hash=hashed(key), tenant="t")])
        assert access.admit({b"x-api-key": key.encode()}).tenant == "t"


def test_a_slow_hash_is_salted_and_knows_its_key() -> None:
    one, other = hashed_slowly("hunter2"), hashed_slowly("hunter2")
    assert one != other
    for stored in (one, other):
        access = KeyAccess([ApiKey(hash=stored, tenant="t")])
        assert access.admit({b"x-api-key": b"hunter2"}).tenant == "t"
        with pytest.raises(Denied):
            access.admit({b"x-api-key": b"hunter3"})


def test_guesses_at_slow_hashes_are_bounded_and_known_keys_do_not_notice() -> None:
    clock = FakeClock()
    access = KeyAccess([ApiKey(hash=hashed_slowly("hunter2")), ApiKey(hash=hashed(A), tenant="a")], clock=clock)
    assert access.admit({b"x-api-key": b"hunter2"})
    seen = []
    for number in range(40):
        with pytest.raises(Denied) as denied:
            access.admit({b"x-api-key": b"guess-%d" % number})
        seen.append(denied.value.status)
    assert seen.count(401) == 15  # with the right one before them so many as are allowed at once
    assert seen[15:] == [429] * 25
    assert access.admit({b"x-api-key": b"hunter2"})
    assert access.admit({b"x-api-key": A.encode()}).tenant == "a"
    with pytest.raises(Denied) as again:
        access.admit({b"x-api-key": b"guess-1"})  # known to be wrong: it costs nothing to say so
    assert again.value.status == 401
    clock.advance(1)
    with pytest.raises(Denied) as later:
        access.admit({b"x-api-key": b"guess-99"})
    assert later.value.status == 401


@pytest.mark.parametrize(
    "stored",
    [
        "sha256:",
        "sha256:xyz",
        "sha256:" + "a" * 63,
        "sha512:" + "a" * 64,
        "a" * 64,
        "scrypt:",
        "scrypt:16384:8:1:AAAA:AAAA",
        "scrypt:3:8:1:MTIzNDU2Nzg5MDEyMzQ1Ng==:MTIzNDU2Nzg5MDEyMzQ1Ng==",
        "scrypt:1073741824:8:1:MTIzNDU2Nzg5MDEyMzQ1Ng==:MTIzNDU2Nzg5MDEyMzQ1Ng==",
        "scrypt:16384:8:1:?:?",
    ],
)
def test_a_hash_that_cannot_be_read_is_an_error_that_says_where(stored: str) -> None:
    with pytest.raises(ConfigError, match=r"proxy\.api_keys\[1\]\.hash") as error:
        KeyAccess([ApiKey(key=SecretStr(A)), ApiKey(hash=stored)])
    assert "asynccache keys hash" in str(error.value)


# -- who manages ------------------------------------------------------------------------------------


def test_without_any_key_anybody_calls_and_nobody_manages() -> None:
    access = access_of(Settings.load({}, environment={}))
    assert isinstance(access, OpenAccess)
    assert not access.admit({}).manager


def test_with_a_master_key_alone_anybody_calls_and_who_has_it_manages() -> None:
    access = KeyAccess([], MASTER)
    assert access.open
    assert not access.admit({}).manager
    assert not access.admit({b"authorization": b"Bearer sk-of-the-provider"}).manager
    manager = access.admit({b"authorization": f"Bearer {MASTER}".encode()})
    assert manager.manager
    assert manager.tenant is None


def test_a_master_key_that_is_an_api_key_too_keeps_its_tenant() -> None:
    access = KeyAccess([ApiKey(key=SecretStr(MASTER), tenant="ops")], MASTER)
    caller = access.admit({b"x-api-key": MASTER.encode()})
    assert (caller.tenant, caller.manager) == ("ops", True)


async def test_a_master_key_alone_is_not_sent_to_the_provider() -> None:
    upstream = Recording(body=b'{"choices": []}')
    async with serving(upstream) as origin, proxied({"upstream": origin, "proxy": {"master_key": MASTER}}) as served:
        assert (await served.client.post(COMPLETIONS, json=CHAT, headers=bearer(MASTER))).status_code == 200
        assert (await served.client.get("/v1/files", headers=bearer(MASTER))).status_code == 200
        assert (await served.client.get("/v1/files", headers=bearer("sk-of-the-provider"))).status_code == 200
    assert [headers.get("authorization") for _, _, headers, _ in upstream.heard] == [
        None,
        None,
        "Bearer sk-of-the-provider",
    ]


def test_a_key_of_two_tenants_is_nobody_s(tmp_path: Path) -> None:
    """Which of the two would get its answers, nobody could tell. Said with the place; twice for one tenant is fine."""
    file = tmp_path / "config.yaml"
    text = "proxy:\n  api_keys:\n    - {key: %s, tenant: a}\n    - {hash: '%s', tenant: %s}\n"
    file.write_text(text % (A, hashed(A), "b"))
    with pytest.raises(ConfigError, match=r"config.yaml:4: proxy.api_keys\[1\]: the same key is that of 'a', too"):
        access_of(Settings.load(file, environment={}))
    file.write_text(text % (A, hashed(A), "a"))
    assert access_of(Settings.load(file, environment={})).admit({b"x-api-key": A.encode()}).tenant == "a"


def test_a_hash_that_is_none_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("proxy:\n  api_keys:\n    - {hash: 'sha256:zz', tenant: a}\n")
    with pytest.raises(ConfigError, match=r"config.yaml:3: proxy.api_keys\[0\].hash: after `sha256:`"):
        access_of(Settings.load(file, environment={}))
