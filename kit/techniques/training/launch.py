"""Start ranks by torch's own launcher, give them orders, and end them: nothing hangs, nothing is left behind."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

from kit.errors import UserError
from kit.measure.process import THREAD_VARIABLES
from kit.techniques.training.control import Job, accept

ORDER_LIMIT_S = 300.0
LEAVE_LIMIT_S = 10.0


class RankFailed(RuntimeError):
    """A rank died, hung or raised. The text says which and why; `details` is its traceback or the launcher's output."""

    def __init__(self, reason: str, details: str = ""):
        super().__init__(reason)
        self.details = details


@dataclass(frozen=True)
class Rendezvous:
    """Where the launchers of several machines meet: the usual options of torch's launcher.

    nnodes: machines; node_rank: which one this is; endpoint: "host:port" of machine 0, free and in reach of all.
    """

    nnodes: int = 1
    node_rank: int = 0
    endpoint: str = ""

    def __post_init__(self) -> None:
        if self.nnodes < 1 or not 0 <= self.node_rank < self.nnodes:
            raise UserError(f"node_rank={self.node_rank} is not one of {self.nnodes} machines; count from 0")
        if self.nnodes > 1 and self.endpoint.rpartition(":")[2].isdigit() is False:
            raise UserError(f'rdzv_endpoint={self.endpoint!r} names no port; give machine 0 as "host:29500"')

    def options(self) -> list[str]:
        """Return the launcher's options."""
        if self.nnodes == 1:
            return ["--standalone"]
        host, _, port = self.endpoint.rpartition(":")
        return [
            f"--nnodes={self.nnodes}",
            f"--node-rank={self.node_rank}",
            f"--master-addr={host}",
            f"--master-port={port}",
        ]


class Launch:
    """Ranks that are up and wait for orders: `with Launch(ranks=2) as launch: launch.order("train")`."""

    def __init__(
        self,
        ranks: int,
        *,
        threads: int = 1,
        device: str = "cpu",
        timeout_s: float = 60.0,
        limit_s: float = 3600.0,
        restarts: int = 0,
        rendezvous: Rendezvous | None = None,
    ):
        """ranks: on this machine. threads: of each. timeout_s: longest wait of one rank for another. limit_s: longest
        life of the launch, kept by the launcher itself. restarts: how often all ranks are started again after a
        failure; the orders since `begin` are then given again. Raise UserError for a device that has not enough GPUs.
        """
        _check_device(device, ranks)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.job = Job(
            ranks=ranks, threads=threads, device=device, timeout_s=timeout_s, limit_s=limit_s,
            port=self._listener.getsockname()[1],
        )  # fmt: skip
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the launch
        self._line = None
        self._begun: tuple[str, dict] | None = None
        self._restarts = restarts
        self._process = self._start(rendezvous or Rendezvous())

    def order(self, name: str, *, limit_s: float = ORDER_LIMIT_S, **arguments: Any) -> list[Any]:
        """Have all ranks carry out one order of `rank.Rank`; return their answers by rank.

        Raise RankFailed with the rank's own error if one fails, or if nothing comes within `limit_s` seconds.
        """
        end = time.monotonic() + limit_s
        if name == "begin":
            self._begun = (name, arguments)
        while True:
            try:
                if self._line is None:
                    self._line = self._connected(end)
                    if name != "begin" and self._begun:
                        self._asked(*self._begun, end)
                return self._asked(name, arguments, end)
            except (EOFError, OSError):
                self._lost()

    def close(self) -> None:
        """Let the ranks leave; kill what is left of them after a moment. Safe to call twice."""
        if self._line is not None:
            with contextlib.suppress(EOFError, OSError):
                self._line.send_bytes(cloudpickle.dumps(("leave", {})))
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVE_LIMIT_S)
        self.kill()

    def kill(self) -> None:
        """Kill the launcher and its ranks without asking. Safe to call twice."""
        _kill_tree(self._process)
        if self._line is not None:
            self._line.close()
            self._line = None
        self._listener.close()
        self._output.close()
        shutil.rmtree(self.job.notes, ignore_errors=True)

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.close() if kind is None else self.kill()

    def processes(self) -> list[psutil.Process]:
        """Return the launcher's process and its ranks'."""
        launcher = psutil.Process(self._process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def _start(self, rendezvous: Rendezvous) -> subprocess.Popen:
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(self.job.threads)) | self.job.environment()
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "1"
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "kit.techniques.training.launcher"),
                *rendezvous.options(),
                *(f"--nproc-per-node={self.job.ranks}", f"--max-restarts={self._restarts}", "--monitor-interval=0.1"),
                *("-m", "kit.techniques.training.rank"),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )

    def _connected(self, end: float) -> Any:
        """Wait for rank 0's call."""
        while time.monotonic() < end:
            line = accept(self._listener, self.job)
            if line is not None:
                return line
            if self._process.poll() is not None:
                raise self._failure()
        raise self._over("did not come up in time")

    def _asked(self, name: str, arguments: dict, end: float) -> list[Any]:
        self._line.send_bytes(cloudpickle.dumps((name, arguments)))
        while not self._line.poll(min(0.5, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                raise self._over(f"hung in {name!r}")
        return cloudpickle.loads(self._line.recv_bytes())

    def _lost(self) -> None:
        """Forget the line to rank 0; go on only if the launcher starts the ranks again."""
        self._line.close()
        self._line = None
        if not self._restarts:
            raise self._failure()
        self._restarts -= 1

    def _over(self, what: str) -> RankFailed:
        said = self._said()
        self.kill()
        return RankFailed(f"the {self.job.ranks} ranks {what}; they were killed", said)

    def _failure(self) -> RankFailed:
        """Wait for the launcher's own word on what failed, end everything, and return the reason."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_LIMIT_S)
        found = _cause(self.job, self._said())
        self.kill()
        return found

    def _said(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 4000))
        return self._output.read().decode(errors="replace")


def _cause(job: Job, said: str) -> RankFailed:
    """Return the first cause: a killed rank before the echo that its death had in others, else the earliest error."""
    first = Path(job.notes, "first.json")
    errors = job.errors()
    if first.exists():
        told = json.loads(first.read_text())
        if "killed" in told["how"]:
            return RankFailed(f"rank {told['rank']} {told['how']}", said)
    if errors:
        return RankFailed(f"rank {errors[0]['rank']}: {errors[0]['error']}", errors[0]["details"])
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    return RankFailed(f"the launcher ended before its ranks were up: {last.strip()[:200]}", said)


def _check_device(device: str, ranks: int) -> None:
    if device != "cuda":
        return
    import torch

    if torch.cuda.device_count() < ranks:
        raise UserError(
            f"{ranks} ranks on GPUs need {ranks} of them, this machine has {torch.cuda.device_count()}; "
            "take fewer ranks, or device='cpu'"
        )


def _kill_tree(process: subprocess.Popen) -> None:
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        started = []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in started:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()
