"""Texts in pieces of about the size of a word, as a model would have said them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# At most eight letters, so that texts without spaces come in pieces too. What belongs to the sign before it (a
# combining accent, a variation selector, a skin tone, what a zero-width joiner ties on) stays with it: a terminal
# that prints piece by piece would show half a sign otherwise.
_PIECE = re.compile(r"\s*\S{1,8}(?:(?<=\u200d)\S|[\u0300-\u036f\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff])*|\s+")


def pieces(text: str) -> list[str]:
    """The text in small pieces, none empty. Joined, they are the text again."""
    return _PIECE.findall(text)


def tokens(text: Any, logprobs: Any) -> list[tuple[str, dict[str, Any]]] | None:
    """The text in the tokens that its log probabilities are about, each with its own; None when they do not
    make up the text: some tokens are parts of a character only."""
    if not isinstance(text, str) or not text or not isinstance(logprobs, list):
        return None
    if not all(isinstance(entry, Mapping) and isinstance(entry.get("token"), str) for entry in logprobs):
        return None
    if "".join(entry["token"] for entry in logprobs) != text:
        return None
    return [(entry["token"], entry) for entry in logprobs]
