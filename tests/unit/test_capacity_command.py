"""`ko-reranker capacity`: what was not measured is said to be so, what has no price too, and limits are refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ko_reranker.cli import app
from ko_reranker.instances import memory_of

ROOT = Path(__file__).parents[2]
# As large as Qwen2.5-7B.
LARGE_DECODER = {
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}


def curve(**changes: Any) -> dict[str, Any]:
    points = [
        {"documents": documents, "tokens": tokens, "seconds": {"median": 0.01 + documents * tokens * 1e-4}}
        for documents in (1, 10, 30)
        for tokens in (64, 512)
    ]
    names = {"family": "cross-encoder", "model": "small", "precision": "fp32", "hardware": "AMD EPYC, 1 core"}
    return {**names, "instance_type": None, "points": points, **changes}


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(ROOT)
    path = tmp_path / "service.json"
    own = curve(instance_type="ml.g5.xlarge", hardware="NVIDIA A10G")
    content = {"machine": "AMD EPYC", "date": "2026-11-29", "figures": {"curves": [curve(), own]}}
    path.write_text(json.dumps(content))
    return path


def ask(measured: Path, *arguments: str) -> Any:
    plot = str(measured.with_name("capacity.svg"))
    common = ["capacity", "--measured", str(measured), "--plot", plot, "--start-seconds", "120", "--ramp-minutes", "10"]
    return CliRunner().invoke(app, [*common, *arguments])


LOAD = ("--requests-per-second", "40", "--documents", "20", "--tokens", "100")


def test_hardware_that_was_measured_is_planned_for_and_drawn(measured: Path) -> None:
    done = ask(measured, *LOAD)
    assert done.exit_code == 0, done.output
    assert "small, fp32, measured on NVIDIA A10G (2026-11-29; the curve is off by 0% at most)" in done.output
    assert "a request of 20 documents of 100 tokens alone: 0.21 s" in done.output
    assert "not measured" not in done.output
    # 40 a second of 0.21 s take 8.4 instances' time, and more than 90 % busy they may not be.
    assert re.search(r"at the busiest +10 instances", done.output)
    assert re.search(r"serving\.max_instances +10 +\(now 4\)", done.output)
    assert re.search(r"SageMaker: ml\.g5\.xlarge for endpoint usage +20", done.output)
    assert re.search(r"API Gateway: throttle rate of the region +40", done.output)
    assert re.search(
        r"7,300 hours of ml\.g5\.xlarge +x +\? = +\? USD +no price: prices\.instance_hour\.ml\.g5\.xlarge", done.output
    )
    assert "million calls of functions" in done.output and "AWSLambda" in done.output
    picture = measured.with_name("capacity.svg").read_text()
    assert picture.startswith("<svg") and "<script" not in picture
    assert "40 requests a second, 20 documents each" in re.sub(r"</?\w[^>]*>", " ", picture).replace("  ", " ")


def test_other_hardware_is_named_and_has_no_bill(measured: Path) -> None:
    done = ask(measured, *LOAD, "--instance-type", "ml.m7i.xlarge")
    assert done.exit_code == 0, done.output
    assert "ml.m7i.xlarge: not measured. What follows is of AMD EPYC, 1 core; yours will be different." in done.output
    assert re.search(r"at the busiest +10 times AMD EPYC, 1 core", done.output)
    assert "not measured: how many ml.m7i.xlarge do the same is not known" in done.output
    assert re.search(r"SageMaker: ml\.m7i\.xlarge for endpoint usage +\? +not measured", done.output)
    assert "hours of ml.m7i.xlarge" not in done.output


def test_the_same_is_said_each_time(measured: Path) -> None:
    assert ask(measured, *LOAD).output == ask(measured, *LOAD).output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--family", "generative"), "not measured: no curve of a generative"),
        (("--model", "large"), "not measured: large; there are curves of small"),
        (("--tokens", "600"), "small was measured up to 512 tokens"),
        (
            ("--p95-seconds", "0.1"),
            "takes 0.21 s on NVIDIA A10G, and is to be answered within 0.1 s: no number of instances helps",
        ),
        (("--documents", "20000"), r"--documents is 20000, and the API of stage prod allows 10000 \(api.max_documents\)"),
        (("--p95-seconds", "30"), r"--p95-seconds is 30, and the API of stage prod allows 24 \(api.deadline_seconds\)"),
        (("--instance-type", "g5.xlarge"), "--instance-type is 'g5.xlarge', and has to be one of SageMaker's"),
    ],
)
def test_what_can_not_be_planned_is_refused_with_the_reason(arguments: tuple[str, ...], said: str, measured: Path) -> None:
    done = ask(measured, *LOAD, *arguments)
    assert done.exit_code == 1
    assert re.search(said, str(done.exception)), done.exception


def test_more_than_ten_thousand_a_second_is_refused(measured: Path) -> None:
    done = ask(measured, "--requests-per-second", "10001")
    assert done.exit_code == 2 and "10000" in done.output


def test_without_a_measured_file_nothing_is_assumed(measured: Path, tmp_path: Path) -> None:
    done = ask(measured, *LOAD, "--measured", str(tmp_path / "none.json"))
    assert done.exit_code == 1 and "not measured" in str(done.exception)


def test_an_instance_that_can_not_hold_the_model_is_refused(measured: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LARGE_DECODER))
    # Its files are read beside what they become: 27 GiB in bf16.
    done = ask(measured, *LOAD, "--decoder", str(config))
    assert done.exit_code == 1
    assert re.search(r"ml\.g5\.xlarge has 24 GiB for the model, and in bf16 it takes 2\d\.\d GiB at least", str(done.exception))
    done = ask(measured, *LOAD, "--decoder", str(config), "--instance-type", "ml.g6e.xlarge")
    assert done.exit_code == 0 and "ml.g6e.xlarge has 48 GiB for the model, which takes" in done.output
    done = ask(measured, *LOAD, "--decoder", str(config), "--instance-type", "ml.x2idn.xlarge")
    assert "the memory of ml.x2idn.xlarge is not known here" in done.output


@pytest.mark.parametrize(
    ("content", "said"), [("{", "--decoder: .*config.json can't be read"), ("{}", "the configuration is not one of a decoder")]
)
def test_what_is_no_configuration_is_refused(content: str, said: str, measured: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(content)
    done = ask(measured, *LOAD, "--decoder", str(config))
    assert done.exit_code == 1 and re.search(said, str(done.exception)), done.exception


@pytest.mark.parametrize(
    ("instance_type", "gigabytes"),
    [
        ("ml.g4dn.xlarge", 16),
        ("ml.g5.12xlarge", 24),
        ("ml.p4de.24xlarge", 80),
        ("ml.m7i.large", 8),
        ("ml.c7i.xlarge", 8),
        ("ml.r6i.4xlarge", 128),
        ("ml.p9.48xlarge", None),
        ("ml.t3.medium", None),
    ],
)
def test_the_memory_that_a_model_has(instance_type: str, gigabytes: int | None) -> None:
    assert memory_of(instance_type) == gigabytes
