"""`asynccache warm`: fill a cache before anybody asks."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asynccache.cli.failing import fail
from asynccache.errors import ConfigError

if TYPE_CHECKING:
    import httpx2

    from asynccache import Cache
    from asynccache.proxy.settings import Settings
    from asynccache.telemetry.ledger import Ledger
    from asynccache.telemetry.observation import Observation
    from asynccache.telemetry.prices import Prices
    from asynccache.traffic_log import LoggedCall
    from asynccache.warming import Answered, Arguments, Budget, Held, Priced, Shelf, Warmer, Warming

_SHOWN = 20


def warm(
    prompts: Annotated[
        Path, typer.Option(help="Prompts, one a line; or JSON lines: requests, a batch file, or a log of traffic.")
    ],
    config: Annotated[
        Path | None, typer.Option(help="The configuration (.yaml, .toml, .json) of the cache, and of where calls go.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Warm this running proxy, by calling it.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="ASYNCCACHE_API_KEY", help="The key to call the proxy, or the provider, with.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model of prompts that name none.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Only the requests that stand there most often.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls under way at the same time.")] = 8,
    max_usd: Annotated[float | None, typer.Option(min=0, help="US dollars that the calls may cost.")] = None,
    assume_usd: Annotated[
        float | None, typer.Option(min=0, help="US dollars that a call costs whose price is not known.")
    ] = None,
    refresh_within: Annotated[float, typer.Option(min=0, help="Call anew what ends within so many seconds.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Make the calls whose answers the cache does not have yet.

    What is there is not called again: run it once more after Ctrl-C or an error, and it goes on where it was.

    With --config, calls are made as the proxy with this configuration would make them, or, when the file says nothing
    of models and upstreams, by an AsyncOpenAI client that it wraps (OPENAI_API_KEY, OPENAI_BASE_URL). With --url a
    running proxy makes them; prices are then those of the models by the names that it has for them.

    Exits with 0 when there is an answer to each request, with 1 when some have failed, or were left out for want of
    money, with 130 after Ctrl-C.
    """
    if (config is None) == (url is None):
        fail("give --config FILE, or the --url of a running proxy")
    try:
        settings = None if config is None else _settings(config)
        requests = _requests(prompts, model or _only_model(settings), top)
        budget = _budget(settings, max_usd, assume_usd)
        budget.check(requests)
    except ConfigError as error:
        fail(str(error))
    console = Console(stderr=True, quiet=as_json, highlight=False)
    warming, interrupted = _run(settings, config, url, api_key, requests, budget, concurrency, refresh_within, console)
    if as_json:
        typer.echo(json.dumps({**warming.as_dict(), "interrupted": interrupted}, indent=2))
    else:
        _print(warming, interrupted=interrupted)
    raise typer.Exit(130 if interrupted else 0 if warming.complete else 1)


# -- what to call -----------------------------------------------------------------------------------


class _Posted(dict[str, Any]):
    """The arguments of a call, and the kind of call it is."""

    call_type: str


def _requests(path: Path, model: str | None, top: int | None) -> list[Arguments]:
    """Raises ConfigError."""
    from asynccache.traffic_log import LoggedCall, read_log
    from asynccache.traffic_log import prompts as prompts_in

    lines = prompts_in(path)
    if lines is None:
        log = read_log(path)
        if cut := sum(not call.whole for call in log.calls):
            log.skipped["the prompt is not all in the log, or not as it was sent"] = cut
            log.calls = [call for call in log.calls if call.whole]
        for reason, count in log.skipped.items():
            typer.echo(f"asynccache: {path}: left out {count}: {reason}", err=True)
        calls = log.calls if top is None else log.top(top)
    else:
        calls = [LoggedCall({"messages": [{"role": "user", "content": line}]}) for line in lines[:top]]
    return [_posted(call, model, path) for call in calls]


def _posted(call: LoggedCall, model: str | None, path: Path) -> _Posted:
    # The whole answer serves streams as well; and the key of who called then is not ours to use.
    asked = {name: value for name, value in call.params.items() if name not in ("stream", "stream_options", "api_key")}
    if not asked.get("model"):
        if model is None:
            raise ConfigError(f"{path}: there are requests without a model: give --model")
        asked = {"model": model, **{name: value for name, value in asked.items() if name != "model"}}
    posted = _Posted(asked)
    posted.call_type = call.call_type
    return posted


def _settings(config: Path) -> Settings:
    try:
        from asynccache.proxy.settings import Settings
    except ModuleNotFoundError as error:
        fail(f"this needs the extra asynccache[proxy] ({error.name} is not installed)")
    if (here := str(Path.cwd())) not in sys.path:  # for a key_builder that is written there
        sys.path.insert(0, here)
    return Settings.load(config)


