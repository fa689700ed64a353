"""What tokens cost: from the price library `genai-prices` (the extra asynccache[prices]), or from a table of one's own.

Money is counted in picodollars, whole numbers of a millionth of a millionth of a dollar, so that sums are exact: a
dollar for a million tokens is a million picodollars for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any, NamedTuple

from asynccache.errors import ConfigError
from asynccache.telemetry.usage import Usage

PICODOLLARS = 10**12
"""In a dollar."""

QUARTER = 900
"""Seconds for which a price is not looked up again: some have hours of their own."""

Price = int | float | str | Decimal
Table = Mapping[str, Mapping[str, Price]]

_MILLION = Decimal(10**6)
_NAMES = (
    *("input", "output", "cache_read", "cache_write", "cache_write_1h"),
    *("input_audio", "output_audio", "cache_audio_read"),
)
_KNOWN = 4096
# Where a model is looked for by its very name, when neither its address nor its name says whose it is.
_SELLERS = ("openai", "anthropic", "google", "mistral", "cohere", "deepseek", "x-ai", "groq", "together", "fireworks")


class Cost(NamedTuple):
    """Of one call, in picodollars.

    total:       what it costs, the provider's cache taken into account.
    cache_saved: what it would have cost more, had nothing come from the provider's cache.
    cache_spent: what it costs more because something was put there.
    """

    total: int = 0
    cache_saved: int = 0
    cache_spent: int = 0


FREE = Cost()


class Rate(NamedTuple):
    """Picodollars for a token; and others for all tokens of a call whose input is larger: (tokens, picodollars)."""

    base: int
    tiers: tuple[tuple[int, int], ...] = ()

    def at(self, tokens: int) -> int:
        return next((price for start, price in reversed(self.tiers) if tokens > start), self.base)


class Rates(NamedTuple):
    """One model's. What of the cache has no rate of its own has that of the input; None: not known.

    request: picodollars for each call besides.
    """

    input: Rate | None = None
    output: Rate | None = None
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None
    input_audio: Rate | None = None
    output_audio: Rate | None = None
    cache_audio_read: Rate | None = None
    request: int = 0

    def cost(self, usage: Usage, *, calls: int = 1, size: int | None = None) -> Cost | None:
        """What these calls cost together, which have used so much in sum; None when there are tokens whose rate is not
        known. size: the input of each of several, as far as rates depend on it."""
        size = usage.input if size is None else size

        def at(rate: Rate | None, other: int | None = None) -> int | None:
            return other if rate is None else rate.at(size)

        base, sound = at(self.input), at(self.input_audio)
        reading, rehearing = at(self.cache_read, base), at(self.cache_audio_read, sound)
        writing = at(self.cache_write, base)
        writing_1h = at(self.cache_write_1h, writing)
        again, hour = usage.cached_audio, usage.cached_write_1h
        heard, read, short = usage.input_audio - again, usage.cached_read - again, usage.cached_write - hour
        parts = (
            (max(0, usage.input - usage.cached_read - usage.cached_write - heard), base),
            (usage.output - usage.output_audio, at(self.output)),
            (heard, sound),
            (usage.output_audio, at(self.output_audio)),
            (read, reading),
            (again, rehearing),
            (short, writing),
            (hour, writing_1h),
        )
        total = self.request * calls
        for tokens, rate in parts:
            if tokens:
                if rate is None:
                    return None
                total += tokens * rate
        if base is None or not (usage.cached_read or usage.cached_write):
            return Cost(total)
        saved = read * (base - (reading or 0)) + again * ((sound or 0) - (rehearing or 0))
        spent = short * ((writing or 0) - base) + hour * ((writing_1h or 0) - base)
        return Cost(total, max(0, saved), max(0, spent))


class Prices:
    """What a call costs. Asks nobody: the library's prices are those that were installed with it.

    table:   model → dollars for a million tokens: `{"gpt-4o": {"input": 2.5, "output": 10, "cache_read": 1.25,
             "cache_write": …, "cache_write_1h": …, "input_audio": …, "output_audio": …, "cache_audio_read": …}}`. It
             comes before the library. A model goes by the name it was asked for, or by the one that answered.
    library: whether models that are not in the table are looked up in `genai-prices`; None: if it is installed, or
             there is no table.

    A price is kept to a millionth of a dollar for a million tokens. Sound has prices of its own: where there is none,
    what a call with sound costs is not known; all other tokens count at the price of text. Raises ConfigError for a
    wrong table, and without the extra asynccache[prices] when the library is wanted.
    """

    def __init__(self, table: Table | None = None, *, library: bool | None = None) -> None:
        self._table = {name: _rates(name, prices) for name, prices in (table or {}).items()}
        self._look_up = _library(required=library or (library is None and not table)) if library is not False else None
        self._known: dict[tuple[str, str, str, int], Rates | None] = {}

    def cost(
        self, usage: Usage, model: str, *, provider: str = "", answered: str = "", at: float | None = None
    ) -> Cost | None:
        """What this usage costs; None when nobody knows.

        provider: as in `Observation`. answered: the model that the answer says it is from. at: seconds since the
        epoch, since prices change; None: now.
        """
        rates = self.rates(model, provider=provider, answered=answered, at=at)
        return None if rates is None else rates.cost(usage)

    def rates(self, model: str, *, provider: str = "", answered: str = "", at: float | None = None) -> Rates | None:
        """The model's rates; None when nobody knows them."""
        rates = self._table.get(model) or self._table.get(answered)
        if rates is not None or self._look_up is None:
            return rates
        quarter = int((datetime.now(UTC).timestamp() if at is None else at) // QUARTER)
        place = (provider, model, answered, quarter)
        if place not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            when = datetime.fromtimestamp(quarter * QUARTER, UTC)
            names = [name for name in dict.fromkeys((answered, model)) if name]
            found = (self._look_up(name, provider, when) for name in names)
            self._known[place] = next((rates for rates in found if rates is not None), None)
        return self._known[place]


def dollars(picodollars: int) -> Decimal:
    """Exactly."""
    return Decimal(picodollars).scaleb(-12)


def _rates(model: str, prices: Mapping[str, Price]) -> Rates:
    if not isinstance(prices, Mapping):
        raise ConfigError(f"prices: {model!r}: a table such as {{'input': 2.5, 'output': 10}} is wanted")
    for name in prices:
        if name not in _NAMES:
            near = get_close_matches(str(name), _NAMES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_NAMES)}"
            raise ConfigError(f"prices: {model!r}: unknown price {name!r}; {hint}")
    return _rates_of(lambda name: Rate(_of_the_table(model, name, prices[name])) if name in prices else None)


