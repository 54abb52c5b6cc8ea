"""A look at dev.jsonl during training: the loss, and where the positive stands among its group's passages."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from ko_reranker.rankers.pairs import PairEncoder
from training_job.loop.dataset import RecordFile
from training_job.loop.groups import Group, group_loss, make_group, micro_batches, share_of
from training_job.loop.packed import PackedClassifier
from training_job.loop.worker import Worker


class DevSet:
    """Some records of `dev.jsonl`, the same at every look.

    Args:
        path: the file.
        encoder: tokenises pairs.
        group_size: passages per query at most: the first positive and the first negatives.
        queries: how many at most, drawn by the seed; records without negatives tell nothing and are left out.
        seed: of the draw.
    """

    def __init__(self, path: Path, encoder: PairEncoder, *, group_size: int, queries: int, seed: int) -> None:
        self._records, self._encoder, self._group_size = RecordFile(path), encoder, group_size
        telling = [index for index in range(len(self._records)) if self._records[index].negatives]
        draw = random.Random(seed)  # noqa: S311  a seeded draw, no secret
        self.chosen = draw.sample(telling, min(queries, len(telling)))

    def look(self, classifier: PackedClassifier, worker: Worker, budget: int) -> dict[str, float]:
        """Return `dev_loss` and `dev_mrr`, computed by all workers together.

        Args:
            classifier: the model, put into evaluation and back into training.
            worker: this one.
            budget: tokens to compute at once.
        """
        classifier.model.eval()
        loss = reciprocal = 0.0
        with torch.no_grad():
            mine = [self._group(index) for index in share_of(self.chosen, self._records.size, worker.rank, worker.world)]
            for groups in micro_batches(mine, budget):
                logits = classifier.logits(groups, step=0).float().cpu()
                loss += group_loss(logits, groups).item()
                reciprocal += sum(map(_reciprocal_rank, logits.split([len(group.pairs) for group in groups])))
        classifier.model.train()
        loss, reciprocal = worker.totals(loss, reciprocal)
        return {"dev_loss": loss / len(self.chosen), "dev_mrr": reciprocal / len(self.chosen)}

    def _group(self, index: int) -> Group:
        record = self._records[index]
        negatives = range(min(len(record.negatives), self._group_size - 1))
        return make_group(self._encoder, index, record, 0, negatives)


def _reciprocal_rank(logits: torch.Tensor) -> float:
    # A tie counts as lost: a model that finds all passages alike knows nothing.
    return 1 / (1 + int((logits[1:] >= logits[0]).sum()))
