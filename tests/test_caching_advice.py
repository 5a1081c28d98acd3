"""Advice from a trace and measured costs: the arithmetic, the bend, the interval, and an honest no."""

from dataclasses import replace

import numpy as np
import pytest

from kit.errors import UserError
from kit.techniques.caching import traces
from kit.techniques.caching.advice import Costs, advise, knee, resampled, saving, savings
from kit.techniques.caching.curves import curves
from kit.techniques.caching.layers.serving import Served, Worth
from kit.techniques.caching.policies import POLICIES, SIEVE


@pytest.fixture(scope="module")
def found():
    """Curves of a trace in which scans make LRU worse than others, sampled nowhere."""
    return curves(traces.mixture([traces.zipf(30_000, 2_000), traces.scan(15_000, 5_000)]))


def costs(lookup_s=1e-6, miss_s=5e-3, requests_a_day=1e6, value_bytes=10_000, **more):
    return Costs(Worth(0.0, lookup_s, lookup_s, 0.0, miss_s), requests_a_day, value_bytes, **more)


def test_what_it_saves(found):
    """Saved is requests × (hit ratio × miss − lookup) − memory, at every point and in the advice."""
    asked = costs(lookup_s=1e-4, mib_day_s=3.0)
    saved = savings(found, asked)
    for name, curve in found.policies.items():
        memory = found.capacities * 10_000 / 2**20
        assert saved[name] == pytest.approx(1e6 * (curve.hit_ratio * 5e-3 - 1e-4) - 3.0 * memory)
    advice = advise(found, asked)
    at = found.capacities.tolist().index(advice.capacity)
    assert advice.saved_s == pytest.approx(saved[advice.policy][at])
    assert advice.share_saved == pytest.approx(advice.saved_s / 5_000)
    assert advice.memory_mib == pytest.approx(advice.capacity * 10_000 / 2**20)
    assert advice.break_even == pytest.approx(0.02)
    assert advice.saved_s_interval[0] < advice.saved_s < advice.saved_s_interval[1]


def test_the_policy_that_is_worth_it(found):
    """Where scans harm LRU another policy is advised; where all serve alike, the simplest."""
    advice = advise(found, costs())
    assert advice.pays == "yes" and advice.policy != "LRU"
    assert f"Take {advice.policy} with" in advice.text and "The best possible at this size is" in advice.text
    everything = curves(found.trace, [10_000])
    assert advise(everything, costs()).policy == "LRU"


def test_dear_memory_makes_a_small_cache(found):
    """The more a MiB costs, the smaller the cache; it is where the next size saves less than it costs."""
    capacities = [advise(found, costs(mib_day_s=price)).capacity for price in (1, 100, 1_000)]
    assert capacities == sorted(capacities, reverse=True) and capacities[0] > capacities[-1]
    assert "Beyond this size a MiB more saves less than the 100 s a day that it costs" in (
        advise(found, costs(mib_day_s=100)).text
    )


def test_a_cache_that_does_not_pay(found):
    """Where a lookup costs as much as the work, or memory too much, the advice is to have none, and says why."""
    advice = advise(found, costs(lookup_s=5e-3))
    assert advice.pays == "no" and advice.saved_s < 0
    assert advice.text.startswith("A cache doesn't pay here") and "No policy can" in advice.text
    assert "from a hit ratio of 100 % on" in advice.text
    assert advise(found, costs(mib_day_s=1e9)).pays == "no"


def test_what_is_open_is_said_to_be_open(found):
    """Where the saving's interval spans nothing saved, the advice is open."""
    best = max(curve.hit_ratio[-1] for curve in found.policies.values())
    advice = advise(found, costs(lookup_s=float(best) * 5e-3))
    assert advice.pays == "unresolved" and "is open" in advice.text


def test_intervals_cover_another_stretch_of_the_same_traffic():
    """In at least 17 of 20 traces, the interval of one holds the hit ratio of the traffic at large."""
    trace, inside = traces.zipf(400_000, 2_000), 0
    truth = curves(trace, [200], ["LRU"]).policies["LRU"].by_block[0][5:].mean()
    for seed in range(1, 21):
        low, high = advise(curves(traces.zipf(20_000, 2_000, seed=seed), [200], ["LRU"]), costs()).hit_ratio_interval
        inside += low <= truth <= high
    assert inside >= 17


def test_intervals_are_wider_where_traffic_changes():
    """Where what is popular moves on, stretches differ and the interval shows it."""
    widths = []
    for trace in (traces.zipf(40_000, 2_000), traces.mixture([traces.zipf(20_000, 2_000)])):
        low, high = advise(curves(trace, [200], ["LRU"]), costs()).hit_ratio_interval
        widths.append(high - low)
    calm, busy = traces.zipf(20_000, 2_000).keys, 2_000 + np.arange(20_000) % 5_000
    changing = traces.of("changing", np.concatenate([calm, busy]))
    low, high = advise(curves(changing, [200], ["LRU"]), costs()).hit_ratio_interval
    assert high - low > 3 * max(widths)


