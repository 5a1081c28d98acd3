"""Tuning problems: Optuna objectives, with what is known of each. Read this first.

An objective is a function of an Optuna trial that returns a loss, lower is better; to be pruned it reports its loss
after each step and raises `TrialPruned`. Three kinds are here:

- a known function, whose minimum is published and whose trials take a drawn time;
- tables of real trainings that this project recorded once, where a trial looks up its loss and its seconds
  (`benchmarks/record_tuning_tables.py` records one; NAME.json next to NAME.npz lists data, settings and versions);
- your own, "package.module:function". It may have the attributes `default` (the parameters used without a search) and
  `held_out` (parameters → loss on data that no trial saw).

Trials of the first two kinds spend no time: their seconds are in the trial's user attribute `seconds`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.common.address import resolve
from kit.common.parameters import one_of
from kit.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Setting = Mapping[str, Any]
"""A value for each parameter."""
Space = Mapping[str, "BaseDistribution"]
"""Optuna's distributions by parameter."""
SECONDS = "seconds"


@dataclass(frozen=True, eq=False)
class Problem:
    """Something to tune.

    space: empty where only the objective knows it. default: parameters used without a search. truth: setting → loss
    without noise, where known. held_out: setting → loss of a refit on data that
    no trial saw. simulated: trials spend no time.
    """

    name: str
    objective: Callable[["Trial"], float]
    space: Space = field(default_factory=dict)
    default: Setting | None = None
    truth: Callable[[Setting], float] | None = None
    held_out: Callable[[Setting], float] | None = None
    simulated: bool = False
    note: str = ""


def suggest(trial: "Trial", space: Space) -> dict[str, Any]:
    """Ask a trial for all numbers of a space."""
    from optuna.distributions import IntDistribution

    found = {}
    for name, kind in space.items():
        ask = trial.suggest_int if isinstance(kind, IntDistribution) else trial.suggest_float
        found[name] = ask(name, kind.low, kind.high, log=kind.log)
    return found


def noise(trial: "Trial") -> np.random.Generator:
    """Return the random numbers of a trial: those of the same number and study seed, in every search."""
    seed = trial.study.user_attrs.get("seed", 0) if hasattr(trial, "study") else 0
    return np.random.default_rng([seed, trial.number])


# A known function -----------------------------------------------------------------------------------------------------

