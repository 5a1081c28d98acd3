"""The process that measures ceilings (`python -m kit.machine.ceilings.probe THREADS BUDGET_S FOLDER NAME…`).

It prints a line of JSON a ceiling, [name, rate or null, reason], as soon as it is known: what it crashes on is then the
first name without a line.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """threads: allowed to a probe; budget_s: seconds for its repeats; folder: on the disk that is measured."""

    threads: int
    budget_s: float
    folder: str


class Impossible(Exception):
    """This machine does not let itself be measured so; the text says why."""


def best_s(call: Callable[[], object], budget_s: float) -> float:
    """Return the shortest time of a call, the first not counted.

    The repeats go on for so many seconds, and up to three times as long until the two shortest agree within a tenth: a
    busy neighbour may leave no call alone for a while."""
    call()
    times: list[float] = []
    begun, spent = time.perf_counter(), 0.0
    while not times or spent < budget_s or not (_agree(times) or spent > 3 * budget_s):
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        times, spent = sorted([*times, end - start])[:2], end - begun
    return times[0]


def _agree(shortest: list[float]) -> bool:
    return len(shortest) == 2 and shortest[1] <= 1.1 * shortest[0]


def main(threads: str, budget_s: str, folder: str, *names: str) -> None:
    """Measure the ceilings of these names in this order and print each."""
    from kit.machine.ceilings import ON_CPU, ON_GPU

    out = os.fdopen(os.dup(1), "w")  # a library that prints must not speak between the lines
    os.dup2(2, 1)
    conditions = Conditions(int(threads), float(budget_s), folder)
    for name in names:
        module = importlib.import_module(f"kit.machine.ceilings.{(ON_CPU | ON_GPU)[name]}")
        print(json.dumps([name, *_told(module.PROBES[name], conditions)]), file=out, flush=True)


def _told(probe: Callable[[Conditions], float], conditions: Conditions) -> tuple[float | None, str]:
    try:
        return float(probe(conditions)), ""
    except Exception as error:  # whatever a library raises where a machine can't
        text = " ".join(str(error).split())[:200]
        return None, text if isinstance(error, Impossible) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    main(*sys.argv[1:])
