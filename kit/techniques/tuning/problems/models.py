"""Models to tune on a table: boosted trees and a small network.

A trial sees three quarters of the table: boosted trees are judged by cross-validation (a step is a fold, its loss the
mean so far), the network on the first fold (a step is an epoch). All trials of a problem have the same folds, so that
they are compared on the same rows; a trial's seed is that of the model's own chance. What is chosen is fitted again on
all three quarters and judged on the last one, which no trial saw.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kit.errors import UserError
from kit.techniques.tuning.problem import Problem, Setting, Space, Step, TrialFailed
from kit.techniques.tuning.problems import tables
from kit.techniques.tuning.problems.tables import Table

Fold = tuple[np.ndarray, np.ndarray]
"""Rows to fit on, rows to be judged by."""

Predict = Callable[[Table], np.ndarray]
"""Table → probabilities float64 [rows, classes], or numbers [rows]."""


@dataclass(frozen=True)
class Model:
    """What can be tuned on a table.

    fit: fit(table, setting, seed) returns what predicts. trial: trial(seen, folds, setting, seed) yields the steps.
    steps: how many there are with so many folds. default: what its makers give who sets nothing.
    """

    name: str
    space: Callable[[], Space]
    default: Mapping[str, Any]
    fit: Callable[[Table, Setting, int], Predict]
    trial: Callable[[Table, Sequence[Fold], Setting, int], Iterator[Step]]
    steps: Callable[[int], int]


@dataclass(frozen=True, eq=False, kw_only=True)
class OnTable(Problem):
    """A model on a table. seen: what trials see; folds: its parts; held: what none sees; seed: of parts and refits."""

    model: Model
    seen: Table
    held: Table
    folds: Sequence[Fold]
    seed: int

    def predicted(self, setting: Setting) -> np.ndarray:
        """Fit on all that trials see, and return what is foretold for each row that none saw."""
        return self.model.fit(self.seen, setting, self.seed)(self.held)


def problem(model: str, table: Table, folds: int = 3, seed: int = 0, rows: int | None = None) -> OnTable:
    """Return a model, "boosted trees" or "network", on a table.

    folds: that boosted trees are judged by; of the network's data, one part of so many judges. rows: let trials see
    about so many only; what is held out stays the whole quarter, so that it tells small differences. seed: of split,
    rows and folds. Loss: log loss of classes, RMSE of numbers. Raise `UserError` for no such model, or too few groups.
    """
    if model not in MODELS:
        raise UserError(f"there is no model {model!r}; it is one of {', '.join(MODELS)}")
    chosen = MODELS[model]
    seen, held = tables.split(table, seed)
    seen = tables.sample(seen, rows, seed)
    parts = tables.folds(seen, folds, seed)

    def final(setting: Setting) -> float:
        return loss(held, chosen.fit(seen, setting, seed)(held))

    return OnTable(
        f"{model} on {table.name}",
        chosen.space(),
        partial(chosen.trial, seen, parts),
        chosen.steps(folds),
        default=dict(chosen.default),
        final=final,
        note=f"{table.note} Trials see {len(seen):,} rows, {len(held):,} are held out; loss: {measure(table)}.".strip(),
        model=chosen,
        seen=seen,
        held=held,
        folds=parts,
        seed=seed,
    )


# Losses ---------------------------------------------------------------------------------------------------------------


def measure(table: Table) -> str:
    """Return what the loss is called."""
    return "log loss" if table.kind == "classes" else "RMSE"


def losses(table: Table, predicted: np.ndarray) -> np.ndarray:
    """Return the loss of each row [rows]: minus the log of the true class's probability, or the squared error."""
    if table.kind == "numbers":
        return (predicted - table.labels) ** 2
    smallest = np.finfo(np.float64).eps  # as scikit-learn's log_loss has it
    return -np.log(np.clip(predicted[np.arange(len(table)), table.labels], smallest, 1.0))


def mean(table: Table, each: np.ndarray) -> float:
    """Return the loss of all rows from those of each: their mean, for RMSE its root."""
    return float(np.sqrt(each.mean()) if table.kind == "numbers" else each.mean())


def loss(table: Table, predicted: np.ndarray) -> float:
    """Return the loss of what was foretold for a table."""
    return mean(table, losses(table, predicted))


def threads() -> int:
    """Return how many threads a fit may use: `KIT_THREADS`, else one."""
    return int(os.environ.get("KIT_THREADS") or 1)


# Boosted trees --------------------------------------------------------------------------------------------------------


