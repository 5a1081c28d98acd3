"""Stampedes: how many compute what has expired, by each way to prevent it, in one process and in several."""

import threading
import time
from functools import partial

import numpy as np
import pytest

from kit.errors import UserError
from kit.techniques.caching import stampede, stores
from kit.techniques.caching.stores import in_memory

MEMORY = partial(in_memory.own, items=100)


@pytest.fixture(scope="module")
def found():
    """Each strategy for one process: 8 threads, an entry that expires every 0.5 s and takes 0.05 s."""
    options = {"threads": 8, "compute_s": 0.05, "ttl_s": 0.5, "seconds": 1.2}
    return {name: stampede.run(name, MEMORY, **options) for name in stampede.STRATEGIES}


def test_unprotected_all_threads_compute(found):
    """Without protection about all threads compute each time the entry expires."""
    none = found["none"]
    assert none.most_at_once >= 6
    assert none.redundant >= 10 and none.computations > none.redundant


@pytest.mark.parametrize("strategy", ["lock", "lock in the store"])
def test_with_a_lock_one_computes(found, strategy):
    """With a lock there is never more than one computation under way, and at least one for each expiry."""
    assert found[strategy].redundant == 0 and found[strategy].most_at_once == 1
    assert 1 <= found[strategy].computations <= 3


def test_early_refresh_computes_less_often_at_once(found):
    """Early refresh computes fewer times at once than no protection, and before the entry expires."""
    assert found["early refresh"].computations >= 2
    assert found["early refresh"].redundant < found["none"].redundant


def test_requests_are_told_from_when_they_were_due(found):
    """Every request that was due has a latency, and those due while the entry was computed waited for it."""
    for one in found.values():
        assert len(one.sent) == len(one.latency_s) == 8 * 120
        assert (np.diff(one.sent) >= 0).all() and (one.latency_s >= 0).all()
        assert len(one.begun) == len(one.done) == one.computations
    assert found["lock"].latency(1.0) >= 0.045
    series = found["none"].over_time(0.05)
    assert len(series.times) == len(series.worst_s) == len(series.computing) == 24
    assert series.computing.max() >= 6 and series.worst_s.max() == found["none"].latency_s.max()


@pytest.mark.parametrize(("strategy", "once"), [("lock", False), ("lock in the store", True)])
def test_only_a_lock_in_the_store_holds_across_processes(tmp_path, strategy, once):
    """Two processes compute twice with a lock each, and once with a lock in the store that they share."""
    found = stampede.run(
        strategy, partial(stores.SQLite, tmp_path / "c"), threads=4, processes=2, compute_s=0.2, ttl_s=0.4, seconds=0.9
    )
    assert found.processes == 2 and found.computations >= 1
    assert (found.redundant == 0) == once


def test_early_refresh_is_likelier_near_expiry():
    """Far from expiry nobody refreshes; the share that does grows as it comes nearer, as the paper's formula says."""
    store, calls = MEMORY(), []
    now, draws = [1000.0], np.random.default_rng(0)
    store.clock = lambda: now[0]
    fetch = stampede.early(store, chance=draws.random)

    def share(left: float) -> float:
        now[0] = 1010.0 - left
        calls.clear()
        for _ in range(2000):
            store.put(stampede.EARLY + b"k", ["value", 1.0], ttl=left)
            fetch(b"k", lambda: calls.append(1), 10)
        return len(calls) / 2000

    assert share(9) < 0.005
    for left in (2.0, 1.0, 0.25):
        assert abs(share(left) - np.exp(-left)) < 0.04


