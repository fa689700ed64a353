"""Transcriptions: which may be stored, how they come in pieces, and what counts of a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynccache.call_types import CALL_TYPES
from asynccache.call_types.transcription import as_given, by_content
from asynccache.keys import build_key
from asynccache.material import ReadsFile
from asynccache.model import Directives, Target

SPEECH = CALL_TYPES["transcription"]
USAGE = {"type": "tokens", "input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
DONE = {"type": "transcript.text.done", "text": "Hi there", "usage": USAGE}
DELTA = {"type": "transcript.text.delta", "delta": "Hi"}


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        ({"text": "Hi"}, ""),
        ({"text": "Hi", "segments": []}, ""),
        ("Hi", ""),
        ("WEBVTT\n", ""),
        ({"text": ""}, "empty"),
        ("", "empty"),
        (None, "empty"),
        ({"error": {"message": "overloaded"}}, "error"),
        ({"words": "Hi"}, ""),
    ],
)
def test_what_is_stored(value: Any, refusal: str) -> None:
    """An object with a text, or a text, as the call wants it; but not silence."""
    assert SPEECH.judge(value).refusal == refusal


def test_the_facts() -> None:
    """What it used and how long it was."""
    assert SPEECH.judge({"text": "Hi", "usage": USAGE, "duration": 2.5}).facts == {"usage": USAGE, "duration": 2.5}


@pytest.mark.parametrize(
    ("events", "refusal"),
    [
        ([DELTA, DONE], ""),
        ([DELTA], "unfinished"),
        ([], "unfinished"),
        ([DELTA, {"type": "error", "error": {}}], "error"),
        ([{**DONE, "text": ""}], "empty"),
    ],
)
def test_a_stream_is_judged_by_its_last_event(events: list[Any], refusal: str) -> None:
    assert SPEECH.judge_stream(events).refusal == refusal


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=40), st.booleans())
def test_what_is_cut_is_assembled_to_what_it_was(text: str, used: bool) -> None:
    """Text in pieces, and then all of it."""
    whole = {"text": text, **({"usage": USAGE} if used else {})}
    events = SPEECH.cut(whole, {})
    assert "".join(event.get("delta", "") for event in events) == text
    assert SPEECH.assemble(events) == whole


def test_log_probabilities_go_with_their_tokens() -> None:
    entries: list[dict[str, Any]] = [{"token": token, "logprob": -0.5, "bytes": []} for token in ("Hi", " there")]
    events = SPEECH.cut({"text": "Hi there", "logprobs": entries}, {})
    assert [event.get("logprobs") for event in events] == [[entries[0]], [entries[1]], entries]


@pytest.mark.parametrize("value", ["Hi", {"text": "Hi", "segments": []}, {"words": "Hi"}])
def test_what_cannot_be_streamed(value: Any) -> None:
    """A text alone, and an object with more than a stream says."""
    with pytest.raises(ValueError):
        SPEECH.cut(value, {})


def test_no_end_no_transcription() -> None:
    with pytest.raises(ValueError, match="there is no whole transcription"):
        SPEECH.assemble([DELTA])


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({}, ""),
        ({"stream": True}, ""),
        ({"stream": True, "response_format": "json"}, ""),
        ({"response_format": "srt"}, ""),
        ({"stream": True, "response_format": "text"}, "stream: of a transcription as text"),
    ],
)
def test_a_stream_in_another_format_is_kept_out(params: dict[str, Any], reason: str) -> None:
    """What is recorded of it would answer a whole call with the wrong type."""
    assert SPEECH.keep_out is not None
    assert SPEECH.keep_out(params) == reason


async def nothing(**_: Any) -> None:
    raise AssertionError("only its key is asked for")


def digest(file: Any) -> str:
    target = Target(nothing, SPEECH, answers=None)  # type: ignore[arg-type]
    return build_key({"model": "m", "file": by_content(file)}, target, Directives(), files=True).digest


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    """Whatever its name, its type, and the form in which it is given; and the SDK gets it as it was given."""
    path = tmp_path / "c.wav"
    path.write_bytes(b"sound")
    forms: list[Any] = [
        b"sound",
        io.BytesIO(b"sound"),
        path,
        ("a.wav", b"sound"),
        ("b.mp3", b"sound", "audio/mpeg", {"x": "y"}),
        ("d.wav", io.BytesIO(b"sound")),
        ("e.wav", path),
    ]
    with path.open("rb") as file:
        forms += [file, ("f.wav", file)]
        assert len({digest(form) for form in forms}) == 1
        assert file.read() == b"sound"
    assert digest(("a.wav", b"noise")) != digest(b"sound")
    for form in forms:
        assert as_given(by_content(form)) is form


@pytest.mark.parametrize("file", [("a.wav",), ("a.wav", "text"), "a.wav", None])
def test_what_is_no_named_file_is_left_alone(file: Any) -> None:
    assert by_content(file) is file


def test_files_are_read_where_that_may_block(tmp_path: Path) -> None:
    """A named file no less than a file."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"sound")
    target = Target(nothing, SPEECH, answers=None)  # type: ignore[arg-type]
    for content in (path, path.open("rb")):
        with pytest.raises(ReadsFile):
            build_key({"file": by_content(("a.wav", content))}, target, Directives())
        getattr(content, "close", lambda: None)()
