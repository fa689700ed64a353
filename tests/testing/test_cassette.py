"""Cassettes, and the pytest plugin that gives them to tests: run by a pytest of its own, on the real SDK over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from asynccache import ConfigError, status
from asynccache.testing import FakeUpstream
from asynccache.testing.cassette import FORMAT, Cassette, NotRecorded
from asynccache.testing.provider import Answer, SimulatedProvider

pytest_plugins = ["pytester"]

CALL: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


def of(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}


async def record(path: Path, *calls: dict[str, Any], mode: Any = "auto", upstream: Any = None, **options: Any) -> Any:
    """Make these calls with a cassette, and save it. The upstream that they went to."""
    upstream = upstream or FakeUpstream()
    cassette = Cassette(path, mode, **options)
    call = cassette.cache().wrap(upstream)
    for arguments in calls:
        answer = await call(**arguments)
        if arguments.get("stream"):
            assert [chunk async for chunk in answer]
    cassette.save()
    return upstream


async def replay(path: Path, arguments: dict[str, Any], **options: Any) -> Any:
    upstream = FakeUpstream()
    try:
        return await Cassette(path, "replay", **options).cache().wrap(upstream)(**arguments)
    finally:
        assert upstream.calls == 0


async def complaint(path: Path, arguments: dict[str, Any], **options: Any) -> str:
    with pytest.raises(NotRecorded) as caught:
        await replay(path, arguments, **options)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cassettes" / "a.json"


def text_of(path: Path) -> str:
    return path.read_text()


def is_there(path: Path) -> bool:
    return path.exists()


def write(path: Path, text: str) -> None:
    path.write_text(text)


def calls_of(path: Path) -> list[dict[str, Any]]:
    said = json.loads(path.read_text())
    assert said["format"] == FORMAT
    calls: list[dict[str, Any]] = said["calls"]
    return calls


# -- what is recorded, and comes back -------------------------------------------------------------


async def test_what_was_recorded_comes_back(path: Path) -> None:
    """Equal to what the upstream said, and as a hit; nothing is called."""
    upstream = FakeUpstream()
    live = await upstream(**CALL)
    await record(path, CALL, upstream=FakeUpstream(live))
    answer = await replay(path, CALL)
    assert answer == live
    assert status(answer).outcome == "hit"


async def test_the_file_is_to_be_read(path: Path) -> None:
    """Request and answer as JSON, short things on one line, no times."""
    answer = {
        "id": "x",
        "model": "gpt-4o-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Grüße\n☃"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    await record(path, {**CALL, "temperature": 0.5, "timeout": 3, "stream": False}, upstream=FakeUpstream(answer))
    (call,) = calls_of(path)
    assert call == {
        "key": call["key"],
        "call": "chat",
        "request": {**CALL, "temperature": 0.5},
        "answer": answer,
    }
    assert text_of(path) == dedent(
        f"""\
        {{
          "format": "asynccache cassette 1",
          "calls": [
            {{
              "key": "{call["key"]}",
              "call": "chat",
              "request": {{
                "messages": [{{"content": "Hello", "role": "user"}}],
                "model": "gpt-4o",
                "temperature": 0.5
              }},
              "answer": {{
                "id": "x",
                "model": "gpt-4o-1",
                "choices": [
                  {{
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {{"role": "assistant", "content": "Grüße\\n☃"}}
                  }}
                ],
                "usage": {{"prompt_tokens": 1, "completion_tokens": 2}}
              }}
            }}
          ]
        }}
        """
    )


async def test_recording_the_same_again_changes_no_byte(path: Path) -> None:
    """Calls made at once stand in the order in which they came, in whatever order they were answered."""

    async def once(first_answered: str) -> str:
        asked, answered = asyncio.Event(), {text: asyncio.Event() for text in "cab"}

        async def upstream(*, model: str, messages: Any) -> dict[str, Any]:
            text = messages[0]["content"]
            if text == "b":
                asked.set()
            await answered[text].wait()
            return {"choices": [], "said": text}

        cassette = Cassette(path, "record")
        call = cassette.cache().wrap(upstream)
        tasks = {text: asyncio.create_task(call(**of(text))) for text in "cab"}
        async with asyncio.timeout(30):
            await asked.wait()
            for text in (first_answered, *"cab"):
                answered[text].set()
                await tasks[text]
        cassette.save()
        return text_of(path)

    first = await once("b")
    assert [call["request"]["messages"][0]["content"] for call in calls_of(path)] == ["c", "a", "b"]
    assert await once("c") == first


async def test_streams_come_back_as_they_came(path: Path) -> None:
    """Chunk for chunk, one a line; and whole when that is asked for."""
    upstream = FakeUpstream("one two three")
    live = [chunk async for chunk in await upstream(**CALL, stream=True)]
    await record(path, {**CALL, "stream": True}, upstream=FakeUpstream("one two three"))
    (call,) = calls_of(path)
    assert call.keys() == {"key", "call", "request", "chunks"}
    assert len(call["chunks"]) == len(live)
    for chunk in call["chunks"]:
        assert f"{json.dumps(chunk, ensure_ascii=False)}" in text_of(path)
    again = [chunk async for chunk in await replay(path, {**CALL, "stream": True})]
    assert [chunk["choices"] for chunk in again] == [chunk["choices"] for chunk in live]
    whole = await replay(path, CALL)
    assert whole["choices"][0]["message"]["content"] == "one two three"


@pytest.mark.parametrize(
    "answer",
    [
        Answer("cut o", finish_reason="length"),
        Answer("", refusal="I will not."),
        {"choices": []},
        {"error": {"message": "no"}, "choices": []},
        {},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_whatever_was_answered_is_recorded(path: Path, answer: Any, stream: bool) -> None:
    """Also what a cache would not keep."""
    if stream and isinstance(answer, dict):
        answer = Answer("", finish_reason="content_filter")
    arguments = {**CALL, "stream": True} if stream else CALL
    upstream = await record(path, arguments, upstream=FakeUpstream(answer))
    assert upstream.calls == 1
    assert await replay(path, arguments) is not None


async def test_a_call_is_made_once_in_every_mode(path: Path) -> None:
    """What a test sees when it is recorded it sees later, too."""
    for mode in ("record", "auto"):
        path = path.with_name(f"{mode}.json")
        upstream = await record(path, CALL, CALL, {**CALL, "cache": {"no-cache": True, "ttl": 0}}, mode=mode)
        assert upstream.calls == 1
        assert await replay(path, {**CALL, "cache": {"no-cache": True}})


async def test_plain_functions_sync_and_async(path: Path) -> None:
    """Told apart by their names."""

    def one(x: int) -> dict[str, int]:
        return {"one": x}

    async def two(x: int) -> dict[str, int]:
        return {"two": x}

    cassette = Cassette(path, "record")
    cache = cassette.cache()
    await asyncio.to_thread(cache.wrap(one), 1)
    await cache.wrap(two)(1)
    await cache.aclose()
    cassette.save()
    assert [call["name"].rpartition(".")[2] for call in calls_of(path)] == ["one", "two"]
    assert [call["call"] for call in calls_of(path)] == ["function", "function"]
    assert await Cassette(path, "replay").cache().wrap(two)(x=1) == {"two": 1}


async def test_borders_stand_in_the_file(path: Path) -> None:
    """Namespaces and tenants are told apart."""
    cassette = Cassette(path, "record")
    await cassette.cache().bind(namespace="n", tenant="t").wrap(FakeUpstream())(**CALL)
    cassette.save()
    (call,) = calls_of(path)
    assert (call["namespace"], call["tenant"]) == ("n", "t")
    assert "namespace: " in await complaint(path, CALL)


async def test_files_are_recorded_by_content(path: Path, tmp_path: Path) -> None:
    """As they are in keys."""
    speech = tmp_path / "speech.wav"
    speech.write_bytes(b"one")
    await record(path, {**CALL, "file": speech})
    assert calls_of(path)[0]["request"]["file"].startswith("bytes[")
    assert await replay(path, {**CALL, "file": speech})
    speech.write_bytes(b"two")
    assert "file: " in await complaint(path, {**CALL, "file": speech})


async def test_secrets_stay_out(path: Path) -> None:
    """API keys, headers, connections, and what the test says is to be ignored."""
    arguments = {
        **CALL,
        "api_key": "sk-secret",
        "extra_headers": {"Authorization": "Bearer secret"},
        "metadata": {"session": "secret"},
        "user": "secret",
    }
    await record(path, arguments, ignore=["metadata", "user"])
    assert "secret" not in text_of(path)
    assert await replay(path, {**CALL, "user": "another"}, ignore=["metadata", "user"])


async def test_what_is_ignored_stays_out_as_a_default_too(path: Path) -> None:
    async def ask(question: str, session: str = "none", level: int = 1) -> dict[str, str]:
        return {"said": question}

    await record(path, {"question": "a", "session": "b"}, {"question": "a"}, upstream=ask, ignore="session")
    assert [call["request"] for call in calls_of(path)] == [{"level": 1, "question": "a"}]


async def test_where_a_client_went_does_not_count(path: Path) -> None:
    """Recorded with one base URL and organization, played back without."""
    async with SimulatedProvider() as provider:
        cassette = Cassette(path, "record")
        async with AsyncOpenAI(base_url=provider.base_url, api_key="sk-1", organization="org-1") as plain:
            client = cassette.cache().wrap(plain)
            live = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
        cassette.save()
    text = text_of(path)
    assert "127.0.0.1" not in text
    assert "org-1" not in text
    client = Cassette(path, "replay").cache().wrap(AsyncOpenAI(api_key="none"))
    again = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
    assert again == live


# -- what is not recorded -------------------------------------------------------------------------


async def test_the_nearest_call_is_shown_field_by_field(path: Path) -> None:
    """That with the fewest differences; of these the one that reads most alike; long values where they differ."""
    long = "In the beginning was the word. " * 20
    await record(path, of("Hello", seed=1), of("Good bye"), of(f"{long}A", seed=3))
    assert await complaint(path, of("Good day", temperature=0.5)) == dedent(
        f"""\
        no answer to this chat call was recorded in {path}
        the nearest of 3 is call 2; recorded → asked for now:
          messages[0].content: "Good bye" → "Good day"
          temperature: (nothing) → 0.5"""
    )
    assert "is call 1; " in await complaint(path, of("Hello", seed=2))
    said = await complaint(path, of(f"{long}B", seed=3))
    assert "is call 3; " in said
    (line,) = said.splitlines()[2:]
    assert 'word. A" → …' in line
    assert line.endswith('word. B"')
    assert len(line) < 200


@pytest.mark.parametrize("texts", [("Good bye", "Hello"), ("Hello", "Good bye")])
async def test_of_calls_that_differ_as_much_the_likest_is_shown(path: Path, texts: tuple[str, str]) -> None:
    await record(path, *map(of, texts))
    assert 'content: "Good bye" → "Good day"' in await complaint(path, of("Good day"))


async def test_an_empty_cassette_says_so(path: Path) -> None:
    assert await complaint(path, CALL) == f"{path} has no calls: record them first"


async def test_what_cannot_be_recorded_cannot_be_replayed(path: Path) -> None:
    """A call that bypasses the cache is no way out to the network."""
    await record(path, CALL)
    said = await complaint(path, {**CALL, "x": object()})
    assert said == "this call cannot be recorded: unkeyable: x: an object has no stable value"


async def test_an_answer_of_another_type_is_told_from_a_missing_one(path: Path) -> None:
    """Changed by hand, or the function has another type now."""
    await record(path, CALL, upstream=FakeUpstream({"choices": [], "answer": 42}))

    async def acompletion(*, model: str, messages: Any) -> ChatCompletion:
        raise AssertionError

    with pytest.raises(NotRecorded, match="is this one, but"):
        await Cassette(path, "replay").cache().wrap(acompletion)(**CALL)


async def test_failed_and_broken_off_calls_are_counted(path: Path) -> None:
    """Errors reach the caller and are not recorded, nor is a stream that was left."""
    upstream = FakeUpstream()
    cassette = Cassette(path, "record")
    call = cassette.cache().wrap(upstream)
    upstream.fail(RuntimeError("429"))
    with pytest.raises(RuntimeError, match="429"):
        await call(**CALL)
    stream = await call(**of("s", stream=True))
    async for _ in stream:
        break
    await stream.aclose()
    await call(**CALL, x=object())
    assert cassette.unrecorded == {"error": 1, "aborted": 1, "unkeyable": 1}
    cassette.save()
    assert not is_there(path)


# -- modes and files ------------------------------------------------------------------------------


async def test_auto_adds_what_is_new(path: Path) -> None:
    """Behind what is there, which stays as it is."""
    await record(path, of("a"), of("b"))
    before = text_of(path)
    assert (await record(path, of("b"))).calls == 0
    assert text_of(path) == before
    upstream = await record(path, of("c"), of("a"))
    assert upstream.calls == 1
    assert [call["request"]["messages"][0]["content"] for call in calls_of(path)] == ["a", "b", "c"]


async def test_record_forgets_what_is_not_called_any_more(path: Path) -> None:
    """All is called anew; in a shared file, the others' calls stay; and so does all when the test did not pass."""
    await record(path, of("a"), of("b"))
    for options, expected in (({"shared": True}, ["a", "b", "c"]), ({}, ["c", "b"])):
        upstream = await record(path, of("c"), of("b"), mode="record", **options)
        assert upstream.calls == 2
        assert [call["request"]["messages"][0]["content"] for call in calls_of(path)] == expected
    cassette = Cassette(path, "record")
    await cassette.cache().wrap(FakeUpstream("new"))(**of("b"))
    cassette.save(complete=False)
    assert [call["request"]["messages"][0]["content"] for call in calls_of(path)] == ["c", "b"]
    assert (await replay(path, of("b")))["choices"][0]["message"]["content"] == "new"
    await record(path, mode="record")
    assert not is_there(path)


