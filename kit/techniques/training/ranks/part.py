"""One machine's part in a launch: start torch's launcher, ask its ranks where they are, end it, gather its notes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psutil

from kit.measure.process import THREAD_VARIABLES
from kit.techniques.training.ranks.cause import Notes, gather
from kit.techniques.training.ranks.control import PARENT, Job

WORD_LIMIT_S = 1.0
"""Time that ranks have to note where they are, when they are told to end."""


class Part:
    """A launcher and its ranks on this machine, seen from outside."""

    def __init__(self, job: Job, options: list[str], *, ranks: int, restarts: int = 0, more: dict | None = None):
        """Start. options: of torch's launcher, how it meets others. ranks: on this machine. more: variables."""
        self.job = job
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the part
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(job.threads)) | job.environment() | (more or {})
        environment[PARENT] = str(os.getpid())
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "1"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "kit.techniques.training.ranks.launcher"),
                *options,
                *(f"--nproc-per-node={ranks}", f"--max-restarts={restarts}", "--monitor-interval=0.1"),
                f"--log-dir={job.notes}",
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,  # Ctrl-C reaches the parent only, which then ends the part
        )
        self._known: list[psutil.Process] = []

    def ended(self) -> bool:
        """Tell whether the launcher is gone."""
        return self.process.poll() is not None

    def wait(self, limit_s: float) -> None:
        """Wait until the launcher has ended, or for `limit_s` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(limit_s)

    def processes(self) -> list[psutil.Process]:
        """Return the launcher's process, those that serve it, and its ranks', those that are alive."""
        if not self.ended():
            with contextlib.suppress(psutil.Error):
                launcher = psutil.Process(self.process.pid)
                self._known = list({*self._known, launcher, *launcher.children(recursive=True)})
        return [process for process in self._known if _alive(process)]

    def ask(self) -> None:
        """End the ranks, and have each note where it was. Only `kill` may follow."""
        self._hold()
        ranks = [process for process in self.processes() if not self._serves(process)]
        for rank in ranks:
            with contextlib.suppress(psutil.Error):
                rank.terminate()
        _wait(ranks)

    def kill(self) -> None:
        """Kill all that is left. Safe to call twice."""
        self._hold()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()
        _wait(self._known)

    def clear(self) -> None:
        """Throw away notes and output. Safe to call twice."""
        shutil.rmtree(self.job.notes, ignore_errors=True)
        self._output.close()

    def notes(self) -> Notes:
        """Return what this machine's ranks and launcher noted."""
        return gather(self.job.notes)

    def said(self) -> str:
        """Return the end of what the launcher and its ranks printed."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 4000))
        return self._output.read().decode(errors="replace")

    def _serves(self, process: psutil.Process) -> bool:
        """Tell the launcher and the server of its ranks from the ranks, which end with that server."""
        with contextlib.suppress(psutil.Error):
            return self.process.pid in (process.pid, process.ppid())
        return False

    def _hold(self) -> None:
        """Stop the launcher, so that it starts no more ranks while they are ended."""
        if not self.ended():
            self.process.send_signal(signal.SIGSTOP)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _wait(processes: list[psutil.Process]) -> None:
    end = time.monotonic() + WORD_LIMIT_S
    while any(map(_alive, processes)) and time.monotonic() < end:
        time.sleep(0.01)
