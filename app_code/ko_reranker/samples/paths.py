"""Where the shipped sample files lie."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SAMPLE = FOLDER / "sample.en.jsonl.gz"  # 600 training records in English
PHRASEBOOK = FOLDER / "phrasebook.jsonl.gz"  # {"en", "ko"}: the published Korean of every text in SAMPLE
TOKENIZER = FOLDER / "tokenizer.json.gz"  # XLM-R's tokenizer, pruned by prune_tokenizer.py
