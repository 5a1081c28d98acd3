"""The line between the one who starts a launch and its ranks: what a launch is, and how both sides end together."""

import hmac
import json
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

_VARIABLE = "KIT_LAUNCH"
_POLL_S = 0.3


@dataclass(frozen=True)
class Job:
    """One launch, as its ranks read it from their environment.

    threads: for each rank. timeout_s: longest wait for another rank. limit_s: longest life of the launch.
    host, port, token: where rank 0 finds the one who gives orders, and how it proves who it is.
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
        note = {"rank": rank, "error": line, "details": details, "time": time.time()}
        Path(self.notes, f"rank-{rank}-{os.getpid()}.json").write_text(json.dumps(note))

    def errors(self) -> list[dict]:
        """Return the notes that ranks left, the earliest first."""
        notes = [json.loads(path.read_text()) for path in Path(self.notes).glob("rank-*.json")]
        return sorted(notes, key=lambda note: note["time"])


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


def die_with_parent(limit_s: float | None = None) -> None:
    """Have this process and all that it started killed when its parent is gone, or after `limit_s` seconds."""
    threading.Thread(target=_watch, args=(os.getppid(), limit_s), daemon=True).start()


def _watch(parent: int, limit_s: float | None) -> None:
    end = float("inf") if limit_s is None else time.monotonic() + limit_s
    while os.getppid() == parent and time.monotonic() < end:
        time.sleep(_POLL_S)
    for process in [*psutil.Process().children(recursive=True), psutil.Process()]:
        process.send_signal(signal.SIGKILL)
