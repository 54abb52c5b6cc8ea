"""MiniStack's state on disk while it runs; by itself it saves at a clean exit only, and a crash would lose everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

# Writing a megabyte of state takes a quarter of a second of this process, so it waits for a pause between requests…
QUIET_SECONDS = 1.0
# …but not for ever.
PATIENCE_INTERVALS = 4


class Activity:
    """An ASGI application that notes when the one it wraps was last busy."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._in_flight = 0
        self._last = time.monotonic()
        self.requests = 0

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if not scope["path"].startswith("/_ministack/"):  # health checks change nothing
            self.requests += 1
        self._in_flight += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._last = time.monotonic()

    @property
    def quiet(self) -> bool:
        return self._in_flight == 0 and time.monotonic() - self._last > QUIET_SECONDS


async def save_regularly(ministack: Any, activity: Activity, seconds: float) -> None:
    """Save when something has happened since the last time, at most every ``seconds``; 0 = never."""
    from ministack.core import persistence

    saved_requests, saved_at = 0, time.monotonic()
    while seconds > 0:
        await asyncio.sleep(min(seconds, QUIET_SECONDS / 2))
        waited = time.monotonic() - saved_at
        if activity.requests == saved_requests or waited < seconds:
            continue
        if activity.quiet or waited > seconds * PATIENCE_INTERVALS:
            saved_requests, saved_at = activity.requests, time.monotonic()
            # In a thread: requests go on meanwhile. A service that changes under the writer is saved the next time.
            await asyncio.to_thread(persistence.save_all, ministack._build_persistence_save_dict())
