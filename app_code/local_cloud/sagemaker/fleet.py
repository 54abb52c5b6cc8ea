"""The processes behind an endpoint: a fleet of variants, each with its instances."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from local_cloud.sagemaker.context import Context, Credentials, in_thread, logger
from local_cloud.sagemaker.errors import JobError
from local_cloud.sagemaker.logs import LogStream
from local_cloud.sagemaker.models import fetch_model
from local_cloud.sagemaker.processes import Container, base_environment, free_port, new_disk, stop_all
from local_cloud.sagemaker.store import Record

DEFAULT_HEALTH_SECONDS = 240.0
# SageMaker waits 30 seconds after SIGTERM before it kills an endpoint's container.
STOP_GRACE_SECONDS = 30.0
RESTART_SECONDS = 2.0


@dataclass
class Instance:
    """One process that serves."""

    variant: str
    port: int
    container: Container
    disk: Path
    in_flight: int = 0
    ready: bool = False
    retired: bool = False

    @property
    def serving(self) -> bool:
        return self.ready and not self.retired


@dataclass
class Variant:
    """One production variant of a fleet.

    Attributes:
        plan: the endpoint record's description of it: container, role, count, weight.
    """

    plan: Record
    directory: Path
    credentials: Credentials
    instances: list[Instance] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.plan["VariantName"])


class Fleet:
    """All processes of one endpoint configuration, for one endpoint."""

    def __init__(self, context: Context, endpoint: str, plans: list[Record]) -> None:
        self._context = context
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._stopped = False
        self._logs: list[LogStream] = []
        self.directory = context.home / "endpoints" / endpoint / uuid.uuid4().hex[:8]
        self.plans = plans
        self.variants: list[Variant] = []

    def start(self) -> None:
        """Start every instance and return when all answer /ping; stop them all and raise otherwise."""
        try:
            for plan in self.plans:
                self._start_variant(plan)
        except Exception:
            self.stop()
            raise

    def stop(self, grace: float = STOP_GRACE_SECONDS) -> None:
        """End all processes and forget their sessions."""
        with self._lock:
            self._stopped = True
            instances = [i for v in self.variants for i in v.instances]
            for instance in instances:
                instance.retired = True
        stop_all([i.container for i in instances], grace)
        for instance in instances:
            shutil.rmtree(instance.disk, ignore_errors=True)
        for stream in self._logs:
            stream.close(timeout=3)
        for variant in self.variants:
            self._context.forget(variant.credentials)
            shutil.rmtree(variant.directory, ignore_errors=True)  # the logs, beside it, stay

    def scale(self, variant_name: str, count: int) -> None:
        """Start or stop instances of a variant until there are ``count``."""
        variant = next(v for v in self.variants if v.name == variant_name)
        while len(variant.instances) < count:
            self._add_instance(variant)
        with self._lock:
            surplus = variant.instances[count:]
            del variant.instances[count:]
            for instance in surplus:
                instance.retired = True
        variant.plan["Count"] = count
        stop_all([i.container for i in surplus], STOP_GRACE_SECONDS)
        for instance in surplus:
            shutil.rmtree(instance.disk, ignore_errors=True)

    def choose(self, variant_name: str | None) -> Instance | None:
        """The instance for the next request: a variant by weight, its least busy instance."""
        with self._lock:
            ready = [v for v in self.variants if any(i.serving for i in v.instances)]
            if variant_name is not None:
                ready = [v for v in ready if v.name == variant_name]
            if not ready:
                return None
            weights = [max(v.plan["Weight"], 1e-9) for v in ready]
            variant = random.choices(ready, weights)[0]  # noqa: S311 - traffic, not secrets
            return min((i for i in variant.instances if i.serving), key=lambda i: i.in_flight)

    def _start_variant(self, plan: Record) -> None:
        directory = self.directory / plan["VariantName"]
        credentials = self._context.assume(plan["Role"], "SageMaker")
        variant = Variant(plan, directory, credentials)
        self.variants.append(variant)
        fetch_model(self._context, credentials, plan["Container"], directory / "ml" / "model")
        started = [self._launch(variant) for _ in range(plan["Count"])]
        for instance in started:
            self._wait_until_healthy(variant, instance)
            in_thread(f"watch {self._endpoint}", self._watch, variant, instance)

    def _add_instance(self, variant: Variant) -> None:
        instance = self._launch(variant)
        try:
            self._wait_until_healthy(variant, instance)
        except JobError:
            instance.container.kill()
            with self._lock:
                variant.instances.remove(instance)
            raise
        in_thread(f"watch {self._endpoint}", self._watch, variant, instance)

    def _launch(self, variant: Variant) -> Instance:
        image = self._context.image(variant.plan["Container"]["Image"])
        base, port, disk = variant.directory / "ml", free_port(), new_disk()
        identity = f"i-{uuid.uuid4().hex[:17]}"
        client = self._context.client("logs", variant.credentials)
        stream = LogStream(client, f"/aws/sagemaker/Endpoints/{self._endpoint}", f"{variant.name}/{identity}")
        self._logs.append(stream)
        environment = {
            **base_environment(image, base, disk, variant.plan.get("InstanceType")),
            **self._context.cloud_environment(variant.credentials),
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "SAGEMAKER_SAFE_PORT_RANGE": f"{port}-{port}",
            **variant.plan["Container"].get("Environment", {}),
        }
        log_file = self.directory / f"{variant.name}-{identity}.log"
        argv = [*image.command, "serve"]
        with self._lock:  # so that a stop either prevents the process or finds it
            if self._stopped:
                raise JobError("The endpoint was deleted while it started.")
            container = Container(argv, environment, base, log_file, stream.add, STOP_GRACE_SECONDS)
            instance = Instance(variant.name, port, container, disk)
            variant.instances.append(instance)
        return instance

    def _wait_until_healthy(self, variant: Variant, instance: Instance) -> None:
        limit = variant.plan.get("HealthSeconds") or DEFAULT_HEALTH_SECONDS
        deadline = time.monotonic() + limit
        failure = (
            f"The primary container for production variant {variant.name} did not pass the ping health check. Please check "
            "CloudWatch logs for this endpoint."
        )
        while not _pings(instance.port):
            if self._stopped:
                raise JobError("The endpoint was deleted while it started.")
            if instance.container.returncode is not None:
                raise JobError(f"{failure} (it ended with status {instance.container.returncode})")
            if time.monotonic() > deadline:
                raise JobError(f"{failure} (it did not answer within {limit:.0f} s)")
            time.sleep(0.1)
        instance.ready = True

    def _watch(self, variant: Variant, instance: Instance) -> None:
        """Replace an instance whose process ends by itself, as SageMaker does."""
        status = instance.container.wait()
        while True:
            with self._lock:
                instance.retired = True
                if self._stopped or instance not in variant.instances:
                    return
            logger.warning("an instance of endpoint %s ended with status %s; starting another", self._endpoint, status)
            time.sleep(RESTART_SECONDS)
            if self._stopped:
                return
            with contextlib.suppress(JobError):
                self._add_instance(variant)
                with self._lock:
                    variant.instances.remove(instance)
                return


def _pings(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/ping", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
