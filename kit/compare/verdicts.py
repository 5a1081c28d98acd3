"""The change between two measurements of one variant, taken at different times: an interval and a verdict. Pure.

Everything is a log of a ratio or of 1/seconds: above 0 means faster. The rounds of one session show the variance within
it, not between processes or sessions (memory layout, hash seeds, load by others): both are estimated and added.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kit.record import intervals
from kit.record.document import CONTROL, Session
from kit.record.intervals import MIN_ROUNDS, effective_starts, log_ratios, sign_test_interval

Verdict = Literal["faster", "slower", "equivalent", "inconclusive"]

CONFIDENCE = 0.95
PRIOR_PROCESS = 0.03
"""Standard deviation between process restarts, as a log-ratio, before any is seen."""
PRIOR_SESSION = 0.02
"""Standard deviation between sessions that no process restart shows (clock rate, memory bus), as a log-ratio, before
any run is repeated. Of 29,124 pairs of sessions of one program it lowers false positives from 4.1 to 3.4 %, and of
13,440 that took 30 % longer detections from 39 to 38 %."""
PRIOR_FREEDOM = 4.0
"""Degrees of freedom that each of these priors is worth."""
LASTING = 1.4
"""Noise within a session, as a multiple, that lasts for whole sessions: 0.6 to 1.1 was measured, and 1.4 gave 4 % false
positives on a machine whose load rose from 1 to 11."""
EQUIVALENT = 0.10
"""A change is equivalent if its interval lies within ±10 %."""


@dataclass(frozen=True)
class Level:
    """One side's measurement of one variant: a log, its interval over rounds, and what else moves it."""

    middle: float
    low: float
    high: float
    sets: tuple[tuple[float, ...], ...]
    """Median of each process restart, one tuple per session; `sessions` has the median of each session."""
    sessions: tuple[float, ...]
    starts: float
    """Effective number of process restarts (Kish)."""
    lasting: float
    """Standard deviation beyond what A/A shows, taken to last for a whole session."""
    floor: float = 0.0
    """Difference of the baseline from itself."""


@dataclass(frozen=True)
class Change:
    """B against A, as a ratio: above 1 = B is faster."""

    speedup: float
    low: float
    high: float
    verdict: Verdict

    @property
    def strength(self) -> float:
        """Distance from no change in half-widths of the interval: above 1 where it is significant."""
        near = self.low if self.speedup >= 1 else self.high
        width = abs(math.log(self.speedup) - math.log(near))
        return abs(math.log(self.speedup)) / width if width > 0 else math.inf


def relative(session: Session, baseline: str, name: str) -> Level | None:
    """Return log(baseline s ÷ variant s), paired within rounds; None for the baseline, without ten rounds or A/A."""
    if name == baseline or not {baseline, name, CONTROL} <= session.measurements.keys():
        return None
    own = log_ratios(session.measurements[baseline].wall_s, session.measurements[name].wall_s)
    control = log_ratios(session.measurements[baseline].wall_s, session.measurements[CONTROL].wall_s)
    floor = own_floor(session)
    if min(len(own), len(control)) < MIN_ROUNDS or floor is None:
        return None
    # What A/A shows too, plus one standard error, is the machine's noise, which pairing and rounds average.
    shared = _spread(control) ** 2 * (1 + 3.3 / math.sqrt(len(own)))
    lasting = math.sqrt(max(0.0, _spread(own) ** 2 - shared))
    return _level(own, session.starts, lasting, floor)


def absolute(session: Session, name: str) -> Level | None:
    """Return −log(seconds) of one variant; None without ten rounds."""
    if name not in session.measurements or len(session.measurements[name].wall_s) < MIN_ROUNDS:
        return None
    logs = -np.log(np.maximum(np.asarray(session.measurements[name].wall_s, float), 1e-12))
    return _level(logs, session.starts, _spread(logs), 0.0)


def own_floor(session: Session) -> float | None:
    """Return the baseline's difference from itself, as a log: all of the recorded floor if that is significant; None
    where A/A has no interval."""
    noise = session.noise
    if noise is None or not noise.low or not noise.high or noise.speedup <= 0:
        return None
    apart = noise.low > 1 or noise.high < 1
    return max(abs(math.log(noise.speedup)), math.log1p(session.noise_floor or 0.0) if apart else 0.0)


