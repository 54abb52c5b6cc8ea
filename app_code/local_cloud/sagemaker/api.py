"""The control plane: one table of operations, lists with paging, and the HTTP entry for both planes."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from typing import Any

from local_cloud.sagemaker.context import Context, logger
from local_cloud.sagemaker.errors import ApiError, invalid
from local_cloud.sagemaker.hosting import Hosting
from local_cloud.sagemaker.models import Models
from local_cloud.sagemaker.processing import ProcessingJobs
from local_cloud.sagemaker.registry import Registry
from local_cloud.sagemaker.runtime import Response, Runtime
from local_cloud.sagemaker.scaling import Scaling
from local_cloud.sagemaker.store import Record
from local_cloud.sagemaker.training import TrainingJobs
from local_cloud.sagemaker.validation import validate

_INVOKE_PATH = re.compile(r"/endpoints/([^/]+)/invocations")
_DEFAULT_PAGE = 10
Operation = Callable[[dict[str, Any]], dict[str, Any]]


class SageMaker:
    """Everything the local SageMaker offers, by operation name."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.training = TrainingJobs(context)
        self.processing = ProcessingJobs(context)
        self.models = Models(context)
        self.hosting = Hosting(context, self.models)
        self.scaling = Scaling(context, self.hosting)
        self.registry = Registry(context)
        self.runtime = Runtime(context, self.hosting)
        self.operations = self._operations()

    def call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """Validate and carry out one operation; raises :class:`ApiError`."""
        function = self.operations.get(operation)
        if function is None:
            raise ApiError("UnknownOperationException", f"The local cloud's SageMaker has no operation {operation}.")
        validate(operation, request)
        request = {name: value for name, value in request.items() if value is not None}
        tags = request.pop("Tags", None) if operation.startswith("Create") else None
        answer = function(request)
        if tags:
            arn = next(value for name, value in answer.items() if name.endswith("Arn"))
            self._add_tags({"ResourceArn": arn, "Tags": tags})
        return answer

    def mark_interrupted(self) -> None:
        """Record what the end of an earlier server has interrupted."""
        self.training.mark_interrupted()
        self.processing.mark_interrupted()
        self.hosting.mark_interrupted()

    def shutdown(self) -> None:
        """End all processes."""
        self.training.shutdown()
        self.processing.shutdown()
        self.hosting.shutdown()
        deadline = time.monotonic() + 20
        while (self.training.running or self.processing.running) and time.monotonic() < deadline:
            time.sleep(0.05)

    async def handle(self, method: str, path: str, headers: dict[str, str], body: Any, _query: Any) -> Response:
        """MiniStack's entry for requests signed for SageMaker."""
        content = body.encode() if isinstance(body, str) else body or b""
        target = headers.get("x-amz-target", "")
        if target.startswith("SageMaker."):
            from ministack.core.concurrency import run_reentrant

            # Never on the event loop: an operation may ask S3, which this very loop serves.
            answer: Response = await run_reentrant(self._answer, target.split(".", 1)[1], content)
            return answer
        invoked = _INVOKE_PATH.fullmatch(path)
        if invoked and method == "POST":
            return await self.runtime.invoke(invoked[1], headers, content)
        return _json(404, {"message": f"The local cloud's SageMaker does not answer {method} {path}."})

    def _answer(self, operation: str, content: bytes) -> Response:
        try:
            return _json(200, self.call(operation, json.loads(content or b"{}")))
        except ApiError as error:
            logger.info("%s refused: %s: %s", operation, error.code, error.message)
            body = {"__type": error.code, "message": error.message}
            return _json(error.status, body, {"x-amzn-ErrorType": error.code})
        except json.JSONDecodeError as error:
            return _json(400, {"__type": "SerializationException", "message": f"The request is not JSON: {error}"})

    def _operations(self) -> dict[str, Operation]:
        training, processing, models = self.training, self.processing, self.models
        hosting, registry = self.hosting, self.registry
        return {
            "CreateTrainingJob": training.create,
            "DescribeTrainingJob": training.describe,
            "StopTrainingJob": training.stop,
            "ListTrainingJobs": _listing("TrainingJobSummaries", training.summaries, "TrainingJob"),
            "CreateProcessingJob": processing.create,
            "DescribeProcessingJob": processing.describe,
            "StopProcessingJob": processing.stop,
            "ListProcessingJobs": _listing("ProcessingJobSummaries", processing.summaries, "ProcessingJob"),
            "CreateModel": models.create,
            "DescribeModel": models.describe,
            "DeleteModel": models.delete,
            "ListModels": _listing("Models", models.summaries, "Model"),
            "CreateEndpointConfig": models.create_config,
            "DescribeEndpointConfig": models.describe_config,
            "DeleteEndpointConfig": models.delete_config,
            "ListEndpointConfigs": _listing("EndpointConfigs", models.config_summaries, "EndpointConfig"),
            "CreateEndpoint": hosting.create,
            "UpdateEndpoint": hosting.update,
            "UpdateEndpointWeightsAndCapacities": hosting.update_weights,
            "DescribeEndpoint": hosting.describe,
            "DeleteEndpoint": hosting.delete,
            "ListEndpoints": _listing("Endpoints", hosting.summaries, "Endpoint"),
            "CreateModelPackageGroup": registry.create_group,
            "DescribeModelPackageGroup": registry.describe_group,
            "DeleteModelPackageGroup": registry.delete_group,
            "ListModelPackageGroups": _listing("ModelPackageGroupSummaryList", registry.group_summaries, "ModelPackageGroup"),
            "CreateModelPackage": registry.create,
            "DescribeModelPackage": registry.describe,
            "UpdateModelPackage": registry.update,
            "DeleteModelPackage": registry.delete,
            "ListModelPackages": _listing("ModelPackageSummaryList", registry.summaries, "ModelPackage"),
            "AddTags": self._add_tags,
            "DeleteTags": self._delete_tags,
            "ListTags": self._list_tags,
        }

    def _add_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.context.store.change():
            tags = self.context.store.all("tags").setdefault(request["ResourceArn"], {})
            tags.update({tag["Key"]: tag["Value"] for tag in request["Tags"]})
        return {"Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}

    def _delete_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.context.store.change():
            tags = self.context.store.all("tags").get(request["ResourceArn"], {})
            for key in request["TagKeys"]:
                tags.pop(key, None)
        return {}

    def _list_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        tags = self.context.store.all("tags").get(request["ResourceArn"], {})
        return {"Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}


def _listing(member: str, summaries: Callable[[], list[Record]], kind: str) -> Operation:
    """A List operation over summaries whose members are named after ``kind``, newest first unless asked otherwise."""
    equal = {
        "StatusEquals": f"{kind}Status",
        "ModelApprovalStatus": "ModelApprovalStatus",
        "ModelPackageGroupName": "ModelPackageGroupName",
    }

    def operation(request: dict[str, Any]) -> dict[str, Any]:
        found = summaries()
        for parameter, name in equal.items():
            if parameter in request:
                found = [x for x in found if x.get(name) == request[parameter]]
        found = [x for x in found if request.get("NameContains", "") in x[f"{kind}Name"]]
        for bound, keep in (("CreationTimeAfter", float.__gt__), ("CreationTimeBefore", float.__lt__)):
            if bound in request:
                found = [x for x in found if keep(float(x["CreationTime"]), float(request[bound]))]
        by = f"{kind}Name" if request.get("SortBy") == "Name" else "CreationTime"
        # Versions made within one millisecond still come in their order.
        found.sort(key=lambda x: (x[by], x.get("ModelPackageVersion", 0)), reverse=request.get("SortOrder") != "Ascending")
        return _page(member, found, request)

    return operation


def _page(member: str, found: list[Record], request: dict[str, Any]) -> dict[str, Any]:
    try:
        start = int(base64.b64decode(request["NextToken"])) if "NextToken" in request else 0
    except ValueError:
        raise invalid("NextToken is not one that this service gave out.") from None
    end = start + request.get("MaxResults", _DEFAULT_PAGE)
    page: dict[str, Any] = {member: found[start:end]}
    if end < len(found):
        page["NextToken"] = base64.b64encode(str(end).encode()).decode()
    return page


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    return status, {"Content-Type": "application/x-amz-json-1.1", **(headers or {})}, json.dumps(value).encode()
