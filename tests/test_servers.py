"""The servers that other tests rely on: they start, speak their protocol, break when told to, and leave nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import boto3  # type: ignore[import-untyped]
import pytest
import redis
import redis.asyncio
from botocore.exceptions import ClientError
from gcloud.aio.storage import Storage
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from redis.exceptions import NoPermissionError

from tests.servers import installation, programs
from tests.servers.azurite import AzuriteServer
from tests.servers.gcs import GcsServer
from tests.servers.process import Server, ServerError, free_ports, wait_until
from tests.servers.qdrant import QdrantServer
from tests.servers.redis import (
    ClusterNode,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    SearchRedisServer,
    Sentinel,
    TlsRedisServer,
    VectorRedisServer,
)
from tests.servers.s3 import S3Server

ROOT = Path(__file__).resolve().parent.parent


def alive(pid: int) -> bool:
    """Whether the process runs. One that is dead and was not reaped yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state.strip().startswith("Z") and bool(state.strip())


@pytest.mark.parametrize("kind", [RedisServer, TlsRedisServer, ClusterNode, S3Server, GcsServer, AzuriteServer])
def test_a_server_comes_back_on_its_port_and_is_gone_afterwards(kind: Callable[[], Server]) -> None:
    """Also when it was frozen while it was stopped."""
    server = kind()
    with server:
        first, port, folder = server.pid, server.port, server.folder
        assert server.answers()
        server.kill()
        assert not server.runs
        with pytest.raises(OSError, match=r"[Rr]efused"):
            server.answers()
        server.start()
        assert (server.port, server.folder) == (port, folder)
        assert server.answers()
        assert server.pid != first
        second = server.pid
        server.freeze()
    assert not alive(first)
    assert not alive(second)
    assert not folder.exists()
    server.stop()  # once more does nothing


