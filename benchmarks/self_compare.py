"""How often does `kit compare` call a change where there is none, and find one where there is?

The same small comparison again and again, in fresh processes, minutes apart, beside whatever else the machine does; by
chance its variants are as they were, or do 10 or 30 % more work. Then every pair of sessions is judged as `kit compare`
judges it. An interrupted study goes on where it stood.

    python benchmarks/self_compare.py --minutes 60
    python benchmarks/self_compare.py --minutes 0         # replays what is there
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from itertools import combinations
from pathlib import Path

from false_winners import wilson

from kit import Comparison
from kit.compare import comparable, verdicts
from kit.record import store
from kit.record.document import Record

MORE = {100: "equivalent", 110: "10 % slower", 130: "30 % slower"}
"""Percent of the work that a session's variants do."""
CHANCES = (100, 100, 100, 110, 130)


def loop(percent: int):
    """Integer arithmetic: what moves it least."""

    def call():
        x = 1
        for _ in range(200 * percent):
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        return x

    return call


def sort(percent: int):
    """Sorting within the processor's own caches."""
    import numpy as np

    values = np.random.default_rng(1).random(2000)
    return lambda: [float(np.sort(values)[0]) for _ in range(percent // 5)]


def copy(percent: int):
    """Memory copies, which other programs' memory traffic slows for minutes."""
    import numpy as np

    source = np.ones((10, 100_000))
    target = np.empty_like(source)
    return lambda: [np.copyto(target[n % 10], source[n % 10]) for n in range(percent // 10)]


def words(percent: int):
    """Counting strings, whose hashes every process draws anew."""
    text = [f"w{n * 7919 % 997}" for n in range(100 * percent)]

    def call():
        counts: dict[str, int] = {}
        for word in text:
            counts[word] = counts.get(word, 0) + 1
        return len(counts)

    return call


VARIANTS = {"loop": loop, "sort": sort, "copy": copy, "words": words}


def measure(percent: int, seconds: float) -> None:
    """Measure one session; its record goes to the folder that KIT_RUN names."""
    comparison = Comparison("self compare", baseline="base", time_budget_s=seconds, check=None)
    comparison.variant("base", partial(loop, 100))
    for name, function in VARIANTS.items():
        comparison.variant(name, partial(function, percent))
    comparison.run()


def study(minutes: float, out: Path) -> None:
    """Measure session after session, each by a fresh interpreter, with pauses of up to 4 s."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        percent, seconds = random.choice(CHANCES), random.choice((2, 4, 8, 8))
        folder = out / f"{percent}-{time.time_ns()}"
        command = [sys.executable, __file__, "--one", str(percent), str(seconds)]
        subprocess.run(command, env=os.environ | {"KIT_RUN": str(folder.absolute())}, check=True, capture_output=True)
        time.sleep(random.uniform(0, 4))


def sessions(out: Path) -> dict[int, list[Record]]:
    """Return the records by percent of work, in the order of time."""
    found: dict[int, list[Record]] = {percent: [] for percent in MORE}
    for path in out.glob("*/records/*.json"):
        found[int(path.parts[-3].split("-")[0])].append(store.read(path))
    return {percent: sorted(records, key=lambda record: record.written) for percent, records in found.items()}


def calls(before: list[Record], after: list[Record], name: str, together: int, by: str) -> Counter:
    """Return how often each verdict is given to one variant over all pairs, `together` sessions on each side."""
    a, b = ([records[n : n + together] for n in range(0, len(records) - together + 1, together)]
            for records in (before, after))  # fmt: skip
    pairs = combinations(a, 2) if before is after else ((x, y) for x in a for y in b)
    return Counter(verdict for x, y in pairs if (verdict := judge(x, y, name, by)))


def judge(before: list[Record], after: list[Record], name: str, by: str) -> str | None:
    """Return the verdict of one pair; None where it can't be judged by that."""
    ground = comparable.ground(before[0], after[0])
    if by == "time" and ground.probes is None:
        return None
    levels = [[_level(record, name, by) for record in records] for records in (before, after)]
    a, b = ([level for level in side if level] for side in levels)
    if not a or not b:
        return None
    return verdicts.change(verdicts.pooled(a), verdicts.pooled(b), ground.probes if by == "time" else 0.0).verdict


def _level(record: Record, name: str, by: str):
    session = record.points[0].sessions[0]
    return verdicts.absolute(session, name) if by == "time" else verdicts.relative(session, "base", name)


def report(found: dict[int, list[Record]]) -> None:
    """Print a Markdown table: what was called, by what it was judged, and how many sessions a side had."""
    print(f"{', '.join(f'{len(records)} sessions {MORE[percent]}' for percent, records in found.items())}\n")
    print("| judged by | sessions a side | variant | truly | pairs | slower | faster | same |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for by, together in (("speed-up", 1), ("speed-up", 3), ("time", 1)):
        for percent, told in MORE.items():
            every = {name: calls(found[100], found[percent], name, together, by) for name in VARIANTS}
            for name, counts in {**every, "all": sum(every.values(), Counter())}.items():
                total = counts.total()
                shares = " | ".join(_share(counts[call], total) for call in ("slower", "faster", "equivalent"))
                print(f"| {by} | {together} | {name} | {told} | {total} | {shares} |")


def _share(count: int, total: int) -> str:
    if not total:
        return "–"
    low, high = wilson(count, total)
    return f"{count / total:.1%}" + (f" [{low:.0%}, {high:.0%}]" if total < 100 else "")


def main() -> None:
    """Read the arguments, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="to measure for; 0: report what is there")
    parser.add_argument("--out", type=Path, default=Path("runs/self_compare"), help="where the sessions are kept")
    parser.add_argument("--one", nargs=2, type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure(int(asked.one[0]), asked.one[1])
        return
    study(asked.minutes, asked.out)
    report(sessions(asked.out))


if __name__ == "__main__":
    main()
