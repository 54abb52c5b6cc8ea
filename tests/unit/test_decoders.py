"""Decoders without padding against transformers: the same logits, whatever is computed beside and whatever is shared."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from generative_models import decoder, shape
from transformers import (
    AutoModelForSequenceClassification,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from ko_reranker.engine import Engine, Item
from ko_reranker.engine.answers import AnswerHead, GreedyHead, LikelihoodHead
from ko_reranker.engine.decoders import Decoder, DecoderForward, check_decoder
from ko_reranker.engine.prefixes import Prefix

SHAPE = shape()
# Longer than a window, so that a token sees some of the prefix and not all of it.
WINDOW, PREFIX = 16, 25
LENGTHS = [1, 2, 5, 13, 40, 80]
POSITIVE, NEGATIVE = 7, 9
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128}
GEMMA_2 = {"sliding_window": WINDOW, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0}
CONFIGS = {
    "llama, heads of their own": LlamaConfig(**{**SHAPE, "num_key_value_heads": 4}),
    "llama, biases, stretched positions": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA_3),
    "qwen2, tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen2, windows": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, rope_parameters=YARN),
    "gemma": GemmaConfig(**SHAPE, head_dim=32),
    "gemma2": Gemma2Config(**SHAPE, **GEMMA_2, head_dim=32, final_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=32, sliding_window=WINDOW, sliding_window_pattern=2, query_pre_attn_scalar=24),
}


def sequences(seed: int = 0) -> list[np.ndarray]:
    """Sequences that begin alike, the first of them with a single token of its own."""
    draw = np.random.default_rng(seed)
    prefix, *rest = (draw.integers(3, SHAPE["vocab_size"], length).astype(np.int32) for length in [PREFIX, *LENGTHS])
    return [np.concatenate([prefix, own]) for own in rest]


def shared(ids: list[np.ndarray]) -> list[Item]:
    prefix = Prefix(ids[0][:PREFIX])
    return [Item(one[PREFIX:], prefix=prefix, leads=one is ids[-1]) for one in ids]


@torch.inference_mode()
def reference(model: PreTrainedModel, ids: list[np.ndarray]) -> np.ndarray:
    """Each sequence by itself, with the whole vocabulary."""
    last = [model(input_ids=torch.from_numpy(one[None]).long()).logits[0, -1] for one in ids]
    return np.array([float(logits[POSITIVE] - logits[NEGATIVE]) for logits in last])


def forward(model: PreTrainedModel) -> DecoderForward:
    rows = model.get_output_embeddings().weight[[POSITIVE, NEGATIVE]]
    return DecoderForward(Decoder(model), AnswerHead(rows, cap=getattr(model.config, "final_logit_softcapping", None)))


@pytest.fixture(scope="module", params=CONFIGS)
def model(request) -> PreTrainedModel:
    return decoder(CONFIGS[request.param])


def test_logits_are_those_of_transformers(model):
    ids = sequences()
    expected = reference(model, ids)
    logits, computed = forward(model)([Item(one) for one in ids])
    assert expected.std() > 0.1, "all alike, they would prove nothing"
    assert logits == pytest.approx(expected, abs=1e-4)
    assert computed == sum(map(len, ids))


def test_a_shared_prefix_changes_nothing_and_is_computed_once(model):
    ids = sequences()
    compute = forward(model)
    alone, _ = compute([Item(one) for one in ids])
    together, computed = compute(shared(ids))
    assert together == pytest.approx(alone, abs=1e-5)
    assert computed == PREFIX + sum(LENGTHS)
    others = sequences(seed=1)
    mixed, _ = compute([*shared(ids), Item(others[0]), *shared(others)])
    expected, _ = compute([Item(one) for one in (*ids, others[0], *others)])
    assert mixed == pytest.approx(expected, abs=1e-5)


def test_a_prefix_behind_a_prefix_changes_nothing(model):
    ids, compute = sequences()[-1], forward(model)
    first = Prefix(ids[:20])
    second = Prefix(ids[20:50], first)
    third = Prefix(ids[50:53], second)
    items = [Item(ids[len(prefix) :], prefix=prefix, leads=True) for prefix in (first, second, third)]
    assert [len(prefix) for prefix in (first, second, third)] == [20, 50, 53]
    assert [item.tokens for item in items] == [len(ids)] * 3
    logits, computed = compute(items)
    assert logits == pytest.approx([float(compute([Item(ids)])[0][0])] * 3, abs=1e-5)
    assert computed == len(ids) * 3 - 20 - 50, "what comes before a prefix counts with whoever leads that"


def test_the_likeliest_token_is_that_of_transformers(model):
    ids = sequences()
    with torch.inference_mode():
        expected = [int(model(input_ids=torch.from_numpy(one[None]).long()).logits[0, -1].argmax()) for one in ids]
    found, _ = DecoderForward(Decoder(model), GreedyHead(model.get_output_embeddings().weight))(shared(ids))
    assert found.tolist() == expected


def test_in_bf16_logits_stay_near(model):
    ids = sequences()
    exact = reference(model, ids)
    with torch.inference_mode():
        logits, _ = forward(decoder(model.config).to(torch.bfloat16))(shared(ids))
    assert logits == pytest.approx(exact, abs=0.25)


def test_a_classifier_of_the_last_token_is_one_row(model):
    config = type(model.config)(**{**model.config.to_dict(), "num_labels": 1})
    classifier = decoder(config, AutoModelForSequenceClassification)
    ids = sequences()
    with torch.inference_mode():
        expected = [float(classifier(input_ids=torch.from_numpy(one[None]).long()).logits) for one in ids]
    logits, _ = DecoderForward(Decoder(classifier), AnswerHead(classifier.score.weight))(shared(ids))
    assert logits == pytest.approx(expected, abs=1e-4)


def test_the_likelihood_of_what_follows_is_that_of_transformers(model):
    ids, cap = sequences(), getattr(model.config, "final_logit_softcapping", None)
    targets = [1, 2, 4, 12, 39, 70]
    with torch.inference_mode():
        expected = []
        for one, count in zip(ids, targets, strict=True):
            likelihoods = model(input_ids=torch.from_numpy(one[None]).long()).logits[0].log_softmax(-1)
            rows = likelihoods[-count - 1 : -1].gather(1, torch.from_numpy(one[-count:, None]).long())
            expected.append(float(rows.mean()))
    compute = DecoderForward(Decoder(model), LikelihoodHead(model.get_output_embeddings().weight, cap=cap))
    alone = [Item(one[:-1], targets=one[-count:]) for one, count in zip(ids, targets, strict=True)]
    assert compute(alone)[0] == pytest.approx(expected, abs=1e-4)
    prefix = Prefix(ids[0][: PREFIX - 1])
    together = [replace(item, ids=item.ids[len(prefix) :], prefix=prefix) for item in alone]
    assert compute(together)[0] == pytest.approx(compute(alone)[0], abs=1e-5)


def test_the_difference_of_two_rows_is_the_difference_of_their_logits():
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    both, one, other = (AnswerHead(part)(states, []) for part in (rows, rows[:1], rows[1:]))
    assert both == pytest.approx(one - other, abs=1e-6)
    capped = AnswerHead(rows, cap=0.5)(states, [])
    assert capped == pytest.approx(0.5 * np.tanh(one / 0.5) - 0.5 * np.tanh(other / 0.5), abs=1e-6)
    assert both.dtype == AnswerHead(rows.bfloat16())(states.bfloat16(), []).dtype == np.float32


def test_a_prefix_is_computed_once_whoever_comes_first_and_again_if_that_failed():
    prefix, calls, begun = Prefix(np.arange(3, dtype=np.int32)), [], threading.Barrier(4)

    def compute(ids, before):
        calls.append(ids)
        if len(calls) == 1:
            raise RuntimeError("no memory")
        return [ids]

    def ask():
        begun.wait(timeout=10)
        try:
            return prefix.states(compute)
        except RuntimeError:
            return None

    with ThreadPoolExecutor(4) as threads:
        found = [one.result() for one in [threads.submit(ask) for _ in range(4)]]
    assert sum(states is None for states in found) == 1
    assert len(calls) == 2


def test_the_queue_weighs_what_is_computed():
    ids = sequences()
    compute, seen = forward(decoder(CONFIGS["qwen3"])), []

    def observed(items):
        seen.append([len(item) for item in items])
        return compute(items)

    engine = Engine(observed, batch_tokens=PREFIX + max(LENGTHS))
    items = shared(ids)
    try:
        assert engine.score(items) == pytest.approx(compute([Item(one) for one in ids])[0], abs=1e-5)
    finally:
        engine.close()
    assert seen[0] == [PREFIX + max(LENGTHS)], "the longest goes first, and the prefix with it"
    assert sum(map(sum, seen)) == PREFIX + sum(LENGTHS)
    assert [item.tokens for item in items] == [len(one) for one in ids]


def refused(config: PreTrainedConfig) -> str:
    with pytest.raises(ValueError) as error:
        check_decoder(config)
    return str(error.value)


def test_what_is_not_computed_is_refused_by_name():
    assert "is a mistral" in refused(MistralConfig(**SHAPE))
    dynamic = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    assert "positions of type dynamic" in refused(LlamaConfig(**SHAPE, rope_parameters=dynamic))
    assert "both directions" in refused(Gemma3TextConfig(**SHAPE, head_dim=32, use_bidirectional_attention=True))


def test_every_length_around_a_window_is_seen_alike():
    model = decoder(CONFIGS["gemma3"])
    draw = np.random.default_rng(3)
    ids = [draw.integers(3, 300, length).astype(np.int32) for length in range(WINDOW - 2, WINDOW + 4)]
    expected = reference(model, ids)
    compute = forward(model)
    for cut in (1, WINDOW // 2, WINDOW - 3):
        items = [Item(one[cut:], prefix=Prefix(one[:cut])) for one in ids]
        assert compute(items)[0] == pytest.approx(expected, abs=1e-4)
    assert all(one != other for one, other in itertools.pairwise(expected))
