"""Endpoints: create, update blue/green, roll back, scale, delete; and back to life after a restart."""

from __future__ import annotations

import copy
import math
import random
import re
import threading
import time
from typing import Any

from local_cloud.clients import root_client
from local_cloud.sagemaker.context import Context, in_thread, logger, now
from local_cloud.sagemaker.errors import JobError, invalid
from local_cloud.sagemaker.fleet import Fleet, Instance
from local_cloud.sagemaker.jobs import reason_of
from local_cloud.sagemaker.models import Models
from local_cloud.sagemaker.store import Record, shown

_ALARM_POLL_SECONDS = 1.0


class Hosting:
    """The operations on endpoints.

    An endpoint's record carries, hidden, the plan of its live fleet (container, role, count and weight of every variant), so
    that neither a deleted model nor a restart of the server takes it down.
    """

    def __init__(self, context: Context, models: Models) -> None:
        self._context = context
        self._models = models
        self._endpoints = context.store.all("endpoints")
        self._fleets: dict[str, Fleet] = {}
        self._canaries: dict[str, tuple[Fleet, float]] = {}
        self._starting: dict[str, Fleet] = {}
        self._shutting_down = threading.Event()

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        name, config = request["EndpointName"], request["EndpointConfigName"]
        arn = self._context.arn("endpoint", name)
        plans = self._plans(config)
        with self._context.store.change():
            if name in self._endpoints:
                raise invalid(f'Cannot create already existing endpoint "{arn}".')
            self._endpoints[name] = {
                "EndpointName": name,
                "EndpointArn": arn,
                "EndpointConfigName": config,
                "EndpointStatus": "Creating",
                "CreationTime": now(),
                "LastModifiedTime": now(),
                "_plans": [],
            }
        in_thread(f"endpoint {name}", self._roll, self._endpoints[name], config, plans, {})
        return {"EndpointArn": arn}

    def update(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint, config = self._get(request["EndpointName"]), request["EndpointConfigName"]
        plans = self._plans(config)
        deployment = request.get("DeploymentConfig", {})
        if request.get("RetainAllVariantProperties"):
            excluded = {x["VariantPropertyType"] for x in request.get("ExcludeRetainedVariantProperties", [])}
            plans = retain(endpoint["_plans"], plans, excluded)
        # What counts is the new fleet as it will be: an endpoint that retains its one instance has none to test on.
        check_canary(deployment, plans)
        for plan in plans:
            self._context.check_alarms(plan["Role"], _alarms(deployment))
        with self._context.store.change():
            if endpoint["EndpointStatus"] != "InService":
                raise invalid(f'Cannot update in-progress endpoint "{endpoint["EndpointArn"]}".')
            endpoint.update(EndpointStatus="Updating", LastModifiedTime=now(), LastDeploymentConfig=deployment or None)
            endpoint["PendingDeploymentSummary"] = {"EndpointConfigName": config, "StartTime": now()}
        in_thread(f"endpoint {endpoint['EndpointName']}", self._roll, endpoint, config, plans, deployment)
        return {"EndpointArn": endpoint["EndpointArn"]}

    def update_weights(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint = self._get(request["EndpointName"])
        known = {plan["VariantName"] for plan in endpoint["_plans"]}
        for wanted in request["DesiredWeightsAndCapacities"]:
            if wanted["VariantName"] not in known:
                raise invalid(f"Variant {wanted['VariantName']} is not part of endpoint {endpoint['EndpointName']}.")
        with self._context.store.change():
            if endpoint["EndpointStatus"] != "InService":
                raise invalid(f'Cannot update in-progress endpoint "{endpoint["EndpointArn"]}".')
            endpoint.update(EndpointStatus="Updating", LastModifiedTime=now())
        wanted = request["DesiredWeightsAndCapacities"]
        in_thread(f"endpoint {endpoint['EndpointName']}", self._rescale, endpoint, wanted)
        return {"EndpointArn": endpoint["EndpointArn"]}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint = self._get(request["EndpointName"])
        fleet = self._fleets.get(endpoint["EndpointName"])
        running = {v.name: sum(i.serving for i in v.instances) for v in fleet.variants} if fleet else {}
        variants = [
            {
                "VariantName": plan["VariantName"],
                "CurrentWeight": plan["Weight"],
                "DesiredWeight": plan["Weight"],
                "CurrentInstanceCount": running.get(plan["VariantName"], 0),
                "DesiredInstanceCount": plan["Count"],
                "DeployedImages": [{"SpecifiedImage": plan["Container"]["Image"]}],
            }
            for plan in endpoint["_plans"]
        ]
        return {**shown(endpoint), **({"ProductionVariants": variants} if variants else {})}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint = self._get(request["EndpointName"])
        name = endpoint["EndpointName"]
        with self._context.store.change():
            if endpoint["EndpointStatus"] in ("Updating", "RollingBack"):
                raise invalid(f'Cannot delete in-progress endpoint "{endpoint["EndpointArn"]}".')
            endpoint.update(EndpointStatus="Deleting", LastModifiedTime=now())
            # Without being asked for: whoever brings the endpoint back has to scale it anew.
            targets = self._context.store.all("scalable_targets")
            for target in [target for target in targets if target.startswith(f"endpoint/{name}/")]:
                del targets[target]
        in_thread(f"endpoint {name}", self._remove, name)
        return {}

    def summaries(self) -> list[Record]:
        names = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")
        return [{n: e[n] for n in names} for e in self._endpoints.values()]

    def wait(self, name: str) -> Record:
        """Block while the endpoint changes; return its record."""
        while (endpoint := self._get(name))["EndpointStatus"] in ("Creating", "Updating", "RollingBack"):
            time.sleep(0.1)
        return endpoint

    def wait_deleted(self, name: str) -> None:
        """Block until a deleted endpoint is gone."""
        while name in self._endpoints:
            time.sleep(0.1)

    def exists(self, name: str) -> bool:
        return name in self._endpoints

    def status(self, name: str) -> str | None:
        endpoint = self._endpoints.get(name)
        return endpoint["EndpointStatus"] if endpoint else None

    def has_been_live(self, name: str) -> bool:
        """Whether the endpoint has a model to serve, be it that its processes are just starting again."""
        endpoint = self._endpoints.get(name, {})
        return bool(endpoint.get("_plans")) and endpoint["EndpointStatus"] != "Failed"

    def choose(self, name: str, variant: str | None) -> Instance | None:
        """The instance that answers the next request, or None."""
        canary = self._canaries.get(name)
        if canary is not None and random.random() < canary[1]:  # noqa: S311 - traffic, not secrets
            return canary[0].choose(variant)
        fleet = self._fleets.get(name)
        return fleet.choose(variant) if fleet else None

    def mark_interrupted(self) -> None:
        """Record what must start again, or never will; an update that was under way is rolled back."""
        with self._context.store.change():
            for name, endpoint in list(self._endpoints.items()):
                endpoint.pop("PendingDeploymentSummary", None)
                if endpoint["EndpointStatus"] == "Deleting":
                    del self._endpoints[name]
                elif endpoint["_plans"]:
                    endpoint["EndpointStatus"] = "Updating"
                elif endpoint["EndpointStatus"] != "Failed":
                    reason = "The local cloud was stopped while the endpoint was created."
                    endpoint.update(EndpointStatus="Failed", FailureReason=reason)

    def relaunch(self) -> None:
        """Start the fleets that were live when the server ended."""
        for endpoint in self._endpoints.values():
            if endpoint["_plans"]:
                config, plans = endpoint["EndpointConfigName"], endpoint["_plans"]
                in_thread(f"endpoint {endpoint['EndpointName']}", self._roll, endpoint, config, plans, {})

    def shutdown(self) -> None:
        """End all processes; the endpoints' records stay."""
        self._shutting_down.set()
        fleets = [*self._fleets.values(), *self._starting.values()]
        threads = [in_thread("endpoint stop", fleet.stop, 10.0) for fleet in fleets]
        for thread in threads:
            thread.join()

    def _get(self, name: str) -> Record:
        if name not in self._endpoints:
            raise invalid(f'Could not find endpoint "{self._context.arn("endpoint", name)}".')
        return self._endpoints[name]

    def _plans(self, config_name: str) -> list[Record]:
        """Everything needed to run a configuration, so that its model may be deleted afterwards."""
        plans = []
        for variant in self._models.get_config(config_name)["ProductionVariants"]:
            model = self._models.get(variant["ModelName"])
            plans.append(
                {
                    "VariantName": variant["VariantName"],
                    "Container": copy.deepcopy(self._models.container(model)),
                    "Role": model["ExecutionRoleArn"],
                    "InstanceType": variant.get("InstanceType"),
                    "Count": variant.get("InitialInstanceCount", 1),
                    "Weight": variant.get("InitialVariantWeight", 1.0),
                    "HealthSeconds": variant.get("ContainerStartupHealthCheckTimeoutInSeconds"),
                }
            )
        return plans

    def _roll(self, endpoint: Record, config: str, plans: list[Record], deployment: Record) -> None:
        """Bring up a fleet beside the old one and switch over; keep the old one when that fails."""
        name = endpoint["EndpointName"]
        old = self._fleets.get(name)
        fleet = Fleet(self._context, name, plans)
        self._starting[name] = fleet
        try:
            fleet.start()
            self._shift_traffic(name, fleet, old, deployment)
            with self._context.store.change():
                if endpoint["EndpointStatus"] == "Deleting":
                    raise JobError("The endpoint was deleted while it started.")
                self._fleets[name] = fleet
        except Exception as error:
            self._canaries.pop(name, None)
            fleet.stop()
            reason = str(error) if isinstance(error, JobError) else reason_of(error)
            if not self._shutting_down.is_set():
                logger.error("endpoint %s: %s", name, reason)
                self._settle(endpoint, "InService" if old else "Failed", FailureReason=reason)
            return
        finally:
            self._starting.pop(name, None)
        self._canaries.pop(name, None)
        self._settle(endpoint, "InService", EndpointConfigName=config, _plans=plans, FailureReason=None)
        if old:
            old.stop()

    def _settle(self, endpoint: Record, status: str, **changes: Any) -> None:
        with self._context.store.change():
            if endpoint["EndpointStatus"] != "Deleting":
                endpoint["EndpointStatus"] = status
            endpoint.update(LastModifiedTime=now(), **changes)
            endpoint.pop("PendingDeploymentSummary", None)
            if endpoint.get("FailureReason") is None:
                endpoint.pop("FailureReason", None)
        self._tell(endpoint)

    def _tell(self, endpoint: Record) -> None:
        """Emit the event of a changed endpoint, which spells the status in its own way."""
        names = ("EndpointName", "EndpointArn", "EndpointConfigName")
        status = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", endpoint["EndpointStatus"]).upper()
        detail = {**{name: endpoint[name] for name in names}, "EndpointStatus": status, "Tags": {}}
        self._context.emit("SageMaker Endpoint State Change", endpoint["EndpointArn"], detail)

    def _shift_traffic(self, name: str, fleet: Fleet, old: Fleet | None, deployment: Record) -> None:
        """Send a canary's share of the traffic to the new fleet for a while, and go back when an alarm rings."""
        routing = deployment.get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {})
        if old is None or routing.get("Type", "ALL_AT_ONCE") == "ALL_AT_ONCE":
            return
        size = routing.get("CanarySize") or routing.get("LinearStepSize") or {"Type": "CAPACITY_PERCENT", "Value": 50}
        total = sum(plan["Count"] for plan in fleet.plans)
        share = size["Value"] / (100 if size["Type"] == "CAPACITY_PERCENT" else total)
        alarms = _alarms(deployment)
        self._canaries[name] = (fleet, share)
        deadline = time.monotonic() + routing.get("WaitIntervalInSeconds", 0)
        while time.monotonic() < deadline and not self._shutting_down.is_set():
            ringing = _ringing(self._context, alarms) if alarms else []
            if ringing:
                raise JobError(
                    f"One or more configured alarms were in ALARM state during the deployment: {', '.join(ringing)}."
                )
            time.sleep(min(_ALARM_POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def _rescale(self, endpoint: Record, wanted: list[Record]) -> None:
        reason = None
        fleet = self._fleets.get(endpoint["EndpointName"])
        try:
            for change in wanted:
                plan = next(p for p in endpoint["_plans"] if p["VariantName"] == change["VariantName"])
                plan["Weight"] = change.get("DesiredWeight", plan["Weight"])
                if fleet and "DesiredInstanceCount" in change:
                    fleet.scale(change["VariantName"], change["DesiredInstanceCount"])
        except Exception as error:
            reason = reason_of(error)
        self._settle(endpoint, "InService", FailureReason=reason)

    def _remove(self, name: str) -> None:
        for fleets in (self._starting, self._fleets):
            fleet = fleets.pop(name, None)
            if fleet:
                fleet.stop()
        with self._context.store.change():
            self._endpoints.pop(name, None)


def _ringing(context: Context, names: list[str]) -> list[str]:
    """Which of the alarms are in state ALARM, read as the account's root."""
    alarms = root_client(context.settings, "cloudwatch").describe_alarms(AlarmNames=names)
    return [x["AlarmName"] for x in alarms["MetricAlarms"] if x["StateValue"] == "ALARM"]


def _alarms(deployment: Record) -> list[str]:
    """The names of the alarms that roll an update back."""
    return [x["AlarmName"] for x in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])]


def check_canary(deployment: Record, plans: list[Record]) -> None:
    """Refuse a first step of more than half of a variant's new instances."""
    routing = deployment.get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {})
    size = routing.get("CanarySize") or routing.get("LinearStepSize")
    if routing.get("Type") not in ("CANARY", "LINEAR") or size is None:
        return
    for plan in plans:
        count = plan["Count"]
        first = size["Value"] if size["Type"] == "INSTANCE_COUNT" else math.ceil(count * size["Value"] / 100)
        if first * 2 > count:
            raise invalid(
                f"{routing['Type'].title()} traffic shifting: the first step, {first}, must be at most half of the variant's "
                f"instances; variant {plan['VariantName']} has {count}."
            )


def retain(live: list[Record], wanted: list[Record], excluded: set[str]) -> list[Record]:
    """Keep the live count and weight of variants that stay, except for what is excluded."""
    before = {plan["VariantName"]: plan for plan in live}
    result = []
    for plan in wanted:
        old = before.get(plan["VariantName"])
        kept = {}
        if old and "DesiredInstanceCount" not in excluded:
            kept["Count"] = old["Count"]
        if old and "DesiredWeight" not in excluded:
            kept["Weight"] = old["Weight"]
        result.append({**plan, **kept})
    return result
