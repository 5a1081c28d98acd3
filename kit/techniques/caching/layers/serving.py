"""What users wait for with and without a cache, at an arrival rate, and what a cache saves net of looking things up.

Open loop: requests arrive when they do, whether or not the last is answered (a Poisson process), and one worker answers
them in order. A latency counts from when the request was due, so that a queue is seen. A loop that asks only when it
has its answer would hide it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any

import numpy as np

from kit.errors import UserError
from kit.techniques.caching.layers.work import Work
from kit.techniques.caching.stores import MISS, Store, key


@dataclass(frozen=True, eq=False)
class Served:
    """What became of each request. All arrays have shape (requests,), in seconds.

    due: since the beginning, ascending. latency_s: from then to the answer. lookup_s: making the key and looking it up;
    0 without a cache. compute_s: working the answer out; 0 for a hit. put_s: keeping it; 0 for a hit. hit: bool.
    """

    rate: float
    due: np.ndarray
    latency_s: np.ndarray
    lookup_s: np.ndarray
    compute_s: np.ndarray
    put_s: np.ndarray
    hit: np.ndarray

    @property
    def hit_ratio(self) -> float:
        """Share of the requests that the cache answered."""
        return float(self.hit.mean())

    @property
    def busy(self) -> float:
        """The worker's own time over the time in which requests came: near 1 and above, a queue grows."""
        return float((self.lookup_s + self.compute_s + self.put_s).sum() / self.due[-1])

    def latency(self, share: float) -> float:
        """Return the seconds that such a share of the requests did not exceed, as .99."""
        return float(np.quantile(self.latency_s, share))

    @property
    def worth(self) -> "Worth":
        """What this cache cost and saved a request, of what was measured. Raise `UserError` if it never missed or never
        hit: one of the two costs is not known then."""
        if self.hit.all() or not self.hit.any():
            raise UserError(
                f"{int(self.hit.sum())} of {len(self.hit)} requests were hits; both hits and misses are needed"
            )
        miss = ~self.hit
        return Worth(
            hit_ratio=self.hit_ratio,
            hit_s=float(self.lookup_s[self.hit].mean()),
            miss_s=float(self.lookup_s[miss].mean()),
            put_s=float(self.put_s[miss].mean()),
            compute_s=float(self.compute_s[miss].mean()),
        )


@dataclass(frozen=True)
class Worth:
    """A cache's costs and savings, means in seconds: a lookup that hits, one that misses, a put, the work itself."""

    hit_ratio: float
    hit_s: float
    miss_s: float
    put_s: float
    compute_s: float

    @property
    def saved_s(self) -> float:
        """Seconds saved a request, net of looking up and keeping; below 0 the cache costs more than it saves."""
        return self.compute_s - self._with_cache(self.hit_ratio)

    @property
    def saved_share(self) -> float:
        """Of the time without a cache."""
        return self.saved_s / self.compute_s

    @property
    def break_even(self) -> float:
        """The hit ratio above which the cache pays: about lookup over work. Above 1 it never does."""
        spent = self.miss_s + self.put_s
        gained = self.compute_s + spent - self.hit_s
        even = np.where(gained > 0, spent / np.maximum(gained, 1e-300), np.inf)
        return even if even.ndim else float(even)

    def _with_cache(self, hit_ratio: float) -> float:
        return hit_ratio * self.hit_s + (1 - hit_ratio) * (self.miss_s + self.compute_s + self.put_s)


def arrivals(rate: float, requests: int, seed: int = 0) -> np.ndarray:
    """Return when requests are due, seconds, shape (requests,): a Poisson process of so many a second."""
    if not (rate > 0 and requests > 0):
        raise UserError(f"rate={rate} a second and {requests} requests send nothing; give both above 0")
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests))


def serve(
    work: Work, trace: np.ndarray, rate: float, store: Store | None = None, *, ttl: float | None = None, seed: int = 0
) -> Served:
    """Answer the items of `trace` in their order as they arrive, `rate` a second, behind `store`; None: no cache.

    The same seed gives the same arrivals. It takes len(trace) / rate seconds, longer if the work can't keep up.
    """
    due = arrivals(rate, len(trace), seed)
    answer = _timed(work, store, ttl)
    rows = []
    start = perf_counter()
    for item, at in zip(trace.tolist(), due.tolist(), strict=True):
        if (early_s := start + at - perf_counter()) > 0:
            sleep(early_s)
        parts = answer(item)
        rows.append((perf_counter() - start - at, *parts))
    latency_s, lookup_s, compute_s, put_s, hit = np.array(rows).T
    return Served(rate, due, latency_s, lookup_s, compute_s, put_s, hit.astype(bool))


def in_turn(
    work: Work, trace: np.ndarray, stores: Mapping[str, Store], *, turns: int = 10, seed: int = 0
) -> dict[str, Served]:
    """Answer `trace` behind each store, by name, as fast as it can be: a part of it behind one after the other, in
    random order, then the next part. So what disturbs the machine for a while disturbs all of them. A store's first
    lookup, which opens its file or connection, is not counted."""
    for store in stores.values():
        store.get("opens the file or the connection")
    served: dict[str, list[Served]] = {name: [] for name in stores}
    chance = np.random.default_rng(seed)
    for part in np.array_split(trace, min(turns, len(trace))):
        for name in chance.permutation(list(stores)).tolist():
            served[name].append(serve(work, part, AT_ONCE, stores[name], seed=seed))
    return {name: _joined(parts) for name, parts in served.items()}


AT_ONCE = 1e6
"""Requests a second that nothing keeps up with: the next is due when the last is answered."""


def _joined(parts: Sequence[Served]) -> Served:
    ends = np.cumsum([0.0, *(one.due[-1] for one in parts[:-1])])
    due = np.concatenate([one.due + end for one, end in zip(parts, ends, strict=True)])
    names = ("latency_s", "lookup_s", "compute_s", "put_s", "hit")
    return Served(parts[0].rate, due, *(np.concatenate([getattr(one, name) for one in parts]) for name in names))


def _timed(work: Work, store: Store | None, ttl: float | None) -> Callable[[int], tuple[float, float, float, bool]]:
    """Return a function that answers an item and tells the seconds of lookup, work and put, and if it was a hit."""

    def without(item: int) -> tuple[float, float, float, bool]:
        start = perf_counter()
        work.answer(item)
        return 0.0, perf_counter() - start, 0.0, False

    def behind(item: int) -> tuple[float, float, float, bool]:
        start = perf_counter()
        at = key(work.version, work.inputs(item))
        value: Any = store.get(at)
        looked = perf_counter()
        if value is not MISS:
            return looked - start, 0.0, 0.0, True
        value = work.answer(item)
        computed = perf_counter()
        store.put(at, value, ttl)
        return looked - start, computed - looked, perf_counter() - computed, False

    return without if store is None else behind


def capacity(work: Work, trace: np.ndarray, requests: int = 30) -> float:
    """Return how many requests a second the work alone can answer, from some of the trace, after two to warm up."""
    for item in trace[:2].tolist():
        work.answer(item)
    start = perf_counter()
    for item in trace[:requests].tolist():
        work.answer(item)
    return min(requests, len(trace)) / (perf_counter() - start)
