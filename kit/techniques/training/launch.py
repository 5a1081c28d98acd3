"""Ranks of one training: this process is rank 0, it starts the others, gives them orders, and ends with them.

    with Ranks(4) as ranks:
        ranks.order(function, argument)    # calls function(world, argument) on every rank, returns answers by rank

The other ranks are processes of `torch.multiprocessing`, forked from a server that has imported torch already. On
several machines `torchrun` starts all of them, and `Ranks.from_torchrun()` gives them to rank 0. A rank waits for
orders in a process group of its own, without a limit; in every other collective it waits `timeout_s` at most.
"""

import contextlib
import faulthandler
import gc
import json
import math
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from kit.errors import UserError
from kit.measure.process import SpawnedWorker, WorkerFailed

TIMEOUT_S = 60.0
ORDER_LIMIT = timedelta(days=7)
"""Longest wait for an order: ranks rest while other variants of a comparison are measured."""
GRACE_S = 3.0
"""Time for ranks to end by themselves, and to note why they failed."""
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class RankFailed(Exception):
    """A rank failed, and the launch with it. Its text names the rank that failed first, and why, in one line."""


@dataclass(frozen=True)
class World:
    """A rank's place among all ranks.

    device: a torch.device. group: process group of all its ranks. state: objects that a rank keeps from one order to
    the next.
    """

    rank: int
    size: int
    device: Any
    group: Any = None
    state: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def mesh(self, **dims: int) -> Any:
        """Return a DeviceMesh with named dimensions: mesh(dp=2, tp=2). Raise UserError if they don't give all ranks."""
        if math.prod(dims.values()) != self.size:
            raise UserError(f"a mesh of {dims} is not {self.size} ranks; give dimensions with this product")
        return dist.init_device_mesh(self.device.type, tuple(dims.values()), mesh_dim_names=tuple(dims))


