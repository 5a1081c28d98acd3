"""An entry that many threads request expires: all of them compute it, one does, or one did so before."""

import math
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from kit.common import parameters

Compute = Callable[[], Any]


def no_protection(compute: Compute, ttl_s: float) -> Compute:
    """Let every thread compute that finds the entry expired."""
    value, expires = None, -math.inf

    def get() -> Any:
        nonlocal value, expires
        if time.monotonic() >= expires:
            value = compute()
            expires = time.monotonic() + ttl_s
        return value

    return get


def dogpile_lock(compute: Compute, ttl_s: float) -> Compute:
    """Let one thread compute, by dogpile.cache; the others get the expired value, or wait where there is none yet. For
    several processes give the region a backend with a distributed lock, and a serializer that is not pickle."""
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.memory", expiration_time=ttl_s)
    return lambda: region.get_or_create("requested by all", compute)


def early_refresh(compute: Compute, ttl_s: float, beta: float = 1.0, chance: Compute = random.random) -> Compute:
    """Let a request compute before the entry expires, the more probably the nearer that is and the longer computing
    takes, so that hardly any finds it expired. No lock; the first miss is not protected.

    beta above 1 refreshes earlier. Source: Vattani, Chierichetti, Lowenstein, Optimal Probabilistic Cache Stampede
    Prevention, VLDB 2015 (XFetch).
    """
    value, took_s, expires = None, 0.0, -math.inf

    def get() -> Any:
        nonlocal value, took_s, expires
        if time.monotonic() - took_s * beta * math.log(1 - chance()) >= expires:
            start = time.monotonic()
            value = compute()
            took_s = time.monotonic() - start
            expires = start + took_s + ttl_s
        return value

    return get


STRATEGIES = {"no protection": no_protection, "dogpile.cache": dogpile_lock, "early refresh": early_refresh}
THREADS, EVERY_S = 16, 0.01


@dataclass(frozen=True, eq=False)
class Stampede:
    """Computations after the first entry was stored: when each began and ended, seconds since then, by beginning."""

    begun: np.ndarray
    ended: np.ndarray

    @property
    def redundant(self) -> int:
        """Computations that began while another one ran: the cost of a stampede."""
        return int((self.begun[1:] < np.maximum.accumulate(self.ended)[:-1]).sum())


def run(strategy: str, compute: Compute, *, ttl_s: float = 0.5, seconds: float = 1.5) -> Stampede:
    """Let 16 threads request one entry for `seconds`, each every 10 ms with an offset of its own. The entry is there at
    first and expires after `ttl_s`."""
    spans = []

    def timed() -> Any:
        start = time.monotonic()
        value = compute()
        spans.append((start, time.monotonic()))
        return value

    get = STRATEGIES[parameters.one_of(strategy, STRATEGIES, "strategy")](timed, ttl_s)
    get()
    spans.clear()
    start = time.monotonic()

    def ask(number: int) -> None:
        for due in start + EVERY_S * (np.arange(round(seconds / EVERY_S)) + number / THREADS):
            time.sleep(max(0.0, due - time.monotonic()))
            get()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(ask, range(THREADS)))
    return Stampede(*(np.array(sorted(spans)).reshape(-1, 2) - start).T)


def run_each(compute_s: float = 0.05, **options: float) -> dict[str, Stampede]:
    """Run each strategy on work that takes `compute_s`. options: those of `run`."""
    return {name: run(name, lambda: time.sleep(compute_s), **options) for name in STRATEGIES}
