"""Hit ratio over cache size, for each policy and for the best possible: whole, or by sampling with its error."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kit.errors import UserError
from kit.record.document import Quality
from kit.techniques.caching.distances import lru_hits
from kit.techniques.caching.optimal import belady, che_of, footprint_bound
from kit.techniques.caching.policies import POLICIES
from kit.techniques.caching.sampling import Point, Sample, counted, estimated, sample
from kit.techniques.caching.simulation import simulate
from kit.techniques.caching.traces import Trace, shuffled

BUDGET = 100_000
"""Requests that one simulation is made of, about, where the trace has more."""
LEAST_ITEMS = 200
"""Objects that a simulated cache holds at least: a smaller one fills and empties by chance as the real one does not."""
AROUND, STEEP = 0.05, 0.05
"""Where LRU gains so much in hit ratio between a capacity smaller and larger by such a share, nothing is sampled."""
UNSEEN = {"W-TinyLFU": 0.002}
"""Error that a sample does not show, in hit ratio: a small cache's sketch forgets at other moments than a large one."""
SAMPLED = ("FIFO", "S3-FIFO", "W-TinyLFU")
"""Policies that a small cache stands for well. LFU and SIEVE take in what is new at one place, however large they are,
so that a small one takes it in faster: sampled they were off by up to .06 where popularity shifts. With sizes
W-TinyLFU's window of 1 % is one, too, for what does not fit into it."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What a policy, or a bound, yields at each capacity: one row or element a capacity.

    hit_ratio: share of requests served; byte_hit_ratio: share of their bytes. First requests count, as misses.
    error, byte_error: standard errors of the two through sampling; 0 where the whole trace was simulated, as it is
    where LRU's hits jump with the size, as in loops. Near such a jump they may be too small by up to .01;
    `curves(…, budget=None)` shows it.
    rates: share of the objects that was simulated, at each. by_block: hit ratio in each part of the trace, in the order
    of time, shape (capacities, parts); None of PFOO-L. took_s: seconds that the simulations took.
    """

    hit_ratio: np.ndarray
    byte_hit_ratio: np.ndarray
    error: np.ndarray
    byte_error: np.ndarray
    rates: np.ndarray
    by_block: np.ndarray | None
    took_s: float


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of several policies on one trace.

    capacities: shape (capacities,), ascending, in items, or in bytes where the trace knows sizes. bound: what no policy
    exceeds: Belady's MIN, or PFOO-L where sizes are known.
    """

    trace: Trace = field(repr=False)
    capacities: np.ndarray
    policies: dict[str, Curve]
    bound: Curve

    @property
    def unit(self) -> str:
        """What a capacity counts: items or bytes."""
        return "items" if self.trace.sizes is None else "bytes"

    @property
    def bound_name(self) -> str:
        """What the bound is called."""
        return "Belady" if self.trace.sizes is None else "PFOO-L"

    @property
    def ceiling(self) -> float:
        """Hit ratio of a cache without limit: all requests but the first of each object."""
        return 1 - self.trace.objects / len(self.trace)


def curves(
    trace: Trace,
    capacities: Sequence[float] | None = None,
    policies: Collection[str] = tuple(POLICIES),
    budget: int | None = BUDGET,
    seed: int = 0,
) -> Curves:
    """Return the curves of `policies` over `capacities` (None: ten from 0.5 % of everything to all of it).

    LRU is exact, all capacities in one pass. `SAMPLED` policies and MIN are simulated on a sample of the objects, in a
    cache that is smaller in proportion; what they do better or worse than LRU there is added to LRU's exact curve. The
    others are simulated whole. budget: about how many requests a sampled simulation has; None simulates all requests.
    The cold start is part of all ratios. Source: Waldspurger, Saemundsson, Ahmad, Park, Cache Modeling and Optimization
    using Miniature Simulations, ATC 2017. Raise `UserError` for an unknown policy or a capacity under 1.
    """
    capacities = _capacities(trace, capacities)
    for name in policies:
        if name not in POLICIES:
            raise UserError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    start = time.perf_counter()
    lru = [~hits for hits in lru_hits(trace, capacities)]
    whole: list[Sample | None] = [None] * len(capacities)
    parts = _where_flat(trace, capacities, _parts(trace, capacities, budget, seed))
    lru_curve = _curve([counted(trace, missed) for missed in lru], whole, start)
    found = {
        name: lru_curve
        if name == "LRU"
        else _simulated(
            trace,
            capacities,
            parts if _can_be_sampled(name, trace) else whole,
            lru,
            _simulator(name),
            UNSEEN.get(name, 0.0),
        )
        for name in policies
    }
    bound = _simulated(trace, capacities, parts, lru, belady) if trace.sizes is None else _footprint(trace, capacities)
    return Curves(trace, capacities, found, bound)


def against_shuffled(trace: Trace, capacities: Sequence[float] | None = None, **more) -> tuple[Curves, Curves]:
    """Return the curves of `trace` in its real order, and of the same requests in random order."""
    return curves(trace, capacities, **more), curves(shuffled(trace), capacities, **more)


def none_above_the_bound(found: Curves) -> Quality:
    """Return whether no policy serves more than the bound: not by more than three errors, where there was sampling."""
    bound = found.bound
    excess = {
        name: max(
            (curve.hit_ratio - bound.hit_ratio - 3 * np.hypot(curve.error, bound.error)).max(),
            (curve.byte_hit_ratio - bound.byte_hit_ratio - 3 * np.hypot(curve.byte_error, bound.byte_error)).max(),
        )
        for name, curve in found.policies.items()
    }
    worst = max(excess, key=excess.__getitem__)
    above = excess[worst] > 1e-9
    return Quality(
        state="broken" if above else "held",
        measure=f"hit ratio above {found.bound_name}",
        value=float(excess[worst]),
        bound=0.0,
        note=f"{worst} is above what is possible: its simulation is wrong" if above else "",
    )


def lru_keeps_to_che(trace: Trace, capacities: Sequence[float], within: float = 0.01) -> Quality:
    """Return whether LRU is within `within` of Che's approximation, as it is where requests are independent."""
    simulated = np.array([hits.mean() for hits in lru_hits(trace, capacities)])
    gap = float(np.abs(simulated - che_of(trace, capacities)).max())
    return Quality(
        state="held" if gap < within else "broken",
        measure="LRU against Che's approximation",
        value=gap,
        bound=within,
        note="" if gap < within else "the requests are not independent, or LRU's simulation is wrong",
    )


