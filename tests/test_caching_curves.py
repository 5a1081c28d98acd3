"""Curves: one pass gives what simulation gives, samples keep within their error, and bounds and laws hold."""

import numpy as np
import pytest

from kit.errors import UserError
from kit.techniques.caching import curves as curve
from kit.techniques.caching import distances, traces
from kit.techniques.caching.policies import POLICIES
from kit.techniques.caching.sampling import sample
from kit.techniques.caching.simulation import simulate

TRACES = {
    "zipf": traces.zipf(20_000, 3_000),
    "loop": traces.scan(20_000, 700),
    "sized": traces.with_sizes(traces.zipf(20_000, 3_000)),
    "mixed": traces.mixture([traces.zipf(10_000, 500), traces.scan(10_000, 2_000)]),
    "one object": traces.scan(100, 1),
    "one request": traces.scan(1, 1),
}


@pytest.mark.parametrize("name", TRACES)
def test_one_pass_gives_what_simulation_gives(name):
    """Stack distances give LRU's hits request by request at every size, also where some objects are too large."""
    trace = TRACES[name]
    capacities = np.maximum(1, trace.everything * np.array([0.0003, 0.001, 0.02, 0.3, 1])).astype(int)
    for capacity, hits in zip(capacities, distances.lru_hits(trace, capacities), strict=True):
        assert (hits == simulate(POLICIES["LRU"](capacity), trace)).all()


