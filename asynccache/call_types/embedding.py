"""Embeddings. Never matched by similarity: a neighbour's vector is a wrong answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.protocols import Verdict


class EmbeddingCallType:
    name = "embedding"
    turns = ""

    def views(self, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        return params, ""

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping) or "data" not in answer:
            return Verdict("" if answer else "empty")
        facts = {name: answer[name] for name in ("model", "usage") if answer.get(name)}
        return Verdict("" if answer["data"] else "empty", facts)

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        return Verdict("" if chunks else "empty")

    def assemble(self, chunks: Sequence[Any]) -> Any:
        raise ValueError("what these chunks make is not known")

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:
        raise ValueError("how this answer is streamed is not known")

    def fit(self, chunks: list[bytes], asked: Any, params: Mapping[str, Any]) -> list[bytes]:
        return chunks


CALL_TYPE = EmbeddingCallType()
