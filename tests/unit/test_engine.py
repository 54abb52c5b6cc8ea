"""The engine against plain transformers, and its queue: what callers rely on whatever arrives, in whatever order."""

from __future__ import annotations

import copy
import itertools
import threading
import time
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext
from dataclasses import replace

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
    RoFormerConfig,
    XLMRobertaConfig,
)

from ko_reranker.engine import DeadlineExceeded, Engine, EngineBusy, EngineClosed, Item, Ticket
from ko_reranker.engine.attention import attend, fused_attention, gpu_kernel
from ko_reranker.engine.dense import few_rows
from ko_reranker.engine.encoders import ENCODERS, make_encoder
from ko_reranker.engine.forwards import PackedForward, PaddedForward
from ko_reranker.engine.graphs import TOKENS_PER_SEQUENCE, CudaRecorder, GraphForward, fitting, ladder
from ko_reranker.engine.heads import logit_head
from ko_reranker.engine.packing import pack
from ko_reranker.engine.queueing import RequestQueue
from ko_reranker.rankers.interface import LOGIT_BOUNDS

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
    "electra": ElectraConfig(**SHAPE, max_position_embeddings=128, embedding_size=24),
    "modernbert": ModernBertConfig(**MODERN, classifier_pooling="cls"),
    "modernbert, mean": ModernBertConfig(**MODERN, classifier_pooling="mean", norm_bias=True, attention_bias=True),
    "modernbert, windowed end": ModernBertConfig(**{**MODERN, "num_hidden_layers": 2}),
}
TYPED = {"bert", "electra"}


def make_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[name], attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from the small numbers that a fresh model starts with
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def make_pairs(lengths: list[int], *, typed: bool, seed: int = 0) -> list[Item]:
    draw = np.random.default_rng(seed)
    return [
        # The padding token is among them: a document can spell it out.
        Item(np.append(0, draw.integers(1, VOCABULARY, length - 1)).astype(np.int32), length // 3 if typed else None)
        for length in lengths
    ]


@torch.inference_mode()
def plain_logits(model: PreTrainedModel, pairs: list[Item]) -> list[float]:
    """Each pair alone, as transformers computes it."""
    features = [{name: torch.tensor([values]) for name, values in pair.features.items()} for pair in pairs]
    return [model(**f, attention_mask=torch.ones_like(f["input_ids"])).logits[0, 0].item() for f in features]


def classifier(model: PreTrainedModel, **options: bool) -> PackedForward:
    head = logit_head(model)
    return PackedForward(make_encoder(model, reads=head.reads, **options), head)


@pytest.fixture(scope="module", params=CONFIGS)
def model_and_forward(request) -> tuple[str, PreTrainedModel, PackedForward]:
    model = make_model(request.param)
    return request.param, model, classifier(model)


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


@pytest.mark.usefixtures("int8")
@pytest.mark.parametrize("name", CONFIGS)
def test_int8_ranks_nearly_alike_and_does_not_depend_on_the_batch(name):
    model = make_model(name)
    pairs = make_pairs(list(range(5, 85)), typed=name in TYPED)
    forward = classifier(model, int8=True)
    logits, exact = forward(pairs)[0], np.array(plain_logits(model, pairs))
    assert np.corrcoef(logits.argsort().argsort(), exact.argsort().argsort())[0, 1] > 0.97
    np.testing.assert_allclose(np.concatenate([forward([pair])[0] for pair in pairs]), logits, atol=1e-4)


def test_bf16_stays_close():
    model = make_model("xlm-roberta")
    pairs = make_pairs([7, 40, 99], typed=False)
    exact = plain_logits(model, pairs)
    logits = classifier(model.bfloat16())(pairs)[0]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, exact, atol=0.1)


@pytest.mark.parametrize("name", ["xlm-roberta", "bert", "modernbert"])
def test_in_bf16_a_micro_batch_has_one_of_few_sizes_and_nobody_notices(name):
    forward = classifier(make_model(name).bfloat16())
    shapes = set()

    class Watched:
        def __getattr__(self, attribute):
            return getattr(encoder, attribute)

        def __call__(self, batch):
            shapes.add((batch.tokens, batch.sequences))
            return encoder(batch)

    encoder, forward.encoder = forward.encoder, Watched()
    for count in range(1, 40):
        pairs = make_pairs([3 + (7 * place) % 29 for place in range(count)], typed=name in TYPED)
        logits, computed = forward(pairs)
        assert logits.shape == (count,)
        assert sum(map(len, pairs)) <= computed <= few_rows(sum(map(len, pairs)) + 8)
        np.testing.assert_allclose(logits[:1], forward(pairs[:1])[0], atol=LOGIT_BOUNDS["bf16"])
    assert {tokens for tokens, _ in shapes} <= {few_rows(tokens) for tokens in range(1, 2000)}
    assert {sequences for _, sequences in shapes} == {8, 16, 24, 32, 40}


