"""Checkpoints: what a run needs to go on after an interruption, one file a step.

Model, optimiser, gradient scaler and progress are all there is to keep: the order of the records, the draw of their passages
and dropout are functions of the seed and the step, so no generator has a state that could be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ko_reranker.container import JobError
from training_job.loop.metrics import Progress

KEPT = 2  # the newest, and one before it in case the newest was cut off on its way to S3


class CheckpointStore:
    """The checkpoints of one run in one folder.

    Args:
        folder: SageMaker keeps /opt/ml/checkpoints in step with S3, over all attempts of a run.
        identity: what a checkpoint belongs to: the recipe and the dataset. Another identity cannot be resumed from.
        model: on its device; optimiser and scaler likewise.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self._parts = {"model": model, "optimizer": optimizer, "scaler": scaler}

    def steps(self) -> list[int]:
        """Return the steps of which a whole checkpoint lies here, oldest first.

        Raises:
            JobError: a checkpoint of another recipe or dataset lies here.
        """
        found = []
        for path in sorted(self.folder.glob("step-*.pt")):
            try:
                state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            except Exception as error:  # a file that was cut off fails in as many ways as there are places to cut
                print(f"Passing over {path.name}, which cannot be read ({type(error).__name__}).", flush=True)
                continue
            self._check(path, state["identity"])
            found.append(state["step"])
        return found

    def load(self, step: int, device: torch.device) -> Progress:
        """Put the state after a step into model, optimiser and scaler, and return the run's progress."""
        state = torch.load(self._path(step), map_location=device, weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        return Progress(**state["progress"])

    def save(self, step: int, progress: Progress) -> None:
        """Keep the state after a step; drop the checkpoints no longer needed."""
        state = {name: part.state_dict() for name, part in self._parts.items()}
        self._write(self._path(step), state | {"step": step, "identity": self.identity, "progress": asdict(progress)})
        for old in sorted(self.folder.glob("step-*.pt"))[:-KEPT]:
            old.unlink()

    def save_best(self, step: int) -> None:
        """Keep the weights after a step as the best so far.

        The ones before it go only when a checkpoint names these: `drop_best_but`.
        """
        self._write(self._best_path(step), {"identity": self.identity, "model": self._parts["model"].state_dict()})

    def load_best(self, step: int, device: torch.device) -> None:
        """Put the best weights into the model."""
        self._parts["model"].load_state_dict(torch.load(self._best_path(step), map_location=device, weights_only=True)["model"])

    def drop_best_but(self, step: int) -> None:
        """Drop weights that were the best once."""
        for path in self.folder.glob("best-*.pt"):
            if path != self._best_path(step):
                path.unlink()

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write a file under its final name only when it is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / "draft.tmp"
        torch.save(dict(state), draft)
        draft.replace(path)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def _best_path(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.pt"

    def _check(self, path: Path, identity: Mapping[str, Any]) -> None:
        changed = sorted(key for key in {*identity, *self.identity} if identity.get(key) != self.identity.get(key))
        if changed:
            raise JobError(
                f"{path} belongs to another run ({', '.join(changed)} differ): empty the checkpoints folder to start anew, "
                "or use the settings and records it was made with."
            )
