"""The loopback: two processes that talk over TCP on this machine."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kit.machine.ceilings.probe import Conditions, best_s

PATIENCE_S = 10.0
TRIPS = 200
"""Round trips in one reading."""
CHUNK = 2**20
CHUNKS = 64


def round_trips_per_s(conditions: Conditions) -> float:
    """Return how often a second one byte goes there and back."""
    with _connected("echo") as line:

        def there_and_back() -> None:
            for _ in range(TRIPS):
                line.sendall(b"x")
                line.recv(1)

        return TRIPS / best_s(there_and_back, conditions.budget_s)


def gib_per_s(conditions: Conditions) -> float:
    """Return GiB/s from one process to another; a reading ends when the other has it all."""
    sent = bytes(CHUNK)
    with _connected("swallow") as line:

        def send() -> None:
            for _ in range(CHUNKS):
                line.sendall(sent)
            line.recv(1)

        return CHUNKS * CHUNK / 2**30 / best_s(send, conditions.budget_s)


@contextmanager
def _connected(task: str) -> Iterator[socket.socket]:
    """Yield a connection to another process that does `task`; it ends with the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        other = subprocess.Popen([sys.executable, "-P", "-m", "kit.machine.ceilings.loopback", task, port])
        try:
            server.settimeout(PATIENCE_S)
            line, _ = server.accept()
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.settimeout(PATIENCE_S)
            with line:
                yield line
        finally:
            other.kill()
            other.wait()


def _echo(line: socket.socket) -> None:
    while byte := line.recv(1):
        line.sendall(byte)


def _swallow(line: socket.socket) -> None:
    into, held = bytearray(CHUNK), 0
    while read := line.recv_into(into):
        held += read
        if held == CHUNKS * CHUNK:
            line.sendall(b"x")
            held = 0


def main(task: str, port: str) -> None:
    """Be the other process: answer each byte, or swallow what comes and say when a reading is complete."""
    tasks: dict[str, Callable[[socket.socket], None]] = {"echo": _echo, "swallow": _swallow}
    with socket.create_connection(("127.0.0.1", int(port))) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tasks[task](line)


PROBES = {"loopback_round_trips_per_s": round_trips_per_s, "loopback_gib_per_s": gib_per_s}

if __name__ == "__main__":
    main(*sys.argv[1:])
