"""Late interaction by ko-reranker and by sentence-transformers, of one folder; raw MaxSim, in the documents' order.

Beside whole requests each computes MaxSim alone, of vectors that it has: `maxsim` returns milliseconds of CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.rankers.late_interaction import mean_of_best_matches
from ko_reranker.rankers.late_interaction_texts import ApartEncoder
from ko_reranker.rankers.vectors import VectorCache

KEPT_BYTES = 2_000_000_000


class KoReranker:
    """`load_ranker`, with long documents cut as the other cuts them."""

    def __init__(self, folder: str, threads: int) -> None:
        # What advances a ranking computes MaxSim in this thread, the engine's workers have threads of their own.
        torch.set_num_threads(threads)
        self.ranker = load_ranker(folder, EngineOptions(dtype="fp32", max_chunks=1, workers=threads, vector_cache_bytes=0))
        self.keeping = self.ranker.encoder
        self.fresh = ApartEncoder(self.keeping.tokenizer, self.ranker.settings)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "transformers", "tokenizers", "ko-reranker")}

    def score(self, query: str, documents: list[str]) -> list[float]:
        """Score documents of which nothing is kept, neither tokens nor vectors."""
        self.ranker.encoder, self.ranker.vectors = self.fresh, VectorCache(0)
        return self._raw(query, documents)

    def keep(self, query: str, documents: list[str]) -> None:
        """Keep what documents make, and nothing else."""
        self.ranker.encoder, self.ranker.vectors = self.keeping, VectorCache(KEPT_BYTES)
        self._raw(query, documents)

    def score_kept(self, query: str, documents: list[str]) -> list[float]:
        """Score documents, those that are kept among them."""
        return self._raw(query, documents)

    def lengths(self, query: str, documents: list[str]) -> list[int]:
        """Return the tokens of the documents."""
        return [len(text.item) for text in self.fresh.documents(documents).texts]

    def maxsim(self, query: str, documents: list[str], times: int, half: bool = False) -> float:
        asked, vectors = self.ranker.encode_query(query), self.ranker.encode_documents(documents)
        if half:
            vectors = [rows.astype(np.float16) for rows in vectors]
        return _milliseconds(lambda: mean_of_best_matches(asked, vectors), times)

    def _raw(self, query: str, documents: list[str]) -> list[float]:
        return self.ranker.score_detailed(query, documents).raw.tolist()


class SentenceTransformers:
    """`MultiVectorEncoder`; sorts by length itself, 32 texts at a time by default."""

    def __init__(self, folder: str, threads: int) -> None:
        from sentence_transformers import MultiVectorEncoder

        torch.set_num_threads(threads)
        self.model = MultiVectorEncoder(folder, device="cpu")

    def versions(self) -> dict[str, str]:
        return {"sentence-transformers": version("sentence-transformers")}

    def score(self, query: str, documents: list[str], batch: int | None = None) -> list[float]:
        return self.model.similarity(*self._vectors(query, documents, batch))[0].tolist()

    def maxsim(self, query: str, documents: list[str], times: int) -> float:
        asked, vectors = self._vectors(query, documents, None)
        return _milliseconds(lambda: self.model.similarity(asked, vectors), times)

    def _vectors(self, query: str, documents: list[str], batch: int | None) -> tuple[Any, Any]:
        more = {} if batch is None else {"batch_size": batch}
        asked = self.model.encode_query([query], show_progress_bar=False)
        return asked, self.model.encode_document(documents, show_progress_bar=False, **more)


def _milliseconds(compute: Callable[[], object], times: int) -> float:
    """Return the median of some calls, the first one not counted."""
    taken = []
    for _ in range(times + 1):
        began = time.process_time()
        compute()
        taken.append((time.process_time() - began) * 1000)
    return float(np.median(taken[1:]))
