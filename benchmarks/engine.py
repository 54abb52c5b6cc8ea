"""One query against 50 documents: ko-reranker's engine beside everything else that scores the same model.

    make bench-engine                        all shapes, on one core and on two (25 minutes)
    python -m benchmarks.engine --shape small --cores 1 --rounds 3
    make bench-engine DEVICE=cuda            on a GPU: see `engine_cuda`

Every scorer is a process of its own, pinned to the same cores. First each peer's batch sizes are tried on half of a request,
from small to large until it gets clearly slower, and the best two on another; then all are called in turn, one request after
the other, and only the calls are timed. On one core the clock is processor time, which other tenants of the machine don't slow
down; on more it is the wall's, which waiting threads don't inflate. A ratio is the median over the requests of a peer's seconds
by ours. Of FlagEmbedding only the default is measured: it computes its first batch twice, whatever the size.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks import report
from benchmarks.inputs import Request, measured
from benchmarks.models import LEAST_SPREAD, SHAPES, Shape, model_directory
from benchmarks.peers.process import Answer, PeerError, ScorerProcess

DOCUMENTS = 50
BATCHES = (1, 2, 4, 8, 16)
CLEARLY_SLOWER = 0.85
SEED = 0
PRODUCT_SECONDS = 0.3
REFERENCE_REQUESTS = 2  # scored by plain transformers, one pair at a time
HEADLINE = ("base", 1)  # shape and cores of the ratios that stand for the whole
# Measured at the default, too. The pipeline's is one pair at a time, which is among the batch sizes.
DEFAULTS = ("flagembedding", "sentence-transformers")

print_ = Console(width=140).print


@dataclass
class Row:
    """One scorer of the table.

    Attributes:
        name: what it is called there.
        scorer: answers.
        batch: documents at a time; None leaves it to the scorer.
        cpu: processor seconds of each request.
        wall: those that passed.
        seconds: those of the two that the run goes by.
        logits: of each request.
    """

    name: str
    scorer: ScorerProcess
    batch: int | None = None
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    logits: list[list[float]] = field(default_factory=list)

    def score(self, request: Request, cores: int) -> float:
        """Score a request and return the seconds that it took."""
        more = {} if self.batch is None else {"batch": self.batch}
        answer = _call(self.scorer, "score", request, **more)
        self.cpu.append(answer.cpu)
        self.wall.append(answer.wall)
        self.seconds.append(answer.cpu if cores == 1 else answer.wall)
        self.logits.append(answer.value)
        return self.seconds[-1]

    def forget(self) -> None:
        """Begin anew."""
        for taken in (self.cpu, self.wall, self.seconds, self.logits):
            taken.clear()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda measures our engine alone, on a GPU")
    parser.add_argument("--shape", choices=("small", "base"), nargs="+", default=["base", "small"], help="models, on a CPU")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="how many cores; each count is a run of its own")
    parser.add_argument("--rounds", type=int, default=5, help="requests that are timed")
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
    tuning, timed = requests[:2], requests[2 : 2 + rounds]
    # fp32 first and int8 after it: all at once would want more memory than many machines have.
    contests = {dtype: _contest(dtype, shape, cores, tuning, timed) for dtype in ("fp32", "int8")}
    versions = {name: v for contest in contests.values() for name, v in contest.versions.items()}
    return _figures(contests["fp32"], contests["int8"], shape, cores, timed), versions


@dataclass
class Contest:
    """Our engine and its peers, all in one precision, after their rounds.

    Attributes:
        ours: our row.
        peers: the others'.
        rates: matrix products, floating-point operations a second, measured in each round.
        sweeps: pairs a second by batch size, by peer.
        versions: of what was run.
        more: what was asked of single scorers in the end.
    """

    ours: Row
    peers: list[Row]
    rates: list[float]
    sweeps: dict[str, dict[str, float]]
    versions: dict[str, str]
    more: dict[str, Any]

    @property
    def rows(self) -> list[Row]:
        """All of them, ours first."""
        return [self.ours, *self.peers]

    @property
    def best(self) -> Row:
        """The peer that took the least time over all requests."""
        return min(self.peers, key=lambda row: sum(row.seconds))


def _contest(dtype: str, shape: Shape, cores: int, tuning: list[Request], timed: list[Request]) -> Contest:
    """Find each peer's batch size, then let all score each request in turn."""
    folder = str(model_directory(shape))
    with ExitStack() as stack:

        def start(environment: str, scorer: str, **more: Any) -> ScorerProcess:
            print_(f"[dim]{shape.name}, {cores} core(s): loading {scorer}, {dtype}")
            return stack.enter_context(ScorerProcess(environment, cores, scorer, folder=folder, **more))

        ours = Row("ko-reranker" if dtype == "fp32" else f"ko-reranker {dtype}", start("ours", "ko-reranker", dtype=dtype))
        processes = [start("transformers", name, dtype=dtype) for name in ("onnxruntime", "openvino")]
        if dtype == "fp32":
            processes += [start("transformers", name) for name in ("pipeline", *DEFAULTS)]
            processes.append(start("infinity", "infinity"))
        versions = {name: v for process in processes for name, v in _versions(process).items()} | ours.scorer.versions

        peers, sweeps = [Row(f"{process.name}, default", process) for process in processes if process.name in DEFAULTS], {}
        for process in processes:
            if process.name == "flagembedding":
                continue
            label = process.name if dtype == "fp32" else f"{process.name} {dtype}"
            best, sweeps[label] = _best_batch(process, tuning, cores)
            peers.append(Row(f"{label}, batch {best}", process, best))
        rates = _rounds([ours, *peers], ours.scorer, shape, timed, cores)
        more = {"padding_share": ours.scorer.call("padding_share").value}
        if dtype == "fp32":
            more["tokenisation"] = ours.scorer.call("tokenisation", count=20, documents=DOCUMENTS).value
            reference = start("transformers", "transformers")
            more["lengths"] = [_call(reference, "lengths", request).value for request in timed]
            more["logits"] = [_call(reference, "score", request).value for request in timed[:REFERENCE_REQUESTS]]
    return Contest(ours, peers, rates, sweeps, versions, more)


