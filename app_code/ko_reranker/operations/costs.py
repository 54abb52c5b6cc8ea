"""What a stage costs: at rest from its own templates, by use from a shape, by a retraining from its limits.

Prices are the settings'; one that nobody has sourced is None, and so is every sum that would need it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ko_reranker.operations.synthesis import Templates

if TYPE_CHECKING:
    from ko_reranker.settings import Price, Prices, Settings

HOURS_A_MONTH = 730
# Documents that Cohere and Bedrock count as one search.
DOCUMENTS_A_SEARCH = 100

# Nothing by itself, by type: a pattern that ends in :: is a family.
FREE = (
    "AWS::ApiGateway::",
    "AWS::ApplicationAutoScaling::",
    "AWS::Backup::BackupPlan",
    "AWS::Backup::BackupSelection",
    "AWS::Budgets::Budget",
    "AWS::CE::",
    "AWS::CDK::Metadata",
    "AWS::EC2::EIP",  # of a NAT gateway that is there
    "AWS::EC2::InternetGateway",
    "AWS::EC2::Route",
    "AWS::EC2::RouteTable",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::Subnet",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPC",
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::Events::Rule",
    "AWS::IAM::",
    "AWS::Lambda::Permission",
    "AWS::Logs::QueryDefinition",
    "AWS::Route53::RecordSet",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::SSM::Parameter",
    "AWS::SageMaker::Endpoint",  # its configuration's instances are what costs
    "AWS::SageMaker::Model",
    "AWS::SageMaker::ModelPackageGroup",
    "AWS::WAFv2::LoggingConfiguration",
    "AWS::WAFv2::WebACLAssociation",
    "Custom::",
)
# Nothing at rest, but by what is asked of it and stored in it.
BY_USE = {
    "AWS::ApiGateway::RestApi": "requests",
    "AWS::Backup::BackupVault": "gigabytes of backups",
    "AWS::CloudFront::Distribution": "requests and bytes",
    "AWS::CodeBuild::Project": "minutes of building the image",
    "AWS::DynamoDB::Table": "reads, writes, gigabytes, and as many again for point-in-time recovery",
    "AWS::EC2::FlowLog": "gigabytes of log",
    "AWS::ECR::Repository": "gigabytes of images",
    "AWS::Lambda::Function": "calls and gigabyte-seconds",
    "AWS::Logs::LogGroup": "gigabytes",
    "AWS::S3::Bucket": "gigabytes and requests",
    "AWS::SNS::Topic": "messages",
    "AWS::SQS::Queue": "messages",
    "AWS::Scheduler::Schedule": "starts",
    "AWS::StepFunctions::StateMachine": "transitions",
}


@dataclass(frozen=True, slots=True)
class Line:
    """An item of a bill.

    Attributes:
        what: is paid for.
        count: how many, of the price's unit.
        setting: the price's, such as ``prices.kms_key_month``.
        price: what it says.
    """

    what: str
    count: float
    setting: str
    price: Price

    @property
    def usd(self) -> float | None:
        """The sum; None where the price is empty."""
        return None if self.price.usd is None else self.count * self.price.usd


def at_rest(templates: Templates, prices: Prices, *, endpoint_share: float = 1.0) -> list[Line]:
    """Return what a stage's resources cost a month when nobody asks anything; those of `BY_USE` and `FREE` are left out.

    Args:
        endpoint_share: of the time, 0 to 1, that the endpoint is there.

    Raises:
        ValueError: a resource is neither priced nor named as free.
    """
    found: dict[tuple[str, str], Line] = {}
    for template in templates.values():
        for resource in template["Resources"].values():
            for line in _lines(resource, prices, endpoint_share):
                place = (line.what, line.setting)
                before = found[place].count if place in found else 0
                found[place] = Line(line.what, before + line.count, line.setting, line.price)
    return list(found.values())


def _lines(resource: dict[str, Any], prices: Prices, endpoint_share: float) -> Iterator[Line]:
    kind, properties = resource["Type"], resource.get("Properties", {})

    def line(what: str, count: float, setting: str) -> Line:
        return Line(what, count, f"prices.{setting}", getattr(prices, setting))

    match kind:
        case "AWS::KMS::Key":
            yield line("keys", 1, "kms_key_month")
        case "AWS::SecretsManager::Secret":
            yield line("secrets", 1, "secret_month")
        case "AWS::CloudWatch::Dashboard":
            yield line("dashboards", 1, "dashboard_month")
        case "AWS::CloudWatch::Alarm":
            metrics = [item for item in properties.get("Metrics", ()) if "MetricStat" in item]
            yield line("metrics of alarms", len(metrics) or 1, "alarm_metric_month")
        case "AWS::WAFv2::WebACL":
            yield line("web ACLs", 1, "web_acl_month")
            yield line("rules of web ACLs", len(properties["Rules"]), "web_acl_rule_month")
        case "AWS::EC2::NatGateway":
            yield line("hours of NAT gateways", HOURS_A_MONTH, "nat_gateway_hour")
        case "AWS::EC2::VPCEndpoint":
            if properties["VpcEndpointType"] == "Interface":
                hours = HOURS_A_MONTH * len(properties["SubnetIds"])
                yield line("hours of interface endpoints", hours, "interface_endpoint_hour")
        case "AWS::SageMaker::EndpointConfig":
            for variant in properties["ProductionVariants"]:
                instance_hours = HOURS_A_MONTH * endpoint_share * int(variant["InitialInstanceCount"])
                yield instances(variant["InstanceType"], instance_hours, prices)
        case _ if kind not in BY_USE and not any(map(partial(_is_of, kind), FREE)):
            raise ValueError(f"{kind} is neither priced nor named as free: see ko_reranker.operations.costs")


def _is_of(kind: str, family: str) -> bool:
    return kind == family or (family.endswith("::") and kind.startswith(family))


def instances(kind: str, hours: float, prices: Prices) -> Line:
    """Return what hours of an instance type of SageMaker's cost, one after another or side by side."""
    from ko_reranker.settings import Price

    return Line(f"hours of {kind}", hours, f"prices.instance_hour.{kind}", prices.instance_hour.get(kind, Price()))


