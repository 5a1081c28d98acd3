"""From paired measurements to an interval, a noise floor and a verdict. Pure functions over numbers.

All differences are log-ratios to the baseline of the same round, log(baseline s / variant s): above 0 the variant is
faster. Their median is the estimate and an exact sign-test interval its uncertainty, so that no assumption on the
shape of the noise is made: on a shared machine it is neither normal nor symmetric.
"""

import math
from collections.abc import Sequence

import numpy as np

from kit.record.document import Effect, Scaling, Verdict
from kit.record.intervals import (  # noqa: F401 (read from here too)
    ALPHA,
    CONFIDENCE,
    MAX_INTERIM_ANALYSES,
    MIN_ROUNDS,
    effective_starts,
    log_ratios,
    sign_test_interval,
)

PROCESS_DIFFERENCE = 0.10
"""Two processes of one program differ for all their life, by where their memory happens to lie: mostly by under 3 %, in
one pair of ten by 6 % and more (short Python loops). No round in the same processes shows that, only fresh processes
do; so with k sets of processes no difference under 10 % / k counts."""
FEW_SETS_DIFFERENCE = 0.40
"""The same under four sets, whose spread can't be part of the interval yet: some programs have two states and keep the
one that they began in (zlib on short texts differed by 21 % in one set of processes, a product of small matrices on two
threads by 50 %)."""
MIN_SETS = 4
"""Sets of processes from which on their spread is part of the interval."""
SETS_CONFIDENCE = 0.9
"""Of the interval over sets. With it and the floor, a standard deviation between processes of 2.6 % (the largest seen)
gives under 1 % of false positives in any number of rounds; with four sets, a true 10 % is detected in nine of ten."""
UNSTABLE_FACTOR = 3
"""If A/A itself would be significantly different, a difference must be this many times the far end of its interval."""
PRECISION = 0.10
"""Half-width of a log-ratio's interval at which a speed-up is known well enough to stop: by how much is asked, too."""
MIN_SIZES, MIN_SIZE_RANGE = 4, 100.0
"""Sizes that a crossover takes, and the factor between the largest and the smallest of them."""


def plan_interim_analyses(rounds: int, per_set: int = 0) -> list[int]:
    """Return the numbers of rounds at which the data is analysed, at most six.

    The first after ten rounds, for differences that are beyond doubt; the others from the end of the fourth set of
    processes on, geometrically spaced up to `rounds`. per_set: rounds in a set; 0: there is one set only.

    >>> plan_interim_analyses(100), plan_interim_analyses(100, per_set=10)
    ([10, 16, 25, 40, 63, 100], [10, 40, 50, 63, 80, 100])
    """
    if rounds <= MIN_ROUNDS:
        return [max(1, rounds)]
    first = min(MIN_SETS * per_set, rounds) or MIN_ROUNDS
    later = np.geomspace(first, rounds, MAX_INTERIM_ANALYSES - (first > MIN_ROUNDS))
    return sorted({MIN_ROUNDS, *(round(n) for n in later)})


def sets_interval(differences: Sequence[float], starts: Sequence[int]) -> tuple[float, float] | None:
    """Return Student's 90 % interval over the medians of the sets of processes; None under four sets.

    starts: numbers of rounds after which all processes were fresh. Rounds in the same processes share where their
    memory lies, so that any number of them can agree on a difference that fresh processes don't show.
    """
    cuts = [start for start in starts if start < len(differences)]
    if len(cuts) < MIN_SETS:
        return None
    from scipy.stats import t

    medians = [np.median(part) for part in np.split(np.asarray(differences), cuts[1:])]
    quantile = t.ppf((1 + SETS_CONFIDENCE) / 2, len(medians) - 1)
    mean, half = float(np.mean(medians)), float(quantile * np.std(medians, ddof=1) / math.sqrt(len(medians)))
    return mean - half, mean + half


def effect(differences: Sequence[float], starts: Sequence[int] = (0,)) -> Effect | None:
    """Return the paired ratio with its interval at one interim analysis; None without any round.

    The interval is the exact sign-test one over all rounds, of confidence 1 − alpha/6, so that over at most six
    analyses together the chance to miss the true median is at most alpha; widened, with four sets of processes or more,
    to hold the interval over the sets as well (see `sets_interval`).
    """
    if not len(differences):
        return None
    interval = sign_test_interval(differences, CONFIDENCE)
    if interval and (sets := sets_interval(differences, starts)):
        interval = min(interval[0], sets[0]), max(interval[1], sets[1])
    drift, drift_p = _drift(differences)
    return Effect(
        speedup=math.exp(float(np.median(differences))),
        low=math.exp(interval[0]) if interval else None,
        high=math.exp(interval[1]) if interval else None,
        rounds=len(differences),
        confidence=CONFIDENCE,
        drift=drift,
        drift_p=drift_p,
    )


