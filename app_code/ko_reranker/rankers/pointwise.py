"""The generative reranker: a language model is asked in words whether a document is relevant, and its answer is a logit.

Or it is asked for a question that the document answers, and how likely the query is makes the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ko_reranker.engine import Engine, EngineObserver
from ko_reranker.engine.answers import AnswerHead, DecoderHead, LikelihoodHead
from ko_reranker.engine.decoders import Decoder, DecoderForward, check_decoder
from ko_reranker.engine.positions import position_limit
from ko_reranker.processor import bound_caches
from ko_reranker.rankers.classifiers import Loaded, load_decoder
from ko_reranker.rankers.generative_folders import DEFAULT_MAX_LENGTH, LogitCalibration, read_generative
from ko_reranker.rankers.interface import Cost, Ranker, RankerError, Rounds, Scored, best_of, distinct, sum_of
from ko_reranker.rankers.options import EngineOptions
from ko_reranker.rankers.placing import make_engine, placed, precision_of, served_dtype
from ko_reranker.rankers.prompts import PromptError
from ko_reranker.rankers.prompts.encoding import PromptEncoder
from ko_reranker.rankers.texts import CACHE_TOKENS

# A decoder's micro-batches on a CPU are twice a cross-encoder's: some 8 % faster.
_BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}


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
    ) -> None:
        self.engine, self.encoder, self.calibration = engine, encoder, calibration
        self.model_id = model_id
        self.max_length = encoder.max_length
        self.chunk_overlap = chunk_overlap
        self.precision = precision

    @classmethod
    def load(
        cls,
        folder: Path,
        options: EngineOptions,
        *,
        model_id: str,
        observer: EngineObserver | None = None,
        trust_remote_code: bool = False,
    ) -> Pointwise:
        """Load from a folder; :func:`ko_reranker.rankers.load_ranker` explains the arguments."""
        bound_caches()
        if options.dtype == "int8":
            raise RankerError(f"dtype int8 is not there for generative rerankers such as {model_id}: use fp32 or bf16.")
        place = placed(options)
        said = read_generative(folder, model_id, trust_remote_code=trust_remote_code)
        floating = served_dtype(options.dtype, place)
        loaded = load_decoder(said.source, check_decoder, dtype=floating, trust_remote_code=trust_remote_code)
        length = options.max_length or said.max_length or DEFAULT_MAX_LENGTH
        try:
            encoder = PromptEncoder(
                loaded.tokenizer,
                said.prompt,
                min(length, position_limit(loaded.transformer)),
                max_chunks=options.max_chunks,
                cache_tokens=CACHE_TOKENS,
            )
        except PromptError as error:
            raise RankerError(f"{model_id} cannot be used: {error}.") from error
        loaded.model.eval().requires_grad_(False).to(place)
        forward = DecoderForward(Decoder(loaded.transformer), _head(loaded, encoder, classifies=said.classifies))
        options = replace(options, batch_tokens=options.batch_tokens or _BATCH_TOKENS[place.type])
        return cls(
            make_engine(forward, place, options, observer),
            encoder,
            calibration=said.calibration,
            model_id=model_id,
            chunk_overlap=options.chunk_overlap,
            precision=precision_of(options, place),
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
        """Score all documents, whatever ``top_n``.

        Raises:
            UnrankableError: the instruction leaves no room for query and document, or the query has no tokens to be likely.
        """
        texts, places = distinct(documents)
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
        return scored.spread(places)


def _head(loaded: Loaded, encoder: PromptEncoder, *, classifies: bool) -> DecoderHead:
    model: Any = loaded.model  # PyTorch's types say of a module's attributes only that they are tensors or modules
    if classifies:
        return AnswerHead(model.score.weight, model.score.bias)
    output, cap = model.get_output_embeddings(), getattr(model.config, "final_logit_softcapping", None)
    if not encoder.answers:
        return LikelihoodHead(output.weight, output.bias, cap=cap)
    rows = torch.tensor(encoder.answers, device=output.weight.device)
    bias = None if output.bias is None else output.bias[rows]
    return AnswerHead(output.weight[rows], bias, cap=cap)
