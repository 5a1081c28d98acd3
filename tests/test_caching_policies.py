"""Caching: each policy does what its paper says, never exceeds its capacity, and never beats Belady's MIN."""

import itertools

import cachetools
import numpy as np
import pytest

from kit.errors import UserError
from kit.techniques.caching import checks, figures, traces
from kit.techniques.caching.policies import POLICIES, Sketch, WTinyLFU
from kit.techniques.caching.simulation import BELADY, belady, curves, next_request, simulate
from kit.techniques.caching.traces import Trace

ALL = pytest.mark.parametrize("name", POLICIES)
LIBCACHESIM = {"S3-FIFO": (0.505, 0.733), "W-TinyLFU": (0.504, 0.744), BELADY: (0.581, 0.813)}
"""Hit ratios that libcachesim, an independent implementation in C, found on the trace below: cache of 1 % and 10 %."""


def zipf(requests=300_000, objects=10_000, seed=0) -> Trace:
    popularity = 1 / np.arange(1, objects + 1)
    popularity /= popularity.sum()
    return Trace("zipf", np.random.default_rng(seed).choice(objects, requests, p=popularity))


@pytest.mark.parametrize("name", LIBCACHESIM)
def test_hit_ratios_of_another_implementation(name):
    """At 1 % and 10 % of a Zipf trace the hit ratio is within .01 of libcachesim's."""
    run = belady if name == BELADY else lambda keys, capacity: simulate(POLICIES[name](capacity), keys)
    keys = zipf().keys
    assert [run(keys, capacity).mean() for capacity in (100, 1000)] == pytest.approx(LIBCACHESIM[name], abs=0.01)


@ALL
@pytest.mark.parametrize("order", ["real", "loop"])
def test_never_above_belady(name, order):
    """No policy has more hits than Belady's MIN, at any capacity."""
    trace = zipf(5_000, 800) if order == "real" else traces.scan(5_000, 300)
    found = curves(trace, [1, 20, 120, 280, 800], [name])
    assert checks.none_above_belady(found).state == "passed"
    assert found.ratio(name)[-1] == 1 - trace.objects / len(trace) == found.ratio(BELADY)[-1]  # all fits


def test_a_policy_above_belady_is_found():
    """A simulation with a hit too many fails the check, by name."""
    found = curves(zipf(2_000, 200), [20], ["LRU", "SIEVE"])
    found.hits["SIEVE"] = found.hits[BELADY] | (np.arange(2_000) == 0)
    check = checks.none_above_belady(found)
    assert (check.state, check.value) == ("failed", 1) and "SIEVE is above the possible" in check.note


@ALL
@pytest.mark.parametrize("capacity", [1, 2, 7, 50])
def test_never_more_than_the_capacity(name, capacity):
    """Whatever is requested: at most so many items, each with its newest value; a repeated request hits."""
    cache, newest, random = POLICIES[name](capacity), {}, np.random.default_rng(1)
    for turn, key in enumerate((random.zipf(1.3, 5_000) % 200).tolist()):
        if cache.get(key, "absent") == "absent" or turn % 10 == 0:
            newest[key] = turn
            cache.put(key, turn)
        assert len(cache) == len(list(cache)) <= capacity
        assert cache.get(key, newest[key]) == newest[key]
    assert len(cache) == capacity and all(cache.get(key) == newest[key] for key in list(cache))
    assert simulate(POLICIES[name](1), np.repeat(np.arange(50), 2)).sum() == 50


def by_cachetools(keys, cache):
    hits = []
    for key in keys:
        hits.append(cache.get(key) is not None)
        if not hits[-1]:
            cache[key] = True
    return hits


def plain_sieve(keys, capacity):
    """The paper's figure: the queue as a list, the newest first, and the hand as an index."""
    queue, visited, hits, hand = [], {}, [], None
    for key in keys:
        hits.append(key in visited)
        if key in visited:
            visited[key] = True
            continue
        if len(queue) == capacity:
            at = len(queue) - 1 if hand is None else hand
            while visited[queue[at]]:
                visited[queue[at]] = False
                at = at - 1 if at else len(queue) - 1
            del visited[queue.pop(at)]
            hand = at - 1 if at else None
        queue.insert(0, key)
        visited[key] = False
        hand = None if hand is None else hand + 1
    return hits


@pytest.mark.parametrize("name", ["LRU", "FIFO", "LFU", "SIEVE"])
@pytest.mark.parametrize("capacity", [1, 2, 7, 40])
def test_the_same_hits_as_another_program(name, capacity):
    """Request by request the same hits as cachetools, and as SIEVE's figure as a slow and obvious program."""
    keys = zipf(3_000, 100).keys
    cache = None if name == "SIEVE" else getattr(cachetools, f"{name}Cache")(capacity)
    other = by_cachetools(keys.tolist(), cache) if cache is not None else plain_sieve(keys.tolist(), capacity)
    assert simulate(POLICIES[name](capacity), keys).tolist() == other


