"""An HTTP request → which LLM call it is, and what it asks of the cache. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import blake2b
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl

import orjson

from asynccache.call_types import CALL_TYPES
from asynccache.call_types.embedding import EmbeddingParts
from asynccache.directives import word, words
from asynccache.errors import ConfigError
from asynccache.http.call_types import HTTPCallType, KnownCallType, OpaqueCallType
from asynccache.http.elements import HTTPParts
from asynccache.keys import INERT, VOCAL_HEADERS

CONTROL = "asynccache"
"""The name of the request's extension with controls, and of the response's with its status."""
CONTROL_HEADER = b"x-asynccache"

Cached = str | Iterable[str] | Callable[[Any], bool]

CREDENTIALS = frozenset({"key", "api_key", "api-key", "apikey", "access_token", "subscription-key"})
_ROUTING = ("azureml-model-deployment", "helicone-target-", "x-portkey-config", "x-portkey-provider")
VOCAL = tuple(prefix.encode() for prefix in (*VOCAL_HEADERS, *_ROUTING))
"""How the headers begin on which an answer depends; also those by which gateways are told which model is to answer."""
_JSON = (b"application/json", b"text/json")
_SEALS = frozenset({b"content-md5", b"digest", b"content-digest", b"signature", b"x-amz-content-sha256"})
"""Headers of a request that hold for its very body, so that no other can be sent in its place."""
_LONG = b"0" * 19
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")

OF_SDKS = INERT - {"stream", "stream_options", "cache"}
"""Arguments that SDKs take for themselves."""


@dataclass(frozen=True, slots=True)
class API:
    """One kind of LLM call over HTTP.

    ending:   of the URL's path.
    streamed: whether the path, and not the body's `stream`, asks for a stream.
    listed:   whether it is one of `APIS`, so that its query is known.
    """

    ending: str
    call_type: HTTPCallType
    streamed: bool = False
    listed: bool = True


# OpenAI's, and those of others who speak like it. Not such as "late_chunking", by which a list's texts are read as one.
EACH_ALONE = frozenset(
    {
        *("input", "model", "dimensions", "encoding_format", "user"),
        *(
            "input_type",
            "metadata",
            "output_dimension",
            "output_dtype",
            "service_tier",
            "task",
            "truncate",
            "truncation",
        ),
        *("embedding_type", "normalize", "normalized", "prompt_name", "priority", "provider", "truncate_prompt_tokens"),
    }
)
"""The fields of a request for embeddings that mean the same for each text alone."""

_CHAT = KnownCallType(CALL_TYPES["chat"], done=True, usage=True)
_RESPONSES = KnownCallType(CALL_TYPES["responses"], named=True)
_MESSAGES = KnownCallType(CALL_TYPES["messages"], named=True)
_EMBEDDINGS = KnownCallType(
    CALL_TYPES["embedding"],
    parts=HTTPParts(
        EmbeddingParts(),
        asked=EACH_ALONE,
        answered=frozenset({"created", "data", "id", "model", "object", "usage"}),
    ),
)
_WHOLE_EMBEDDINGS = API("/embeddings", KnownCallType(CALL_TYPES["embedding"]))
_EMBEDDING = OpaqueCallType("embedding")
_OTHER_CHAT = OpaqueCallType("chat", finish=True)

APIS = (
    API("/chat/completions", _CHAT),
    API("/fim/completions", _CHAT),
    API("/agents/completions", _CHAT),
    API("/completions", KnownCallType(CALL_TYPES["text_completion"], done=True, usage=True)),
    API("/v1/responses", _RESPONSES),
    API("/openai/responses", _RESPONSES),
    API("/v1/messages", _MESSAGES),
    API("/embeddings", _EMBEDDINGS),
    API("/v1/embed", _EMBEDDING),
    API("/v2/embed", _EMBEDDING),
    API("/rerank", KnownCallType(CALL_TYPES["rerank"])),
    API("/v2/chat", _OTHER_CHAT),
    API(":generateContent", _OTHER_CHAT),
    API(":streamGenerateContent", _OTHER_CHAT, streamed=True),
    API(":embedContent", _EMBEDDING),
    API(":batchEmbedContents", _EMBEDDING),
)
"""The first that fits counts."""

TRANSCRIPTIONS = API("/audio/transcriptions", KnownCallType(CALL_TYPES["transcription"], done=True, texts=True))
"""Its body is a form, so it is none of `APIS`."""

_LABEL = b"asynccache: fields of a body"
_LONGEST_AGE = 10  # digits
_NOT_THESE = ("/threads/",)
_OPAQUE = API("", OpaqueCallType(), listed=False)


def unsealed(api: API, headers: Iterable[bytes]) -> API:
    """The same API; the one that does not take calls apart, if a header says that the body must stay as it is."""
    return _WHOLE_EMBEDDINGS if api.call_type is _EMBEDDINGS and not _SEALS.isdisjoint(headers) else api


def ending_of(path: str) -> API | None:
    """The API of `APIS` that a path ends like."""
    return next((api for api in APIS if path.endswith(api.ending)), None)


def api_of(path: str) -> API | None:
    """The API that a path is of; None when it is none whose answers are cached."""
    api = ending_of(path)
    return None if api is None or any(part in path for part in _NOT_THESE) else api


class Call:
    """One request that may be answered from the cache. It belongs to one caller.

    params:  the fields of its body; with `stream`, where only the path says it.
    control: what it asks of the cache, as `cache={…}` would say it; None: nothing.
    demand:  whether it must not be sent on, by the standard's own header.
    place:   what else stands in the key, as one text.
    """

    __slots__ = ("api", "control", "demand", "hidden", "params", "place", "request")

    def __init__(self, request: Any, api: API, params: dict[str, Any]) -> None:
        self.request = request
        self.api = api
        self.hidden = {"cache": params.pop("cache")} if "cache" in params else {}  # the provider's word, not ours
        self.params = params
        if api.streamed:
            params["stream"] = True
        self.control: Any = None
        self.demand = False
        self.place = ""

    @property
    def stream(self) -> bool:
        return bool(self.params.get("stream"))

    def body(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The body with these fields in the place of its own."""
        said = {name: value for name, value in params.items() if not (self.api.streamed and name == "stream")}
        return {**said, **self.hidden}


