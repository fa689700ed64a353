"""`asynccache semantic explain` and `asynccache semantic calibrate`: what may serve in whose place, and how surely."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from asynccache import ConfigError
from asynccache.cli.failing import fail

if TYPE_CHECKING:
    from asynccache.semantic.calibration import Report, Setting

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]

semantic = typer.Typer(help="Answers by meaning: why one may serve, and from which threshold on.", no_args_is_help=True)


@semantic.command()
def explain(
    a: Annotated[str, typer.Argument(help="A question with a stored answer.")],
    b: Annotated[str, typer.Argument(help="A question that is asked.")],
    similarity: Annotated[float | None, typer.Option(help="Cosine of their embeddings.", min=-1, max=1)] = None,
    embedding_model: Annotated[str | None, typer.Option(help="Embed them with this, such as local:FOLDER.")] = None,
    threshold: Annotated[float | None, typer.Option(help="The least similarity.", min=0, max=1)] = None,
    confidence: Annotated[float | None, typer.Option(help="The least P(right).", min=0, max=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Show what each layer says of serving the answer of one question for another.

    Without a similarity and without a model they are taken for as close as can be, so that guards and scorer speak.
    Exits with 0 when the answer would serve, 1 when not, 2 for wrong input.
    """
    from asynccache.semantic.decisions import Candidate
    from asynccache.semantic.policies import CONFIDENCE, FLOOR, LayeredPolicy
    from asynccache.semantic.scorer import Scorer

    if not a.strip() or not b.strip():
        fail("an empty text is no question")
    assumed = similarity is None and embedding_model is None
    if similarity is None:
        similarity = 1.0 if embedding_model is None else _cosine(a, b, embedding_model)
    layers = LayeredPolicy(
        threshold=FLOOR if threshold is None else threshold,
        confidence=CONFIDENCE if confidence is None else confidence,
        scorer=Scorer.shipped(),
    )
    decision = layers.decide(b, [Candidate("", a, similarity, 0.0)])
    serves = decision.candidate is not None
    if as_json:
        said = {
            "serves": serves,
            "layer": decision.layer,
            "score": decision.score,
            "similarity": similarity,
            "similarity_assumed": assumed,
            "reasons": list(decision.reasons),
        }
        typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
    else:
        for reason in decision.reasons:
            typer.echo(reason)
        if assumed:
            typer.echo("(similarity not known: taken for 1; give --similarity or --embedding-model)")
        typer.echo(f"{'would serve' if serves else 'would not serve'}: {decision.layer}")
    raise typer.Exit(0 if serves else 1)


@semantic.command(name="calibrate")
def calibrate_log(
    log: Annotated[Path, typer.Argument(help="A log that shadow mode has written.")],
    target_precision: Annotated[float, typer.Option(help="The share of served answers that is to be right.")] = 0.99,
    sureness: Annotated[float, typer.Option(help="How sure the recommendation is to be.")] = 0.95,
    as_json: AsJson = False,
) -> None:
    """Recommend layers and a threshold that reach a precision, from what shadow mode has seen.

    Exits with 0 and a recommendation, 1 when the data do not suffice for one, 2 when there is no log.
    """
    from asynccache.semantic.calibration import calibrate
    from asynccache.semantic.shadow import read_log

    try:
        report = calibrate(read_log(log), target_precision, sureness=sureness)
    except ConfigError as error:
        fail(str(error))
    if as_json:
        typer.echo(json.dumps(_as_dict(report), indent=2))
    else:
        _print(report)
    raise typer.Exit(0 if report.chosen else 1)


def _cosine(a: str, b: str, model: str) -> float:
    from asynccache.semantic import embedders

    async def embed() -> float:
        vectors = await embedders.load(model, api_base=None, api_key=None)([a, b])
        one, other = ([float(x) for x in vector] for vector in vectors)
        lengths = sum(x * x for x in one) * sum(y * y for y in other)
        return sum(x * y for x, y in zip(one, other, strict=True)) / (lengths**0.5 or 1.0)

    try:
        return asyncio.run(embed())
    except ConfigError as error:
        fail(str(error))
    except Exception as error:  # an embedder raises whatever its library does
        fail(f"{model} cannot embed them: {error or type(error).__name__}")


def _print(report: Report) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{report.comparisons} comparisons")
    for setting in report.settings:
        table = Table(title=setting.layers, title_justify="left")
        for name in (setting.option, "served", "right", "precision", f"{report.sureness:.0%} sure"):
            table.add_column(name, justify="right")
        for point in setting.curve:
            if point.served:
                table.add_row(
                    f"{point.threshold:g}",
                    str(point.served),
                    str(point.right),
                    f"{point.precision:.4f}",
                    f"{point.low:.4f} to {point.high:.4f}",
                )
        console.print(table)
    console.print(_advice(report))


def _advice(report: Report) -> str:
    if report.chosen is None or report.chosen.chosen is None:
        return (
            f"no recommendation: no threshold is {report.sureness:.0%} sure to reach a precision of {report.target:g}. "
            f"At least {report.needed} comparisons that would be served, all of them right, are wanted."
        )
    point = report.chosen.chosen
    share = point.served / report.comparisons
    return (
        f"recommended: layers {report.chosen.layers}; {report.chosen.option}: {point.threshold:g}. "
        f"Precision {point.precision:.4f}, at least {point.low:.4f} ({report.sureness:.0%} sure); "
        f"it serves {point.served} of {report.comparisons} ({share:.1%})."
    )


def _as_dict(report: Report) -> dict[str, object]:
    def of(setting: Setting | None) -> dict[str, object] | None:
        if setting is None or setting.chosen is None:
            return None
        point = setting.chosen
        return {
            "layers": setting.layers,
            setting.option: point.threshold,
            "served": point.served,
            "precision": point.precision,
            "low": point.low,
            "high": point.high,
        }

    return {
        "comparisons": report.comparisons,
        "target_precision": report.target,
        "sureness": report.sureness,
        "recommended": of(report.chosen),
        "needed": report.needed,
        "settings": [{"layers": setting.layers, "reaches": of(setting)} for setting in report.settings],
    }
