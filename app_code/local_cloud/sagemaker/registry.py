"""The model registry: groups, versioned packages, approval, and the event that tells of both."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from local_cloud.sagemaker.context import Context, now
from local_cloud.sagemaker.errors import invalid
from local_cloud.sagemaker.models import check_prefix
from local_cloud.sagemaker.store import Record, shown

STATE_CHANGE = "SageMaker Model Package State Change"


class Registry:
    """The operations on model package groups and packages."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._groups = context.store.all("model_package_groups")
        self._packages = context.store.all("model_packages")

    def create_group(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["ModelPackageGroupName"]
        arn = self._context.arn("model-package-group", name)
        with self._context.store.change():
            if name in self._groups:
                raise invalid(f"Model Package Group already exists: {arn}")
            self._groups[name] = {
                **request,
                "ModelPackageGroupArn": arn,
                "ModelPackageGroupStatus": "Completed",
                "CreationTime": now(),
                "_versions": 0,
            }
        return {"ModelPackageGroupArn": arn}

    def describe_group(self, request: dict[str, Any]) -> dict[str, Any]:
        return shown(self._group(request["ModelPackageGroupName"]))

    def delete_group(self, request: dict[str, Any]) -> dict[str, Any]:
        name = self._group(request["ModelPackageGroupName"])["ModelPackageGroupName"]
        if any(p["ModelPackageGroupName"] == name for p in self._packages.values()):
            arn = self._context.arn("model-package-group", name)
            raise invalid(f"Model Package Group {arn} contains model packages: delete them first.")
        with self._context.store.change():
            del self._groups[name]
        return {}

    def group_summaries(self) -> list[Record]:
        names = (
            *("ModelPackageGroupName", "ModelPackageGroupArn", "CreationTime", "ModelPackageGroupStatus"),
            "ModelPackageGroupDescription",
        )
        return [{n: g[n] for n in names if n in g} for g in self._groups.values()]

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        if "ModelPackageGroupName" not in request:
            raise invalid("The local cloud keeps versioned packages only: give ModelPackageGroupName.")
        group = self._group(request["ModelPackageGroupName"].rsplit("/", 1)[-1])
        containers = request.get("InferenceSpecification", {}).get("Containers", [])
        if len(containers) != 1:
            raise invalid("The local cloud needs InferenceSpecification with exactly one container.")
        self._context.image(containers[0]["Image"])
        check_prefix(containers[0])
        with self._context.store.change():
            group["_versions"] += 1
            version, name = group["_versions"], group["ModelPackageGroupName"]
            arn = self._context.arn("model-package", f"{name}/{version}")
            package = {
                "ModelApprovalStatus": "PendingManualApproval",
                **{k: v for k, v in request.items() if k not in ("ClientToken", "Tags")},
                "ModelPackageName": f"{name}/{version}",
                "ModelPackageGroupName": name,
                "ModelPackageVersion": version,
                "ModelPackageArn": arn,
                "ModelPackageStatus": "Completed",
                "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
                "CreationTime": now(),
            }
            self._packages[arn] = package
        self._tell(package)
        return {"ModelPackageArn": arn}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        return shown(self._package(request["ModelPackageName"]))

    def update(self, request: dict[str, Any]) -> dict[str, Any]:
        package = self._package(request["ModelPackageArn"])
        before = dict(package)
        removed = request.get("CustomerMetadataPropertiesToRemove", [])
        with self._context.store.change():
            for name in ("ModelApprovalStatus", "ApprovalDescription", "SourceUri", "ModelCard", "InferenceSpecification"):
                if name in request:
                    package[name] = request[name]
            properties = {**package.get("CustomerMetadataProperties", {}), **request.get("CustomerMetadataProperties", {})}
            kept = {k: v for k, v in properties.items() if k not in removed}
            package.update({"CustomerMetadataProperties": kept} if kept or "CustomerMetadataProperties" in package else {})
            changed = [name for name in package if package[name] != before.get(name)]
            package["LastModifiedTime"] = now()
        # Whatever is edited is told, with the approval status as it stands: an approved package is "Approved" again.
        if changed:
            self._tell(package, changed)
        return {"ModelPackageArn": package["ModelPackageArn"]}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        arn = self._package(request["ModelPackageName"])["ModelPackageArn"]
        with self._context.store.change():
            del self._packages[arn]
        return {}

    def summaries(self) -> list[Record]:
        names = (
            *("ModelPackageName", "ModelPackageGroupName", "ModelPackageVersion", "ModelPackageArn"),
            *("ModelPackageDescription", "CreationTime", "ModelPackageStatus", "ModelApprovalStatus"),
        )
        return [{n: p[n] for n in names if n in p} for p in self._packages.values()]

    def _group(self, name: str) -> Record:
        if name not in self._groups:
            raise invalid(f"Model Package Group {self._context.arn('model-package-group', name)} does not exist.")
        return self._groups[name]

    def _package(self, name: str) -> Record:
        arn = name if name.startswith("arn:") else self._context.arn("model-package", name)
        if arn not in self._packages:
            raise invalid(f"ModelPackage {arn} does not exist.")
        return self._packages[arn]

    def _tell(self, package: Record, changed: list[str] | None = None) -> None:
        """Emit the event of a new package, or of an edited one with what was changed."""
        names = (
            *("ModelPackageGroupName", "ModelPackageName", "ModelPackageArn", "ModelPackageVersion"),
            *("ModelPackageDescription", "InferenceSpecification", "ModelPackageStatus", "ModelPackageStatusDetails"),
            *("ModelApprovalStatus", "ApprovalDescription", "CustomerMetadataProperties"),
        )
        detail = {n: package[n] for n in names if n in package}
        created = datetime.fromtimestamp(package["CreationTime"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {**detail, "CreationTime": created, "CertifyForMarketplace": False, "Tags": {}}
        if changed is not None:
            event |= {"UpdatedModelPackageFields": changed}
        self._context.emit(STATE_CHANGE, package["ModelPackageArn"], event)
