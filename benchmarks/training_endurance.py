"""Do launches end, every time? Trains two ranks by each strategy, again and again, each time in a launch of its own.

A line a run, then a summary. The exit status is 1 if a run failed, gave other losses than the first of its strategy, or
left a process behind.

    python benchmarks/training_endurance.py --runs 20
"""

import argparse
import sys
import time
from dataclasses import dataclass

import psutil

from kit.techniques.training import strategies
from kit.techniques.training.ranks.launch import Launch, RankFailed
from kit.techniques.training.task import Task

STRATEGIES = (
    "ddp ddp_accumulated ddp_autocast ddp_compressed fsdp fsdp_mixed tensor_parallel pipeline_gpipe pipeline_1f1b "
    "pipeline_interleaved"
).split()
TASK = Task(steps=5, batch=32, model_options=dict(dim=32, layers=4, heads=2))
LAUNCH_LIMIT_S = 120.0
LEAVE_S = 5.0
"""Time in which processes that were told to end must be gone."""


@dataclass(frozen=True)
class Run:
    """What became of one launch: its losses, the seconds from start to end, and what went wrong, if anything."""

    strategy: str
    losses: list[float]
    seconds: float
    wrong: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Run, tell, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="launches of each strategy (%(default)s)")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES, metavar="NAME")
    options = parser.parse_args(arguments)
    runs: list[Run] = []
    for number in range(1, options.runs + 1):
        for name in options.strategies:
            run = launched(name, [one.losses for one in runs if one.strategy == name and not one.wrong])
            runs.append(run)
            print(f"[{number}/{options.runs}] {name:20} {run.seconds:5.1f} s  {run.wrong or 'ended well'}", flush=True)
    print(summary(runs))
    return int(any(run.wrong for run in runs))


def launched(name: str, before: list[list[float]]) -> Run:
    """Launch two ranks, train by a strategy, and let them leave. before: the losses of earlier runs of it."""
    start, losses, launch = time.monotonic(), [], Launch(2, limit_s=LAUNCH_LIMIT_S)
    known = launch.processes()
    try:
        launch.order("begin", strategy=getattr(strategies, name), task=TASK)
        known = launch.processes()
        losses = launch.order("train")[0]["losses"]
        launch.close()
        wrong = "other losses than before" if before and losses != before[0] else ""
    except RankFailed as error:
        wrong = str(error)
    finally:
        launch.kill()
    return Run(name, losses, time.monotonic() - start, wrong or left(known))


def left(processes: list[psutil.Process]) -> str:
    """Say which of the processes are still there after a moment, if any."""
    _, alive = psutil.wait_procs(processes, timeout=LEAVE_S)
    return f"left behind: {', '.join(str(process.pid) for process in alive)}" if alive else ""


def summary(runs: list[Run]) -> str:
    """Return a sentence on all runs."""
    failed = [run for run in runs if run.wrong]
    seconds = sorted(run.seconds for run in runs)
    return (
        f"{len(runs)} launches: {len(runs) - len(failed)} ended well, {len(failed)} did not; "
        f"{seconds[0]:.1f} to {seconds[-1]:.1f} s, median {seconds[len(seconds) // 2]:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
