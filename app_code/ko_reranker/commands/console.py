"""How the commands print: one console, steps with their time, errors in one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from ko_reranker.operations.executions import Step

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    began = time.perf_counter()
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        console.print(f"… {what}", style="dim")
        yield
    console.print(f"[green]✓[/] {what} [dim]{time.perf_counter() - began:.1f} s[/]")


class ExecutionView:
    """Shows an execution's steps: a line a finished state, and what runs now.

    On a terminal progress is a status line that changes in place; elsewhere it is a line every few seconds.
    """

    _EVERY_SECONDS = 5.0

    def __init__(self) -> None:
        self._status = console.status("starting") if console.is_terminal else None
        self._last = 0.0

    def __enter__(self) -> ExecutionView:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def show(self, item: Step) -> None:
        if item.kind == "finished":
            found = f"  {escape(item.finding)}" if item.finding else ""
            console.print(f"  [green]✓[/] {item.state} [dim]{item.seconds:.1f} s[/]{found}")
        elif self._status:
            self._status.update(f"{item.state}  {escape(item.finding)}")
        elif item.kind == "progress" and time.monotonic() - self._last > self._EVERY_SECONDS:
            self._last = time.monotonic()
            console.print(f"    {item.state}: {escape(item.finding)}", style="dim")
            sys.stdout.flush()
