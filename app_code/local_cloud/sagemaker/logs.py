"""Lines of a running process to CloudWatch Logs, in batches, under the job's own role as on AWS."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import Any

logger = logging.getLogger("local_cloud.sagemaker")
_BATCH_LINES = 1000
_BATCH_SECONDS = 1.0
_LONGEST_EVENT = 200_000


class LogStream:
    """One log stream that lines are added to; :meth:`close` writes what is left.

    A role that may not write logs makes the job silent, not failed; the server's log says which permission is missing.
    """

    def __init__(self, client: Any, group: str, stream: str) -> None:
        self._client = client
        self._names = {"logGroupName": group, "logStreamName": stream}
        self._lines: queue.Queue[tuple[int, str] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name=f"logs {stream}", daemon=True)
        self._thread.start()

    def add(self, line: str) -> None:
        """Add a line; blank ones are dropped, because CloudWatch refuses them."""
        if line.strip():
            self._lines.put((int(time.time() * 1000), line[:_LONGEST_EVENT]))

    def close(self, timeout: float = 10.0) -> None:
        """Write the remaining lines."""
        self._lines.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self._create()
            while self._write_batch():
                pass
        except Exception as error:
            names = "/".join(self._names.values())
            logger.warning("no log stream %s (the lines are in the job's folder): %s", names, error)

    def _create(self) -> None:
        exceptions = self._client.exceptions
        group = self._names["logGroupName"]
        try:
            self._create_stream()
        except exceptions.ResourceNotFoundException:
            with contextlib.suppress(exceptions.ResourceAlreadyExistsException):
                self._client.create_log_group(logGroupName=group)
            self._create_stream()

    def _create_stream(self) -> None:
        with contextlib.suppress(self._client.exceptions.ResourceAlreadyExistsException):
            self._client.create_log_stream(**self._names)

    def _write_batch(self) -> bool:
        """Wait for lines, write them, and tell whether more may come."""
        batch: list[tuple[int, str]] = []
        more = True
        deadline: float | None = None
        while len(batch) < _BATCH_LINES:
            try:
                item = self._lines.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                more = False
                break
            batch.append(item)
            deadline = deadline or time.monotonic() + _BATCH_SECONDS
        if batch:
            events = [{"timestamp": stamp, "message": line} for stamp, line in batch]
            self._client.put_log_events(**self._names, logEvents=events)
        return more
