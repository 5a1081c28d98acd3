"""Capacity under a latency bound: the highest rate whose percentile holds, by MLPerf's early stopping."""

import itertools
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.special import bdtr, bdtrc

from kit.common.load.offer import Load, merged, offer
from kit.common.parameters import at_least, positive, share
from kit.common.services import Service

CONFIDENCE = 0.99
"""As in MLPerf Inference."""
HOLDS, FAILS, UNDECIDED, GENERATOR_BOUND = "holds", "does not hold", "undecided", "generator-bound"
LEAST_S = 1.0
"""Shortest time of load at one rate: a queue that grows slowly needs time to show."""

_NULL_SERVER = Path(__file__).with_name("null_server.py")

At = Callable[[float, int, int], Load]
"""(rate, requests, seed) → load: how a variant is offered requests."""


def early_stopping(requests: int, over: int, percentile: float = 0.99, confidence: float = CONFIDENCE) -> bool:
    """Return whether the percentile holds, by MLPerf's rule.

    over: requests over the bound. It holds if P(Binomial(requests, 1 − percentile) ≤ over) ≤ 1 − confidence: for the
    99th percentile 459, 662, 838, 1001, 1157 requests are enough with 0 to 4 over the bound.
    """
    return bool(bdtr(over, requests, 1 - percentile) <= 1 - confidence)


def verdict(requests: int, over: int, percentile: float = 0.99, confidence: float = CONFIDENCE) -> str:
    """Return "holds", "does not hold" (so many over the bound are as improbable if it held), or "undecided"."""
    if early_stopping(requests, over, percentile, confidence):
        return HOLDS
    above = bdtrc(over - 1, requests, 1 - percentile) if over else 1.0
    return FAILS if above <= 1 - confidence else UNDECIDED


def least_requests(over: int = 0, percentile: float = 0.99, confidence: float = CONFIDENCE) -> int:
    """Return how many requests show that a percentile holds, if so many of them are over the bound."""
    return next(n for n in itertools.count(over + 1) if early_stopping(n, over, percentile, confidence))


@dataclass(frozen=True, eq=False)
class Point:
    """All load at one rate. verdict: `HOLDS`, `FAILS`, `UNDECIDED` or `GENERATOR_BOUND`."""

    rate: float
    load: Load
    over: int
    verdict: str


@dataclass(frozen=True, eq=False)
class Capacity:
    """Highest rate whose percentile is within the bound, requests per second, as an interval.

    lower: highest rate that held, below every rate that did not; 0: none. upper: lowest rate that did not; infinity:
    none was found. points: by rate. generator_bound: the search ended because the generator could not show more.
    """

    lower: float
    upper: float
    points: tuple[Point, ...]
    percentile: float
    bound_s: float

    @property
    def generator_bound(self) -> bool:
        """Whether a rate was beyond what the generator can claim."""
        return any(point.verdict == GENERATOR_BOUND for point in self.points)

    def above(self, other: "Capacity") -> bool:
        """Return whether this capacity is significantly higher: the intervals do not overlap."""
        return self.lower >= other.upper


def capacity(
    at: At,
    bound_s: float,
    low: float,
    high: float,
    *,
    percentile: float = 0.99,
    ratio: float = 1.15,
    chunks: int = 4,
    peak: float = float("inf"),
    seed: int = 0,
) -> Capacity:
    """Search the highest rate whose percentile is within the bound, geometrically from `low` to `high`.

    Rates are doubled until one does not hold, then the widest gap between rates is halved until it is below `ratio`. A
    rate that is undecided gets up to `chunks` times the requests that decide without one over the bound. peak: the
    generator's own, from `generator_peak`: above half of it a rate is not tried.
    """
    at_least(high, positive(low, "low"), "high")
    points: dict[float, Point] = {}
    rate, found = (
        float(low),
        Capacity(0.0, float("inf"), (), share(percentile, "percentile"), positive(bound_s, "bound_s")),
    )
    while rate:
        points[rate] = _point(at, rate, found, chunks, peak, seed)
        found = interval(points.values(), percentile, bound_s)
        rate = _next_rate(found, high, ratio)
    return found


