"""Tokenising (query, document) pairs: the document is cut to fit, or read in overlapping pieces; the query is kept.

Training and scoring both go through here, so that a model is asked what it was taught.
"""

from __future__ import annotations

import copy
import hashlib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ko_reranker.text import spans

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Texts that are tokenised at once: a tokenizer takes some 100 to 300 bytes a token until its ids are taken out.
_BLOCK_CHARACTERS = 500_000
# How many of a long text's characters are tokenised first, for each token that can be read; four times as many after that.
_CHARACTERS_PER_TOKEN = 6
# Where a text was cut off, its last tokens may be others than in the whole text: as many are never read.
_MARGIN_TOKENS = 64
_WHITE_SPACE = re.compile(rf"\s{{{_MARGIN_TOKENS},}}")


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """The token ids of one pair.

    Attributes:
        ids: int32, (tokens,); special tokens included.
        document_at: where the document starts.
        typed: whether the model tells query and document apart by token types, 0 and 1.
        truncated: whether a part of the document was left out.
    """

    ids: np.ndarray
    document_at: int
    typed: bool
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def features(self) -> dict[str, list[int]]:
        """What a model of `transformers` takes, for example ``{"input_ids": [0, 5, 2]}``."""
        features = {"input_ids": self.ids.tolist()}
        if self.typed:
            features["token_type_ids"] = [0] * self.document_at + [1] * (len(self.ids) - self.document_at)
        return features


@dataclass(frozen=True, slots=True)
class EncodedDocuments:
    """The documents of one query, each as one pair or, if long, as several.

    Attributes:
        pairs: the pairs of all documents, document after document.
        chunks: int32, (documents,); how many pairs each document is.
        truncated: bool, (documents,); whether a part of the document was left out.
        query_truncated: whether the query itself was cut, to half of the tokens.
    """

    pairs: list[EncodedPair]
    chunks: np.ndarray
    truncated: np.ndarray
    query_truncated: bool


