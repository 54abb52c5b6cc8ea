"""The engine against plain transformers, and its queue: what callers rely on whatever arrives, in whatever order."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

from ko_reranker.engine import DeadlineExceeded, Engine, EngineBusy, EngineClosed, Ticket
from ko_reranker.engine.encoders import make_encoder
from ko_reranker.engine.forwards import PackedForward, PaddedForward
from ko_reranker.engine.graphs import TOKENS_PER_SEQUENCE, fitting, ladder
from ko_reranker.engine.packing import pack
from ko_reranker.engine.queueing import RequestQueue
from ko_reranker.rankers.pairs import EncodedPair

VOCABULARY = 300
PADDING = 1
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_labels": 1,
    "pad_token_id": PADDING,
}
MODERN = {**SHAPE, "cls_token_id": 0, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2, "local_attention": 12}
# What Dongjin-kr/ko-reranker and the BGE rerankers are (XLM-R), and the other architectures of published cross-encoders.
CONFIGS = {
    "xlm-roberta": XLMRobertaConfig(**SHAPE, max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5),
    "roberta": RobertaConfig(**SHAPE, max_position_embeddings=130, type_vocab_size=1, hidden_act="relu"),
    "bert": BertConfig(**SHAPE, max_position_embeddings=128),
    "modernbert": ModernBertConfig(**MODERN, classifier_pooling="cls"),
    "modernbert, mean": ModernBertConfig(**MODERN, classifier_pooling="mean", norm_bias=True, attention_bias=True),
    "modernbert, windowed end": ModernBertConfig(**{**MODERN, "num_hidden_layers": 2}),
}
TYPED = {"bert"}


def make_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[name], attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from the small numbers that a fresh model starts with
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def make_pairs(lengths: list[int], *, typed: bool, seed: int = 0) -> list[EncodedPair]:
    draw = np.random.default_rng(seed)
    return [
        # The padding token is among them: a document can spell it out.
        EncodedPair(np.append(0, draw.integers(1, VOCABULARY, length - 1)).astype(np.int32), length // 3, typed, False)
        for length in lengths
    ]


@torch.inference_mode()
def plain_logits(model: PreTrainedModel, pairs: list[EncodedPair]) -> list[float]:
    """Each pair alone, as transformers computes it."""
    features = [{name: torch.tensor([values]) for name, values in pair.features.items()} for pair in pairs]
    return [model(**f, attention_mask=torch.ones_like(f["input_ids"])).logits[0, 0].item() for f in features]


@pytest.fixture(scope="module", params=CONFIGS)
def model_and_forward(request) -> tuple[str, PreTrainedModel, PackedForward]:
    model = make_model(request.param)
    return request.param, model, PackedForward(make_encoder(model))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=8), min_size=1, max_size=4),
    budget=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_logits_are_those_of_plain_transformers_whatever_the_batch(model_and_forward, requests, budget, seed):
    name, model, forward = model_and_forward
    pairs = [make_pairs(lengths, typed=name in TYPED, seed=seed + place) for place, lengths in enumerate(requests)]
    engine = Engine(forward, batch_tokens=budget, workers=2)
    tickets = [engine.submit(request) for request in pairs]  # in flight together: they share micro-batches
    for ticket, request in zip(tickets, pairs, strict=True):
        np.testing.assert_allclose(ticket.result(timeout=30), plain_logits(model, request), atol=2e-5)
    engine.close()


@pytest.mark.parametrize("name", CONFIGS)
def test_int8_ranks_nearly_alike_and_does_not_depend_on_the_batch(name):
    model = make_model(name)
    pairs = make_pairs(list(range(5, 85)), typed=name in TYPED)
    forward = PackedForward(make_encoder(model, int8=True))
    logits, exact = forward(pairs)[0], np.array(plain_logits(model, pairs))
    assert np.corrcoef(logits.argsort().argsort(), exact.argsort().argsort())[0, 1] > 0.97
    np.testing.assert_allclose(np.concatenate([forward([pair])[0] for pair in pairs]), logits, atol=1e-4)


def test_bf16_stays_close():
    model = make_model("xlm-roberta")
    pairs = make_pairs([7, 40, 99], typed=False)
    exact = plain_logits(model, pairs)
    logits = PackedForward(make_encoder(model.bfloat16()))(pairs)[0]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, exact, atol=0.1)


def test_an_architecture_without_an_encoder_is_computed_padded():
    config = ElectraConfig(**SHAPE, embedding_size=48, max_position_embeddings=128)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    assert make_encoder(model) is None
    pairs = make_pairs([3, 50, 20, 90, 4], typed=True)

    def pad(batch: list[EncodedPair]) -> dict[str, torch.Tensor]:
        width = max(map(len, batch))
        names = batch[0].features
        inputs = {name: torch.tensor([pair.features[name] + [0] * (width - len(pair)) for pair in batch]) for name in names}
        mask = torch.tensor([[1] * len(pair) + [0] * (width - len(pair)) for pair in batch])
        return {**inputs, "attention_mask": mask}

    logits, computed = PaddedForward(model, pad, budget=120)(pairs)
    np.testing.assert_allclose(logits, plain_logits(model, pairs), atol=1e-5)
    assert sum(map(len, pairs)) < computed < 5 * 90


class Recorder:
    """Notes what the engine says."""

    def __init__(self) -> None:
        self.batches: list[dict] = []
        self.requests: list[dict] = []

    def batch(self, **facts) -> None:
        self.batches.append(facts)

    def request(self, **facts) -> None:
        self.requests.append(facts)


class Gate:
    """A model whose passes wait for the test; it notes what it is given, and every pair's logit is its length."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Semaphore(0), threading.Semaphore(0)
        self.given: list[list[int]] = []

    def __call__(self, pairs) -> tuple[np.ndarray, int]:
        lengths = [len(pair) for pair in pairs]
        self.given.append(lengths)
        self.entered.release()
        assert self.leave.acquire(timeout=10)
        return np.array(lengths, np.float32), sum(lengths)


