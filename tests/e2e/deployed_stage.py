"""What the end-to-end tests work on."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from ko_reranker.operations.stage import Stage
from local_cloud.cloud import LocalCloud

PROJECT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).parent / "ko-reranker"


@dataclass
class Deployed:
    """A stage in a running local cloud, and what `make run` printed on the way there."""

    cloud: LocalCloud
    stage: Stage
    printed: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
