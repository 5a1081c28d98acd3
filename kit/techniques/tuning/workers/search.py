"""A search by many workers on one storage: begun, gone on with after an interruption, or joined from elsewhere.

    search("my.tuning:problem", "TPE", 200, workers=8)                                  # on this machine, no server
    search("my.tuning:problem", "TPE", 200, 8, "postgresql://user:pw@host/db", "trees") # others may join
    search("my.tuning:problem", "TPE", 200, 8, "tcp://scheduler:8786", "trees")         # on a Dask cluster

The number of trials that count is exactly the one asked for; see `rules`.
"""

import math
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kit.errors import UserError
from kit.techniques.tuning.problem import Problem, Setting, Space
from kit.techniques.tuning.problems.own import none_worked
from kit.techniques.tuning.searches.by_optuna import quietly, size
from kit.techniques.tuning.workers import progress, rules, storages
from kit.techniques.tuning.workers.crew import Crew
from kit.techniques.tuning.workers.on_dask import Tasks
from kit.techniques.tuning.workers.pool import Processes, Ran
from kit.techniques.tuning.workers.worker import Order, ProblemOpening, work

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

LOOK_S = 0.5
_PLAN = "kit:plan"

Hands = Processes | Tasks
"""Workers that are up."""


@dataclass(frozen=True)
class Tried:
    """One trial. state: complete, pruned, failed, lost (died with its worker and was repeated), withdrawn (had no
    place), running or waiting. began, ended: of its own work, in epoch seconds; of a trial that was told before this
    call, by another crew, or by a worker that died later, as the storage dates it, asking and telling included."""

    number: int
    setting: Setting
    loss: float
    state: str
    began: float
    ended: float
    worker: str = ""
    reason: str = ""
    repeats: int | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def counts(self) -> bool:
        """Whether it came to a loss, in full or until it was pruned."""
        return self.state in ("complete", "pruned")