def test_a_frozen_server_accepts_and_answers_when_it_thaws(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    server.freeze()
    with socket.create_connection((server.host, server.port), timeout=0.05) as client:
        client.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            client.recv(100)
        server.thaw()
        client.settimeout(10)
        assert client.recv(100) == b"+PONG\r\n"


def test_options_reach_redis_and_it_forgets_when_killed(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis("--maxmemory", "3mb")
    assert server.ask("CONFIG", "GET", "maxmemory") == ["maxmemory", str(3 << 20)]
    assert server.ask("SET", "a", "1") == "OK"
    server.kill()
    server.start()
    assert server.ask("GET", "a") is None


async def test_redis_by_url_and_by_unix_socket(redis_server: RedisServer) -> None:
    by_url = redis.asyncio.Redis.from_url(redis_server.url)
    by_path = redis.asyncio.Redis(unix_socket_path=redis_server.unix_socket_path)
    async with by_url, by_path:
        key = f"{random.random()}"
        await by_url.set(key, b"1", px=60_000)
        assert await by_path.get(key) == b"1"


async def test_redis_with_tls_knows_its_user_and_is_known_by_its_authority(redis_tls: TlsRedisServer) -> None:
    async with redis.asyncio.Redis.from_url(redis_tls.url) as client:
        assert await client.ping()
        with pytest.raises(NoPermissionError):
            await client.flushall()
    trusting = ssl.create_default_context(cafile=redis_tls.ca)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    for name in ("127.0.0.1", "localhost"):
        assert shake_hands(redis_tls, trusting, name) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(redis_tls, ssl.create_default_context(), "localhost")


def shake_hands(server: Server, context: ssl.SSLContext, name: str) -> str | None:
    plain = socket.create_connection((server.host, server.port), timeout=5)
    with plain, context.wrap_socket(plain, server_hostname=name) as wrapped:
        return wrapped.version()


async def test_a_cluster_is_whole_and_outlives_a_master(new_redis_cluster: Callable[[], RedisCluster]) -> None:
    cluster = new_redis_cluster()
    assert len(cluster.masters()) == 3
    assert cluster.nodes == [(server.host, server.port) for server in cluster.servers]
    killed = cluster.master_of(0)
    host, port = next(node for node in cluster.nodes if node[1] != killed.port)
    async with redis.asyncio.RedisCluster(host=host, port=port) as client:
        assert {(node.host, node.port) for node in client.get_nodes()} == set(cluster.nodes)
        await asyncio.gather(*(client.set(f"key:{i}", i) for i in range(50)))
        killed.kill()
        with pytest.raises(LookupError, match="slot 0"):
            cluster.master_of(0)
        wait_until(lambda: len(cluster.masters()) == 3, "a replica has taken over")
        assert cluster.master_of(0) is not killed
        killed.start()
        cluster.wait_until_whole()
        assert killed not in cluster.masters()
        assert await asyncio.gather(*(client.get(f"key:{i}") for i in range(50))) == [b"%d" % i for i in range(50)]


async def test_sentinels_make_the_replica_the_master(new_redis_sentinel: Callable[[], RedisSentinel]) -> None:
    group = new_redis_sentinel()
    assert len(group.sentinels) == 3
    connect: Any = redis.asyncio.Sentinel  # has no types
    watch = connect(group.sentinels, socket_timeout=5)
    try:
        assert await watch.discover_master(group.service) == (group.master.host, group.master.port)
        assert await watch.discover_slaves(group.service) == [(group.replica.host, group.replica.port)]
        group.master.kill()
        wait_until(lambda: group.current_master() is group.replica, "the sentinels have chosen")
        wait_until(lambda: group.replica.ask("ROLE")[0] == "master", "the replica is the master")
        assert group.replica.ask("SET", "a", "1") == "OK"
        group.master.start()
        wait_until(lambda: group.master.ask("GET", "a") == "1", "the old master has the data")
        group.wait_until_whole()
    finally:
        for client in watch.sentinels:
            await client.aclose()


def test_redis_8_has_vectors_and_redisearch_where_it_is_loaded(
    redis_vectors: VectorRedisServer, redis_search: SearchRedisServer
) -> None:
    assert redis_vectors.ask("VADD", "set", "VALUES", 2, "1", "0", "element") == 1
    assert redis_vectors.ask("VSIM", "set", "VALUES", 2, "1", "0") == ["element"]
    with pytest.raises(redis.ResponseError, match="unknown command"):
        redis_vectors.ask("FT._LIST")
    assert redis_search.ask("FT._LIST") == []


async def test_qdrant_finds_what_was_put_there_and_wants_its_key(qdrant_server: QdrantServer) -> None:
    client = AsyncQdrantClient(url=qdrant_server.url, check_compatibility=False)
    vectors = models.VectorParams(size=2, distance=models.Distance.COSINE)
    await client.create_collection("c", vectors_config=vectors)
    await client.upsert("c", [models.PointStruct(id=n, vector=[1.0, n], payload={"n": n}) for n in range(3)])
    above = models.FieldCondition(key="n", range=models.Range(gt=0))
    found = await client.query_points("c", query=[1.0, 0.0], query_filter=models.Filter(must=above))
    assert [(point.id, point.payload) for point in found.points] == [(1, {"n": 1}), (2, {"n": 2})]
    assert found.points[0].score == pytest.approx(0.5**0.5)
    with pytest.raises(UnexpectedResponse, match="already exists"):
        await client.create_collection("c", vectors_config=vectors)
    await client.close()
    with QdrantServer(key="secret") as server:
        for key, opens in (("secret", True), ("other", False)):
            with pytest.warns(UserWarning, match="insecure connection"):  # on the loopback interface it is secure
                client = AsyncQdrantClient(url=server.url, api_key=key, check_compatibility=False)
            with nullcontext() if opens else pytest.raises(UnexpectedResponse, match="401"):
                await client.get_collections()
            await client.close()


def test_the_shared_cluster_and_sentinels_are_there(redis_cluster: RedisCluster, redis_sentinel: RedisSentinel) -> None:
    assert [server.in_service for server in redis_cluster.servers] == [True] * 6
    assert redis_sentinel.current_master() is redis_sentinel.master
    assert isinstance(redis_sentinel.servers[0], Sentinel)


def test_s3_honours_if_none_match(s3_server: S3Server) -> None:
    secrets = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=s3_server.url, **secrets)
    bucket = s3_server.new_bucket()
    client.put_object(Bucket=bucket, Key="a", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=bucket, Key="a", Body=b"2", IfNoneMatch="*")
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"1"
    client.close()


def test_azurite_takes_its_key(azurite: AzuriteServer) -> None:
    from azure.storage.blob import BlobServiceClient

    name = azurite.new_container()
    with BlobServiceClient(azurite.url, credential=azurite.key) as service:
        service.get_blob_client(name, "blob").upload_blob(b"1")
        assert service.get_blob_client(name, "blob").download_blob().readall() == b"1"


class TestGcs:
    """What upstream does wrong, and the repaired emulator does right."""

    @pytest.fixture
    async def storage(self, gcs_server: GcsServer) -> AsyncIterator[Storage]:
        async with aiohttp.ClientSession() as session:
            yield Storage(session=session, api_root=gcs_server.url)  # type: ignore[arg-type]  # means either session

    @pytest.fixture
    def bucket(self, gcs_server: GcsServer) -> str:
        return gcs_server.new_bucket()

    async def test_many_at_once(self, storage: Storage, bucket: str) -> None:
        await asyncio.gather(*(storage.upload(bucket, f"{i}", b"%d" % i) for i in range(200)))
        bodies = await asyncio.gather(*(storage.download(bucket, f"{i}") for i in range(200)))
        assert bodies == [b"%d" % i for i in range(200)]

    async def test_a_client_that_sends_nothing_stops_nobody(
        self, storage: Storage, bucket: str, gcs_server: GcsServer
    ) -> None:
        with socket.create_connection((gcs_server.host, gcs_server.port)) as idle:
            idle.sendall(b"POST /upload/storage/v1/b/")
            await storage.upload(bucket, "a", b"1")
            assert await storage.download(bucket, "a") == b"1"

    @pytest.mark.parametrize("metadata", [None, {"metadata": {"a": "b"}}], ids=["media", "multipart"])
    async def test_any_bytes_come_back(self, storage: Storage, bucket: str, metadata: dict[str, object] | None) -> None:
        dice = random.Random(4)
        bodies = [b"", b"\n", b"\r", b"\r\n", b"--\r\n", b"a\r\n\r\n", bytes(range(256)), b"\x00" * 1000]
        bodies += [bytes(dice.choices(b"\r\n\x00\xff-a", k=dice.randrange(20))) for _ in range(100)]
        for number, body in enumerate(bodies):
            await storage.upload(bucket, f"{number}", body, metadata=metadata)
            assert await storage.download(bucket, f"{number}") == body

    @pytest.mark.parametrize("size", [0, 1000])
    async def test_one_of_many_makes_the_object(self, storage: Storage, bucket: str, size: int) -> None:
        async def add() -> int:
            try:
                await storage.upload(bucket, "a", bytes(size), parameters={"ifGenerationMatch": "0"})
            except aiohttp.ClientResponseError as error:
                return error.status
            return 200

        assert sorted(await asyncio.gather(*(add() for _ in range(8)))) == [200, *[412] * 7]
        assert await storage.download(bucket, "a") == bytes(size)

    async def test_one_of_many_makes_a_large_object(self, bucket: str, gcs_server: GcsServer) -> None:
        """Uploaded in parts, and the condition holds at the end, not only in the beginning."""
        begin = f"{gcs_server.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name=a&ifGenerationMatch=0"
        async with aiohttp.ClientSession() as session:
            uploads = [await session.post(begin) for _ in range(3)]
            ends = [await session.put(upload.headers["Location"], data=b"1") for upload in uploads]
            assert [end.status for end in ends] == [200, 412, 412]
            late = await session.post(begin)
            assert late.status == 412

    async def test_a_deletion_may_have_a_condition(self, storage: Storage, bucket: str) -> None:
        first = await storage.upload(bucket, "a", b"1")
        second = await storage.upload(bucket, "a", b"2")
        with pytest.raises(aiohttp.ClientResponseError, match="412"):
            await storage.delete(bucket, "a", params={"ifGenerationMatch": first["generation"]})
        await storage.delete(bucket, "a", params={"ifGenerationMatch": second["generation"]})
        with pytest.raises(aiohttp.ClientResponseError, match="404"):
            await storage.download(bucket, "a")

    async def test_a_list_comes_in_pages_also_while_it_is_emptied(self, storage: Storage, bucket: str) -> None:
        names = {f"{i}" for i in range(25)}
        await asyncio.gather(*(storage.upload(bucket, name, b"") for name in names))
        seen: list[str] = []
        wish = {"maxResults": "10"}
        while True:
            page = await storage.list_objects(bucket, params=wish)
            found = [item["name"] for item in page["items"]]
            assert len(found) <= 10
            await asyncio.gather(*(storage.delete(bucket, name) for name in found))
            seen += found
            if "nextPageToken" not in page:
                break
            wish = {"maxResults": "10", "pageToken": page["nextPageToken"]}
        assert sorted(seen) == sorted(names)


def test_a_server_that_cannot_start_says_why() -> None:
    server = RedisServer("--no-such-option", "1")
    with pytest.raises(ServerError, match=r"(?s)redis-server did not start.*no-such-option"):
        server.start()
    assert not server.runs
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = server.port


def test_a_port_that_was_lost_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who answers on it is not taken for the server."""
    with RedisServer() as thief:
        offered = iter([(thief.port,), (thief.port,), free_ports(1)])
        monkeypatch.setattr("tests.servers.process.free_ports", lambda _: next(offered))
        with RedisServer() as server:
            assert server.port != thief.port
            assert int(str(server.ask("INFO", "server")).partition("process_id:")[2].split()[0]) == server.pid


def test_a_missing_program_says_what_gets_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "FOLDER", tmp_path)
    for server in (RedisServer(), SearchRedisServer(), AzuriteServer()):
        with pytest.raises(programs.ProgramMissing, match=r"is missing: `python3 -m tests` gets it"):
            server.start()
        assert not server.runs


def test_what_cannot_be_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system without Debian's package manager, and a pip that reaches nothing."""

    def pip(*arguments: str) -> None:
        raise subprocess.CalledProcessError(1, ["pip", *arguments[:1]])

    monkeypatch.setenv("PATH", str(tmp_path))
    for module in (programs, installation):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "servers")
    for _ in range(2):  # the second time too: what failed is not taken for done
        of_redis, of_redis_8, of_redisearch, of_model, of_node, *_ = installation.install(pip)
        assert "redis-server 7 or newer, with TLS, must be on the PATH" in of_redis
        assert "redis-server 8 or newer must be on the PATH" in of_redis_8
        for lack in (of_redisearch, of_model, of_node):
            assert "`pip install` failed" in lack
    assert sorted(file.name for file in (tmp_path / "servers").iterdir()) == [".gitignore"]


