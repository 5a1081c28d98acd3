"""A link of known bandwidth: real, in a network namespace of our own, where that is permitted; else modelled.

The kernel enforces the bandwidth (`tc`, token bucket) on the loopback of a namespace in which server and client run.
Delay is always modelled, as requests × round trip. `prediction_errors` compares the model with shaped links.
"""

import ctypes
import functools
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from kit.common import parameters
from kit.common.services import Service
from kit.errors import UserError
from kit.machine.capabilities import Missing

BURST = 80_000
"""Bytes that pass at once when the link was idle: the least for segments of 64 KiB. With 256 KiB a request of 250 kB
over 10 Mbit/s takes no time."""
REMEDY = "run as root on Linux with iproute2 and util-linux, in a container with --cap-add=SYS_ADMIN,NET_ADMIN"

_CLONE_NEWNET = 0x40000000
_SHAPED = (
    "ip link set lo up && tc qdisc add dev lo root tbf rate {rate}kbit burst {burst}b latency 200ms mtu 70000"
    " && touch shaped && exec sleep infinity"
)


def transfer_s(size_bytes: float, requests: float, mbit_per_s: float, rtt_ms: float = 0.0) -> float:
    """Return the modelled seconds of a transfer: bytes ÷ bandwidth + requests × round trip, one after the other."""
    return size_bytes * 8 / (parameters.positive(mbit_per_s, "mbit_per_s") * 1e6) + requests * rtt_ms / 1e3


def read_s(loopback_s: float, size_bytes: float, requests: float, mbit_per_s: float, rtt_ms: float = 0.0) -> float:
    """Return the modelled seconds of a read over a link: over loopback, the work of server, client and decoder, and
    `transfer_s` on top. A client that decodes while bytes arrive is faster."""
    return loopback_s + transfer_s(size_bytes, requests, mbit_per_s, rtt_ms)


def prediction_errors(measured_s: Mapping[float, float], loopback_s: float, size_bytes: float) -> dict[float, float]:
    """Return the error of `read_s`, predicted ÷ measured − 1, at shaped links that it has not seen, by Mbit/s."""
    return {rate: read_s(loopback_s, size_bytes, 0, rate) / seconds - 1 for rate, seconds in measured_s.items()}


class Namespace:
    """A network namespace with a loopback of this bandwidth, both directions together. It ends with this process,
    however that ends: the kernel removes a namespace with the last process in it."""

    def __init__(self, mbit_per_s: float) -> None:
        self.mbit_per_s = parameters.at_least(mbit_per_s, 0.1, "mbit_per_s", most=100_000)
        shaped = _SHAPED.format(rate=round(1000 * mbit_per_s), burst=BURST)
        command = ["unshare", "--net", "sh", "-c", shaped]
        self._service = Service(f"link of {mbit_per_s:g} Mbit/s", command, ready=self._is_shaped)

    def start(self) -> "Namespace":
        """Create the namespace. Raise `UserError` with the remedy where that is not permitted."""
        try:
            self._service.start()
        except UserError as error:
            raise UserError(f"there is no network namespace: {str(error).rpartition('; ')[2]}; {REMEDY}") from None
        return self

    def close(self) -> None:
        """End it. Safe to call twice."""
        self._service.close()

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> str:
        """The namespace's file, for `enter` in any process of this machine."""
        return f"/proc/{self._service.pid}/ns/net"

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs this one within, for a `Service`, whose `ready` is `listens`."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def listens(self, port: int) -> bool:
        """Return whether something within listens on this port."""
        tables = [Path(f"/proc/{self._service.pid}/net/{name}").read_text().splitlines() for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table[1:]]
        return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)  # 0A: listening

    def _is_shaped(self, port: int) -> bool:
        return (self._service.folder / "shaped").exists()


def enter(path: str) -> None:
    """Move the calling thread, and those that it starts later, into a namespace; an empty path does nothing.

    Threads that run already stay where they are: enter before a library opens its connections. Raise `UserError` where
    that is not permitted, or the namespace has ended.
    """
    try:
        with open(path or os.devnull) as file:
            if path and ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError as error:
        remedy = "start it again" if isinstance(error, FileNotFoundError) else REMEDY
        raise UserError(f"can't enter the network namespace {path}: {error.strerror}; {remedy}") from None


def within(path: str, call: Callable[[], Any]) -> Any:
    """Return call(), run by a thread within a namespace. What it raises is raised here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: (enter(path), call())[1]).result()


def measured_mbit_per_s(path: str = "", size_bytes: int = 1 << 28) -> float:
    """Return the bandwidth of a TCP connection in a namespace, or of this machine's loopback, for so many bytes."""
    return within(path, functools.partial(_received_mbit_per_s, size_bytes))


def _received_mbit_per_s(size_bytes: int) -> float:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        receiving, sending = socket.create_connection(server.getsockname()), server.accept()[0]
        block, start = bytes(1 << 16), time.perf_counter()
        pool.submit(lambda: ([sending.sendall(block) for _ in range(size_bytes // len(block))], sending.close()))
        with receiving:
            while receiving.recv(1 << 20):
                pass
        return (size_bytes - BURST) * 8e-6 / (time.perf_counter() - start)


@functools.cache
def shaping_permitted() -> Literal[True] | Missing:
    """Return True where a namespace can be created, shaped and entered, which is tried once; else why not, and the
    remedy. Test it by `is True`: `Missing` is not empty."""
    try:
        with Namespace(100) as namespace:
            within(namespace.path, lambda: None)
    except UserError as error:
        return Missing(str(error).removesuffix(f"; {REMEDY}"), REMEDY)
    return True
