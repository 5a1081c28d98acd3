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
    found, overloaded = autoscaling.replay(offered, [12.0 * count for count in range(1, 9)], target=10)
    assert found[:8] == [1, 1, 1, 1, 1, 5, 7, 7] and found[12:31] == [7] * 19
    assert found[-1] == 1 and overloaded == pytest.approx(2 * 70 / sum(offered))
    late, _ = autoscaling.replay(offered, [12.0] * 8, 10, startup_s=31, window_s=0)
    assert late[4:10] == [1, 1, 1, 1, 5, 7] and sum(late) < sum(found)
    with pytest.raises(UserError, match="number of periods, or of capacities=0"):
        autoscaling.replay([], [1.0], 10)


def rounds(server, rates, bound_s, count, seed=0):
    """Return the capacity by rounds of a simulated server, as a notebook has it."""
    crossed = []
    for turn in range(count):
        near = np.median(crossed or rates)
        found = load.enclosing(server, rates, near, bound_s, bounds=20, seed=seed + turn)
        crossed.append(load.crossing(found, bound_s))
    return load.Capacity(bound_s, 0.99, rounds=tuple(crossed))


@pytest.mark.parametrize(
    ("within", "near", "seed", "tried"),
    [
        (25, 30, 0, [40, 20]), (25, 30, 1, [20, 40]), (25, 999, 0, [160, 80, 40, 20]), (25, 1, 1, [10, 20, 40]),
        (5, 20, 0, [20, 10]), (500, 160, 1, [80, 160]),
    ],
)  # fmt: skip
def test_a_round_goes_to_the_two_rates_around_the_capacity(within, near, seed, tried):
    """From above or below, and no rate twice; a capacity beyond the rates is the first or the last."""

    def at(rate, requests, seed):
        sent_s, took_s = load.arrivals(rate, requests, seed), 1.0 if rate > within else 0.001
        return load.Load(rate, sent_s, sent_s, sent_s, sent_s + took_s, np.full(requests, 200), [b""] * requests)

    found = load.enclosing(at, [10.0, 20.0, 40.0, 80.0, 160.0], near, 0.1, percentile=0.9, bounds=5, seed=seed)
    assert [one.rate for one in found] == tried
    low, high = {25: (20, 40), 5: (10, 10), 500: (160, 160)}[within]
    assert low <= round(load.crossing(found, 0.1, 0.9), 6) <= high


def test_a_server_with_two_replicas_carries_more():
    """Rounds begin at the middle rate, and are as long as asked; each load has arrivals of its own."""
    seen, rates = [], [20.0 * 1.3**power for power in range(11)]

    def noted(*at):
        seen.append(at)
        return queue_model.simulate(EXPONENTIAL_S, 1, *at)

    one, two = rounds(noted, rates, 0.2, 3), rounds(partial(queue_model.simulate, EXPONENTIAL_S, 2), rates, 0.2, 3)
    assert seen[0][0] == rates[5] and len({at[2] for at in seen}) == len(seen)
    assert all(at[1] == max(200, round(at[0] * 20 * 0.2)) for at in seen)
    ratio, low, high = two.ratio(one)
    assert 1 < low < ratio < high and one.ratio(one) == (1, 1, 1)
    assert load.Capacity(0.2, 0.99, rounds=(1, 2)).ratio(load.Capacity(0.2, 0.99, rounds=(1, 1)))[1:] == (0, math.inf)


def test_a_server_against_itself_is_rarely_different():
    """One simulated server under two names: at most 5 % of the comparisons are significant."""
    rates, different = [100 * 1.225**power for power in range(13)], 0
    server = partial(queue_model.simulate, np.random.default_rng(0).gamma(4, 0.001, 5_000), 1)
    for pair in range(0, 60_000, 1_000):
        one, same = (rounds(server, rates, 0.05, 3, seed) for seed in (pair, pair + 500))
        _, low, high = same.ratio(one)
        different += not low <= 1 <= high
    assert different <= binom.ppf(0.999, 60, 0.05)


def test_requests_that_wait_together_do_not_pass_a_rate():
    """10 % above its capacity, pooled rounds of a queue hardly ever hold; single requests would pass it often."""
    times_s, bound_s = np.random.default_rng(0).gamma(4, 0.00025, 20_000), 0.02
    rate, held, plain = 1.1 * queue_model.capacity(times_s, 1, bound_s), 0, 0
    for run in range(0, 40_000, 1_000):
        loads = [queue_model.simulate(times_s, 1, rate, round(rate * 0.5), run + turn) for turn in range(10)]
        held += load.pooled(loads, bound_s).lower > 0
        plain += any(load.early_stopping(one.requests, one.over(bound_s)) for one in loads)
    assert held <= 2 < plain


def test_requests_that_wait_together_count_as_fewer():
    """Independent requests count one each; of those that are over the bound in spells of eight, eight count as one."""
    alone = np.random.default_rng(0).random(40_000) < 0.02
    assert dependence(alone, 10) == pytest.approx(1, abs=0.2)
    assert dependence(np.repeat(alone[:10_000], 8), 10) == pytest.approx(8, rel=0.25)
    assert dependence(np.zeros(100, bool), 10) == dependence(np.ones(3, bool), 10) == 1
