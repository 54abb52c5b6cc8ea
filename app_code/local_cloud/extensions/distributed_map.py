"""The Distributed Map, whole.

MiniStack 1.5.33 runs the children but ignores ItemBatcher, ResultWriter, the ``…Path`` fields of concurrency and
tolerated failures, and an abort; a crossed failure threshold stops nothing. A child sees its parent's ``$$.Execution``.
This module replaces the runner. AWS: children start in the order of the items, none starts after the threshold is
crossed, results of failed children stay out of the output, and ResultWriter writes a manifest beside one file for
each outcome under ``<prefix>/<map run id>/``.
"""

from __future__ import annotations

import contextvars
import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from ministack.services import s3
from ministack.services import stepfunctions as sfn

from local_cloud.extensions.patching import Patcher
from local_cloud.extensions.step_functions import PARENT, PAYLOAD_LIMIT, is_running

PATCHED = (("ministack.services.stepfunctions", "_run_distributed_map"),)

_DEFAULT_CONCURRENCY = 64  # threads of a map without MaxConcurrency; AWS starts thousands of children
_COUNTS = (
    "pending",
    "running",
    "succeeded",
    "failed",
    "timedOut",
    "aborted",
    "total",
    "resultsWritten",
    "failuresNotRedrivable",
    "pendingRedrive",
)


@dataclass
class _MapRun:
    """One run of a map: its children in the order of their items."""

    state: dict[str, Any]
    effective: Any
    ctx: dict[str, Any]
    processor: dict[str, Any]
    parent: dict[str, Any]
    record: dict[str, Any]
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    children: dict[int, dict[str, Any]] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)

    def count(self, before: str, after: str, items: int) -> None:
        """Move a child and its items from one count to another."""
        with self.lock:
            for counts, amount in ((self.record["itemCounts"], items), (self.record["executionCounts"], 1)):
                counts[before] -= amount
                counts[after] += amount

    def threshold_crossed(self) -> bool:
        """Whether more items failed than the state tolerates; without a threshold, one is too many."""
        counts = self.record["itemCounts"]
        if not counts["failed"]:
            return False
        limits = []
        if (most := _number(self, "ToleratedFailureCount")) is not None:
            limits.append(counts["failed"] > most)
        if (percentage := _number(self, "ToleratedFailurePercentage")) is not None:
            limits.append(counts["failed"] * 100 > percentage * counts["total"])
        return any(limits) if limits else True


def _number(run: _MapRun, name: str) -> float | None:
    """A field given as a number or, with ``Path`` at its name's end, as a path."""
    if f"{name}Path" in run.state:
        return float(sfn._resolve_path_or_ctx(run.state[f"{name}Path"], run.effective, run.ctx))
    return None if run.state.get(name) is None else float(run.state[name])


# ---------------------------------------------------------------------------------------------------------------------
# Items


def _items(state: dict[str, Any], effective: Any, ctx: dict[str, Any]) -> list[Any]:
    if state.get("ItemReader"):
        items = sfn._read_map_items(state["ItemReader"], effective, ctx)
    else:
        items = sfn._resolve_path_or_ctx(state.get("ItemsPath", "$"), effective, ctx)
    if not isinstance(items, list):
        raise sfn._ExecutionError("States.Runtime", "The items of the Map state are not an array")
    selector = state.get("ItemSelector") or state.get("Parameters")
    if not selector:
        return items
    return [
        sfn._resolve_params_obj(selector, effective, {**ctx, "Map": {"Item": {"Index": index, "Value": item}}})
        for index, item in enumerate(items)
    ]


