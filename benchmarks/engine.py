"""One query against 50 documents: ko-reranker's engine beside everything else that scores the same model, in each precision.

    make bench-engine                        both shapes on one core, in every precision of the CPU
    python -m benchmarks.engine --shape small --cores 1 --rounds 1 --precision bf16
    make bench-engine DEVICE=cuda            on a GPU: see `engine_cuda`

Three contests, one after the other: fp32, bf16 and int8. bf16 is left out where the CPU multiplies it more slowly than fp32,
unless it is asked for by name. In fp32 everybody computes in just that; in bf16 and int8 OpenVINO takes what it takes by itself
beside it, as ours does.

Every scorer is a process of its own, pinned to the same cores. First each peer's batch sizes are tried on half of a request,
from small to large until it gets clearly slower, and the best two on another; then all are called in turn, one request after
the other, and only the calls are timed. On one core the clock is processor time, which other tenants of the machine don't slow
down; on more it is the wall's, which waiting threads don't inflate. A ratio is the median over the requests of a peer's seconds
by ours. Of FlagEmbedding only the default is measured, since it computes its first batch twice whatever the size, on the first
two requests, and of the small model: of base a request takes it two minutes and 10 GB, more than all others together.

The small model with three requests in fp32 and int8 takes 6 minutes on a core of a busy machine, exports included, and 10 GB;
base with four took 21 while FlagEmbedding was among its peers. Its first export takes 11 GB.

The results are kept by processor, a run of one beside those of others; a contest replaces the last of its kind.
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
from ko_reranker.processor import multiplies_bf16

DOCUMENTS = 50
PRECISIONS = ("fp32", "bf16", "int8")
# Tried in this order. In bf16 products are so fast that what surrounds a batch weighs more.
BATCHES = {"fp32": (1, 2, 4), "bf16": (1, 4, 8, 16), "int8": (1, 2, 4, 8)}
CLEARLY_SLOWER = 0.85
SEED = 0
PRODUCT_SECONDS = 0.3
REFERENCE_REQUESTS = 2  # scored by plain transformers, one pair at a time
HEADLINE = ("base", 1)  # shape and cores of the ratios that stand for the whole
# Peers of each contest, and their environments. ONNX Runtime has no bf16 on a CPU, Infinity no setting for it.
_LIBRARIES = {"pipeline": "transformers", "sentence-transformers": "transformers"}
PEERS = {
    "fp32": {
        **dict.fromkeys(("onnxruntime", "openvino", *_LIBRARIES, "flagembedding"), "transformers"),
        "infinity": "infinity",
    },
    "bf16": {"openvino": "transformers", **_LIBRARIES},
    "int8": dict.fromkeys(("onnxruntime", "openvino"), "transformers"),
}
# Measured at the default, too. The pipeline's is one pair at a time, which is among the batch sizes.
DEFAULTS = {"fp32": ("flagembedding", "sentence-transformers"), "bf16": ("openvino", "sentence-transformers"), "int8": ()}
FEWER_ROUNDS = {"flagembedding": 2}
ONLY_SMALL = ("flagembedding",)
EXPORTED = ("onnxruntime", "openvino")

print_ = Console(width=140).print


@dataclass
class Row:
    """One scorer of the table.

    Attributes:
        name: what it is called there.
        scorer: answers.
        batch: documents at a time; None leaves it to the scorer.
        rounds: how many it takes part in at most; None for all.
        cpu: processor seconds of each request.
        wall: those that passed.
        seconds: those of the two that the run goes by.
        logits: of each request.
    """

    name: str
    scorer: ScorerProcess
    batch: int | None = None
    rounds: int | None = None
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
    parser.add_argument("--cores", type=int, nargs="+", default=[1], help="how many cores; each count is a run of its own")
    parser.add_argument("--rounds", type=int, default=4, help="requests that are timed")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        nargs="+",
        help="contests (default: all, but bf16 only where the CPU does not multiply it more slowly than fp32)",
    )
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda":
        for name in ("shape", "cores", "rounds", "precision"):
            if getattr(arguments, name) != parser.get_default(name):
                parser.error(f"--{name} is of the contests on a CPU: a GPU's run has none of it")
        from benchmarks import engine_cuda

        engine_cuda.main()
        return
    precisions = [precision for precision in PRECISIONS if precision in (arguments.precision or PRECISIONS)]
    if arguments.precision is None and not multiplies_bf16():
        print_("bf16 is left out: this CPU multiplies it more slowly than fp32. --precision bf16 measures by how much.")
        precisions.remove("bf16")
    for shape in arguments.shape:
        for cores in arguments.cores:
            try:
                measurement, versions = measure(SHAPES[shape], cores, arguments.rounds, precisions)
            except PeerError as error:
                raise SystemExit(str(error)) from None
            _keep(shape, cores, measurement, versions)


def measure(
    shape: Shape, cores: int, rounds: int, precisions: Sequence[str] = PRECISIONS
) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure one model on so many cores; return the figures and the versions of what was run."""
    requests = [request.first(DOCUMENTS) for request in measured(SEED)]
    tuning, timed = requests[:2], requests[2 : 2 + rounds]
    truth = _truth(shape, timed)
    # One after the other: all at once would want more memory than many machines have. Ours in fp32 is what the others' ranks
    # are compared with, and runs without peers where they aren't asked for.
    contests = {
        dtype: _contest(dtype, PEERS[dtype] if dtype in precisions else {}, shape, cores, tuning, timed)
        for dtype in PRECISIONS
        if dtype == "fp32" or dtype in precisions
    }
    versions = {name: v for contest in contests.values() for name, v in contest.versions.items()}
    return _figures(contests, truth, shape, cores), versions


