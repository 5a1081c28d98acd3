"""How much is asked of the work before which a cache stands, so that slow work keeps to the time budget."""

import math
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from kit.errors import UserError
from kit.record import words
from kit.techniques.caching import traces
from kit.techniques.caching.layers import serving
from kit.techniques.caching.layers.work import Work
from kit.techniques.caching.sampling import sample

LEAST_ANSWERS = 20
"""Answers that the budget must have room for: with fewer nothing can be said, and all parts together take hours."""
FULL_READING = 50


@dataclass(frozen=True)
class Pace:
    """What work of this speed may be asked. rate: answers a second, alone; seconds: the budget of one comparison.

    Where work is fast enough nothing is cut; where it is slow all parts of the notebook together ask it for a small
    multiple of what fits into the budget, and `note` says what was cut.
    """

    rate: float
    seconds: float
    all_items: int

    def fits(self, share: float, least: int, most: int) -> int:
        """Return how many answers fit into such a share of the budget, within bounds."""
        return int(np.clip(self.rate * share * self.seconds, least, most))

    @property
    def items(self) -> int:
        """Different items that may be asked for."""
        return self.fits(1, 10, max(10, self.all_items))

    @property
    def a_reading(self) -> int:
        """Requests of one reading."""
        return self.fits(1 / 25, 5, FULL_READING)

    @property
    def note(self) -> str:
        """What is asked less because the work is slow; empty where nothing is."""
        if self.items >= self.all_items and self.a_reading == FULL_READING:
            return ""
        of_items = f"{self.items:,} of {self.all_items:,}" if self.items < self.all_items else "all"
        return (
            f"An answer takes {words.duration(1 / self.rate)}, so less is asked to keep to seconds={self.seconds:g}: "
            f"{of_items} items, {self.a_reading} requests a reading."
        )

    def of(self, keys: np.ndarray) -> np.ndarray:
        """Return the requests for so many of the items as may be asked for, popular and rare ones alike, in order."""
        asked = traces.of("items", keys)
        if asked.objects <= self.items:
            return keys
        return keys[sample(asked, self.items / asked.objects, seed=0).at]


def pace(work: Work, keys: np.ndarray, seconds: float) -> Pace:
    """Return the pace of `work`, from as many answers as a tenth of `seconds` allows: one after a first, or up to 100.

    Raise `UserError` for work so slow that nothing can be measured within `seconds`.
    """
    first, second = keys[[0, -1]].tolist()
    work.answer(first)
    start = perf_counter()
    work.answer(second)
    took_s = perf_counter() - start
    if took_s * LEAST_ANSWERS > seconds:
        raise UserError(
            f"model= takes {words.duration(took_s)} an answer, so seconds={seconds:g} has room for "
            f"{int(seconds / took_s)} of them; give seconds={math.ceil(LEAST_ANSWERS * took_s)} or more, or faster work"
        )
    rate = serving.capacity(work, keys, int(np.clip(seconds / 10 / max(took_s, 1e-9), 1, 100)))
    return Pace(rate, seconds, work.items)