@pytest.mark.parametrize("foreign", ["a text", [1, 2, 3], ["value", None], 7, {"a": 1, "b": 2}])
def test_early_refresh_takes_no_other_entry_for_its_own(foreign):
    """What others keep for the same key is not asked; what is not of its own shape is a miss; no expiry is a hit."""
    store = MEMORY()
    fetch = stampede.early(store)
    store.put(b"k", ["another's", 1.0])
    assert fetch(b"k", lambda: "computed", 9) == "computed" == fetch(b"k", lambda: "again", 9)
    assert store.get(b"k") == ["another's", 1.0]
    store.put(stampede.EARLY + b"k", foreign, 9)
    assert fetch(b"k", lambda: "computed", 9) == "computed"
    store.put(stampede.EARLY + b"k", ["for ever", 1.0])
    assert fetch("k", lambda: "computed", 9) == "for ever"


@pytest.mark.parametrize("strategy", stampede.STRATEGIES)
def test_everyone_gets_an_answer_of_their_own(strategy):
    """Who computes, who waits and who hits may change the list they got, and no one else sees it."""
    store, answers, gate = MEMORY(), [], threading.Barrier(4)
    fetch = stampede.STRATEGIES[strategy](store)

    def compute():
        time.sleep(0.1)
        return [0]

    def ask():
        gate.wait()
        answers.append(fetch(b"k", compute, 30))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in [*answers, fetch(b"k", compute, 30)]:
        assert answer == [0]
        answer.append(1)


def test_a_failed_computation_is_told_to_all_and_tried_again():
    """If the one that computes fails, those who wait see why, and the next request tries again."""
    store, seen, gate = MEMORY(), [], threading.Barrier(4)
    fetch = stampede.SingleFlight(store)

    def fail():
        time.sleep(0.1)
        raise RuntimeError("the database is away")

    def ask():
        gate.wait()
        try:
            fetch(b"k", fail, 1)
        except RuntimeError as error:
            seen.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["the database is away"] * 4
    assert fetch(b"k", lambda: 5, 1) == 5


def test_a_holder_that_died_holds_up_others_for_its_lease_only(tmp_path):
    """A lock whose holder is gone is taken over when its lease ends; a lock that is not one's own is left alone."""
    with stores.SQLite(tmp_path / "c") as store:
        store.add(b"lock:k", b"of a process that died", 0.2)
        assert stampede.SharedFlight(store, lease_s=5)(b"k", lambda: 1, 9) == 1
        assert store.get("lock:k") is stores.MISS

        def slow():
            time.sleep(0.15)
            store.put(b"lock:slow", b"another's, taken over", 9)
            return 2

        assert stampede.SharedFlight(store, lease_s=0.1)(b"slow", slow, 9) == 2
        assert store.get(b"lock:slow") == b"another's, taken over"


def test_without_the_server_everyone_computes_at_once():
    """If the store with the lock is out of reach nobody waits for it."""
    pytest.importorskip("redis")
    with stores.Redis("redis://127.0.0.1:1/0", retry_s=60) as store:
        store.get("is it there?")
        fetch = stampede.SharedFlight(store, lease_s=60)
        start = time.perf_counter()
        assert [fetch(b"k", lambda: 3, 1) for _ in range(5)] == [3] * 5
        assert time.perf_counter() - start < 30


def test_mistakes_are_told():
    """Each mistake that a user can make says what was got and what to give."""
    with pytest.raises(UserError, match="no strategy is called 'locks'"):
        stampede.run("locks", MEMORY)
    for wrong in ({"every_s": 0}, {"ttl_s": -1}, {"seconds": 0}, {"compute_s": -1}, {"every_s": 9, "seconds": 1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            stampede.run("none", partial(in_memory.own, items=2), **wrong)
    with pytest.raises(UserError, match="2 threads can't be shared out over 3"):
        stampede.run("none", MEMORY, threads=2, processes=3)
    with pytest.raises(UserError, match="processes share no store in memory"):
        stampede.run("none", MEMORY, threads=2, processes=2)


def test_what_computing_raises_comes_through():
    """A computation of the user's that fails ends the run with its own exception."""
    with pytest.raises(ZeroDivisionError):
        stampede.run("none", MEMORY, threads=2, compute=lambda: 1 / 0)
