"""Give every training record its negatives.

For now random ones out of the dataset's own passages: top up what a record has. Reads train.jsonl and dev.jsonl, writes
them again with negatives, and `mining.json` with the counts.
"""

from __future__ import annotations

import json
from pathlib import Path

from ko_reranker.container import JobError, ProcessingFolders
from ko_reranker.data.jsonl import read_record_file, write_jsonl
from ko_reranker.data.negatives import fill_negatives
from ko_reranker.data.records import TrainingRecord

SPLITS = ("train", "dev")


def mine(folders: ProcessingFolders, *, negatives: int, seed: int) -> dict:
    """Top every record up to ``negatives`` negatives and return the counts, also written to `mining.json`.

    Args:
        folders: where the job finds its input and leaves its output.
        negatives: how many a record has in the end, unless the passages run out; more stay as they are.
        seed: of the draw.
    """
    folders.output.mkdir(parents=True, exist_ok=True)
    report: dict = {"method": "random", "negatives": negatives, "seed": seed}
    for split in SPLITS:
        path = folders.dataset / f"{split}.jsonl"
        if not path.is_file():
            if split == "train":
                raise JobError(f"There is no train.jsonl in {folders.dataset}.")
            continue
        records = read_dataset(path)
        # Each split draws from its own passages: a dev passage in training would be seen before its question is asked.
        passages = sorted({passage for record in records for passage in (*record.positives, *record.negatives)})
        mined = [fill_negatives(record, passages, negatives, seed) for record in records]
        write_jsonl(folders.output / path.name, (record.to_json() for record in mined))
        report[split] = {
            "records": len(records),
            "passages": len(passages),
            "records_without_negatives_before": sum(not record.negatives for record in records),
            "negatives_before": sum(len(record.negatives) for record in records),
            "negatives_after": sum(len(record.negatives) for record in mined),
        }
    write_json(folders.output / "mining.json", report)
    return report


def read_dataset(path: Path) -> list[TrainingRecord]:
    """Return the records of a joined dataset.

    Raises:
        JobError: the file is missing, empty, or holds a record that breaks the contract.
    """
    try:
        records = list(read_record_file(path))
    except FileNotFoundError:
        raise JobError(f"There is no {path.name} in {path.parent}.") from None
    except ValueError as error:
        raise JobError(f"{error}.") from None
    if not records:
        raise JobError(f"{path} holds no record.")
    return records


def write_json(path: Path, value: object) -> None:
    """Write an object as indented JSON, Korean unescaped."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
