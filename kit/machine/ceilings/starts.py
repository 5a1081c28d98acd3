"""Process starts: fresh Python interpreters that do nothing, as many at a time as threads are allowed.

An interpreter and not /bin/true: it is what every worker, rank and kernel costs before its own imports.
"""

import subprocess
import sys

from kit.machine.ceilings.probe import Conditions, best_s


def starts_per_s(conditions: Conditions) -> float:
    """Return how many interpreters a second are started and at their end again."""

    def start_all() -> None:
        started = [subprocess.Popen([sys.executable, "-P", "-c", "pass"]) for _ in range(conditions.threads)]
        for process in started:
            process.wait()

    return conditions.threads / best_s(start_all, conditions.budget_s)


PROBES = {"process_starts_per_s": starts_per_s}