async def test_a_call_may_be_changed_by_hand(path: Path) -> None:
    """What counts is the request, not the key beside it."""
    await record(path, of("Hello"))
    write(path, text_of(path).replace('"Hello"', '"Bye"'))
    assert await replay(path, of("Bye"))
    assert "call 1" in await complaint(path, of("Hello"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[]", "no cassette of this version"),
        ('{"format": "asynccache cassette 9", "calls": []}', "no cassette of this version"),
        (f'{{"format": "{FORMAT}"}}', "'calls'"),
        (f'{{"format": "{FORMAT}", "calls": [{{"call": "chat"}}]}}', "'request'"),
        (f'{{"format": "{FORMAT}", "calls": [{{"call": "chat", "request": []}}]}}', "an object"),
        (f'{{"format": "{FORMAT}", "calls": [{{"call": "chat", "request": {{}}}}]}}', "'answer'"),
        (f'{{"format": "{FORMAT}", "calls": [7]}}', "cannot be read"),
    ],
)
def test_what_is_no_cassette_is_refused(path: Path, text: str, why: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Cassette(path).cache()
    assert why in str(caught.value)
    assert text_of(path) == text


def test_a_wrong_argument_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="record, replay, auto"):
        Cassette(path, "rec")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ignore"):
        Cassette(path, ignore=7)  # type: ignore[arg-type]


