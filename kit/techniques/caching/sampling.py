"""What a simulation of some objects says of all of them, with its error."""

from dataclasses import dataclass, replace

import numpy as np

from kit.techniques.caching.traces import Trace

BLOCKS = 50
"""Parts in the order of time, equal in requests: what intervals are resampled from."""


@dataclass(frozen=True, eq=False)
class Sample:
    """All requests for some objects, which are numbered from the most popular on.

    at: where the requests stand in the whole trace; rate: share of the objects; scale: share of what holds everything,
    by which a cache is made smaller.
    """

    trace: Trace
    at: np.ndarray
    rate: float
    scale: float

    def capacity(self, of_all: float) -> int:
        """Return the capacity that stands for `of_all` here."""
        return max(1, round(of_all * self.scale))


def sample(trace: Trace, rate: float, seed: int) -> Sample:
    """Return all requests for so large a share of the objects: of those about equally popular, one each at random.

    Source: Waldspurger, Park, Garthwaite, Ahmad, Efficient MRC Construction with SHARDS, FAST 2015, with a fixed rate.
    It picks objects by a hash, as it sees a stream; here all counts are known, so that popularity need not be left to
    chance (stratified sampling: Cochran, Sampling Techniques, chapter 5).
    """
    by_popularity = np.argsort(-np.bincount(trace.keys), kind="stable")
    many = max(1, round(rate * trace.objects))
    ranks = (np.arange(many) + np.random.default_rng(seed).random(many)) * trace.objects / many
    taken = by_popularity[np.unique(ranks.astype(np.int64))]  # two neighbours may have drawn the object between them
    number = np.full(trace.objects, -1)
    number[taken] = np.arange(len(taken))
    at = np.flatnonzero(number[trace.keys] >= 0)
    sizes = None if trace.sizes is None else trace.sizes[taken]
    part = replace(trace, keys=number[trace.keys[at]], times=None, sizes=sizes)
    return Sample(part, at, part.objects / trace.objects, part.everything / trace.everything)


@dataclass(frozen=True, eq=False)
class Point:
    """What a policy yields at one capacity; the errors are standard errors. by_block: hit ratio of each part."""

    hit_ratio: float
    byte_hit_ratio: float
    error: float
    byte_error: float
    by_block: np.ndarray


def counted(trace: Trace, missed: np.ndarray) -> Point:
    """Return the point of a simulation of the whole trace. missed: which requests missed, shape (requests,)."""
    return _point(trace, missed.astype(float), 0.0, 0.0)


def estimated(trace: Trace, part: Sample, missed: np.ndarray, lru: np.ndarray, lru_of_all: np.ndarray) -> Point:
    """Return the point of a policy that was simulated on `part`, by its difference to LRU there.

    missed, lru: which requests of the part the policy and LRU missed, at the part's capacity; lru_of_all: which
    requests of the whole trace LRU misses, which is known. What the sample has too much or too little of, as popular
    objects, is the same for both and falls out: LRU is a control variate (Cochran, Sampling Techniques, chapter 7).
    The error has two parts: what the choice of objects may do to the difference, and how far LRU's own estimate of this
    sample is from what it should be, as a small cache is filled less evenly than a large one.
    """
    more = missed.astype(float) - lru
    misses = lru_of_all.astype(float)
    misses[part.at] += more / part.rate
    sizes = part.trace.request_sizes
    requests, everything = len(trace), trace.request_sizes.sum()
    off = (lru.sum() / part.rate - lru_of_all.sum()) / requests
    bytes_off = ((lru @ sizes) / part.rate - lru_of_all @ trace.request_sizes) / everything
    return _point(
        trace,
        misses,
        error=float(np.hypot(_error(part, more) / requests, off)),
        byte_error=float(np.hypot(_error(part, more * sizes) / everything, bytes_off)),
    )


def _error(part: Sample, values: np.ndarray) -> float:
    """Return the standard error of the sum over all objects: neighbours in popularity differ only by chance.

    Source: collapsed strata, Cochran, section 5A.12.
    """
    by_object = np.bincount(part.trace.keys, values)
    pairs = by_object[: len(by_object) // 2 * 2].reshape(-1, 2)
    return float(np.sqrt((1 - part.rate) * (np.diff(pairs) ** 2).sum()) / part.rate)


def _point(trace: Trace, misses: np.ndarray, error: float, byte_error: float) -> Point:
    sizes = trace.request_sizes
    return Point(
        hit_ratio=1 - misses.mean(),
        byte_hit_ratio=1 - misses @ sizes / sizes.sum(),
        error=error,
        byte_error=byte_error,
        by_block=np.array([1 - part.mean() for part in np.array_split(misses, min(BLOCKS, len(misses)))]),
    )
