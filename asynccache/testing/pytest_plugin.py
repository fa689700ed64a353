"""pytest: record the LLM calls of a test, and play them back.

    async def test_greeting(llm_cassette):
        client = llm_cassette.wrap(AsyncOpenAI())
        answer = await client.chat.completions.create(model="gpt-4o", messages=[…])

The first run calls and records, into `cassettes/<test file>/<test>.json` beside the test; put that under version
control. Later runs call nothing: `pytest --llm-record=replay` (for CI) fails a test that makes another call, and says
how it differs from what was recorded; `--llm-record=record` records anew; `--llm-record=auto`, which is the default,
plays back what is there and records the rest.

A test can say more with `@pytest.mark.llm_cassette(mode=…, name=…, ignore=…)`:

    mode:   for this test, unless the command line says one.
    name:   of the file, `cassettes/<name>.json`, which tests may share.
    ignore: arguments that do not count and are not recorded.

Loaded by `pip install asynccache`'s entry point, or `pytest -p asynccache.testing.pytest_plugin`.
"""

from __future__ import annotations

import asyncio
import re
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from asynccache.cache import Cache
    from asynccache.testing.cassette import Cassette, Mode

_MARK = "llm_cassette"
_MODES = ("record", "replay", "auto")
_LONGEST = 120  # characters of a file's name

_cassette = pytest.StashKey["Cassette"]()
_passed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("asynccache", "record and replay of LLM calls").addoption(
        "--llm-record",
        choices=_MODES,
        help="record: make all calls, and record them anew; replay: make none, and fail on what was not recorded; "
        "auto (default): replay what was recorded, record the rest",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{_MARK}(mode=None, name=None, ignore=()): how the fixture llm_cassette records this test's LLM calls: "
        "'record', 'replay' or 'auto'; the name of a cassette that tests share; arguments that do not count",
    )


@pytest.fixture
def llm_cassette(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """A cache to wrap clients and functions with: their calls are recorded, or played back."""
    cassette = request.node.stash[_cassette] = _open(request)
    cache = cassette.cache()
    yield cache
    _close(cache)
    cassette.save(complete=request.node.stash.get(_passed, False))
    if cassette.mode != "replay" and (lost := cassette.unrecorded):
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(lost.items()))
        warnings.warn(f"calls that were not recorded in {cassette.path}: {reasons}", stacklevel=1)


def _open(request: pytest.FixtureRequest) -> Cassette:
    # Here, since the plugin is loaded by runs that have no use for it.
    from asynccache.errors import ConfigError
    from asynccache.testing.cassette import Cassette

    marker = request.node.get_closest_marker(_MARK)
    try:
        mode, name, ignore = _options(*marker.args, **marker.kwargs) if marker else _options()
        mode = request.config.getoption("--llm-record") or mode
        return Cassette(_path(request, name), mode, ignore=ignore, shared=name is not None)
    except (TypeError, ConfigError) as error:
        raise pytest.UsageError(f"@pytest.mark.{_MARK}: {error}") from error


def _options(
    *, mode: Mode = "auto", name: str | None = None, ignore: Iterable[str] = ()
) -> tuple[Mode, str | None, Iterable[str]]:
    return mode, name, ignore


def _path(request: pytest.FixtureRequest, name: str | None) -> Path:
    folder = request.path.parent / "cassettes"
    if name is not None:
        return folder / f"{_file_name(name)}.json"
    return folder / request.path.stem / f"{_file_name(request.node.nodeid.partition('::')[2])}.json"


def _file_name(text: str) -> str:
    """A name that every file system takes, and no two tests share."""
    plain = re.sub(r"[^\w.\[\]-]+", "-", text.replace("::", "."))
    if plain == text.replace("::", ".") and len(plain) <= _LONGEST:
        return plain
    return f"{plain[:_LONGEST]}-{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _close(cache: Cache) -> None:
    """On a loop of its own, in a thread of its own: the test's may be gone, or not be asyncio's."""
    thread = threading.Thread(target=lambda: asyncio.run(cache.aclose()), name="asynccache-cassette")
    thread.start()
    thread.join()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail the test on a call that was not recorded, also when the code under test has caught the error."""
    try:
        result = yield
    except Exception as error:
        if (found := _missing(item)) and error not in item.stash[_cassette].missing:
            item.add_report_section("call", _MARK, found)
        raise
    if found := _missing(item):
        pytest.fail(found, pytrace=False)
    return result


def _missing(item: pytest.Item) -> str:
    cassette = item.stash.get(_cassette, None)
    return "" if cassette is None else "\n\n".join(map(str, cassette.missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[_passed] = report.passed
    return report
