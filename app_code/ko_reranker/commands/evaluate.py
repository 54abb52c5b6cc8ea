"""``ko-reranker evaluate``: the pipeline's job, and on any machine a comparison of rerankers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ko_reranker.commands.jobs import AllowBin, BaseDir, TrustRemoteCode, processing_job
from ko_reranker.instances import Dtype
from ko_reranker.languages import KOREAN, UnknownLanguageError, find
from ko_reranker.operations.errors import OperationError

if TYPE_CHECKING:
    from ko_reranker.container import ProcessingFolders
    from ko_reranker.evaluation.evaluate import EvaluationSettings

# A job's log is no terminal and has no width: the table is not to be cut there.
_LOG_WIDTH = 200
_NAMED_MODEL = re.compile(r"([\w.+-]+)=(.+)", re.DOTALL)


class FirstStage(StrEnum):
    """What finds the candidates of an evaluation."""

    BIGRAMS = "morphemes+bigrams"
    MORPHEMES = "morphemes"
    GIVEN = "given"


def evaluate(
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="A test set: training records (.jsonl), given candidates (.jsonl), question,answer,doc_id,doc (.csv) or a "
            "BEIR folder; several are one. Without it the command is the pipeline's job and reads dev.jsonl under --base-dir."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A reranker to compare, ADDRESS or NAME=ADDRESS; repeat it. An address is a folder, s3://bucket/prefix/, a "
            "hub id, or bm25:morphemes, bm25:morphemes+bigrams."
        ),
    ] = None,
    candidate: Annotated[str | None, typer.Option(help="Of the job: the model just trained, which the gate judges.")] = None,
    base: Annotated[str | None, typer.Option(help="Of the job: the model it started from.")] = None,
    deployed: Annotated[
        str,
        typer.Option(help="Of the job: the model that is live now, to see what a release would change; none when nothing is."),
    ] = "none",
    first_stage: Annotated[
        FirstStage,
        typer.Option(
            help="What finds the candidates: BM25 over morphemes and character pairs, over morphemes alone, or given, each "
            "record's own positives and negatives."
        ),
    ] = FirstStage.BIGRAMS,
    candidates: Annotated[
        int,
        typer.Option(min=2, help="Documents to rank per query. More make the task harder and the evaluation slower."),
    ] = 50,
    fuse: Annotated[bool, typer.Option("--fuse", help="Add a row a model with both scores, BM25's and the model's.")] = False,
    fuse_weight: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Of BM25 in these rows, which it adds, too; 0.5 without it.", show_default=False),
    ] = None,
    max_queries: Annotated[
        int | None, typer.Option(min=2, help="Take only so many queries, spread over the test set, to see something sooner.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PROMPT: what the generative model called NAME is asked, and with it how it ranks, in place of what its "
            "folder says: a prompt that comes with this, such as setwise-ko, or a YAML file; repeat it.",
        ),
    ] = None,
    top_n: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Places that are asked of every model. Models that compare documents do no more than those take, and only "
            "metrics up to there count for them.",
        ),
    ] = None,
    usd_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="What this machine costs an hour, for the cost of 1,000 queries in the table."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            envvar="KO_RERANKER_DEVICE",
            help="auto, cpu, cuda or cuda:1. auto fails where there is a GPU that can't be used; cpu means the CPU.",
        ),
    ] = "auto",
    dtype: Annotated[
        Dtype, typer.Option(help="Number format of the weights; auto takes what `serve` takes here, and the report says which.")
    ] = "auto",
    max_length: Annotated[
        int | None, typer.Option(min=16, help="Tokens of a pair; a longer document is cut. Default: as the model was trained.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    seed: Annotated[int, typer.Option(help="Of the documents' order and the intervals; keep it to compare runs.")] = 0,
    language: Annotated[
        str, typer.Option(help="Of the data: whose analyser BM25 searches with. The job's dataset says its own.")
    ] = KOREAN.code,
    output: Annotated[
        Path | None, typer.Option(help="Folder for report.json and report.html. Default with --data: evaluation.")
    ] = None,
    base_dir: BaseDir = None,
    allow_bin: AllowBin = False,
) -> None:
    """Compare rerankers with each other and with no reranker, on the same candidates: a table, report.json and report.html.

    With --data on any machine: `ko-reranker evaluate --data questions.jsonl --model ours=./model --model base=sample:tiny`.
    Without it as the pipeline's job, which also writes metrics.json for the gate and golden.json for the smoke test.
    """

    def settings(models: dict[str, str]) -> EvaluationSettings:
        from ko_reranker.evaluation.evaluate import EvaluationSettings
        from ko_reranker.rankers import EngineOptions

        return EvaluationSettings(
            models,
            first_stage=first_stage.value,
            candidates=candidates,
            seed=seed,
            fuse=(0.5 if fuse else None) if fuse_weight is None else fuse_weight,
            max_queries=max_queries,
            engine=EngineOptions(device=device, dtype=dtype, max_length=max_length),
            trust_remote_code=trust_remote_code,
            prompts=_prompts(prompt or []),
            top_n=top_n,
            usd_per_hour=usd_per_hour,
        )

    def job(folders: ProcessingFolders) -> None:
        from training_job.evaluate import evaluate_job, job_models

        if not (candidate and base) or model or output or prompt or top_n:
            raise OperationError(
                "the job needs --candidate and --base, and takes none of --model, --prompt, --top-n and --output; to compare "
                "models on a test set of your own, name it with --data"
            )
        live = None if deployed.lower() in ("", "none") else deployed
        print_report(evaluate_job(folders, settings(job_models(candidate, base, live))))

    if not data:
        processing_job(base_dir, job, device=device)
        return
    if candidate or base or deployed != "none":
        raise OperationError("--candidate, --base and --deployed belong to the job; with --data name each model with --model")

    from ko_reranker.evaluation.evaluate import EvaluationError, evaluate, write_report
    from ko_reranker.evaluation.questions import TestSetError, read_test_set

    chosen, folder = settings(_named(model or [])), output or Path("evaluation")
    try:
        report, _, _ = evaluate(read_test_set(data, find(language)), chosen)
        write_report(folder, report)
    except UnknownLanguageError as error:
        raise OperationError(f"--language {error}") from None
    except (EvaluationError, TestSetError) as error:
        raise OperationError(str(error)) from None
    except OSError as error:
        raise OperationError(f"the report can't be written: {error}") from None
    print_report(report)
    Console(highlight=False, soft_wrap=True).print(f"Report: {folder / 'report.html'}")


def _named(models: list[str]) -> dict[str, str]:
    """Return name to address; a name that isn't given is the address's last part."""
    named: dict[str, str] = {}
    for item in models:
        found = _NAMED_MODEL.fullmatch(item)
        name, address = found.groups() if found else (item.rstrip("/").rsplit("/", 1)[-1], item)
        if name in named:
            raise OperationError(f"two models are called {name}: give them names, as in --model one={address}")
        named[name] = address
    return named


def _prompts(prompts: list[str]) -> dict[str, str]:
    """Return a row's name to its prompt."""
    named: dict[str, str] = {}
    for item in prompts:
        name, said, prompt = item.partition("=")
        if not said or name in named:
            raise OperationError(
                f"--prompt {item}: name a model and its prompt, as in --prompt ours=setwise-ko, each model once"
            )
        named[name] = prompt
    return named


