"""One query against 50 documents: ko-reranker's engine beside everything else that scores the same model.

    make bench-engine                        all shapes, on one core and on two (25 minutes)
    python -m benchmarks.engine --shape small --cores 1 --rounds 3
    make bench-engine DEVICE=cuda            on a GPU: see `engine_cuda`

Every scorer is a process of its own, pinned to the same cores. First each peer's batch sizes are tried on one request and the
best two on another; then all are called in turn, one request after the other, and only the calls are timed. On one core the
clock is processor time, which other tenants of the machine don't slow down; on more it is the wall's, which waiting threads do
not inflate. A ratio is the median over the requests of a peer's seconds by ours.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks import report
from benchmarks.inputs import Request, measured
from benchmarks.models import LEAST_SPREAD, SHAPES, Shape, model_directory
from benchmarks.peers.process import PeerError, ScorerProcess

DOCUMENTS = 50
BATCHES = (1, 2, 4, 8, 16, 32)
SEED = 0
PRODUCT_SECONDS = 0.3
HEADLINE = ("base", 1)  # shape and cores of the ratios that stand for the whole
# Called once a setting at its default, beside its best.
DEFAULTS = ("flagembedding", "sentence-transformers", "pipeline")

print_ = Console(width=140).print


@dataclass
class Row:
    """One scorer of the table.

    Attributes:
        name: what it is called there.
        scorer: answers.
        dtype: fp32 or int8.
        batch: documents at a time; None leaves it to the scorer.
        seconds: of each request, by the clock of the run.
        logits: of each request.
    """

    name: str
    scorer: ScorerProcess
    dtype: str = "fp32"
    batch: int | None = None
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    logits: list[list[float]] = field(default_factory=list)

    def score(self, request: Request, cores: int) -> float:
        """Score a request and return the seconds that it took."""
        more = {} if self.batch is None else {"batch": self.batch}
        answer = self.scorer.call("score", query=request.query, documents=list(request.documents), **more)
        self.cpu.append(answer.cpu)
        self.wall.append(answer.wall)
        self.seconds.append(answer.cpu if cores == 1 else answer.wall)
        self.logits.append(answer.value)
        return self.seconds[-1]

    @property
    def is_ours(self) -> bool:
        """Whether it is the engine that all others are compared with."""
        return self.scorer.name == "ko-reranker"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda measures our engine alone, on a GPU")
    parser.add_argument("--shape", choices=("small", "base"), nargs="+", default=["base", "small"], help="models, on a CPU")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="how many cores; each count is a run of its own")
    parser.add_argument("--rounds", type=int, default=7, help="requests that are timed")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda":
        from benchmarks import engine_cuda

        engine_cuda.main()
        return
    for shape in arguments.shape:
        for cores in arguments.cores:
            try:
                measurement, versions = measure(SHAPES[shape], cores, arguments.rounds)
            except PeerError as error:
                raise SystemExit(str(error)) from None
            _keep(shape, cores, measurement, versions)


def measure(shape: Shape, cores: int, rounds: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure one model on so many cores; return the figures and the versions of what was run."""
    requests = [request.first(DOCUMENTS) for request in measured(SEED)]
    folder = str(model_directory(shape))
    with ExitStack() as stack:

        def start(environment: str, scorer: str, **more: Any) -> ScorerProcess:
            print_(f"[dim]loading {scorer} {more.get('dtype', '')}")
            return stack.enter_context(ScorerProcess(environment, cores, scorer, folder=folder, **more))

        ours = Row("ko-reranker", start("ours", "ko-reranker"))
        ours_int8 = Row("ko-reranker int8", start("ours", "ko-reranker", dtype="int8"), "int8")
        reference = start("transformers", "transformers")
        processes = [(name, "fp32", start("transformers", name)) for name in DEFAULTS]
        processes.append(("infinity", "fp32", start("infinity", "infinity")))
        for dtype in ("fp32", "int8"):
            processes += [(n, dtype, start("transformers", n, dtype=dtype)) for n in ("onnxruntime", "openvino")]
        versions = {name: v for _, _, process in processes for name, v in process.versions.items()}
        versions |= {f"{name} of infinity": processes[3][2].versions[name] for name in ("torch", "transformers")}
        versions |= ours.scorer.versions

        rows = [ours, ours_int8, *(Row(f"{name}, default", process) for name, _, process in processes if name in DEFAULTS)]
        sweeps: dict[str, dict[str, float]] = {}
        for name, dtype, process in processes:
            label = name if dtype == "fp32" else f"{name} {dtype}"
            best, sweeps[label] = _best_batch(process, requests, cores)
            print_(f"[dim]{label}: best with {best} at a time")
            rows.append(Row(f"{label}, batch {best}", process, dtype, best))
        rates = _rounds(rows, ours.scorer, shape, requests[2 : 2 + rounds], cores)
        figures = _figures(rows, shape, cores, rates, sweeps, requests[2 : 2 + rounds], reference)
        figures["padding_share"] = round(ours.scorer.call("padding_share").value, 6)
        tokenisation = ours.scorer.call("tokenisation", count=20, documents=DOCUMENTS).value
        figures["tokenisation_cpu_ms"] = {name: round(value, 2) for name, value in tokenisation.items()}
    return figures, versions