def _rates_of(rate: Callable[[str], Rate | None], request: int = 0) -> Rates:
    read, written, cached, put, hour, heard, spoken, reheard = map(rate, _NAMES)
    return Rates(read, written, cached, put, hour, heard, spoken, reheard, request)


def _of_the_table(model: str, name: str, price: Price) -> int:
    try:
        value = Decimal(str(price))
    except InvalidOperation:
        value = Decimal("NaN")
    if isinstance(price, bool) or not value.is_finite() or value < 0:
        raise ConfigError(f"prices: {model!r}: {name}={price!r}: dollars for a million tokens are wanted")
    return _each(value)


def _each(price: Decimal) -> int:
    """Dollars for a million → picodollars for one."""
    return int((price * _MILLION).to_integral_value(ROUND_HALF_EVEN))


_LookUp = Callable[[str, str, datetime], Rates | None]


def _library(*, required: bool) -> _LookUp | None:
    try:
        from genai_prices import Usage as TheirUsage
        from genai_prices import calc_price
    except ImportError as error:
        if not required:
            return None
        raise ConfigError("prices need the extra asynccache[prices], or a table: Prices({model: {…}})") from error

    def ask(name: str, provider: str | None, when: datetime) -> Any:
        try:
            return calc_price(TheirUsage(), name, provider_id=provider, genai_request_timestamp=when)
        except (LookupError, ValueError):  # ValueError: a price of theirs that they cannot read
            return None

    def look_up(name: str, provider: str, when: datetime) -> Rates | None:
        if provider:
            bare = name.partition("/")[2] if "/" in name else name
            found = ask(name, provider, when) or ask(bare, provider, when)
        elif "/" in name:
            found = ask(name, "litellm", when)  # which understands prefixes
        else:
            by_name = (ask(name, seller, when) for seller in _SELLERS)
            found = ask(name, None, when) or next((f for f in by_name if f and f.model.id == name), None)
        return None if found is None else _of_the_library(found.model_price)

    ask("gpt-4o", "openai", datetime.now(UTC))  # reads its data, which takes a moment, now and not in a call
    return look_up


def _of_the_library(price: Any) -> Rates | None:
    def rate(name: str) -> Rate | None:
        value = getattr(price, f"{name}_mtok", None)
        if value is None or isinstance(value, Decimal):
            return None if value is None else Rate(_each(value))
        return Rate(_each(value.base), tuple((tier.start, _each(tier.price)) for tier in value.tiers))

    per_thousand = getattr(price, "requests_kcount", None)
    request = int(per_thousand * (PICODOLLARS // 1000)) if isinstance(per_thousand, Decimal) else 0
    rates = _rates_of(rate, request)
    return None if rates == Rates() else rates
