"""Synthesising a stage's templates in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import cdk_nag

from cdk.app import build
from cdk.nist import add_nist_checks
from ko_reranker.settings import load_settings

ROOT = Path(__file__).parents[2]
CONTEXT = json.loads((ROOT / "cdk.json").read_text())["context"]
FLAGS = {key: value for key, value in CONTEXT.items() if key.startswith("@")}

# Seconds that a synth in a process of its own may take on a busy machine.
SYNTH_SECONDS = 300

Templates = dict[str, dict[str, Any]]


def synthesise(stage: str, **overrides: str) -> tuple[Templates, cdk.App]:
    """Return a stage's templates by stack, and the app."""
    app = cdk.App(context=FLAGS)
    stacks = build(app, load_settings({**CONTEXT, "stage": stage, **overrides}))
    assembly = app.synth()
    return {name: assembly.get_stack_by_name(stack.stack_name).template for name, stack in stacks.items()}, app


def checked(stage: str, **overrides: str) -> tuple[Templates, cdk.App]:
    """The same, and both packs of cdk-nag find nothing that has no reason: else it raises with their report."""
    app = cdk.App(context=FLAGS)
    stacks = build(app, load_settings({**CONTEXT, "stage": stage, **overrides}))
    cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks(app))
    add_nist_checks(app)
    assembly = app.synth(force=True)
    return {name: assembly.get_stack_by_name(stack.stack_name).template for name, stack in stacks.items()}, app
