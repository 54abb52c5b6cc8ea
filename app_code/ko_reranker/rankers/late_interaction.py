"""Late interaction (ColBERT): query and documents are read apart, and compared token by token.

A transformer gives every token a vector. A document's score, MaxSim, is the sum or the mean, over the query's vectors, of how
near the nearest of the document's vectors is. Since no document is read together with the query, its vectors can be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ko_reranker.engine import Engine, EngineObserver, Result
from ko_reranker.engine.encoders import ENCODERS, make_encoder
from ko_reranker.engine.forwards import PackedForward
from ko_reranker.engine.heads import VectorHead
from ko_reranker.engine.positions import position_limit
from ko_reranker.models import model_digest
from ko_reranker.rankers.classifiers import load_encoder
from ko_reranker.rankers.interface import Cost, Ranker, RankerError, Rounds, Scored, best_of, distinct, starts_of, sum_of
from ko_reranker.rankers.late_interaction_folders import Calibration, LateInteractionSettings, read_layout
from ko_reranker.rankers.late_interaction_texts import ApartEncoder, EncodedText
from ko_reranker.rankers.options import EngineOptions
from ko_reranker.rankers.placing import placement_for
from ko_reranker.rankers.texts import CACHE_TOKENS
from ko_reranker.rankers.vectors import VectorCache

# Numbers of documents' vectors that are compared at once: 16 MB in fp32, whatever a request has.
_BLOCK_NUMBERS = 4_000_000
# Nothing is farther from a query's token: the match of a document of which no token counts.
_FARTHEST = -1.0


class LateInteraction(Ranker):
    """Scores by MaxSim, in one round: the query, and the documents whose vectors are not kept.

    A document that does not fit is read in overlapping chunks and gets the score of its best one. Where vectors are kept, those
    of all documents are rounded to float16, kept or fresh, so that a score does not depend on what came before.

    Args:
        engine: gives the vectors of encoded texts.
        encoder: tokenises queries and documents.
        calibration: from the mean of the query's best matches to logits.
        vectors: keeps documents' vectors.
        model_id: the model's name.
        chunk_overlap: tokens that neighbouring chunks share.
        precision: the arithmetic it computes in, for people to read.
        precision_reason: why it is that one, a sentence.
    """

    kind = "late interaction"

    def __init__(
        self,
        engine: Engine,
        encoder: ApartEncoder,
        *,
        calibration: Calibration,
        vectors: VectorCache,
        model_id: str,
        chunk_overlap: int,
        precision: str,
        precision_reason: str = "",
    ) -> None:
        super().__init__(
            engine,
            model_id=model_id,
            max_length=encoder.settings.document_length,
            precision=precision,
            precision_reason=precision_reason,
        )
        self.encoder, self.calibration, self.chunk_overlap = encoder, calibration, chunk_overlap
        self.vectors: VectorCache = vectors
        self.settings: LateInteractionSettings = encoder.settings
        self.raw_scale = f"maxsim_{encoder.settings.reduce}"

    @classmethod
    def load(
        cls,
        folder: Path,
        options: EngineOptions,
        *,
        model_id: str,
        observer: EngineObserver | None = None,
        trust_remote_code: bool = False,
    ) -> LateInteraction:
        """Load from a folder; :func:`ko_reranker.rankers.load_ranker` explains the arguments."""
        placement = placement_for(options)
        layout = read_layout(folder, model_id, trust_remote_code=trust_remote_code)
        loaded = load_encoder(layout.source, dtype=placement.dtype, trust_remote_code=trust_remote_code)
        model: PreTrainedModel = loaded.transformer
        placement.put(model)
        if model.config.model_type not in ENCODERS:
            raise layout.source.refused(
                f"is a {model.config.model_type}, whose tokens' vectors are not computed here: what is are "
                f"{', '.join(ENCODERS)}."
            )
        settings, limit = layout.settings, position_limit(model)
        settings = replace(
            settings,
            query_length=min(settings.query_length, limit),
            document_length=min(options.max_length or settings.document_length, limit),
        )
        try:
            if settings.expansion and settings.expansion.length > limit:
                raise ValueError(f"it expands queries to {settings.expansion.length} tokens and has positions for {limit}")
            encoder = ApartEncoder(loaded.tokenizer, settings, max_chunks=options.max_chunks, cache_tokens=CACHE_TOKENS)
        except ValueError as error:
            raise RankerError(f"{model_id} cannot be used: {error}") from error
        weight, bias = layout.projection.weight, layout.projection.bias
        where = (placement.device, placement.dtype)
        head = VectorHead(weight.to(*where), None if bias is None else bias.to(*where))
        packed = make_encoder(model, reads=head.reads, int8=placement.int8)
        return cls(
            placement.engine(PackedForward(packed, head), observer),
            encoder,
            calibration=layout.calibration,
            vectors=_vector_cache(folder, options, placement.precision),
            model_id=model_id,
            chunk_overlap=options.chunk_overlap,
            precision=placement.precision,
            precision_reason=placement.reason,
        )

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
        """Score all documents, whatever ``top_n``; an instruction is not read."""
        texts, indexes = distinct(documents)
        asked, query_truncated = self.encoder.query(query)
        encoded = self.encoder.documents(
            texts, max_chunks=max_chunks_per_doc, overlap=self.chunk_overlap, max_tokens=max_tokens_per_doc
        )
        known = self.vectors.get([chunk.item for chunk in encoded.texts])
        fresh = [index for index, rows in enumerate(known) if rows is None]
        items = [asked.item, *(encoded.texts[index].item for index in fresh)] if encoded.texts else []
        results = yield items
        made = [self._kept(encoded.texts[index], result) for index, result in zip(fresh, results[1:], strict=True)]
        self.vectors.put([encoded.texts[index].item for index in fresh], made)
        coming = iter(made)
        vectors = [next(coming) if rows is None else rows for rows in known]
        means = np.zeros(0, np.float32)
        tokens = np.zeros(len(encoded.texts), np.int32)
        if encoded.texts:
            means = mean_of_best_matches(np.asarray(results[0])[asked.counted], vectors)
            tokens[fresh] = [len(encoded.texts[index].item) for index in fresh]
            tokens[0] += len(asked.item)  # read once, for all of them
        means = best_of(means, encoded.chunks)
        scored = Scored(
            logits=(self.calibration.scale * means + self.calibration.offset).astype(np.float32),
            raw=means * np.float32(len(asked.counted)) if self.settings.reduce == "sum" else means,
            tokens=sum_of(tokens, encoded.chunks),
            truncated=encoded.truncated,
            query_truncated=query_truncated,
            chunks=encoded.chunks,
            cost=Cost.of(items),
        )
        return scored.spread(indexes)

    def encode_query(self, query: str) -> np.ndarray:
        """Return the vectors of a query's tokens that count: float32, (vectors, channels), each of length 1."""
        encoded, _ = self.encoder.query(query)
        rows: np.ndarray = np.asarray(self.engine.score([encoded.item])[0])[encoded.counted]
        return rows

    def encode_documents(self, documents: Sequence[str]) -> list[np.ndarray]:
        """Return the vectors of each document's tokens that count, as `encode_query` does; of a long one its first chunk."""
        chunks = self.encoder.documents(documents, max_chunks=1).texts
        results = self.engine.score([chunk.item for chunk in chunks])
        return [np.asarray(result)[chunk.counted] for chunk, result in zip(chunks, results, strict=True)]

    def _kept(self, chunk: EncodedText, result: Result) -> np.ndarray:
        rows: np.ndarray = np.asarray(result)[chunk.counted]
        return rows.astype(np.float16) if self.vectors.size else rows


