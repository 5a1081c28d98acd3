"""From paired readings to an interval, a noise floor and a verdict. Pure functions over numbers.

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
    MAX_LOOKS,
    MIN_ROUNDS,
    effective_starts,
    log_ratios,
    sign_test_interval,
)

LUCK_OF_A_START = 0.10
"""Two processes of one program differ for all their life, by where their memory happens to lie: mostly by under 3 %, in
one pair of ten by 6 % and more (measured on short Python loops). No round in the same processes shows that, only fresh
processes do; so after k sets of processes no difference under 10 % / k is called."""
MIN_SETS = 4
"""Sets of processes from which on their spread is part of the interval."""
SETS_CONFIDENCE = 0.9
"""Of the interval over sets. With it and the floor, a luck of 2.6 % a process (the largest seen) gives under 1 % of
false calls however many rounds are taken, and a true 10 % is called in nine cases of ten from four sets on."""
UNSTABLE_FACTOR = 3
"""If A/A itself would be called different, a difference must be this many times the far end of its interval."""
PRECISION = 0.10
"""Half-width of a log-ratio's interval at which a speed-up is known well enough to stop: by how much is asked, too."""
BOOTSTRAPS = 400


def plan_looks(rounds: int) -> list[int]:
    """Return the numbers of rounds at which to look, at most six, geometrically spaced up to `rounds`.

    >>> plan_looks(100)
    [10, 16, 25, 40, 63, 100]
    """
    if rounds <= MIN_ROUNDS:
        return [max(1, rounds)]
    return sorted({round(n) for n in np.geomspace(MIN_ROUNDS, rounds, MAX_LOOKS)})


def sets_interval(differences: Sequence[float], starts: Sequence[int]) -> tuple[float, float] | None:
    """Return Student's 90 % interval over the medians of the sets of processes; None under four sets.

    starts: numbers of rounds after which all processes were fresh. Rounds in the same processes share their luck, so
    that any number of them can agree on a difference that fresh processes don't show.
    """
    cuts = [start for start in starts if start < len(differences)]
    if len(cuts) < MIN_SETS:
        return None
    from scipy.stats import t

    medians = [np.median(part) for part in np.split(np.asarray(differences), cuts[1:])]
    reach = t.ppf((1 + SETS_CONFIDENCE) / 2, len(medians) - 1) * np.std(medians, ddof=1) / math.sqrt(len(medians))
    return float(np.mean(medians) - reach), float(np.mean(medians) + reach)


