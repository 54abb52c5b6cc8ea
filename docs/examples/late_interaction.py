"""Token vectors and MaxSim of pairs: what open-retrievals' page does with `ColBERT`, by our names.

pip install .    # in a clone of the repository
KO_RERANKER_ALLOW_BIN=1 python docs/examples/late_interaction.py BAAI/bge-m3    # its weights are a pickle

open-retrievals                                here
ColBERT.from_pretrained(model)                 load_ranker(model): a missing projection is an error, not a random one
.encode(texts, normalize_embeddings=True)      .encode_documents(texts), .encode_query(text): no padding, one array a text
.compute_score(pairs)                          .score_detailed(query, documents).raw; .score(...) for calibrated logits
"""

import sys

import numpy as np

from ko_reranker.rankers import load_ranker
from ko_reranker.rankers.late_interaction import LateInteraction

PAIRS = [
    (
        "In 1974, I won the championship in Southeast Asia in my first kickboxing match",
        "In 1982, I defeated the heavy hitter Ryu Long.",
    ),
    ("In 1974, I won the championship in Southeast Asia in my first kickboxing match", "A man is playing a guitar."),
]


def encode(ranker: LateInteraction, texts: list[str]) -> list[np.ndarray]:
    """Return a vector of length 1 for each token that counts: a list of (tokens, channels)."""
    return ranker.encode_documents(texts)


def compute_score(ranker: LateInteraction, pairs: list[tuple[str, str]]) -> list[float]:
    """Return each pair's MaxSim, on the scale of the model's layout: bge-m3's is a mean, from -1 to 1."""
    return [float(ranker.score_detailed(query, [document]).raw[0]) for query, document in pairs]


if __name__ == "__main__":
    ranker = load_ranker(sys.argv[1])
    if not isinstance(ranker, LateInteraction):
        sys.exit(f"{sys.argv[1]} is no late-interaction model")
    print("Embedding shapes:", [vectors.shape for vectors in encode(ranker, list(PAIRS[0]))])
    print(f"{ranker.raw_scale}:", compute_score(ranker, PAIRS))
    ranker.close()
