"""Forward passes of a micro-batch: packed for the architectures that have an encoder, padded for all others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from .dense import few_rows
from .encoders import Encoder
from .heads import Head
from .items import Item, Results
from .packing import pack, pad


class SequenceClassifier(Protocol):
    """A sequence classifier of `transformers`, or one that is called like it."""

    def __call__(self, **inputs: torch.Tensor) -> Any: ...

    @property
    def forward(self) -> Callable[..., Any]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def eval(self) -> object: ...


class PackedForward:
    """Computes what is there and nothing else, but for what `few_rows` adds to it in half precision on a CPU.

    Args:
        encoder: the padding-free model.
        head: what is wanted of its states.
    """

    def __init__(self, encoder: Encoder, head: Head) -> None:
        self.encoder, self.head = encoder, head
        # In fp32 a product takes so long that compiling it hardly counts.
        self._rounds = encoder.device.type == "cpu" and encoder.dtype != torch.float32

    @torch.inference_mode()
    def __call__(self, items: Sequence[Item]) -> tuple[Results, int]:
        """Return the items' results, and how many tokens were computed: in half precision on a CPU a few are padding."""
        encoder = self.encoder
        batch = pack(items, first_position=encoder.first_position, padding_id=encoder.padding_id)
        there = batch.rounded(few_rows) if self._rounds else batch.to(encoder.device)
        return self.head.results(self.head(encoder(there), there), batch), there.tokens


class PaddedForward:
    """Computes any sequence classifier, items of like length together.

    Args:
        model: a classifier with one label.
        budget: tokens of one pass, padding included.
        padding_id: what to pad with; None for a model whose logits padding would move: then only items of one length are
            computed together.
    """

    def __init__(self, model: SequenceClassifier, budget: int, *, padding_id: int | None) -> None:
        model.eval()
        self.model = model
        self.budget = budget
        self.padding_id = padding_id
        self._takes_mask = "attention_mask" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def __call__(self, items: Sequence[Item]) -> tuple[np.ndarray, int]:
        """Return float32 logits, (items,), and how many tokens were computed."""
        logits, computed = np.empty(len(items), dtype=np.float32), 0
        for batch in padded_batches([len(item) for item in items], self.budget, one_length=self.padding_id is None):
            inputs = pad([items[index] for index in batch], self.padding_id or 0)
            if not self._takes_mask:
                del inputs["attention_mask"]
            computed += inputs["input_ids"].numel()
            inputs = {key: value.to(self.model.device) for key, value in inputs.items()}
            logits[batch] = self.model(**inputs).logits[:, 0].float().cpu().numpy()
        return logits, computed


def padded_batches(lengths: Sequence[int], budget: int, *, one_length: bool = False) -> list[list[int]]:
    """Return the indexes of sequences in batches, longest first, whose padded size stays within a budget of tokens.

    Sequences of like length come together, so that little is padding; one longer than the budget is a batch of its own.
    With ``one_length`` only those of the very same length do, and nothing is padding.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        # The first of a batch is its longest: it sets the width of all.
        width = lengths[batches[-1][0]] if batches else 0
        fits = batches and (len(batches[-1]) + 1) * width <= budget
        if fits and not (one_length and lengths[index] != width):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
