"""Observations as tests want them."""

from __future__ import annotations

from typing import Any

from asynccache.telemetry.observation import Observation, UpstreamCall, Usage

_BOTH: dict[str, Any] = {
    "call_type": "chat",
    "model": "gpt-4o",
    "provider": "openai",
    "stream": False,
    "tenant": None,
    "namespace": "",
    "tags": (),
    "began": 1_750_000_000.0,
    "first": None,
    "usage": Usage(1000, 100),
    "error": "",
}


def seen(**changes: Any) -> Observation:
    """A hit, unless it is said otherwise."""
    own = {
        "outcome": "hit",
        "reason": "",
        "tier": "memory",
        "stored": True,
        "key": "0123456789abcdef",
        "seconds": 20e-6,
    }
    return Observation(**{**_BOTH, **own, **changes})


def miss(**changes: Any) -> Observation:
    paid = changes.get("usage", _BOTH["usage"])
    return seen(**{"outcome": "miss", "reason": "absent", "tier": "", "seconds": 1.5, "paid": paid, **changes})


def made(**changes: Any) -> UpstreamCall:
    return UpstreamCall(**{**_BOTH, "seconds": 1.5, **changes})