@dataclass(frozen=True)
class Found:
    """What a search has found.

    storage: its address as it may be shown; workers: of this call; trials: all that were begun, by number; seconds:
    from the start of this call until its last trial was told; asked_s, storage_s: of its workers, not in trials but in
    asking and telling, and, of those, within the storage.
    """

    name: str
    storage: str
    workers: int
    trials: tuple[Tried, ...]
    seconds: float = 0.0
    asked_s: float = 0.0
    storage_s: float = 0.0

    @property
    def counted(self) -> list[Tried]:
        """The trials that came to a loss."""
        return [trial for trial in self.trials if trial.counts]

    @property
    def best(self) -> Tried | None:
        """The complete trial of the lowest loss."""
        return min(self.of("complete"), key=lambda trial: trial.loss, default=None)

    def of(self, state: str) -> list[Tried]:
        """Return the trials in this state."""
        return [trial for trial in self.trials if trial.state == state]

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that went into trials; of a search that was done in one call."""
        return sum(trial.seconds for trial in self.counted) / (self.workers * self.seconds) if self.seconds else 0.0

    def __str__(self) -> str:
        best = f"lowest loss {self.best.loss:.6g} with {self.best.setting}" if self.best else "no loss"
        others = ", ".join(f"{len(self.of(s))} {s}" for s in ("failed", "lost", "withdrawn", "running") if self.of(s))
        return f"{self.name}: {len(self.counted)} trials{' and ' * bool(others)}{others}; {best}"


def search(
    problem: ProblemOpening,
    sampler: str,
    trials: int,
    workers: int = 1,
    storage: str = "",
    name: str = "search",
    seed: int = 0,
    pruner: str | None = None,
    tell: progress.Tell | None = None,
) -> Found:
    """Search with so many workers and return what was found.

    problem: "package.module:function" that opens it, or such a function. sampler: a name of `by_optuna.SAMPLERS`, also
    with its pruner, as "TPE + ASHA". trials: that shall count; those that fail use their place up. storage: see
    `storages`. name: a search of this name in this storage is gone on with: what counts is kept, what the dead left is
    run again; more trials may be asked for than before. seed: each worker draws its own from it. tell: told how it
    goes, by default with a bar; `progress.silent`, `progress.plain()`.

    Raise `UserError` if the storage does not answer, the problem can't be opened, the name stands for another search,
    or the first trials all fail.
    """
    with hands(problem, workers, storage) as up:
        return conduct(up, sampler, trials, storage, name, seed, pruner, tell)


def search_alone(problem: Problem, sampler: str, trials: int, seed: int = 0) -> Found:
    """Search in this process, with the storage in its memory: what many workers are held against. As `search`."""
    import optuna

    drawing, _, stopping = sampler.partition(" + ")
    most = _most(drawing, problem.space, trials, seed)
    order = Order("search", "memory", drawing, stopping, most, seed, crew="alone")
    store, began = optuna.storages.InMemoryStorage(), time.monotonic()
    with quietly():
        study = optuna.create_study(storage=store, study_name=order.name)
        summary = work(order, 0, problem, store)
    return _found(study.trials, order, 1, [(summary, time.monotonic() - summary.rested_s)], began)


def join(
    problem: ProblemOpening, storage: str, name: str, workers: int = 1, tell: progress.Tell | None = None
) -> Found:
    """Take part in a search that was begun elsewhere, with workers of this machine, until it is over; return what was
    found. Raise `UserError` if there is no such search there, and as `search`."""
    where = storages.address(storage, name)
    with quietly(), storages.must_answer(where):
        plan = _plan_there(storages.opened(where), where, name)
    with hands(problem, workers, storage) as up:
        given = (plan[key] for key in ("sampler", "trials"))
        return conduct(up, *given, storage, name, plan["seed"], plan["pruner"], tell)


def joining(problem: str, storage: str, name: str, workers: int = 1) -> str:
    """Return the command by which another machine joins a search. A password in the address is left out: the command
    then takes the address from the variable KIT_STORAGE."""
    where = storages.address(storage, name)
    place = "-" if "***" in storages.masked(where) else where
    said = ["python", "-m", "kit.techniques.tuning.workers.worker", place, name, problem]
    return shlex.join([*said, "--workers", str(workers)] if workers > 1 else said)


def hands(problem: ProblemOpening, workers: int, storage: str = "") -> Hands:
    """Return workers that are up, for searches one after another: processes here, or tasks of a Dask cluster."""
    return Tasks(problem, workers, storage) if storages.on_dask(storage) else Processes(problem, workers)


def conduct(
    up: Hands,
    sampler: str,
    trials: int,
    storage: str = "",
    name: str = "search",
    seed: int = 0,
    pruner: str | None = None,
    tell: progress.Tell | None = None,
) -> Found:
    """Search with workers that are up; else as `search`."""
    if not isinstance(trials, int) or trials < 1:
        raise UserError(f"trials={trials!r} can't be searched with; give a whole number from 1 on")
    drawing, _, stopping = sampler.partition(" + ")
    where = up.address if isinstance(up, Tasks) else storages.address(storage, name)
    order = Order(name, where, drawing, pruner or stopping, _most(drawing, up.space, trials, seed), seed)
    with quietly(), storages.must_answer(where):
        store = storages.opened(where, up.client if isinstance(up, Tasks) else None)
        study = _begin(store, order, up.problem, up.space)
        with Crew(study, store, order.trials) as crew:
            return _conduct(up, crew, order, progress.bar() if tell is None else tell)


def _most(sampler: str, space: Space, trials: int, seed: int) -> int:
    """Return how many trials there are: a grid may hold fewer than were asked for."""
    return min(trials, size(space, trials, seed)) if sampler == "grid" else trials


def _conduct(up: Hands, crew: Crew, order: Order, tell: progress.Tell) -> Found:
    crew.recover()
    before = crew.trials()
    order = replace(order, crew=crew.name, begun=len(before))
    watch = _Watch(crew, order, tell, sum(map(rules.counts, before)))
    began, ran = time.monotonic(), []
    try:
        while not rules.is_over(crew.trials(), order.trials):
            ran += up.go(order, crew.bury, watch)
            if not crew.recover() and not rules.has_room(crew.trials(), order.trials):
                time.sleep(0 if rules.is_over(crew.trials(), order.trials) else LOOK_S)  # others are at work
    except BaseException:
        watch.over(look=False)
        _dismiss(crew, up)
        raise
    watch.over()
    return _found(crew.trials(), order, len(up), ran, began)


def _dismiss(crew: Crew, up: Hands) -> None:
    """Have tasks on a cluster leave, which an interrupt here does not reach."""
    if isinstance(up, Tasks):
        with suppress(Exception):  # it may be the cluster that is gone
            crew.dismiss()


class _Watch:
    """Tells how it goes, not more often than it pays to look."""

    def __init__(self, crew: Crew, order: Order, tell: progress.Tell, before: int) -> None:
        self._crew, self._order, self._tell = crew, order, tell
        self._before = before
        self._began, self._last = time.monotonic(), -math.inf
        self._told: progress.Told | None = None

    def __call__(self) -> None:
        if self._tell is not progress.silent and time.monotonic() - self._last >= LOOK_S:
            self._last = time.monotonic()
            self._told = self._look()
            self._tell(self._told)

    def over(self, look: bool = True) -> None:
        """Tell the last, if anything was told. look: at the storage once more."""
        if self._told is not None:
            with nullcontext() if look else suppress(Exception, KeyboardInterrupt):
                self._tell(replace(self._look() if look else self._told, over=True))

    def _look(self) -> progress.Told:
        trials = self._crew.trials()
        done = sum(rules.counts(trial) or rules.failed(trial) for trial in trials)
        best = min((trial.value for trial in trials if trial.state.name == "COMPLETE"), default=None)
        seconds = time.monotonic() - self._began
        return progress.Told(self._order.name, done, self._order.trials, best, seconds, done - self._before)


def _begin(store: "BaseStorage", order: Order, problem: str, space: Space) -> "Study":
    """Open the study of this name, or begin it. Raise `UserError` if the name stands for another search."""
    import optuna

    study = optuna.create_study(storage=store, study_name=order.name, load_if_exists=True)
    told = ", ".join(f"{name}: {kind}" for name, kind in space.items())
    plan = {"problem": problem, "sampler": order.sampler, "pruner": order.pruner, "space": told, "seed": order.seed}
    there = study.user_attrs.get(_PLAN, {})
    for key in ("problem", "sampler", "pruner", "space"):
        if there and there[key] != plan[key]:
            raise UserError(
                f"the search {order.name!r} in this storage was begun with {key}={there[key]!r}, and now has "
                f"{plan[key]!r}; give it back, or give this search another name"
            )
    if there != plan | {"trials": order.trials}:
        study.set_user_attr(_PLAN, plan | {"trials": order.trials})
    return study


def _plan_there(store: "BaseStorage", where: str, name: str) -> dict[str, Any]:
    """Return what a search that is there was begun with. Raise `UserError` if there is none."""
    import optuna

    try:
        return optuna.load_study(storage=store, study_name=name).user_attrs[_PLAN]
    except KeyError:
        names = ", ".join(sorted(study.study_name for study in store.get_all_studies())) or "none"
        raise UserError(
            f"there is no search {name!r} in {storages.masked(where)!r} (there: {names}); begin it first, and see that "
            "name and storage are the same"
        ) from None


def _found(trials: Sequence["FrozenTrial"], order: Order, workers: int, ran: Sequence[Ran], began: float) -> Found:
    if rules.hopeless(trials, order.trials):
        failures = [trial for trial in trials if rules.failed(trial)]
        raise none_worked(len(failures), failures[-1].user_attrs.get(rules.REASON, "no reason was given"))
    worked = {number: span for summary, _ in ran for number, span in summary.worked.items()}
    return Found(
        order.name,
        storages.masked(order.storage),
        workers,
        tuple(_tried(trial, worked.get(trial.number)) for trial in trials),
        max((told for summary, told in ran if summary.worked), default=began) - began,
        sum(summary.asked_s for summary, _ in ran),
        sum(summary.storage_s for summary, _ in ran),
    )


def _tried(trial: "FrozenTrial", worked: tuple[float, float] | None) -> Tried:
    notes = trial.user_attrs
    began, ended = worked or (_epoch_s(trial.datetime_start), _epoch_s(trial.datetime_complete))
    crew, number = notes.get(rules.WORKER, ("", 0))
    return Tried(
        trial.number,
        dict(trial.params),
        trial.value if trial.value is not None else math.nan,
        _state(trial),
        began,
        ended,
        f"{os.path.basename(crew)}/{number}" if crew else "",
        notes.get(rules.REASON, ""),
        notes.get(rules.REPEATS, [None, None])[1],
    )


def _epoch_s(moment: datetime | None) -> float:
    return moment.timestamp() if moment else math.nan


def _state(trial: "FrozenTrial") -> str:
    if rules.failed(trial):
        return "failed"
    named = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": trial.user_attrs.get(rules.FATE, "failed")}
    return named.get(trial.state.name, trial.state.name.lower())
