"""`ko-reranker local run`: the whole stack on this machine, from an empty cloud to a ranked answer."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ko_reranker.commands.console import ExecutionView, console, step
from ko_reranker.operations import asking, executions, node
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage
from local_cloud import deploying
from local_cloud.cloud import LocalCloud, LocalCloudError
from local_cloud.commands.options import GatewayPort, Port, Root
from local_cloud.settings import DEFAULT_GATEWAY_PORT, DEFAULT_PORT

_FREE_BYTES = 1_000_000_000
_SHOWN_DOCUMENTS = 5
_SHOWN_CHARACTERS = 90


def deploy(
    port: Port = DEFAULT_PORT,
    gateway_port: GatewayPort = DEFAULT_GATEWAY_PORT,
    root: Root = None,
) -> None:
    """Deploy the stacks into the running local cloud, and choose the first model if there is none."""
    project = Project.find()
    cloud = LocalCloud(root or project.root, port, gateway_port)
    if not cloud.running():
        raise OperationError("the local cloud isn't running: start it with `ko-reranker local up`")
    deploying.deploy_local_stage(project, cloud, step)


def run(
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Your own training records, .jsonl or .jsonl.gz, instead of the sample."
        ),
    ] = None,
    source_language: Annotated[
        str | None,
        typer.Option(help="The language of --data; ko means that nothing is translated. The sample is English."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End after the answer instead of serving until Ctrl-C.")] = False,
    seed: Annotated[int, typer.Option(help="Chooses the query that is asked at the end.")] = 0,
    port: Port = DEFAULT_PORT,
    gateway_port: GatewayPort = DEFAULT_GATEWAY_PORT,
    root: Root = None,
) -> None:
    """Deploy everything, retrain, release, and ask the rerank API, all on this machine."""
    began = time.perf_counter()
    project = Project.find()
    node.check(project.root)
    free = shutil.disk_usage(project.root).free
    if free < _FREE_BYTES:
        raise OperationError(f"only {free / 1e6:.0f} MB are free on the disk of {project.root}; 1000 MB are needed")
    cloud = LocalCloud(root or project.root, port, gateway_port)
    ours = not cloud.running()
    try:
        with step("Start the local cloud"):
            cloud.start()
        stage = deploying.deploy_local_stage(project, cloud, step)
        execution_input = _upload(stage, data, source_language)
        arn = _retrain(stage, execution_input)
        _answer(stage, arn, seed)
        console.print(f"[dim]Everything took {time.perf_counter() - began:.0f} s.[/]")
        if not once:
            console.print(f"Serving at {stage.api_url} until Ctrl-C; the AWS APIs are at {cloud.settings.endpoint_url}.")
            _serve(cloud)
    except LocalCloudError as error:
        raise OperationError(str(error)) from None
    finally:
        if ours:
            cloud.stop()


def _upload(stage: Stage, data: Path | None, source_language: str | None) -> dict[str, str]:
    from ko_reranker.samples import paths

    source = data or paths.SAMPLE
    dataset = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name.split(".")[0]).strip("-._") or "data" if data else "sample"
    with step(f"Upload {source.name}"):
        stage.client("s3").upload_file(str(source), stage.output("DataBucket"), f"raw/{dataset}/{source.name}")
    language = {"source_language": source_language} if source_language else {}
    return {"dataset": dataset, **language}


def _retrain(stage: Stage, execution_input: dict[str, str]) -> str:
    arn = executions.start(stage, "RetrainStateMachine", execution_input)
    console.print(f"Retrain, execution {arn.rsplit(':', 1)[-1]}, input {json.dumps(execution_input)}")
    with ExecutionView() as view:
        for item in executions.follow(stage, arn, poll_seconds=0.5):
            view.show(item)
    outcome = executions.outcome(stage, arn)
    if not outcome.succeeded:
        raise OperationError(f"the retraining ended {outcome.status}: {outcome.cause}")
    return arn


def _answer(stage: Stage, arn: str, seed: int) -> None:
    output = executions.outcome(stage, arn).output
    key = f"models/{output['request']['run']}/{output['training']['job']}/evaluation/golden.json"
    body = stage.client("s3").get_object(Bucket=stage.output("DataBucket"), Key=key)["Body"]
    golden = random.Random(seed).choice(json.loads(body.read())["queries"])  # noqa: S311 - a demonstration's choice
    query, documents, positive = golden["query"], golden["documents"], golden["positive"]
    results = asking.rerank(stage.api_url, stage.api_key, query, documents)
    base = golden.get("base_scores")  # a base without a head has none
    before = f"at rank {1 + sum(score > base[positive] for score in base)} of {len(documents)}" if base else "not ranked"
    after = 1 + [item["index"] for item in results].index(positive)
    console.print(f"\n[bold]{escape(query)}[/]")
    for rank, item in enumerate(results[: max(_SHOWN_DOCUMENTS, after)], start=1):
        mark = "[green]→[/]" if item["index"] == positive else " "
        text = " ".join(documents[item["index"]].split())[:_SHOWN_CHARACTERS]
        console.print(f"{mark} {rank:2}  {item['relevance_score']:.4f}  {escape(text)}")
    console.print(
        f"The known positive (→) was {before} before the training and is at rank {after} now.\n"
        "This is the mini reranker, fine-tuned for a minute; docs/mini_reranker.md says what it is worth. Whether your records "
        "and a larger base give more, the evaluation says: its report lies beside the model, no reranker at all included."
    )
    line = asking.curl(stage.api_url, stage.api_key, query, documents[:3])
    console.print(f"\nAsk it yourself:\n{escape(line)}\n")


def _serve(cloud: LocalCloud) -> None:
    try:
        while cloud.running():
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("Stopping; the next run goes on with what is there.")