async def test_every_kind_of_call_has_its_name_in_the_file(path: Path) -> None:
    """The same arguments of two kinds of call are two calls."""
    cassette = Cassette(path, "record")
    cache = cassette.cache()

    async def call(*, model: str, input: str) -> dict[str, Any]:
        return {"data": [{"embedding": [0.25, 1.0, -3.5] * 40}], "status": "completed", "output": [{"type": "x"}]}

    for kind in ("embedding", "responses"):
        await cache.wrap(call, call_type=kind, name="")(model="m", input="x")
    cassette.save()
    assert [call["call"] for call in calls_of(path)] == ["embedding", "responses"]
    (line,) = {line.strip() for line in text_of(path).splitlines() if "0.25" in line}
    assert line == f'"embedding": {[0.25, 1.0, -3.5] * 40}'


async def test_embeddings_are_recorded_one_by_one(path: Path) -> None:
    """As they are cached: another list of the same texts is played back as well."""
    async with SimulatedProvider() as provider:
        cassette = Cassette(path, "record")
        async with AsyncOpenAI(base_url=provider.base_url, api_key="k") as plain:
            live = await cassette.cache().wrap(plain).embeddings.create(model="e", input=["a", "b", "c"])
        cassette.save()
    assert sorted(str(call["request"]["input"]) for call in calls_of(path)) == ["a", "b", "c"]
    cassette = Cassette(path, "replay")
    wrapped = cassette.cache().wrap(AsyncOpenAI(api_key="k"))
    again = await wrapped.embeddings.create(model="e", input=["c", "a"])
    assert [one.embedding for one in again.data] == [live.data[2].embedding, live.data[0].embedding]
    with pytest.raises(NotRecorded, match=r'input: "\w" → "d"'):
        await wrapped.embeddings.create(model="e", input=["a", "d"])


