from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from asynccache.backends import gcs
from asynccache.backends.gcs import GCSBackend
from asynccache.errors import BackendUnavailable, ConfigError
from asynccache.testing import BackendContract, FakeClock
from asynccache.testing.contract import entry_of, key_of
from tests.backends.object_stores import KEY, ObjectStoreTests, Store, fails, response, saying, server, whole_text
from tests.servers.gcs import GcsServer


class Bucket(Store):
    def __init__(self, at: GcsServer) -> None:
        self.url, self.name = at.url, at.new_bucket()

    def backend(self, **options: Any) -> GCSBackend:
        return GCSBackend(**{"bucket": self.name, "api_root": self.url, **options})

    def at(self, url: str, **options: Any) -> GCSBackend:
        return self.backend(api_root=url, **options)

    def missing(self) -> GCSBackend:
        return self.backend(bucket="there-is-no-such-bucket")

    def put(self, name: str, data: bytes) -> None:
        place = f"{self.url}/upload/storage/v1/b/{self.name}/o?uploadType=media&name={quote(name, safe='')}"
        with urlopen(Request(place, data, {"Content-Type": "application/octet-stream"}), timeout=30):
            pass

    def names(self) -> list[str]:
        with urlopen(f"{self.url}/storage/v1/b/{self.name}/o", timeout=30) as answer:
            return [item["name"] for item in json.load(answer)["items"]]


@pytest.fixture
def store(gcs_server: GcsServer) -> Bucket:
    return Bucket(gcs_server)


class TestContract(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, store: Bucket) -> Callable[[], GCSBackend]:
        return store.backend


class TestObjectStore(ObjectStoreTests):
    pass


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcloud.aio.storage", None)
    with pytest.raises(ConfigError, match=r"asynccache\[gcs\]"):
        GCSBackend("b")


@pytest.mark.parametrize(("options", "text"), [({"bucket": ""}, "bucket"), ({"api_root": ""}, "api_root")])
def test_options_that_make_no_sense(store: Bucket, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        store.backend(**options)


async def test_a_session_that_was_handed_in_is_not_closed(store: Bucket) -> None:
    async with aiohttp.ClientSession() as session:
        backend = store.backend(session=session)
        await backend.set(KEY, entry_of(b"1"))
        await backend.leave()
        assert await backend.get(KEY) is not None
        await backend.aclose()
        assert not session.closed
        async with session.get(store.url) as answer:
            assert answer.status == 200


async def test_an_answer_that_names_the_object_costs_one_request(store: Bucket) -> None:
    """As Cloud Storage answers: a miss is told from a missing bucket by the text."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split()[1])
        writer.write(response("404 Not Found", b"No such object: bucket/name"))

    async with server(answer) as url:
        backend = store.at(url)
        assert await backend.get(KEY) is None
        assert await backend.delete(KEY) is False
        assert len(asked) == 2
        await backend.aclose()
    async with server(saying(response("404 Not Found", b"The specified bucket does not exist."))) as url:
        await fails(store.at(url), BackendUnavailable, "does not exist")


async def test_an_entry_of_many_megabytes_is_one_upload(store: Bucket) -> None:
    backend = store.backend()
    entry = entry_of(bytes(6 * 1024 * 1024))  # the library would cut what is above 5 MiB
    assert await backend.add(KEY, entry)
    assert not await backend.add(KEY, entry_of(b"1"))
    assert await backend.get(KEY) == entry
    await backend.aclose()


class Tokens:
    """Google's token endpoint, and a Cloud Storage in which there is nothing for who has the token of the day."""

    def __init__(self) -> None:
        self.issued = 0
        self.asked = asyncio.Event()
        self.status = 200
        self.expires_in = 3600
        self.go = asyncio.Event()
        self.go.set()
        self.url = ""

    async def issue(self, request: web.Request) -> web.Response:
        self.issued += 1
        number = self.issued
        self.asked.set()
        await request.post()
        await self.go.wait()
        answer = {"access_token": f"token-{number}", "expires_in": self.expires_in}
        return web.json_response(answer, status=self.status)

    async def serve(self, request: web.Request) -> web.Response:
        if not request.headers.get("Authorization", "").startswith("Bearer token-"):
            return web.Response(status=401, text="no token")
        return web.Response(status=404, text="No such object: there is none")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Tokens]:
        app = web.Application()
        app.router.add_post("/token", self.issue)
        app.router.add_route("*", "/{rest:.*}", self.serve)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self.go.set()
            await runner.cleanup()


