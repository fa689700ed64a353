"""The connections to providers. One client for all of them, for as long as the proxy lives."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from asynccache.http.answers import Headers
from asynccache.proxy.problems import Problem

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
_OF_THE_HOST = frozenset({b"alt-svc", b"date", b"server", b"set-cookie", b"strict-transport-security"})
_DECODED = frozenset({"", "identity", "gzip", "deflate"})
_OURS = b"x-asynccache"
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Wire:
    """Sends requests. Nothing is opened before the first one.

    seconds: that a provider may take between two pieces of its answer, and for the first. connect: for a connection.
    """

    def __init__(self, seconds: float, connect: float) -> None:
        self._timeout = httpx2.Timeout(seconds, connect=connect, pool=None)
        self._client: httpx2.AsyncClient | None = None

    async def send(self, request: httpx2.Request, seconds: float | None = None) -> httpx2.Response:
        """The response, as soon as its head is there. Raises httpx2.TransportError.

        seconds: as in the constructor, for this one.
        """
        client = self._client
        if client is None:
            client = self._client = httpx2.AsyncClient(
                timeout=self._timeout,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30),
                # The cookies of a provider are those of one client, and not of all.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        timeout = self._timeout.as_dict()
        request.extensions = {"timeout": timeout if seconds is None else {**timeout, "read": seconds}}
        return await client.send(request, stream=True, auth=None, follow_redirects=False)

    def raw(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        return response.aiter_raw()

    def decoded(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        return response.aiter_bytes()

    async def close(self, response: httpx2.Response) -> None:
        await response.aclose()

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def passed_on(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes]) -> Headers:
    """A client's headers, lower case, as they go on to a provider."""
    pairs = list(headers)
    named = {name.strip().lower() for key, value in pairs if key == b"connection" for name in value.split(b",")}
    left_out = HOP_BY_HOP | without | named
    return [pair for pair in pairs if pair[0] not in left_out]


def passed_back(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes] = frozenset()) -> Headers:
    """A provider's headers as they come to a client. What no server could say again is left out."""
    left_out = HOP_BY_HOP | _OF_THE_HOST | without
    pairs = [(name.lower(), value) for name, value in headers]
    return [
        pair
        for pair in pairs
        # What another proxy of ours says of its cache would read as if it were about this one.
        if pair[0] not in left_out and not pair[0].startswith(_OURS) and not _CONTROL.search(pair[1])
    ]


def check_encoding(response: httpx2.Response) -> None:
    """Refuse an answer in an encoding that cannot be undone here: without its header it would be read as another one
    and kept. Raises Problem (502)."""
    said = response.headers.get("content-encoding", "")
    if said and not {coding.strip().lower() for coding in said.split(",")} <= _DECODED:
        raise Problem(502, "the provider's answer has a content-encoding that was not asked for", code="bad_encoding")


def failure(error: httpx2.TransportError) -> Problem:
    """What a client is told when there is no answer. Not the error's own words: an address may have a password."""
    kind = type(error).__name__
    if isinstance(error, httpx2.TimeoutException):
        return Problem(504, f"the provider did not answer in time ({kind})", code="upstream_timeout")
    return Problem(502, f"the provider cannot be reached, or broke off ({kind})", code="upstream_unreachable")
