"""The work of the false-winner study, as each tool takes it: one function, as slow as its number of iterations."""

import os
import sys
from collections.abc import Callable
from functools import partial


def spend(iterations: int) -> int:
    """Do `iterations` steps of integer arithmetic, all alike: 5 % more steps are 5 % more work."""
    x = 1
    for _ in range(iterations):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
    return x


def prepared(iterations: int) -> Callable[[], int]:
    """Return the call that the kit times."""
    return partial(spend, iterations)


def test_spend(benchmark):
    """What pytest-benchmark times."""
    benchmark(spend, int(os.environ["WORK_ITERATIONS"]))


if __name__ == "__main__":  # what hyperfine times: ITERATIONS CALLS
    for _ in range(int(sys.argv[2])):
        spend(int(sys.argv[1]))
