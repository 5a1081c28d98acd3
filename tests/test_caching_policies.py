"""Each policy does what its paper says, never holds more than it may, and none is better than the best possible."""

import itertools
import random
from collections import OrderedDict

import numpy as np
import pytest

from kit.errors import UserError
from kit.techniques.caching.optimal import belady, che, che_of, footprint_bound, next_use
from kit.techniques.caching.policies import POLICIES, WTinyLFU
from kit.techniques.caching.policies.wtinylfu import Sketch
from kit.techniques.caching.simulation import simulate
from kit.techniques.caching.traces import Trace

ALL = pytest.mark.parametrize("name", POLICIES)
LIBCACHESIM = {
    "FIFO": (0.344, 0.632),
    "LRU": (0.389, 0.673),
    "LFU": (0.498, 0.732),
    "S3-FIFO": (0.505, 0.733),
    "SIEVE": (0.510, 0.736),
    "W-TinyLFU": (0.504, 0.744),
    "Belady": (0.581, 0.813),
}
"""Hit ratios that libcachesim, an independent implementation in C, found on the trace below: cache of 1 % and 10 %."""


def zipf(requests=300_000, objects=10_000, seed=0):
    popularity = 1 / np.arange(1, objects + 1)
    popularity /= popularity.sum()
    return Trace("zipf", np.random.default_rng(seed).choice(objects, requests, p=popularity))


def sized(requests=5_000, objects=400, seed=0):
    trace = zipf(requests, objects, seed)
    return Trace("sized", trace.keys, sizes=np.random.default_rng(seed).integers(1, 200, objects))


@pytest.fixture(scope="module")
def trace():
    return zipf()


@ALL
def test_hit_ratios_of_another_implementation(name, trace):
    """At 1 % and 10 % of a Zipf trace each policy is within .01 of another implementation's figures."""
    for capacity, theirs in zip((100, 1000), LIBCACHESIM[name], strict=True):
        assert simulate(POLICIES[name](capacity), trace).mean() == pytest.approx(theirs, abs=0.01)


@ALL
@pytest.mark.parametrize("share", [0.01, 0.3])
def test_none_above_the_best_possible(name, share):
    """No policy has more hits than Belady's MIN, nor than the bound for sizes."""
    trace = zipf(50_000, 5_000)
    capacity = int(5_000 * share)
    assert simulate(POLICIES[name](capacity), trace).sum() <= belady(trace, capacity).sum()
    trace = sized()
    capacity = share * trace.sizes.sum()
    hits, (most, most_bytes) = simulate(POLICIES[name](capacity), trace), footprint_bound(trace, [capacity])
    assert hits.sum() <= most[0]
    assert trace.request_sizes[hits].sum() <= most_bytes[0]


@ALL
def test_all_are_equal_where_all_fits(name):
    """A cache that holds everything misses each object once, by items and by bytes."""
    for trace, everything in ((zipf(20_000, 1_000), 1_100), (sized(), 1.1 * sized().sizes.sum())):
        assert (~simulate(POLICIES[name](everything), trace)).sum() == len(np.unique(trace.keys))


@ALL
@pytest.mark.parametrize("sizes", [(1,), (1, 2, 3, 5, 8, 13, 60)], ids=["items", "bytes"])
def test_never_more_than_the_capacity(name, sizes):
    """Whatever is put, read and forgotten: what is used is the sum of what is held, within the capacity."""
    chance, cache, put = random.Random(1), POLICIES[name](50), {}
    for _ in range(20_000):
        key, size = chance.randrange(200), chance.choice(sizes)
        if chance.random() < 0.05:
            cache.discard(key)
            assert key not in cache
        elif cache.get(key, "absent") == "absent" or chance.random() < 0.1:
            value = chance.random()
            assert cache.put(key, value, size) is (key in cache)
            put[key] = value, size
        assert cache.used <= 50
        assert cache.used == sum(put[held][1] for held in cache)
    assert len(cache) == len(list(cache)) > 0
    assert all(cache.get(key) == put[key][0] for key in list(cache))


@ALL
def test_a_new_value_replaces_the_old(name):
    """A key that is put again has its new value, of whatever size; what is larger than the cache is not kept."""
    cache = POLICIES[name](100)
    cache.put("a", 1, 10)
    for value, size in ((2, 10), (None, 30), (4, 5)):
        assert cache.put("a", value, size) and cache.get("a", "absent") == value and cache.used == size
    assert not cache.put("a", 5, 101)
    assert "a" not in cache and cache.used == 0 and cache.get("a", "absent") == "absent"


