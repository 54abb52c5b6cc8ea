"""Check templates with cfn-lint, and state machines with the ASL validator: part of `make lint`.

Those of the stages, and of prod with settings that a platform team may ask for (`cdk/variants.py`).

python -m cdk.lint [local|dev|prod|locked|everything ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cdk.variants import CHECKED
from ko_reranker.operations.project import Project
from ko_reranker.operations.synthesis import Templates, state_machines, synthesise

ROOT = Path(__file__).parents[1]
# E and W, but for W3005: the CDK writes dependencies that follow from references as well; W3045: the access log bucket's own.
_CFN_LINT = (str(Path(sys.executable).parent / "cfn-lint"), "--ignore-checks", "W3005", "W3045", "I", "--regions")
_ASL_VALIDATOR = (str(ROOT / "node_modules" / ".bin" / "asl-validator"), "--json-path")


def findings(templates: Templates, region: str) -> list[str]:
    """Return what the two find in a stage's templates: the output of each run that failed.

    Args:
        templates: a stage's, by stack.
        region: whose resource types and values are allowed.
    """
    with tempfile.TemporaryDirectory() as folder:
        stacks = [_write(Path(folder) / f"{name}.template.json", template) for name, template in templates.items()]
        machines = [
            _write(Path(folder) / f"{name}.asl.json", definition) for name, definition in state_machines(templates).items()
        ]
        commands = [[*_CFN_LINT, region, "--template", *stacks], *([*_ASL_VALIDATOR, path] for path in machines)]
        return [found for command in commands if (found := _run(command))]


def _write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{Path(command[0]).name}: {done.stdout}{done.stderr}" if done.returncode else ""


def main() -> None:
    """Check the stages that the command line names, all of them when it names none; exit status 1 for a finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", default=list(CHECKED), metavar="STAGE", help=f"{', '.join(CHECKED)}; default: all")
    project, failed = Project.find(ROOT), False
    for name in parser.parse_args().stages:
        if name not in CHECKED:
            parser.error(f"there is no {name}: name some of {', '.join(CHECKED)}")
        stage, overrides = CHECKED[name]
        templates = synthesise(project, stage, overrides)
        found = findings(templates, project.settings(stage).region)
        print(f"{name}: {len(templates)} templates, {len(state_machines(templates))} state machines", *found, sep="\n")
        failed = failed or bool(found)
    sys.exit(failed)


if __name__ == "__main__":
    main()