class Ranks:
    """All ranks of one launch, seen by rank 0. `over` is the reason why it has ended, or empty."""

    joined: "Ranks | None" = None
    """The ranks of `torchrun`, for the variants of a comparison to use instead of their own."""

    def __init__(self, number: int, *, threads: int = 1, device: str = "cpu", timeout_s: float = TIMEOUT_S):
        """Start `number` − 1 processes and meet them.

        threads: of each rank. device: "cpu", or "cuda" with one GPU per rank. timeout_s: longest wait of a rank for
        the others in one collective. Raise UserError for too few GPUs, RankFailed if a rank fails.
        """
        if number < 1 or (device == "cuda" and torch.cuda.device_count() < number):
            raise UserError(f"{number} ranks can't run on {device}; give at least 1, and a GPU for each on cuda")
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        multiprocessing.set_forkserver_preload([__name__, "kit.techniques.training.bench"])
        settings = (number, store.port, threads, device, timeout_s)
        self._processes = multiprocessing.start_processes(
            _rank, settings, number - 1, join=False, daemon=True, start_method="forkserver"
        ).processes
        self._join(store, number, threads, device, timeout_s)

    @classmethod
    def from_torchrun(cls, device: str = "cpu", timeout_s: float = TIMEOUT_S) -> "Ranks | None":
        """Return all ranks that `torchrun` started, if this process is rank 0; else carry out its orders to the end,
        and return None."""
        store, rank, number = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
        settings = number, int(os.environ.get("OMP_NUM_THREADS", "1")), device, timeout_s
        if rank:
            return _serve(store, rank, *settings)
        ranks = cls.__new__(cls)
        ranks._processes = []
        ranks._join(store, *settings)
        return ranks

    def _join(self, store: Any, *settings: Any) -> None:
        self._store, self._timeout_s, self.over = store, settings[-1], ""
        with self._until_failure():
            while self._processes and store.add("started", 0) < len(self._processes):
                if any(process.exitcode for process in self._processes):
                    raise RuntimeError("a rank ended before it started")
                time.sleep(0.01)
            self.world, self._alone, self._orders = _meet(store, 0, *settings)

    def order(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call function(world, *arguments) on every rank, this one included, and return the answers by rank.

        Raise RankFailed, with the rank that failed first, if one fails or takes too long; the launch is then over.
        Raise UserError if the ranks do, all alike: the launch goes on.
        """
        if self.over:
            raise RankFailed(f"the ranks have ended: {self.over}")
        answers: list[Any] = [None] * self.world.size
        with self._until_failure():
            packed = cloudpickle.dumps((function, arguments))
            dist.broadcast_object_list([packed], src=0, group=self._orders)
            dist.gather_object(_carried_out(packed, self.world), answers)
        if refused := next((answer for answer in answers if isinstance(answer, UserError)), None):
            raise refused
        return answers

    def alone(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call function(world, *arguments) on rank 0 only, in a world of its own; the others rest."""
        return [function(self._alone, *arguments)]

    def close(self) -> None:
        """Let all ranks leave together; kill those that don't. Safe to call twice."""
        if not self.over:
            with contextlib.suppress(RankFailed), self._until_failure():
                dist.broadcast_object_list([None], src=0, group=self._orders)
                _leave(self.world, self._alone)
            self.kill("they were closed")

    def kill(self, reason: str = "they were killed") -> None:
        """End all other ranks of this machine. Safe to call twice."""
        self.over = self.over or reason
        end = time.monotonic() + GRACE_S
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.close() if kind is None else self.kill()

    @contextlib.contextmanager
    def _until_failure(self):
        """On any error, find the rank that failed first, end all ranks, and raise RankFailed."""
        try:
            yield
        except Exception as error:
            _note(self._store, 0, error)
            self.over = self._cause()
            for process in self._processes:  # a rank that hangs prints where, then ends
                process.terminate()
            self.kill()
            raise RankFailed(self.over) from error

    def _cause(self) -> str:
        """Return which rank failed first, and how.

        A rank that dies breaks the collectives of all others, and one that hangs lets them wait until their timeout:
        their errors are echoes. The store holds the first error, and a note of every rank that had one.
        """
        ranks, end = dict(enumerate(self._processes, 1)), time.monotonic() + GRACE_S
        while self._silent(ranks) and time.monotonic() < end:
            time.sleep(0.05)
        for rank, process in ranks.items():
            if process.exitcode and not self._store.check([f"error/{rank}"]):
                return f"rank {rank} {_ending(process.exitcode)}"
        first, hung = json.loads(self._store.get("first")), self._silent(ranks)
        if hung and re.search(r"time[d ]*out", first["error"], re.IGNORECASE):
            return f"rank {hung[0]} hung: others waited {self._timeout_s:g} s for it"
        if first["rank"]:
            print(first["traceback"], file=sys.stderr)
        return f"rank {first['rank']}: {first['error']}"

    def _silent(self, ranks: dict[int, Any]) -> list[int]:
        """Return the ranks that are alive and have no error."""
        alive = [rank for rank, process in ranks.items() if process.exitcode is None]
        return [rank for rank in alive if not self._store.check([f"error/{rank}"])]


def in_worker(function: Callable[..., Any], *arguments: Any, threads: int = 1, limit_s: float = 300.0) -> Any:
    """Return function(*arguments), called in a fresh process, which can be rank 0 of `Ranks` and dies with this one.

    Raise RankFailed with the reason if it fails or takes longer than `limit_s`; then nothing is left of it.
    """
    worker = SpawnedWorker(threads, limit_s)
    try:
        worker.order("setup", cloudpickle.dumps((partial, (function, *arguments))))
        return worker.order("first_call")["answer"]
    except WorkerFailed as error:
        raise RankFailed(error.reason) from None
    finally:
        worker.end()


def _rank(index: int, number: int, port: int, *settings: Any) -> None:
    """Be one of the other ranks: `torch.multiprocessing` calls it."""
    store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    store.add("started", 1)
    _serve(store, index + 1, number, *settings)


def _serve(store: Any, rank: int, *settings: Any) -> None:
    """Carry out orders until rank 0 lets this rank leave; on an error note it, and end."""
    faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)
    try:
        world, _, orders = _meet(store, rank, *settings)
        order: list[Any] = [None]
        while True:
            dist.broadcast_object_list(order, src=0, group=orders)
            if order[0] is None:
                return _leave(world)
            dist.gather_object(_carried_out(order[0], world))
    except BaseException as error:
        with contextlib.suppress(RuntimeError):  # rank 0 and its store may be gone
            _note(store, rank, error)
        raise


def _meet(store: Any, rank: int, number: int, threads: int, device: str, timeout_s: float) -> tuple[World, World, Any]:
    """Join the other ranks. Return the world of all, that of rank 0 alone, and the group that waits for orders."""
    torch.set_num_threads(threads)
    limit, place = timedelta(seconds=timeout_s), torch.device(device)
    if device == "cuda":
        place = torch.device(device, int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(place)
    store = dist.PrefixStore("group", store)
    dist.init_process_group(BACKENDS[device], store=store, rank=rank, world_size=number, timeout=limit)
    alone, orders = dist.new_group([0]), dist.new_group(backend="gloo", timeout=ORDER_LIMIT)
    return World(rank, number, place), World(0, 1, place, alone), orders


def _carried_out(packed: bytes, world: World) -> Any:
    function, arguments = cloudpickle.loads(packed)
    try:
        return function(world, *arguments)
    except UserError as error:
        return error


def _leave(*worlds: World) -> None:
    """End in the order that can't deadlock: meet, drop models and optimizers, then the group that they use."""
    dist.barrier()
    for world in worlds:
        world.state.clear()
    gc.collect()
    dist.destroy_process_group()


def _note(store: Any, rank: int, error: BaseException) -> None:
    """Leave an error in the store, as the first of all ranks if none has one yet."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    note = json.dumps({"rank": rank, "error": line, "traceback": "".join(traceback.format_exception(error)[-6:])})
    store.compare_set("first", "", note)
    store.set(f"error/{rank}", note)


def _ending(exitcode: int) -> str:
    if exitcode > 0:
        return f"exited with status {exitcode}"
    hint = ": most likely the system ran out of memory" if exitcode == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-exitcode).name}{hint}"
