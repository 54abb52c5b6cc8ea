"""Start, stop and talk to the local cloud from Python.

cloud = LocalCloud(Path("."))
with cloud:                                   # or cloud.start() … cloud.stop()
    cloud.client("s3").list_buckets()
    subprocess.run(["npx", "cdk", "deploy"], env=cloud.process_environment())
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from local_cloud.clients import root_client
from local_cloud.settings import (
    DEFAULT_GATEWAY_PORT,
    DEFAULT_PORT,
    ROOT_ACCESS_KEY,
    ROOT_SECRET_KEY,
    Image,
    LocalSettings,
    default_images,
)
from local_cloud.tls import ensure_certificate

START_SECONDS = 60.0
STOP_SECONDS = 150.0
_LOG_LINES_SHOWN = 15
# What of a user's own AWS set-up would lead a tool away from the local cloud.
_FOREIGN_VARIABLES = (
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_ROLE_ARN"),
    *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"),
)


class LocalCloudError(RuntimeError):
    """The local cloud could not be started or stopped; the message says what to do."""


class LocalCloud:
    """One local cloud, whose state lives under ``root/.local``.

    Args:
        root: the folder that holds ``.local``.
        port: port of the AWS APIs (HTTPS, 127.0.0.1).
        gateway_port: port of the rerank API (HTTP, 127.0.0.1).
        log: file of the server's log; None = ``root/.local/server.log``.
        images: image repository to :class:`Image`; None = this environment's own commands.
        options: further fields of :class:`LocalSettings`.
    """

    def __init__(
        self,
        root: Path,
        port: int = DEFAULT_PORT,
        gateway_port: int = DEFAULT_GATEWAY_PORT,
        *,
        log: Path | None = None,
        images: Mapping[str, Image] | None = None,
        **options: Any,
    ) -> None:
        self.settings = LocalSettings(
            root=Path(root).resolve(),
            port=port,
            gateway_port=gateway_port,
            images=images if images is not None else default_images(),
            **options,
        )
        self.log = log or self.settings.log_file
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalCloud:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @classmethod
    def running_in(cls, root: Path) -> LocalCloud | None:
        """Return the cloud that runs in the folder ``root``, whatever its ports, or None."""
        server = cls(root)._server()
        return cls(root, server["port"], server["gateway_port"]) if server and not server["stopping"] else None

    def running(self) -> bool:
        """Tell whether a server of this folder answers on this port."""
        server = self._server()
        return server is not None and server["port"] == self.settings.port and not server["stopping"] and self._healthy()

    @property
    def pid(self) -> int | None:
        """The process id of the server that holds this folder, or None."""
        server = self._server()
        return server["pid"] if server else None

    def start(self, *, detach: bool = False, timeout: float = START_SECONDS) -> None:
        """Start the server and wait until it answers; one that already runs in this folder is used as it is.

        Args:
            detach: let the server outlive this process. Otherwise it ends with this process, however that ends.
            timeout: seconds to wait, not counting an older server of this folder that is still shutting down.

        Raises:
            LocalCloudError: with the last lines of the server's log.
        """
        server = self._server()
        if server is not None and not server["stopping"] and self._healthy(server["port"]):
            if (server["port"], server["gateway_port"]) == (self.settings.port, self.settings.gateway_port):
                return
            raise LocalCloudError(
                f"a local cloud of {self.settings.home} already runs on the ports {server['port']} and "
                f"{server['gateway_port']}: use these, or stop it first with `ko-reranker local down`"
            )
        self._launch(detach)
        self._wait_until_healthy(timeout)

    def stop(self, timeout: float = STOP_SECONDS) -> bool:
        """Stop the server of this folder, jobs and endpoints with it, and wait until it has saved its state.

        Returns:
            Whether there was one to stop.
        """
        server = self._server()
        if server is None and self._process is None:
            return False
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server["pid"], signal.SIGTERM)
        elif self._process is not None:
            self._process.terminate()
        deadline = time.monotonic() + timeout
        while self._locked():
            if self._process is not None:
                self._process.poll()
            if time.monotonic() > deadline:
                raise LocalCloudError(
                    f"the local cloud (process {server['pid'] if server else '?'}) has not stopped after {timeout:.0f} s; "
                    f"its log is {self.log}"
                )
            time.sleep(0.05)
        if self._process is not None:
            self._process.wait(timeout)
            if self._process.stdin:
                self._process.stdin.close()
            self._process = None
        return True

    def wait(self) -> int:
        """Block until the server that :meth:`start` started ends; return its exit status."""
        if self._process is None:
            raise LocalCloudError("this object has not started a server")
        return self._process.wait()

    def environment(self) -> dict[str, str]:
        """Return the variables that lead boto3, the AWS CLI and the CDK CLI to this cloud.

        The credentials are the account's root user. See :meth:`process_environment` for a whole environment.
        """
        settings = self.settings
        authority = str(ensure_certificate(settings.home / "tls").authority)
        no_proxy = [x for x in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",") if x]
        hosts = ",".join(dict.fromkeys([*no_proxy, "127.0.0.1", "localhost"]))
        return {
            "AWS_ENDPOINT_URL": settings.endpoint_url,
            "AWS_ACCESS_KEY_ID": ROOT_ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": ROOT_SECRET_KEY,
            "AWS_REGION": settings.region,
            "AWS_DEFAULT_REGION": settings.region,
            "AWS_CA_BUNDLE": authority,
            "NODE_EXTRA_CA_CERTS": authority,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": hosts,
            "no_proxy": hosts,
        }

    def process_environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return ``base`` (this process's environment) without the user's own AWS set-up, plus :meth:`environment`."""
        kept = os.environ if base is None else base
        foreign = {n for n in kept if n in _FOREIGN_VARIABLES or n.startswith("AWS_ENDPOINT_URL_")}
        return {**{n: v for n, v in kept.items() if n not in foreign}, **self.environment()}

    def client(self, service: str, **options: Any) -> Any:
        """Return a boto3 client of ``service``, acting as the account's root user."""
        return root_client(self.settings, service, **options)

    @property
    def gateway_url(self) -> str:
        """The base URL of the rerank API, without a slash at its end."""
        return self.settings.gateway_url

    def interrupt(self, training_job: str) -> None:
        """Take a spot training job's instances away, as AWS may at any moment; it starts again from its checkpoints.

        Raises:
            LocalCloudError: the job doesn't train on spot instances now.
        """
        from botocore.exceptions import ClientError

        from local_cloud.sagemaker.training import INTERRUPT_FILE

        try:
            job = self.client("sagemaker").describe_training_job(TrainingJobName=training_job)
        except ClientError as error:
            raise LocalCloudError(f"{training_job}: {error.response['Error']['Message']}") from None
        if not job.get("EnableManagedSpotTraining"):
            raise LocalCloudError(f'{training_job} has no spot instances: retrain with {{"use_spot": true}}')
        if job["SecondaryStatus"] != "Training":
            raise LocalCloudError(f"{training_job} is {job['SecondaryStatus']}; only a job that is Training can be interrupted")
        (self.settings.home / "sagemaker" / "training" / training_job / INTERRUPT_FILE).touch()

    def last_log_lines(self, count: int = _LOG_LINES_SHOWN) -> str:
        """Return the end of the server's log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 200 * count))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
        except OSError as error:
            return f"(no log: {error})"

    def _launch(self, detach: bool) -> None:
        settings = self.settings
        settings.home.mkdir(parents=True, exist_ok=True)
        settings_file = settings.home / "settings.json"
        settings_file.write_text(settings.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "local_cloud.server", "--settings", str(settings_file)]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command if detach else [*command, "--follow-parent"],
                stdin=subprocess.DEVNULL if detach else subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=settings.root,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                # Ctrl-C in a terminal goes to the foreground group; the owner decides when the server stops.
                start_new_session=True,
            )

    def _wait_until_healthy(self, timeout: float) -> None:
        process = self._process
        assert process is not None  # noqa: S101 - set by _launch
        deadline = time.monotonic() + timeout
        while (self._server() or {}).get("pid") != process.pid or not self._healthy():
            if process.poll() is not None:
                self._process = None
                raise LocalCloudError(
                    f"the local cloud did not start (exit status {process.returncode}); the end of {self.log}:\n"
                    f"{self.last_log_lines()}"
                )
            server = self._server()
            if server is not None and server["pid"] != process.pid:  # an older one still holds the folder: its time is free
                deadline = time.monotonic() + timeout
            if time.monotonic() > deadline:
                process.terminate()
                raise LocalCloudError(
                    f"the local cloud did not answer within {timeout:.0f} s; the end of {self.log}:\n{self.last_log_lines()}"
                )
            time.sleep(0.05)

    def _locked(self) -> bool:
        """Whether a server holds this folder: the lock ends with its process, so a crash leaves nothing behind."""
        if not self.settings.lock_file.exists():
            return False
        with self.settings.lock_file.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _server(self) -> dict[str, int] | None:
        """Process id, ports and whether it is stopping, of the server that holds this folder, or None."""
        if not self._locked():
            return None
        try:
            told: dict[str, int] = json.loads(self.settings.server_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # it is just starting or just ending
        return told

    def _healthy(self, port: int | None = None) -> bool:
        if not self.settings.ca_file.exists():
            return False
        context = ssl.create_default_context(cafile=str(self.settings.ca_file))
        connection = http.client.HTTPSConnection("127.0.0.1", port or self.settings.port, timeout=5, context=context)
        try:
            connection.request("GET", "/_ministack/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