# -- the plugin -----------------------------------------------------------------------------------

TEST = """
    import os
    import pytest
    from openai import AsyncOpenAI

    URL = os.environ.get("LLM_URL", "http://127.0.0.1:9/v1")

    async def ask(llm_cassette, text, **more):
        async with AsyncOpenAI(base_url=URL, api_key="sk-secret", max_retries=0) as client:
            create = llm_cassette.wrap(client).chat.completions.create
            answer = await create(model="gpt-4o", messages=[{"role": "user", "content": text}], **more)
            return [chunk async for chunk in answer] if "stream" in more else answer
"""


class Project:
    """A project whose tests call an LLM, and that LLM."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, provider: SimulatedProvider) -> None:
        self.pytester = pytester
        self.provider = provider
        self.monkeypatch = monkeypatch
        pytester.makeini(
            "[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n"
            "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        )
        monkeypatch.setenv("LLM_URL", provider.base_url)

    def write(self, test: str) -> None:
        self.pytester.makepyfile(test_it=dedent(TEST) + dedent(test))

    def run(self, *options: str) -> pytest.RunResult:
        # Without the plugins of other packages, which take several times as long to load as all the rest.
        without = ("-p", "no:langsmith_plugin", "-p", "no:hypothesispytest")
        return self.pytester.runpytest_subprocess("-p", "asynccache.testing.pytest_plugin", *without, *options)

    def calls(self) -> int:
        """How many requests have come since this was asked last."""
        calls = self.provider.calls.total()
        self.provider.calls.clear()
        return calls

    def unplug(self) -> None:
        self.monkeypatch.delenv("LLM_URL")

    def cassettes(self) -> list[str]:
        folder = self.pytester.path / "cassettes"
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with SimulatedProvider() as provider:
        yield Project(pytester, monkeypatch, provider)


def test_a_test_is_recorded_and_played_back(project: Project) -> None:
    """Whole and streamed; then without a provider, without its URL, and with another API key."""
    project.write(
        """
        async def test_whole(llm_cassette):
            answer = await ask(llm_cassette, "Hello")
            assert answer.choices[0].message.content

        @pytest.mark.parametrize("text", ["a b", "a/b", "ü"])
        async def test_stream(llm_cassette, text):
            chunks = await ask(llm_cassette, text, stream=True)
            assert "".join([chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices])

        class TestSync:
            def test_it(self, llm_cassette):
                from openai import OpenAI
                with OpenAI(base_url=URL, api_key="sk-secret", max_retries=0) as client:
                    assert llm_cassette.wrap(client).embeddings.create(model="e", input="x").data
        """
    )
    project.run().assert_outcomes(passed=5)
    assert project.calls() == 5
    names = project.cassettes()
    assert len(names) == 5
    assert names[0] == "test_it/TestSync.test_it.json"
    assert names[-1] == "test_it/test_whole.json"
    files = {path: path.read_bytes() for path in project.pytester.path.glob("cassettes/**/*.json")}
    assert not any(b"sk-secret" in data or b"127.0.0.1" in data for data in files.values())
    project.run().assert_outcomes(passed=5)
    assert project.calls() == 0
    project.unplug()
    project.run("--llm-record=replay").assert_outcomes(passed=5)
    assert {path: path.read_bytes() for path in files} == files
    assert project.cassettes() == names


def test_a_call_that_was_not_recorded_fails_the_test(project: Project) -> None:
    """With the differences; also when the code under test swallows the error; and nothing is called."""
    project.write("async def test_it(llm_cassette):\n    await ask(llm_cassette, 'Hello', temperature=0.5)\n")
    project.run().assert_outcomes(passed=1)
    assert project.calls() == 1
    for wrapping in ("", "contextlib.suppress(Exception)", "raising()"):
        project.write(
            f"""
            import contextlib

            @contextlib.contextmanager
            def raising():
                try:
                    yield
                except AssertionError:
                    raise KeyError("something else")

            async def test_it(llm_cassette):
                with {wrapping or "contextlib.nullcontext()"}:
                    await ask(llm_cassette, "Hullo", temperature=0.5)
            """
        )
        result = project.run("--llm-record=replay")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "*no answer to this chat call was recorded in *test_it.json*",
                '*messages[[]0[]].content: "Hello" → "Hullo"*',
            ]
        )
        assert ("KeyError" in result.stdout.str()) == (wrapping == "raising()")
    assert project.calls() == 0


def test_recording_anew(project: Project) -> None:
    """All is called; a test that fails keeps what it had."""
    project.write(
        """
        async def test_it(llm_cassette):
            await ask(llm_cassette, "a")
            await ask(llm_cassette, "b")
        """
    )
    project.run().assert_outcomes(passed=1)
    file = project.pytester.path / "cassettes/test_it/test_it.json"
    assert len(calls_of(file)) == project.calls() == 2
    project.write("async def test_it(llm_cassette):\n    await ask(llm_cassette, 'b')\n    assert False\n")
    project.run("--llm-record=record").assert_outcomes(failed=1)
    assert project.calls() == 1
    assert len(calls_of(file)) == 2
    project.write("async def test_it(llm_cassette):\n    await ask(llm_cassette, 'b')\n")
    project.run("--llm-record=record").assert_outcomes(passed=1)
    assert project.calls() == 1
    assert len(calls_of(file)) == 1


def test_the_marker(project: Project) -> None:
    """A mode, a name that tests share, arguments that do not count; the command line has the last word."""
    project.write(
        """
        import uuid

        pytestmark = pytest.mark.llm_cassette(name="all", ignore=["user"])

        async def test_a(llm_cassette):
            await ask(llm_cassette, "a", user=str(uuid.uuid4()))

        async def test_b(llm_cassette):
            await ask(llm_cassette, "b", user=str(uuid.uuid4()))
        """
    )
    project.run("--llm-record=record").assert_outcomes(passed=2)
    assert project.calls() == 2
    assert project.cassettes() == ["all.json"]
    assert "user" not in {
        name for call in calls_of(project.pytester.path / "cassettes/all.json") for name in call["request"]
    }
    project.run("--llm-record=replay").assert_outcomes(passed=2)
    project.run("--llm-record=record", "-k", "test_a").assert_outcomes(passed=1, deselected=1)
    assert len(calls_of(project.pytester.path / "cassettes/all.json")) == 2
    project.calls()
    project.write(
        """
        @pytest.mark.llm_cassette(mode="replay")
        async def test_c(llm_cassette):
            await ask(llm_cassette, "c")
        """
    )
    project.run().assert_outcomes(failed=1)
    assert project.calls() == 0
    project.run("--llm-record=auto").assert_outcomes(passed=1)
    assert project.calls() == 1


def test_a_wrong_marker_is_an_error(project: Project) -> None:
    """That says what is wrong, before anything is called."""
    markers = ('mode="rec"', 'nmae="x"', '"replay"', "ignore=7")
    tests = [
        f"@pytest.mark.llm_cassette({marker})\ndef test_{number}(llm_cassette):\n    pass\n"
        for number, marker in enumerate(markers)
    ]
    project.write("\n".join(tests))
    result = project.run()
    result.assert_outcomes(errors=4)
    for complaint in ("mode='rec': it is one of record, replay, auto", "'nmae'", "positional argument", "ignore=7"):
        result.stdout.fnmatch_lines([f"*pytest.mark.llm_cassette: *{complaint}*"])


def test_what_was_not_recorded_is_warned_of(project: Project) -> None:
    """An error is passed on, and cannot be played back."""
    project.provider.fail_next(400)
    project.write(
        """
        import openai

        async def test_it(llm_cassette):
            with pytest.raises(openai.BadRequestError):
                await ask(llm_cassette, "a")
        """
    )
    result = project.run("-W", "default")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*calls that were not recorded in *test_it.json: error (1)*"])
    project.run("--llm-record=replay").assert_outcomes(failed=1)


def test_the_plugin_keeps_out_of_other_tests(project: Project) -> None:
    """Nothing is written, and nothing of ours is loaded with it that a run has no use for."""
    project.write("import sys\n\ndef test_it():\n    assert 'asynccache.testing.cassette' not in sys.modules\n")
    result = project.run("--llm-record=record")
    result.assert_outcomes(passed=1)
    assert not (project.pytester.path / "cassettes").exists()
    result = project.run("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.llm_cassette(mode=None, name=None, ignore=()): *"])
