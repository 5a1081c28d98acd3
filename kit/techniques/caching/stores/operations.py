"""What stores do in a second, as variants of a comparison, and what an item in them weighs."""

import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import cloudpickle
import numpy as np

from kit.errors import UserError
from kit.measure.work import Ceiling, Prepared, Reading, engaged
from kit.record.document import Engagement
from kit.techniques.caching.stores.keys import key
from kit.techniques.caching.stores.store import MISS, Store

Operation = Literal["get hit", "get miss", "put"]
OPERATIONS: tuple[Operation, ...] = ("get hit", "get miss", "put")


NEW_KEYS = 20_000
"""Keys that each user puts in turn: so many are new, then they are overwritten."""

BETWEEN_LOOKS = 20
"""Operations between two looks at the clock."""


@dataclass(frozen=True)
class Load:
    """What every store is given: so many entries, each another array of `value_bytes`, as a model's answer is one; then
    gets of keys in random order, or puts of new ones, for `seconds` a reading."""

    operation: Operation = "get hit"
    items: int = 1000
    value_bytes: int = 856
    seconds: float = 0.02

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise UserError(f"no operation is called {self.operation!r}; there are {', '.join(OPERATIONS)}")


@dataclass(frozen=True)
class Operating:
    """A variant: a store under load, by threads of one process or by processes of one thread, not by both.

    opening: opens the store, in each process; it must pickle where there are several. A reading is the wall time over
    all operations. Processes share what is in a shared store; of one in memory each has its own, and the facts say so.
    """

    opening: Callable[[], Store]
    threads: int = 1
    processes: int = 1

    @property
    def __wrapped__(self) -> Callable:
        """What opens the store, so that the record finds its code."""
        return getattr(self.opening, "func", self.opening)

    def __call__(self, load: Load) -> Prepared:
        """Open and fill the store and return the operations, ready to be timed."""
        if self.threads > 1 < self.processes:
            raise UserError(
                f"{self.threads} threads in {self.processes} processes are one too many; set one of them to 1"
            )
        number = self.threads * self.processes
        if self.processes > 1:
            context, store = multiprocessing.get_context("spawn"), None
            pool: Executor = ProcessPoolExecutor(number, context, _open, (self.opening, load, context.Barrier(number)))
            operate, check = _operate_here, _check_here
        else:
            store = self.opening()
            pool, user = ThreadPoolExecutor(number), User(store, load)
            operate, check = partial(user.operate, threading.Barrier(number)), user.check

        def read() -> Reading:
            per_s, right = together(list(pool.map(operate, range(number))))
            return Reading(1 / per_s, {"operations_per_s": per_s}, min(right, *pool.map(check, range(number))))

        def prove() -> Engagement:
            shared = None if store is None else store.shared
            entries = {} if store is None else {"entries": len(store), "troubles": sum(store.troubles.values())}
            return engaged(threads=self.threads, processes=self.processes, shared=shared, **entries)

        def close() -> None:
            pool.shutdown()
            if store is not None:
                store.close()

        return Prepared(read, prove, close, ceiling=partial(self._bound, load, store))

    def _bound(self, load: Load, store: Store | None) -> Ceiling | None:
        """Return what bounds an operation: of a store on a server the users' round trips, which go on side by side."""
        with self.opening() if store is None else nullcontext(store) as one:
            bound = one.bound(0 if load.operation == "get miss" else 4 * max(1, load.value_bytes // 4))
        users = self.threads * self.processes
        if bound is None or "round_trips" not in bound.name or users == 1:
            return bound
        return replace(bound, amount=bound.amount / users, note=f"{bound.note}; {users} users side by side")


Span = tuple[float, float, int, int]
"""Of one user's reading: beginning, end, operations, and how many of them did what they should."""


def together(spans: Sequence[Span]) -> tuple[float, float]:
    """Return the operations a second of all users, and the share of them that did what they should."""
    operations = sum(done for *_, done, _ in spans)
    wall_s = max(end for _, end, *_ in spans) - min(start for start, *_ in spans)
    return operations / wall_s, sum(right for *_, right in spans) / operations


class User:
    """One process's use of a store: filled for the load's operation, then used by as many threads as call."""

    def __init__(self, store: Store, load: Load):
        self.store, self.load = store, load
        self.value = np.random.default_rng(0).random(max(1, load.value_bytes // 4), np.float32)
        held = [key("held", number) for number in range(load.items)]
        if load.operation == "get hit":
            for number, one in enumerate(held):
                store.put(one, self._value(number))
        self.keys = {
            "get hit": held,
            "get miss": [key("absent", number) for number in range(load.items)],
            "put": [os.urandom(16) for _ in range(NEW_KEYS)],
        }[load.operation]
        self.do = {"get hit": self._hit, "get miss": self._miss, "put": self._put}[load.operation]

    def operate(self, together: Any, number: int = 0) -> Span:
        """Work for one reading, begun with the other users, for whom the barrier `together` waits. Return beginning,
        end, operations, and how many of them did what they should."""
        keys = self._chosen()
        done = right = 0
        together.wait(60)
        start = end = time.monotonic()  # the same clock in all processes of a machine
        while end < start + self.load.seconds:
            right += self.do([next(keys) for _ in range(BETWEEN_LOOKS)])
            done += BETWEEN_LOOKS
            end = time.monotonic()
        return start, end, done, right

    def check(self, number: int = 0) -> float:
        """Return, outside the timing, what share of some keys has the value that was put for it."""
        some = np.random.default_rng().integers(len(self.keys), size=BETWEEN_LOOKS).tolist()
        return {"get hit": self._holds, "get miss": lambda _: 1.0, "put": self._keeps}[self.load.operation](some)

    def _holds(self, numbers: list[int]) -> float:
        return float(np.mean([np.array_equal(self.store.get(self.keys[one]), self._value(one)) for one in numbers]))

    def _keeps(self, numbers: list[int]) -> float:
        kept = 0
        for one in numbers:
            self.store.put(self.keys[one], self._value(one))
            kept += np.array_equal(self.store.get(self.keys[one]), self._value(one))
        return kept / len(numbers)

    def _value(self, number: int) -> np.ndarray:
        return self.value + np.float32(number)

    def _chosen(self) -> Iterator[bytes]:
        order = np.random.default_rng().permutation(len(self.keys)).tolist()
        return itertools.cycle([self.keys[place] for place in order])

    def _hit(self, keys: list[bytes]) -> int:
        get = self.store.get
        return sum(get(one) is not MISS for one in keys)

    def _miss(self, keys: list[bytes]) -> int:
        get = self.store.get
        return sum(get(one) is MISS for one in keys)

    def _put(self, keys: list[bytes]) -> int:
        put, value = self.store.put, self.value
        for one in keys:
            put(one, value)
        return len(keys)


_user: User | None = None
_barrier: Any = None


def _open(opening: Callable[[], Store], load: Load, barrier: Any) -> None:
    global _user, _barrier
    _user, _barrier = User(opening(), load), barrier


def _operate_here(number: int) -> Span:
    return _user.operate(_barrier, number)


def _check_here(number: int) -> float:
    return _user.check(number)


@dataclass(frozen=True)
class Weight:
    """Bytes that one entry takes, means. value: its array alone. in_process: what the process's resident memory grows
    by, with that of a private server and of pages mapped into it. in_store: by the store's own account: in memory its
    estimate, on the disk its pages, on a server the server's memory."""

    value: int
    in_process: float
    in_store: float


def weigh(opening: Callable[[], Store], items: int = 20_000, value_bytes: int = 856) -> Weight:
    """Return what an entry weighs: so many are put into an empty store, in a process of its own."""
    if items < 1000:
        raise UserError(f"{items} items are too few to be seen in a process's memory; give 1,000 or more")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_weigh, cloudpickle.dumps(opening), items, value_bytes).result()


def _weigh(opening: bytes, items: int, value_bytes: int) -> Weight:
    from kit.measure.memory import MIB, resident_mib

    with cloudpickle.loads(opening)() as store:
        size = max(1, value_bytes // 4)
        for number in range(100):
            store.put(key("first", number), np.full(size, number, np.float32))
        before, before_bytes, before_number = resident_mib(), store.bytes, len(store)
        for number in range(items):
            store.put(key("v", number), np.full(size, number, np.float32))
        grown = (resident_mib() - before) * MIB
        kept = max(1, len(store) - before_number)
        return Weight(4 * size, grown / kept, (store.bytes - before_bytes) / kept)
