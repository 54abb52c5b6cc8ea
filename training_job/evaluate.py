"""Compare rerankers with each other and with no reranker at all, on the same candidates."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ko_reranker.container import JobError, ProcessingFolders
from ko_reranker.evaluation.bm25 import Bm25
from ko_reranker.evaluation.candidates import CandidateSet, FirstStage, candidate_sets
from ko_reranker.evaluation.comparison import (
    BASE,
    CANDIDATE,
    DEPLOYED,
    NONE,
    Row,
    Scorer,
    compare,
    first_stage_row,
    fused_row,
    golden_queries,
    run_row,
    worst_queries,
)
from ko_reranker.evaluation.questions import TestSet, TestSetError, read_test_set
from ko_reranker.evaluation.report import render_report
from ko_reranker.models import ModelNotFoundError, content_digest, resolve_model
from ko_reranker.rankers import RankerError, load_ranker
from ko_reranker.text import normalise
from training_job.mine import write_json

# Addresses of rows that are no model: the two BM25s, on the candidates that the first stage found.
BM25_ADDRESSES = {"bm25:morphemes": "morphemes", "bm25:morphemes+bigrams": "morphemes+bigrams"}
FUSED = "+bm25"
_PROGRESS_SECONDS = 10.0
# What of a model folder scores depend on.
_LOADED = ("*.json", "*.safetensors", "*.model", "*.txt")


@dataclass(frozen=True)
class EvaluationSettings:
    """What is compared, and on what.

    Attributes:
        models: row name to address: a folder, ``s3://…``, a hub id, or ``bm25:morphemes``, ``bm25:morphemes+bigrams``. Rows are
            shown in this order below ``none``, and the last one is judged.
        first_stage: what finds the candidates; see `ko_reranker.evaluation.candidates`.
        candidates: documents to rank per query.
        seed: of the candidates and of the bootstrap.
        fuse: the first stage's weight in further rows, one a model, of both scores together; None for no such rows.
        max_queries: take only so many questions, spread over the test set; None for all.
        load: further arguments of `load_ranker`: ``device``, ``dtype``, ``max_length``.
    """

    models: Mapping[str, str]
    first_stage: FirstStage = "morphemes+bigrams"
    candidates: int = 50
    seed: int = 0
    fuse: float | None = None
    max_queries: int | None = None
    load: Mapping[str, Any] = field(default_factory=dict)


def job_models(candidate: str, base: str, deployed: str | None) -> dict[str, str]:
    """Return the rows of the pipeline's evaluation: what the gate knows by name."""
    models = {BASE: base, DEPLOYED: deployed, CANDIDATE: candidate}
    return {name: address for name, address in models.items() if address}


def evaluate_job(folders: ProcessingFolders, settings: EvaluationSettings) -> dict[str, Any]:
    """Rank the dev split with every row and write what the gate, a release and a person need.

    metrics.json holds figures only, golden.json what a deployment must reproduce, report.json and report.html all of it with
    the worst queries' texts.
    """
    try:
        report, rows, sets = evaluate(read_test_set([folders.dataset / "dev.jsonl"]), settings)
    except TestSetError as error:
        raise JobError(f"The dev split can't be used: {error}.") from None
    write_report(folders.output, report)
    write_json(folders.output / "metrics.json", {key: value for key, value in report.items() if key != "worst_queries"})
    write_json(folders.output / "golden.json", golden_queries(rows, sets))
    # The model's registry entry points to it long after the run's own files have expired.
    manifest = folders.dataset / "manifest.json"
    if manifest.is_file():
        shutil.copyfile(manifest, folders.output / manifest.name)
    return report


def evaluate(test_set: TestSet, settings: EvaluationSettings) -> tuple[dict[str, Any], dict[str, Row], list[CandidateSet]]:
    """Rank a test set with every row and return the content of `report.json`, the rows, and what they ranked.

    Raises:
        TestSetError: there is nothing to rank.
        JobError: a model can't be used.
    """
    if NONE in settings.models:
        raise JobError(f"No model may be called {NONE}: that is the row of no reranker.")
    if settings.max_queries:
        test_set = _thinned(test_set, settings.max_queries)
    workers = os.cpu_count() or 1
    sets = candidate_sets(test_set, settings.first_stage, settings.candidates, settings.seed, workers=workers)
    if not any(item.positives for item in sets):
        raise TestSetError(f"none of the {len(sets)} queries has a right passage among its candidates: nothing to compare")

    rows = {NONE: _told(NONE, first_stage_row(sets))}
    done: dict[str, Row] = {}
    for name, address in settings.models.items():
        # The same model twice, such as a deployed base, is scored once.
        model = _identity(address)
        if model not in done:
            with _scorer(name, address, test_set, settings) as scorer:
                done[model] = run_row(scorer, sets, _Progress(name, len(sets)))
        rows[name] = _told(name, done[model])
    if settings.fuse is not None:
        for name in [name for name, address in settings.models.items() if address not in BM25_ADDRESSES]:
            rows[f"{name}{FUSED}"] = _told(f"{name}{FUSED}", fused_row(rows[name], sets, settings.fuse))

    report = compare(rows, sets, settings.seed, first_stage=settings.first_stage, models=settings.models)
    if settings.fuse is not None:
        report["fuse_weight"] = settings.fuse
    return report | {"worst_queries": worst_queries(rows, sets)}, rows, sets


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json and report.html."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report)
    (folder / "report.html").write_text(render_report(report), encoding="utf-8")


def _thinned(test_set: TestSet, count: int) -> TestSet:
    questions = test_set.questions
    places = np.unique(np.linspace(0, len(questions) - 1, min(count, len(questions))).round().astype(int))
    return TestSet([questions[place] for place in places], test_set.passages)


def _identity(address: str) -> str:
    """Return what tells a model from another one, whatever their addresses: a digest of what is loaded of it."""
    if address in BM25_ADDRESSES:
        return address
    try:
        folder = resolve_model(address)
    except ModelNotFoundError:
        return address  # `_scorer` says what is missing
    return content_digest(folder, (file for pattern in _LOADED for file in folder.glob(pattern)))


@contextmanager
def _scorer(name: str, address: str, test_set: TestSet, settings: EvaluationSettings) -> Iterator[Scorer]:
    if address in BM25_ADDRESSES:
        bm25 = Bm25(test_set.passages, terms=BM25_ADDRESSES[address], workers=os.cpu_count() or 1)
        yield lambda query, documents: (bm25.score(query, documents), 0)
        return
    try:
        ranker = load_ranker(address, **settings.load)
    except (ModelNotFoundError, RankerError) as error:
        raise JobError(f"The {name} model: {error}") from error

    def score(query: str, documents: Sequence[str]) -> tuple[np.ndarray, int]:
        # As the endpoint does: what is evaluated is what is served.
        scored = ranker.score_detailed(normalise(query), [normalise(document) for document in documents])
        return scored.logits, int(scored.tokens.sum())

    try:
        yield score
    finally:
        ranker.close()


class _Progress:
    """Says every few seconds how far a row is: a large model takes minutes a row on a CPU."""

    def __init__(self, name: str, queries: int) -> None:
        self._name, self._queries = name, queries
        self._began = self._said = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._said >= _PROGRESS_SECONDS:
            self._said = now
            left = (now - self._began) / done * (self._queries - done)
            print(f"row={self._name} queries={done}/{self._queries} eta_seconds={left:.0f}", flush=True)


def _told(name: str, row: Row) -> Row:
    figures = row.to_json()
    print(f"row={name} mrr={figures['mrr']:.4f} ndcg@10={figures['ndcg@10']:.4f}", flush=True)
    return row
