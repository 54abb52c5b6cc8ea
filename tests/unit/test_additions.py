"""What CONTRIBUTING.md says an addition takes is followed for real: a family and a dialect, added to a copy of the library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ko_reranker.models import resolve_model

LIBRARY = Path(__file__).resolve().parents[2] / "app_code" / "ko_reranker"
ADDITIONS = Path(__file__).parent / "additions"


class Copy:
    """A copy of the library whose sources may be changed.

    Attributes:
        changed: the files that were added or changed.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.changed = folder / "ko_reranker", set()
        samples = LIBRARY / "samples"  # large, and left as they are

        def left_out(place: str, names: list[str]) -> list[str]:
            return [name for name in names if name == "__pycache__" or Path(place, name) == samples]

        shutil.copytree(LIBRARY, self.root, ignore=left_out)
        (self.root / "samples").symlink_to(samples, target_is_directory=True)

    def add(self, name: str, where: str) -> None:
        """Add a file of `additions`."""
        shutil.copy(ADDITIONS / name, self.root / where)
        self.changed.add(f"{where}/{name}")

    def change(self, file: str, *replacements: tuple[str, str]) -> None:
        """Put something else for a text that stands in a file once."""
        text = (self.root / file).read_text(encoding="utf-8")
        for old, new in replacements:
            assert text.count(old) == 1, f"{old!r} stands in {file} {text.count(old)} times"
            text = text.replace(old, new)
        (self.root / file).write_text(text, encoding="utf-8")
        self.changed.add(file)

    def run(self, script: str, *arguments: str) -> dict:
        """Return the JSON that a script prints which imports this copy."""
        tests = os.fspath(Path(__file__).parent)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((os.fspath(self.root.parent), tests)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "error::SyntaxWarning", "-c", script, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def library(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


RANKED_AND_SERVED = """
import json, sys
from starlette.testclient import TestClient
from ko_reranker.rankers import load_ranker
from ko_reranker.serving import create_app

ranker = load_ranker(sys.argv[1])
with TestClient(create_app(ranker)) as client:
    answer = client.post("/v2/rerank", json={"query": "서울의 인구", "documents": ["부산", "서울의 인구", "Paris"]})
    ranked = ranker.rank("바다", ["산", "바다"])
print(json.dumps({"kind": ranker.kind, "ranked": ranked, "answer": answer.json()}))
"""


def test_a_family_takes_a_file_and_its_line_in_the_table(library, tmp_path):
    library.add("mean_vectors.py", "rankers")
    line = 'Family("ko_reranker.rankers.mean_vectors:MeanVectors.load", lambda folder: False, ("MeanVectors",))'
    library.change("rankers/loading.py", ("FAMILIES = {\n", f'FAMILIES = {{\n    "mean_vectors": {line},\n'))
    model = shutil.copytree(resolve_model("sample:tiny"), tmp_path / "model")
    (model / "reranker.json").write_text('{"family": "mean_vectors"}', encoding="utf-8")
    said = library.run(RANKED_AND_SERVED, os.fspath(model))
    assert (said["kind"], said["ranked"]) == ("mean vectors", [1, 0])
    best = said["answer"]["results"][0]
    assert (best["index"], best["relevance_score"]) == (1, pytest.approx(0.7310586, abs=1e-5))  # sigmoid of a cosine of 1
    assert len(library.changed) == 2


READ_AND_ANSWERED = """
import json
from starlette.testclient import TestClient
from stub_ranker import StubRanker
from ko_reranker.protocol import openapi
from ko_reranker.serving import create_app

with TestClient(create_app(StubRanker())) as client:
    answers = [client.post("/v2/rerank", json=body) for body in (
        {"ask": "가나", "among": ["다", "가나", "가"]}, {"ask": "가나", "among": 7}, {"ask": " ", "among": ["가"]},
    )]
document = openapi.document(keys=False)
print(json.dumps({
    "answers": [[answer.status_code, answer.json()] for answer in answers],
    "schemas": sorted(document["components"]["schemas"]),
}))
"""


def test_a_dialect_takes_a_file_and_its_line_in_the_table(library):
    library.add("asking.py", "protocol/dialects")
    library.change(
        "protocol/dialects/__init__.py",
        ("from . import bedrock", "from . import asking, bedrock"),
        ("    pairs.DIALECT,\n", "    pairs.DIALECT,\n    asking.DIALECT,\n"),
    )
    said = library.run(READ_AND_ANSWERED)
    (status, best), (refused, why), (blank, why_blank) = said["answers"]
    assert (status, best) == (200, {"best_first": [1, 2, 0]})
    assert refused == 422 and "among" in why["message"]
    assert blank == 422 and "ask" in why_blank["message"]
    assert "Asking" in said["schemas"]
    assert len(library.changed) == 2
