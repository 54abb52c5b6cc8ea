"""The engine on a GPU: the logits of plain transformers, by graphs and without, on new GPUs and on old ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gpu_models import CONFIGS, LONGEST, classifier, make_pairs, plain_logits, saved
from transformers import AutoModelForSequenceClassification

from ko_reranker.engine import attention, graphs
from ko_reranker.engine.forwards import PackedForward
from ko_reranker.engine.graphs import CudaRecorder, GraphForward, recordable
from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.rankers.interface import LOGIT_BOUNDS

pytestmark = pytest.mark.gpu

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
T4 = (7, 5)
BATCHES = [[17, 3, 90, 45], [512] * 4, [9] * 200, [512, 5, 5, 5, 300, 21] * 3, [1], [64] * 30]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: saved(name, tmp_path_factory.mktemp(name)) for name in CONFIGS}


def load(folder, dtype: torch.dtype, device: str = "cuda:0"):
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model.eval().requires_grad_(False).to(device)


def recorded(encoder, head, *, typed: bool, budget: int = 4_096) -> GraphForward:
    return GraphForward(encoder, head, budget=budget, longest=LONGEST, typed=typed, recorder=CudaRecorder(encoder.device))


def lacks(precision: str) -> bool:
    return precision == "bf16" and torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0)


def assert_as_near_as_plain(folder, model, forward, *, typed: bool) -> None:
    """Ours may be twice as far from fp32 as plain transformers is in the same precision, which also rounds the logit itself."""
    exact_model = load(folder, torch.float32)
    for lengths in BATCHES:
        pairs = make_pairs(lengths, typed=typed)
        exact = plain_logits(exact_model, pairs)
        plain = plain_logits(model, pairs)
        ours, computed = forward(pairs)
        assert computed >= sum(lengths)
        assert np.abs(ours - exact).max() <= 2 * np.abs(plain - exact).max() + 1e-3


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_plain_transformers(name, precision, folders) -> None:
    if lacks(precision):
        pytest.skip("this GPU has no bf16")
    model, typed = load(folders[name], DTYPES[precision]), name == "bert"
    encoder, head = classifier(model)
    forward = recorded(encoder, head, typed=typed) if recordable(encoder) else PackedForward(encoder, head)
    assert_as_near_as_plain(folders[name], model, forward, typed=typed)


def test_the_mean_of_many_tokens_in_half_precision_is_their_mean() -> None:
    """A GPU adds up the tokens in the sum's own type."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS["modernbert"])
    config.classifier_pooling, config.norm_bias = "mean", True
    model = AutoModelForSequenceClassification.from_config(config).eval().to("cuda")
    model.head.norm = torch.nn.Identity()  # it would hide what is lost of all channels alike
    with torch.no_grad():
        model.model.final_norm.bias.add_(4)  # of one sign: their sum outgrows what bf16 can still add one to
    pairs = make_pairs([LONGEST, 900], typed=False)
    exact = PackedForward(*classifier(model))(pairs)[0]
    np.testing.assert_allclose(PackedForward(*classifier(model.half()))(pairs)[0], exact, rtol=0.05)
    if not lacks("bf16"):
        np.testing.assert_allclose(PackedForward(*classifier(model.bfloat16()))(pairs)[0], exact, rtol=0.1)


@pytest.mark.parametrize("precision", DTYPES)
def test_graphs_give_what_the_same_model_gives_without_them(precision, folders) -> None:
    if lacks(precision):
        pytest.skip("this GPU has no bf16")
    halves = classifier(load(folders["xlm-roberta"], DTYPES[precision]))
    graph, eager = recorded(*halves, typed=False), PackedForward(*halves)
    for lengths in BATCHES * 2:
        pairs = make_pairs(lengths, typed=False)
        np.testing.assert_allclose(graph(pairs)[0], eager(pairs)[0], atol=LOGIT_BOUNDS[precision])


@pytest.mark.parametrize("precision", DTYPES)
def test_a_pairs_logit_depends_on_its_company_within_the_stated_bound(precision, folders) -> None:
    if lacks(precision):
        pytest.skip("this GPU has no bf16")
    forward = recorded(*classifier(load(folders["xlm-roberta"], DTYPES[precision])), typed=False)
    (pair,) = make_pairs([77], typed=False)
    seen = []
    for lengths in BATCHES:
        company = make_pairs(lengths, typed=False, seed=1)
        for place in {0, len(company) // 2, len(company)}:
            seen.append(forward([*company[:place], pair, *company[place:]])[0][place])
    print(f"{precision}: a logit of {np.mean(seen):.3f} moves by {np.ptp(seen):.2g}")
    assert np.ptp(seen) <= LOGIT_BOUNDS[precision]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_kernels_of_an_older_gpu_give_the_same(name, precision, folders, monkeypatch) -> None:
    """A T4's: memory-efficient attention, in graphs; one sequence after the other, without, where there is a window."""
    for module in (attention, graphs):
        monkeypatch.setattr(module, "capability_of", lambda device: T4)
    model, typed = load(folders[name], DTYPES[precision]), name == "bert"
    encoder, head = classifier(model)
    assert recordable(encoder) == (name != "modernbert")
    forward = recorded(encoder, head, typed=typed) if recordable(encoder) else PackedForward(encoder, head)
    assert_as_near_as_plain(folders[name], model, forward, typed=typed)


def test_graphs_run_on_the_gpu_that_was_asked_for(folders) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    first = recorded(*classifier(load(folders["xlm-roberta"], torch.float16, "cuda:0")), typed=False)
    before = torch.cuda.memory_allocated(0)
    second = recorded(*classifier(load(folders["xlm-roberta"], torch.float16, "cuda:1")), typed=False)
    assert torch.cuda.memory_allocated(0) == before
    pairs = make_pairs([40, 200, 7], typed=False)
    np.testing.assert_allclose(second(pairs)[0], first(pairs)[0], atol=LOGIT_BOUNDS["fp16"])


def test_graphs_of_all_sizes_share_their_memory(folders) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    forward = recorded(*classifier(load(folders["xlm-roberta"], torch.float16)), typed=False, budget=16_384)
    torch.cuda.empty_cache()
    taken = before - torch.cuda.mem_get_info()[0]
    print(f"{len(forward.sizes)} graphs took {taken / 2**20:.0f} MiB")
    assert taken < 1.5 * 2**30


@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16"])
def test_the_reranker_in_the_box_scores_as_on_a_cpu(precision) -> None:
    documents = ["서울의 인구는 약 940만 명이다.", "부산은 항구 도시이다.", "", "한강은 서울을 지난다. " * 200]
    on_gpu = load_ranker("sample:mini", EngineOptions(device="cuda", dtype=precision))
    on_cpu = load_ranker("sample:mini", EngineOptions(device="cpu", dtype="fp32"))
    try:
        ours, exact = (ranker.score("서울의 인구는?", documents) for ranker in (on_gpu, on_cpu))
    finally:
        on_gpu.close()
        on_cpu.close()
    bound = {"float32": 1e-3, "float16": LOGIT_BOUNDS["fp16"], "bfloat16": 2 * LOGIT_BOUNDS["bf16"]}[on_gpu.precision]
    np.testing.assert_allclose(ours, exact, atol=bound)
