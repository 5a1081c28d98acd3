"""Optuna's searches behind one interface: a sampler says what to try next, a pruner which trials to stop early."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.errors import UserError
from kit.techniques.tuning.problem import Problem, Space
from kit.techniques.tuning.searches.search import Asked

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

SAMPLERS = ("grid", "random", "quasi-random", "TPE", "CMA-ES", "GP")
PRUNERS = ("ASHA", "Hyperband")
NAMES = (*SAMPLERS, "random + ASHA", "TPE + ASHA", "TPE + Hyperband")
"""What the project compares; any sampler goes with any pruner, as `GP + ASHA`."""

REDUCTION = 3
"""Of so many trials at a rung one goes on; the rungs are after 1, 3, 9, … steps."""


class OnOptuna:
    """A search over one study of Optuna in memory. Optuna's own talk does not reach the user."""

    def __init__(self, name: str, problem: Problem, trials: int, seed: int) -> None:
        """Begin the search called `name`, as `TPE + ASHA`, for about `trials` trials. Raise UserError for no such."""
        with quietly():
            import optuna

            drawing, _, stopping = name.partition(" + ")
            self.space, self.steps = dict(problem.space), problem.steps
            self.left = size(problem.space, trials, seed) if drawing == "grid" else math.inf
            self.study = optuna.create_study(
                study_name=f"seed {seed}",  # Hyperband draws a trial's bracket from this name
                sampler=sampler(drawing, seed, problem, trials),
                pruner=pruner(stopping, problem),
            )

    def ask(self) -> Asked | None:
        """Return the next trial; None at the end of a grid."""
        if self.left < 1:
            return None
        self.left -= 1
        with quietly():
            trial = self.study.ask(fixed_distributions=self.space)
        return Asked(trial.number, trial.params, trial)

    def tell(self, asked: Asked, loss: float | None, pruned: bool = False) -> None:
        """Say how a trial ended; one whose loss is no finite number has failed.

        A failed trial is told as stopped without a value, which TPE takes for bad. One that is told as failed it leaves
        out, finds nothing known where it was, and goes back there: in trial runs for 27 to 30 of 30 settings.
        """
        from optuna.trial import TrialState

        failed = loss is None or not math.isfinite(loss)
        with quietly():
            if failed or pruned:
                self.study.tell(asked.handle, state=TrialState.PRUNED)
            else:
                self.study.tell(asked.handle, float(loss))

    def stops(self, asked: Asked, step: int, loss: float) -> bool:
        """Return whether the pruner ends the trial after this step; never after the last, where nothing is saved."""
        with quietly():
            asked.handle.report(float(loss), step)
            return step < self.steps and asked.handle.should_prune()


