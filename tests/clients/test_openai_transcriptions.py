"""Transcriptions of a real `AsyncOpenAI` over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream, OpenAI
from openai.types.audio import Transcription, TranscriptionTextDoneEvent, TranscriptionVerbose

from asynccache import Cache, status
from asynccache.testing.provider import SimulatedProvider

SOUND = bytes(range(256)) * 20 + b"\r\n--boundary\r\n\n\r"


@pytest.fixture
async def create(provider: SimulatedProvider, cache: Cache) -> AsyncIterator[Any]:
    async with AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as plain:
        yield cache.wrap(plain).audio.transcriptions.create


async def test_a_file_counts_by_its_content(provider: SimulatedProvider, create: Any, tmp_path: Path) -> None:
    """However it is given, and whatever its name; and it gets to the provider as it was given."""
    path = tmp_path / "speech.wav"
    path.write_bytes(SOUND)
    first = await create(model="whisper", file=("a.mp3", SOUND, "audio/mpeg"))
    sent = {"filename": "a.mp3", "size": len(SOUND), "sha256": hashlib.sha256(SOUND).hexdigest()}
    assert provider.requests[0]["file"] == sent
    with path.open("rb") as file:
        for form in (SOUND, io.BytesIO(SOUND), path, file, ("b.wav", SOUND), ("c.wav", path), ("d.wav", file)):
            again = await create(model="whisper", file=form)
            assert (status(again).outcome, again) == ("hit", first)
    assert status(await create(model="whisper", file=("a.mp3", SOUND + b"x"))).outcome == "miss"
    assert status(await create(model="whisper", file=SOUND, language="fr")).outcome == "miss"


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [("json", Transcription), ("verbose_json", TranscriptionVerbose), ("text", str), ("srt", str), ("vtt", str)],
)
async def test_formats(provider: SimulatedProvider, create: Any, wanted: str, kind: type[Any]) -> None:
    """Each is of its own type, on a hit as on a miss."""
    miss, hit = [await create(model="whisper", file=SOUND, response_format=wanted) for _ in range(2)]
    assert type(miss) is type(hit) is kind
    assert hit == miss
    if not isinstance(hit, str):
        assert hit.to_json() == miss.to_json()
        assert status(hit).outcome == "hit"
    assert len(provider.requests) == 1


async def test_streams(provider: SimulatedProvider, create: Any) -> None:
    """They come again event by event, and answer whole calls; so do whole answers the other way round."""
    runs = []
    for outcome in ("miss", "hit"):
        stream = await create(model="gpt-4o-transcribe", file=SOUND, stream=True)
        assert isinstance(stream, AsyncStream)
        assert status(stream).outcome == outcome
        runs.append([event async for event in stream])
    assert runs[0] == runs[1]
    assert type(runs[1][-1]) is TranscriptionTextDoneEvent
    whole = await create(model="gpt-4o-transcribe", file=SOUND)
    assert (status(whole).outcome, whole.text) == ("hit", runs[0][-1].text)
    await create(model="gpt-4o-transcribe", file=b"other")
    events = [event async for event in await create(model="gpt-4o-transcribe", file=b"other", stream=True)]
    assert "".join(getattr(event, "delta", "") for event in events) == events[-1].text
    assert len(provider.requests) == 2


async def test_a_stream_in_another_format(provider: SimulatedProvider, create: Any) -> None:
    """Is the provider's own business."""
    stream = await create(model="whisper", file=SOUND, stream=True, response_format="text")
    assert (status(stream).outcome, status(stream).reason) == ("bypass", "stream: of a transcription as text")
    await stream.close()


async def test_callers_share_a_call(provider: SimulatedProvider, create: Any) -> None:
    """The same sound under two names is heard once."""
    provider.hold()
    tasks = [asyncio.create_task(create(model="whisper", file=(name, SOUND))) for name in ("a.wav", "b.wav")]
    await provider.reached(1)
    provider.release()
    assert sorted([status(answer).outcome for answer in await asyncio.gather(*tasks)]) == ["coalesced", "miss"]
    assert len(provider.requests) == 1


async def test_errors_and_silence(provider: SimulatedProvider, create: Any, cache: Cache) -> None:
    """The SDK's own errors; and nothing heard is nothing stored."""
    provider.fail_next(429)
    with pytest.raises(openai.RateLimitError):
        await create(model="whisper", file=SOUND)
    for wanted in ("json", "srt"):
        provider.answer_next("")
        await create(model="whisper", file=SOUND, response_format=wanted)
    assert cache.stats.reject_reasons == {"empty": 1}
    assert cache.stats.stored == 1  # what is around an empty text in a list of subtitles


def test_a_sync_client() -> None:
    """`OpenAI` has the same."""
    with SimulatedProvider() as provider, OpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as plain:
        cache = Cache()
        create = cache.wrap(plain).audio.transcriptions.create
        answers = [create(model="whisper", file=(name, SOUND)) for name in ("a.wav", "b.wav")]
        assert [status(answer).outcome for answer in answers] == ["miss", "hit"]
        assert provider.requests[0]["file"]["filename"] == "a.wav"
        runs = [list(create(model="whisper", file=b"other", stream=True)) for _ in range(2)]
        assert runs[0] == runs[1]
        assert len(provider.requests) == 2
        asyncio.run(cache.aclose())
