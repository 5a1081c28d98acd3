"""What happens when an entry expires that many ask for: all compute it anew, one does, or one has done so before.

The four ways to `fetch` are plain, to be lifted: `plainly`, `SingleFlight`, `SharedFlight`, `early`. `run` sends
requests to one of them on a fixed schedule, by threads of one process or of several, and tells what each waited for.
"""

import math
import multiprocessing
import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kit.errors import UserError
from kit.techniques.caching.stores.entry import alike
from kit.techniques.caching.stores.store import MISS, Store, as_bytes

Compute = Callable[[], Any]
Fetch = Callable[[bytes, Compute, float], Any]
"""(key, compute, ttl) → the value of the key, from the cache or computed."""


def plainly(store: Store) -> Fetch:
    """Let everyone who misses compute."""
    return lambda key, compute, ttl: store.fetch(key, compute, ttl)


class SingleFlight:
    """Let one thread of this process compute a key; the others who miss it wait for what that one brings.

    Each is handed a copy of its own, as by a hit. If it fails, all who waited see its exception, and the next who asks
    tries again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._flights: dict[bytes, Future] = {}
        self._lock = threading.Lock()

    def __call__(self, key: bytes, compute: Compute, ttl: float) -> Any:
        value = self._store.get(key)
        if value is not MISS:
            return value
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                own = self._flights[key] = Future()
        if flight is not None:
            return alike(flight.result())
        try:
            value = self._store.fetch(key, compute, ttl)  # asks again: another's flight may have landed since
            own.set_result(value)
            return alike(value)
        except BaseException as error:
            own.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flights[key]


class SharedFlight:
    """Let one process compute a key, by a lock in the store that all of them share; within each process, one thread.

    The lock is let for `lease_s`: a process that dies while it computes holds up the others so long and no longer.
    Where the store is out of reach everyone computes. Its holder is not told when the lease runs out, so `lease_s` must
    be longer than computing takes, or two compute; never is an answer wrong.
    """

    def __init__(self, store: Store, lease_s: float = 10.0, poll_s: float = 0.002) -> None:
        self._store, self._lease_s, self._poll_s = store, lease_s, poll_s
        self._here = SingleFlight(store)

    def __call__(self, key: bytes, compute: Compute, ttl: float) -> Any:
        return self._here(key, partial(self._alone, key, compute, ttl), ttl)

    def _alone(self, key: bytes, compute: Compute, ttl: float) -> Any:
        lock, token = b"lock:" + key, uuid.uuid4().bytes
        patience = time.monotonic() + self._lease_s
        while self._store.available and time.monotonic() < patience:
            if self._store.add(lock, token, self._lease_s):
                try:
                    return self._store.fetch(key, compute, ttl)
                finally:
                    if self._store.get(lock) == token:  # not another's, who took over when the lease ran out
                        self._store.discard(lock)
            time.sleep(self._poll_s)
            value = self._store.get(key)
            if value is not MISS:
                return value
        return alike(compute())


EARLY = b"early:"
"""Before the keys of `early`: what it keeps is not what others keep for a key."""


def early(store: Store, beta: float = 1.0, chance: Callable[[], float] = random.random) -> Fetch:
    """Let each request compute anew before the entry expires, the likelier the nearer that is and the longer it takes.

    Hardly anyone waits for an expired entry then; while one computes, a few others begin as well. A first miss is not
    helped. Of r requests a second for what takes d seconds the first refreshes about d ln(r d) before expiry: a `ttl`
    that is not longer has everyone compute. beta above 1 refreshes earlier. Source: Vattani, Chierichetti, Lowenstein,
    Optimal Probabilistic Cache Stampede Prevention, VLDB 2015 (XFetch).
    """

    def fetch(key: bytes, compute: Compute, ttl: float) -> Any:
        at = EARLY + as_bytes(key)
        match store.find(at):
            case ([value, float(took_s)], None):
                return value
            case ([value, float(took_s)], expires):
                if store.clock() - took_s * beta * math.log(1 - chance()) < expires:
                    return value
        start = time.perf_counter()
        value = alike(compute())
        store.put(at, [value, time.perf_counter() - start], ttl)
        return value

    return fetch


STRATEGIES: dict[str, Callable[[Store], Fetch]] = {
    "none": plainly,
    "lock": SingleFlight,
    "lock in the store": SharedFlight,
    "early refresh": early,
}


@dataclass(frozen=True, eq=False)
class Stampede:
    """What requests for one key met with. Times are seconds since the first entry was put.

    sent: when each request was due, shape (requests,), ascending. latency_s: from then to its answer, same shape.
    begun, done: when each computation began and ended, shape (computations,), by their beginning.
    """

    strategy: str
    threads: int
    processes: int
    compute_s: float
    ttl_s: float
    sent: np.ndarray
    latency_s: np.ndarray
    begun: np.ndarray
    done: np.ndarray

    @property
    def computations(self) -> int:
        """How often the value was computed after it was first put."""
        return len(self.begun)

    @property
    def redundant(self) -> int:
        """Computations that began while another was under way: what a stampede costs."""
        ended = np.maximum.accumulate(self.done)
        return int((self.begun[1:] < ended[:-1]).sum())

    @property
    def most_at_once(self) -> int:
        """Most computations under way at the same time."""
        return int(self._under_way(self.begun).max()) if len(self.begun) else 0

    def latency(self, share: float) -> float:
        """Return the seconds that such a share of the requests did not exceed, as .99."""
        return float(np.quantile(self.latency_s, share))

    def over_time(self, width_s: float = 0.02) -> "OverTime":
        """Return what went on, in slices of so many seconds."""
        slices = (self.sent / width_s).astype(int)
        worst = np.zeros(slices.max() + 1)
        np.maximum.at(worst, slices, self.latency_s)
        times = np.arange(len(worst)) * width_s
        return OverTime(times, worst, self._under_way(times + width_s / 2))

    def _under_way(self, times: np.ndarray) -> np.ndarray:
        return ((self.begun <= times[:, None]) & (times[:, None] < self.done)).sum(axis=1)


@dataclass(frozen=True, eq=False)
class OverTime:
    """A stampede in slices of time. times: beginning of each, seconds, shape (slices,). worst_s: longest latency of a
    request that was due in it. computing: computations under way in its middle."""

    times: np.ndarray
    worst_s: np.ndarray
    computing: np.ndarray


def wait(seconds: float) -> list[float]:
    """Compute nothing for so long, as who waits for a database or another service does."""
    time.sleep(seconds)
    return [seconds]


@dataclass(frozen=True)
class _Load:
    """What one process sends: see `run`."""

    strategy: str
    threads: int
    every_s: float
    ttl_s: float
    seconds: float
    compute: Compute


KEY = b"what all ask for"


def run(
    strategy: str,
    opening: Callable[[], Store],
    *,
    threads: int = 16,
    processes: int = 1,
    compute_s: float = 0.05,
    ttl_s: float = 0.5,
    seconds: float = 1.5,
    every_s: float = 0.01,
    compute: Compute | None = None,
) -> Stampede:
    """Let `threads` threads, shared out over `processes`, ask for one key each `every_s` seconds, for `seconds`.

    opening: opens the store, in each process; several processes need one that is shared, and an `opening` that pickles.
    The entry is there at the beginning, and expires every `ttl_s`. compute: the work, by default a wait of `compute_s`.
    A request that is due while its thread still waits counts from when it was due. Raise `UserError` for what makes no
    sense.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"no strategy is called {strategy!r}; there are {', '.join(STRATEGIES)}")
    for name, value in {"ttl_s": ttl_s, "seconds": seconds, "every_s": every_s}.items():
        if not value > 0:
            raise UserError(f"{name}={value!r} is no time; give seconds above 0")
    if not (compute_s >= 0 and seconds >= every_s):
        raise UserError(f"compute_s={compute_s!r}, every_s={every_s!r} in seconds={seconds!r} ask nothing; give longer")
    if not 1 <= processes <= threads:
        raise UserError(f"{threads} threads can't be shared out over {processes} processes; give one or more to each")
    load = _Load(strategy, threads // processes, every_s, ttl_s, seconds, compute or partial(wait, compute_s))
    if processes == 1:
        found = [_send(opening, load, threading.Barrier(1))]
    else:
        with opening() as store:
            if not store.shared:
                raise UserError("processes share no store in memory; give opening= of one on the disk or a server")
        found = _spread(opening, load, processes)
    start = min(one["start"] for one in found)
    sent, latency_s, begun, done = (
        np.concatenate([one[name] for one in found]) for name in ("sent", "latency_s", "begun", "done")
    )
    by_sent, by_begun = np.argsort(sent, kind="stable"), np.argsort(begun, kind="stable")
    return Stampede(
        strategy, load.threads * processes, processes, compute_s, ttl_s, sent[by_sent] - start, latency_s[by_sent],
        begun[by_begun] - start, done[by_begun] - start,
    )  # fmt: skip


def _spread(opening: Callable[[], Store], load: _Load, processes: int) -> list[dict]:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _meet, (barrier,)) as pool:
        return list(pool.map(_send, [opening] * processes, [load] * processes))


