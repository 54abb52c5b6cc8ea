"""Loading generative rerankers: a decoder, the head that its prompt asks for, and the ranker that asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ko_reranker.engine import EngineObserver
from ko_reranker.engine.answers import AnswerHead, ChoiceHead, DecoderHead, GreedyHead, LikelihoodHead
from ko_reranker.engine.decoders import Decoder, DecoderForward, check_decoder
from ko_reranker.engine.positions import position_limit
from ko_reranker.rankers.classifiers import Loaded, load_decoder
from ko_reranker.rankers.comparing import Comparing
from ko_reranker.rankers.generative_folders import answer_tokens, read_generative
from ko_reranker.rankers.interface import Ranker, RankerError
from ko_reranker.rankers.options import EngineOptions
from ko_reranker.rankers.placing import placement_for
from ko_reranker.rankers.pointwise import Pointwise
from ko_reranker.rankers.prompts import ComparingPrompt, Prompt, PromptError
from ko_reranker.rankers.prompts.encoding import PromptEncoder
from ko_reranker.rankers.prompts.windows import WindowEncoder
from ko_reranker.rankers.texts import CACHE_TOKENS

# A decoder's micro-batches on a CPU are twice a cross-encoder's: some 8 % faster.
_BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}
# By what the prompt is for: several documents have to fit into one sequence.
_DEFAULT_MAX_LENGTHS = {"pointwise": 1024, "likelihood": 1024, "pairwise": 1024, "setwise": 2048, "listwise": 4096}


def load_generative(
    folder: Path,
    options: EngineOptions,
    *,
    model_id: str,
    observer: EngineObserver | None = None,
    trust_remote_code: bool = False,
) -> Ranker:
    """Load from a folder; :func:`ko_reranker.rankers.load_ranker` explains the arguments."""
    if options.dtype == "int8":
        raise RankerError(f"dtype int8 is not there for generative rerankers such as {model_id}: use fp32 or bf16.")
    placement = placement_for(options, _BATCH_TOKENS)
    said = read_generative(folder, model_id, prompt=options.prompt, trust_remote_code=trust_remote_code)
    loaded = load_decoder(said.source, check_decoder, dtype=placement.dtype, trust_remote_code=trust_remote_code)
    length = options.max_length or said.max_length or _DEFAULT_MAX_LENGTHS[said.prompt.method]
    length = min(length, position_limit(loaded.transformer))
    encoder: PromptEncoder | WindowEncoder
    try:
        if isinstance(said.prompt, ComparingPrompt):
            encoder = WindowEncoder(loaded.tokenizer, said.prompt, length, cache_tokens=CACHE_TOKENS)
        else:
            encoder = PromptEncoder(
                loaded.tokenizer, said.prompt, length, max_chunks=options.max_chunks, cache_tokens=CACHE_TOKENS
            )
    except PromptError as error:
        raise RankerError(f"{model_id} cannot be used: {error}.") from error
    if isinstance(said.prompt, Prompt) and options.prompt is None:
        _check_answers(answer_tokens(folder), encoder.answers, said.prompt, loaded, model_id)
    placement.put(loaded.model)
    forward = DecoderForward(Decoder(loaded.transformer), _head(loaded, encoder, classifies=said.classifies))
    engine = placement.engine(forward, observer)
    if isinstance(encoder, WindowEncoder):
        return Comparing(
            engine,
            encoder,
            ends=_ends(loaded),
            model_id=model_id,
            precision=placement.precision,
            precision_reason=placement.reason,
        )
    return Pointwise(
        engine,
        encoder,
        calibration=said.calibration,
        model_id=model_id,
        chunk_overlap=options.chunk_overlap,
        precision=placement.precision,
        precision_reason=placement.reason,
    )


def _check_answers(named: tuple[int, int] | None, asked: Sequence[int], prompt: Prompt, loaded: Loaded, model_id: str) -> None:
    """See that a LogitScore of sentence-transformers reads the answers that the prompt asks for."""
    if named is None or not asked or tuple(asked) == named:
        return
    texts = " and ".join(repr(loaded.tokenizer.decode([token])) for token in named)
    raise RankerError(
        f"{model_id} was made to answer {texts} (its LogitScore), and its prompt asks for {prompt.positive!r} and "
        f"{prompt.negative!r}: write generative.positive and generative.negative into reranker.json."
    )


def _ends(loaded: Loaded) -> frozenset[int]:
    """Return the tokens that end what a model writes."""
    said = getattr(loaded.transformer.generation_config, "eos_token_id", None)
    ends = [*(said if isinstance(said, list) else [said]), loaded.tokenizer.eos_token_id]
    return frozenset(token for token in ends if token is not None)


def _head(loaded: Loaded, encoder: PromptEncoder | WindowEncoder, *, classifies: bool) -> DecoderHead:
    model: Any = loaded.model  # PyTorch's types say of a module's attributes only that they are tensors or modules
    if classifies:
        return AnswerHead(model.score.weight, model.score.bias)
    output, cap = model.get_output_embeddings(), getattr(model.config, "final_logit_softcapping", None)
    if not encoder.answers and isinstance(encoder, WindowEncoder):
        return GreedyHead(output.weight, output.bias)
    if not encoder.answers:
        return LikelihoodHead(output.weight, output.bias, cap=cap)
    rows = torch.tensor(encoder.answers, device=output.weight.device)
    bias = None if output.bias is None else output.bias[rows]
    kind = ChoiceHead if isinstance(encoder, WindowEncoder) else AnswerHead
    return kind(output.weight[rows], bias, cap=cap)
