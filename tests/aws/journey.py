"""A stage's whole life, step by step: the same steps for an AWS account and for the local cloud, each timed and reported."""

from __future__ import annotations

import gzip
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ko_reranker import __version__
from ko_reranker.operations import asking, destroying, executions, packages
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage
from ko_reranker.samples import paths

# Small, on CPUs, and without mercy from the gate: what is asked is whether every service does its part.
SETTINGS = {
    "training.recipe": "mini",
    "training.base_model": "sample:mini",
    "training.instance_type": "ml.m5.xlarge",
    "training.max_hours": "1",
    "evaluation.instance_type": "ml.m5.xlarge",
    "evaluation.max_hours": "1",
    "evaluation.candidates_per_query": "10",
    "evaluation.min_queries": "1",
    # Something must be asked for: the mean of differences that reach from -1 to 1 is above -1.
    "evaluation.must_beat.none.demand": "above",
    "evaluation.must_beat.none.margin": "-1",
    "evaluation.must_beat.base.demand": "nothing",
    "evaluation.must_beat.deployed.demand": "nothing",
    "translation.dev_fraction": "0.25",
    "translation.max_rejected_fraction": "0.1",
    "translation.max_translation_usd": "5",
    "serving.instance_type": "ml.m5.xlarge",
    "serving.min_instances": "1",
    "serving.max_instances": "1",
    "serving.canary": "false",
}
RECORDS = 60
INPUT = {"dataset": "sample", "approval": "manual", "hyperparameters": {"epochs": "1"}}
_QUESTION, _DOCUMENTS = "환불은 며칠 걸리나요?", ["배송은 2일 걸립니다.", "환불은 영업일 기준 3일 안에 처리됩니다."]
_RELEASE_SECONDS = 3600


@dataclass
class Done:
    """A step that was taken: how long it took, and what it found or how it failed."""

    step: str
    seconds: float
    ok: bool
    found: str


@dataclass
class Report:
    """What a journey writes down, after every step, as Markdown and JSON; it has no account number and no key.

    Attributes:
        where: ``aws`` or ``local``.
        folder: where the files go.
    """

    where: str
    region: str
    folder: Path
    steps: list[Done] = field(default_factory=list)

    def add(self, done: Done) -> None:
        self.steps.append(done)
        self.write()

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "where": self.where,
            "region": self.region,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": __version__,
            "python": platform.python_version(),
            "ok": all(step.ok for step in self.steps),
        }
        steps = [asdict(step) for step in self.steps]
        (self.folder / "report.json").write_text(json.dumps({**facts, "steps": steps}, ensure_ascii=False, indent=1) + "\n")
        rows = [f"| {'✓' if s.ok else '✗'} {s.step} | {s.seconds:.0f} s | {s.found.replace('|', '/')} |" for s in self.steps]
        head = "\n".join(f"- {key}: {value}" for key, value in facts.items())
        table = "\n".join(["| step | time | found |", "|---|---|---|", *rows])
        (self.folder / "report.md").write_text(f"# ko-reranker: a stage's life\n\n{head}\n\n{table}\n")


