"""What the parts of the loop promise: the padded gradient, the loss's closed form, one batch for everybody."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
import unicodedata
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from ko_reranker.container import JobError
from ko_reranker.data.jsonl import read_record_file, write_jsonl
from ko_reranker.data.records import TrainingRecord
from ko_reranker.engine import Item
from ko_reranker.engine import attention as engine_attention
from ko_reranker.engine.attention import attend_varlen
from ko_reranker.engine.packing import pack
from ko_reranker.rankers.pairs import PairEncoder
from ko_reranker.rankers.placing import served_dtype
from ko_reranker.samples import paths, tiny_model
from training_job.families.cross_encoder import encode_pairs
from training_job.loop import attention, groups
from training_job.loop.dataset import RecordFile
from training_job.loop.dev import DevSet
from training_job.loop.groups import Group, group_loss
from training_job.loop.metrics import Progress
from training_job.loop.packed import PackedClassifier, compute_twice, load_classifier
from training_job.loop.worker import Worker, be_deterministic

SIZE = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
SIZE |= {"max_position_embeddings": 130, "num_labels": 1}
CONFIGS = [
    XLMRobertaConfig(**SIZE, pad_token_id=1),
    RobertaConfig(**SIZE, pad_token_id=1),
    CamembertConfig(**SIZE, pad_token_id=1),
    BertConfig(**SIZE),
    ElectraConfig(**SIZE, embedding_size=16),
    # Sequences are longer than its window of 16, so that the window is seen.
    ModernBertConfig(**SIZE, pad_token_id=0, global_attn_every_n_layers=2, local_attention=16, classifier_pooling="cls"),
    ModernBertConfig(**SIZE, pad_token_id=0, global_attn_every_n_layers=2, local_attention=16, classifier_pooling="mean"),
]
NAMES = [*(config.model_type for config in CONFIGS[:-1]), "modernbert, mean"]


def make_pair(ids: list[int], *, typed: bool) -> Item:
    """Return the token ids of a pair, without a tokenizer."""
    return Item(np.array(ids, np.int32), 2 if typed else None)


def some_groups(*, typed: bool = False) -> list[Group]:
    """Three groups of 3, 1 and 2 pairs, of 4 to 60 tokens."""
    draw = random.Random(1)
    texts = [[2] + [draw.randrange(5, 100) for _ in range(draw.randrange(3, 60))] for _ in range(6)]
    pairs = iter([make_pair(ids, typed=typed) for ids in texts])
    return [Group(record, tuple(itertools.islice(pairs, size))) for record, size in enumerate((3, 1, 2))]


def saved(config: PreTrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():  # a fresh head hardly tells two passages apart
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all but those that are rounding noise: the loss cannot see a key's bias, nor the output's."""
    named = {name: value.grad for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    return {name: value for name, value in named.items() if not name.endswith("key.bias") and value.shape != (1,)}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    difference = sum((one[name] - other[name]).square().sum() for name in one)
    return float((difference / sum(value.square().sum() for value in other.values())).sqrt())


# Packing.


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "computed-twice"])
@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_packed_step_has_the_gradient_of_the_padded_one(config, checkpointing, tmp_path) -> None:
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config, name, 0.0)
    folder = saved(config, tmp_path)
    batch = some_groups(typed=config.model_type in ("bert", "electra"))
    pairs = [pair for group in batch for pair in group.pairs]
    longest = max(map(len, pairs))

    def padded_to_longest(name: str, filling: int) -> torch.Tensor:
        return torch.tensor([pair.features[name] + [filling] * (longest - len(pair)) for pair in pairs])

    inputs = {name: padded_to_longest(name, 0) for name in pairs[0].features}
    inputs["input_ids"] = padded_to_longest("input_ids", config.pad_token_id or 0)
    inputs["attention_mask"] = torch.tensor([[1] * len(pair) + [0] * (longest - len(pair)) for pair in pairs])
    padded = AutoModelForSequenceClassification.from_pretrained(folder).train()
    reference = padded(**inputs).logits[:, 0]
    group_loss(reference, batch).backward()

    packed = PackedClassifier(load_classifier(folder).train(), seed=0)
    if checkpointing:
        compute_twice(packed.model)
    logits = packed.logits(batch, step=0)
    group_loss(logits, batch).backward()
    torch.testing.assert_close(logits, reference, atol=1e-5, rtol=1e-5)
    assert distance(gradients(packed.model), gradients(padded)) < 1e-4


