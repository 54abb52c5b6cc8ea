"""Closed-loop clients against `ko-reranker serve` and Infinity's server, on the same model and the same cores.

    make bench-serving                       (10 minutes)
    python -m benchmarks.serving --shape base --seconds 600

Both servers run all the time, and clients load one or the other in alternating blocks; who isn't loaded uses no processor time.
A client sends a request, waits for the answer and sends the next; documents per request come from the committed list, the same
in the same order for both. Every document ends in a number of its own, so that no server answers from memory. A block ends when
all that was sent is answered. The clients run on the servers' cores, and what they cost is reported.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.inputs import Request, load, measured
from benchmarks.models import SHAPES, model_directory
from benchmarks.peers.process import PeerError, python, quiet_environment
from benchmarks.siege import besiege

BLOCKS = 3  # of each server at each count of clients
SWEEP_SECONDS = 15
SWEEP = (4, 8, 32)
SIEGE_SECONDS = 60
START_SECONDS = 240
SIZES = ((1, 10), (11, 50), (51, 100))  # documents of a request
OURS, INFINITY = "ko-reranker", "infinity"

print_ = Console(width=120).print


@dataclass
class Block:
    """What one server did for a while under so many clients.

    Attributes:
        latencies: seconds of each request.
        documents: of each request.
        seconds: from the first request's start to the last one's end.
        server_cpu: seconds of processor time of the server.
        client_cpu: those of all clients together.
    """

    latencies: list[float] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    seconds: float = 0.0
    server_cpu: float = 0.0
    client_cpu: float = 0.0


@dataclass(frozen=True)
class Server:
    """A running server: where to send what, and its process."""

    name: str
    url: str
    process: subprocess.Popen
    more: dict[str, Any]
    scores: str  # the place of the list of results in an answer

    def body(self, request: Request) -> dict[str, Any]:
        """Return the request as the server takes it."""
        return {"query": request.query, "documents": list(request.documents), **self.more}

    def cpu_seconds(self) -> float:
        """Return the processor time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("small", "base"), default="small", help="the model; base wants more seconds")
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 4, 1], help="how many at the same time")
    parser.add_argument("--seconds", type=int, default=120, help="for the most clients, on each server; half for the others")
    arguments = parser.parse_args(argv)
    if not Path("/proc/self/stat").exists():
        raise SystemExit("the servers' processor time is read from /proc: run this on Linux.")
    try:
        asyncio.run(_measure(arguments.shape, arguments.clients, arguments.seconds))
    except PeerError as error:
        raise SystemExit(str(error)) from None


async def _measure(shape: str, clients: list[int], seconds: int) -> None:
    folder = str(model_directory(SHAPES[shape]))
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_ours(folder))
        batch, sweep = await _best_batch(folder)
        infinity = await stack.enter_async_context(_infinity(folder, batch))
        difference = await _difference(ours, infinity)
        blocks: dict[tuple[str, int], list[Block]] = {(server.name, n): [] for server in (ours, infinity) for n in clients}
        for count in clients:
            length = (seconds if count == max(clients) else seconds / 2) / BLOCKS
            for number in range(BLOCKS):
                # Each goes first in turn.
                for server in (ours, infinity) if number % 2 == 0 else (infinity, ours):
                    blocks[server.name, count].append(await _block(server, count, length, number))
                    print_(f"[dim]{server.name}, {count} clients: block {number + 1} of {BLOCKS}")
        siege = await _siege(ours)
    figures = {
        "shape": shape,
        "cores": len(os.sched_getaffinity(0)),
        "seconds": seconds,
        "documents_per_request": {"mean": round(float(np.mean(load())), 1), "median": float(np.median(load()))},
        "infinity_batch": batch,
        "infinity_sweep_pairs_per_s": sweep,
        "max_score_difference": difference,
        "siege": siege,
        "clients": {str(count): {name: _summary(blocks[name, count]) for name in (OURS, INFINITY)} for count in clients},
    }
    most = figures["clients"][str(max(clients))]
    rates = zip(most[OURS]["pairs_per_s_of_blocks"], most[INFINITY]["pairs_per_s_of_blocks"], strict=True)
    figures["throughput_vs_infinity_of_blocks"] = report.spread([own / theirs for own, theirs in rates], 2)
    ratios = {
        "throughput_vs_infinity": round(most[OURS]["pairs_per_s"] / most[INFINITY]["pairs_per_s"], 2),
        "p50_vs_infinity": round(most[OURS]["p50"] / most[INFINITY]["p50"], 3),
        "p95_vs_infinity": round(most[OURS]["p95"] / most[INFINITY]["p95"], 3),
    }
    _print(figures, ratios)
    names = ("ko-reranker", "torch", "transformers", "uvicorn", "httpx")
    versions = {name: version(name) for name in names} | {"infinity-emb": _infinity_version()}
    print_(f"[dim]{report.write('serving', versions, figures, ratios)}")


