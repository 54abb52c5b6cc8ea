"""What does a precision do to ranks? A model in each that this CPU computes, against itself in fp32, on native questions.

    python -m benchmarks.precision --data DATA                         (most of an hour on two cores)
    python -m benchmarks.precision --data DATA --model FOLDER --queries 100

The test sets are those of `benchmarks.evaluation`, with the same 50 candidates. Per precision: Spearman's correlation of the
candidates' ranks and what the ten best share with fp32's ten, both on average over questions; MRR, and its paired difference
with its 95 % interval; the largest difference of a logit. The figures go to benchmarks/results/precision.json, by processor.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.engine import agreement
from benchmarks.evaluation import CANDIDATES, tydi_held_out
from ko_reranker.evaluation.comparison import NONE, Row, compare
from ko_reranker.evaluation.evaluate import EvaluationSettings, evaluate
from ko_reranker.evaluation.questions import TestSet, read_test_set
from ko_reranker.rankers import EngineOptions

print_ = Console(width=120).print


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data folder of docs/mini_reranker.md")
    parser.add_argument("--model", default="sample:mini", help="a cross-encoder")
    parser.add_argument("--queries", type=int, help="of each test set, spread over it (default: all)")
    arguments = parser.parse_args(argv)
    sets = {
        "tydi_held_out": tydi_held_out(arguments.data),
        "kobest_dev": read_test_set([arguments.data / "kobest_boolq/dev.jsonl"]),
    }
    found = {name: measure(test_set, arguments.model, arguments.queries) for name, test_set in sets.items()}
    _print(found)
    known = report.read("precision")["figures"]
    figures = known | {report.processor(): {"model": arguments.model, "sets": found}}
    versions = {name: version(name) for name in ("ko-reranker", "torch", "transformers")}
    print_(f"[dim]{report.write('precision', versions, figures, {})}")


def measure(test_set: TestSet, model: str, queries: int | None) -> dict[str, Any]:
    """Return the figures of each precision on a test set."""
    rows: dict[str, Row] = {}
    for dtype in ("fp32", "bf16", "int8"):
        settings = EvaluationSettings(
            {dtype: model}, candidates=CANDIDATES, max_queries=queries, engine=EngineOptions(dtype=dtype)
        )
        _, ranked, sets = evaluate(test_set, settings)
        rows.setdefault(NONE, ranked[NONE])
        rows[dtype] = ranked[dtype]
    compared = compare(rows, sets, 0, first_stage="morphemes+bigrams", models=dict.fromkeys(rows, model))
    exact = rows["fp32"].scores
    figures: dict[str, Any] = {"queries": len(sets), "fp32": {"mrr": compared["rows"]["fp32"]["mrr"]}}
    for dtype in [name for name in rows if name not in (NONE, "fp32")]:
        scores = rows[dtype].scores
        figures[dtype] = agreement(scores, exact) | {
            "mrr": compared["rows"][dtype]["mrr"],
            "mrr_difference": compared["differences"][f"{dtype}-fp32"]["mrr"],
            "largest_logit_difference": float(f"{max(np.abs(a - b).max() for a, b in zip(scores, exact, strict=True)):.2g}"),
        }
    return figures


def _print(found: dict[str, dict[str, Any]]) -> None:
    table = Table("set", "precision", "Spearman", "top 10", "MRR", "difference", "largest logit difference")
    for name, figures in found.items():
        table.add_row(name, "fp32", "", "", f"{figures['fp32']['mrr']:.4f}", "", "")
        for dtype in [dtype for dtype in ("bf16", "int8") if dtype in figures]:
            row = figures[dtype]
            interval = row["mrr_difference"]
            difference = f"{interval['mean']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"
            correlation, shared = f"{row['spearman']:.5f}", f"{row['top10_overlap']:.3f}"
            largest = f"{row['largest_logit_difference']:.2g}"
            table.add_row("", dtype, correlation, shared, f"{row['mrr']:.4f}", difference, largest)
    print_(table)


if __name__ == "__main__":
    main()