@pytest.mark.parametrize("config", CONFIGS[:5], ids=NAMES[:5])
def test_dropout_is_a_records_own_whatever_it_is_computed_with(config, tmp_path) -> None:
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.2
    packed = PackedClassifier(load_classifier(saved(config, tmp_path)).train(), seed=0)
    batch = some_groups(typed=config.model_type in ("bert", "electra"))
    together = packed.logits(batch, step=7)
    alone = torch.cat([packed.logits([group], step=7) for group in batch])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert (packed.logits(batch, step=8) - together).abs().max() > 1e-3, "another step draws anew"
    other_seed = PackedClassifier(load_classifier(tmp_path).train(), seed=1)
    assert (other_seed.logits(batch, step=7) - together).abs().max() > 1e-3
    packed.model.eval()
    torch.testing.assert_close(packed.logits(batch, step=7), packed.logits(batch, step=8))


def test_dropout_drops_its_share_and_keeps_the_mean(tmp_path) -> None:
    config = XLMRobertaConfig(**SIZE, pad_token_id=1, hidden_dropout_prob=0.3)
    packed = PackedClassifier(load_classifier(saved(config, tmp_path)).train(), seed=0)
    packed.logits(some_groups(), step=0)
    ones = torch.ones(packed.encoder.batch.tokens, 2_000)
    dropped = packed.model.roberta.embeddings.dropout(ones)
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("window", [None, 4])
def test_attention_with_dropout_has_the_gradient_of_its_output(window) -> None:
    batch = pack([make_pair([2] * length, typed=False) for length in (5, 1, 9)])
    module = SimpleNamespace(packed=SimpleNamespace(batch=batch, streams=[(0, 0), (0, 1), (0, 2)]), index=2)
    states = [torch.randn(1, 2, 15, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    torch.autograd.gradcheck(
        lambda *states: attention.packed_attention(module, *states, None, dropout=0.3, sliding_window=window)[0], states
    )


def test_gradients_of_micro_batches_add_up_to_the_whole(tmp_path) -> None:
    config = XLMRobertaConfig(**SIZE, pad_token_id=1)
    packed = PackedClassifier(load_classifier(saved(config, tmp_path)).train(), seed=0)
    batch = some_groups()
    group_loss(packed.logits(batch, step=0), batch).backward()
    whole = {name: value.clone() for name, value in gradients(packed.model).items()}
    packed.model.zero_grad()
    for group in batch:
        group_loss(packed.logits([group], step=0), [group]).backward()
    assert distance(gradients(packed.model), whole) < 1e-4


def test_the_kernels_of_gpus_take_what_they_are_given() -> None:
    """Shapes only, on tensors without data, with dropout: all tokens, and first ones alone."""
    bounds = torch.tensor([0, 5, 8, 17], dtype=torch.int32).to("meta")
    for rows, query_bounds, longest in ((17, bounds, 9), (3, torch.arange(4, dtype=torch.int32, device="meta"), 1)):
        query, key, value = states = [
            torch.empty(count, 4, 16, device="meta", dtype=torch.float16, requires_grad=True) for count in (rows, 17, 17)
        ]
        for kernel, window in (("memory_efficient", None), ("flash", 4)):
            settings = {"window": window, "dropout": 0.1, "scale": 0.25}
            seen = attend_varlen(kernel, *states, query_bounds, bounds, longest, 9, **settings)
            assert seen.shape == (rows, 4, 16)
            if kernel == "flash":  # PyTorch has no shapes of the other's gradient
                gradients = torch.autograd.grad(seen.sum(), [query, key, value])
                assert [gradient.shape for gradient in gradients] == [query.shape, key.shape, value.shape]


@pytest.mark.parametrize("capability", [(7, 5), (8, 6)], ids=["T4", "A10G"])
@pytest.mark.parametrize("window", [None, 1], ids=["whole", "windowed"])
def test_training_and_serving_attend_by_the_same_kernel(capability, window, monkeypatch) -> None:
    """On tensors that only say that they are a GPU's."""
    asked = []

    class OnGpu(torch.Tensor):
        is_cuda = True

    def varlen(kernel, query, *_, **__):
        asked.append(kernel)
        return query.as_subclass(torch.Tensor)

    monkeypatch.setattr(engine_attention, "capability_of", lambda device: capability)
    monkeypatch.setattr(engine_attention, "attend_varlen", varlen)
    states = [torch.randn(5, 2, 16, dtype=torch.float16).as_subclass(OnGpu) for _ in range(3)]
    batch = pack([make_pair([2] * length, typed=False) for length in (3, 2)])
    served = engine_attention.attend(*states, batch, window)
    module = SimpleNamespace(packed=SimpleNamespace(batch=batch, streams=[(0,), (0,)]), index=0)
    rows = [part.transpose(0, 1)[None] for part in states]
    trained, _ = attention.packed_attention(module, *rows, None, sliding_window=None if window is None else window + 1)
    assert trained.shape == (1, 5, 2, 16) and served.shape == (5, 32)
    expected = {(7, 5): "memory_efficient", (8, 6): "flash"}[capability]
    # A T4 has no kernel for a window: both go sequence by sequence.
    assert asked == ([] if capability == (7, 5) and window else [expected] * 2)


def test_layers_are_computed_twice_by_whichever_name_is_there() -> None:
    class Older:
        """As in transformers 5.17."""

        asked = False

        def gradient_checkpointing_enable(self) -> None:
            self.asked = True

    class Newer(Older):
        """As in transformers 5.23, where the older name is deprecated."""

        newer = False

        def activation_checkpointing_enable(self) -> None:
            self.newer = True

    older, newer = Older(), Newer()
    compute_twice(older)
    compute_twice(newer)
    assert (older.asked, newer.newer, newer.asked) == (True, True, False)


# Dev, determinism, and other workers.


def test_the_look_at_dev_is_in_the_precision_that_is_served(tmp_path) -> None:
    record = TrainingRecord("질문", ("답",), ("아님", "아니다"))
    write_jsonl(tmp_path / "dev.jsonl", [record.to_json()] * 3)
    dev = DevSet(tmp_path / "dev.jsonl", pairs_of_64(), group_size=3, queries=3, seed=0)
    seen = []

    class Classifier:
        model = torch.nn.Identity()

        def logits(self, groups, step):
            seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
            return torch.zeros(sum(len(group.pairs) for group in groups))

    alone = Worker(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    dev.evaluate(Classifier(), alone, 1_000, torch.bfloat16)
    dev.evaluate(Classifier(), alone, 1_000, served_dtype("auto", alone.device))
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_a_gpu_serves_in_what_it_has(capability, dtype, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: capability)
    assert served_dtype("auto", torch.device("cuda", 1)) == dtype
    assert served_dtype("fp32", torch.device("cuda", 1)) == torch.float32


@pytest.fixture
def deterministic_as_before():
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.utils.deterministic.fill_uninitialized_memory = filled


def test_determinism_is_strict_where_every_operation_has_such_a_kernel(deterministic_as_before) -> None:
    asked = []
    rehearsal = lambda: asked.append(torch.is_deterministic_algorithms_warn_only_enabled())  # noqa: E731
    assert be_deterministic(rehearsal) is None
    assert asked == [False], "with warn_only the backward pass of attention adds up in any order"
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_an_operation_without_a_deterministic_kernel_is_told_and_no_failure(deterministic_as_before) -> None:
    ranks = torch.tensor([1.0, 2.0]).put_  # has none with accumulate=False, on a CPU either
    remark = be_deterministic(lambda: ranks(torch.tensor([0]), torch.tensor([1.0])))
    assert "put_" in remark
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    with pytest.raises(RuntimeError, match="memory"):

        def without_memory() -> None:
            raise RuntimeError("out of memory")

        be_deterministic(without_memory)


def test_models_that_cannot_be_packed_are_named(tmp_path) -> None:
    AutoModelForSequenceClassification.from_config(DebertaV2Config(**SIZE)).save_pretrained(tmp_path / "deberta")
    with pytest.raises(JobError, match="base_model is a deberta-v2: what can be trained is bert, camembert"):
        load_classifier(tmp_path / "deberta")


# The loss.


def bare_groups(*sizes: int, teacher: list[tuple[float, ...] | None] | None = None) -> list[Group]:
    given = teacher or [None] * len(sizes)
    return [Group(0, (make_pair([1], typed=False),) * size, scores) for size, scores in zip(sizes, given, strict=True)]


def test_the_loss_of_even_groups_is_the_cross_entropy_of_the_first_passage() -> None:
    logits = torch.randn(12)
    expected = F.cross_entropy(logits.view(3, 4), torch.zeros(3, dtype=torch.long), reduction="sum")
    torch.testing.assert_close(group_loss(logits, bare_groups(4, 4, 4)), expected)


def test_the_loss_of_uneven_groups_is_the_sum_of_each_groups_own() -> None:
    logits = torch.randn(9, requires_grad=True)
    loss = group_loss(logits, bare_groups(4, 1, 2, 2))
    closed = [part.logsumexp(0) - part[0] for part in logits.split([4, 1, 2, 2])]
    torch.testing.assert_close(loss, sum(closed))
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = [part.softmax(0) - F.one_hot(torch.tensor(0), len(part)) for part in logits.split([4, 1, 2, 2])]
    torch.testing.assert_close(gradient, torch.cat(expected))
    assert gradient[4] == 0, "a group of one has nothing to compare"


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_mixes_in_the_divergence_from_the_teacher_where_there_is_one(temperature) -> None:
    logits = torch.randn(6, requires_grad=True)
    scores = (3.0, -1.0, 0.5)
    batch = bare_groups(3, 2, 1, teacher=[scores, None, (2.0,)])
    loss = group_loss(logits, batch, distillation_weight=0.4, temperature=temperature)
    taught, untaught, _ = logits.split([3, 2, 1])
    wanted = (torch.tensor(scores) / temperature).softmax(0)
    divergence = F.kl_div((taught / temperature).log_softmax(0), wanted, reduction="sum") * temperature**2
    expected = 0.6 * (taught.logsumexp(0) - taught[0]) + 0.4 * divergence + untaught.logsumexp(0) - untaught[0]
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()


def test_a_student_that_scores_as_its_teacher_has_nothing_left_to_learn() -> None:
    scores = (3.0, -1.0, 0.5)
    loss = group_loss(torch.tensor(scores), bare_groups(3, teacher=[scores]), distillation_weight=1.0, temperature=2.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)


# The records, and which of them a step sees.


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> RecordFile:
    """Twenty-two records of the sample, with 3 negatives, 1 or none."""
    found = list(read_record_file(paths.SAMPLE))[:22]
    found[3] = found[3].with_negatives(found[3].negatives[:1])
    path = tmp_path_factory.mktemp("records") / "train.jsonl"
    write_jsonl(path, [record.to_json() for record in found])
    return RecordFile(path)


def pairs_of_64() -> groups.Encode:
    return partial(encode_pairs, PairEncoder(tiny_model.load_tokenizer(), 64))


def sampler(records: RecordFile, **changes: int) -> groups.GroupSampler:
    settings = {"group_size": 3, "batch_queries": 5, "seed": 0} | changes
    return groups.GroupSampler(records, pairs_of_64(), **settings)


def test_a_step_takes_every_record_once_an_epoch_and_the_last_one_what_is_left(records) -> None:
    ours = sampler(records)
    assert ours.steps_per_epoch == 5
    batches = [ours.batch(step) for step in range(5)]
    assert [batch.queries for batch in batches] == [5, 5, 5, 5, 2]
    assert sorted(group.record for batch in batches for group in batch.groups) == list(range(22))
    assert {len(group.pairs) for batch in batches for group in batch.groups} == {1, 2, 3}
    seen = [[group.record for group in ours.batch(step).groups] for step in (3, 5, 0)]
    assert seen[0] == [group.record for group in batches[3].groups]
    assert seen[1] != seen[2], "another epoch, another order"


def test_workers_share_a_batch_without_loss_and_about_evenly(records) -> None:
    ours = sampler(records, batch_queries=20)
    whole = ours.batch(0)
    shares = [ours.batch(0, rank, 3) for rank in range(3)]
    assert sorted(group.record for share in shares for group in share.groups) == sorted(group.record for group in whole.groups)
    assert {share.queries for share in shares} == {20}
    tokens = [sum(group.tokens for group in share.groups) for share in shares]
    assert max(tokens) < 1.35 * min(tokens)


def test_micro_batches_hold_whole_groups_within_the_budget(records) -> None:
    batch = sampler(records, batch_queries=22).batch(0).groups
    packs = groups.micro_batches(batch, 500)
    assert sorted(group.record for pack in packs for group in pack) == list(range(22))
    assert all(sum(group.tokens for group in pack) <= 500 for pack in packs)
    assert len(packs) <= math.ceil(1.25 * sum(group.tokens for group in batch) / 500), "little room is left over"
    assert all(len(pack) == 1 for pack in groups.micro_batches(batch, 16)), "what is beyond the budget stays alone"


def test_a_group_carries_the_teachers_scores_of_its_own_passages(tmp_path) -> None:
    record = TrainingRecord("질문", ("가", "나"), ("다", "라", "마"), None, (9.0, 8.0), (3.0, 2.0, 1.0))
    write_jsonl(tmp_path / "train.jsonl", [record.to_json()])
    ours, tokenizer = sampler(RecordFile(tmp_path / "train.jsonl")), tiny_model.load_tokenizer()
    score_of = dict(zip(("가", "나", "다", "라", "마"), (9.0, 8.0, 3.0, 2.0, 1.0), strict=True))
    for step in range(20):
        (group,) = ours.batch(step).groups
        passages = [tokenizer.decode(pair.features["input_ids"], skip_special_tokens=True) for pair in group.pairs]
        assert [score_of[passage.split()[-1][-1]] for passage in passages] == list(group.teacher)


def test_texts_are_read_as_those_of_requests_are(tmp_path) -> None:
    plain = TrainingRecord("한강의 길이", ("한강은 494 km이다.",), ("부산항",))
    decomposed = [unicodedata.normalize("NFD", text) for text in plain.texts()]
    odd = TrainingRecord(decomposed[0], (decomposed[1] + "\n",), ("\ufeff" + decomposed[2],))
    write_jsonl(tmp_path / "train.jsonl", [record.to_json() for record in (plain, odd)])
    batch = sampler(RecordFile(tmp_path / "train.jsonl")).batch(0).groups
    one, other = ([pair.features["input_ids"] for pair in group.pairs] for group in batch)
    assert one == other


def test_records_are_read_by_their_place(tmp_path, records) -> None:
    lines = [b"\xef\xbb\xbf" + b'{"query": "a", "pos": ["b"]}\n', b"\n", '{"query": "둘", "pos": ["b"], "neg": ["c"]}'.encode()]
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"".join(lines))
    file = RecordFile(path)
    assert [file[index].query for index in (1, 0)] == ["둘", "a"]
    assert (len(file), file.without_negatives, file.with_scores) == (2, 1, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"query": "a", "pos": ["b"]}\n{"query": "a", "pos": []}\n', r"train\.jsonl line 2: pos: needs at least one passage"),
        ('{"query": "a", "pos": ["b"], "instruction": 3}\n', "line 1: instruction: must be a string, is a number"),
        ('{"query": "a", "pos": ["b"], "instruction": " "}\n', "line 1: instruction: is blank"),
        (
            '{"query": "a", "pos": ["b"], "instruction": "' + "가" * 2_001 + '"}\n',
            "line 1: instruction: has 2,001 characters, over the limit of 2,000",
        ),
        ("", "holds no record"),
    ],
)
def test_a_file_of_records_is_checked_from_end_to_end(tmp_path, content, message) -> None:
    (tmp_path / "train.jsonl").write_text(content)
    with pytest.raises(JobError, match=message):
        RecordFile(tmp_path / "train.jsonl")


