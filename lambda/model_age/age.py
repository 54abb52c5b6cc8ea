"""The age of the live model: days since its package was registered, whenever it was released."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ko_reranker.embedded_metrics import MetricLine

_SECONDS_A_DAY = 86_400


def report(parameter: str, namespace: str, endpoint: str, *, ssm: Any, sagemaker: Any) -> None:
    """Write the metric ``model_age``, in days; before the first release there is none.

    CloudWatch has no unit of days: it is a Count.

    Args:
        parameter: of the live model: package ARN, model data URI, image.
        namespace: of the metric.
        endpoint: the metric's dimension.
    """
    package = ssm.get_parameter(Name=parameter)["Parameter"]["Value"].split(",")[0]
    if package == "none":
        return
    created: datetime = sagemaker.describe_model_package(ModelPackageName=package)["CreationTime"]
    days = (datetime.now(UTC) - created).total_seconds() / _SECONDS_A_DAY
    line = MetricLine(namespace, {"endpoint": endpoint, "model_package": package})
    line.add({"model_age": ("Count", round(days, 3))}, ["endpoint"])
    line.write()
