"""Two people, or two terminals, synthesise at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from synthesis import CONTEXT, ROOT, SYNTH_SECONDS, Templates, synthesise

from cdk.constructs import python_function


def test_a_bundle_is_nobody_elses(tmp_path: Path) -> None:
    mine = python_function.bundle("authorizer", ())
    theirs = python_function.bundle("authorizer", ())
    assert mine != theirs
    (theirs / "handler.py").unlink()
    assert (mine / "handler.py").exists()


def test_synths_at_once_give_the_templates_of_each_alone(local: Templates, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cdk.app"],
        cwd=ROOT,
        env={
            **os.environ,
            "CDK_OUTDIR": str(tmp_path),
            "CDK_VALIDATION": "false",
            "CDK_CONTEXT_JSON": json.dumps({**CONTEXT, "stage": "local"}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    templates, app = synthesise("local")  # while that one, which has to load everything first, is at it
    printed, _ = process.communicate(timeout=SYNTH_SECONDS)
    assert process.returncode == 0, printed
    theirs = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.template.json")}
    assert templates == local
    assert theirs == {f"ko-reranker-local-{name}.template.json": template for name, template in local.items()}
    # The assets of one are whole, and are the other's, byte for byte: their names are their contents.
    places = [tmp_path, Path(app.outdir)]
    names = [sorted(path.name for path in place.glob("asset.*")) for place in places]
    assert names[0] == names[1]
    for place in places:
        assert all((folder / "handler.py").exists() for folder in place.glob("asset.*") if folder.is_dir())
