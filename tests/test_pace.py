"""How fast a recorded stream comes again."""

from __future__ import annotations

from typing import Any

import pytest

from asynccache import ConfigError
from asynccache.pace import Paced, check_pace, delays
from asynccache.streams import Replay


@pytest.mark.parametrize("pace", [0, -1, True, "fast", None, float("nan"), float("inf")])
def test_what_is_no_pace(pace: Any) -> None:
    """Anything but the two words and a positive number is a ConfigError."""
    with pytest.raises(ConfigError, match="tokens per second"):
        check_pace(pace)


def test_delays() -> None:
    """Instant waits for nothing, original for the recorded gaps, a number for its share of a second per token."""
    meta = {"gaps": [500, 20, 0], "usage": {"completion_tokens": 30}}
    assert delays(check_pace("instant"), 3, meta) == ()
    assert delays(check_pace("original"), 3, meta) == [0.5, 0.02, 0.0]
    assert delays(check_pace(100), 3, meta) == pytest.approx([0.1] * 3)
    assert delays(check_pace(100), 4, {}) == pytest.approx([0.01] * 4)
    assert delays(check_pace(100), 0, {}) == ()


async def test_each_chunk_comes_after_its_delay() -> None:
    """The waiting is done before each chunk; chunks beyond the delays do not wait."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    chunks = Paced(Replay([b"1", b"2", b"3"], int), [0.5, 0.25], sleep=sleep)
    assert [(chunk, tuple(waited)) async for chunk in chunks] == [(1, (0.5,)), (2, (0.5, 0.25)), (3, (0.5, 0.25))]
    await chunks.aclose()
