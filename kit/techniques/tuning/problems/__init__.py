"""What is searched: known functions and recorded tables, whose trials cost nothing, and real work on tables."""

from collections.abc import Callable
from functools import partial

from kit.techniques.tuning.problem import Problem
from kit.techniques.tuning.problems import known, tabulated

NOISE = 0.05
"""Of a function's spread: what the noise of the noisy ones is."""

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "Hartmann-6": known.hartmann6,
    "Branin": known.branin,
    "Rosenbrock (log)": known.rosenbrock,
    "Hartmann-6 with noise": partial(known.hartmann6, NOISE),
    "Branin with noise": partial(known.branin, NOISE),
    "Rosenbrock (log) with noise": partial(known.rosenbrock, NOISE),
    **{name: partial(tabulated.tabulated, name) for name in tabulated.TABLES},
}
"""The cheap ones by name: their seconds are drawn or looked up, not spent."""