# ---------------------------------------------------------------- the servers


@asynccontextmanager
async def _ours(folder: str):
    # As Infinity does, a long document's end is cut, and all is computed in fp32; all else is the default.
    command = [_beside(python("ours"), "ko-reranker"), "serve", "--model", folder, "--max-chunks", "1"]
    command += ["--dtype", "fp32"]
    async with _running(OURS, command, "/v2/rerank", {"model": "benchmark"}, "results", cores=0) as server:
        yield server


@asynccontextmanager
async def _infinity(folder: str, batch: int):
    cores = len(os.sched_getaffinity(0))
    command = [_beside(python("infinity"), "infinity_emb"), "v2", "--model-id", folder, "--served-model-name", "m"]
    command += ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer"]
    command += ["--batch-size", str(batch), "--log-level", "error"]
    async with _running(INFINITY, command, "/rerank", {"model": "m"}, "results", cores=cores) as server:
        yield server


@asynccontextmanager
async def _running(name: str, command: list[str], path: str, more: dict[str, Any], scores: str, *, cores: int):
    """Run a server and wait until it answers. With ``cores`` 0 it decides itself how many threads it has."""
    port = _free_port()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log, env=quiet_environment(cores)
        )
        try:
            server = Server(name, f"http://127.0.0.1:{port}{path}", process, more, scores)
            await _until_it_answers(server, log)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _until_it_answers(server: Server, log: Any) -> None:
    body = server.body(measured(0)[0].first(4))
    until = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient(timeout=60) as client:
        while time.monotonic() < until and server.process.poll() is None:
            try:
                if (await client.post(server.url, json=body)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.5)
    log.seek(0)
    raise PeerError(f"{server.name} did not start: {log.read()[-1000:].strip()}")


async def _best_batch(folder: str) -> tuple[int, dict[str, float]]:
    """Return the batch size at which Infinity scores the most pairs a second with 16 clients, and those of all sizes."""
    speeds = {}
    for batch in SWEEP:
        async with _infinity(folder, batch) as server:
            block = await _block(server, 16, SWEEP_SECONDS, BLOCKS)
        speeds[batch] = sum(block.documents) / block.seconds
        print_(f"[dim]infinity with batches of {batch}: {speeds[batch]:.1f} pairs/s")
    return max(speeds, key=speeds.__getitem__), {str(batch): round(speed, 2) for batch, speed in speeds.items()}


async def _difference(*servers: Server) -> float:
    """Return the largest difference between the servers' scores: they must do the same work."""
    scores = []
    request = measured(0)[1].first(20)
    async with httpx.AsyncClient(timeout=120) as client:
        for server in servers:
            rows = (await client.post(server.url, json=server.body(request))).json()[server.scores]
            scores.append([row["relevance_score"] for row in sorted(rows, key=lambda row: row["index"])])
    return float(f"{np.abs(np.subtract(*scores)).max():.2g}")


# ---------------------------------------------------------------- the clients


async def _block(server: Server, clients: int, seconds: float, number: int) -> Block:
    """Load a server with clients for some seconds, with the part of the load that belongs to the block's number."""
    work, block = _requests(number), Block()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        started, client_cpu, server_cpu = time.perf_counter(), time.process_time(), server.cpu_seconds()

        async def loop() -> None:
            while time.perf_counter() - started < seconds:
                request = next(work)
                body = server.body(request)
                began = time.perf_counter()
                answer = await client.post(server.url, json=body)
                if answer.status_code != 200 or len(answer.json()[server.scores]) != len(request.documents):
                    raise PeerError(f"{server.name} answered {answer.status_code}: {answer.text[:300]}")
                block.latencies.append(time.perf_counter() - began)
                block.documents.append(len(request.documents))

        await asyncio.gather(*(loop() for _ in range(clients)))
        block.seconds = time.perf_counter() - started
        block.client_cpu = time.process_time() - client_cpu
        block.server_cpu = server.cpu_seconds() - server_cpu
    return block


