"""Entries as blobs in a container of Azure Blob Storage. See `_objects` for what is promised.

What is never read again stays until the account's lifecycle management removes it. A rule for `path="cache/"` in the
container `llm`, where no time to live is longer than 30 days:

    {"rules": [{"enabled": true, "name": "asynccache", "type": "Lifecycle", "definition": {
        "filters": {"blobTypes": ["blockBlob"], "prefixMatch": ["llm/cache/"]},
        "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": 31}}}}}]}

    az storage account management-policy create --account-name … --resource-group … --policy @rule.json
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from time import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from asynccache.backends._objects import (
    ABSENT,
    CONNECT_TIMEOUT,
    CONNECTIONS,
    TIMEOUT,
    Found,
    ObjectBackend,
    count,
    proxies_are_set,
    seconds,
    text,
    word,
)
from asynccache.codec import PLAIN, Codec
from asynccache.errors import BackendError, BackendTimeout, BackendUnavailable, ConfigError
from asynccache.protocols import Clock

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from azure.storage.blob.aio import ContainerClient

_SCOPE = "https://storage.azure.com/.default"
_LARGE = 256 * 1024

_NO_OBJECT = "BlobNotFound"
_NO_CONTAINER = "ContainerNotFound"
_NOT_MET = {"ConditionNotMet", "BlobAlreadyExists"}
_CONTAINER_IS_THERE = "ContainerAlreadyExists"


class AzureBlobBackend(ObjectBackend["ContainerClient"]):
    """Keeps entries in a container, one block blob each; every process that has the container and the path sees them.

    account_url:       "https://….blob.core.windows.net"; it may bring a shared access signature with it.
    container:         must exist, unless `create` is set.
    connection_string: in the place of `account_url` and `credential`.
    credential:        the account's key, a shared access signature, or an asynchronous token credential, which is
                       not closed and must be one for all event loops. None: azure-identity's DefaultAzureCredential,
                       unless the URL has a signature.
    path:              what the names of all blobs begin with; a slash at its end may be left out.
    create:            make the container when it is missing, before the first use.
    connections:       open at the same time, on each event loop.
    connect_timeout:   seconds for a TCP connection.
    timeout:           seconds for an operation, from start to end. Nothing is retried, but that the SDK begins a
                       download that breaks off again, twice at most, after a second each.
    client:            a ContainerClient (of azure.storage.blob.aio) to use instead of an own one, on the loop that
                       it belongs to. It is not closed; container, retries and limits are its own.
    codec, clock:      how entries are written; what tells whether they have expired.

    Raises ConfigError for an option that makes no sense, and when the extra `asynccache[azure]` is missing, or
    azure-identity where it would be needed.

    Rights. To read, write and delete blobs (the role Storage Blob Data Contributor has them); for `create`, to make
    containers.

    Every operation is one request. May be used from several event loops, one after another or at once, and after a
    fork.
    """

    name = "azure_blob"

    def __init__(
        self,
        account_url: str | None = None,
        container: str | None = None,
        *,
        connection_string: str | None = None,
        credential: Any = None,
        path: str = "",
        create: bool = False,
        connections: int = CONNECTIONS,
        connect_timeout: float = CONNECT_TIMEOUT,
        timeout: float = TIMEOUT,
        client: ContainerClient | None = None,
        codec: Codec = PLAIN,
        clock: Clock = time,
    ) -> None:
        super().__init__(path=path, timeout=timeout, codec=codec, clock=clock)
        self._create = create
        self._client = client
        self._connections = count("connections", connections)
        self._limits = {
            "connection_timeout": seconds("connect_timeout", connect_timeout),
            "read_timeout": self.timeout,
        }
        self._driver = _Driver()
        if client is not None:
            _only_one({"client": client, "account_url": account_url, "connection_string": connection_string})
            self.container = client.container_name
            return
        self.container = text("container", container or "")
        self._account_url = account_url
        self._connection_string = connection_string
        self._credential = credential
        _only_one({"account_url": account_url, "connection_string": connection_string})
        if connection_string is not None and credential is not None:
            raise ConfigError("credential goes with account_url: a connection_string has one of its own")
        self._wants_identity = connection_string is None and credential is None and not _is_signed(account_url or "")
        if self._wants_identity:
            self._driver.need_identity()
        self._check()

    def __repr__(self) -> str:
        account = f"{_bare(self._account_url)!r}, " if self._client is None and self._account_url else ""
        return f"AzureBlobBackend({account}container={self.container!r}, path={self.path!r})"

    def _check(self) -> None:
        """Make a client now, which does no I/O, to find out what is wrong with the options."""
        try:
            self._new_client(self._credential)
        except (ValueError, TypeError, AttributeError) as error:
            # Not the error's own text, nor the error as the cause: they may repeat what was given.
            if self._connection_string is not None:
                reason = "connection_string is none of Azure's: 'DefaultEndpointsProtocol=https;AccountName=…;…'"
            else:
                reason = "account_url must be like 'https://….blob.core.windows.net', and credential fit to it"
            raise ConfigError(f"{reason} ({type(error).__name__})") from None

    def _new_client(self, credential: Any, **options: Any) -> ContainerClient:
        kind = self._driver.container_client
        client: ContainerClient
        if self._connection_string is not None:
            client = kind.from_connection_string(self._connection_string, self.container, retry_total=0, **options)
        else:
            client = kind(self._account_url, self.container, credential=credential, retry_total=0, **options)
        return client

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[ContainerClient]:
        if self._client is not None:
            yield self._client
            return
        async with AsyncExitStack() as stack:
            credential = self._credential
            if self._wants_identity:
                identity = await asyncio.to_thread(self._driver.default_credential)
                credential = await stack.enter_async_context(identity)
                # It keeps the token. A call may be given less time than getting one takes; an opening is not.
                await credential.get_token(_SCOPE)
            session = await stack.enter_async_context(self._driver.session(self._connections))
            transport = self._driver.transport(session=_InParts(session), session_owner=False, **self._limits)
            client = await stack.enter_async_context(self._new_client(credential, transport=transport))
            if self._create:
                await self._create_container(client)
            yield client

    async def _create_container(self, client: ContainerClient) -> None:
        try:
            await client.create_container()
        except self._driver.answered as error:
            if _code(error) != _CONTAINER_IS_THERE:
                raise

    async def _fetch(self, client: ContainerClient, name: str) -> Found | None:
        try:
            stream = await client.download_blob(name)
            return Found(await stream.readall(), stream.properties.etag or ABSENT)
        except self._driver.answered as error:
            if _code(error) == _NO_OBJECT:
                return None
            raise

    async def _put(self, client: ContainerClient, name: str, data: bytes, version: str | None) -> bool:
        condition = self._unchanged(version) if version else {}
        try:
            await client.upload_blob(name, data, overwrite=version != ABSENT, **condition)
        except self._driver.answered as error:
            if _code(error) in _NOT_MET or _code(error) == _NO_OBJECT:
                return False
            raise
        return True

    async def _remove(self, client: ContainerClient, name: str, version: str) -> None:
        try:
            await client.delete_blob(name, **self._unchanged(version))
        except self._driver.answered as error:
            if _code(error) not in _NOT_MET and _code(error) != _NO_OBJECT:
                raise

    async def _delete(self, client: ContainerClient, name: str) -> bool:
        try:
            await client.delete_blob(name)
        except self._driver.answered as error:
            if _code(error) == _NO_OBJECT:
                return False
            raise
        return True

    def _unchanged(self, version: str) -> dict[str, Any]:
        return {"etag": version, "match_condition": self._driver.if_not_modified}

    def _translated(self, error: Exception) -> BackendError:
        where = f"container {self.container!r}"
        if isinstance(error, self._driver.timeouts):
            return BackendTimeout(f"{where}: no answer ({type(error).__name__})", backend=self.name)
        code = _code(error)
        if code == _NO_CONTAINER:
            return BackendUnavailable(f"{where} does not exist: make it, or set create=True", backend=self.name)
        status = getattr(error, "status_code", None)
        reason = f"{word(code)} ({status})" if status else type(error).__name__
        return BackendUnavailable(f"{where}: {reason}", backend=self.name)


class _Driver:
    """What is needed of the SDK. Raises ConfigError when it is not installed."""

    def __init__(self) -> None:
        try:
            self.container_client = importlib.import_module("azure.storage.blob.aio").ContainerClient
            self._aiohttp = importlib.import_module("aiohttp")
            self.transport = importlib.import_module("azure.core.pipeline.transport").AioHttpTransport
            errors = importlib.import_module("azure.core.exceptions")
        except ImportError as error:
            raise ConfigError("the azure_blob backend needs the extra asynccache[azure]") from error
        self.answered: type[Exception] = errors.HttpResponseError
        self.timeouts: tuple[type[Exception], ...] = (
            errors.ServiceRequestTimeoutError,
            errors.ServiceResponseTimeoutError,
        )
        self.if_not_modified = importlib.import_module("azure.core").MatchConditions.IfNotModified

    def need_identity(self) -> None:
        try:
            importlib.import_module("azure.identity.aio")
        except ImportError as error:
            reason = "without a credential the azure_blob backend needs the package azure-identity: install it, or"
            raise ConfigError(f"{reason} give a credential, a connection_string or a signed account_url") from error

    def default_credential(self) -> Any:
        return importlib.import_module("azure.identity.aio").DefaultAzureCredential()

    def session(self, connections: int) -> ClientSession:
        session: ClientSession = self._aiohttp.ClientSession(
            connector=self._aiohttp.TCPConnector(limit=connections),
            cookie_jar=self._aiohttp.DummyCookieJar(),
            auto_decompress=False,  # the SDK does that
            trust_env=proxies_are_set(),
        )
        return session


class _InParts:
    """What the SDK uses of a session. The SDK sends a body in one go, which holds the loop when it is a large one
    (aiohttp warns of it); this sends it piece by piece."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self.auto_decompress = session.auto_decompress

    async def __aenter__(self) -> _InParts:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def request(self, method: str, url: str, *, data: Any = None, **options: Any) -> Any:
        if isinstance(data, bytes) and len(data) > _LARGE:
            data = BytesIO(data)
        return await self._session.request(method, url, data=data, **options)


def _code(error: Any) -> str:
    """What Azure calls the error: a member of an enumeration of strings, or a string, or nothing at all."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code or ""))


def _only_one(options: dict[str, Any]) -> None:
    if sum(value is not None for value in options.values()) != 1:
        raise ConfigError(f"give one of {', '.join(options)}, and only one")


def _is_signed(url: str) -> bool:
    return "sig" in parse_qs(urlsplit(url).query)


def _bare(url: str) -> str:
    """Without what may be secret in it: the user's part, the query, the fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


BACKEND = AzureBlobBackend