MEDIAN_S, SIGMA = 1.0, 0.5
"""Trial durations are log-normal: one in ten takes under 0.53 s, one in ten over 1.9 s."""
_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_P = np.array([
    [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
    [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
    [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
    [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
])  # fmt: skip


def hartmann6(setting: Setting) -> float:
    """Return Hartmann's function of six numbers from 0 to 1: four wells, the deepest −3.32237 (Dixon and Szegö 1978, as
    in sfu.ca/~ssurjano/hart6.html)."""
    x = np.array([setting[f"x{number}"] for number in range(1, 7)])
    return float(-_ALPHA @ np.exp(-(_A * (x - _P) ** 2).sum(axis=1)))


def known() -> Problem:
    """Return Hartmann's function as a problem whose trials take a drawn time. The default is the middle."""
    from optuna.distributions import FloatDistribution

    space = {f"x{number}": FloatDistribution(0.0, 1.0) for number in range(1, 7)}

    def objective(trial: "Trial") -> float:
        trial.set_user_attr(SECONDS, float(MEDIAN_S * noise(trial).lognormal(0.0, SIGMA)))
        return hartmann6(suggest(trial, space))

    about = {"simulated": True, "note": "A known function of 6 numbers with the minimum -3.32237."}
    return Problem("Hartmann-6", objective, space, dict.fromkeys(space, 0.5), truth=hartmann6, **about)


# Recorded trainings ---------------------------------------------------------------------------------------------------

RECORDED = Path(__file__).parent / "recorded"
TABLES = ("digits net", "adult trees", "MNIST kernel")


@dataclass(frozen=True, eq=False)
class Recorded:
    """Recorded trainings of a grid of settings. about: NAME.json. loss: [settings…, seeds, rungs] on the validation
    part; seconds: likewise, of each rung alone; test: [settings…, seeds], of a refit, on rows that no trial saw."""

    about: dict[str, Any]
    loss: np.ndarray
    seconds: np.ndarray
    test: np.ndarray

    def place(self, setting: Setting) -> tuple[int, ...]:
        """Return the position of the nearest recorded setting: by factor on log axes, else by distance."""
        place = []
        for axis in self.about["axes"]:
            scale = np.log if axis["log"] else np.asarray
            place.append(int(np.argmin(abs(scale(axis["values"]) - scale(setting[axis["name"]])))))
        return tuple(place)

    def run(self, steps: list[int], space: Space, trial: "Trial") -> float:
        """Look up one of the recorded runs of the nearest setting, rung by rung."""
        from optuna import TrialPruned

        place = self.place(suggest(trial, space))
        run = noise(trial).integers(len(self.about["seeds"]))
        losses, spent_s = self.loss[place][run].tolist(), np.cumsum(self.seconds[place][run], dtype=float).tolist()
        for step, loss, until_s in zip(steps, losses, spent_s, strict=True):
            trial.report(loss, step)
            if step < steps[-1] and trial.should_prune():
                trial.set_user_attr(SECONDS, until_s)
                raise TrialPruned
        trial.set_user_attr(SECONDS, spent_s[-1])
        return losses[-1]


@cache
def table(name: str) -> Recorded:
    """Return a recorded table by its name."""
    path = RECORDED / f"{name.lower().replace(' ', '_')}.npz"
    with np.load(path) as arrays:
        found = [arrays[part] for part in ("loss", "seconds", "test")]
    return Recorded(json.loads(path.with_suffix(".json").read_text()), *found)


def recorded(name: str) -> Problem:
    """Return a recorded table as a problem. The default is the library's own, at the nearest recorded values."""
    from optuna.distributions import FloatDistribution, IntDistribution

    found, space = table(name), {}
    for axis in found.about["axes"]:
        kind = IntDistribution if axis["whole"] else FloatDistribution
        space[axis["name"]] = kind(axis["values"][0], axis["values"][-1], log=axis["log"])
    truths, test = (each.mean(axis=-1, dtype=float) for each in (found.loss[..., -1], found.test))
    steps = [rung // found.about["rungs"][0] for rung in found.about["rungs"]]
    return Problem(
        name,
        partial(found.run, steps, space),
        space,
        found.about["default"],
        truth=lambda setting: float(truths[found.place(setting)]),
        held_out=lambda setting: float(test[found.place(setting)]),
        simulated=True,
        note=f"{found.about['note'][0].upper()}{found.about['note'][1:]}.",
    )


SIMULATED: dict[str, Callable[[], Problem]] = {
    "Hartmann-6": known,
    **{name: partial(recorded, name) for name in TABLES},
}
"""Problems whose trials spend no time."""


def open_problem(name: str) -> Callable[[], Problem]:
    """Return the function that opens a problem in each process: one of `SIMULATED`, or your own objective,
    "package.module:function". Raise `UserError` if there is none of that name."""
    opening = partial(own, name) if ":" in name else SIMULATED[one_of(name, SIMULATED, "objective")]
    opening()  # a mistake is reported here, not by a worker
    return opening


def own(address: str) -> Problem:
    """Return your own objective, "package.module:function", as a problem. Raise `UserError` if it cannot be used."""
    function, default = resolve(address), getattr(resolve(address), "default", None)
    if default is not None and not isinstance(default, Mapping):
        raise UserError(f"{address} has default={default!r:.60}; give a dict of parameter values")
    name, held_out = address.rpartition(":")[2], getattr(function, "held_out", None)
    return Problem(name, function, {}, default, held_out=held_out, note=f"Your own objective {address}.")


def digits_svm(trial: "Trial") -> float:
    """An objective of brief real trials, to copy: the error of a support vector machine on handwritten digits."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    pixels, digits = load_digits(return_X_y=True)
    machine = SVC(
        C=trial.suggest_float("C", 1e-2, 1e2, log=True),
        gamma=trial.suggest_float("gamma", 1e-5, 1e-1, log=True),
    )
    return 1 - cross_val_score(machine, pixels[:600], digits[:600], cv=3).mean()
