"""Do launches end, every time? Trains two ranks by each strategy, again and again, each time in a launch of its own.

One line per run, then a summary. The exit status is 1 if a run failed, gave other losses than the first of its
strategy, or left a process behind.

    python benchmarks/training_endurance.py --runs 20
"""

import argparse
import sys
import time
from functools import partial
from typing import Any

import psutil

from kit.techniques.training import bench, strategies
from kit.techniques.training.launch import RankFailed, Ranks, in_worker
from kit.techniques.training.workload import Task, image_classifier

STRATEGIES = (
    "ddp ddp_accumulated ddp_autocast ddp_compressed fsdp fsdp_mixed tensor_parallel pipeline_gpipe pipeline_1f1b"
).split()
TASK = Task(partial(image_classifier, dim=32, layers=4, heads=2), batch=32, check_steps=5)
LAUNCH_LIMIT_S, LEAVE_S = 120.0, 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="launches of each strategy (%(default)s)")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES, metavar="NAME")
    options = parser.parse_args(arguments)
    first: dict[str, list[float]] = {}
    seconds, failed = [], 0
    for number in range(1, options.runs + 1):
        for name in options.strategies:
            start = time.monotonic()
            wrong = launched(name, first)
            seconds.append(time.monotonic() - start)
            failed += bool(wrong)
            print(f"[{number}/{options.runs}] {name:20} {seconds[-1]:5.1f} s  {wrong or 'ended well'}", flush=True)
    seconds.sort()
    print(
        f"{len(seconds)} launches: {len(seconds) - failed} ended well, {failed} did not; "
        f"{seconds[0]:.1f} to {seconds[-1]:.1f} s, median {seconds[len(seconds) // 2]:.1f} s"
    )
    return int(failed > 0)


def launched(name: str, first: dict[str, list[float]]) -> str:
    """Launch two ranks, train by a strategy, let them leave, and return what went wrong. first: losses by strategy."""
    before = set(psutil.Process().children(recursive=True))
    try:
        losses = in_worker(trained, name, limit_s=LAUNCH_LIMIT_S)
    except RankFailed as error:
        return str(error)
    _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=LEAVE_S)
    if alive:
        return f"left behind: {', '.join(str(process.pid) for process in alive)}"
    return "" if first.setdefault(name, losses) == losses else "other losses than before"


def trained(name: str) -> Any:
    """Return the losses of two ranks."""
    with Ranks(2) as ranks:
        ranks.order(bench.begin, name, getattr(strategies, name), TASK)
        return ranks.order(bench.ask, name, "train", TASK.check_steps)[0]["losses"]


if __name__ == "__main__":
    sys.exit(main())
