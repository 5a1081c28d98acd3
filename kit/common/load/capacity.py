"""Capacity under a latency bound: the highest rate whose percentile holds, by MLPerf's early stopping."""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betainc, stdtrit

from kit.common.load.latency import Load, merged
from kit.common.load.loops import offer
from kit.common.parameters import at_least, positive
from kit.common.services import Service

CONFIDENCE = 0.99
"""As in MLPerf Inference."""
HOLDS, FAILS, UNDECIDED, GENERATOR_BOUND = "holds", "does not hold", "undecided", "generator-bound"
LEAST_BOUNDS = 200
"""Shortest load at one rate, in bounds: queues start empty. How often the interval is right: docs/validation.md."""
BATCH_BOUNDS = 10
At = Callable[[float, int, int], Load]
"""(rate, requests, seed) → load: how a variant is offered requests."""
_NULL_SERVER = [sys.executable, str(Path(__file__).with_name("null_server.py")), "{port}"]


def early_stopping(requests: float, over: float, percentile: float = 0.99, confidence: float = CONFIDENCE) -> bool:
    """Return whether the percentile holds, by MLPerf's rule.

    over: requests over the bound. It holds if P(Binomial(requests, 1 − percentile) ≤ over) ≤ 1 − confidence: for the
    99th percentile 459, 662, 838, 1001, 1157 requests are enough with 0 to 4 over the bound.
    """
    return over < requests and bool(betainc(requests - over, over + 1, percentile) <= 1 - confidence)


def verdict(requests: float, over: float, percentile: float = 0.99, confidence: float = CONFIDENCE) -> str:
    """Return "holds", "does not hold" (so many over the bound are as improbable if it held), or "undecided"."""
    if early_stopping(requests, over, percentile, confidence):
        return HOLDS
    return FAILS if over and betainc(over, requests - over + 1, 1 - percentile) <= 1 - confidence else UNDECIDED


