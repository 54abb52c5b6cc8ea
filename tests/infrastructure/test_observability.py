"""What is told, and to whom: alarms with runbooks, a dashboard of metrics that somebody writes, saved queries, a budget."""

from __future__ import annotations

import importlib
import json
import re
from types import SimpleNamespace
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import assertions
from synthesis import CONTEXT, FLAGS, ROOT, Templates, synthesise
from test_templates import resources

from cdk.app import build
from cdk.constructs.hosting import alarm_names
from ko_reranker.protocol import RerankResult
from ko_reranker.settings import load_settings

RUNBOOKS = ROOT / "docs" / "runbooks.md"
PREFIX = "ko-reranker-prod"


def alarms(templates: Templates) -> dict[str, dict[str, Any]]:
    found = (item["Properties"] for stack in templates.values() for _, item in resources({"": stack}, "AWS::CloudWatch::Alarm"))
    return {properties["AlarmName"].removeprefix(f"{PREFIX}-"): properties for properties in found if "AlarmName" in properties}


def dashboard(templates: Templates) -> dict[str, Any]:
    """The dashboard's body, every reference in it written as its name."""
    (item,) = [item for _, item in resources({"": templates["observability"]}, "AWS::CloudWatch::Dashboard")]
    parts = item["Properties"]["DashboardBody"]["Fn::Join"][1]
    return json.loads("".join(part if isinstance(part, str) else next(iter(part.values())).__str__() for part in parts))


def named(templates: Templates, namespace: str) -> set[str]:
    """The metrics of a namespace that the dashboard shows."""
    graphs = [widget["properties"].get("metrics", ()) for widget in dashboard(templates)["widgets"]]
    return {row[1] for graph in graphs for row in graph if row[0] == namespace}


def test_every_alarm_that_the_operation_needs_is_there(prod: Templates) -> None:
    assert set(alarms(prod)) == {
        "api-errors",
        "api-latency",
        "endpoint-errors",
        "endpoint-latency",
        "endpoint-silent",
        "function-errors",
        "function-throttles",
        "model-stale",
        "release-failed",
        "release-not-started",
        "retraining-failed",
        "retraining-untold",
    }


