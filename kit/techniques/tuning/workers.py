"""One search by several processes that share a storage: Optuna's `optimize` in each, Dask to start and end them.

A killed worker loses its own trial only: on a database its heartbeat ends and the trial is run again; on a journal file
it stays open and a further one takes its place. A search may end with `workers - 1` trials more than asked for, those
that were under way at the last.
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.errors import UserError
from kit.measure.notebook import interactive_folder, run_folder
from kit.measure.work import Measurement, Setup, fell_back, verified
from kit.measure.worker import one_line
from kit.record.document import CheckResult
from kit.record.store import clean
from kit.techniques.tuning.samplers import create_study, quiet
from kit.techniques.tuning.simulation import first_trial, simulate
from kit.techniques.tuning.workload import Problem, Setting, own

if TYPE_CHECKING:
    from distributed import Client
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import Trial

HEARTBEAT_S, GRACE_S, MAX_RETRIES = 1, 60, 2
"""On a database: seconds between heartbeats, seconds without one until a trial is run again, how often that is done."""
SQLITE_WAIT_S = 60
"""SQLite lets one process write at a time, and the others wait so long."""
PROCESS, REASON = "process", "reason"
"""User attributes of a trial: the process that ran it, and why it failed."""


def open_storage(address: str) -> "BaseStorage":
    """Open a storage: "journal:search.log", or a database as "sqlite:///search.db" or "postgresql://…".

    Raise `UserError`, without the address's password, if it cannot be opened.
    """
    from optuna import storages

    kind, _, rest = address.partition(":")
    try:
        with quiet():
            if kind == "journal":
                return storages.JournalStorage(storages.journal.JournalFileBackend(rest))
            if "://" not in address:
                raise ValueError("it is neither journal:FILE nor the URL of a database")
            return storages.RDBStorage(
                address,
                engine_kwargs={"connect_args": {"timeout": SQLITE_WAIT_S}} if kind == "sqlite" else None,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                failed_trial_callback=storages.RetryFailedTrialCallback(max_retry=MAX_RETRIES),
            )
    except Exception as error:  # each driver has its own errors
        raise UserError(f"storage={clean(address)!r} cannot be opened: {clean(one_line(error))}") from None


def optimize(
    objective: str, storage: "BaseStorage | str", study_name: str, trials: int, search: str, worker: int = 0
) -> None:
    """Take part in a search until it has `trials` complete or pruned ones. A search of that name is resumed.

    worker: its number; the sampler of each draws differently, also after a resume.
    """
    from optuna.study import MaxTrialsCallback
    from optuna.trial import TrialState

    problem, counted = own(objective), (TrialState.COMPLETE, TrialState.PRUNED)
    storage = open_storage(storage) if isinstance(storage, str) else storage
    with quiet():
        study = create_study(search, 0, 0, study_name=study_name, storage=storage, load_if_exists=True)
        begun = len(study.get_trials(deepcopy=False))
        draws = int(np.random.SeedSequence([worker, begun]).generate_state(1)[0])
        study.sampler = create_study(search, 0, draws).sampler
        left = trials - len(study.get_trials(deepcopy=False, states=counted))
        if left > 0:
            study.optimize(
                _by_this_process(problem.objective),
                n_trials=2 * left,  # an objective that always fails ends too
                catch=(Exception,),
                callbacks=[MaxTrialsCallback(trials, states=counted)],
            )


def _by_this_process(objective: Callable[["Trial"], float]) -> Callable[["Trial"], float]:
    """Return the objective, with the process and the reason of a failure stored in its trials."""

    def run(trial: "Trial") -> float:
        trial.set_user_attr(PROCESS, f"{socket.gethostname()}:{os.getpid()}")
        try:
            return objective(trial)
        except Exception as error:
            trial.set_user_attr(REASON, clean(one_line(error))[:300])
            raise

    return run


def cluster(stack: ExitStack, workers: int) -> "Client":
    """Start processes of this machine that end with `stack`, one thread each. One that dies is replaced."""
    from distributed import Client, LocalCluster

    started = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL")
    return stack.enter_context(Client(stack.enter_context(started)))


def run_on(client: "Client", workers: int, *job: Any) -> None:
    """Run `optimize(*job)` by so many tasks of a Dask cluster; a task whose process dies starts again in another."""
    client.gather([client.submit(optimize, *job, worker, pure=False) for worker in range(workers)])


def search(
    objective: str, trials: int, *, workers: int = 2, search: str = "TPE", storage: str = "", study_name: str = "search"
) -> "Study":
    """Run or resume a search by several processes and return its study; others may join it by its storage.

    objective: "package.module:function". storage: see `open_storage`; "" is a SQLite file in the run's folder. Raise
    `UserError` with the last reason if every trial failed.
    """
    import optuna

    own(objective)
    if not storage:
        folder = (run_folder() or interactive_folder()).absolute() / "searches"
        folder.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{folder / study_name}.db"
    opened = open_storage(storage)
    with ExitStack() as stack:
        run_on(cluster(stack, workers), workers, objective, storage, study_name, trials, search)
    with quiet():
        study = optuna.load_study(study_name=study_name, storage=opened)
    found = study.get_trials(deepcopy=False)
    if not any(trial.state.name == "COMPLETE" for trial in found):
        reason = next((t.user_attrs[REASON] for t in reversed(found) if REASON in t.user_attrs), "no loss was finite")
        raise UserError(f"all {len(found)} trials failed, the last with: {reason}; try the objective alone")
    return study


# The same trials by one process and by several ------------------------------------------------------------------------

SIMULATED_S = "simulated s"
"""Metric: seconds of a round by the simulated clock."""


@dataclass(frozen=True)
class Processes:
    """So many processes that share a search by a journal file; 0 is this process alone, in memory."""

    number: int = 0

    def __call__(self, objective: str, trials: int) -> Setup:
        """Start the processes. Each round they run settings that are drawn from its seed and put into a queue."""
        stack, most, problem = ExitStack(), {"processes": 0}, own(objective)  # of all rounds: one may come late
        problem = replace(problem, space=first_trial(problem))
        client = cluster(stack, self.number) if self.number else None
        if client is not None:
            client.run(lambda: bool(first_trial(own(objective))))  # imports in every process
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kit-tuning-"))

        def call(seed: int) -> Measurement:
            study, address, settings = self._queue(folder, problem, trials, seed)
            job = objective, address, study.study_name, trials, "random"
            began = time.time()
            optimize(*job) if client is None else run_on(client, self.number, *job)
            ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
            seconds = sorted(trial.datetime_complete.timestamp() for trial in ended)[trials - 1] - began
            most["processes"] = max(most["processes"], len({trial.user_attrs.get(PROCESS) for trial in ended}))
            counts = [sum(trial.params == setting for trial in ended) for setting in settings]
            metrics = {"trials per s": trials / seconds}
            if self.number:  # the same settings on the simulated clock
                ran = {"trials": trials + self.number - 1, "workers": self.number, "enqueue": settings}
                metrics[SIMULATED_S] = simulate("random", own(objective), seed=seed, **ran).trials[trials - 1].ended_s
            return Measurement(seconds, metrics, counts)

        def proof() -> Any:
            ran, asked = most["processes"], self.number or 1
            facts = {"processes": ran, "storage": "journal file" if self.number else "memory"}
            return verified(**facts) if ran == asked else fell_back(f"{ran} of {asked} ran", **facts)

        return Setup(call, proof, close=stack.close, seeded=True)

    def _queue(self, folder: str, problem: Problem, trials: int, seed: int) -> tuple["Study", Any, list[Setting]]:
        """Create a study that begins with settings drawn at random; return it, the storage by which processes share it,
        and the settings."""
        from optuna.storages import InMemoryStorage

        name, drawn = f"search {time.monotonic_ns()}", create_study("random", seed, seed)
        shared = f"journal:{folder}/{name}.log" if self.number else InMemoryStorage()
        storage = open_storage(shared) if self.number else shared
        study = create_study("random", 0, 0, study_name=name, storage=storage)
        with quiet():
            settings = [drawn.ask(fixed_distributions=dict(problem.space)).params for _ in range(trials)]
            for setting in settings:
                study.enqueue_trial(setting)
        return study, shared, settings


def every_setting_once(answer: Sequence[int], reference: Sequence[int]) -> CheckResult:
    """Passed where each setting was run once. answer: how often each was."""
    wrong = sum(times != 1 for times in answer)
    state = "failed" if wrong else "passed"
    return CheckResult(state=state, metric="configurations lost or run twice", value=float(wrong), threshold=0.0)
