"""Rerankers on PyTorch, called as their documentation calls them.

Each takes a model directory, ``threads`` and a device; ``score`` returns logits in the documents' order, with ``batch`` pairs
at a time where that can be chosen. A ``batch`` of None is the default, the documents in the order in which they came.
"""

from __future__ import annotations

import asyncio
import threading
from importlib.metadata import version
from typing import Any

import torch

MAX_TOKENS = 512


def _use(threads: int) -> None:
    """Set PyTorch's threads; 0 leaves them as they are."""
    if threads:
        torch.set_num_threads(threads)


class _Scorer:
    packages: tuple[str, ...] = ()

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "transformers", *self.packages)}


def by_length(documents: list[str]) -> list[int]:
    """Return the places of the documents, shortest first: a batch of like lengths has little padding."""
    return sorted(range(len(documents)), key=lambda place: len(documents[place]))


def in_order(places: list[int], logits: list[float]) -> list[float]:
    """Undo `by_length`."""
    ordered = [0.0] * len(logits)
    for place, logit in zip(places, logits, strict=True):
        ordered[place] = logit
    return ordered


class Transformers(_Scorer):
    """`AutoModelForSequenceClassification`, one pair at a time: what scores are compared with."""

    def __init__(self, folder: str, threads: int, device: str = "cpu") -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        _use(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).to(device).eval()

    @torch.inference_mode()
    def score(self, query: str, documents: list[str]) -> list[float]:
        logits = []
        for document in documents:
            inputs = self.tokenizer(query, document, truncation="only_second", max_length=MAX_TOKENS, return_tensors="pt")
            logits.append(self.model(**inputs.to(self.model.device)).logits.item())
        return logits

    def lengths(self, query: str, documents: list[str]) -> list[int]:
        inputs = self.tokenizer([query] * len(documents), documents, truncation="only_second", max_length=MAX_TOKENS)
        return [len(ids) for ids in inputs["input_ids"]]


class Pipeline(_Scorer):
    """The text-classification pipeline, as SageMaker's Hugging Face inference toolkit runs it: one pair at a time."""

    def __init__(self, folder: str, threads: int, dtype: str = "fp32") -> None:
        from transformers import pipeline

        _use(threads)
        more = {"dtype": torch.bfloat16} if dtype == "bf16" else {}
        self.pipeline = pipeline("text-classification", model=folder, device=-1, **more)

    def score(self, query: str, documents: list[str], batch: int | None = None) -> list[float]:
        places = list(range(len(documents))) if batch is None else by_length(documents)
        pairs = [{"text": query, "text_pair": documents[place]} for place in places]
        more = {} if batch is None else {"batch_size": batch}
        rows = self.pipeline(pairs, truncation=True, max_length=MAX_TOKENS, function_to_apply="none", **more)
        return in_order(places, [row["score"] for row in rows])


class FlagEmbedding(_Scorer):
    """`FlagReranker`; sorts by length itself, 128 pairs at a time by default."""

    packages = ("FlagEmbedding",)

    def __init__(self, folder: str, threads: int, device: str = "cpu") -> None:
        from FlagEmbedding import FlagReranker

        _use(threads)
        # Its manual's setting for a GPU; on a CPU it computes in fp32 whatever is asked for.
        self.reranker = FlagReranker(folder, devices=device, use_fp16=device != "cpu")

    def score(self, query: str, documents: list[str], batch: int | None = None) -> list[float]:
        more = {} if batch is None else {"batch_size": batch}
        return [float(score) for score in self.reranker.compute_score([(query, text) for text in documents], **more)]


class SentenceTransformers(_Scorer):
    """`CrossEncoder.predict`; sorts by length itself, 32 pairs at a time by default."""

    packages = ("sentence-transformers",)

    def __init__(self, folder: str, threads: int, device: str = "cpu", dtype: str = "fp32") -> None:
        from sentence_transformers import CrossEncoder

        _use(threads)
        more = {"model_kwargs": {"dtype": "bfloat16"}} if device != "cpu" or dtype == "bf16" else {}
        self.model = CrossEncoder(folder, device=device, max_length=MAX_TOKENS, **more)

    def score(self, query: str, documents: list[str], batch: int | None = None) -> list[float]:
        more = {} if batch is None else {"batch_size": batch}
        pairs = [(query, text) for text in documents]
        return self.model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False, **more).tolist()


class Infinity(_Scorer):
    """Infinity's engine in this process, without its HTTP server; sorts by length itself, 32 pairs at a time by default."""

    packages = ("infinity-emb",)

    def __init__(self, folder: str, threads: int) -> None:
        _use(threads)
        self.folder, self.batch, self.engine = folder, None, None
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.prepare(None)

    def prepare(self, batch: int | None) -> None:
        """Start the engine anew: its batch size is fixed at the start."""
        from infinity_emb import AsyncEmbeddingEngine, EngineArgs

        if self.engine:
            self._run(self.engine.astop())
        self.batch = batch
        more = {} if batch is None else {"batch_size": batch}
        options: dict[str, Any] = {"engine": "torch", "device": "cpu", "dtype": "float32", "bettertransformer": False}
        arguments = EngineArgs(model_name_or_path=self.folder, model_warmup=False, **options, **more)
        self.engine = AsyncEmbeddingEngine.from_args(arguments)
        self._run(self.engine.astart())

    def score(self, query: str, documents: list[str], batch: int | None = None) -> list[float]:
        if batch != self.batch:
            raise ValueError(f"the engine runs with batches of {self.batch}: call prepare first")
        rows, _ = self._run(self.engine.rerank(query=query, docs=documents, raw_scores=True))
        return in_order([row.index for row in rows], [float(row.relevance_score) for row in rows])

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()
