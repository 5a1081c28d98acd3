"""Finds where a series changed its level, and tests each such point against chance. Pure functions over numbers.

Binary segmentation with a permutation test: the split of a stretch that sets its two sides furthest apart, by ranks so
that no outlier decides, counts if at most one in twenty random orders of the same values has a split as good; then
both sides are searched, each at half that chance.

A machine drifts, so that runs near each other are alike, and random orders alone are too weak a rival: the split is
scored as if there were as many fewer values as that takes away (`_independent`). Of 400 series of 10 to 60 values
without a change 2 to 7 % then have an alarm; where neighbours correlate by 0.3, 9 to 12 % (without it 12 to 26 %), by
0.6, 13 to 23 % (24 to 61 %). It has a price: of shifts by nine standard deviations in the midst of ten values it finds
79 %, of shifts by three in twenty values 94 %, and a level that goes and comes back needs more runs than eight each.

Sources: Pettitt, Applied Statistics 28 (1979); Matteson and James, Journal of the American Statistical Association 109
(2014), for the scheme and its test; Bayley and Hammersley, Supplement to the Journal of the Royal Statistical Society
8 (1946), for the effective number.
"""

import math
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
"""Chance of a false alarm on a series without any change."""
LEAST = 3
"""Values on each side of a change."""
FEWEST = 8
"""Values from which on a change can be told from chance at all: of seven, a split of three and four is too common."""
SEVERAL = 18
"""Values from which on a second change is allowed for before neighbours are taken to be alike."""
PERMUTATIONS = 1000


@dataclass(frozen=True)
class ChangePoint:
    """The level changed between the values before and at `index`."""

    index: int
    p: float
    """Share of random orders of the same values with a split as good."""


def find(values: list[float], seed: int = 0) -> list[ChangePoint]:
    """Return the points at which the level of `values` changed, in their order; none under eight values."""
    found = _search(np.asarray(values, float), 0, ALPHA, np.random.default_rng(seed))
    return sorted(found, key=lambda point: point.index)


def _search(values: np.ndarray, start: int, alpha: float, random: np.random.Generator) -> list[ChangePoint]:
    if len(values) < FEWEST:
        return []
    ranks = _ranks(values)
    scores = _scores(ranks[None, :])[0]
    split = int(scores.argmax()) + LEAST
    score = float(scores.max()) * math.sqrt(_independent(ranks))
    shuffled = random.permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)
    p = (1 + int((_scores(shuffled).max(axis=1) >= score - 1e-12).sum())) / (1 + PERMUTATIONS)
    if p > alpha:
        return []
    # Half of the chance for each side: over the whole series the chance of a false alarm stays what it was.
    left = _search(values[:split], start, alpha / 2, random)
    right = _search(values[split:], start + split, alpha / 2, random)
    return [*left, ChangePoint(start + split, p), *right]


def _independent(ranks: np.ndarray) -> float:
    """Return which share of the values counts as independent, by how far neighbours within a level are alike.

    What so few values show of it is too low on average, which is made up for (Kendall, Biometrika 41, 1954)."""
    depth = 2 if len(ranks) >= SEVERAL else 1
    rest = np.concatenate([level - level.mean() for level in _levels(ranks, depth)])
    squares = float(np.square(rest).sum())
    alike = float((rest[1:] * rest[:-1]).sum()) / squares if squares > 0 else 0.0
    alike = min(max(alike + (2 * depth - 1 + 4 * alike) / len(ranks), 0.0), 0.9)
    return (1 - alike) / (1 + alike)


def _levels(ranks: np.ndarray, depth: int) -> list[np.ndarray]:
    """Return the stretches that `depth` rounds of the best splits leave."""
    if depth == 0 or len(ranks) < 2 * LEAST:
        return [ranks]
    split = int(_scores((ranks - ranks.mean())[None, :])[0].argmax()) + LEAST
    return _levels(ranks[:split], depth - 1) + _levels(ranks[split:], depth - 1)


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values) - (len(values) + 1) / 2


def _scores(ranks: np.ndarray) -> np.ndarray:
    """Return |z| of the rank sum for each split of each row. ranks: shape (n, values) → (n, values − 2 · LEAST + 1)."""
    n = ranks.shape[1]
    sizes = np.arange(LEAST, n - LEAST + 1)
    sums = ranks.cumsum(axis=1)[:, sizes - 1]
    return np.abs(sums) / np.sqrt(sizes * (n - sizes) * (n + 1) / 12)


def shift(before: list[float], after: list[float]) -> tuple[float, float, float]:
    """Return by how much the level moved, with the 95 % interval: the median of all differences and the order
    statistics of the rank-sum test. Source: Hodges and Lehmann, Annals of Mathematical Statistics 34 (1963)."""
    differences = np.sort(np.subtract.outer(np.asarray(after, float), np.asarray(before, float)).ravel())
    m, n = len(before), len(after)
    spread = 1.96 * math.sqrt(m * n * (m + n + 1) / 12)
    k = max(0, math.floor(m * n / 2 - spread))
    return float(np.median(differences)), float(differences[k]), float(differences[-1 - k])
