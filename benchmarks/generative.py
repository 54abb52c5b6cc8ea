"""Generative rerankers beside sentence-transformers and plain Transformers: one query against 50 documents.

    make bench-families                            after late interaction, on one core (10 minutes)
    python -m benchmarks.generative --rounds 3

All read one folder: a decoder with seeded weights and a tokenizer trained on the passages, of which a Korean character takes
about as many tokens as of Qwen's. Each is a process of its own, pinned to one core; the clock is processor time. First plain
Transformers' batch sizes are tried on another request; then all are called in turn, in an order drawn anew for each request. A
ratio is the median over the requests of the others' seconds by ours.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.inputs import Request, measured, requests
from benchmarks.models import CACHE, SEED
from benchmarks.peers.process import PeerError, ScorerProcess
from ko_reranker.rankers.prompts import shipped_prompts

DOCUMENTS = 50
MAX_LENGTH = 1024
OURS, DEFAULT = "ko-reranker", "sentence-transformers, default"
_VERSION = 1  # raised when weights or tokenizer change, so that none of an earlier version are used
_TRAINED_TOKENS = 9_000
# What Qwen3-Reranker's publishers ship for sentence-transformers: a template that knows a query and a document.
_TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note "
    'that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    '<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}\n'
    '<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}'
    '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>{{ "\n\n" }}'  # Jinja drops the last newline of a template
)

print_ = Console(width=140).print


@dataclass(frozen=True)
class Format:
    """A prompt, and an architecture that is published with it.

    Attributes:
        name: what it is called in the results.
        prompt: that comes with the library.
        architecture: of Transformers' configurations.
        batches: sizes that plain Transformers is tried with.
        templated: whether sentence-transformers reads it, too.
    """

    name: str
    prompt: str
    architecture: str
    batches: tuple[int, ...]
    templated: bool


FORMATS = (
    Format("qwen", "qwen3-reranker", "Qwen3Config", (1, 2, 4, 8, 16, 32), True),
    Format("gemma", "bge-reranker-v2-gemma", "GemmaConfig", (1,), False),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=[one.name for one in FORMATS], nargs="+", help="prompts (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="requests that are timed")
    arguments = parser.parse_args(argv)
    for one in FORMATS:
        if arguments.format and one.name not in arguments.format:
            continue
        try:
            measurement, versions = measure(one, arguments.rounds)
        except PeerError as error:
            raise SystemExit(str(error)) from None
        _keep(one, measurement, versions)


def model_directory(form: Format) -> Path:
    """Return the directory of a format's model, made when it is not there yet."""
    folder = CACHE / f"generative-{form.name}-v{_VERSION}"
    if not folder.is_dir():
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write(form, unfinished)
        unfinished.rename(folder)
    return folder