def _only_model(settings: Settings | None) -> str | None:
    names = {listed.model_name for listed in settings.model_list} if settings else set()
    return names.pop() if len(names) == 1 else None


def _budget(settings: Settings | None, limit: float | None, assume: float | None) -> Budget:
    from asynccache.telemetry.vendors import vendor
    from asynccache.warming import Budget, Priced, priced_as

    listed = {} if settings is None else {each.model_name: each.litellm_params for each in settings.model_list}

    def named(request: Arguments) -> Priced:
        known = listed.get(str(request.get("model")))
        if known is None:
            return priced_as(request)
        return Priced(known.model, vendor("", known.model))

    return Budget(_prices(settings), limit=limit, assume=assume, named=named)


def _prices(settings: Settings | None) -> Prices:
    """Those of the configuration, and of the price library if it is installed."""
    from asynccache.telemetry.prices import Prices

    if settings is not None and settings.telemetry.prices:
        return Prices(settings.telemetry.prices)
    try:
        return Prices()
    except ConfigError:  # the library is not installed: then prices are unknown, and said to be
        return Prices(library=False)


# -- who is called ----------------------------------------------------------------------------------


class _ProxyShelf:
    """What a proxy keeps, asked over HTTP. What is looked for is no call to it: neither its statistics nor its ledger
    count it."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def look(self, request: Arguments, /) -> Held:
        from asynccache.warming import Held

        # Whoever does not know the first is to make no call all the same.
        headers = {"x-asynccache": '{"look": true}', "cache-control": "only-if-cached"}
        response = await self._post(request, headers)
        if response.is_error:
            raise Refused(response)
        try:
            return Held(**response.json())
        except (TypeError, ValueError) as error:
            raise NoProxy("what answers there is no proxy of asynccache, or an older one") from error

    async def ask(self, request: Arguments, /, *, anew: bool) -> Answered:
        from asynccache.telemetry.usage import Usage, model_in, usage_in, usage_of
        from asynccache.warming import Answered

        response = await self._post(request, {"cache-control": "no-cache"} if anew else {})
        if response.is_error:
            raise Refused(response)
        said = response.headers.get("cache-status", "")
        if "fwd=" not in said or "collapsed" in said:
            return Answered("collapsed" not in said or "stored" in said, Usage())
        try:
            answer = response.json()
        except ValueError:
            answer = None
        told = None if answer is None else usage_in(answer)
        usage = None if told is None else usage_of(dict(told))
        return Answered("stored" in said, usage, "" if answer is None else model_in(answer))

    async def _post(self, request: Arguments, headers: Mapping[str, str]) -> httpx2.Response:
        from asynccache.traffic_log import by_path

        path = by_path(getattr(request, "call_type", "chat"))
        return await self._client.post(path, json=dict(request), headers=headers)


class Refused(Exception):
    """An answer that is an error. Says what it says, in a line."""

    def __init__(self, response: httpx2.Response) -> None:
        self.status_code = response.status_code
        try:
            said = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = response.text[:200]
        super().__init__(f"{response.status_code} {said}")


class NoProxy(Exception):
    """Whoever answers does not do so as a proxy of ours would."""


@asynccontextmanager
async def _shelf(
    settings: Settings | None, config: Path | None, url: str | None, api_key: str | None, stop: AsyncExitStack
) -> AsyncIterator[Shelf]:
    if settings is not None and not (settings.model_list or settings.upstream):
        assert config is not None
        yield await stop.enter_async_context(_client_shelf(config, api_key))
        return
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise ConfigError("this needs the extra asynccache[proxy] (httpx2 is not installed)") from error

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    # As long as a provider may take; the proxy has timeouts of its own.
    options: dict[str, Any] = {"headers": headers, "timeout": httpx2.Timeout(None, connect=10)}
    if settings is None:
        client = httpx2.AsyncClient(base_url=url or "", **options)
    else:
        from asynccache.proxy.app import create_app

        cache = _cache(settings, stop)
        app = create_app(settings, cache=cache)
        stop.push_async_callback(app.aclose)
        transport = httpx2.ASGITransport(app=app)
        client = httpx2.AsyncClient(base_url="http://127.0.0.1", transport=transport, **options)
    yield _ProxyShelf(await stop.enter_async_context(client))


def _cache(settings: Settings, stop: AsyncExitStack) -> Cache:
    """That of the proxy. Its ledger gets what is spent here."""
    from asynccache.proxy.settings import build_cache
    from asynccache.telemetry.ledger import Ledger

    path, observers = settings.telemetry.ledger, []
    if path is not None:
        ledger = Ledger(_prices(settings), path=settings.folder / path)
        stop.push_async_callback(ledger.aclose)
        observers.append(_Spending(ledger))
    cache = build_cache(settings, observers=observers)
    stop.push_async_callback(cache.aclose)
    return cache


class _Spending:
    """An observer that tells a ledger of upstream calls alone: nobody has asked for what is warmed."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.observe_upstream = ledger.observe_upstream
        self.drain = ledger.drain

    def observe(self, seen: Observation, /) -> None:
        """The call that an upstream call is told of for."""


