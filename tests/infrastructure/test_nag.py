"""cdk-nag's packs, AwsSolutions and NIST 800-53 R5, find nothing that isn't acknowledged with a reason."""

from __future__ import annotations

from pathlib import Path

import aws_cdk as cdk
import cdk_nag
import pytest
from synthesis import Templates, checked

from cdk.app import main
from cdk.nist import add_nist_checks


# Browsers' questions are open methods, too: with them the stage opens all that it can. What else can be asked for is in
# cdk/variants.py, and checked as the fixtures are made.
@pytest.mark.parametrize(
    ("stage", "changes"),
    [("prod", {"api.cors_origins": '["https://www.example.com"]'}), ("dev", {}), ("local", {})],
    ids=["prod", "dev", "local"],
)
def test_nothing_is_found_that_has_no_reason(stage: str, changes: dict[str, str]) -> None:
    checked(stage, **{"serving.enabled": "true"}, **changes)  # raises with the report when a finding is left


def test_nor_in_what_a_platform_team_may_ask_for(everything: Templates, locked: Templates) -> None:
    assert "network" in everything and "network" in locked


def test_the_other_pack_is_looked_at_too() -> None:
    app = cdk.App()
    cdk.aws_s3.Bucket(cdk.Stack(app, "Open"), "Bucket", enforce_ssl=True)
    add_nist_checks(app)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()


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
