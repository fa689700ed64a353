"""Calls → answers, through the cache's pipeline, and to providers when it has none."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import httpx2
import orjson

from asynccache.call_types.transcription import NamedBytes
from asynccache.hook_files import Headers as HookHeaders
from asynccache.hook_files import request_headers
from asynccache.http.answers import Head, Headers, HTTPAnswers, Refused, Reply
from asynccache.http.call_types import EVENT_STREAM
from asynccache.http.calls import API, CONTROL_HEADER, CREDENTIALS, VOCAL, beside, dumps, said_in_query, spoken
from asynccache.http.wire import Live
from asynccache.key_builders import ComposedBuilder
from asynccache.model import Completion, CompletionStream, Response, Target
from asynccache.proxy.access import Caller
from asynccache.proxy.keys import presented
from asynccache.proxy.litellm_calls import LiteLLMCalls, Written
from asynccache.proxy.manners import CACHE_CONTROL, Asked, Terms, tightened, too_stale
from asynccache.proxy.marks import Marks
from asynccache.proxy.problems import Problem
from asynccache.proxy.upstreams import Deployment, Group, Single
from asynccache.proxy.wire import Wire, check_encoding, passed_back, passed_on
from asynccache.streams import close

if TYPE_CHECKING:
    from asynccache.cache import Cache
    from asynccache.proxy.settings import Settings
    from asynccache.warming import Held

CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})

_NOT_SENT_ON = CREDENTIAL_HEADERS | {
    *(b"host", b"content-length", b"content-type", b"content-encoding", b"accept-encoding", b"expect", b"cookie"),
    *(CACHE_CONTROL, CONTROL_HEADER),
}
_OF_THE_BODY = frozenset({b"content-length", b"content-encoding"})
_STREAMED = (EVENT_STREAM, "application/x-ndjson", "application/jsonl", "application/stream+json")
_LABEL = b"asynccache: credential of a provider"
_API_KEY = "api_key"
_ENCODINGS = (b"accept-encoding", b"gzip, deflate")
"""Those that can be undone without another library. Where nothing is said, all are welcome."""
_ANTHROPIC_VERSION = (b"anthropic-version", b"2023-06-01")
_SECRET = re.compile(
    rb"(?:^|[-_])(?:api)?(?:key|token|auth|authorization|authentication|secret|password|credentials?)$"
)
_NO_SECRETS = frozenset({b"idempotency-key", b"x-idempotency-key", b"sec-websocket-key"})
_ROUTES = 1024
_LONGEST_ROUTE = 4096  # bytes of what clients say; a longer one is made anew for each call
_NAMES = 1024
_LONGEST_NAME = 64


class Call:
    """One request that may be answered from the cache. It belongs to one caller.

    api:     what kind of call it is. path: of its API at a provider, such as "/chat/completions"; with `whole`, all of
             the path as it came, for an upstream that speaks it.
    params:  the fields of its body, without `cache`. They are written anew for the provider, so that it reads what
             the key was built from: of two fields of one name, say, it could read the other.
    headers: lower case, in their order. query: as it came.
    form:    whether the body is a form.
    own:     whether the client's credential goes on to the provider.
    """

    __slots__ = ("api", "form", "group", "headers", "own", "params", "path", "query", "whole")

    def __init__(
        self,
        api: API,
        path: str,
        params: dict[str, Any],
        headers: Headers,
        query: bytes,
        *,
        form: bool = False,
        whole: bool = False,
    ) -> None:
        self.api = api
        self.path = path
        self.params = params
        self.headers = headers
        self.query = query
        self.form = form
        self.whole = whole
        self.own = False
        self.group: Group
        if api.streamed:
            params["stream"] = True

    @property
    def stream(self) -> bool:
        return bool(self.params.get("stream"))


class _Route:
    """Where the calls of one kind go, and how they are cached.

    wrapped: answers them. terms: what the config says of them.
    """

    __slots__ = ("terms", "wrapped")

    def __init__(self, wrapped: Callable[..., Awaitable[Response]], terms: Terms) -> None:
        self.wrapped = wrapped
        self.terms = terms


class _Counts(dict[bytes, bool]):
    """Whether the headers of a name stand in the key. Remembered: SDKs send many, and always the same.

    more: names of others that do.
    """

    def __init__(self, more: Iterable[bytes]) -> None:
        super().__init__(dict.fromkeys(more, True))

    def __missing__(self, name: bytes) -> bool:
        counts = name.startswith(VOCAL) or _is_secret(name)
        if len(self) < _NAMES and len(name) <= _LONGEST_NAME:
            self[name] = counts
        return counts


_call: ContextVar[Call] = ContextVar("asynccache_proxy_call")


class Forward:
    """Answers calls. One wrapped function for each place and tenant, made when the first call comes."""

    def __init__(self, cache: Cache, settings: Settings, wire: Wire) -> None:
        self._cache = cache
        self._settings = settings
        self._wire = wire
        self._litellm = LiteLLMCalls()
        self._marks = Marks(settings)
        # A builder of the config's may want to know whose call it is; the default one does not look.
        self._tells_key = isinstance(cache.builder, ComposedBuilder)
        self._routes: dict[tuple[Any, ...], _Route] = {}
        vary = [name.lower().encode("latin-1") for name in settings.proxy.vary]
        self._counts = _Counts(vary)
        # Where the client's own credential goes on, whose answers are whose is told by that too.
        self._own_counts = _Counts([*vary, *CREDENTIAL_HEADERS])

    async def answer(self, call: Call, caller: Caller, asked: Asked) -> Response:
        """Raises what the upstream raises: Refused, httpx2.TransportError, Problem; and NotCached."""
        route = self._route(call, caller)
        response = await self._ask(route, call, asked.controls)
        patience = asked.stale_if_error
        if patience is None or not too_stale(response.status, patience):
            return response
        # The config would serve it, its caller would not: that one gets what the upstream says now.
        if isinstance(response, CompletionStream):
            await close(response.chunks)
        return await self._ask(route, call, {**asked.controls, "no-cache": True})

    async def look(self, call: Call, caller: Caller, asked: Asked) -> Held:
        """What there is for a call, which is not made, and which no observer is told of. Raises BackendError."""
        route = self._route(call, caller)
        with request_headers(_texts_of(call.headers)):
            return await self._cache.shelf(route.wrapped).look(self._params(route, call, asked.controls))

    def answering(self, call: Call, caller: Caller) -> Callable[..., Awaitable[Response]]:
        """What answers such calls, as `Cache.explain` takes it. Raises Problem."""
        return self._route(call, caller).wrapped

    async def _ask(self, route: _Route, call: Call, controls: Mapping[str, Any]) -> Response:
        params = self._params(route, call, controls)
        token = _call.set(call)
        try:
            if not self._settings.hooks:
                return await route.wrapped(**params)
            with request_headers(_texts_of(call.headers)):
                return await route.wrapped(**params)
        finally:
            _call.reset(token)

    def _params(self, route: _Route, call: Call, controls: Mapping[str, Any]) -> dict[str, Any]:
        params = call.params
        if self._tells_key:
            # Whatever the body has by this name, its caller could have made up.
            params = {**params, _API_KEY: _presented(call)}
        if controls or route.terms.says:
            params = {**params, "cache": tightened(controls, route.terms)}
        return params

    def _route(self, call: Call, caller: Caller) -> _Route:
        group, counts = call.group, self._own_counts if call.own else self._counts
        said = tuple([pair for pair in call.headers if counts[pair[0]]])
        more = beside(call.params)
        opaque = call.stream and not call.api.call_type.both
        model = call.params.get("model") if group.name == "" and self._settings.rules else None
        known = (
            id(call.api),
            call.path,
            group,
            caller.tenant,
            call.own,
            call.query,
            said,
            opaque,
            model if type(model) is str else None,
            *more,
        )
        route = self._routes.get(known)
        if route is None:
            route = self._make(call, caller, opaque, more)
            if _size(call, said, model) <= _LONGEST_ROUTE:
                if len(self._routes) >= _ROUTES:
                    self._routes.clear()
                self._routes[known] = route
        return route

    def _make(self, call: Call, caller: Caller, opaque: bool, more: list[str]) -> _Route:
        api, call_type, tenant = call.api, call.api.call_type, caller.tenant
        if call.own and (credential := _credential(call)):
            tenant = credential if tenant is None else f"{tenant} {credential}"
        said = [pair for pair in call.headers if self._counts[pair[0]]]
        facts = [
            call.group.identity,
            call.path,
            said_in_query(call.query, api) if call.query else [],
            spoken(said),
            opaque,
            *more,
        ]
        if secrets := [b": ".join(pair) for pair in said if not pair[0].startswith(VOCAL)]:
            facts.append({"secrets": _hashed(secrets)})
        place = orjson.dumps(facts).decode()
        answers = HTTPAnswers(opaque=call_type.texts or not call_type.both)
        target = Target(self._upstream, call_type, answers, place, keep_out=call_type.keep_out)
        model = call.params.get("model")
        rule = self._settings.rule(
            model=model if isinstance(model, str) else "",
            path=call.path if call.whole else f"/v1{call.path}",
            tenant=caller.tenant,
            call_type=call_type.name,
        )
        handle = self._cache.bind(tenant=tenant)
        given: dict[str, Any] = {}
        fixed: dict[str, Any] = {}
        if rule is not None:
            if rule.ttl is not None:
                handle = handle.bind(ttl=rule.ttl)
            if rule.store is False:
                fixed["no-store"] = True
            if rule.semantic is False:
                fixed["semantic"] = False
            if rule.mode is not None:
                (fixed if rule.mode == "off" else given)["use-cache"] = rule.mode == "default_on"
        return _Route(handle.around(self._upstream, target), Terms(given, fixed, handle.ttl))

    # -- upstream -------------------------------------------------------------------------------------

    async def _upstream(self, /, **params: Any) -> Reply | Live | Written:
        """What the provider answers to the call of this task's context."""
        call = _call.get()
        if self._tells_key:
            params.pop(_API_KEY, None)
        deployment = call.group.next()
        url = _url(call, deployment)
        said = await self._marks.on(params, deployment, call_type=call.api.call_type.name, url=url)
        if url is None:
            return await self._litellm.answer(call.path, said, deployment)
        try:
            request = httpx2.Request("POST", url, **_content(call, deployment, said, _headers(call, deployment)))
        except httpx2.InvalidURL:
            raise Problem(400, "this path or query cannot be sent on", code="invalid_path") from None
        response = await self._wire.send(request, deployment.timeout)
        try:
            check_encoding(response)
        except Problem:
            await response.aclose()
            raise
        success = 200 <= response.status_code < 300
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        # What is put together from parts is read whole, unless a stream was asked for.
        if success and (call.stream or (kind in _STREAMED and call.api.call_type.parts is None)):
            return Live(self._wire, response)
        try:
            content = await response.aread()
        except httpx2.DecodingError as error:
            raise httpx2.RemoteProtocolError("the body cannot be decoded", request=request) from error
        finally:
            await response.aclose()
        head = Head(response.status_code, passed_back(response.headers.raw, _OF_THE_BODY))
        reply = Reply(head, content, content, keeps=response.status_code == 200)
        if not success:
            raise Refused(reply)
        return reply


