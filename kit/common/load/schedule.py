"""When requests are due (a Poisson process), percentiles of their latency, and the open loop on one worker."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any

import numpy as np

from kit.common.parameters import positive

LEAST_BEYOND = 5
"""Requests beyond a percentile, at least: with fewer it is chance and is not reported."""


@dataclass(frozen=True, eq=False)
class Latencies:
    """Latencies at one arrival rate.

    rate: requests per second that were sent. latency_s: from when each request was due to its answer, shape
    (requests,). busy: share of the time in which the worker answered; near 1 and above, a queue grows.
    """

    rate: float
    latency_s: np.ndarray
    busy: float

    def percentile(self, share: float) -> float | None:
        """Return the latency that such a share of the requests did not exceed: see `percentile`."""
        return percentile(self.latency_s, share)


def percentile(latency_s: np.ndarray, share: float) -> float | None:
    """Return the quantile of latencies, e.g. .99; None where fewer than `LEAST_BEYOND` requests are beyond it.

    It is one of the latencies, not a mean of two: a request without an answer has the latency infinity.
    """
    beyond = round(len(latency_s) * (1 - share), 6)
    return float(np.quantile(latency_s, share, method="higher")) if beyond >= LEAST_BEYOND else None


def arrivals(rate: float, requests: int, seed: int = 0) -> np.ndarray:
    """Return when requests are due, seconds, shape (requests,): a Poisson process of `rate` per second."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / positive(rate, "rate"), requests))


def open_loop(answer: Callable[[Any], Any], items: Iterable[Any], rate: float, seed: int = 0) -> Latencies:
    """Let one worker answer items in order as they arrive, whether or not earlier ones are answered.

    The same seed gives the same arrivals. Latency begins when a request was due, so that waiting in the queue counts: a
    loop that sends a request only after the last answer would hide it (coordinated omission).
    """
    items = list(items)
    due, latency_s, busy_s, start = arrivals(rate, len(items), seed), [], 0.0, perf_counter()
    for item, at in zip(items, due.tolist(), strict=True):
        sleep(max(0.0, start + at - perf_counter()))
        begun = perf_counter()
        answer(item)
        ended = perf_counter()
        latency_s.append(ended - start - at)
        busy_s += ended - begun
    return Latencies(rate, np.array(latency_s), busy_s / float(due[-1]))
