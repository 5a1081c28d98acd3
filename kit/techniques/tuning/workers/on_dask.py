"""Workers as tasks of a Dask cluster: one that is there, or a private one of this machine."""

import contextlib
import time
from collections.abc import Callable
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import Any

import cloudpickle

from kit.errors import UserError
from kit.measure.process import THREAD_VARIABLES
from kit.measure.worker import one_line
from kit.record.store import clean
from kit.techniques.tuning.problem import Problem, Space
from kit.techniques.tuning.workers import storages
from kit.techniques.tuning.workers.crew import Crew, Others
from kit.techniques.tuning.workers.pool import DEATHS, GLANCE_S, Bury, Ran, check_number
from kit.techniques.tuning.workers.worker import Order, ProblemOpening, open_problem, work


class Tasks:
    """So many workers on a cluster: `with Tasks(opening, 2, "dask") as workers: workers.go(order, bury, watch)`.

    A private cluster has a process of one thread for each. A worker's process that dies is started again by Dask.
    """

    def __init__(self, opening: ProblemOpening, workers: int, storage: str) -> None:
        """storage: "dask", or the scheduler's address. Raise `UserError` if it does not answer, or the problem can't be
        opened there."""
        check_number(workers)
        self._packed = cloudpickle.dumps(opening)
        self._number = workers
        self._cluster = _private(workers) if storage == storages.DASK else None
        self.client = self._cluster.get_client() if self._cluster else storages.cluster(storage)
        self.address: str = self.client.scheduler.address
        try:
            self.problem, self.space = self._opened()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self._number

    @property
    def pids(self) -> list[int]:
        """Of the processes of the cluster's workers."""
        return list(self.client.run(_pid).values())

    def go(self, order: Order, bury: Bury, watch: Callable[[], None]) -> list[Ran]:
        """Have all workers search until nothing is left to ask for. watch: called some five times a second.

        Raise `UserError` for what a worker could not go on with.
        """
        ran, deaths = [], 0
        ended: SimpleQueue = SimpleQueue()
        busy = {self._submit(order, number, ended): number for number in range(self._number)}
        try:
            while busy:
                with contextlib.suppress(Empty):
                    future = ended.get(timeout=GLANCE_S)
                    number = busy.pop(future)
                    if future.status == "finished":
                        ran.append(_heard(future.result()))
                        continue
                    reason = f"Dask lost its worker: {_why(future)}"
                    deaths = 0 if bury(number, reason) else deaths + 1
                    if deaths >= DEATHS:
                        raise UserError(f"{deaths} tasks ended one after another without a trial, at last: {reason}")
                    busy[self._submit(order, number, ended)] = number
                watch()
        finally:
            self.client.cancel(list(busy))
        return ran

    def close(self) -> None:
        """Leave the cluster; end it if it is a private one. Safe to call twice."""
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()

    def __enter__(self) -> "Tasks":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, order: Order, number: int, ended: SimpleQueue) -> Any:
        future = self.client.submit(_task, order, number, self._packed, pure=False, retries=0)
        future.add_done_callback(ended.put)
        return future

    def _opened(self) -> tuple[str, Space]:
        said, *what = self.client.submit(_facts, self._packed, pure=False).result()
        if said == "raised":
            raise UserError(what[0])
        return what[0], what[1]


def _private(workers: int) -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        env=dict.fromkeys(THREAD_VARIABLES, "1"),
        silence_logs=50,
    )


def _heard(said: tuple) -> Ran:
    if said[0] == "raised":
        raise UserError(said[1])
    return said[1], time.monotonic() - said[1].rested_s


def _why(future: Any) -> str:
    return "its task was cancelled" if future.cancelled() else clean(one_line(future.exception()))


def _task(order: Order, number: int, packed: bytes) -> tuple:
    """Be worker `number` of a search, in a process of the cluster."""
    from distributed.worker import get_client

    try:
        storage = storages.opened(order.storage, get_client())
        others = Others()
        _bury_former_life(order, number, storage)

        def dismissed(study) -> bool:
            return not others.beats(order.crew, study.user_attrs)

        return "idle", work(order, number, _open(packed), storage, dismissed)
    except UserError as error:
        return "raised", str(error)
    except Exception as error:
        return "raised", f"a worker can't go on: {clean(one_line(error))}; see that the cluster is there"


def _bury_former_life(order: Order, number: int, storage: Any) -> None:
    """Put back what this worker had when its process died: Dask starts its task again elsewhere and tells nobody."""
    import optuna

    study = optuna.load_study(study_name=order.name, storage=storage)
    former = Crew(study, storage, order.trials)
    former.name = order.crew
    former.bury(number, "its worker's process died")


@lru_cache(maxsize=1)
def _open(packed: bytes) -> Problem:
    return open_problem(cloudpickle.loads(packed))


def _facts(packed: bytes) -> tuple:
    try:
        problem = _open(packed)
    except Exception as error:
        return "raised", str(error) if isinstance(error, UserError) else clean(one_line(error))
    return "ready", problem.name, dict(problem.space)


def _pid() -> int:
    import os

    return os.getpid()