@dataclass
class Truth:
    """What plain transformers makes of the requests, one pair at a time.

    Attributes:
        lengths: tokens of each pair, by request.
        logits: of the first requests.
    """

    lengths: list[list[int]]
    logits: list[list[float]]


def _truth(shape: Shape, timed: list[Request]) -> Truth:
    with ScorerProcess("transformers", 0, "transformers", folder=str(model_directory(shape))) as reference:
        return Truth(
            [_call(reference, "lengths", request).value for request in timed],
            [_call(reference, "score", request).value for request in timed[:REFERENCE_REQUESTS]],
        )


@dataclass
class Contest:
    """Our engine and its peers, all in one precision, after their rounds.

    Attributes:
        ours: our row.
        peers: the others'.
        rates: matrix products in that precision, operations a second, before the first round and after each.
        sweeps: pairs a second by batch size, by peer.
        versions: of what was run.
        padding_share: of the tokens that ours computed.
        tokenisation: milliseconds of a request, in the contest of fp32.
    """

    ours: Row
    peers: list[Row]
    rates: list[float]
    sweeps: dict[str, dict[str, float]]
    versions: dict[str, str]
    padding_share: float
    tokenisation: dict[str, float]

    @property
    def rows(self) -> list[Row]:
        """All of them, ours first."""
        return [self.ours, *self.peers]

    @property
    def best(self) -> Row:
        """The peer that took the least time over all requests, of those that scored all."""
        return min((row for row in self.peers if row.rounds is None), key=lambda row: sum(row.seconds))


