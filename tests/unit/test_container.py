"""SageMaker's side of a job: where it reads its settings and how it says why it failed."""

from __future__ import annotations

import errno
import json

import pytest

from ko_reranker import container
from ko_reranker.container import JobError, Resources


def test_the_root_can_be_moved(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("SAGEMAKER_BASE_DIR", raising=False)
    assert str(container.base_dir()) == "/opt/ml"
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    assert container.model_dir() == tmp_path / "model"


def test_hyperparameters_are_strings_whatever_they_were_written_as(tmp_path) -> None:
    (tmp_path / "hyperparameters.json").write_text('{"recipe": "tiny", "epochs": 2, "gradient_checkpointing": true}')
    assert container.read_hyperparameters(tmp_path) == {"recipe": "tiny", "epochs": "2", "gradient_checkpointing": "true"}


def test_a_folder_without_settings_means_defaults_on_this_machine(tmp_path) -> None:
    assert container.read_hyperparameters(tmp_path) == {}
    assert container.read_resources(tmp_path) == Resources("localhost", ("localhost",))


def test_a_hosts_rank_is_its_place_among_the_hosts(tmp_path) -> None:
    row = {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth0"}
    (tmp_path / "resourceconfig.json").write_text(json.dumps(row))
    resources = container.read_resources(tmp_path)
    assert (resources.rank, resources.network_interface) == (1, "eth0")


def test_a_host_that_is_not_in_the_list_is_named(tmp_path) -> None:
    (tmp_path / "resourceconfig.json").write_text('{"current_host": "algo-3", "hosts": ["algo-1"]}')
    with pytest.raises(JobError, match="algo-3"):
        container.read_resources(tmp_path)


def test_the_first_reason_of_a_failure_stays_and_replaces_a_secondary_one(tmp_path) -> None:
    file = tmp_path / "output" / "failure"
    container.fail(f"{container.SECONDARY_FAILURE}: gone", file)
    container.fail("The loss became nan:\n lower learning_rate.", file)
    container.fail("The workers ended with exit code 1.", file)
    assert file.read_text() == "The loss became nan: lower learning_rate."


def test_a_failure_fits_into_what_sagemaker_shows(tmp_path) -> None:
    container.fail("가" * 5000, tmp_path / "failure")
    assert len((tmp_path / "failure").read_text(encoding="utf-8")) == 1024


def test_running_out_of_memory_says_what_to_lower() -> None:
    assert "micro_batch_tokens" in container.describe(MemoryError())
    assert container.describe(KeyError("x")) == "KeyError: 'x'"
    assert container.describe(JobError("Do this.")) == "Do this."


@pytest.mark.parametrize("words", ["Error while serializing: No space left on device (os error 28)", None])
def test_a_full_disk_is_told_as_one_whoever_found_out(tmp_path, words) -> None:
    error = ValueError("could not save")
    if words:
        error.__cause__ = RuntimeError(words)
    else:
        error.__cause__ = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "model.safetensors"))
    sentence = container.describe(error)
    assert sentence.startswith("The disk is full: the disk of /") and "free" in sentence and "volume_gb" in sentence
    assert not container.describe(OSError(errno.ENOENT, "No such file", "x")).startswith("The disk")
