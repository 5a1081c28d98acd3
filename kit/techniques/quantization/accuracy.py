"""The gate: how good a model's answers are beside FP32's, by the task's own metric, with the interval of a sample."""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from kit.errors import UserError
from kit.record import words
from kit.record.document import Quality
from kit.techniques.quantization.work import Subject

BOUND = 0.99
"""Share of FP32's quality that must be kept, as in MLPerf inference (its strict classes ask 0.999)."""

CONFIDENCE = 0.95
RESAMPLES = 2000
SLOW_RESAMPLES = 200
"""For a metric that must be computed anew each time."""


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the share of samples whose largest output is the right one. outputs: [N, classes]; targets: [N]."""
    return float(right(outputs, targets).mean())


def right(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return for each sample whether its largest output is the right one."""
    return outputs.argmax(-1) == targets


accuracy.each = right
"""A metric that is the mean of a number a sample names that number's function as `each`: it is resampled faster."""


@dataclass(frozen=True)
class Score:
    """How good outputs are beside FP32's.

    value, reference: the metric of both. share: value ÷ reference; low, high: its interval, for the sampling error of
    the evaluation: the samples drawn anew (paired bootstrap). agreement: how far they answer alike.
    """

    value: float
    reference: float
    share: float
    low: float
    high: float
    agreement: float
    samples: int

    def in_words(self, metric: str) -> str:
        """Say it in a clause: `accuracy 0.943 is 99.1 % [98.5, 99.7] of FP32's 0.952`."""
        value, reference = words.number(self.value), words.number(self.reference)
        return f"{metric} {value} is {self.kept()} of FP32's {reference}"

    def kept(self) -> str:
        """Return the share of FP32's quality with its interval: `99.1 % [98.5, 99.7]`."""
        low, high = (words.number(100 * end, 3) for end in (self.low, self.high))
        return f"{words.percent(self.share)} [{low}, {high}]"


def score(outputs: np.ndarray, reference: np.ndarray, subject: Subject) -> Score:
    """Return how good `outputs` are beside FP32's `reference`, both [N, …] for the whole evaluation set.

    Raise UserError where FP32 itself scores nothing of which a share could be taken.
    """
    value, best = (float(subject.metric(one, subject.targets)) for one in (outputs, reference))
    if not best > 0:
        raise UserError(
            f"FP32 itself scores {best:g} by {subject.metric_name}, of which no share can be taken; give a metric that "
            "is above 0 and grows with quality, as 1 / (1 + error)"
        )
    low, high = _interval(outputs, reference, subject)
    return Score(value, best, value / best, low, high, agreement(outputs, reference), len(outputs))


def agreement(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Return how far two models answer alike: of scores [N, classes] the share of samples with the same largest one, of
    a number a sample [N] or [N, 1] their concordance (Lin 1989: a correlation that sees shift and scale), of anything
    larger the mean cosine."""
    a, b = (one.reshape(len(one), -1).astype(np.float64) for one in (outputs, reference))
    if a.shape[1] == 1:
        covariance = np.mean((a - a.mean()) * (b - b.mean()))
        return float(2 * covariance / max(a.var() + b.var() + (a.mean() - b.mean()) ** 2, 1e-30))
    if outputs.ndim == 2:
        return float((a.argmax(-1) == b.argmax(-1)).mean())
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(1) / np.maximum(norms, 1e-30)))


def _interval(outputs: np.ndarray, reference: np.ndarray, subject: Subject) -> tuple[float, float]:
    number, random = len(outputs), np.random.default_rng(0)
    if each := getattr(subject.metric, "each", None):
        ours, best = (np.asarray(each(one, subject.targets), float) for one in (outputs, reference))
        if np.array_equal(ours, best):  # nothing differed, and so nothing would in any resample: the rule of three
            return 1 - 3 / max(3.0, best.sum()), 1 + 3 / max(3.0, best.sum())
        weights = random.multinomial(number, np.full(number, 1 / number), RESAMPLES)
        shares = (weights @ ours) / np.maximum(weights @ best, 1e-12)
    else:
        drawn = random.integers(0, number, (SLOW_RESAMPLES, number))
        pairs = [[subject.metric(one[rows], subject.targets[rows]) for one in (outputs, reference)] for rows in drawn]
        shares = np.array([ours / best for ours, best in pairs])
    low, high = np.nanquantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


class Gate:
    """The quality check of a comparison: the metric on the whole evaluation set, at least `bound` of FP32's."""

    def __init__(self, subject: Subject, bound: float = BOUND):
        """bound: share of FP32's quality, above 0, at most 1; UserError else."""
        if not 0 < bound <= 1:
            raise UserError(f"quality_bound={bound} must be above 0 and at most 1, as 0.99 for 99 % of FP32's quality")
        self.subject, self.bound = subject, bound
        self.scored = functools.lru_cache(maxsize=None)(self._scored)
        self._outputs: dict[str, np.ndarray] = {}

    def __call__(self, outputs: np.ndarray, reference: np.ndarray) -> Quality:
        """Judge the outputs [N, …] of a variant by those of the baseline."""
        if not np.isfinite(outputs).all():
            return self._quality("broken", None, "its outputs hold NaN or infinities")
        if outputs.shape != reference.shape:
            note = f"its outputs are of shape {list(outputs.shape)} instead of {list(reference.shape)}"
            return self._quality("broken", None, note)
        found = self.score(outputs, reference)
        note = found.in_words(self.subject.metric_name)
        if not found.share >= self.bound:  # a share that is no number is no pass
            return self._quality("broken", found.share, f"{note}; at least {words.percent(self.bound)} is asked")
        return self._quality("held", found.share, note + self._unsure(found))

    def score(self, outputs: np.ndarray, reference: np.ndarray) -> Score:
        """Return the score of outputs; of equal ones, computed once."""
        keys = []
        for one in (outputs, reference):
            keys.append(hashlib.sha256(np.ascontiguousarray(one)).hexdigest())
            self._outputs.setdefault(keys[-1], one)
        return self.scored(*keys)

    def _scored(self, outputs: str, reference: str) -> Score:
        return score(self._outputs[outputs], self._outputs[reference], self.subject)

    def _unsure(self, found: Score) -> str:
        return "" if found.low >= self.bound else "; more samples could show it below the bound"

    def _quality(self, state: str, share: float | None, note: str) -> Quality:
        measure = f"{self.subject.metric_name} ÷ FP32's"
        return Quality(state=state, measure=measure, value=share, bound=self.bound, note=note)
