"""What does the kit itself cost? Each cost as a ratio within one run, its two sides in the same random-order rounds.

Starting it, executing a notebook with it, measuring a call of nothing with it, and reporting over many records. Where
a cost is the time of a whole process, the kit's own `Comparison` measures it; `test_own_cost.py` has what
pytest-benchmark can measure.

    python benchmarks/own_cost.py --out runs/own_cost.md
"""

import argparse
import itertools
import math
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import cloudpickle
import msgspec

from kit import Comparison
from kit.machine import fingerprint
from kit.measure.process import SpawnedWorker
from kit.measure.statistics import effect, log_ratios
from kit.measure.work import Setup
from kit.measure.worker import SHORTEST_BLOCK_S, Work
from kit.record import store

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STARTS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import kit": [sys.executable, "-c", "import kit"],
    "kit list": [str(BIN / "kit"), "list"],
    "papermill --help": [str(BIN / "papermill"), "--help"],
}


@dataclass(frozen=True)
class Cost:
    """One line of the table. ratio: with its interval where there is one; seconds: both sides, for orientation."""

    what: str
    against: str
    ratio: str
    seconds: str
    aim: str = ""


def starts(seconds: float, folder: Path) -> list[Cost]:
    """Compare starting the kit with starting Python and Papermill, each in a process of its own."""
    walls = measured(folder, "starts", seconds, {name: partial(process, command) for name, command in STARTS.items()})
    aims = {("import kit", "python -c pass"): "at most 1.3×", ("kit list", "papermill --help"): "at most 0.15×"}
    pairs = itertools.product(("import kit", "kit list"), ("python -c pass", "papermill --help"))
    return [
        cost(f"`{one}`", f"`{other}`", walls[one], walls[other], aims.get((one, other), "")) for one, other in pairs
    ]


def notebook(seconds: float, folder: Path) -> list[Cost]:
    """Compare `kit run` of a notebook that does nothing with plain Papermill on it."""
    path = trivial(folder)
    plain = [str(BIN / "papermill"), str(path), str(folder / "out.ipynb"), "-p", "number", "3", "--no-progress-bar"]
    kept = [str(BIN / "kit"), "run", str(path), "-p", "number=3", "--runs"]
    variants = {"papermill": partial(process, plain), "kit run": partial(process_anew, kept, folder / "runs")}
    walls = measured(folder, "notebook", seconds, variants)
    what, against = "`kit run` of a trivial notebook", "`papermill` on it"
    return [cost(what, against, walls["kit run"], walls["papermill"], "at most 1.0×")]


