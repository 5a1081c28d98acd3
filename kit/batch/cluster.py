"""Executes a batch on the workers of an existing Dask cluster: one run at a time on each machine, and gathers folders.

A run goes to a worker by name, so that it is known where it is: if that worker is lost, the run begins again
elsewhere. What a worker hands back is kept here, as if it had been executed here. A cluster is trusted by its nature:
whoever reaches its scheduler can execute code on its workers and on its clients.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from uuid import uuid4

from kit.batch import remote
from kit.batch.plans import Run
from kit.batch.run import Batch, Outcome, Turn, in_words, interruptible, summary
from kit.batch.runs import Claim, Runs, version
from kit.batch.screen import Screen
from kit.errors import UserError
from kit.record import words
from kit.record.store import clean

MOST_TRIES = 3
"""Times that a run is begun in all, if its workers are lost."""

PATIENCE_S = 30.0
"""For a first worker to come, and for one that takes the place of one that was lost."""

_CONNECT_S = 5
_ANSWER_S = 10.0
"""For workers to say what they are before the first run is sent."""
_END_S = 30.0
"""For workers to end what is interrupted and to hand back what they have of it."""
_GATHER_S = 120
_GLANCE_S = 0.2


def execute(todo: list[Run], runs: Runs, address: str, force: bool = False, report: str | None = None) -> int:
    """Execute the runs on the cluster at `address`, print how they ended, and return the exit status of `run.execute`.

    Raise UserError if there is no cluster."""
    client = _connect(address)
    try:
        return summary(_Cluster(client, Batch(runs, Screen(), force, report), todo).execute())
    finally:
        with suppress(Exception):  # a scheduler that is gone answers no goodbye
            client.close(timeout=5)


def _connect(address: str) -> Any:
    from distributed import Client
    from distributed.comm import get_address_host_port

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it has to say is said here, in one sentence
    try:
        get_address_host_port(address)
        return Client(address, timeout=_CONNECT_S, set_as_default=False)
    except ValueError:
        problem = "it is no address that Dask knows"
    except Exception as error:
        problem = words.shown(clean(str(error)).partition("\n")[0], 200) or type(error).__name__
    raise UserError(
        f"no Dask scheduler answers at {clean(address)} ({problem}): "
        "start one with `dask scheduler`, and give its address as tcp://HOST:8786"
    )


@dataclass(eq=False)
class _Job:
    """A run of the batch, and how it ended, once it has. keys: of its folders on every machine seen, each with the
    numbers of the attempts that had ended by then."""

    place: int
    run: Run
    head: str
    keys: dict[str, set[int]] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    tries: int = 0
    outcome: Outcome | None = None
    said: Any = None
    not_before: float = 0.0
    """When it may be asked again for, if another batch was at it."""


@dataclass(frozen=True)
class _Worker:
    """A worker that can be used."""

    address: str
    host: str
    resources: dict[str, float]
    about: remote.About

    def can_take(self, run: Run) -> bool:
        return all(self.resources.get(name, 0) >= amount for name, amount in run.resources.items())


@dataclass(frozen=True)
class _Under:
    """A run under way. name: of its task."""

    job: _Job
    turn: Turn
    claim: Claim
    worker: _Worker
    name: str
    task: Any


class _Cluster:
    """A batch on a cluster."""

    def __init__(self, client: Any, batch: Batch, todo: list[Run]):
        self.client, self.batch, self.screen = client, batch, batch.screen
        heads = [f"[{n}/{len(todo)}] {run.label}" for n, run in enumerate(todo, 1)]
        self.jobs = [_Job(place, run, head) for place, (run, head) in enumerate(zip(todo, heads, strict=True))]
        self.under: list[_Under] = []
        self.present: dict[str, dict] = {}
        self.asked: dict[str, Any] = {}
        self.workers: dict[str, _Worker] = {}
        self.refused: set[str] = set()
        self.topic = f"kit-{uuid4().hex}"
        self.events: deque[dict] = deque()
        self.interrupted = False
        self.began = self.fitting = time.monotonic()
        self.lost = False

    def execute(self) -> list[Outcome]:
        """Execute the runs and return how each ended; those that an interruption did not let begin are cancelled."""
        self.client.subscribe_topic(self.topic, lambda event: self.events.append(event[1]))
        with interruptible(self._wish_to_end):
            try:
                while self._left() and not self.interrupted:
                    self._step()
                    time.sleep(_GLANCE_S)
                if self.interrupted:
                    self._interrupt()
            finally:
                for under in self.under:
                    under.task.cancel(force=True)
        if {job.outcome.state for job in self.jobs if job.outcome} <= {"skipped"}:
            self.batch.write_report()
        return [job.outcome or Outcome(job.run.label, "cancelled") for job in self.jobs]

    def _wish_to_end(self, *_: Any) -> None:
        """End in order at the first signal, which may come at any place; at once at the second."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def _left(self) -> list[_Job]:
        return [job for job in self.jobs if job.outcome is None]

    def _waiting(self) -> list[_Job]:
        busy = {under.job for under in self.under}
        return [job for job in self._left() if job not in busy]

    def _step(self) -> None:
        if self.client.status in ("closing", "closed"):
            self._give_up(
                self._left(), "the Dask scheduler is gone; once it is back, the same command goes on from here"
            )
        elif self.client.status == "running":  # else it tries to connect again, for some seconds
            self._meet_workers()
            self._tell()
            self._collect()
            if not self.asked or time.monotonic() - self.began > _ANSWER_S:
                self._skip()
                self._assign()
                self._despair()

    # ------------------------------------------------------------------------------------------------ workers

    def _meet_workers(self) -> None:
        """Ask workers that came what they are, and forget those that went."""
        found = self.client.scheduler_info()["workers"]
        self.present = {address: info for address, info in found.items() if info["status"] == "running"}
        for known in (self.asked, self.workers):
            for address in known.keys() - self.present.keys():
                del known[address]
        self.refused &= self.present.keys()
        new = self.present.keys() - self.asked.keys() - self.workers.keys() - self.refused
        todo = [remote.shipped(job.run) for job in self.jobs] if new else []
        for address in new:
            self.asked[address] = self._submit(address, {}, f"kit-about-{uuid4().hex}", remote.about, todo)
        for address in [address for address, answer in self.asked.items() if answer.done()]:
            self._judge(address, self.asked.pop(address))

    def _submit(self, address: str, resources: dict[str, float], name: str, function: Callable, *parts: Any) -> Any:
        """Have this worker and no other call a function, once."""
        return self.client.submit(
            function, *parts, key=name, workers=[address], allow_other_workers=False, resources=resources or None,
            pure=False, retries=0,
        )  # fmt: skip

    def _judge(self, address: str, answer: Any) -> None:
        """Take a worker in if it is of this version of the kit; else say why not, once."""
        try:
            about = answer.result(timeout=_ANSWER_S)
        except ModuleNotFoundError as error:
            problem = f"it has no module {error.name}; install this version of the kit there"
        except Exception as error:
            problem = f"it can't say what it is: {words.shown(error, 200)}"
        else:
            problem = (
                "" if about.kit == version() else f"its kit is {about.kit}, this one is {version()}; install the same"
            )
        if problem:
            self.refused.add(address)
            self.screen.say(f"worker {address} is not used: {problem}")
        else:
            info = self.present[address]
            self.workers[address] = _Worker(address, info["host"], info["resources"], about)

    # ------------------------------------------------------------------------------------------------ runs

    def _turn(self, job: _Job, worker: _Worker) -> Turn:
        key = worker.about.keys[job.place]
        if key not in job.keys:
            job.keys[key] = self.batch.ended(job.run.notebook.name, key)
        return Turn(job.run, key, job.keys[key], job.head, worker.about.machine)

    def _skip(self) -> None:
        """End the runs that are finished on any machine of the cluster."""
        for job in self._waiting():
            for turn in [self._turn(job, worker) for worker in self.workers.values()]:
                if job.outcome is None and turn.key not in job.checked and (done := self.batch.done(turn)):
                    self._end(job, done)
                job.checked.add(turn.key)

    def _assign(self) -> None:
        """Send waiting runs to machines that do nothing, those with the fewest resources first."""
        for job in self._waiting():
            hosts = {under.worker.host for under in self.under}
            free = [w for w in self.workers.values() if w.host not in hosts and w.can_take(job.run)]
            if free and time.monotonic() >= job.not_before:
                self._send(job, min(free, key=lambda worker: (sum(worker.resources.values()), worker.address)))

    def _send(self, job: _Job, worker: _Worker) -> None:
        turn = self._turn(job, worker)
        try:
            claim = self.batch.claim(turn)
        except (UserError, OSError) as error:
            claim = Outcome(job.run.label, "failed", note=str(error))
        if isinstance(claim, Outcome):
            self._end(job, claim)
        elif claim is None:
            job.not_before = time.monotonic() + 5
        else:
            name = f"kit-run-{uuid4().hex}"
            parts = (remote.shipped(job.run), claim.status, worker.about.process, name, self.topic)
            task = self._submit(worker.address, job.run.resources, name, remote.execute, *parts)
            self.under.append(_Under(job, turn, claim, worker, name, task))
            job.tries += 1
            self.screen.say(f"{job.head}: on {worker.address}")

    def _tell(self) -> None:
        """Show what the runs have said of themselves; without a terminal only when one turns to another size."""
        heads = {under.name: under.job for under in self.under}
        while self.events:
            event = self.events.popleft()
            if (job := heads.get(event.get("name"))) is None:
                continue
            doing = event.get("doing") or {}
            stage = event.get("says") or (doing.get("comparison"), doing.get("size"))
            if stage != job.said or self.screen.stream.isatty():
                job.said = stage
                self.screen.progress(job.head, doing)
                if said := event.get("says"):
                    self.screen.show(f"{job.head}: {said}")

    def _collect(self) -> None:
        """Keep what came of the runs that ended, and begin those anew whose workers are gone."""
        for under in list(self.under):
            self.batch.runs.beat(under.claim)
            gone = under.worker.address not in self.present
            if not gone and not under.task.done():
                continue
            gathered = None if gone else _gathered(under.task)
            self.under.remove(under)
            if gathered is None or (gathered.interrupted and not self.interrupted):
                self._lose(under)
            else:
                self._keep(under, gathered)

    def _keep(self, under: _Under, gathered: remote.Gathered) -> None:
        error = gathered.error
        try:
            _unpack(gathered.files, under.claim)
        except (OSError, UserError) as problem:
            error = f"what the worker handed back could not be kept: {problem}"
        self._end(under.job, self.batch.end(under.turn, under.claim, gathered.seconds, error, gathered.interrupted))
        self.batch.write_report()

    def _lose(self, under: _Under) -> None:
        """Begin a run anew elsewhere whose worker is gone, unless that has happened too often."""
        under.task.cancel(force=True)
        job, address, self.lost = under.job, under.worker.address, True
        self.workers.pop(address, None)  # another process may stand at its address
        self.fitting = time.monotonic()
        if self.interrupted or job.tries >= MOST_TRIES:
            error = f"its worker was lost {job.tries} times, the last time {address}; often its memory was full"
            self._end(job, self.batch.end(under.turn, under.claim, 0.0, error, self.interrupted))
            return
        with suppress(UserError):
            self.batch.runs.drop(under.claim)
        self.screen.say(
            f"{job.head}: worker {address} was lost; it begins again elsewhere ({job.tries + 1} of {MOST_TRIES})"
        )

    def _despair(self) -> None:
        """Give up runs that no worker can take, once it was waited for one as long as one may still come."""
        now = time.monotonic()
        patience = PATIENCE_S if self.lost or not self.present else 0.0
        homeless = [job for job in self._waiting() if not any(w.can_take(job.run) for w in self.workers.values())]
        if not homeless or self.asked:
            self.fitting = now
        elif now - self.fitting >= patience:
            for job in homeless:
                self._give_up([job], self._wanted(job.run))

    def _wanted(self, run: Run) -> str:
        """Return what is missing for a run, and what to do."""
        address = clean(self.client.scheduler.address)
        if not self.workers:
            return f"the cluster has no worker that can be used: start one with `dask worker {address}` and this kit"
        asked = " ".join(f"{name}={amount:g}" for name, amount in run.resources.items())
        return f'no worker declares {asked}: start one with `dask worker {address} --resources "{asked}"`'

    def _give_up(self, jobs: list[_Job], error: str) -> None:
        for under in [under for under in self.under if under.job in jobs]:
            self.under.remove(under)
            self._end(under.job, self.batch.end(under.turn, under.claim, 0.0, error))
        for job in jobs:
            if job.outcome is None:
                self._end(job, Outcome(job.run.label, "failed", note=error))

    def _end(self, job: _Job, outcome: Outcome) -> None:
        job.outcome = outcome
        self.screen.say(f"{job.head}: {in_words(outcome)}")

    def _interrupt(self) -> None:
        """End what is under way as Ctrl-C ends a run: it keeps what it has measured, and no process of it is left."""
        self.screen.say("interrupted; the same command goes on from here")
        if not self.under:
            return
        names, addresses = [under.name for under in self.under], [under.worker.address for under in self.under]
        with suppress(Exception):
            self.client.run(remote.cancel, names, workers=addresses, wait=False, on_error="ignore")
            deadline = time.monotonic() + _END_S
            while self.under and time.monotonic() < deadline:
                self._meet_workers()
                self._collect()
                time.sleep(_GLANCE_S)
        for under in list(self.under):
            self.under.remove(under)
            under.task.cancel(force=True)
            self._end(under.job, self.batch.end(under.turn, under.claim, 0.0, "", interrupted=True))


def _gathered(task: Any) -> remote.Gathered | None:
    """Return what a task that is done handed back; None if its worker was lost."""
    from distributed import KilledWorker

    if task.status == "error":
        error = task.exception(timeout=_GATHER_S)
        lost = isinstance(error, KilledWorker)
        return (
            None if lost else remote.Gathered({}, error=f"the worker could not execute it: {words.shown(error, 400)}")
        )
    if task.status != "finished":
        return None
    try:
        gathered = task.result(timeout=_GATHER_S)
    except Exception:
        return None
    return None if gathered.replaced else gathered


def _unpack(files: dict[str, bytes], claim: Claim) -> None:
    """Write what a worker handed back into a claimed folder, and nowhere else."""
    for name, content in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise UserError(f"{name!r} is no path inside a run's folder")
        if name == "log.txt":  # it is open, and its lock says that the run is ours
            claim.log.write(content)
            claim.log.flush()
            continue
        (claim.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (claim.folder / path).write_bytes(content)
