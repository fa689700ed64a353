"""Where entries live: one vendor a file, named as in the configuration. Loaded when named, not before."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import cast

from asynccache.errors import ConfigError
from asynccache.protocols import AsyncCacheBackend


def names() -> list[str]:
    """The types that `load` knows."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> Callable[..., AsyncCacheBackend]:
    """The backend class of this type: a name from `names()`, or "package.module:Class" for one of your own.

    Raises ConfigError when there is none, or when the extra that it needs is not installed.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return cast("Callable[..., AsyncCacheBackend]", getattr(importlib.import_module(module), attribute))
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"backend type {name!r}: {error}") from error
    module = f"{__name__}.{name}"
    if not name.isidentifier() or importlib.util.find_spec(module) is None:
        raise ConfigError(f"unknown backend type {name!r}: known are {', '.join(names())}, or 'package.module:Class'")
    return cast("Callable[..., AsyncCacheBackend]", importlib.import_module(module).BACKEND)
