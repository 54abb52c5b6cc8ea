"""Training a cross-encoder: query and passage are read together, and give one logit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ko_reranker.data.jsonl import write_json
from ko_reranker.engine.positions import position_limit
from ko_reranker.rankers.classifiers import Loaded
from ko_reranker.rankers.folders import SETTINGS_FILE
from ko_reranker.rankers.pairs import PairEncoder
from ko_reranker.recipes import Recipe
from training_job.loop.groups import Group, group_loss
from training_job.loop.packed import PackedClassifier, compute_twice, load_trainable


class CrossEncoder:
    """See `training_job.loop.family.TrainedFamily`."""

    reads = "pair"
    instructed = False

    def __init__(self, base: Loaded, recipe: Recipe, device: torch.device) -> None:
        model, self._tokenizer = base.transformer, base.tokenizer
        self.model: nn.Module = model
        self._model = model
        self.max_length = min(recipe.max_length, position_limit(model))
        self.query_room = self.max_length // 2
        self._encoder = PairEncoder(base.tokenizer, self.max_length, typed=base.typed)
        self._share, self._temperature = recipe.distillation_weight, recipe.distillation_temperature
        nn.Module.to(model, device).train()
        if recipe.gradient_checkpointing:
            compute_twice(model)
        self._classifier = PackedClassifier(model, recipe.seed)

    @classmethod
    def load(cls, folder: Path, recipe: Recipe, device: torch.device) -> CrossEncoder:
        """Load a sequence classifier, or a transformer whose head starts from PyTorch's generator."""
        return cls(load_trainable(folder, recipe.base_model), recipe, device)

    def encode(
        self,
        record: int,
        query: str,
        passages: Sequence[str],
        teacher: tuple[float, ...] | None,
        instruction: str | None = None,
    ) -> Group:
        """Return the pairs of a query and its passages."""
        return encode_pairs(self._encoder, record, query, passages, teacher)

    def logits(self, groups: Sequence[Group], step: int) -> torch.Tensor:
        """Return the pairs' logits."""
        return self._classifier.logits(groups, step)

    def loss(self, logits: torch.Tensor, groups: Sequence[Group]) -> torch.Tensor:
        """Return the groups' cross-entropy, or their divergence from the teacher's logits."""
        return group_loss(logits, groups, distillation_weight=self._share, temperature=self._temperature)

    def finish(self, batches: Sequence[Sequence[Group]], dev_mrr: float | None) -> dict[str, Any]:
        """Return nothing: a logit is what it is."""
        return {}

    def save(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write the classifier as `transformers` does."""
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        write_json(folder / SETTINGS_FILE, settings)


def encode_pairs(
    encoder: PairEncoder,
    record: int,
    query: str,
    passages: Sequence[str],
    teacher: tuple[float, ...] | None,
    instruction: str | None = None,
) -> Group:
    """Return the group of a query and its passages, read in pairs, which have no place for an instruction."""
    pairs, query_cut = encoder.encode(query, passages)
    return Group(record, tuple(pairs), teacher, query_cut)
