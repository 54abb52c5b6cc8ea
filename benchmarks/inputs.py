"""What the benchmarks of the engine and of the server read: requests, load and model directories, the same for everyone."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).parent / "data"
REQUESTS, LOAD, TOKENIZER = DATA / "requests.json.gz", DATA / "load.json", DATA / "tokenizer.json.gz"
MOST_DOCUMENTS = 100  # of a request, as BM25 ranks them; the engine's benchmark takes the first 50
MAX_TOKENS = 512
CALIBRATION = 16  # requests


@dataclass(frozen=True)
class Request:
    """A query and the passages that BM25 over Korean morphemes ranks best for it, best first."""

    query: str
    documents: tuple[str, ...]

    def first(self, count: int) -> Request:
        """Return the request with its best passages only."""
        return Request(self.query, self.documents[:count])

    def every_second(self) -> Request:
        """Return the request with half of its passages, good and bad ones."""
        return Request(self.query, self.documents[::2])


@cache
def requests() -> tuple[Request, ...]:
    """Return the 64 requests of 100 passages each."""
    content = json.loads(gzip.decompress(REQUESTS.read_bytes()))
    passages = content["passages"]
    return tuple(Request(row["query"], tuple(passages[place] for place in row["documents"])) for row in content["requests"])


@cache
def load() -> tuple[int, ...]:
    """Return the documents per request of the concurrent load, in the order in which clients take them."""
    return tuple(json.loads(LOAD.read_text(encoding="utf-8")))


def measured(seed: int) -> list[Request]:
    """Return the requests that are measured, in an order that the seed decides."""
    order = list(requests()[:-CALIBRATION])
    random.Random(seed).shuffle(order)  # noqa: S311
    return order


def calibration() -> tuple[Request, ...]:
    """Return the requests set aside for a quantiser that wants to see inputs first."""
    return requests()[-CALIBRATION:]
