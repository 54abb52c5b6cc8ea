"""The rerank function: CPU at a cold start, what it adds to a warm request, and whole requests through the local cloud.

    make bench-api

Each start is a process of its own without site-packages, as Lambda's is, from a copy of the bundle with and without byte code.
A warm request is a whole API Gateway event to a whole proxy response; what stands behind the endpoint is an HTTP server on this
machine that answers with ready-made logits. Its time, measured by sending it the very same bodies with nothing around, is taken
off. The last figures are requests over HTTP to the deployed local stage with its demonstration model, authorizer and key store
included; before each cold one both functions lose their processes. They show no network, no TLS and no starting of Lambda's
own machines.
"""

from __future__ import annotations

import compileall
import importlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage
from local_cloud import deploying
from local_cloud.cloud import LocalCloud

ROOT = Path(__file__).resolve().parents[1]
FUNCTION = ROOT / "lambda" / "rerank"
RESULT = ROOT / "benchmarks" / "results" / "api.json"
SIZES = (1, 50, 1000)
STARTS, REQUESTS = 15, 60
# Documents of a request through the whole stage, and requests: warm ones, and cold ones that each begin with new processes.
STAGE_SIZE, WARM_REQUESTS, COLD_REQUESTS = 50, 60, 7
PASSAGE = "어텐션 마스크는 모델이 채움 토큰을 보지 않게 합니다. " * 6  # some 190 characters, as Korean passages have

# Written nowhere: a process that starts must not help the next one.
_IMPORT = (
    "import sys, time; sys.dont_write_bytecode = True; sys.path[:0] = {paths!r}; import {module}; print(time.process_time())"
)


def main() -> None:
    """Measure, print a table, and write the result."""
    figures: dict[str, Any] = {}
    bare = _cpu("json", [])
    with tempfile.TemporaryDirectory() as folder:
        bundle, authorizer = _copy(Path(folder), "rerank", "protocol", "embedded_metrics"), _copy(Path(folder), "authorizer")
        without = _cpu("handler", [bundle])
        compileall.compile_dir(folder, quiet=1)
        figures["init_cpu_ms"] = round(_cpu("handler", [bundle]) - bare, 1)
        figures["init_without_byte_code_cpu_ms"] = round(without - bare, 1)
        figures["authorizer_init_cpu_ms"] = round(_cpu("handler", [authorizer]) - bare, 1)
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    boto3 = _cpu("boto3", [site], "boto3.client('sagemaker-runtime', region_name='r')")
    figures["boto3_client_init_cpu_ms"] = round(boto3 - bare, 1)
    figures["warm_overhead_ms"] = {str(size): _warm(size) for size in SIZES}
    figures |= _through_the_stage()
    versions = {"python": platform.python_version()}
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    result = {"machine": machine, "date": datetime.now(UTC).date().isoformat(), "versions": versions, "figures": figures}
    RESULT.write_text(json.dumps({**result, "ratios": {}}, indent=2) + "\n")
    for name, value in figures.items():
        for size, milliseconds in value.items() if isinstance(value, dict) else [("", value)]:
            print(f"{f'{name} {size}':<36}{milliseconds:9.2f}")


def _copy(folder: Path, function: str, *library: str) -> Path:
    """Copy a function and its part of the library as the CDK bundles them, without byte code."""
    clean = shutil.ignore_patterns("__pycache__")
    bundle = shutil.copytree(ROOT / "lambda" / function, folder / function, ignore=clean)
    package = ROOT / "app_code" / "ko_reranker"
    for part in library:
        if (package / part).is_dir():
            shutil.copytree(package / part, bundle / "ko_reranker" / part, ignore=clean)
        else:
            shutil.copy(package / f"{part}.py", bundle / "ko_reranker")
        shutil.copy(package / "__init__.py", bundle / "ko_reranker")
    return bundle


def _cpu(module: str, paths: list[Path], more: str = "pass") -> float:
    """Return the median CPU of a process that imports a module, in milliseconds."""
    program = _IMPORT.format(paths=[str(path) for path in paths], module=module).replace("; print", f"; {more}; print")
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
                client._give_back(connection)
        finally:
            sys.stdout = screen
    return round((statistics.median(whole) - statistics.median(inner)) * 1000, 2)


def _through_the_stage() -> dict[str, float]:
    """Return milliseconds of warm and cold requests to a local stage that is deployed for this and taken away again."""
    with tempfile.TemporaryDirectory() as folder, LocalCloud(Path(folder), _free_port(), _free_port()) as cloud:
        stage = deploying.deploy_local_stage(Project.find(ROOT), cloud)
        documents = [f"{place} {PASSAGE}" for place in range(STAGE_SIZE)]
        runtime, endpoint = cloud.client("sagemaker-runtime"), stage.output("EndpointName")
        content = json.dumps({"query": "질문", "documents": documents, "top_n": 10}, ensure_ascii=False)

        def asked_of_the_endpoint() -> None:
            answer = runtime.invoke_endpoint(EndpointName=endpoint, ContentType="application/json", Body=content.encode())
            answer["Body"].read()

        with httpx.Client(base_url=stage.api_url, headers={"x-api-key": stage.api_key}, timeout=60) as client:

            def asked() -> None:
                client.post("/v2/rerank", content=content, headers={"Content-Type": "application/json"}).raise_for_status()

            asked()
            warm = _median(asked, WARM_REQUESTS)
            own = _median(asked_of_the_endpoint, WARM_REQUESTS)
            cold = _median(asked, COLD_REQUESTS, before=lambda: _forget_processes(stage))
    return {"stage_warm_ms": warm, "stage_endpoint_alone_ms": own, "stage_cold_ms": cold}


def _forget_processes(stage: Stage) -> None:
    """Make the next request start the functions anew, as on AWS: a changed configuration has no processes yet."""
    functions = stage.client("lambda")
    resources = stage.client("cloudformation").list_stack_resources(StackName=f"{stage.prefix}-api")
    for item in resources["StackResourceSummaries"]:
        if item["ResourceType"] == "AWS::Lambda::Function":
            name = item["PhysicalResourceId"]
            variables = functions.get_function_configuration(FunctionName=name).get("Environment", {}).get("Variables", {})
            changed = {**variables, "COLD_START": str(time.time_ns())}
            functions.update_function_configuration(FunctionName=name, Environment={"Variables": changed})
            functions.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})


def _median(act: Callable[[], None], times: int, before: Callable[[], None] = lambda: None) -> float:
    taken = []
    for _ in range(times):
        before()
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken) * 1000, 1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


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
