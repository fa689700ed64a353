from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.storage.blob import ContainerClient, generate_account_sas

from asynccache.backends.azure_blob import AzureBlobBackend
from asynccache.errors import BackendUnavailable, ConfigError
from asynccache.testing import BackendContract
from asynccache.testing.contract import entry_of
from tests.backends.object_stores import KEY, ObjectStoreTests, Store, fails, response, saying, server, whole_text
from tests.servers.azurite import AzuriteServer

WRONG_KEY = base64.b64encode(b"another key of the same length, for no account is it right......").decode()


class Container(Store):
    def __init__(self, at: AzuriteServer) -> None:
        self.server, self.name = at, at.new_container()
        self.client = ContainerClient.from_connection_string(at.connection_string, self.name)

    def backend(self, **options: Any) -> AzureBlobBackend:
        place = {"account_url": self.server.url, "container": self.name, "credential": self.server.key}
        return AzureBlobBackend(**{**place, **options})

    def at(self, url: str, **options: Any) -> AzureBlobBackend:
        credential = {"account_name": self.server.account, "account_key": self.server.key}
        return self.backend(account_url=f"{url}/{self.server.account}", credential=credential, **options)

    def missing(self) -> AzureBlobBackend:
        return self.backend(container="there-is-no-such-container")

    def put(self, name: str, data: bytes) -> None:
        self.client.upload_blob(name, data, overwrite=True)

    def names(self) -> list[str]:
        return list(self.client.list_blob_names())


@pytest.fixture
def store(azurite: AzuriteServer) -> Iterator[Container]:
    store = Container(azurite)
    with store.client:
        yield store


def signature(store: Container, permission: str = "rwdlc") -> str:
    end = datetime.now(UTC) + timedelta(hours=1)
    account, key = store.server.account, store.server.key
    return str(generate_account_sas(account, key, "sco", permission, end, protocol="https,http"))


class TestContract(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, store: Container) -> Callable[[], AzureBlobBackend]:
        return store.backend


class TestObjectStore(ObjectStoreTests):
    pass


def test_missing_extras_are_named(store: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity.aio", None)
    with pytest.raises(ConfigError, match="azure-identity"):
        AzureBlobBackend(store.server.url, "c")
    monkeypatch.setitem(sys.modules, "azure.storage.blob.aio", None)
    with pytest.raises(ConfigError, match=r"asynccache\[azure\]"):
        store.backend()


@pytest.mark.parametrize("how", ["key", "connection string", "signature", "signed URL"])
async def test_all_kinds_of_credentials(store: Container, how: str) -> None:
    url, container = store.server.url, store.name
    backend = {
        "key": lambda: AzureBlobBackend(url, container, credential=store.server.key),
        "connection string": lambda: AzureBlobBackend(
            container=container, connection_string=store.server.connection_string
        ),
        "signature": lambda: AzureBlobBackend(url, container, credential=signature(store)),
        "signed URL": lambda: AzureBlobBackend(f"{url}?{signature(store)}", container),
    }[how]()
    await backend.ping()
    await backend.set(KEY, entry_of(b"1"))
    assert await backend.get(KEY) is not None
    assert await backend.delete(KEY)
    assert store.server.key not in repr(backend)
    assert "sig=" not in repr(backend)
    await backend.aclose()


async def test_wrong_credentials_are_refused_and_told_to_nobody(store: Container) -> None:
    wrong = store.server.connection_string.replace(store.server.key, WRONG_KEY)
    sas = signature(store).replace("sig=", "sig=AAAA")
    backends = [
        store.backend(credential=WRONG_KEY),
        store.backend(credential=sas),
        AzureBlobBackend(f"{store.server.url}?{sas}", store.name),
        AzureBlobBackend(container=store.name, connection_string=wrong),
    ]
    for backend in backends:
        for error in await fails(backend, BackendUnavailable, "403"):
            for secret in (WRONG_KEY, sas, sas.partition("sig=")[2]):
                assert secret not in whole_text(error)
                assert secret not in repr(backend)


async def test_a_signature_without_the_right_to_write(store: Container) -> None:
    backend = store.backend(credential=signature(store, "rl"))
    await backend.ping()
    assert await backend.get(KEY) is None
    with pytest.raises(BackendUnavailable, match="403"):
        await backend.set(KEY, entry_of(b"1"))
    await backend.aclose()


async def test_what_the_server_says_is_not_repeated(store: Container) -> None:
    answer = response("403 sig=SECRET", b"<Error><Code>sig=SECRET</Code><Message>sig=SECRET</Message></Error>")
    async with server(saying(answer)) as url:
        for error in await fails(store.at(url), BackendUnavailable, "403"):
            assert "SECRET" not in str(error)


async def test_a_client_that_was_handed_in_is_not_closed(store: Container) -> None:
    from azure.storage.blob.aio import ContainerClient

    async with ContainerClient.from_connection_string(store.server.connection_string, store.name) as client:
        backend = AzureBlobBackend(client=client)
        assert store.name in repr(backend)
        await backend.set(KEY, entry_of(b"1"))
        await backend.leave()
        assert await backend.get(KEY) is not None
        await backend.aclose()
        assert [blob.name async for blob in client.list_blobs()] == store.names() != []


async def test_the_container_is_made_when_that_is_wanted(store: Container) -> None:
    for _ in range(2):
        backend = store.backend(container=f"made-{store.name[10:20]}", create=True)
        await backend.set(KEY, entry_of(b"1"))
        assert await backend.get(KEY) is not None
        await backend.aclose()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"container": ""}, "container"),
        ({"container": None}, "container"),
        ({"account_url": None}, "account_url"),
        ({"connection_string": "AccountName=a;AccountKey=SECRET"}, "only one"),
        ({"account_url": None, "credential": None, "connection_string": "AccountKey=SECRET"}, "connection_string"),
        ({"account_url": None, "connection_string": "AccountName=a;AccountKey=SECRET"}, "credential"),
        ({"credential": object()}, "credential"),
        ({"account_url": 5}, "account_url"),
    ],
)
def test_options_that_make_no_sense(store: Container, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        store.backend(**options)
    assert "SECRET" not in whole_text(caught.value)
