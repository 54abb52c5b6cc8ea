"""Logs as JSON lines on stdout. A line says how much and how long, never what: no query, no document, no key."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from types import TracebackType

LOGGER = logging.getLogger("ko_reranker.serving")


def log(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Write one line with the given fields."""
    LOGGER.log(level, event, extra={"fields": fields})


def log_defect(event: str, error: BaseException, **fields: object) -> None:
    """Write where an unexpected error came from, without its message, which may quote a text."""
    LOGGER.error(event, extra={"fields": {**fields, **_where(error, error.__traceback__)}})


def configure_logging(level: int = logging.INFO) -> None:
    """Send every log of the process to stdout as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ko_reranker").setLevel(level)


def set_level(name: str) -> None:
    """Write lines of this level and above: ``info``, ``warning`` or ``error``."""
    logging.getLogger("ko_reranker").setLevel(name.upper())


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        instant = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{instant}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1]:
            line |= _where(record.exc_info[1], record.exc_info[2])
        return json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False, default=str)


def _where(error: BaseException, trace: TracebackType | None) -> dict[str, object]:
    frames = traceback.extract_tb(trace)[-5:]
    return {"error": type(error).__name__, "at": [f"{frame.filename}:{frame.lineno}" for frame in frames]}
