"""The local stage is prod with other settings, and nothing else."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

from synthesis import Templates
from template_differences import differences

ALLOWED = json.loads((Path(__file__).parent / "stage_differences.json").read_text())


def _matches(difference: str, pattern: str) -> bool:
    return fnmatchcase(difference.replace("[", "("), pattern.replace("[", "("))


def test_every_difference_between_local_and_prod_has_a_reason(local: Templates, prod: Templates) -> None:
    found = differences(local, prod)
    unexplained = sorted(d for d in found if not any(_matches(d, item["difference"]) for item in ALLOWED))
    assert not unexplained, "write them into stage_differences.json with their reasons:\n" + "\n".join(unexplained)
    stale = [item["difference"] for item in ALLOWED if not any(_matches(d, item["difference"]) for d in found)]
    assert not stale, f"these differences are gone: {stale}"
    assert all(item["reason"].strip() for item in ALLOWED)
