"""Quality beside cost: a cross-encoder and late interaction of one size, on native questions that neither has seen.

    make bench-quality DATA=folder                 an hour on one core, the training; goes on where it stopped
    python -m benchmarks.quality --data DATA [--work build/quality]

The cross-encoder is the mini reranker as it ships. Late interaction starts from its transformer, with a projection that is new,
and is fine-tuned by `ko-reranker train` on a third of the native questions that the mini reranker was fine-tuned on, with the
same mined negatives. Both are judged on TyDi-ko's held-out questions, 50 candidates each. Cost is the CPU time of a request:
rankers are called in turn, and late interaction twice, with all documents new and with nine of ten kept from another query.
docs/quality.svg shows both. Generative rerankers are missing: none that reads Korean can be trained here.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.evaluation import CANDIDATES, SHOWN, tydi_held_out
from ko_reranker.commands.evaluate import print_report
from ko_reranker.container import TrainingFolders
from ko_reranker.evaluation import plots
from ko_reranker.evaluation.candidates import CandidateSet
from ko_reranker.evaluation.evaluate import EvaluationSettings, evaluate
from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.text import normalise
from training_job.launch import run_training
from training_job.mini_reranker.corpus import Corpus
from training_job.mini_reranker.groups import Mixture, write_groups
from training_job.mini_reranker.kinds import digest

CROSS, LATE = "cross-encoder", "late interaction"
KEPT = f"{LATE}, nine of ten kept"
RECORDS = 1600  # of the training: all of TyDi-ko's, and some of KoBEST's
TIMED = 12  # requests that are timed
SEED = 0
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "quality.svg"
# What the mini reranker's fine-tuning and ko-colbert-v1 have in common with a model of this size.
HYPERPARAMETERS = {
    "recipe": "ko-colbert-v1",
    "base_model": "sample:mini",
    "projection_dim": "128",
    "query_length": "32",
    "max_length": "256",
    "learning_rate": "1e-4",
    "warmup_fraction": "0.05",
    "epochs": "2",
    "batch_queries": "16",
    "micro_batch_tokens": "4096",
    "group_size": "4",
    "dev_queries": "100",
    "early_stop_patience": "0",
    "checkpoint_every_steps": "20",
    "log_every_steps": "10",
}


def train(corpus: Corpus, work: Path) -> Path:
    """Return the folder of the late-interaction model, trained where it is not there yet."""
    folders = TrainingFolders(work.resolve())
    if (folders.model / "reranker.json").is_file():
        return folders.model
    if not (folders.dataset / "dev.jsonl").is_file():
        write_groups(corpus, Mixture(counts={"tydi": None, "kobest": None}), folders.dataset)
        file = folders.dataset / "train.jsonl"
        file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:RECORDS]), encoding="utf-8")
    folders.config.mkdir(parents=True, exist_ok=True)
    (folders.config / "hyperparameters.json").write_text(json.dumps(HYPERPARAMETERS), encoding="utf-8")
    if run_training(folders, workers=1):
        raise SystemExit("The training stopped: see above. The same command goes on from its checkpoint.")
    return folders.model


def request_seconds(models: dict[str, str], sets: Sequence[CandidateSet]) -> dict[str, list[float]]:
    """Return CPU-seconds of each request by each way, called in turn in an order drawn anew.

    A ranker is loaded for each of them, so that it has seen none of the texts before, neither tokens nor vectors.
    """
    draw = random.Random(SEED)  # noqa: S311  a seeded draw, no secret
    seconds: dict[str, list[float]] = {CROSS: [], LATE: [], KEPT: []}
    for item in draw.sample([item for item in sets if len(item.documents) == CANDIDATES], TIMED):
        query, documents = normalise(item.query), [normalise(text) for text in item.documents]
        known = draw.sample(documents, len(documents) * 9 // 10)
        for name in draw.sample(list(seconds), len(seconds)):
            ranker = load_ranker(models[CROSS if name == CROSS else LATE], EngineOptions(dtype="fp32", workers=1))
            ranker.score("가나다", known if name == KEPT else ["라마바"])  # what is allocated at first is not timed
            began = time.process_time()
            ranker.score(query, documents)
            seconds[name].append(time.process_time() - began)
            ranker.close()
    return seconds


def draw_picture(figures: dict[str, Any]) -> str:
    """Return nDCG@10 with its interval by the CPU time of a request, as SVG."""
    points = {
        "late, 90 % kept" if name == KEPT else name: (
            1000 * cost["median"],
            figures["intervals"][LATE if name == KEPT else name]["ndcg@10"],
        )
        for name, cost in figures["cpu_seconds_per_request"].items()
    }
    return plots.places("nDCG@10 by the cost of a request", points, x_title="CPU-ms of 50 documents (logarithmic)")


def main() -> None:
    """Train, evaluate, time, draw, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data folder that docs/mini_reranker.md describes")
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="where the training leaves its results")
    arguments = parser.parse_args()
    model = train(Corpus(arguments.data), arguments.work)
    torch.set_num_threads(1)
    test_set = tydi_held_out(arguments.data)
    models = {CROSS: "sample:mini", LATE: str(model)}
    evaluated, _, sets = evaluate(
        test_set, EvaluationSettings(models, candidates=CANDIDATES, fuse=0.5, engine=EngineOptions(dtype="fp32"))
    )
    print_report(evaluated)
    costs = {name: report.spread(values) for name, values in request_seconds(models, sets).items()}
    print(f"CPU-seconds of a request: {costs}")
    card = json.loads((model / "run_card.json").read_text(encoding="utf-8"))
    figures = {
        "sha256": digest(test_set),
        "queries": evaluated["queries"],
        "hyperparameters": HYPERPARAMETERS,
        "training_records": card["dataset"]["records"],
        "rows": {row: {metric: values[metric] for metric in SHOWN} for row, values in evaluated["rows"].items()},
        "intervals": {
            row: {metric: found[metric] for metric in ("mrr", "ndcg@10")} for row, found in evaluated["intervals"].items()
        },
        "differences": {
            pair: {metric: found[metric] for metric in ("mrr", "ndcg@10")} for pair, found in evaluated["differences"].items()
        },
        "cpu_seconds_per_request": costs,
    }
    PICTURE.write_text(draw_picture(figures), encoding="utf-8")
    ratios = {
        "late_vs_cross_encoder": round(costs[LATE]["median"] / costs[CROSS]["median"], 3),
        "late_kept_vs_cross_encoder": round(costs[KEPT]["median"] / costs[CROSS]["median"], 3),
    }
    versions = {name: version(name) for name in ("kiwipiepy", "bm25s", "torch", "transformers", "ko-reranker")}
    print(f"Figures: {report.write('quality', versions, figures, ratios)}")


def _headline(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row: {metric: values[metric] for metric in ("mrr", "ndcg@10")} for row, values in found.items()}


if __name__ == "__main__":
    main()
