"""One worker of a search: asks the storage's study for a setting, does the trial, tells, until nothing is left to do.

    python -m kit.techniques.tuning.workers.worker STORAGE NAME PROBLEM [--workers 2]

joins a search that is under way, from this or another machine: STORAGE is its address (- takes it from KIT_STORAGE,
so that a list of processes shows no password), NAME its name, PROBLEM the "package.module:function" that opens its
problem.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from kit.errors import UserError
from kit.measure.worker import one_line
from kit.record.store import clean
from kit.techniques.address import resolve
from kit.techniques.tuning.problem import Problem, Step, TrialFailed
from kit.techniques.tuning.searches.by_optuna import pruner, quietly, sampler
from kit.techniques.tuning.workers import rules, storages

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

ProblemOpening = str | Callable[[], Problem]
"""Opens a problem in each process: "package.module:function", or a function (those of a notebook travel too)."""


@dataclass(frozen=True)
class Order:
    """One search for a worker to take part in.

    storage: its address; sampler, pruner: by the names of `searches.by_optuna`; trials: wanted; crew: whom the worker
    belongs to; begun: trials that were there before, so that a search that goes on does not draw the same again.
    """

    name: str
    storage: str
    sampler: str
    pruner: str
    trials: int
    seed: int
    crew: str = ""
    begun: int = 0


@dataclass(frozen=True)
class Summary:
    """What one worker did. worked: when the work of each trial began and ended, by number, in epoch seconds; asked_s:
    from asking to the work, and from its end until it was told, sampler and storage together; storage_s: of those,
    within the storage; rested_s: since its last trial was told."""

    worked: dict[int, tuple[float, float]] = field(default_factory=dict)
    asked_s: float = 0.0
    storage_s: float = 0.0
    rested_s: float = 0.0


def open_problem(opening: ProblemOpening) -> Problem:
    """Open a problem by its address or function. Raise `UserError` if that doesn't return one."""
    problem = (resolve(opening) if isinstance(opening, str) else opening)()
    if not isinstance(problem, Problem):
        raise UserError(f"{opening} returned {type(problem).__name__}; return a kit.techniques.tuning.problem.Problem")
    return problem


def work(
    order: Order,
    number: int,
    problem: Problem,
    storage: "BaseStorage",
    leaves: Callable[["Study"], bool] = lambda study: False,
) -> Summary:
    """Take part in a search as worker `number` until nothing is left to ask for, or `leaves` says so before a trial."""
    with quietly():
        timed = Timed(storage)
        study = _study(order, number, problem, timed)
        timed.seconds = 0.0
        worked, asked_s, storage_s, last = {}, 0.0, 0.0, time.perf_counter()
        while not leaves(study) and (trial := claim(study, order, number, problem)) is not None:
            began, work_s = _attempt(study, order, problem, trial)
            worked[trial.number] = (began, began + work_s)
            asked_s += time.perf_counter() - last - work_s
            storage_s, last = timed.seconds, time.perf_counter()
        return Summary(worked, asked_s, storage_s, time.perf_counter() - last)


def _study(order: Order, number: int, problem: Problem, storage: "Timed") -> "Study":
    import optuna

    return optuna.load_study(
        study_name=order.name,
        storage=storage,
        sampler=sampler(order.sampler, _seed(order, number), problem, order.trials),
        pruner=pruner(order.pruner, problem),
    )


def _seed(order: Order, number: int) -> int:
    """Return a worker's own seed: two with the same would draw the same. What is dealt out by a trial's number, a grid
    and a quasi-random sequence, is one for all."""
    import numpy as np

    if order.sampler in ("grid", "quasi-random"):
        return order.seed
    return int(np.random.SeedSequence([order.seed, number, order.begun]).generate_state(1)[0])


def claim(study: "Study", order: Order, number: int, problem: Problem) -> "Trial | None":
    """Ask for a trial that has a place, and put the worker's name to it. None: there is none."""
    while rules.has_room(study.get_trials(deepcopy=False), order.trials):
        trial = study.ask(fixed_distributions=dict(problem.space))
        trials = study.get_trials(deepcopy=False)
        if not rules.has_no_place(_frozen(trials, trial), trials, order.trials):
            trial.set_user_attr(rules.WORKER, [order.crew, number])
            return trial
        _withdraw(study, trial)
    return None


def _frozen(trials: list["FrozenTrial"], trial: "Trial") -> "FrozenTrial":
    return next(one for one in trials if one.number == trial.number)


def _attempt(study: "Study", order: Order, problem: Problem, trial: "Trial") -> tuple[float, float]:
    """Do a trial and tell how it went. Return when its work began, in epoch seconds, and how long it took."""
    from optuna.exceptions import UpdateFinishedTrialError

    began, start, pauses = time.time(), time.perf_counter(), Pauses()
    ended = None
    with suppress(UpdateFinishedTrialError):  # if this worker was taken for dead, another has the trial
        loss, stopped, failed = _run(problem, trial, _chance(order, trial), order.pruner, pauses)
        ended = time.perf_counter()
        _tell(study, trial, loss, stopped, failed)
    return began, (ended or time.perf_counter()) - start - pauses.seconds


