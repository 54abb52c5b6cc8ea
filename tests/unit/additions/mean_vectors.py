"""A family that the library has not: a text is the mean of its tokens' vectors, a score the cosine of two texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ko_reranker.engine import Engine, EngineObserver
from ko_reranker.engine.encoders import make_encoder
from ko_reranker.engine.forwards import PackedForward
from ko_reranker.engine.heads import VectorHead
from ko_reranker.engine.items import Item
from ko_reranker.rankers.classifiers import load_encoder
from ko_reranker.rankers.folders import inspect_folder
from ko_reranker.rankers.interface import Cost, Ranker, Rounds, Scored
from ko_reranker.rankers.options import EngineOptions
from ko_reranker.rankers.placing import placement_for


class MeanVectors(Ranker):
    """Scores by the cosine of mean vectors, in one round: the query and all documents."""

    kind = "mean vectors"

    def __init__(self, engine: Engine, tokenizer: Any, *, model_id: str, max_length: int, precision: str) -> None:
        super().__init__(engine, model_id=model_id, max_length=max_length, precision=precision)
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        folder: Path,
        options: EngineOptions,
        *,
        model_id: str,
        observer: EngineObserver | None = None,
        trust_remote_code: bool = False,
    ) -> MeanVectors:
        placement = placement_for(options)
        source = inspect_folder(folder, model_id, family="mean_vectors", body=True)
        loaded = load_encoder(source, dtype=placement.dtype, trust_remote_code=trust_remote_code)
        transformer = loaded.transformer
        placement.put(transformer)
        head = VectorHead(torch.eye(transformer.config.hidden_size, dtype=placement.dtype, device=placement.device))
        engine = placement.engine(PackedForward(make_encoder(transformer, reads="all"), head), observer)
        return cls(
            engine,
            loaded.tokenizer,
            model_id=model_id,
            max_length=options.max_length or 64,
            precision=placement.precision,
        )

    def rounds(self, query: str, documents: Sequence[str], **options: int | str | None) -> Rounds:
        encoded = [
            self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"] for text in (query, *documents)
        ]
        items = [Item(np.array(ids, np.int32)) for ids in encoded]
        vectors = [rows.mean(0) for rows in (yield items)]
        asked, *read = [vector / np.linalg.norm(vector) for vector in vectors]
        lengths = np.array([len(item) for item in items[1:]], np.int32)
        return Scored(
            logits=np.array([asked @ vector for vector in read], np.float32),
            tokens=lengths,
            truncated=lengths == self.max_length,
            query_truncated=len(items[0]) == self.max_length,
            chunks=np.ones_like(lengths),
            cost=Cost.of(items),
        )