def _contest(
    dtype: str, peers: dict[str, str], shape: Shape, cores: int, tuning: list[Request], timed: list[Request]
) -> Contest:
    """Find each peer's batch size, then let all score each request in turn."""
    folder, more = str(model_directory(shape)), {} if dtype == "fp32" else {"dtype": dtype}
    for scorer, environment in peers.items():
        if scorer in EXPORTED:  # at the first start, which takes many times the model's memory and keeps it
            print_(f"[dim]{shape.name}: exporting for {scorer}, {dtype}, unless that was done before")
            ScorerProcess(environment, cores, scorer, folder=folder, **more).close()
    with ExitStack() as stack:

        def start(environment: str, scorer: str) -> ScorerProcess:
            print_(f"[dim]{shape.name}, {cores} core(s): loading {scorer}, {dtype}")
            return stack.enter_context(ScorerProcess(environment, cores, scorer, folder=folder, **more))

        ours = Row(_label("ko-reranker", dtype), start("ours", "ko-reranker"))
        processes = [
            start(environment, name) for name, environment in peers.items() if shape.name == "small" or name not in ONLY_SMALL
        ]
        versions = {name: v for process in processes for name, v in _versions(process).items()} | ours.scorer.versions

        rows, sweeps = [], {}
        for process in processes:
            name = _label(process.name, dtype)
            if process.name in DEFAULTS[dtype]:
                rows.append(Row(f"{name}, default", process, rounds=FEWER_ROUNDS.get(process.name)))
            if process.name == "flagembedding":
                continue
            best, sweeps[name] = _best_batch(process, BATCHES[dtype], tuning, cores)
            rows.append(Row(f"{name}, batch {best}", process, best))
        rates = _rounds([ours, *rows], dtype, shape, timed, cores)
        padding_share, tokenisation = ours.scorer.call("padding_share").value, {}
        if dtype == "fp32":
            tokenisation = ours.scorer.call("tokenisation", count=20, documents=DOCUMENTS).value
    return Contest(ours, rows, rates, sweeps, versions, padding_share, tokenisation)


def _label(scorer: str, dtype: str) -> str:
    return scorer if dtype == "fp32" else f"{scorer} {dtype}"


def _versions(process: ScorerProcess) -> dict[str, str]:
    """Return the versions of a process, those that Infinity has of its own under its name."""
    if process.name != "infinity":
        return process.versions
    return {name if name.startswith("infinity") else f"{name} of infinity": v for name, v in process.versions.items()}


def _call(process: ScorerProcess, name: str, request: Request, **more: Any) -> Answer:
    return process.call(name, query=request.query, documents=list(request.documents), **more)


def _best_batch(
    process: ScorerProcess, batches: Sequence[int], requests: list[Request], cores: int
) -> tuple[int, dict[str, float]]:
    """Return the batch size that is fastest, and the pairs a second of those that were tried."""

    def speed(batch: int, request: Request) -> float:
        if process.name == "infinity":
            process.call("prepare", batch=batch)
        row, half = Row("", process, batch=batch), request.every_second()
        row.score(half.first(2), cores)
        return len(half.documents) / row.score(half, cores)

    tried: dict[int, float] = {}
    for batch in batches:
        tried[batch] = speed(batch, requests[0])
        # A larger batch only has more padding.
        if tried[batch] < CLEARLY_SLOWER * max(tried.values()):
            break
    finalists = sorted(tried, key=tried.__getitem__)[-2:]
    best = max(finalists, key=lambda batch: tried[batch] + speed(batch, requests[1]))
    if process.name == "infinity":
        process.call("prepare", batch=best)
    return best, {str(batch): round(value, 2) for batch, value in tried.items()}


def _rounds(rows: list[Row], dtype: str, shape: Shape, requests: list[Request], cores: int) -> list[float]:
    """Let all score each request in turn, in an order drawn anew; return the product rates before them and after each."""
    draw = random.Random(SEED)  # noqa: S311

    def product_rate() -> float:
        options = {"products": shape.products(), "seconds": PRODUCT_SECONDS, "dtype": dtype}
        return float(rows[0].scorer.call("product_rate", **options).value)

    for row in rows:  # what is compiled or allocated at first is not timed
        row.score(requests[0].first(4), cores)
        row.forget()
    rates = [product_rate()]
    for number, request in enumerate(requests, start=1):
        for row in draw.sample(rows, len(rows)):
            if row.rounds is None or number <= row.rounds:
                row.score(request, cores)
        rates.append(product_rate())
        print_(f"[dim]{shape.name}, {cores} core(s), {dtype}: {number} of {len(requests)} requests")
    return rates


def _figures(contests: dict[str, Contest], truth: Truth, shape: Shape, cores: int) -> dict[str, Any]:
    exact = contests["fp32"].ours.logits
    spread = float(np.std(exact))
    if spread < LEAST_SPREAD:
        raise SystemExit(f"the logits spread by {spread:.3f}: too little for ranks to mean anything")
    figures = {
        dtype: _contest_figures(contest, truth, exact, shape)
        for dtype, contest in contests.items()
        if contest.peers  # else it ran for the others' sake
    }
    return {
        "clock": "cpu" if cores == 1 else "wall",
        "documents": DOCUMENTS,
        "logit_spread": round(spread, 3),
        "tokenisation_cpu_ms": {name: round(value, 2) for name, value in contests["fp32"].tokenisation.items()},
        "contests": figures,
        "ratios": _ratios(contests) | _shares(figures),
    }


