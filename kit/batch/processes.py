"""Starts the process of one run, watches it, and sees to it that nothing of it is left."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from kit.batch.plans import Run
from kit.batch.runs import Claim

FAILED = "kit: failed: "
"""With this the run's process begins the line of its log that says why it failed."""

MARK = "KIT_MARK"
"""Environment variable by which the processes of a run are known, their parents dead or not."""

GRACE_S = 5.0
"""Time that an interrupted notebook has to keep what it measured."""

_GLANCE_S = 0.5


def execute(
    run: Run, claim: Claim, holding: int, watch: Callable[[], None], surroundings: Mapping[str, str] = os.environ
) -> str:
    """Execute a claimed run in a process of its own, and return "" or why it failed, in one line.

    holding: file descriptor that the process keeps open. watch: called about twice a second.
    surroundings: the environment that it inherits.
    However this ends, by an exception too, no process of the run is left, and nothing of it in the temporary folder: it
    has one of its own, since a kernel that is ended clears up nothing.
    """
    with tempfile.TemporaryDirectory(prefix="kit-run-", ignore_cleanup_errors=True) as scratch:
        return _execute(run, claim, holding, watch, dict(surroundings), scratch)


def _execute(run: Run, claim: Claim, holding: int, watch: Callable, surroundings: dict, scratch: str) -> str:
    mark = uuid4().hex
    here = {"KIT_RUN": str(claim.folder), "KIT_NOTEBOOK": run.notebook.name, MARK: mark, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "kit.batch.execute", str(claim.folder)],
        cwd=run.notebook.home,
        env=surroundings | here | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), scratch),
        stdin=subprocess.PIPE,
        stdout=claim.log,
        stderr=claim.log,
        start_new_session=True,
        pass_fds=[holding],
    )
    try:
        with suppress(BrokenPipeError):  # it died at once: its exit status says so
            process.stdin.write(json.dumps(run.given).encode() + b"\n")
            process.stdin.flush()
        return _wait(process, run.timeout, watch) or _failure(process.returncode, claim.folder)
    finally:
        _end(process, mark)


def _wait(process: subprocess.Popen, timeout: float | None, watch: Callable[[], None]) -> str:
    deadline = time.monotonic() + (timeout or float("inf"))
    while True:
        try:
            process.wait(min(_GLANCE_S, max(0.0, deadline - time.monotonic())))
            return ""
        except subprocess.TimeoutExpired:
            watch()
        if time.monotonic() >= deadline:
            return f"over {timeout:g} s"


def _failure(code: int, folder: Path) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"the run's process died (killed by signal {-code})"
    lines = [line for line in _tail(folder / "log.txt") if line.strip()]
    said = [line.removeprefix(FAILED) for line in lines if line.startswith(FAILED)] or lines
    return said[-1] if said else f"the run's process ended with exit status {code}"


def _tail(log: Path) -> list[str]:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 2**16))
        return file.read().decode(errors="replace").split("\n")


def _end(process: subprocess.Popen, mark: str) -> None:
    """End the run's processes: ask first, as Ctrl-C in a notebook does, so that it can keep what it measured."""
    left = _of(process, mark)
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
    while time.monotonic() < deadline and (left := {other for other in left | _of(process, mark) if _lives(other)}):
        _kill(left)
        time.sleep(0.02)


def _of(process: subprocess.Popen, mark: str) -> set[psutil.Process]:
    """Return the other processes of a run: its descendants, and those that lost their parent but carry its mark."""
    found = set()
    with suppress(psutil.Error):
        found.update(psutil.Process(process.pid).children(recursive=True))
    for other in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if other.pid != process.pid and other.environ().get(MARK) == mark:
                found.add(other)
    return found


def _lives(process: psutil.Process) -> bool:
    """Return whether a process still does something: a dead one may stand in the table for as long as nobody asks."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def end_descendants() -> None:
    """End everything below this process."""
    _kill(psutil.Process().children(recursive=True))


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def progress(folder: Path) -> dict[str, Any]:
    """Return what the run says it is doing now, or nothing."""
    try:
        return json.loads((folder / "progress.json").read_bytes())
    except (OSError, ValueError):
        return {}
