"""A container image for tests of the local cloud: the commands `train`, `serve` and `copy`, which do next to nothing.

Run as a program by the local cloud, with only the standard library, boto3 apart.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BASE = Path(os.environ["SAGEMAKER_BASE_DIR"])


def fail(sentence: str, file: str = "failure") -> None:
    (BASE / "output").mkdir(exist_ok=True)
    (BASE / "output" / file).write_text(sentence)
    sys.exit(1)


def train() -> None:
    """Report what the job was given; behave as the hyperparameters say."""
    config = BASE / "input/config"
    parameters = json.loads((config / "hyperparameters.json").read_text())
    resources = json.loads((config / "resourceconfig.json").read_text())
    seen = sorted(p.name for p in (BASE / "input/data/dataset").iterdir())
    checkpoints = BASE / "checkpoints"
    resumed = sorted(p.name for p in checkpoints.iterdir())
    (checkpoints / f"step-{len(resumed)}").write_text("state")
    if not resumed:
        time.sleep(float(parameters.get("first_step_seconds", 0)))
    for step in range(3):
        print(f"step={step + 1}/3 loss={1 / (step + 1):.4f}", flush=True)
        time.sleep(float(parameters.get("step_seconds", 0)))
    if "child" in parameters:  # as torchrun does: a worker in a session of its own
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        Path(parameters["child"]).write_text(str(worker.pid))
        time.sleep(600)
    if "try_to_read" in parameters:
        import boto3

        bucket, _, key = parameters["try_to_read"].partition("/")
        try:
            boto3.client("s3").get_object(Bucket=bucket, Key=key)
        except Exception as error:
            fail(f"could not read: {type(error).__name__} {error}")
    if parameters.get("fail"):
        fail(parameters["fail"])
    report = {
        "hosts": resources["hosts"],
        "seen": seen,
        "resumed": resumed,
        "master": [os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]],
        "reply": parameters.get("reply", "hello"),
    }
    if resources["current_host"] == resources["hosts"][0]:
        (BASE / "model/sub").mkdir(parents=True)
        (BASE / "model/model.json").write_text(json.dumps(report))
        (BASE / "model/sub/more.txt").write_text("more")


def copy() -> None:
    """A processing job: every input file, in capitals, to the output folder its first argument names."""
    source, target = BASE / "processing/input", Path(sys.argv[2])
    config = json.loads((BASE / "config/processingjobconfig.json").read_text())
    if os.environ.get("FAIL"):
        fail(os.environ["FAIL"], "message")
    print("copying for", config["ProcessingJobName"], flush=True)
    for path in source.iterdir():
        (target / path.name).write_text(path.read_text().upper())


class Handler(BaseHTTPRequestHandler):
    model: dict = {}

    def do_GET(self) -> None:
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if body == b"fail":
            self._answer(422, b"bad input")
        elif body == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            self._answer(200, json.dumps({"reply": self.model["reply"], "body": body.decode()}).encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def serve() -> None:
    """Serve the reply of the trained model; a model whose reply is `broken` never comes up."""
    Handler.model = json.loads((BASE / "model/model.json").read_text())
    print("loaded", Handler.model["reply"], flush=True)
    if Handler.model["reply"] == "broken":
        sys.exit("this model cannot be loaded")
    port = int(os.environ["SAGEMAKER_BIND_TO_PORT"])
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.serve_forever()


if __name__ == "__main__":
    {"train": train, "serve": serve, "copy": copy}[sys.argv[1]]()
