"""What happens when a retraining goes wrong: it says why, tells whoever subscribed, and leaves the live model alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from deployed_stage import Deployed
from test_whole_run import wait_in_service

from ko_reranker.data.jsonl import write_jsonl
from ko_reranker.operations import asking, executions
from ko_reranker.operations.executions import Outcome


def retrain(deployed: Deployed, name: str, execution_input: dict[str, Any]) -> Outcome:
    arn = executions.start(deployed.stage, "RetrainStateMachine", execution_input, name)
    for _ in executions.follow(deployed.stage, arn, poll_seconds=0.3):
        pass
    return executions.outcome(deployed.stage, arn)


def upload_korean_records(deployed: Deployed, folder: Path, dataset: str) -> None:
    rows = [
        {"query": f"{n}번 문서를 여는 방법", "pos": [f"{n}번 문서는 파일 메뉴의 열기 명령으로 엽니다."], "neg": []}
        for n in range(40)
    ]
    write_jsonl(folder / "records.jsonl", rows)
    bucket = deployed.stage.output("DataBucket")
    deployed.stage.client("s3").upload_file(str(folder / "records.jsonl"), bucket, f"raw/{dataset}/records.jsonl")


def subscribe(deployed: Deployed) -> tuple[Any, str]:
    """Subscribe a queue to the stage's topic, as an operator would an address."""
    sqs, sns = deployed.stage.client("sqs"), deployed.stage.client("sns")
    url = sqs.create_queue(QueueName="operator")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = deployed.stage.output("TopicArn")
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn}
        ],
    }
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return sqs, url


def received(sqs: Any, url: str, word: str, seconds: float = 60) -> list[str]:
    found: list[str] = []
    deadline = time.monotonic() + seconds
    while not any(word in message for message in found) and time.monotonic() < deadline:
        answer = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1, MaxNumberOfMessages=10)
        found += [json.loads(item["Body"])["Message"] for item in answer.get("Messages", ())]
    return found


def test_a_failing_training_job_ends_with_its_own_sentence_and_the_old_model_stays_live(
    deployed: Deployed, tmp_path: Path
) -> None:
    upload_korean_records(deployed, tmp_path, "korean")
    wait_in_service(deployed)
    sqs, url = subscribe(deployed)
    live = deployed.stage.live_model()
    documents = ["파일 메뉴의 열기 명령으로 엽니다.", "제주도는 화산섬이다."]
    before = asking.rerank(deployed.stage.api_url, deployed.stage.api_key, "문서를 여는 방법", documents)

    outcome = retrain(
        deployed,
        "failing-training",
        {"dataset": "korean", "source_language": "ko", "hyperparameters": {"distillation_weight": 0.5}},
    )

    assert outcome.status == "FAILED"
    # The sentence that `ko-reranker train` wrote, not JSON and not a stack trace.
    sentence = "distillation_weight is 0.5, but no record of train.jsonl has pos_scores"
    assert outcome.cause.startswith(f"AlgorithmError: {sentence}")
    assert any("failing-training FAILED" in message for message in received(sqs, url, "failing-training"))
    assert deployed.stage.live_model() == live
    assert asking.rerank(deployed.stage.api_url, deployed.stage.api_key, "문서를 여는 방법", documents) == before


def test_an_invalid_input_names_every_field_that_is_wrong(deployed: Deployed) -> None:
    outcome = retrain(
        deployed, "invalid-input", {"datset": "x", "instance_count": 0, "approval": "maybe", "hyperparameters": {"epochs": []}}
    )
    assert outcome.status == "FAILED"
    for field in ("datset", "instance_count", "approval", "epochs"):
        assert field in outcome.cause


def test_a_hyperparameter_that_the_recipe_refuses_is_refused_before_anything_is_done(deployed: Deployed) -> None:
    outcome = retrain(deployed, "wrong-hyperparameter", {"hyperparameters": {"epochs": "abc"}})
    assert outcome.status == "FAILED"
    assert "epochs = 'abc' must be a number" in outcome.cause
    assert (
        not deployed.stage.client("s3")
        .list_objects_v2(Bucket=deployed.stage.output("DataBucket"), Prefix="runs/wrong-hyperparameter/")
        .get("Contents")
    )


def test_a_dataset_that_is_not_there_says_where_to_put_it(deployed: Deployed) -> None:
    outcome = retrain(deployed, "no-dataset", {"dataset": "nowhere"})
    assert outcome.status == "FAILED"
    assert "/raw/nowhere/" in outcome.cause


def test_a_plan_over_budget_stops_before_anything_is_spent(deployed: Deployed, tmp_path: Path) -> None:
    rows = [{"query": f"never translated before {n}", "pos": [f"a passage {n} " * 50]} for n in range(20)]
    write_jsonl(tmp_path / "new.jsonl", rows)
    bucket = deployed.stage.output("DataBucket")
    deployed.stage.client("s3").upload_file(str(tmp_path / "new.jsonl"), bucket, "raw/new/new.jsonl")
    outcome = retrain(deployed, "over-budget", {"dataset": "new", "max_translation_usd": 0.01})
    assert outcome.status == "FAILED"
    assert "$0.01" in outcome.cause
    dry = retrain(deployed, "dry-run", {"dataset": "new", "max_translation_usd": 0.01, "dry_run": True})
    assert dry.status == "SUCCEEDED"
    assert dry.output["plan"]["distinct_texts"] == 40


def test_untranslatable_texts_stop_the_run_with_the_reason(deployed: Deployed) -> None:
    outcome = retrain(deployed, "not-in-phrasebook", {"dataset": "new"})
    assert outcome.status == "FAILED"
    assert "quarantine" in outcome.cause
    assert "phrasebook" in outcome.cause


def test_a_package_that_is_not_approved_is_not_deployed(deployed: Deployed) -> None:
    live = deployed.stage.live_model()
    arn = executions.start(deployed.stage, "DeployStateMachine", {"model_package": "arn:aws:s3:::something-else"})
    for _ in executions.follow(deployed.stage, arn, poll_seconds=0.3):
        pass
    outcome = executions.outcome(deployed.stage, arn)
    assert outcome.status == "FAILED"
    assert "model_package" in outcome.cause
    assert deployed.stage.live_model() == live


def test_deploying_the_live_model_again_changes_nothing(deployed: Deployed) -> None:
    live = deployed.stage.live_model()
    assert live is not None
    before = wait_in_service(deployed)["EndpointConfigName"]
    arn = executions.start(deployed.stage, "DeployStateMachine", {"model_package": live[0]})
    for _ in executions.follow(deployed.stage, arn, poll_seconds=0.3):
        pass
    assert executions.outcome(deployed.stage, arn).succeeded
    assert wait_in_service(deployed)["EndpointConfigName"] == before
