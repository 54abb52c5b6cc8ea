"""AWS Signature Version 4 for one service, and the credentials it needs.

Written out, because importing boto3 and making a client costs ten times the CPU of everything else at a cold start.
https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"


class MissingCredentials(RuntimeError):
    """The environment holds no credentials."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What Lambda puts into the environment of a function."""

    access_key: str
    secret_key: str
    token: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Credentials:
        """Read the credentials.

        Raises:
            MissingCredentials: naming the variable.
        """
        try:
            access_key, secret_key = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
        except KeyError as error:
            raise MissingCredentials(f"the environment variable {error.args[0]} is not set: Lambda sets it") from None
        return cls(access_key, secret_key, environment.get("AWS_SESSION_TOKEN") or None)


def signed_headers(
    credentials: Credentials,
    *,
    region: str,
    service: str,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    now: float | None = None,
) -> dict[str, str]:
    """Return the headers of a request together with those that sign it.

    Args:
        path: as it is sent, without a query.
        headers: all that are sent, ``Host`` among them.
        now: Unix time; None is the present.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    sent = {**headers, "X-Amz-Date": stamp}
    if credentials.token:
        sent["X-Amz-Security-Token"] = credentials.token
    canonical = {
        name.lower(): " ".join(value.split()) for name, value in sorted(sent.items(), key=lambda item: item[0].lower())
    }
    names = ";".join(canonical)
    listed = "".join(f"{name}:{value}\n" for name, value in canonical.items())
    # Every service but S3 signs the path encoded once more.
    request = "\n".join((method, quote(path, safe="/-_.~"), "", listed, names, hashlib.sha256(body).hexdigest()))
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_key}".encode()
    for step in (stamp[:8], region, service, "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    authorization = f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**sent, "Authorization": authorization}
