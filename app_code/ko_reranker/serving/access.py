"""Who may ask the server: the holders of its keys, over TLS where it has a certificate."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from starlette.datastructures import Headers

from ..protocol import ProtocolError

# A key of ours in any of them counts, whatever else the others hold.
_HEADERS = ("authorization", "x-api-key", "api-key")
_MOST_CHARACTERS, _FEW_CHARACTERS = 128, 20
_KEY = re.compile(rf"[!-~]{{1,{_MOST_CHARACTERS}}}")
_BEARER = "bearer "


class AccessError(ValueError):
    """Keys, certificate or their files cannot be used; the message says why, and never holds a key."""


class Keys:
    """The keys that a server accepts.

    Args:
        keys: any number; none lets in everybody.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, headers: Headers) -> None:
        """See that a request has one of the keys.

        Raises:
            ProtocolError: 401.
        """
        if self and not any([self._knows(key) for key in _shown(headers)]):
            message = "no key, or an unknown one: send it in the header Authorization: Bearer KEY, x-api-key or api-key"
            raise ProtocolError(401, message, headers={"WWW-Authenticate": "Bearer"})

    def _knows(self, key: str) -> bool:
        # All of them are compared, and to the end: the time tells nothing about any.
        return any([hmac.compare_digest(_digest(key), known) for known in self._digests])


def check_variables(values: Mapping[str, object], environment: Mapping[str, str]) -> None:
    """Refuse a variable that is there and empty: somebody meant to protect the server, and a secret did not arrive.

    Args:
        values: what each variable's setting came to, from wherever it was taken; by the variable's name.
        environment: the variables that there are.

    Raises:
        AccessError: naming the variable.
    """
    for name, value in values.items():
        if not value and name in environment:
            raise AccessError(f"{name} is set but empty: give it a value, or unset it for a server without")


def read_keys(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Return the keys of the command line or the environment and of a file, each once.

    Args:
        given: each may be several, with spaces or commas between them.
        file: one key a line; empty lines and those that start with # don't count.

    Raises:
        AccessError: the file cannot be read or has no key, or something is no key.
    """
    keys = {f"key {place} of --api-key": key for place, key in enumerate(re.split(r"[,\s]+", " ".join(given)), 1) if key}
    if given and not keys:
        raise AccessError("--api-key is empty")
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise AccessError(f"cannot read the keys in {file}: {reason}") from None
        keys |= {f"{file}, line {at}": line for at, line in enumerate(lines, 1) if line and not line.startswith("#")}
        if not any(name.startswith(f"{file},") for name in keys):
            raise AccessError(f"{file} has no key: write one a line")
    for name, key in keys.items():
        if not _KEY.fullmatch(key):
            raise AccessError(
                f"{name} is no key: it is 1 to {_MOST_CHARACTERS} letters, digits and signs of ASCII, without spaces"
            )
    return tuple(dict.fromkeys(keys.values()))


def short_keys(keys: Iterable[str]) -> int:
    """Return how many keys are short enough to be guessed."""
    return sum(len(key) < _FEW_CHARACTERS for key in keys)


def load_tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return what HTTPS needs, None without a certificate.

    Args:
        certificate: PEM; the server's own first, then those that vouch for it.
        key: its private key, PEM, not encrypted.

    Raises:
        AccessError: one of them is missing, or they cannot be used together.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise AccessError("TLS takes both --tls-certificate and --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for file in (certificate, key):
        if not file.is_file():
            raise AccessError(f"cannot use the certificate {certificate} with the key {key}: there is no file {file}")
    try:
        # OpenSSL would ask at the terminal for the password of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        advice = "both must be PEM, belong together, and the key not be encrypted"
        raise AccessError(f"cannot use the certificate {certificate} with the key {key} ({reason}): {advice}") from None
    return context


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _shown(headers: Headers) -> list[str]:
    shown = [value.strip() for name in _HEADERS for value in headers.getlist(name)]
    return [value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else value for value in shown]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
