"""Fine-tuning beside FlagEmbedding's trainer and sentence-transformers', in one run on one core.

    python -m benchmarks.training [--shape small] [--threads 1] [--steps 2] [--rounds 3]
    python -m benchmarks.training --device cuda

Everybody trains the same model on the same groups (a question with three of its BM25 passages) with the same loss, effective
batch and optimiser, dropout on. Ours is the trainer itself, `training_job.train`; a peer's is its own trainer in its own
environment, with the micro-batch that is fastest for it. What counts is real tokens, padding not, per CPU-second of the
process between the ends of two steps, so that reading and tokenising count too. The gradient of a step, dropout off, is held
against the padded model of `transformers` and against the one FlagEmbedding's trainer computes.

On a GPU ours trains the published recipe's shape alone, beside the published log: 384 sequences in 3.55 s on four V100s.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.inputs import requests
from ko_reranker.container import Resources
from training_job.launch import worker_environment

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "training.json"
PEERS = ROOT / ".venv-peers-transformers" / "bin" / "python"
SEED, GROUP, MAX_LENGTH = 0, 3, 512
BATCH = 32  # the published recipe's: one query a device, accumulated 32 times
SWEEP_BATCH = 8  # enough to see which micro-batch is fastest
PUBLISHED_SEQUENCES_PER_SECOND = 384 / 3.55
# (trainer, micro-batch in queries, loss): each is tried, a trainer's best is what counts. Beyond 4 there is only more padding,
# and with dropout their attention takes gigabytes.
# What the manual of sentence-transformers recommends for this data; it draws its negatives from the batch, too, so that only
# one query at once is the same loss.
RECOMMENDED = ("sentence-transformers", 1, "MultipleNegativesRankingLoss")
PEER_SETTINGS = [
    *(("flagembedding", size, "") for size in (1, 2, 4)),
    *(("sentence-transformers", size, "ListNetLoss") for size in (1, 2, 4)),
    RECOMMENDED,
]


@dataclass(frozen=True)
class Contender:
    """A trainer with its settings.

    Attributes:
        trainer: whose.
        micro_batch: queries computed at once; ours goes by tokens.
        loss: sentence-transformers' name of it.
    """

    trainer: str
    micro_batch: int = 0
    loss: str = ""

    def __str__(self) -> str:
        settings = [f"micro-batch {self.micro_batch}"] if self.micro_batch else []
        settings += [self.loss] if self.loss else []
        return f"{self.trainer} ({', '.join(settings)})" if settings else self.trainer


OURS = Contender("ko-reranker")


def write_records(file: Path, count: int) -> None:
    """Write groups of one question and three of its passages, lengths as they come."""
    from ko_reranker.text import normalise  # as our trainer does: the peers shall read the same

    draw = random.Random(SEED)  # noqa: S311  a seeded draw, no secret
    with file.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            request = draw.choice(requests())
            first, *others = draw.sample(request.first(50).documents, GROUP)
            row = {"query": normalise(request.query), "pos": [normalise(first)], "neg": [normalise(text) for text in others]}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_plain_records(file: Path, source: Path, model: str) -> None:
    """Write a batch of groups that everybody reads alike: nobody cuts a text, and decoding gives the same pieces again.

    On transformers 5 FlagEmbedding decodes what it encoded and encodes that; a few texts come out in other pieces.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def stays(text: str) -> bool:
        pieces = tokenizer.encode(text, add_special_tokens=False)
        return tokenizer.encode(tokenizer.decode(pieces), add_special_tokens=False) == pieces

    plain = [
        line
        for line, group in zip(source.read_text(encoding="utf-8").splitlines(), encoded(model, str(source)), strict=True)
        if all(len(pair) < MAX_LENGTH for pair in group.pairs) and all(map(stays, texts(json.loads(line))))
    ]
    if len(plain) < BATCH:
        raise RuntimeError(f"only {len(plain)} of the groups are read alike by everybody: raise --steps")
    file.write_text("\n".join(plain[:BATCH]) + "\n", encoding="utf-8")


