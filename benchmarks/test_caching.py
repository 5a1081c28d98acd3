"""Requests simulated a second by policy, on one trace: `pytest benchmarks/test_caching.py`.

cachetools' LRU is the yardstick: a class that people use, plain Python too. Where libcachesim is installed (written in
C; GPL, and so no dependency), its hit ratios are an outside check of the policies here, and its speed is shown. Which
policy is best on a trace is a question for the notebook.
"""

import time

import numpy as np
import pytest

from kit.techniques.caching import curves, traces
from kit.techniques.caching.distances import lru_hits
from kit.techniques.caching.optimal import belady, next_use
from kit.techniques.caching.policies import POLICIES
from kit.techniques.caching.simulation import simulate

REQUESTS, OBJECTS = 300_000, 10_000
CAPACITIES = (OBJECTS // 100, OBJECTS // 10)
THEIRS = {
    "LRU": "LRU",
    "FIFO": "FIFO",
    "LFU": "LFU",
    "SIEVE": "Sieve",
    "S3-FIFO": "S3FIFO",
    "W-TinyLFU": "WTinyLFU",
    "Belady": "Belady",
}
WITHIN = {"S3-FIFO": 0.002, "W-TinyLFU": 0.01, "Belady": 0.002}
"""Of the hit ratio; the others agree request by request. Their S3-FIFO has an eviction order of its own in one case,
their W-TinyLFU a sketch that forgets more slowly, and their MIN must keep what it fetched, while ours may decline."""


@pytest.fixture(scope="module")
def trace():
    """Independent requests, as most papers' figures have: Zipf 1.0, 300,000 requests, 10,000 objects."""
    return traces.zipf(REQUESTS, OBJECTS)


def of_cachetools(trace, capacity):
    """Simulate cachetools' LRU in the way that `simulate` does ours."""
    cachetools = pytest.importorskip("cachetools")
    cache, absent, hits = cachetools.LRUCache(capacity), object(), 0
    for key in trace.keys.tolist():
        if cache.get(key, absent) is absent:
            cache[key] = None
        else:
            hits += 1
    return hits


def of_libcachesim(trace, name, capacity):
    """Simulate a policy of libcachesim, request by request from Python: its own trace readers are faster."""
    library = pytest.importorskip("libcachesim")
    cache, request, hits = getattr(library, THEIRS[name])(capacity), library.Request(), 0
    request.obj_size = 1
    following = next_use(trace.keys)
    following[following == len(trace)] = np.iinfo(np.int64).max
    for now, (key, then) in enumerate(zip(trace.keys.tolist(), following.tolist(), strict=True)):
        request.obj_id, request.clock_time, request.next_access_vtime = key, now, then
        hits += cache.get(request)
    return hits


def of_ours(trace, name, capacity):
    hits = belady(trace, capacity) if name == "Belady" else simulate(POLICIES[name](capacity), trace)
    return int(hits.sum())


@pytest.mark.parametrize("name", ["cachetools' LRU", *THEIRS])
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_requests_a_second(benchmark, trace, name, capacity):
    """What one policy takes for the whole trace, beside cachetools' LRU, and the best possible."""
    benchmark.group = f"{REQUESTS:,} requests, cache of {capacity:,} in {OBJECTS:,} objects"
    if name == "cachetools' LRU":
        hits = benchmark.pedantic(of_cachetools, (trace, capacity), rounds=3)
        assert hits == of_ours(trace, "LRU", capacity)
    else:
        hits = benchmark.pedantic(of_ours, (trace, name, capacity), rounds=3)
    benchmark.extra_info["requests_a_second"] = round(REQUESTS / benchmark.stats.stats.min)
    benchmark.extra_info["hit_ratio"] = hits / REQUESTS


def test_lru_at_ten_sizes_in_one_pass(benchmark, trace):
    """What LRU's whole curve takes by stack distances: less than two simulations."""
    benchmark.group = "LRU at ten sizes"
    found = benchmark.pedantic(lru_hits, (trace, np.geomspace(10, OBJECTS, 10)), rounds=3)
    assert found[-1].sum() == REQUESTS - trace.objects


@pytest.mark.parametrize("budget", [curves.BUDGET, None], ids=["sampled", "whole"])
def test_curves_of_a_million_requests(benchmark, budget):
    """What ten sizes and six policies take on a million requests, by samples and whole."""
    million = traces.zipf(1_000_000, 100_000)
    benchmark.group = "a million requests, ten sizes, six policies and the bound"
    found = benchmark.pedantic(curves.curves, (million,), {"budget": budget}, rounds=1)
    assert curves.none_above_the_bound(found).state == "held"


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_hit_ratios_of_libcachesim(trace, name, capacity):
    """An independent implementation in C finds the same hit ratios, where it is installed."""
    start = time.perf_counter()
    theirs = of_libcachesim(trace, name, capacity) / REQUESTS
    took_s = time.perf_counter() - start
    ours = of_ours(trace, name, capacity) / REQUESTS
    print(f"\n{name} at {capacity:,}: {ours:.4f}, libcachesim {theirs:.4f} in {took_s:.2f} s")
    assert ours == pytest.approx(theirs, abs=WITHIN.get(name, 1e-9))
