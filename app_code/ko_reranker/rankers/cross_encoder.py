"""The cross-encoder: query and document are read together by a transformer that gives one logit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ko_reranker.engine import Engine, EngineObserver
from ko_reranker.engine.core import Forward
from ko_reranker.engine.encoders import ENCODERS, make_encoder
from ko_reranker.engine.forwards import PackedForward, PaddedForward
from ko_reranker.engine.graphs import CudaRecorder, GraphForward, recordable
from ko_reranker.engine.heads import logit_head
from ko_reranker.engine.positions import position_limit
from ko_reranker.rankers.classifiers import Loaded, load_scorer
from ko_reranker.rankers.folders import LEAST_LENGTH, SETTINGS_FILE, inspect_folder
from ko_reranker.rankers.interface import Cost, Ranker, RankerError, Rounds, Scored, best_of, distinct, sum_of
from ko_reranker.rankers.modular import ModularClassifier
from ko_reranker.rankers.options import EngineOptions
from ko_reranker.rankers.pairs import PairEncoder
from ko_reranker.rankers.placing import Placement, placement_for
from ko_reranker.rankers.texts import CACHE_TOKENS

DEFAULT_MAX_LENGTH = 512
# A short and a longer document, and by how much a pair's logit may move with its neighbours, in fp32 and in half precision.
_PROBE = (
    "서울의 인구는?",
    ["부산은 항구 도시이다.", "서울의 인구는 약 940만 명이며, 한국에서 가장 많은 사람이 사는 도시이다. Seoul."],
)
_NEIGHBOUR_BOUND, _NEIGHBOUR_BOUND_OF_HALF = 5e-5, 0.25


class CrossEncoder(Ranker):
    """Scores with any sequence classifier of `transformers` that has one label, in one round.

    A document that does not fit is read in overlapping chunks and gets the score of its best one.

    Args:
        engine: scores encoded pairs.
        encoder: tokenises pairs.
        model_id: the model's name.
        chunk_overlap: tokens that neighbouring chunks share.
        precision: the arithmetic it computes in, for people to read.
        precision_reason: why it is that one, a sentence.
    """

    kind = "cross-encoder"

    def __init__(
        self,
        engine: Engine,
        encoder: PairEncoder,
        *,
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
        self.encoder, self.chunk_overlap = encoder, chunk_overlap

    @classmethod
    def load(
        cls,
        folder: Path,
        options: EngineOptions,
        *,
        model_id: str,
        observer: EngineObserver | None = None,
        trust_remote_code: bool = False,
    ) -> CrossEncoder:
        """Load from a folder; :func:`ko_reranker.rankers.load_ranker` explains the arguments."""
        source = inspect_folder(folder, model_id, trust_remote_code=trust_remote_code)
        packed = source.config["model_type"] in ENCODERS and not source.head
        placement = placement_for(options, bf16_pays=packed)
        loaded = load_scorer(folder, model_id, dtype=placement.dtype, trust_remote_code=trust_remote_code)
        model = loaded.model
        length = options.max_length or read_settings(folder).get("max_length") or DEFAULT_MAX_LENGTH
        try:
            length = min(length, position_limit(model))
            if position_limit(model) < LEAST_LENGTH:
                raise ValueError(f"it has positions for {position_limit(model)} tokens: a pair needs at least {LEAST_LENGTH}")
            encoder = PairEncoder(
                loaded.tokenizer,
                length,
                max_chunks=options.max_chunks,
                cache_tokens=CACHE_TOKENS,
                typed=loaded.typed,
            )
        except (AttributeError, ValueError) as error:
            raise RankerError(f"{model_id} cannot be used: {error}") from error
        placement.put(model)
        try:
            forward = _forward(loaded, encoder, placement)
        except ValueError as error:
            raise RankerError(f"{model_id} loads, but {error}") from error
        return cls(
            placement.engine(forward, observer),
            encoder,
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
        encoded = self.encoder.encode_documents(
            query, texts, max_chunks=max_chunks_per_doc, overlap=self.chunk_overlap, max_tokens=max_tokens_per_doc
        )
        results = yield encoded.pairs
        lengths = np.array([len(pair) for pair in encoded.pairs], dtype=np.int32)
        scored = Scored(
            logits=best_of(np.array(results, dtype=np.float32), encoded.chunks),
            tokens=sum_of(lengths, encoded.chunks),
            truncated=encoded.truncated,
            query_truncated=encoded.query_truncated,
            chunks=encoded.chunks,
            cost=Cost.of(encoded.pairs),
        )
        return scored.spread(indexes)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the model's `reranker.json`, {} for a model that was not trained here."""
    file = folder / SETTINGS_FILE
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return settings


def _forward(loaded: Loaded, encoder: PairEncoder, placement: Placement) -> Forward:
    model, budget, int8 = loaded.model, placement.batch_tokens, placement.int8
    if model.config.model_type in ENCODERS and not isinstance(model, ModularClassifier):
        head = logit_head(model)
        packed = make_encoder(model, reads=head.reads, int8=int8)
        if recordable(packed):
            recorder = CudaRecorder(packed.device)
            return GraphForward(packed, head, budget=budget, longest=encoder.max_length, typed=encoder.typed, recorder=recorder)
        return PackedForward(packed, head)
    if int8:
        raise RankerError(f"dtype int8 is not there for models of type {model.config.model_type}: use fp32.")
    forward = PaddedForward(model, budget, padding_id=loaded.padding_id)
    return forward if _ignores_neighbours(forward, encoder) else PaddedForward(model, budget, padding_id=None)


def _ignores_neighbours(forward: PaddedForward, encoder: PairEncoder) -> bool:
    """Return whether a pair's logit does not depend on its neighbours, as it does where padding shows.

    Raises:
        ValueError: the model cannot score.
    """
    pairs, _ = encoder.encode(*_PROBE)
    try:
        alone = np.concatenate([forward([pair])[0] for pair in pairs])
        if not np.isfinite(alone).all():
            raise ValueError("scores a pair of short texts with NaN or infinity")
        bound = _NEIGHBOUR_BOUND if forward.model.dtype == torch.float32 else _NEIGHBOUR_BOUND_OF_HALF
        return forward.padding_id is None or bool(np.abs(forward(pairs)[0] - alone).max() <= bound)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"cannot score a pair: {' '.join(str(error).split())[:300]}") from error