def _versions(process: ScorerProcess) -> dict[str, str]:
    """Return the versions of a process, those that Infinity has of its own under its name."""
    if process.name != "infinity":
        return process.versions
    return {name if name.startswith("infinity") else f"{name} of infinity": v for name, v in process.versions.items()}


def _call(process: ScorerProcess, name: str, request: Request, **more: Any) -> Answer:
    return process.call(name, query=request.query, documents=list(request.documents), **more)


def _best_batch(process: ScorerProcess, requests: list[Request], cores: int) -> tuple[int, dict[str, float]]:
    """Return the batch size that is fastest, and the pairs a second of those that were tried."""

    def speed(batch: int, request: Request) -> float:
        if process.name == "infinity":
            process.call("prepare", batch=batch)
        row, half = Row("", process, batch=batch), request.every_second()
        row.score(half.first(2), cores)
        return len(half.documents) / row.score(half, cores)

    tried: dict[int, float] = {}
    for batch in BATCHES:
        tried[batch] = speed(batch, requests[0])
        # A larger batch only has more padding.
        if tried[batch] < CLEARLY_SLOWER * max(tried.values()):
            break
    finalists = sorted(tried, key=tried.__getitem__)[-2:]
    best = max(finalists, key=lambda batch: tried[batch] + speed(batch, requests[1]))
    if process.name == "infinity":
        process.call("prepare", batch=best)
    return best, {str(batch): round(value, 2) for batch, value in tried.items()}