def _tokenizer() -> Any:
    """Return a byte-level BPE as of Qwen, trained on the passages and the prompts' English."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [passage for request in requests() for passage in request.documents]
    english = [text for one in FORMATS for text in [shipped_prompts()[one.prompt]] * len(texts)]
    trainer = trainers.BpeTrainer(
        vocab_size=_TRAINED_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*texts, *english, *["yes no Yes No", "yes", "no", "Yes", "No"] * len(texts)], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    special = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, **special)


def _write(form: Format, folder: Path) -> None:
    import torch
    import transformers

    tokenizer = _tokenizer()
    if form.templated:
        tokenizer.chat_template = _TEMPLATE
    config = getattr(transformers, form.architecture)(
        # A quarter as many weights as the layers, as in bge-reranker-v2-gemma; in Qwen3-Reranker-0.6B it is a third.
        vocab_size=len(tokenizer),
        hidden_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=1536,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(SEED)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.inference_mode():
        for name, weight in model.named_parameters():
            if name.endswith("weight") and weight.dim() == 2 and "embed" not in name:
                # Each output is a sum over the inputs: this keeps its scale. Twice that for queries and keys peaks attention.
                weight.normal_(0, (2 if "q_proj" in name or "k_proj" in name else 1) / weight.shape[1] ** 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {"family": "generative", "max_length": MAX_LENGTH, "generative": {"prompt": form.prompt}}
    (folder / "reranker.json").write_text(json.dumps(settings))


def measure(form: Format, rounds: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure one format; return the figures and the versions of what was run."""
    chosen = [request.first(DOCUMENTS) for request in measured(SEED)]
    tuning, timed = chosen[0], chosen[1 : 1 + rounds]
    folder = str(model_directory(form))
    with ExitStack() as stack:
        start = lambda scorer: stack.enter_context(ScorerProcess("ours", 1, scorer, folder=folder))  # noqa: E731
        ours, plain = start("ko-reranker generative"), start("transformers generative")
        best, sweep = _best_batch(plain, tuning, form.batches)
        names = {f"transformers, batch {batch}": batch for batch in sorted({1, best})}
        calls: dict[str, Callable[[Request], tuple[float, list[float]]]] = {
            OURS: partial(_timed, ours),
            **{name: partial(_timed, plain, batch=batch) for name, batch in names.items()},
        }
        versions = ours.versions
        if form.templated:
            theirs = start("sentence-transformers generative")
            calls[DEFAULT], versions = partial(_timed, theirs), versions | theirs.versions
        for call in calls.values():  # what is allocated at first is not timed
            call(tuning.first(4))
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        scores: dict[str, list[list[float]]] = {name: [] for name in calls}
        draw = random.Random(SEED)  # noqa: S311
        for number, request in enumerate(timed, start=1):
            for name in draw.sample(list(calls), len(calls)):
                taken, values = calls[name](request)
                seconds[name].append(taken)
                scores[name].append(values)
            print_(f"[dim]{form.name}: {number} of {len(timed)} requests")
        counts = [_call(ours, "tokens", request).value for request in timed]
    whole, computed = np.mean(counts, axis=0)
    versus = {"batch_1": "transformers, batch 1"}
    versus |= {"best": f"transformers, batch {best}", "default": DEFAULT} if form.templated else {}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": report.machine(),
        "clock": "cpu",
        "requests": len(timed),
        "documents": DOCUMENTS,
        "architecture": form.architecture.removesuffix("Config"),
        "tokens_per_request": round(float(whole)),
        "computed_tokens_per_request": round(float(computed)),
        "cpu_seconds_per_request": {name: report.spread(values) for name, values in seconds.items()},
        "sweep_seconds": sweep,
        "ratios": {f"vs_{name}": report.ratio(seconds[row], seconds[OURS]) for name, row in versus.items()},
        "logit_spread": round(float(np.array(scores[OURS]).std(1).mean()), 4),
        "max_logit_difference": {name: _largest(scores[name], scores[OURS]) for name in scores if name != OURS},
        "same_order": {name: report.same_order(scores[name], scores[OURS]) for name in scores if name != OURS},
    }, versions


def _largest(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    return float(f"{np.abs(np.array(some) - np.array(others)).max():.2g}")


def _call(process: ScorerProcess, name: str, request: Request, **more: Any) -> Any:
    return process.call(name, query=request.query, documents=list(request.documents), **more)


def _timed(process: ScorerProcess, request: Request, **more: Any) -> tuple[float, list[float]]:
    answer = _call(process, "score", request, **more)
    return answer.cpu, answer.value


def _best_batch(process: ScorerProcess, request: Request, batches: Sequence[int]) -> tuple[int, dict[str, float]]:
    """Return the batch size that takes the least time, and the seconds of all."""
    _timed(process, request.first(4), batch=4)
    tried = {batch: _timed(process, request, batch=batch)[0] for batch in batches}
    return min(tried, key=tried.__getitem__), {str(batch): round(value, 3) for batch, value in tried.items()}


def _keep(form: Format, measurement: dict[str, Any], versions: dict[str, str]) -> None:
    """Print a measurement and write it beside those of the other families."""
    title = f"{form.prompt}, one core, {measurement['requests']} requests of {DOCUMENTS} documents, CPU seconds"
    table = Table("scorer", "median", "p10-p90", title=title)
    for name, value in measurement["cpu_seconds_per_request"].items():
        table.add_row(name, f"{value['median']:.3f}", f"{value['p10']:.3f}-{value['p90']:.3f}")
    print_(table)
    for name, value in measurement["ratios"].items():
        print_(f"{name:32}{value['median']:7.2f}   ({value['p10']:.2f}-{value['p90']:.2f})")
    print_(f"largest difference: {measurement['max_logit_difference']}, at a spread of {measurement['logit_spread']}")
    last = report.read("families")
    figures = {**last["figures"], "generative": {**last["figures"].get("generative", {}), form.name: measurement}}
    ratios = last["ratios"] | {f"{form.name}_{name}": value["median"] for name, value in measurement["ratios"].items()}
    print_(f"[dim]{report.write('families', {**last['versions'], **versions}, figures, ratios)}")


if __name__ == "__main__":
    main()
