"""Executes a batch on the workers of a Dask cluster, one run at a time on each machine; folders are gathered here.

Dask places the runs, and begins one again elsewhere whose worker is lost. A cluster is trusted by its nature: whoever
reaches its scheduler can execute code on its workers and on its clients.
"""

import io
import logging
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from kit.batch import remote, runs
from kit.batch.plans import Run
from kit.batch.run import RESUMES, Batch, Outcome, heads, interruptible
from kit.batch.runs import version
from kit.errors import UserError
from kit.record import formatting as fmt
from kit.record.store import clean

PATIENCE_S = 30.0  # for a first worker, for one in place of the last, and to get back what is interrupted
_POLL_INTERVAL_S = 0.3


def execute(todo: list[Run], batch: Batch, address: str) -> int:
    """Execute the runs on the cluster at `address`, or raise UserError; return the exit status of the batch."""
    client = _connect(address)
    try:
        cluster = _Cluster(client, batch, todo)
        with interruptible(cluster.interrupt):
            cluster.execute()
        return batch.summary(cluster.outcomes)
    finally:
        with suppress(Exception):  # a scheduler that is gone answers no goodbye
            client.close(timeout=5)


def _connect(address: str) -> Any:
    try:
        from distributed import Client
        from distributed.comm import get_address_host_port
    except ImportError:
        raise UserError("--cluster needs Dask, which is not installed: pip install -e '.[cluster]'") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it has to report is said here, in one sentence
    try:
        get_address_host_port(address)
        return Client(address, timeout=5, set_as_default=False)
    except ValueError:
        problem = "it is no address that Dask knows"
    except Exception as error:
        problem = fmt.shown(clean(str(error)).partition("\n")[0], 200) or type(error).__name__
    told = f"no Dask scheduler answers at {clean(address)} ({problem})"
    raise UserError(f"{told}: start one with `dask scheduler`, and give its address as tcp://HOST:8786")


class _Cluster:
    """A batch on a cluster. outcomes: by the head of each run. tasks: those of Dask under way, with head and run."""

    def __init__(self, client: Any, batch: Batch, todo: list[Run]):
        self.client, self.batch, self.say = client, batch, batch.screen.say
        self.todo = dict(zip(heads(todo), todo, strict=True))
        self.outcomes = dict.fromkeys(self.todo, Outcome("cancelled"))
        self.tasks: dict[Any, tuple[str, Run]] = {}
        self.interrupted = False
        self.worker_seen = time.monotonic()

    def interrupt(self, *_: Any) -> None:
        """End in order: a signal may come at any place."""
        self.interrupted = True

    def execute(self) -> None:
        try:
            self._submit()
            while self.tasks and not self.interrupted:
                self._collect()
                time.sleep(_POLL_INTERVAL_S)
            if self.interrupted:
                self._cancel()
        finally:
            for task in self.tasks:
                task.cancel(force=True)

    def _submit(self) -> None:
        for head, run in self.todo.items():
            kept = [] if self.batch.force else self.batch.runs.attempts(run.notebook.name, "[0-9a-f]+")
            finished = {Path(one.folder).stem for one in kept if one.status.state == "finished"}
            self.say(f"{head} {run.settings}".rstrip())
            name = f"kit-run-{uuid4().hex}"
            what = remote.shipped(run), name, version(), finished
            self.tasks[self.client.submit(remote.execute, *what, key=name, pure=False)] = head, run

    def _collect(self) -> None:
        """Keep what came of the runs that ended; end all where the scheduler is gone, or has no worker any more."""
        for task in [task for task in self.tasks if task.done() and task.status != "lost"]:
            self._keep(*self.tasks.pop(task), task)
        if self.client.status == "running" and self.client.scheduler_info()["workers"]:
            self.worker_seen = time.monotonic()
        else:
            self.say("waiting for a worker of the cluster", passing=True)
        gone = self.client.status in ("closing", "closed")
        if gone or time.monotonic() - self.worker_seen > PATIENCE_S:
            start = f"the cluster has no worker: start one with `dask worker {clean(self.client.scheduler.address)}`"
            note = "the Dask scheduler is gone; once it is back, go on" if gone else f"{start} and this kit"
            for head, _ in self.tasks.values():
                self._end(head, Outcome("failed", note=note))
            self.tasks.clear()

    def _keep(self, head: str, run: Run, task: Any) -> None:
        try:
            gathered = task.result(timeout=120)
        except Exception as error:  # of Dask: the workers were lost, as often as it allows
            gathered = remote.Gathered(error=f"the worker failed: {fmt.shown(error, 400)}")
        try:
            claim = self.batch.claim(run, gathered.key or runs.key(remote.shipped(run)), gathered.machine)
            if isinstance(claim, Outcome):
                return self._end(head, claim)
            unpack(gathered.folder, claim.folder)
        except (OSError, UserError, zipfile.BadZipFile) as problem:
            return self._end(head, Outcome("failed", note=f"its results could not be kept: {problem}"))
        if gathered.worker:
            self.say(f"{head}: on {gathered.worker}")
        state = "cancelled" if gathered.cancelled else ""
        self._end(head, self.batch.end(claim, gathered.seconds, gathered.error, state))
        return self.batch.write_report()

    def _end(self, head: str, outcome: Outcome) -> None:
        self.outcomes[head] = self.batch.say(head, outcome)

    def _cancel(self) -> None:
        """End what is under way as Ctrl-C ends a run: it keeps what it has measured, and no process of it is left."""
        self.say(RESUMES)
        deadline = time.monotonic() + PATIENCE_S
        with suppress(Exception):
            executing = {key for keys in self.client.processing().values() for key in keys}
            for task in [task for task in self.tasks if task.key not in executing]:
                del self.tasks[task]
                task.cancel(force=True)
            self.client.run(remote.cancel, [task.key for task in self.tasks], on_error="ignore")
            while self.tasks and time.monotonic() < deadline:
                self._collect()
                time.sleep(_POLL_INTERVAL_S)


def unpack(packed: bytes, folder: Path) -> None:
    """Write what a worker handed back into a run's folder, and nowhere else: zipfile drops `..` and roots of paths."""
    if packed:
        with zipfile.ZipFile(io.BytesIO(packed)) as file:
            file.extractall(folder)