@asynccontextmanager
async def _client_shelf(config: Path, api_key: str | None) -> AsyncIterator[Shelf]:
    """Raises ConfigError."""
    from asynccache import Cache

    try:
        import openai
    except ModuleNotFoundError as error:
        raise ConfigError("the configuration names no model and no upstream, and openai is not installed") from error
    try:
        client = openai.AsyncOpenAI(api_key=api_key, max_retries=2)
    except openai.OpenAIError as error:
        raise ConfigError(f"the configuration names no model and no upstream: {error}") from error
    async with Cache.from_config(config) as cache, client:
        yield cache.shelf(cache.wrap(client).chat.completions.create)


def _run(
    settings: Settings | None,
    config: Path | None,
    url: str | None,
    api_key: str | None,
    requests: list[Arguments],
    budget: Budget,
    concurrency: int,
    refresh_within: float,
    console: Console,
) -> tuple[Warming, bool]:
    """As much as Ctrl-C lets, and whether it came."""
    from asynccache.warming import Warmer, Warming

    warmers: list[Warmer] = []

    async def work() -> None:
        async with AsyncExitStack() as stop, _shelf(settings, config, url, api_key, stop) as shelf:
            with _display(console, len(requests)) as progress:
                warmer = Warmer(
                    shelf, concurrency=concurrency, refresh_within=refresh_within, budget=budget, progress=progress
                )
                warmers.append(warmer)
                await warmer.run(requests)

    interrupted = False
    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        interrupted = True
    except ConfigError as error:
        fail(str(error))
    return (warmers[0].warming if warmers else Warming(asked=len(requests))), interrupted


# -- what is shown ----------------------------------------------------------------------------------


@contextmanager
def _display(console: Console, total: int) -> Iterator[Callable[[Warming], None]]:
    """A bar on a terminal, elsewhere a line for each tenth."""
    if console.is_terminal and not console.quiet:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("warming", total=total)
            yield lambda so_far: bar.update(task, completed=so_far.done, description=_so_far(so_far))
        return
    tenths = 0

    def line(so_far: Warming) -> None:
        nonlocal tenths
        reached = 10 * so_far.done // max(1, total)
        if reached > tenths:
            tenths = reached
            console.print(f"{so_far.done:,} of {total:,}: {_so_far(so_far)}", markup=False)

    yield line


def _so_far(warming: Warming) -> str:
    words = [f"{warming.called + warming.refreshed:,} called", f"{warming.present + warming.repeated:,} there"]
    words += [f"{len(warming.failures):,} failed"] if warming.failures else []
    return ", ".join([*words, f"${warming.usd:.4f}"])


def _print(warming: Warming, *, interrupted: bool) -> None:
    counts: Mapping[str, int] = {
        "were there": warming.present,
        "called": warming.called,
        "called anew, since they end soon": warming.refreshed,
        "the same as one before": warming.repeated,
        "left out: the money is not enough": warming.unaffordable,
        "failed": len(warming.failures),
        "not done yet": warming.asked - warming.done,
    }
    typer.echo(f"{warming.asked:,} requests" + (", interrupted: run it again to go on" if interrupted else ""))
    for name, count in counts.items():
        if count:
            typer.echo(f"  {count:>8,}  {name}")
    unknown = f", and {warming.unpriced:,} calls whose cost is unknown" if warming.unpriced else ""
    typer.echo(f"  cost: ${warming.usd:.4f}{unknown}")
    numbers: dict[str, list[int]] = {}
    for failure in warming.failures:
        numbers.setdefault(failure.error, []).append(failure.number)
    for error, failed in list(numbers.items())[:_SHOWN]:
        typer.echo(f"request{'' if len(failed) == 1 else 's'} {_ranges(failed)}: {error}", err=True)
    if (more := sum(map(len, list(numbers.values())[_SHOWN:]))) > 0:
        typer.echo(f"… and {more:,} more (--json lists them all)", err=True)


def _ranges(numbers: list[int]) -> str:
    """As one writes them: 1-4, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    words = ["-".join(map(str, run)) for run in runs[:_SHOWN]]
    return ", ".join([*words, "…"] if len(runs) > _SHOWN else words)
