"""The engine on a GPU: 50 documents beside the peers, full batches against the GPU's own rate of matrix products.

    make bench-engine TORCH=cuda DEVICE=cuda

A model of bge-reranker-large's shape in half precision, each library as its documentation runs it on a GPU. Requests come from
outside the process that scores them, tokenising included, one after the other; what a call took is the wall's time. Then 1,000
documents at once fill every micro-batch, and what is left of the GPU's rate of matrix products, measured in the same process,
is our share of it.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.inputs import Request, measured
from benchmarks.models import SHAPES, Shape, model_directory
from benchmarks.peers.process import PeerError, ScorerProcess

DOCUMENTS = 50
FULL = 1_000  # documents of a request that fills micro-batches
ROUNDS, FULL_ROUNDS = 20, 5
PEER_BATCH = 64
SEED = 0

print_ = Console(width=120).print


def main() -> None:
    """Measure, print a table, and write the results."""
    try:
        figures, ratios, versions = measure(SHAPES["large"], "cuda")
    except PeerError as error:
        raise SystemExit(str(error)) from None
    _print(figures, ratios)
    print_(f"[dim]{report.write('engine_cuda', versions, figures, ratios)}")


def measure(shape: Shape, device: str, rounds: int = ROUNDS) -> tuple[dict[str, Any], dict[str, float], dict[str, str]]:
    """Return figures, ratios and versions of one model on a device."""
    folder, requests = str(model_directory(shape)), [request.first(DOCUMENTS) for request in measured(SEED)]
    with ExitStack() as stack:

        def start(environment: str, scorer: str, **more: Any) -> ScorerProcess:
            print_(f"[dim]loading {scorer}")
            return stack.enter_context(ScorerProcess(environment, 0, scorer, folder=folder, device=device, **more))

        ours = start("ours", "ko-reranker", dtype="auto")
        flag, sentence = start("transformers", "flagembedding"), start("transformers", "sentence-transformers")
        reference = start("transformers", "transformers")
        rows = {
            "ko-reranker": (ours, {}),
            "flagembedding, default": (flag, {}),
            "sentence-transformers, default": (sentence, {}),
            f"sentence-transformers, batch {PEER_BATCH}": (sentence, {"batch": PEER_BATCH}),
        }
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for name, (scorer, more) in rows.items():  # kernels are chosen at first sight of a shape
            for request in requests[:2]:
                _score(scorer, request, **more)
            print_(f"[dim]{name} is warm")
        draw = random.Random(SEED)  # noqa: S311  an order, no secret
        for place in range(rounds):
            request = requests[2 + place % (len(requests) - 2)]
            for name in draw.sample(list(rows), len(rows)):
                scorer, more = rows[name]
                seconds[name].append(_score(scorer, request, **more)[1])
        exact, _ = _score(reference, requests[2])
        difference = np.abs(np.subtract(_score(ours, requests[2])[0], exact)).max()
        full = _full_batches(ours, reference, shape, requests)
        versions = {key: value for scorer in (sentence, flag, ours) for key, value in scorer.versions.items()}
        gpu = ours.call("device_name").value
    figures = {
        "device": gpu,
        "shape": shape.name,
        "documents": DOCUMENTS,
        "milliseconds_per_request": {
            name: report.spread([1000 * value for value in times], 2) for name, times in seconds.items()
        },
        "max_logit_difference": float(f"{difference:.2g}"),
        "logit_spread": float(f"{np.std(exact):.3g}"),
        **full,
    }
    best = min((name for name in rows if name != "ko-reranker"), key=lambda name: sum(seconds[name]))
    ratios = {
        "vs_flagembedding_default": _ratio(seconds["flagembedding, default"], seconds["ko-reranker"]),
        "vs_best_peer": _ratio(seconds[best], seconds["ko-reranker"]),
    }
    return figures | {"best_peer": best}, ratios, versions


def _full_batches(ours: ScorerProcess, reference: ScorerProcess, shape: Shape, requests: list[Request]) -> dict[str, Any]:
    """Score very long requests; return tokens a second and the share of what matrix products alone would reach."""
    documents = [text for request in requests for text in request.documents][:FULL]
    lengths = reference.call("lengths", query=requests[0].query, documents=documents).value
    request = Request(requests[0].query, tuple(documents))
    _score(ours, request)
    times, rates = [], []
    for _ in range(FULL_ROUNDS):
        times.append(_score(ours, request)[1])
        rates.append(ours.call("product_rate", products=shape.products(), seconds=0.3).value)
    return {
        "full_batch_documents": len(documents),
        "tokens_per_s": report.spread([sum(lengths) / taken for taken in times], 0),
        "product_tflops": report.spread([rate / 1e12 for rate in rates], 2),
        "share_of_product_rate": report.spread(
            [shape.flops(lengths) / taken / rate for taken, rate in zip(times, rates, strict=True)]
        ),
        "padding_share": round(ours.call("padding_share").value, 4),
    }


def _score(scorer: ScorerProcess, request: Request, **more: Any) -> tuple[list[float], float]:
    answer = scorer.call("score", query=request.query, documents=list(request.documents), **more)
    return answer.value, answer.wall


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return round(float(np.median([peer / own for peer, own in zip(theirs, ours, strict=True)])), 2)


def _print(figures: dict[str, Any], ratios: dict[str, float]) -> None:
    table = Table("scorer", "ms", "p10-p90", title=f"{figures['shape']}, {DOCUMENTS} documents, {figures['device']}")
    for name, times in figures["milliseconds_per_request"].items():
        table.add_row(name, f"{times['median']:.1f}", f"{times['p10']:.1f}-{times['p90']:.1f}")
    print_(table)
    for name, value in ratios.items():
        print_(f"{name:28}{value:.2f}")
    print_(f"{'tokens/s, full batches':28}{figures['tokens_per_s']['median']:,.0f}")
    share, rate = figures["share_of_product_rate"]["median"], figures["product_tflops"]["median"]
    print_(f"{'share of the product rate':28}{share:.1%}   (of {rate:.1f} TFLOP/s)")
    print_(
        f"{'largest logit difference':28}{figures['max_logit_difference']:.1e}   (logits spread by {figures['logit_spread']})"
    )
