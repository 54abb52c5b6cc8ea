"""Build the image with the container runtime of this machine and run its four commands as SageMaker does.

python tests/image/run.py [pytest arguments]

CONTAINER_RUNTIME names docker or podman, DOCKER_HOST is theirs; BUILD_ARGS are further arguments of the build, such as
"--build-arg BASE_IMAGE=…"; NETWORK=host puts build and containers into the machine's own network, where there is no other.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from runtime import NoRuntime, build, find  # noqa: E402 - beside this file

NO_RUNTIME = 3


def main() -> int:
    try:
        runtime = find()
    except NoRuntime as reason:
        print(f"Nothing was tested: the image needs a container runtime, docker or podman, and {reason}.", file=sys.stderr)
        return NO_RUNTIME
    try:
        build(runtime, shlex.split(os.environ.get("BUILD_ARGS", "")))
    except subprocess.CalledProcessError as error:
        print(f"The image could not be built: {runtime.program} ended with {error.returncode}.", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "pytest", str(HERE), "-v", "-p", "no:cacheprovider", *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, "IMAGE_TEST": "1"}, cwd=HERE.parents[1], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
