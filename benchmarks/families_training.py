"""Fine-tuning late interaction beside sentence-transformers' trainer and PyLate's, in one run on one core.

    make bench-families                            after benchmarks.families
    python -m benchmarks.families_training [--shape small] [--steps 2] [--rounds 3]

Everybody reads one folder, in PyLate's layout, and trains it on the same groups (a question with three of its BM25 passages)
with the same loss, effective batch and optimiser, dropout on; ours is `training_job.train`. Twice: each query is compared with
its own passages, or with those of the whole step (in-batch negatives by GradCache, which all three have). What counts is real
tokens, padding not, per CPU-second of the process between the ends of two steps. First the gradient of a step is compared,
dropout off, and for in-batch negatives the peers' sizes of what they compute at once are tried.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.inputs import MAX_TOKENS, requests
from benchmarks.models import CACHE, SEED, SHAPES, Shape, model_directory
from benchmarks.training import GROUP, PEERS, ROOT, peer_versions, run_job

PYLATE = ROOT / ".venv-peers-pylate" / "bin" / "python"
PYTHONS = {"sentence-transformers": PEERS, "pylate": PYLATE}
BATCH, QUERY_TOKENS, PASSAGE_TOKENS, CHANNELS = 8, 64, 448, 128
AT_ONCE = (2, 4)  # texts that a peer's GradCache computes at once: each is tried
SWEEP_BATCH = 4  # enough to see which is faster
MICRO_BATCH_TOKENS = 2048
_VERSION = 1  # raised when weights change, so that none of an earlier version are used


@dataclass(frozen=True)
class Contender:
    """A trainer with its settings.

    Attributes:
        trainer: whose.
        in_batch: whether queries are compared with the passages of the whole step.
        micro_batch: a peer's; ours goes by tokens.
    """

    trainer: str
    in_batch: bool
    micro_batch: int = 0

    def __str__(self) -> str:
        batch = f", {self.micro_batch} at once" if self.micro_batch else ""
        return f"{self.trainer}, {'in-batch negatives' if self.in_batch else 'own negatives'}{batch}"


def late_interaction_directory(shape: Shape) -> Path:
    """Return the directory of a shape's model in PyLate's layout, which all three read."""
    folder = CACHE / f"{shape.name}-pylate-v{_VERSION}"
    if not folder.is_dir():
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        _write(shape, unfinished)
        unfinished.rename(folder)
    return folder


def _write(shape: Shape, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(model_directory(shape), add_pooling_layer=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_directory(shape)).save_pretrained(folder)
    (folder / "1_Dense").mkdir()
    torch.manual_seed(SEED)
    save_file({"linear.weight": torch.randn(CHANNELS, shape.width) / shape.width**0.5}, folder / "1_Dense/model.safetensors")
    identity = "torch.nn.modules.linear.Identity"
    dense = {"in_features": shape.width, "out_features": CHANNELS, "bias": False, "activation_function": identity}
    modules = [("0", "", "sentence_transformers.models.Transformer"), ("1", "1_Dense", "pylate.models.Dense.Dense")]
    rules = {"query_prefix": "", "document_prefix": "", "query_length": QUERY_TOKENS, "document_length": PASSAGE_TOKENS}
    rules |= {"do_query_expansion": False, "attend_to_expansion_tokens": False, "skiplist_words": []}
    for name, content in {
        "1_Dense/config.json": dense,
        "modules.json": [{"idx": int(name), "name": name, "path": path, "type": kind} for name, path, kind in modules],
        "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS, "do_lower_case": False},
        "config_sentence_transformers.json": {"model_type": "ColBERT", "similarity_fn_name": "MaxSim", **rules},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def write_records(file: Path, count: int) -> None:
    """Write groups of one question and three of its passages; none comes twice, so that nobody has to leave any out."""
    from ko_reranker.text import normalise  # as our trainer does: the peers shall read the same

    draw = random.Random(SEED)  # noqa: S311  a seeded draw, no secret
    used: set[str] = set()
    with file.open("w", encoding="utf-8") as stream:
        for request in draw.sample(requests(), count):
            fresh = [text for text in map(normalise, request.first(50).documents) if text not in used]
            first, *others = draw.sample(sorted(set(fresh)), GROUP)
            used |= {first, *others}
            row = {"query": normalise(request.query), "pos": [first], "neg": others}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def settings(in_batch: bool) -> dict[str, str]:
    """Return the hyperparameters of our trainer that make it do as the peers do."""
    return {
        "recipe": "ko-colbert-v1",
        "precision": "fp32",
        "epochs": "1",
        "learning_rate": "5e-6",
        "temperature": "1.0",
        "group_size": str(GROUP),
        "query_length": str(QUERY_TOKENS),
        "max_length": str(PASSAGE_TOKENS),
        "micro_batch_tokens": str(MICRO_BATCH_TOKENS),
        "dev_queries": "0",
        "early_stop_patience": "0",
        "in_batch_negatives": str(in_batch).lower(),
    }


# ---------------------------------------------------------------- in a process of their own


@contextlib.contextmanager
def _ours(job: dict[str, Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Give our family and the records as groups, in the file's order."""
    import torch

    from ko_reranker.recipes.shipped import load_recipe
    from training_job.families import load_family
    from training_job.loop.dataset import RecordFile
    from training_job.loop.groups import make_group

    torch.set_num_threads(job["threads"])
    family = load_family(Path(job["model"]), load_recipe({**settings(False), "base_model": job["model"]}), torch.device("cpu"))
    file = RecordFile(Path(job["records"]))
    yield family, [make_group(family.encode, place, file[place], 0, range(GROUP - 1)) for place in range(len(file))]