class PairEncoder:
    """Encodes pairs for one model. May be used by many threads at once.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        max_length: the most tokens of a pair, special ones included.
        max_chunks: pieces that a document is read in at most; what is behind them is not even tokenised.
        cache_tokens: the tokens of documents that are kept for when they come again; 0 keeps none.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, *, max_chunks: int = 1, cache_tokens: int = 0
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_chunks = max_chunks
        # One more than can be read tells that there is more.
        self._most_tokens = max_chunks * max_length + 1 + _MARGIN_TOKENS
        # Our own copy: `transformers` sets truncation and padding on the one it holds, call by call.
        self._texts: Tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)
        self._texts.no_truncation()
        self._texts.no_padding()
        self.typed = "token_type_ids" in tokenizer.model_input_names
        self._head, self._middle, self._tail = _frame(tokenizer, typed=self.typed)
        self._special = len(self._head) + len(self._middle) + len(self._tail)
        self._cache = TokenCache(cache_tokens)

    def encode(self, query: str, documents: Sequence[str]) -> tuple[list[EncodedPair], bool]:
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
            max_chunks: pieces that a document is read in, if it does not fit; 1 cuts its end off. None for the encoder's own
                limit, which it cannot pass.
            overlap: tokens that neighbouring pieces share.
            max_tokens: tokens of a document that are read; None for all that the pieces hold.
        """
        if not documents:
            return EncodedDocuments([], np.zeros(0, np.int32), np.zeros(0, bool), False)
        max_chunks = self.max_chunks if max_chunks is None else min(max_chunks, self.max_chunks)
        query_ids, query_truncated = self._cut(self._ids([query])[0])
        room = self._room(query_ids)
        pairs: list[EncodedPair] = []
        chunks, truncated = np.zeros(len(documents), np.int32), np.zeros(len(documents), bool)
        for index, ids in enumerate(self._documents(documents)):
            pieces = spans(len(ids), room, overlap, max_chunks, max_tokens=max_tokens)
            pairs += [self._pair(query_ids, ids, start, end) for start, end in pieces]
            chunks[index], truncated[index] = len(pieces), pieces[-1][1] < len(ids)
        return EncodedDocuments(pairs, chunks, truncated, query_truncated)

    def pad(self, pairs: Iterable[EncodedPair]) -> dict[str, torch.Tensor]:
        """Return a batch padded to its longest pair: tensors (pairs, tokens), attention mask included."""
        return dict(self.tokenizer.pad([pair.features for pair in pairs], return_tensors="pt"))

    def _cut(self, query: np.ndarray) -> tuple[np.ndarray, bool]:
        room = self.max_length // 2
        return query[:room], len(query) > room

    def _room(self, query: np.ndarray) -> int:
        """Return how many tokens of a document fit beside a query."""
        return max(1, self.max_length - self._special - len(query))

    def _pair(self, query: np.ndarray, document: np.ndarray, start: int, end: int) -> EncodedPair:
        part = document[start:end]
        ids = np.concatenate([self._head, query, self._middle, part, self._tail])
        return EncodedPair(ids, len(ids) - len(part) - len(self._tail), self.typed, len(part) < len(document))

    def _documents(self, documents: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of documents, those that came lately from the cache."""
        known = self._cache.get(documents)
        fresh = [index for index, ids in enumerate(known) if ids is None]
        if fresh:
            texts = [documents[index] for index in fresh]
            for index, ids in zip(fresh, self._ids(texts), strict=True):
                known[index] = ids
            self._cache.put(texts, [known[index] for index in fresh])
        return known

    def _ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of texts; of a long one the beginning, as far as it can be read and some tokens more.

        Block after block, and of a long text no more than it takes: 25 MB at once would take gigabytes.
        """
        texts, ids = list(texts), [np.zeros(0, np.int32)] * len(texts)
        reach, todo = self._most_tokens * _CHARACTERS_PER_TOKEN, list(range(len(texts)))
        while todo:
            for block in _blocks(todo, [min(len(texts[index]), reach) for index in todo]):
                encodings = self._texts.encode_batch_fast([texts[index][:reach] for index in block], add_special_tokens=False)
                for index, encoding in zip(block, encodings, strict=True):
                    ids[index] = np.array(encoding.ids[: self._most_tokens], dtype=np.int32)
            todo = [index for index in todo if len(texts[index]) > reach and len(ids[index]) < self._most_tokens]
            reach *= 4
            for index in todo:  # so many characters for so few tokens: the first suspect is white space
                texts[index] = _WHITE_SPACE.sub(lambda run: run[0][:_MARGIN_TOKENS], texts[index])
        return ids


class TokenCache:
    """The token ids of documents that came lately, under the digests of their texts: no text is kept.

    Args:
        size: tokens that are kept at most; what was used longest ago goes first.
    """

    # What an entry costs beside its tokens, in tokens: digest, array and places in the table are some 250 bytes.
    _OVERHEAD = 64

    def __init__(self, size: int) -> None:
        self.size = size
        self._entries: dict[bytes, np.ndarray] = {}
        self._held = 0
        self._lock = threading.Lock()

    def get(self, texts: Sequence[str]) -> list[np.ndarray | None]:
        """Return the ids of each text, None where they are not known."""
        if not self.size:
            return [None] * len(texts)
        keys = [_digest(text) for text in texts]
        with self._lock:
            found = [self._entries.pop(key, None) for key in keys]
            # Back in at the end: a dict remembers the order that keys came in.
            self._entries.update((key, ids) for key, ids in zip(keys, found, strict=True) if ids is not None)
        known = dict(zip(keys, found, strict=True))
        return [ids if ids is not None else known[key] for key, ids in zip(keys, found, strict=True)]

    def put(self, texts: Sequence[str], ids: Sequence[np.ndarray]) -> None:
        """Keep the ids of texts, and let go of what was used longest ago."""
        if not self.size:
            return
        with self._lock:
            for text, entry in zip(texts, ids, strict=True):
                key = _digest(text)
                if key not in self._entries:
                    self._entries[key] = entry
                    self._held += len(entry) + self._OVERHEAD
            while self._held > self.size:
                oldest = next(iter(self._entries))
                self._held -= len(self._entries.pop(oldest)) + self._OVERHEAD


def _blocks(indexes: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indexes of texts in blocks, in order; each of few enough characters, or of one text."""
    block, characters = [], 0
    for index, size in zip(indexes, sizes, strict=True):
        if block and characters + size > _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
        block.append(index)
        characters += size
    yield block


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


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
    return tuple(np.array(part, dtype=np.int32) for part in (ids[:query], ids[query_end:document], ids[document_end:]))
