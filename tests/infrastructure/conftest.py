"""Templates of the stages, synthesised once."""

from __future__ import annotations

import aws_cdk as cdk
import pytest
from synthesis import Templates, checked, synthesise

from cdk.variants import VARIANTS


@pytest.fixture(scope="session")
def local() -> Templates:
    return synthesise("local")[0]


@pytest.fixture(scope="session")
def prod() -> Templates:
    return synthesise("prod", **{"serving.enabled": "true"})[0]


@pytest.fixture(scope="session")
def prod_without_endpoint() -> Templates:
    return synthesise("prod")[0]


@pytest.fixture(scope="session")
def checked_everything() -> tuple[Templates, cdk.App]:
    return checked("prod", **VARIANTS["everything"])


@pytest.fixture(scope="session")
def everything(checked_everything: tuple[Templates, cdk.App]) -> Templates:
    """Prod with all that can be switched on; both packs of cdk-nag have passed it."""
    return checked_everything[0]


@pytest.fixture(scope="session")
def locked() -> Templates:
    """Prod without a way to the internet; both packs of cdk-nag have passed it."""
    return checked("prod", **VARIANTS["locked"])[0]