class Pauses:
    """Seconds within a trial in which it was held against others."""

    seconds = 0.0


def _chance(order: Order, trial: "Trial") -> int:
    """Return the seed of the chance within a trial: of its number, as on the simulated clock; a repetition's is the
    same."""
    import numpy as np

    return int(np.random.default_rng([order.seed, rules.first_number(trial)]).integers(2**31))


def _run(problem: Problem, trial: "Trial", chance: int, prunes: str, pauses: Pauses) -> tuple[float, bool, str]:
    """Take a trial's steps. Return its last loss, whether it was pruned, and why it failed or nothing."""
    loss, at = math.nan, 0
    for step in _steps(problem, dict(trial.params), chance):
        if isinstance(step, str):
            return loss, False, step
        loss, at = float(step.loss), step.at or at + 1
        if not math.isfinite(loss):
            return loss, False, f"its loss was {loss}"
        if at >= problem.steps:
            break
        if prunes and _stops(trial, at, loss, pauses):
            return loss, True, ""
    return loss, False, "" if at else "it gave no loss"


def _steps(problem: Problem, setting: dict[str, Any], chance: int) -> Iterator[Step | str]:
    """Yield the steps of a trial, and in the end why it failed, if it did: that costs this trial, not the search."""
    try:
        yield from problem.trial(setting, chance)
    except TrialFailed as failure:
        yield str(failure) or "it gave no reason"
    except (Exception, SystemExit) as error:
        yield one_line(error)


def _stops(trial: "Trial", at: int, loss: float, pauses: Pauses) -> bool:
    began = time.perf_counter()
    trial.report(loss, at)
    stops = trial.should_prune()
    pauses.seconds += time.perf_counter() - began
    return stops


def _tell(study: "Study", trial: "Trial", loss: float, stopped: bool, failed: str) -> None:
    """Say how a trial ended. One that failed by itself is told as stopped, with its reason: TPE takes it for bad then,
    and would go back there if it were told as failed (as in `searches.by_optuna`)."""
    from optuna.trial import TrialState

    if failed:
        trial.set_user_attr(rules.REASON, clean(failed)[:500])
    if failed or stopped:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial, loss, skip_if_finished=True)


def _withdraw(study: "Study", trial: "Trial") -> None:
    from optuna.trial import TrialState

    trial.set_user_attr(rules.FATE, rules.WITHDRAWN)
    trial.set_user_attr(rules.REASON, "all places were taken")
    study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


class Timed:
    """A storage that adds up the seconds spent in it."""

    def __init__(self, storage: "BaseStorage") -> None:
        self._storage = storage
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - began

        return timed if callable(method) else method


# The process ---------------------------------------------------------------------------------------------------------


def serve(connection: Connection) -> None:
    """Open the problem, then take part in searches until the parent says leave or is gone.

    The parent sends the worker's number and the packed opening, then orders; the worker answers ("ready", name, space)
    once, and ("idle", summary) after each order; ("raised", whether it is the user's to mend, what) at any time.
    """
    import cloudpickle

    try:
        number, packed = connection.recv()
        problem = open_problem(cloudpickle.loads(packed))
        connection.send_bytes(cloudpickle.dumps(("ready", problem.name, dict(problem.space))))
        kept: dict[str, Any] = {}
        while (order := connection.recv()) is not None:
            connection.send_bytes(cloudpickle.dumps(("idle", work(order, number, problem, _kept(kept, order.storage)))))
    except EOFError:
        return
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else clean(one_line(error))
        connection.send_bytes(cloudpickle.dumps(("raised", isinstance(error, UserError), said)))


def _kept(kept: dict[str, "BaseStorage"], address: str) -> "BaseStorage":
    """Return the storage at this address, the one of before if it is the same."""
    if address not in kept:
        kept.clear()
        kept[address] = storages.opened(address)
    return kept[address]


def main(arguments: list[str]) -> int:
    """Join a search, as the first lines of this module say."""
    from kit.techniques.tuning.workers.search import join

    parser = argparse.ArgumentParser(
        prog="python -m kit.techniques.tuning.workers.worker", description="Join a search."
    )
    parser.add_argument("storage", help="the search's storage; - takes it from the variable KIT_STORAGE")
    parser.add_argument("name", help="the search's name")
    parser.add_argument("problem", help="package.module:function that opens its problem")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(arguments)
    storage = os.environ.get("KIT_STORAGE", "") if given.storage == "-" else given.storage
    try:
        found = join(given.problem, storage, given.name, given.workers)
    except UserError as error:
        print(f"kit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(found)
    return 0


if __name__ == "__main__":
    from kit.techniques.tuning.workers import worker  # what is sent belongs to the module, not to __main__

    if sys.argv[1:2] == ["--serve"]:
        from kit.measure.lifeline import end_with_parent

        end_with_parent(int(sys.argv[3]))
        os.set_inheritable(int(sys.argv[2]), False)
        worker.serve(Connection(int(sys.argv[2])))
    else:
        sys.exit(worker.main(sys.argv[1:]))
