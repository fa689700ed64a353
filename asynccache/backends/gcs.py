"""Entries as objects in a bucket of Google Cloud Storage. See `_objects` for what is promised.

What is never read again stays until the bucket's lifecycle removes it. A rule for `path="cache/"`, where no time to
live is longer than 30 days:

    {"rule": [{"action": {"type": "Delete"}, "condition": {"age": 31, "matchesPrefix": ["cache/"]}}]}

    gcloud storage buckets update gs://… --lifecycle-file=rule.json
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any

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
)
from asynccache.codec import PLAIN, Codec
from asynccache.errors import BackendError, BackendUnavailable, ConfigError
from asynccache.protocols import Clock

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from gcloud.aio.auth import Token
    from gcloud.aio.storage import Storage

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_VERSION = "x-goog-generation"
_PAUSE = 1.0  # seconds until a renewal that failed is tried again while the token still holds
_NO_OBJECT = "No such object"
_MISSING, _NOT_MET = 404, 412


class GCSBackend(ObjectBackend["Storage"]):
    """Keeps entries in a bucket, one object each; every process that has the bucket and the path sees them.

    bucket:               must exist.
    service_account_file: a file of credentials in JSON. None: what GOOGLE_APPLICATION_CREDENTIALS names, what
                          `gcloud auth application-default login` left, or the machine's service account.
    path:                 what the names of all objects begin with; a slash at its end may be left out.
    api_root:             of another endpoint, "http://127.0.0.1:9023" say. None: what STORAGE_EMULATOR_HOST names,
                          or Google's. Over plain http no credentials are sent, unless a file of them is given.
    connections:          open at the same time, on each event loop.
    connect_timeout:      seconds for a TCP connection.
    timeout:              seconds for an operation, from start to end. Nothing is retried.
    session:              an aiohttp session to use instead of an own one, on the loop that it belongs to. It is not
                          closed, and limits and proxies are its own.
    codec, clock:         how entries are written; what tells whether they have expired.

    Raises ConfigError for an option that makes no sense, and when the extra `asynccache[gcs]` is missing.

    Rights. storage.objects.get, .create, .delete and .list (the role Storage Object User has them): without the last
    one Cloud Storage answers 403 where there is no object, and each miss is BackendUnavailable.

    Pace. Cloud Storage takes about one write a second for one and the same object. More are BackendUnavailable (429).

    Every operation is one request. May be used from several event loops, one after another or at once, and after a
    fork.
    """

    name = "gcs"

    def __init__(
        self,
        bucket: str,
        *,
        service_account_file: str | os.PathLike[str] | None = None,
        path: str = "",
        api_root: str | None = None,
        connections: int = CONNECTIONS,
        connect_timeout: float = CONNECT_TIMEOUT,
        timeout: float = TIMEOUT,
        session: ClientSession | None = None,
        codec: Codec = PLAIN,
        clock: Clock = time,
    ) -> None:
        super().__init__(path=path, timeout=timeout, codec=codec, clock=clock)
        self.bucket = text("bucket", bucket)
        self._file = None if service_account_file is None else os.fspath(service_account_file)
        self._root = api_root if api_root is None else text("api_root", api_root).rstrip("/")
        self._connections = count("connections", connections)
        self._session = session
        try:
            self._aiohttp = importlib.import_module("aiohttp")
            self._auth = importlib.import_module("gcloud.aio.auth")
            self._storage = importlib.import_module("gcloud.aio.storage")
        except ImportError as error:
            raise ConfigError("the gcs backend needs the extra asynccache[gcs]") from error
        self._answered: type[Exception] = self._aiohttp.ClientResponseError
        # Without limits of its own for the rest, which would be watched beside `timeout`.
        self._limits = self._aiohttp.ClientTimeout(total=None, sock_connect=seconds("connect_timeout", connect_timeout))

    def __repr__(self) -> str:
        return f"GCSBackend({self.bucket!r}, path={self.path!r})"

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Storage]:
        # One generator, not one in another: when a loop ends with the backend open, it closes them all at once.
        async with AsyncExitStack() as stack:
            session = self._session
            if session is None:
                session = await stack.enter_async_context(self._new_session())
            token = _Token(await asyncio.to_thread(self._read_credentials, session))
            stack.push_async_callback(token.aclose)
            # The library takes any endpoint but Google's for an emulator, to which it sends no token.
            tokenless = None if self._root is None else self._root.startswith("http:") and self._file is None
            yield self._storage.Storage(session=session, token=token, api_root=self._root, api_is_dev=tokenless)

    def _new_session(self) -> ClientSession:
        session: ClientSession = self._aiohttp.ClientSession(
            connector=self._aiohttp.TCPConnector(limit=self._connections),
            cookie_jar=self._aiohttp.DummyCookieJar(),
            trust_env=proxies_are_set(),
        )
        return session

    def _read_credentials(self, session: ClientSession) -> Token:
        """In a thread: it reads files."""
        if self._file is not None:
            # The library goes over to the machine's service account when it cannot read the file.
            try:
                json.loads(Path(self._file).read_bytes())
            except (OSError, ValueError) as error:
                reason = f"service_account_file {self._file}: {getattr(error, 'strerror', None) or 'no JSON'}"
                raise BackendUnavailable(reason, backend=self.name) from error
        token: Token = self._auth.Token(service_file=self._file, session=session, scopes=[_SCOPE])
        return token

    async def _fetch(self, storage: Storage, name: str) -> Found | None:
        try:
            stream = await storage.download_stream(self.bucket, name, timeout=self._limits)
        except self._answered as error:
            if await self._is_missing(storage, error):
                return None
            raise
        async with stream as response:
            return Found(await response.read(), response.headers.get(_VERSION, ABSENT))

    async def _put(self, storage: Storage, name: str, data: bytes, version: str | None) -> bool:
        parameters = {} if version is None else {"ifGenerationMatch": version or "0"}
        try:
            await storage.upload(
                self.bucket,
                name,
                data,
                content_type="application/octet-stream",
                parameters=parameters,
                force_resumable_upload=False,  # that would be several requests, with retries up to 15 s
                timeout=self._limits,
            )
        except self._answered as error:
            if _status(error) == _NOT_MET:
                return False
            raise
        return True

    async def _remove(self, storage: Storage, name: str, version: str) -> None:
        parameters = {"ifGenerationMatch": version}
        try:
            await storage.delete(self.bucket, name, params=parameters, timeout=self._limits)
        except self._answered as error:
            if _status(error) not in (_NOT_MET, _MISSING):
                raise

    async def _delete(self, storage: Storage, name: str) -> bool:
        try:
            await storage.delete(self.bucket, name, timeout=self._limits)
        except self._answered as error:
            if await self._is_missing(storage, error):
                return False
            raise
        return True

    async def _is_missing(self, storage: Storage, error: Exception) -> bool:
        """Whether it is the object that is not there. Raises what says that it is the bucket.

        Cloud Storage says which in the text of its answer. Where that does not say it, the bucket is asked.
        """
        if _status(error) != _MISSING:
            return False
        if _NO_OBJECT not in str(error):
            await storage.list_objects(self.bucket, params={"maxResults": "1", "fields": "kind"}, timeout=self._limits)
        return True

    def _translated(self, error: Exception) -> BackendError:
        status = _status(error)
        if status == _MISSING:
            reason = f"bucket {self.bucket!r} does not exist"
        elif status:
            reason = f"bucket {self.bucket!r}: the answer was {status}"
        else:
            reason = f"bucket {self.bucket!r}: {type(error).__name__}"
        if status == 403:
            reason += " (what is missing may be the right storage.objects.list)"
        return BackendUnavailable(reason, backend=self.name)


class _Token:
    """The access token of one event loop. It is renewed in the background at half its life, and waited for only
    when it is about to end.

    The library's own `get` renews in a task that the first caller waits for: when that caller is cancelled, so is
    the task, and with it everybody else who waits. It also tries for a minute before it says that it cannot.
    """

    def __init__(self, source: Token) -> None:
        self._source = source
        self._value = ""
        self._renew_at = self._ends_at = 0.0
        self._renewing: asyncio.Task[None] | None = None

    async def get(self) -> str:
        now = monotonic()
        if now >= self._renew_at or now >= self._ends_at:
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.get_running_loop().create_task(self._renew())
                self._renewing.add_done_callback(lambda task: task.cancelled() or task.exception())
            if now >= self._ends_at:
                await asyncio.shield(self._renewing)
        return self._value

    async def _renew(self) -> None:
        asked_at = monotonic()
        try:
            answer = await self._source.refresh(timeout=int(TIMEOUT))
        except Exception as error:  # an answer of 404 must not be taken for that of an object; and all sorts of things
            self._renew_at = monotonic() + _PAUSE
            raise BackendUnavailable(f"no access token: {type(error).__name__}", backend=GCSBackend.name) from error
        self._value = answer.value
        self._renew_at = asked_at + 0.5 * answer.expires_in
        self._ends_at = asked_at + 0.95 * answer.expires_in

    async def aclose(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait((self._renewing,))


def _status(error: Any) -> int:
    return getattr(error, "status", 0)


BACKEND = GCSBackend
