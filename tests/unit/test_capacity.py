"""Capacity: the queue is what theory says of it, more load never takes fewer instances, and nothing is assumed of a machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_reranker.capacity import (
    Autoscaler,
    CurveError,
    Load,
    ServiceCurve,
    TooSlow,
    arrivals,
    choose,
    follow,
    latencies,
    plan,
    read_curves,
)
from ko_reranker.capacity.planning import MOST_UTILISATION, needed

REQUESTS = 2_000_000


def waits(rate: float, service: float, servers: int) -> np.ndarray:
    return (latencies(arrivals(rate, REQUESTS, seed=1), service, servers) - service)[REQUESTS // 5 :]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8, 0.9])
def test_one_server_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    # M/D/1: rho s / (2 (1 - rho)).
    assert waits(load / 0.2, 0.2, 1).mean() == pytest.approx(load * 0.2 / (2 * (1 - load)), rel=0.05)


@pytest.mark.parametrize("load", [0.5, 0.8])
@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0, 4.0])
def test_one_server_lets_as_many_wait_as_erlang_says(load: float, limit: float) -> None:
    # M/D/1 with service 1: P(W <= t) = (1 - rho) sum over k <= t of exp(rho (t - k)) (rho (k - t))^k / k!
    below = (1 - load) * sum(
        math.exp(load * (limit - k)) * (load * (k - limit)) ** k / math.factorial(k) for k in range(math.floor(limit) + 1)
    )
    assert (waits(load, 1.0, 1) <= limit).mean() == pytest.approx(below, abs=0.01)


@pytest.mark.parametrize(("servers", "load"), [(2, 0.7), (5, 0.8), (20, 0.9)])
def test_several_servers_wait_as_cosmetatos_says(servers: int, load: float) -> None:
    # M/D/c as M/M/c by Erlang's C, halved, with Cosmetatos' correction, which is within 2 % here.
    offered = servers * load
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - load)
    erlang = last / (sum(terms) + last)
    exponential = erlang / (servers * (1 - load))
    correction = 1 + (1 - load) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * load * servers)
    assert waits(offered, 1.0, servers).mean() == pytest.approx(exponential / 2 * correction, rel=0.05)


def test_a_hand_made_queue_is_served_in_turn() -> None:
    came = np.array([0.0, 0.0, 1.0, 1.0, 9.0])
    # Two servers, 3 s each: 0-3, 0-3, 3-6, 3-6, 9-12.
    assert latencies(came, 3.0, 2).tolist() == [3, 3, 5, 5, 3]
    with pytest.raises(ValueError, match="1 server at least"):
        latencies(came, 3.0, 0)


CURVE = ServiceCurve(
    "cross-encoder",
    "small",
    "fp32",
    "AMD EPYC, 1 core",
    None,
    "2026-11-29",
    # 0.01 s, 1e-4 s a token and 1e-7 s a pair of tokens.
    tuple((d, t, 0.01 + 1e-4 * d * t + 1e-7 * d * t * t) for d in (1.0, 10.0, 30.0) for t in (64.0, 192.0, 512.0)),
)


def test_a_curve_has_what_was_measured_and_goes_on_in_proportion() -> None:
    assert CURVE.worst_error < 1e-9
    assert CURVE.seconds(20, 100) == pytest.approx(0.01 + 0.2 + 0.02)
    assert CURVE.seconds(300, 100) == pytest.approx(0.01 + 3 + 0.3)


def test_a_curve_never_goes_below_zero() -> None:
    noisy = ServiceCurve("f", "m", "p", "h", None, "d", ((1.0, 64.0, 0.001), (10.0, 64.0, 0.02), (1.0, 512.0, 0.012)))
    assert min(noisy.seconds(documents, tokens) for documents in (1, 5, 100) for tokens in (1, 64, 500)) >= 0


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(CurveError, match="measured up to 512 tokens of query and document together, and not at 600"):
        CURVE.seconds(1, 600)
    with pytest.raises(CurveError, match="have to be 1 at least"):
        CURVE.seconds(0, 10)


def test_a_request_that_is_too_slow_alone_is_not_helped_by_instances() -> None:
    with pytest.raises(TooSlow, match=r"takes 6\.11 s on AMD EPYC, 1 core, and is to be answered within 2 s"):
        plan(Load(1, 500, 110, 2), CURVE)


@pytest.mark.parametrize(
    ("field", "value"), [("rate", 0), ("rate", 10_001), ("p95_seconds", 0), ("quiet_share", 1.5), ("ramp_minutes", 0)]
)
def test_a_load_outside_its_limits_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Load(**{"rate": 1, "documents": 1, "tokens": 64, "p95_seconds": 1, field: value})


@settings(max_examples=25, deadline=None)
@given(
    rate=st.floats(0.05, 3_000),
    more=st.floats(1, 3),
    service=st.floats(0.005, 1),
    patience=st.floats(1.01, 5),
    seed=st.integers(0, 5),
)
def test_more_load_never_takes_fewer_instances(rate: float, more: float, service: float, patience: float, seed: int) -> None:
    fewer = needed(rate, service, patience * service, seed)
    assert needed(rate * more, service, patience * service, seed) >= fewer
    assert needed(rate, service, 1.5 * patience * service, seed) <= fewer
    assert rate * service / fewer <= MOST_UTILISATION


def test_as_few_as_are_needed_and_no_fewer() -> None:
    # By Erlang one server lets 10.2 % wait longer than 1.5 s at rho 0.5, and 3.7 % at 0.35; two hardly anybody.
    assert needed(0.5, 1.0, 2.5) == 2
    assert needed(0.35, 1.0, 2.5) == 1


@pytest.mark.parametrize("rate", [0.5, 40.0, 10_000.0])
def test_a_plan_keeps_what_it_promises(rate: float) -> None:
    load = Load(rate, 20, 150, 1.0, start_seconds=300)
    found = plan(load, CURVE)
    assert found.service_seconds == CURVE.seconds(20, 150)
    assert found.service_seconds <= found.mean_seconds + 1e-9 <= found.p95_seconds + 2e-9
    assert found.p95_seconds <= load.p95_seconds
    assert found.utilisation == pytest.approx(rate * found.service_seconds / found.instances) and found.utilisation <= 0.9
    assert 1 <= found.least <= found.quiet_instances <= found.instances == max(found.course.instances)
    assert found.course.rates[0] == pytest.approx(0.2 * rate) and found.course.rates[-1] == pytest.approx(rate)
    # What autoscaling tracks is not above what there is when there are as many as are needed (Little's law).
    assert 0.01 <= found.target <= rate * found.mean_seconds / found.instances
    assert plan(load, CURVE) == found


def test_instances_come_when_they_are_asked_for_and_go_when_it_is_calm() -> None:
    rates = [0.5] * 10 + [13.0] * 40 + [0.5] * 60
    course = follow(rates, 0.25, Autoscaler(least=1, most=4, target=0.8, start_seconds=240), seed=0)
    assert course.instances[10] == 1
    # The first busy minute's metric is there at its end; four minutes later they answer.
    assert course.instances[14] == 1 and course.instances[15] > 1
    assert max(course.instances) == 4 and course.instances[-1] == 1
    # Not before a quarter of an hour of calm.
    assert set(course.instances[49:65]) == {4}
    assert course.p95[12] > 5 > course.p95[49]


def test_the_autoscaler_keeps_to_its_bounds() -> None:
    course = follow([20.0] * 30, 0.5, Autoscaler(least=2, most=3, target=0.5, start_seconds=60), seed=0)
    assert set(course.instances) == {2, 3}
    still = follow([0.1] * 60, 0.5, Autoscaler(least=2, most=3, target=5, start_seconds=60), seed=0)
    assert set(still.instances) == {2}


def test_no_requests_wait_for_nothing() -> None:
    assert follow([0.0, 0.0], 0.5, Autoscaler(1, 1, 1.0, 60), seed=0).p95 == (0.0, 0.0)


def curve(**changes: Any) -> dict[str, Any]:
    points = [{"documents": d, "tokens": 100, "seconds": {"median": d * 0.01}} for d in (1, 10, 30)]
    names = {"family": "cross-encoder", "model": "small", "precision": "fp32", "hardware": "AMD EPYC, 1 core"}
    return {**names, "instance_type": None, "points": points, **changes}


def written(folder: Path, *curves: dict[str, Any]) -> Path:
    path = folder / "service.json"
    path.write_text(json.dumps({"machine": "AMD EPYC", "date": "2026-11-29", "figures": {"curves": curves}}))
    return path


def test_the_shipped_measurements_name_their_hardware_and_are_fitted() -> None:
    curves = read_curves(Path(__file__).parents[2] / "benchmarks" / "results" / "service.json")
    assert {item.model for item in curves} >= {"sample:mini", "small"}
    assert {item.family for item in curves} == {"cross-encoder", "late-interaction", "generative"}
    assert all(item.hardware and item.worst_error < 0.35 for item in curves)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "is not what `make bench-service` writes"),
        ('{"date": "d", "figures": {"curves": []}}', "holds no curve"),
        (json.dumps({"date": "d", "figures": {"curves": [curve(hardware="")]}}), "a curve names no hardware"),
        (json.dumps({"date": "d", "figures": {"curves": [curve(points=[])]}}), "three points at least"),
    ],
)
def test_a_file_without_measurements_is_refused(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "service.json"
    path.write_text(content)
    with pytest.raises(CurveError, match=said):
        read_curves(path)
    with pytest.raises(CurveError, match=r"not measured: .* can't be read"):
        read_curves(tmp_path / "other.json")


def test_the_instances_own_curve_comes_first_and_another_only_by_its_name(tmp_path: Path) -> None:
    own = curve(instance_type="ml.g5.xlarge", hardware="NVIDIA A10G")
    other = curve(instance_type="ml.c7i.xlarge", hardware="Intel Xeon, all cores")
    curves = read_curves(written(tmp_path, curve(), own, other, curve(precision="int8"), curve(model="base")))
    wanted = {"family": "cross-encoder", "model": "small", "precision": None}
    assert choose(curves, instance_type="ml.g5.xlarge", **wanted).hardware == "NVIDIA A10G"
    assert choose(curves, instance_type="ml.c7i.xlarge", **wanted).hardware == "Intel Xeon, all cores"
    assert choose(curves, instance_type="ml.g6.xlarge", **wanted).hardware == "AMD EPYC, 1 core"
    assert choose(curves, instance_type="ml.g6.xlarge", **{**wanted, "precision": "int8"}).precision == "int8"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"family": "generative"}, "not measured: no curve of a generative; there are curves of a cross-encoder"),
        ({"model": None}, "say which model of those measured is as large as yours: base, small"),
        ({"model": "large"}, "not measured: large; there are curves of base, small"),
        ({"precision": "bf16"}, "not measured: small in bf16; there are fp32"),
    ],
)
def test_what_has_no_curve_is_said_to_have_none(asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    curves = read_curves(written(tmp_path, curve(), curve(model="base")))
    wanted = {"instance_type": "ml.g5.xlarge", "family": "cross-encoder", "model": "small", "precision": None}
    with pytest.raises(CurveError, match=said):
        choose(curves, **{**wanted, **asked})
