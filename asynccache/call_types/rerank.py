"""Rerank: the documents that answer a query best, as Cohere, Jina and others word it.

Never matched by similarity: the scores are about this very query and these very documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asynccache.call_types.function import FunctionCallType
from asynccache.protocols import Verdict


class RerankCallType(FunctionCallType):
    name = "rerank"

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping) or not ("results" in answer or "error" in answer):
            return Verdict("" if answer else "empty")
        facts = {name: answer[name] for name in ("model", "usage", "meta") if answer.get(name)}
        if answer.get("error"):
            return Verdict("error", facts)
        return Verdict("" if answer["results"] else "empty", facts)


CALL_TYPE = RerankCallType()