class Calls:
    """Tells calls among requests, for one transport. Its arguments are those of the transport."""

    def __init__(self, cached: Cached, vary: Iterable[str], name: str | None) -> None:
        self._wanted = _predicate(cached)
        self._vary = frozenset(header.lower().encode() for header in words(vary, "vary"))
        self._name = None if name is None else word(name, "name")

    def read(self, request: Any) -> Call | None:
        """The call that this request makes; None when it is none. Raises ConfigError for wrong controls."""
        if request.method != "POST":
            return None
        api = self._api(request)
        if api is None:
            return None
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        said = dict(headers)
        if b"content-encoding" in said or not said.get(b"content-type", b"").lower().startswith(_JSON):
            return None
        params = _fields(request)
        if params is None:
            return None
        api = unsealed(api, said)
        call = Call(request, api, params)
        call.place = self._place(call, headers)
        _read_control(call, said)
        return call

    def _api(self, request: Any) -> API | None:
        path = request.url.path
        if (api := ending_of(path)) is not None:
            return None if any(part in path for part in _NOT_THESE) else api
        return _OPAQUE if self._wanted is not None and self._wanted(request) else None

    def _place(self, call: Call, headers: list[tuple[bytes, bytes]]) -> str:
        url = call.request.url
        query = url.query
        facts = [
            f"{url.scheme}://{url.netloc.decode('ascii')}" if self._name is None else self._name,
            url.path,
            said_in_query(query, call.api) if query else [],
            spoken(headers, self._vary),
            # What is not understood cannot be had the other way.
            call.stream and not call.api.call_type.both,
            *beside(call.params),
        ]
        return orjson.dumps(facts).decode()


def _predicate(cached: Cached) -> Callable[[Any], bool] | None:
    if callable(cached):
        return cached
    patterns = words(cached, "cached")
    return (lambda request: any(fnmatchcase(request.url.path, p) for p in patterns)) if patterns else None


def _fields(request: Any) -> dict[str, Any] | None:
    try:
        body = loads(request.content)
    except (RuntimeError, ValueError):  # a body that is sent piece by piece, or is no JSON
        return None
    return body if type(body) is dict else None


def loads(text: bytes) -> Any:
    """What a JSON text says. Whole numbers beyond 64 bits are what they are: orjson makes floats of them, by which two
    requests could be taken for one. Raises ValueError."""
    value = orjson.loads(text)
    if _LONG not in text.translate(_AS_ZEROS):
        return value
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value: Any) -> bytes:
    """The JSON text of what `loads` has read. Raises TypeError for what is nested too deeply, or no such value."""
    try:
        return orjson.dumps(value)
    except TypeError:  # as for a whole number beyond 64 bits
        try:
            return json.dumps(value, separators=(",", ":")).encode()
        except RecursionError:
            raise TypeError("nested too deeply") from None


def said_in_query(query: bytes, api: API) -> list[tuple[str, str]]:
    """What of a query stands in the key: all but the credentials of an API that is known, sorted."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return sorted(pair for pair in pairs if not (api.listed and pair[0].lower() in CREDENTIALS))


def spoken(headers: Iterable[tuple[bytes, bytes]], vary: frozenset[bytes] = frozenset()) -> list[tuple[str, str]]:
    """The headers that stand in the key, sorted; names are in lower case."""
    return sorted(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name.startswith(VOCAL) or name in vary
    )


def beside(params: Mapping[str, Any]) -> list[str]:
    """What of a body stands in the key by its place. SDKs take these fields for themselves, so that the key leaves them
    out; in a body they are the provider's: an `api_key`, say, on which the answer depends. As a hash, for such."""
    if OF_SDKS.isdisjoint(params):
        return []
    said = {name: value for name, value in params.items() if name in OF_SDKS}
    try:
        text = orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # a file, or deeper than can be written: shared with nobody
        return [token_hex()]
    return [blake2b(text, digest_size=32, key=_LABEL).hexdigest()]


def _read_control(call: Call, headers: Mapping[bytes, bytes]) -> None:
    """From the request's extension; without one from our header, and without that from the standard's."""
    if (control := call.request.extensions.get(CONTROL)) is not None:
        call.control = control
    elif (text := headers.get(CONTROL_HEADER)) is not None:
        try:
            call.control = orjson.loads(text)
        except ValueError as error:
            raise ConfigError(
                f'{CONTROL_HEADER.decode()}: {text!r} is no JSON: an object is wanted, such as {{"ttl": 60}}'
            ) from error
    elif (text := headers.get(b"cache-control")) is not None:
        call.control = standard(text.decode("latin-1").lower())
        call.demand = "only-if-cached" in (call.control or ())


def standard(text: str) -> dict[str, Any] | None:
    """The words of RFC 9111 that a request may say, as far as they are known here."""
    control: dict[str, Any] = {}
    for said in text.split(","):
        name, _, value = said.strip().partition("=")
        if name in ("no-cache", "no-store", "only-if-cached"):
            control[name] = True
        elif name == "max-age" and (digits := value.strip('"')).isdecimal():
            control["s-maxage"] = int(digits) if len(digits) <= _LONGEST_AGE else 2**31  # as RFC 9111 says of overflow
    return control or None