def sampler(name: str, seed: int, problem: Problem, trials: int) -> "BaseSampler":
    """Return Optuna's sampler of this name. trials: what the grid is made for. Raise UserError for no such name."""
    from optuna import samplers

    makers = {
        "grid": lambda: _grid(levels(problem.space, trials, seed), seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
        "quasi-random": lambda: samplers.QMCSampler(scramble=True, seed=seed),
        "TPE": lambda: samplers.TPESampler(seed=seed),
        "CMA-ES": lambda: samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        "GP": lambda: samplers.GPSampler(seed=seed, deterministic_objective=False, warn_independent_sampling=False),
    }
    if name not in makers:
        raise UserError(f"there is no search {name!r}; it is one of {', '.join(NAMES)}")
    with quietly():
        return makers[name]()


def pruner(name: str, problem: Problem) -> "BasePruner":
    """Return Optuna's pruner of this name, with its rungs in steps of `problem`; an empty name never prunes.

    ASHA is successive halving without waiting (Li et al. 2020, arXiv:1810.05934); Hyperband runs it with several first
    rungs at once (Li et al. 2018). Raise UserError for no such name.
    """
    from optuna import pruners

    if name == "":
        return pruners.NopPruner()
    if name == "ASHA":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    if name == "Hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=problem.steps, reduction_factor=REDUCTION)
    raise UserError(f"there is no pruner {name!r}; it is one of {', '.join(PRUNERS)}")


def caveat(name: str, problem: Problem) -> str:
    """Return in a sentence what the search `name` can't do on this problem; empty if nothing."""
    from optuna.distributions import CategoricalDistribution

    drawing, _, stopping = name.partition(" + ")
    choices = [each for each, kind in problem.space.items() if isinstance(kind, CategoricalDistribution)]
    said = []
    if drawing == "CMA-ES" and len(problem.space) - len(choices) < 2:
        said.append("CMA-ES needs two numbers to search and draws everything at random here")
    elif drawing == "CMA-ES" and choices:
        said.append(f"CMA-ES searches numbers only and draws {', '.join(choices)} at random")
    if stopping and problem.steps < 2:
        said.append(f"{stopping} has nothing to stop: a trial is one step")
    return "; ".join(said)


# ------------------------------------------------------------------------------------------------ grids


def levels(space: Space, trials: int, seed: int | None = None) -> dict[str, list]:
    """Return the values of each parameter in a grid of at most `trials` settings, if the choices alone aren't more.

    Every choice is there. Numbers have as many levels as fit, as equal as can be: one in each equal part of the range
    (of its logarithm on a log scale). seed: shifts all levels of a parameter by the same part of their distance, since
    where a grid lies is luck, which seeds are to average; None: levels are the middles of their parts.
    """
    from optuna.distributions import CategoricalDistribution

    found = {name: list(kind.choices) for name, kind in space.items() if isinstance(kind, CategoricalDistribution)}
    numbers = {name: spread(kind, 1) for name, kind in space.items() if name not in found}
    growing = list(numbers)
    while growing:
        name = min(growing, key=lambda name: len(numbers[name]))
        finer = spread(space[name], len(numbers[name]) + 1)
        others = math.prod(len(values) for each, values in (found | numbers).items() if each != name)
        if len(finer) == len(numbers[name]) or others * len(finer) > trials:
            growing.remove(name)
        else:
            numbers[name] = finer
    shifts = [0.5] * len(numbers) if seed is None else np.random.default_rng(seed).random(len(numbers)).tolist()
    for (name, middles), shift in zip(numbers.items(), shifts, strict=True):
        found[name] = spread(space[name], len(middles), shift)
    return {name: found[name] for name in space}


def size(space: Space, trials: int, seed: int) -> int:
    """Return how many settings such a grid has."""
    return math.prod(map(len, levels(space, trials, seed).values()))


def spread(kind: "BaseDistribution", count: int, shift: float = 0.5) -> list:
    """Return a value in each of `count` equal parts of a range of numbers, the same share of the way through its part;
    fewer where it holds fewer numbers."""
    parts = [(part + shift) / count for part in range(count)]
    whole = isinstance(kind.low, int)
    if kind.log:
        low, high = (kind.low - 0.5, kind.high + 0.5) if whole else (kind.low, kind.high)
        values = [low * (high / low) ** part for part in parts]
        return _unlike(min(max(round(v), kind.low), kind.high) for v in values) if whole else _unlike(values)
    if kind.step is None:
        return _unlike(kind.low + (kind.high - kind.low) * part for part in parts)
    held = round((kind.high - kind.low) / kind.step) + 1
    return _unlike(kind.low + kind.step * int(held * part) for part in parts)


def _unlike(values) -> list:
    return list(dict.fromkeys(values))


def _grid(values: dict[str, list], seed: int) -> "BaseSampler":
    from optuna.samplers import GridSampler

    class Grid(GridSampler):
        def after_trial(self, *_: Any) -> None:
            """Let the study be: at its end Optuna's grid stops a loop that is not there when trials are asked for."""

    return Grid(values, seed=seed)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what Optuna says on its log and by warnings from the user; both are as before afterwards."""
    from optuna.logging import ERROR, get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        set_verbosity(before)
