"""Tokenising (query, document) pairs: the document is cut to fit, or read in overlapping chunks; the query is kept.

Training and scoring both go through here, so that a model is asked what it was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ko_reranker.engine.items import Item
from ko_reranker.rankers.texts import Chunks, TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedDocuments:
    """The documents of one query, each as one pair or, if long, as several.

    Attributes:
        pairs: the pairs of all documents, document after document.
        chunks: int32, (documents,); how many pairs each document is.
        truncated: bool, (documents,); whether a part of the document was left out.
        query_truncated: whether the query itself was cut, to half of the tokens.
    """

    pairs: list[Item]
    chunks: np.ndarray
    truncated: np.ndarray
    query_truncated: bool


class PairEncoder:
    """Encodes pairs for one model. May be used by many threads at once.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        max_length: the most tokens of a pair, special ones included.
        max_chunks: chunks that a document is read in at most; what is behind them is not even tokenised.
        cache_tokens: the tokens of documents that are kept for when they come again; 0 keeps none.
        typed: whether the model tells query and document apart by token types; None goes by the tokenizer, which may make
            them for a model that has none.

    Raises:
        ValueError: the tokenizer joins a pair in a way that cannot be repeated, or the length leaves no room.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        max_chunks: int = 1,
        cache_tokens: int = 0,
        typed: bool | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_chunks = max_chunks
        self.texts = TextEncoder(tokenizer, max_chunks * max_length, cache_tokens=cache_tokens)
        self.typed = "token_type_ids" in tokenizer.model_input_names if typed is None else typed
        self._head, self._middle, self._tail = _frame(tokenizer, typed=self.typed)
        self._special = len(self._head) + len(self._middle) + len(self._tail)

    def encode(self, query: str, documents: Sequence[str]) -> tuple[list[Item], bool]:
        """Return the pairs of one query, one a document, and whether the query was cut."""
        encoded = self.encode_documents(query, documents)
        return encoded.pairs, encoded.query_truncated

    def encode_documents(
        self,
        query: str,
        documents: Sequence[str],
        *,
        max_chunks: int | None = None,
        overlap: int = 0,
        max_tokens: int | None = None,
    ) -> EncodedDocuments:
        """Return the pairs of one query.

        Args:
            query: cut to half of the tokens, should it be longer.
            documents: any number of them.
            max_chunks: chunks that a document is read in, if it does not fit; 1 cuts its end off. None for the encoder's own
                limit, which it cannot pass.
            overlap: tokens that neighbouring chunks share.
            max_tokens: tokens of a document that are read; None for all that the chunks hold.
        """
        if not documents:
            return EncodedDocuments([], np.zeros(0, np.int32), np.zeros(0, bool), False)
        query_ids, query_truncated = self._cut(self.texts.encode([query])[0])
        room = self._room(query_ids)
        pairs: list[Item] = []
        chunks = Chunks(len(documents), self.max_chunks, max_chunks, overlap, max_tokens)
        for index, ids in enumerate(self.texts.recall(documents)):
            pairs += [self._pair(query_ids, ids, start, end) for start, end in chunks.cut(index, len(ids), room)]
        return EncodedDocuments(pairs, chunks.counts, chunks.truncated, query_truncated)

    def _cut(self, query: np.ndarray) -> tuple[np.ndarray, bool]:
        room = self.max_length // 2
        return query[:room], len(query) > room

    def _room(self, query: np.ndarray) -> int:
        """Return how many tokens of a document fit beside a query."""
        return max(1, self.max_length - self._special - len(query))

    def _pair(self, query: np.ndarray, document: np.ndarray, start: int, end: int) -> Item:
        part = document[start:end]
        ids = np.concatenate([self._head, query, self._middle, part, self._tail])
        return Item(ids, len(ids) - len(part) - len(self._tail) if self.typed else None)


def _frame(tokenizer: PreTrainedTokenizerBase, *, typed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the special tokens before the query, between query and document, and after the document.

    Raises:
        ValueError: the tokenizer joins a pair in a way that this is not all of.
    """
    probe = tokenizer("a", "b", return_token_type_ids=typed, verbose=False)
    ids, owners = probe["input_ids"], probe.encodings[0].sequence_ids
    query, document = owners.index(0), owners.index(1)
    query_end = len(owners) - owners[::-1].index(0)
    document_end = len(owners) - owners[::-1].index(1)
    types = [0] * document + [1] * (len(ids) - document)
    if query > query_end or query_end > document or (typed and probe["token_type_ids"] != types):
        raise ValueError("its tokenizer does not put the query before the document")
    before, between, after = ids[:query], ids[query_end:document], ids[document_end:]
    return np.array(before, np.int32), np.array(between, np.int32), np.array(after, np.int32)
