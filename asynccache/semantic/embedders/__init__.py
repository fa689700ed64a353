"""Where vectors come from: one source a file. Loaded when named, not before."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Protocol, cast

from asynccache.errors import ConfigError
from asynccache.semantic.vectors import Embedder

DEFAULT_MODEL = "text-embedding-3-small"

_NAMED = {
    "local": "local",
    "fastembed": "fastembed",
    "sentence-transformers": "sentence_transformers",
    "litellm": "litellm",
    "openai": "openai",
}


class OwnEmbedder(Embedder, Protocol):
    """An embedder that was made here, and is closed here."""

    async def aclose(self) -> None: ...


def load(model: str, *, api_base: str | None = None, api_key: str | None = None) -> OwnEmbedder:
    """The embedder of this name. Loads its library, and no model: that is done at the first use.

    model: "local:FOLDER" of a MiniLM or another BERT (config.json, tokenizer.json, model.safetensors);
           "fastembed:NAME", "sentence-transformers:NAME", "litellm:NAME";
           any other name ("text-embedding-3-small", "openai:NAME") is asked of an OpenAI-compatible API.
    api_base, api_key: of that API; None: from the environment, as the openai SDK reads it.

    Raises ConfigError for a name that says nothing, or whose extra is not installed.
    """
    if not isinstance(model, str) or not model:
        raise ConfigError(f"embedding_model={model!r}: a name is wanted, such as {DEFAULT_MODEL!r} or 'local:FOLDER'")
    kind, mark, name = model.partition(":")
    if kind not in _NAMED:
        # Others may have a colon in their names: nomic-embed-text:latest.
        if mark and (near := get_close_matches(kind.lower(), _NAMED, 1)):
            raise ConfigError(f"embedding_model={model!r}: did you mean '{near[0]}:{name}'?")
        kind, name = "openai", model
    if not name:
        raise ConfigError(f"embedding_model={model!r}: a name is wanted after '{kind}:'")
    make: Callable[..., OwnEmbedder] = importlib.import_module(f"{__name__}.{_NAMED[kind]}").EMBEDDER
    if kind == "openai":
        return make(name, api_base=api_base, api_key=api_key)
    if api_base is not None or api_key is not None:
        raise ConfigError(f"embedding_api_base and embedding_api_key say nothing to {model!r}")
    return make(name)


def adapt(embedder: Any, model: str | None = None) -> Embedder:
    """The embedder behind what a user has at hand.

    embedder: an async callable. `f(texts)` → vectors; or one like litellm's `aembedding` and openai's
              `client.embeddings.create`, which takes `input` (and `model`) and gives `data[i].embedding`; or a
              client that has such a one.
    model:    given, it is called in the second way.
    """
    create = getattr(getattr(embedder, "embeddings", None), "create", None)
    call = embedder if create is None else create
    if not callable(call):
        raise ConfigError(f"embedder={embedder!r}: an async callable that takes a list of texts is wanted")
    if create is not None and model is None:
        model = DEFAULT_MODEL
    if model is None and "input" not in _parameters(call):
        return cast("Embedder", call)
    return _LikeAembedding(call, model)


class _LikeAembedding:
    def __init__(self, call: Callable[..., Any], model: str | None) -> None:
        self._call = call
        self._named = {} if model is None else {"model": model}

    async def __call__(self, texts: Any, /) -> list[Any]:
        return vectors_of(await self._call(**self._named, input=list(texts)))


def vectors_of(answer: Any) -> list[Any]:
    """The vectors in an answer of OpenAI's shape, in the order of the texts. Raises ValueError for another shape."""
    data = answer.get("data") if isinstance(answer, dict) else getattr(answer, "data", None)
    if not isinstance(data, list):
        raise ValueError("an answer without a list under 'data'")
    rows: list[dict[str, Any]] = [
        row if isinstance(row, dict) else {name: getattr(row, name, None) for name in ("index", "embedding")}
        for row in data
    ]
    if any(row.get("embedding") is None for row in rows):
        raise ValueError("an answer without an 'embedding' in each of its 'data'")
    if all(isinstance(row.get("index"), int) for row in rows):
        rows.sort(key=lambda row: int(row["index"]))
    return [row["embedding"] for row in rows]


def _parameters(call: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(call).parameters)
    except (TypeError, ValueError):  # a builtin may not say
        return []
