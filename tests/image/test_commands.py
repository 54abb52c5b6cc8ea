"""The image's four commands under SageMaker's folders: read-only where SageMaker's are, and nothing else writable but /tmp."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from runtime import Container, Runtime

from ko_reranker.data.jsonl import dump_line, read_record_file
from ko_reranker.data.records import TrainingRecord
from ko_reranker.samples import paths

HOSTS = ["algo-1", "algo-2"]
RECIPE = {"recipe": "tiny", "epochs": "1", "batch_queries": "8", "checkpoint_every_steps": "2", "log_every_steps": "1"}
Volume = Callable[[], str]


@pytest.fixture(scope="session")
def records() -> list[TrainingRecord]:
    return list(read_record_file(paths.SAMPLE))[:48]


def lines(records: list[TrainingRecord]) -> bytes:
    return b"".join(dump_line(record.to_json()) for record in records)


@pytest.fixture(scope="session")
def dataset(runtime: Runtime, volume: Volume, records: list[TrainingRecord]) -> str:
    place = volume()
    runtime.put(place, {"train.jsonl": lines(records[:32]), "dev.jsonl": lines(records[32:]), "manifest.json": "{}"})
    return place


def training_host(
    runtime: Runtime, volume: Volume, data: str, host: str, hosts: list[str], settings: dict[str, str]
) -> dict[str, str]:
    """Lay out a host's folders; return its volumes by their places. Input is read-only; the rest is the job's to write."""
    config = volume()
    resources = {"current_host": host, "hosts": hosts, "network_interface_name": "lo" if runtime.network else "eth0"}
    runtime.put(config, {"hyperparameters.json": json.dumps(settings), "resourceconfig.json": json.dumps(resources)})
    written = {name: volume() for name in ("model", "output", "checkpoints")}
    return {
        config: "/opt/ml/input/config:ro",
        data: "/opt/ml/input/data/dataset:ro",
        **{place: f"/opt/ml/{name}" for name, place in written.items()},
    }


def at(volumes: dict[str, str], place: str) -> str:
    return next(name for name, where in volumes.items() if where.removesuffix(":ro") == place)


def job(runtime: Runtime, volume: Volume, data: str, *arguments: str, more: dict[str, str] | None = None) -> dict[str, bytes]:
    """Run a processing job; return what it left. SageMaker names the entrypoint itself."""
    output, message = volume(), volume()
    volumes = {data: "/opt/ml/processing/input/dataset:ro", output: "/opt/ml/processing/output", message: "/opt/ml/output"}
    with runtime.container(arguments, volumes={**volumes, **(more or {})}, entrypoint="ko-reranker") as one:
        one.start()
        assert one.wait() == 0, one.log()
    return runtime.get(output)


@pytest.fixture(scope="session")
def mined(runtime: Runtime, volume: Volume, dataset: str) -> str:
    files = job(runtime, volume, dataset, "mine", "--negatives", "5")
    report = json.loads(files["mining.json"])
    assert report["train"]["records"] == 32 and report["train"]["mined"] > 0
    assert all(len(json.loads(line)["neg"]) >= 5 for line in files["train.jsonl"].splitlines())
    place = volume()
    runtime.put(place, files)
    return place


@pytest.fixture(scope="session")
def model(runtime: Runtime, volume: Volume, network: str | None, mined: str) -> str:
    """Train on two hosts; return the volume that the first one left the model in."""
    folders = {host: training_host(runtime, volume, mined, host, HOSTS, RECIPE) for host in HOSTS}
    with ExitStack() as stack:
        containers = [
            stack.enter_context(runtime.container(["train"], volumes=folders[host], hosts=HOSTS, network=network, name=host))
            for host in HOSTS
        ]
        for one in containers:
            one.start()
        assert [one.wait() for one in containers] == [0, 0], "\n".join(one.log() for one in containers)
        assert "over 2 worker(s)" in containers[0].log()
    for host in HOSTS:
        assert "failure" not in runtime.get(at(folders[host], "/opt/ml/output"))
    files = runtime.get(at(folders["algo-1"], "/opt/ml/model"))
    assert {"model.safetensors", "config.json", "tokenizer.json", "reranker.json", "run_card.json"} <= files.keys()
    assert json.loads(files["run_card.json"])["hosts"] == 2
    assert any(name.startswith("step-") for name in runtime.get(at(folders["algo-1"], "/opt/ml/checkpoints")))
    assert not runtime.get(at(folders["algo-2"], "/opt/ml/model")), "one host writes the model"
    return at(folders["algo-1"], "/opt/ml/model")


def test_mined_records_train_a_model_on_two_hosts(model: str) -> None:
    assert model


def test_the_evaluation_judges_the_model(runtime: Runtime, volume: Volume, mined: str, model: str) -> None:
    place = "/opt/ml/processing/input/candidate"
    arguments = ("evaluate", "--candidate", place, "--base", "sample:tiny", "--candidates", "10")
    files = job(runtime, volume, mined, *arguments, more={model: f"{place}:ro"})
    assert {"report.json", "report.html", "metrics.json", "golden.json"} <= files.keys()
    assert {"none", "base", "candidate"} <= json.loads(files["report.json"])["rows"].keys()


def test_a_failing_job_leaves_its_sentence_and_exit_code_1(runtime: Runtime, volume: Volume, dataset: str) -> None:
    volumes = training_host(runtime, volume, dataset, "algo-1", ["algo-1"], {"recipe": "tiny", "learning_rates": "1"})
    with runtime.container(["train"], volumes=volumes) as one:
        one.start()
        assert one.wait() == 1
    assert b"learning_rates" in runtime.get(at(volumes, "/opt/ml/output"))["failure"]


def test_sigterm_to_a_training_writes_a_checkpoint_and_the_next_attempt_goes_on_from_it(
    runtime: Runtime, volume: Volume, mined: str
) -> None:
    settings = RECIPE | {"epochs": "400", "checkpoint_every_steps": "100000", "dev_queries": "0"}
    volumes = training_host(runtime, volume, mined, "algo-1", ["algo-1"], settings)
    with runtime.container(["train"], volumes=volumes) as one:
        one.start()
        until(lambda: "step=3/" in one.log() or not one.running())
        one.signal("TERM")
        assert one.wait() == 143, one.log()
    assert "failure" not in runtime.get(at(volumes, "/opt/ml/output"))
    assert any(name.startswith("step-") for name in runtime.get(at(volumes, "/opt/ml/checkpoints")))
    with runtime.container(["train"], volumes=volumes) as one:
        one.start()
        until(lambda: "Resuming after step" in one.log() or not one.running())
        assert "Resuming after step" in one.log()
        one.signal("TERM")
        assert one.wait() == 143, one.log()


REQUEST = """
import json, urllib.request
body = {"query": "창을 닫는 함수", "texts": ["이 함수는 창을 닫습니다.", "제주도는 화산섬이다."]}
headers = {"content-type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:PORT/invocations", json.dumps(body).encode(), headers)
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""
PING = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:PORT/ping', timeout=5).status)"


