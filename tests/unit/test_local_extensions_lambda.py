"""The start of a Python function in the local cloud, against a Lambda Runtime API of this process."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("awslambdaric")

from local_cloud.extensions import lambda_bootstrap, lambda_runtime

HANDLER = """
class Poison(Exception):
    pass

def handle(event, context):
    if event == "raise":
        raise Poison("bad")
    if event == "import":
        import pytest
    return {"echo": event, "id": context.aws_request_id}
"""


class RuntimeApi(ThreadingHTTPServer):
    """Hands out events and collects what the function answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: queue.Queue[tuple[str, object]] = queue.Queue()
        self.answers: queue.Queue[tuple[str, dict]] = queue.Queue()

    def invoke(self, event: object) -> tuple[str, dict]:
        """Send an event; return the end of the path answered to, and the answer."""
        self.events.put(("request-1", event))
        return self.answers.get(timeout=20)


class _Handler(BaseHTTPRequestHandler):
    server: RuntimeApi

    def do_GET(self) -> None:
        request_id, event = self.server.events.get()
        body = json.dumps(event).encode()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", request_id)
        self.send_header("Lambda-Runtime-Deadline-Ms", "9999999999999")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.read_chunk, b""))
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.answers.put((self.path.rsplit("/", 1)[1], json.loads(body)))

    def read_chunk(self) -> bytes:
        """The next chunk of a body, empty at its end."""
        size = int(self.rfile.readline(), 16)
        chunk = self.rfile.read(size)
        self.rfile.readline()
        return chunk

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(params=["native client", "pure Python client"])
def api(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RuntimeApi]:
    site_packages = lambda_runtime.SITE_PACKAGES
    if request.param == "native client" and not list(site_packages.glob("runtime_client*.so")):
        pytest.skip("the native client is built for Linux only")
    if request.param == "pure Python client":
        without = tmp_path / "site-packages"
        without.mkdir()
        for name in lambda_bootstrap.MANAGED - {"runtime_client"}:
            for found in (site_packages / name, site_packages / f"{name}.py"):
                if found.exists():
                    (without / found.name).symlink_to(found)
        site_packages = without
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "handler.py").write_text(HANDLER)
    server = RuntimeApi()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    variables = {
        "PATH": os.environ["PATH"],
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "LAMBDA_TASK_ROOT": str(tmp_path / "task"),
        "_HANDLER": "handler.handle",
    }
    bootstrap = Path(lambda_bootstrap.__file__)
    process = subprocess.Popen([sys.executable, "-I", "-S", str(bootstrap), str(site_packages)], env=variables)
    yield server
    process.kill()
    process.wait()
    server.shutdown()
    server.server_close()


def test_results_errors_and_missing_packages_are_reported_as_on_aws(api: RuntimeApi):
    assert api.invoke({"a": "한국어"}) == ("response", {"echo": {"a": "한국어"}, "id": "request-1"})
    path, error = api.invoke("raise")
    assert (path, error["errorType"], error["errorMessage"]) == ("error", "Poison", "bad")
    path, error = api.invoke("import")
    assert (path, error["errorType"]) == ("error", "ModuleNotFoundError")
