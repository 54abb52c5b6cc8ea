"""How good are BM25, and models beside it, on native Korean questions?

    python -m benchmarks.evaluation --data DATA --model mini=sample:mini
    python -m benchmarks.evaluation --data DATA --model mini=sample:mini --kinds

``DATA`` holds `tydiqa_ko/train.jsonl` and `kobest_boolq/dev.jsonl` as training records (docs/evaluation.md says where they come
from). Two test sets: the fifth of TyDi-ko's questions that no step of ours and no choice has seen, asked to all 1,260 passages,
and KoBEST's dev part. The reports are written to build/evaluation/, the figures to benchmarks/results/evaluation.json.

With ``--kinds`` it is what choices about the mini reranker are made on, so that the test sets stay unseen: five kinds of
question beside the plain ones, and the needle test (docs/mini_reranker.md). Those figures go to benchmarks/results/kinds.json,
and docs/kinds.svg shows them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from ko_reranker.commands.evaluate import print_report
from ko_reranker.data.jsonl import read_record_file
from ko_reranker.evaluation import plots
from ko_reranker.evaluation.candidates import CandidateSet
from ko_reranker.evaluation.evaluate import FUSED, EvaluationSettings, evaluate, write_report
from ko_reranker.evaluation.metrics import RESAMPLES, Interval
from ko_reranker.evaluation.questions import TestSet, read_test_set
from ko_reranker.rankers import EngineOptions, load_ranker
from training_job.mini_reranker.corpus import Corpus, side_of
from training_job.mini_reranker.kinds import digest
from training_job.mini_reranker.needle import needle_table, summary
from training_job.mini_reranker.stages import test_sets

CANDIDATES = 50
MORPHEMES = "bm25:morphemes"
BESIDE = ("-none", f"-{MORPHEMES}")  # what each row is compared with
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "kinds.svg"
SIDE = "-validation"
SHOWN = ("mrr", "mrr@10", "ndcg@10", "has_right@1", "has_right@3", "has_right@5", "has_right@10", "recall@20", "latency_ms_p50")


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
    parser.add_argument("--questions", type=int, help="the most questions of a set, spread over it (default: all)")
    parser.add_argument("--dtype", default="fp32", help="what the models compute in: fp32, bf16, int8")
    arguments = parser.parse_args()
    if strange := [item for item in arguments.model if "=" not in item]:
        parser.error(f"--model takes NAME=ADDRESS, not {strange[0]}")
    models = {MORPHEMES: MORPHEMES} | dict(item.split("=", 1) for item in arguments.model)
    if arguments.kinds:
        found_sets = test_sets(Corpus(arguments.data))
        sets = {name.removesuffix(SIDE): test_set for name, test_set in found_sets.items() if name.endswith(SIDE)}
    else:
        sets = {
            "tydi_held_out": tydi_held_out(arguments.data),
            "kobest_dev": read_test_set([arguments.data / "kobest_boolq/dev.jsonl"]),
        }
    engine = EngineOptions(dtype=arguments.dtype)
    figures: dict[str, Any] = {}
    gains: dict[str, list[np.ndarray]] = {}
    sources: list[list[str]] = []
    for name, test_set in sets.items():
        print(f"{name}: {len(test_set.questions)} questions, {len(test_set.passages)} passages", flush=True)
        most = arguments.questions
        settings = EvaluationSettings(models, candidates=CANDIDATES, fuse=0.5, max_queries=most, engine=engine)
        found, rows, candidates = evaluate(test_set, settings)
        sources.append(sources_of(candidates, test_set, sets))
        for row in rows:
            gains.setdefault(row, []).append(rows[row].metrics["mrr"] - rows["none"].metrics["mrr"])
        write_report(Path("build/evaluation") / name, found)
        print_report(found)
        figures[name] = {
            "sha256": digest(test_set),
            "seed": found["seed"],
            "queries": found["queries"],
            "passages": len(test_set.passages),
            "right_found": found["right_found"],
            "rows": {
                row: {metric: values[metric] for metric in SHOWN if metric in values} for row, values in found["rows"].items()
            },
            "differences": {
                pair: {metric: intervals[metric] for metric in ("mrr", "ndcg@10")}
                for pair, intervals in found["differences"].items()
                if pair.endswith(BESIDE)
            },
        }
    if arguments.kinds:
        PICTURE.write_text(draw_picture(figures, [name for name in models if name != MORPHEMES]), encoding="utf-8")
        figures["mean"] = {row: mean_over_sets(gains[row], sources) for row in gains if row != "none"}
        needles = {row: _needle(row, address, engine, arguments.data) for row, address in models.items() if row != MORPHEMES}
        figures["needle"] = needles
    versions = {name: version(name) for name in ("kiwipiepy", "bm25s", "pytrec-eval-terrier", "torch", "transformers")}
    figures["precision"] = arguments.dtype
    print(f"Figures: {report.write('kinds' if arguments.kinds else 'evaluation', versions, figures, {})}")


def sources_of(candidates: Sequence[CandidateSet], test_set: TestSet, sets: Mapping[str, TestSet]) -> list[str]:
    """Return of each question the passage of the plain sets that it was made of: several kinds ask about one."""
    right = {question.query: next(iter(question.relevance)) for question in test_set.questions}
    plain = [passage for name in ("tydi", "kobest") if name in sets for passage in sets[name].passages]
    known = set(plain)

    def source(document: str) -> str:
        return document if document in known else next((passage for passage in plain if passage in document), document)

    return [source(right[item.query]) for item in candidates]


def mean_over_sets(gains: Sequence[np.ndarray], sources: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the mean over the sets of their mean gains, each set counting alike, with its bootstrap interval of 95 %.

    Args:
        gains: by set, (questions,).
        sources: by set, what each question was made of. It is sources that are drawn anew, each with its questions in all
            sets: what a model makes of one passage is no independent finding in another set.
    """
    names = sorted({name for of_set in sources for name in of_set})
    places = {name: place for place, name in enumerate(names)}
    draws = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    means = []
    for gain, of_set in zip(gains, sources, strict=True):
        weights = draws[:, [places[name] for name in of_set]]  # (resamples, questions)
        means.append((weights * gain).sum(1) / weights.sum(1))
    low, high = np.quantile(np.mean(means, axis=0), [0.025, 0.975])
    return Interval(float(np.mean([gain.mean() for gain in gains])), float(low), float(high)).to_json()


def draw_picture(figures: dict[str, Any], models: list[str]) -> str:
    """Return what models, and their scores with BM25's, gain in MRR over no reranker on each kind, as SVG."""
    rows = [name for model in models for name in (model, f"{model}{FUSED}")]
    return plots.differences(
        "MRR beside no reranker, by kind of question",
        {row: {kind: values["differences"][f"{row}-none"]["mrr"] for kind, values in figures.items()} for row in rows},
    )


def _needle(row: str, address: str, engine: EngineOptions, data: Path) -> dict[str, Any]:
    ranker = load_ranker(address, engine)
    table = needle_table(ranker, Corpus(data))
    ranker.close()
    print(f"{row}, share of needles won: {summary(table)}", flush=True)
    return summary(table) | {"by_position": table}


if __name__ == "__main__":
    main()
