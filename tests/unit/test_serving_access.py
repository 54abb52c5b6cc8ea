"""Who may ask the server: every header that clients send a key in, the routes that need none, and HTTPS."""

from __future__ import annotations

import datetime
import hmac
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from serving_sockets import ask, closed, connect, listening, wait_for
from starlette.testclient import TestClient
from stub_ranker import StubRanker

from ko_reranker.serving import ServingOptions, create_app
from ko_reranker.serving import connections as connections_module
from ko_reranker.serving.access import is_loopback, load_tls

BODY = {"query": "질문", "documents": ["둘째 문서"]}
KEYS = ("first-key-of-more-than-20-characters", "second-key-of-more-than-20-characters")


@pytest.fixture
def client():
    with TestClient(create_app(StubRanker(), ServingOptions(keys=KEYS))) as client:
        yield client


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Bearer {}"),
        ("authorization", "bearer  {}"),
        ("Authorization", "{}"),
        ("X-Api-Key", "{}"),
        ("api-key", "{}"),
    ],
    ids=str,
)
def test_a_key_counts_in_every_header(client, header, key):
    name, value = header
    assert client.post("/v2/rerank", json=BODY, headers={name: value.format(key)}).status_code == 200


def test_a_key_counts_whatever_the_other_headers_hold(client):
    others = {"Authorization": "Bearer hf_of_somebody_else", "x-api-key": "", "api-key": KEYS[1]}
    assert client.post("/rerank", json=BODY, headers=others).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEYS[0][:-1]}"},
        {"Authorization": f"Basic {KEYS[0]}"},
        {"x-api-key": f"{KEYS[0]}x"},
        {"x-api-key": KEYS[0].upper()},
        {"api-key": "é\xff".encode("latin-1")},
        {"x-request-id": KEYS[0]},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v2/rerank", "/invocations", "/score", "/infinity/rerank"])
def test_without_one_it_is_a_401_with_the_body_of_every_error(client, path, headers, caplog):
    answer = client.post(path, json=BODY, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    body = answer.json()
    assert body["message"] == body["detail"] == body["error"]["message"]
    assert (body["error_type"], body["error"]["code"]) == ("unauthorized", 401)
    assert KEYS[0] not in answer.text + caplog.text


@pytest.mark.parametrize(
    ("options", "path", "status"),
    [
        ({}, "/ping", 200),
        ({}, "/health", 200),
        ({}, "/openapi.json", 200),
        ({}, "/metrics", 401),
        ({}, "/v1/models", 401),
        ({}, "/info", 401),
        ({"open_health": False}, "/ping", 401),
        ({"open_health": False}, "/health", 401),
        ({"open_metrics": True}, "/metrics", 200),
        ({"keys": ()}, "/metrics", 200),
        ({"keys": ()}, "/v1/models", 200),
    ],
)
def test_what_needs_a_key(options, path, status):
    with TestClient(create_app(StubRanker(), ServingOptions(**{"keys": KEYS} | options))) as client:
        assert client.get(path).status_code == status
        assert client.get(path, headers={"x-api-key": KEYS[0]}).status_code == 200


def test_a_key_is_asked_for_before_the_body_is_read(client):
    read = []
    content = (read.append(1) or b"{}" for _ in range(1))
    assert client.post("/rerank", content=content, headers={"content-length": "2"}).status_code == 401


def test_every_key_is_compared_in_constant_time(client, monkeypatch):
    compared, compare = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append(len(other)) or compare(one, other))
    client.post("/rerank", json=BODY, headers={"x-api-key": KEYS[0]})
    assert compared == [32, 32], "digests of one length, the later ones after a match, too"


def test_the_description_tells_that_there_are_keys(client):
    assert "securitySchemes" in client.get("/openapi.json").text
    with TestClient(create_app(StubRanker())) as other:
        assert "securitySchemes" not in other.get("/openapi.json").text


# ---------------------------------------------------------------- HTTPS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """Return a certificate of localhost and its key."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(*pem, serialization.NoEncryption()))
    (folder / "locked.pem").write_bytes(key.private_bytes(*pem, serialization.BestAvailableEncryption(b"secret")))
    return folder / "cert.pem", folder / "key.pem"


def test_https_answers_who_trusts_the_certificate_and_holds_a_key(certificate):
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with listening(ServingOptions(tls=load_tls(*certificate), keys=KEYS)) as server:
        assert ask(server.port, BODY, "/rerank", f"x-api-key: {KEYS[0]}", tls=trusting)[0] == 200
        assert ask(server.port, BODY, "/rerank", tls=trusting)[0] == 401
        with connect(server.port, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n") as plain:
            assert closed(plain, 20), "plain HTTP on a port for HTTPS"


def test_handshakes_that_do_not_come_to_an_end_keep_nobody_out(certificate):
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with listening(ServingOptions(tls=load_tls(*certificate), max_connections=8)) as server:
        silent = [connect(server.port) for _ in range(30)]
        assert [ask(server.port, tls=trusting)[0] for _ in range(3)] == [200] * 3
        assert closed(silent[0], 20)
        for connection in silent:
            connection.close()


def test_a_handshake_that_stalls_is_cut_off_and_does_not_keep_the_server_from_stopping(certificate, monkeypatch):
    monkeypatch.setattr(connections_module, "HEAD_SECONDS", 0.5)
    with listening(ServingOptions(tls=load_tls(*certificate))) as server:
        with connect(server.port) as connection:
            assert closed(connection, 20)
        monkeypatch.setattr(connections_module, "HEAD_SECONDS", 60)
        with connect(server.port, b"\x16\x03\x01") as connection:
            wait_for(lambda: server.server.servers[0].handshakes == 1, "the arrival")
            server.stop()


@pytest.mark.parametrize(
    ("address", "loopback"), [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::", False), ("10.0.0.1", False)]
)
def test_who_is_reached_from_elsewhere_is_told_apart(address, loopback):
    assert is_loopback(address) is loopback


def test_a_locked_key_is_refused_without_asking_at_the_terminal(certificate):
    with pytest.raises(ValueError, match="not be encrypted"):
        load_tls(certificate[0], certificate[1].with_name("locked.pem"))
