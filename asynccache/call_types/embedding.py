"""Embeddings. Never matched by similarity: a neighbour's vector is a wrong answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asynccache.call_types.function import FunctionCallType
from asynccache.protocols import Verdict


class EmbeddingCallType(FunctionCallType):
    name = "embedding"

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping) or "data" not in answer:
            return Verdict("" if answer else "empty")
        facts = {name: answer[name] for name in ("model", "usage") if answer.get(name)}
        return Verdict("" if answer["data"] else "empty", facts)


CALL_TYPE = EmbeddingCallType()
