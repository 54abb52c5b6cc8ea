"""Checkpoints: what a run needs to go on after an interruption, one file a step.

Model, optimiser, gradient scaler and progress are all there is to keep: the order of the records, the draw of their passages
and dropout are functions of the seed and the step, so no generator has a state that could be lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from ko_reranker import disk
from ko_reranker.container import JobError
from training_job.loop.metrics import Progress

KEPT = 2  # the newest, and one before it in case the newest was cut off on its way to S3


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


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
        self._parts: dict[str, _Stateful] = {"model": model, "optimizer": optimizer, "scaler": scaler}
        self._unreadable: set[Path] = set()

    def steps(self) -> list[int]:
        """Return the steps of which a whole checkpoint lies here, oldest first.

        Raises:
            JobError: a checkpoint of another recipe or dataset lies here.
        """
        found = []
        for path in sorted(self.folder.glob("step-*.pt")):
            state = self._read(path, {"step", "identity", "progress", *self._parts})
            if state is None:
                self._unreadable.add(path)
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
        # What can't be read is none of those that are kept: it would drive out one that can.
        self._unreadable.discard(self._path(step))
        whole = [path for path in sorted(self.folder.glob("step-*.pt")) if path not in self._unreadable]
        for old in (*whole[:-KEPT], *self._unreadable):
            old.unlink(missing_ok=True)
        self._unreadable.clear()

    def save_best(self, step: int) -> None:
        """Keep the weights after a step as the best so far.

        The ones before it go only when a checkpoint names these: `drop_best_but`.
        """
        self._write(self._best_path(step), {"identity": self.identity, "model": self._parts["model"].state_dict()})

    def mend_best(self, step: int, resumed: int) -> bool:
        """See that the best weights can be loaded in the end; return False where they are lost.

        They went to S3 as a file of their own, which may have been cut off on its way. A checkpoint of that step has them, too.

        Args:
            step: of the best evaluation.
            resumed: the step whose checkpoint was loaded.
        """
        if self._read(self._best_path(step), {"model"}) is not None:
            return True
        if step == resumed:
            self.save_best(step)
            return True
        state = self._read(self._path(step), {"model", "identity"}) if self._path(step).is_file() else None
        if state is not None:
            self._write(self._best_path(step), {"identity": state["identity"], "model": state["model"]})
        return state is not None

    def load_best(self, step: int) -> bool:
        """Put the best weights into the model; return False where they can't be read."""
        state = self._read(self._best_path(step), {"model"})
        if state is not None:
            self._parts["model"].load_state_dict(state["model"])
        return state is not None

    def drop_best_but(self, step: int) -> None:
        """Drop weights that were the best once."""
        for path in self.folder.glob("best-*.pt"):
            if path != self._best_path(step):
                path.unlink()

    def _read(self, path: Path, keys: Collection[str]) -> dict[str, Any] | None:
        """Return what a file holds, None where it isn't whole."""
        try:
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            missing = [key for key in keys if key not in state]
        except Exception as error:  # a file that was cut off fails in as many ways as there are places to cut
            print(f"Passing over {path.name}, which cannot be read ({type(error).__name__}).", flush=True)
            return None
        if missing:
            print(f"Passing over {path.name}, which holds no {missing[0]}.", flush=True)
        return None if missing else state

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write a file under its final name only when it is whole.

        Raises:
            JobError: the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / "draft.tmp"
        try:
            torch.save(dict(state), draft)
        except (OSError, RuntimeError) as error:
            needed = sum(tensor.nbytes for tensor in _tensors(state))
            # PyTorch writes without Python, and says of a full disk only that its stream failed.
            if not disk.is_full(error) and disk.free_bytes(self.folder) >= needed:
                raise
            draft.unlink(missing_ok=True)
            raise JobError(
                f"There is no room for the checkpoint {path.name}: {disk.no_room(self.folder, needed)}. Give the job a larger "
                "volume (training.volume_gb): each checkpoint is the weights and twice as much again, and two are kept."
            ) from error
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


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor of a nested state."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
