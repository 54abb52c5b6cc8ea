"""How long the engine takes by the number and the length of a request's documents: what `ko-reranker capacity` reckons with.

    make bench-service                              three cross-encoders and one model of each other family, on one core
    python -m benchmarks.service --instance-type ml.c7i.xlarge --cores 0     on an instance of SageMaker's: all its cores
    make bench-service TORCH=cuda DEVICE=cuda       on a GPU, the large shape

Requests are scored one after the other, tokenising included, each of as many documents of as many tokens as a place of the grid
says. On one core the clock is processor time, else the wall's. Each curve names its hardware; one of other hardware, or of
another model, stays beside it. Tokens are those of bge-reranker's tokenizer, whatever the model has of its own; of a
late-interaction model no vectors are kept.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from benchmarks import generative, report
from benchmarks.families import late_interaction_directory
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


@dataclass(frozen=True)
class Model:
    """What is measured.

    Attributes:
        family: as `ko-reranker capacity` calls it.
        name: in the results.
        folder: makes it, or finds it.
        scorer: of `benchmarks.peers.worker`.
        precisions: that it is measured in on a CPU; None lets the scorer have its own, fp32.
        longest: tokens that it reads whole.
    """

    family: str
    name: str
    folder: Callable[[], Path]
    scorer: str = "ko-reranker"
    precisions: tuple[str, ...] | None = ("fp32", "int8")
    longest: int = MAX_TOKENS


MODELS = {
    MINI_MODEL: Model("cross-encoder", MINI_MODEL, partial(resolve_model, MINI_MODEL), longest=256),
    **{name: Model("cross-encoder", name, partial(model_directory, shape)) for name, shape in SHAPES.items()},
    "late-interaction": Model(
        "late-interaction",
        "small",
        partial(late_interaction_directory, SHAPES["small"]),
        "ko-reranker late interaction",
        None,
    ),
    "generative": Model(
        "generative", "qwen", partial(generative.model_directory, generative.FORMATS[0]), "ko-reranker generative", None
    ),
}
ON_A_CPU, ON_A_GPU = (MINI_MODEL, "small", "base", "late-interaction", "generative"), ("large",)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=MODELS, nargs="+", help=f"default: {' '.join(ON_A_CPU)}, on a GPU {ON_A_GPU[0]}")
    parser.add_argument("--precision", nargs="+", help="default: fp32 int8, on a GPU auto")
    parser.add_argument("--cores", type=int, default=1, help="how many cores the engine may use; 0 for all")
    parser.add_argument("--instance-type", help="of SageMaker's, when this is one: the curve then counts as measured on it")
    arguments = parser.parse_args(argv)
    on_gpu = arguments.device == "cuda"
    for name in arguments.model or (ON_A_GPU if on_gpu else ON_A_CPU):
        model = MODELS[name]
        if on_gpu and model.precisions is None:
            raise SystemExit(f"{name} is measured on a CPU alone")
        for precision in arguments.precision or (["auto"] if on_gpu else model.precisions or ["fp32"]):
            try:
                curve, versions = measure(model, precision, arguments.device, arguments.cores)
            except PeerError as error:
                raise SystemExit(str(error)) from None
            _keep({**curve, "instance_type": arguments.instance_type}, versions)


def measure(model: Model, precision: str, device: str, cores: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure one model in one precision; return the curve and the versions of what was run."""
    by_cpu = device == "cpu" and cores == 1
    chosen = {} if model.precisions is None else {"dtype": precision, "device": device}
    with ScorerProcess("ours", cores, model.scorer, folder=str(model.folder()), **chosen) as scorer:
        points = []
        for documents, tokens in _grid(model.longest):
            taken, counted = [], []
            for seed in range(ROUNDS + 1):
                request = _request(seed, documents, tokens)
                answer = scorer.call("score", query=request.query, documents=list(request.documents))
                taken.append(answer.cpu if by_cpu else answer.wall)
                counted.append(_tokens(request))
            # The first of a size warms up.
            seconds, length = report.spread(taken[1:], 5), round(float(np.mean(counted[1:])), 1)
            points.append({"documents": documents, "tokens": length, "seconds": seconds})
        hardware = scorer.call("device_name").value if device == "cuda" else _processor(cores)
        versions = scorer.versions
    return {
        "family": model.family,
        "model": model.name,
        "precision": precision,
        "hardware": hardware,
        "clock": "cpu" if by_cpu else "wall",
        "points": points,
    }, versions


def _processor(cores: int) -> str:
    counted = f"{cores} core{'s' if cores > 1 else ''}" if cores else "all cores"
    return f"{report.machine().split(', ')[0]}, {counted}"


def _grid(longest: int) -> Iterator[tuple[int, int]]:
    return ((documents, min(tokens, longest)) for tokens in TOKENS for documents in DOCUMENTS)


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


def _tokens(request: Request) -> float:
    """Tokens of the query and a document together, on average."""
    counts = [len(_tokenizer().encode(text, add_special_tokens=False).ids) for text in (request.query, *request.documents)]
    return min(MAX_TOKENS, counts[0] + sum(counts[1:]) / len(request.documents) + SPECIAL)


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
