"""The verbs against a proxy that runs, as a process of its own runs them; and the making of keys."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from typer.testing import CliRunner

from asynccache.cli import build_app
from asynccache.proxy.keys import KeyAccess
from asynccache.proxy.settings import ApiKey
from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import Recording, Served, listed, proxied

MASTER = "sk-master-2718-2718-2718"
NO_SUCH_KEY = "0" * 64


class Ended:
    """How a command ended."""

    def __init__(self, code: int | None, out: bytes, err: bytes) -> None:
        self.code, self.out, self.err = code, out.decode(), err.decode()

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


async def run(*words: str, stdin: str = "", environment: Mapping[str, str] | None = None) -> Ended:
    """In a thread, since a command waits for the proxy, which runs here."""
    own = {name: None for name in os.environ if name.startswith("ASYNCCACHE_")}
    runner = CliRunner(env={**own, "NO_COLOR": "1", "COLUMNS": "120", **(environment or {})})
    ended = await asyncio.to_thread(runner.invoke, build_app(), words, input=stdin.encode())
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return Ended(ended.exit_code, ended.stdout_bytes, ended.stderr_bytes)


async def run_process(*words: str, **environment: str) -> Ended:
    """As a user runs it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asynccache", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    out, err = await process.communicate()
    return Ended(process.returncode, out, err)


@pytest.fixture
async def served(provider: SimulatedProvider) -> AsyncIterator[Served]:
    config = {
        "model_list": listed(provider, gpt_4o="openai/gpt-4o"),
        "proxy": {"master_key": MASTER},
        "telemetry": {"prices": {"gpt-4o": {"input": 2.5, "output": 10}}},
    }
    async with proxied(config) as proxy:
        yield proxy


def outcome(response: Any) -> str:
    return str(response.headers["x-asynccache-outcome"])


@pytest.fixture
def manager() -> dict[str, str]:
    return {"ASYNCCACHE_MASTER_KEY": MASTER}


async def test_stats(served: Served, manager: dict[str, str]) -> None:
    for _ in range(4):
        await served.chat()
    said = await run("stats", "--url", served.origin, environment=manager)
    assert said.code == 0, said.err
    assert "75.0% of 4 calls" in said.out
    assert "3 hits, 1 misses" in said.out
    assert "saved" in said.out
    assert "unknown" not in said.out
    as_json = (await run("stats", "--url", served.origin, "--json", environment=manager)).json
    assert as_json["counters"]["hits"] == 3


async def test_as_a_process_of_its_own(served: Served, manager: dict[str, str]) -> None:
    said = await run_process("stats", "--url", served.origin, "--json", **manager)
    assert said.json["counters"]["calls"] == 0
    refused = await run_process("ping", "--url", served.origin, ASYNCCACHE_MASTER_KEY="wrong")
    assert (refused.code, refused.out) == (1, "")


async def test_ping(served: Served, manager: dict[str, str]) -> None:
    said = await run("ping", "--url", served.origin, environment=manager)
    assert (said.code, said.out.split(",")[0]) == (0, "healthy: memory")
    assert (await run("ping", "--url", f"{served.origin}/v1/", "--key", MASTER, "--json")).json["status"] == "healthy"


async def test_the_address_may_stand_in_the_environment(served: Served, manager: dict[str, str]) -> None:
    environment = {**manager, "ASYNCCACHE_URL": served.origin}
    assert (await run("ping", environment=environment)).code == 0


async def test_delete(served: Served, manager: dict[str, str]) -> None:
    keys = [(await served.chat(seed=number)).headers["x-asynccache-key"] for number in range(3)]
    said = await run("delete", keys[0], "--url", served.origin, environment=manager)
    assert (said.code, said.out.strip()) == (0, "1 of 1 deleted")
    piped = await run("delete", "-", "--url", served.origin, stdin=f"{keys[1]}\n{NO_SUCH_KEY}\n", environment=manager)
    assert (piped.code, piped.out.strip()) == (1, "1 of 2 deleted")
    assert [outcome(await served.chat(seed=number)) for number in range(3)] == ["miss", "miss", "hit"]


