"""The access log."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from asynccache import Cache, ConfigError
from asynccache.telemetry.log import AccessLog
from asynccache.telemetry.observation import LEFT, Usage
from asynccache.testing import FakeUpstream
from tests.telemetry.samples import miss, seen

SECRET = "my card is 4111 1111 1111 1111"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "asynccache.access")
    return caplog


def test_a_line(lines: pytest.LogCaptureFixture) -> None:
    AccessLog().observe(seen())
    AccessLog().observe(miss(stream=True, first=0.25, usage=Usage(12, 3)))
    assert lines.messages == [
        'CACHE HIT reason="" tier=memory ms=0.020 type=chat model=gpt-4o key=0123456789ab tokens=1000+100',
        'CACHE MISS reason=absent tier="" ms=1500.000 type=chat model=gpt-4o key=0123456789ab first_ms=250.000 '
        "tokens=12+3",
    ]


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        ("hit", "HIT"),
        ("miss", "MISS"),
        ("stale", "STALE"),
        ("coalesced", "COALESCED"),
        ("semantic", "HIT"),
        ("bypass", "BYPASS"),
    ],
)
def test_words(outcome: str, word: str, lines: pytest.LogCaptureFixture) -> None:
    AccessLog().observe(seen(outcome=outcome))
    assert lines.messages[0].startswith(f"CACHE {word} reason=")


@pytest.mark.parametrize("form", ["text", "json"])
def test_hits_in_short(form: Any, lines: pytest.LogCaptureFixture) -> None:
    log, first, second = AccessLog(form), seen(), seen(seconds=0.4)
    write = log.hits_like(first)
    for one in (first, second):
        log.observe(one)
        write(one.began, one.seconds)
    assert lines.messages[0] == lines.messages[1] != lines.messages[2] == lines.messages[3]


def test_json(lines: pytest.LogCaptureFixture) -> None:
    AccessLog("json").observe(miss(error="RateLimitError", usage=None))
    assert json.loads(lines.messages[0]) == {
        "message": "CACHE MISS",
        "reason": "absent",
        "tier": "",
        "ms": 1500.0,
        "type": "chat",
        "model": "gpt-4o",
        "key": "0123456789ab",
        "error": "RateLimitError",
    }


def test_levels(lines: pytest.LogCaptureFixture) -> None:
    """A call that failed is a warning; a stream that was left is not."""
    log = AccessLog()
    for error in ("", LEFT, "RateLimitError"):
        log.observe(miss(error=error))
    assert [record.levelname for record in lines.records] == ["INFO", "INFO", "WARNING"]


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("model", ["a\nCACHE HIT", 'm" key=x', "m\x1b[2J", "m\u2028n", "m\ud800"])
def test_a_made_up_name_cannot_make_up_a_line(model: str, format: Any, lines: pytest.LogCaptureFixture) -> None:
    AccessLog(format).observe(seen(model=model))
    (line,) = lines.messages
    assert line.isprintable()
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.dumps(model) in line


async def test_nothing_of_what_is_asked_or_answered(lines: pytest.LogCaptureFixture) -> None:
    """Neither prompt nor answer, argument nor tenant is in a line; nor the whole key."""
    cache = Cache(observers=[AccessLog(), AccessLog("json")])
    upstream = FakeUpstream("the answer is 4242")
    ask = cache.bind(tenant="sk-tenant").wrap(upstream)
    messages = [{"role": "user", "content": SECRET}]
    for params in ({}, {}, {"user": object()}, {"cache": {"no-store": True}}):
        await ask(model="gpt-4o", messages=messages, api_key="sk-secret", **params)
    upstream.fail(ValueError(SECRET))
    with pytest.raises(ValueError):
        await ask(model="gpt-4o", messages=messages, temperature=1)
    own = [record.getMessage() for record in lines.records if record.name == "asynccache.access"]
    said = "\n".join(own)
    assert len(own) == 10
    for secret in ("4111", "4242", "sk-"):
        assert secret not in said
    key = cache.bind(tenant="sk-tenant").get_cache_key(model="gpt-4o", messages=messages)
    assert key[:12] in said
    assert key not in said


def test_wrong_format() -> None:
    with pytest.raises(ConfigError, match="'text' or 'json'"):
        AccessLog("xml")  # type: ignore[arg-type]
