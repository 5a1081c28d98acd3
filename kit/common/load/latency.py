"""What came of offered load: times of each request, latencies, and percentiles with enough requests beyond them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

LEAST_BEYOND = 5
"""Requests beyond a percentile, at least: with fewer it is chance and is not reported."""


def percentile(latency_s: np.ndarray, share: float) -> float | None:
    """Return the quantile of latencies, e.g. .99; None where fewer than `LEAST_BEYOND` requests are beyond it.

    It is one of the latencies, not a mean of two: a request without an answer has the latency infinity.
    """
    beyond = round(len(latency_s) * (1 - share), 6)
    return float(np.quantile(latency_s, share, method="higher")) if beyond >= LEAST_BEYOND else None


@dataclass(frozen=True, eq=False)
class Load:
    """What came of requests that were offered at one rate.

    rate: requests per second, as intended. due_s, dispatched_s, sent_s, ended_s: seconds after the start, shape
    (requests,): intended time, the generator's turn, sent, answered or given up; NaN if it did not happen. status: of
    HTTP; 0: no answer. answers: by request. closed: latency counts from sending, as a closed loop sees it.
    """

    rate: float
    due_s: np.ndarray
    dispatched_s: np.ndarray
    sent_s: np.ndarray
    ended_s: np.ndarray
    status: np.ndarray
    answers: list
    closed: bool = False

    @cached_property
    def latency_s(self) -> np.ndarray:
        """Seconds from the intended time to the answer, shape (requests,); infinity for errors and time-outs."""
        since = self.sent_s if self.closed else self.due_s
        return np.where((self.status >= 200) & (self.status < 300), self.ended_s - since, np.inf)

    @property
    def requests(self) -> int:
        """How many requests were due."""
        return len(self.due_s)

    @property
    def failed(self) -> int:
        """Requests with an error, or with no answer in time."""
        return self.over(1e9)

    @property
    def answered_rate(self) -> float:
        """Good answers per second."""
        return (self.requests - self.failed) / float(np.nanmax(self.ended_s))

    @property
    def busy(self) -> float:
        """Requests under way, on average. With one worker, its busy share: near 1 and above, a queue grows."""
        return float(np.nansum(self.ended_s - self.sent_s) / self.due_s[-1])

    @property
    def lag_s(self) -> np.ndarray:
        """Seconds by which the generator itself was late, shape (requests,): part of the latency."""
        return self.dispatched_s - self.due_s

    def over(self, bound_s: float) -> int:
        """Return how many requests had no good answer within the bound."""
        return int((self.latency_s > bound_s).sum())

    def percentile(self, share: float) -> float | None:
        """Return the latency that such a share of the requests did not exceed: see `percentile`."""
        return percentile(self.latency_s, share)


def merged(loads: Sequence[Load]) -> Load:
    """Return loads at one rate as one, one after the other: percentiles of all latencies, never their average."""
    starts = np.cumsum([0.0, *(np.nanmax(one.ended_s) for one in loads)])
    times = {
        name: np.concatenate([getattr(one, name) + start for one, start in zip(loads, starts, strict=False)])
        for name in ("due_s", "dispatched_s", "sent_s", "ended_s")
    }
    status = np.concatenate([one.status for one in loads])
    return replace(loads[0], **times, status=status, answers=[answer for one in loads for answer in one.answers])
