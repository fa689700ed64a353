"""Entries as objects in an S3 bucket, or in one of a store that speaks S3. See `_objects` for what is promised.

What is never read again stays until the bucket's lifecycle removes it. A rule for `path="cache/"`, where no time to
live is longer than 30 days:

    {"Rules": [{"ID": "asynccache", "Status": "Enabled", "Filter": {"Prefix": "cache/"},
                "Expiration": {"Days": 31}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}]}

    aws s3api put-bucket-lifecycle-configuration --bucket … --lifecycle-configuration file://rule.json
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import time
from typing import Any

from asynccache.backends._objects import (
    ABSENT,
    CONNECT_TIMEOUT,
    CONNECTIONS,
    TIMEOUT,
    Found,
    ObjectBackend,
    count,
    seconds,
    text,
    word,
)
from asynccache.codec import PLAIN, Codec
from asynccache.errors import BackendError, BackendTimeout, BackendUnavailable, ConfigError
from asynccache.protocols import Clock

# aiobotocore makes its clients from descriptions at run time: there is no type to name.
Client = Any

_NO_OBJECT = "NoSuchKey"
_NO_BUCKET = "NoSuchBucket"
_NOT_MET = "PreconditionFailed"
_EMPTY = "InvalidRange"  # the first byte was asked for, and there is none
_BUCKET_IS_THERE = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


class S3Backend(ObjectBackend[Client]):
    """Keeps entries in a bucket, one object each; every process that has the bucket and the path sees them.

    bucket:            must exist, unless `create` is set.
    region, access_key_id, secret_access_key, session_token: None: what botocore finds (environment, shared
                       files, the machine's role).
    endpoint_url:      of a store that is not Amazon's. Its buckets are then addressed by path.
    path:              what the names of all objects begin with; a slash at its end may be left out.
    create:            make the bucket when it is missing, before the first use.
    use_ssl, verify, api_version, config: as in boto3's `client`; `config` is a botocore Config, or a mapping
                       of its options, which take precedence over those below.
    connections:       open at the same time, on each event loop.
    connect_timeout:   seconds for a TCP connection.
    timeout:           seconds for an operation, from start to end. Nothing is retried.
    client:            an aiobotocore or aioboto3 client to use instead of an own one, on the loop that it was
                       opened on. It is not closed, and the options above about connections are its own.
    codec, clock:      how entries are written; what tells whether they have expired.

    Raises ConfigError for an option that makes no sense, and when the extra `asynccache[s3]` is missing. Needed is
    aioboto3, or aiobotocore alone, beside which LiteLLM can be installed.

    Rights. s3:GetObject, s3:PutObject, s3:DeleteObject on the objects, and s3:ListBucket on the bucket: without that
    one S3 answers 403 where there is no object, and each miss is BackendUnavailable.

    Conditions. `add`, and removing what has expired, rest on If-None-Match and If-Match, which Amazon's S3 keeps. A
    store that ignores them lets several `add` at once succeed, and may lose an entry that is written in the moment
    in which an expired one is removed.

    Deleting takes two requests, because S3 does not say whether there was an object: one that asks for its first
    byte, and one that removes it. Two who delete at once may both be told that there was one; an entry that somebody
    writes in between is deleted with the other.

    May be used from several event loops, one after another or at once, and after a fork.
    """

    name = "s3"

    def __init__(
        self,
        bucket: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        path: str = "",
        create: bool = False,
        use_ssl: bool = True,
        verify: bool | str | None = None,
        api_version: str | None = None,
        config: Any = None,
        connections: int = CONNECTIONS,
        connect_timeout: float = CONNECT_TIMEOUT,
        timeout: float = TIMEOUT,
        client: Client | None = None,
        codec: Codec = PLAIN,
        clock: Clock = time,
    ) -> None:
        super().__init__(path=path, timeout=timeout, codec=codec, clock=clock)
        self.bucket = text("bucket", bucket)
        if (access_key_id is None) != (secret_access_key is None):
            raise ConfigError("access_key_id and secret_access_key go together: give both or none")
        if access_key_id is None and session_token is not None:
            raise ConfigError("session_token goes with access_key_id and secret_access_key: give all three")
        self._create = create
        self._client = client
        self._driver = _Driver()
        self._options = {
            "region_name": region,
            "endpoint_url": endpoint_url,
            "aws_access_key_id": access_key_id,
            "aws_secret_access_key": secret_access_key,
            "aws_session_token": session_token,
            "use_ssl": use_ssl,
            "verify": verify,
            "api_version": api_version,
            "config": self._driver.config(
                config,
                max_pool_connections=count("connections", connections),
                connect_timeout=seconds("connect_timeout", connect_timeout),
                read_timeout=self.timeout,
                retries={"total_max_attempts": 1, "mode": "standard"},
                # An entry has a checksum of its own, and not every store takes those that newer drivers add.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        }

    def __repr__(self) -> str:
        return f"S3Backend({self.bucket!r}, path={self.path!r})"

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Client]:
        if self._client is not None:
            yield self._client
            return
        session = await asyncio.to_thread(self._new_session)
        async with self._new_client(session) as client:
            if self._create:
                await self._create_bucket(client)
            yield client

    def _new_session(self) -> Any:
        """A session whose clients are made without reading files. The first one reads the descriptions of S3, the
        user's configuration and the credentials, 100 ms of it: so that is made here, in a thread, and thrown away."""
        session = self._driver.new_session()

        async def prepare() -> None:
            async with self._new_client(session):
                pass

        asyncio.run(prepare())
        return session

    def _new_client(self, session: Any) -> AbstractAsyncContextManager[Client]:
        client: AbstractAsyncContextManager[Client] = self._driver.client(session, **self._options)
        return client

    async def _create_bucket(self, client: Client) -> None:
        region = client.meta.region_name
        where = {} if region in ("us-east-1", "aws-global") else {"LocationConstraint": region}
        try:
            await client.create_bucket(Bucket=self.bucket, **({"CreateBucketConfiguration": where} if where else {}))
        except self._driver.client_error as error:
            if _code(error) not in _BUCKET_IS_THERE:
                raise

    async def _fetch(self, client: Client, name: str) -> Found | None:
        try:
            response = await client.get_object(Bucket=self.bucket, Key=name)
        except self._driver.client_error as error:
            if _code(error) == _NO_OBJECT:
                return None
            raise
        async with response["Body"] as body:
            return Found(await body.read(), response["ETag"])

    async def _put(self, client: Client, name: str, data: bytes, version: str | None) -> bool:
        condition = {} if version is None else {"IfNoneMatch": "*"} if version == ABSENT else {"IfMatch": version}
        try:
            await client.put_object(Bucket=self.bucket, Key=name, Body=data, **condition)
        except self._driver.client_error as error:
            if _code(error) in (_NOT_MET, _NO_OBJECT):
                return False
            raise
        return True

    async def _remove(self, client: Client, name: str, version: str) -> None:
        try:
            await client.delete_object(Bucket=self.bucket, Key=name, IfMatch=version)
        except self._driver.client_error as error:
            if _code(error) not in (_NOT_MET, _NO_OBJECT):
                raise

    async def _delete(self, client: Client, name: str) -> bool:
        # Not HEAD, whose answer has no body to tell a missing object from a missing bucket.
        try:
            response = await client.get_object(Bucket=self.bucket, Key=name, Range="bytes=0-0")
        except self._driver.client_error as error:
            if _code(error) == _NO_OBJECT:
                return False
            if _code(error) != _EMPTY:
                raise
        else:
            async with response["Body"] as body:
                await body.read()
        await client.delete_object(Bucket=self.bucket, Key=name)
        return True

    def _translated(self, error: Exception) -> BackendError:
        if isinstance(error, self._driver.timeouts):
            return BackendTimeout(f"bucket {self.bucket!r}: no answer ({type(error).__name__})", backend=self.name)
        if not isinstance(error, self._driver.client_error):
            return BackendUnavailable(f"bucket {self.bucket!r}: {type(error).__name__}", backend=self.name)
        code = _code(error)
        if code == _NO_BUCKET:
            reason = f"bucket {self.bucket!r} does not exist: make it, or set create=True"
        else:
            reason = f"bucket {self.bucket!r}: {word(code)}"
        if code == "AccessDenied":
            reason += " (what is missing may be the right s3:ListBucket)"
        return BackendUnavailable(reason, backend=self.name)


class _Driver:
    """aioboto3, or aiobotocore where that alone is installed. Their clients are the same. Raises ConfigError."""

    def __init__(self) -> None:
        try:
            self._aio_config = importlib.import_module("aiobotocore.config").AioConfig
            self._botocore_session = importlib.import_module("aiobotocore.session").AioSession
            errors = importlib.import_module("botocore.exceptions")
        except ImportError as error:
            raise ConfigError("the s3 backend needs the extra asynccache[s3]") from error
        try:
            self._session = importlib.import_module("aioboto3").Session
        except ImportError:
            self._session = None
        self._any_error: type[Exception] = errors.BotoCoreError
        self.client_error: type[Exception] = errors.ClientError
        self.timeouts: tuple[type[Exception], ...] = (errors.ConnectTimeoutError, errors.ReadTimeoutError)

    def config(self, wanted: Any, **ours: Any) -> Any:
        try:
            mine = self._aio_config(**ours)
            return mine.merge(self._aio_config(**wanted) if isinstance(wanted, Mapping) else wanted) if wanted else mine
        except (TypeError, AttributeError, ValueError, self._any_error) as error:
            raise ConfigError(f"config must be a botocore Config, or a mapping of its options: {error}") from error

    def new_session(self) -> Any:
        return self._botocore_session() if self._session is None else self._session()

    def client(self, session: Any, **options: Any) -> Any:
        make = session.create_client if self._session is None else session.client
        return make("s3", **options)


def _code(error: Any) -> str:
    """What S3 calls the error; "503" and the like when its answer was not one of S3's."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


BACKEND = S3Backend