class Journey:
    """The steps.

    Args:
        stage: how to reach the stage, asked anew after every deploy.
        cdk: runs a command of the CDK, with settings that lie over the stage's own.
        bootstrap: runs `cdk bootstrap`.
        say: is told of every step as it begins.
    """

    def __init__(
        self,
        report: Report,
        stage: Callable[[], Stage],
        *,
        deploy: Callable[[Mapping[str, str]], None],
        bootstrap: Callable[[], None],
        say: Callable[[str], None] = print,
    ) -> None:
        self.report = report
        self._connect, self._deploy_with, self._bootstrap, self._say = stage, deploy, bootstrap, say
        self._first = self._second = ""

    def run(self) -> bool:
        """Take every step; after one that failed only what takes the stage away again. Return whether all went well."""
        whole = (
            ("cdk bootstrap", self._boot),
            ("cdk deploy, without an endpoint", lambda: self._deploy(serving="false")),
            ("register and approve the first model", self._choose),
            ("cdk deploy, with the endpoint", lambda: self._deploy(serving="true")),
            ("retrain, to a package that waits for approval", self._retrain),
            ("approve it: the second release", self._approve),
            ("ask the API over HTTPS", self._ask),
            ("roll back to the first model", self._roll_back),
        )
        try:
            for name, take in whole:
                if not self._take(name, take):
                    break
        finally:
            # Whatever happened, Ctrl-C included: nothing goes on costing.
            self._take("destroy the stage", self._destroy)
            self._take("look for what is left", self._left_over)
        return all(step.ok for step in self.report.steps)

    def _take(self, name: str, take: Callable[[], str]) -> bool:
        self._say(f"… {name}")
        began = time.monotonic()
        try:
            found, ok = take(), True
        except KeyboardInterrupt:
            self.report.add(Done(name, time.monotonic() - began, False, "interrupted"))
            raise
        except Exception as error:  # the report is for whoever reads it, whatever it was
            found, ok = _short(" ".join(f"{type(error).__name__}: {error}".split())), False
        self.report.add(Done(name, round(time.monotonic() - began, 1), ok, found))
        self._say(f"{'✓' if ok else '✗'} {name}: {found}")
        return ok

    def _boot(self) -> str:
        self._bootstrap()
        return "done"

    def _deploy(self, serving: str) -> str:
        self._deploy_with({**SETTINGS, "serving.enabled": serving})
        return f"serving.enabled={serving}"

    def _choose(self) -> str:
        stage = self._connect()
        self._first = packages.register(stage, "sample:mini", approve=True)
        return self._released(stage, self._first)

    def _retrain(self) -> str:
        stage = self._connect()
        with gzip.open(paths.SAMPLE, "rb") as lines:
            body = b"".join(line for line, _ in zip(lines, range(RECORDS), strict=False))
        stage.client("s3").put_object(Bucket=stage.output("DataBucket"), Key="raw/sample/records.jsonl", Body=body)
        execution = executions.start(stage, "RetrainStateMachine", INPUT)
        for _ in executions.follow(stage, execution, poll_seconds=_poll(stage)):
            pass
        outcome = executions.outcome(stage, execution)
        if not outcome.succeeded:
            raise OperationError(f"{outcome.status}: {outcome.cause}")
        self._second = outcome.output["package"]["arn"]
        return str(outcome.output.get("gate", {}).get("message", "a package waits"))[:200]

    def _approve(self) -> str:
        stage = self._connect()
        packages.approve(stage, self._second)
        return self._released(stage, self._second)

    def _ask(self) -> str:
        stage = self._connect()
        ranked = asking.rerank(stage.api_url, stage.api_key, _QUESTION, _DOCUMENTS)
        return f"{len(ranked)} results, the best one is document {ranked[0]['index']}"

    def _roll_back(self) -> str:
        stage = self._connect()
        package, execution = packages.rollback(stage, self._first)
        for _ in executions.follow(stage, execution, poll_seconds=_poll(stage)):
            pass
        outcome = executions.outcome(stage, execution)
        if not outcome.succeeded:
            raise OperationError(f"{outcome.status}: {outcome.cause}")
        return f"version {package.rpartition('/')[2]} is live again"

    def _destroy(self) -> str:
        destroying.destroy(destroying.plan(self._connect()))
        return "done"

    def _left_over(self) -> str:
        left = list(destroying.left_over(self._connect()))
        if left:
            raise OperationError(f"still there: {', '.join(left)}")
        return "nothing (CDKToolkit, shared log groups and the records of jobs stay in any account)"

    def _released(self, stage: Stage, package: str) -> str:
        deadline = time.monotonic() + _RELEASE_SECONDS
        while (live := stage.live_model()) is None or live[0] != package:
            for item in executions.latest(stage, "DeployStateMachine", 1):
                if item["status"] not in ("RUNNING", "SUCCEEDED"):
                    raise OperationError(executions.outcome(stage, item["executionArn"]).cause)
            if time.monotonic() > deadline:
                raise OperationError(f"not live after {_RELEASE_SECONDS / 60:.0f} minutes")
            time.sleep(_poll(stage))
        return f"version {package.rpartition('/')[2]} is live"


def _short(text: str) -> str:
    """Leave out the middle of a long text: a command's output begins with what it is and ends with what went wrong."""
    return text if len(text) <= 800 else f"{text[:200]} … {text[-600:]}"


def _poll(stage: Stage) -> float:
    return 0.5 if stage.name == "local" else 10.0


def cdk(root: Path, *arguments: str, settings: Mapping[str, Any] | None = None) -> None:
    """Run a command of the CDK against the account of the environment's credentials.

    Raises:
        OperationError: with the end of its output.
    """
    given = [part for key, value in (settings or {}).items() for part in ("--context", f"{key}={value}")]
    command = [str(root / "node_modules" / ".bin" / "cdk"), *arguments, *given]
    done = subprocess.run(command, cwd=root, env={**os.environ, "CI": "true"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OperationError("\n".join((done.stdout + done.stderr).strip().splitlines()[-15:]))