def _contest_figures(contest: Contest, truth: Truth, exact: list[list[float]], shape: Shape) -> dict[str, Any]:
    rows = contest.rows
    # What the machine can do is the best that was seen: others may have used it in the other seconds.
    rate = max(contest.rates)
    shares = [
        shape.flops(lengths) / seconds / rate for lengths, seconds in zip(truth.lengths, contest.ours.seconds, strict=True)
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "requests": len(truth.lengths),
        "tokens_per_pair": round(float(np.mean([length for lengths in truth.lengths for length in lengths])), 1),
        "pairs_per_s": {row.name: report.spread([DOCUMENTS / value for value in row.seconds], 2) for row in rows},
        "cpu_seconds_per_request": {row.name: round(float(np.median(row.cpu)), 3) for row in rows},
        "wall_seconds_per_request": {row.name: round(float(np.median(row.wall)), 3) for row in rows},
        "sweep_pairs_per_s": contest.sweeps,
        "best_peer": contest.best.name,
        # FlagEmbedding puts its pairs together from re-encoded text on transformers 5: its difference is no error of ours.
        "max_logit_differences": {row.name: _largest_difference(truth.logits, row.logits) for row in rows},
        "ranks": {row.name: agreement(row.logits, exact) for row in rows if row.rounds is None},
        "product_gflops": report.spread([rate / 1e9 for rate in contest.rates], 1),
        "product_share": report.spread(shares),
        "padding_share": round(contest.padding_share, 6),
    }


def _ratios(contests: dict[str, Contest]) -> dict[str, Any]:
    """Return how many times as long others took: each contest's best peer, and ours in one precision beside another."""
    ours = {dtype: contest.ours for dtype, contest in contests.items()}
    ratios = {}
    if contests["fp32"].peers:
        for row in contests["fp32"].peers:
            if row.name == "flagembedding, default":
                ratios["fp32_vs_flagembedding_default"] = ratio(row, ours["fp32"])
        ratios["fp32_vs_best_peer"] = ratio(contests["fp32"].best, ours["fp32"])
    if "bf16" in contests:
        ratios["bf16_vs_best_peer"] = ratio(contests["bf16"].best, ours["bf16"])
        ratios["bf16_vs_fp32"] = ratio(ours["fp32"], ours["bf16"])
    if "int8" in contests:
        ratios["int8_vs_best_int8_peer"] = ratio(contests["int8"].best, ours["int8"])
        if "bf16" in contests:
            ratios["int8_vs_bf16"] = ratio(ours["bf16"], ours["int8"])
    return ratios


def _shares(figures: dict[str, Any]) -> dict[str, Any]:
    return {"bf16_product_share": figures["bf16"]["product_share"]} if "bf16" in figures else {}


def ratio(peer: Row, ours: Row) -> dict[str, float]:
    """Return how many times as long as ours a peer took, request by request; some score the first ones only."""
    return report.spread([theirs / own for theirs, own in zip(peer.seconds, ours.seconds, strict=False)], 2)


