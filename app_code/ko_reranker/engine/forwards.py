"""Forward passes of a micro-batch: packed for the architectures that have an encoder, padded for all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from .encoders import Encoder
from .packing import pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ko_reranker.rankers.pairs import EncodedPair


class PackedForward:
    """Computes what is there and nothing else.

    Args:
        encoder: the padding-free model.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[EncodedPair]) -> tuple[np.ndarray, int]:
        """Return float32 logits, (pairs,), and how many tokens were computed."""
        encoder = self.encoder
        batch = pack(pairs, first_position=encoder.first_position, padding_id=encoder.padding_id)
        return encoder(batch.to(encoder.device)).cpu().numpy(), batch.tokens


class PaddedForward:
    """Computes any sequence classifier, pairs of like length together.

    Args:
        model: a classifier with one label.
        pad: turns pairs into the tensors that the model takes, (pairs, tokens).
        budget: tokens of one pass, padding included.
    """

    def __init__(
        self, model: PreTrainedModel, pad: Callable[[Iterable[EncodedPair]], dict[str, torch.Tensor]], budget: int
    ) -> None:
        self.model = model.eval()
        self.pad = pad
        self.budget = budget

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[EncodedPair]) -> tuple[np.ndarray, int]:
        """Return float32 logits, (pairs,), and how many tokens were computed."""
        logits, computed = np.empty(len(pairs), dtype=np.float32), 0
        for batch in padded_batches([len(pair) for pair in pairs], self.budget):
            inputs = self.pad([pairs[index] for index in batch])
            computed += inputs["input_ids"].numel()
            inputs = {key: value.to(self.model.device) for key, value in inputs.items()}
            logits[batch] = self.model(**inputs).logits[:, 0].float().cpu().numpy()
        return logits, computed


def padded_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return the indexes of sequences in batches, longest first, whose padded size stays within a budget of tokens.

    Sequences of like length come together, so that little is padding; one longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        # The first of a batch is its longest: it sets the width of all.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