def batches(items: list[Any], batcher: dict[str, Any], effective: Any, ctx: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """Items in batches of at most MaxItemsPerBatch items and MaxInputBytesPerBatch bytes: ``(input, items)``."""

    def number(name: str) -> int:
        if f"{name}Path" in batcher:
            return int(sfn._resolve_path_or_ctx(batcher[f"{name}Path"], effective, ctx))
        return int(batcher.get(name) or 0)

    most = number("MaxItemsPerBatch") or len(items)
    most_bytes = min(number("MaxInputBytesPerBatch") or PAYLOAD_LIMIT, PAYLOAD_LIMIT)
    shared = {}
    if "BatchInput" in batcher:
        shared["BatchInput"] = sfn._resolve_params_obj(batcher["BatchInput"], effective, ctx)
    fixed = len(json.dumps({**shared, "Items": []}, ensure_ascii=False).encode())
    grouped: list[list[Any]] = []
    room = 0
    for item in items:
        size = len(json.dumps(item, ensure_ascii=False).encode()) + 2  # the separator
        if not grouped or len(grouped[-1]) >= most or size > room:
            grouped.append([])
            room = most_bytes - fixed
        grouped[-1].append(item)
        room -= size
    return [({**shared, "Items": group}, len(group)) for group in grouped]


# ---------------------------------------------------------------------------------------------------------------------
# Children


def _run_child(run: _MapRun, index: int, child_input: Any, items: int) -> None:
    if run.stop.is_set() or not is_running(run.parent):
        return
    child = run.children[index] = _child_record(run, child_input)
    sfn._executions[child["executionArn"]] = child
    run.count("pending", "running", items)
    ctx = copy.deepcopy(run.ctx)
    ctx["Execution"] = {
        "Id": child["executionArn"],
        "Input": child_input,
        "Name": child["name"],
        "StartTime": child["startDate"],
    }
    try:
        result = sfn._run_sub_machine(run.processor["States"], run.processor["StartAt"], child_input, child, ctx)
        run.results[index] = result
        child.update(status="SUCCEEDED", output=json.dumps(result))
        run.count("running", "succeeded", items)
    except Exception as error:
        failure = error if isinstance(error, sfn._ExecutionError) else sfn._ExecutionError("States.Runtime", str(error))
        aborted = not is_running(run.parent)
        child.update(status="ABORTED" if aborted else "FAILED", error=failure.error, cause=failure.cause)
        run.count("running", "aborted" if aborted else "failed", items)
        if run.threshold_crossed():
            run.stop.set()
    child["stopDate"] = sfn.now_iso()


def _child_record(run: _MapRun, child_input: Any) -> dict[str, Any]:
    name = sfn.new_uuid()
    machine = run.record["_stateMachineArn"]
    express = run.processor.get("ProcessorConfig", {}).get("ExecutionType") == "EXPRESS"
    return {
        "executionArn": machine.replace(":stateMachine:", ":express:" if express else ":execution:") + f":{name}",
        "stateMachineArn": machine,
        "name": name,
        "status": "RUNNING",
        "startDate": sfn.now_iso(),
        "stopDate": None,
        "input": json.dumps(child_input),
        "inputDetails": {"included": True},
        "output": None,
        "outputDetails": {"included": True},
        "mapRunArn": run.record["mapRunArn"],
        "events": [],
        "testCase": run.parent.get("testCase"),
        "mockAttempts": {},
        PARENT: run.parent["executionArn"],
    }


# ---------------------------------------------------------------------------------------------------------------------
# Results


def _write_results(run: _MapRun) -> dict[str, Any] | None:
    """Write the children's results and a manifest to S3; None where the writer only reshapes the state's output."""
    writer = run.state["ResultWriter"]
    destination = writer.get("Parameters") or writer.get("Arguments")
    if not destination:
        return None
    place = sfn._resolve_params_obj(destination, run.effective, run.ctx)
    prefix = "/".join(filter(None, (place.get("Prefix", "").strip("/"), run.record["mapRunArn"].rsplit(":", 1)[1])))
    config = writer.get("WriterConfig") or {}
    lines = config.get("OutputType", "JSON") == "JSONL"
    files: dict[str, list[dict[str, Any]]] = {}
    for outcome in ("SUCCEEDED", "FAILED", "PENDING"):
        rows = [_result_row(child, config) for child in _outcome(run, outcome)]
        if config.get("Transformation") == "FLATTEN" and outcome == "SUCCEEDED":
            rows = [item for row in rows for item in (row if isinstance(row, list) else [row])]
        files[outcome] = []
        if not rows:
            continue
        key = f"{prefix}/{outcome}_0.{'jsonl' if lines else 'json'}"
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) if lines else _json(rows)
        _put(place["Bucket"], key, text)
        files[outcome].append({"Key": key, "Size": len(text.encode())})
    manifest = {"DestinationBucket": place["Bucket"], "MapRunArn": run.record["mapRunArn"], "ResultFiles": files}
    _put(place["Bucket"], f"{prefix}/manifest.json", _json(manifest))
    run.record["itemCounts"]["resultsWritten"] = run.record["itemCounts"]["succeeded"]
    run.record["executionCounts"]["resultsWritten"] = run.record["executionCounts"]["succeeded"]
    return {
        "MapRunArn": run.record["mapRunArn"],
        "ResultWriterDetails": {"Bucket": place["Bucket"], "Key": f"{prefix}/manifest.json"},
    }


def _outcome(run: _MapRun, outcome: str) -> list[dict[str, Any]]:
    wanted = {"SUCCEEDED": ("SUCCEEDED",), "FAILED": ("FAILED", "ABORTED"), "PENDING": ()}[outcome]
    return [run.children[index] for index in sorted(run.children) if run.children[index]["status"] in wanted]


