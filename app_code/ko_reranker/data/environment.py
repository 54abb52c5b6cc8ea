"""A function's settings come from its environment, all of them read and checked at cold start."""

from __future__ import annotations

import os


class MissingVariable(RuntimeError):
    """An environment variable that the function cannot work without is not set."""


def require(name: str) -> str:
    """Return an environment variable.

    Raises:
        MissingVariable: naming it, when it is unset or empty.
    """
    value = os.environ.get(name, "")
    if not value:
        raise MissingVariable(f"the environment variable {name} is not set: the CDK stack sets it, deploy it again")
    return value
