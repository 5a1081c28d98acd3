"""Functions whose minimum is known, as trials: with noise if wanted, and durations that are drawn, not spent.

Formulas, spaces and minima: L. C. W. Dixon and G. P. Szegö, "The global optimization problem: an introduction", in
Towards Global Optimisation 2, North-Holland 1978, as S. Surjanovic and D. Bingham give them in the Virtual Library
of Simulation Experiments (sfu.ca/~ssurjano: hart6, branin, rosen).

A trial lasts a log-normal time of median 1 s and sigma 0.5: one in ten is under 0.53 s, one in ten over 1.9 s, as
trainings differ that share a code and not a size. Seed and setting say how long, and what the noise is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from kit.errors import UserError
from kit.techniques.tuning.problem import Problem, Setting, Step

MEDIAN_S, SIGMA = 1.0, 0.5


@dataclass(frozen=True)
class Known:
    """A function of real numbers.

    bounds: low and high of each. spread: standard deviation of its values over the space, each point as likely.
    best, at: the published minimum, and where it is (one of the points if there are several).
    """

    name: str
    function: Callable[[np.ndarray], float]
    bounds: tuple[tuple[float, float], ...]
    spread: float
    best: float
    at: tuple[float, ...]

    def names(self) -> list[str]:
        """Return the parameters' names: x1, x2, …."""
        return [f"x{nth}" for nth in range(1, len(self.bounds) + 1)]

    def truth(self, setting: Setting) -> float:
        """Return the function's value."""
        return float(self.function(self._point(setting)))

    def trial(self, noise: float, setting: Setting, seed: int) -> Iterator[Step]:
        """Yield the one step of a trial: the value with noise, and how long it would have taken."""
        bits = self._point(setting).view(np.uint32).tolist()
        chance = np.random.default_rng([seed, *bits])
        seconds = MEDIAN_S * chance.lognormal(0.0, SIGMA)
        yield Step(self.truth(setting) + noise * self.spread * chance.standard_normal(), seconds)

    def problem(self, noise: float) -> Problem:
        """Return it as a problem; its default is the middle of the space."""
        from optuna.distributions import FloatDistribution

        if noise < 0:
            raise UserError(f"noise={noise} is below nothing; give 0 for none, or a part of the spread, as noise=0.05")
        ranges = dict(zip(self.names(), self.bounds, strict=True))
        return Problem(
            name=f"{self.name} with noise" if noise else self.name,
            space={name: FloatDistribution(low, high) for name, (low, high) in ranges.items()},
            trial=partial(self.trial, noise),
            default={name: (low + high) / 2 for name, (low, high) in ranges.items()},
            truth=self.truth,
            best=self.best,
            simulated=True,
            note=self._note(noise),
        )

    def _point(self, setting: Setting) -> np.ndarray:
        return np.array([setting[name] for name in self.names()], dtype=np.float64)

    def _note(self, noise: float) -> str:
        deviation = f"noise of standard deviation {noise * self.spread:.2g}" if noise else "no noise"
        return f"a known function of {len(self.bounds)} numbers, its smallest value {self.best:.6g}; {deviation}"


def hartmann6(noise: float = 0.0) -> Problem:
    """Return Hartmann's function of six numbers: six local minima, four wells. Its minimum is −3.32237.

    noise: standard deviation of what is added to a loss, as a part of the function's spread.
    """
    return HARTMANN6.problem(noise)


def branin(noise: float = 0.0) -> Problem:
    """Return Branin's function of two numbers: three equal minima of 0.397887.

    noise: standard deviation of what is added to a loss, as a part of the function's spread.
    """
    return BRANIN.problem(noise)


def rosenbrock(noise: float = 0.0) -> Problem:
    """Return log(1 + Rosenbrock's function) of four numbers: a narrow, bent valley. Its minimum is 0, at ones.

    The logarithm leaves the minimum and the order of all settings as they are; without it the values go from 0 to
    millions, as losses never do, and noise that is small beside them would fill the valley.
    noise: standard deviation of what is added to a loss, as a part of the function's spread.
    """
    return ROSENBROCK.problem(noise)


_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def _hartmann6(x: np.ndarray) -> float:
    return -_ALPHA @ np.exp(-(_A * (x - _P) ** 2).sum(axis=1))


def _branin(x: np.ndarray) -> float:
    bend = x[1] - 5.1 / (4 * np.pi**2) * x[0] ** 2 + 5 / np.pi * x[0] - 6
    return bend**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x[0]) + 10


def _log_rosenbrock(x: np.ndarray) -> float:
    return np.log1p((100 * (x[1:] - x[:-1] ** 2) ** 2 + (x[:-1] - 1) ** 2).sum())


HARTMANN6 = Known(
    "Hartmann-6",
    _hartmann6,
    bounds=((0.0, 1.0),) * 6,
    spread=0.383,
    best=-3.32237,
    at=(0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573),
)
BRANIN = Known("Branin", _branin, bounds=((-5.0, 10.0), (0.0, 15.0)), spread=51.2, best=0.397887, at=(np.pi, 2.275))
ROSENBROCK = Known(
    "Rosenbrock (log)", _log_rosenbrock, bounds=((-5.0, 10.0),) * 4, spread=1.59, best=0.0, at=(1.0,) * 4
)