def _best_batch(process: ScorerProcess, requests: list[Request], cores: int) -> tuple[int, dict[str, float]]:
    """Return the batch size that is fastest, and the pairs a second of all on the first request."""

    def seconds(batch: int, request: Request) -> float:
        if process.name == "infinity":
            process.call("prepare", batch=batch)
        row = Row("", process, batch=batch)
        row.score(request.first(2), cores)
        return row.score(request, cores)

    first = {batch: seconds(batch, requests[0]) for batch in BATCHES}
    contest = sorted(first, key=first.__getitem__)[:2]
    best = min(contest, key=lambda batch: first[batch] + seconds(batch, requests[1]))
    if process.name == "infinity":
        process.call("prepare", batch=best)
    return best, {str(batch): round(DOCUMENTS / value, 2) for batch, value in first.items()}


def _rounds(rows: list[Row], ours: ScorerProcess, shape: Shape, requests: list[Request], cores: int) -> list[float]:
    """Let all score each request in turn, in an order drawn anew; return the product rate measured in each round."""
    draw, rates = random.Random(SEED), []  # noqa: S311
    for row in rows:  # what is compiled or allocated at first is not timed
        row.score(requests[0].first(4), cores)
        for taken in (row.seconds, row.cpu, row.wall, row.logits):
            taken.clear()
    for number, request in enumerate(requests, start=1):
        for row in draw.sample(rows, len(rows)):
            row.score(request, cores)
        rates.append(ours.call("product_rate", products=shape.products(), seconds=PRODUCT_SECONDS).value)
        print_(f"[dim]{shape.name}, {cores} core(s): {number} of {len(requests)} requests")
    return rates


def _figures(
    rows: list[Row],
    shape: Shape,
    cores: int,
    rates: list[float],
    sweeps: dict[str, dict[str, float]],
    requests: list[Request],
    reference: ScorerProcess,
) -> dict[str, Any]:
    ours, ours_int8 = rows[:2]
    lengths = [reference.call("lengths", query=row.query, documents=list(row.documents)).value for row in requests]
    exact = [reference.call("score", query=row.query, documents=list(row.documents)).value for row in requests[:2]]
    logits = np.array(ours.logits)
    if logits.std() < LEAST_SPREAD:
        raise SystemExit(f"the logits spread by {logits.std():.3f}: too little for ranks to mean anything")
    shares = [shape.flops(ls) / s / rate for ls, s, rate in zip(lengths, ours.seconds, rates, strict=True)]
    best, best_int8 = (fastest(rows, dtype) for dtype in ("fp32", "int8"))
    default = next(row for row in rows if row.name == "flagembedding, default")
    difference = partial(_largest_difference, exact)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "clock": "cpu" if cores == 1 else "wall",
        "requests": len(requests),
        "documents": DOCUMENTS,
        "tokens_per_pair": round(float(np.mean(lengths)), 1),
        "pairs_per_s": {row.name: spread_of_speed(row.seconds) for row in rows},
        "cpu_seconds_per_request": {row.name: round(float(np.median(row.cpu)), 3) for row in rows},
        "wall_seconds_per_request": {row.name: round(float(np.median(row.wall)), 3) for row in rows},
        "sweep_pairs_per_s": sweeps,
        "best_peer": best.name,
        "best_int8_peer": best_int8.name,
        "ratios": {
            "fp32_vs_flagembedding_default": ratio(default, ours),
            "fp32_vs_best_peer": ratio(best, ours),
            "int8_vs_best_int8_peer": ratio(best_int8, ours_int8),
        },
        "logit_spread": round(float(logits.std()), 3),
        "max_logit_difference": difference(ours),
        # FlagEmbedding puts its pairs together from re-encoded text on transformers 5: its own figure is no error of ours.
        "max_logit_differences": {row.name: difference(row) for row in rows if row.dtype == "fp32"},
        "int8_ranks": {row.name: agreement(row.logits, ours.logits) for row in rows if row.dtype == "int8"},
        "product_gflops": report.spread([rate / 1e9 for rate in rates], 1),
        "gemm_share": report.spread(shares),
    }


