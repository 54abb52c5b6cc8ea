"""Requests straight to the SageMaker endpoint, signed with AWS credentials instead of an API key."""

from __future__ import annotations

import os
import ssl
from collections.abc import Generator
from typing import Any
from urllib.parse import quote

import httpx

from ..protocol import TIMEOUT_HEADER, write_timeout


class SageMakerAuth(httpx.Auth):
    """Signs requests with SigV4.

    Args:
        session: a boto3 session; its credentials are refreshed as they expire.
        region: where the endpoint is.
    """

    requires_request_body = True

    def __init__(self, session: Any, region: str) -> None:
        self._session = session
        self._region = region

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        headers = {"Host": request.url.netloc.decode(), "Content-Type": request.headers["content-type"]}
        seconds = request.extensions.get("timeout", {}).get("read")
        if seconds is not None:
            headers[TIMEOUT_HEADER] = write_timeout(seconds)
        signed = AWSRequest(request.method, str(request.url), data=request.content, headers=headers)
        credentials = self._session.get_credentials().get_frozen_credentials()
        SigV4Auth(credentials, "sagemaker", self._region).add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        yield request


def endpoint_target(name: str, region: str | None, session: Any, url: str | None) -> tuple[str, SageMakerAuth]:
    """Return the URL of an endpoint's invocations, and what signs requests to it.

    Raises:
        ValueError: when there is no region or there are no credentials.
    """
    import boto3

    session = session or boto3.session.Session()
    region = region or session.region_name
    if not region:
        raise ValueError("no AWS region: give region, or set AWS_REGION")
    if session.get_credentials() is None:
        raise ValueError("no AWS credentials: run `aws configure`, `aws sso login`, or set AWS_PROFILE")
    # boto3 knows the partitions' hosts, and AWS_ENDPOINT_URL.
    base = url or session.client("sagemaker-runtime", region_name=region).meta.endpoint_url
    return f"{base.rstrip('/')}/endpoints/{quote(name, safe='')}/invocations", SageMakerAuth(session, region)


def endpoint_tls() -> ssl.SSLContext | bool:
    """Return whom to trust, as boto3 does: the authorities that AWS_CA_BUNDLE names, or the usual ones."""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    return ssl.create_default_context(cafile=bundle) if bundle else True
