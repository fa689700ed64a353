"""Transcriptions of audio: a text, or an object with one, as `response_format` says.

The format of streams: https://platform.openai.com/docs/api-reference/audio/transcript-text-delta-event. The last event
brings the whole text, so assembling is taking it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.call_types.function import FunctionCallType
from asynccache.call_types.pieces import pieces, tokens
from asynccache.model import KeepOut
from asynccache.protocols import Verdict

JSON = dict[str, Any]

_DELTA, _DONE = "transcript.text.delta", "transcript.text.done"
_OF_THE_DONE = ("text", "usage", "logprobs")


def _keep_out(params: Mapping[str, Any]) -> str:
    """A recorded stream has no more than the text, and could not answer a whole call in another format."""
    wanted = params.get("response_format") or "json"
    return f"stream: of a transcription as {wanted}" if params.get("stream") and wanted != "json" else ""


class TranscriptionCallType(FunctionCallType):
    name = "transcription"

    keep_out: KeepOut | None = staticmethod(_keep_out)

    def judge(self, answer: Any) -> Verdict:
        if not isinstance(answer, Mapping):
            return Verdict("" if answer else "empty")
        facts = {name: answer[name] for name in ("usage", "duration", "language") if answer.get(name)}
        if answer.get("error"):
            return Verdict("error", facts)
        return Verdict("" if answer.get("text", answer) else "empty", facts)

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        told = [event for event in chunks if isinstance(event, Mapping)]
        if any(event.get("type") == "error" or event.get("error") for event in told):
            return Verdict("error")
        if not any(event.get("type") == _DONE for event in told):
            return Verdict("unfinished")
        return self.judge(self.assemble(told))

    def assemble(self, chunks: Sequence[Any]) -> Any:
        done = next((event for event in reversed(chunks) if event.get("type") == _DONE), None)
        if done is None:
            raise ValueError(f"no {_DONE}: there is no whole transcription")
        return {name: value for name, value in done.items() if name != "type"}

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:
        if not isinstance(answer, Mapping) or not isinstance(answer.get("text"), str):
            raise ValueError("a transcription that is no object with a text is not streamed")
        if odd := sorted(answer.keys() - set(_OF_THE_DONE)):
            raise ValueError(f"a stream has no place for {', '.join(odd)}")
        return _events(answer)


def _events(answer: Mapping[str, Any]) -> list[JSON]:
    said = tokens(answer["text"], answer.get("logprobs"))
    if said is None:
        deltas: list[JSON] = [{"type": _DELTA, "delta": piece} for piece in pieces(answer["text"])]
    else:
        deltas = [{"type": _DELTA, "delta": token, "logprobs": [entry]} for token, entry in said]
    return [*deltas, {"type": _DONE, **answer}]


class NamedBytes(bytes):
    """The content of a file that was given as (name, content, …): it counts alone."""

    given: tuple[Any, ...]


class NamedPath(os.PathLike[str]):
    """The same for a path."""

    def __init__(self, given: tuple[Any, ...]) -> None:
        self.given = given

    def __fspath__(self) -> str:
        return os.fsdecode(self.given[1])


class NamedFile:
    """The same for an open file."""

    def __init__(self, given: tuple[Any, ...]) -> None:
        self.given = given
        self.read, self.tell, self.seek = given[1].read, given[1].tell, given[1].seek


def by_content(file: Any) -> Any:
    """A file as it stands among the arguments from which a key is built: its name and type, which the SDKs take as
    (name, content, type, headers), do not count. `as_given` undoes it."""
    if not isinstance(file, tuple) or len(file) < 2:
        return file
    content = file[1]
    if isinstance(content, bytes):
        named = NamedBytes(content)
        named.given = file
        return named
    if isinstance(content, os.PathLike):
        return NamedPath(file)
    return NamedFile(file) if all(hasattr(content, verb) for verb in ("read", "tell", "seek")) else file


def as_given(file: Any) -> Any:
    """The file as its caller gave it."""
    return file.given if isinstance(file, NamedBytes | NamedPath | NamedFile) else file


CALL_TYPE = TranscriptionCallType()
