"""The pipeline's evaluation: the model just trained beside its base, the live one and no reranker, on the dev split."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

from ko_reranker.container import JobError, ProcessingFolders
from ko_reranker.data.jsonl import write_json
from ko_reranker.evaluation.comparison import BASE, CANDIDATE, DEPLOYED, golden_queries
from ko_reranker.evaluation.evaluate import EvaluationError, EvaluationSettings, evaluate, write_report
from ko_reranker.evaluation.questions import TestSetError, read_test_set


def job_models(candidate: str, base: str, deployed: str | None) -> dict[str, str]:
    """Return the rows of the pipeline's evaluation: what the gate knows by name."""
    models = {BASE: base, DEPLOYED: deployed, CANDIDATE: candidate}
    return {name: address for name, address in models.items() if address}


def evaluate_job(folders: ProcessingFolders, settings: EvaluationSettings) -> dict[str, Any]:
    """Rank the dev split with every row and write what the gate, a release and a person need.

    metrics.json holds figures only, golden.json what a deployment must reproduce, report.json and report.html all of it with
    the worst queries' texts.

    Raises:
        JobError: the dev split or a model can't be used.
    """
    try:
        settings = replace(settings, may_be_headless=BASE)
        report, rows, sets = evaluate(read_test_set([folders.dataset / "dev.jsonl"], folders.language), settings)
    except TestSetError as error:
        raise JobError(f"The dev split can't be used: {error}.") from None
    except EvaluationError as error:
        raise JobError(str(error)) from error
    write_report(folders.output, report)
    write_json(folders.output / "metrics.json", {key: value for key, value in report.items() if key != "worst_queries"})
    write_json(folders.output / "golden.json", golden_queries(rows, sets))
    # The model's registry entry points to it long after the run's own files have expired.
    manifest = folders.dataset / "manifest.json"
    if manifest.is_file():
        shutil.copyfile(manifest, folders.output / manifest.name)
    return report
