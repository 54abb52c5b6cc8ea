"""Tokenising queries and documents apart, as a late-interaction model reads them: training and scoring both go through here."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import AddedToken

from ko_reranker.engine.items import Item
from ko_reranker.rankers.texts import Chunks, TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ko_reranker.rankers.late_interaction_folders import Expansion, LateInteractionSettings

# Texts that a prefix is tried with: Korean, English, and what a tokenizer may melt with what stands before it.
_PROBES = ("서울의 인구", "Seoul", "ing 940", "##a")


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A query, or a document, or a chunk of one.

    Attributes:
        item: what the transformer reads.
        counted: int64, (vectors,); which of its tokens have a vector that counts.
    """

    item: Item
    counted: np.ndarray


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Some documents, each as one chunk or, if long, as several.

    Attributes:
        texts: the chunks of all documents, document after document.
        chunks: int32, (documents,); how many chunks each document is.
        truncated: bool, (documents,); whether a part of the document was left out.
    """

    texts: list[EncodedText]
    chunks: np.ndarray
    truncated: np.ndarray


@dataclass(frozen=True, slots=True)
class _Side:
    """What comes before the texts of one side, queries or documents.

    Attributes:
        lead: what is tokenised together with each text.
        dropped: how many tokens of that are `head`'s already: those of a marker that the tokenizer knows, behind which white
            space may be other tokens than in a text alone.
        head: int32, (tokens,); what comes before each text's own tokens.
    """

    lead: str
    dropped: int
    head: np.ndarray


class ApartEncoder:
    """Encodes queries and documents for one model. May be used by many threads at once.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        settings: the model's rules.
        max_chunks: chunks that a document is read in at most; what is behind them is not even tokenised.
        cache_tokens: the tokens of documents that are kept for when they come again; 0 keeps none.

    Raises:
        ValueError: a length leaves no room, or prefix or expansion are not what the tokenizer can do.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        settings: LateInteractionSettings,
        *,
        max_chunks: int = 1,
        cache_tokens: int = 0,
    ) -> None:
        self.tokenizer, self.settings, self.max_chunks = tokenizer, settings, max_chunks
        most = 1 + max(_most_of_a_query(settings), max_chunks * settings.document_length)  # and a marker
        self.texts = TextEncoder(tokenizer, most, cache_tokens=cache_tokens)
        head, self._tail = _frame(tokenizer)
        self._query_side = self._side("query_prefix", settings.query_prefix)
        self._document_side = self._side("document_prefix", settings.document_prefix)
        self._query_head = np.concatenate([head, self._query_side.head])
        self._document_head = np.concatenate([head, self._document_side.head])
        expansion = settings.expansion
        self._query_room = self._room("query_length", self._query_head, _most_of_a_query(settings))
        self._document_room = self._room("document_length", self._document_head, settings.document_length)
        self._added = _added_id(tokenizer, expansion) if expansion else 0
        self._skipped = np.array(_skipped_ids(tokenizer, settings.skip), np.int32)

    def query(self, text: str) -> tuple[EncodedText, bool]:
        """Return a query, and whether its end was cut off."""
        (ids,) = self._encode(self._query_side, [text])
        own = np.concatenate([self._query_head, ids[: self._query_room], self._tail])
        expansion, item = self.settings.expansion, Item(own)
        if expansion and len(own) < expansion.length:
            added = np.full(expansion.length - len(own), self._added, np.int32)
            item = Item(np.concatenate([own, added]), attended=None if expansion.attend else len(own))
        return EncodedText(item, np.arange(self.settings.drop_first, len(item))), len(ids) > self._query_room

    def documents(
        self, texts: Sequence[str], *, max_chunks: int | None = None, overlap: int = 0, max_tokens: int | None = None
    ) -> EncodedTexts:
        """Return documents.

        Args:
            texts: any number of them.
            max_chunks: chunks that a document is read in, if it does not fit; 1 cuts its end off. None for the encoder's own
                limit, which it cannot pass.
            overlap: tokens that neighbouring chunks share.
            max_tokens: tokens of a document that are read; None for all that the chunks hold.
        """
        encoded: list[EncodedText] = []
        chunks = Chunks(len(texts), self.max_chunks, max_chunks, overlap, max_tokens)
        side = self._document_side
        for index, whole in enumerate(self.texts.recall([side.lead + text for text in texts])):
            ids = whole[side.dropped :]
            encoded += [self._chunk(ids[start:end]) for start, end in chunks.cut(index, len(ids), self._document_room)]
        return EncodedTexts(encoded, chunks.counts, chunks.truncated)

    def _chunk(self, text: np.ndarray) -> EncodedText:
        ids = np.concatenate([self._document_head, text, self._tail])
        counts = ~np.isin(ids, self._skipped)
        counts[: self.settings.drop_first] = False
        return EncodedText(Item(ids), np.flatnonzero(counts))

    def _room(self, name: str, head: np.ndarray, length: int) -> int:
        """Return how many tokens of a text fit."""
        room = length - len(head) - len(self._tail)
        if room < 1:
            raise ValueError(f"{name} is {length}, and {len(head) + len(self._tail)} tokens stand around every text")
        return room

    def _side(self, name: str, prefix: str) -> _Side:
        """Return what is put before the texts of one side."""
        ids, rest = _marker(self.tokenizer, prefix, self.settings.markers)
        marker = prefix[: len(prefix) - len(rest)]
        if ids and self.settings.markers is not None:
            if self.tokenizer.tokenize(marker) == [marker]:
                return self._behind(name, rest, _Side(marker, len(ids), np.array(ids, np.int32)))
            self._check_marker(name, marker, rest)
        return self._behind(name, rest, _Side("", 0, np.array(ids, np.int32)))

    def _check_marker(self, name: str, marker: str, rest: str) -> None:
        """Refuse a marker that the tokenizer does not know, behind which a text falls into other tokens than it does alone.

        sentence-transformers has its tokenizer know the marker, and tokenises it with the text.
        """
        knowing = copy.deepcopy(self.tokenizer)
        knowing.add_special_tokens({"additional_special_tokens": [AddedToken(marker, normalized=False, special=True)]})
        whole = TextEncoder(knowing, self.settings.query_length).encode([marker + rest + probe for probe in _PROBES])
        behind = self.texts.encode([rest + probe for probe in _PROBES])
        if not all(map(np.array_equal, (ids[1:] for ids in whole), behind)):
            raise ValueError(f"its tokenizer has other tokens for a text behind its {name} {marker!r} than for the text alone")

    def _behind(self, name: str, rest: str, side: _Side) -> _Side:
        """Return a side of whose prefix the rest, behind a marker or without one, comes before texts, too."""
        if not rest.strip():
            return replace(side, lead=side.lead + rest)
        whole = self._encode(side, [rest + probe for probe in _PROBES])
        for words in (rest.rstrip(), rest):  # the white space belongs to the text, or to a token such as "[Q] "
            (ids,) = self._encode(side, [words])
            # What stands behind words is no beginning any more: without the marker, as the text's own tokens are.
            apart = replace(side, lead=rest[len(words) :], dropped=0)
            parts = [np.concatenate([ids, behind]) for behind in self._encode(apart, _PROBES)]
            if all(map(np.array_equal, whole, parts)):
                return replace(apart, head=np.concatenate([side.head, ids]))
        raise ValueError(f"its tokenizer melts its {name} {rest!r} with the text behind it")

    def _encode(self, side: _Side, texts: Sequence[str]) -> list[np.ndarray]:
        return [ids[side.dropped :] for ids in self.texts.encode([side.lead + text for text in texts])]


