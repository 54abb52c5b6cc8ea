"""A custom resource that empties, when its stack is deleted, what CloudFormation can't delete with something in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_s3 as s3
from constructs import Construct, IDependable

from cdk.constructs.permissions import NO_RESOURCE, OWN_NAMES
from cdk.constructs.python_function import PythonFunction

_EMPTIES = "It empties these buckets when the stack is deleted."


class CleanUp(Construct):
    """Empties buckets and a model package group, or deletes what releases made, and nothing before the stack is deleted.

    An update that adds this and is rolled back, or that takes it away, empties nothing: the function asks what its stack is
    going through.

    Args:
        before: what it must be done before; a resource that is named in the arguments comes later anyhow.
        buckets: to empty, all versions.
        package_group: the group whose packages are deleted, and by which prefix their ARNs are known.
        released_prefix: of the names of models and endpoint configurations that releases make.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        before: Sequence[IDependable] = (),
        buckets: Sequence[s3.Bucket] = (),
        package_group: str | None = None,
        released_prefix: str | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._function = PythonFunction(
            self,
            "Do",
            folder="clean_up",
            library=("cleanup", "custom_resource"),
            timeout=cdk.Duration.minutes(15),
            memory_mb=256,
        )
        self._function.allow("cloudformation:DescribeStacks", on=[cdk.Stack.of(self).stack_id])
        what: dict[str, Any] = {}
        if buckets:
            what["Buckets"] = [bucket.bucket_name for bucket in buckets]
            self._function.allow("s3:ListBucketVersions", on=[bucket.bucket_arn for bucket in buckets])
            objects = [bucket.arn_for_objects("*") for bucket in buckets]
            self._function.allow("s3:DeleteObject", "s3:DeleteObjectVersion", on=objects, because=_EMPTIES)
        if package_group:
            what["PackageGroup"] = package_group
            # Listing knows no resources that narrow it to a group's packages.
            self._function.allow("sagemaker:ListModelPackages", on=["*"], because=NO_RESOURCE)
            packages = self._arn("model-package", f"{package_group}/*")
            self._function.allow("sagemaker:DeleteModelPackage", on=[packages], because=OWN_NAMES)
        if released_prefix:
            what["Prefix"] = released_prefix
            self._function.allow("sagemaker:ListModels", "sagemaker:ListEndpointConfigs", on=["*"], because=NO_RESOURCE)
            for action, kind in (("DeleteModel", "model"), ("DeleteEndpointConfig", "endpoint-config")):
                released = self._arn(kind, f"{released_prefix}-*")
                self._function.allow(f"sagemaker:{action}", on=[released], because=OWN_NAMES)
        self.resource = self._resource(what)
        for other in before:
            self.resource.node.add_dependency(other)

    def _resource(self, what: Mapping[str, Any]) -> cdk.CustomResource:
        resource = cdk.CustomResource(
            self,
            "Resource",
            service_token=self._function.function.function_arn,
            resource_type="Custom::CleanUp",
            properties=what,
            service_timeout=cdk.Duration.minutes(16),
        )
        # The function must be allowed to before it is asked to.
        resource.node.add_dependency(self._function.role)
        return resource

    def _arn(self, resource: str, name: str) -> str:
        return cdk.Stack.of(self).format_arn(service="sagemaker", resource=resource, resource_name=name)
