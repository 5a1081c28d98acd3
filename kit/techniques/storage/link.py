"""A link of known bandwidth: real, in a network namespace of our own, where that is permitted; else modelled.

The kernel enforces the bandwidth (`tc`, token bucket) on the loopback of a namespace in which server and client run.
Delay is always modelled, as requests × round trip."""

import ctypes
import functools
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from kit.common import parameters
from kit.common.services import Service
from kit.errors import UserError
from kit.machine.capabilities import Missing

BURST = 80_000
"""Bytes that pass at once when the link was idle: the least for segments of 64 KiB. With 256 KiB a request of 250 kB
over 10 Mbit/s takes no time."""
REMEDY = "run as root on Linux with iproute2 and util-linux, in a container with --cap-add=SYS_ADMIN,NET_ADMIN"

NAMESPACE = "/proc/{}/ns/net"
"""The network namespace of a process, by its id."""
_CLONE_NEWNET = 0x40000000
_SHAPED = 'ip link set lo up && tc qdisc add dev lo root tbf rate {}kbit burst {}b latency 200ms mtu 70000 && exec "$@"'


def transfer_s(size_bytes: float, requests: float, mbit_per_s: float, rtt_ms: float = 0.0) -> float:
    """Return the modelled seconds of a transfer: bytes ÷ bandwidth + requests × round trip, one after the other."""
    return size_bytes * 8 / (parameters.positive(mbit_per_s, "mbit_per_s") * 1e6) + requests * rtt_ms / 1e3


def shaped(command: Sequence[str], mbit_per_s: float) -> list[str]:
    """Return a command, for a `Service`, that runs this one in a network namespace of its own, whose loopback has this
    bandwidth, both directions together. The kernel removes a namespace with the last process in it."""
    rate = round(1000 * parameters.at_least(mbit_per_s, 0.1, "mbit_per_s", most=100_000))
    return ["unshare", "--net", "sh", "-c", _SHAPED.format(rate, BURST), "sh", *command]


def enter(path: str) -> None:
    """Move the calling thread, and those that it starts later, into a namespace; an empty path does nothing.

    Threads that run already stay where they are: enter before a library opens its connections. Raise `UserError` where
    that is not permitted, or the namespace has ended."""
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


def measured_mbit_per_s(size_bytes: int = 1 << 28) -> float:
    """Return the bandwidth of a TCP connection over the loopback that the calling thread is in, for so many bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        receiving, sending = socket.create_connection(server.getsockname()), server.accept()[0]
        start = time.perf_counter()
        pool.submit(lambda: (sending.sendall(bytes(size_bytes)), sending.close()))
        with receiving:
            while receiving.recv(1 << 20):
                pass
        return (size_bytes - BURST) * 8e-6 / (time.perf_counter() - start)


@functools.cache
def shaping_permitted() -> Literal[True] | Missing:
    """Return True where a namespace can be created, shaped and entered, which is tried once; else why not, and the
    remedy. Test it by `is True`: `Missing` is not empty."""
    link = Service("a link", shaped(["sh", "-c", "touch shaped && exec sleep infinity"], 100),
                   ready=lambda _: (link.folder / "shaped").exists())  # fmt: skip
    try:
        with link.start():
            within(NAMESPACE.format(link.pid), lambda: None)
    except UserError as error:
        return Missing(f"there is no network namespace: {str(error).rpartition('; ')[2]}", REMEDY)
    return True