def dependence(over: np.ndarray, per_bound: float) -> float:
    """Return how many requests count as one, at least 1: by how much whole batches differ more than chance has it.

    over: whether each request is over the bound, in order. Requests of one busy spell wait together, so that the rule
    would take them for more than they show. per_bound: requests in the time of one bound; a batch has ten times as
    many (batch means, as for simulations).
    """
    size = max(1, min(round(BATCH_BOUNDS * per_bound), len(over) // 10))
    batches = over[: len(over) // size * size].reshape(-1, size).mean(axis=1)
    chance = batches.mean() * (1 - batches.mean()) / size
    return max(1.0, float(batches.var(ddof=1) / chance)) if chance and len(batches) > 1 else 1.0


def least_requests(over: int = 0, percentile: float = 0.99, confidence: float = CONFIDENCE) -> int:
    """Return how many requests show that a percentile holds, if so many of them are over the bound."""
    return next(n for n in itertools.count(over + 1) if early_stopping(n, over, percentile, confidence))


@dataclass(frozen=True, eq=False)
class Point:
    """All load at one rate; none where the verdict is `GENERATOR_BOUND` because the rate is above half its peak."""

    rate: float
    load: Load | None
    over: int
    verdict: str


@dataclass(frozen=True, eq=False)
class Capacity:
    """Highest rate whose percentile is within the bound, as an interval.

    points: by rate. rounds: `crossing` of each paired round, requests per second.
    """

    bound_s: float
    percentile: float
    points: tuple[Point, ...] = ()
    rounds: tuple[float, ...] = ()

    @cached_property
    def upper(self) -> float:
        """Lowest rate that did not hold, requests per second; infinity: none was found."""
        return min((point.rate for point in self.points if point.verdict == FAILS), default=float("inf"))

    @cached_property
    def lower(self) -> float:
        """Highest rate that held, below all that did not, requests per second; 0: none was found."""
        held = [point.rate for point in self.points if point.verdict == HOLDS]
        return max((rate for rate in held if rate < self.upper), default=0.0)

    def ratio(self, other: "Capacity") -> tuple[float, float, float]:
        """Return how many times as high this capacity is, with Student's 95 % interval over the paired rounds.

        It is significant if it leaves out 1: single requests are not independent, but rounds are. Under three rounds
        the interval is from 0 to infinity.
        """
        logs = np.log(self.rounds) - np.log(other.rounds)
        half = stdtrit(len(logs) - 1, 0.975) * logs.std(ddof=1) / len(logs) ** 0.5 if len(logs) > 2 else np.inf
        return float(np.exp(logs.mean())), float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))

    def with_load(self, rate: float, load: Load | None) -> "Capacity":
        """Return the capacity that also knows this load, after what it had at that rate; None: generator-bound.

        A load that does not hold only because of requests which the generator sent late, by half the bound and more, is
        generator-bound too.
        """
        others = [point for point in self.points if point.rate != rate]
        new = Point(rate, None, 0, GENERATOR_BOUND)
        if load:
            load = merged([*(point.load for point in self.points if point.rate == rate), load])
            on_time = load.latency_s[load.lag_s <= self.bound_s / 2]
            over, of_server = load.over(self.bound_s), int((on_time > self.bound_s).sum())
            alike = dependence(load.latency_s > self.bound_s, rate * self.bound_s)
            found = verdict(load.requests / alike, over / alike, self.percentile)
            if found == FAILS and verdict(len(on_time) / alike, of_server / alike, self.percentile) != FAILS:
                found = GENERATOR_BOUND
            new = Point(rate, load, over, found)
        return replace(self, points=tuple(sorted([*others, new], key=lambda point: point.rate)))


def capacity(
    at: At,
    bound_s: float,
    low: float,
    high: float,
    *,
    percentile: float = 0.99,
    ratio: float = 1.15,
    bounds: float = LEAST_BOUNDS,
    chunks: int = 4,
    peak: float = float("inf"),
    seed: int = 0,
) -> Capacity:
    """Search the highest rate whose percentile is within the bound, geometrically from `low` to `high`.

    Rates are doubled until one does not hold, then the widest gap between rates is halved until it is below `ratio`.
    bounds: shortest load, as a multiple of the bound. chunks: loads at one rate, at most; the first may decide. peak:
    the generator's own, from `generator_peak`: above half of it nothing is tried.
    """
    found, rate = _unknown(bound_s, percentile), float(positive(low, "low"))
    at_least(high, low, "high")
    while rate:
        for chunk in range(chunks):
            found = found.with_load(rate, _offered(at, rate, found, bounds, peak, seed + chunk))
            if rate > peak / 2 or any(one.rate == rate and one.verdict in (HOLDS, FAILS) for one in found.points):
                break
        rate = _next_rate(found, high, ratio)
    return found


def enclosing(
    at: At,
    rates: Sequence[float],
    near: float,
    bound_s: float,
    *,
    percentile: float = 0.99,
    bounds: float = LEAST_BOUNDS / 4,
    seed: int = 0,
) -> list[Load]:
    """Offer load at some of the rates, which ascend: one round of a comparison, whose rounds are merged later.

    The first is next above `near`, an estimate of the capacity, or next below it (odd seeds); then the higher ones in
    turn while the percentile is within the bound, or the lower ones until it is. bounds: see `requests_of`."""
    low, high, loads = -1, len(rates), []
    rung = min(max(int(np.searchsorted(rates, near)) - seed % 2, 0), high - 1)
    while low < rung < high:
        loads.append(at(rates[rung], requests_of(rates[rung], bound_s, percentile, bounds), seed * len(rates) + rung))
        within = loads[-1].over(bound_s) <= (1 - percentile) * loads[-1].requests
        low, high, rung = (rung, high, rung + 1) if within else (low, rung, rung - 1)
    return loads


def pooled(loads: Sequence[Load], bound_s: float, percentile: float = 0.99) -> Capacity:
    """Return the capacity that all loads show together, those of one rate merged in their order."""
    found = _unknown(bound_s, percentile)
    for rate in sorted({one.rate for one in loads}):
        found = found.with_load(rate, merged([one for one in loads if one.rate == rate]))
    return found


def requests_of(rate: float, bound_s: float, percentile: float, bounds: float) -> int:
    """Return the requests of a load that lasts so many bounds, at least so many that two are beyond the percentile."""
    return max(math.ceil(2 / (1 - percentile) - 1e-6), round(rate * bounds * bound_s))


def crossing(loads: Sequence[Load], bound_s: float, percentile: float = 0.99) -> float:
    """Return the rate above which more than 1 − percentile of the requests are over the bound, in one round of loads.

    loads: of `enclosing`. It is between two of them, on log scales; the first or the last rate if it is beyond."""
    shares = {one.rate: max(one.over(bound_s), 0.5) / one.requests for one in loads}
    within = sum(share <= 1 - percentile for share in shares.values())
    ends = sorted(shares.items())[max(0, within - 1) : within + 1]
    return float(np.exp(np.interp(np.log(1 - percentile), *np.log(ends).T[::-1])))


def generator_peak(
    bodies: Sequence[bytes], bound_s: float, high: float = 8_000, *, percentile: float = 0.99, **options: Any
) -> float:
    """Return the generator's own capacity, requests per second: against a server that does nothing, within the bound.

    Above half of it nothing is claimed. `high` is tried first, then its half, six times; 0: none held. options: of
    `offer`, as for the service.
    """
    with Service("the null server", _NULL_SERVER) as null:
        url, asked = f"http://127.0.0.1:{null.start().port}/", _unknown(bound_s, percentile)
        at = lambda rate, requests, seed: offer(url, bodies, rate, requests, seed=seed, **options)  # noqa: E731
        for rate in (high / 2**halved for halved in range(6)):
            load = _offered(at, rate, asked, 1 / bound_s, float("inf"), 0)
            if early_stopping(load.requests, load.over(bound_s), percentile):
                return rate
    return 0.0


def _unknown(bound_s: float, percentile: float) -> Capacity:
    return Capacity(positive(bound_s, "bound_s"), at_least(percentile, 0.5, "percentile", most=0.9999))


def _offered(at: At, rate: float, asked: Capacity, bounds: float, peak: float, seed: int) -> Load | None:
    """Offer load at one rate; None: the rate is above half of the generator's peak."""
    requests = max(least_requests(0, asked.percentile), round(rate * bounds * asked.bound_s))
    return at(rate, requests, seed) if rate <= peak / 2 else None


def _next_rate(found: Capacity, high: float, ratio: float) -> float:
    """Return the rate to try next; 0: none."""
    top = found.points[-1]
    if found.upper == float("inf"):
        return min(top.rate * 2, high) if top.load and top.rate < high else 0.0
    rates = [point.rate for point in found.points if 0 < found.lower <= point.rate <= found.upper]
    gaps = [(right / left, (left * right) ** 0.5) for left, right in itertools.pairwise(rates)]
    gap, middle = max(gaps, default=(0.0, 0.0))
    return middle if gap > ratio else 0.0
