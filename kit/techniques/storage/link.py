"""A link of known bandwidth: real in a network namespace of our own where that is permitted, else modelled.

The bandwidth is enforced by the kernel (`tc`, token bucket filter) on the loopback device of a namespace in which
server and client both run. Delay is always modelled: `transfer_s` adds round trips to the time that the bytes take, and
`prediction_errors` compares the model with measurements over shaped links.
"""

import ctypes
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kit.common import parameters
from kit.common.services import Service
from kit.errors import UserError
from kit.machine.capabilities import Missing

BURST = 80_000
"""Bytes that pass at once when the link was idle: the least for segments of 64 KiB. 256 KiB would let a request of
250 kB over a link of 10 Mbit/s pass in no time."""
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
    """Return the modelled seconds of a read over a link: the read over loopback, which is the work of server, client
    and decoder, and `transfer_s` on top. Nothing overlaps; a client that decodes while bytes arrive is faster."""
    return loopback_s + transfer_s(size_bytes, requests, mbit_per_s, rtt_ms)


def prediction_errors(
    measured_s: Mapping[float, float], loopback_s: float, size_bytes: float, requests: float
) -> dict[float, float]:
    """Return, by bandwidth in Mbit/s, the relative error of `read_s`, predicted ÷ measured − 1, at shaped links that
    the model has not seen. measured_s: seconds by bandwidth; loopback_s: without shaping, all that it is given."""
    modelled = {rate: read_s(loopback_s, size_bytes, requests, rate) for rate in measured_s}
    return {rate: modelled[rate] / seconds - 1 for rate, seconds in measured_s.items()}


class Namespace:
    """A network namespace with loopback alone, of this bandwidth in both directions together. The kernel removes it
    with the last process in it, and its own process ends with this one, however that ends.

    path: of the namespace, what `enter` takes in any process of this machine.
    """

    def __init__(self, mbit_per_s: float) -> None:
        """mbit_per_s: from 0.1 to 100,000. Nothing is started yet."""
        self.mbit_per_s = parameters.at_least(mbit_per_s, 0.1, "mbit_per_s", most=100_000)
        shaped = _SHAPED.format(rate=round(1000 * self.mbit_per_s), burst=BURST)
        self._service = Service(
            f"link of {self.mbit_per_s:g} Mbit/s", ["unshare", "--net", "sh", "-c", shaped], ready=self._is_shaped
        )

    def start(self) -> "Namespace":
        """Create the namespace. Raise `UserError` with the remedy where that is not permitted."""
        try:
            self._service.start()
        except UserError as error:
            raise UserError(f"there is no network namespace: {str(error).rpartition('; ')[2]}; {REMEDY}") from None
        return self

    @property
    def path(self) -> str:
        """The namespace's file in /proc."""
        return f"/proc/{self._service.pid}/ns/net"

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs this one within the namespace, for a `Service`, whose `ready` is `listens`."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def listens(self, port: int) -> bool:
        """Return whether something within the namespace listens on this port."""
        tables = (Path(f"/proc/{self._service.pid}/net/{name}").read_text().splitlines() for name in ("tcp", "tcp6"))
        rows = [line.split() for table in tables for line in table[1:]]
        return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)  # 0A: listening

    def carried_bytes(self) -> int:
        """Return the bytes that the link has carried, both directions, by the kernel's own counter."""
        lines = Path(f"/proc/{self._service.pid}/net/dev").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == "lo:")

    def close(self) -> None:
        """End the namespace's process. Safe to call twice."""
        self._service.close()

    def _is_shaped(self, port: int) -> bool:
        return (self._service.folder / "shaped").exists()

    def __enter__(self) -> "Namespace":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def enter(path: str) -> None:
    """Move the calling thread, and those that it starts later, into a namespace; an empty path does nothing.

    Threads that run already stay where they are: enter before a library opens its pool of connections. Raise
    `UserError` where that is not permitted, or the namespace has ended.
    """
    if not path:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)
    except OSError as error:
        remedy = "start it again" if isinstance(error, FileNotFoundError) else REMEDY
        raise UserError(f"can't enter the network namespace {path}: {error.strerror}; {remedy}") from None


def within(path: str, call: Callable[[], Any]) -> Any:
    """Return call(), run by a thread within a namespace. What it raises is raised here."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: (enter(path), call())[1]).result()


def measured_mbit_per_s(path: str = "", seconds: float = 0.3, most_bytes: int = 1 << 30) -> float:
    """Return the bandwidth of one TCP connection within a namespace, or of this machine's loopback without a path."""
    return within(path, functools.partial(_received_mbit_per_s, seconds, most_bytes))


def _received_mbit_per_s(seconds: float, most_bytes: int) -> float:
    block, received = bytes(1 << 16), 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        receiving = socket.create_connection(server.getsockname())
        sending, _ = server.accept()

    def send() -> None:
        with sending:
            end = time.perf_counter() + seconds
            for _ in range(most_bytes // len(block)):
                if time.perf_counter() > end:
                    break
                sending.sendall(block)

    with receiving:
        start = time.perf_counter()
        threading.Thread(target=send).start()
        while got := len(receiving.recv(1 << 20)):
            received += got
        return max(0, received - BURST) * 8e-6 / (time.perf_counter() - start)


@functools.cache
def shaping_permitted() -> Literal[True] | Missing:
    """Return True where this process may create a namespace, shape its link and enter it; else why not and the remedy.

    Probed once by doing so. `is True` is the test: `Missing` is not empty."""
    try:
        with Namespace(100) as namespace:
            within(namespace.path, lambda: None)
    except UserError as error:
        return Missing(str(error).removesuffix(f"; {REMEDY}"), REMEDY)
    return True
