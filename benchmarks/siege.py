"""Normal clients beside hostile senders: silent ones, ones that stall or trickle, and greedy ones with thousands of documents.

Every hostile sender starts again as soon as the server has ended its connection, so that their number stays the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_TRICKLE_SECONDS = 0.25
_GREEDY_DOCUMENTS = 2_500
# A greedy sender that was sent away comes again, whatever the server asked for; this is for its own processor time.
_BREATH_SECONDS = 0.5


@dataclass(frozen=True)
class Senders:
    """How many there are of each kind."""

    normal: int = 16
    silent: int = 150
    stalled: int = 260
    trickling: int = 60
    greedy: int = 2


@dataclass
class Outcome:
    """What came of a siege.

    Attributes:
        latencies: seconds of each normal request, from connecting to the end of its answer.
        statuses: how many normal requests had which status; 0 for none.
        greedy: the same for the greedy ones.
        lifetimes: seconds that each connection of a silent, stalled or trickling sender was open, those still open included.
    """

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    greedy: Counter[int] = field(default_factory=Counter)
    lifetimes: list[float] = field(default_factory=list)


async def besiege(port: int, bodies: Sequence[dict[str, Any]], *, seconds: float, senders: Senders | None = None) -> Outcome:
    """Send to a server on the loopback interface.

    Args:
        port: where it listens.
        bodies: what the normal clients ask, in turn; the last one's documents are what greedy senders send, many times over.
        seconds: for how long new normal requests are sent.
        senders: how many of which kind.
    """
    senders, outcome = senders or Senders(), Outcome()
    work = itertools.cycle(bodies)
    texts = itertools.islice(itertools.cycle(bodies[-1]["documents"]), _GREEDY_DOCUMENTS)
    greedy = {**bodies[-1], "documents": [f"{text} {number}" for number, text in enumerate(texts)]}
    kinds = [_silent] * senders.silent + [_stalled] * senders.stalled
    kinds += [(_trickling_head, _trickling_body)[number % 2] for number in range(senders.trickling)]
    hostile = [asyncio.create_task(_again(kind, port, outcome)) for kind in kinds]
    hostile += [asyncio.create_task(_greedy(port, greedy, outcome)) for _ in range(senders.greedy)]
    try:
        await asyncio.sleep(1)  # until they stand there
        end = time.perf_counter() + seconds

        async def normal() -> None:
            while time.perf_counter() < end:
                began = time.perf_counter()
                outcome.statuses[await _ask(port, next(work))] += 1
                outcome.latencies.append(time.perf_counter() - began)

        await asyncio.gather(*(normal() for _ in range(senders.normal)))
    finally:
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)
    return outcome


async def _again(
    send: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], port: int, outcome: Outcome
) -> None:
    while True:
        began = time.perf_counter()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(_BREATH_SECONDS)
            continue
        try:
            with contextlib.suppress(OSError):
                await send(reader, writer)
        finally:
            outcome.lifetimes.append(time.perf_counter() - began)
            writer.close()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _stalled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_head(1_000) + b"{")
    await reader.read()


async def _trickling_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"POST /rerank HTTP/1.1\r\nHost: x\r\nX-Filler: ")
    await _trickle(reader, writer)


async def _trickling_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_head(1_000_000))
    await _trickle(reader, writer)


async def _trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    ended = asyncio.ensure_future(reader.read())
    try:
        while not ended.done():
            writer.write(b" ")
            await asyncio.wait({ended}, timeout=_TRICKLE_SECONDS)
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)


async def _greedy(port: int, body: dict[str, Any], outcome: Outcome) -> None:
    while True:
        outcome.greedy[await _ask(port, body)] += 1
        await asyncio.sleep(_BREATH_SECONDS)


async def _ask(port: int, body: dict[str, Any]) -> int:
    """Return the status of an answer, 0 where none came."""
    content = json.dumps(body).encode()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0
    try:
        writer.write(_head(len(content)) + content)
        answer = await reader.read()
        return int(answer.split(b" ", 2)[1])
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        writer.close()


def _head(length: int) -> bytes:
    lines = ("POST /rerank HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {length}", "", "")
    return "\r\n".join(lines).encode()
