"""Statistics over seeds: shares that reached a target, expected running time.

A search that did not reach its target is censored: it counts as not there yet, as in survival analysis. All intervals
here are 95 % intervals over seeds; they cover what a seed does, not the noise of a machine.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from kit.measure.result import Result

RESAMPLES = 2000
ALPHA = 0.05

Estimate = tuple[float, float, float]
"""Value, lower end and upper end of its interval."""


@dataclass(frozen=True)
class Seeds:
    """One search over the rounds of a comparison, a seed each. Arrays: [seeds]."""

    seconds: np.ndarray
    reached: np.ndarray
    metrics: Mapping[str, np.ndarray]


def of(result: Result) -> dict[str, Seeds]:
    """Return every measured search by name, the baseline first."""
    point, found = result.record.points[-1], {}
    for variant in point.variants:
        if variant.state == "measured" and variant.session is not None:
            rounds = point.sessions[variant.session].measurements[variant.name]
            metrics = {name: np.array(values, float) for name, values in rounds.metrics.items()}
            found[variant.name] = Seeds(np.array(rounds.wall_s), metrics.get("reached", np.ones(1)) > 0, metrics)
    return found


def share_reached(seeds: Seeds) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return times [events], and the share of seeds at the target by then with its interval (Kaplan and Meier 1958)."""
    from scipy.stats import CensoredData, binomtest, ecdf

    if not seeds.reached.any():  # no event, no curve: a share of 0 while it was observed, below its exact upper end
        upper = binomtest(0, len(seeds.seconds)).proportion_ci().high
        return np.sort(seeds.seconds)[[0, -1]], np.zeros(2), np.zeros(2), np.full(2, upper)
    data = CensoredData(uncensored=seeds.seconds[seeds.reached], right=seeds.seconds[~seeds.reached])
    cdf = ecdf(data).cdf
    with warnings.catch_warnings():  # where all seeds are there, the interval has no width, and SciPy warns of it
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = cdf.confidence_interval()
    return cdf.quantiles, cdf.probabilities, interval.low.probabilities, interval.high.probabilities


def expected_s(seeds: Seeds) -> Estimate:
    """Return the expected running time: seconds of all seeds ÷ seeds that reached the target (Hansen et al. 2009)."""
    return _bootstrap(lambda s, r: s.sum(-1) / r.sum(-1), seeds.seconds, seeds.reached)


def speedup(seeds: Seeds, baseline: Seeds) -> Estimate:
    """Return the baseline's expected running time ÷ this one's, paired by seed."""
    n = min(len(seeds.seconds), len(baseline.seconds))
    samples = (x[:n] for x in (seeds.seconds, seeds.reached, baseline.seconds, baseline.reached))
    return _bootstrap(lambda s, r, base_s, base_r: base_s.sum(-1) / base_r.sum(-1) / (s.sum(-1) / r.sum(-1)), *samples)


def _bootstrap(statistic: Callable, *samples: np.ndarray) -> Estimate:
    """Return a statistic with its percentile interval; the interval is not finite where a resample has no success."""
    random, n = np.random.default_rng(0), len(samples[0])
    rows, arrays = random.integers(n, size=(RESAMPLES, n)), [np.asarray(sample, float) for sample in samples]
    with np.errstate(divide="ignore", invalid="ignore"):
        value, drawn = statistic(*arrays), statistic(*(array[rows] for array in arrays))
    low, high = np.quantile(np.where(np.isnan(drawn), 1.0, drawn), [ALPHA / 2, 1 - ALPHA / 2], method="nearest")
    return float(value), float(low), float(high)


def beats(losses: np.ndarray, default: float) -> Estimate:
    """Return the share of seeds whose loss is below the defaults', with its exact interval (Clopper and Pearson); NaN,
    where a search found nothing, is not below."""
    from scipy.stats import binomtest

    test = binomtest(int(np.sum(losses < default)), len(losses))
    interval = test.proportion_ci()
    return test.statistic, float(interval.low), float(interval.high)
