"""Late interaction beside sentence-transformers: one query against 50 documents, new ones and ones that came before.

    make bench-families                            both shapes, on one core (15 minutes)
    python -m benchmarks.families --shape small --rounds 3

Both read one folder, in sentence-transformers' own layout, and are processes of their own, pinned to one core. Beside them
stands our cross-encoder of the same transformer. The clock is processor time, which other tenants of the machine don't slow
down. First sentence-transformers' batch sizes are tried on another request; then all are called in turn, in an order drawn
anew for each request. Where documents are kept, so many were scored before, for another query. A ratio is the median over the
requests of the others' seconds by ours. docs/families.svg shows the figures of the small model.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.engine import agreement
from benchmarks.inputs import MAX_TOKENS, Request, measured
from benchmarks.models import CACHE, SEED, SHAPES, Shape, model_directory
from benchmarks.peers.process import PeerError, ScorerProcess
from ko_reranker.evaluation import plots

DOCUMENTS = 50
BATCHES = (1, 2, 4, 8, 16)  # beside the default, 32
CHANNELS, QUERY_TOKENS = 128, 64
MAXSIM_TIMES = 20
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "families.svg"
DEFAULT = "sentence-transformers, default"
OURS, OURS_KEPT = "ko-reranker", "ko-reranker, nine of ten kept"
# How many of a request's documents are kept, of ten.
KEPT = {OURS: 0, "ko-reranker, half kept": 5, OURS_KEPT: 9, "ko-reranker, all kept": 10}
CROSS_ENCODER = "ko-reranker, cross-encoder of the same transformer"
HEADLINE = "small"  # the shape of the ratios that stand for the whole
_VERSION = 1  # raised when weights change, so that none of an earlier version are used

print_ = Console(width=140).print


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("small", "base"), nargs="+", default=["small", "base"], help="models")
    parser.add_argument("--rounds", type=int, default=5, help="requests that are timed")
    arguments = parser.parse_args(argv)
    for shape in arguments.shape:
        try:
            measurement, versions = measure(SHAPES[shape], arguments.rounds)
        except PeerError as error:
            raise SystemExit(str(error)) from None
        _keep(shape, measurement, versions)


def late_interaction_directory(shape: Shape) -> Path:
    """Return the directory of a shape's late-interaction model, made when it is not there yet."""
    folder = CACHE / f"{shape.name}-late-interaction-v{_VERSION}"
    if not folder.is_dir():
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        _write(shape, unfinished)
        unfinished.rename(folder)
    return folder


def _write(shape: Shape, folder: Path) -> None:
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(SEED)
    transformer = Transformer(str(model_directory(shape)), document_length=MAX_TOKENS, query_length=QUERY_TOKENS)
    tokens = {"module_input_name": "token_embeddings"}
    dense = Dense(shape.width, CHANNELS, bias=False, activation_function=None, **tokens)
    MultiVectorEncoder(modules=[transformer, dense, MultiVectorMask(), Normalize(**tokens)], device="cpu").save(str(folder))


