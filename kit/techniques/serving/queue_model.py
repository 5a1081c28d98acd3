"""A queue as a model of replicas: Poisson arrivals, measured service times, one queue before them (M/G/c)."""

import heapq

import numpy as np

from kit.common.load import Load, arrivals
from kit.common.parameters import at_least, positive

REQUESTS = 40_000
"""Simulated per rate: four hundred are beyond the 99th percentile."""


def simulate(service_s: np.ndarray, replicas: int, rate: float, requests: int = REQUESTS, seed: int = 0) -> Load:
    """Return what requests would see: each is served in order of arrival, by the first replica that is free.

    service_s: measured seconds of single requests on an idle server, shape (measured,), drawn with replacement. A
    replica serves one request at a time, as fast as if it were alone: shared cores are not in the model.
    """
    at_least(replicas, 1, "replicas", whole=True)
    due_s, free_s = arrivals(rate, requests, seed), [0.0] * replicas
    drawn_s = np.random.default_rng([seed, 1]).choice(service_s, requests)
    sent_s = []
    for due, service in zip(due_s.tolist(), drawn_s.tolist(), strict=True):
        sent_s.append(max(due, free_s[0]))
        heapq.heapreplace(free_s, sent_s[-1] + service)
    sent = np.array(sent_s)
    return Load(rate, due_s, due_s, sent, sent + drawn_s, np.full(requests, 200), [b""] * requests)


def capacity(service_s: np.ndarray, replicas: int, bound_s: float, share: float = 0.99) -> float:
    """Return the modelled capacity, requests per second: the highest rate whose percentile is within the bound.

    0 if a request that never waits is already over it.
    """
    low, high = 0.0, replicas / float(np.mean(service_s))
    if np.quantile(service_s, share) > positive(bound_s, "bound_s"):
        return 0.0
    for _ in range(7):  # to a hundredth of what the replicas could serve without any queue
        rate = (low + high) / 2
        within = simulate(service_s, replicas, rate).percentile(share) <= bound_s
        low, high = (rate, high) if within else (low, rate)
    return low
