"""cdk-nag's AwsSolutions rules find nothing that isn't acknowledged with a reason."""

from __future__ import annotations

from pathlib import Path

import aws_cdk as cdk
import cdk_nag
import pytest
from synthesis import CONTEXT, FLAGS

from cdk.app import build, main
from ko_reranker.settings import load_settings


# Browsers' questions are open methods, too: with them the stage opens all that it can.
@pytest.mark.parametrize(
    ("stage", "changes"), [("prod", {"api.cors_origins": '["https://www.example.com"]'}), ("dev", {})], ids=["prod", "dev"]
)
def test_nothing_is_found_that_has_no_reason(stage: str, changes: dict[str, str]) -> None:
    app = cdk.App(context=FLAGS)
    build(app, load_settings({**CONTEXT, "stage": stage, "serving.enabled": "true", **changes}))
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


def test_who_only_wants_the_templates_can_leave_the_rules_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_open(app: cdk.App, settings: None) -> None:
        cdk.aws_s3.Bucket(cdk.Stack(app, "Open"), "Bucket")

    app = cdk.App
    monkeypatch.setattr("cdk.app.cdk.App", lambda: app(outdir=str(tmp_path)))
    monkeypatch.setattr("cdk.app.load_settings", lambda context: None)
    monkeypatch.setattr("cdk.app.build", build_open)
    monkeypatch.delenv("CDK_VALIDATION", raising=False)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        main()
    monkeypatch.setenv("CDK_VALIDATION", "false")
    main()
    assert (tmp_path / "Open.template.json").is_file()
