"""The generative reranker: a language model is asked in words whether a document is relevant, and its answer is a logit.

Or it is asked for a question that the document answers, and how likely the query is makes the score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ko_reranker.engine import Engine
from ko_reranker.rankers.generative_folders import LogitCalibration
from ko_reranker.rankers.interface import Cost, Ranker, Rounds, Scored, best_of, distinct, sum_of
from ko_reranker.rankers.prompts.encoding import PromptEncoder


class Pointwise(Ranker):
    """Scores each document by itself, in one round: by how much the logit of the positive answer is above the negative one's,
    or by the mean log-probability of the query's tokens.

    What the documents of a query begin with, the instruction and the query in most prompts, is computed once. A document that
    does not fit is read in overlapping chunks and gets the score of its best one.

    Args:
        engine: gives what the head says of encoded sequences.
        encoder: puts query and documents into the prompt.
        calibration: from that to logits.
        model_id: the model's name.
        chunk_overlap: tokens that neighbouring chunks share.
        precision: the arithmetic it computes in, for people to read.
        precision_reason: why it is that one, a sentence.
    """

    def __init__(
        self,
        engine: Engine,
        encoder: PromptEncoder,
        *,
        calibration: LogitCalibration,
        model_id: str,
        chunk_overlap: int,
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
        self.encoder, self.calibration, self.chunk_overlap = encoder, calibration, chunk_overlap
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
        """Score all documents, whatever ``top_n``.

        Raises:
            UnrankableError: the instruction leaves no room for query and document, or the query has no tokens to be likely.
        """
        texts, indexes = distinct(documents)
        encoded = self.encoder.encode_documents(
            query,
            texts,
            instruction=instruction,
            max_chunks=max_chunks_per_doc,
            overlap=self.chunk_overlap,
            max_tokens=max_tokens_per_doc,
        )
        results = yield encoded.pairs
        values = best_of(np.array(results, dtype=np.float32), encoded.chunks)
        lengths = np.array([len(item) for item in encoded.pairs], dtype=np.int32)
        scored = Scored(
            logits=(self.calibration.scale * values + self.calibration.offset).astype(np.float32),
            tokens=sum_of(lengths, encoded.chunks),
            truncated=encoded.truncated,
            query_truncated=encoded.query_truncated,
            chunks=encoded.chunks,
            cost=Cost.of(encoded.pairs),
            instructed=self.encoder.prompt.instructed,
        )
        return scored.spread(indexes)