def _most_of_a_query(settings: LateInteractionSettings) -> int:
    expansion = settings.expansion
    if expansion is None:
        return settings.query_length
    return expansion.length if expansion.strategy == "fixed" else max(settings.query_length, expansion.length)


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """Return the special tokens before and behind a text."""
    probe = tokenizer("a", verbose=False)
    owners = probe.encodings[0].sequence_ids
    first, end = owners.index(0), len(owners) - owners[::-1].index(0)
    return np.array(probe["input_ids"][:first], np.int32), np.array(probe["input_ids"][end:], np.int32)


def _marker(tokenizer: PreTrainedTokenizerBase, prefix: str, markers: Sequence[str] | None) -> tuple[list[int], str]:
    """Return the marker that a prefix is or begins with, if the vocabulary has it whole, and what is left of the prefix.

    A marker such as ``[unused0]`` was put in by its id in training; tokenised as text it would fall into pieces.
    """
    vocabulary = tokenizer.get_vocab()
    for marker in (prefix, *prefix.split(None, 1)[:1]):
        allowed = markers is None or marker in markers
        if allowed and marker.strip() and marker in vocabulary and prefix.startswith(marker):
            return [vocabulary[marker]], prefix[len(marker) :]
    return [], prefix


def _added_id(tokenizer: PreTrainedTokenizerBase, expansion: Expansion) -> int:
    """Return the token that queries are expanded with."""
    if expansion.token is None:
        found = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else tokenizer.eos_token_id
    else:
        found = tokenizer.get_vocab().get(expansion.token)
    if found is None:
        raise ValueError(f"it expands queries by {expansion.token or 'a mask'}, and its tokenizer has no such token")
    return int(found)


def _skipped_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[word] for word in words if word in vocabulary]
