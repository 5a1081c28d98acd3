"""Exact hit ratios: each policy and Belady's MIN, request by request."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from kit.common import parameters
from kit.techniques.caching.policies import POLICIES, Cache
from kit.techniques.caching.traces import Trace

MOST_REQUESTS = 100_000
"""Longest stretch that is simulated: the last so many requests of a trace."""
BELADY = "Belady"


def simulate(cache: Cache, keys: np.ndarray) -> np.ndarray:
    """Return which requests hit, shape (requests,), bool, if the answer of each miss is put into `cache`."""
    hits, absent = [], object()
    for key in keys.tolist():
        hits.append(cache.get(key, absent) is not absent)
        if not hits[-1]:
            cache.put(key, None)
    return np.array(hits)


def next_request(keys: np.ndarray) -> np.ndarray:
    """Return for each request the number of the next one for its object; the number of requests where there is none."""
    order = np.argsort(keys, kind="stable")
    following = np.full(len(keys), len(keys))
    same = keys[order[1:]] == keys[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    return following


def belady(keys: np.ndarray, capacity: int) -> np.ndarray:
    """Return which requests hit, shape (requests,), bool, if the item whose next request is the farthest is evicted.

    No policy has more hits, including one that declines to store what it just fetched: MIN here may decline too.
    Source: Belady, A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal 1966.
    """
    requests = len(keys)
    hits = bytearray(requests + 1)  # hits[t]: the object of request t is cached when that request comes
    latest: list[int] = []  # next requests of the cached items, negative: the farthest first; past ones never come up
    cached = 0
    for now, following in enumerate(next_request(keys).tolist()):
        if hits[now]:
            cached -= 1
        if following == requests:
            continue
        hits[following] = True
        heappush(latest, -following)
        if cached < capacity:
            cached += 1
        else:
            hits[-heappop(latest)] = False
    return np.frombuffer(hits, bool)[:requests]


@dataclass(frozen=True, eq=False)
class Curves:
    """Which requests of a trace hit, by policy and capacity.

    capacities: shape (capacities,), ascending, items. hits: by name, `BELADY` last, shape (capacities, requests), bool.
    First requests count, as misses.
    """

    trace: Trace
    capacities: np.ndarray
    hits: dict[str, np.ndarray] = field(repr=False)

    def ratio(self, policy: str) -> np.ndarray:
        """Return the hit ratio at each capacity, shape (capacities,)."""
        return self.hits[policy].mean(axis=1)


def curves(trace: Trace, capacities: Sequence[int] = (), policies: Sequence[str] = ()) -> Curves:
    """Return the hits of `policies` (none given: all) and of Belady's MIN, request by request.

    capacities: items; none given: seven from 1 % of the objects to all. Raise `UserError` for an unknown policy, a
    capacity below 1, and a trace with more requests than `MOST_REQUESTS` (`Trace.last` cuts one).
    """
    parameters.at_least(len(trace), 1, "requests of the trace", most=MOST_REQUESTS)
    names = parameters.several(policies, POLICIES, "policies") or list(POLICIES)
    usual = np.geomspace(max(1, trace.objects / 100), trace.objects, 7).round().astype(int).tolist()
    each = sorted({parameters.at_least(one, 1, "capacities", whole=True) for one in capacities or usual})
    hits = {name: np.array([simulate(POLICIES[name](one), trace.keys) for one in each]) for name in names}
    return Curves(trace, np.array(each), hits | {BELADY: np.array([belady(trace.keys, one) for one in each])})