def agreement(logits: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return how alike two scorers rank, on average over requests: Spearman's correlation, and what their ten best share."""
    ranks = [spearmanr(some, others).statistic for some, others in zip(logits, exact, strict=True)]
    shared = [len(_best_ten(some) & _best_ten(others)) / 10 for some, others in zip(logits, exact, strict=True)]
    return {"spearman": round(float(np.mean(ranks)), 4), "top10_overlap": round(float(np.mean(shared)), 3)}


def _best_ten(logits: Sequence[float]) -> set[int]:
    return set(np.argsort(logits)[-10:].tolist())


def _largest_difference(exact: list[list[float]], logits: list[list[float]]) -> float:
    differences = np.abs(np.array(logits[: len(exact)]) - np.array(exact[: len(logits)]))
    return float(f"{differences.max():.2g}")


def _keep(shape: str, cores: int, measurement: dict[str, Any], versions: dict[str, str]) -> None:
    """Print a measurement and write it beside those of the other settings, precisions and processors."""
    _print(shape, cores, measurement)
    last, processor, setting = report.read("engine"), report.processor(), f"{shape}, {cores} core(s)"
    family = last["figures"].get(processor, {})
    before = family.get("runs", {}).get(setting, {})
    # A ratio of a contest that was held anew stands only if it was taken in it.
    others = {
        name: value
        for name, value in before.get("ratios", {}).items()
        if not set(name.split("_")) & set(measurement["contests"])
    }
    contests = {**before.get("contests", {}), **measurement["contests"]}
    run = {**measurement, "contests": contests, "ratios": others | measurement["ratios"]}
    family |= {
        "machine": report.machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": dict(sorted({**family.get("versions", {}), **versions}.items())),
        "runs": {**family.get("runs", {}), setting: run},
    }
    ratios = last["ratios"]
    if (shape, cores) == HEADLINE:
        ratios = {**ratios, processor: {name: value["median"] for name, value in run["ratios"].items()}}
        family |= _headline(run["contests"])
    print_(f"[dim]{report.write('engine', family['versions'], {**last['figures'], processor: family}, ratios)}")


def _headline(contests: dict[str, Any]) -> dict[str, Any]:
    def medians(name: str) -> dict[str, float]:  # contests of an earlier day may have fewer figures
        return {dtype: contest[name]["median"] for dtype, contest in contests.items() if name in contest}

    return {
        "padding_share": max(contest.get("padding_share", 0.0) for contest in contests.values()),
        "max_logit_difference": {
            dtype: c.get("max_logit_differences", {}).get(_label("ko-reranker", dtype)) for dtype, c in contests.items()
        },
        "product_gflops": medians("product_gflops"),
        "product_share": medians("product_share"),
        "pairs_per_s": {name: v["median"] for contest in contests.values() for name, v in contest["pairs_per_s"].items()},
    }


def _print(shape: str, cores: int, measurement: dict[str, Any]) -> None:
    for dtype, contest in measurement["contests"].items():
        title = f"{dtype}: {shape}, {cores} core(s), {contest['requests']} requests of {DOCUMENTS} documents"
        print_(_table(contest, f"{title}, {measurement['clock']} clock"))
        share, rate = contest["product_share"]["median"], contest["product_gflops"]["median"]
        print_(f"{'best peer':32}{contest['best_peer']}")
        print_(f"{'padding share':32}{contest['padding_share']:6.2%}")
        print_(f"{'share of the product rate':32}{share:6.1%}   (of {rate:.0f} G operations/s in {dtype})")
    for name, value in measurement["ratios"].items():
        print_(f"{name:32}{value['median']:6.2f}   ({value['p10']:.2f}-{value['p90']:.2f})")
    times = measurement["tokenisation_cpu_ms"]
    others = f"plain {times['plain']:.1f}, documents seen before {times['cached']:.1f}"
    print_(f"{'tokenisation, CPU ms a request':32}{times['ours']:6.1f}   ({others})")


def _table(contest: dict[str, Any], title: str) -> Table:
    table = Table("scorer", "pairs/s", "p10-p90", "CPU s", "wall s", "logits off by", "Spearman", "top 10", title=title)
    for name, speed in sorted(contest["pairs_per_s"].items(), key=lambda item: -item[1]["median"]):
        ranks = contest["ranks"].get(name, {})
        table.add_row(
            name,
            f"{speed['median']:.2f}",
            f"{speed['p10']:.2f}-{speed['p90']:.2f}",
            f"{contest['cpu_seconds_per_request'][name]:.2f}",
            f"{contest['wall_seconds_per_request'][name]:.2f}",
            f"{contest['max_logit_differences'][name]:.1e}",
            f"{ranks['spearman']:.4f}" if ranks else "",
            f"{ranks['top10_overlap']:.2f}" if ranks else "",
        )
    return table


if __name__ == "__main__":
    main()