@pytest.fixture
async def tokens() -> AsyncIterator[Tokens]:
    async with Tokens().running() as tokens:
        yield tokens


@pytest.fixture
def account(tmp_path: Path, tokens: Tokens) -> Path:
    """A service account's file, as Google hands it out."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    facts = {"type": "service_account", "client_email": "a@b.example", "private_key": pem}
    file = tmp_path / "account.json"
    file.write_text(json.dumps({**facts, "token_uri": f"{tokens.url}/token", "project_id": "p"}))
    return file


async def test_a_service_account_gets_one_token_for_all(tokens: Tokens, account: Path) -> None:
    backend = GCSBackend("b", api_root=tokens.url, service_account_file=account)
    assert await asyncio.gather(*[backend.get(key_of(str(n))) for n in range(50)]) == [None] * 50
    assert tokens.issued == 1
    await backend.aclose()


async def test_without_credentials_the_store_refuses(tokens: Tokens) -> None:
    await fails(GCSBackend("b", api_root=tokens.url), BackendUnavailable, "401")


async def test_who_is_cancelled_takes_the_token_from_nobody(tokens: Tokens, account: Path) -> None:
    before = asyncio.all_tasks()
    backend = GCSBackend("b", api_root=tokens.url, service_account_file=account)
    tokens.go.clear()
    calls = [asyncio.ensure_future(backend.get(KEY)) for _ in range(3)]
    await tokens.asked.wait()
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    tokens.go.set()
    assert await asyncio.gather(*calls[1:]) == [None, None]
    await backend.aclose()
    assert {task for task in asyncio.all_tasks() - before if "get" in repr(task)} == set()


async def test_a_token_is_renewed_behind_at_half_its_life_and_waited_for_at_its_end(
    tokens: Tokens, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(gcs, "monotonic", clock)
    backend = GCSBackend("b", api_root=tokens.url, service_account_file=account)
    for seconds, issued in ((0, 1), (1799, 1), (1, 2), (1799, 2), (3600, 3)):
        tokens.asked.clear()
        renewed = issued > tokens.issued
        clock.advance(seconds)
        assert await backend.get(KEY) is None
        if renewed:
            await tokens.asked.wait()
        for _ in range(3):
            assert await backend.get(KEY) is None  # there and back: an answer to the renewal comes in between
        assert tokens.issued == issued
    await backend.aclose()


async def test_while_a_token_holds_its_renewal_may_fail(
    tokens: Tokens, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(gcs, "monotonic", clock)
    backend = GCSBackend("b", api_root=tokens.url, service_account_file=account)
    assert await backend.get(KEY) is None
    tokens.status = 500
    clock.advance(2000)
    for _ in range(10):
        assert await backend.get(KEY) is None
    assert tokens.issued == 2  # it is not asked again at once
    clock.advance(1600)
    with pytest.raises(BackendUnavailable, match="no access token"):
        await backend.get(KEY)
    tokens.status = 200
    assert await backend.get(KEY) is None
    await backend.aclose()


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_no_token_is_no_miss(tokens: Tokens, account: Path, status: int) -> None:
    tokens.status = status
    backend = GCSBackend("b", api_root=tokens.url, service_account_file=account)
    for error in await fails(backend, BackendUnavailable, "no access token"):
        assert "PRIVATE" not in whole_text(error)


async def test_a_file_that_cannot_be_read(tokens: Tokens, tmp_path: Path, account: Path) -> None:
    missing = tmp_path / "missing.json"
    await fails(GCSBackend("b", api_root=tokens.url, service_account_file=missing), BackendUnavailable, "missing.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    backend = GCSBackend("b", api_root=tokens.url, service_account_file=broken)
    with pytest.raises(BackendUnavailable, match="no JSON"):
        await backend.get(KEY)
    await asyncio.to_thread(account.rename, broken)
    assert await backend.get(KEY) is None  # it was put right meanwhile
    await backend.aclose()
