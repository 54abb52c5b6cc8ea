"""What an upgrade from the last release changes, by `cdk diff`: `make release-diff`, and part of CI.

The templates of the last release are kept in tests/last_release/. Printed is each resource that goes, or that is or may be
replaced, with its reason from expected.json there, and how many are added and changed. One without a reason fails, and so does
a reason for nothing. The whole diff is left in build/release_diff/.

python -m cdk.release_diff [prod|local ...]
python -m cdk.release_diff --release    with a release: keep the templates of this version
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ko_reranker.operations.node import cdk_command
from ko_reranker.operations.project import Project
from ko_reranker.operations.synthesis import Templates, read, synthesise

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "last_release"
STAGES = ("prod", "local")
# With its endpoint, which a stage has from its first model on.
_OVERRIDES = {"serving.enabled": "true"}
# A line of the command's about a resource: sign, type, path and logical id, and what becomes of what was there.
_RESOURCE = re.compile(r"\[([-+~])\] ((?:AWS|Custom)::\S+) .*?(\S+?)(?: (replace|may be replaced|destroy|orphan))?")
_SIGNS = {"+": "added", "-": "gone", "~": "changed"}


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a resource.

    Attributes:
        stack: such as ``data``.
        kind: its type, such as ``AWS::S3::Bucket``.
        name: its logical id.
        what: added, changed or gone.
        loss: what becomes of what was there: replace, may be replaced, destroy or orphan; None when it stays.
    """

    stack: str
    kind: str
    name: str
    what: str
    loss: str | None


def changes(stack: str, diff: str) -> list[Change]:
    """Return what a stack's `cdk diff` says of its resources.

    Raises:
        ValueError: it says something, and nothing that is understood.
    """
    lines = filter(None, (_RESOURCE.fullmatch(line.rstrip()) for line in diff.splitlines()))
    found = [Change(stack, kind, name, _SIGNS[sign], loss) for sign, kind, name, loss in (line.groups() for line in lines)]
    if not found and "There were no differences" not in diff:
        raise ValueError(f"this diff of {stack} is not what `cdk diff` used to write:\n{diff[:1000]}")
    return found


def last_release(stage: str) -> Templates:
    """Return a stage's templates of the last release, by stack."""
    return {path.name.split("-")[1].split(".")[0]: json.loads(path.read_text()) for path in sorted(KEPT.glob(f"{stage}-*"))}


def keep(stage: str, templates: Templates) -> None:
    """Keep a stage's templates as those of the last release."""
    for path in KEPT.glob(f"{stage}-*"):
        path.unlink()
    for stack, template in templates.items():
        content = json.dumps(_bare(template), ensure_ascii=False, separators=(",", ":"))
        (KEPT / f"{stage}-{stack}.template.json").write_text(content + "\n", encoding="utf-8")


def compare(project: Project, stage: str) -> Iterator[tuple[str, str]]:
    """Yield (stack, what `cdk diff` says) of each stack that the last release had."""
    with tempfile.TemporaryDirectory() as folder:
        synthesise(project, stage, _OVERRIDES, output=Path(folder))
        prefix = project.settings(stage).prefix
        now = read(Path(folder), prefix)
        for stack, template in now.items():
            (Path(folder) / f"{prefix}-{stack}.template.json").write_text(json.dumps(_bare(template)), encoding="utf-8")
        for stack in last_release(stage):
            if stack not in now:
                raise SystemExit(f"the last release had a stack {stack} in {stage}, and this version has none")
            kept = KEPT / f"{stage}-{stack}.template.json"
            yield stack, _cdk_diff(project, Path(folder), kept, f"{prefix}-{stack}")


def _bare(template: dict[str, Any]) -> dict[str, Any]:
    """A template without the CDK's metadata, which changes no resource."""
    resources = {name: item for name, item in template["Resources"].items() if item["Type"] != "AWS::CDK::Metadata"}
    bare = {name: {key: value for key, value in item.items() if key != "Metadata"} for name, item in resources.items()}
    return {**template, "Resources": bare}


def _cdk_diff(project: Project, assembly: Path, template: Path, stack: str) -> str:
    command = [
        str(cdk_command(project.root)),
        "diff",
        "--app",
        str(assembly),
        "--template",
        str(template),
        "--exclusively",
        stack,
    ]
    environment = {**os.environ, "CDK_DISABLE_VERSION_CHECK": "1", "CI": "true", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"cdk diff of {stack} failed:\n{done.stdout}{done.stderr}")
    # The diff itself begins with the stack's name; before it stand the synth's warnings.
    return done.stdout[done.stdout.find("Stack ") :]


def _show(stage: str, found: list[Change], expected: list[dict[str, str]]) -> list[Change]:
    """Print a stage's changes; return those that lose something and have no reason."""
    unexplained = []
    for stack in dict.fromkeys(change.stack for change in found):
        counts = Counter(change.what for change in found if change.stack == stack)
        print(f"{stage} {stack}: {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}")
        for change in found:
            if change.stack == stack and change.loss:
                reason = next((item["reason"] for item in expected if _explains(item, change)), None)
                print(f"  {change.loss}: {change.kind} {change.name}: {reason or 'NO REASON'}")
                unexplained += [] if reason else [change]
    return unexplained


def _explains(item: dict[str, str], change: Change) -> bool:
    return item["stack"] == change.stack and fnmatchcase(f"{change.kind} {change.name}", item["resource"])


def main() -> None:
    """Compare the stages that the command line names; exit status 1 for a loss without a reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", default=STAGES, metavar="STAGE", help=f"{', '.join(STAGES)}; default: both")
    parser.add_argument("--release", action="store_true", help="keep this version's templates, with a release")
    arguments = parser.parse_args()
    project = Project.find(ROOT)
    if arguments.release:
        for stage in STAGES:
            keep(stage, synthesise(project, stage, _OVERRIDES))
        (KEPT / "expected.json").write_text("[]\n", encoding="utf-8")
        return
    expected: list[dict[str, str]] = json.loads((KEPT / "expected.json").read_text(encoding="utf-8"))
    found: list[Change] = []
    unexplained: list[Change] = []
    for stage in arguments.stages:
        diffs = dict(compare(project, stage))
        whole = ROOT / "build" / "release_diff" / f"{stage}.txt"
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text("\n".join(diffs.values()), encoding="utf-8")
        of_stage = [change for stack, diff in diffs.items() for change in changes(stack, diff)]
        unexplained += _show(stage, of_stage, expected)
        found += of_stage
        print(f"{stage}: the whole diff is in {whole.relative_to(ROOT)}")
    stale = [item for item in expected if not any(change.loss and _explains(item, change) for change in found)]
    for item in stale:
        print(f"nothing is lost any more that {item['stack']} {item['resource']} explains: take it out of expected.json")
    if unexplained:
        print(f"{len(unexplained)} losses have no reason: undo them, or write why into {KEPT.relative_to(ROOT)}/expected.json")
    sys.exit(bool(unexplained or (stale and set(arguments.stages) == set(STAGES))))


if __name__ == "__main__":
    main()