async def test_invalidate(served: Served, manager: dict[str, str]) -> None:
    async def all_of() -> list[str]:
        return [outcome(await served.chat(seed=len(tag), cache={"tags": [tag]})) for tag in ("red", "blue", "green")]

    await all_of()
    said = await run("invalidate", "red", "blue", "--url", served.origin, environment=manager)
    assert (said.code, said.out.strip()) == (0, "ended: red, blue")
    assert await all_of() == ["miss", "miss", "hit"]
    soft = (await run("invalidate", "red", "--soft", "--url", served.origin, "--json", environment=manager)).json
    assert soft["soft"] is True


async def test_clear(served: Served, manager: dict[str, str]) -> None:
    await served.chat()
    said = await run("clear", "--url", served.origin, environment=manager)
    assert said.code == 0, said.err
    assert outcome(await served.chat()) == "miss"


async def test_without_its_key_it_is_refused_and_says_so(served: Served) -> None:
    verbs = (["delete", NO_SUCH_KEY], ["invalidate", "t"], ["clear"], ["evict", "--older-than", "1"])
    for words in (["stats"], ["ping"], *verbs):
        said = await run(*words, "--url", served.origin)
        assert said.code == 1
        assert "master key" in said.err
        assert said.out == ""


async def test_no_key_is_printed_or_in_the_help(served: Served, manager: dict[str, str]) -> None:
    for words in (["stats", "--url", served.origin], ["stats", "--help"], ["ping", "--url", "http://127.0.0.1:9"]):
        said = await run(*words, environment=manager)
        assert MASTER not in said.out + said.err


async def test_where_nobody_listens(manager: dict[str, str]) -> None:
    said = await run("ping", "--url", "http://127.0.0.1:9", environment=manager)
    assert said.code == 1
    assert "no answer" in said.err


@pytest.mark.parametrize("url", ["127.0.0.1:4000", "ftp://127.0.0.1", "http://", "http://u:p@127.0.0.1", "http://h/?q"])
async def test_what_is_no_address(url: str) -> None:
    said = await run("ping", "--url", url)
    assert said.code == 2
    assert "--url" in said.err


async def test_a_redirect_does_not_get_the_key(manager: dict[str, str]) -> None:
    elsewhere = Recording()
    async with serving(elsewhere) as other:
        here = Recording(status=302, headers={"location": f"{other}/cache/stats"})
        async with serving(here) as origin:
            said = await run("stats", "--url", origin, environment=manager)
    assert said.code == 1
    assert len(here.heard) == 1
    assert not elsewhere.heard


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"counters": 1}'])
async def test_what_is_no_proxy_of_ours(body: bytes) -> None:
    async with serving(Recording(body=body)) as origin:
        said = await run("stats", "--url", origin)
    assert said.code == 1
    assert "no asynccache proxy" in said.err
    assert "Traceback" not in said.err


async def test_a_wrong_key_of_an_entry_is_told_before_anybody_is_asked() -> None:
    said = await run("delete", "not-a-key", "--url", "http://127.0.0.1:9")
    assert said.code == 2
    assert "64 hex digits" in said.err


# -- keys -------------------------------------------------------------------------------------------


def admits(stored: str, key: str) -> bool:
    return KeyAccess([ApiKey(hash=stored, tenant="t")]).admit({b"x-api-key": key.encode()}).tenant == "t"


async def test_a_generated_key_is_printed_once_with_its_hash() -> None:
    made = (await run("keys", "hash", "--generate", "--json")).json
    assert admits(made["hash"], made["key"])
    plain = await run("keys", "hash", "--generate")
    key, stored = (line.partition(":")[2].strip() for line in plain.out.splitlines())
    assert admits(stored, key)


async def test_the_hash_of_a_key_from_stdin() -> None:
    key = "a-long-key-that-nobody-guesses"
    said = await run("keys", "hash", stdin=f"{key}\n")
    assert (said.code, said.err) == (0, "")
    assert admits(said.out.strip(), key)
    assert key not in said.out


async def test_a_key_that_could_be_guessed_is_warned_of() -> None:
    said = await run("keys", "hash", stdin="hunter2\n")
    assert said.code == 0
    assert "--scrypt" in said.err
    slow = await run("keys", "hash", "--scrypt", stdin="hunter2\n")
    assert slow.err == ""
    assert admits(slow.out.strip(), "hunter2")


@pytest.mark.parametrize("stdin", ["", "\n", "two words\n", "schlüssel\n"])
async def test_what_is_no_key(stdin: str) -> None:
    said = await run("keys", "hash", stdin=stdin)
    assert said.code == 2
    assert said.out == ""
