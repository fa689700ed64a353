"""Providers that speak a wire format of their own, through LiteLLM, when it is installed."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
from collections.abc import AsyncIterator, Callable, Container, Mapping
from typing import Any, ClassVar, Self

import orjson

from asynccache.http.answers import Head, Headers, Refused, Reply
from asynccache.http.call_types import HEAD
from asynccache.http.calls import OF_SDKS
from asynccache.proxy.litellm_shape import OWN
from asynccache.proxy.problems import Problem
from asynccache.proxy.upstreams import Deployment
from asynccache.streams import close

_FUNCTIONS = {
    "/chat/completions": "acompletion",
    "/completions": "atext_completion",
    "/embeddings": "aembedding",
    "/messages": "anthropic_messages",
    "/rerank": "arerank",
    "/responses": "aresponses",
}
_KEPT = frozenset({"metadata", "timeout"})
"""Harmless: LiteLLM sends on the one, and gives up after the other."""
_NOT_ITS_OWN = frozenset(
    {"aws_session_tags", "extra_headers", "nvcf_function_id", "organization", "use_ssl", "user_config", "workspace_id"}
)
_REACH = re.compile(
    r"^(?:aws|azure|bedrock|gcs|langfuse|langsmith|litellm|mock|oci|s3|sagemaker|vertex|watsonx)_"
    r"|(?:^|_)(?:base|url|endpoint|host|credentials?|token|secret|password|api_key|callbacks?)(?:$|_)"
)
"""Names by which LiteLLM is told where to call, as whom, and whom to tell."""
_PASSED_ON = ("retry-after", "x-ratelimit-")
_JSON_HEADERS: Headers = [(b"content-type", b"application/json")]


class LiteLLMCalls:
    """Makes calls through LiteLLM's functions, and writes their answers as OpenAI and Anthropic would."""

    def __init__(self) -> None:
        self._library: Any = None

    async def answer(self, path: str, params: Mapping[str, Any], deployment: Deployment) -> Reply | Written:
        """Raises Problem (501) when LiteLLM, or what is asked for, is not there; Refused for a provider's error."""
        function = await self._function(path, deployment)
        self._check(params)
        said: dict[str, Any] = {**deployment.options, **deployment.defaults, **params, "model": deployment.model}
        said |= {"api_key": deployment.key, "api_base": deployment.base or None, "timeout": deployment.timeout}
        try:
            answer = await function(**{name: value for name, value in said.items() if value is not None})
        except Exception as error:  # LiteLLM raises classes of its own, and those of every library it uses
            raise Refused(_refusal(error)) from error
        if hasattr(answer, "__aiter__"):
            return Written(answer, named=path in ("/messages", "/responses"))
        content = _dumps(answer)
        return Reply(Head(200, _JSON_HEADERS), content, content)

    def _check(self, params: Mapping[str, Any]) -> None:
        """A body's fields become arguments of LiteLLM's function. Some are no caller's to say: `base_url`, with
        which the config's credential would go to anybody. Raises Problem (400)."""
        own = self._library.types.utils.all_litellm_params
        for name in params:
            if is_for_the_config(name, own):
                raise Problem(
                    400,
                    f"the field {name[:80]!r} is for the proxy's config to say (litellm_params)",
                    code="forbidden_parameter",
                    param=name[:80],
                )

    async def _function(self, path: str, deployment: Deployment) -> Callable[..., Any]:
        if self._library is None:
            if importlib.util.find_spec("litellm") is None:
                raise Problem(
                    501,
                    f"{deployment.provider[:80]} does not speak this API: for that the proxy needs the package litellm",
                    code="litellm_missing",
                    param="model",
                )
            # It takes seconds.
            self._library = await asyncio.to_thread(importlib.import_module, "litellm")
        function: Callable[..., Any] | None = getattr(self._library, _FUNCTIONS.get(path, "_"), None)
        if function is None:
            raise Problem(501, f"{deployment.provider} cannot be reached at {path}", code="unsupported_path")
        return function


class Written:
    """LiteLLM's stream, as the events of the API that was called. Its own order: a head, then events."""

    headers: ClassVar[Headers] = [(name.encode(), value.encode()) for name, value in HEAD[1]]

    def __init__(self, chunks: Any, *, named: bool) -> None:
        self._source = chunks
        self._events = self._write(aiter(chunks), named)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._events)

    async def _write(self, chunks: AsyncIterator[Any], named: bool) -> AsyncIterator[Any]:
        yield Head(200, self.headers)
        async for chunk in chunks:
            if isinstance(chunk, bytes):
                yield chunk
                continue
            body = _dumps(chunk)
            kind = orjson.loads(body).get("type") if named else None
            yield (b"event: " + kind.encode() + b"\n" if kind else b"") + b"data: " + body + b"\n\n"
        if not named:
            yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        await close(self._events)
        await close(self._source)


def is_for_the_config(name: str, own: Container[str]) -> bool:
    """Whether an argument of LiteLLM's functions is no caller's to say. own: those that it lists as its own."""
    if name in _KEPT:
        return False
    return name in OWN or name in _NOT_ITS_OWN or name in OF_SDKS or name in own or bool(_REACH.search(name))


def _dumps(answer: Any) -> bytes:
    dump = getattr(answer, "model_dump", None)
    return orjson.dumps(answer if dump is None else dump(mode="json", exclude_none=True))


def _refusal(error: Exception) -> Reply:
    said = getattr(error, "status_code", None)
    status = said if isinstance(said, int) and 400 <= said <= 599 else 502
    # Not its text: that may quote the request, or the credential.
    body = Problem(status, f"the provider refused the call ({type(error).__name__})", code="upstream_error").body()
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    kept = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in headers.items()
        if name.lower().startswith(_PASSED_ON)
    ]
    return Reply(Head(status, [*_JSON_HEADERS, *kept]), body, body)
