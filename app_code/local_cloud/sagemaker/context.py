"""What every part of the local SageMaker shares: settings, store, names, roles, clients, events."""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cloud.sagemaker.errors import invalid
from local_cloud.sagemaker.store import Store
from local_cloud.settings import Image, LocalSettings

logger = logging.getLogger("local_cloud.sagemaker")
SERVICE_PRINCIPAL = "sagemaker.amazonaws.com"
_client_lock = threading.Lock()


@dataclass(frozen=True)
class Credentials:
    """A session of a role, as its environment variables carry it."""

    access_key: str
    secret_key: str
    token: str

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": self.token,
        }


class Context:
    """The shared ground of jobs, hosting and registry."""

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings
        self.home: Path = settings.home / "sagemaker"
        self.store = Store(self.home / "store.json")

    def arn(self, kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{self.settings.region}:{self.settings.account_id}:{kind}/{name}"

    def image(self, uri: str) -> Image:
        """The commands the image stands for; a refusal that lists the known images otherwise."""
        repository = uri.split("@")[0]
        if ":" in repository.rsplit("/", 1)[-1]:
            repository = repository.rsplit(":", 1)[0]
        image = self.settings.images.get(repository)
        if image is None:
            known = ", ".join(sorted(self.settings.images)) or "none"
            raise invalid(
                f"The local cloud has no commands for the image {uri}: it runs images as commands of this machine and knows "
                f"{known}. Set `image` of the stage `local` to one of these."
            )
        return image

    def check_role(self, arn: str) -> None:
        """Refuse a role that does not exist or that SageMaker may not assume."""
        from ministack.services import iam

        role = iam._roles.get_scoped(self.settings.account_id, None, arn.rsplit("/", 1)[-1])
        if role is None or not _trusts(role.get("AssumeRolePolicyDocument", "{}")):
            raise invalid(
                f"Could not assume role {arn}. Please ensure that the role exists and allows principal '{SERVICE_PRINCIPAL}' "
                "to assume the role."
            )

    def check_output_key(self, role_arn: str, key: str | None) -> None:
        """Refuse a role that may not encrypt with the key of its job's output, which the API documents that it must."""
        from local_cloud.extensions.iam import denial

        if key is None:
            return
        arn = key if key.startswith("arn:") else f"arn:aws:kms:{self.settings.region}:{self.settings.account_id}:key/{key}"
        refused = denial(role_arn, "kms:Encrypt", arn, session="SageMaker")
        if refused:
            raise invalid(f"The execution role may not use the KMS key of the output: {refused}")

    def check_alarms(self, role_arn: str, names: list[str]) -> None:
        """Refuse a role that may not look at the alarms of an automatic rollback."""
        from local_cloud.extensions.iam import denial

        for name in names:
            alarm = f"arn:aws:cloudwatch:{self.settings.region}:{self.settings.account_id}:alarm:{name}"
            refused = denial(role_arn, "cloudwatch:DescribeAlarms", alarm, session="SageMaker")
            if refused:
                raise invalid(f"The execution role may not look at the alarms of AutoRollbackConfiguration: {refused}")

    def assume(self, role_arn: str, session_name: str) -> Credentials:
        """Open a session of the role, whose policies decide what its holder may do."""
        from ministack.services import sts

        role = role_arn.rsplit("/", 1)[-1]
        credentials = Credentials(f"ASIA{secrets.token_hex(8).upper()}", secrets.token_hex(20), secrets.token_hex(32))
        session = {
            "Arn": f"arn:aws:sts::{self.settings.account_id}:assumed-role/{role}/{session_name[:64]}",
            "UserId": f"{role}:{session_name[:64]}",
            "AccountId": self.settings.account_id,
            "SecretAccessKey": credentials.secret_key,
            "SessionToken": credentials.token,
        }
        sts.register_session(credentials.access_key, session)
        return credentials

    def forget(self, credentials: Credentials) -> None:
        """Close a session."""
        from ministack.services import sts

        sts._sessions.pop(credentials.access_key, None)

    def client(self, service: str, credentials: Credentials) -> Any:
        """A boto3 client acting with ``credentials``; call it from a worker thread, never from the event loop."""
        import boto3

        with _client_lock:  # making clients is not thread-safe, using them is
            return boto3.session.Session().client(
                service,
                endpoint_url=self.settings.endpoint_url,
                region_name=self.settings.region,
                aws_access_key_id=credentials.access_key,
                aws_secret_access_key=credentials.secret_key,
                aws_session_token=credentials.token,
                verify=str(self.settings.ca_file),
            )

    def cloud_environment(self, credentials: Credentials) -> dict[str, str]:
        """The AWS variables of a job's or endpoint's process."""
        return {
            **credentials.environment(),
            "AWS_ENDPOINT_URL": self.settings.endpoint_url,
            "AWS_REGION": self.settings.region,
            "AWS_DEFAULT_REGION": self.settings.region,
            "AWS_CA_BUNDLE": str(self.settings.ca_file),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def emit(self, detail_type: str, resource: str, detail: dict[str, Any]) -> None:
        """Put one of SageMaker's own events on the default bus."""
        from ministack.core.responses import request_scope
        from ministack.services import eventbridge

        entry = {
            "Source": "aws.sagemaker",
            "DetailType": detail_type,
            "Resources": [resource],
            "Detail": json.dumps(detail),
        }
        with request_scope(self.settings.account_id, self.settings.region):
            status, _, body = eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)
        if status != 200 or json.loads(body).get("FailedEntryCount"):
            logger.error("event %r of %s was not delivered: %s", detail_type, resource, body)


def now() -> float:
    """Seconds since the epoch, as the JSON protocol writes time stamps."""
    return round(time.time(), 3)


def in_thread(name: str, function: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Run ``function`` in a daemon thread; whatever it raises is logged."""

    def guarded() -> None:
        try:
            function(*arguments)
        except Exception:
            logger.exception("%s ended unexpectedly", name)

    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread


def _trusts(document: str | dict[str, Any]) -> bool:
    parsed = json.loads(document) if isinstance(document, str) else document
    statements = parsed.get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        principal = statement.get("Principal", {})
        services = principal.get("Service", []) if isinstance(principal, dict) else principal
        if statement.get("Effect") == "Allow" and SERVICE_PRINCIPAL in ([services] if isinstance(services, str) else services):
            return True
    return False
