"""The line between the one who starts a launch and its ranks: what a launch is, and how both sides end together."""

import contextlib
import ctypes
import faulthandler
import hmac
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

PARENT = "KIT_LAUNCH_PARENT"
"""Holds the id of the process that a launcher or a rank must not outlive: it may be gone before they can ask."""
_VARIABLE = "KIT_LAUNCH"
_POLL_S = 0.3


@dataclass(frozen=True)
class Job:
    """One launch, as its ranks read it from their environment.

    ranks: on all machines together. threads: for each. timeout_s: longest wait for another rank.
    limit_s: longest life of the launch. token: how rank 0 proves that it is part of the launch.
    host, port: where rank 0 finds the one who gives orders.
    notes: folder of this machine in which a rank that fails leaves a note.
    """

    ranks: int
    threads: int = 1
    device: str = "cpu"
    timeout_s: float = 60.0
    limit_s: float = 3600.0
    host: str = "127.0.0.1"
    port: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    notes: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="kit-launch-"))

    @staticmethod
    def from_environment() -> "Job":
        """Return the launch that this process is part of."""
        return Job(**json.loads(os.environ[_VARIABLE]))

    def environment(self) -> dict[str, str]:
        """Return the variables that a rank needs."""
        return {_VARIABLE: json.dumps(asdict(self))}

    def note_error(self, rank: int, line: str, details: str) -> None:
        """Leave a note of a rank's error; the earliest is the cause, later ones are its echo."""
        note = {"rank": rank, "attempt": attempt(), "error": line, "details": details, "time": time.time()}
        _write(Path(self.notes, f"error-{rank}-{attempt()}.json"), json.dumps(note))

    def note_place(self, rank: int) -> None:
        """Have this process leave a note of where its code is when it is told to end (SIGTERM), wherever it hangs."""
        note = open(Path(self.notes, f"place-{rank}-{attempt()}.txt"), "w")  # noqa: SIM115, open as long as it lives
        faulthandler.register(signal.SIGTERM, note, all_threads=False, chain=True)


def attempt() -> int:
    """Return how often torch's launcher has started the ranks again before this one."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _write(path: Path, text: str) -> None:
    """Write a note that nobody can read by half."""
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").replace(path)


def connect(job: Job) -> Connection:
    """Return rank 0's line to the one who gives orders."""
    line = socket.create_connection((job.host, job.port), timeout=job.timeout_s)
    line.settimeout(None)
    line.sendall(job.token.encode())
    return Connection(line.detach())


def accept(listener: socket.socket, job: Job) -> Connection | None:
    """Return the line to rank 0 if it calls within a moment and knows the token, else None."""
    listener.settimeout(_POLL_S)
    try:
        line, _ = listener.accept()
    except TimeoutError:
        return None
    line.settimeout(_POLL_S)
    try:
        told = line.recv(len(job.token), socket.MSG_WAITALL)
    except OSError:
        told = b""
    if not hmac.compare_digest(told, job.token.encode()):
        line.close()
        return None
    line.settimeout(None)
    return Connection(line.detach())


def die_with_parent(job: Job, *, keeper: bool = False) -> None:
    """Have this process and all that it started killed when the process that started it is gone.

    keeper: this is the launcher, which also ends the launch at its limit and clears its notes away. A rank is killed by
    the kernel where it can be: a thread waits for Python's lock, and C code may hold that for good.
    """
    parent = int(os.environ.get(PARENT) or os.getppid())
    if sys.platform == "linux" and not keeper:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, from <sys/prctl.h>
    threading.Thread(target=_watch, args=(parent, job, keeper), daemon=True).start()


def _watch(parent: int, job: Job, keeper: bool) -> None:
    end = time.monotonic() + job.limit_s if keeper else float("inf")
    while os.getppid() == parent and time.monotonic() < end:
        time.sleep(_POLL_S)
    if os.getppid() == parent:
        _write(Path(job.notes, "limit.txt"), f"the launch passed its limit of {job.limit_s:g} s")
    elif keeper:
        shutil.rmtree(job.notes, ignore_errors=True)  # first: without its ranks the launcher ends, and this thread too
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def be_a_rank() -> None:
    """Be a rank: what torch's launcher calls in each process. The import is done there already."""
    from kit.techniques.training.ranks import rank

    rank.main()