def test_a_scan_flushes_lru_but_not_the_others():
    """In a loop longer than the cache LRU and FIFO never hit; policies that resist scans keep what is popular."""
    loop = np.tile(np.arange(120), 20)
    assert not simulate(POLICIES["LRU"](100), loop).any() and not simulate(POLICIES["FIFO"](100), loop).any()
    popular, turns = np.random.default_rng(0).integers(0, 80, 20_000), np.arange(20_000)
    scanned = np.where(turns // 300 % 2, popular, 80 + turns)
    ratio = {name: simulate(POLICIES[name](100), scanned).mean() for name in POLICIES}
    assert ratio["LRU"] + 0.05 < ratio["S3-FIFO"] < ratio["W-TinyLFU"] + 0.02


def test_aging_follows_what_is_popular_now():
    """When popularity changes, W-TinyLFU follows, and LFU keeps what was popular once."""
    keys = np.concatenate([zipf(20_000, 1_000).keys, 1_000 + zipf(20_000, 1_000, seed=1).keys])
    lfu, tiny = (simulate(POLICIES[name](100), keys)[20_000:].mean() for name in ("LFU", "W-TinyLFU"))
    assert tiny > lfu + 0.02


def test_the_sketch_counts_and_ages():
    """Counts are never too low before they age, mostly exact, stop at 15, and halve with time."""
    sketch, times = Sketch(200), {key: 1 + key % 14 for key in range(200)}
    for key, count in times.items():
        for _ in range(count):
            sketch.add(key)
    counted = {key: sketch.count(key) for key in times}
    assert all(counted[key] >= times[key] for key in times)
    assert sum(counted[key] == times[key] for key in times) > 150
    for _ in range(40):
        sketch.add("often")
    assert sketch.count("often") == 15
    for number in range(600):
        sketch.add(f"other {number}")
    assert sketch.count("often") < 8


def test_a_key_that_shares_its_counters_does_not_keep_all_candidates_out():
    """A victim whose counters are full although it is not requested keeps one candidate out, not all."""
    cache = WTinyLFU(100)
    for key in range(100):
        cache.put(key, True)
    for newcomer in range(1_000, 1_010):
        for _ in range(20):  # as if a popular key had the same counters as the next victim
            cache._sketch.add(0)
        for _ in range(3):
            cache.get(newcomer)
        cache.put(newcomer, True)
    assert sum(key in list(cache) for key in range(1_000, 1_010)) >= 8


def best_by_trying(keys, capacity):
    """Return the most hits possible, by trying all sets that could be cached at each step."""
    states = {frozenset(): 0}
    for key in keys:
        new = {}
        for cached, hits in states.items():
            hits += key in cached
            for count in range(min(capacity, len(cached) + 1) + 1):
                for kept in itertools.combinations(cached | {key}, count):
                    new[frozenset(kept)] = max(new.get(frozenset(kept), 0), hits)
        states = new
    return max(states.values())


@pytest.mark.parametrize("seed", range(4))
def test_belady_is_the_best_possible(seed):
    """On small traces MIN has the most hits of all choices; the next request of each object is known."""
    random = np.random.default_rng(seed)
    keys, capacity = random.integers(0, 6, 24), int(random.integers(1, 4))
    assert belady(keys, capacity).sum() == best_by_trying(keys.tolist(), capacity)
    assert next_request(np.array([0, 1, 0, 0, 2])).tolist() == [2, 5, 3, 5, 5]


def test_curves_of_real_and_shuffled_requests():
    """Curves contain the simulations; on a loop the shuffled order makes LRU look good."""
    loop = traces.scan(10_000, 500)
    real, shuffled = (curves(one, [100, 400], ["SIEVE", "LRU"]) for one in (loop, traces.shuffled(loop)))
    assert (real.hits["LRU"][1] == simulate(POLICIES["LRU"](400), loop.keys)).all()
    assert real.ratio("LRU").tolist() == [0, 0] and shuffled.ratio("LRU")[1] == pytest.approx(0.76, abs=0.03)
    assert [one.name for one in figures.hit_ratios(real).series] == ["SIEVE", "LRU", BELADY]
    assert figures.order_effect(real, shuffled).series[1].y[1] < -70
    assert curves(traces.scan(500, 100), policies=["FIFO"]).capacities.tolist() == [1, 2, 5, 10, 22, 46, 100]


@pytest.mark.parametrize(
    ("trace", "options", "message"),
    [
        (zipf(100, 10), {"policies": ["LRV"]}, "policies contains 'LRV', which is unknown; did you mean 'LRU'"),
        (zipf(100, 10), {"capacities": [0]}, "capacities=0 is not allowed"),
        (zipf(100_001, 10), {}, "from 1 to 100,000"),
    ],
)
def test_mistakes_are_told(trace, options, message):
    """An unknown policy, an impossible capacity, and a trace too long or too short are refused with the limit."""
    with pytest.raises(UserError, match=message):
        curves(trace, **{"capacities": [5]} | options)
