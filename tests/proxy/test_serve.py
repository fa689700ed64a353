"""`asynccache serve`: its start, its reload, its end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from asynccache.errors import ConfigError
from asynccache.proxy.server import Source, address, exposed, listen
from asynccache.proxy.settings import Settings
from asynccache.testing.provider import Pace, SimulatedProvider
from tests.proxy.processes import CHAT, PATIENCE, Served, serve, start

GUIDE = sorted((Path(__file__).parent / "guide").glob("*.yaml"))
BUILDERS = """
from asynccache.key_builders import default_key

def build_cache_key(model, messages, **kwargs):
    kwargs.pop("user", None)
    return default_key(model=model, messages=messages, **kwargs)

def tenant_key_builder(api_key=None, **kwargs):
    return f"tenant:{api_key}:{default_key(**kwargs)}"
"""


def outcome(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.headers["x-asynccache-outcome"]


# -- starting ---------------------------------------------------------------------------------------


async def test_without_a_file_it_caches_in_memory(provider: SimulatedProvider) -> None:
    async with serve("--upstream", provider.origin) as served:
        assert served.lines[0].endswith(": this machine only, without keys")
        assert served.lines[1] == f"Calls go to {provider.origin}"
        assert served.lines[2] == (
            "Answers are kept in this process's memory (at most 256 MiB), without an end, as long as there is room"
        )
        assert [outcome(await served.ask()) for _ in range(2)] == ["miss", "hit"]
    assert provider.calls[CHAT] == 1


async def test_a_file_that_opens_it_to_all_without_keys_gets_a_loopback_address(tmp_path: Path) -> None:
    """As the guide's does: it starts, and says what it did."""
    config = tmp_path / "config.yaml"
    config.write_text("proxy: {host: 0.0.0.0}\n")
    async with serve("--config", str(config)) as served:
        assert served.url.startswith("http://127.0.0.1:")
        assert served.lines[0].endswith(
            ": this machine only, although proxy.host is 0.0.0.0, because there are no proxy.api_keys"
        )


@pytest.mark.parametrize("file", GUIDE, ids=lambda file: file.stem)
async def test_a_file_of_the_guide_starts(file: Path, provider: SimulatedProvider, tmp_path: Path) -> None:
    """As printed, with the files that it names beside it. Its Redis is not there: then calls go on as misses."""
    shutil.copy(file, tmp_path / "config.yaml")
    for name in ("custom_key_hook.py", "tenant_cache_hook.py"):
        (tmp_path / name).write_text(BUILDERS)
    where = ("--config", str(tmp_path / "config.yaml"), "--upstream", provider.origin)
    async with serve(*where) as served:
        assert served.url.startswith("http://127.0.0.1:")
        assert (await served.ask()).status_code == 200
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--host", "0.0.0.0"), 2, "anybody could spend your provider's money"),
        (("--upstream", "nowhere"), 2, "upstream: an URL is wanted"),
        (("--config", "none.yaml"), 2, "none.yaml: No such file or directory"),
        (("--host", "no-such-host.invalid", "--allow-anonymous"), 1, "proxy.host='no-such-host.invalid'"),
    ],
)
async def test_what_cannot_be_started_is_said(options: tuple[str, ...], code: int, message: str) -> None:
    process = await start(*options)
    _, said = await process.communicate()
    assert process.returncode == code
    assert message in said.decode()
    assert "Traceback" not in said.decode()


async def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = await start("--port", str(taken.getsockname()[1]))
        _, said = await process.communicate()
    assert process.returncode == 1
    assert "Address already in use" in said.decode()


