"""How good are BM25, and models beside it, on native Korean questions?

    python -m benchmarks.evaluation --data DATA --model mini=sample:mini --model tiny=MODEL
    python -m benchmarks.evaluation --data DATA --model mini=sample:mini --kinds

``DATA`` holds `tydiqa_ko/train.jsonl` and `kobest_boolq/dev.jsonl` as training records (docs/evaluation.md says where they come
from). Two test sets: the fifth of TyDi-ko's questions that no step of ours and no choice has seen, asked to all 1,260 passages,
and KoBEST's dev part. The reports are written to build/evaluation/, the figures to benchmarks/results/evaluation.json.

With ``--kinds`` it is what choices about the mini reranker are made on, so that the test sets stay unseen: five kinds of
question beside the plain ones, and the needle test (docs/mini_reranker.md). Those figures go to benchmarks/results/kinds.json.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import report
from ko_reranker.commands.evaluate import print_report
from ko_reranker.data.jsonl import read_record_file
from ko_reranker.evaluation.evaluate import EvaluationSettings, evaluate, write_report
from ko_reranker.evaluation.questions import TestSet, read_test_set
from ko_reranker.rankers import EngineOptions, load_ranker
from training_job.mini_reranker.corpus import Corpus, side_of
from training_job.mini_reranker.kinds import digest, validation_kinds
from training_job.mini_reranker.needle import needle_table, summary

CANDIDATES = 50
MORPHEMES = "bm25:morphemes"
BESIDE = ("-none", f"-{MORPHEMES}")  # what each row is compared with
SHOWN = ("mrr", "mrr@10", "ndcg@10", "has_right@1", "has_right@3", "has_right@5", "has_right@10", "recall@20")


def tydi_held_out(folder: Path) -> TestSet:
    """Return TyDi-ko's held-out questions; their passages stand among all the others."""
    path = folder / "tydiqa_ko/train.jsonl"
    held_out = {record.query for record in read_record_file(path) if side_of(record.positives[0]) == "held-out"}
    whole = read_test_set([path])
    return TestSet([question for question in whole.questions if question.query in held_out], whole.passages)


def main() -> None:
    """Evaluate, print the tables, and write reports and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=ADDRESS", help="a reranker; repeat it")
    parser.add_argument("--kinds", action="store_true", help="the validation kinds and the needle test, not the test sets")
    arguments = parser.parse_args()
    models = {MORPHEMES: MORPHEMES} | dict(item.split("=", 1) for item in arguments.model)
    if arguments.kinds:
        sets = validation_kinds(Corpus(arguments.data))
    else:
        sets = {
            "tydi_held_out": tydi_held_out(arguments.data),
            "kobest_dev": read_test_set([arguments.data / "kobest_boolq/dev.jsonl"]),
        }
    figures: dict[str, Any] = {}
    for name, test_set in sets.items():
        print(f"{name}: {len(test_set.questions)} questions, {len(test_set.passages)} passages", flush=True)
        found, _, _ = evaluate(
            test_set, EvaluationSettings(models, candidates=CANDIDATES, fuse=0.5, engine=EngineOptions(dtype="fp32"))
        )
        write_report(Path("build/evaluation") / name, found)
        print_report(found)
        figures[name] = {
            "sha256": digest(test_set),
            "queries": found["queries"],
            "passages": len(test_set.passages),
            "right_found": found["right_found"],
            "rows": {row: {metric: values[metric] for metric in SHOWN} for row, values in found["rows"].items()},
            "differences": {
                pair: {metric: intervals[metric] for metric in ("mrr", "ndcg@10")}
                for pair, intervals in found["differences"].items()
                if pair.endswith(BESIDE)
            },
        }
    if arguments.kinds:
        figures["needle"] = {row: _needle(row, address, arguments.data) for row, address in models.items() if row != MORPHEMES}
    versions = {name: version(name) for name in ("kiwipiepy", "bm25s", "pytrec-eval-terrier", "torch", "transformers")}
    print(f"Figures: {report.write('kinds' if arguments.kinds else 'evaluation', versions, figures, {})}")


def _needle(row: str, address: str, data: Path) -> dict[str, Any]:
    ranker = load_ranker(address, EngineOptions(dtype="fp32"))
    table = needle_table(ranker, Corpus(data))
    ranker.close()
    print(f"{row}, share of needles won: {summary(table)}", flush=True)
    return summary(table) | {"by_position": table}


if __name__ == "__main__":
    main()