def count_tokens(job: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens of each group."""
    with _ours(job) as (_, groups):
        return {"tokens": [group.tokens for group in groups]}


def our_gradient(job: dict[str, Any]) -> dict[str, Any]:
    """Return how far our gradient of one step is from the one in a file: |difference| / |theirs| over all parameters.

    Theirs is brought to our size first, and the `scale` returned, too: what Adam does not see. PyLate's gradients are, on
    transformers 5.3, those of the mean divided or multiplied by a number of queries.
    """
    import torch
    from safetensors.torch import load_file

    from benchmarks.training import _distance
    from training_job.loop.groups import micro_batches
    from training_job.loop.in_batch import in_batch_losses
    from training_job.loop.worker import Worker

    with _ours(job) as (family, groups):
        family.model.eval()
        parts = micro_batches(groups, MICRO_BATCH_TOKENS)
        if job["in_batch"]:
            plain, alone = torch.autocast("cpu", enabled=False), Worker(0, 1, 0, torch.device("cpu"))
            losses = in_batch_losses(family, parts, [groups], 0, alone, plain)
        else:
            losses = (family.loss(family.logits(part, 0), part) for part in parts)
        for loss in losses:
            (loss / len(groups)).backward()
        named = {name: value.grad for name, value in family.model.named_parameters() if value.grad is not None}
        ours, theirs = _plain(named), _plain(load_file(job["gradient"]))
        products = [((ours[name] * theirs[name]).sum().item(), theirs[name].square().sum().item()) for name in ours]
        scale = sum(both for both, _ in products) / sum(square for _, square in products)
        scaled = {name: value * scale for name, value in theirs.items()}
        return {"difference": float(f"{_distance(ours, scaled):.2g}"), "scale": round(scale, 4)}


def _plain(named: dict[str, Any]) -> dict[str, Any]:
    """Return parameters by the names that they have in the transformer; the projection's is `projection`."""
    found = {}
    for name, value in named.items():
        known = [place for word in ("embeddings.", "encoder.") if (place := name.find(word)) >= 0]
        found[name[min(known) :] if known else "projection"] = value
    return found


def run_task(task: str, job: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.training import train_ours

    return {"ours": train_ours, "gradient": our_gradient, "tokens": count_tokens}[task](job)


# ---------------------------------------------------------------- the runs


class Bench:
    """What is compared: one model, records, and everybody's steps on them.

    Args:
        model: folder.
        records: file.
        steps: that are timed in a turn, after one that is not.
    """

    def __init__(self, model: Path, records: Path, steps: int) -> None:
        self.common: dict[str, Any] = {
            "model": str(model),
            "records": str(records),
            "threads": 1,
            "device": "cpu",
            "batch": BATCH,
        }
        self.steps = steps
        self.tokens = self.own("tokens", self.common)["tokens"]

    def own(self, task: str, job: dict[str, Any]) -> dict[str, Any]:
        """Run a task of ours."""
        command = [sys.executable, "-m", "benchmarks.families_training", "--task", task]
        return run_job(command, job, launched=task == "ours")

    def peer(self, contender: Contender, **more: Any) -> dict[str, Any]:
        """Run a peer's trainer."""
        job = {"trainer": contender.trainer, "in_batch": contender.in_batch, "micro_batch": contender.micro_batch or 1}
        command = [str(PYTHONS[contender.trainer]), "-m", "benchmarks.peers.late_interaction_training"]
        return run_job(command, self.common | job | more)

    def rates(self, contender: Contender, batch: int = BATCH) -> list[float]:
        """Return a contender's real tokens per CPU-second, step by step."""
        if contender.trainer == "ko-reranker":
            done = self.own("ours", self.common | {"settings": settings(contender.in_batch)})
            return [number / seconds for number, seconds in zip(done["tokens"], done["seconds"], strict=True)]
        done = self.peer(contender, batch=batch, steps=self.steps + 1, gradient=None)
        numbers = [sum(self.tokens[step * batch : (step + 1) * batch]) for step in range(self.steps + 1)]
        return [number / seconds for number, seconds in zip(numbers[1:], done["seconds"][1:], strict=True)]

    def difference(self, contender: Contender) -> dict[str, Any]:
        """Return how far our gradient of the first step is from a peer's, and how much larger."""
        with tempfile.TemporaryDirectory() as folder:
            first, gradient = Path(folder, "first.jsonl"), str(Path(folder, "gradient.safetensors"))
            lines = Path(self.common["records"]).read_text(encoding="utf-8").splitlines()[:BATCH]
            first.write_text("\n".join(lines) + "\n", encoding="utf-8")
            job = {"records": str(first), "gradient": gradient}
            self.peer(contender, **job, steps=1)
            return self.own("gradient", self.common | job | {"in_batch": contender.in_batch})


def compare(bench: Bench, in_batch: bool, rounds: int) -> dict[str, Any]:
    """Measure everybody with their own negatives, or with the step's."""
    peers = ("sentence-transformers", "pylate")
    differences = {name: bench.difference(Contender(name, in_batch, 1)) for name in peers}
    print(f"gradients from ours: {differences}", flush=True)
    sweep: dict[str, float] = {}
    best = []
    for name in peers:
        tried = {}
        for size in AT_ONCE if in_batch else (1,):
            one = Contender(name, in_batch, size)
            tried[one] = statistics.median(bench.rates(one, SWEEP_BATCH)) if in_batch else 0.0
            sweep |= {str(one): round(tried[one], 1)} if in_batch else {}
        best.append(max(tried, key=tried.__getitem__))
    found: dict[Contender, list[float]] = {one: [] for one in (Contender("ko-reranker", in_batch), *best)}
    for number in range(rounds):
        for one in found if number % 2 == 0 else reversed(found):
            found[one] += bench.rates(one)
    medians = {one: statistics.median(rates) for one, rates in found.items()}
    for one, rates in found.items():
        print(f"{one!s:60} {medians[one]:8.0f} tokens a CPU-second  ({min(rates):.0f} to {max(rates):.0f})", flush=True)
    ours, *theirs = medians.values()
    return {
        "tokens_per_cpu_second": {str(one): report.spread(rates, 1) for one, rates in found.items()},
        "peers_sweep": sweep,
        "gradient": differences,
        "ratios": {name: round(ours / rate, 2) for name, rate in zip(peers, theirs, strict=True)},
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=("small", "base"), default="small", help="small: 6 layers of 384; base: 12 of 768")
    parser.add_argument("--steps", type=int, default=2, help="steps to time in a turn, after one that is not")
    parser.add_argument("--rounds", type=int, default=3, help="times that everybody has a turn")
    parser.add_argument("--task", choices=("ours", "gradient", "tokens"), help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("job", nargs="?", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(run_task(options.task, json.loads(options.job.read_text(encoding="utf-8")))))
        return
    if not all(path.is_file() for path in PYTHONS.values()):
        raise SystemExit("The peers' environments are missing: run it as `make bench-families`, which makes them.")
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder, "records.jsonl")
        write_records(records, BATCH * (options.steps + 1))
        bench = Bench(late_interaction_directory(SHAPES[options.shape]), records, options.steps)
        found = {name: compare(bench, name == "in_batch", options.rounds) for name in ("own", "in_batch")}
    pins = (ROOT / "benchmarks" / "peers" / "pylate.txt").read_text(encoding="utf-8").splitlines()
    pylate = next(line.partition("==")[2] for line in pins if line.startswith("pylate=="))
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    versions["sentence-transformers"] = peer_versions()["sentence-transformers"]
    figures = {
        "shape": options.shape,
        "threads": 1,
        "batch_queries": BATCH,
        "timed_steps": options.steps * options.rounds,
        "tokens_per_group": round(statistics.mean(bench.tokens)),
        **found,
    }
    ratios = {f"{kind}_vs_{name}": value for kind, row in found.items() for name, value in row["ratios"].items()}
    print(report.write("families_training", versions | {"pylate": pylate}, figures, ratios))


if __name__ == "__main__":
    main()
