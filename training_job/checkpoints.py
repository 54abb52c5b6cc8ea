"""Checkpoints: what a run needs to go on after an interruption, one file a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ko_reranker.container import JobError

KEPT = 2  # the newest, and one before it in case the newest was cut off on its way to S3


class CheckpointStore:
    """The checkpoints of one run in one folder.

    Args:
        folder: SageMaker keeps /opt/ml/checkpoints in step with S3, over all attempts of a run.
        identity: what a checkpoint belongs to: the recipe and the dataset. Another identity cannot be resumed from.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = dict(identity)

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

    def load(
        self,
        step: int,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        device: torch.device,
    ) -> None:
        """Put the state after a step into model, optimiser and scaler."""
        state = torch.load(self._path(step), map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])

    def save(self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        """Write the state after a step under its final name only when it is whole; drop those no longer needed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / "draft.tmp"
        state = {
            "step": step,
            "identity": self.identity,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
        }
        torch.save(state, draft)
        draft.replace(self._path(step))
        for old in sorted(self.folder.glob("step-*.pt"))[:-KEPT]:
            old.unlink()

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def _check(self, path: Path, identity: Mapping[str, Any]) -> None:
        changed = sorted(key for key in {*identity, *self.identity} if identity.get(key) != self.identity.get(key))
        if changed:
            raise JobError(
                f"{path} belongs to another run ({', '.join(changed)} differ): empty the checkpoints folder to start anew, "
                "or use the settings and records it was made with."
            )