def _rounds(rows: list[Row], ours: ScorerProcess, shape: Shape, requests: list[Request], cores: int) -> list[float]:
    """Let all score each request in turn, in an order drawn anew; return the product rate measured in each round."""
    draw, rates = random.Random(SEED), []  # noqa: S311
    for row in rows:  # what is compiled or allocated at first is not timed
        row.score(requests[0].first(4), cores)
        row.forget()
    for number, request in enumerate(requests, start=1):
        for row in draw.sample(rows, len(rows)):
            row.score(request, cores)
        rates.append(ours.call("product_rate", products=shape.products(), seconds=PRODUCT_SECONDS).value)
        print_(f"[dim]{shape.name}, {cores} core(s): {number} of {len(requests)} requests")
    return rates


def _figures(fp32: Contest, int8: Contest, shape: Shape, cores: int, requests: list[Request]) -> dict[str, Any]:
    logits, rows = np.array(fp32.ours.logits), [*fp32.rows, *int8.rows]
    if logits.std() < LEAST_SPREAD:
        raise SystemExit(f"the logits spread by {logits.std():.3f}: too little for ranks to mean anything")
    shares = [
        shape.flops(lengths) / seconds / rate
        for lengths, seconds, rate in zip(fp32.more["lengths"], fp32.ours.seconds, fp32.rates, strict=True)
    ]
    # FlagEmbedding puts its pairs together from re-encoded text on transformers 5: its difference is no error of ours.
    differences = {row.name: _largest_difference(fp32.more["logits"], row.logits) for row in fp32.rows}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "clock": "cpu" if cores == 1 else "wall",
        "requests": len(requests),
        "documents": DOCUMENTS,
        "tokens_per_pair": round(float(np.mean(fp32.more["lengths"])), 1),
        "pairs_per_s": {row.name: report.spread([DOCUMENTS / value for value in row.seconds], 2) for row in rows},
        "cpu_seconds_per_request": {row.name: round(float(np.median(row.cpu)), 3) for row in rows},
        "wall_seconds_per_request": {row.name: round(float(np.median(row.wall)), 3) for row in rows},
        "sweep_pairs_per_s": fp32.sweeps | int8.sweeps,
        "best_peer": fp32.best.name,
        "best_int8_peer": int8.best.name,
        "ratios": {
            "fp32_vs_flagembedding_default": ratio(_named(fp32, "flagembedding, default"), fp32.ours),
            "fp32_vs_best_peer": ratio(fp32.best, fp32.ours),
            "int8_vs_best_int8_peer": ratio(int8.best, int8.ours),
        },
        "logit_spread": round(float(logits.std()), 3),
        "max_logit_difference": differences[fp32.ours.name],
        "max_logit_differences": differences,
        "int8_ranks": {row.name: agreement(row.logits, fp32.ours.logits) for row in int8.rows},
        "product_gflops": report.spread([rate / 1e9 for rate in fp32.rates], 1),
        "gemm_share": report.spread(shares),
        "padding_share": round(max(fp32.more["padding_share"], int8.more["padding_share"]), 6),
        "tokenisation_cpu_ms": {name: round(value, 2) for name, value in fp32.more["tokenisation"].items()},
    }


def _named(contest: Contest, name: str) -> Row:
    return next(row for row in contest.rows if row.name == name)


def ratio(peer: Row, ours: Row) -> dict[str, float]:
    """Return how many times as long as ours a peer took, request by request."""
    return report.spread([theirs / own for theirs, own in zip(peer.seconds, ours.seconds, strict=True)], 2)


def agreement(logits: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return how alike two scorers rank, on average over requests: Spearman's correlation, and what their ten best share."""
    ranks = [spearmanr(some, others).statistic for some, others in zip(logits, exact, strict=True)]
    shared = [len(_best_ten(some) & _best_ten(others)) / 10 for some, others in zip(logits, exact, strict=True)]
    return {"spearman": round(float(np.mean(ranks)), 4), "top10_overlap": round(float(np.mean(shared)), 3)}


def _best_ten(logits: Sequence[float]) -> set[int]:
    return set(np.argsort(logits)[-10:].tolist())


def _largest_difference(exact: list[list[float]], logits: list[list[float]]) -> float:
    return float(f"{np.abs(np.array(logits[: len(exact)]) - np.array(exact)).max():.2g}")


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
