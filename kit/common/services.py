"""Servers of this machine: each on a free loopback port, and none outlives its parent process."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kit.errors import UserError

START_S = 30.0
_POLL_INTERVAL_S = 0.02
_LAST_CHARACTERS = 400

# Runs the command ("$@") and, in its process group, a watcher that kills the group when standard input closes: the
# parent has the other end of that pipe, which the kernel closes however the parent ends.
_WATCHED = 'exec 3<&0; (read _ <&3; kill -KILL 0) >/dev/null 2>&1 & input=$0; exec "$@" 3<&- <"$input"'


class Service(contextlib.AbstractContextManager):
    """A server process of this machine. It and its children end with this process, however that ends.

    port: on 127.0.0.1, the same after a restart. folder: private temporary folder, the server's working directory.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready: Callable[[int], bool] | None = None,
        stdin: str = "",
        environment: Mapping[str, str] = {},
        start_s: float = START_S,
    ) -> None:
        """Prepare a server that `start` starts, on a free port.

        name: for messages. ready: port → whether the server answers; None: whether it accepts a connection. stdin: its
        input, which other users cannot see, unlike a command. environment: further variables. start_s: longest wait.
        "{port}" in command and stdin becomes the port.
        """
        self.name, self.port = name, free_port()
        self._command, self._stdin = [self._with_port(part) for part in command], self._with_port(stdin)
        self._ready, self._environment, self._start_s = ready or listens, environment, start_s
        self._temporary = tempfile.TemporaryDirectory(prefix="kit-service-")
        self.folder = Path(self._temporary.name)
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int:
        """Process id of the server itself."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process exists."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> "Service":
        """Start the server and wait until it is ready; after `kill`, start it again on the same port.

        Raise `UserError` with the last lines of the server's output if it does not start.
        """
        self._spawn()
        deadline = time.monotonic() + self._start_s
        while time.monotonic() < deadline and self.running:
            if self._ready(self.port):
                return self
            time.sleep(_POLL_INTERVAL_S)
        reason = f"is not ready after {self._start_s:g} s" if self.running else f"ended with {self._process.returncode}"
        output = self.last_output() or "it printed nothing"
        self.close()
        raise UserError(f"{self.name} did not start on port {self.port}: it {reason}; {output}")

    def run(self, limit_s: float) -> int | None:
        """Start the command and wait for its own end: return its status, or None after `limit_s`."""
        self._spawn()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(limit_s)
        return None

    def kill(self) -> None:
        """End the server and its children as a crash would (SIGKILL)."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def close(self) -> None:
        """End the server and remove its folder. Safe to call twice."""
        self.kill()
        self._temporary.cleanup()

    def last_output(self) -> str:
        """Return the last lines of the server's output, both streams."""
        log = self.folder / "service.log"
        return " ".join(log.read_text(errors="replace")[-_LAST_CHARACTERS:].split()) if log.exists() else ""

    def __exit__(self, *_: object) -> None:
        self.close()

    def _with_port(self, text: str) -> str:
        return text.replace("{port}", str(self.port))

    def _spawn(self) -> None:
        """Start the command in a process group of its own, which ends when the process's `lifeline` is closed."""
        given = self.folder / "input"
        given.touch(mode=0o600)
        given.write_text(self._stdin)
        path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        command = ["/bin/sh", "-c", _WATCHED, str(given), *self._command]
        options = {"cwd": self.folder, "env": os.environ | {"PYTHONPATH": path} | dict(self._environment)}
        lifeline, ours = os.pipe()
        try:
            with open(self.folder / "service.log", "ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=lifeline, stdout=log, stderr=log, start_new_session=True, **options
                )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(lifeline)
        self._process.lifeline = os.fdopen(ours, "wb")
        weakref.finalize(self, _end, self._process)  # a cell that runs again drops the old service


def installed(programs: Sequence[str], remedy: str) -> str:
    """Return the path of the first program that is installed. Raise `UserError` with the remedy if none is."""
    found = next(filter(None, map(shutil.which, programs)), None)
    if found is None:
        raise UserError(f"{' or '.join(programs)} is not installed; {remedy}")
    return found


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing uses now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def listens(port: int) -> bool:
    """Return whether something accepts connections on this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


def _end(process: subprocess.Popen) -> None:
    """Kill a process and its group, once: later its number may be another's."""
    if process.lifeline.closed:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.lifeline.close()
    process.wait()
