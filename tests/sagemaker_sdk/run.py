"""Build the environment of the SageMaker SDK, deploy the stacks that a training needs if none run, and run the tests.

python tests/sagemaker_sdk/run.py [pytest arguments]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from environments import environment, local_stage, pytest  # noqa: E402 - beside this folder

from ko_reranker.operations.project import Project  # noqa: E402
from ko_reranker.operations.stage import Stage  # noqa: E402
from local_cloud import deploying  # noqa: E402
from local_cloud.cloud import LocalCloud  # noqa: E402


def main() -> int:
    python = environment(HERE)
    with local_stage(_deploy) as (_, cloud):
        # As a notebook does, the tests find the stage by the project's folder, and the SDK finds the cloud by the variables.
        return pytest(python, HERE, cloud.environment() | {"PROJECT": str(cloud.settings.root)})


def _deploy(project: Project, cloud: LocalCloud) -> Stage:
    deploying.bootstrap(project.root, cloud)
    deploying.deploy(project.root, cloud, stage="local", stacks=("*-pipeline",))
    shutil.copy(project.root / "cdk.json", cloud.settings.root)
    return Stage.connect("local", project, cloud=cloud)


if __name__ == "__main__":
    sys.exit(main())
