"""The cross-encoder: query and document are read together by a transformer that gives one logit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ko_reranker.engine import Engine, EngineObserver
from ko_reranker.engine.core import Forward
from ko_reranker.engine.dense import check_int8
from ko_reranker.engine.encoders import make_encoder
from ko_reranker.engine.forwards import PackedForward, PaddedForward
from ko_reranker.engine.graphs import TOKENS_PER_SEQUENCE, GraphForward
from ko_reranker.processor import usable_cores
from ko_reranker.rankers.interface import Dtype, RankerError, Scored
from ko_reranker.rankers.pairs import EncodedDocuments, PairEncoder

DEFAULT_MAX_LENGTH = 512
SETTINGS_FILE = "reranker.json"
_DTYPES = {"fp32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}
# More workers of one thread than this get into each other's way in the interpreter; then each has more threads.
_MOST_WORKERS = 8
# Tokens of documents kept for when they come again: 4 bytes each.
_CACHE_TOKENS = 4_000_000


class CrossEncoder:
    """Scores with any sequence classifier of `transformers` that has one label.

    Implements :class:`ko_reranker.rankers.Ranker`. A document that does not fit is read in overlapping pieces and gets the
    score of its best one.

    Args:
        engine: scores encoded pairs.
        encoder: tokenises pairs.
        model_id: the model's name.
        chunk_overlap: tokens that neighbouring pieces share.
        precision: the arithmetic it computes in, for people to read.
    """

    def __init__(
        self,
        engine: Engine,
        encoder: PairEncoder,
        *,
        model_id: str,
        chunk_overlap: int,
        precision: str,
    ) -> None:
        self.engine = engine
        self.encoder = encoder
        self.model_id = model_id
        self.max_length = encoder.max_length
        self.chunk_overlap = chunk_overlap
        self.precision = precision

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        model_id: str,
        device: str,
        dtype: Dtype,
        max_length: int | None,
        batch_tokens: int | None,
        workers: int | None,
        max_chunks: int,
        chunk_overlap: int,
        max_queue_tokens: int | None,
        observer: EngineObserver | None,
    ) -> CrossEncoder:
        """Load from a folder; :func:`ko_reranker.rankers.load_ranker` explains the options and has their defaults."""
        transformers_logging.disable_progress_bar()
        place = _place(device, dtype)
        floating = _dtype(dtype, place)
        try:
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=floating)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise RankerError(f"{folder} cannot be loaded as a sequence classifier: {error}") from error
        if model.config.num_labels != 1:
            raise RankerError(f"{folder} has {model.config.num_labels} labels: a reranker has one, its relevance.")
        length = max_length or read_settings(folder).get("max_length") or DEFAULT_MAX_LENGTH
        try:
            length = min(length, position_limit(model))
            encoder = PairEncoder(tokenizer, length, max_chunks=max_chunks, cache_tokens=_CACHE_TOKENS)
        except (AttributeError, ValueError) as error:
            raise RankerError(f"{folder} cannot be used: {error}") from error
        budget = batch_tokens or _BATCH_TOKENS[place.type]
        forward = _forward(model.eval().requires_grad_(False).to(place), encoder, budget, int8=dtype == "int8")
        workers, threads = _workers(place, workers)
        engine = Engine(
            forward,
            batch_tokens=budget,
            workers=workers,
            threads=threads,
            most_sequences=max(1, budget // TOKENS_PER_SEQUENCE) if place.type == "cuda" else 2**31,
            max_queue_tokens=max_queue_tokens,
            observer=observer,
        )
        return cls(
            engine,
            encoder,
            model_id=model_id,
            chunk_overlap=chunk_overlap,
            precision="int8" if dtype == "int8" else str(floating).removeprefix("torch."),
        )

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Return float32 logits, (documents,)."""
        return self.score_detailed(query, documents).logits

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return float32 logits, (pairs,), of (query, document) pairs."""
        encoded = [self.prepare(query, [document]) for query, document in pairs]
        logits = self.engine.score([pair for item in encoded for pair in item.pairs])
        return best_of(logits, np.concatenate([item.chunks for item in encoded])) if encoded else logits

    def score_detailed(
        self,
        query: str,
        documents: Sequence[str],
        *,
        max_tokens_per_doc: int | None = None,
        max_chunks_per_doc: int | None = None,
    ) -> Scored:
        """Return the logits together with what was read and what was cut."""
        encoded = self.prepare(query, documents, max_tokens_per_doc=max_tokens_per_doc, max_chunks_per_doc=max_chunks_per_doc)
        return self.finish(encoded, self.engine.score(encoded.pairs))

    def prepare(
        self,
        query: str,
        documents: Sequence[str],
        *,
        max_tokens_per_doc: int | None = None,
        max_chunks_per_doc: int | None = None,
    ) -> EncodedDocuments:
        """Tokenise the documents of one query; by itself, for who submits to the engine."""
        return self.encoder.encode_documents(
            query, documents, max_chunks=max_chunks_per_doc, overlap=self.chunk_overlap, max_tokens=max_tokens_per_doc
        )

    def finish(self, encoded: EncodedDocuments, logits: np.ndarray) -> Scored:
        """Give every document the logit of its best piece.

        Args:
            encoded: what `prepare` returned.
            logits: float32, (pairs,); of its pairs.
        """
        lengths = np.array([len(pair) for pair in encoded.pairs], dtype=np.int32)
        return Scored(
            logits=best_of(logits, encoded.chunks),
            tokens=np.add.reduceat(lengths, _starts(encoded.chunks)) if len(lengths) else lengths,
            truncated=encoded.truncated,
            query_truncated=encoded.query_truncated,
            chunks=encoded.chunks,
        )

    def close(self) -> None:
        """Score what is waiting, then let go of the worker threads."""
        self.engine.close()


def best_of(logits: np.ndarray, chunks: np.ndarray) -> np.ndarray:
    """Return the best logit of each document: float32, (documents,).

    Args:
        logits: float32, (pairs,); the pieces of all documents, document after document.
        chunks: (documents,); how many pieces each document has, at least one.
    """
    return np.maximum.reduceat(logits, _starts(chunks)) if len(logits) else logits


def _starts(chunks: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(chunks)[:-1]])


def read_settings(folder: Path) -> dict:
    """Return the model's `reranker.json`, {} for a model that was not trained here."""
    file = folder / SETTINGS_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def position_limit(model: PreTrainedModel) -> int:
    """Return the longest input the model has positions for."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return 2**31 if positions is None else positions - first_position(model)


def first_position(model: PreTrainedModel) -> int:
    """Return the place of a sequence's first token: RoBERTa and its kin count from behind the padding index."""
    embeddings = getattr(getattr(model, model.base_model_prefix, None), "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def _forward(model: PreTrainedModel, encoder: PairEncoder, budget: int, *, int8: bool) -> Forward:
    packed = make_encoder(model, int8=int8)
    if packed is not None:
        # PyTorch's variable-length attention, which a graph needs, takes half precision only.
        if packed.device.type == "cuda" and model.dtype in (torch.bfloat16, torch.float16):
            return GraphForward(packed, budget=budget, longest=encoder.max_length, typed=encoder.typed)
        return PackedForward(packed)
    if int8:
        raise RankerError(f"dtype int8 is not there for models of type {model.config.model_type}: use fp32.")
    return PaddedForward(model, encoder.pad, budget)


def _place(device: str, dtype: Dtype) -> torch.device:
    place = torch.device(("cuda" if torch.cuda.is_available() and dtype != "int8" else "cpu") if device == "auto" else device)
    if dtype == "int8" and place.type != "cpu":
        raise RankerError("dtype int8 is for CPUs: use bf16 or fp16 on a GPU.")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise RankerError("device is cuda, but PyTorch sees no GPU: use cpu, or install a CUDA build of PyTorch.")
    if dtype == "int8":
        try:
            check_int8()
        except (RuntimeError, AttributeError) as error:
            raise RankerError(f"dtype int8 does not work on this machine ({error}): use fp32.") from error
    return place


def _workers(place: torch.device, workers: int | None) -> tuple[int, int]:
    """Return how many workers score, and how many threads each may use."""
    if place.type == "cuda":
        return workers or 1, 1
    cores = usable_cores()
    workers = workers or min(cores, _MOST_WORKERS)
    return workers, max(1, cores // workers)


def _dtype(name: Dtype, place: torch.device) -> torch.dtype:
    if name != "auto":
        return _DTYPES[name]
    if place.type == "cpu":
        return torch.float32
    # Compute capability 8 (Ampere) is the first with bf16 in hardware; PyTorch emulates it below.
    return torch.bfloat16 if torch.cuda.get_device_capability(place)[0] >= 8 else torch.float16
