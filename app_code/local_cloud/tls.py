"""The local cloud's certificate, made once.

Bucket policies that refuse plain HTTP (`aws:SecureTransport`) are evaluated, so the AWS APIs are served over TLS. A
certificate authority is made for this folder alone and its key is thrown away after signing the one server certificate, so
nothing else can ever be signed by what the tools are told to trust.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

_VALID_DAYS = 3650
_RENEW_BEFORE = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Certificate:
    """Paths of the PEM files: the authority to trust, the server's chain and its key."""

    authority: Path
    chain: Path
    key: Path


def ensure_certificate(directory: Path) -> Certificate:
    """Return the certificate in ``directory``, making it when there is none or when it is about to expire."""
    certificate = Certificate(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    if not _usable(certificate):
        _make(certificate)
    return certificate


def _usable(certificate: Certificate) -> bool:
    from cryptography import x509

    if not all(path.is_file() for path in (certificate.authority, certificate.chain, certificate.key)):
        return False
    try:
        expires = x509.load_pem_x509_certificate(certificate.chain.read_bytes()).not_valid_after_utc
    except ValueError:
        return False
    return expires > datetime.datetime.now(datetime.UTC) + _RENEW_BEFORE


def _make(certificate: Certificate) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def usage(**on: bool) -> x509.KeyUsage:
        kinds = (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        )
        return x509.KeyUsage(**{kind: on.get(kind, False) for kind in kinds})

    now = datetime.datetime.now(datetime.UTC)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())

    def builder(subject: str, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("ko-reranker local cloud authority"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )

    authority = (
        builder("ko-reranker local cloud authority", authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    addresses = [x509.IPAddress(ipaddress.ip_address(a)) for a in ("127.0.0.1", "::1")]
    server = (
        builder("localhost", server_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
        .add_extension(usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_pem = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate.authority.parent.mkdir(parents=True, exist_ok=True)
    _write(certificate.authority, authority.public_bytes(pem), 0o644)
    _write(certificate.chain, server.public_bytes(pem), 0o644)
    _write(certificate.key, key_pem, 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    temporary.replace(path)
