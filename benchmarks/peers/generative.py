"""A generative reranker by ko-reranker, by sentence-transformers and by plain Transformers, of one folder; raw logits.

What is compared is the whole of a request, from texts to the documents' logits, in their order.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ko_reranker.engine import Item
from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.rankers.generative_folders import read_generative
from ko_reranker.rankers.prompts.encoding import PromptEncoder


class KoReranker:
    """`load_ranker`, with long documents cut as the others cut them; the tokens of none are kept."""

    def __init__(self, folder: str, threads: int) -> None:
        self.ranker = load_ranker(folder, EngineOptions(device="cpu", dtype="fp32", max_chunks=1, workers=threads))
        kept = self.ranker.encoder
        self.ranker.encoder = PromptEncoder(AutoTokenizer.from_pretrained(folder), kept.prompt, kept.max_length)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "transformers", "tokenizers", "ko-reranker")}

    def score(self, query: str, documents: list[str]) -> list[float]:
        return self.ranker.score(query, documents).tolist()

    def tokens(self, query: str, documents: list[str]) -> tuple[int, int]:
        """Return the tokens of all sequences, and those that are computed of them."""
        pairs = self.ranker.encoder.encode_documents(query, documents).pairs
        return sum(pair.tokens for pair in pairs), sum(map(len, pairs))


class SentenceTransformers:
    """`CrossEncoder`; sorts by length itself, 32 pairs at a time by default."""

    def __init__(self, folder: str, threads: int) -> None:
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(threads)
        self.model = CrossEncoder(folder, device="cpu", activation_fn=torch.nn.Identity())

    def versions(self) -> dict[str, str]:
        return {"sentence-transformers": version("sentence-transformers")}

    def score(self, query: str, documents: list[str]) -> list[float]:
        pairs = [(query, document) for document in documents]
        return self.model.predict(pairs, show_progress_bar=False).tolist()


class Transformers:
    """`AutoModelForCausalLM` as model cards show it: padded at the left, the last token's logits alone; sorted by length."""

    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        said, tokenizer = read_generative(Path(folder)), AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.encoder = PromptEncoder(tokenizer, said.prompt, said.max_length)
        self.padding = tokenizer.pad_token_id

    def versions(self) -> dict[str, str]:
        return {}

    @torch.inference_mode()
    def score(self, query: str, documents: list[str], batch: int) -> list[float]:
        pairs = self.encoder.encode_documents(query, documents, share=False).pairs
        order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place]))
        found = [0.0] * len(pairs)
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            for place, value in zip(places, self._logits([pairs[place] for place in places]), strict=True):
                found[place] = value
        return found

    def _logits(self, pairs: list[Item]) -> list[float]:
        width = max(map(len, pairs))
        ids, mask = torch.full((len(pairs), width), self.padding), torch.zeros(len(pairs), width, dtype=torch.int64)
        for row, pair in enumerate(pairs):
            ids[row, width - len(pair) :] = torch.from_numpy(pair.ids)
            mask[row, width - len(pair) :] = 1
        logits = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False).logits[:, -1]
        positive, *negative = self.encoder.answers
        scores = logits[:, positive]
        return (scores - logits[:, negative[0]] if negative else scores).tolist()