def test_who_could_call() -> None:
    """Without keys, nobody from outside, unless that is what was asked for."""
    opened = Settings.load({"proxy": {"host": "0.0.0.0"}}).proxy
    keys = Settings.load({"proxy": {"host": "0.0.0.0", "api_keys": ["k"]}}).proxy
    allowed = Settings.load({"proxy": {"host": "0.0.0.0", "allow_anonymous": True}}).proxy
    master = Settings.load({"proxy": {"host": "::", "master_key": "k"}}).proxy
    assert [exposed(proxy) for proxy in (opened, keys, allowed, master)] == [True, False, False, True]
    assert [address(proxy) for proxy in (opened, keys, allowed, master)] == ["127.0.0.1", "0.0.0.0", "0.0.0.0", "::1"]
    for host in ("127.0.0.1", "127.8.0.1", "localhost", "::1"):
        assert not exposed(Settings.load({"proxy": {"host": host}}).proxy)
    with pytest.raises(ConfigError, match="--allow-anonymous"):
        Source(None, {"proxy": {"host": "192.0.2.1"}}).load()


def test_listening_gives_a_socket_with_no_delay() -> None:
    with listen(Settings.load({"proxy": {"port": 0}}).proxy) as listening:
        assert listening.proto == socket.IPPROTO_TCP


# -- reloading --------------------------------------------------------------------------------------


def config_of(folder: Path, provider: SimulatedProvider, more: str = "") -> Path:
    path = folder / "config.yaml"
    path.write_text(f"upstream: {provider.origin}\n{more}")
    return path


async def test_a_reload_drops_no_request(provider: SimulatedProvider, tmp_path: Path) -> None:
    """One that is under way is answered by the old application, with what it has; the cache goes on."""
    config = config_of(tmp_path, provider)
    async with serve("--config", str(config)) as served:
        assert outcome(await served.ask("kept")) == "miss"
        provider.hold()
        under_way = asyncio.create_task(served.ask("slow"))
        await provider.reached(2)
        config_of(tmp_path, provider, "rules: [{match: {model: other}, mode: off}]\n")
        served.signal(signal.SIGHUP)
        assert await served.line() == "asynccache: the configuration was reloaded"
        assert not under_way.done()
        assert outcome(await served.ask("kept")) == "hit"
        provider.release()
        assert outcome(await under_way) == "miss"
        assert [outcome(await served.ask("new", model="other")) for _ in range(2)] == ["bypass", "bypass"]
        assert outcome(await served.ask("slow")) == "hit"


async def test_a_reload_with_another_cache(provider: SimulatedProvider, tmp_path: Path) -> None:
    """The new one is empty, and the old one is closed when its last call has been answered."""
    config = config_of(tmp_path, provider, "caching: {namespace: one}\n")
    async with serve("--config", str(config)) as served:
        assert outcome(await served.ask()) == "miss"
        config_of(tmp_path, provider, "caching: {namespace: two}\n")
        served.signal(signal.SIGHUP)
        assert await served.line() == "asynccache: the configuration was reloaded"
        assert [outcome(await served.ask()) for _ in range(2)] == ["miss", "hit"]
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0


async def test_requests_through_many_reloads_all_succeed(provider: SimulatedProvider, tmp_path: Path) -> None:
    config = config_of(tmp_path, provider)
    async with serve("--config", str(config)) as served:
        done = asyncio.Event()

        async def ask(caller: int) -> list[int]:
            statuses: list[int] = []
            while not done.is_set():
                statuses.append((await served.ask(f"{caller} {len(statuses) % 7}")).status_code)
            return statuses

        callers = [asyncio.create_task(ask(caller)) for caller in range(4)]
        for number in range(5):
            config_of(tmp_path, provider, f"caching: {{namespace: n{number}}}\n")
            served.signal(signal.SIGHUP)
            assert await served.line() == "asynccache: the configuration was reloaded"
        done.set()
        statuses = [status for statuses in await asyncio.gather(*callers) for status in statuses]
    assert len(statuses) >= 4
    assert set(statuses) == {200}


@pytest.mark.parametrize(
    "broken", ["caching: {type: redys}\n", "caching: [\n", "hooks: [{path: no.py, async_pre_llm_hook: f}]\n"]
)
async def test_a_broken_file_changes_nothing(provider: SimulatedProvider, tmp_path: Path, broken: str) -> None:
    config = config_of(tmp_path, provider)
    async with serve("--config", str(config)) as served:
        assert outcome(await served.ask()) == "miss"
        config_of(tmp_path, provider, broken)
        served.signal(signal.SIGHUP)
        assert await served.line() == "asynccache: the old configuration stays"
        assert "config.yaml" in await served.logged("the configuration was not reloaded")
        assert outcome(await served.ask()) == "hit"
        config_of(tmp_path, provider)
        served.signal(signal.SIGHUP)
        assert await served.line() == "asynccache: the configuration was reloaded"
        assert outcome(await served.ask()) == "hit"


