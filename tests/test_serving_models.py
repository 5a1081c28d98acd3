"""Simulated queues agree with theory, capacities of them are compared by rounds, and the autoscaler has its rule."""

import math
from functools import partial

import numpy as np
import pytest
from scipy.stats import binom

from kit.common import load
from kit.common.load.capacity import dependence
from kit.errors import UserError
from kit.techniques.serving import autoscaling, queue_model

EXPONENTIAL_S = np.random.default_rng(0).exponential(1 / 100, 20_000)
"""Service times of an M/M/1 queue that serves 100 requests per second."""


def test_the_model_is_queueing_theory():
    """M/M/1's capacity under a bound, and Erlang's waiting in M/M/2, within a few per cent."""
    assert queue_model.capacity(EXPONENTIAL_S, 1, 0.2) == pytest.approx(100 - math.log(100) / 0.2, rel=0.05)
    waited = queue_model.simulate(EXPONENTIAL_S, 2, 160, 100_000)
    erlang = 2 * 0.8**2 / (1 + 0.8)  # share of requests that wait: Erlang's C for two replicas at 80 % load
    assert (waited.sent_s > waited.due_s).mean() == pytest.approx(erlang, rel=0.05)
    assert queue_model.capacity(EXPONENTIAL_S, 1, 0.01) == 0 < queue_model.capacity(EXPONENTIAL_S, 4, 0.2)


def test_the_rule_of_the_autoscaler():
    """ceil(replicas × metric ÷ target), and nothing within 10 % of the target: Kubernetes' own example."""
    assert [autoscaling.desired(50, metric, 75) for metric in (90, 75, 80, 37.5, 0)] == [60, 50, 50, 25, 0]


def test_a_replay_waits_before_it_removes():
    """Replicas come a period and their start after the load, and go only once the stabilisation window has passed."""
    offered = [10.0] * 4 + [70.0] * 8 + [10.0] * 40
    found = autoscaling.replay(offered, [12.0 * count for count in range(1, 9)], target=10)
    assert found.replicas[:8] == [1, 1, 1, 1, 1, 5, 7, 7] and found.replicas[12:31] == [7] * 19
    assert found.replicas[-1] == 1 and found.overloaded == pytest.approx(2 * 70 / sum(offered))
    late = autoscaling.replay(offered, found.capacity[:1] * 8, 10, startup_s=31, stabilisation_s=0)
    assert late.replicas[4:10] == [1, 1, 1, 1, 5, 7] and sum(late.replicas) < sum(found.replicas)
    with pytest.raises(UserError, match="at least one period"):
        autoscaling.replay([], [1.0], 10)


def test_variants_are_offered_the_same():
    """All variants get the same rates and arrivals, in random order; rounds decide a difference."""
    seen = []

    def noted(name, replicas):
        at = partial(queue_model.simulate, EXPONENTIAL_S, replicas)
        return lambda rate, requests, seed: seen.append((name, rate, requests, seed)) or at(rate, requests, seed)

    found = load.capacities({"one": noted("one", 1), "two": noted("two", 2)}, [20, 40, 80, 160, 320], 0.2, rounds=3)
    ratio, low, high = found["two"].ratio(found["one"])
    assert 1 < low < ratio < high and found["one"].ratio(found["one"]) == (1, 1, 1)
    asked = [{one[1:] for one in seen if one[0] == name} for name in ("one", "two")]
    assert asked[0] <= asked[1] and {one[0] for one in seen[::2]} == {"one", "two"}
    assert load.Capacity(0.2, 0.99, rounds=(1, 2)).ratio(load.Capacity(0.2, 0.99, rounds=(1, 1)))[1:] == (0, math.inf)


def test_a_server_against_itself_is_rarely_different():
    """One simulated server under two names: at most 5 % of the comparisons are significant."""
    rates, different = [100 * 1.5**power for power in range(5)], 0
    server = partial(queue_model.simulate, np.random.default_rng(0).gamma(4, 0.001, 5_000), 1)
    for pair in range(0, 60_000, 1_000):
        sides = {side: lambda *at, more=pair + side: server(*at[:2], at[2] + more) for side in (0, 500)}
        found = load.capacities(sides, rates, 0.05, bounds=20)
        _, low, high = found[0].ratio(found[500])
        different += not low <= 1 <= high
    assert different <= binom.ppf(0.999, 60, 0.05)


def test_requests_that_wait_together_count_as_fewer():
    """Independent requests count one each; of those that are over the bound in spells of eight, eight count as one."""
    alone = np.random.default_rng(0).random(40_000) < 0.02
    assert dependence(alone, 10) == pytest.approx(1, abs=0.2)
    assert dependence(np.repeat(alone[:10_000], 8), 10) == pytest.approx(8, rel=0.25)
    assert dependence(np.zeros(100, bool), 10) == dependence(np.ones(3, bool), 10) == 1
