"""What every ranker can do. A family says in rounds how it ranks, and everything else, serving included, drives those."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np

if TYPE_CHECKING:
    from ko_reranker.engine import Engine, Item, Result
    from ko_reranker.rankers.vectors import VectorCache

# By how much a pair's logit may depend on what is computed together with it. Sums come in another order where a product of
# another size goes by another kernel; in 16 bits some roundings in the layers turn out differently then. A score of 0 to 1
# moves by a quarter of that at most: by 0.02 in bf16, which is what the smoke test of a release allows.
LOGIT_BOUNDS = {"fp32": 1e-4, "int8": 1e-4, "fp16": 0.02, "bf16": 0.08}


class RankerError(Exception):
    """A model cannot be used as a ranker; the message says why."""


class UnrankableError(RankerError):
    """What is asked for cannot be ranked.

    Attributes:
        field: of the request, which is why.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class HeadlessError(RankerError):
    """A model is a transformer without a head: one to train from, not to score with."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took to rank.

    Attributes:
        model_calls: sequences that the model computed.
        tokens: of all of them that were read.
        comparisons: of documents with each other, by rankers that compare; one in both orders takes two calls.
        output_tokens: that the model wrote.
    """

    model_calls: int = 0
    tokens: int = 0
    comparisons: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, items: Sequence[Item]) -> Cost:
        """Return what it costs to compute some items."""
        return cls(len(items), sum(map(len, items)))

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.model_calls + other.model_calls,
            self.tokens + other.tokens,
            self.comparisons + other.comparisons,
            self.output_tokens + other.output_tokens,
        )


@dataclass(frozen=True)
class Scored:
    """The scores of one query's documents, in the order of the documents.

    Attributes:
        logits: float32, (documents,); the higher, the more relevant. Where they are not absolute, (n - rank) / n for a
            document's rank from 0 among n.
        tokens: int32, (documents,); tokens read for each document, the query's and special ones included; all of `cost`.
        truncated: bool, (documents,); whether a part of a document was not read.
        query_truncated: whether the query itself was cut, to half the ranker's length.
        chunks: int32, (documents,); in how many chunks a document was read, the best of which gave its logit.
        cost: what it took.
        raw: float32, (documents,); the family's own score, of `Ranker.raw_scale`; None where that is the logit.
        absolute: whether a logit depends on nothing but query and document, so that it can be compared across requests.
        instructed: whether an instruction was read, had there been one.
        warnings: what was not as it should be, in sentences.
    """

    logits: np.ndarray
    tokens: np.ndarray
    truncated: np.ndarray
    query_truncated: bool
    chunks: np.ndarray
    cost: Cost
    raw: np.ndarray | None = None
    absolute: bool = True
    instructed: bool = False
    warnings: tuple[str, ...] = ()

    def spread(self, indexes: np.ndarray | None) -> Scored:
        """Return the scores of all documents from those of the distinct ones; copies cost no tokens.

        Args:
            indexes: from `distinct`.
        """
        if indexes is None:
            return self
        tokens = np.zeros(len(indexes), self.tokens.dtype)
        _, firsts = np.unique(indexes, return_index=True)
        tokens[firsts] = self.tokens
        return replace(
            self,
            logits=self.logits[indexes],
            tokens=tokens,
            truncated=self.truncated[indexes],
            chunks=self.chunks[indexes],
            raw=None if self.raw is None else self.raw[indexes],
        )


def distinct(documents: Sequence[str]) -> tuple[list[str], np.ndarray | None]:
    """Return each text once, and where each document stands among them: int64, (documents,).

    Scored apart, equal documents might differ in their last digit, and are to tie. None for the indexes where all differ.
    """
    index_of = {document: index for index, document in enumerate(dict.fromkeys(documents))}
    if len(index_of) == len(documents):
        return list(documents), None
    return list(index_of), np.array([index_of[document] for document in documents])


def best_of(scores: np.ndarray, chunks: np.ndarray) -> np.ndarray:
    """Return the best score of each document: float32, (documents,).

    Args:
        scores: float32, (chunks,); of the chunks of all documents, document after document.
        chunks: (documents,); how many chunks each document has, at least one.
    """
    return np.maximum.reduceat(scores, starts_of(chunks)) if len(scores) else scores


