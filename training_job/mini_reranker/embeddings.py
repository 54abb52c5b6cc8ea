"""Stage 2: a start for the new tokens' embeddings, so that the English body reads Korean before any training.

IBM model 1 on aligned lines says which English tokens stand where a Korean token stands; the Korean token starts as the
mean of their embeddings. A token that the lines hardly use is placed by Kiwi: morphemes that Kiwi's language model finds
alike get embeddings alike (a ridge regression from similarities to anchor morphemes onto the embeddings found by
alignment). Pieces that the English model knows keep its embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

_ROUNDS = 4
_LONGEST = 40  # tokens of a line that alignment looks at
_FEWEST = 4  # lines that a token must be in for its alignment to count
_TRANSLATIONS = 6  # English tokens that a Korean one is made of
_ANCHORS = 300
_RIDGE = 5.0
_NORM = 0.9  # of a new embedding, relative to the mean English one
_WORD_TAGS = ("NNG", "NNP", "VV", "VA", "MAG", "XR", "NNB", "NR", "NP", "MM", "VV-I", "VA-I", "XSN")


@dataclass(frozen=True)
class Start:
    """The embeddings to start from, and where each comes from."""

    embeddings: np.ndarray  # float32 (tokens, width)
    sources: dict[str, int]  # tokens copied, aligned, placed by Kiwi, composed of syllables, at random


def initial_embeddings(
    tokens: Sequence[str],
    tokenizer: Tokenizer,
    english_tokenizer: Tokenizer,
    english_embeddings: np.ndarray,
    lines: Sequence[tuple[str, str]],
) -> Start:
    """Return an embedding for every token.

    Args:
        tokens: the new vocabulary.
        tokenizer: of the new vocabulary.
        english_tokenizer: of the English model.
        english_embeddings: its input embeddings, float32 (English tokens, width).
        lines: aligned (English, Korean) lines.
    """
    width = english_embeddings.shape[1]
    known = english_tokenizer.get_vocab()
    ids = {token: index for index, token in enumerate(tokens)}
    table = np.zeros((len(tokens), width), dtype=np.float32)
    aligned, weights = _aligned(len(tokens), tokenizer, english_tokenizer, english_embeddings, lines)

    copied = np.zeros(len(tokens), dtype=bool)
    for token, index in ids.items():
        if token in known:
            table[index] = english_embeddings[known[token]]
            copied[index] = True
    by_alignment = ~copied & (weights >= _FEWEST)
    table[by_alignment] = aligned[by_alignment]

    rest = [index for index in range(len(tokens)) if not copied[index] and not by_alignment[index]]
    placed = _placed_by_kiwi(tokens, np.flatnonzero(by_alignment), table, np.minimum(weights, 50), rest)
    for index, row in placed.items():
        table[index] = row
    random = np.random.default_rng(0)
    mean, composed, at_random = english_embeddings.mean(axis=0), 0, 0
    done = copied | by_alignment
    done[list(placed)] = True
    for index in np.flatnonzero(~done).tolist():
        # A token of several syllables that nobody knows is the mean of them; a lone character starts anywhere.
        letters = [ids.get(letter, index) for letter in tokens[index].removeprefix("##")]
        letters = [letter for letter in letters if done[letter]]
        if letters and len(tokens[index].removeprefix("##")) > 1:
            table[index] = table[letters].mean(axis=0) + random.normal(0, 0.01, width)
            composed += 1
        else:
            table[index] = mean + random.normal(0, 0.04, width)
            at_random += 1
    norm = np.linalg.norm(english_embeddings, axis=1).mean() * _NORM
    new = ~copied
    table[new] *= norm / np.linalg.norm(table[new], axis=1, keepdims=True).clip(1e-3)
    counts = (int(copied.sum()), int(by_alignment.sum()), len(placed), composed, at_random)
    names = ("copied", "aligned", "placed by Kiwi", "composed", "at random")
    return Start(table, dict(zip(names, counts, strict=True)))


def _aligned(
    count: int,
    tokenizer: Tokenizer,
    english_tokenizer: Tokenizer,
    english_embeddings: np.ndarray,
    lines: Sequence[tuple[str, str]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return what alignment makes of each token, (count, width), and the number of lines it is in, (count,)."""
    korean = tokenizer.encode_batch_fast([line for _, line in lines], add_special_tokens=False)
    english = english_tokenizer.encode_batch_fast([line for line, _ in lines], add_special_tokens=False)
    base = len(english_embeddings)
    keys, slots, slot_count = [], [], 0
    weights = np.zeros(count, dtype=np.int64)
    for source, target in zip(korean, english, strict=True):
        mine, theirs = np.unique(source.ids[:_LONGEST]), np.unique(target.ids[:_LONGEST])
        if not len(mine) or not len(theirs):
            continue
        weights[mine] += 1
        # One cell for each pair of tokens in the line; the English token's slot is what its candidates share.
        keys.append((mine[:, None].astype(np.int64) * base + theirs).ravel())
        slots.append((slot_count + np.arange(len(theirs), dtype=np.int32))[None].repeat(len(mine), axis=0).ravel())
        slot_count += len(theirs)
    cells, cell = np.unique(np.concatenate(keys), return_inverse=True)
    slot = np.concatenate(slots)
    del keys, slots
    mine, theirs = cells // base, cells % base
    likely = np.ones(len(cells))
    for _ in range(_ROUNDS):
        share = likely[cell]
        share /= np.bincount(slot, share, slot_count)[slot]
        expected = np.bincount(cell, share, len(cells))
        likely = expected / np.bincount(mine, expected, count)[mine]  # p(English token | Korean token)
    overall = np.bincount(theirs, expected, base) / expected.sum()
    # What stands everywhere says little about one token: weigh by how far above its mean frequency it is.
    score = likely * np.log1p(likely / (overall[theirs] + 1e-6))
    rows = np.zeros((count, english_embeddings.shape[1]), dtype=np.float32)
    starts = np.searchsorted(mine, np.arange(count + 1))
    for token in np.flatnonzero(weights >= _FEWEST):
        start, end = starts[token], starts[token + 1]
        best = start + np.argsort(-score[start:end])[:_TRANSLATIONS]
        rows[token] = (score[best] / score[best].sum()) @ english_embeddings[theirs[best]]
    return rows, weights


