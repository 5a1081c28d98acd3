"""One of several machines takes its part in every launch that machine 0 starts, until machine 0 is done.

    python -m kit.techniques.training.ranks.join HOST:PORT --nnodes 2 --node-rank 1

waits for machine 0, whose notebook hosts the job board at HOST:PORT, and starts torch's launcher for each launch posted
there. It ends with status 0 when machine 0 closes the board, and kills what it started and ends with status 1 when
machine 0 is gone. The network between the machines must be trusted, as with torch's own launcher: whoever reaches the
board's port can have code run here.
"""

import argparse
import os
import socket
import sys
import threading
import time
from typing import Any

import psutil

from kit.errors import UserError
from kit.techniques.training.ranks.board import Board, Rendezvous, route
from kit.techniques.training.ranks.cause import refusal
from kit.techniques.training.ranks.control import Job
from kit.techniques.training.ranks.launch import check_device
from kit.techniques.training.ranks.part import Part

POLL_S = 0.3
SILENT_S = 60.0
"""So long without an answer, a machine 0 that has not closed its connection is gone too."""


def main(arguments: list[str] | None = None) -> int:
    """Join, take part, leave. Return the exit status."""
    options = _parsed(arguments)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a machine 0 that is gone is told in one sentence
    try:
        rendezvous = Rendezvous(options.nnodes, options.node_rank, options.endpoint)
        if rendezvous.node_rank == 0:
            raise UserError("machine 0 is where the notebook runs; take --node-rank 1 or more")
        _wait_for(rendezvous, options.wait_s)
        return _take_part(rendezvous, options.nproc_per_node)
    except UserError as error:
        print(f"kit: {error}", file=sys.stderr)
        return 2
    except ConnectionError:
        print("kit: machine 0 is gone; what was started here was killed", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kit.techniques.training.ranks.join", description=__doc__.split("\n")[0]
    )
    parser.add_argument("endpoint", metavar="HOST:PORT", help="the job board on machine 0 (rdzv_endpoint)")
    parser.add_argument("--nnodes", type=int, required=True, help="number of machines, machine 0 included")
    parser.add_argument("--node-rank", type=int, required=True, help="which one this is: 1 or more")
    parser.add_argument("--nproc-per-node", type=int, help="most ranks that this machine takes; without it, any number")
    parser.add_argument("--wait-s", type=float, default=600.0, help="how long to wait for machine 0 (%(default)s)")
    return parser.parse_args(arguments)


def _wait_for(rendezvous: Rendezvous, limit_s: float) -> None:
    """Wait until somebody listens at machine 0's port."""
    print(f"machine {rendezvous.node_rank} of {rendezvous.nnodes}: waiting for machine 0", flush=True)
    end = time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection(rendezvous.address, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(f"nobody at {rendezvous.endpoint} within {limit_s:g} s ({error})") from None
            time.sleep(POLL_S)


def _take_part(rendezvous: Rendezvous, most: int | None) -> int:
    board = Board(rendezvous)
    board.join()
    print("joined", flush=True)
    parts: dict[int, Part | None] = {}
    heard = _Watchdog()
    try:
        while not board.is_done():
            heard.now()
            for number, launch in board.launches(set(parts)):
                parts[number] = None if board.is_over(number) else _started(rendezvous, board, number, launch, most)
            for number, part in parts.items():
                if part is not None and (part.ended() or board.is_over(number)):
                    board.tell(number, _ended(part))
                    parts[number] = None
            time.sleep(POLL_S)
        board.leave()
        return 0
    finally:
        for part in filter(None, parts.values()):
            part.kill()
            part.clear()


def _started(
    rendezvous: Rendezvous, board: Board, number: int, launch: dict[str, Any], most: int | None
) -> Part | None:
    """Start this machine's part; if it can't take one, say why."""
    ranks = launch["ranks"]
    try:
        if most is not None and ranks > most:
            raise UserError(f"machine {rendezvous.node_rank} takes at most {most} ranks; the launch wants {ranks}")
        check_device(launch["job"]["device"], ranks)
    except UserError as error:
        board.tell(number, refusal(str(error)))
        return None
    print(f"launch {number}: {ranks} ranks", flush=True)
    options, more = rendezvous.options(launch["port"], str(number)), route(rendezvous.address)
    return Part(Job(**launch["job"]), options, ranks=ranks, restarts=launch["restarts"], more=more)


def _ended(part: Part) -> dict[str, Any]:
    """End a part and return what its ranks noted."""
    if not part.ended():
        part.ask()
    part.kill()
    found = part.notes()
    part.clear()
    return found


class _Watchdog:
    """Ends this process and what it started when nothing was heard for long: a call to a board whose machine lost its
    network may never return."""

    def __init__(self) -> None:
        self.now()
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> None:
        """Say that something was heard."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while time.monotonic() - self._last < SILENT_S:
            time.sleep(1)
        for process in psutil.Process().children(recursive=True):
            process.kill()
        print("kit: machine 0 does not answer; what was started here was killed", file=sys.stderr, flush=True)
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
