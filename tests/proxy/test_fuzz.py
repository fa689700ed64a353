"""Whatever comes over the wire: no failure of ours, and always an end.

What a request may be is generated here and not from a schema: the interesting ones are those that no schema has.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynccache.testing.loopback import serving
from tests.proxy.proxies import ANSWER, CHAT, Recording, Served, proxied

PATIENCE = 30.0
KEY, MASTER = "sk-team-a-4711-4711-4711", "sk-master-2718-2718-2718"

PATHS = [
    *("/v1/chat/completions", "/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"),
    *("/v1/audio/transcriptions", "/v1/rerank", "/v1/messages", "/v1/models", "/v1/models/gpt-4o", "/v1/files"),
    *("/cache/ping", "/cache/stats", "/cache/report", "/cache/delete", "/cache/invalidate", "/cache/flushall"),
    *("/cache/explain", "/health/live", "/health/ready", "/ui", "/ui/", "/ui/script.js", "/metrics", "/", "*", ""),
]
ODD = ["/%2e%2e/x", "/v1/../cache/stats", "//evil/x", "/v1/%00", "/v1/\\x", "/cache%2fstats", "/v1/chat/completions/"]
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"]

ONE_RUN = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Proxied:
    """A proxy on a loop in a thread of its own."""

    def __init__(self, portal: BlockingPortal, served: Served) -> None:
        self._portal = portal
        self.served = served

    def send(self, data: bytes, *, leave: bool = False) -> bytes:
        """All that comes back on a connection of its own, until the proxy closes it. It must: within the time.

        leave: say that nothing more will come.
        """
        return self._portal.call(self._send, data, leave)

    async def _send(self, data: bytes, leave: bool) -> bytes:
        async with asyncio.timeout(PATIENCE), self.served.connection() as (reader, writer):
            writer.write(data)
            if leave:
                writer.write_eof()
            return await reader.read()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxied]:
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        served = stack.enter_context(portal.wrap_async_context_manager(_served()))
        yield Proxied(portal, served)


@asynccontextmanager
async def _served() -> Any:
    """What answers behind it has no trouble with anything, so that each failure is the proxy's."""
    async with serving(Recording(body=ANSWER)) as origin:
        params = {"model": "openai/gpt-4o", "api_base": f"{origin}/v1", "api_key": "sk-provider"}
        config = {
            "model_list": [{"model_name": "gpt-4o", "litellm_params": params}],
            "proxy": {
                "api_keys": [{"key": KEY, "tenant": "a"}],
                "master_key": MASTER,
                "max_body_bytes": 100_000,
                "allow_namespace": True,
            },
        }
        async with proxied(config) as served:
            yield served


def check(answer: bytes) -> list[int]:
    """The statuses of all answers on a connection: none is a failure of ours."""
    statuses = [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]
    assert statuses, answer[:500]
    assert 500 not in statuses, answer[:2000]
    assert b"internal_error" not in answer
    assert b"Traceback" not in answer
    return statuses


def request(method: str, path: str, headers: list[tuple[str, bytes]], body: bytes) -> bytes:
    lines = [f"{method} {path or '/'} HTTP/1.1".encode("latin-1"), b"host: 127.0.0.1", b"connection: close"]
    lines += [name.encode() + b": " + value for name, value in headers]
    if body:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


# -- what may be said -------------------------------------------------------------------------------

texts = st.text(max_size=20)
leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts
trees = st.recursive(leaves, lambda t: st.lists(t, max_size=4) | st.dictionaries(texts, t, max_size=4), max_leaves=12)
controls = st.dictionaries(
    st.sampled_from(["ttl", "s-maxage", "no-cache", "no-store", "namespace", "use-cache", "tags", "tenant", "odd"]),
    trees,
)
messages = st.lists(st.fixed_dictionaries({}, optional={"role": trees, "content": trees}), max_size=3)
fields: dict[str, Any] = {
    "model": st.just("gpt-4o") | trees,
    "messages": messages | trees,
    "input": trees,
    "prompt": trees,
    "stream": st.booleans() | trees,
    "stream_options": trees,
    "n": trees,
    "max_tokens": trees,
    "cache": controls | trees,
    "documents": trees,
    "query": trees,
    "keys": st.lists(st.just("a" * 64) | trees, max_size=3) | trees,
    "tags": st.lists(texts, max_size=3) | trees,
    "soft": trees,
    "tenant": trees,
    "namespace": trees,
    "path": st.sampled_from(PATHS) | trees,
}
bodies = st.fixed_dictionaries({}, optional={**fields, "a": trees, "b": trees})
explained = st.fixed_dictionaries(
    {"a": bodies.map(lambda body: {**body, "model": "gpt-4o"}), "b": bodies}, optional={"path": texts}
)
near = st.builds(lambda body, more: {**CHAT, **more, **body}, bodies, st.dictionaries(texts, trees, max_size=3))
contents = st.one_of(
    (bodies | explained | near).map(lambda body: json.dumps(body).encode()),
    trees.map(lambda tree: json.dumps(tree).encode()),
    st.binary(max_size=200),
    st.just(b"[" * 5000),
    st.just(b'{"model": "gpt-4o", "messages": ' + b"[" * 900 + b"]" * 900 + b"}"),
    st.just(b" " * 100_001),
)
values = st.binary(max_size=40).filter(lambda value: not {0, 10, 13} & set(value))
header = st.one_of(
    st.tuples(st.just("content-type"), st.sampled_from([b"application/json", b"multipart/form-data", b"text/plain"])),
    st.tuples(st.just("content-type"), st.just(b"multipart/form-data; boundary=x") | values),
    st.tuples(st.just("cache-control"), st.sampled_from([b"no-cache", b"only-if-cached", b"max-age=9e9"]) | values),
    st.tuples(st.just("x-asynccache"), controls.map(lambda c: json.dumps(c).encode()) | values),
    st.tuples(st.sampled_from(["accept", "accept-encoding", "origin", "cookie", "expect", "range", "te"]), values),
    st.tuples(st.sampled_from(["content-encoding", "anthropic-version", "openai-beta", "x-forwarded-for"]), values),
)
credentials = st.sampled_from([MASTER, KEY]).map(lambda key: ("authorization", f"Bearer {key}".encode()))
someone = credentials | st.tuples(st.sampled_from(["authorization", "x-api-key", "api-key"]), values)
queries = st.sampled_from(["", "?a=b", "?key=x&api-version=1", "?%00", "?" + "q" * 2000])


