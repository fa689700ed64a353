"""`asynccache demo`: what a cache does for a support bot with many users, seen within seconds."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from anyio import create_task_group
from rich.console import Console
from rich.live import Live

from asynccache import Cache
from asynccache.cli.failing import fail

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

    from asynccache.cli.report import Facts, Result
    from asynccache.cli.workload import Ask, Price, Tally
    from asynccache.testing.provider import SimulatedProvider

SIMULATED_MODEL = "simulated"
SIMULATED_PRICE = (2.50, 10.00)
"""US dollars per million tokens read and written: of the size that such models cost, and nobody's in particular."""

SYSTEM_PROMPT = """\
You are the support assistant of an online shop that sells clothes, electronics and household goods, and a membership
called Plus. Answer the customer's question in at most five short, friendly sentences. Say which page or button to use.
Never promise a refund or a delivery date. If the question is about one particular order, ask for the order number
unless it was given. If you are not sure, or the customer asks for it, offer to hand over to a colleague; the team can
be reached on weekdays from nine to six. Use the language of the customer."""


class Backend(StrEnum):
    """Where the demo's cache keeps its entries."""

    memory = "memory"
    disk = "disk"


def demo(
    requests: Annotated[int, typer.Option(min=1, help="How many questions are asked in all.")] = 1000,
    users: Annotated[int, typer.Option(min=1, help="How many users ask at the same time.")] = 40,
    questions: Annotated[
        Path | None, typer.Option(help='Other questions: a file with {"question": "…"} on each line.')
    ] = None,
    zipf: Annotated[float, typer.Option(min=0, help="How uneven their popularity is; 0: all alike.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed asks the same questions in the same order.")] = 7,
    backend: Annotated[Backend, typer.Option(help="Where entries are kept; disk: in a temporary folder.")] = (
        Backend.memory
    ),
    ttl: Annotated[float, typer.Option(min=0, help="Seconds an answer is kept.")] = 3600,
    speed: Annotated[float, typer.Option(min=0.01, help="How much faster than real the simulated provider is.")] = 1.0,
    base_url: Annotated[
        str | None, typer.Option(help="Ask this real OpenAI-compatible provider. IT COSTS MONEY.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The real provider's model.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="The real provider's key.")] = None,
    input_price: Annotated[float | None, typer.Option(min=0, help="US dollars per million tokens read.")] = None,
    output_price: Annotated[float | None, typer.Option(min=0, help="US dollars per million tokens written.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before calling a real provider.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Watch the cache answer a support bot's users: hits, latency, and the money it saves.

    Without --base-url, nothing leaves this machine and nothing costs money: the provider is simulated.
    Ctrl-C ends early, with the figures so far. Exits with 1 when not a single request was answered.
    """
    _require("openai", *(("starlette", "uvicorn") if base_url is None else ()))
    from asynccache.cli import report, workload

    try:
        texts = workload.draw(workload.read_questions(questions or workload.own_questions()), requests, zipf, seed)
    except workload.QuestionsError as error:
        fail(str(error))
    facts = report.Facts(
        provider=base_url or "simulated",
        simulated=base_url is None,
        model=_model(model, base_url),
        requests=requests,
        distinct=len(set(texts)),
        users=users,
        zipf=zipf,
        seed=seed,
        backend=backend.value,
        ttl=ttl,
        speed=speed,
        price=_price(input_price, output_price, simulated=base_url is None),
        own_price=input_price is not None,
    )
    if not facts.simulated:
        _warn_of_cost(facts, yes=yes)
    console = Console(quiet=as_json, highlight=False)
    console.print(report.introduction(facts))
    result = _run(facts, texts, api_key, console)
    if as_json:
        typer.echo(json.dumps(report.as_json(result), indent=2))
    else:
        console.print(report.results(result, console))
    if result.interrupted:
        raise typer.Exit(130)
    raise typer.Exit(0 if result.tally.answered else 1)


def _require(*packages: str) -> None:
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        fail(f"the demo needs {' and '.join(missing)}: pip install 'asynccache[demo]'")


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _model(model: str | None, base_url: str | None) -> str:
    if base_url is None and model is not None:
        fail("--model is for a real provider: give its --base-url too")
    if base_url is not None and model is None:
        fail("--base-url needs a --model")
    return model or SIMULATED_MODEL


def _price(read: float | None, written: float | None, *, simulated: bool) -> Price | None:
    """The price the user gave; else that of the simulated provider; that of a real one is not known."""
    from asynccache.cli.workload import Price

    if (read is None) != (written is None):
        fail("--input-price and --output-price belong together: give both or none")
    if read is not None and written is not None:
        return Price(read, written)
    return Price(*SIMULATED_PRICE) if simulated else None


def _warn_of_cost(facts: Facts, *, yes: bool) -> None:
    """Say on stderr how many calls will be made, and where somebody can answer, ask whether to go on."""
    from asynccache.cli.report import price_text

    typer.echo(
        f"This calls {facts.provider} with model {facts.model}, and each call costs money.\n"
        f"Calls: {facts.distinct:,} if all goes well, one for each different question; {facts.requests:,} at most.\n"
        f"Prices: {price_text(facts)}.",
        err=True,
    )
    if not yes and sys.stdin.isatty():
        typer.confirm("Go on?", abort=True, err=True)


def _run(facts: Facts, texts: list[str], api_key: str | None, console: Console) -> Result:
    """Ask all of it, or as much as Ctrl-C lets."""
    from asynccache.cli.report import Result
    from asynccache.cli.workload import Tally

    tally = Tally()
    interrupted = False
    provider = _simulated_provider(facts.speed) if facts.simulated else None
    with _cache(facts) as cache:
        started = time.perf_counter()
        try:
            asyncio.run(_work(facts, texts, api_key, provider, cache, tally, console))
        except KeyboardInterrupt:
            interrupted = True
        elapsed = time.perf_counter() - started
    provider_calls = None if provider is None else provider.calls.total()
    return Result(facts, tally, elapsed, interrupted, cache.stats.upstream_calls, provider_calls)


def _simulated_provider(speed: float) -> SimulatedProvider:
    from asynccache.testing.provider import SimulatedProvider, realistic_latency

    return SimulatedProvider(realistic_latency(speed))


@contextmanager
def _cache(facts: Facts) -> Iterator[Cache]:
    if facts.backend == Backend.memory:
        yield Cache(ttl=facts.ttl)
        return
    with tempfile.TemporaryDirectory(prefix="asynccache-demo-") as folder:
        yield Cache(type="disk", path=folder, ttl=facts.ttl)


async def _work(
    facts: Facts,
    texts: list[str],
    api_key: str | None,
    provider: SimulatedProvider | None,
    cache: Cache,
    tally: Tally,
    console: Console,
) -> None:
    from asynccache.cli.workload import run_users

    async with AsyncExitStack() as stack:
        if provider is not None:
            await stack.enter_async_context(provider)
        client = await stack.enter_async_context(_client(facts.provider, api_key, provider))
        await stack.enter_async_context(cache)
        draw = stack.enter_context(_display(console, facts, tally))
        tasks = await stack.enter_async_context(create_task_group())
        tasks.start_soon(_redraw, draw)
        await run_users(_asker(cache.wrap(client), facts.model), texts, facts.users, tally)
        tasks.cancel_scope.cancel()


def _client(base_url: str, api_key: str | None, provider: SimulatedProvider | None) -> AsyncOpenAI:
    """A client that does not try again on its own, so that each request makes one call at most."""
    import openai

    if provider is None:
        return openai.AsyncOpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0)
    # A proxy from the environment would not find a port of this machine.
    direct = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=provider.base_url, api_key="simulated", max_retries=0, http_client=direct)


def _asker(client: AsyncOpenAI, model: str) -> Ask:
    async def ask(question: str) -> ChatCompletion:
        return await client.chat.completions.create(
            model=model,
            messages=[{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}],
        )

    return ask


@contextmanager
def _display(console: Console, facts: Facts, tally: Tally) -> Iterator[Callable[[], None]]:
    """A function that shows the progress: drawn over itself on a terminal, elsewhere a line for each tenth."""
    from asynccache.cli.report import progress, progress_line

    if console.is_terminal and not console.quiet:
        with Live(progress(facts, tally), console=console, auto_refresh=False, transient=True) as live:
            yield lambda: live.update(progress(facts, tally), refresh=True)
        return
    tenths = 0

    def draw() -> None:
        nonlocal tenths
        reached = 10 * tally.done // facts.requests
        if reached > tenths:
            tenths = reached
            console.print(progress_line(facts, tally))

    yield draw


async def _redraw(draw: Callable[[], None]) -> None:
    """On the loop: a thread that draws would get in the way of the calls that are being timed."""
    while True:
        draw()
        await asyncio.sleep(0.1)