@given(st.integers(1, 100_000))
def test_numbers_of_rows_are_few(rows):
    assert rows <= few_rows(rows) < max(rows + 8, rows * 9 / 8)
    assert few_rows(few_rows(rows)) == few_rows(rows)
    assert len({few_rows(number) for number in range(1, 1025)}) == 40


@given(
    queries=st.integers(1, 40),
    keys=st.integers(1, 70),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    masked=st.booleans(),
)
@settings(deadline=None)
def test_attention_to_keys_filled_up_is_the_same(queries, keys, dtype, masked):
    generator = torch.Generator().manual_seed(queries * keys)
    query, key, value = (torch.randn(1, 2, count, 16, generator=generator).to(dtype) for count in (queries, keys, keys))
    mask = None
    if masked:
        mask = torch.rand(queries, keys, generator=generator) < 0.5
        mask[:, 0] = True
    plain = torch.nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask)
    found = fused_attention(query, key, value, mask, None)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), plain, atol=2e-6 if dtype == torch.float32 else 2e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequence_of_nan_is_nobody_elses(dtype):
    batch = pack(make_pairs([13, 21, 5], typed=False))
    states = torch.randn(39, 2, 16).to(dtype)
    expected = attend(states, states, states, batch)
    broken = states.clone()
    broken[13:34] = torch.nan
    found = attend(broken, broken, broken, batch)
    assert torch.equal(found[:13], expected[:13])
    assert torch.equal(found[34:], expected[34:])


def test_an_architecture_without_an_encoder_is_computed_padded():
    config = RoFormerConfig(**SHAPE, embedding_size=48, max_position_embeddings=128)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    assert config.model_type not in ENCODERS
    pairs = make_pairs([3, 50, 20, 90, 4], typed=True)
    logits, computed = PaddedForward(model, 120, padding_id=0)(pairs)
    np.testing.assert_allclose(logits, plain_logits(model, pairs), atol=1e-5)
    assert sum(map(len, pairs)) < computed < 5 * 90


class TokenVectors:
    """A head for the state of each token, as late interaction wants them."""

    reads = "all"

    def __call__(self, states, batch):
        return states

    def results(self, output, batch):
        return [output[start:end].numpy() for start, end in itertools.pairwise(batch.offsets)]


@pytest.mark.parametrize("name", CONFIGS)
def test_another_head_gives_a_vector_for_each_token(name):
    model = make_model(name)
    engine = Engine(PackedForward(make_encoder(model, reads="all"), TokenVectors()), batch_tokens=60, workers=2)
    items = make_pairs([17, 3, 50, 45], typed=name in TYPED)
    for item, vectors in zip(items, engine.score(items), strict=True):
        features = {name: torch.tensor([values]) for name, values in item.features.items()}
        with torch.inference_mode():
            expected = model.base_model(**features, attention_mask=torch.ones(1, len(item))).last_hidden_state[0]
        np.testing.assert_allclose(vectors, expected, atol=5e-5)
    engine.close()


def test_a_classifier_of_several_labels_gives_a_logit_for_each():
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS["xlm-roberta"])
    config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    (item,) = make_pairs([20], typed=False)
    with torch.inference_mode():
        expected = model(torch.tensor([item.features["input_ids"]])).logits
    np.testing.assert_allclose(classifier(model)([item])[0], expected, atol=2e-5)


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


def of(lengths: list[int]) -> list[Item]:
    return make_pairs(lengths, typed=False)


def test_no_padding_is_computed_and_the_budget_bounds_every_micro_batch():
    recorder = Recorder()
    forward = classifier(make_model("xlm-roberta"))
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
    assert [other.result(timeout=10) for other in others] == [[20 + number, 40] for number in range(5)]
    assert first.result() == [500]
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


