"""Work behind a cache as a variant of a comparison, and the gate: cached answers equal uncached ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np

from kit.errors import UserError
from kit.measure.work import Prepared, Reading, engaged, fell_back
from kit.record.document import Engagement
from kit.techniques.caching.layers.work import Opening, Work
from kit.techniques.caching.stores import MISS, Store, key

CHECKED = 32
"""Items whose cached answers are held against uncached ones."""


@dataclass(frozen=True, eq=False)
class Requests:
    """What is asked of every variant: the items of a trace in their order, from the beginning again after the end.

    warm: requests that go ahead of the measured ones; the cache is filled with their answers. a_reading: requests of
    one reading, which is the mean of their seconds.
    """

    work: Opening
    trace: np.ndarray
    warm: int = 0
    a_reading: int = 50

    def __post_init__(self) -> None:
        if len(self.trace) <= self.warm:
            raise UserError(
                f"a trace of {len(self.trace):,} requests has none left after {self.warm:,} to warm up with"
            )


@dataclass(frozen=True)
class Cached:
    """A variant: work behind the store that `opening` opens; None: no cache, the baseline.

    versioned=False leaves the work's version out of the keys. ttl: of each entry, seconds.
    """

    opening: Callable[[], Store] | None = None
    versioned: bool = True
    ttl: float | None = None

    @property
    def __wrapped__(self) -> Callable:
        """What opens the store, so that the record finds its code."""
        return getattr(self.opening, "func", self.opening) or uncached

    def __call__(self, asked: Requests) -> Prepared:
        """Open work and store, fill the store, and return the requests, ready to be timed."""
        work = asked.work()
        if self.opening is None:
            return _Asking(uncached(work), work, asked).prepared()
        store = self.opening()
        return _Asking(Behind(work, store, self.versioned, self.ttl), work, asked, store).prepared()


@dataclass(frozen=True)
class Memoized:
    """A variant: the work's function in functools.lru_cache, as most people write it first. What can't change in an
    entry, expire or be shared is up to the caller; its key is the item's number, for it can't hash an array."""

    items: int

    @property
    def __wrapped__(self) -> Callable:
        return lru_cache

    def __call__(self, asked: Requests) -> Prepared:
        """Return the requests, ready to be timed."""
        work = asked.work()
        return _Asking(_Memo(work, self.items), work, asked).prepared()


def uncached(work: Work) -> Callable[[int], Any]:
    """Return the work as it is."""
    return work.answer


class Behind:
    """Work behind a store: `self(item)` looks up, works out what is missed, and keeps it. Counts as it goes."""

    def __init__(self, work: Work, store: Store, versioned: bool = True, ttl: float | None = None):
        self.work, self.store, self.ttl = work, store, ttl
        self.version = work.version if versioned else None
        self.hits = self.misses = 0

    def __call__(self, item: int) -> Any:
        at = key(self.version, self.work.inputs(item))
        value = self.store.get(at)
        if value is not MISS:
            self.hits += 1
            return value
        self.misses += 1
        value = self.work.answer(item)
        self.store.put(at, value, self.ttl)
        return value

    def fill(self, item: int, value: Any) -> None:
        """Do for a request what its miss or hit would, with an answer that is known."""
        at = key(self.version, self.work.inputs(item))
        if self.store.get(at) is MISS:
            self.store.put(at, value, self.ttl)


class _Memo:
    """functools.lru_cache, spoken to like `Behind`."""

    def __init__(self, work: Work, items: int):
        self._known: dict[int, Any] = {}
        self._cached = lru_cache(maxsize=items)(self._answer)
        self._work = work
        self.before = (0, 0)

    def __call__(self, item: int) -> Any:
        return self._cached(item)

    def _answer(self, item: int) -> Any:
        return self._known.pop(item) if item in self._known else self._work.answer(item)

    def fill(self, item: int, value: Any) -> None:
        self._known[item] = value
        self._cached(item)
        self._known.clear()
        self.before = (self._cached.cache_info().hits, self._cached.cache_info().misses)

    @property
    def hits(self) -> int:
        return self._cached.cache_info().hits - self.before[0]

    @property
    def misses(self) -> int:
        return self._cached.cache_info().misses - self.before[1]


class _Asking:
    """A variant at work."""

    def __init__(self, ask: Callable[[int], Any], work: Work, asked: Requests, store: Store | None = None):
        self.ask, self.work, self.asked, self.store = ask, work, asked, store
        self.items = asked.trace.tolist()
        self.position = asked.warm
        if hasattr(ask, "fill"):
            self._warm()

    def prepared(self) -> Prepared:
        return Prepared(self.read, self.prove, self.close)

    def _warm(self) -> None:
        """Fill the cache as the requests ahead of the measured ones would; each item is worked out once."""
        known: dict[int, Any] = {}
        for item in self.items[: self.asked.warm]:
            if item not in known:
                known[item] = self.work.answer(item)
            self.ask.fill(item, known[item])

    def read(self) -> Reading:
        """Answer the next requests: the reading is the mean of their seconds."""
        number, length = self.asked.a_reading, len(self.items)
        items = [self.items[(self.position + step) % length] for step in range(number)]
        self.position += number
        before = getattr(self.ask, "hits", 0)
        start = perf_counter()
        for item in items:
            self.ask(item)
        mean_s = (perf_counter() - start) / number
        hits = getattr(self.ask, "hits", 0) - before
        return Reading(mean_s, {"requests_per_s": 1 / mean_s, "hit_ratio": hits / number}, self.answers)

    def answers(self) -> list:
        """Return what is answered for some items of the trace, twice over: the second time from the cache."""
        some = list(dict.fromkeys(self.items))[:CHECKED]
        return [self.ask(item) for item in some] + [self.ask(item) for item in some]

    def prove(self) -> Engagement:
        """Return how many requests the cache has answered."""
        hits, misses = getattr(self.ask, "hits", 0), getattr(self.ask, "misses", 0)
        if not hasattr(self.ask, "fill"):
            return engaged("no cache")
        if not hits:
            return fell_back("working out every answer: the cache had none of them")
        troubles = sum(self.store.troubles.values()) if self.store else 0
        costs = {"hit_ratio": hits / (hits + misses)}
        if self.store and len(self.store):
            costs["bytes_an_item"] = self.store.bytes / len(self.store)
        return engaged(hits=hits, misses=misses, troubles=troubles, costs=costs)

    def close(self) -> None:
        if self.store:
            self.store.close()
        self.work.close()


# The gate


@dataclass(frozen=True)
class Wrong:
    """Answers after a change of the model that the new model would not give. decisions: of them those that differ in
    their largest element, the class. from_cache: answers that came from the cache."""

    requests: int
    from_cache: int
    answers: int
    decisions: int


def wrong_after_change(
    old: Work, new: Work, store: Store, trace: Sequence[int] | np.ndarray, *, versioned: bool
) -> Wrong:
    """Fill `store` by answering `trace` with the old work, then answer it again with the new, and count what is wrong.

    With the version in the key none is; without it the old model goes on answering.
    """
    before, after = (Behind(work, store, versioned) for work in (old, new))
    for item in trace:
        before(int(item))
    right = _Right(new)
    answers = decisions = 0
    for item in map(int, trace):
        given, wanted = np.asarray(after(item)), right.of(item)
        answers += not np.allclose(given, wanted, rtol=1e-6, atol=1e-9, equal_nan=True)
        decisions += int(given.argmax() != wanted.argmax())
    return Wrong(len(trace), after.hits, answers, decisions)


class _Right:
    """What uncached work answers, worked out once an item."""

    def __init__(self, work: Work):
        self._work, self._known = work, {}

    def of(self, item: int) -> np.ndarray:
        if item not in self._known:
            self._known[item] = np.asarray(self._work.answer(item))
        return self._known[item]
