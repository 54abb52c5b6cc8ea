"""The lines of code that the documentation gives for a trained model run as they stand, on the model that was trained here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from deployed_stage import PROJECT, Deployed
from test_whole_run import released_run, wait_in_service

from ko_reranker.processor import paying_bf16

PAGES = ("docs/using.md", "README.md", "README.ko.md")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(word: str) -> list[str]:
    """The distinct Python blocks of the documentation that use something."""
    found = [block for page in PAGES for block in _BLOCK.findall((PROJECT / page).read_text(encoding="utf-8"))]
    return list(dict.fromkeys(block for block in found if word in block))


def run(block: str, printing: str, folder: Path, environment: dict[str, str] | None = None) -> dict:
    """Run a block as a program of its own and return what an expression gives in it."""
    program = f"{block}\nimport json as _json\nprint(_json.dumps({printing}))\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def logits_of_the_endpoint(deployed: Deployed, query: str, documents: list[str]) -> list[float]:
    answer = deployed.stage.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=deployed.stage.output("EndpointName"),
        ContentType="application/json",
        Body=json.dumps({"query": query, "documents": documents, "raw_scores": True}).encode(),
    )
    results = sorted(json.loads(answer["Body"].read())["results"], key=lambda item: item["index"])
    return [item["relevance_score"] for item in results]


def test_the_documentation_has_the_lines() -> None:
    assert blocks("AutoModelForSequenceClassification")
    assert blocks("invoke_endpoint")


def test_with_transformers_the_trained_model_gives_the_endpoints_logits(deployed: Deployed, tmp_path: Path) -> None:
    wait_in_service(deployed)
    place = urlsplit(released_run(deployed)["training"]["model_data"])
    s3 = deployed.stage.client("s3")
    (tmp_path / "model").mkdir()
    for item in s3.list_objects_v2(Bucket=place.netloc, Prefix=place.path.lstrip("/"))["Contents"]:
        s3.download_file(place.netloc, item["Key"], str(tmp_path / "model" / item["Key"].rsplit("/", 1)[-1]))
    for block in blocks("AutoModelForSequenceClassification"):
        found = run(
            block,
            "{'pairs': pairs, 'logits': logits.tolist(), 'shares': exp_normalize(logits).tolist()}",
            tmp_path,
        )
        query, documents = found["pairs"][0][0], [document for _, document in found["pairs"]]
        # The endpoint computes in what suits the processor, Transformers in fp32.
        close = 0.3 if paying_bf16() else 1e-4
        assert found["logits"] == pytest.approx(logits_of_the_endpoint(deployed, query, documents), abs=close)
        assert sum(found["shares"]) == pytest.approx(1)
        assert sorted(range(len(documents)), key=found["shares"].__getitem__) == sorted(
            range(len(documents)), key=found["logits"].__getitem__
        )


def test_with_invoke_endpoint_pairs_get_scores_in_their_order(deployed: Deployed, tmp_path: Path) -> None:
    wait_in_service(deployed)
    for block in blocks("invoke_endpoint"):
        here = block.replace('"ko-reranker-prod"', json.dumps(deployed.stage.output("EndpointName")))
        assert here != block
        found = run(
            here,
            "{'query': query, 'documents': documents, 'scores': scores}",
            tmp_path,
            deployed.cloud.process_environment(),
        )
        expected = logits_of_the_endpoint(deployed, found["query"], found["documents"])
        assert len(set(expected)) == len(expected) > 1
        assert [score > 0.5 for score in found["scores"]] == [logit > 0 for logit in expected]
        assert sorted(range(len(expected)), key=found["scores"].__getitem__) == sorted(
            range(len(expected)), key=expected.__getitem__
        )
