"""Tokenising (query, document) pairs: the document is cut to fit, the query is kept.

Training and scoring both go through here, so that a model is asked what it was taught.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """The token ids of one pair.

    Attributes:
        features: what the model takes, for example ``{"input_ids": [0, 5, 2]}``; all lists of one length.
        truncated: whether the document's end was cut off.
    """

    features: dict[str, list[int]]
    truncated: bool

    def __len__(self) -> int:
        return len(self.features["input_ids"])


class PairEncoder:
    """Encodes pairs for one model.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        max_length: the most tokens of a pair, special ones included.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def cut_query(self, query: str) -> tuple[str, bool]:
        """Return the query, cut if it would take more than half of the tokens, and whether it was."""
        room = self.max_length // 2
        encoding = self.tokenizer(query, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(encoding["input_ids"]) <= room:
            return query, False
        return query[: encoding["offset_mapping"][room - 1][1]], True

    def encode(self, query: str, documents: Sequence[str]) -> tuple[list[EncodedPair], bool]:
        """Return the encoded pairs of one query, and whether the query was cut."""
        if not documents:
            return [], False
        query, query_truncated = self.cut_query(query)
        return self._encode([query] * len(documents), list(documents)), query_truncated

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
        """Return the encoded pairs of many queries, in order."""
        if not pairs:
            return []
        cut = {query: self.cut_query(query)[0] for query in {query for query, _ in pairs}}
        return self._encode([cut[query] for query, _ in pairs], [document for _, document in pairs])

    def pad(self, pairs: Iterable[EncodedPair]) -> dict[str, torch.Tensor]:
        """Return a batch padded to its longest pair: tensors (pairs, tokens), attention mask included."""
        return dict(self.tokenizer.pad([pair.features for pair in pairs], return_tensors="pt"))

    def _encode(self, queries: list[str], documents: list[str]) -> list[EncodedPair]:
        batch = self.tokenizer(
            queries, documents, truncation="only_second", max_length=self.max_length, return_attention_mask=False
        )
        return [
            EncodedPair({key: values[index] for key, values in batch.items()}, bool(encoding.overflowing))
            for index, encoding in enumerate(batch.encodings)
        ]


def token_batches(pairs: Sequence[EncodedPair], budget: int) -> list[list[int]]:
    """Return the indices of the pairs in batches, longest first, whose padded size stays within a budget of tokens.

    Pairs of like length come together, so that little is padding; a pair longer than the budget is a batch of its own.
    """
    order = sorted(range(len(pairs)), key=lambda index: -len(pairs[index]))
    batches: list[list[int]] = []
    for index in order:
        # The first of a batch is its longest: it sets the width of all.
        if batches and (len(batches[-1]) + 1) * len(pairs[batches[-1][0]]) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
