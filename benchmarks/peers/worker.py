"""One scorer in a process: reads a call a line from standard input, answers a line on standard output.

    python -m benchmarks.peers.worker --cores 1

Runs in a peer's environment, without ko_reranker's. A call is ``{"call": name, "arguments": {…}}``; the first is ``load`` with
the scorer's name. An answer is ``{"value", "cpu", "wall"}``, seconds of this process with all its threads, or ``{"error"}``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

# Scorer: its module, its class.
SCORERS = {
    "ko-reranker": ("benchmarks.peers.ours", "KoReranker"),
    "transformers": ("benchmarks.peers.pytorch", "Transformers"),
    "pipeline": ("benchmarks.peers.pytorch", "Pipeline"),
    "flagembedding": ("benchmarks.peers.pytorch", "FlagEmbedding"),
    "sentence-transformers": ("benchmarks.peers.pytorch", "SentenceTransformers"),
    "ko-reranker late interaction": ("benchmarks.peers.late_interaction", "KoReranker"),
    "sentence-transformers late interaction": ("benchmarks.peers.late_interaction", "SentenceTransformers"),
    "ko-reranker generative": ("benchmarks.peers.generative", "KoReranker"),
    "sentence-transformers generative": ("benchmarks.peers.generative", "SentenceTransformers"),
    "transformers generative": ("benchmarks.peers.generative", "Transformers"),
    "infinity": ("benchmarks.peers.pytorch", "Infinity"),
    "onnxruntime": ("benchmarks.peers.runtimes", "OnnxRuntime"),
    "openvino": ("benchmarks.peers.runtimes", "OpenVino"),
}


def main() -> None:
    """Answer until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=int, required=True, help="the first so many cores this process may use; 0 for all")
    cores = parser.parse_args().cores
    if cores:
        # Before any library counts the cores it may use.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    scorer: Any = None
    for line in sys.stdin:
        call = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            if call["call"] == "load":
                module, name = SCORERS[call["arguments"].pop("scorer")]
                scorer = getattr(importlib.import_module(module), name)(**call["arguments"])
                value = scorer.versions()
            else:
                value = getattr(scorer, call["call"])(**call["arguments"])
            answer = {"value": value, "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