def _result_row(child: dict[str, Any], config: dict[str, Any]) -> Any:
    if config.get("Transformation", "NONE") != "NONE" and child["status"] == "SUCCEEDED":
        return json.loads(child["output"])
    row = {
        "ExecutionArn": child["executionArn"],
        "Input": child["input"],
        "InputDetails": {"Included": True},
        "Name": child["name"],
        "Output": child["output"],
        "OutputDetails": {"Included": True},
        "RedriveCount": 0,
        "RedriveStatus": "NOT_REDRIVABLE",
        "StartDate": child["startDate"],
        "StateMachineArn": child["stateMachineArn"],
        "Status": child["status"],
        "StopDate": child["stopDate"],
    }
    if child["status"] != "SUCCEEDED":
        row.update(Error=child.get("error"), Cause=child.get("cause"))
    return row


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _put(bucket: str, key: str, text: str) -> None:
    status, _, body = s3._put_object(bucket, key, text.encode(), {"content-type": "application/json"})
    if status != 200:
        reason = body.decode() if isinstance(body, bytes) else str(body)
        raise sfn._ExecutionError("States.ResultWriterFailed", reason)


# ---------------------------------------------------------------------------------------------------------------------
# The run


def _new_record(state: dict[str, Any], execution: dict[str, Any], items: int, children: int) -> dict[str, Any]:
    *_, region, account, _, name = execution["stateMachineArn"].split("/")[0].split(":")
    label = state.get("Label") or sfn.new_uuid()
    empty = dict.fromkeys(_COUNTS, 0)
    return {
        "mapRunArn": f"arn:aws:states:{region}:{account}:mapRun:{name}/{label}:{sfn.new_uuid()}",
        "executionArn": execution["executionArn"],
        "status": "RUNNING",
        "startDate": sfn.now_iso(),
        "itemCounts": {**empty, "total": items, "pending": items},
        "executionCounts": {**empty, "total": children, "pending": children},
        "redriveCount": 0,
        "_stateMachineArn": f"arn:aws:states:{region}:{account}:stateMachine:{name}/{label}",
    }


def run_distributed_map(
    state: dict[str, Any],
    raw_input: Any,
    effective: Any,
    processor: dict[str, Any],
    execution: dict[str, Any],
    ctx: dict[str, Any],
) -> tuple[Any, str | None]:
    """Run a Map state in DISTRIBUTED mode and return its output and the next state's name."""
    items = _items(state, effective, ctx)
    batcher = state.get("ItemBatcher")
    work = batches(items, batcher, effective, ctx) if batcher else [(item, 1) for item in items]
    run = _MapRun(state, effective, ctx, processor, execution, _new_record(state, execution, len(items), len(work)))
    concurrency = int(_number(run, "MaxConcurrency") or 0)
    run.record.update(
        maxConcurrency=concurrency,
        toleratedFailurePercentage=_number(run, "ToleratedFailurePercentage") or 0.0,
        toleratedFailureCount=int(_number(run, "ToleratedFailureCount") or 0),
    )
    sfn._map_runs[run.record["mapRunArn"]] = run.record
    with ThreadPoolExecutor(concurrency or min(len(work), _DEFAULT_CONCURRENCY) or 1) as pool:
        wait(
            [
                pool.submit(contextvars.copy_context().run, _run_child, run, index, child_input, count)
                for index, (child_input, count) in enumerate(work)
            ]
        )
    return _finish(run, raw_input, execution)


def _finish(run: _MapRun, raw_input: Any, execution: dict[str, Any]) -> tuple[Any, str | None]:
    aborted, failed = not is_running(execution), run.threshold_crossed()
    run.record["status"] = "ABORTED" if aborted else "FAILED" if failed else "SUCCEEDED"
    run.record["stopDate"] = sfn.now_iso()
    if aborted:
        raise sfn._ExecutionError("States.Runtime", "The execution ended")
    written = _write_results(run) if run.state.get("ResultWriter") else None
    if failed:
        raise sfn._ExecutionError(
            "States.ExceedToleratedFailureThreshold", "The specified tolerated failure threshold was exceeded"
        )
    result = written if written is not None else [run.results[index] for index in sorted(run.results)]
    result = sfn._apply_result_selector(run.state, result)
    output = sfn._apply_result_path(run.state, raw_input, result)
    return sfn._apply_output_path(run.state, output, run.ctx), sfn._next_or_end(run.state)


def install(patch: Patcher) -> None:
    """Replace MiniStack's runner of the Distributed Map."""
    patch.replace(sfn, "_run_distributed_map", lambda _: run_distributed_map)