def texts(row: dict[str, Any]) -> list[str]:
    return [row["query"], *row["pos"], *row["neg"]]


def train_ours(job: dict[str, Any]) -> dict[str, Any]:
    """Run the trainer; return the CPU- and wall-seconds, sequences and tokens of each step but the first."""
    import torch

    from ko_reranker.container import TrainingFolders
    from ko_reranker.recipes.shipped import load_recipe
    from training_job.loop.worker import Worker
    from training_job.train import train

    torch.set_num_threads(job["threads"])
    rows: list[dict[str, float]] = []

    class Timed(Worker):
        """Notes the time where every step passes once."""

        def all_reduce(self, *values: float) -> list[float]:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            _, tokens, sequences, *_ = values
            rows.append({"cpu": time.process_time(), "wall": time.perf_counter(), "tokens": tokens, "sequences": sequences})
            return super().all_reduce(*values)

    never = str(10**9)
    settings = {
        "recipe": "ko-reranker-v1",
        "base_model": job["model"],
        "batch_queries": str(job["batch"]),
        "dev_queries": "0",
        "checkpoint_every_steps": never,
        "log_every_steps": never,
        **job["settings"],
    }
    with tempfile.TemporaryDirectory() as base:
        folders = TrainingFolders(Path(base))
        folders.dataset.mkdir(parents=True)
        (folders.dataset / "train.jsonl").symlink_to(job["records"])
        train(load_recipe(settings), folders, Timed(0, 1, 0, torch.device(job["device"])))
    pairs = list(itertools.pairwise(rows))
    return {
        "seconds": [after["cpu"] - before["cpu"] for before, after in pairs],
        "wall": [after["wall"] - before["wall"] for before, after in pairs],
        "sequences": [after["sequences"] for _, after in pairs],
        "tokens": [after["tokens"] for _, after in pairs],
    }


def train_tiny(job: dict[str, Any]) -> dict[str, Any]:
    """Train the demonstration model for a step into a folder; return the scores that our ranker gives some pairs with it."""
    import torch

    from ko_reranker.container import TrainingFolders
    from ko_reranker.rankers import EngineOptions, load_ranker
    from ko_reranker.recipes.shipped import load_recipe
    from training_job.loop.worker import Worker
    from training_job.train import train

    folders = TrainingFolders(Path(job["folder"]))
    folders.dataset.mkdir(parents=True)
    (folders.dataset / "train.jsonl").symlink_to(job["records"])
    settings = {"recipe": "tiny", "epochs": "1", "batch_queries": "1000000"}
    train(load_recipe(settings), folders, Worker(0, 1, 0, torch.device("cpu")))
    ranker = load_ranker(folders.model, EngineOptions(dtype="fp32"))
    scores = [float(score) for score in ranker.score_pairs([tuple(pair) for pair in job["pairs"]])]
    return {"model": str(folders.model), "max_length": ranker.max_length, "scores": scores}


