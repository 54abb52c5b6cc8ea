"""What `auto` is: on a CPU bf16 where the processor has instructions that pay; and who is told of it."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
import torch
from late_interaction_models import ours
from starlette.testclient import TestClient
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from ko_reranker import processor
from ko_reranker.data.jsonl import write_jsonl
from ko_reranker.data.records import TrainingRecord
from ko_reranker.evaluation.evaluate import EvaluationSettings, evaluate
from ko_reranker.evaluation.questions import read_test_set
from ko_reranker.evaluation.report import render_report
from ko_reranker.instances import auto_precision, judging_precision
from ko_reranker.models import resolve_model
from ko_reranker.protocol import ServiceFacts
from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.rankers.placing import placement_for
from ko_reranker.serving import create_app

AUTO = EngineOptions(device="cpu", workers=1)
WITH, WITHOUT = (
    "bf16, which this processor multiplies by AMD's AVX512-BF16",
    "fp32: this processor has no instructions for bf16 that were measured to pay (AMX, AMD's AVX512-BF16)",
)
Give = Callable[[bool], None]


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> Give:
    """Give the processor instructions for bf16, or take them from it."""

    def give(there: bool) -> None:
        monkeypatch.setattr("ko_reranker.rankers.placing.paying_bf16", lambda: "AMD's AVX512-BF16" if there else None)

    return give


@pytest.mark.parametrize(
    ("there", "vendor", "paying", "at_all"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "GenuineIntel", "AMX", True),
        ({"amx_bf16": False, "avx512_bf16": True}, "AuthenticAMD", "AMD's AVX512-BF16", True),
        # There a product in bf16 takes twice as long as in fp32.
        ({"amx_bf16": False, "avx512_bf16": True}, "GenuineIntel", None, False),
        ({"amx_bf16": False, "avx512_bf16": True}, "", None, False),
        ({"bf16": True, "sve_bf16": True}, "", None, True),
        ({"avx512_f": True}, "AuthenticAMD", None, False),
    ],
    ids=["amx", "amd", "intel-without-amx", "unnamed", "graviton", "none"],
)
def test_a_processor_tells_how_it_multiplies_bf16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there, vendor, paying, at_all
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there)
    told = Path.read_text
    cpu = f"processor\t: 0\nvendor_id\t: {vendor}\n" if vendor else "processor\t: 0\nCPU implementer\t: 0x41\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **how: cpu if self == Path("/proc/cpuinfo") else told(self, **how))
    # It asks once a process: a module of its own has not asked yet.
    fresh = runpy.run_path(processor.__file__)
    assert (fresh["paying_bf16"](), fresh["multiplies_bf16"]()) == (paying, at_all)
    assert fresh["multiplies_bf16_in_tiles"]() == (paying == "AMX")


@pytest.mark.parametrize(("there", "dtype", "reason"), [(True, torch.bfloat16, WITH), (False, torch.float32, WITHOUT)])
def test_auto_is_bf16_on_a_cpu_with_instructions_for_it(bf16: Give, there, dtype, reason) -> None:
    bf16(there)
    placement = placement_for(AUTO, bf16_pays=True)
    assert (placement.dtype, placement.reason) == (dtype, reason)
    unmeasured = placement_for(AUTO)
    assert unmeasured.dtype == torch.float32 and unmeasured.reason.startswith("fp32: on a CPU")


def test_what_is_asked_for_is_what_is_taken(bf16: Give) -> None:
    bf16(True)
    asked = placement_for(EngineOptions(device="cpu", dtype="fp32"), bf16_pays=True)
    assert (asked.dtype, asked.reason) == (torch.float32, "as asked")


@pytest.mark.parametrize("amx", [True, False])
def test_who_asks_for_int8_where_bf16_is_as_fast_is_told(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    monkeypatch.setattr("ko_reranker.rankers.placing.multiplies_bf16_in_tiles", lambda: amx)
    placement = placement_for(EngineOptions(device="cpu", dtype="int8"), bf16_pays=True)
    assert placement.precision == "int8"
    assert ("leave dtype at auto" in placement.reason) == amx
    assert "auto" not in placement_for(EngineOptions(device="cpu", dtype="int8")).reason  # of a decoder bf16 was not measured


def test_of_rerankers_those_take_it_that_are_packed_cross_encoders(bf16: Give, tmp_path: Path) -> None:
    bf16(True)
    tiny = load_ranker("sample:tiny", AUTO)
    assert tiny.precision == "bfloat16" and tiny.engine.score(tiny.encoder.encode("질문", ["문서"])[0])
    tiny.close()
    vectors = load_ranker(ours("bert", tmp_path / "vectors"), AUTO)
    assert vectors.precision == "float32" and "models of this kind" in vectors.precision_reason
    vectors.close()
    padded = tmp_path / "padded"
    config = DistilBertConfig(vocab_size=30_000, num_labels=1, dim=32, n_layers=1, n_heads=2, hidden_dim=64, pad_token_id=1)
    DistilBertForSequenceClassification(config).save_pretrained(padded)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (padded / name).write_bytes((resolve_model("sample:tiny") / name).read_bytes())
    ranker = load_ranker(padded, AUTO)
    assert ranker.precision == "float32" and "models of this kind" in ranker.precision_reason
    ranker.close()


def test_a_server_says_what_it_computes_in_and_why(bf16: Give) -> None:
    bf16(False)
    with TestClient(create_app(load_ranker("sample:tiny", AUTO))) as client:
        info, metrics = client.get("/info").json(), client.get("/metrics").text
        facts = client.post("/invocations", json={"format": "facts"}).json()
    assert info["model_dtype"] == "float32"
    assert info["precision_reason"] == WITHOUT
    assert 'precision="float32"' in next(line for line in metrics.splitlines() if line.startswith("ko_reranker_model_info{"))
    told = ServiceFacts.decode(facts)
    assert (told.precision, told.precision_reason) == (info["model_dtype"], info["precision_reason"])
    # What containers of earlier versions answer.
    assert ServiceFacts.decode({"model": "m", "max_length": 512}).precision is None


def test_a_report_says_what_each_model_was_computed_in(bf16: Give, tmp_path: Path) -> None:
    bf16(True)
    records = [TrainingRecord(f"질문 {number}", (f"질문 {number}의 답이다.",)).to_json() for number in range(6)]
    write_jsonl(tmp_path / "dev.jsonl", records)
    settings = EvaluationSettings({"candidate": "sample:tiny"}, candidates=3, fuse=0.5, engine=AUTO)
    report, _, _ = evaluate(read_test_set([tmp_path / "dev.jsonl"]), settings)
    said = f"bfloat16 ({WITH})"
    assert report["precisions"] == {"candidate": said, "candidate+bm25": said}
    assert f"computed in {said}" in unescape(render_report(report))


@pytest.mark.parametrize(
    ("instance_type", "packed", "other"),
    [
        ("ml.m7i.large", "bf16", "fp32"),
        ("ml.c8i.xlarge", "bf16", "fp32"),
        ("r7i.xlarge", "bf16", "fp32"),
        ("ml.c6i.xlarge", "fp32", "fp32"),
        ("ml.m7a.large", "bf16", "fp32"),
        ("ml.m6a.large", "fp32", "fp32"),
        ("m7i-flex.large", "bf16", "fp32"),
        ("ml.c7g.xlarge", "fp32", "fp32"),
        ("ml.g5.xlarge", "bf16", "bf16"),
        ("ml.g4dn.xlarge", "fp16", "fp16"),
        ("ml.g9.xlarge", "bf16", "bf16"),
    ],
)
def test_an_instance_type_tells_what_auto_is(instance_type: str, packed: str, other: str) -> None:
    assert (auto_precision(instance_type, bf16_pays=True), auto_precision(instance_type, bf16_pays=False)) == (packed, other)


@pytest.mark.parametrize(
    ("asked", "served_on", "judged_on", "wanted"),
    [
        ("auto", "ml.g5.xlarge", "ml.g6.xlarge", "auto"),
        ("auto", "ml.g5.xlarge", "ml.c7i.xlarge", "bf16"),
        ("auto", "ml.g5.xlarge", "ml.m5.large", "auto"),
        ("auto", "ml.g4dn.xlarge", "ml.g5.xlarge", "fp16"),
        ("auto", "ml.m5.large", "ml.c7i.xlarge", "fp32"),
        ("auto", "ml.m5.large", "ml.g5.xlarge", "fp32"),
        ("auto", "ml.c7i.xlarge", "ml.m7i.xlarge", "auto"),
        ("auto", "ml.c7i.xlarge", "ml.m5.large", "auto"),
        ("int8", "ml.c7i.xlarge", "ml.m5.large", "int8"),
    ],
)
def test_a_model_is_judged_in_what_it_is_served_in(asked, served_on, judged_on, wanted) -> None:
    assert judging_precision(asked, served_on=served_on, judged_on=judged_on) == wanted