_barrier: Any = None


def _meet(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _send(opening: Callable[[], Store], load: _Load, barrier: Any = None) -> dict:
    """Send the requests of one process, and return when they were due, what they took, and when it computed."""
    begun, done, noted = [], [], threading.Lock()

    def compute() -> Any:
        start = time.monotonic()  # the same clock in all processes of a machine
        value = load.compute()
        with noted:
            begun.append(start)
            done.append(time.monotonic())
        return value

    barrier = barrier or _barrier
    try:
        with opening() as store, ThreadPoolExecutor(load.threads) as pool:
            fetch = STRATEGIES[load.strategy](store)
            for key in (KEY, EARLY + KEY):
                store.discard(key)
            barrier.wait()
            fetch(KEY, load.compute, load.ttl_s)
            barrier.wait()
            start = time.monotonic()
            asking = partial(_ask, fetch, compute, load, start)
            pairs = [pair for series in pool.map(asking, range(load.threads)) for pair in series]
    except BaseException:
        barrier.abort()  # the other processes would wait for this one
        raise
    due, took = np.array(pairs).reshape(-1, 2).T
    return {"start": start, "sent": due, "latency_s": took, "begun": np.array(begun), "done": np.array(done)}


def _ask(fetch: Fetch, compute: Compute, load: _Load, start: float, number: int) -> list[tuple[float, float]]:
    """Send the requests of one thread, and return when each was due, and what it took from then on."""
    series = []
    for turn in range(round(load.seconds / load.every_s)):
        due = start + load.every_s * (turn + number / load.threads)
        if (early_s := due - time.monotonic()) > 0:
            time.sleep(early_s)
        fetch(KEY, compute, load.ttl_s)
        series.append((due, time.monotonic() - due))
    return series
