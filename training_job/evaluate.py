"""Compare the candidate with its base, with what is deployed, and with no reranker at all, on the dev split."""

from __future__ import annotations

from dataclasses import dataclass

from ko_reranker.container import JobError, ProcessingFolders
from ko_reranker.evaluation.bm25 import MorphemeBm25
from ko_reranker.evaluation.candidates import candidate_sets
from ko_reranker.evaluation.comparison import CANDIDATE, Row, Scorer, compare, golden_queries, run_row
from ko_reranker.evaluation.report import render_report
from ko_reranker.models import ModelNotFoundError
from ko_reranker.rankers import RankerError, load_ranker
from training_job.mine import read_dataset, write_json


@dataclass(frozen=True)
class EvaluationSettings:
    """What is compared, and on what.

    Attributes:
        candidate: address of the model just trained.
        base: address of the model it started from.
        deployed: address of the model that is live, or None.
        candidates: documents to rank per query.
        seed: of the candidates and of the bootstrap.
    """

    candidate: str
    base: str
    deployed: str | None
    candidates: int
    seed: int


def evaluate(folders: ProcessingFolders, settings: EvaluationSettings) -> dict:
    """Rank the dev split with every row, write metrics.json, golden.json and report.html, and return the metrics."""
    sets = candidate_sets(read_dataset(folders.dataset / "dev.jsonl"), settings.candidates, settings.seed)
    models = {"base": settings.base, "deployed": settings.deployed, CANDIDATE: settings.candidate}
    models = {name: address for name, address in models.items() if address}

    passages = sorted({document for item in sets for document in item.documents})
    rows = {"none": _report("none", run_row(MorphemeBm25(passages), sets))}
    for name, address in models.items():
        rows[name] = _report(name, run_row(_load(name, address), sets))

    metrics = compare(rows, sets, settings.seed, models)
    folders.output.mkdir(parents=True, exist_ok=True)
    write_json(folders.output / "metrics.json", metrics)
    write_json(folders.output / "golden.json", golden_queries(rows, sets))
    (folders.output / "report.html").write_text(render_report(metrics), encoding="utf-8")
    return metrics


def _load(name: str, address: str) -> Scorer:
    try:
        return load_ranker(address)
    except (ModelNotFoundError, RankerError) as error:
        raise JobError(f"The {name} model: {error}") from error


def _report(name: str, row: Row) -> Row:
    figures = row.to_json()
    print(f"row={name} mrr={figures['mrr']:.4f} ndcg@10={figures['ndcg@10']:.4f}", flush=True)
    return row
