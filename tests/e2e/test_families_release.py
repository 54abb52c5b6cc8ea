"""A model of any family is trained, evaluated, let through the gate and released as a cross-encoder is."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
from pathlib import Path

import pytest
from deployed_stage import PROJECT, free_port

from ko_reranker.operations import asking, executions
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage
from ko_reranker.samples import paths
from local_cloud import deploying
from local_cloud.cloud import LocalCloud

sys.path.insert(0, str(PROJECT / "tests" / "aws"))
from journey import SETTINGS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("recipe", "base_model"), [("tiny-colbert", "sample:tiny"), ("tiny-generative", "sample:tiny-decoder")]
)
def test_the_state_machine_trains_gates_and_releases_one(recipe: str, base_model: str, tmp_path: Path) -> None:
    project = Project.find(PROJECT)
    with LocalCloud(tmp_path, free_port(), free_port()) as cloud:
        stage = deploying.deploy_local_stage(project, cloud)
        # A gate that the demonstration's model passes.
        deploying.deploy(PROJECT, cloud, stage="local", settings=SETTINGS)
        some = tmp_path / "some.jsonl"
        with gzip.open(paths.SAMPLE, "rb") as stream:
            some.write_bytes(b"".join(itertools.islice(stream, 120)))
        bucket, s3 = stage.output("DataBucket"), stage.client("s3")
        s3.upload_file(str(some), bucket, "raw/some/some.jsonl")
        arn = executions.start(
            stage,
            "RetrainStateMachine",
            {"dataset": "some", "recipe": recipe, "base_model": base_model, "hyperparameters": {"epochs": "2"}},
        )
        for _ in executions.follow(stage, arn, poll_seconds=0.5):
            pass
        outcome = executions.outcome(stage, arn)
        assert outcome.succeeded, outcome.cause
        output = outcome.output
        prefix = f"models/{output['request']['run']}/{output['training']['job']}"
        golden = json.loads(s3.get_object(Bucket=bucket, Key=f"{prefix}/evaluation/golden.json")["Body"].read())
        query = golden["queries"][0]

        stage = Stage.connect("local", project, cloud=cloud)
        live = stage.live_model()
        assert live is not None and live[0] == output["package"]["arn"]
        answer = asking.rerank(stage.api_url, stage.api_key, query["query"], query["documents"])
        scores = {item["index"]: item["relevance_score"] for item in answer}
        assert [scores[index] for index in range(len(query["documents"]))] == pytest.approx(query["scores"], abs=1e-3)
