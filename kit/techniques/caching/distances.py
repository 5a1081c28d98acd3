"""LRU at every size in one pass: how deep in the stack of what was last used each request finds its object."""

from collections.abc import Sequence

import numpy as np

from kit.techniques.caching.traces import Trace


def previous_use(keys: np.ndarray) -> np.ndarray:
    """Return for each request the number of the last one before it of its object; -1 where there is none."""
    order = np.argsort(keys, kind="stable")
    previous = np.full(len(keys), -1)
    same = keys[order[1:]] == keys[order[:-1]]
    previous[order[1:][same]] = order[:-1][same]
    return previous


def stack_depths(trace: Trace) -> np.ndarray:
    """Return the smallest capacity at which each request hits in LRU, shape (requests,); infinity for first requests.

    It is the size of all different objects asked for since the last request for this one, its own included.
    Source: Mattson, Gecsei, Slutz, Traiger, IBM Systems Journal 1970; here as one count of inversions of the previous
    uses, a level of bits at a time, so that NumPy does all requests at once: O(n log n).
    """
    previous = previous_use(trace.keys)
    passed = np.cumsum(trace.request_sizes)
    again = np.flatnonzero(previous >= 0)
    rank = np.empty(len(trace.keys), np.int64)
    rank[np.sort(previous[again])] = np.arange(len(again))
    # of all that passed since, what came up more than once is counted once
    repeats = _weighted_inversions(rank[previous[again]], trace.request_sizes[again])
    depths = np.full(len(trace.keys), np.inf)
    depths[again] = passed[again] - passed[previous[again]] - repeats
    return depths


def _weighted_inversions(order: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return for each element of a permutation the sum of weights of the larger elements before it.

    The elements are sorted from their highest bit to their lowest, keeping their order: at each bit, those with a 1
    are larger than those with a 0 that agree in the bits above. These agree: they stand between `start` and the next.
    """
    size = len(order)
    position, found, at = np.arange(size), np.zeros(size, np.int64), np.arange(size)
    weights = weights.astype(np.int64)
    for bit in reversed(range(max(size - 1, 1).bit_length())):
        ones = order >> bit & 1
        start = position >> bit + 1 << bit + 1
        count = np.concatenate(([0], np.cumsum(ones)))
        heavy = np.concatenate(([0], np.cumsum(ones * weights)))
        zero = ones == 0
        found[at[zero]] += (heavy[:-1] - heavy[start])[zero]
        before = count[:-1] - count[start]
        to = np.where(zero, position - before, start + (1 << bit) + before)
        moved = np.empty((3, size), np.int64)
        moved[:, to] = order, weights, at
        order, weights, at = moved
    return found


def lru_hits(trace: Trace, capacities: Sequence[float]) -> list[np.ndarray]:
    """Return which requests hit in LRU at each capacity: what simulating it would return, in one pass for all.

    Where an object is larger than a capacity, it is never kept there, and the others take a pass of their own.
    """
    largest = 1 if trace.sizes is None else int(trace.sizes.max())
    depths = stack_depths(trace) if any(capacity >= largest for capacity in capacities) else None
    return [depths <= c if depths is not None and c >= largest else _of_those_that_fit(trace, c) for c in capacities]


def _of_those_that_fit(trace: Trace, capacity: float) -> np.ndarray:
    hits = np.zeros(len(trace.keys), bool)
    fits = trace.request_sizes <= capacity
    hits[fits] = stack_depths(Trace(trace.name, trace.keys[fits], sizes=trace.sizes)) <= capacity
    return hits
