"""Open-loop load: arrivals are Poisson, waiting in the queue counts, and percentiles need requests beyond them."""

import numpy as np
import pytest

from kit.common import load
from kit.errors import UserError


def test_arrivals_are_poisson():
    """Gaps have the mean and the deviation of a Poisson process; a seed gives the same ones."""
    gaps = np.diff(load.arrivals(50, 20_000))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03) and gaps.std() == pytest.approx(1 / 50, rel=0.05)
    assert (load.arrivals(50, 10, seed=1) == load.arrivals(50, 10, seed=1)).all()


def test_waiting_in_the_queue_counts(simulated_clock):
    """Above what a worker can do latency grows with each request; below, it is about the work."""
    over, under = (load.open_loop(lambda _: simulated_clock(0.004), range(100), rate) for rate in (500, 50))
    assert over.busy > 1 > under.busy
    assert over.latency_s[-20:].mean() > 3 * over.latency_s[:20].mean()
    assert over.percentile(0.5) > 3 * under.percentile(0.5) >= 0.004


@pytest.mark.parametrize(
    ("requests", "share", "known"), [(500, 0.99, True), (499, 0.99, False), (10, 0.5, True), (9, 0.5, False)]
)
def test_percentiles_need_five_requests_beyond_them(requests, share, known):
    """A percentile with fewer than five requests beyond it is not reported."""
    assert (load.percentile(np.arange(requests), share) is not None) == known


def test_a_rate_of_nothing_is_refused():
    """A rate must be above 0."""
    with pytest.raises(UserError, match="rate=0 is not allowed"):
        load.open_loop(id, [1], 0)