@settings(max_examples=40, deadline=None)
@given(
    history=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    size=st.integers(1, 60),
    small=st.integers(1, 30),
    cancelled=st.integers(0, 5),
)
def test_small_requests_overtake_a_large_one_by_twice_its_own_work_at_most(history, size, small, cancelled):
    """Small ones keep coming faster than the model computes; huge ones come and are taken back. A sequence has 100 tokens."""
    queue = RequestQueue(100, clock=lambda: 0.0)
    for sequences in history:
        queue.add(Ticket(of([100] * sequences), None, 0.0))
    while queue.take() is not None:
        pass
    victim = Ticket(of([100] * size), None, 0.0)
    queue.add(victim)
    if victim.small:  # then it is one of those that overtake
        return
    others, done = 0, 0
    while done < size:
        for _ in range(2):
            queue.add(Ticket(of([100] * small), None, 0.0))
        for _ in range(cancelled):
            huge = Ticket(of([100] * 500), None, 0.0)
            queue.add(huge)
            huge.cancel()
        ((ticket, indexes),) = queue.take().parts
        if ticket is victim:
            done += len(indexes)
        else:
            others += len(indexes)
        assert others <= size + done + 1


def test_requests_of_one_size_are_served_as_they_come():
    queue = RequestQueue(100)
    tickets = [Ticket(of([50, 50]), None, float(number)) for number in range(6)]
    for ticket in tickets:
        queue.add(ticket)
    assert [queue.take().parts[0][0] for _ in tickets] == tickets


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_large_requests_keep_at_least_half_of_the_machine(share):
    """Small requests come faster than the model computes; large ones are served at half of its speed all the same."""
    draw, now = np.random.default_rng(0), 0.0
    queue = RequestQueue(100, clock=lambda: now)
    given = {True: 0, False: 0}
    for _ in range(2000):
        while queue.tokens < 5000:
            large = draw.random() > share
            queue.add(Ticket(of([100] * (20 if large else 1)), None, now))
        for ticket, indexes in queue.take().parts:
            given[len(ticket.items) > 1] += len(indexes)
        now += 0.1
    assert given[True] >= given[False] > 0


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
    assert [ticket.result(timeout=10) for ticket in tickets] == [[100]] * 4
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
    assert first.result(timeout=10) == [100, 100]
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
    assert engine.score(of([7])) == [7]
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
    assert [ticket.result(timeout=1) for ticket in tickets] == [[100]] * 3
    with pytest.raises(EngineClosed):
        engine.submit(of([5]))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_brought_to_a_graphs_size_keeps_its_logits(name):
    model = make_model(name)
    head = logit_head(model)
    encoder = make_encoder(model, reads=head.reads)
    pairs = make_pairs([17, 3, 90, 45], typed=name in TYPED)
    batch = pack(pairs, first_position=encoder.first_position, padding_id=encoder.padding_id)
    size = fitting(ladder(2048, 100), batch, 100)
    filled = batch.filled(*size, 100)
    assert (filled.tokens, filled.sequences, filled.longest) == (*size, 100)
    with torch.inference_mode():
        logits = head.results(head(encoder(filled), filled), batch)
    np.testing.assert_allclose(logits, plain_logits(model, pairs), atol=2e-5)


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
        size = fitting(sizes, pack(micro_batch.items), 512)
        assert size.tokens >= micro_batch.tokens


