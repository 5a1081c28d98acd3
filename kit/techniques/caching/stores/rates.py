"""Operations a second of every store, by threads and by processes: readings in turn, so that no store has all the luck.

The comparison of stores tells hits apart with a verdict. Here each operation of each store stands beside the others
for the cost of a few seconds, without one.
"""

import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import cloudpickle

from kit.errors import UserError
from kit.record.figures import median_interval
from kit.techniques.caching.stores.operations import OPERATIONS, Load, Operation, Span, User, together
from kit.techniques.caching.stores.store import Store

THREADS = {"1 thread": 1, "2 threads": 2}
PROCESSES = "2 processes"
USERS = (*THREADS, PROCESSES)
LEAST_ROUNDS, MOST_ROUNDS = 5, 30


@dataclass(frozen=True)
class Rate:
    """What the users of one store do in a second, all together. users: one of `USERS`. readings: operations a second.
    right: least share of a reading's operations that did what they should."""

    store: str
    operation: Operation
    users: str
    readings: list[float]
    right: float

    @property
    def per_s(self) -> float:
        """Median of the readings."""
        return median(self.readings)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the median, 95 %; under six readings all of them."""
        return median_interval(self.readings)


Openings = Mapping[str, Callable[[], Store]]


def rates(openings: Callable[[Operation], Openings], load: Load, *, seconds: float = 5.0, seed: int = 0) -> list[Rate]:
    """Return the rates of all stores, for hits, misses and puts, with one thread, two, and two processes.

    openings: an operation's own stores by name, for what is put would evict what is to be hit. Rounds of all readings
    in random order are taken for `seconds`, and at least five. Two processes are asked of shared stores alone: in
    memory each has a store of its own. Raise `UserError` for no store, and for a time that is none.
    """
    stores = {operation: dict(openings(operation)) for operation in OPERATIONS}
    if not stores["put"] or not seconds > 0:
        raise UserError(
            f"{len(stores['put'])} stores in {seconds!r} s have no rates; give one or more, and a time above 0"
        )
    context = multiprocessing.get_context("spawn")
    enter = (cloudpickle.dumps(stores), load, context.Barrier(2))
    with (
        ProcessPoolExecutor(1, context, _enter, enter) as first,
        ProcessPoolExecutor(1, context, _enter, enter) as second,
    ):
        shared = set.intersection(*(one.result() for one in [pool.submit(_shared) for pool in (first, second)]))
        cells = [
            (name, operation, users)
            for operation, named in stores.items()
            for name in named
            for users in USERS
            if users != PROCESSES or name in shared
        ]
        taken = _rounds(cells, partial(_reading, first, second), seconds, random.Random(seed))
        for ended in [pool.submit(_leave) for pool in (first, second)]:
            ended.result()
    return [
        Rate(*cell, [per_s for per_s, _ in found], min(right for _, right in found)) for cell, found in taken.items()
    ]


Cell = tuple[str, Operation, str]


def _rounds(
    cells: list[Cell], read: Callable[[Cell], tuple[float, float]], seconds: float, chance: random.Random
) -> dict[Cell, list[tuple[float, float]]]:
    found: dict[Cell, list[tuple[float, float]]] = {cell: [] for cell in cells}
    start = time.monotonic()
    for taken in range(1, MOST_ROUNDS + 1):
        for cell in chance.sample(cells, len(cells)):
            found[cell].append(read(cell))
        spent = time.monotonic() - start
        if taken >= LEAST_ROUNDS and spent * (taken + 1) / taken > seconds:
            break
    return found


def _reading(first: ProcessPoolExecutor, second: ProcessPoolExecutor, cell: Cell) -> tuple[float, float]:
    name, operation, users = cell
    if users == PROCESSES:
        asked = [pool.submit(_by_process, name, operation) for pool in (first, second)]
        spans = [one.result() for one in asked]
    else:
        spans = first.submit(_by_threads, name, operation, THREADS[users]).result()
    per_s, right = together(spans)
    return per_s, min(right, first.submit(_check, name, operation).result())


# In the processes

_users: dict[tuple[str, Operation], User] = {}
_barrier: Any = None


def _enter(packed: bytes, load: Load, barrier: Any) -> None:
    global _barrier
    _barrier = barrier
    for operation, openings in cloudpickle.loads(packed).items():
        for name, opening in openings.items():
            _users[name, operation] = User(opening(), replace(load, operation=operation))


def _shared() -> set[str]:
    return {name for (name, _), user in _users.items() if user.store.shared}


def _by_threads(name: str, operation: Operation, number: int) -> list[Span]:
    operate = partial(_users[name, operation].operate, threading.Barrier(number))
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(operate, range(number)))


def _by_process(name: str, operation: Operation) -> Span:
    return _users[name, operation].operate(_barrier)


def _check(name: str, operation: Operation) -> float:
    return _users[name, operation].check()


def _leave() -> None:
    for user in _users.values():
        user.store.close()
    _users.clear()
