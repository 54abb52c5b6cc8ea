"""boto3 clients of the local cloud that act as its account's root user."""

from __future__ import annotations

import os
from typing import Any

from local_cloud.settings import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, LocalSettings
from local_cloud.tls import ensure_certificate


def root_client(settings: LocalSettings, service: str, **options: Any) -> Any:
    """Return a boto3 client of ``service``; neither the user's profile nor their configuration files have a say.

    Args:
        settings: of the local cloud.
        options: further arguments of boto3's ``Session.client``.
    """
    import boto3
    import botocore.session
    from botocore.config import Config

    config = Config(proxies={}, retries={"mode": "standard", "max_attempts": 3}).merge(options.pop("config", Config()))
    nobody = {"profile": (None, None, None, None), "config_file": (None, None, os.devnull, None)}
    session = boto3.session.Session(botocore_session=botocore.session.Session(session_vars=nobody))
    return session.client(
        service,
        endpoint_url=settings.endpoint_url,
        region_name=settings.region,
        aws_access_key_id=ROOT_ACCESS_KEY,
        aws_secret_access_key=ROOT_SECRET_KEY,
        verify=str(ensure_certificate(settings.home / "tls").authority),
        config=config,
        **options,
    )
