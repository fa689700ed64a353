"""What LiteLLM leaves behind."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def litellms_sessions() -> Iterator[None]:
    """LiteLLM opens HTTP sessions that it never closes: they are found when garbage is collected, in the end by
    pytest, for which it would be a failure of ours."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(3):
            gc.collect()
