"""The job board: machine 0 posts its launches on it, and the other machines take their part and tell what they found.

It is a torch TCPStore that machine 0's process hosts. Many launches are alive at the same time, often each in a worker
process of its own: each posts here as a client. The network between the machines must be trusted, as with torch's own
launcher: whoever reaches the board's port can read and post launches, which are code to run.
"""

import atexit
import contextlib
import json
import os
import platform
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil

from kit.errors import UserError

CLIENT_LIMIT_S = 20.0
NOTES_LIMIT_S = 5.0
"""Time that the other machines have to tell what they found after a failure."""
LEAVE_LIMIT_S = 5.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Rendezvous:
    """Where several machines meet, by the usual parameters of torch's launcher.

    nnodes: machines. node_rank: which one this is; a notebook runs on machine 0, and on each of the others the command
    that `command` returns. endpoint: "host:port" on machine 0, the port free and in reach of all machines; each launch
    takes one more port there. join_limit_s: how long a launch waits for machines that have not joined yet.
    """

    nnodes: int = 1
    node_rank: int = 0
    endpoint: str = ""
    join_limit_s: float = 120.0

    def __post_init__(self) -> None:
        if self.nnodes < 1 or not 0 <= self.node_rank < self.nnodes:
            raise UserError(f"node_rank={self.node_rank} is not one of {self.nnodes} machines; count from 0")
        host, _, port = self.endpoint.rpartition(":")
        if self.nnodes > 1 and not (host and port.isdigit()):
            raise UserError(
                f'rdzv_endpoint={self.endpoint!r} is not machine 0; give its host and port, as "host:29500"'
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of machine 0."""
        host, _, port = self.endpoint.rpartition(":")
        return host.strip("[]"), int(port)

    def command(self, node_rank: int) -> str:
        """Return what to run on one of the other machines."""
        join = "python -m kit.techniques.training.ranks.join"
        return f"{join} {self.endpoint} --nnodes {self.nnodes} --node-rank {node_rank}"

    def share(self, ranks: int) -> int:
        """Return how many of all ranks run on each machine. Raise UserError if they don't divide."""
        if ranks < 1:
            raise UserError(f"ranks={ranks} can't train; take at least 1")
        if ranks % self.nnodes:
            raise UserError(
                f"{ranks} ranks don't divide among {self.nnodes} machines; take a multiple of {self.nnodes}, "
                "as many on each"
            )
        return ranks // self.nnodes

    def options(self, port: int, run: str) -> list[str]:
        """Return the options by which torch's launchers of one launch meet at a port of machine 0."""
        return [
            *(f"--nnodes={self.nnodes}", f"--node-rank={self.node_rank}", f"--rdzv-id={run}"),
            *(f"--master-addr={self.address[0]}", f"--master-port={port}"),
        ]


def route(address: tuple[str, int]) -> dict[str, str]:
    """Return the variables that keep gloo and NCCL on the network that leads to `address`, unless they are set:
    gloo's own choice is the address of the host's name, which is often one that no other machine can reach."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        own = probe.getsockname()[0]
    found = [name for name, cards in psutil.net_if_addrs().items() if own in {card.address for card in cards}]
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {name: os.environ.get(name, card) for card in found[:1] for name in names}


def versions() -> dict[str, str]:
    """Return what must be the same on all machines."""
    import torch

    return {"python": ".".join(platform.python_version_tuple()[:2]), "torch": torch.__version__}


class Board:
    """A place on the board. Raise ConnectionError from every method if machine 0 is gone."""

    def __init__(self, rendezvous: Rendezvous, *, host: bool = False):
        from torch.distributed import TCPStore

        self.rendezvous = rendezvous
        self._hosts = host
        with _gone(rendezvous):
            self._store = TCPStore(
                *rendezvous.address, is_master=host, wait_for_workers=False, timeout=timedelta(seconds=CLIENT_LIMIT_S)
            )
        if host:
            self._put("board", {"nnodes": rendezvous.nnodes, **versions()})

    def join(self) -> None:
        """Say that this machine is there. Raise UserError if it does not fit to machine 0."""
        own = {"nnodes": self.rendezvous.nnodes, **versions()}
        theirs = self._get("board")
        for name in own:
            if own[name] != theirs[name]:
                raise UserError(f"{name} is {own[name]} here and {theirs[name]} on machine 0; make them alike")
        self._put(f"joined/{self.rendezvous.node_rank}", own)

    def wait_for_all(self) -> None:
        """Wait until all machines have joined. Raise UserError that names one that has not, and what to run there.

        All launches together wait once: after one has waited in vain, the others ask only whether it has come since.
        """
        limit_s = 0.0 if self._get("late") else self.rendezvous.join_limit_s
        end = time.monotonic() + limit_s
        for node in range(1, self.rendezvous.nnodes):
            if not self._came(f"joined/{node}", end):
                self._put("late", True)
                raise UserError(f"machine {node} has not joined; run there: {self.rendezvous.command(node)}")

    def post(self, launch: dict[str, Any]) -> int:
        """Post a launch for the other machines and return its number."""
        with _gone(self.rendezvous):
            number = self._store.add("launches", 1)
        self._put(f"launch/{number}", launch)
        return number

    def launches(self, known: set[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the launches that are posted and not among the known numbers."""
        with _gone(self.rendezvous):
            number = self._store.add("launches", 0)
        for one in range(1, number + 1):
            if one not in known and (launch := self._get(f"launch/{one}")):
                yield one, launch

    def end(self, number: int) -> None:
        """Have the other machines end their part in a launch."""
        self._put(f"over/{number}", True)

    def is_over(self, number: int) -> bool:
        """Tell whether a launch shall be ended."""
        return bool(self._get(f"over/{number}"))

    def tell(self, number: int, found: dict[str, Any]) -> None:
        """Tell what this machine noted of a launch that has ended here."""
        self._put(f"found/{number}/{self.rendezvous.node_rank}", found)

    def has_found(self, number: int) -> bool:
        """Tell whether a machine has ended its part in a launch."""
        return any(self._get(f"found/{number}/{node}") for node in range(1, self.rendezvous.nnodes))

    def found(self, number: int) -> list[dict[str, Any]]:
        """Return what the other machines noted of a launch; those that say nothing for a while are left out."""
        keys = [f"found/{number}/{node}" for node in range(1, self.rendezvous.nnodes)]
        end = time.monotonic() + NOTES_LIMIT_S
        return [self._get(key) for key in keys if self._came(key, end)]

    def leave(self) -> None:
        """Say that this machine has left."""
        self._put(f"left/{self.rendezvous.node_rank}", True)

    def is_done(self) -> bool:
        """Tell whether machine 0 has closed the board."""
        return bool(self._get("done"))

    def close(self) -> None:
        """On machine 0: let the other machines go, and close the board. Safe to call twice."""
        if not self._hosts:
            return
        self._hosts = False
        with contextlib.suppress(ConnectionError):
            self._put("done", True)
            end = time.monotonic() + LEAVE_LIMIT_S
            joined = [node for node in range(1, self.rendezvous.nnodes) if self._get(f"joined/{node}")]
            all(self._came(f"left/{node}", end) for node in joined)
        self._store = None

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _put(self, key: str, value: Any) -> None:
        with _gone(self.rendezvous):
            self._store.set(key, json.dumps(value))

    def _get(self, key: str) -> Any:
        with _gone(self.rendezvous):
            return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def _came(self, key: str, end: float) -> bool:
        while not (came := self._get(key) is not None) and time.monotonic() < end:
            time.sleep(_POLL_S)
        return came


@contextlib.contextmanager
def _gone(rendezvous: Rendezvous) -> Iterator[None]:
    from torch.distributed import DistError

    try:
        yield
    except (DistError, AttributeError) as error:
        raise ConnectionError(f"the board at {rendezvous.endpoint} does not answer: {error}") from None


_hosted: dict[str, Board] = {}


def host(rendezvous: Rendezvous) -> Board:
    """Host the board on machine 0, in the process of the notebook, until `close()` or the end of the process. The same
    one if it is open already. Raise UserError if this is not machine 0 or the port is taken."""
    if rendezvous.node_rank:
        node = rendezvous.node_rank
        raise UserError(
            f"node_rank={node}: a notebook runs on machine 0; on machine {node} run: {rendezvous.command(node)}"
        )
    open_one = _hosted.get(rendezvous.endpoint)
    if open_one is not None and open_one._hosts and open_one.rendezvous == rendezvous:
        return open_one
    try:
        board = Board(rendezvous, host=True)
    except ConnectionError as error:
        raise UserError(
            f"rdzv_endpoint={rendezvous.endpoint!r} can't be hosted here; take a free port ({error})"
        ) from None
    atexit.register(board.close)
    _hosted[rendezvous.endpoint] = board
    return board