def _size(call: Call, said: Iterable[tuple[bytes, bytes]], model: Any) -> int:
    """Of what a client says in what a route is remembered by."""
    told = len(model) if type(model) is str else 0
    told += len(call.path) + len(call.query) + len(call.group.name)
    return told + sum(len(name) + len(value) for name, value in said)


def answered(response: Response) -> int | None:
    """The HTTP status with which the upstream answered this very call; None when it was not asked."""
    if response.status.outcome not in ("miss", "bypass"):
        return None
    return int(response.value.head.status) if isinstance(response, Completion) else 200


def _presented(call: Call) -> str | None:
    """The key that its caller has shown."""
    shown = presented(dict(call.headers))
    return shown[0].decode("latin-1") if shown else None


def _credential(call: Call) -> str:
    """Stands for the client's own credential: nobody without it gets what was answered to it."""
    said = [b": ".join(pair) for pair in call.headers if pair[0] in CREDENTIAL_HEADERS]
    if call.query:
        said += [part for part in call.query.split(b"&") if is_credential(part)]
    return f"credential:{_hashed(said)}" if said else ""


def _hashed(said: list[bytes]) -> str:
    return blake2b(b"\n".join(said), digest_size=32, key=_LABEL).hexdigest()


def _is_secret(name: bytes) -> bool:
    """Whether a header looks like a credential of some gateway's, which is sent on whoever pays: nobody without it gets
    what was answered to it. The usual ones are looked at elsewhere."""
    return name not in CREDENTIAL_HEADERS and name not in _NO_SECRETS and _SECRET.search(name) is not None


