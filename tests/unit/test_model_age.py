"""The live model's age is told as a metric, and before there is one nothing is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from loading import load

AGE = load("model_age", "age")
PACKAGE = "arn:aws:sagemaker:ap-northeast-2:1:model-package/ko-reranker-prod/7"


class Services:
    """A parameter store and a registry with one package, made ten days and a half ago."""

    def __init__(self, live: str) -> None:
        self._live = live

    def get_parameter(self, *, Name: str) -> dict[str, Any]:
        assert Name == "/ko-reranker/prod/live-model"
        return {"Parameter": {"Value": self._live}}

    def describe_model_package(self, *, ModelPackageName: str) -> dict[str, Any]:
        assert ModelPackageName == PACKAGE
        return {"CreationTime": datetime.now(UTC) - timedelta(days=10, hours=12)}


def told(live: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    services = Services(live)
    AGE.report("/ko-reranker/prod/live-model", "ko-reranker", "ko-reranker-prod", ssm=services, sagemaker=services)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_age_is_in_days_since_the_package_was_registered(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = told(f"{PACKAGE},s3://data/models/m/,image", capsys)
    assert line["model_age"] == pytest.approx(10.5, abs=0.01)
    assert (line["endpoint"], line["model_package"]) == ("ko-reranker-prod", PACKAGE)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("ko-reranker", [["endpoint"]])


@pytest.mark.parametrize("live", ["none,none,none", "none,s3://data/models/m/,image"])
def test_a_model_without_a_package_has_no_age(live: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(live, capsys) == []
