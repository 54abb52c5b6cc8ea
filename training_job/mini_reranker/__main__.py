"""Make the mini reranker.

    python -m training_job.mini_reranker --data FOLDER --english FOLDER --work FOLDER

Every stage is made once; a build that was stopped goes on where it was. docs/mini_reranker.md names the data and the figures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ko_reranker.container import JobError
from training_job.mini_reranker.corpus import Corpus
from training_job.mini_reranker.stages import STAGES, Build


def main() -> int:
    """Read the arguments and build."""
    parser = argparse.ArgumentParser(prog="python -m training_job.mini_reranker", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the data folder that docs/mini_reranker.md describes")
    parser.add_argument("--english", type=Path, required=True, help="all-MiniLM-L6-v2: config, weights, tokenizer.json")
    parser.add_argument("--work", type=Path, required=True, help="where the stages leave their results")
    parser.add_argument("--until", choices=list(STAGES), help="the last stage to make (default: all)")
    arguments = parser.parse_args()
    for folder in (arguments.data, arguments.english):
        if not folder.is_dir():
            parser.error(f"there is no folder {folder}")
    try:
        Build(Corpus(arguments.data), arguments.english, arguments.work).run(arguments.until)
    except FileNotFoundError as error:
        print(f"{error.filename} is missing: docs/mini_reranker.md says where it comes from.", file=sys.stderr)
        return 1
    except JobError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
