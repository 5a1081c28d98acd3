"""Work behind a cache as a variant of a comparison, and the gate: cached answers equal uncached ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np

from kit.errors import UserError
from kit.measure.work import Ceiling, Prepared, Reading, engaged, fell_back
from kit.record import words
from kit.record.document import Engagement
from kit.techniques.caching.layers.work import Opening, Work
from kit.techniques.caching.stores import MISS, Store, key
from kit.techniques.caching.stores.entry import alike
from kit.techniques.caching.stores.store import handed_over

CHECKED = 32
"""Items whose cached answers are held against uncached ones."""


@dataclass(frozen=True, eq=False)
class Requests:
    """What is asked of every variant: the `a_reading` requests of a trace that follow on the first `warm`.

    The cache is filled as those that go ahead would have, anew for each reading, so that all readings are of the same
    requests with the same hits. They show what a hit saves; which share hits in the long run, curves tell.
    known: answers by item that a cache is filled with; what is missing each variant works out for itself.
    """

    work: Opening
    trace: np.ndarray
    warm: int = 500
    a_reading: int = 50
    known: Mapping[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.trace) < self.warm + self.a_reading:
            raise UserError(
                f"a trace of {len(self.trace):,} requests is too short for {self.warm:,} to warm up and "
                f"{self.a_reading:,} to measure; give a longer one or lower warm= and a_reading="
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
            return _Asking(asked, work, lambda: _Alone(work)).prepared()
        return _Asking(asked, work, lambda: Behind(work, self.opening(), self.versioned, self.ttl)).prepared()


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
        return _Asking(asked, work, lambda: _Memo(work, self.items)).prepared()


def uncached(work: Work) -> Callable[[int], Any]:
    """Return the work as it is."""
    return work.answer


class _Alone:
    """Work without a cache, spoken to like `Behind`."""

    store = None
    hits = misses = 0

    def __init__(self, work: Work):
        self._answer = uncached(work)

    def __call__(self, item: int) -> Any:
        return self._answer(item)


class Behind:
    """Work behind a store: `self(item)` looks up, works out what is missed, and keeps it. Counts as it goes."""

    def __init__(self, work: Work, store: Store, versioned: bool = True, ttl: float | None = None):
        self.work, self.store, self.ttl = work, store, ttl
        self.version = work.version if versioned else None
        self.hits = self.misses = 0
        self.added: list[bytes] = []

    def __call__(self, item: int) -> Any:
        at = key(self.version, self.work.inputs(item))
        value = self.store.get(at)
        if value is not MISS:
            self.hits += 1
            return value
        self.misses += 1
        value = alike(self.work.answer(item))
        self.store.put(at, value, self.ttl)
        self.added.append(at)
        return value

    def fill(self, item: int, value: Any) -> None:
        """Do for a request what its hit or miss would, with an answer that is known."""
        at = key(self.version, self.work.inputs(item))
        if self.store.get(at) is MISS:
            self.store.put(at, value, self.ttl)

    def forget(self) -> None:
        """Discard what requests have added."""
        for at in self.added:
            self.store.discard(at)
        self.added.clear()


class _Memo:
    """functools.lru_cache, spoken to like `Behind`."""

    store = None

    def __init__(self, work: Work, items: int):
        self._work, self._known = work, {}
        self._cached = lru_cache(maxsize=items)(self._answer)
        self._before = (0, 0)

    def __call__(self, item: int) -> Any:
        return self._cached(item)

    def _answer(self, item: int) -> Any:
        return self._known[item] if item in self._known else self._work.answer(item)

    def fill(self, item: int, value: Any) -> None:
        self._known[item] = value
        self._cached(item)
        self._known.clear()
        self._before = self._cached.cache_info()[:2]

    @property
    def hits(self) -> int:
        return self._cached.cache_info().hits - self._before[0]

    @property
    def misses(self) -> int:
        return self._cached.cache_info().misses - self._before[1]


class _Asking:
    """A variant at work."""

    def __init__(self, asked: Requests, work: Work, make: Callable[[], Any]):
        self.work, self._make = work, make
        self.ahead = asked.trace[: asked.warm].tolist()
        self.items = asked.trace[asked.warm : asked.warm + asked.a_reading].tolist()
        self.checked = list(dict.fromkeys(self.items))[:CHECKED]
        self.hits = self.misses = 0
        self.ask = make()
        self.known: dict[int, Any] = {}
        if self.cached:
            known = asked.known
            self.known = {item: known[item] if item in known else work.answer(item) for item in set(self.ahead)}
            self._fill()

    @property
    def cached(self) -> bool:
        return hasattr(self.ask, "fill")

    def prepared(self) -> Prepared:
        return Prepared(self.read, self.prove, self.close, ceiling=self.bound)

    def _fill(self) -> None:
        """Bring the cache to where the requests ahead leave it: what another process left in a shared one goes."""
        if self.ask.store is not None and self.ask.store.shared:
            for item in set(self.items):
                self.ask.store.discard(key(self.ask.version, self.work.inputs(item)))
        for item in self.ahead:
            self.ask.fill(item, self.known[item])

    def _begin_again(self) -> None:
        if not self.cached:
            return
        if self.ask.store is not None and self.ask.store.shared:
            self.ask.forget()
        else:
            self.ask = self._make()
            self._fill()

    def read(self) -> Reading:
        """Answer the requests: the reading is the mean of their seconds."""
        self._begin_again()
        ask, hits, misses = self.ask, self.ask.hits, self.ask.misses
        start = perf_counter()
        for item in self.items:
            ask(item)
        mean_s = (perf_counter() - start) / len(self.items)
        hits, misses = ask.hits - hits, ask.misses - misses
        self.hits, self.misses = self.hits + hits, self.misses + misses
        return Reading(mean_s, {"requests_per_s": 1 / mean_s, "hit_ratio": hits / len(self.items)}, self.answers)

    def answers(self) -> list:
        """Return what is answered for some of the items, twice over: the second time from the cache."""
        return [self.ask(item) for item in self.checked + self.checked]

    def prove(self) -> Engagement:
        """Return how many requests the cache has answered."""
        if not self.cached:
            return engaged("no cache")
        if not self.hits:
            return fell_back("working out every answer: the cache had none of them")
        store, costs = self.ask.store, {"hit_ratio": self.hits / (self.hits + self.misses)}
        if store and len(store):
            costs["bytes_an_item"] = store.bytes / len(store)
        troubles = sum(store.troubles.values()) if store else 0
        return engaged(hits=self.hits, misses=self.misses, troubles=troubles, costs=costs)

    def bound(self) -> Ceiling | None:
        """Return what bounds a request: the work of the requests that missed; where all have hit, handing over."""
        asked = self.hits + self.misses
        missed = self.misses / asked if self.cached and asked else 1.0
        if not missed:
            size = getattr(self.ask(self.checked[0]), "nbytes", 0)
            return handed_over(size) if self.ask.store is None else self.ask.store.bound(size)
        bound = self.work.bound()
        if bound is None or missed == 1:
            return bound
        note = f"{bound.note}, in the {words.percent(missed)} of requests that missed"
        return replace(bound, amount=missed * bound.amount, note=note)

    def close(self) -> None:
        if self.ask.store:
            self.ask.store.close()
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
