"""Two people, or two terminals, synthesise at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from synthesis import CONTEXT, ROOT, SYNTH_SECONDS

from cdk.constructs import python_function


def test_a_bundle_is_nobody_elses(tmp_path: Path) -> None:
    mine = python_function.bundle("authorizer", ())
    theirs = python_function.bundle("authorizer", ())
    assert mine != theirs
    (theirs / "handler.py").unlink()
    assert (mine / "handler.py").exists()


def test_synths_at_once_give_the_templates_of_each_alone(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("one", "two")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "cdk.app"],
            cwd=ROOT,
            env={
                **os.environ,
                "CDK_OUTDIR": str(place),
                "CDK_VALIDATION": "false",
                "CDK_CONTEXT_JSON": json.dumps({**CONTEXT, "stage": "local"}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in places
    ]
    printed = [process.communicate(timeout=SYNTH_SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    one, two = ({path.name: path.read_text() for path in place.glob("*.template.json")} for place in places)
    assert one == two
    # The assets of one are whole, and are the other's, byte for byte: their names are their contents.
    names = [sorted(path.name for path in place.glob("asset.*")) for place in places]
    assert names[0] == names[1]
    for place in places:
        assert all((folder / "handler.py").exists() for folder in place.glob("asset.*") if folder.is_dir())