@pytest.mark.parametrize("length", [8, 12, 20, 28, 40, 63, 100, 300])
def test_short_passages_are_computed_with_as_little_padding_as_long_ones(length):
    sizes = ladder(16_384, 512)
    for count in (5, 50, 200, 16_384 // length):
        batch = pack(of([length] * count))
        if batch.tokens <= 16_384:
            size = fitting(sizes, batch, 512)
            assert size.tokens - batch.tokens <= max(512, batch.tokens / 8)


@pytest.mark.parametrize(
    ("dtype", "capability", "head_size", "window", "kernel"),
    [
        (torch.float16, (7, 5), 64, False, "memory_efficient"),  # T4
        (torch.bfloat16, (7, 5), 64, False, "one_by_one"),  # has no bf16
        (torch.float32, (7, 5), 64, False, "memory_efficient"),
        (torch.float16, (7, 5), 64, True, "one_by_one"),
        (torch.float16, (8, 0), 64, False, "flash"),
        (torch.bfloat16, (8, 6), 64, True, "flash"),
        (torch.bfloat16, (12, 0), 64, False, "flash"),
        (torch.float32, (9, 0), 64, False, "memory_efficient"),
        (torch.float32, (9, 0), 64, True, "one_by_one"),
        (torch.bfloat16, (9, 0), 12, False, "one_by_one"),
        (torch.bfloat16, (9, 0), 320, False, "memory_efficient"),
    ],
)
def test_attention_takes_a_kernel_that_the_gpu_has(dtype, capability, head_size, window, kernel):
    assert gpu_kernel(dtype, head_size, capability, window=window) == kernel


class OnTheDevice:
    """An encoder that knows the sequences' bounds from the tensor alone, as a GPU's kernels do."""

    def __init__(self, name: str) -> None:
        self.model = make_model(name)
        self.head = logit_head(self.model)
        self.encoder = make_encoder(self.model, reads=self.head.reads)

    def __getattr__(self, name: str):
        return getattr(self.encoder, name)

    def __call__(self, batch):
        return self.encoder(replace(batch, offsets=tuple(batch.boundaries.tolist())))


class Replayer:
    """Records on a CPU: computes again on the same inputs, into the same result."""

    def __init__(self) -> None:
        self.recorded = 0

    def record(self, compute):
        self.recorded += 1
        result = compute().clone()
        return lambda: result.copy_(compute()), result


@pytest.mark.parametrize("name", CONFIGS)
def test_recorded_graphs_give_the_logits_of_plain_transformers(name):
    encoder, recorder = OnTheDevice(name), Replayer()
    model = encoder.model
    forward = GraphForward(encoder, encoder.head, budget=1_024, longest=100, typed=name in TYPED, recorder=recorder)
    assert recorder.recorded == len(forward.sizes)
    for lengths in ([17, 3, 90, 45], [100] * 10, [6] * 120, [5], [100] * 11):
        pairs = make_pairs(lengths, typed=name in TYPED)
        logits, computed = forward(pairs)
        np.testing.assert_allclose(logits, plain_logits(model, pairs), atol=2e-5)
        assert computed == min((size.tokens for size in forward.sizes if size.tokens >= sum(lengths)), default=sum(lengths))


def test_graphs_are_recorded_on_the_device_that_was_asked_for_and_on_one_stream(monkeypatch):
    """PyTorch's own calls, taken down: without a device of their own they would go to the first one."""
    device, streams, captures, launches = [0], [], [], []

    @contextmanager
    def entered(stack, value):
        stack.append(value)
        yield
        stack.pop()

    class Stream:
        def __init__(self):
            self.device = device[-1]
            streams.append(self)

        def wait_stream(self, other):
            assert self.device == other.device

    class Graph:
        def replay(self):
            launches.append(device[-1])

    @contextmanager
    def graph(recording, *, pool, stream):
        captures.append((device[-1], pool, stream))
        yield

    current = [Stream(), Stream()]
    current[1].device = 1
    streams.clear()
    monkeypatch.setattr(torch.cuda, "device", lambda place: entered(device, torch.device(place).index))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[device[-1]])
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: ("pool", device[-1]))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    recorder = CudaRecorder(torch.device("cuda", 1))
    bert = classifier(make_model("bert"))
    forward = GraphForward(bert.encoder, bert.head, budget=1_024, longest=100, typed=True, recorder=recorder)
    forward(make_pairs([30], typed=True))
    assert captures == [(1, ("pool", 1), streams[0])] * len(forward.sizes)
    assert len(streams) == 1
    assert launches == [1]
    assert device == [0]


@pytest.mark.parametrize("name", ["xlm-roberta", "modernbert"])
def test_in_bf16_a_pairs_logit_depends_on_its_company_within_the_stated_bound(name):
    forward = classifier(make_model(name).bfloat16())
    pairs = make_pairs([7, 40, 99, 23, 64, 5], typed=False)
    together = forward(pairs)[0]
    alone = np.concatenate([forward([pair])[0] for pair in pairs])
    np.testing.assert_allclose(alone, together, atol=LOGIT_BOUNDS["bf16"])
    # Its steps are those of fp32: in bf16 a logit of 2 would be one of 1/64.
    assert (torch.from_numpy(together).bfloat16().float().numpy() != together).any()
