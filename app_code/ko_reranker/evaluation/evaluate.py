"""Compare rerankers with each other and with no reranker at all, on the same candidates."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ko_reranker.data.jsonl import write_json
from ko_reranker.evaluation.bm25 import Bm25, Terms
from ko_reranker.evaluation.candidates import CandidateSet, FirstStage, candidate_sets
from ko_reranker.evaluation.comparison import (
    NONE,
    Ranking,
    Row,
    Scorer,
    compare,
    first_stage_row,
    fused_row,
    run_row,
    worst_queries,
)
from ko_reranker.evaluation.questions import TestSet, TestSetError
from ko_reranker.evaluation.report import render_report
from ko_reranker.models import ModelNotFoundError, model_digest, resolve_model
from ko_reranker.rankers import EngineOptions, HeadlessError, RankerError, load_ranker
from ko_reranker.text import normalise

# Addresses of rows that are no model: the two BM25s, on the candidates that the first stage found.
BM25_ADDRESSES: dict[str, Terms] = {"bm25:morphemes": "morphemes", "bm25:morphemes+bigrams": "morphemes+bigrams"}
FUSED = "+bm25"
_PROGRESS_SECONDS = 10.0


class EvaluationError(Exception):
    """A model can't be evaluated; the message is a sentence that names its row and says why."""


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
        may_be_headless: a row that is left out, and said to be, if its model is a transformer without a head: what a training
            starts from may be one, and ranks nothing.
        engine: how the models compute.
        trust_remote_code: of models, as `load_ranker` explains it.
        prompts: row name to what its generative model is asked, in place of what its folder says (`EngineOptions.prompt`).
        top_n: the places that are asked of every ranker; one that compares does no more than those take. None for all.
        usd_per_hour: what the machine costs, in US dollars, for the cost of 1,000 queries; None where nobody says.
    """

    models: Mapping[str, str]
    first_stage: FirstStage = "morphemes+bigrams"
    candidates: int = 50
    seed: int = 0
    fuse: float | None = None
    max_queries: int | None = None
    may_be_headless: str | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    trust_remote_code: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    top_n: int | None = None
    usd_per_hour: float | None = None


def evaluate(test_set: TestSet, settings: EvaluationSettings) -> tuple[dict[str, Any], dict[str, Row], list[CandidateSet]]:
    """Rank a test set with every row and return the content of `report.json`, the rows, and what they ranked.

    Raises:
        TestSetError: there is nothing to rank.
        EvaluationError: a model can't be used.
    """
    if NONE in settings.models:
        raise EvaluationError(f"No model may be called {NONE}: that is the row of no reranker.")
    if settings.fuse is not None and (taken := {f"{name}{FUSED}" for name in settings.models} & settings.models.keys()):
        raise EvaluationError(f"No model may be called {min(taken)}: that is the row of both scores together.")
    if strange := settings.prompts.keys() - settings.models.keys():
        raise EvaluationError(f"There is a prompt for {min(strange)}, and no model of that name.")
    if settings.max_queries:
        test_set = _thinned(test_set, settings.max_queries)
    workers = os.cpu_count() or 1
    sets = candidate_sets(test_set, settings.first_stage, settings.candidates, settings.seed, workers=workers)
    if not any(item.positives for item in sets):
        raise TestSetError(f"none of the {len(sets)} queries has a right passage among its candidates: nothing to compare")

    rows = {NONE: _told(NONE, first_stage_row(sets))}
    done: dict[tuple[str, str | None], Row] = {}
    for name, address in settings.models.items():
        # The same model twice, such as a deployed base, is scored once.
        model = model_identity(address, trust_remote_code=settings.trust_remote_code), settings.prompts.get(name)
        try:
            if model not in done:
                with _scorer(name, address, test_set, settings) as (scorer, kind, precision):
                    row = run_row(scorer, sets, _Progress(name, len(sets)))
                    done[model] = replace(row, kind=kind, precision=precision)
        except HeadlessError as error:
            if name != settings.may_be_headless:
                raise EvaluationError(f"The {name} model: {error}") from error
            print(f"row={name} left out: {error}", flush=True)
            continue
        rows[name] = _told(name, done[model])
    models = {name: address for name, address in settings.models.items() if name in rows}
    if settings.fuse is not None:
        for name in [name for name, address in models.items() if address not in BM25_ADDRESSES]:
            rows[f"{name}{FUSED}"] = _told(f"{name}{FUSED}", fused_row(rows[name], sets, settings.fuse))

    report = compare(rows, sets, settings.seed, first_stage=settings.first_stage, models=models)
    if settings.usd_per_hour is not None:
        for figures in report["rows"].values():
            if "minutes_per_1000" in figures:
                figures["usd_per_1000"] = round(figures["minutes_per_1000"] / 60 * settings.usd_per_hour, 4)
    if settings.fuse is not None:
        report["fuse_weight"] = settings.fuse
    if test_set.skipped:
        report["skipped"] = test_set.skipped
    return report | {"worst_queries": worst_queries(rows, sets)}, rows, sets


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json and report.html."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report)
    (folder / "report.html").write_text(render_report(report), encoding="utf-8")


def _thinned(test_set: TestSet, count: int) -> TestSet:
    questions = test_set.questions
    places = np.unique(np.linspace(0, len(questions) - 1, min(count, len(questions))).round().astype(int))
    return replace(test_set, questions=[questions[place] for place in places])


def model_identity(address: str, *, trust_remote_code: bool) -> str:
    """Return what tells a model from another one, whatever their addresses: a digest of what is loaded of it."""
    if address in BM25_ADDRESSES:
        return address
    try:
        return model_digest(resolve_model(address, code=trust_remote_code))
    except ModelNotFoundError:
        return address  # `_scorer` says what is missing


@contextmanager
def _scorer(name: str, address: str, test_set: TestSet, settings: EvaluationSettings) -> Iterator[tuple[Scorer, str, str]]:
    """Yield what scores a row's documents, what kind of ranker it is, and what it computes in."""
    if address in BM25_ADDRESSES:
        if name in settings.prompts:
            raise EvaluationError(f"There is a prompt for {name}, which is no model.")
        terms = BM25_ADDRESSES[address]
        bm25 = Bm25(test_set.passages, language=test_set.language, terms=terms, workers=os.cpu_count() or 1)
        yield lambda query, documents: Ranking(bm25.score(query, documents)), "BM25", ""
        return
    try:
        engine = replace(settings.engine, prompt=settings.prompts.get(name))
        ranker = load_ranker(address, engine, trust_remote_code=settings.trust_remote_code)
    except HeadlessError:
        raise
    except (ModelNotFoundError, RankerError) as error:
        raise EvaluationError(f"The {name} model: {error}") from error

    def score(query: str, documents: Sequence[str]) -> Ranking:
        # As the endpoint does: what is evaluated is what is served.
        texts = [normalise(document) for document in documents]
        scored = ranker.score_detailed(normalise(query), texts, top_n=settings.top_n)
        return Ranking(scored.logits, int(scored.tokens.sum()), scored.cost.model_calls, scored.absolute)

    try:
        because = f" ({ranker.precision_reason})" if ranker.precision_reason else ""
        yield score, ranker.kind, f"{ranker.precision}{because}"
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