def _requests(number: int) -> Iterator[Request]:
    """Yield the requests of a block: queries in turn, each with as many documents as the committed list says."""
    rows = measured(0)
    part = len(load()) // (BLOCKS + 1)
    for place in itertools.count():
        count = load()[(number * part + place) % len(load())]
        documents = rows[place % len(rows)].first(count).documents
        yield Request(
            rows[place % len(rows)].query,
            tuple(f"{text} {number}.{place}.{index}" for index, text in enumerate(documents)),
        )


async def _siege(server: Server) -> dict[str, Any]:
    """Load our server with 16 clients while hostile senders beset it, and return what the clients saw."""
    bodies = [server.body(request) for request in itertools.islice(_requests(BLOCKS), 200)]
    outcome = await besiege(int(server.url.split(":")[2].partition("/")[0]), bodies, seconds=SIEGE_SECONDS)
    return {
        "requests": len(outcome.latencies),
        "answered": outcome.statuses[200],
        "greedy_answered": outcome.greedy[200],
        "p50": round(float(np.percentile(outcome.latencies, 50)), 3),
        "p95": round(float(np.percentile(outcome.latencies, 95)), 3),
        "longest": round(max(outcome.latencies), 3),
        "longest_hostile_connection": round(max(outcome.lifetimes), 3),
    }


# ---------------------------------------------------------------- the results


def _summary(blocks: list[Block]) -> dict[str, Any]:
    latencies = np.concatenate([block.latencies for block in blocks])
    documents = np.concatenate([block.documents for block in blocks])
    seconds = sum(block.seconds for block in blocks)
    return {
        "requests": len(latencies),
        "pairs_per_s": round(documents.sum() / seconds, 2),
        "pairs_per_s_of_blocks": [round(sum(block.documents) / block.seconds, 2) for block in blocks],
        **_percentiles(latencies),
        "by_documents": {
            f"{least}-{most}": _percentiles(latencies[(documents >= least) & (documents <= most)]) for least, most in SIZES
        },
        "server_cpu_share": round(sum(block.server_cpu for block in blocks) / seconds, 3),
        "client_cpu_share": round(sum(block.client_cpu for block in blocks) / seconds, 3),
    }


def _percentiles(latencies: np.ndarray) -> dict[str, float]:
    if not len(latencies):
        return {}
    found = {"p50": np.percentile(latencies, 50), "p95": np.percentile(latencies, 95), "longest": latencies.max()}
    return {name: round(float(value), 3) for name, value in found.items()}


def _print(figures: dict[str, Any], ratios: dict[str, float]) -> None:
    title = f"{figures['shape']}, {figures['cores']} cores; seconds of wall time; cores in use by server and by clients"
    table = Table("clients", "server", "documents", "pairs/s", "p50", "p95", "longest", "server", "clients", title=title)
    for count, servers in figures["clients"].items():
        for name, row in servers.items():
            shares = [f"{row[key]:.2f}" for key in ("server_cpu_share", "client_cpu_share")]
            table.add_row(count, name, "all", f"{row['pairs_per_s']:.1f}", *_times(row), *shares)
            for size, times in row["by_documents"].items():
                if times:
                    table.add_row("", "", size, "", *_times(times), "", "")
    print_(table)
    for name, value in ratios.items():
        print_(f"{name:28}{value:.3g}")
    siege = figures["siege"]
    print_(f"under siege: {siege['answered']} of {siege['requests']} answered, p50 {siege['p50']:.2f}, p95 {siege['p95']:.2f}")
    print_(f"greedy ones answered: {siege['greedy_answered']}")
    print_(f"{'largest score difference':28}{figures['max_score_difference']:.1e}")


def _times(row: dict[str, Any]) -> list[str]:
    return [f"{row[key]:.2f}" for key in ("p50", "p95", "longest")]


def _infinity_version() -> str:
    command = [python("infinity"), "-c", "from importlib.metadata import version; print(version('infinity-emb'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _beside(interpreter: str, command: str) -> str:
    return str(Path(interpreter).with_name(command))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
