"""What stores do in a second, as variants of a comparison, and what an item in them weighs."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from kit.errors import UserError
from kit.measure.work import Prepared, Reading, engaged
from kit.record.document import Engagement
from kit.techniques.caching.stores.keys import key
from kit.techniques.caching.stores.store import MISS, Store

Operation = Literal["get hit", "get miss", "put"]
OPERATIONS: tuple[Operation, ...] = ("get hit", "get miss", "put")


@dataclass(frozen=True)
class Load:
    """What every store is given: so many entries of an array of `value_bytes`, as a model's answer is one, and
    `a_reading` operations of each thread for one reading, over keys in random order."""

    operation: Operation = "get hit"
    items: int = 1000
    value_bytes: int = 856
    a_reading: int = 500

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise UserError(f"no operation is called {self.operation!r}; there are {', '.join(OPERATIONS)}")


@dataclass(frozen=True)
class Operating:
    """A variant: a store under load, by threads of one process or by processes of one thread.

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
        if self.processes > 1:
            context = multiprocessing.get_context("spawn")
            pool: Executor = ProcessPoolExecutor(self.processes, context, _open, (self.opening, load))
            store = None
            operate, number = _operate_here, self.processes
        else:
            store = self.opening()
            user = _User(store, load)
            pool, operate, number = ThreadPoolExecutor(self.threads), user.operate, self.threads
        list(pool.map(operate, range(number)))  # all are up

        def read() -> Reading:
            spans = list(pool.map(operate, range(number)))
            operations = number * load.a_reading
            wall_s = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
            right = sum(found for *_, found in spans) / operations
            return Reading(wall_s / operations, {"operations_per_s": operations / wall_s}, right)

        def prove() -> Engagement:
            shared = None if store is None else store.shared
            entries = {} if store is None else {"entries": len(store), "troubles": sum(store.troubles.values())}
            return engaged(threads=self.threads, processes=self.processes, shared=shared, **entries)

        def close() -> None:
            pool.shutdown()
            if store is not None:
                store.close()

        return Prepared(read, prove, close)


class _User:
    """One process's use of a store."""

    def __init__(self, store: Store, load: Load):
        self.store, self.load = store, load
        self.value = np.random.default_rng(0).random(max(1, load.value_bytes // 4), np.float32)
        self.held = [key("held", number) for number in range(load.items)]
        self.absent = [key("absent", number) for number in range(load.items)]
        if load.operation != "get miss":
            for one in self.held:
                store.put(one, self.value)

    def operate(self, number: int) -> tuple[float, float, int]:
        """Do the operations of one reading; return their beginning and end, and how many did what they should."""
        chosen = np.random.default_rng().integers(0, self.load.items, self.load.a_reading).tolist()
        keys = [(self.absent if self.load.operation == "get miss" else self.held)[place] for place in chosen]
        get, put, value, right = self.store.get, self.store.put, self.value, 0
        start = time.time()
        if self.load.operation == "put":
            for one in keys:
                put(one, value)
            end, right = time.time(), self._kept(keys)
        elif self.load.operation == "get hit":
            for one in keys:
                right += get(one) is not MISS
            end = time.time()
        else:
            for one in keys:
                right += get(one) is MISS
            end = time.time()
        return start, end, right

    def _kept(self, keys: list[bytes]) -> int:
        return len(keys) if np.array_equal(self.store.get(keys[-1]), self.value) else 0


_user: Any = None


def _open(opening: Callable[[], Store], load: Load) -> None:
    global _user
    _user = _User(opening(), load)


def _operate_here(number: int) -> tuple[float, float, int]:
    return _user.operate(number)


@dataclass(frozen=True)
class Weight:
    """Bytes that one entry takes, means. in_process: growth of this process's resident memory. in_store: by the store's
    own account: in memory its estimate, on the disk its pages, on a server the server's memory. value: its array."""

    value: int
    in_process: float
    in_store: float


def weigh(opening: Callable[[], Store], items: int = 20_000, value_bytes: int = 856) -> Weight:
    """Return what an entry weighs: so many are put into an empty store, in a process of its own. `opening` pickles."""
    if items < 1000:
        raise UserError(f"{items} items are too few to be seen in a process's memory; give 1,000 or more")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(partial(_weigh, opening, items, value_bytes)).result()


def _weigh(opening: Callable[[], Store], items: int, value_bytes: int) -> Weight:
    from kit.measure.memory import MIB, resident_mib

    with opening() as store:
        size = max(1, value_bytes // 4)
        for number in range(100):
            store.put(key("first", number), np.full(size, number, np.float32))
        before, before_bytes, before_number = resident_mib(), store.bytes, len(store)
        for number in range(items):
            store.put(key("v", number), np.full(size, number, np.float32))
        grown = (resident_mib() - before) * MIB
        kept = max(1, len(store) - before_number)
        return Weight(4 * size, grown / kept, (store.bytes - before_bytes) / kept)
