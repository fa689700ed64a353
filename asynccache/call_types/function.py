"""Any other function: its name and arguments are its key, and its answer is taken at its word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.model import KeepOut
from asynccache.protocols import Parts, Verdict


class FunctionCallType:
    name = "function"
    turns = ""
    parts: Parts | None = None
    keep_out: KeepOut | None = None

    def views(self, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        return params, ""

    def judge(self, answer: Any) -> Verdict:
        return Verdict("empty" if answer is None or answer == "" else "")

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        return Verdict("" if chunks else "empty")

    def assemble(self, chunks: Sequence[Any]) -> Any:
        raise ValueError("what these chunks make is not known")

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:
        raise ValueError("how this answer is streamed is not known")

    def fit(self, chunks: list[bytes], asked: Any, params: Mapping[str, Any]) -> list[bytes]:
        return chunks


CALL_TYPE = FunctionCallType()