def _trees_space() -> Space:
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        "learning_rate": FloatDistribution(0.01, 0.5, log=True),
        "n_estimators": IntDistribution(20, 400, log=True),
        "num_leaves": IntDistribution(4, 128, log=True),
        "min_child_samples": IntDistribution(2, 200, log=True),
        "colsample_bytree": FloatDistribution(0.3, 1.0),
        "subsample": FloatDistribution(0.5, 1.0),
    }


def estimator(table: Table, seed: int, setting: Setting | None = None) -> Any:
    """Return LightGBM's estimator for scikit-learn, with the makers' defaults beside `setting`."""
    import lightgbm

    kind = lightgbm.LGBMClassifier if table.kind == "classes" else lightgbm.LGBMRegressor
    fixed = {"n_jobs": threads(), "random_state": seed % 2**31, "deterministic": True, "verbose": -1}
    return kind(subsample_freq=1, **fixed, **(setting or {}))


def fit_options(table: Table) -> dict[str, Any]:
    """Return what the estimator's fit needs to know of a table beside its rows."""
    return {"categorical_feature": table.categorical} if table.categorical else {}


def _fit_trees(table: Table, setting: Setting, seed: int) -> Predict:
    fitted = estimator(table, seed, setting).fit(table.features, table.labels, **fit_options(table))
    return partial(by_trees, fitted)


def by_trees(fitted: Any, table: Table) -> np.ndarray:
    """Return what boosted trees foretell. A class that they did not meet gets no chance."""
    raw = fitted.booster_.predict(table.features)  # the estimator would check the rows' names, which there are not
    if table.kind == "numbers":
        return raw
    every = np.zeros((len(table), len(table.classes)))
    if len(fitted.classes_) == 1:
        raw = 1.0
    elif raw.ndim == 1:
        raw = np.column_stack([1 - raw, raw])
    every[:, fitted.classes_] = raw
    return every


def _trees_trial(seen: Table, folds: Sequence[Fold], setting: Setting, seed: int) -> Iterator[Step]:
    found: list[float] = []
    for fitted_on, judged_by in folds:
        began = time.perf_counter()
        judge = seen.take(judged_by)
        found.append(loss(judge, _fit_trees(seen.take(fitted_on), setting, seed)(judge)))
        yield Step(float(np.mean(found)), time.perf_counter() - began)


# Network --------------------------------------------------------------------------------------------------------------

EPOCHS = 12


def _network_space() -> Space:
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        "learning_rate": FloatDistribution(1e-4, 3e-2, log=True),
        "width": IntDistribution(16, 256, log=True),
        "layers": IntDistribution(1, 3),
        "dropout": FloatDistribution(0.0, 0.5),
        "weight_decay": FloatDistribution(1e-5, 1e-1, log=True),
        "batch": IntDistribution(32, 512, log=True),
    }


def _fit_network(table: Table, setting: Setting, seed: int) -> Predict:
    from kit.techniques.tuning.problems.network import Training

    training = Training(table, setting, seed, threads())
    for _ in range(EPOCHS):
        training.epoch()
    return training.predict


def _network_trial(seen: Table, folds: Sequence[Fold], setting: Setting, seed: int) -> Iterator[Step]:
    from kit.techniques.tuning.problems.network import Training

    fitted_on, judged_by = folds[0]
    judge, began = seen.take(judged_by), time.perf_counter()
    training = Training(seen.take(fitted_on), setting, seed, threads())
    for _ in range(EPOCHS):
        training.epoch()
        found = loss(judge, training.predict(judge))
        if not np.isfinite(found):
            raise TrialFailed(f"its loss was {found}: the learning rate is too high")
        yield Step(found, time.perf_counter() - began)
        began = time.perf_counter()


MODELS = {
    "boosted trees": Model(
        "boosted trees",
        _trees_space,
        {  # LightGBM's
            "learning_rate": 0.1,
            "n_estimators": 100,
            "num_leaves": 31,
            "min_child_samples": 20,
            "colsample_bytree": 1.0,
            "subsample": 1.0,
        },
        _fit_trees,
        _trees_trial,
        lambda folds: folds,
    ),
    "network": Model(
        "network",
        _network_space,
        {  # those of scikit-learn's MLPClassifier, but for the epochs
            "learning_rate": 1e-3,
            "width": 100,
            "layers": 1,
            "dropout": 0.0,
            "weight_decay": 1e-4,
            "batch": 200,
        },
        _fit_network,
        _network_trial,
        lambda folds: EPOCHS,
    ),
}
"""What can be tuned, by name."""
