"""Templates of the stages, synthesised once."""

from __future__ import annotations

import pytest
from synthesis import Templates, synthesise


@pytest.fixture(scope="session")
def local() -> Templates:
    return synthesise("local")[0]


@pytest.fixture(scope="session")
def prod() -> Templates:
    return synthesise("prod", **{"serving.enabled": "true"})[0]


@pytest.fixture(scope="session")
def prod_without_endpoint() -> Templates:
    return synthesise("prod")[0]