def of(lengths: list[int]) -> list[EncodedPair]:
    return make_pairs(lengths, typed=False)


def test_no_padding_is_computed_and_the_budget_bounds_every_micro_batch():
    recorder = Recorder()
    forward = PackedForward(make_encoder(make_model("xlm-roberta")))
    engine = Engine(forward, batch_tokens=150, workers=2, observer=recorder)
    lengths = [100, 90, 80, 70, 60, 50, 40, 30, 20, 10] * 3
    engine.score(of(lengths))
    engine.close()
    assert sum(batch["tokens"] for batch in recorder.batches) == sum(lengths)
    assert all(batch["computed_tokens"] == batch["tokens"] <= 150 for batch in recorder.batches)
    (request,) = recorder.requests
    assert (request["sequences"], request["tokens"]) == (30, sum(lengths))


def test_a_small_request_overtakes_a_large_one_that_is_under_way():
    queue = RequestQueue(100, clock=lambda: 0.0)
    queue.measured(1000, 1.0)
    large, small = Ticket(of([100] * 5), None, 0.0), Ticket(of([30]), None, 0.0)
    queue.add(large)
    first = queue.take()
    queue.add(small)
    batches = [first, *(queue.take() for _ in range(5))]
    assert [[(ticket, len(indexes)) for ticket, indexes in batch.parts] for batch in batches] == [
        [(large, 1)],
        [(small, 1)],
        *[[(large, 1)]] * 4,
    ]


def test_requests_in_flight_share_a_micro_batch():
    gate = Gate()
    engine = Engine(gate, batch_tokens=1000)
    first = engine.submit(of([500]))
    gate.entered.acquire()
    others = [engine.submit(of([20 + number, 40])) for number in range(5)]
    gate.leave.release()
    gate.leave.release()
    assert [other.result(timeout=10).tolist() for other in others] == [[20 + number, 40] for number in range(5)]
    assert first.result().tolist() == [500]
    assert len(gate.given) == 2
    engine.close()


def test_a_large_request_is_not_starved_by_small_ones_that_keep_coming():
    now = 0.0
    queue = RequestQueue(100, clock=lambda: now)
    queue.measured(1000, 1.0)  # 1,000 tokens a second
    large = Ticket(of([100] * 20), None, now)
    queue.add(large)
    served = 0
    for _ in range(400):
        queue.add(Ticket(of([100]), None, now))
        batch = queue.take()
        served += sum(len(indexes) for ticket, indexes in batch.parts if ticket is large)
        now += 0.1
    assert served == 20


def test_the_last_work_is_shared_out_among_the_workers():
    queue = RequestQueue(1000, workers=2)
    queue.add(Ticket(of([100] * 12), None, 0.0))
    assert [queue.take().tokens for _ in range(2)] == [600, 300]