@pytest.mark.parametrize(
    ("ratios", "index"),
    [
        ([0, 0.8, 0.9, 0.95, 1], 1),
        ([0, 0.25, 0.5, 0.75, 1], 4),
        ([0, 0, 0, 0, 1], 4),
        ([0.3] * 5, 4),
        ([0, 0.4, 0.8, 0.9, 1], 2),
    ],
)
def test_where_a_curve_bends(ratios, index):
    """The bend is the point farthest above the straight line; a straight or hollow curve bends only at its end."""
    assert knee(np.arange(5), np.array(ratios)) == index


def test_bytes_need_no_value_size():
    """A trace that knows sizes is advised in bytes; one that doesn't needs the memory of an item."""
    sized = curves(traces.with_sizes(traces.zipf(10_000, 1_000)))
    advice = advise(sized, costs(value_bytes=None))
    assert advice.memory_mib == pytest.approx(advice.capacity / 2**20)
    with pytest.raises(UserError, match="this trace knows no sizes; give value_bytes"):
        advise(curves(traces.zipf(1_000, 100)), costs(value_bytes=None))


def test_hits_and_misses_cost_their_own(found):
    """What is saved and the break-even are by one formula at each hit ratio, in which only misses are put."""
    each = Worth(0.37, hit_s=2e-5, miss_s=1.5e-5, put_s=6e-4, compute_s=1e-3)
    advice = advise(found, Costs(each, 1e6, 1000))
    spent = advice.hit_ratio * 2e-5 + (1 - advice.hit_ratio) * (1.5e-5 + 6e-4 + 1e-3)
    assert advice.saved_s == pytest.approx(1e6 * (1e-3 - spent)) and advice.break_even == each.break_even


def served(hits, misses, compute_s, seed=1):
    """Return requests whose work took about so long, give or take half."""
    chance, hit = np.random.default_rng(seed), np.arange(hits + misses) < hits
    took = np.where(hit, 0.0, compute_s * chance.uniform(0.5, 1.5, len(hit)))
    return Served(1.0, np.arange(1.0, len(hit) + 1), took, np.full(len(hit), 1e-6), took, ~hit * 1e-6, hit)


def test_the_interval_has_the_spread_of_the_costs(found):
    """Costs of few requests widen what is saved, and not the hit ratio; those of many hardly do."""
    widths = []
    for number in (None, 10_000, 5):
        seen = served(100, number or 100, 5e-3)
        asked = Costs(Worth(0.0, 1e-6, 1e-6, 1e-6, 5e-3), 1e6, 1000, spread=number and resampled(seen))
        advice = advise(found, asked)
        low, high = advice.saved_s_interval
        widths.append((high - low, advice.hit_ratio_interval))
    exact, many, few = (width for width, _ in widths)
    assert exact <= many * 1.05 and few > 1.5 * exact and len({ends for _, ends in widths}) == 1


def test_resampled_means_spread_like_means():
    """Resampled times spread by their deviation over the root of their number, about their mean."""
    seen = served(50, 400, 2e-3)
    compute_s = resampled(seen).compute_s
    times = seen.compute_s[~seen.hit]
    assert compute_s.mean() == pytest.approx(times.mean(), rel=0.01)
    assert compute_s.std() == pytest.approx(times.std() / 20, rel=0.1)


def test_a_policy_of_ones_own_can_be_advised(found, monkeypatch):
    """A policy that is added is advised where it is alone, and after the known ones where they serve alike."""

    class Mine(SIEVE):
        pass

    monkeypatch.setitem(POLICIES, "mine", Mine)
    assert advise(curves(found.trace, [300], ["mine"]), costs()).policy == "mine"
    assert advise(curves(found.trace, [300], ["mine", "SIEVE"]), costs()).policy == "SIEVE"


def test_an_interval_of_time_has_one_unit(found):
    """What is saved and both its ends are told in one unit."""
    advice = advise(found, costs())
    for (low, high), told in {
        (117.0, 121.0): "1.97 min of work a day [1.95, 2.02 min]",
        (90.0, 119.0): "118 s of work a day [90.0, 119 s]",
        (-720.0, 8_000.0): "0.0328 h of work a day [-0.200, 2.22 h]",
    }.items():
        assert saving(replace(advice, saved_s=118.0, saved_s_interval=(low, high))) == told


@pytest.mark.parametrize(
    "wrong", [{"miss_s": 0}, {"lookup_s": -1}, {"requests_a_day": float("nan")}, {"value_bytes": 0}]
)
def test_impossible_costs_are_refused(wrong):
    """Costs that can't be are refused by name."""
    told = {"miss_s": "compute_s", "lookup_s": "hit_s"}.get(next(iter(wrong)), next(iter(wrong)))
    with pytest.raises(UserError, match=f"{told}=.*: give a number"):
        costs(**wrong)
