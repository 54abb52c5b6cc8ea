"""cdk-nag's AwsSolutions rules find nothing that isn't acknowledged with a reason."""

from __future__ import annotations

import aws_cdk as cdk
import cdk_nag
from synthesis import CONTEXT, FLAGS

from cdk.app import build
from cdk.settings import load_settings


def test_nothing_is_found_in_prod_that_has_no_reason() -> None:
    app = cdk.App(context=FLAGS)
    build(app, load_settings({**CONTEXT, "stage": "prod", "serving.enabled": "true"}))
    cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks(app))
    app.synth()  # raises with the report when a finding is left


def test_the_rules_are_looked_at_at_all() -> None:
    app = cdk.App()
    stack = cdk.Stack(app, "Open")
    cdk.aws_s3.Bucket(stack, "Bucket")
    cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks(app))
    try:
        app.synth()
    except RuntimeError as error:
        assert "ValidationFailed" in str(error)
    else:
        raise AssertionError("a bucket without TLS passed")
