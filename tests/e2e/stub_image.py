"""A container image that keeps the image's contract and does no work: train, mine, evaluate and serve in no time.

The permission tests run the whole stack dozens of times, and what a model learns is no matter there: a "model" is a number, a
score a digest of that number and the texts. What the real commands read and write they read and write too, S3 included, so that
every right of the jobs' roles is needed as it is by them. Run as a program by the local cloud.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

BASE = Path(os.environ["SAGEMAKER_BASE_DIR"])
MODEL_FILE = "model.json"


def score(model: dict, query: str, document: str) -> float:
    """A score from 0 to 1 that only this model gives this pair."""
    digest = hashlib.sha256(f"{model['seed']}\n{query}\n{document}".encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train() -> None:
    """Write a model and a checkpoint, on the first host only."""
    resources = json.loads((BASE / "input/config/resourceconfig.json").read_text())
    records = read_lines(BASE / "input/data/dataset/train.jsonl")
    if resources["current_host"] != resources["hosts"][0]:
        return
    print(f"step=1/1 epoch=1.00 loss=0.1000 learning_rate=1.0e-04 queries_per_second={len(records)} eta_seconds=0", flush=True)
    model = {"seed": hashlib.sha256(os.urandom(16)).hexdigest()[:8]}
    for folder in ("checkpoints", "model"):
        (BASE / folder).mkdir(exist_ok=True)
        (BASE / folder / MODEL_FILE).write_text(json.dumps(model))


def mine() -> None:
    """Hand the dataset on as it is."""
    output = BASE / "processing/output"
    for split in ("train", "dev"):
        shutil.copy(BASE / f"processing/input/dataset/{split}.jsonl", output / f"{split}.jsonl")
    (output / "mining.json").write_text("{}")


def evaluate(arguments: list[str]) -> None:
    """Find the candidate better than its base, with golden queries that the candidate's endpoint will answer alike."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    candidate = fetch(options["--candidate"])
    if options["--deployed"].startswith("s3://"):
        fetch(options["--deployed"])
    record = read_lines(BASE / "processing/input/dataset/dev.jsonl")[0]
    query, documents = record["query"], [*record["pos"], *record["neg"]]
    scores = [score(candidate, query, document) for document in documents]
    golden = {"query": query, "documents": documents, "positive": 0, "scores": scores, "base_scores": scores}
    rows = {name: {"mrr": mrr} for name, mrr in (("none", 0.3), ("base", 0.4), ("candidate", 0.5))}
    differences = {f"candidate-{name}": {"mrr": {"mean": 0.1, "low": 0.1, "high": 0.1}} for name in ("none", "base")}
    output = BASE / "processing/output"
    (output / "metrics.json").write_text(json.dumps({"queries": 100, "rows": rows, "differences": differences}))
    (output / "golden.json").write_text(json.dumps({"queries": [golden]}, ensure_ascii=False))
    (output / "report.html").write_text("<p>stub</p>")


def fetch(uri: str) -> dict:
    """The model under an S3 prefix, listed and read as the job's role may."""
    import boto3

    place, s3 = urlsplit(uri), boto3.client("s3")
    try:
        listed = s3.list_objects_v2(Bucket=place.netloc, Prefix=place.path.lstrip("/"))["Contents"]
        key = next(item["Key"] for item in listed if item["Key"].endswith(f"/{MODEL_FILE}"))
        return json.loads(s3.get_object(Bucket=place.netloc, Key=key)["Body"].read())
    except Exception as error:
        (BASE / "output").mkdir(exist_ok=True)
        (BASE / "output/message").write_text(f"{uri} cannot be read: {error}")
        sys.exit(1)


class Handler(BaseHTTPRequestHandler):
    """``/ping`` and ``/invocations``: the native body, and those that the rerank Lambda sends."""

    model: dict = {}

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body.get("format") == "facts":
            self._answer({"model": "stub", "max_length": 512})
            return
        scores = [score(self.model, body["query"], document) for document in body["documents"]]
        if body.get("format") == "logits":
            logits = [math.log(max(value, 1e-9) / max(1 - value, 1e-9)) for value in scores]
            counts = {"tokens": [1] * len(scores), "truncated": [False] * len(scores), "max_length": 512}
            self._answer({"logits": logits, **counts, "model": "stub", "query_truncated": False})
            return
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.get("top_n")]
        self._answer({"results": [{"index": index, "relevance_score": scores[index]} for index in order]})

    def _answer(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def serve() -> None:
    Handler.model = json.loads((BASE / "model" / MODEL_FILE).read_text())
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.serve_forever()


if __name__ == "__main__":
    command = sys.argv[1]
    if command == "evaluate":
        evaluate(sys.argv[2:])
    else:
        {"train": train, "mine": mine, "serve": serve}[command]()
