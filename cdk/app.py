"""The CDK app: `cdk synth|deploy -c stage=local|dev|prod [-c section.key=value …]`."""

from __future__ import annotations

import sys

import aws_cdk as cdk
import cdk_nag

from cdk.acknowledgements import acknowledge
from cdk.settings import Settings, SettingsError, load_settings
from cdk.stacks.api import ApiStack
from cdk.stacks.data import DataStack
from cdk.stacks.pipeline import PipelineStack
from cdk.stacks.serving import ServingStack


def build(app: cdk.App, settings: Settings) -> dict[str, cdk.Stack]:
    """Add the stages' stacks to an app, in the order in which they depend on each other."""
    common = {
        "env": cdk.Environment(region=settings.region),
        "tags": {"project": settings.name, "stage": settings.stage},
        "termination_protection": settings.stage == "prod",
    }
    data = DataStack(app, f"{settings.prefix}-data", settings=settings, **common)
    pipeline = PipelineStack(app, f"{settings.prefix}-pipeline", settings=settings, data=data, **common)
    serving = ServingStack(app, f"{settings.prefix}-serving", settings=settings, data=data, **common)
    api = ApiStack(app, f"{settings.prefix}-api", settings=settings, **common)
    stacks = {"data": data, "pipeline": pipeline, "serving": serving, "api": api}
    acknowledge(stacks, settings)
    return stacks


def main() -> None:
    app = cdk.App()
    try:
        settings = load_settings(app.node.get_all_context())
    except SettingsError as error:
        sys.exit(f"error: {error}")
    build(app, settings)
    # Findings without an acknowledgement stop the synth; CDK_VALIDATION=false leaves the check out.
    cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks(app))
    app.synth()


if __name__ == "__main__":
    main()
