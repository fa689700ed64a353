"""Call types whose answers are HTTP bodies: what is recorded of a stream is its bytes, event by event.

A recorded chunk is, as JSON: a list for the head of the answer (see `Head`), a str for an event, a dict for bytes that
are none. The call types of the package read the JSON inside the events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from asynccache.call_types.function import FunctionCallType
from asynccache.http import sse
from asynccache.model import KeepOut
from asynccache.protocols import CallType, Parts, Verdict
from asynccache.telemetry.usage import model_in, usage_in

EVENT_STREAM = "text/event-stream"
HEAD: list[Any] = [200, [["content-type", f"{EVENT_STREAM}; charset=utf-8"]]]
"""How a stream begins that was cut from a whole answer."""

_DONE = "[DONE]"


class KnownCallType:
    """A call type of the package, spoken over HTTP.

    named: whether each event says its type beside its data. done: whether `[DONE]` ends a stream.
    usage: whether a whole answer always has a usage, and a stream need not: strict clients refuse one without.
    parts: of a call about several things: how bodies are taken apart and put together.
    texts: whether an answer may be a text in place of an object.
    """

    both = True
    """Whether a whole answer can be had from a stream and the other way round."""

    name: str
    turns: str
    parts: Parts | None
    keep_out: KeepOut | None

    def __init__(
        self,
        inner: CallType,
        *,
        named: bool = False,
        done: bool = False,
        usage: bool = False,
        parts: Parts | None = None,
        texts: bool = False,
    ) -> None:
        self.name, self.turns, self.keep_out = inner.name, inner.turns, inner.keep_out
        self.parts = parts
        self._inner = inner
        self._named = named
        self._done = done
        self._usage = usage
        self.texts = texts

    def views(self, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        return self._inner.views(params)

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping) and not (self.texts and isinstance(answer, str)):
            return Verdict("unreadable")
        verdict = self._inner.judge(answer)
        return verdict if verdict.refusal else Verdict(refusal_of(answer), verdict.facts)

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        if refusal := _unfit(chunks):
            return Verdict(refusal)
        said = list(payloads(chunks))
        verdict = self._inner.judge_stream(said)
        return verdict if verdict.refusal else Verdict(refusal_of(said), verdict.facts)

    def assemble(self, chunks: Sequence[Any]) -> Any:
        whole = self._inner.assemble(list(payloads(chunks)))
        if self._usage and not whole.get("usage"):
            raise ValueError("the usage was not recorded")
        return whole

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:
        events = [self._write(payload) for payload in self._inner.cut(answer, params)]
        return [HEAD, *events, *([sse.write(_DONE)] if self._done else [])]

    def fit(self, chunks: list[bytes], asked: Any, params: Mapping[str, Any]) -> list[bytes]:
        if asked == params.get("stream_options"):
            return chunks
        told = [orjson.loads(chunk) for chunk in chunks]
        recorded = [orjson.dumps(payload) for payload in payloads(told)]
        fitted = self._inner.fit(recorded, asked, params)
        if fitted is recorded:
            return chunks
        events = [self._write(orjson.loads(chunk)) for chunk in fitted]
        heads = [chunk for chunk in told if isinstance(chunk, list)]
        end = [chunk for chunk in told if isinstance(chunk, str) and sse.read(chunk).data == _DONE]
        return [orjson.dumps(chunk) for chunk in (*heads, *events, *end)]

    def _write(self, payload: Any) -> str:
        return sse.write(orjson.dumps(payload).decode(), payload.get("type", "") if self._named else "")


class OpaqueCallType(FunctionCallType):
    """Answers of which only the signs are read that providers have in common: errors, and why the model stopped.

    name:   as in `supported_call_types`.
    finish: whether a stream is whole only if it says why the model stopped.
    """

    both = False
    texts = False

    def __init__(self, name: str = "function", *, finish: bool = False) -> None:
        self.name = name
        self._finish = finish

    def judge(self, answer: Any) -> Verdict:
        return Verdict(refusal_of(answer) or _empty(answer), _facts([answer]))

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        if refusal := _unfit(chunks):
            return Verdict(refusal)
        said = list(payloads(chunks))
        if refusal := refusal_of(said):
            return Verdict(refusal)
        if self._finish and not any(True for _ in _reasons(said)):
            return Verdict("unfinished")
        return Verdict("" if said else "empty", _facts(said))


HTTPCallType = KnownCallType | OpaqueCallType


def payloads(chunks: Sequence[Any]) -> Iterator[Any]:
    """The JSON that the events bring. Raises ValueError for an event whose data is something else."""
    for chunk in chunks:
        data = sse.read(chunk).data if isinstance(chunk, str) else None
        if data and data != _DONE:
            yield orjson.loads(data)


def _unfit(chunks: Sequence[Any]) -> str:
    """Why this is no stream of events that went well; "" when it is."""
    for chunk in chunks:
        if isinstance(chunk, dict) or (isinstance(chunk, list) and chunk[0] != 200):
            return "answer-type"
        if isinstance(chunk, str) and sse.read(chunk).name == "error":
            return "error"
    return ""


# -- signs that providers have in common -----------------------------------------------------------

_REASON_NAMES = frozenset({"finish_reason", "finishReason", "stop_reason", "done_reason"})
_BLOCK_NAMES = frozenset({"blockReason", "block_reason"})
_LISTS = ("choices", "candidates", "results", "embeddings", "data")
_SAID = {
    "length": "length max_tokens model_length max_output_tokens",
    "content_filter": "content_filter safety recitation blocklist prohibited_content spii image_safety language",
    "error": "error error_toxic error_limit malformed_function_call unexpected_tool_call timeout other",
    "unfinished": "abort user_cancel cancelled",
}
_REFUSALS = {word: refusal for refusal, words in _SAID.items() for word in words.split()}
_DEPTH = 6


def refusal_of(answer: Any) -> str:
    """Why this may not be kept, by the signs that providers have in common; "" when there is none."""
    for part in answer if isinstance(answer, list) else (answer,):
        if isinstance(part, Mapping) and (part.get("error") or part.get("type") == "error"):
            return "error"
    return next(filter(None, (_REFUSALS.get(reason.lower(), "") for reason in _reasons(answer))), "")


def _reasons(tree: Any, depth: int = 0) -> Iterator[str]:
    """Why the model stopped, wherever the answer says it."""
    if isinstance(tree, Mapping) and depth < _DEPTH:
        for name, value in tree.items():
            if name in _REASON_NAMES and isinstance(value, str) and value:
                yield value
            elif name in _BLOCK_NAMES and value:
                yield "content_filter"
            elif name not in ("arguments", "args", "input"):  # a tool's own words
                yield from _reasons(value, depth + 1)
    elif isinstance(tree, list) and tree and isinstance(tree[0], Mapping | list):  # and no vector
        for item in tree:
            yield from _reasons(item, depth + 1)


def _empty(answer: Any) -> str:
    if answer is None or answer == "":
        return "empty"
    known = [answer[name] for name in _LISTS if name in answer] if isinstance(answer, Mapping) else []
    return "empty" if known and not any(known) else ""


def _facts(pieces: Sequence[Any]) -> dict[str, Any]:
    """The model and its usage, in whose words ever. Pieces of a stream that say it several times say sums."""
    model, usage = "", dict[str, Any]()
    for piece in pieces:
        model = model or model_in(piece)
        usage |= usage_in(piece) or {}
    facts = {"model": model, "usage": usage}
    return {name: value for name, value in facts.items() if value}
