"""The evaluation on dev.jsonl during training: the loss, and where the positive stands among its group's passages."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from training_job.loop.dataset import RecordFile
from training_job.loop.family import TrainedFamily
from training_job.loop.groups import Encode, Group, check_instructions, group_loss, make_group, micro_batches, share_of
from training_job.loop.worker import Worker


class DevSet:
    """Some records of `dev.jsonl`, the same at every evaluation.

    Args:
        path: the file.
        encode: makes the groups.
        group_size: passages per query at most: the first positive and the first negatives.
        queries: how many at most, drawn by the seed; records without negatives tell nothing and are left out.
        seed: of the draw.
    """

    def __init__(self, path: Path, encode: Encode, *, group_size: int, queries: int, seed: int) -> None:
        self._records, self._encode, self._group_size = RecordFile(path), encode, group_size
        check_instructions(self._records, encode)
        telling = [index for index in range(len(self._records)) if self._records[index].negatives]
        draw = random.Random(seed)  # noqa: S311  a seeded draw, no secret
        self.chosen = draw.sample(telling, min(queries, len(telling)))

    def evaluate(
        self, family: TrainedFamily, worker: Worker, budget: int, dtype: torch.dtype = torch.float32
    ) -> dict[str, float]:
        """Return `dev_loss` and `dev_mrr`, computed by all workers together.

        Args:
            family: whose model is put into evaluation and back into training.
            worker: this one.
            budget: tokens to compute at once.
            dtype: what the model is served in on such a device: the best epoch is the one that is best there.
        """
        family.model.eval()
        loss = reciprocal = 0.0
        half = dtype != torch.float32
        with torch.no_grad(), torch.autocast(worker.device.type, dtype if half else None, enabled=half):
            mine = [self._group(index) for index in share_of(self.chosen, self._records.size, worker.rank, worker.world_size)]
            for groups in micro_batches(mine, budget):
                logits = family.logits(groups, step=0).float().cpu()
                loss += group_loss(logits, groups).item()
                reciprocal += sum(map(reciprocal_rank, logits.split([len(group.pairs) for group in groups])))
        family.model.train()
        loss, reciprocal = worker.all_reduce(loss, reciprocal)
        return {"dev_loss": loss / len(self.chosen), "dev_mrr": reciprocal / len(self.chosen)}

    def batches(self, budget: int) -> list[list[Group]]:
        """Return all of its groups, as many together as the budget of tokens holds."""
        return micro_batches([self._group(index) for index in sorted(self.chosen)], budget)

    def _group(self, index: int) -> Group:
        record = self._records[index]
        negatives = range(min(len(record.negatives), self._group_size - 1))
        return make_group(self._encode, index, record, 0, negatives)


def reciprocal_rank(logits: torch.Tensor) -> float:
    """Return 1 / the rank of a group's first passage. A tie counts as lost: a model that finds all alike knows nothing."""
    return 1 / (1 + int((logits[1:] >= logits[0]).sum()))
