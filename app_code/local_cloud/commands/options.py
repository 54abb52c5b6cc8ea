"""Options that several of the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder whose .local/ keeps the cloud's state, logs and certificates.", show_default="the project's folder"
    ),
]

Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the AWS APIs (HTTPS). Choose another when it is taken.")]
GatewayPort = Annotated[
    int, typer.Option(min=1, max=65535, help="Port of the rerank API (HTTP), for example http://127.0.0.1:8000/v2/rerank.")
]