def mean_of_best_matches(query: np.ndarray, documents: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over a query's vectors of each one's nearest in a document: float32, (documents,), from -1 to 1.

    All documents' vectors lie in one row, and none is padded: the nearest of each document is the largest of its part.

    Args:
        query: float32, (vectors, channels), each of length 1.
        documents: float16 or float32, (vectors, channels) each, of any numbers of vectors.
    """
    means = np.full(len(documents), _FARTHEST, np.float32)
    query_vectors = torch.from_numpy(np.ascontiguousarray(query))
    block: list[int] = []
    numbers = 0
    filled = [index for index, rows in enumerate(documents) if len(rows)]
    for index in filled:
        if block and numbers + documents[index].size > _BLOCK_NUMBERS:
            means[block] = _compare(query_vectors, [documents[one] for one in block])
            block, numbers = [], 0
        block.append(index)
        numbers += documents[index].size
    if block:
        means[block] = _compare(query_vectors, [documents[one] for one in block])
    return means


def _compare(query_vectors: torch.Tensor, documents: Sequence[np.ndarray]) -> np.ndarray:
    rows = torch.from_numpy(np.concatenate(documents)).float()
    similarities = (query_vectors @ rows.T).numpy()  # (query's vectors, documents' vectors)
    best = np.maximum.reduceat(similarities, starts_of(np.array([len(one) for one in documents])), axis=1)
    means: np.ndarray = best.mean(0, dtype=np.float32)
    return means


def _vector_cache(folder: Path, options: EngineOptions, precision: str) -> VectorCache:
    if not options.vector_cache_bytes:
        return VectorCache(0)
    return VectorCache(options.vector_cache_bytes, f"{model_digest(folder)[:48]} {precision}")
