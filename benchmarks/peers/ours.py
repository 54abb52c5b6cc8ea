"""ko-reranker's own engine as a scorer, and what only it can tell: padding, tokenisation, the machine's matrix products."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
import torch.nn.functional as F

from benchmarks.inputs import MAX_TOKENS, measured
from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.rankers.pairs import PairEncoder
from ko_reranker.rankers.placing import served_dtype


class Tally:
    """Sums up what the engine reports; an `EngineObserver`."""

    def __init__(self) -> None:
        self.tokens = self.computed = self.sequences = self.batches = 0
        self._lock = threading.Lock()

    def batch(self, *, sequences: int, tokens: int, computed_tokens: int, seconds: float) -> None:
        with self._lock:
            self.batches += 1
            self.sequences += sequences
            self.tokens += tokens
            self.computed += computed_tokens

    def request(self, *, sequences: int, tokens: int, queue_seconds: float, compute_seconds: float) -> None:
        pass


class KoReranker:
    """`load_ranker`, with long documents cut as the others cut them, and without the cache of tokens: every text is new."""

    def __init__(self, folder: str, threads: int, dtype: str = "fp32", device: str = "cpu") -> None:
        self.tally, self.threads = Tally(), threads
        self.device = torch.device(device)
        workers = threads if threads and device == "cpu" else None
        options = EngineOptions(device=device, dtype=dtype, max_chunks=1, workers=workers)
        self.ranker = load_ranker(folder, options, observer=self.tally)
        self.ranker.encoder = PairEncoder(self.ranker.encoder.tokenizer, self.ranker.max_length)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "transformers", "tokenizers", "ko-reranker")}

    def score(self, query: str, documents: list[str]) -> list[float]:
        return self.ranker.score(query, documents).tolist()

    def padding_share(self) -> float:
        """Return which part of the tokens computed so far was padding."""
        return 1 - self.tally.tokens / self.tally.computed

    def tokenisation(self, count: int, documents: int) -> dict[str, float]:
        """Return milliseconds of CPU a request: the tokenizer called plainly, ours, and ours for documents seen before."""
        ranker, rows = self.ranker, [request.first(documents) for request in measured(1)[:count]]
        cached = PairEncoder(ranker.encoder.tokenizer, ranker.max_length, cache_tokens=1_000_000)

        def plain(query: str, texts: list[str]) -> None:
            limits = {"truncation": True, "max_length": MAX_TOKENS}
            ranker.encoder.tokenizer([query] * len(texts), texts, padding=True, return_tensors="pt", **limits)

        calls = {"plain": plain, "ours": ranker.encoder.encode_documents, "cached": cached.encode_documents}
        for call in calls.values():  # the first calls of each are slower, and the cache has to fill
            for row in rows:
                call(row.query, list(row.documents))
        taken = {name: [] for name in calls}
        for row in rows:
            for name, call in calls.items():
                began = time.process_time()
                call(row.query, list(row.documents))
                taken[name].append((time.process_time() - began) * 1000)
        return {name: sorted(times)[len(times) // 2] for name, times in taken.items()}

    def device_name(self) -> str:
        """Return the name of the GPU, or cpu."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def product_rate(self, products: list[tuple[int, int]], seconds: float, dtype: str = "fp32") -> float:
        """Return the operations a second of a layer's matrix products at the token budget.

        On a CPU in fp32 and bf16, each product by the better of PyTorch's two ways to it (its own, and oneDNN with the weight
        laid out beforehand), in int8 by oneDNN, on as many threads at once as the engine has workers; on a GPU in the half
        precision that it serves in.
        """
        rows = self.ranker.engine.batch_tokens
        if self.device.type == "cuda":
            taken = sum(self._seconds_on_gpu(rows, inputs, outputs, seconds) for inputs, outputs in products)
            return sum(2.0 * rows * inputs * outputs for inputs, outputs in products) / taken
        flops = taken = 0.0
        for inputs, outputs in products:
            best = min(self._product_seconds(way, dtype, rows, inputs, outputs, seconds) for way in _WAYS[dtype])
            flops += 2.0 * rows * inputs * outputs * self.threads
            taken += best
        return flops / taken

    def _seconds_on_gpu(self, rows: int, inputs: int, outputs: int, seconds: float) -> float:
        """Return the seconds of one product among many that are queued one behind the other."""
        dtype = served_dtype("auto", self.device)
        left, right = (torch.randn(count, inputs, device=self.device, dtype=dtype) for count in (rows, outputs))
        with torch.inference_mode():
            for _ in range(5):
                F.linear(left, right)
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            count, until = 0, time.perf_counter() + seconds
            start.record()
            while time.perf_counter() < until:
                F.linear(left, right)
                count += 1
            end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / count

    def _product_seconds(
        self, way: Callable[[torch.Tensor], Callable], dtype: str, rows: int, inputs: int, outputs: int, seconds: float
    ) -> float:
        """Return the seconds of one product while every thread computes its own."""
        best = [float("inf")] * self.threads

        def work(place: int) -> None:
            torch.set_num_threads(1)
            left, right = _random(rows, inputs, dtype), _random(outputs, inputs, dtype)
            if dtype == "int8":
                left = left.bitwise_xor(-128).view(torch.uint8)  # 128 more
            multiply, until = way(right), time.perf_counter() + seconds
            times = []
            with torch.inference_mode():
                while len(times) < 5 or time.perf_counter() < until:
                    began = time.thread_time()
                    multiply(left)
                    times.append(time.thread_time() - began)
            best[place] = sorted(times[1:])[len(times) // 2]

        threads = [threading.Thread(target=work, args=(place,)) for place in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(best) / len(best)


def _plain(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda rows: F.linear(rows, weight)


def _prepacked(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    laid_out = torch.ops.mkldnn._reorder_linear_weight.default(weight, 512)
    return lambda rows: torch.ops.mkldnn._linear_pointwise(rows, laid_out, None, "none", [], "")


def _quantised(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Multiply as the engine's `Int8Dense` does, without its roundings."""
    laid_out, outputs = torch.ops.onednn.qlinear_prepack(weight, None), len(weight)
    scales, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)

    def multiply(rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 128, laid_out, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return multiply


def _random(count: int, width: int, dtype: str) -> torch.Tensor:
    if dtype == "int8":
        return torch.randint(-127, 128, (count, width), dtype=torch.int8)
    return torch.randn(count, width, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32)


_WAYS = {"fp32": (_plain, _prepacked), "bf16": (_plain, _prepacked), "int8": (_quantised,)}
