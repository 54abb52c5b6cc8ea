"""The cross-encoder: query and document are read together by a transformer that gives one logit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ko_reranker.rankers.interface import Dtype, RankerError, Scored
from ko_reranker.rankers.pairs import EncodedPair, PairEncoder, token_batches

DEFAULT_MAX_LENGTH = 512
SETTINGS_FILE = "reranker.json"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BATCH_TOKENS = {"cpu": 2_048, "cuda": 65_536}


class CrossEncoder:
    """Scores with any sequence classifier of `transformers` that has one label.

    Implements :class:`ko_reranker.rankers.Ranker`.

    Args:
        model: the classifier, on its device.
        encoder: tokenises pairs.
        model_id: the model's name.
        batch_tokens: tokens, padding included, in one forward pass.
    """

    def __init__(self, model: PreTrainedModel, encoder: PairEncoder, *, model_id: str, batch_tokens: int) -> None:
        self.model = model.eval()
        self.encoder = encoder
        self.model_id = model_id
        self.max_length = encoder.max_length
        self.batch_tokens = batch_tokens

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        model_id: str | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ) -> CrossEncoder:
        """Load from a folder; see :func:`ko_reranker.rankers.load_ranker`."""
        transformers_logging.disable_progress_bar()
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if place.type == "cuda" and not torch.cuda.is_available():
            raise RankerError("device is cuda, but PyTorch sees no GPU: use cpu, or install a CUDA build of PyTorch.")
        try:
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=_dtype(dtype, place))
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise RankerError(f"{folder} cannot be loaded as a sequence classifier: {error}") from error
        if model.config.num_labels != 1:
            raise RankerError(f"{folder} has {model.config.num_labels} labels: a reranker has one, its relevance.")
        length = max_length or read_settings(folder).get("max_length") or DEFAULT_MAX_LENGTH
        return cls(
            model.to(place),
            PairEncoder(tokenizer, min(length, position_limit(model))),
            model_id=model_id or str(folder),
            batch_tokens=batch_tokens or _BATCH_TOKENS[place.type],
        )

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Return float32 logits, (documents,)."""
        return self.score_detailed(query, documents).logits

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return float32 logits, (pairs,), of (query, document) pairs."""
        return self._logits(self.encoder.encode_pairs(pairs))

    def score_detailed(self, query: str, documents: Sequence[str]) -> Scored:
        """Return the logits together with what was read and what was cut."""
        pairs, query_truncated = self.encoder.encode(query, documents)
        return Scored(
            logits=self._logits(pairs),
            tokens=np.array([len(pair) for pair in pairs], dtype=np.int32),
            truncated=np.array([pair.truncated for pair in pairs], dtype=bool),
            query_truncated=query_truncated,
        )

    @torch.inference_mode()
    def _logits(self, pairs: Sequence[EncodedPair]) -> np.ndarray:
        logits = np.empty(len(pairs), dtype=np.float32)
        for batch in token_batches(pairs, self.batch_tokens):
            inputs = self.encoder.pad(pairs[index] for index in batch)
            inputs = {key: value.to(self.model.device) for key, value in inputs.items()}
            logits[batch] = self.model(**inputs).logits[:, 0].float().cpu().numpy()
        return logits


def read_settings(folder: Path) -> dict:
    """Return the model's `reranker.json`, {} for a model that was not trained here."""
    file = folder / SETTINGS_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def position_limit(model: PreTrainedModel) -> int:
    """Return the longest input the model has positions for."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None:
        return 2**31
    # RoBERTa and its kin count places from the padding index on.
    embeddings = getattr(getattr(model, model.base_model_prefix, None), "embeddings", None)
    offset = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return positions if offset is None else positions - offset - 1


def _dtype(name: Dtype, place: torch.device) -> torch.dtype:
    if name != "auto":
        return _DTYPES[name]
    if place.type == "cpu":
        return torch.float32
    # Compute capability 8 (Ampere) is the first with bf16 in hardware; PyTorch emulates it below.
    return torch.bfloat16 if torch.cuda.get_device_capability(place)[0] >= 8 else torch.float16
