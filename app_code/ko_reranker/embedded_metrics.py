"""CloudWatch metrics as a line of a function's log, in the embedded metric format: no call, no permission.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any


class MetricLine:
    """One line: metrics, what they are told apart by, and further facts to search the log for.

    Args:
        namespace: the CloudWatch namespace.
        facts: of the line; the dimensions are among them.
    """

    def __init__(self, namespace: str, facts: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._content = dict(facts)
        self._directives: list[dict[str, Any]] = []

    def add(self, metrics: Mapping[str, tuple[str, float]], *dimensions: Sequence[str]) -> None:
        """Have metrics recorded, once for each set of dimensions.

        Args:
            metrics: unit, such as ``Count`` or ``Milliseconds``, and value, by name.
            dimensions: sets of names of facts.
        """
        named = [{"Name": name, "Unit": unit} for name, (unit, _) in metrics.items()]
        sets = [list(names) for names in dimensions]
        self._directives.append({"Namespace": self._namespace, "Dimensions": sets, "Metrics": named})
        self._content |= {name: value for name, (_, value) in metrics.items()}

    def write(self) -> None:
        """Print the line, with the present time."""
        marks = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": self._directives}
        print(json.dumps({"_aws": marks, **self._content}))
