"""Rankers that compare: a language model is shown several documents at once, and what it prefers puts them into order."""

from __future__ import annotations

from collections.abc import Generator, Sequence, Set
from dataclasses import replace

import numpy as np

from ko_reranker.engine import Engine, Item, Result
from ko_reranker.engine.prefixes import Prefix
from ko_reranker.rankers.interface import Cost, Ranker, Rounds, Scored, distinct
from ko_reranker.rankers.permutations import Faults, parse_order
from ko_reranker.rankers.prompts.windows import Comparisons, WindowEncoder
from ko_reranker.rankers.sorting import Group, all_pairs, answered, best_by_pairs, heap_sort, sliding_sort

# Tokens that a model wrote which are computed again with each further one; past it their keys and values are kept, too.
_APART = 16


class Comparing(Ranker):
    """Finds an order by asking the model which of some documents is better, as a sort wants to know it.

    The prompt's method says how. Pairwise shows two documents in both orders, which undoes the model's liking for a position:
    all pairs, or, where only the best ``top_n`` are wanted, those that a heap needs. Setwise asks a heap for the best of a few.
    Listwise orders one window after the other, from the end to the front. What counts is the logit of a document's label, or,
    if the prompt has no such answer, the order that the model writes, token by token.

    Args:
        engine: gives the logits of the answers, or the next token.
        encoder: puts query and documents into the prompt.
        ends: the tokens that end what the model writes.
        model_id: the model's name.
        precision: the arithmetic it computes in, for people to read.
        precision_reason: why it is that one, a sentence.
    """

    absolute = False
    raw_scale = "rank"
    # All pairs of them are 9,900 sequences.
    max_documents = 100

    def __init__(
        self,
        engine: Engine,
        encoder: WindowEncoder,
        *,
        ends: Set[int],
        model_id: str,
        precision: str,
        precision_reason: str = "",
    ) -> None:
        super().__init__(
            engine,
            model_id=model_id,
            max_length=encoder.max_length,
            precision=precision,
            precision_reason=precision_reason,
        )
        self.encoder, self.ends = encoder, ends
        self.kind = f"generative, {encoder.prompt.method}"

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
        texts, indexes = distinct(documents)
        shown = self.encoder.begin(query, texts, instruction=instruction, max_tokens=max_tokens_per_doc)
        ranking = _Ranking(self.encoder, self.ends, shown)
        order = yield from ranking.order(len(texts), top_n)
        logits = np.empty(len(texts), np.float32)
        logits[order] = [(len(texts) - rank) / len(texts) for rank in range(len(texts))]
        scored = Scored(
            logits=logits,
            tokens=shown.tokens,
            truncated=shown.truncated,
            query_truncated=shown.query_truncated,
            chunks=np.ones(len(texts), np.int32),
            cost=ranking.cost,
            raw=logits,
            absolute=False,
            instructed=self.encoder.prompt.instructed,
            warnings=ranking.warnings,
        )
        return scored.spread(indexes)


class _Ranking:
    """One query's comparisons under way; what it yields and is sent is that of `Rounds`.

    Attributes:
        cost: what it took so far.
        faults: of the orders that the model wrote so far.
    """

    def __init__(self, encoder: WindowEncoder, ends: Set[int], shown: Comparisons) -> None:
        self.cost, self.faults = Cost(), Faults()
        self._encoder, self._prompt, self._ends, self._shown = encoder, encoder.prompt, ends, shown

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was wrong with the orders that the model wrote."""
        faults = self.faults
        if faults == Faults():
            return ()
        return (
            f"of {self.cost.comparisons} orders that the model wrote {faults.misshapen} had another form than asked for; "
            f"{faults.repeated} labels came again, {faults.unknown} were of no document, {faults.missing} documents were not "
            "named and stay where they were",
        )

    def order(self, count: int, top: int | None) -> Generator[Sequence[Item], Sequence[Result], list[int]]:
        """Return the documents, best first; of those behind the first ``top`` in any order."""
        window = self._prompt.window
        if self._prompt.method == "setwise":
            return (yield from answered(heap_sort(count, window - 1, top), self._best))
        if self._prompt.method == "listwise":
            orders = self._orders if self._prompt.answers else self._written
            return (yield from answered(sliding_sort(count, window, self._prompt.step), orders))
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
        """Return the index of the best document of each group."""
        return [order[0] for order in (yield from self._orders(groups))]

    def _orders(self, groups: Sequence[Group]) -> Generator[Sequence[Item], Sequence[Result], list[list[int]]]:
        """Return the indexes of each group, best first; equal ones stay as they are."""
        logits = yield from self._logits(groups, len(groups))
        return [np.argsort(-row[: len(group)], kind="stable").tolist() for row, group in zip(logits, groups, strict=True)]

    def _logits(self, groups: Sequence[Group], comparisons: int) -> Generator[Sequence[Item], Sequence[Result], np.ndarray]:
        """Return the labels' logits, (groups, labels), behind each group's documents; those of no document mean nothing."""
        items = self._shown.items(groups)
        self.cost += replace(Cost.of(items), comparisons=comparisons)
        return np.array((yield items), dtype=np.float32)

    def _written(self, groups: Sequence[Group]) -> Generator[Sequence[Item], Sequence[Result], list[list[int]]]:
        """Return the indexes of each group in the order that the model writes."""
        items = self._shown.items(groups, share=False)
        self.cost += replace(Cost.of(items), comparisons=len(groups))
        names = self._prompt.names
        answers = [
            _Answer(item, names[: len(group)], self._encoder, self._ends) for item, group in zip(items, groups, strict=True)
        ]
        while going := [answer for answer in answers if not answer.ended]:
            tokens = yield [answer.item() for answer in going]
            self.cost += Cost(output_tokens=len(going))
            for answer, token in zip(going, tokens, strict=True):
                answer.add(int(token))
        self.faults = sum((answer.faults for answer in answers), self.faults)
        return [answer.order for answer in answers]


class _Answer:
    """An order that a model writes behind a prompt.

    Attributes:
        order, faults: what it says so far (`ko_reranker.rankers.permutations.parse_order`).
        ended: whether the model has nothing more to say, or nothing more that is wanted.
    """

    def __init__(self, prompt: Item, labels: Sequence[str], encoder: WindowEncoder, ends: Set[int]) -> None:
        # Of all but the last token, whose state tells the next one, keys and values are kept.
        self._prefix, self._fresh, self._ids = Prefix(prompt.ids[:-1]), True, prompt.ids[-1:].tolist()
        self._labels, self._encoder, self._ends = labels, encoder, ends
        self._tokens, self._most = list[int](), encoder.most_written(labels)
        self.order, self.faults = parse_order("", labels)
        self.ended = False

    def item(self) -> Item:
        """Return what tells the next token."""
        if len(self._ids) > _APART:
            self._prefix, self._fresh = Prefix(np.array(self._ids[:-1], np.int32), self._prefix), True
            self._ids = self._ids[-1:]
        item = Item(np.array(self._ids, np.int32), prefix=self._prefix, leads=self._fresh)
        self._fresh = False
        return item

    def add(self, token: int) -> None:
        """Take the next token."""
        if token in self._ends:
            self.ended = True
            return
        self._ids.append(token)
        self._tokens.append(token)
        text = self._encoder.prompt.reply + self._encoder.texts.text(self._tokens)
        self.order, self.faults = parse_order(text, self._labels)
        # Whatever comes behind a whole order in brackets changes nothing.
        self.ended = len(self._tokens) >= self._most or (not self.faults.missing and text.endswith("]"))
