"""Prune the XLM-RoBERTa tokenizer to the pieces that a corpus uses: how `tokenizer.json.gz` beside this file was made.

    python -m ko_reranker.samples.prune_tokenizer FULL OUTPUT CORPUS…

FULL is a `tokenizers` file of XLM-R (for example `tokenizer.json` of BAAI/bge-reranker-v2-m3), plain or gzip. Each CORPUS
is JSON Lines, of which every string value counts as text; the shipped file was made from the published Korean
translations of the sample's documentation pages, TyDi QA (Korean) and KoBEST BoolQ.

A unigram tokenizer segments a text into its most probable pieces. Taking away pieces that this segmentation did not use
cannot make another one win, so the corpus is tokenised exactly as before; other Korean text falls back on smaller
pieces, down to single characters, which are all kept for Korean and ASCII.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

SPECIAL_PIECES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SPACE = "▁"


def main() -> None:
    """Read the arguments, prune, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("full", type=Path, help="tokenizer.json of XLM-RoBERTa, plain or .gz")
    parser.add_argument("output", type=Path, help="where the pruned tokenizer goes, plain or .gz")
    parser.add_argument("corpus", type=Path, nargs="+", help="JSON Lines, plain or .gz, to tokenise as before")
    parser.add_argument("--pieces", type=int, default=32_000, help="the largest vocabulary allowed (default: %(default)s)")
    arguments = parser.parse_args()
    full = json.loads(_read(arguments.full))
    pruned = prune(full, (text for path in arguments.corpus for text in corpus_texts(path)), arguments.pieces)
    raw = json.dumps(pruned, ensure_ascii=False, separators=(",", ":")).encode()
    # A fixed time stamp, so that the same input gives the same bytes.
    arguments.output.write_bytes(gzip.compress(raw, mtime=0) if arguments.output.suffix == ".gz" else raw)
    print(f"{len(full['model']['vocab'])} pieces -> {len(pruned['model']['vocab'])}, {arguments.output}")


def prune(full: dict[str, Any], texts: Iterable[str], limit: int) -> dict[str, Any]:
    """Return the tokenizer with at most ``limit`` pieces: the special ones, single characters, then the most used.

    Args:
        full: the decoded `tokenizer.json`, a unigram model.
        texts: the corpus.
        limit: the largest vocabulary allowed.
    """
    vocabulary: list[list[Any]] = full["model"]["vocab"]  # [piece, log probability]
    usage = _usage(full, texts)
    always = {index for index, (piece, _) in enumerate(vocabulary) if piece in SPECIAL_PIECES or _is_basic(piece)}
    by_usage = [index for index, _ in usage.most_common() if index not in always]
    kept = sorted(always | set(by_usage[: max(0, limit - len(always))]))
    new_ids = {vocabulary[index][0]: position for position, index in enumerate(kept)}
    added = [token | {"id": new_ids[token["content"]]} for token in full["added_tokens"]]
    model = full["model"] | {"vocab": [vocabulary[index] for index in kept]}
    return full | {"added_tokens": added, "model": model}


def corpus_texts(path: Path) -> Iterator[str]:
    """Yield every string value of a JSON Lines file."""
    for line in _read(path).splitlines():
        yield from _strings(json.loads(line))


def _usage(full: dict[str, Any], texts: Iterable[str]) -> Counter[int]:
    tokenizer = Tokenizer.from_str(json.dumps(full))
    usage: Counter[int] = Counter()
    for text in texts:
        usage.update(tokenizer.encode(text, add_special_tokens=False).ids)
    return usage


def _is_basic(piece: str) -> bool:
    letter = piece.removeprefix(SPACE)
    return len(letter) <= 1 and (not letter or letter.isascii() or "가" <= letter <= "힣")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _read(path: Path) -> str:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()


if __name__ == "__main__":
    main()
