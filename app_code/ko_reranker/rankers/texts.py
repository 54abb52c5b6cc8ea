"""Tokenising texts for one model: long ones only as far as they are read, those that came lately not at all.

A text's tokens are the same whatever it is put beside, so every kind of ranker starts here.
"""

from __future__ import annotations

import copy
import hashlib
import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ko_reranker.text.chunking import Span, spans

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Tokens of documents that a ranker keeps for when they come again: 4 bytes each.
CACHE_TOKENS = 4_000_000
# Texts that are tokenised at once: a tokenizer takes some 100 to 300 bytes a token until its ids are taken out.
_BLOCK_CHARACTERS = 500_000
# How many of a long text's characters are tokenised first, for each token that can be read; four times as many after that.
_CHARACTERS_PER_TOKEN = 6
# Where a text was cut off, its last tokens may be others than in the whole text: as many are never read.
_MARGIN_TOKENS = 64
_WHITE_SPACE = re.compile(rf"\s{{{_MARGIN_TOKENS},}}")


class TextEncoder:
    """Turns texts into token ids, without special tokens. May be used by many threads at once.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        most_tokens: tokens that are read of a text at most.
        cache_tokens: the tokens of texts that are kept for when they come again; 0 keeps none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, most_tokens: int, *, cache_tokens: int = 0) -> None:
        # One more than can be read tells that there is more.
        self._most_tokens = most_tokens + 1 + _MARGIN_TOKENS
        # Our own copy: `transformers` sets truncation and padding on the one it holds, call by call.
        self._tokenizer: Tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.cache = TokenCache(cache_tokens)

    def recall(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of texts as `encode` does, those that came lately from the cache."""
        known = self.cache.get(texts)
        fresh = [index for index, ids in enumerate(known) if ids is None]
        if fresh:
            unknown = [texts[index] for index in fresh]
            encoded = self.encode(unknown)
            for index, ids in zip(fresh, encoded, strict=True):
                known[index] = ids
            self.cache.put(unknown, encoded)
        return [ids for ids in known if ids is not None]

    def beginning(self, text: str, tokens: int) -> str:
        """Return as much of a text as its first tokens are made of.

        Args:
            text: any.
            tokens: how many; no more than the encoder reads of a text.
        """
        if len(self.encode([text])[0]) <= tokens:
            return text
        reach = max(1, tokens) * _CHARACTERS_PER_TOKEN
        while True:
            encoding = self._tokenizer.encode(text[:reach], add_special_tokens=False)
            if len(encoding) >= tokens + _MARGIN_TOKENS or reach >= len(text):
                return text[: encoding.offsets[tokens - 1][1]] if tokens else ""
            reach *= 4

    def text(self, ids: Sequence[int]) -> str:
        """Return the text that ids are of, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of texts, int32; of a long one the beginning, as far as it can be read and some tokens more.

        Block after block, and of a long text no more than it takes: 25 MB at once would take gigabytes.
        """
        texts, ids = list(texts), [np.zeros(0, np.int32)] * len(texts)
        reach, todo = self._most_tokens * _CHARACTERS_PER_TOKEN, list(range(len(texts)))
        while todo:
            for block in _blocks(todo, [min(len(texts[index]), reach) for index in todo]):
                encodings = self._tokenizer.encode_batch_fast(
                    [texts[index][:reach] for index in block], add_special_tokens=False
                )
                for index, encoding in zip(block, encodings, strict=True):
                    ids[index] = np.array(encoding.ids[: self._most_tokens], dtype=np.int32)
            todo = [index for index in todo if len(texts[index]) > reach and len(ids[index]) < self._most_tokens]
            reach *= 4
            for index in todo:  # so many characters for so few tokens: the first suspect is white space
                texts[index] = _WHITE_SPACE.sub(lambda run: run[0][:_MARGIN_TOKENS], texts[index])
        return ids


class Chunks:
    """Cuts the documents of one query into chunks, and tells what came of each.

    Args:
        documents: how many there are.
        limit: chunks of a document at most.
        wanted: the same, where it is asked for; None for the limit, which it cannot pass.
        overlap: tokens that neighbouring chunks share.
        max_tokens: tokens of a document that are read; None for all that the chunks hold.

    Attributes:
        counts: int32, (documents,); chunks of each.
        truncated: bool, (documents,); whether the end of each is in none of them.
    """

    def __init__(self, documents: int, limit: int, wanted: int | None, overlap: int, max_tokens: int | None) -> None:
        self.counts, self.truncated = np.zeros(documents, np.int32), np.zeros(documents, bool)
        self._most = limit if wanted is None else min(wanted, limit)
        self._overlap, self._max_tokens = overlap, max_tokens

    def cut(self, index: int, length: int, room: int) -> list[Span]:
        """Return the chunks of a document, as `spans` does.

        Args:
            index: of the document.
            length: its tokens.
            room: tokens of a chunk.
        """
        found = spans(length, room, self._overlap, self._most, max_tokens=self._max_tokens)
        self.counts[index], self.truncated[index] = len(found), found[-1][1] < length
        return found


class TokenCache:
    """The token ids of texts that came lately, under the digests of their texts: no text is kept.

    Args:
        size: tokens that are kept at most; what was used longest ago goes first.

    Attributes:
        held: tokens that are kept now, with what an entry costs beside them.
    """

    # What an entry costs beside its tokens, in tokens: digest, array and places in the table are some 250 bytes.
    _OVERHEAD = 64

    def __init__(self, size: int) -> None:
        self.size, self.held = size, 0
        self._entries: dict[bytes, np.ndarray] = {}
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
                    self.held += len(entry) + self._OVERHEAD
            while self.held > self.size:
                oldest = next(iter(self._entries))
                self.held -= len(self._entries.pop(oldest)) + self._OVERHEAD


def _blocks(indexes: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indexes of texts in blocks, in order; each of few enough characters, or of one text."""
    block: list[int] = []
    characters = 0
    for index, size in zip(indexes, sizes, strict=True):
        if block and characters + size > _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
        block.append(index)
        characters += size
    yield block


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