@ALL
def test_one_place(name):
    """The smallest cache, of one item, serves what is asked for twice in a row."""
    assert simulate(POLICIES[name](1), Trace("pairs", np.repeat(np.arange(50), 2))).sum() == 50


@ALL
def test_a_cache_of_nothing_is_refused(name):
    """A capacity of nothing is refused in one sentence."""
    with pytest.raises(UserError, match="holds nothing; give items or bytes above 0"):
        POLICIES[name](0)


def naive_lru(keys, capacity):
    held, hits = [], []
    for key in keys:
        hits.append(key in held)
        held = [key, *(k for k in held if k != key)][:capacity]
    return hits


def naive_fifo(keys, capacity):
    held, hits = OrderedDict(), []
    for key in keys:
        hits.append(key in held)
        held.setdefault(key)
        if len(held) > capacity:
            held.popitem(last=False)
    return hits


def naive_lfu(keys, capacity):
    held, hits = {}, []
    for now, key in enumerate(keys):
        hits.append(key in held)
        if key not in held and len(held) == capacity:
            del held[min(held, key=held.get)]
        held[key] = (held.get(key, (0,))[0] + 1, now)
    return hits


def naive_sieve(keys, capacity):
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


@pytest.mark.parametrize(
    ("name", "naive"), [("LRU", naive_lru), ("FIFO", naive_fifo), ("LFU", naive_lfu), ("SIEVE", naive_sieve)]
)
@pytest.mark.parametrize("capacity", [1, 2, 7, 40])
def test_the_same_hits_as_the_plainest_program(name, naive, capacity):
    """Request by request, the same hits as a program that is slow and obvious."""
    trace = zipf(3_000, 100)
    assert simulate(POLICIES[name](capacity), trace).tolist() == naive(trace.keys.tolist(), capacity)