def fastest(rows: Sequence[Row], dtype: str) -> Row:
    """Return the peer that took the least time over all requests."""
    return min((row for row in rows if not row.is_ours and row.dtype == dtype), key=lambda row: sum(row.seconds))


def ratio(peer: Row, ours: Row) -> dict[str, float]:
    """Return how many times as long as ours a peer took, request by request."""
    return report.spread([theirs / own for theirs, own in zip(peer.seconds, ours.seconds, strict=True)], 2)


def spread_of_speed(seconds: Sequence[float]) -> dict[str, float]:
    """Return pairs a second."""
    return report.spread([DOCUMENTS / value for value in seconds], 2)


def agreement(logits: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return how alike two scorers rank, on average over requests: Spearman's correlation, and what their ten best share."""
    ranks = [spearmanr(some, others).statistic for some, others in zip(logits, exact, strict=True)]
    shared = [len(_best_ten(some) & _best_ten(others)) / 10 for some, others in zip(logits, exact, strict=True)]
    return {"spearman": round(float(np.mean(ranks)), 4), "top10_overlap": round(float(np.mean(shared)), 3)}


def _best_ten(logits: Sequence[float]) -> set[int]:
    return set(np.argsort(logits)[-10:].tolist())


def _largest_difference(exact: list[list[float]], row: Row) -> float:
    return float(f"{np.abs(np.array(row.logits[: len(exact)]) - np.array(exact)).max():.2g}")


def _keep(shape: str, cores: int, measurement: dict[str, Any], versions: dict[str, str]) -> None:
    """Print a measurement and write it beside those of the other settings."""
    _print(shape, cores, measurement)
    last = report.read("engine")
    figures = {**last["figures"], "runs": {**last["figures"].get("runs", {}), f"{shape}, {cores} core(s)": measurement}}
    ratios = last["ratios"]
    if (shape, cores) == HEADLINE:
        ratios = {name: value["median"] for name, value in measurement["ratios"].items()}
        figures |= {name: measurement[name] for name in ("padding_share", "max_logit_difference")}
        figures["gemm_share"] = measurement["gemm_share"]["median"]
        figures["pairs_per_s"] = {name: value["median"] for name, value in measurement["pairs_per_s"].items()}
    print_(f"[dim]{report.write('engine', {**last['versions'], **versions}, figures, ratios)}")


def _print(shape: str, cores: int, measurement: dict[str, Any]) -> None:
    clock = measurement["clock"]
    title = f"{shape}, {cores} core(s), {measurement['requests']} requests of {DOCUMENTS} documents, {clock} clock"
    table = Table("scorer", "pairs/s", "p10-p90", "CPU s", "wall s", "logits off by", "Spearman", "top 10", title=title)
    for name, speed in sorted(measurement["pairs_per_s"].items(), key=lambda item: -item[1]["median"]):
        ranks = measurement["int8_ranks"].get(name, {})
        off = measurement["max_logit_differences"].get(name)
        table.add_row(
            name,
            f"{speed['median']:.2f}",
            f"{speed['p10']:.2f}-{speed['p90']:.2f}",
            f"{measurement['cpu_seconds_per_request'][name]:.2f}",
            f"{measurement['wall_seconds_per_request'][name]:.2f}",
            "" if off is None else f"{off:.1e}",
            f"{ranks['spearman']:.4f}" if ranks else "",
            f"{ranks['top10_overlap']:.2f}" if ranks else "",
        )
    print_(table)
    for name, value in measurement["ratios"].items():
        print_(f"{name:32}{value['median']:6.2f}   ({value['p10']:.2f}-{value['p90']:.2f})")
    print_(f"{'best peers':32}{measurement['best_peer']}; {measurement['best_int8_peer']}")
    print_(f"{'padding share':32}{measurement['padding_share']:6.2%}")
    share, rate = measurement["gemm_share"]["median"], measurement["product_gflops"]["median"]
    print_(f"{'share of the product rate':32}{share:6.1%}   (of {rate:.0f} GFLOP/s)")
    times = measurement["tokenisation_cpu_ms"]
    others = f"plain {times['plain']:.1f}, documents seen before {times['cached']:.1f}"
    print_(f"{'tokenisation, CPU ms a request':32}{times['ours']:6.1f}   ({others})")


if __name__ == "__main__":
    main()
