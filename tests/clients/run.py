"""Build the environment of the clients, deploy the local stack if none runs, and run the tests against it.

python tests/clients/run.py [pytest arguments]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from environments import environment, local_stage, pytest  # noqa: E402 - beside this folder

# What can't share an environment with the others.
APART, JAVASCRIPT = (HERE / "newer", HERE / "infinity"), HERE / "javascript"


def main() -> int:
    pythons = {folder: environment(folder) for folder in (HERE, *APART)}
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=JAVASCRIPT, check=True)
    with local_stage() as (stage, cloud):
        told = {
            "RERANK_URL": stage.api_url,
            "RERANK_KEY": stage.api_key,
            "RERANK_ENDPOINT": stage.output("EndpointName"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet for prices when it is imported
        }
        variables = cloud.environment() | told
        return max(
            pytest(python, folder, variables, skip=APART if folder == HERE else ()) for folder, python in pythons.items()
        )


if __name__ == "__main__":
    sys.exit(main())
