"""The CDK app: `cdk synth|deploy -c stage=local|dev|prod [-c section.key=value …] [-c nist=true]`."""

from __future__ import annotations

import os
import sys

import aws_cdk as cdk
import cdk_nag

from cdk.constructs.role_bounds import bound_roles
from cdk.nist import add_nist_checks
from cdk.stacks.api import ApiStack
from cdk.stacks.data import DataStack
from cdk.stacks.edge import REGION as EDGE_REGION
from cdk.stacks.edge import EdgeStack
from cdk.stacks.network import NetworkStack
from cdk.stacks.observability import ObservabilityStack
from cdk.stacks.pipeline import PipelineStack
from cdk.stacks.serving import ServingStack
from ko_reranker.settings import Settings, SettingsError, load_settings


def build(app: cdk.App, settings: Settings) -> dict[str, cdk.Stack]:
    """Add the stages' stacks to an app, in the order in which they depend on each other."""
    app.node.set_context("@aws-cdk/core:bootstrapQualifier", settings.identity.bootstrap_qualifier)
    common = {
        "env": cdk.Environment(region=settings.region),
        "tags": settings.resource_tags,
        "termination_protection": settings.stage == "prod",
    }
    stacks: dict[str, cdk.Stack] = {}
    vpc = None
    if settings.network.vpc != "none":
        network = stacks["network"] = NetworkStack(app, f"{settings.prefix}-network", settings=settings, **common)
        vpc = network.vpc
    place = vpc.config if vpc else None
    data = stacks["data"] = DataStack(app, f"{settings.prefix}-data", settings=settings, **common)
    pipeline = PipelineStack(app, f"{settings.prefix}-pipeline", settings=settings, data=data, vpc=place, **common)
    serving = ServingStack(app, f"{settings.prefix}-serving", settings=settings, data=data, vpc=place, **common)
    stacks |= {"pipeline": pipeline, "serving": serving}
    edge = None
    if settings.api.rate_rule_at_cloudfront:
        there = {**common, "env": cdk.Environment(region=EDGE_REGION), "cross_region_references": True}
        edge = stacks["edge"] = EdgeStack(app, f"{settings.prefix}-edge", settings=settings, **there)
    stacks["api"] = api = ApiStack(
        app,
        f"{settings.prefix}-api",
        settings=settings,
        edge_acl_arn=edge.acl_arn if edge else None,
        cross_region_references=edge is not None,
        **common,
    )
    stacks["observability"] = ObservabilityStack(
        app,
        f"{settings.prefix}-observability",
        settings=settings,
        topic=data.topic,
        observed=[api.observed, serving.observed, pipeline.observed],
        **common,
    )
    if vpc:
        vpc.put_functions_in(app)
    bound_roles(app, settings.identity)
    return stacks


def main() -> None:
    app = cdk.App()
    try:
        settings = load_settings(app.node.get_all_context())
    except SettingsError as error:
        sys.exit(f"error: {error}")
    build(app, settings)
    # Findings without an acknowledgement stop the synth; the variable leaves them out as it does the CDK's own check.
    if os.environ.get("CDK_VALIDATION") != "false":
        cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks(app))
        if app.node.try_get_context("nist") == "true":
            add_nist_checks(app)
    # Whoever bounds roles has synthesised once before.
    app.synth(force=True)


if __name__ == "__main__":
    main()
