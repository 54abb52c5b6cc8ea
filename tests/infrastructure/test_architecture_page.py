"""docs/architecture.md draws the templates that there are."""

from __future__ import annotations

import importlib.util

from synthesis import ROOT, Templates


def test_the_picture_is_drawn_from_the_templates(prod: Templates) -> None:
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert architecture.page(prod) == page, "draw it anew: make docs"
    for arrow in ("api_RerankFunction --> serving_Endpoint", "serving_PackageApproved --> serving_DeploymentDeployMachine"):
        assert f"  {arrow}\n" in page
