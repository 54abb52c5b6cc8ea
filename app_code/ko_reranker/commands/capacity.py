"""`ko-reranker capacity`: how many instances a load takes, what that costs, and which quotas to ask for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ko_reranker.commands.console import console
from ko_reranker.commands.cost import show_lines
from ko_reranker.commands.pipeline import StageOption
from ko_reranker.instances import INSTANCE_TYPE, auto_precision, gpu_of, memory_of
from ko_reranker.operations import costs
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project

if TYPE_CHECKING:
    from ko_reranker.capacity import Load, Plan, ServiceCurve
    from ko_reranker.settings import Settings

# Where `make bench-service` writes, and where the picture goes, in the project's folder.
MEASURED, PICTURE = Path("benchmarks/results/service.json"), Path("build/capacity.svg")
# API Gateway's requests a second of an account in a region, and Lambda's functions at a time, unless more were asked for.
_GATEWAY_RATE, _CONCURRENCY = 10_000, 1_000
_SECONDS_A_MONTH = costs.HOURS_A_MONTH * 3600
_GB = 1 << 30
# The server's own (`EngineOptions.batch_tokens`).
_BATCH_TOKENS = {"cpu": 1_024, "gpu": 16_384}


def capacity(
    requests_per_second: Annotated[
        float, typer.Option("--requests-per-second", min=0.01, max=10_000, help="At the busiest, all callers together.")
    ],
    documents: Annotated[int, typer.Option(min=1, help="Documents of a request.")] = 50,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the query and one document together.")] = 200,
    stage: StageOption = "prod",
    instance_type: Annotated[
        str | None, typer.Option(help="Of the endpoint, such as ml.g5.xlarge; by default the stage's.", show_default=False)
    ] = None,
    p95_seconds: Annotated[
        float, typer.Option("--p95-seconds", min=0.001, max=60, help="Within which the endpoint is to answer 95 % of them.")
    ] = 1.0,
    family: Annotated[str, typer.Option(help="Of the model: cross-encoder, late-interaction, generative.")] = "cross-encoder",
    model: Annotated[str | None, typer.Option(help="Of those measured, the one as large as yours.", show_default=False)] = None,
    precision: Annotated[
        str | None, typer.Option(help="What it is computed in; by default what auto is there, or fp32.", show_default=False)
    ] = None,
    decoder: Annotated[
        Path | None,
        typer.Option(help="config.json of a generative model: an instance that can't hold it is refused.", show_default=False),
    ] = None,
    quiet_share: Annotated[float, typer.Option(min=0.001, max=1, help="Of the requests, at the quietest.")] = 0.2,
    ramp_minutes: Annotated[int, typer.Option(min=1, max=1440, help="In which they rise from there to the busiest.")] = 30,
    start_seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Until a new instance answers; by default all that the stage allows it.", show_default=False),
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help=f"What `make bench-service` wrote; by default {MEASURED}.", show_default=False)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help=f"The picture; by default {PICTURE}.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the requests that are drawn.")] = 0,
) -> None:
    """Say how many instances a load takes, with p95, cost and the quotas to ask for, and draw it; without an account.

    The queue and the autoscaler are simulated with service times that were measured on hardware that the file names. Where
    yours was not measured it says so, and reckons with what was.
    """
    from ko_reranker.capacity import CurveError, Load, TooSlow, choose, plan, read_curves

    project = Project.find()
    settings = project.settings(stage)
    kind = _checked(instance_type or settings.serving.instance_type)
    for name, value, most, setting in (
        ("documents", documents, settings.api.max_documents, "api.max_documents"),
        ("p95-seconds", p95_seconds, settings.api.deadline_seconds, "api.deadline_seconds"),
    ):
        if value > most:
            raise OperationError(f"--{name} is {value:g}, and the API of stage {stage} allows {most:g} ({setting})")
    try:
        if decoder:
            _refuse_too_small(kind, decoder, precision, settings)
        curves = read_curves(measured or project.root / MEASURED)
        curve = choose(curves, instance_type=kind, family=family, model=model, precision=precision)
        load = Load(
            rate=requests_per_second,
            documents=documents,
            tokens=tokens,
            p95_seconds=p95_seconds,
            quiet_share=quiet_share,
            ramp_minutes=ramp_minutes,
            start_seconds=start_seconds or settings.serving.startup_timeout_seconds,
        )
        found = plan(load, curve, seed)
    except (CurveError, TooSlow, ValueError) as error:
        raise OperationError(str(error)) from None
    on_it = curve.instance_type == kind
    _show_measurement(curve, kind, load, found)
    _show_plan(load, found, settings, unit="instances" if on_it else f"times {curve.hardware}")
    _show_costs(kind, load, found, settings, on_it=on_it)
    _show_quotas(kind, load, found, settings, on_it=on_it)
    picture = plot or project.root / PICTURE
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(draw(load, curve, found), encoding="utf-8")
    console.print(f"\ndrawn: {picture}")


def _checked(kind: str) -> str:
    if not re.fullmatch(INSTANCE_TYPE, kind):
        raise OperationError(f"--instance-type is {kind!r}, and has to be one of SageMaker's, such as ml.g5.xlarge")
    return kind


def _refuse_too_small(kind: str, config: Path, precision: str | None, settings: Settings) -> None:
    """Refuse an instance type whose memory doesn't hold a decoder.

    Raises:
        OperationError: it doesn't, or the file is no configuration of a decoder.
    """
    from ko_reranker.rankers.memory import decoder_memory

    there = memory_of(kind)
    if there is None:
        console.print(f"the memory of {kind} is not known here: whether it holds the model is not checked\n")
        return
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OperationError(f"--decoder: {config} can't be read: {error}") from None
    asked = precision or settings.serving.server.precision
    dtype = asked if asked != "auto" else auto_precision(kind, bf16_pays=False)  # a decoder
    batch_tokens = settings.serving.server.batch_tokens or _BATCH_TOKENS["gpu" if gpu_of(kind) else "cpu"]
    needed = decoder_memory(content, dtype, batch_tokens=batch_tokens).most
    if needed > there * _GB:
        raise OperationError(
            f"{kind} has {there} GiB for the model, and in {dtype} it takes {needed / _GB:.1f} GiB at least: take a larger "
            "instance or a smaller model"
        )
    console.print(f"{kind} has {there} GiB for the model, which takes {needed / _GB:.1f} GiB in {dtype}\n")


def _show_measurement(curve: ServiceCurve, kind: str, load: Load, found: Plan) -> None:
    hardware = escape(curve.hardware)
    console.print(
        f"[bold]{escape(curve.model)}, {curve.precision}, measured on {hardware}[/] "
        f"({curve.date}; the curve is off by {curve.worst_error:.0%} at most)"
    )
    if curve.instance_type != kind:
        console.print(f"[yellow]{kind}: not measured[/]. What follows is of {hardware}; yours will be different.")
    most = max(documents for documents, _, _ in curve.points)
    if load.documents > most:
        console.print(f"{load.documents} documents are reckoned in proportion: {most:g} were measured at most.")
    console.print(f"a request of {load.documents} documents of {load.tokens:g} tokens alone: {found.service_seconds:.3g} s\n")


def _show_plan(load: Load, found: Plan, settings: Settings, *, unit: str) -> None:
    from ko_reranker.capacity.planning import MOST_UTILISATION

    serving = settings.serving
    console.print(f"[bold]{load.rate:g} requests a second, 95 % of them within {load.p95_seconds:g} s[/]")
    for what, value in (
        ("at the busiest", f"{found.instances} {unit}"),
        ("p95, mean", f"{found.p95_seconds:.3g} s, {found.mean_seconds:.3g} s"),
        ("busy", f"{found.utilisation:.0%} of the time, {MOST_UTILISATION:.0%} at most"),
        (f"at {load.quiet_share:.0%} of the load", f"{found.quiet_instances} {unit}"),
        (f"p95 while it rises in {load.ramp_minutes} min", f"{max(found.course.p95):.3g} s at the worst moment"),
    ):
        console.print(escape(f"  {what:<30} {value}"))
    console.print("settings, and what they are now:")
    for name, wanted, now in (
        ("serving.min_instances", found.least, serving.min_instances),
        ("serving.max_instances", found.instances, serving.max_instances),
        ("serving.concurrent_requests_per_instance", f"{found.target:g}", f"{serving.concurrent_requests_per_instance:g}"),
        ("api.throttle_rate", math.ceil(load.rate), f"{settings.api.throttle_rate:g}"),
    ):
        console.print(escape(f"  {name:<42} {wanted:>8}  (now {now})"))
    console.print()


def _show_costs(kind: str, load: Load, found: Plan, settings: Settings, *, on_it: bool) -> None:
    if on_it:
        for when, count in (("at the quietest", found.quiet_instances), ("at the busiest", found.instances)):
            lines = [costs.instances(kind, count * costs.HOURS_A_MONTH, settings.prices)]
            show_lines(f"A month with the instances {when}, all of it", lines)
    else:
        console.print(f"[bold]A month's instances[/]\nnot measured: how many {kind} do the same is not known\n")
    millions = load.rate * _SECONDS_A_MONTH / 1e6
    show_lines(
        f"A million calls beside them ({millions:,.0f} million a month, were it always the busiest)",
        costs.million_calls(settings, found.mean_seconds),
    )


def quotas(kind: str, load: Load, found: Plan, settings: Settings) -> Iterator[tuple[str, int, str]]:
    """Yield (quota, what to ask for, why) of what the load takes."""
    yield (
        f"SageMaker: {kind} for endpoint usage",
        2 * found.instances,
        "twice the busiest: a release runs the new instances beside the old ones",
    )
    yield "API Gateway: throttle rate of the region", math.ceil(load.rate), f"{_GATEWAY_RATE:,} unless more was asked for"
    calls = math.ceil(load.rate * found.p95_seconds)
    yield (
        "Lambda: concurrent executions",
        2 * calls + settings.translation.max_concurrency,
        f"{calls} requests at a time, their authorizers, a translation's shards; {_CONCURRENCY:,} unless more was asked for",
    )


def _show_quotas(kind: str, load: Load, found: Plan, settings: Settings, *, on_it: bool) -> None:
    console.print("[bold]Quotas to ask for[/]")
    for name, count, why in quotas(kind, load, found, settings):
        instances = name.startswith("SageMaker")
        asked = f"{count:>8,}" if on_it or not instances else f"{'?':>8}"
        reason = why if on_it or not instances else f"not measured; {count:,} of what was"
        console.print(escape(f"  {name:<50} {asked}  {reason}"))


def draw(load: Load, curve: ServiceCurve, found: Plan) -> str:
    """Return the picture of a load that rises: requests, instances and p95 by the minute, SVG."""
    from ko_reranker.evaluation import plots

    course, bound = found.course, [load.p95_seconds] * len(found.course.p95)
    return plots.courses(
        f"{load.rate:g} requests a second, {load.documents} documents each; {curve.model} on {curve.hardware}",
        {"p95, seconds": course.p95, "p95 that is asked for": bound},
        {"instances (right)": course.instances, "requests a second (right)": course.rates},
        x_title="minutes",
    )
