"""What the local cloud needs to know, in one frozen object that travels to the server process as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ACCOUNT_ID = "000000000000"
REGION = "ap-northeast-2"
# MiniStack takes this pair for the account's root user; everything else that calls is a role whose policies are evaluated.
ROOT_ACCESS_KEY = "test"
ROOT_SECRET_KEY = "test"  # noqa: S105 - no secret: the cloud listens on loopback only and this is its documented root user
DEFAULT_PORT = 4566
DEFAULT_GATEWAY_PORT = 8000


class SettingsError(ValueError):
    """A setting that cannot work, with what to do about it."""


@dataclass(frozen=True)
class Image:
    """The commands a container image stands for on this machine.

    Attributes:
        command: the image's entrypoint, for example ``["/…/.venv/bin/ko-reranker"]``; ``train`` or ``serve`` is appended.
        environment: variables the image sets (what a Dockerfile's ENV would be).
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def default_images() -> dict[str, Image]:
    """The project's own image: the four commands of the Python environment that runs this."""
    command = (str(Path(sys.executable).parent / "ko-reranker"),)
    # A container listens everywhere because it is reached from outside; a process of this machine keeps to itself.
    return {"local/ko-reranker": Image(command, {"KO_RERANKER_HOST": "127.0.0.1"})}


@dataclass(frozen=True)
class LocalSettings:
    """Settings of one local cloud.

    Attributes:
        root: folder whose ``.local`` holds state, logs, certificates and job folders.
        port: port of the AWS APIs (HTTPS) on 127.0.0.1.
        gateway_port: port of the rerank API (HTTP) on 127.0.0.1.
        region: the one region the cloud is in.
        account_id: the one account.
        api_name_prefix: the gateway forwards to the first REST API whose name starts so.
        images: image repository (no tag) to the commands it stands for.
        snapshot_seconds: how often state is written at most, so that a crash loses little; 0 = at exit only.
        wait_scale: what a second of a state machine's waits and retries lasts; tests shorten them.
        log_level: of the server's log.
    """

    root: Path
    port: int = DEFAULT_PORT
    gateway_port: int = DEFAULT_GATEWAY_PORT
    region: str = REGION
    account_id: str = ACCOUNT_ID
    api_name_prefix: str = "ko-reranker"
    images: Mapping[str, Image] = field(default_factory=default_images)
    snapshot_seconds: float = 30.0
    wait_scale: float = 1.0
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        for name in ("port", "gateway_port"):
            value = getattr(self, name)
            if not 1 <= value <= 65535:
                raise SettingsError(f"{name} must be between 1 and 65535, not {value}")
        if self.port == self.gateway_port:
            raise SettingsError(f"port and gateway_port are both {self.port}: choose two different ones")

    @property
    def home(self) -> Path:
        """The folder of everything the local cloud writes."""
        return self.root / ".local"

    @property
    def log_file(self) -> Path:
        return self.home / "server.log"

    @property
    def lock_file(self) -> Path:
        """Held by the running server; who holds it owns the state."""
        return self.home / "server.lock"

    @property
    def server_file(self) -> Path:
        """Process id and ports of the running server."""
        return self.home / "server.json"

    @property
    def ca_file(self) -> Path:
        return self.home / "tls" / "ca.pem"

    @property
    def endpoint_url(self) -> str:
        # An address, not "localhost": SDKs then put the bucket into the path, and no bucket.localhost needs resolving.
        return f"https://127.0.0.1:{self.port}"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    def to_json(self) -> str:
        """Serialise for the server process."""
        return json.dumps({**asdict(self), "root": str(self.root)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LocalSettings:
        """Read what :meth:`to_json` wrote."""
        raw: dict[str, Any] = json.loads(text)
        images = {name: Image(tuple(x["command"]), x["environment"]) for name, x in raw.pop("images").items()}
        return cls(root=Path(raw.pop("root")), images=images, **raw)
