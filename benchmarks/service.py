"""How long the engine takes by the number and the length of a request's documents: what `ko-reranker capacity` reckons with.

    make bench-service                              the mini reranker and two shapes, on one core (a few minutes)
    python -m benchmarks.service --instance-type ml.c7i.xlarge --cores 0     on an instance of SageMaker's: all its cores
    make bench-service TORCH=cuda DEVICE=cuda       on a GPU, the large shape

Requests are scored one after the other, tokenising included, each of as many documents of as many tokens as a place of the grid
says. On one core the clock is processor time, else the wall's. Each curve names its hardware; one of other hardware, or of
another model, stays beside it. Late interaction and generative rerankers have no curve here.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from benchmarks import report
from benchmarks.inputs import MAX_TOKENS, TOKENIZER, Request, requests
from benchmarks.models import SHAPES, model_directory
from benchmarks.peers.process import PeerError, ScorerProcess
from ko_reranker.models import MINI_MODEL, resolve_model

DOCUMENTS = (1, 10, 30)
TOKENS = (64, 192, MAX_TOKENS)  # of a pair
ROUNDS = 3
# Of a pair beside query and document: <s> query </s></s> document </s>.
SPECIAL = 4

print_ = Console(width=120).print


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--model", choices=(MINI_MODEL, *SHAPES), nargs="+", help=f"default: {MINI_MODEL} small base, on a GPU large"
    )
    parser.add_argument("--precision", nargs="+", help="default: fp32 int8, on a GPU auto")
    parser.add_argument("--cores", type=int, default=1, help="how many cores the engine may use; 0 for all")
    parser.add_argument("--instance-type", help="of SageMaker's, when this is one: the curve then counts as measured on it")
    arguments = parser.parse_args(argv)
    on_gpu = arguments.device == "cuda"
    for model in arguments.model or (["large"] if on_gpu else [MINI_MODEL, "small", "base"]):
        for precision in arguments.precision or (["auto"] if on_gpu else ["fp32", "int8"]):
            try:
                curve, versions = measure(model, precision, arguments.device, arguments.cores)
            except PeerError as error:
                raise SystemExit(str(error)) from None
            _keep({**curve, "instance_type": arguments.instance_type}, versions)


def measure(model: str, precision: str, device: str, cores: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure one model in one precision; return the curve and the versions of what was run."""
    folder = str(resolve_model(model) if model == MINI_MODEL else model_directory(SHAPES[model]))
    by_cpu = device == "cpu" and cores == 1
    with ScorerProcess("ours", cores, "ko-reranker", folder=folder, dtype=precision, device=device) as scorer:
        gpu = scorer.call("device_name").value
        points = []
        for documents, tokens in _grid():
            drawn = [_request(seed, documents, tokens) for seed in range(ROUNDS + 1)]
            taken, counted = [], []
            for request in drawn:
                before = scorer.call("scored_tokens").value
                answer = scorer.call("score", query=request.query, documents=list(request.documents))
                taken.append(answer.cpu if by_cpu else answer.wall)
                counted.append((scorer.call("scored_tokens").value - before) / documents)
            # The first of a size warms up.
            seconds, length = report.spread(taken[1:], 5), round(float(np.mean(counted[1:])), 1)
            points.append({"documents": documents, "tokens": length, "seconds": seconds})
        versions = scorer.versions
    processor = report.machine().split(", ")[0]
    counted_cores = f"{cores} core{'s' if cores > 1 else ''}" if cores else "all cores"
    return {
        "family": "cross-encoder",
        "model": model,
        "precision": precision,
        "hardware": f"{processor}, {counted_cores}" if device == "cpu" else gpu,
        "clock": "cpu" if by_cpu else "wall",
        "points": points,
    }, versions


def _grid() -> Iterator[tuple[int, int]]:
    return ((documents, tokens) for tokens in TOKENS for documents in DOCUMENTS)


@cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_buffer(gzip.decompress(TOKENIZER.read_bytes()))
    tokenizer.no_truncation()
    return tokenizer


def _request(seed: int, documents: int, tokens: int) -> Request:
    """Make a request whose pairs have about so many tokens, of passages that follow each other."""
    tokenizer, source = _tokenizer(), requests()[seed]
    query = tokenizer.encode(source.query, add_special_tokens=False).ids[: tokens // 4]
    text = " ".join(passage for request in requests()[seed : seed + 8] for passage in request.documents)
    ids, size = tokenizer.encode(text, add_special_tokens=False).ids, tokens - len(query) - SPECIAL
    cut = [ids[place * size : (place + 1) * size] for place in range(documents)]
    return Request(tokenizer.decode(query), tuple(tokenizer.decode(part) for part in cut))


def _keep(curve: dict[str, Any], versions: dict[str, str]) -> None:
    """Print a curve and write it beside the others."""
    table = Table("documents", "tokens each", "seconds", title=f"{curve['model']}, {curve['precision']}, {curve['hardware']}")
    for point in curve["points"]:
        table.add_row(f"{point['documents']}", f"{point['tokens']:g}", f"{point['seconds']['median']:.4f}")
    print_(table)
    last = report.read("service")
    same = ("family", "model", "precision", "hardware")
    others = [one for one in last["figures"].get("curves", []) if any(one[key] != curve[key] for key in same)]
    print_(f"[dim]{report.write('service', {**last['versions'], **versions}, {'curves': [*others, curve]}, {})}")


if __name__ == "__main__":
    main()