def _capacities(trace: Trace, given: Sequence[float] | None) -> np.ndarray:
    """Return whole capacities, ascending, each once."""
    if given is None:
        given = np.maximum(trace.everything * np.geomspace(0.005, 1, 10), 1)
    given = np.unique(np.rint(np.asarray(given, float)).astype(np.int64))
    if not len(given) or given[0] < 1:
        raise UserError("capacities are items or bytes, at least 1; give a list as [100, 1_000, 10_000]")
    return given


def _parts(trace: Trace, capacities: np.ndarray, budget: int | None, seed: int) -> list[Sample | None]:
    """Return the sample to simulate at each capacity; None for the whole trace, also where half would be needed."""
    if budget is None:
        return [None] * len(capacities)
    items = capacities / _typical_size(trace)
    rates = np.maximum(budget / len(trace), LEAST_ITEMS / items).round(3)
    samples = {rate: sample(trace, rate, seed) for rate in set(rates.tolist()) if rate <= 0.5}
    return [samples.get(rate) for rate in rates.tolist()]


def _where_flat(trace: Trace, capacities: np.ndarray, parts: list[Sample | None]) -> list[Sample | None]:
    """Return the samples without those at capacities around which LRU's curve is steep, as at the length of a loop: a
    small cache has such a cliff at a somewhat other place, so the whole trace is simulated there."""
    at = [place for place, part in enumerate(parts) if part]
    around = lru_hits(trace, np.outer([1 - AROUND, 1 + AROUND], capacities[at]).ravel()) if at else []
    ratios = np.array([hits.mean() for hits in around]).reshape(2, -1)
    steep = {place for place, low, high in zip(at, *ratios, strict=True) if high - low > STEEP}
    return [None if place in steep else part for place, part in enumerate(parts)]


def _typical_size(trace: Trace) -> float:
    """Return the size of the object that a byte is part of, on average: large ones make a cache fill unevenly."""
    return 1.0 if trace.sizes is None else float((trace.sizes.astype(float) ** 2).sum() / trace.sizes.sum())


def _can_be_sampled(policy: str, trace: Trace) -> bool:
    return policy in SAMPLED and (policy != "W-TinyLFU" or trace.sizes is None)


def _simulator(policy: str) -> Callable[[Trace, int], np.ndarray]:
    return lambda trace, capacity: simulate(POLICIES[policy](capacity), trace)


def _simulated(
    trace: Trace,
    capacities: np.ndarray,
    parts: list[Sample | None],
    lru: list[np.ndarray],
    hits: Callable[[Trace, int], np.ndarray],
    unseen: float = 0.0,
) -> Curve:
    """Return the curve of what `hits(trace, capacity)` serves. lru: what LRU misses of the whole at each capacity;
    unseen: error of each sampled point beside its own."""
    start, points = time.perf_counter(), []
    for capacity, part, lru_missed in zip(capacities.tolist(), parts, lru, strict=True):
        if part is None:
            points.append(counted(trace, ~hits(trace, capacity)))
            continue
        small = part.capacity(capacity)
        lru_of_part = ~lru_hits(part.trace, [small])[0]
        point = estimated(trace, part, ~hits(part.trace, small), lru_of_part, lru_missed)
        errors = np.hypot([point.error, point.byte_error], unseen).tolist()
        points.append(replace(point, error=errors[0], byte_error=errors[1]))
    return _curve(points, parts, start)


def _curve(points: list[Point], parts: list[Sample | None], start: float) -> Curve:
    names = ("hit_ratio", "byte_hit_ratio", "error", "byte_error", "by_block")
    columns = {name: np.array([getattr(point, name) for point in points]) for name in names}
    rates = np.array([part.rate if part else 1.0 for part in parts])
    return Curve(**columns, rates=rates, took_s=time.perf_counter() - start)


def _footprint(trace: Trace, capacities: np.ndarray) -> Curve:
    start, none = time.perf_counter(), np.zeros(len(capacities))
    hits, hit_bytes = footprint_bound(trace, capacities)
    ratios = hits / len(trace), hit_bytes / trace.request_sizes.sum()
    return Curve(*ratios, none, none, none + 1, None, time.perf_counter() - start)
