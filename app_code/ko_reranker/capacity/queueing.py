"""One queue before servers that are alike, for requests that all take equally long: who waits how long, drawn with a seed.

A server computes a request at a time, in the order in which they came, and the next goes to the server that is free first:
what routing by least outstanding requests comes to here. The rerank server puts requests that wait together into a batch and
lets short ones overtake, which gains something that isn't counted.
"""

from __future__ import annotations

import math

import numpy as np


def arrivals(rate: float, count: int, seed: int) -> np.ndarray:
    """Return when requests come that know nothing of each other (a Poisson process).

    With the same seed another rate has the same gaps, in proportion shorter or longer.

    Args:
        rate: requests a second.
        count: how many.

    Returns:
        Seconds, ascending; (count,).
    """
    return np.cumsum(np.random.default_rng(seed).exponential(size=count)) / rate


def latencies(came: np.ndarray, service: float, servers: int) -> np.ndarray:
    """Return how long each request is there, waiting included.

    Args:
        came: seconds, ascending; (requests,).
        service: seconds that each takes alone.
        servers: how many compute side by side, 1 at least.

    Returns:
        Seconds; (requests,).
    """
    if servers < 1:
        raise ValueError(f"there has to be 1 server at least, and there are {servers}")
    finished, _ = serve(came, service, np.zeros(servers), until=math.inf)
    taken: np.ndarray = finished - came
    return taken


def serve(came: np.ndarray, service: float, free: np.ndarray, *, until: float) -> tuple[np.ndarray, np.ndarray]:
    """Serve requests in their order, all that begin before a time.

    Since all take equally long, servers take turns, and one's requests begin when they came or when its last is done.

    Args:
        came: when they came; seconds, ascending; (requests,).
        service: seconds that each takes.
        free: when each server is free; seconds, ascending; (servers,).
        until: seconds.

    Returns:
        When those that begin are finished, and when each server is free then; seconds, ascending; (begun,) and (servers,).
    """
    servers, rounds = len(free), math.ceil(len(came) / len(free))
    turns = np.full(rounds * servers, np.inf)
    turns[: len(came)] = came
    # What the turns before have added.
    added = service * np.arange(rounds)[:, None]
    begins = added + np.maximum(free, np.maximum.accumulate(turns.reshape(rounds, servers) - added))
    begins = begins.ravel()[: len(came)]
    finished = begins[: np.searchsorted(begins, until)] + service
    return finished, np.sort(np.concatenate([free[len(finished) :], finished[-servers:]]))
