"""The runtime, and volumes that go when the tests do."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from runtime import Runtime, find

# Only `run.py` has built an image to test; `make test` passes these files by.
collect_ignore_glob = [] if "IMAGE_TEST" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return find()


@pytest.fixture(scope="session")
def volume(runtime: Runtime) -> Iterator[Callable[[], str]]:
    """Make a volume."""
    made: list[str] = []

    def make() -> str:
        made.append(runtime.text("volume", "create", f"ko-reranker-test-{uuid.uuid4().hex[:12]}"))
        return made[-1]

    yield make
    for name in made:
        runtime.run("volume", "rm", name, check=False)


@pytest.fixture(scope="session")
def network(runtime: Runtime) -> Iterator[str | None]:
    """A network in which hosts find each other by name; None where all are in the machine's own."""
    if runtime.network:
        yield None
        return
    name = f"ko-reranker-test-{uuid.uuid4().hex[:12]}"
    runtime.run("network", "create", name)
    yield name
    runtime.run("network", "rm", name, check=False)
