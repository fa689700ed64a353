"""The providers' own prompt caches: what is marked, where, and in each provider's words."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynccache.providers.context_caches import ContextCache, ContextCaches, create_context_cache
    from asynccache.providers.gemini import GeminiAPI
    from asynccache.providers.planner import Planner
    from asynccache.providers.points import Point
    from asynccache.providers.prompt_caching import PromptCaching
    from asynccache.providers.vertex import VertexAPI

_MODULES = {
    "ContextCache": "context_caches",
    "ContextCaches": "context_caches",
    "GeminiAPI": "gemini",
    "Planner": "planner",
    "Point": "points",
    "PromptCaching": "prompt_caching",
    "VertexAPI": "vertex",
    "create_context_cache": "context_caches",
}

__all__ = [
    "ContextCache",
    "ContextCaches",
    "GeminiAPI",
    "Planner",
    "Point",
    "PromptCaching",
    "VertexAPI",
    "create_context_cache",
]


def __getattr__(name: str) -> Any:
    """Each is loaded when it is asked for: `import asynccache` needs none of them."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
