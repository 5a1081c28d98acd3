"""Power of a comparison: which difference is detected in a given time, and which time a difference needs.

By formula, on noise that a session recorded. A difference is detected where its interval lies beyond the noise floor:
the smallest one that is, in nine of ten comparisons, is the floor, half of the interval, and 1.28 standard errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.measure import statistics
from kit.measure.session import MAX_STARTS, OVERTIME, RESTART_SHARE, Rules, fitting, rounds_of_a_set
from kit.record.document import CONTROL, Session

POWER = 0.9
"""Share of comparisons that must detect a difference."""
PROCESS_SD, PROCESS_WEIGHT = 0.02, 4
"""Standard deviation of the log-ratio of two processes of one program that is assumed before any was measured, and the
number of restarts that the assumption weighs as much as."""
LONGEST_S = 24 * 3600.0
"""Longest time budget considered."""


@dataclass(frozen=True)
class Noise:
    """What a comparison measured of its own noise.

    residuals: shape (rounds,), the log-ratios to the baseline of the variant that varied most, each less the median of
    its set of processes. process_sd: standard deviation of what fresh processes add to a log-ratio for all their life.
    round_s, restart_s: wall-clock seconds of a round, and of restarting all processes.
    """

    variant: str
    residuals: np.ndarray
    process_sd: float
    round_s: float
    restart_s: float
    max_rounds: int

    @property
    def variation(self) -> float:
        """Half of all rounds lie within ± this log-ratio."""
        return float(np.median(np.abs(self.residuals)))


@dataclass(frozen=True)
class Plan:
    """What a comparison does in a budget. starts: after which rounds all processes are fresh."""

    time_budget_s: float
    rounds: int
    starts: tuple[int, ...]


def noise_of(session: Session, baseline: str, max_rounds: int) -> Noise | None:
    """Return the noise that a session measured, of the variant that varied most; None under ten rounds, and for
    records of version 1."""
    base = session.measurements[baseline].wall_s if baseline in session.measurements else []
    ratios = {
        name: statistics.log_ratios(base, session.measurements[name].wall_s)
        for name in session.variants
        if name != baseline and len(session.measurements[name].wall_s) == len(base)
    }
    if len(base) < statistics.MIN_ROUNDS or CONTROL not in ratios or session.round_s is None:
        return None
    residuals = {name: _residuals(found, session.starts) for name, found in ratios.items()}
    others = [name for name in ratios if name != CONTROL] or [CONTROL]
    noisiest = max(others, key=lambda name: np.median(np.abs(residuals[name])))
    process_sd = _process_sd(list(ratios.values()), session.starts)
    return Noise(noisiest, residuals[noisiest], process_sd, session.round_s, session.restart_s or 0.0, max_rounds)


def plan(noise: Noise, time_budget_s: float) -> Plan:
    """Return what fits into a budget, as `Session.run` will do it."""
    rounds, restarts = fitting(Rules(time_budget_s, 0.0, noise.max_rounds), noise.round_s, noise.restart_s)
    fewest = min(statistics.MIN_ROUNDS, noise.max_rounds)
    if rounds < fewest and fewest * noise.round_s <= OVERTIME * time_budget_s:
        rounds = fewest
    share = rounds_of_a_set(rounds, restarts)
    later = range(max(share, statistics.MIN_ROUNDS), rounds, share)
    return Plan(time_budget_s, rounds, (0, *later)[: 1 + restarts])


def minimum_detectable_effect(noise: Noise, time_budget_s: float) -> float | None:
    """Return the smallest difference, as 0.04 for 4 %, that a budget detects with 90 % power; None if none is."""
    found = _detectable(noise, plan(noise, time_budget_s))
    return math.expm1(found) if math.isfinite(found) else None


def needed(noise: Noise, difference: float) -> Plan | None:
    """Return the shortest plan that detects a difference, as 0.03 for 3 %, with 90 % power; None where none does.

    None does below what `MAX_STARTS` restarts leave as the floor, or where `max_rounds` ends the rounds first.
    """
    restarts_s = (MAX_STARTS - 1) * noise.restart_s
    useful_s = max(restarts_s / RESTART_SHARE, 1.01 * noise.max_rounds * noise.round_s + restarts_s)
    low, high = statistics.MIN_ROUNDS * noise.round_s / OVERTIME, min(LONGEST_S, useful_s)
    wanted = math.log1p(difference)
    if _detectable(noise, plan(noise, high)) > wanted:
        return None
    while high / low > 1.03:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _detectable(noise, plan(noise, middle)) <= wanted else (middle, high)
    return plan(noise, high)


def _detectable(noise: Noise, planned: Plan) -> float:
    """Return the smallest log-ratio that a plan detects with 90 % power; inf where it takes too few rounds."""
    from scipy.stats import norm, t

    rounds, sets = planned.rounds, len(planned.starts)
    if rounds < statistics.MIN_ROUNDS:
        return math.inf
    ranks = np.array(statistics.sign_test_interval(np.arange(rounds), statistics.CONFIDENCE)) / (rounds - 1)
    half = float(np.ptp(np.quantile(noise.residuals, ranks))) / 2
    within = half / norm.ppf((1 + statistics.CONFIDENCE) / 2)
    error = math.hypot(within, noise.process_sd / math.sqrt(sets))  # of the median over all rounds
    if sets >= statistics.MIN_SETS:
        half = max(half, t.ppf((1 + statistics.SETS_CONFIDENCE) / 2, sets - 1) * error)
    floor = max(statistics.process_floor(statistics.effective_starts(planned.starts, rounds)), error)
    return floor + half + norm.ppf(POWER) * error


def _sets(ratios: np.ndarray, starts: Sequence[int]) -> list[np.ndarray]:
    return np.split(np.asarray(ratios), sorted({start for start in starts if 0 < start < len(ratios)}))


def _residuals(ratios: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Return the ratios less the median of their set, widened by what taking it from few rounds hides."""
    return np.concatenate([(s - np.median(s)) * (len(s) / max(1, len(s) - 1)) ** 0.5 for s in _sets(ratios, starts)])


def _process_sd(ratios: Sequence[np.ndarray], starts: Sequence[int]) -> float:
    """Return how much more the medians of sets of processes vary than their rounds explain, as a standard deviation,
    pooled over the variants; the assumption `PROCESS_SD` counts as four restarts."""
    squares, restarts = PROCESS_WEIGHT * PROCESS_SD**2, PROCESS_WEIGHT
    for sets in (_sets(found, starts) for found in ratios):
        if len(sets) > 1:
            within = np.mean([_error_of_median(one) ** 2 for one in sets])
            squares += (len(sets) - 1) * (np.var([np.median(one) for one in sets], ddof=1) - within)
            restarts += len(sets) - 1
    return math.sqrt(max(squares, 0.0) / restarts)


def _error_of_median(values: np.ndarray) -> float:
    """Return the standard error of the median, by the median absolute deviation and as if the noise were normal."""
    return 1.2533 * 1.4826 * float(np.median(np.abs(values - np.median(values)))) / len(values) ** 0.5
