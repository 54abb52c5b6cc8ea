"""What a run tells while it goes: lines that SageMaker's metric definitions read, JSON lines, and TensorBoard."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ko_reranker.data.jsonl import dump_line

# How a number is printed; others as they are.
_FORMATS = {
    "epoch": ".2f",
    "loss": ".4f",
    "learning_rate": ".1e",
    "gradient_norm": ".3g",
    "queries_per_second": ".1f",
    "tokens_per_second": ".0f",
    "eta_seconds": ".0f",
    "dev_loss": ".4f",
    "dev_mrr": ".4f",
}


@dataclass
class Progress:
    """What a run has done so far, over all its attempts; a checkpoint carries it.

    Attributes:
        seconds: in the loop.
        queries: groups seen, over all workers; likewise sequences and tokens, padding does not exist.
        loss: of the last step.
        history: every line told, as numbers.
        best: the best evaluation on dev: {"step", "dev_mrr", "dev_loss"}; {} before the first.
        evaluations_since_best: evaluations on dev after it.
        cut_queries: groups whose query took more than its half of the tokens and was cut.
    """

    seconds: float = 0.0
    queries: int = 0
    sequences: int = 0
    tokens: int = 0
    loss: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    evaluations_since_best: int = 0
    cut_queries: int = 0

    def evaluated(self, step: int, dev: dict[str, float]) -> bool:
        """Take in an evaluation on dev; return whether it is the best so far. By MRR; of equal ones, by loss."""
        better = not self.best or (dev["dev_mrr"], -dev["dev_loss"]) > (self.best["dev_mrr"], -self.best["dev_loss"])
        self.evaluations_since_best = 0 if better else self.evaluations_since_best + 1
        if better:
            self.best = {"step": step, **dev}
        return better


class Rates:
    """Queries and tokens a second since this attempt began."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._started = progress, time.monotonic()
        self._before = (progress.seconds, progress.queries, progress.tokens)

    def update(self) -> dict[str, float]:
        """Bring the run's seconds up to date and return the rates."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        seconds, queries, tokens = self._before
        self._progress.seconds = seconds + elapsed
        return {
            "queries_per_second": (self._progress.queries - queries) / elapsed,
            "tokens_per_second": (self._progress.tokens - tokens) / elapsed,
        }


class MetricsLog:
    """Tells each line in three ways; of a resumed run, the files hold what the attempts before it told, too.

    Args:
        folder: gets `metrics.jsonl` and `tensorboard/`.
        steps: of the whole run.
        history: what was told before the checkpoint that the run resumes from.
    """

    def __init__(self, folder: Path, steps: int, history: list[dict[str, float]]) -> None:
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._steps, self._history = steps, history
        self._lines = (folder / "metrics.jsonl").open("wb")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(history) and history[-1]["step"])
        for row in history:
            self._write(row)

    def tell(self, step: int, **values: float) -> None:
        """Print and write the values after a step."""
        row = {"step": step, **values}
        self._history.append(row)
        self._write(row)
        words = [f"{name}={value:{_FORMATS.get(name, '')}}" for name, value in values.items()]
        print(f"step={step}/{self._steps} {' '.join(words)}", flush=True)

    def close(self) -> None:
        self._lines.close()
        self._board.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._lines.write(dump_line(row))
        self._lines.flush()
        for name, value in row.items():
            if name != "step":
                side = "dev" if name.startswith("dev_") else "train"
                self._board.add_scalar(f"{side}/{name.removeprefix('dev_')}", value, row["step"])
