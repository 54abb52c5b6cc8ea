"""The rerank function: CPU at a cold start, and what it adds to a warm request.

    make bench-api

Each start is a process of its own without site-packages, as Lambda's is. A warm request is a whole API Gateway event to a whole
proxy response; what stands behind the endpoint is an HTTP server on this machine that answers with ready-made logits. Its time,
measured by sending it the very same bodies with nothing around, is taken off.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FUNCTION = ROOT / "lambda" / "rerank"
RESULT = ROOT / "benchmarks" / "results" / "api.json"
SIZES = (1, 50, 1000)
STARTS, REQUESTS = 15, 60
PASSAGE = "어텐션 마스크는 모델이 채움 토큰을 보지 않게 합니다. " * 6  # some 190 characters, as Korean passages have

_IMPORT = "import sys, time; sys.path[:0] = {paths!r}; import {module}; print(time.process_time())"


def main() -> None:
    """Measure, print a table, and write the result."""
    figures: dict[str, Any] = {}
    bare = _cpu("json")
    figures["init_cpu_ms"] = round(_cpu("handler") - bare, 1)
    figures["boto3_client_init_cpu_ms"] = round(_cpu("boto3", "boto3.client('sagemaker-runtime', region_name='r')") - bare, 1)
    figures["authorizer_init_cpu_ms"] = round(_cpu("handler", folder=ROOT / "lambda" / "authorizer") - bare, 1)
    figures["warm_overhead_ms"] = {str(size): _warm(size) for size in SIZES}
    versions = {"python": platform.python_version()}
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    result = {"machine": machine, "date": datetime.now(UTC).date().isoformat(), "versions": versions, "figures": figures}
    RESULT.write_text(json.dumps({**result, "ratios": {}}, indent=2) + "\n")
    print(f"init, CPU      {figures['init_cpu_ms']:7.1f} ms   (boto3 alone: {figures['boto3_client_init_cpu_ms']:.1f})")
    print(f"authorizer     {figures['authorizer_init_cpu_ms']:7.1f} ms")
    for size, milliseconds in figures["warm_overhead_ms"].items():
        print(f"{size:>5} documents{milliseconds:7.2f} ms over the endpoint's own time")


def _cpu(module: str, more: str = "pass", folder: Path = FUNCTION) -> float:
    """Return the median CPU of a process that imports a module, in milliseconds."""
    site = next(path for path in sys.path if path.endswith("site-packages"))
    paths = [str(folder), str(ROOT / "app_code"), *([site] if module == "boto3" else [])]
    program = _IMPORT.format(paths=paths, module=module).replace("; print", f"; {more}; print")
    environment = {**os.environ, "ENDPOINT_NAME": "e", "AWS_REGION": "ap-northeast-2"}
    taken = []
    for _ in range(STARTS):
        command = [sys.executable, "-I", "-S", "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        taken.append(float(done.stdout.split()[-1]) * 1000)
    return statistics.median(taken)


def _warm(size: int) -> float:
    """Return the median milliseconds that a request takes over what its call to the endpoint takes."""
    sys.path.insert(0, str(FUNCTION))
    reranking, endpoints = importlib.import_module("reranking"), importlib.import_module("model_endpoint")
    runtime = importlib.import_module("sagemaker_runtime")
    os.environ |= {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}
    documents = [f"{place} {PASSAGE}" for place in range(size)]
    event = {
        "httpMethod": "POST",
        "path": "/v2/rerank",
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps({"query": "질문", "documents": documents, "top_n": 10}, ensure_ascii=False),
        "requestContext": {"requestId": "r"},
    }
    with _Server(size) as server, Path(os.devnull).open("w") as nowhere:
        client = runtime.RuntimeClient.from_environment({"AWS_REGION": "r", "AWS_ENDPOINT_URL": server.url})
        endpoint = endpoints.ModelEndpoint("e", client, documents_per_call=max(SIZES))
        settings = reranking.Settings("e")
        whole, inner = [], []
        screen, sys.stdout = sys.stdout, nowhere
        try:
            for _ in range(REQUESTS):
                began = time.perf_counter()
                answer = reranking.answer(event, endpoint, settings)
                whole.append(time.perf_counter() - began)
                if answer["statusCode"] != 200:
                    raise RuntimeError(f"the function answered {answer['body']}")
                body = server.body
                connection = client._take()
                began = time.perf_counter()
                connection.request("POST", "/", body)
                connection.getresponse().read()
                inner.append(time.perf_counter() - began)
                client._idle.append(connection)
        finally:
            sys.stdout = screen
    return round((statistics.median(whole) - statistics.median(inner)) * 1000, 2)


class _Server:
    """Answers every request with the same logits."""

    body = b""

    def __init__(self, size: int) -> None:
        answer = {"logits": [0.5 + place for place in range(size)], "tokens": [99] * size, "truncated": [False] * size}
        content = json.dumps({**answer, "model": "m", "max_length": 512}).encode()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                owner.body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> _Server:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    main()
