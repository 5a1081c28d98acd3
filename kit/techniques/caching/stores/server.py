"""A private server: Redis or Valkey started for one notebook on a free port of this machine, and stopped with it."""

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

from kit.errors import UserError
from kit.techniques.caching.stores.in_redis import Redis

PROGRAMS = ("redis-server", "valkey-server")
START_S = 10.0


def program() -> str | None:
    """Return the path of the server that is installed, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class PrivateServer:
    """A server that only this machine can reach and only who has `url` can use, password included.

    It writes nothing to the disk, holds at most so many MiB and evicts what was used longest ago. It ends with this
    process, however that ends, on Linux even with the thread that started it: start it from one that stays. Raise
    `UserError` if no server is installed or it does not start.
    """

    def __init__(self, mib: int = 256, folder: Path | str | None = None) -> None:
        """folder: where its log lies while it lives; None: among temporary files."""
        self.mib, self._within = mib, folder
        self.port = _free_port()
        self._password = secrets.token_hex(16)
        self._folder = self._own_folder()
        self._process: subprocess.Popen | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    def start(self) -> None:
        """Start it, again after `stop` or `kill`: with nothing in it, under the same address."""
        path = program()
        if path is None:
            raise UserError(
                f"neither {' nor '.join(PROGRAMS)} is installed; install one (apt-get install redis-server), "
                "or give redis_url= to use a server that runs"
            )
        if not os.path.isdir(self._folder.name):  # it was closed
            self._folder = self._own_folder()
        with open(f"{self._folder.name}/server.log", "wb") as log:
            self._process = subprocess.Popen(
                [path, "-"],  # settings by standard input: a command line would show the password to everyone
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder.name,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        weakref.finalize(self, self._process.kill)  # who forgets it, as a cell that runs again does, leaves none behind
        self._process.stdin.write(self._settings().encode())
        self._process.stdin.close()
        self._wait_until_it_answers()

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """End it and remove what it left."""
        self.kill()
        self._folder.cleanup()

    def __enter__(self) -> "PrivateServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _own_folder(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(prefix="kit-redis-", dir=self._within)

    def _settings(self) -> str:
        return "\n".join(
            [
                "bind 127.0.0.1",
                f"port {self.port}",
                f"requirepass {self._password}",
                'save ""',
                "appendonly no",
                f"maxmemory {self.mib}mb",
                "maxmemory-policy allkeys-lru",
                "daemonize no",
                "loglevel warning",
            ]
        )

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(64):  # that it wants the password is an answer too
                    return
            time.sleep(0.02)
        self.kill()
        raise UserError(
            f"the private server did not start on port {self.port}; {self._last_words() or 'it said nothing'}"
        )

    def _last_words(self) -> str:
        with contextlib.suppress(OSError), open(f"{self._folder.name}/server.log", errors="replace") as file:
            return file.read()[-300:].strip()
        return ""

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)  # one that was stopped hears no SIGTERM
        self._process.send_signal(how)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class PrivateRedis(Redis):
    """A store on a private server of its own, which is stopped when the store is closed. Options: see `Redis`."""

    def __init__(self, mib: int = 256, **options: Any) -> None:
        self.server = PrivateServer(mib)
        super().__init__(self.server.url, **options)

    def close(self) -> None:
        super().close()
        self.server.close()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, from <sys/prctl.h>