def capacities(
    variants: Mapping[str, At],
    rates: Sequence[float],
    bound_s: float,
    *,
    percentile: float = 0.99,
    rounds: int = 3,
    peak: float = float("inf"),
    seed: int = 0,
) -> dict[str, Capacity]:
    """Offer the same rates to all variants, in rounds: each rate to all in random order, with the same arrivals.

    Loads of one rate are merged over the rounds. A variant is spared the rates above two that it failed.
    """
    empty = Capacity(0.0, float("inf"), (), share(percentile, "percentile"), positive(bound_s, "bound_s"))
    points: dict[str, dict[float, Point]] = {name: {} for name in variants}
    for turn in range(at_least(rounds, 1, "rounds", whole=True)):
        for rate in sorted(rates):
            names = [name for name in variants if _worth(points[name], rate)]
            random.Random(f"{seed} {turn} {rate}").shuffle(names)
            for name in names:
                new = _point(variants[name], rate, empty, 1, peak, seed + turn, points[name].get(rate))
                points[name][rate] = new
    return {name: interval(found.values(), percentile, bound_s) for name, found in points.items()}


def interval(points, percentile: float, bound_s: float) -> Capacity:
    """Return the interval that decided points leave."""
    ordered = tuple(sorted(points, key=lambda point: point.rate))
    upper = min((point.rate for point in ordered if point.verdict == FAILS), default=float("inf"))
    lower = max((point.rate for point in ordered if point.verdict == HOLDS and point.rate < upper), default=0.0)
    return Capacity(lower, upper, ordered, percentile, bound_s)


def generator_peak(bodies: Sequence[bytes], bound_s: float, *, percentile: float = 0.99, **options) -> float:
    """Return the generator's own capacity, requests per second: against a server that does nothing, within the bound.

    Above half of it nothing is claimed. options: of `offer`, as for the service.
    """
    with Service("the null server", [sys.executable, str(_NULL_SERVER), "{port}"]) as null:
        null.start()
        url = f"http://127.0.0.1:{null.port}/"
        at = lambda rate, requests, seed: offer(url, bodies, rate, requests, seed=seed, **options)  # noqa: E731
        return capacity(at, bound_s, 250, 16_000, percentile=percentile, ratio=2, chunks=2).lower


def _point(at: At, rate, asked: Capacity, chunks, peak, seed, before: Point | None = None) -> Point:
    """Offer load at one rate until it is decided."""
    loads = [before.load] if before and before.load else []
    requests = max(least_requests(0, asked.percentile), round(rate * LEAST_S))
    if rate > peak / 2:
        return Point(rate, None, 0, GENERATOR_BOUND)
    for chunk in range(chunks):
        loads = [merged([*loads, at(rate, requests, seed + chunk)])]
        over = loads[0].over(asked.bound_s)
        decided = verdict(loads[0].requests, over, asked.percentile)
        if decided != UNDECIDED:
            break
    return Point(rate, loads[0], over, decided)


def _next_rate(found: Capacity, high: float, ratio: float) -> float:
    """Return the rate to try next; 0: none."""
    top = found.points[-1]
    if found.upper == float("inf"):
        return min(top.rate * 2, high) if top.verdict != GENERATOR_BOUND and top.rate < high else 0.0
    rates = [point.rate for point in found.points if 0 < found.lower <= point.rate <= found.upper]
    gaps = [(right / left, (left * right) ** 0.5) for left, right in itertools.pairwise(rates)]
    gap, middle = max(gaps, default=(0.0, 0.0))
    return middle if gap > ratio else 0.0


def _worth(points: Mapping[float, Point], rate: float) -> bool:
    """Whether a rate may still hold: at most one below it did not."""
    return sum(point.verdict == FAILS for below, point in points.items() if below < rate) < 2
