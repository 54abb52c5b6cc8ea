"""The way to the local cloud, a package of its own with an extra of its own: the library imports it here and nowhere else."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ko_reranker.operations.errors import OperationError

if TYPE_CHECKING:
    import typer

    from local_cloud.cloud import LocalCloud


def require(*packages: str) -> None:
    """Make sure that the local cloud is installed.

    Args:
        packages: what is needed of it, if not all: a program that only asks a running one can do without the emulator.

    Raises:
        OperationError: it isn't, as in the container image.
    """
    missing = [name for name in packages or ("local_cloud", "ministack") if find_spec(name) is None]
    if missing:
        raise OperationError(
            f"the local cloud isn't installed here ({' and '.join(missing)} can't be imported): run `make setup` in a checkout "
            "of ko-reranker, or `pip install --editable '.[local]'`"
        )


def commands() -> typer.Typer:
    """Return the commands ``ko-reranker local …``.

    Raises:
        OperationError: the local cloud isn't installed.
    """
    require()
    from local_cloud.commands import app

    return app


def running_in(root: Path) -> LocalCloud | None:
    """Return the local cloud that runs in the folder ``root``, or None.

    Raises:
        OperationError: the local cloud isn't installed.
    """
    require("local_cloud")
    from local_cloud.cloud import LocalCloud

    return LocalCloud.running_in(root)


def ports() -> dict[str, int]:
    """Return the option that chooses a port, to the port that is taken without it.

    Raises:
        OperationError: the local cloud isn't installed.
    """
    require("local_cloud")
    from local_cloud.settings import DEFAULT_GATEWAY_PORT, DEFAULT_PORT

    return {"--port": DEFAULT_PORT, "--gateway-port": DEFAULT_GATEWAY_PORT}
