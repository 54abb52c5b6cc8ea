"""`ko-reranker cost`: what a stage costs, from its templates and the settings' prices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from ko_reranker.commands.console import console
from ko_reranker.commands.pipeline import StageOption
from ko_reranker.operations import costs, synthesis
from ko_reranker.operations.costs import Line
from ko_reranker.operations.project import Project


def cost(
    stage: StageOption = "prod",
    documents: Annotated[int, typer.Option(min=1, help="Documents of a call, for what others charge by the search.")] = 50,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds that a call takes on your stage, as its dashboard says."),
    ] = None,
) -> None:
    """Say what a stage costs at rest, for a million calls, and for a retraining at most; without an account.

    Prices are those of cdk.json (`prices`), each with its source and date. One that is empty is named, and its sum left open.
    """
    project = Project.find()
    settings = project.settings(stage)
    # With the endpoint: a stage without one answers nobody.
    templates = synthesis.synthesise(project, stage, {"serving.enabled": "true"})
    hours, there = settings.schedule.endpoint, "with its endpoint"
    if hours:
        there += f", which is there {hours.share:.1%} of the time (schedule.endpoint)"
    resting = costs.at_rest(templates, settings.prices, endpoint_share=hours.share if hours else 1.0)
    show_lines(f"A month at rest, {there}", resting)
    by_use = sorted({f"{kind.removeprefix('AWS::')} ({costs.BY_USE[kind]})" for kind in _kinds(templates) & set(costs.BY_USE)})
    console.print(f"and by use: {', '.join(by_use)}\n")
    if seconds is None:
        console.print(
            "A million calls: not measured. Give --seconds, as your dashboard's latency says, or ask `ko-reranker capacity`.\n"
        )
    else:
        show_lines(f"A million calls of {seconds:g} s, beside the endpoint's instances", costs.million_calls(settings, seconds))
    show_lines(f"The same of {documents} documents elsewhere", costs.elsewhere(settings.prices, documents), total=False)
    show_lines("A retraining's jobs, if each takes all the time that it may", costs.retraining_at_most(settings))
    translation = settings.translation
    console.print(
        f"and its translation, ${translation.max_translation_usd:g} at most, at ${translation.usd_per_million_characters:g} a "
        "million characters (translation.usd_per_million_characters)"
    )


def _kinds(templates: synthesis.Templates) -> set[str]:
    return {resource["Type"] for template in templates.values() for resource in template["Resources"].values()}


def show_lines(title: str, lines: Sequence[Line], *, total: bool = True) -> None:
    """Print a bill, each line with its price's source and date, or that it has none."""
    console.print(f"[bold]{title}[/]")
    for line in lines:
        price = line.price
        each = "?" if price.usd is None else f"{price.usd:g}"
        amount = "?" if line.usd is None else f"{line.usd:,.2f}"
        source = f"no price: {line.setting} is empty" if price.usd is None else f"{price.source}, {price.as_of}"
        row = f"{line.count:>12,.10g} {line.what:<30} x {each:>8} = {amount:>12} USD  {source}"
        console.print(escape(row))
    if total:
        known = [line.usd for line in lines if line.usd is not None]
        rest = len(lines) - len(known)
        console.print(f"{sum(known):,.2f} USD" + (f" and what {rest} more without a price cost" if rest else ""))
    console.print()