def test_a_scan_washes_out_lru_only_where_nothing_resists():
    """In a loop longer than the cache LRU and FIFO never hit; others keep what is popular."""
    loop = Trace("loop", np.tile(np.arange(120), 20))
    assert not simulate(POLICIES["LRU"](100), loop).any() and not simulate(POLICIES["FIFO"](100), loop).any()
    popular = np.random.default_rng(0).integers(0, 80, 40_000)
    scanned = Trace("scanned", np.where(np.arange(40_000) // 300 % 2, popular, 80 + np.arange(40_000)))
    ratio = {name: simulate(POLICIES[name](100), scanned).mean() for name in POLICIES}
    assert ratio["LRU"] + 0.05 < ratio["S3-FIFO"] < ratio["W-TinyLFU"] + 0.02


def test_aging_follows_what_is_popular_now():
    """When popularity moves on, W-TinyLFU follows and LFU sticks to what once was popular."""
    early, late = zipf(60_000, 2_000).keys, 2_000 + zipf(60_000, 2_000, seed=1).keys
    trace = Trace("moved on", np.concatenate([early, late]))
    lfu, tiny = (simulate(POLICIES[name](200), trace)[60_000:].mean() for name in ("LFU", "W-TinyLFU"))
    assert tiny > lfu + 0.02


def test_the_sketch_counts_about_right_and_forgets():
    """Counts are never too low before they fade, mostly exact, stop at 15, and halve with time, also when it grows."""
    sketch, times = Sketch(), {key: 1 + key % 14 for key in range(200)}
    for key, count in times.items():
        for _ in range(count):
            sketch.add(key, held=1_000)
    sketch.add("often", 10_000)
    counted = {key: sketch.count(key) for key in times}
    assert all(counted[key] >= times[key] for key in times)
    assert sum(counted[key] == times[key] for key in times) > 150
    for _ in range(40):
        sketch.add("often", 10_000)
    assert sketch.count("often") == 15
    sketch._age()
    assert sketch.count("often") == 7


def test_a_candidate_must_outweigh_all_that_go_for_it():
    """Where sizes differ, a large newcomer does not evict many small ones that are asked for more often together."""
    cache = WTinyLFU(1_000)
    for key in range(99):
        for _ in range(3):
            if cache.get(key) is None:
                cache.put(key, True, 10)
    for _ in range(4):
        cache.get("large")
    assert not cache.put("large", True, 500)
    assert sum(key in cache for key in range(99)) >= 98


def test_a_key_that_shares_its_counters_does_not_bar_the_door():
    """A victim whose counters are full, though it is not asked for, keeps one candidate out, not all."""
    cache = WTinyLFU(100)
    for key in range(100):
        cache.put(key, True)
    asked_for = 0
    for newcomer in range(1_000, 1_010):
        for _ in range(20):  # as if a popular key had the same counters as the next victim
            cache._sketch.add(asked_for, 1_000)
        for _ in range(3):
            cache.get(newcomer)
        cache.put(newcomer, True)
    assert sum(key in cache for key in range(1_000, 1_010)) >= 8


@pytest.mark.parametrize("size", [0, -1, float("nan")])
def test_sizes_that_are_none_are_refused(size):
    """What counts nothing, or less, would break the bound; no policy takes it."""
    for policy in POLICIES.values():
        cache = policy(2)
        with pytest.raises(UserError, match="above 0"):
            cache.put("a", 1, size)
        assert len(cache) == cache.used == 0


def test_an_object_larger_than_the_window_contends_alone():
    """W-TinyLFU's window keeps its small new objects when a large one passes through."""
    cache = POLICIES["W-TinyLFU"](1000)
    for key in range(500):
        cache.put(key, key, 2)
    small = [key for key in range(500) if key in cache._window]
    assert len(small) == 5
    cache.put("large", 1, 50)
    assert list(cache._window) == small


def best_by_trying(keys, capacity, sizes, worth):
    """Return the most that can be had, by trying all sets that could be kept at each step."""
    states = {frozenset(): 0}
    for key in keys:
        new = {}
        for held, won in states.items():
            won += worth[key] if key in held else 0
            for count in range(len(held) + 2):
                for kept in itertools.combinations(held | {key}, count):
                    if sum(sizes[k] for k in kept) <= capacity:
                        new[frozenset(kept)] = max(new.get(frozenset(kept), 0), won)
        states = new
    return max(states.values())


@pytest.mark.parametrize("seed", range(4))
def test_the_bounds_are_bounds(seed):
    """On small traces MIN is the best of all that could be kept, and the bound for sizes is never below the best."""
    chance = np.random.default_rng(seed)
    keys, capacity = chance.integers(0, 6, 24), int(chance.integers(1, 4))
    assert belady(Trace("small", keys), capacity).sum() == best_by_trying(keys.tolist(), capacity, [1] * 6, [1] * 6)
    sizes = chance.integers(1, 5, 6)
    hits, hit_bytes = footprint_bound(Trace("small", keys, sizes=sizes), [6])
    assert hits[0] >= best_by_trying(keys.tolist(), 6, sizes, [1] * 6)
    assert hit_bytes[0] >= best_by_trying(keys.tolist(), 6, sizes, sizes)
    trace = Trace("small", keys)
    assert footprint_bound(trace, [capacity])[0][0] >= belady(trace, capacity).sum() - 1e-9


def test_belady_as_another_implementation(trace):
    """MIN is within .01 of another implementation's figures."""
    for capacity, theirs in zip((100, 1000), LIBCACHESIM["Belady"], strict=True):
        assert belady(trace, capacity).mean() == pytest.approx(theirs, abs=0.01)


def test_next_use():
    """Each request knows when its object comes again; the last of an object has the number of requests."""
    assert next_use(np.array([0, 1, 0, 0, 2])).tolist() == [2, 5, 3, 5, 5]


@pytest.mark.parametrize("capacity", [100, 1_000, 5_000])
def test_lru_keeps_to_che(trace, capacity):
    """On independent requests LRU is within .01 of Che's approximation, of the counts and (below 10 %) of the law."""
    hits = simulate(POLICIES["LRU"](capacity), trace).mean()
    assert che_of(trace, [capacity])[0] == pytest.approx(hits, abs=0.003)
    if capacity <= 1_000:
        assert che(1 / np.arange(1, 10_001), [capacity])[0] == pytest.approx(hits, abs=0.01)
    assert che(np.ones(10), [10])[0] == 1


def test_che_with_sizes():
    """Where sizes differ too, LRU on independent requests is within .01 of Che's approximation."""
    trace = sized(40_000, 2_000)
    capacity = 0.1 * trace.sizes.sum()
    assert che_of(trace, [capacity])[0] == pytest.approx(simulate(POLICIES["LRU"](capacity), trace).mean(), abs=0.01)