def trivial(folder: Path) -> Path:
    """Write a notebook of two cells, and return its path."""
    from nbformat import v4, write

    cells = [
        v4.new_code_cell("number: int = 1  # any", metadata={"tags": ["parameters"]}),
        v4.new_code_cell("print(number)"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "trivial.ipynb"
    write(v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def process(command: list[str]) -> Callable[[], None]:
    """Return a call that runs the command to its end; it raises if the command fails."""
    return lambda: run(command)


def process_anew(command: list[str], folder: Path) -> Callable[[], None]:
    """Return a call that runs the command with a folder of its own as its last argument, so that nothing is kept."""
    numbers = itertools.count()
    return lambda: run([*command, str(folder / f"{os.getpid()}-{next(numbers)}")])


def run(command: list[str]) -> str:
    """Run the command to its end and return what it printed. Raise RuntimeError, with what it said, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: exit {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return done.stdout


def measured(folder: Path, name: str, seconds: float, variants: dict[str, Callable]) -> dict[str, list[float]]:
    """Measure whole processes by a `Comparison` and return the seconds of each variant, one a round."""
    os.environ["KIT_RUN"] = str(folder)  # the record goes there
    os.environ["KIT_LOCK"] = str(folder / "kit.lock")  # its own: no waiting for another batch on this machine
    comparison = Comparison(name, baseline=next(iter(variants)), time_budget_s=seconds, check=None)
    for variant, function in variants.items():
        comparison.variant(variant, function)
    point = comparison.run().record.points[0]
    for variant in point.variants:
        if variant.state != "measured":
            sys.exit(f"{variant.name}: {variant.reason}")
    return {variant: point.sessions[0].measurements[variant].wall_s for variant in variants}


def cost(what: str, against: str, one: list[float], other: list[float], aim: str = "") -> Cost:
    """Return the line on one ÷ other, from the seconds of the same rounds."""
    return Cost(what, against, ratio(one, other), f"{duration(one)} ÷ {duration(other)}", aim)


def ratio(one: list[float], other: list[float]) -> str:
    """Return the median of one ÷ other within rounds, with its sign-test interval."""
    found = effect(log_ratios(one, other))
    interval = f" [{found.low:.2f}, {found.high:.2f}]" if found.low is not None else f" ({found.rounds} rounds)"
    return f"{found.speedup:.2f}×{interval}"


def duration(seconds: list[float]) -> str:
    """Return the median in a unit that suits it."""
    median = statistics.median(seconds)
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if median >= size:
            return f"{median / size:.3g} {unit}"
    return f"{median * 1e9:.3g} ns"


def nothing() -> None:
    """Do nothing: what is left is the instrument."""


def measurements(rounds: int = 200) -> list[Cost]:
    """Compare a measurement of a variant that does nothing with timeit, and a worker's order with the measurement."""
    work = Work()
    work.prepared = Setup(nothing)
    calls = calls_of_a_block(work.second_call())
    sides = {
        "kit": lambda: work.measure(0, calls, 1, True)["wall_s"],
        "timeit": lambda: timeit.timeit(nothing, number=calls) / calls,
    }
    took = interleaved(sides, rounds)
    return [cost("an empty call, as measured", "as `timeit` does", took["kit"], took["timeit"]), order_cost(rounds)]


def calls_of_a_block(calibrated: dict) -> int:
    """Return how many calls one measurement times together."""
    return math.ceil(SHORTEST_BLOCK_S / calibrated["call_s"])


def order_cost(rounds: int) -> Cost:
    """Return what a measurement in a worker takes in all, against the time that it reports."""
    worker = SpawnedWorker(threads=1, timeout_s=60)
    try:
        worker.order("setup", cloudpickle.dumps((lambda: nothing, ())))
        calls = calls_of_a_block(worker.order("second_call"))
        reported, whole = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            wall_s = worker.order("measure", 0, calls, 1, True)["wall_s"]
            whole.append(time.perf_counter() - start)
            reported.append(wall_s * calls)
    finally:
        worker.end()
    return cost("a measurement, with the order to the worker", "the time that it reports", whole, reported)


def interleaved(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every side once a round, in random order, and return what they returned."""
    took = {name: [] for name in sides}
    for _ in range(rounds):
        for name in random.sample(list(sides), len(sides)):
            took[name].append(sides[name]())
    return took


REPORT_AIM = {10_000: "at most 60 s, 1,024 MiB"}
REPORT = """
import sys
from kit.cli import main
status = main(["report", sys.argv[1], "-o", sys.argv[2]])
from kit.measure import memory
print(memory.peak()[0])
sys.exit(status)
"""


def reports(counts: Iterable[int], folder: Path) -> list[Cost]:
    """Report over growing numbers of records, each three times in random order."""
    counts = sorted(counts)
    took: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for count in counts:
        lay_out(count, folder / str(count))
    for count in random.sample(counts * 3, 3 * len(counts)):
        took[count].append(report_once(folder / str(count), folder / f"{count}-out"))
    return [report_cost(took, count, before) for before, count in itertools.pairwise([None, *counts])]


def report_once(runs: Path, out: Path) -> tuple[float, float]:
    """Return the seconds and the peak MiB of one report, in a process of its own."""
    start = time.perf_counter()
    said = run([sys.executable, "-c", REPORT, str(runs), str(out)])
    return time.perf_counter() - start, float(said.split()[-1])


def report_cost(took: dict[int, list[tuple[float, float]]], count: int, before: int | None) -> Cost:
    """Return the line on a report over `count` records against the one over `before`, if there is one."""
    wall_s, mib = map(statistics.median, zip(*took[count], strict=True))
    against = grown = "–"
    if before is not None:
        before_s, before_mib = map(statistics.median, zip(*took[before], strict=True))
        against = f"over {before:,}"
        grown = f"{wall_s / before_s:.1f}× the time, {mib / before_mib:.1f}× the memory"
    seconds = f"{wall_s:.1f} s, peak {mib:.0f} MiB"
    return Cost(f"report over {count:,} records", against, grown, seconds, REPORT_AIM.get(count, ""))


def lay_out(count: int, folder: Path) -> None:
    """Write `count` records as runs leave them: 24 questions over 2 machines, the rest older runs of the same."""
    sys.path.insert(0, str(ROOT / "tests"))
    from record_factory import machine, make_record

    machines = [machine(), machine("AMD EPYC 9454", cores=48)]
    asked = [
        make_record(comparison=f"question {n // 2}", notebook=f"{n // 6 + 1:02}_topic", on=machines[n % 2], rounds=60,
                    seed=n)
        for n in range(48)
    ]  # fmt: skip
    for number in range(count):
        record = asked[number % len(asked)]
        written = f"{datetime(2026, 1, 1) + timedelta(minutes=number):%Y-%m-%dT%H:%M:%SZ}"
        record = msgspec.structs.replace(record, id=f"{number:08}", written=written)
        run_folder = folder / record.asked.notebook / f"{number:08x}"
        store.write(record, run_folder / "records")
        (run_folder / "status.json").write_text('{"state": "finished"}')


def table(costs: list[Cost]) -> str:
    """Return the costs as Markdown, with machine, versions and command."""
    rows = [["what", "against", "ratio", "seconds", "aim"], ["---"] * 5]
    rows += [[c.what, c.against, c.ratio, c.seconds, c.aim] for c in costs]
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    versions = fingerprint.versions()
    named = ", ".join(f"{name} {versions[name]}" for name in ("ml-scaling-kit", "papermill"))
    load = f"load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{lines}\n\n{fingerprint.in_words(fingerprint.machine())}, Python {fingerprint.machine().python}, {named}; "
        f"{store.now()}, {load}. Medians; brackets: 99.2 % sign-test intervals of the ratio within rounds. "
        f"Command: `{shlex.join(['python', 'benchmarks/own_cost.py', *sys.argv[1:]])}`\n"
    )


def main() -> None:
    """Measure what is asked for, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", default="starts,notebook,measurements,reports", help="what to measure")
    parser.add_argument(
        "--seconds", type=float, default=60, help="budget of a comparison of starts; five times as much for notebook"
    )
    parser.add_argument("--records", default="100,1000,10000", help="numbers of records to report over")
    parser.add_argument("--out", type=Path, default=Path("runs/own_cost.md"), help="file for the table")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="own_cost_") as made:
        folder = Path(made)
        parts = {
            "starts": lambda: starts(asked.seconds, folder),
            "notebook": lambda: notebook(5 * asked.seconds, folder),
            "measurements": measurements,
            "reports": lambda: reports(map(int, asked.records.split(",")), folder),
        }
        costs = [line for part in asked.parts.split(",") for line in parts[part]()]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    text = table(costs)
    asked.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