@ONE_RUN
@given(
    path=st.sampled_from([*PATHS, *ODD]),
    query=queries,
    method=st.sampled_from(METHODS),
    who=someone,
    headers=st.lists(header, max_size=4),
    body=st.just(b"") | contents,
)
def test_any_request_to_any_path(
    proxy: Proxied, path: str, query: str, method: str, who: Any, headers: list[Any], body: bytes
) -> None:
    check(proxy.send(request(method, path + query, [who, *headers], body)))


@ONE_RUN
@given(path=st.sampled_from([p for p in PATHS if p.startswith(("/v1", "/chat"))]), body=contents, more=st.lists(header))
def test_any_body_of_a_call(proxy: Proxied, path: str, body: bytes, more: list[Any]) -> None:
    headers = [("authorization", f"Bearer {KEY}".encode()), ("content-type", b"application/json"), *more]
    check(proxy.send(request("POST", path, headers, body)))


@ONE_RUN
@given(
    path=st.sampled_from([p for p in PATHS if p.startswith("/cache")]),
    method=st.sampled_from(["GET", "POST"]),
    body=contents,
)
def test_any_body_for_management(proxy: Proxied, path: str, method: str, body: bytes) -> None:
    headers = [("authorization", f"Bearer {MASTER}".encode()), ("content-type", b"application/json")]
    for status in check(proxy.send(request(method, path, headers, body))):
        assert status in (200, 400, 404, 405, 413), status


@ONE_RUN
@given(data=st.binary(min_size=1, max_size=400))
def test_bytes_that_may_be_no_http(proxy: Proxied, data: bytes) -> None:
    """An answer, or the end of the connection."""
    answer = proxy.send(data, leave=True)
    assert b" 500 " not in answer[:20]
    assert not answer or check(answer)


@ONE_RUN
@given(cut=st.integers(0, 400), noise=st.binary(max_size=20))
def test_a_request_that_is_cut_or_garbled_anywhere(proxy: Proxied, cut: int, noise: bytes) -> None:
    headers = [("authorization", f"Bearer {KEY}".encode()), ("content-type", b"application/json")]
    whole = request("POST", "/v1/chat/completions", headers, json.dumps(CHAT).encode())
    answer = proxy.send(whole[:cut] + noise, leave=True)
    assert not answer or check(answer)


@ONE_RUN
@given(key=st.text(max_size=60) | st.sampled_from([KEY, MASTER]).flatmap(lambda k: st.just(k[:-1]) | st.just(k + "x")))
def test_no_other_key_opens_anything(proxy: Proxied, key: str) -> None:
    sent = key.encode().translate(None, b"\0\r\n")
    if sent.strip() in (KEY.encode(), MASTER.encode()):
        return
    for path in ("/v1/models", "/cache/stats"):
        statuses = check(proxy.send(request("GET", path, [("authorization", b"Bearer " + sent)], b"")))
        assert set(statuses) <= {400, 401}


def test_it_still_works_after_all_that(proxy: Proxied) -> None:
    """The last one: nothing of the above has broken it, and nobody is thought to be inside."""
    headers = [("authorization", f"Bearer {KEY}".encode()), ("content-type", b"application/json")]
    assert check(proxy.send(request("POST", "/v1/chat/completions", headers, json.dumps(CHAT).encode()))) == [200]
    assert proxy.served.app.crowd.inside == 0
