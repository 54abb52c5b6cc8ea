"""The local cloud's settings, certificate and the environment it gives to tools."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from local_cloud.cloud import LocalCloud
from local_cloud.settings import Image, LocalSettings, SettingsError
from local_cloud.tls import ensure_certificate


def test_settings_travel_to_the_server_unchanged(tmp_path: Path) -> None:
    settings = LocalSettings(tmp_path, images={"a/b": Image(("/bin/x", "y"), {"K": "V"})}, snapshot_seconds=1.5)
    assert LocalSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(("port", "gateway_port"), [(0, 8000), (4566, 70000), (4566, 4566)])
def test_ports_that_cannot_work_are_refused(tmp_path: Path, port: int, gateway_port: int) -> None:
    with pytest.raises(SettingsError, match="port"):
        LocalSettings(tmp_path, port, gateway_port)


def test_the_certificate_is_made_once_and_can_be_trusted(tmp_path: Path) -> None:
    certificate = ensure_certificate(tmp_path)
    content = certificate.authority.read_bytes()
    assert ensure_certificate(tmp_path).authority.read_bytes() == content
    assert certificate.key.stat().st_mode & 0o077 == 0
    client, server = ssl.create_default_context(cafile=str(certificate.authority)), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 asks for by default
    server.load_cert_chain(certificate.chain, certificate.key)
    assert handshake(client, server, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server, "example.com")


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> bool:
    """Shake hands in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname=name), server.wrap_bio(there, back, server_side=True)]
    for _ in range(10):
        done = 0
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
        if done == len(ends):
            return True
    return False


def test_tools_are_led_to_the_local_cloud_and_nowhere_else(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path, port=4600)
    environment = cloud.process_environment({"AWS_PROFILE": "production", "AWS_ENDPOINT_URL_S3": "x", "PATH": "/bin"})
    assert environment["AWS_ENDPOINT_URL"] == "https://127.0.0.1:4600"
    assert environment["NODE_EXTRA_CA_CERTS"] == environment["AWS_CA_BUNDLE"] == str(tmp_path / ".local/tls/ca.pem")
    assert environment["PATH"] == "/bin"
    assert not {"AWS_PROFILE", "AWS_ENDPOINT_URL_S3"} & environment.keys()
    assert "127.0.0.1" in environment["NO_PROXY"]


def test_nothing_runs_in_an_empty_folder(tmp_path: Path) -> None:
    assert not LocalCloud(tmp_path).running()
    assert LocalCloud.running_in(tmp_path) is None
    assert not LocalCloud(tmp_path).stop()
