"""Methods with the same time on one real table, as variants of a comparison that evaluates them on held-out rows.

Each works in a process of its own with one thread; the labels of the held-out rows never reach it. Nothing is timed,
since all have the same time: the first call searches and refits, later ones return the same predictions. The refit of
a search comes on top of its budget, that of AutoML does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kit.errors import UserError
from kit.measure.work import Setup, verified
from kit.record import formatting as fmt
from kit.record.document import CheckResult
from kit.techniques.tuning.samplers import create_study, quiet
from kit.techniques.tuning.tables import Table, TableProblem, fit, predict
from kit.techniques.tuning.workload import Setting

METHODS = ("random", "TPE", "TPE + ASHA", "Hyperopt TPE", "FLAML")
"""Methods next to the defaults."""
NEEDS = {"FLAML": ("flaml", "xgboost"), "Hyperopt TPE": ("hyperopt",)}
ROWS = 4_000
"""Rows that trials see, about: many trials fit into seconds."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Predicted:
    """A method's predictions for the held-out rows. validation_loss: by its own folds; chosen: its setting in words."""

    method: str
    trials: int | None
    validation_loss: float | None
    chosen: str
    predictions: np.ndarray


@dataclass(frozen=True)
class FixedBudget:
    """One method with so many seconds: called with a `TableProblem`, it returns what searches and predicts."""

    method: str
    budget_s: float

    def __call__(self, problem: TableProblem) -> Setup:
        """Import what the method needs and fit a small model: neither counts as search."""
        blind = replace(problem, held=replace(problem.held, labels=np.zeros_like(problem.held.labels)))
        if self.method == "FLAML":
            from flaml import automl  # noqa: F401
        fit(blind.seen, {"n_estimators": 2})
        found: list[Predicted] = []

        def call() -> Predicted:
            if not found:
                run = {"defaults": _defaults, "Hyperopt TPE": _hyperopt, "FLAML": _flaml}.get(self.method, _search)
                found.append(run(self, blind))
            return found[0]

        def proof() -> Any:
            return verified(method=self.method, trials=found[0].trials, chosen=found[0].chosen)

        return Setup(call, proof, not_timed=f"every method has {self.budget_s:g} s")


def _defaults(method: FixedBudget, problem: TableProblem) -> Predicted:
    return Predicted("defaults", None, None, "LightGBM's", predict(fit(problem.seen, problem.default), problem.held))


def _search(method: FixedBudget, problem: TableProblem) -> Predicted:
    study = create_study(method.method, 0, 0)
    with quiet():
        study.optimize(problem.objective, timeout=method.budget_s)
    if not [trial for trial in study.trials if trial.state.name == "COMPLETE"]:
        raise UserError(f"no trial was complete within {method.budget_s:g} s; raise search_budget_s")
    predictions = predict(fit(problem.seen, study.best_params), problem.held)
    return Predicted(method.method, len(study.trials), study.best_value, _in_words(study.best_params), predictions)


def _hyperopt(method: FixedBudget, problem: TableProblem) -> Predicted:
    """Hyperopt's own loop over the objective of the other searches; whole numbers are drawn ones, rounded down."""
    from hyperopt import Trials, fmin, hp, tpe
    from optuna.trial import FixedTrial

    def setting(drawn: Setting) -> Setting:
        return {name: type(problem.default[name])(value) for name, value in drawn.items()}

    space, trials = {}, Trials()
    for name, kind in problem.space.items():
        ends = kind.low, kind.high + isinstance(kind.high, int)
        space[name] = hp.loguniform(name, *np.log(ends)) if kind.log else hp.uniform(name, *ends)
    options = {"rstate": np.random.default_rng(0), "verbose": False, "show_progressbar": False}
    run = {"fn": lambda drawn: problem.objective(FixedTrial(setting(drawn))), "algo": tpe.suggest, "trials": trials}
    best = setting(fmin(space=space, timeout=method.budget_s, **run, **options))
    predictions = predict(fit(problem.seen, best), problem.held)
    return Predicted(method.method, len(trials), min(trials.losses()), _in_words(best), predictions)


def _flaml(method: FixedBudget, problem: TableProblem) -> Predicted:
    """FLAML's AutoML chooses estimator and parameters by folds of its own, and refits within its time."""
    from flaml.automl import AutoML

    seen, held, automl = problem.seen, problem.held, AutoML()
    automl.fit(
        X_train=seen.features,
        y_train=seen.labels,
        task="classification" if seen.classes else "regression",
        metric="log_loss" if seen.classes else "mse",
        time_budget=method.budget_s,
        n_jobs=1,
        seed=0,
        eval_method="cv",
        n_splits=len(problem.folds),
        verbose=0,
        **({} if seen.groups is None else {"split_type": "group", "groups": seen.groups}),
    )
    if automl.best_estimator is None:
        raise UserError(f"no trial was complete within {method.budget_s:g} s; raise search_budget_s")
    chosen = f"{automl.best_estimator}: {_in_words(automl.best_config)}"
    return Predicted("FLAML", None, float(automl.best_loss), chosen, predict(automl, held))


def _in_words(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {fmt.cell(value)}" for name, value in setting.items())


# Held-out rows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated:
    """A method's mean loss on held-out rows, and its difference to that of the defaults: below 0 is better. low, high:
    its 95 % interval by a paired bootstrap over rows, or over groups; it covers these, not the seed of the search."""

    loss: float
    difference: float
    low: float
    high: float


def evaluate(held: Table, predicted: np.ndarray, default: np.ndarray) -> Evaluated:
    """Evaluate predictions for held-out rows next to those of the defaults."""
    from scipy.stats import bootstrap

    if not np.isfinite(predicted).all():
        raise UserError("the model predicts NaN or infinity for held-out rows; narrow the space")
    losses = held.losses(predicted)
    more = losses - held.losses(default)
    unit = np.arange(len(held.labels)) if held.groups is None else np.unique(held.groups, return_inverse=True)[1]
    sums = np.bincount(unit, more), np.bincount(unit)
    options = {"n_resamples": RESAMPLES, "batch": 100, "method": "percentile", "rng": np.random.default_rng(0)}
    found = bootstrap(sums, lambda d, n, axis=-1: d.sum(axis) / n.sum(axis), paired=True, vectorized=True, **options)
    return Evaluated(*map(float, (losses.mean(), more.mean(), *found.confidence_interval)))


class HeldOutCheck:
    """Quality check: a method fails if it is significantly worse than the defaults on held-out rows, whose labels it
    alone has. evaluated: what was found so far, by method."""

    def __init__(self, held: Table) -> None:
        self.held = held
        self.evaluated: dict[str, tuple[Predicted, Evaluated]] = {}

    def __call__(self, answer: Predicted, reference: Predicted) -> CheckResult:
        """Evaluate a method's predictions next to those of the defaults."""
        found = evaluate(self.held, answer.predictions, reference.predictions)
        self.evaluated[answer.method] = answer, found
        return CheckResult(
            state="failed" if found.low > 0 else "passed",
            metric=f"held-out {self.held.measure}",
            value=found.loss,
            threshold=found.loss - found.difference,
            note=f"difference {found.difference:+.2g} (95 % CI {found.low:+.2g} to {found.high:+.2g})",
        )
