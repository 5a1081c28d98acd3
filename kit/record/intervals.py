"""From measurements to an interval, without assuming a shape of the noise. Pure functions over numbers."""

import functools
from collections.abc import Sequence

import numpy as np

ALPHA = 0.05
"""False positive rate over all interim analyses."""
MAX_INTERIM_ANALYSES = 6
"""Each takes an equal share of alpha (Bonferroni)."""
CONFIDENCE = 1 - ALPHA / MAX_INTERIM_ANALYSES
"""Of the interval over rounds at one interim analysis."""
MIN_ROUNDS = 10
"""Under this number of rounds there is no verdict."""


@functools.lru_cache(4096)
def _rank(n: int, confidence: float) -> int:
    from scipy.stats import binom

    return int(binom.ppf((1 - confidence) / 2, n, 0.5)) - 1


def sign_test_interval(differences: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Return the exact interval of the median of `differences` (binomial order statistics), or None with too few.

    Coverage is at least `confidence`, whatever the distribution. Source: Conover, Practical Nonparametric
    Statistics, 3rd edition, section 3.2.
    """
    n = len(differences)
    k = _rank(n, confidence) if n else -1
    if k < 0:
        return None
    ordered = np.sort(differences)
    return float(ordered[k]), float(ordered[n - 1 - k])


def log_ratios(baseline_s: Sequence[float], variant_s: Sequence[float]) -> np.ndarray:
    """Return log(baseline / variant) of each round that both took part in, shape (rounds,)."""
    n = min(len(baseline_s), len(variant_s))
    tiny = 1e-12  # a self-timed measurement may be 0
    baseline, variant = np.asarray(baseline_s[:n], float), np.asarray(variant_s[:n], float)
    return np.log(np.maximum(baseline, tiny)) - np.log(np.maximum(variant, tiny))


def effective_starts(starts: Sequence[int], rounds: int) -> float:
    """Return the effective number of process restarts (Kish's effective sample size).

    starts: numbers of rounds after which all processes were fresh, the first 0; rounds: how many were taken.

    >>> effective_starts([0, 10, 20], 30), effective_starts([0, 10], 11)
    (3.0, 1.2)
    """
    sizes = np.diff([*starts, max(rounds, starts[-1])])
    return round(float(sizes.sum() ** 2 / (sizes**2).sum()), 1) if rounds else 1.0
