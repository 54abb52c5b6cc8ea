"""Make the inputs that the benchmarks share, once; what it wrote is committed under ``benchmarks/data``.

    python -m benchmarks.make_inputs --records train.jsonl --tokenizer tokenizer.json

``--records`` is a file of training records (`{"query", "pos", …}`): those of TyDi QA's Korean questions. ``--tokenizer`` is
XLM-RoBERTa's `tokenizer.json`. Both are read, nothing is fetched, and the same files give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path

from benchmarks.inputs import DATA, LOAD, MOST_DOCUMENTS, REQUESTS, TOKENIZER
from ko_reranker.evaluation.bm25 import Bm25

SEED = 0
QUERIES = 64
LOAD_REQUESTS = 4_096


def main() -> None:
    """Write the requests, the load and the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True, help="training records whose passages are the corpus")
    parser.add_argument("--tokenizer", type=Path, required=True, help="XLM-RoBERTa's tokenizer.json")
    arguments = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    _write(REQUESTS, json.dumps(_requests(arguments.records), ensure_ascii=False))
    LOAD.write_text(json.dumps(_load()) + "\n", encoding="utf-8")
    _write(TOKENIZER, arguments.tokenizer.read_text(encoding="utf-8"))


def _requests(records: Path) -> dict:
    """Return queries with the places of their best passages among the passages used, best first."""
    with records.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    corpus = list(dict.fromkeys(passage for row in rows for passage in row["pos"]))
    queries = sorted({row["query"] for row in rows})
    random.Random(SEED).shuffle(queries)  # noqa: S311
    found = zip(queries, Bm25(corpus, terms="morphemes").best(queries, MOST_DOCUMENTS), strict=True)
    chosen = [(query, places.tolist()) for query, places in found if len(places) == MOST_DOCUMENTS][:QUERIES]
    used = sorted({place for _, places in chosen for place in places})
    new = {place: index for index, place in enumerate(used)}
    requests = [{"query": query, "documents": [new[place] for place in places]} for query, places in chosen]
    return {"passages": [corpus[place] for place in used], "requests": requests}


def _load() -> list[int]:
    """Return documents per request: from 1 to the most, spread evenly over orders of magnitude, as requests are."""
    draw = random.Random(SEED)  # noqa: S311
    return [min(MOST_DOCUMENTS, int((MOST_DOCUMENTS + 1) ** draw.random())) for _ in range(LOAD_REQUESTS)]


def _write(path: Path, text: str) -> None:
    # No name and no time in the header: the same text gives the same file.
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