def print_report(report: Mapping[str, Any]) -> None:
    """Print the content of report.json: figures only, no text of a query or passage."""
    from ko_reranker.evaluation.comparison import MAIN_METRICS
    from ko_reranker.evaluation.report import COSTS, TITLES, difference, figure, side_by_side

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_LOG_WIDTH)
    shown = [name for name in TITLES if any(name in row for row in report["rows"].values())]
    shown = [name for name in shown if name not in ("has_right@2", "recall@5", "recall@20", *COSTS)]
    table = Table("", box=None)
    for name in shown:
        table.add_column(TITLES[name], justify="right")
    for name, row in report["rows"].items():
        table.add_row(name, *(figure(key, row.get(key)) for key in shown))
    console.print(
        f"{report['queries']} queries, {report['candidates_per_query']} candidates by {report['first_stage']}, "
        f"{report['right_found']:.1%} of the right passages among them"
    )
    for what, times in report.get("skipped", {}).items():
        console.print(f"passed over: {times:,} × {what}", markup=False)
    console.print(table)
    head, rows = side_by_side(report)
    if rows:
        costs = Table(head[0], head[1], *(Column(title, justify="right") for title in head[2:]), box=None)
        for row in rows:
            costs.add_row(*map(escape, row))
        console.print(costs)
    judged = [*report["models"], *(name for name in report["rows"] if name not in report["models"] and name != "none")]
    if not judged:
        return
    gains = Table("difference, 95 % interval", *(TITLES[name] for name in MAIN_METRICS), box=None)
    names = list(report["rows"])
    for name in judged:
        for other in names[: names.index(name)]:
            if other == "none" or name == list(report["models"])[-1]:
                item = report["differences"][f"{name}-{other}"]
                gains.add_row(f"{name} - {other}", *(difference(item[key]) for key in MAIN_METRICS))
    console.print(gains)
