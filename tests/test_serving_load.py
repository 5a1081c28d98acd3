"""Load over HTTP: intended times count, failures are over the bound, a capacity is an interval with its requests."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from kit.common import load
from kit.common.services import Service
from kit.errors import UserError

NULL_SERVER = Path(load.__file__).with_name("null_server.py")


@pytest.fixture(scope="module")
def null():
    """Address of a server that answers "ok" to each request."""
    with Service("the null server", [sys.executable, str(NULL_SERVER), "{port}"]) as server:
        server.start()
        yield f"http://127.0.0.1:{server.port}/"


def test_each_request_has_its_answer(null):
    """Every request is answered once and in its place; latency counts from when it was due."""
    found = load.offer(null, [b"a", b"b"], rate=200, requests=100)
    assert found.answers == [b"ok"] * 100 and found.failed == 0 and set(found.status) == {200}
    assert (found.ended_s >= found.sent_s).all() and (found.sent_s >= found.due_s).all()
    assert np.allclose(found.latency_s, found.ended_s - load.arrivals(200, 100))


def test_nothing_that_answers_is_one_sentence():
    """A server that is not there, and an address that is none, are the user's mistakes."""
    with pytest.raises(UserError, match=r"no load was sent to http://127.0.0.1:9/: Connect call failed"):
        load.offer("http://127.0.0.1:9/", [b""], rate=10, requests=1)
    with pytest.raises(UserError, match="give an http:// address"):
        load.offer("ftp://here", [b""], rate=10, requests=1)


@pytest.mark.parametrize(("percentile", "known"), [(0.99, [459, 662, 838, 1001, 1157]), (0.95, [90, 130, 165]),
                                                   (0.9, [44, 64, 81])])  # fmt: skip
def test_early_stopping_is_mlperfs(percentile, known):
    """So many requests are enough with 0, 1, 2, … over the bound, as MLPerf's LoadGen has it."""
    assert [load.least_requests(over, percentile) for over in range(len(known))] == known


@pytest.mark.parametrize("over", [0, 1, 5, 30])
def test_verdicts_are_binomial_tails(over):
    """Each verdict agrees with SciPy's binomial distribution, on either side."""
    for requests in range(max(over, 1), 4_000, 97):
        holds, fails = binom.cdf(over, requests, 0.01) <= 0.01, binom.sf(over - 1, requests, 0.01) <= 0.01
        expected = load.HOLDS if holds else load.FAILS if fails else load.UNDECIDED
        assert load.verdict(requests, over) == expected
