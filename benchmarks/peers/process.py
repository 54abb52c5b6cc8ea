"""A scorer in a process of its own, in its own environment; see `worker`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = {"ours": ".venv", "transformers": ".venv-peers-transformers", "infinity": ".venv-peers-infinity"}


class PeerError(Exception):
    """A scorer failed; the message says how."""


@dataclass(frozen=True)
class Answer:
    """What a call gave.

    Attributes:
        value: the result.
        cpu: seconds of processor time, all threads together.
        wall: seconds that passed.
    """

    value: Any
    cpu: float
    wall: float


def python(environment: str) -> str:
    """Return the interpreter of an environment.

    Raises:
        PeerError: the environment is not there.
    """
    path = ROOT / ENVIRONMENTS[environment] / "bin" / "python"
    if not path.exists():
        raise PeerError(f"{path.parents[1].name} is not there: make bench-engine and make bench-serving create it.")
    return str(path)


class ScorerProcess:
    """Starts a scorer and calls it.

    Args:
        environment: one of `ENVIRONMENTS`.
        cores: how many cores it may use; 0 for all.
        scorer: its name in `worker.SCORERS`.
        arguments: of its constructor, beside ``threads``.
    """

    def __init__(self, environment: str, cores: int, scorer: str, **arguments: Any) -> None:
        self.name = scorer
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        command = [python(environment), "-m", "benchmarks.peers.worker", "--cores", str(cores)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=quiet_environment(cores),
        )
        try:
            self.versions: dict[str, str] = self.call("load", scorer=scorer, threads=cores, **arguments).value
        except BaseException:
            self.close()
            raise

    def call(self, name: str, **arguments: Any) -> Answer:
        """Call a method of the scorer.

        Raises:
            PeerError: it raised, or its process ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        try:
            stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"{self.name} ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.name} failed in {name}: {answer['error']}")
        return Answer(**answer)

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> ScorerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-1000:].strip() or "it said nothing"


def quiet_environment(cores: int) -> dict[str, str]:
    """Return the environment of a scorer: as many threads as cores, no network, no usage statistics, no progress bars.

    With 0 cores it decides itself how many threads it has.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(cores)) if cores else {}
    offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "TQDM_DISABLE": "1"}
    parallel = "false" if cores == 1 else "true"
    return {**os.environ, **threads, **offline, "TOKENIZERS_PARALLELISM": parallel, "PYTHONWARNINGS": "ignore"}
