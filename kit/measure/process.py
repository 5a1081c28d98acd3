"""The parent's side of a worker: start it, give it orders with a time limit, say what became of it, end it."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

import kit
from kit.measure.worker import Work, one_line

THREAD_VARIABLES = (
    "OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS VECLIB_MAXIMUM_THREADS NUMEXPR_NUM_THREADS "
    "POLARS_MAX_THREADS RAYON_NUM_THREADS ARROW_NUM_THREADS NUMBA_NUM_THREADS KIT_THREADS"
).split()
"""Set to the same number for every worker before it imports anything; `KIT_THREADS` is for engines set by a call."""

GRACE_S = 5.0
"""Time that a worker has to close what it opened before it is killed."""


class WorkerFailed(Exception):
    """The worker cannot go on. Its text is the reason, in one line; `output` is the end of what it printed."""

    def __init__(self, reason: str, output: str = ""):
        super().__init__(reason)
        self.reason = reason
        self.output = output


class SpawnedWorker:
    """A fresh process for one variant."""

    def __init__(self, threads: int, timeout_s: float, python: str = ""):
        """threads: allowed to the variant; timeout_s: of one order; python: another interpreter, empty: this one."""
        self.timeout_s = timeout_s
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the worker
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        path = [str(Path(kit.__file__).parents[1])] if python else [path or os.getcwd() for path in sys.path]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        environment.pop("KIT_RUN", None)  # a comparison inside a variant must not write into this run
        # of one length for all: the length of the command line shifts the stack, and with it the speed
        numbers = f"{theirs.fileno():06d}", f"{lifeline:06d}"
        try:
            self._process = subprocess.Popen(
                [python or sys.executable, "-P", "-m", "kit.measure.worker", *numbers],
                pass_fds=(theirs.fileno(), lifeline),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,  # Ctrl-C reaches the parent only, which then ends the worker
            )
        finally:
            theirs.close()
            os.close(lifeline)
        self._connection = Connection(ours.detach())
        self._unanswered = 0

    def order(self, name: str, *arguments: Any) -> Any:
        """Give one order of `kit.measure.worker.Work` and return its answer. Raise `WorkerFailed` with the reason if
        the variant raises, the process ends, or nothing comes within the limit; the worker is then at its end."""
        try:
            self._send(name, *arguments)
            if not self._connection.poll(self.timeout_s):
                raise WorkerFailed(f"over {self.timeout_s:g} s")
            state, *answer = _unpacked(self._receive())
        except (EOFError, OSError):
            raise WorkerFailed(self._how_it_ended(), self._said()) from None
        if state == "raised":
            self.end()
            raise WorkerFailed(answer[0], answer[1])
        return answer[0]

    def end(self) -> None:
        """End the process and everything that it started; first give it a moment to finish its call and to close."""
        try:
            if not self._connection.closed and self._process.poll() is None:
                self._send("close")
                deadline = time.monotonic() + GRACE_S
                while self._unanswered and self._connection.poll(max(0.0, deadline - time.monotonic())):
                    self._receive()
        except (EOFError, OSError):
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the process, its group, and what it started outside of its group, without asking. Safe to call twice."""
        if self._connection.closed:
            return
        started: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            started = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        self._connection.close()
        os.close(self._lifeline)
        self._output.close()

    def _send(self, name: str, *arguments: Any) -> None:
        self._unanswered += 1  # first: a Ctrl-C may come in between
        self._connection.send((name, arguments))

    def _receive(self) -> bytes:
        packed = self._connection.recv_bytes()
        self._unanswered -= 1
        return packed

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return "its process closed the line to its parent"
        if code >= 0:
            return f"its process exited with status {code}"
        name = signal.Signals(-code).name
        hint = ": most likely the system ran out of memory" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"

    def _said(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 4000))
        return self._output.read().decode(errors="replace")


def _unpacked(answer: bytes) -> tuple:
    try:
        return pickle.loads(answer)
    except Exception as error:  # whatever a class of the variant does when it is made anew
        return "raised", f"its answer cannot be read here: {one_line(error)}", ""


class InProcessWorker:
    """The same orders carried out in this process, for debugging: no limit, no own memory, no own thread counts."""

    def __init__(self, python: str = "") -> None:
        self._work = Work()

    def order(self, name: str, *arguments: Any) -> Any:
        """Give one order; raise `WorkerFailed` if the variant raises."""
        try:
            return getattr(self._work, name)(*arguments)
        except Exception as error:
            raise WorkerFailed(one_line(error)) from error

    def end(self) -> None:
        """Let the variant close what it opened."""
        with contextlib.suppress(Exception):
            self._work.close()

    kill = end


Worker = SpawnedWorker | InProcessWorker
Start = Callable[..., Worker]
"""Starts a worker, ready for the order `prepare`; `python=`: in another interpreter."""
