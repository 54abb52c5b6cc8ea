"""``ko-reranker train`` and ``mine``: the jobs, as the container runs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ko_reranker.models import ALLOW_BIN_VARIABLE

if TYPE_CHECKING:
    from ko_reranker.container import ProcessingFolders

BaseDir = Annotated[
    Path | None,
    typer.Option(
        envvar="SAGEMAKER_BASE_DIR",
        help="Root of the folders that SageMaker lays out. Change it to run the job outside a container.",
        show_default="/opt/ml",
    ),
]


TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that a model brings to load it with: of a folder, or of a hub id pinned to the commit that "
        "you have read, ORG/NAME@ and its 40 digits. Without, such a model is refused.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(
        envvar="KO_RERANKER_DEVICE",
        help="auto takes the GPU, and fails where there is one that can't be used; cpu means the CPU, whatever else is there.",
    ),
]


def _allow_bin(value: bool) -> bool:
    # For every process that this one starts, too: a training's workers load the model.
    if value:
        os.environ[ALLOW_BIN_VARIABLE] = "1"
    return value


AllowBin = Annotated[
    bool,
    typer.Option(
        "--allow-bin",
        envvar=ALLOW_BIN_VARIABLE,
        callback=_allow_bin,
        help="Read weights that are pickles (*.bin) where a model has no safetensors. A pickle can run programs when it is "
        "read, so say it only of models that you trust.",
    ),
]


def train(device: Device = "auto", base_dir: BaseDir = None, allow_bin: AllowBin = False) -> None:
    """Fine-tune a reranker: records in, model out.

    Reads input/config/hyperparameters.json (`recipe`, `base_model`, and any field of the recipe) and
    input/data/dataset/train.jsonl under the base folder, writes model/ and checkpoints/, and resumes from the latter.
    A failure stands in output/failure, in one sentence.
    """
    from ko_reranker import container
    from training_job.launch import run_training

    folders = container.TrainingFolders(base_dir or container.base_dir())
    raise typer.Exit(run_training(folders, device=device))


def mine(
    negatives: Annotated[
        int,
        typer.Option(min=1, help="Negatives per record in the end. More teach more and cost training time in proportion."),
    ] = 7,
    seed: Annotated[int, typer.Option(help="Change it for another draw of the same data.")] = 0,
    rank_from: Annotated[
        int, typer.Option(min=1, help="First BM25 rank to draw from. Raise it when the best ranked are often unmarked answers.")
    ] = 3,
    rank_to: Annotated[
        int, typer.Option(min=1, help="Last BM25 rank to draw from. Lower makes negatives harder, higher more varied.")
    ] = 100,
    max_overlap: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of 4-grams in common with a positive that makes a passage one, too."),
    ] = 0.6,
    teacher: Annotated[
        str | None,
        typer.Option(help="A reranker (hub id, s3:// or folder) that sorts out what is right after all and scores the rest."),
    ] = None,
    teacher_margin: Annotated[
        float, typer.Option(help="How far below the worst positive the teacher's logit of a negative must lie.")
    ] = 1.0,
    trust_remote_code: TrustRemoteCode = False,
    device: Device = "auto",
    base_dir: BaseDir = None,
    allow_bin: AllowBin = False,
) -> None:
    """Give every record its negatives: {train,dev}.jsonl in, the same with negatives and mining.json out."""

    def job(folders: ProcessingFolders) -> None:
        from training_job import mine as job_module

        settings = job_module.MiningSettings(
            negatives, seed, rank_from, rank_to, max_overlap, teacher, teacher_margin, trust_remote_code
        )
        report = job_module.mine(folders, settings, device=device)
        for split in job_module.SPLITS:
            if counts := report.get(split):
                before, after = counts["negatives_before"], counts["negatives_after"]
                print(
                    f"{split}: {counts['records']} records, {before} negatives before, {after} now "
                    f"({counts['mined']} mined, {counts['random']} random)"
                )

    processing_job(base_dir, job, device=device, computes=teacher is not None)


def processing_job(
    base_dir: Path | None, job: Callable[[ProcessingFolders], object], *, device: str, computes: bool = True
) -> None:
    """Run a processing job; a failure goes where SageMaker reads it, to the screen, and into the exit code.

    Args:
        base_dir: root of the job's folders.
        job: does it, given the folders.
        device: ``cpu`` leaves a GPU alone; otherwise one that is there has to work.
        computes: whether a model is computed. One that isn't fails, too, on a GPU instance whose GPU can't be used: the jobs
            behind it run on the same, after the training was paid for.
    """
    from ko_reranker import container
    from ko_reranker.gpus import check_gpu

    folders = container.ProcessingFolders(base_dir or container.base_dir())
    folders.failure.unlink(missing_ok=True)
    try:
        instance_type = container.read_processing_instance(folders.config)
        if device != "cpu" and (computes or instance_type):
            check_gpu(instance_type)
        job(folders)
    except Exception as error:
        sentence = container.describe(error)
        container.fail(sentence, folders.failure)
        print(sentence, file=sys.stderr)
        raise typer.Exit(1) from error