def saved_model_difference(common: dict[str, Any]) -> float:
    """Return how far the peers' scores of a model that we trained are from ours; both load it like any other."""
    # Short enough for the demonstration model: a longer one we read in chunks, the peers cut it.
    short = (passage for request in requests() for passage in request.documents if len(passage) < 80)
    pairs = [(request.query, passage) for request, passage in zip(requests()[:16], short, strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        job = {name: common[name] for name in ("threads", "device", "records")} | {"pairs": pairs, "folder": folder}
        ours = in_process("tiny", job)
        theirs = in_process("peer", job | {"model": ours["model"], "max_length": ours["max_length"]})
    return max(abs(mine - other) for scores in theirs.values() for mine, other in zip(ours["scores"], scores, strict=True))


def encoded(model: str, records: str) -> list[Any]:
    """Return the records as groups, in the file's order, as our trainer encodes them."""
    from transformers import AutoTokenizer

    from ko_reranker.rankers.pairs import PairEncoder
    from training_job.families.cross_encoder import encode_pairs
    from training_job.loop.dataset import RecordFile
    from training_job.loop.groups import make_group

    file = RecordFile(Path(records))
    encode = functools.partial(encode_pairs, PairEncoder(AutoTokenizer.from_pretrained(model), MAX_LENGTH))
    return [make_group(encode, place, file[place], 0, range(GROUP - 1)) for place in range(len(file))]


def our_gradient(job: dict[str, Any]) -> dict[str, Any]:
    """Return how far the packed gradient of one step is from the padded model's, and from the one in a file.

    Both as |difference| / |reference| over all parameters; dropout is off, the whole batch is one step.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from training_job.loop.groups import group_loss, micro_batches
    from training_job.loop.packed import PackedClassifier, load_classifier

    torch.set_num_threads(job["threads"])
    groups = encoded(job["model"], job["records"])
    padded = AutoModelForSequenceClassification.from_pretrained(job["model"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    for group in groups:
        inputs = tokenizer.pad([pair.features for pair in group.pairs], return_tensors="pt")
        (group_loss(padded(**inputs).logits[:, 0], [group]) / len(groups)).backward()
    packed = PackedClassifier(load_classifier(job["model"]).eval(), SEED)
    for some in micro_batches(groups, job["micro_batch_tokens"]):
        (group_loss(packed.logits(some, 0), some) / len(groups)).backward()
    ours = {name: value.grad for name, value in packed.model.named_parameters() if value.grad is not None}
    references = {"padded": {name: value.grad for name, value in padded.named_parameters() if value.grad is not None}}
    if job["gradient"]:
        references["flagembedding"] = load_file(job["gradient"])
    return {name: _distance(ours, reference) for name, reference in references.items()}


def _distance(ours: dict[str, Any], reference: dict[str, Any]) -> float:
    # A key's bias shifts all scores of a query alike, which softmax takes out: its gradient is rounding noise.
    ours, reference = (
        {name: value for name, value in named.items() if not name.endswith("self.key.bias")} for named in (ours, reference)
    )
    missing = set(reference) ^ set(ours)
    if missing:
        raise RuntimeError(f"the gradients are not of the same parameters: {', '.join(sorted(missing)[:5])}")
    difference = sum((ours[name] - reference[name]).double().square().sum() for name in ours)
    return float((difference / sum(value.double().square().sum() for value in reference.values())).sqrt())


# ---------------------------------------------------------------- processes


def in_process(task: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run one contender, or the comparison of gradients, in a process of its own on its own cores."""
    if task == "peer":
        return run_job([str(PEERS), "-m", "benchmarks.peers.training"], job)
    return run_job([sys.executable, "-m", "benchmarks.training", "--task", task], job, launched=task == "ours")


def run_job(command: list[str], job: dict[str, Any], *, launched: bool = False) -> dict[str, Any]:
    """Run a command on the job's own cores, the job's file being its last argument; return the JSON of its last line.

    Args:
        command: what to run, in the repository's folder.
        job: has `threads` and `device`, beside what the command wants.
        launched: give it the environment that our launcher gives a worker.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(job, file)
        file.flush()
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
        threads = {"OMP_NUM_THREADS": str(job["threads"]), "CUDA_VISIBLE_DEVICES": "" if job["device"] == "cpu" else "0"}
        if launched:
            quiet |= worker_environment(Resources("algo-1", ("algo-1",), None), 1, os.environ | quiet | threads)
        cores = sorted(os.sched_getaffinity(0))[: job["threads"]] if job["device"] == "cpu" else None
        done = subprocess.run(
            [*command, file.name],
            cwd=ROOT,
            env=os.environ | quiet | threads | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ({job.get('trainer', 'ours')}) failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def peer_versions() -> dict[str, str]:
    """Return the versions that the peers' environment is made of."""
    lines = (ROOT / "benchmarks" / "peers" / "transformers.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.lower().split("==") for line in lines if "==" in line)
    return {name: pinned[name] for name in ("flagembedding", "sentence-transformers")}


def run_task(task: str, job: dict[str, Any]) -> dict[str, Any]:
    return {"ours": train_ours, "tiny": train_tiny, "gradient": our_gradient, "tokens": count_tokens}[task](job)


def count_tokens(job: dict[str, Any]) -> dict[str, Any]:
    return {"tokens": [group.tokens for group in encoded(job["model"], job["records"])]}


# ---------------------------------------------------------------- the runs


def on_cpu(shape: str, threads: int, steps: int, rounds: int) -> dict[str, Any]:
    """Measure everybody on the processor and return the content of the results file."""
    from benchmarks.models import SHAPES, model_directory

    if not PEERS.is_file():
        raise SystemExit("The peers' environment is missing: run it as `make bench-training`, which makes it.")
    common = {"model": str(model_directory(SHAPES[shape])), "threads": threads, "device": "cpu", "batch": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        records, gradient = Path(folder, "records.jsonl"), str(Path(folder, "gradient.safetensors"))
        write_records(records, BATCH * (steps + 1))
        first = Path(folder, "first.jsonl")
        write_plain_records(first, records, common["model"])
        common["records"] = str(records)
        tokens = in_process("tokens", common)["tokens"]

        def peer_rates(contender: Contender, batch: int, count: int) -> list[float]:
            """Real tokens per CPU-second of some steps of a peer."""
            job = {"trainer": contender.trainer, "micro_batch": contender.micro_batch, "loss": contender.loss}
            done = in_process("peer", common | job | {"batch": batch, "steps": count, "gradient": None})
            numbers = (sum(tokens[step * batch : (step + 1) * batch]) for step in range(count))
            return [number / seconds for number, seconds in zip(numbers, done["seconds"], strict=True)]

        def rates(contender: Contender) -> list[float]:
            """Those of a contender's steps but the first."""
            if contender != OURS:
                return peer_rates(contender, BATCH, steps + 1)[1:]
            done = in_process("ours", common | {"settings": {"precision": "fp32", "epochs": "1"}})
            return [number / seconds for number, seconds in zip(done["tokens"], done["seconds"], strict=True)]

        print(f"gradient of one step of {BATCH} queries, {shape} shape", flush=True)
        alone = common | {"records": str(first), "steps": 1}
        in_process("peer", alone | {"trainer": "flagembedding", "micro_batch": 1, "loss": "", "gradient": gradient})
        differences = in_process("gradient", alone | {"micro_batch_tokens": 8192, "gradient": gradient})
        print(f"  difference from the padded model {differences['padded']:.1e}", flush=True)
        print(f"  difference from FlagEmbedding's  {differences['flagembedding']:.1e}", flush=True)

        apart = saved_model_difference(common)
        print(
            f"scores of a model saved here, loaded by FlagEmbedding and sentence-transformers: {apart:.1e} from ours",
            flush=True,
        )

        sweep: dict[Contender, float] = {}
        for settings in PEER_SETTINGS:
            contender = Contender(*settings)
            sweep[contender] = peer_rates(contender, SWEEP_BATCH, 2)[1]
            print(f"  {contender}: {sweep[contender]:.0f} tokens per CPU-second in a step of {SWEEP_BATCH} queries", flush=True)
        best = [
            max((one for one in sweep if one.trainer == trainer), key=sweep.get)
            for trainer in ("flagembedding", "sentence-transformers")
        ]
        recommended = Contender(*RECOMMENDED)
        found: dict[Contender, list[float]] = {contender: [] for contender in (OURS, *best, recommended)}
        for number in range(rounds):
            for contender in found if number % 2 == 0 else reversed(found):
                found[contender] += rates(contender)
    medians = {contender: statistics.median(values) for contender, values in found.items()}
    print()
    for contender, values in found.items():
        print(f"{contender!s:60} {medians[contender]:8.0f} tokens per CPU-second  ({min(values):.0f} to {max(values):.0f})")
    flag, other = best
    figures = {
        "shape": shape,
        "threads": threads,
        "batch_queries": BATCH,
        "tokens_per_pair": round(sum(tokens) / len(tokens) / GROUP, 1),
        "tokens_per_cpu_second": {str(contender): round(median, 1) for contender, median in medians.items()},
        "spread": {str(contender): [round(min(values), 1), round(max(values), 1)] for contender, values in found.items()},
        "peers_sweep": {str(contender): round(rate, 1) for contender, rate in sweep.items()},
        "gradient_relative_difference": differences["padded"],
        "gradient_relative_difference_flagembedding": differences["flagembedding"],
        "saved_model_score_difference": apart,
    }
    ratios = {
        "tokens_vs_flagembedding": round(medians[OURS] / medians[flag], 2),
        "tokens_vs_sentence_transformers": round(medians[OURS] / medians[other], 2),
        "tokens_vs_sentence_transformers_recommended_loss": round(medians[OURS] / medians[recommended], 2),
    }
    for contender, value in zip((flag, other, recommended), ratios.values(), strict=True):
        print(f"ours / {contender}: {value}")
    return {"figures": figures, "ratios": ratios}


def on_gpu(steps: int, micro_batch_tokens: int) -> dict[str, Any]:
    """Train the published recipe's shape on the GPU and return the figures."""
    import torch

    from benchmarks.models import SHAPES, model_directory

    if not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU: run it on a machine with one, set up by `make setup TORCH=cuda`.")
    queries = 128
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder, "records.jsonl")
        write_records(records, queries * (steps + 1))
        settings = {"micro_batch_tokens": str(micro_batch_tokens), "epochs": "1"}
        job = {"model": str(model_directory(SHAPES["large"])), "records": str(records), "settings": settings}
        done = in_process("ours", job | {"batch": queries, "threads": os.cpu_count() or 1, "device": "cuda"})
    rate = sum(done["sequences"]) / sum(done["wall"])
    figures = {
        "gpu": torch.cuda.get_device_name(),
        "sequences_per_second": round(rate, 1),
        "tokens_per_second": round(sum(done["tokens"]) / sum(done["wall"])),
        "tokens_per_sequence": round(sum(done["tokens"]) / sum(done["sequences"]), 1),
        "micro_batch_tokens": micro_batch_tokens,
    }
    published = round(PUBLISHED_SEQUENCES_PER_SECOND, 1)
    print(f"{figures['gpu']}: {rate:.0f} sequences a second of {figures['tokens_per_sequence']} tokens; published: {published}")
    print("(the published texts, MS MARCO in Korean, are of another length: compare tokens where you can)")
    return figures | {"published_sequences_per_second_on_4_v100": published}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: ours alone, the published shape")
    parser.add_argument("--shape", choices=("small", "base"), default="small", help="small: 6 layers of 384; base: 12 of 768")
    parser.add_argument("--threads", type=int, default=1, help="cores, and threads of each trainer (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="steps to time in a round, after one that is not")
    parser.add_argument("--rounds", type=int, default=3, help="times that everybody has a turn")
    parser.add_argument("--micro-batch-tokens", type=int, default=32_768, help="of ours on a GPU; raise it where memory allows")
    parser.add_argument("--task", choices=("ours", "tiny", "gradient", "tokens"), help=argparse.SUPPRESS)  # in_process
    parser.add_argument("job", nargs="?", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(run_task(options.task, json.loads(options.job.read_text(encoding="utf-8")))))
        return
    versions = {name: metadata.version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()}
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions | peer_versions(),
    }
    if options.device == "cuda":
        stored = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else result | {"figures": {}, "ratios": {}}
        stored["figures"]["gpu"] = on_gpu(options.steps, options.micro_batch_tokens)
        result = stored
    else:
        result |= on_cpu(options.shape, options.threads, options.steps, options.rounds)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
