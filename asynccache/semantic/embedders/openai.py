"""Any API that embeds as OpenAI's does."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from asynccache.errors import ConfigError, EmbeddingError
from asynccache.loops import PerLoop
from asynccache.semantic.embedders import vectors_of

_TIMEOUT = 10.0  # seconds: the caller has left long before, and what comes is still remembered
_URL = "https://api.openai.com/v1"


class OpenAIEmbedder:
    """Embeds with a model of an OpenAI-compatible API: through the openai SDK if it is installed, else httpx2 or httpx.

    api_base, api_key: None: OPENAI_BASE_URL and OPENAI_API_KEY from the environment.

    May be used from several event loops: each has connections of its own.
    """

    def __init__(self, model: str, *, api_base: str | None = None, api_key: str | None = None) -> None:
        self._model = model
        self._base = api_base
        self._key = api_key
        self._library = _library()
        self._clients: PerLoop[Any] = PerLoop(self._client, _close)

    async def __call__(self, texts: Sequence[str], /) -> list[Any]:
        wish = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        client = self._clients.here()
        if self._library == "openai":
            return vectors_of(await client.embeddings.create(**wish))
        answer = await client.post("embeddings", json=wish)
        if answer.status_code != 200:
            raise EmbeddingError(f"the embedding API answered {answer.status_code}: {answer.text[:200]}")
        return vectors_of(answer.json())

    async def aclose(self) -> None:
        await self._clients.aclose()

    def _client(self) -> Any:
        library = importlib.import_module(self._library)
        if self._library == "openai":
            return library.AsyncOpenAI(base_url=self._base, api_key=self._key, timeout=_TIMEOUT, max_retries=1)
        base = (self._base or os.environ.get("OPENAI_BASE_URL") or _URL).rstrip("/") + "/"
        key = self._key or os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return library.AsyncClient(base_url=base, headers=headers, timeout=_TIMEOUT)


def _library() -> str:
    """The name of the first that is installed."""
    for name in ("openai", "httpx2", "httpx"):
        if importlib.util.find_spec(name) is not None:
            return name
    raise ConfigError("an embedding API needs the package openai, or httpx2: pip install openai")


async def _close(client: Any) -> None:
    await (client.close() if hasattr(client, "close") else client.aclose())


EMBEDDER = OpenAIEmbedder