# -- ending -----------------------------------------------------------------------------------------


async def test_a_stream_under_way_ends_before_the_server_does() -> None:
    async with SimulatedProvider(lambda _: Pace(0, 0.01)) as provider, serve("--upstream", provider.origin) as served:
        async with stream(served) as chunks:
            text = await anext(chunks)
            provider.hold()
            served.signal(signal.SIGTERM)
            await served.refuses()
            assert served.process.returncode is None
            provider.release()
            async for chunk in chunks:
                text += chunk
        assert text.endswith("data: [DONE]\n\n")
        assert await served.ended() == 0


async def test_a_stream_that_does_not_end_is_cut_off() -> None:
    """After `drain_seconds`; the server still ends as it should."""
    async with (
        SimulatedProvider(lambda _: Pace(0, 0.01)) as provider,
        serve("--upstream", provider.origin, "--drain-seconds", "1") as served,
        stream(served) as chunks,
    ):
        await anext(chunks)
        provider.hold()
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        provider.release()


async def test_ctrl_c_ends_it(provider: SimulatedProvider) -> None:
    async with serve("--upstream", provider.origin) as served:
        assert outcome(await served.ask()) == "miss"
        served.signal(signal.SIGINT)
        assert await served.ended() == 0


class stream:  # noqa: N801 (used as a function)
    """The parts of a streamed answer, as they come."""

    def __init__(self, served: Served) -> None:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Tell me a story."}]}
        self._response = served.client.stream("POST", CHAT, json=body)

    async def __aenter__(self) -> AsyncIterator[str]:
        response = await self._response.__aenter__()
        assert response.status_code == 200
        return response.aiter_text()

    async def __aexit__(self, *error: object) -> None:
        await self._response.__aexit__(None, None, None)


# -- several processes ------------------------------------------------------------------------------


async def test_two_workers(provider: SimulatedProvider, tmp_path: Path) -> None:
    """A reload reaches both, one that is killed is replaced, and all end together."""
    config = config_of(tmp_path, provider)
    async with serve("--config", str(config), "--workers", "2") as served:
        workers = served.workers()
        assert len(workers) == 2
        assert outcome(await served.ask()) == "miss"
        served.signal(signal.SIGHUP)
        for _ in workers:
            assert await served.line() == "asynccache: the configuration was reloaded"
        config_of(tmp_path, provider, "caching: {type: redys}\n")
        served.signal(signal.SIGHUP)
        assert await served.line() == "asynccache: the old configuration stays"
        config_of(tmp_path, provider)

        os.kill(victim := min(workers), signal.SIGKILL)
        assert f"worker {victim} died (SIGKILL)" in await served.logged("another one is started")
        fresh = httpx.AsyncClient(base_url=served.url, timeout=PATIENCE)
        async with fresh, asyncio.timeout(PATIENCE):
            while len(served.workers() - {victim}) < 2:  # nothing tells when it is there
                assert (await fresh.get("/v1/models")).status_code < 500
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        await served.refuses()


async def test_workers_end_when_their_supervisor_is_killed(provider: SimulatedProvider) -> None:
    async with serve("--upstream", provider.origin, "--workers", "2") as served:
        served.signal(signal.SIGKILL)
        await served.ended()
        await served.refuses()


async def test_workers_that_cannot_start_end_it(tmp_path: Path) -> None:
    """The supervisor builds no cache of its own, so that it is a worker who finds out."""
    config = tmp_path / "config.yaml"
    config.write_text("caching: {ttl: soon}\n")
    process = await start("--config", str(config), "--workers", "2")
    _, said = await process.communicate()
    assert process.returncode in (1, 2)
    assert "config.yaml:1: caching.ttl" in said.decode()
