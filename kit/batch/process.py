"""Starts the process of one run, watches it, and ends all that it started."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import psutil

from kit.batch.plans import Run

FAILED = "kit: failed: "  # begins the line of a run's log with the reason why it failed
MARK = "KIT_MARK"  # environment variable by which the processes of a run are known, their parents dead or not
GRACE_S = 5.0  # for an interrupted notebook to keep what it measured
_POLL_INTERVAL_S = 0.5


def execute(run: Run, folder: Path, log: BinaryIO, holding: int, poll: Callable[[], None], inherited: Mapping) -> str:
    """Execute a run whose notebook is in `folder` in a process of its own; return "" or why it failed, in one line.

    holding: file descriptor that stays open. poll: called about twice a second; may raise. inherited: environment.
    However this ends, by an exception too, no process of the run is left, and nothing of it in the temporary folder: it
    has one of its own, since a kernel that is ended clears up nothing."""
    mark = uuid4().hex
    own = {"KIT_RUN": str(folder), "KIT_NOTEBOOK": run.notebook.name, MARK: mark, "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory(prefix="kit-run-", ignore_cleanup_errors=True) as scratch:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kit.batch.execute", str(folder)], cwd=run.notebook.home,
            env=dict(inherited) | own | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), scratch),
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, pass_fds=[holding],
        )  # fmt: skip
        try:
            with suppress(BrokenPipeError):  # it died at once: its exit status says so
                process.stdin.write(json.dumps(run.given).encode() + b"\n")
                process.stdin.flush()
            return _wait(process, run.timeout, poll) or _failure(process.returncode, folder / "log.txt")
        finally:
            _end(process, mark)


def _wait(process: subprocess.Popen, timeout: float, poll: Callable[[], None]) -> str:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(_POLL_INTERVAL_S, max(0.0, deadline - time.monotonic())))
            return ""
        poll()
    return f"over {timeout:g} s; --timeout gives it more"


def _failure(code: int, log: Path) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"the run's process died (killed by {signal.Signals(-code).name})"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix(FAILED) for line in lines if line.startswith(FAILED)] or lines
    return said[-1] if said else f"the run's process ended with exit status {code}"


def _end(process: subprocess.Popen, mark: str) -> None:
    """End the run's processes: ask first, as Ctrl-C in a notebook does, so that it can keep what it measured."""
    left = _left(process, mark, set())
    if process.poll() is None:
        with suppress(psutil.Error):
            for kernel in psutil.Process(process.pid).children():
                kernel.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(GRACE_S)
    process.kill()
    process.wait()
    process.stdin.close()
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and (left := _left(process, mark, left)):
        for other in left:
            with suppress(psutil.Error):
                other.kill()
        time.sleep(0.02)


def _left(process: subprocess.Popen, mark: str, known: set[psutil.Process]) -> set[psutil.Process]:
    """Return the other processes of a run that still run: its descendants, those known before, and those that lost
    their parent but carry its mark. A dead one stays in the table for as long as nobody asks."""
    with suppress(psutil.Error):
        known = known.union(psutil.Process(process.pid).children(recursive=True))
    found = set()
    for other in known.union(psutil.process_iter()):
        with suppress(psutil.Error, OSError):
            own = other in known or (other.pid != process.pid and other.environ().get(MARK) == mark)
            if own and other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
                found.add(other)
    return found