def test_whole_curves_are_the_simulations():
    """Without sampling each point is the policy's own simulation, in requests and in bytes."""
    trace = TRACES["sized"]
    capacities = [trace.everything // 100, trace.everything // 4]
    found = curve.curves(trace, capacities, ["SIEVE", "LRU"], budget=None)
    for name in ("SIEVE", "LRU"):
        hits = [simulate(POLICIES[name](capacity), trace) for capacity in capacities]
        one = found.policies[name]
        assert one.hit_ratio == pytest.approx([h.mean() for h in hits])
        sizes = trace.request_sizes
        assert one.byte_hit_ratio == pytest.approx([sizes[h].sum() / sizes.sum() for h in hits])
        assert one.by_block.mean(axis=1) == pytest.approx(one.hit_ratio) and not one.error.any()
    assert (found.unit, found.bound_name, found.bound.rates.tolist()) == ("bytes", "PFOO-L", [1, 1])


@pytest.mark.parametrize("name", ["zipf", "shifting", "sized", "mixed"])
def test_samples_keep_within_their_error(name):
    """Sampled curves are within three of their errors of the whole simulation, and in a loop not far from that."""
    trace = {
        "zipf": lambda: traces.zipf(80_000, 20_000, 0.9),
        "shifting": lambda: traces.shifting(80_000, 10_000, periods=4),
        "sized": lambda: traces.with_sizes(traces.zipf(80_000, 20_000, 0.9), spread=0.5),
        "mixed": lambda: traces.mixture([traces.zipf(40_000, 8_000), traces.scan(40_000, 10_000)]),
    }[name]()
    capacities = [trace.everything // 16, trace.everything // 4]
    sampled, whole = (curve.curves(trace, capacities, budget=budget) for budget in (20_000, None))
    assert all((sampled.policies[policy].rates <= 0.5).all() for policy in ("FIFO", "S3-FIFO"))
    assert all((sampled.policies[policy].rates == 1).all() for policy in ("LRU", "LFU", "SIEVE"))
    slack = 0.01 if name == "mixed" else 0.002
    for policy, one in {**sampled.policies, "bound": sampled.bound}.items():
        exact = whole.bound if policy == "bound" else whole.policies[policy]
        assert (np.abs(one.hit_ratio - exact.hit_ratio) <= 3 * one.error + slack).all(), policy
        assert (np.abs(one.byte_hit_ratio - exact.byte_hit_ratio) <= 3 * one.byte_error + slack).all(), policy
        assert (one.error < 0.02).all(), policy
    assert not sampled.policies["LRU"].error.any()
    assert curve.none_above_the_bound(sampled).state == curve.none_above_the_bound(whole).state == "held"


def test_errors_of_samples_are_not_far_too_large():
    """At a rate that does not divide the objects evenly an error is about as large as what it is the error of."""
    trace = traces.zipf(60_000, 20_000, 0.8)
    whole = curve.curves(trace, [4_000, 10_000], ["FIFO"], budget=None).policies["FIFO"].hit_ratio
    found = [curve.curves(trace, [4_000, 10_000], ["FIFO"], budget=18_000, seed=seed) for seed in range(4)]
    off = np.array([one.policies["FIFO"].hit_ratio - whole for one in found])
    errors = np.array([one.policies["FIFO"].error for one in found])
    assert (found[0].policies["FIFO"].rates < 0.4).all() and (errors < 0.004).all()
    assert (np.abs(off) <= 3 * errors + 0.001).all()


def test_where_the_curve_is_a_cliff_nothing_is_sampled():
    """At the length of a loop, where a few items more decide on all hits, the whole trace is simulated."""
    trace = traces.mixture([traces.zipf(45_000, 3_000), traces.scan(30_000, 2_500)])
    steep = np.array(distances.lru_hits(trace, range(1_500, 5_400, 300))).mean(axis=1)
    cliff = 1_500 + 300 * int(np.diff(steep).argmax()) + 150
    found = curve.curves(trace, [1_200, cliff], ["LRU", "FIFO"], budget=15_000)
    whole = curve.curves(trace, [1_200, cliff], ["FIFO"], budget=None)
    assert found.policies["FIFO"].rates[0] < 0.5 and found.policies["FIFO"].rates[1] == 1
    assert found.policies["FIFO"].hit_ratio == pytest.approx(whole.policies["FIFO"].hit_ratio, abs=0.005)


def test_small_caches_and_traces_are_not_sampled():
    """Where a small cache would hold too little to stand for the real one, the whole trace is simulated."""
    found = curve.curves(traces.zipf(200_000, 20_000), [10, 100, 10_000], ["FIFO"], budget=20_000)
    rates = found.policies["FIFO"].rates
    assert rates.tolist()[:2] == [1, 1] and rates[2] == pytest.approx(0.1, abs=0.01)
    assert (curve.curves(TRACES["zipf"], policies=["LRU"]).bound.rates == 1).all()


@pytest.mark.parametrize("rate", [0.2, 0.3, 1 / 3, 0.4, 0.7])
def test_a_sample_is_whole_objects(rate):
    """A sample has every request for its objects, in order, with their own sizes and without a gap in their numbers,
    and about as many objects as were asked for, also where they can't be dealt out evenly."""
    trace = traces.with_sizes(traces.zipf(50_000, 5_000))
    part = sample(trace, rate, seed=3)
    assert part.rate == pytest.approx(rate, rel=0.12) and part.rate <= rate + 0.001
    assert len(part.trace) == len(part.at)
    originals = trace.keys[part.at]
    assert len(np.unique(originals)) == part.trace.objects == len(part.trace.sizes)
    assert np.isin(trace.keys, originals).sum() == len(part.at)
    assert (trace.sizes[originals] == part.trace.request_sizes).all()


def test_no_policy_above_the_bound_and_none_under_nothing():
    """Curves stay between 0 and the bound, the bound under the share of repeated requests, and LRU's never falls."""
    for name in ("zipf", "loop", "sized", "mixed"):
        trace = TRACES[name]
        found = curve.curves(trace, trace.everything * np.array([0.01, 0.1, 0.6, 1]))
        assert curve.none_above_the_bound(found).state == "held"
        assert (found.bound.hit_ratio <= found.ceiling + 1e-9).all()
        assert (np.diff(found.policies["LRU"].hit_ratio) >= 0).all()
        assert all((one.hit_ratio >= 0).all() for one in found.policies.values())
        last = [one.hit_ratio[-1] for one in found.policies.values()]
        assert max(last) == pytest.approx(found.ceiling)


def test_the_gate_notices_a_simulation_that_is_too_good():
    """A curve above the bound breaks the gate, by name."""
    found = curve.curves(TRACES["zipf"], [100], ["LRU", "FIFO"])
    found.policies["FIFO"].hit_ratio[0] = found.bound.hit_ratio[0] + 0.001
    gate = curve.none_above_the_bound(found)
    assert gate.state == "broken" and "FIFO is above what is possible" in gate.note


def test_lru_keeps_to_che_only_where_requests_are_independent():
    """The gate holds on independent requests and is broken by a loop, whose order is all."""
    independent = traces.zipf(100_000, 5_000)
    assert curve.lru_keeps_to_che(independent, [50, 500, 2_000]).state == "held"
    assert curve.lru_keeps_to_che(traces.shuffled(TRACES["mixed"]), [50, 500]).state == "held"
    assert curve.lru_keeps_to_che(TRACES["loop"], [100]).state == "broken"


def test_real_order_moves_hit_ratios_both_ways(tmp_path):
    """Against shuffled, real order gives LRU more hits on tail numbers, and fewer on routes."""
    real, mixed = curve.against_shuffled(traces.tail_numbers(tmp_path), [404], policies=["LRU"])
    assert real.policies["LRU"].hit_ratio[0] == pytest.approx(0.264, abs=0.002)
    assert mixed.policies["LRU"].hit_ratio[0] == pytest.approx(0.196, abs=0.002)
    real, mixed = curve.against_shuffled(traces.routes(tmp_path), [22], policies=["LRU"])
    assert real.policies["LRU"].hit_ratio[0] < mixed.policies["LRU"].hit_ratio[0] - 0.05


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"policies": ["LRU", "ARC"]}, "there is no policy 'ARC'; there are LRU, FIFO, LFU, SIEVE, S3-FIFO, W-TinyLFU"),
        ({"capacities": [0, 10]}, "capacities are items or bytes, at least 1"),
        ({"capacities": []}, "capacities are items or bytes, at least 1"),
    ],
)
def test_mistakes(asked, said):
    """What can't be drawn is refused in one sentence."""
    with pytest.raises(UserError, match=said):
        curve.curves(TRACES["zipf"], **asked)
