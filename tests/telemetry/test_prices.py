"""What tokens cost: the library's prices as the library itself reckons, and tables of one's own."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NoReturn

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price

from asynccache import ConfigError
from asynccache.telemetry.prices import FREE, Cost, Prices, dollars
from asynccache.telemetry.usage import NOTHING, Usage

MODELS = [
    ("gpt-4o", "openai"),
    ("gpt-4o-mini", ""),
    ("gpt-4o-mini-2024-07-18", ""),
    ("claude-sonnet-4-5", "anthropic"),
    ("claude-3-5-haiku-latest", ""),
    ("gemini-2.5-pro", "google"),
    ("gemini-2.5-flash", ""),
    ("deepseek-chat", "deepseek"),
    ("grok-3", "x-ai"),
    ("mistral-large-latest", "mistral"),
    ("text-embedding-3-small", "openai"),
]
USAGES = [
    Usage(1000, 200),
    Usage(1000, 0),
    Usage(50_000, 1_234, 40_000),
    Usage(50_000, 1_234, 30_000, 5_000),
    Usage(210_000, 7, 100_000),
    Usage(300_001, 999, 200_000, 50_000),
]


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_costs_are_the_librarys(model: str, provider: str, usage: Usage) -> None:
    """What we reckon from its rates is what it says itself, tiers and caches included."""
    if model.startswith("text-embedding"):
        usage = usage._replace(output=0)
    said = {"input_tokens": usage.input, "output_tokens": usage.output}
    if usage.cached_read:
        said["cache_read_tokens"] = usage.cached_read
    if usage.cached_write:
        said["cache_write_tokens"] = usage.cached_write
    theirs = calc_price(TheirUsage(**said), model, provider_id=provider or None)
    ours = Prices().cost(usage, model, provider=provider)
    assert ours is not None
    assert dollars(ours.total) == theirs.total_price


@pytest.mark.parametrize(("model", "provider"), [("gemini-2.5-flash", "google"), ("gpt-audio", "openai")])
def test_sound_costs_what_the_library_says(model: str, provider: str) -> None:
    usage = Usage(1_000, 200, input_audio=700)
    said = {"input_tokens": 1_000, "input_audio_tokens": 700, "output_tokens": 200}
    if model == "gpt-audio":
        usage, said = usage._replace(output_audio=150), {**said, "output_audio_tokens": 150}
    else:
        usage = usage._replace(cached_read=600, cached_audio=500)
        said = {**said, "cache_read_tokens": 600, "cache_audio_read_tokens": 500}
    ours = Prices().cost(usage, model, provider=provider)
    assert ours is not None
    assert dollars(ours.total) == calc_price(TheirUsage(**said), model, provider_id=provider).total_price


def test_sound_without_a_price_of_its_own_is_unknown() -> None:
    """It costs many times what text does."""
    prices = {"input": 2, "output": 8}
    assert Prices({"m": prices}).cost(Usage(100, 10, input_audio=90), "m") is None
    assert Prices({"m": prices}).cost(Usage(100, 10, output_audio=5), "m") is None
    known = Prices({"m": {**prices, "input_audio": 40, "output_audio": 80, "cache_audio_read": 4}})
    assert known.cost(Usage(100, 10, 60, input_audio=90, output_audio=5, cached_audio=50), "m") == Cost(
        total=10 * 2_000_000 + 40 * 40_000_000 + 50 * 4_000_000 + 5 * 8_000_000 + 5 * 80_000_000,
        cache_saved=50 * 36_000_000,
    )


def test_what_the_providers_cache_saves_and_costs() -> None:
    prices = Prices({"m": {"input": 3, "output": 15, "cache_read": "0.3", "cache_write": 3.75, "cache_write_1h": 6}})
    cost = prices.cost(Usage(100_000, 1_000, 60_000, 20_000, 5_000), "m")
    assert cost == Cost(
        total=20_000 * 3_000_000 + 60_000 * 300_000 + 15_000 * 3_750_000 + 5_000 * 6_000_000 + 1_000 * 15_000_000,
        cache_saved=60_000 * 2_700_000,
        cache_spent=15_000 * 750_000 + 5_000 * 3_000_000,
    )


def test_an_unknown_price_is_none_and_not_zero() -> None:
    assert Prices().cost(Usage(10, 10), "a-model-of-our-own") is None
    assert Prices().cost(Usage(10, 10), "") is None
    assert Prices({"m": {"input": 1}}).cost(Usage(10, 10), "m") is None
    assert Prices({"m": {"input": 1}}).cost(Usage(10), "m") == Cost(10_000_000)
    assert Prices({"m": {"input": 0, "output": 0}}).cost(Usage(10, 10), "m") == FREE


def test_a_table_comes_first_and_says_only_what_it_says() -> None:
    prices = Prices({"gpt-4o": {"input": 1, "output": 1}}, library=True)
    assert prices.cost(Usage(1, 1), "gpt-4o") == Cost(2_000_000)
    assert prices.cost(Usage(1), "our-alias", answered="gpt-4o") == Cost(1_000_000)
    assert prices.cost(Usage(1), "gpt-4o-mini") is not None
    alone = Prices({"gpt-4o": {"input": 1}}, library=False)
    assert alone.cost(Usage(1), "gpt-4o-mini") is None


def test_the_model_that_answered_has_the_price_of_an_alias() -> None:
    prices = Prices()
    assert prices.cost(Usage(9), "our-alias", answered="gpt-4o-2024-08-06") == prices.cost(Usage(9), "gpt-4o")


def test_names_as_litellm_writes_them() -> None:
    prices = Prices()
    assert prices.cost(Usage(9), "openai/gpt-4o", provider="openai") == prices.cost(Usage(9), "gpt-4o")
    assert prices.cost(Usage(9), "gemini/gemini-2.5-pro") == prices.cost(Usage(9), "gemini-2.5-pro")
    assert prices.cost(Usage(9), "nobody/gpt-4o") is None


def test_prices_have_their_days() -> None:
    """A price that begins on a day is not that of the day before."""
    prices = Prices()
    lately, earlier = (prices.rates("deepseek-chat", provider="deepseek", at=at) for at in (1.8e9, 1.7e9))
    assert earlier is not None
    assert lately is not None
    theirs = calc_price(
        TheirUsage(input_tokens=10**6, output_tokens=0),
        "deepseek-chat",
        provider_id="deepseek",
        genai_request_timestamp=datetime.fromtimestamp(1.7e9, UTC),
    )
    assert earlier.cost(Usage(10**6)) == Cost(int(theirs.total_price * 10**12))


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"m": {"inptu": 1}}, "did you mean 'input'"),
        ({"m": {"input": -1}}, "dollars for a million tokens"),
        ({"m": {"input": "much"}}, "dollars for a million tokens"),
        ({"m": {"input": True}}, "dollars for a million tokens"),
        ({"m": {"input": float("nan")}}, "dollars for a million tokens"),
        ({"m": 3}, "a table such as"),
    ],
)
def test_wrong_tables(table: Any, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Prices(table)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(ConfigError, match=r"asynccache\[prices\]"):
        Prices()
    assert Prices({"m": {"input": 1}}).cost(Usage(1), "m") == Cost(1_000_000)


def test_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking prices up opens no connection, from the import on."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Prices().cost(Usage(1, 1), "gpt-4o") is not None
    code = (
        "import socket, sys\n"
        "def refuse(*_): sys.exit('a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from asynccache.telemetry.prices import Prices\n"
        "from asynccache.telemetry.usage import Usage\n"
        "assert Prices().cost(Usage(1, 1), 'gpt-4o')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dollars_are_exact() -> None:
    assert dollars(1) == Decimal("0.000000000001")
    assert sum(dollars(20_000) for _ in range(100_000)) == dollars(2_000_000_000)
    assert Prices({"m": {"input": "0.1"}}).cost(NOTHING, "m") == FREE
