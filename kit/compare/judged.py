"""What two measurements of one thing, taken at different times, allow to say: an interval and a verdict. Pure.

Everything is a log of a ratio or of 1/seconds: above 0 means faster. The readings of one session tell how sure its own
figure is, and not how another session would have come out: fresh processes lie elsewhere in memory, strings hash anew,
other programs load other parts of the machine. Both are estimated from the readings and added to the interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kit.record import intervals
from kit.record.document import CONTROL, Session
from kit.record.intervals import MIN_ROUNDS, effective_starts, log_ratios, sign_test_interval

Verdict = Literal["faster", "slower", "same", "cannot be told"]

CONFIDENCE = 0.95
"""Of the interval of a change."""
PRIOR_LUCK = 0.03
"""Typical luck of a set of fresh processes, as a log-ratio, before any is seen."""
PRIOR_SESSION = 0.02
"""Typical luck of a whole session that only one variant has and that no fresh process changes (the clock rate, what a
neighbour takes of the memory bus), as a log-ratio, before any run is repeated. Of 29,124 pairs of sessions of one
program it lowers the share that is called from 4.1 to 3.4 %, and of 13,440 that took 30 % longer from 39 to 38 %."""
PRIOR_FREEDOM = 4.0
"""Degrees of freedom that each of these beliefs is worth."""
LASTING = 1.4
"""Noise that comes and goes within a session lasts for whole sessions too: 0.6 to 1.1 times as much was measured, and
with 1.4 times as much 4 % of variants that did not change were called, on a machine whose load rose from 1 to 11."""
SAME = 0.10
"""A change is called same if its interval lies within ±10 %."""


@dataclass(frozen=True)
class Level:
    """What one side says of one variant: a log, its interval over rounds, and what else moves it."""

    middle: float
    low: float
    high: float
    sets: tuple[tuple[float, ...], ...]
    """Medians of the sets of fresh processes, one tuple a session."""
    sessions: tuple[float, ...]
    """Median of each session."""
    starts: float
    """How many sets of processes of equal size would average luck as well."""
    lasting: float
    """Standard deviation of what only this variant depends on, taken to last for a whole session."""
    floor: float = 0.0
    """What the instrument showed where nothing differs: the baseline against itself."""
    rounds: int = 0


@dataclass(frozen=True)
class Change:
    """B against A, as a ratio: above 1 = B is faster."""

    ratio: float
    low: float
    high: float
    verdict: Verdict

    @property
    def strength(self) -> float:
        """How far it lies from no change, in half-widths of its interval: above 1 where that is told from none."""
        near = self.low if self.ratio >= 1 else self.high
        width = abs(math.log(self.ratio) - math.log(near))
        return abs(math.log(self.ratio)) / width if width > 0 else math.inf

    @property
    def inverse(self) -> "Change":
        """The same change told the other way round."""
        return Change(1 / self.ratio, 1 / self.high, 1 / self.low, self.verdict)


def relative(session: Session, baseline: str, name: str) -> Level | None:
    """Return log(baseline s ÷ variant s), paired within rounds; None without ten rounds, or without A/A."""
    if not {baseline, name, CONTROL} <= session.readings.keys():
        return None
    own = log_ratios(session.readings[baseline].wall_s, session.readings[name].wall_s)
    control = log_ratios(session.readings[baseline].wall_s, session.readings[CONTROL].wall_s)
    floor = own_floor(session)
    if min(len(own), len(control)) < MIN_ROUNDS or floor is None:
        return None
    # What A/A shows too, give or take one standard error, is the machine's noise, which pairing and rounds average.
    shared = _spread(control) ** 2 * (1 + 3.3 / math.sqrt(len(own)))
    lasting = math.sqrt(max(0.0, _spread(own) ** 2 - shared))
    return _level(own, session.starts, lasting, floor)


def absolute(session: Session, name: str) -> Level | None:
    """Return −log(seconds) of one variant; None without ten rounds."""
    if name not in session.readings or len(session.readings[name].wall_s) < MIN_ROUNDS:
        return None
    logs = -np.log(np.maximum(np.asarray(session.readings[name].wall_s, float), 1e-12))
    return _level(logs, session.starts, _spread(logs), 0.0)


def own_floor(session: Session) -> float | None:
    """Return how far the baseline was from itself, as a log: all of the recorded floor if it was told apart from
    itself, None where A/A has no interval."""
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
    return Level(middle, *interval, (sets,), (middle,), effective, lasting, floor, len(logs))


def _spread(logs: np.ndarray) -> float:
    """Return the standard deviation of the middle half of the readings, which bursts of noise don't move."""
    return float(np.subtract(*np.percentile(logs, [75, 25]))) / 1.349


