"""Whatever embedding model LiteLLM reaches, with its keys and settings."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from asynccache.errors import ConfigError
from asynccache.semantic.embedders import vectors_of

_MISSING = "'litellm:…' needs LiteLLM: pip install litellm"


class LiteLLMEmbedder:
    """Embeds by `litellm.aembedding(model=name)`. LiteLLM is imported at the first use, since that takes seconds."""

    def __init__(self, name: str) -> None:
        if importlib.util.find_spec("litellm") is None:
            raise ConfigError(_MISSING)
        self._name = name

    async def __call__(self, texts: Sequence[str], /) -> list[Any]:
        import litellm

        return vectors_of(await litellm.aembedding(model=self._name, input=list(texts)))

    async def aclose(self) -> None:
        """Nothing: its clients are LiteLLM's."""


EMBEDDER = LiteLLMEmbedder
