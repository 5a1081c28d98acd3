"""A whole search as a variant of a comparison: alone in memory, or by so many workers on one storage.

Workers, servers and clusters are up before the clock starts. A reading is the seconds from the order to search until
the last trial was told; each is a search of its own.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import uuid4

from kit.measure.work import TIME, Ceiling, Prepared, Reading, engaged, fell_back
from kit.record.document import Engagement, Quality
from kit.techniques.tuning.workers import progress
from kit.techniques.tuning.workers.search import Found, Hands, conduct, hands, search_alone
from kit.techniques.tuning.workers.storages import PrivateProxy, masked
from kit.techniques.tuning.workers.worker import ProblemOpening, open_problem

JOURNAL, SQLITE, PROXY = "", "sqlite", "grpc"
"""Storages that a variant makes for itself and removes: a journal file, an SQLite file, Optuna's proxy before one."""
IN_TRIALS = "in trials s"
BUSY = Ceiling(TIME, IN_TRIALS, "trials, the mean of the workers; the rest is the search, its storage, and waiting")
"""What workers could do at best: nothing but trials. That they slow each other down within these is not told by it."""


@dataclass(frozen=True)
class Work:
    """What each variant does.

    problem: opens it in each process; sampler: also with its pruner, as "TPE + ASHA"; seed: of every search, so that a
    sampler that does not learn gives all variants the same trials; None: another one in each round.
    """

    problem: ProblemOpening
    trials: int
    sampler: str = "TPE"
    seed: int | None = None

    @property
    def seeded(self) -> bool:
        """Whether luck is part of what is measured."""
        return self.seed is None


def alone(work: Work) -> Prepared:
    """Search in one process, with the storage in its memory: the baseline. Its threads are the comparison's."""
    problem = open_problem(work.problem)
    last: list[Found] = []

    def call(seed: int = work.seed or 0) -> Reading:
        last[:] = [search_alone(problem, work.sampler, work.trials, seed)]
        return reading(last[0])

    return Prepared(call, lambda: _proof(last[0], "in memory"), seeded=work.seeded, ceiling=BUSY)


@dataclass(frozen=True)
class OnStorage:
    """So many workers on one storage, as a variant: called with a work it starts them, and returns what is timed.

    storage: one of `JOURNAL`, `SQLITE` and `PROXY`, "dask" for a private cluster, or the address of one that is there.
    Each worker has one thread.
    """

    storage: str = JOURNAL
    workers: int = 2

    def __call__(self, work: Work) -> Prepared:
        last: list[Found] = []
        with ExitStack() as opened:
            where = self._place(opened)
            up: Hands = opened.enter_context(hands(work.problem, self.workers, self.storage))

            def call(seed: int = work.seed or 0) -> Reading:
                name = f"search {uuid4().hex[:12]}"
                last[:] = [conduct(up, work.sampler, work.trials, where(name), name, seed, tell=progress.silent)]
                return reading(last[0])

            close = opened.pop_all().close
        return Prepared(call, lambda: _proof(last[0], self._kind), close, seeded=work.seeded, ceiling=BUSY)

    def _place(self, opened: ExitStack) -> Callable[[str], str]:
        """Make the storage ready. Return what gives the address of a search by its name."""
        if self.storage == PROXY:
            address = opened.enter_context(PrivateProxy()).address
            return lambda name: address
        if self.storage not in (JOURNAL, SQLITE):
            return lambda name: self.storage
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="kit-searches-"))
        if self.storage == SQLITE:
            return lambda name: f"sqlite:///{folder}/searches.db"
        return lambda name: f"journal:{folder}/{name}.log"

    @property
    def _kind(self) -> str:
        named = {JOURNAL: "a journal file", SQLITE: "an SQLite file", PROXY: "a gRPC proxy before an SQLite file"}
        return named.get(self.storage, masked(self.storage))


def reading(found: Found) -> Reading:
    """Return a search as a reading. Its answer: how many trials count, and under how many different numbers, which must
    both be what was asked for.

    Metrics: trials a second; utilisation: the share of the workers' time that went into trials, and the seconds of a
    worker that it comes to; storage and sampler ms
    a trial: what a worker spends on either between two trials, waiting for its turn at the storage included.
    """
    counted = found.counted
    per_trial = 1e3 / max(1, len(counted))
    return Reading(
        found.seconds,
        {
            "trials/s": len(counted) / found.seconds if found.seconds else 0.0,
            "utilisation": found.utilisation,
            IN_TRIALS: found.utilisation * found.seconds,
            "storage ms a trial": per_trial * found.storage_s,
            "sampler ms a trial": per_trial * (found.asked_s - found.storage_s),
        },
        {"trials that count": len(counted), "of different numbers": len({trial.number for trial in counted})},
    )


def every_trial_once(answer: dict[str, int], reference: dict[str, int]) -> Quality:
    """Return whether as many trials count as of one process, and none of them twice."""
    counted, different = answer["trials that count"], answer["of different numbers"]
    asked = reference["trials that count"]
    state = "held" if counted == different == asked else "broken"
    note = "" if state == "held" else f"{counted} trials count under {different} numbers, and {asked} were asked for"
    return Quality(state=state, measure="trials that count, each once", value=counted, bound=asked, note=note)


def _proof(found: Found, storage: str) -> Engagement:
    """Return whether all workers had trials, in a search that had enough for all."""
    worked = len({trial.worker for trial in found.counted})
    if worked < found.workers and len(found.counted) >= 4 * found.workers:
        return fell_back(f"{worked} of {found.workers} processes: the others had no trial", storage=storage)
    costs = {"storage ms a trial": 1e3 * found.storage_s / max(1, len(found.counted))}
    return engaged(processes=worked, storage=storage, trials=len(found.counted), costs=costs)