def test_a_full_queue_refuses_and_says_when_to_come_again():
    gate = Gate()
    engine = Engine(gate, batch_tokens=100, max_queue_tokens=250)
    tickets = [engine.submit(of([100]))]
    gate.entered.acquire()
    gate.leave.release()
    tickets[0].result(timeout=10)  # the speed is known now
    tickets.append(engine.submit(of([100])))
    gate.entered.acquire()
    tickets += [engine.submit(of([100])), engine.submit(of([100]))]
    with pytest.raises(EngineBusy) as refused:
        engine.submit(of([100]))
    assert refused.value.retry_after_seconds > 0
    assert engine.waiting == (2, 200)
    with pytest.raises(EngineBusy, match="more than the request has time for"):
        engine.submit(of([10]), deadline=time.monotonic())
    for _ in range(3):
        gate.leave.release()
    assert [ticket.result(timeout=10).tolist() for ticket in tickets] == [[100]] * 4
    engine.close()


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits():
    engine = Engine(lambda pairs: (np.zeros(len(pairs), np.float32), 0), batch_tokens=10, max_queue_tokens=50)
    assert len(engine.submit(of([20] * 10)).result(timeout=10)) == 10
    engine.close()


def test_what_is_cancelled_or_too_late_is_not_computed():
    gate = Gate()
    engine = Engine(gate, batch_tokens=100)
    first = engine.submit(of([100] * 2))
    gate.entered.acquire()
    cancelled, late = engine.submit(of([50])), engine.submit(of([60]), deadline=time.monotonic() + 0.05)
    assert cancelled.cancel()
    time.sleep(0.06)
    gate.leave.release()
    gate.leave.release()
    assert first.result(timeout=10).tolist() == [100, 100]
    with pytest.raises(DeadlineExceeded):
        late.result(timeout=10)
    with pytest.raises(CancelledError):
        cancelled.result()
    engine.close()
    assert [50] not in gate.given and [60] not in gate.given


def test_a_failing_pass_fails_those_it_was_for_and_nobody_else():
    def forward(pairs):
        if any(len(pair) == 13 for pair in pairs):
            raise RuntimeError("thirteen")
        return np.array([len(pair) for pair in pairs], np.float32), 0

    engine = Engine(forward, batch_tokens=10)
    with pytest.raises(RuntimeError, match="thirteen"):
        engine.score(of([13]))
    assert engine.score(of([7])).tolist() == [7]
    engine.close()


def test_a_closed_engine_finishes_what_it_took_and_takes_nothing_more():
    gate = Gate()
    engine = Engine(gate, batch_tokens=100)
    tickets = [engine.submit(of([100])) for _ in range(3)]
    gate.entered.acquire()
    closing = threading.Thread(target=engine.close)
    closing.start()
    for _ in range(3):
        gate.leave.release()
    closing.join(timeout=10)
    assert [ticket.result(timeout=1).tolist() for ticket in tickets] == [[100]] * 3
    with pytest.raises(EngineClosed):
        engine.submit(of([5]))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_brought_to_a_graphs_size_keeps_its_logits(name):
    model = make_model(name)
    encoder = make_encoder(model)
    pairs = make_pairs([17, 3, 90, 45], typed=name in TYPED)
    batch = pack(pairs, first_position=encoder.first_position, padding_id=encoder.padding_id)
    size = fitting(ladder(2048, 100), batch, 100)
    filled = batch.filled(*size, 100)
    assert (filled.tokens, filled.sequences, filled.longest) == (*size, 100)
    with torch.inference_mode():
        np.testing.assert_allclose(encoder(filled)[: len(pairs)], plain_logits(model, pairs), atol=2e-5)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 512), min_size=1, max_size=256), budget=st.integers(600, 20_000))
def test_every_micro_batch_of_the_engine_fits_a_graph(lengths, budget):
    sizes = ladder(budget, 512)
    assert sizes[-1].tokens == budget
    for smaller, larger in itertools.pairwise(sizes):
        assert larger.tokens - smaller.tokens <= max(512, smaller.tokens / 8)
    queue = RequestQueue(budget, most_sequences=budget // TOKENS_PER_SEQUENCE)
    queue.add(Ticket(of(lengths), None, 0.0))
    while micro_batch := queue.take():
        size = fitting(sizes, pack(micro_batch.pairs), 512)
        assert size.tokens >= micro_batch.tokens