def sum_of(counts: np.ndarray, chunks: np.ndarray) -> np.ndarray:
    """Return the sum of each document's counts, (documents,), in their type; the arguments are those of `best_of`."""
    return np.add.reduceat(counts, starts_of(chunks)) if len(counts) else counts


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Return where each of some parts in a row starts: int64, (parts,)."""
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


# A ranking under way: it yields what is to be computed, is sent the results in the same order, and returns what they come to.
Rounds = Generator["Sequence[Item]", "Sequence[Result]", Scored]


class Rankings:
    """Rankings that go on together, round by round: what all of them want computed next is computed at once.

    Nothing in here computes or waits: whoever drives them does, and may do so in a thread, in an event loop or in a test.

    Args:
        rankings: from :meth:`Ranker.rounds`; each is begun before the next one is asked for.

    Attributes:
        scored: what each ranking came to, in order; None as long as it goes on.
    """

    def __init__(self, rankings: Iterable[Rounds]) -> None:
        self.scored: list[Scored | None] = []
        self._rankings: list[Rounds] = []
        self._wanted: list[Sequence[Item]] = []
        for ranking in rankings:
            self.scored.append(None)
            self._rankings.append(ranking)
            self._wanted.append([])
            self._send(len(self._rankings) - 1, None)

    @property
    def items(self) -> list[Item]:
        """What is to be computed now; nothing once all rankings are done."""
        return [item for wanted in self._wanted for item in wanted]

    def advance(self, results: Sequence[Result]) -> None:
        """Go on until the next round, with the results of all items."""
        coming = iter(results)
        for index, wanted in enumerate(self._wanted):
            if wanted:
                self._send(index, list(islice(coming, len(wanted))))

    def ended(self) -> list[Scored]:
        """Return what all rankings came to, once nothing is to be computed any more.

        Raises:
            RuntimeError: one of them goes on.
        """
        scored = [one for one in self.scored if one is not None]
        if len(scored) < len(self.scored):
            raise RuntimeError("a ranking goes on: there is something to compute")
        return scored

    def _send(self, index: int, results: Sequence[Result] | None) -> None:
        wanted: Sequence[Item] = []
        try:
            wanted = next(self._rankings[index]) if results is None else self._rankings[index].send(results)
            while not wanted:  # nothing to compute is no round
                wanted = self._rankings[index].send([])
        except StopIteration as end:
            self.scored[index] = end.value
        self._wanted[index] = wanted


class RankingOptions(TypedDict, total=False):
    """What may be asked of a ranking, as :meth:`Ranker.rounds` explains it."""

    instruction: str | None
    max_tokens_per_doc: int | None
    max_chunks_per_doc: int | None
    top_n: int | None


class Ranker(ABC):
    """Ranks documents by a query. A family of rankers says how in `rounds`; all else follows.

    Attributes:
        max_length: the most tokens of a sequence; of longer documents the end is cut, or they are read in chunks.
        model_id: the model's name, for answers and logs.
        precision: the arithmetic it computes in, for people to read.
        precision_reason: why it is that one, a sentence; empty where nobody says.
        engine: computes the items of its rounds.
        absolute: whether a document's score depends on nothing but query and document. If not, it is the document's rank among
            those it was ranked with, and they have to be ranked together.
        raw_scale: what its raw scores are: ``logit``, or what the family itself takes for a score.
        vectors: documents' vectors that it keeps; None in families that have none.
        max_documents: the most documents that it ranks at once; None for any number.
        kind: what it is, for people to read.
    """

    max_length: int
    model_id: str
    precision: str
    precision_reason: str = ""
    engine: Engine
    absolute: bool = True
    raw_scale: str = "logit"
    vectors: VectorCache | None = None
    max_documents: int | None = None
    kind: str = "reranker"

    def __init__(self, engine: Engine, *, model_id: str, max_length: int, precision: str, precision_reason: str = "") -> None:
        self.engine, self.model_id, self.max_length = engine, model_id, max_length
        self.precision, self.precision_reason = precision, precision_reason

    @abstractmethod
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
        """Rank, yielding what the model is to compute and being sent what it computed, in as many rounds as it takes.

        It never waits and may be driven by any thread, by one at a time.

        Args:
            query: the question.
            documents: any number of them, the empty one included.
            instruction: what to look for; left aside by rankers that read none, as `Scored.instructed` tells.
            max_tokens_per_doc: tokens of a document that are read; None for all.
            max_chunks_per_doc: chunks that a long document is read in; None for the ranker's own limit, which it cannot pass.
            top_n: how many of the best are wanted; it may spare work, and the others then follow in any order. None for all.
        """
        ...

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Return float32 logits, (documents,).

        Raises:
            RankerError: the ranker gives no scores that could be compared, only ranks; `rank` tells those.
        """
        self._check_absolute()
        return self.score_detailed(query, documents).logits

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return float32 logits, (pairs,), of (query, document) pairs.

        Raises:
            RankerError: as `score` does.
        """
        self._check_absolute()
        scored = self._see_through(self.rounds(query, [document]) for query, document in pairs)
        return np.concatenate([np.zeros(0, np.float32), *(one.logits for one in scored)])

    def score_detailed(self, query: str, documents: Sequence[str], **options: Unpack[RankingOptions]) -> Scored:
        """Return the scores together with what was read and what was cut; the options are those of `rounds`."""
        (scored,) = self._see_through([self.rounds(query, documents, **options)])
        return scored

    def rank(self, query: str, documents: Sequence[str], **options: Unpack[RankingOptions]) -> list[int]:
        """Return the indexes of the best ``top_n`` documents, best first; equal ones stay in their order."""
        logits = self.score_detailed(query, documents, **options).logits
        best: list[int] = np.argsort(-logits, kind="stable")[: options.get("top_n")].tolist()
        return best

    def close(self) -> None:
        """Compute what is waiting, then let go of the worker threads."""
        self.engine.close()

    def _see_through(self, rankings: Iterable[Rounds]) -> list[Scored]:
        running = Rankings(rankings)
        while items := running.items:
            running.advance(self.engine.score(items))
        return running.ended()

    def _check_absolute(self) -> None:
        if not self.absolute:
            raise RankerError(f"{self.model_id} compares documents and gives no scores, only their order: use rank.")