def is_credential(part: bytes) -> bool:
    """Whether this part of a query has a credential, however its name is written."""
    return unquote_plus(part.partition(b"=")[0].decode("latin-1")).lower() in CREDENTIALS


def without_credentials(query: bytes) -> bytes:
    return b"&".join(part for part in query.split(b"&") if not is_credential(part)) if query else query


def _url(call: Call, deployment: Deployment) -> str | None:
    if call.whole:
        assert isinstance(deployment, Single)
        url: str | None = deployment.raw(call.path)
    else:
        url = deployment.url(call.path)
    if url is None or not call.query:
        return url
    query = (call.query if call.own else without_credentials(call.query)).decode("latin-1")
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


def _headers(call: Call, deployment: Deployment) -> Headers:
    headers = [*passed_on(call.headers, _NOT_SENT_ON), _ENCODINGS]
    if call.own and not deployment.keyed:
        headers += [pair for pair in call.headers if pair[0] in CREDENTIAL_HEADERS]
    told = deployment.credentials(call.path)
    names = {name for name, _ in told}
    headers = [*(pair for pair in headers if pair[0] not in names), *told]
    if call.path == "/messages" and not any(name == b"anthropic-version" for name, _ in headers):
        headers.append(_ANTHROPIC_VERSION)
    return headers


def _content(call: Call, deployment: Deployment, params: Mapping[str, Any], headers: Headers) -> dict[str, Any]:
    """The headers and the body of the request that is sent."""
    said = {**deployment.defaults, **params}
    if deployment.model is not None:
        said["model"] = deployment.model
    if call.api.streamed:
        said.pop("stream", None)
    if call.form:
        fields = {name: _texts(value) for name, value in said.items() if not isinstance(value, NamedBytes)}
        files = {name: value.given for name, value in said.items() if isinstance(value, NamedBytes)}
        return {"headers": headers, "data": fields, "files": files}
    try:
        content = dumps(said)
    except TypeError:  # deeper than can be written, though not than can be read
        raise Problem(400, "the body is nested too deeply", code="invalid_json") from None
    return {"headers": [*headers, (b"content-type", b"application/json")], "content": content}


def _texts_of(headers: Headers) -> HookHeaders:
    return HookHeaders([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(item) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else orjson.dumps(value).decode()