def test_the_endpoint_answers_from_a_read_only_model_and_ends_at_sigterm(runtime: Runtime, model: str) -> None:
    # SageMaker runs `IMAGE serve` and names the port; in the machine's own network the usual one may be taken.
    port = "18080" if runtime.network else "8080"
    variables = {"SAGEMAKER_BIND_TO_PORT": port}
    with runtime.container(["serve"], volumes={model: "/opt/ml/model:ro"}, variables=variables) as one:
        one.start()
        assert until(lambda: answers(one, port)), one.log()
        answer = json.loads(one.python(REQUEST.replace("PORT", port)))
        assert sorted(item["index"] for item in answer) == [0, 1]
        assert all(0 <= item["score"] <= 1 for item in answer)
        one.signal("TERM")
        assert one.wait() == 0, one.log()


def answers(one: Container, port: str) -> bool:
    done = one.runtime.run("exec", one.id, "python", "-c", PING.replace("PORT", port), check=False)
    return done.returncode == 0 and done.stdout.decode().strip() == "200"


def until(check: Callable[[], bool], seconds: float = 240) -> bool:
    deadline = time.monotonic() + seconds
    while not (answer := check()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer


def test_the_image_asks_for_the_gpu_and_holds_no_more_than_the_package(runtime: Runtime) -> None:
    configuration = json.loads(runtime.text("image", "inspect", runtime.image))[0]["Config"]
    variables = dict(line.split("=", 1) for line in configuration["Env"])
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all" and variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert configuration["Entrypoint"] == ["ko-reranker"] and configuration["Cmd"] == ["serve"]
    extras = ("aws_cdk", "ministack", "moto", "pytest", "sagemaker")
    code = f"import importlib.util as found; print([name for name in {extras} if found.find_spec(name)])"
    with runtime.container(["-c", code], entrypoint="python") as one:
        one.start()
        assert one.wait() == 0
        assert one.log().strip() == "[]"
