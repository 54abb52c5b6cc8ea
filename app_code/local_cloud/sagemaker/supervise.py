"""Run one command so that it never outlives the local cloud: ``python -I -S supervise.py GRACE -- COMMAND…``.

Standard input is a pipe from the local cloud. ``T`` on it asks the command to end (SIGTERM, then SIGKILL after GRACE seconds,
as SageMaker does), ``K`` kills it at once, and the pipe's end means that the local cloud itself is gone, however that
happened. Everything the command started goes with it. Only the standard library is used, so that it starts in milliseconds.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

ORPHAN_GRACE_SECONDS = 5.0


def main() -> int:
    """Supervise; return the command's exit status, 128 + signal number when a signal ended it."""
    grace, command = float(sys.argv[1]), sys.argv[3:]
    adopt_orphans()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", flush=True)
        return 127
    # The local cloud talks through the pipe; a signal to this process must not leave the command behind.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    kill_at: float | None = None
    pipe_open = True
    while child.poll() is None:
        readable, _, _ = select.select([0] if pipe_open else [], [], [], 0.05)
        if readable:
            order = os.read(0, 1)
            pipe_open = bool(order)
            wait = {b"T": grace, b"K": 0.0, b"": ORPHAN_GRACE_SECONDS}.get(order, grace)
            deadline = time.monotonic() + wait
            if kill_at is None and wait:
                signal_group(child.pid, signal.SIGTERM)
            kill_at = deadline if kill_at is None else min(kill_at, deadline)
        if kill_at is not None and time.monotonic() >= kill_at:
            kill_family(child.pid)
    status = child.returncode
    kill_family(child.pid)
    return status if status >= 0 else 128 - status


def adopt_orphans() -> None:
    """On Linux, become the parent of descendants whose parent dies, so that none slips away (torchrun's workers have
    their own sessions)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_child_subreaper = 36
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def signal_group(group: int, number: int) -> None:
    """Signal the command's process group, if it still exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kill_family(group: int) -> None:
    """Kill the command's process group and every other descendant of this process."""
    signal_group(group, signal.SIGKILL)
    for pid in descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def descendants() -> list[int]:
    """Process ids of all descendants, from `ps`, which Linux and macOS share."""
    try:
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    children: dict[int, list[int]] = {}
    for line in listing.stdout.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    found, queue = [], [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found.extend(below)
        queue.extend(below)
    return found


if __name__ == "__main__":
    sys.exit(main())
