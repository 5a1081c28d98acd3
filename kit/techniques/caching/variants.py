"""The variants: work without a cache, and behind a store.

`answer` is the whole pattern (cache-aside): look up, compute what is missed, store it.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from kit.measure.work import Measurement, Setup, fell_back, verified
from kit.techniques.caching import stores
from kit.techniques.caching.stores import Store
from kit.techniques.caching.workload import Requests, Work

CHECKED = 32  # items whose answers are compared with uncached ones: as they come, and then from the cache


class Answered(NamedTuple):
    """One answer. Times in seconds, 0 where there was nothing to do; lookup_s includes making the key."""

    value: Any
    hit: bool
    lookup_s: float = 0.0
    work_s: float = 0.0
    set_s: float = 0.0


def answer(work: Work, store: Store | None, item: int) -> Answered:
    """Answer an item from the store, or compute it and store it; None: no cache."""
    start = perf_counter()
    if store is None:
        return Answered(work.answer(item), False, work_s=perf_counter() - start)
    key = stores.key(work.version, work.inputs(item))
    value = store.get(key)
    looked_up = perf_counter()
    if value is not None:
        return Answered(value, True, looked_up - start)
    value = work.answer(item)
    computed = perf_counter()
    store.set(key, value)
    return Answered(value, False, looked_up - start, computed - looked_up, perf_counter() - computed)


def no_cache(requests: Requests) -> Setup:
    """Compute every answer: the baseline."""
    work = requests.work()
    return Setup(partial(_measure, work, None, requests), lambda: verified("no cache"))


def cached(open_store: Callable[[], Store]) -> Callable[[Requests], Setup]:
    """Return the variant with the store that `open_store` opens. Each measurement begins with the same content."""

    def behind_a_cache(requests: Requests) -> Setup:
        work, store, hit_ratios = requests.work(), open_store(), []
        content = entries(work, requests)

        def measure() -> Measurement:
            store.fill(content)
            measurement = _measure(work, store, requests)
            hit_ratios.append(measurement.metrics["hit_ratio"])
            return measurement

        def proof():
            if not sum(hit_ratios):
                return fell_back("computing every answer: none was in the cache")
            return verified(hit_ratio=float(np.mean(hit_ratios)), errors=store.errors.total())

        return Setup(measure, proof, store.close)

    return behind_a_cache


def entries(work: Work, requests: Requests) -> list[tuple[bytes, bytes]]:
    """Return keys and encoded answers of the requests before the measured ones. Answers that nobody requests later are
    not computed: another one stands for them."""
    any_answer = next(iter(requests.known.values()))
    encoded = {item: stores.encode(requests.known.get(item, any_answer)) for item in dict.fromkeys(requests.earlier)}
    keys = {item: stores.key(work.version, work.inputs(item)) for item in encoded}
    return [(keys[item], encoded[item]) for item in requests.earlier]


def lookup(work: Work, requests: Requests, store: Store) -> Callable[[int], Answered]:
    """Fill a store with the content that each measurement begins with, and return how to answer an item from it."""
    store.fill(entries(work, requests))
    return partial(answer, work, store)


def _measure(work: Work, store: Store | None, requests: Requests) -> Measurement:
    """Answer the requests: the mean time per request, and the mean cost of each part."""
    start = perf_counter()
    answers = [answer(work, store, item) for item in requests.items]
    mean_s = (perf_counter() - start) / len(answers)
    hits, misses = [one for one in answers if one.hit], [one for one in answers if not one.hit]
    parts = {
        "hit_us": [one.lookup_s for one in hits],
        "miss_us": [one.lookup_s for one in misses],
        "work_us": [one.work_s for one in misses],
        "set_us": [one.set_s for one in misses],
    }
    metrics = {name: 1e6 * float(np.mean(values)) for name, values in parts.items() if values}
    checked = list(dict.fromkeys(requests.items))[:CHECKED] * 2
    return Measurement(
        mean_s,
        {"hit_ratio": len(hits) / len(answers)} | metrics,
        lambda: [answer(work, store, item).value for item in checked],
    )