def measure(shape: Shape, rounds: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure one model; return the figures and the versions of what was run."""
    requests = [request.first(DOCUMENTS) for request in measured(SEED)]
    tuning, timed, other = requests[0], requests[1 : 1 + rounds], requests[-1]
    folder = str(late_interaction_directory(shape))
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(ScorerProcess("ours", 1, name, folder=folder))
            for name in ("ko-reranker late interaction", "sentence-transformers late interaction")
        )
        crossing = stack.enter_context(ScorerProcess("ours", 1, "ko-reranker", folder=str(model_directory(shape))))
        best, sweep = _best_batch(theirs, tuning)
        best_row = f"sentence-transformers, batch {best}"
        calls: dict[str, Callable[[Request], tuple[float, list[float]]]] = {
            OURS: lambda request: _timed(ours, "score", request),
            **{name: partial(_kept, ours, other, tenths) for name, tenths in KEPT.items() if tenths},
            CROSS_ENCODER: lambda request: _timed(crossing, "score", request),
            DEFAULT: lambda request: _timed(theirs, "score", request),
            best_row: lambda request: _timed(theirs, "score", request, batch=best),
        }
        if best == 32:
            del calls[best_row]
            best_row = DEFAULT
        for call in calls.values():  # what is allocated at first is not timed
            call(tuning.first(4))
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        scores: dict[str, list[list[float]]] = {name: [] for name in calls}
        maxsim: dict[str, list[float]] = {"ko-reranker": [], "ko-reranker, float16": [], "sentence-transformers": []}
        draw = random.Random(SEED)  # noqa: S311
        for number, request in enumerate(timed, start=1):
            for name in draw.sample(list(calls), len(calls)):
                taken, values = calls[name](request)
                seconds[name].append(taken)
                scores[name].append(values)
            ways: list[tuple[str, ScorerProcess, dict[str, Any]]] = [
                ("ko-reranker", ours, {}),
                ("ko-reranker, float16", ours, {"half": True}),
                ("sentence-transformers", theirs, {}),
            ]
            for name, process, more in draw.sample(ways, len(ways)):
                maxsim[name].append(_call(process, "maxsim", request, times=MAXSIM_TIMES, **more).value)
            print_(f"[dim]{shape.name}: {number} of {len(timed)} requests")
        lengths = [_call(ours, "lengths", request).value for request in timed]
        versions = ours.versions | theirs.versions
    kept, cold = np.array(scores[OURS_KEPT]), np.array(scores[OURS])
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "clock": "cpu",
        "requests": len(timed),
        "documents": DOCUMENTS,
        "channels": CHANNELS,
        "tokens_per_request": round(float(np.mean([sum(row) for row in lengths]))),
        "cpu_seconds_per_request": {name: report.spread(values) for name, values in seconds.items()},
        "maxsim_cpu_ms": {name: report.spread(values) for name, values in maxsim.items()},
        "sweep_seconds": sweep,
        "best": best_row,
        "ratios": {
            "cold_vs_default": report.ratio(seconds[DEFAULT], seconds[OURS]),
            "cold_vs_best": report.ratio(seconds[best_row], seconds[OURS]),
            "nine_of_ten_kept_vs_default": report.ratio(seconds[DEFAULT], seconds[OURS_KEPT]),
            "nine_of_ten_kept_vs_best": report.ratio(seconds[best_row], seconds[OURS_KEPT]),
            "nine_of_ten_kept_vs_cold": report.ratio(seconds[OURS], seconds[OURS_KEPT]),
            "cold_vs_cross_encoder": report.ratio(seconds[CROSS_ENCODER], seconds[OURS]),
            "nine_of_ten_kept_vs_cross_encoder": report.ratio(seconds[CROSS_ENCODER], seconds[OURS_KEPT]),
            "maxsim": report.ratio(maxsim["sentence-transformers"], maxsim["ko-reranker"]),
            "maxsim_float16": report.ratio(maxsim["sentence-transformers"], maxsim["ko-reranker, float16"]),
        },
        "raw_spread": round(float(cold.std(1).mean()), 4),
        "max_raw_difference": float(f"{np.abs(cold - np.array(scores[DEFAULT])).max():.2g}"),
        "same_order": report.same_order(scores[DEFAULT], scores[OURS]),
        "float16": {
            "max_raw_difference": float(f"{np.abs(kept - cold).max():.2g}"),
            "same_order": report.same_order(scores[OURS], scores[OURS_KEPT]),
            **agreement(scores[OURS_KEPT], scores[OURS]),
        },
    }, versions


def _call(process: ScorerProcess, name: str, request: Request, **more: Any) -> Any:
    return process.call(name, query=request.query, documents=list(request.documents), **more)


def _timed(process: ScorerProcess, name: str, request: Request, **more: Any) -> tuple[float, list[float]]:
    answer = _call(process, name, request, **more)
    return answer.cpu, answer.value


def _kept(ours: ScorerProcess, other: Request, tenths: int, request: Request) -> tuple[float, list[float]]:
    """Score a request so many of whose documents were scored before, for another query."""
    documents = list(request.documents)
    draw = random.Random(SEED)  # noqa: S311
    ours.call("keep", query=other.query, documents=draw.sample(documents, len(documents) * tenths // 10))
    return _timed(ours, "score_kept", request)


def _best_batch(process: ScorerProcess, request: Request) -> tuple[int, dict[str, float]]:
    """Return the batch size that takes the least time, and the seconds of all."""
    _call(process, "score", request.first(4))
    tried = {batch: min(_timed(process, "score", request, batch=batch)[0] for _ in range(2)) for batch in (*BATCHES, 32)}
    return min(tried, key=tried.__getitem__), {str(batch): round(value, 3) for batch, value in tried.items()}


def draw(measurement: dict[str, Any]) -> str:
    """Return what a request costs, by how much of it is kept, as SVG."""
    seconds = {name: value["median"] for name, value in measurement["cpu_seconds_per_request"].items()}
    best = measurement["best"]
    points = {
        "late interaction": [(10 * tenths, seconds[name]) for name, tenths in KEPT.items() if name in seconds],
        "cross-encoder of the same transformer": [(share, seconds[CROSS_ENCODER]) for share in (0, 100)],
        f"late interaction by {best}": [(share, seconds[best]) for share in (0, 100)],
    }
    title = f"CPU-seconds of a request of {DOCUMENTS} documents"
    highest = 1.1 * max(value for row in points.values() for _, value in row)
    return plots.paths(title, points, x_title="per cent of the documents kept", highest=highest)


def _keep(shape: str, measurement: dict[str, Any], versions: dict[str, str]) -> None:
    """Print a measurement and write it beside that of the other shape."""
    title = f"{shape}, one core, {measurement['requests']} requests of {DOCUMENTS} documents, CPU seconds"
    table = Table("scorer", "median", "p10-p90", title=title)
    for name, value in measurement["cpu_seconds_per_request"].items():
        table.add_row(name, f"{value['median']:.3f}", f"{value['p10']:.3f}-{value['p90']:.3f}")
    for name, value in measurement["maxsim_cpu_ms"].items():
        table.add_row(f"MaxSim alone, {name}", f"{value['median'] / 1000:.5f}", "")
    print_(table)
    for name, value in measurement["ratios"].items():
        print_(f"{name:32}{value['median']:7.2f}   ({value['p10']:.2f}-{value['p90']:.2f})")
    print_(f"{'largest difference of MaxSim':32}{measurement['max_raw_difference']:.1e}, float16 {measurement['float16']}")
    last = report.read("families")
    figures = {**last["figures"], "runs": {**last["figures"].get("runs", {}), shape: measurement}}
    ratios = last["ratios"]
    if shape == HEADLINE:
        ratios = {name: value["median"] for name, value in measurement["ratios"].items()}
        PICTURE.write_text(draw(measurement), encoding="utf-8")
    print_(f"[dim]{report.write('families', {**last['versions'], **versions}, figures, ratios)}")


if __name__ == "__main__":
    main()
