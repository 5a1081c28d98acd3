"""Hyperopt's TPE behind the same interface. It has no loop for this: trials are its own documents, written here."""

import math
from typing import TYPE_CHECKING, Any

from kit.techniques.tuning.problem import Problem, Setting
from kit.techniques.tuning.searches.search import Asked

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST_SEED = 2**31 - 1


class OnHyperopt:
    """A search by `hyperopt.tpe.suggest`. A trial under way counts as a bad one there, as in Hyperopt's own loop."""

    def __init__(self, problem: Problem, trials: int, seed: int) -> None:
        """Begin a search of the problem's space; `trials` changes nothing, Hyperopt does not plan."""
        import hyperopt
        import numpy as np

        self.space = dict(problem.space)
        self.chance = np.random.default_rng(seed)
        self.domain = hyperopt.base.Domain(None, {name: as_hyperopt(name, kind) for name, kind in self.space.items()})
        self.trials = hyperopt.Trials()

    def ask(self) -> Asked:
        """Return the next trial, marked as running."""
        from hyperopt import JOB_STATE_RUNNING, tpe

        (number,) = self.trials.new_trial_ids(1)
        seed = int(self.chance.integers(MOST_SEED))
        (document,) = tpe.suggest([number], self.domain, self.trials, seed, verbose=False)
        document["state"] = JOB_STATE_RUNNING
        self.trials.insert_trial_doc(document)
        self.trials.refresh()
        return Asked(number, self._setting(document["misc"]["vals"]), self.trials.trials[-1])

    def tell(self, asked: Asked, loss: float | None, pruned: bool = False) -> None:
        """Say how a trial ended. A loss that is no finite number counts as failed, and so as the worst."""
        from hyperopt import JOB_STATE_DONE, STATUS_FAIL, STATUS_OK

        failed = loss is None or not math.isfinite(loss)
        asked.handle["result"] = {"status": STATUS_FAIL} if failed else {"status": STATUS_OK, "loss": float(loss)}
        asked.handle["state"] = JOB_STATE_DONE

    def stops(self, asked: Asked, step: int, loss: float) -> bool:
        """Return False: Hyperopt has no pruning."""
        return False

    def _setting(self, values: dict[str, list]) -> Setting:
        return {name: as_value(kind, values[name][0]) for name, kind in self.space.items()}


def as_hyperopt(name: str, kind: "BaseDistribution") -> Any:
    """Return what Hyperopt draws a parameter from; of whole numbers the outer ones are as likely as the others."""
    from hyperopt import hp
    from optuna.distributions import CategoricalDistribution

    if isinstance(kind, CategoricalDistribution):
        return hp.choice(name, list(range(len(kind.choices))))
    if kind.log and isinstance(kind.low, int):
        return hp.qloguniform(name, math.log(kind.low - 0.5), math.log(kind.high + 0.5), 1)
    if kind.log:
        return hp.loguniform(name, math.log(kind.low), math.log(kind.high))
    if kind.step is None:
        return hp.uniform(name, kind.low, kind.high)
    return hp.quniform(name, -0.5, (kind.high - kind.low) / kind.step + 0.5, 1)


def as_value(kind: "BaseDistribution", drawn: float) -> Any:
    """Return the value that a draw stands for: a place among choices, a step of a stepped range, else itself."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(kind, CategoricalDistribution):
        return kind.choices[int(drawn)]
    if kind.step is not None and not kind.log:
        drawn = kind.low + kind.step * round(float(drawn))
    value = min(max(drawn, kind.low), kind.high)
    return round(float(value)) if isinstance(kind.low, int) else float(value)