def _level(logs: np.ndarray, starts: Sequence[int], lasting: float, floor: float) -> Level | None:
    interval = sign_test_interval(logs, intervals.CONFIDENCE)
    if interval is None:
        return None
    cuts = [start for start in starts if 0 < start < len(logs)]
    sets = tuple(float(np.median(part)) for part in np.split(logs, cuts))
    effective = effective_starts([0, *cuts], len(logs))
    middle = float(np.median(logs))
    return Level(middle, *interval, (sets,), (middle,), effective, lasting, floor)


def _spread(logs: np.ndarray) -> float:
    """Return the standard deviation by the middle half, which bursts of noise don't move."""
    return float(np.subtract(*np.percentile(logs, [75, 25]))) / 1.349


def pooled(levels: Sequence[Level]) -> Level:
    """Return several sessions of one thing as one: their mean."""
    n, middle = len(levels), float(np.mean([one.middle for one in levels]))
    return replace(
        levels[0],
        middle=middle,
        low=middle - math.hypot(*(one.middle - one.low for one in levels)) / n,
        high=middle + math.hypot(*(one.high - one.middle for one in levels)) / n,
        sets=tuple(part for one in levels for part in one.sets),
        sessions=tuple(one.middle for one in levels),
        starts=sum(one.starts for one in levels),
        lasting=math.hypot(*(one.lasting for one in levels)) / n,
        floor=math.hypot(*(one.floor for one in levels)) / n,
    )


def change(a: Level, b: Level, floor: float = 0.0) -> Change:
    """Return the change from A to B. floor: a log below which no change is significant.

    The intervals over rounds are combined by their recovered variances (Zou and Donner, Statistics in Medicine 27,
    2008); the variance between processes and sessions, what lasts for a session and A/A are added likewise.
    """
    middle = b.middle - a.middle
    processes = _half_width((*a.sets, *b.sets), PRIOR_PROCESS) * math.sqrt(1 / a.starts + 1 / b.starts)
    runs = 1 / len(a.sessions) + 1 / len(b.sessions)  # only repeated runs divide the variance between sessions
    sessions = _half_width((a.sessions, b.sessions), PRIOR_SESSION) * math.sqrt(runs)
    more = (processes, sessions, 1.96 * math.hypot(a.lasting, b.lasting) * LASTING, a.floor, b.floor)
    low = middle - math.hypot(b.middle - b.low, a.high - a.middle, *more)
    high = middle + math.hypot(b.high - b.middle, a.middle - a.low, *more)
    ratios = np.exp(np.clip([middle, low, high], -700, 700)).tolist()
    return Change(*ratios, verdict(low, high, floor))


def _half_width(groups: Sequence[Sequence[float]], prior: float) -> float:
    """Return the half-width of one value by its variance within groups, which has few degrees of freedom and is shrunk
    to a prior (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004)."""
    from scipy.stats import t

    squares = sum(float(np.square(np.subtract(part, np.mean(part))).sum()) for part in groups)
    freedom = PRIOR_FREEDOM + sum(len(part) - 1 for part in groups)
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt((PRIOR_FREEDOM * prior**2 + squares) / freedom)


def verdict(low: float, high: float, floor: float = 0.0) -> Verdict:
    """Return the verdict of an interval of logs: faster or slower beyond `floor`, equivalent within ±10 %."""
    if low > floor:
        return "faster"
    if high < -floor:
        return "slower"
    limit = math.log1p(EQUIVALENT)
    return "equivalent" if -limit <= low and high <= limit else "inconclusive"


def needed_strength(rows: int) -> float:
    """Return the strength that one of so many unchanged rows reaches in one case of twenty (Bonferroni).

    >>> round(needed_strength(20), 2)
    1.54
    """
    from scipy.stats import norm

    alpha = (1 - CONFIDENCE) / max(rows, 1)
    return float(norm.ppf(1 - alpha / 2) / norm.ppf((1 + CONFIDENCE) / 2))