def pooled(levels: Sequence[Level]) -> Level:
    """Return several sessions of one thing as one: their mean."""
    n = len(levels)
    if n == 1:
        return levels[0]
    middle = float(np.mean([one.middle for one in levels]))
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
        rounds=sum(one.rounds for one in levels),
    )


def change(a: Level, b: Level, floor: float = 0.0) -> Change:
    """Return how B stands to A. floor: a log that no change under it is believed to pass.

    The intervals over rounds are combined by their recovered variances (Zou and Donner, Statistics in Medicine 27,
    2008); the luck of processes and of sessions, what lasts for a session and what A/A showed are added likewise.
    """
    middle = b.middle - a.middle
    lucks = _luck_of_processes(a, b), _luck_of_sessions(a, b)
    more = (*lucks, 1.96 * math.hypot(a.lasting, b.lasting) * LASTING, a.floor, b.floor)
    low = middle - math.hypot(b.middle - b.low, a.high - a.middle, *more)
    high = middle + math.hypot(b.high - b.middle, a.middle - a.low, *more)
    return Change(*map(_ratio, (middle, low, high)), verdict(low, high, floor))


def _luck_of_processes(a: Level, b: Level) -> float:
    """Return the half-width that the luck of processes leaves; sets of fresh ones divide it."""
    return _half_width((*a.sets, *b.sets), PRIOR_LUCK) * math.sqrt(1 / a.starts + 1 / b.starts)


def _luck_of_sessions(a: Level, b: Level) -> float:
    """Return the half-width that the luck of sessions leaves; only runs that are repeated divide it."""
    return _half_width((a.sessions, b.sessions), PRIOR_SESSION) * math.sqrt(1 / len(a.sessions) + 1 / len(b.sessions))


def _half_width(groups: Sequence[Sequence[float]], prior: float) -> float:
    """Return the half-width of one value, of its spread within groups.

    That variance has few degrees of freedom, and is drawn towards the one of many programs (Smyth, Statistical
    Applications in Genetics and Molecular Biology 3, 2004)."""
    from scipy.stats import t

    squares = sum(float(np.square(np.subtract(part, np.mean(part))).sum()) for part in groups)
    freedom = PRIOR_FREEDOM + sum(len(part) - 1 for part in groups)
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt((PRIOR_FREEDOM * prior**2 + squares) / freedom)


def verdict(low: float, high: float, floor: float = 0.0) -> Verdict:
    """Return what an interval of logs allows to say: faster or slower beyond `floor`, same within ±10 %."""
    if low > floor:
        return "faster"
    if high < -floor:
        return "slower"
    limit = math.log1p(SAME)
    return "same" if -limit <= low and high <= limit else "cannot be told"


def needed_strength(rows: int) -> float:
    """Return the strength that, among so many rows in which nothing changed, one reaches in one case of twenty
    (Bonferroni).

    >>> round(needed_strength(20), 2)
    1.54
    """
    from scipy.stats import norm

    alpha = (1 - CONFIDENCE) / max(rows, 1)
    return float(norm.ppf(1 - alpha / 2) / norm.ppf((1 + CONFIDENCE) / 2))


def _ratio(log: float) -> float:
    return math.exp(min(max(log, -700.0), 700.0))
