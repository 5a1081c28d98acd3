"""Start ranks by torch's own launcher, give them orders, and end them: nothing hangs, nothing is left behind."""

import contextlib
import socket
import time
from dataclasses import asdict
from typing import Any

import cloudpickle
import psutil

from kit.errors import UserError
from kit.techniques.training.ranks import board as boards
from kit.techniques.training.ranks.board import Board, Rendezvous
from kit.techniques.training.ranks.cause import Cause, cause
from kit.techniques.training.ranks.control import Job, accept
from kit.techniques.training.ranks.part import Part

ORDER_LIMIT_S = 300.0
LEAVE_LIMIT_S = 10.0


class RankFailed(RuntimeError):
    """A rank died, hung or raised. The text says which and why; `details` is its traceback or the launcher's output."""

    def __init__(self, reason: str, details: str = ""):
        super().__init__(reason)
        self.details = details


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
        """Start the ranks, and return before they are up.

        ranks: on all machines together, as many on each. threads: of each. timeout_s: longest wait of one rank for
        another. limit_s: longest life of the launch, kept by the launcher itself. restarts: how often all ranks are
        started again after a failure; the orders since `begin` are then given again. rendezvous: where several machines
        meet; the notebook's process must be hosting the board (`board.host`).

        Raise UserError for a device that has not enough GPUs, ranks that don't divide among the machines, and a machine
        that has not joined.
        """
        self._rendezvous = rendezvous or Rendezvous()
        here = self._rendezvous.share(ranks)
        check_device(device, here)
        self._board = _board(self._rendezvous)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.job = Job(
            ranks=ranks, threads=threads, device=device, timeout_s=timeout_s, limit_s=limit_s,
            port=self._listener.getsockname()[1],
        )  # fmt: skip
        self._line = None
        self._begun: tuple[str, dict] | None = None
        self._ended = ""
        self._restarts = restarts
        self._number = 0
        self._part = self._start(here) if self._board is None else self._start_on_all(here)

    def order(self, name: str, *, limit_s: float = ORDER_LIMIT_S, **arguments: Any) -> list[Any]:
        """Have all ranks carry out one order of `rank.Rank`; return their answers by rank.

        Raise RankFailed with the rank's own error if one fails, or if nothing comes within `limit_s` seconds, and
        UserError if it is one that the user can mend. The launch is then over, as it is after a Ctrl-C; it goes on only
        where ranks refused to begin a task.
        """
        if self._ended:
            raise RankFailed(f"the launch is over: {self._ended}")
        try:
            answers = self._ordered(name, arguments, limit_s)
        except BaseException as error:
            self._ended = str(error) or type(error).__name__
            self.kill()
            raise
        if refused := next((answer for answer in answers if isinstance(answer, UserError)), None):
            raise refused
        return answers

    @property
    def over(self) -> bool:
        """Whether the ranks have ended."""
        return bool(self._ended)

    def close(self) -> None:
        """Let the ranks leave; kill what is left of them after a moment. Safe to call twice."""
        if self._line is not None:
            with contextlib.suppress(EOFError, OSError):
                self._line.send_bytes(cloudpickle.dumps(("leave", {})))
            self._part.wait(LEAVE_LIMIT_S)
        self.kill()

    def kill(self) -> None:
        """Kill the launcher and its ranks without asking. Safe to call twice."""
        self._ended = self._ended or "it was closed"
        self._part.kill()
        self._part.clear()
        if self._line is not None:
            self._line.close()
            self._line = None
        self._listener.close()
        if self._board is not None:
            with contextlib.suppress(ConnectionError):
                self._board.end(self._number)

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.close() if kind is None else self.kill()

    def processes(self) -> list[psutil.Process]:
        """Return the launcher's process and its ranks' on this machine, those that are alive."""
        return self._part.processes()

    def _start(self, here: int) -> Part:
        return Part(self.job, ["--standalone"], ranks=here, restarts=self._restarts)

    def _start_on_all(self, here: int) -> Part:
        """Start this machine's part, and post the launch for the others."""
        with socket.socket() as probe:  # which the launchers' own store takes in a moment
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        job = {name: value for name, value in asdict(self.job).items() if name not in ("notes", "host", "port")}
        launch = {"job": job, "ranks": here, "restarts": self._restarts, "port": port}
        self._number = self._board.post(launch)
        options = self._rendezvous.options(port, str(self._number))
        more = boards.route(self._rendezvous.address)
        return Part(self.job, options, ranks=here, restarts=self._restarts, more=more)

    def _ordered(self, name: str, arguments: dict, limit_s: float) -> list[Any]:
        end = time.monotonic() + limit_s
        if name == "begin":
            self._begun = (name, arguments)
        while True:
            with contextlib.suppress(EOFError, OSError):
                if self._line is None:
                    self._line = self._connected(end, limit_s)
                    if name != "begin" and self._begun:
                        self._asked(*self._begun, end, limit_s)
                return self._asked(name, arguments, end, limit_s)
            self._lost()

    def _connected(self, end: float, limit_s: float) -> Any:
        """Wait for rank 0's call."""
        while time.monotonic() < end:
            line = accept(self._listener, self.job)
            if line is not None:
                return line
            if self._part.ended():
                raise self._failure()
            if self._board is not None and self._board.has_found(self._number):
                raise self._failure(0)
        raise self._over("while starting", limit_s)

    def _asked(self, name: str, arguments: dict, end: float, limit_s: float) -> list[Any]:
        self._line.send_bytes(cloudpickle.dumps((name, arguments)))
        while not self._line.poll(min(0.5, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                raise self._over(f"in {name!r}", limit_s)
        return cloudpickle.loads(self._line.recv_bytes())

    def _lost(self) -> None:
        """Forget the line to rank 0; go on only if the launcher starts the ranks again and that may help."""
        self._line.close()
        self._line = None
        if self._restarts and not self._cause("").is_user_error:
            self._restarts -= 1
            return
        raise self._failure(0 if self._restarts else LEAVE_LIMIT_S)

    def _over(self, doing: str, limit_s: float) -> Exception:
        """End everything and return which rank hung."""
        self._part.ask()
        self._part.kill()
        found = self._cause(f"{doing}, which may take {limit_s:g} s")
        if found.reason.startswith("the launcher ended"):
            found = Cause(f"the {self.job.ranks} ranks gave no answer {doing} within {limit_s:g} s", found.details)
        return _error(found)

    def _failure(self, wait_s: float = LEAVE_LIMIT_S) -> Exception:
        """Wait for the launcher's own word on what failed, end everything, and return the reason."""
        self._part.wait(wait_s)
        self._part.kill()
        return _error(self._cause(f"while others waited {self.job.timeout_s:g} s for it"))

    def _cause(self, waited: str) -> Cause:
        found = [self._part.notes()]
        if self._board is not None and self._part.ended():
            with contextlib.suppress(ConnectionError):
                self._board.end(self._number)
                found += self._board.found(self._number)
        return cause(found, self._part.said(), waited=waited)


def _error(found: Cause) -> Exception:
    return UserError(found.reason) if found.is_user_error else RankFailed(found.reason, found.details)


def _board(rendezvous: Rendezvous) -> Board | None:
    """Return a place on the board where all machines have joined; None for one machine."""
    if rendezvous.nnodes == 1:
        return None
    try:
        board = Board(rendezvous)
        board.wait_for_all()
    except ConnectionError as error:
        raise UserError(f"{error}; host it on machine 0 first") from None
    return board


def check_device(device: str, ranks: int) -> None:
    """Raise UserError if this machine has not a GPU for each of its ranks."""
    if device != "cuda":
        return
    import torch

    if torch.cuda.device_count() < ranks:
        raise UserError(
            f"{ranks} ranks on GPUs need {ranks} of them, this machine has {torch.cuda.device_count()}; "
            "take fewer ranks, or device='cpu'"
        )