CHILD = """
import time

def test_hangs(request):
    servers = [request.getfixturevalue(name) for name in {fixtures}]
    pids = [one.pid for server in servers for one in getattr(server, "servers", [server])]
    folders = [one.folder for server in servers for one in getattr(server, "servers", [server])]
    print("started", *pids, *folders, flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize(
    "fixtures",
    [
        ["redis_server", "redis_tls", "s3_server", "gcs_server", "azurite"],
        ["redis_cluster", "redis_sentinel"],
        ["redis_vectors", "redis_search", "qdrant_server"],
    ],
    ids=["singles", "groups", "vectors"],
)
def test_a_killed_test_run_leaves_no_server(fixtures: list[str], tmp_path: Path) -> None:
    """`kill -9` of pytest, which can clean up nothing itself."""
    test = tmp_path / "test_child.py"
    test.write_text(CHILD.format(fixtures=fixtures))
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest", "-c", os.devnull, str(test)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None
        words = next(line for line in run.stdout if "started" in line).partition("started")[2].split()
        pids = [int(word) for word in words if word.isdigit()]
        folders = [Path(word) for word in words if not word.isdigit()]
        assert len(pids) == len(folders) == (11 if "redis_cluster" in fixtures else len(fixtures))
        assert all(map(alive, pids))
        run.send_signal(signal.SIGKILL)
        run.wait()
        wait_until(lambda: not any(map(alive, pids)), "every server is gone", 10)
        wait_until(lambda: not any(folder.exists() for folder in folders), "every folder is gone", 10)
    finally:
        run.kill()
        run.communicate()


def test_no_server_starts_unless_a_test_wants_it(tmp_path: Path) -> None:
    """The fixtures are there, and the programs are not."""
    test = tmp_path / "test_child.py"
    test.write_text("def test_alone():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", os.devnull, str(test)]
    bare = {**os.environ, "PATH": str(tmp_path)}
    answer = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
