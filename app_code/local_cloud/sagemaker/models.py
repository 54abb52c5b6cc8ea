"""Models and endpoint configurations: what an endpoint is made of."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from local_cloud.sagemaker import transfer
from local_cloud.sagemaker.context import Context, Credentials, now
from local_cloud.sagemaker.errors import JobError, invalid
from local_cloud.sagemaker.store import Record, shown


class Models:
    """The operations on models and endpoint configurations."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._models = context.store.all("models")
        self._configs = context.store.all("endpoint_configs")
        self._packages = context.store.all("model_packages")

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["ModelName"]
        arn = self._context.arn("model", name)
        container = self.container(request)
        self._context.image(container["Image"])
        check_prefix(container)
        if "ExecutionRoleArn" not in request:
            raise invalid("The local cloud needs ExecutionRoleArn: the endpoint's process acts with it.")
        self._context.check_role(request["ExecutionRoleArn"])
        self._check_data(request["ExecutionRoleArn"], container)
        with self._context.store.change():
            if name in self._models:
                raise invalid(f'Cannot create already existing model "{arn}".')
            self._models[name] = {**request, "ModelArn": arn, "CreationTime": now()}
        return {"ModelArn": arn}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        return shown(self.get(request["ModelName"]))

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        name = self.get(request["ModelName"])["ModelName"]
        with self._context.store.change():
            del self._models[name]
        return {}

    def get(self, name: str) -> Record:
        if name not in self._models:
            raise invalid(f'Could not find model "{self._context.arn("model", name)}".')
        return self._models[name]

    def summaries(self) -> list[Record]:
        return [{n: m[n] for n in ("ModelName", "ModelArn", "CreationTime")} for m in self._models.values()]

    def create_config(self, request: dict[str, Any]) -> dict[str, Any]:
        name, variants = request["EndpointConfigName"], request["ProductionVariants"]
        arn = self._context.arn("endpoint-config", name)
        names = [variant["VariantName"] for variant in variants]
        if len(set(names)) < len(names):
            raise invalid("Variant names must be unique within an endpoint configuration.")
        for variant in variants:
            if "ModelName" not in variant:
                raise invalid("The local cloud needs ModelName in every production variant.")
            self.get(variant["ModelName"])
            if "ServerlessConfig" not in variant and not {"InstanceType", "InitialInstanceCount"} <= variant.keys():
                raise invalid(
                    f"Production variant {variant['VariantName']} needs InstanceType and InitialInstanceCount, or "
                    "ServerlessConfig."
                )
        with self._context.store.change():
            if name in self._configs:
                raise invalid(f'Cannot create already existing endpoint configuration "{arn}".')
            self._configs[name] = {**request, "EndpointConfigArn": arn, "CreationTime": now()}
        return {"EndpointConfigArn": arn}

    def describe_config(self, request: dict[str, Any]) -> dict[str, Any]:
        return shown(self.get_config(request["EndpointConfigName"]))

    def delete_config(self, request: dict[str, Any]) -> dict[str, Any]:
        name = self.get_config(request["EndpointConfigName"])["EndpointConfigName"]
        with self._context.store.change():
            del self._configs[name]
        return {}

    def get_config(self, name: str) -> Record:
        if name not in self._configs:
            raise invalid(f'Could not find endpoint configuration "{self._context.arn("endpoint-config", name)}".')
        return self._configs[name]

    def config_summaries(self) -> list[Record]:
        names = ("EndpointConfigName", "EndpointConfigArn", "CreationTime")
        return [{n: c[n] for n in names} for c in self._configs.values()]

    def container(self, model: dict[str, Any]) -> Record:
        """The one container of a model, a model package's resolved to what the package says."""
        containers = model.get("Containers") or [model["PrimaryContainer"]] if _has_container(model) else []
        if len(containers) != 1:
            raise invalid("The local cloud runs models of exactly one container.")
        container: Record = containers[0]
        if "ModelPackageName" in container:
            package = self._packages.get(container["ModelPackageName"])
            if package is None:
                raise invalid(f"Could not find model package {container['ModelPackageName']}.")
            described = package["InferenceSpecification"]["Containers"][0]
            variables = {**described.get("Environment", {}), **container.get("Environment", {})}
            container = {**described, "Environment": variables}
        if "Image" not in container:
            raise invalid("The container needs an Image or a ModelPackageName.")
        return container

    def _check_data(self, role: str, container: Record) -> None:
        """Look for the model data with the model's role, as CreateModel does."""
        uri = _data_uri(container)
        if uri is None:
            return
        from botocore.exceptions import ClientError

        credentials = self._context.assume(role, "SageMaker")
        try:
            found = transfer.list_keys(self._context.client("s3", credentials), uri)
        except ClientError as error:
            raise invalid(
                f'Could not access model data at {uri}. Please ensure that the role "{role}" exists and that its trust '
                'relationship policy allows the action "sts:AssumeRole" for the service principal "sagemaker.amazonaws.com". '
                'Also ensure that the role has "s3:GetObject" permissions and that the object is located in '
                f"{self._context.settings.region}. ({error})"
            ) from error
        except JobError as error:
            raise invalid(str(error)) from error
        finally:
            self._context.forget(credentials)
        if not found:
            raise invalid(f"Could not find model data at {uri}.")


def _has_container(model: dict[str, Any]) -> bool:
    return bool(model.get("Containers") or model.get("PrimaryContainer"))


def _data_uri(container: Record) -> str | None:
    source = container.get("ModelDataSource", {}).get("S3DataSource")
    return source["S3Uri"] if source else container.get("ModelDataUrl")


def check_prefix(container: Record) -> None:
    """Refuse model data of type S3Prefix whose URI doesn't end with a slash, as SageMaker's documentation asks."""
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    if source.get("S3DataType") == "S3Prefix" and not source["S3Uri"].endswith("/"):
        raise invalid(
            f"S3Uri {source['S3Uri']} is no valid key name prefix: with S3DataType S3Prefix it must end with a forward slash."
        )


def fetch_model(context: Context, credentials: Credentials, container: Record, directory: Path) -> None:
    """Put the model data of ``container`` into ``directory``, acting with ``credentials``."""
    directory.mkdir(parents=True, exist_ok=True)
    uri = _data_uri(container)
    if uri is None:
        return
    s3 = context.client("s3", credentials)
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    if source.get("CompressionType") == "None":
        keys = transfer.list_keys(s3, uri)
        if not keys:
            raise JobError(f"Could not find model data at {uri}.")
        transfer.download(s3, uri, directory, keys)
        return
    archive = directory.parent / "model.tar.gz"
    bucket, key = transfer.split_uri(uri)
    s3.download_file(bucket, key, str(archive))
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    archive.unlink()