def million_calls(settings: Settings, seconds: float) -> list[Line]:
    """Return what a million rerank calls cost beside the endpoint's instances.

    Args:
        seconds: that one call takes, as the dashboard's latency says; the function waits for the model all the while.
    """
    prices, api = settings.prices, settings.api
    gigabyte_seconds = 1e6 * seconds * api.memory_mb / 1024
    return [
        Line("million requests", 1, "prices.api_gateway_million_requests", prices.api_gateway_million_requests),
        # The authorizer and the rerank function.
        Line("million calls of functions", 2, "prices.lambda_million_requests", prices.lambda_million_requests),
        Line("gigabyte-seconds", gigabyte_seconds, "prices.lambda_gb_second", prices.lambda_gb_second),
    ]


def elsewhere(prices: Prices, documents: int) -> list[Line]:
    """Return what a million calls of this many documents cost where searches are what is paid for."""
    thousands = 1000 * math.ceil(documents / DOCUMENTS_A_SEARCH)
    return [
        Line("thousand searches of Cohere", thousands, "prices.cohere_thousand_searches", prices.cohere_thousand_searches),
        Line("thousand searches of Bedrock", thousands, "prices.bedrock_thousand_searches", prices.bedrock_thousand_searches),
    ]


def retraining_at_most(settings: Settings) -> list[Line]:
    """Return what a retraining's jobs cost if each takes all the time that it may; translation has a limit in dollars."""
    training, evaluation = settings.training, settings.evaluation
    lines = [instances(training.instance_type, training.max_hours * training.instance_count, settings.prices)]
    # Mining is a job of its own on the evaluation's instance.
    jobs = 1 + training.mine_negatives
    return [*lines, instances(evaluation.instance_type, jobs * evaluation.max_hours, settings.prices)]
