"""Workers as processes of this machine: started once, each with the problem opened, then given search after search.

A worker that dies is replaced, and what it had is put back. Workers die with this process, however it ends.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle

from kit.errors import UserError
from kit.measure.process import THREAD_VARIABLES
from kit.techniques.tuning.problem import Space
from kit.techniques.tuning.workers.worker import Order, ProblemOpening, Summary

GLANCE_S = 0.2
LEAVE_S = 2.0
DEATHS = 8
"""So many workers may die one after another without a trial; then something else is wrong."""

Bury = Callable[[int, str], int]
"""bury(worker, reason) puts back what a worker had that died; returns how many trials that were."""
Ran = tuple[Summary, float]
"""What one worker did, and when it told its last trial (`time.monotonic`)."""


class Processes:
    """So many workers that are up and wait: `with Processes(opening, 2) as workers: workers.go(order, bury, watch)`."""

    def __init__(self, opening: ProblemOpening, workers: int, threads: int = 1) -> None:
        """Start them and wait until each has the problem open. threads: of each.

        Raise `UserError` if the problem can't be opened, or a worker dies over it.
        """
        check_number(workers)
        self._packed = cloudpickle.dumps(opening)
        self._threads = threads
        self._workers: list[_Process] = []
        try:
            self._workers = [_Process(number, self._packed, threads) for number in range(workers)]
            opened = [worker.ready() for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.problem: str = opened[0][0]
        self.space: Space = opened[0][1]

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """Of the workers that are up."""
        return [worker.pid for worker in self._workers]

    def go(self, order: Order, bury: Bury, watch: Callable[[], None]) -> list[Ran]:
        """Have all workers search until nothing is left to ask for. watch: called some five times a second.

        Raise `UserError` for what a worker could not go on with: its storage is gone, or workers die all the time.
        """
        ran, deaths = [], 0
        busy = set(self._workers)
        for worker in self._workers:
            worker.order(order)
        while busy:
            for connection in wait([worker.connection for worker in busy], GLANCE_S):
                worker = next(one for one in busy if one.connection is connection)
                try:
                    said, *what = worker.hear()
                except (EOFError, OSError):
                    busy.discard(worker)
                    reason, words = worker.end()
                    deaths = 0 if bury(worker.number, reason) else deaths + 1
                    _check_deaths(deaths, reason, words)
                    busy.add(self._replace(worker, order))
                    continue
                if said == "idle":
                    busy.discard(worker)
                    ran.append((what[0], time.monotonic() - what[0].rested_s))
            watch()
        return ran

    def close(self) -> None:
        """Let the workers leave; kill what is left of them and of what they started. Safe to call twice."""
        for worker in self._workers:
            worker.leave()
        for worker in self._workers:
            worker.wait(LEAVE_S)
            worker.end()
        self._workers = []

    def kill(self) -> None:
        """Kill them in the middle of what they do."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.kill()

    def _replace(self, worker: "_Process", order: Order) -> "_Process":
        new = _Process(worker.number, self._packed, self._threads)
        self._workers[worker.number] = new
        new.order(order)
        return new


def check_number(workers: int) -> None:
    """Raise `UserError` unless `workers` is a whole number above 0."""
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"workers={workers!r} can't search; give a whole number from 1 on")


def _check_deaths(deaths: int, reason: str, words: str) -> None:
    if deaths >= DEATHS:
        raise UserError(f"{deaths} workers died one after another without a trial, at last: {reason}. {words}".strip())


class _Process:
    """One worker, seen from its parent."""

    def __init__(self, number: int, packed: bytes, threads: int) -> None:
        self.number = number
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the worker
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment.pop("KIT_RUN", None)  # a comparison inside a trial must not write into this run
        serve = ["--serve", str(theirs.fileno()), str(lifeline)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kit.techniques.tuning.workers.worker", *serve],
                pass_fds=(theirs.fileno(), lifeline),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,  # Ctrl-C reaches the parent only, which then ends the workers
            )
        finally:
            theirs.close()
            os.close(lifeline)
        self.connection = Connection(ours.detach())
        self._send((number, packed))

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> list[Any]:
        """Wait until the problem is open. Return its name and space."""
        try:
            _, *facts = self.hear()
        except (EOFError, OSError):
            reason, words = self.end()
            raise UserError(f"a worker died while it opened the problem: {reason}. {words}".strip()) from None
        return facts

    def order(self, order: Order) -> None:
        self._send(order)

    def leave(self) -> None:
        self._send(None)

    def hear(self) -> tuple:
        """Return what the worker says next. Raise `UserError` if it can't go on, EOFError if it is dead."""
        said = cloudpickle.loads(self.connection.recv_bytes())
        if said[0] != "raised":
            return said
        raise UserError(said[2] if said[1] else f"a worker can't go on: {said[2]}; see that the storage is there")

    def wait(self, limit_s: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)

    def end(self) -> tuple[str, str]:
        """Kill what is left of it and of its group. Return how it ended and its last words. Safe to call twice."""
        if self.connection.closed:
            return "", ""
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that is dying is let die its own death
            self._process.wait(0.2 if self.connection.poll() else 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        words = self._last_words()
        self.connection.close()
        os.close(self._lifeline)
        self._output.close()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        return f"its worker {how}", words

    def _send(self, what: Any) -> None:
        with contextlib.suppress(OSError):  # one that is dead is noticed when it is listened to
            self.connection.send(what)

    def _last_words(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 300))
        return " ".join(self._output.read().decode(errors="replace").split())
