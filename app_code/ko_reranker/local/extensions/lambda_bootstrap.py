"""Start a Lambda handler as AWS's managed Python runtime does. Run as a file, by ``lambda_runtime``; never imported.

Usage: python -I -S lambda_bootstrap.py SITE_PACKAGES. The environment is the function's; LAMBDA_TASK_ROOT is its code.
The managed runtime has the standard library and the AWS SDK, so nothing else that happens to be installed beside the
local cloud may be importable: a bundle that forgot a package must fail here as it would on AWS.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

# Top-level modules of the managed runtime: the AWS SDK with its dependencies and the runtime interface client.
MANAGED = frozenset(
    {
        "awslambdaric",
        "boto3",
        "botocore",
        "dateutil",
        "jmespath",
        "runtime_client",
        "s3transfer",
        "simplejson",
        "six",
        "snapshot_restore_py",
        "urllib3",
    }
)


class RuntimeFinder:
    """Finds the managed runtime's own packages in site-packages and nothing else there."""

    def __init__(self, site_packages: str) -> None:
        self.site_packages = site_packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Answer for top-level names only: a package knows where its own modules are."""
        if path is None and name in MANAGED:
            return PathFinder.find_spec(name, [self.site_packages])
        return None


def main() -> None:
    """Set up the import system and hand over to the runtime interface client."""
    task_root = os.environ["LAMBDA_TASK_ROOT"]
    sys.path.insert(0, task_root)
    sys.meta_path.append(RuntimeFinder(sys.argv[1]))
    os.chdir(task_root)
    from awslambdaric.__main__ import main as run

    run([sys.argv[0], os.environ["_HANDLER"]])


if __name__ == "__main__":
    main()
