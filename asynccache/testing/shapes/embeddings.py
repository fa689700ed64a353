"""OpenAI embeddings."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from asynccache.testing.answers import tokens

DIMENSIONS = 256


def embeddings(request: Mapping[str, Any]) -> dict[str, Any]:
    """A vector for each input, in order, as `float` or `base64` (little-endian 32-bit floats), as the request asks.

    Vectors have length 1 and `dimensions` numbers (256 unless asked otherwise). Texts that share words are near each
    other, whatever the order of the words: good for testing a search, no more than that.
    """
    texts = [_text(item) for item in _inputs(request["input"])]
    dimensions = int(request.get("dimensions") or DIMENSIONS)
    as_base64 = request.get("encoding_format") == "base64"
    used = sum(len(tokens(text)) for text in texts)
    return {
        "object": "list",
        "model": str(request.get("model", "")),
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(embed(text, dimensions), as_base64)}
            for index, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def embed(text: str, dimensions: int = DIMENSIONS) -> array[float]:
    """A vector of length 1 in which each word of the text pushes one number up or down."""
    vector = array("f", bytes(4 * dimensions))
    for word in re.findall(r"\w+", text.lower()) or [""]:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        place = int.from_bytes(digest[:4], "big") % dimensions
        vector[place] += 1.0 if digest[4] & 1 else -1.0
    norm = math.hypot(*vector)
    if norm == 0.0:  # two words have cancelled each other out, and nothing else was there
        vector[0] = norm = 1.0
    return array("f", (number / norm for number in vector))


def _encoded(vector: array[float], as_base64: bool) -> str | list[float]:
    if not as_base64:
        return vector.tolist()
    if sys.byteorder == "big":
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()


def _inputs(value: Any) -> list[Any]:
    """A text, texts, a text as token numbers, or several of those: as a list with one item for each vector."""
    alone = isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int))
    return [value] if alone else list(value)


def _text(item: str | list[int]) -> str:
    return item if isinstance(item, str) else " ".join(map(str, item))
