"""Let checkov look at the templates of all stages and variants; each finding that stays has its reason in exceptions.json.

python tests/checkov/run.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parent / "infrastructure")]

from environments import environment  # noqa: E402 - beside this folder
from synthesis import synthesise  # noqa: E402

from cdk.variants import CHECKED  # noqa: E402


def main() -> int:
    exceptions = json.loads((HERE / "exceptions.json").read_text(encoding="utf-8"))
    checkov = environment(HERE).with_name("checkov")
    with tempfile.TemporaryDirectory() as folder:
        for name, (stage, overrides) in CHECKED.items():
            for stack, template in synthesise(stage, **overrides)[0].items():
                (Path(folder) / f"{name}-{stack}.template.json").write_text(json.dumps(template))
        found = sorted(set(_findings(checkov, folder)))
    unexplained = [item for item in found if not any(_excuses(exception, item) for exception in exceptions)]
    stale = [exception for exception in exceptions if not any(_excuses(exception, item) for item in found)]
    for check, resource, title in unexplained:
        print(f"{check} {resource}: {title}")
    for exception in stale:
        print(f"nothing is excused any more by {exception['check']} {exception['resource']}: take it out of exceptions.json")
    print(f"checkov: {len(found)} findings, {len(unexplained)} without a reason, {len(stale)} reasons for nothing")
    return 1 if unexplained or stale else 0


def _findings(checkov: Path, folder: str) -> Iterator[tuple[str, str, str]]:
    """Yield (check, resource, what it asks for) of each failed check."""
    command = [str(checkov), "--directory", folder, "--framework", "cloudformation", "--output", "json"]
    done = subprocess.run([*command, "--skip-download", "--soft-fail"], capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    if report["summary"]["parsing_errors"]:
        raise RuntimeError(f"checkov can't read {report['summary']['parsing_errors']} of the templates")
    for item in report["results"]["failed_checks"]:
        yield item["check_id"], item["resource"], item["check_name"]


def _excuses(exception: dict[str, str], finding: tuple[str, str, str]) -> bool:
    check, resource, _ = finding
    return exception["check"] == check and fnmatchcase(resource, exception["resource"])


if __name__ == "__main__":
    sys.exit(main())