def test_the_texts_of_the_records_are_not_held_in_memory(tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    write_jsonl(path, ({"query": f"질문 {n}", "pos": ["본문 " * 300], "neg": ["다른 본문 " * 300]} for n in range(4_000)))
    encode = pairs_of_64()
    tracemalloc.start()
    ours = groups.GroupSampler(RecordFile(path), encode, group_size=3, batch_queries=8, seed=0)
    for step in (0, 300, 499, 500):
        ours.batch(step)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 15_000_000
    assert peak < 3_000_000


def test_reading_ahead_keeps_the_order_and_hands_on_failures() -> None:
    def make(step: int) -> int:
        if step == 4:
            raise ValueError("no more")
        return step * step

    assert list(groups.read_ahead(make, range(1, 4))) == [(1, 1), (2, 4), (3, 9)]
    assert list(groups.read_ahead(make, range(3, 3))) == []
    with pytest.raises(ValueError, match="no more"):
        list(groups.read_ahead(make, range(3, 6)))


def test_the_best_evaluation_on_dev_goes_by_mrr_then_by_loss() -> None:
    progress = Progress()
    evaluations = [(0, 0.5, 1.0), (5, 0.6, 1.2), (10, 0.6, 1.1), (15, 0.55, 0.9), (20, 0.6, 1.1)]
    better = [progress.evaluated(step, {"dev_mrr": mrr, "dev_loss": loss}) for step, mrr, loss in evaluations]
    assert better == [True, True, True, False, False]
    assert (progress.best["step"], progress.evaluations_since_best) == (10, 2)