def effect(differences: Sequence[float], starts: Sequence[int] = (0,)) -> Effect | None:
    """Return the paired ratio with its interval at one look; None without any round.

    The interval is the exact sign-test one over all rounds, of confidence 1 − alpha/6, so that over at most six looks
    together the chance to miss the true median is at most alpha; widened, from four sets of processes on, to hold the
    interval over the sets as well (see `sets_interval`).
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


def noise_floor(noise: Effect | None, starts: float) -> float | None:
    """Return the smallest log-ratio that can count; None without an interval of A/A.

    noise: the baseline's ratio to itself; starts: sets of fresh processes seen, see `effective_starts`. The floor is
    what the baseline shows against itself, and at least the luck that so many starts leave. If A/A itself would be
    called different, the instrument is biased, and the floor rises to three times the far end of A/A's interval.
    """
    if noise is None or noise.low is None or noise.high is None:
        return None
    low, high, luck = math.log(noise.low), math.log(noise.high), LUCK_OF_A_START / starts
    if low > luck or high < -luck:
        return UNSTABLE_FACTOR * max(abs(low), abs(high))
    return max(luck, abs(math.log(noise.speedup)))


def verdict(found: Effect | None, floor: float | None, target: float) -> Verdict:
    """Return `faster`, `slower`, `same` or `unresolved`, from speed alone.

    found: the paired ratio; floor: the noise floor; target: the largest difference that may be called `same`, as 0.03.
    """
    if found is None or floor is None or found.low is None or found.high is None or found.rounds < MIN_ROUNDS:
        return "unresolved"
    low, high = math.log(found.low), math.log(found.high)
    if low > floor:
        return "faster"
    if high < -floor:
        return "slower"
    return "same" if floor <= target and -target <= low and high <= target else "unresolved"


def exponent(
    sizes: Sequence[float], seconds: Sequence[Sequence[float]], seed: int
) -> tuple[float, float, float] | None:
    """Return the slope of log(seconds) over log(size) with its 95 % bootstrap interval; None under two sizes.

    sizes: shape (points,), above 0; seconds: the readings at each size; one without any is left out. Least squares
    through the medians; the interval covers the noise of the readings, not a bend of the curve.
    """
    taken = [(size, s) for size, s in zip(sizes, seconds, strict=True) if len(s)]
    if len({size for size, _ in taken}) < 2:
        return None
    sizes, seconds = zip(*taken, strict=True)
    x = np.log(np.asarray(sizes, float))
    logs = [np.log(np.maximum(s, 1e-12)) for s in seconds]
    random = np.random.default_rng(seed)
    medians = np.array([[np.median(random.choice(s, len(s))) for s in logs] for _ in range(BOOTSTRAPS)])
    slopes = np.polyfit(x, medians.T, 1)[0]
    estimate = np.polyfit(x, [np.median(s) for s in logs], 1)[0]
    low, high = np.quantile(slopes, [0.025, 0.975])
    return float(estimate), float(min(low, estimate)), float(max(high, estimate))


def overtaking(sizes: Sequence[float], effects: Sequence[Effect | None], verdicts: Sequence[Verdict]) -> dict:
    """Return the fields `overtakes`, `from_size`, `from_low`, `from_high` of a `Scaling`.

    The crossing is found between the last size at which the variant is not faster and the first from which on it is
    faster at every size, by interpolating log(speed-up) over log(size); its interval by doing so with the ends of the
    intervals, within the sizes measured.
    """
    faster = [v == "faster" for v in verdicts]
    if not faster or effects[-1] is None:
        return {"overtakes": "unresolved"}
    if all(faster):
        return {"overtakes": "always"}
    if not faster[-1]:
        never = all(v in ("slower", "same") for v in verdicts)
        return {"overtakes": "never" if never else "unresolved"}
    first = len(faster) - faster[::-1].index(False)
    known = [e for e in effects if e is not None and e.low and e.high]
    if len(known) < len(effects):
        return {"overtakes": "unresolved"}
    x = np.log(np.asarray(sizes, float))
    middle = _crossing(x, [math.log(e.speedup) for e in effects], first)
    early = _crossing(x, [math.log(e.high) for e in effects], first)
    late = _crossing(x, [math.log(e.low) for e in effects], first)
    return {"overtakes": "between", "from_size": middle, "from_low": min(early, middle), "from_high": max(late, middle)}


def _crossing(x: np.ndarray, y: Sequence[float], first: int) -> float:
    """Return the size at which y passes 0 on the way up to point `first`, held within the sizes measured."""
    for i in range(first, 0, -1):
        if y[i - 1] < 0 <= y[i]:
            return float(math.exp(x[i - 1] + (x[i] - x[i - 1]) * -y[i - 1] / (y[i] - y[i - 1])))
    return float(math.exp(x[first] if y[first] < 0 else x[0] if y[0] >= 0 else x[first - 1]))


def scaling(
    sizes: Sequence[float],
    seconds: Sequence[Sequence[float]],
    effects: Sequence[Effect | None],
    verdicts: Sequence[Verdict],
    seed: int,
) -> Scaling:
    """Return how one variant behaves over `sizes` (ascending), from its readings, effects and verdicts at each."""
    slope = exponent(sizes, seconds, seed)
    low_high = dict(zip(("exponent", "exponent_low", "exponent_high"), slope or (None, None, None), strict=True))
    if all(v == "baseline" for v in verdicts):
        return Scaling(**low_high, overtakes="baseline")
    return Scaling(**low_high, **overtaking(sizes, effects, verdicts))


def breakeven_calls(extra_preparation_s: float, saving_s: float) -> float | None:
    """Return the calls after which the extra preparation is paid for by the saving a call; None if never.

    >>> breakeven_calls(10.0, 0.5)
    20.0
    """
    if extra_preparation_s <= 0:
        return 0.0
    return extra_preparation_s / saving_s if saving_s > 0 else None
