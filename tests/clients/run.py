"""Build the environment of the clients, deploy the local stack if none runs, and run the tests against it.

python tests/clients/run.py [pytest arguments]
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from environments import environment, local_stage, pytest  # noqa: E402 - beside this folder


def main() -> int:
    python = environment(HERE)
    with local_stage() as (stage, cloud):
        told = {
            "RERANK_URL": stage.api_url,
            "RERANK_KEY": stage.api_key,
            "RERANK_ENDPOINT": stage.output("EndpointName"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet for prices when it is imported
        }
        return pytest(python, HERE, cloud.environment() | told)


if __name__ == "__main__":
    sys.exit(main())
