from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen
from xml.etree import ElementTree

import pytest

from asynccache.backends.s3 import S3Backend
from asynccache.errors import BackendUnavailable, ConfigError
from asynccache.testing import BackendContract
from asynccache.testing.contract import entry_of
from tests.backends.object_stores import KEY, ObjectStoreTests, Store, fails, response, saying, server, whole_text
from tests.servers.s3 import S3Server

SECRET = "secret/of+the=test"
KEYS = {"region": "us-east-1", "access_key_id": "AKIATEST", "secret_access_key": SECRET}


class Bucket(Store):
    def __init__(self, at: S3Server) -> None:
        self.url, self.name = at.url, at.new_bucket()

    def backend(self, **options: Any) -> S3Backend:
        # On a busy machine moto takes its time to accept many connections at once.
        own = {"bucket": self.name, "endpoint_url": self.url, "connect_timeout": 10.0, **KEYS}
        return S3Backend(**{**own, **options})

    def at(self, url: str, **options: Any) -> S3Backend:
        return self.backend(endpoint_url=url, **options)

    def missing(self) -> S3Backend:
        return self.backend(bucket="there-is-no-such-bucket")

    def put(self, name: str, data: bytes) -> None:
        kind = {"Content-Type": "application/octet-stream", "Authorization": "AWS AKIATEST:unchecked"}
        with urlopen(Request(f"{self.url}/{self.name}/{quote(name)}", data, kind, method="PUT"), timeout=30):
            pass

    def names(self) -> list[str]:
        with urlopen(f"{self.url}/{self.name}?list-type=2", timeout=30) as answer:
            return [str(name.text) for name in ElementTree.parse(answer).iterfind(".//{*}Contents/{*}Key")]


@pytest.fixture
def store(s3_server: S3Server) -> Bucket:
    return Bucket(s3_server)


class TestContract(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, store: Bucket) -> Callable[[], S3Backend]:
        return store.backend


class TestObjectStore(ObjectStoreTests):
    pass


async def test_without_aioboto3_aiobotocore_does_it(store: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with_both = store.backend()
    await with_both.set(KEY, entry_of(b"1"))
    monkeypatch.setitem(sys.modules, "aioboto3", None)
    alone = store.backend()
    found = await alone.get(KEY)
    assert found is not None
    assert found.body == b"1"
    await with_both.aclose()
    await alone.aclose()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiobotocore.session", None)
    with pytest.raises(ConfigError, match=r"asynccache\[s3\]"):
        S3Backend("b")


async def test_a_client_that_was_handed_in_is_not_closed(store: Bucket) -> None:
    import aioboto3

    names = {"endpoint_url": store.url, "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "AKIATEST", "aws_secret_access_key": SECRET}
    async with aioboto3.Session().client("s3", **names, **keys) as client:
        backend = S3Backend(store.name, client=client)
        await backend.set(KEY, entry_of(b"1"))
        await backend.leave()
        assert await backend.get(KEY) is not None
        await backend.aclose()
        assert (await client.list_objects_v2(Bucket=store.name))["KeyCount"] == 1


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
async def test_the_bucket_is_made_when_that_is_wanted(store: Bucket, region: str) -> None:
    for _ in range(2):
        backend = store.backend(bucket=f"made-in-{region}", region=region, create=True)
        await backend.set(KEY, entry_of(b"1"))
        assert await backend.get(KEY) is not None
        await backend.aclose()


async def test_making_the_bucket_fails_and_is_tried_again(store: Bucket) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await saying(response("403 Forbidden"))(reader, writer)

    async with server(answer) as url:
        await fails(store.at(url, create=True), BackendUnavailable)
    assert asked == 5  # once for each verb, and no verb was sent


async def test_deleting_an_object_without_bytes(store: Bucket) -> None:
    backend = store.backend()
    store.put(f"{KEY.digest[:2]}/{KEY.digest}", b"")
    assert await backend.delete(KEY) is True
    assert await backend.delete(KEY) is False
    await backend.aclose()


async def test_without_the_right_to_list_the_error_says_so(store: Bucket) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    async with server(saying(response("403 Forbidden", body))) as url:
        await fails(store.at(url), BackendUnavailable, "s3:ListBucket")


async def test_no_secret_is_in_an_error_or_a_repr(store: Bucket) -> None:
    body = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{SECRET}</Message></Error>".encode()
    assert SECRET not in repr(store.backend())
    async with server(saying(response("403 Forbidden", body))) as url:
        for error in await fails(store.at(url), BackendUnavailable, "SignatureDoesNotMatch"):
            assert SECRET not in str(error)
            assert SECRET not in repr(error)
    async with server(saying(response("500 No"))) as url:
        for error in await fails(store.at(url), BackendUnavailable):
            assert SECRET not in whole_text(error)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bucket": ""}, "bucket"),
        ({"bucket": None}, "bucket"),
        ({"secret_access_key": None}, "go together"),
        ({"access_key_id": None}, "go together"),
        ({"access_key_id": None, "secret_access_key": None, "session_token": "t"}, "session_token"),
        ({"config": {"no_such_option": 1}}, "config"),
        ({"config": "path"}, "config"),
    ],
)
def test_options_that_make_no_sense(store: Bucket, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        store.backend(**options)


async def test_a_config_takes_precedence(store: Bucket) -> None:
    from botocore.config import Config

    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response("500 No"))

    for config in ({"user_agent": "as wanted"}, Config(user_agent="as wanted")):
        async with server(answer) as url, asyncio.timeout(30):
            backend = store.at(url, config=config)
            with pytest.raises(BackendUnavailable):
                await backend.get(KEY)
            await backend.aclose()
    assert len(seen) == 2  # still without retries
    assert all(b"as wanted" in head for head in seen)