def _placed_by_kiwi(
    tokens: Sequence[str], aligned: np.ndarray, table: np.ndarray, weights: np.ndarray, rest: Sequence[int]
) -> dict[int, np.ndarray]:
    """Return embeddings of tokens that Kiwi knows as morphemes, by their likeness to others."""
    from kiwipiepy import Kiwi

    kiwi = Kiwi()
    morphemes: dict[str, int] = {}
    order = {tag: place for place, tag in enumerate(_WORD_TAGS)}
    for found in sorted(
        kiwi.most_similar_morphemes(("사람", "NNG"), top_n=1_000_000), key=lambda item: order.get(item.tag, 99)
    ):
        if found.tag in order:
            morphemes.setdefault(found.form, found.id)

    def morpheme(index: int) -> int | None:
        return morphemes.get(tokens[index].removeprefix("##"))

    taught = [index for index in aligned if morpheme(index) is not None]
    anchors = [
        morpheme(index) for index in sorted(taught, key=lambda index: -weights[index])[:: max(1, len(taught) // _ANCHORS)]
    ]
    asked = [index for index in rest if morpheme(index) is not None]

    def likeness(indices: Sequence[int]) -> np.ndarray:  # (tokens, anchors)
        rows = [[kiwi.morpheme_similarity(morpheme(index), anchor) for anchor in anchors] for index in indices]
        return np.array(rows, dtype=np.float64).reshape(len(indices), len(anchors))

    known, wanted = likeness(taught), likeness(asked)
    middle, target_middle = known.mean(axis=0), table[taught].mean(axis=0)
    inputs, targets, importance = known - middle, table[taught] - target_middle, weights[taught, None].astype(np.float64)
    gram = (inputs * importance).T @ inputs + _RIDGE * importance.mean() * np.eye(len(anchors))
    mapping = np.linalg.solve(gram, (inputs * importance).T @ targets)
    return dict(zip(asked, (wanted - middle) @ mapping + target_middle, strict=True))
