"""What the training loop has to know of a family of rankers; each is a module of `training_job.families`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ko_reranker.recipes import Recipe
from training_job.loop.groups import Group


class TrainedFamily(Protocol):
    """A model of a family, being trained.

    Attributes:
        model: what is optimised and kept in checkpoints.
        max_length: the most tokens of a sequence that holds a passage.
        query_room: the most tokens of a query; what is longer is cut.
        instructed: whether it reads instructions.
        reads: what a sequence of `max_length` tokens holds, for people to read.
    """

    model: nn.Module
    max_length: int
    query_room: int
    instructed: bool
    reads: str

    @classmethod
    def load(cls, folder: Path, recipe: Recipe, device: torch.device) -> TrainedFamily:
        """Load a model to start from; what it lacks starts from PyTorch's generator.

        Args:
            folder: where it lies.
            recipe: which calls it by its base_model.
            device: where to train it.

        Raises:
            RankerError: it cannot be trained from.
            JobError: it is of an architecture that cannot be packed.
        """
        ...

    def encode(
        self,
        record: int,
        query: str,
        passages: Sequence[str],
        teacher: tuple[float, ...] | None,
        instruction: str | None = None,
    ) -> Group:
        """Return the group of a query and its passages, the positive first.

        Args:
            record: the record's place in its file.
            query, passages: its texts.
            teacher: a teacher's score of each passage.
            instruction: the record's own; left aside where the model reads none.

        Raises:
            JobError: the instruction leaves no room for query and passage.
        """
        ...

    def logits(self, groups: Sequence[Group], step: int) -> torch.Tensor:
        """Return the logits of the groups' passages, (passages,), group after group, as the loss takes them.

        Args:
            groups: what to run together.
            step: the optimiser step, which dropout depends on.
        """
        ...

    def loss(self, logits: torch.Tensor, groups: Sequence[Group]) -> torch.Tensor:
        """Return the sum of the groups' losses."""
        ...

    def finish(self, batches: Sequence[Sequence[Group]], dev_mrr: float | None) -> dict[str, Any]:
        """Bring the model into the form that is saved when the weights are final; return what dev says of it.

        Args:
            batches: dev's groups, as many of them together as are to be computed at once; none where there is no dev.
            dev_mrr: what these weights reached there, before.

        Returns:
            For reranker.json and the run card.

        Raises:
            JobError: in that form it is of no use.
        """
        ...

    def save(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write model, tokenizer and reranker.json.

        Args:
            folder: is there.
            settings: of reranker.json, what `finish` returned among them.
        """
        ...
