"""What no policy can beat, and what LRU should reach: Belady's MIN, a bound where sizes differ, Che's approximation."""

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from kit.techniques.caching.traces import Trace


def next_use(keys: np.ndarray) -> np.ndarray:
    """Return for each request the number of the next one of its object; the number of requests where there is none."""
    order = np.argsort(keys, kind="stable")
    following = np.full(len(keys), len(keys))
    same = keys[order[1:]] == keys[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    return following


def belady(trace: Trace, capacity: int) -> np.ndarray:
    """Return which requests hit (shape (requests,), bool) if what is used farthest in the future is given up.

    No policy has more hits, also none that declines to keep what it just fetched: MIN here may decline too. Exact for
    objects of one size; `trace.sizes` are not looked at. Source: Belady, A study of replacement algorithms for a
    virtual-storage computer, IBM Systems Journal 1966.
    """
    requests = len(trace.keys)
    kept = bytearray(requests + 1)  # kept[t]: when request t comes, its object is there
    latest: list[int] = []  # the next uses of what is kept, the latest first; those in the past never come up
    held = 0
    for now, following in enumerate(next_use(trace.keys).tolist()):
        if kept[now]:
            held -= 1
        if following == requests:
            continue
        kept[following] = True
        heappush(latest, -following)
        if held < capacity:
            held += 1
        else:
            kept[-heappop(latest)] = False
    return np.frombuffer(kept, bool)[:requests]


def footprint_bound(trace: Trace, capacities: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return hits and hit bytes that no policy exceeds where sizes differ, one for each capacity in bytes.

    To serve a request from the cache, its object must lie there since its last use: that takes size × waiting of the
    cache's capacity × requests. The cheapest are chosen until all is taken, even if they don't fit at each moment: so
    it is a bound, which perhaps no policy can reach. (The best possible itself is NP-hard to find, and "evict the
    farthest, per byte" is not a bound.) Source: Berger, Beckmann, Harchol-Balter, Practical Bounds on Optimal Caching
    with Variable Object Sizes, SIGMETRICS 2018: PFOO-L.
    """
    following = next_use(trace.keys)
    reused = following < len(following)
    waiting = (following - np.arange(len(following)))[reused].astype(float)
    sizes = trace.request_sizes[reused].astype(float)
    hits, hit_bytes = [], []
    for capacity in capacities:
        fits = sizes <= capacity
        taken, budget = (sizes * waiting)[fits], float(capacity) * len(following)
        cheapest = np.argsort(taken)
        hits.append(_affordable(taken[cheapest], budget).sum())
        cheapest = np.argsort(waiting[fits])  # a byte's cost is its waiting
        hit_bytes.append((_affordable(taken[cheapest], budget) * sizes[fits][cheapest]).sum())
    return np.array(hits), np.array(hit_bytes)


def _affordable(costs: np.ndarray, budget: float) -> np.ndarray:
    """Return the share of each that can be had in this order: 1, then one that is had in part, then 0."""
    before = np.cumsum(costs) - costs
    return np.clip((budget - before) / costs, 0, 1)


def che(popularity: np.ndarray, capacities: Sequence[float], sizes: np.ndarray | None = None) -> np.ndarray:
    """Return LRU's hit ratio at each capacity if requests are independent and the cache is full since long.

    popularity: probability of each object; sizes: of each object (None: 1). An object is there if it was asked for
    within the characteristic time, in which requests for just a capacity's worth of objects come.
    Source: Che, Tung, Wang, Hierarchical Web Caching Systems, IEEE JSAC 2002.
    """
    popularity = np.asarray(popularity, float) / np.sum(popularity)
    sizes = np.ones_like(popularity) if sizes is None else np.asarray(sizes, float)
    there = lambda time: -np.expm1(-popularity * time)  # noqa: E731
    times = [_characteristic_time(lambda t: sizes @ there(t), float(c), sizes.sum()) for c in capacities]
    return np.array([popularity @ there(time) if np.isfinite(time) else 1.0 for time in times])


def che_of(trace: Trace, capacities: Sequence[float]) -> np.ndarray:
    """Return LRU's hit ratio at each capacity, cold start included, if the trace's requests came in random order.

    As `che`, but of the counts in the trace: of an object's m requests among n in random order, m − 1 have one before,
    which came within a time T with probability 1 − (1 − T/n)^m. On a trace whose order matters the difference to LRU
    is what the order does.
    """
    counts = np.bincount(trace.keys, minlength=trace.objects).astype(float)
    requests = len(trace.keys)
    within = lambda time: -np.expm1(counts * np.log1p(-min(time / requests, 1 - 1e-12)))  # noqa: E731
    sizes = np.ones_like(counts) if trace.sizes is None else trace.sizes.astype(float)
    found = []
    for capacity in capacities:
        time = _characteristic_time(lambda t: sizes @ within(t), float(capacity), sizes.sum())
        found.append((counts - 1).clip(0) @ within(min(time, requests)) / requests)
    return np.array(found)


def _characteristic_time(filled, capacity: float, everything: float) -> float:
    """Return the time in which `filled(time)` grows to the capacity; infinity if everything fits."""
    from scipy.optimize import brentq

    if capacity >= everything:
        return np.inf
    end = 1.0
    while filled(end) < capacity:
        end *= 2
        if end > 1e18:
            return np.inf
    return brentq(lambda time: filled(time) - capacity, 0, end, rtol=1e-9)