def _drift(differences: Sequence[float]) -> tuple[float | None, float | None]:
    if len(differences) < MIN_ROUNDS or np.ptp(differences) == 0:
        return None, None
    from scipy.stats import spearmanr

    found = spearmanr(np.arange(len(differences)), differences)
    return float(found.statistic), float(found.pvalue)


def half_width(found: Effect | None) -> float | None:
    """Return half the width of the interval of the log-ratio, as 0.03 for ±3 %; None without an interval."""
    if found is None or found.low is None or found.high is None:
        return None
    return (math.log(found.high) - math.log(found.low)) / 2


def process_floor(sets: float) -> float:
    """Return the least log-ratio that counts with so many sets of processes, see `effective_starts`."""
    return (PROCESS_DIFFERENCE if sets >= MIN_SETS - 0.5 else FEW_SETS_DIFFERENCE) / sets


def noise_floor(noise: Effect | None, sets: float) -> float | None:
    """Return the smallest log-ratio that can count; None without an interval of A/A.

    noise: the baseline's ratio to itself; sets: sets of fresh processes seen, see `effective_starts`. The floor is what
    the baseline shows against itself, and at least what so many sets leave. If A/A itself would be significantly
    different, the instrument is biased, and the floor rises to three times the far end of A/A's interval.
    """
    if noise is None or noise.low is None or noise.high is None:
        return None
    low, high, least = math.log(noise.low), math.log(noise.high), process_floor(sets)
    if low > least or high < -least:
        return UNSTABLE_FACTOR * max(abs(low), abs(high))
    return max(least, abs(math.log(noise.speedup)))


def verdict(found: Effect | None, floor: float | None, equivalence_margin: float) -> Verdict:
    """Return `faster`, `slower`, `equivalent` or `inconclusive`, from speed alone.

    found: the paired ratio; floor: the noise floor; equivalence_margin: the largest difference of equals, as 0.03.
    """
    if found is None or floor is None or found.low is None or found.high is None or found.rounds < MIN_ROUNDS:
        return "inconclusive"
    low, high = math.log(found.low), math.log(found.high)
    if low > floor:
        return "faster"
    if high < -floor:
        return "slower"
    margin = equivalence_margin
    return "equivalent" if floor <= margin and -margin <= low and high <= margin else "inconclusive"


def scaling(sizes: Sequence[float], effects: Sequence[Effect | None], verdicts: Sequence[Verdict]) -> Scaling:
    """Return from which size a variant is faster; sizes ascending, with its effect and verdict at each.

    A crossover is found between the last size at which the variant is not faster and the first from which on it is
    faster at every size, by interpolating log(speed-up) over log(size), with the ends of the intervals too. It takes at
    least four sizes over two decades; from fewer it is inconclusive.
    """
    if all(v == "baseline" for v in verdicts):
        return Scaling(overtakes="baseline")
    faster = [v == "faster" for v in verdicts]
    if not faster or any(e is None or not e.low or not e.high for e in effects):
        return Scaling(overtakes="inconclusive")
    if all(faster):
        return Scaling(overtakes="always")
    if not faster[-1]:
        never = all(v in ("slower", "equivalent") for v in verdicts)
        return Scaling(overtakes="never" if never else "inconclusive")
    if len(sizes) < MIN_SIZES or max(sizes) < MIN_SIZE_RANGE * min(sizes):
        return Scaling(overtakes="inconclusive")
    first = len(faster) - faster[::-1].index(False)
    x = np.log(np.asarray(sizes, float))
    ends = np.log([(e.speedup, e.high, e.low) for e in effects]).T
    middle, early, late = (_crossing(x, y, first) for y in ends)
    return Scaling(overtakes="between", from_size=middle, from_low=min(early, middle), from_high=max(late, middle))


def _crossing(x: np.ndarray, y: Sequence[float], first: int) -> float:
    """Return the size at which y passes 0 on the way up to point `first`, within the sizes measured."""
    for i in range(first, 0, -1):
        if y[i - 1] < 0 <= y[i]:
            return float(math.exp(x[i - 1] + (x[i] - x[i - 1]) * -y[i - 1] / (y[i] - y[i - 1])))
    return float(math.exp(x[first] if y[first] < 0 else x[0] if y[0] >= 0 else x[first - 1]))


def breakeven_calls(extra_setup_s: float, saving_s: float) -> float | None:
    """Return the calls after which the saving per call exceeds the extra setup; None if never.

    >>> breakeven_calls(10.0, 0.5)
    20.0
    """
    if extra_setup_s <= 0:
        return 0.0
    return extra_setup_s / saving_s if saving_s > 0 else None
