"""Rankers that compare: a language model is shown several documents at once, and what it prefers puts them into order."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from ko_reranker.engine import Engine, Item, Result
from ko_reranker.rankers.interface import Cost, Ranker, Rounds, Scored, distinct
from ko_reranker.rankers.prompts.comparing import ComparingPrompt
from ko_reranker.rankers.prompts.windows import Comparisons, WindowEncoder
from ko_reranker.rankers.sorting import Group, all_pairs, answered, best_by_pairs, heap_sort, sliding_sort


class Comparing(Ranker):
    """Finds an order by asking the model which of some documents is better, as a sort wants to know it.

    The prompt's method says how. Pairwise shows two documents in both orders, which undoes the model's liking for a place: all
    pairs, or, where only the best ``top_n`` are wanted, those that a heap needs. Setwise asks a heap for the best of a few.
    Listwise orders one window after the other, from the end to the front. What counts is the logit of a document's label.

    Args:
        engine: gives the logits of the answers.
        encoder: puts query and documents into the prompt.
        model_id: the model's name.
        precision: the arithmetic it computes in, for people to read.
    """

    absolute = False
    # All pairs of them are 9,900 sequences.
    max_documents = 100

    def __init__(self, engine: Engine, encoder: WindowEncoder, *, model_id: str, precision: str) -> None:
        self.engine, self.encoder = engine, encoder
        self.kind = f"generative, {encoder.prompt.method}"
        self.model_id, self.precision = model_id, precision
        self.max_length = encoder.max_length

    def rounds(
        self,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None = None,
        max_tokens_per_doc: int | None = None,
        max_chunks_per_doc: int | None = None,
        top_n: int | None = None,
    ) -> Rounds:
        """Put documents into order; long ones are cut, whatever ``max_chunks_per_doc``, so that all of a window fit.

        Raises:
            UnrankableError: the instruction leaves no room for query and documents.
        """
        texts, places = distinct(documents)
        shown = self.encoder.begin(query, texts, instruction=instruction, max_tokens=max_tokens_per_doc)
        ranking = _Ranking(self.encoder.prompt, shown)
        order = yield from ranking.order(len(texts), top_n)
        logits = np.empty(len(texts), np.float32)
        logits[order] = [(len(texts) - place) / len(texts) for place in range(len(texts))]
        scored = Scored(
            logits=logits,
            tokens=shown.tokens,
            truncated=shown.truncated,
            query_truncated=shown.query_truncated,
            chunks=np.ones(len(texts), np.int32),
            cost=ranking.cost,
            absolute=False,
            instructed=self.encoder.prompt.instructed,
        )
        return scored.spread(places)


class _Ranking:
    """One query's comparisons under way; what it yields and is sent is that of `Rounds`.

    Attributes:
        cost: what it took so far.
    """

    def __init__(self, prompt: ComparingPrompt, shown: Comparisons) -> None:
        self.cost = Cost()
        self._prompt, self._shown = prompt, shown

    def order(self, count: int, top: int | None) -> Generator[Sequence[Item], Sequence[Result], list[int]]:
        """Return the documents, best first; of those behind the first ``top`` in any order."""
        window = self._prompt.window
        if self._prompt.method == "setwise":
            return (yield from answered(heap_sort(count, window - 1, top), self._best))
        if self._prompt.method == "listwise":
            return (yield from answered(sliding_sort(count, window, self._prompt.step), self._orders))
        few = top is not None and top < count
        sort = answered(heap_sort(count, 2, top), best_by_pairs) if few else all_pairs(count)
        return (yield from answered(sort, self._shares))

    def _shares(self, pairs: Sequence[Group]) -> Generator[Sequence[Item], Sequence[Result], list[float]]:
        """Return by how much the first one of each pair wins: who is preferred in one order alone wins half."""
        logits = yield from self._logits([*pairs, *((other, one) for one, other in pairs)], len(pairs))
        ahead = np.sign(logits[:, 0] - logits[:, 1])
        shares: list[float] = (0.5 + (ahead[: len(pairs)] - ahead[len(pairs) :]) / 4).tolist()
        return shares

    def _best(self, groups: Sequence[Group]) -> Generator[Sequence[Item], Sequence[Result], list[int]]:
        """Return the place of the best document of each group."""
        return [order[0] for order in (yield from self._orders(groups))]

    def _orders(self, groups: Sequence[Group]) -> Generator[Sequence[Item], Sequence[Result], list[list[int]]]:
        """Return the places of each group, best first; equal ones stay as they are."""
        logits = yield from self._logits(groups, len(groups))
        return [np.argsort(-row[: len(group)], kind="stable").tolist() for row, group in zip(logits, groups, strict=True)]

    def _logits(self, groups: Sequence[Group], comparisons: int) -> Generator[Sequence[Item], Sequence[Result], np.ndarray]:
        """Return the labels' logits, (groups, labels), behind each group's documents; those of no document mean nothing."""
        items = self._shown.items(groups)
        self.cost += replace(Cost.of(items), comparisons=comparisons)
        return np.array((yield items), dtype=np.float32)