def test_every_alarm_tells_somebody_and_leads_to_its_runbook(prod: Templates) -> None:
    headings = set(re.findall(r"^## (\S+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE))
    assert set(alarms(prod)) | {"budget", "cost-anomaly"} == headings
    for name, alarm in alarms(prod).items():
        assert alarm["AlarmDescription"].endswith(f"Runbook: docs/runbooks.md#{name}")
        assert "Topic" in json.dumps(alarm["AlarmActions"])


def test_the_runbooks_may_lie_elsewhere() -> None:
    templates, _ = synthesise("prod", **{"alerts.runbooks": "https://wiki.example/runbooks", "serving.enabled": "true"})
    assert all("https://wiki.example/runbooks#" in alarm["AlarmDescription"] for alarm in alarms(templates).values())


def test_an_endpoint_that_says_nothing_is_wrong_and_nothing_else_is(prod: Templates) -> None:
    silent = {name for name, alarm in alarms(prod).items() if alarm["TreatMissingData"] == "breaching"}
    assert silent == {"endpoint-silent"}


def test_thresholds_are_settings() -> None:
    changed = {"alerts.api_error_percent": "2.5", "alerts.api_p95_seconds": "3", "alerts.model_age_days": "30"}
    found = alarms(synthesise("prod", **changed)[0])
    assert [found[name]["Threshold"] for name in ("api-errors", "api-latency", "model-stale")] == [2.5, 3000, 30]
    assert "model-stale" not in alarms(synthesise("prod", **{"alerts.model_age_days": "null"})[0])


def test_without_an_endpoint_nothing_looks_at_one(prod_without_endpoint: Templates) -> None:
    assert not {name for name in alarms(prod_without_endpoint) if name.startswith("endpoint")}
    assert "AWS/SageMaker" not in json.dumps(prod_without_endpoint["observability"])


def test_the_dashboard_shows_every_alarm(prod: Templates) -> None:
    shown = json.dumps([widget for widget in dashboard(prod)["widgets"] if widget["type"] == "alarm"])
    ids = dict(resources({"": prod["observability"]}, "AWS::CloudWatch::Alarm"))
    assert all(name.split("/")[-1] in shown for name in ids)
    settings = load_settings({**CONTEXT, "stage": "prod"})
    assert all(name in shown for name in alarm_names(settings))


def test_the_dashboard_shows_metrics_that_the_rerank_function_writes(
    prod: Templates, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "lambda" / "rerank"))
    reporting = importlib.import_module("reporting")
    report = reporting.Report("ko-reranker", PREFIX, "r")
    report.upstream_milliseconds = 1.0
    report.request(SimpleNamespace(dialect="cohere-v2", documents=["text"]))
    report.result(RerankResult(logits=(0.0,), tokens=(3,), truncated=(False,), model="m"))
    report.emit()
    written = json.loads(capsys.readouterr().out)
    names = {item["Name"] for directive in written["_aws"]["CloudWatchMetrics"] for item in directive["Metrics"]}
    told_elsewhere = {"model_age", "evaluation_mrr"}
    assert named(prod, "ko-reranker") - told_elsewhere <= names
    assert named(prod, "ko-reranker") >= told_elsewhere


def test_saved_queries_ask_logs_that_are_there(prod: Templates) -> None:
    queries = {item["Properties"]["Name"]: item["Properties"] for _, item in resources(prod, "AWS::Logs::QueryDefinition")}
    assert set(queries) == {
        f"{PREFIX}/{name}"
        for name in (
            "Slowest requests",
            "Errors by type and cause",
            "Cold starts",
            "Requests by key",
            "Steps of the last trainings",
            "What the containers warn of",
        )
    }
    exports = {
        output["Export"]["Name"]
        for stack in prod.values()
        for output in stack.get("Outputs", {}).values()
        if "Export" in output
    }
    for query in queries.values():
        (group,) = query["LogGroupNames"]
        assert group["Fn::ImportValue"] in exports if isinstance(group, dict) else group.startswith("/aws/sagemaker/")


def test_a_budget_tells_the_topic_and_may(prod: Templates) -> None:
    assert not list(resources(prod, "AWS::Budgets::Budget"))
    assert "budgets.amazonaws.com" not in json.dumps(prod["data"])
    templates, _ = synthesise("prod", **{"alerts.monthly_budget_usd": "900"})
    (budget,) = [item["Properties"] for _, item in resources(templates, "AWS::Budgets::Budget")]
    assert budget["Budget"]["BudgetLimit"] == {"Amount": 900, "Unit": "USD"}
    assert budget["Budget"]["CostFilters"] == {"TagKeyValue": ["user:project$ko-reranker"]}
    kinds = {row["Notification"]["NotificationType"]: row for row in budget["NotificationsWithSubscribers"]}
    assert {kind: row["Notification"]["Threshold"] for kind, row in kinds.items()} == {"ACTUAL": 80, "FORECASTED": 100}
    for kind in ("AWS::SNS::TopicPolicy", "AWS::KMS::Key"):
        ((_, item),) = list(resources({"": templates["data"]}, kind))
        assert "budgets.amazonaws.com" in json.dumps(item)


def test_costs_that_leave_their_pattern_tell_the_topic_and_may(prod: Templates) -> None:
    assert not list(resources(prod, "AWS::CE::AnomalyMonitor"))
    templates, _ = synthesise("prod", **{"alerts.anomaly_usd": "25"})
    ((_, monitor),) = list(resources(templates, "AWS::CE::AnomalyMonitor"))
    project = {"Tags": {"Key": "project", "Values": ["ko-reranker"]}}
    assert json.loads(monitor["Properties"]["MonitorSpecification"]) == project
    ((_, subscription),) = list(resources(templates, "AWS::CE::AnomalySubscription"))
    threshold = json.loads(subscription["Properties"]["ThresholdExpression"])["Dimensions"]
    assert (threshold["Key"], threshold["Values"]) == ("ANOMALY_TOTAL_IMPACT_ABSOLUTE", ["25"])
    for kind in ("AWS::SNS::TopicPolicy", "AWS::KMS::Key"):
        ((_, item),) = list(resources({"": templates["data"]}, kind))
        assert "costalerts.amazonaws.com" in json.dumps(item)
        assert "budgets.amazonaws.com" not in json.dumps(item)


@pytest.mark.parametrize(("email", "warned"), [("null", True), ("ops@example.com", False)])
def test_a_prod_stage_that_nobody_hears_of_is_warned_of(email: str, warned: bool) -> None:
    app = cdk.App(context=FLAGS)
    stacks = build(app, load_settings({**CONTEXT, "stage": "prod", "alerts.email": email}))
    found = assertions.Annotations.from_stack(stacks["observability"]).find_warning(
        "*", assertions.Match.string_like_regexp("Nobody hears of the alarms")
    )
    assert bool(found) == warned
