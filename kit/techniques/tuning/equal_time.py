"""The same time for each: defaults, searches, scikit-learn's halving and AutoML on one table, judged by the same rows.

Each works in a process of its own, with one thread, on what trials may see; the labels of what is held out never reach
it. Imports are not counted, nor that what a search chose is fitted again on all that trials see; AutoML brings its own
model, whose fit is in its time. Who is not done after one and a half times the time is ended and has failed.
"""

import contextlib
import importlib
import importlib.util
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.errors import UserError
from kit.measure.process import SpawnedWorker, WorkerFailed
from kit.record import words
from kit.record.document import Chart, Series, State
from kit.record.document import Table as Told
from kit.techniques.tuning import judged
from kit.techniques.tuning.judged import Judged
from kit.techniques.tuning.problem import Setting, TrialFailed
from kit.techniques.tuning.problems import models
from kit.techniques.tuning.problems.models import OnTable
from kit.techniques.tuning.problems.own import none_worked
from kit.techniques.tuning.problems.tables import Table

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from pandas import DataFrame

OVERRUN = 1.5
"""Times its time after which a method is ended."""
START_LIMIT_S = 180.0
REFIT_LIMIT_S = 300.0
WARM_ROWS = 40
PLANNED = 100
"""Trials that a search is told it will get, since only the time is known."""


@dataclass(frozen=True)
class Found:
    """What a method came to. chosen: a setting or an estimator in words; setting: None where AutoML has its own model.
    validation_loss: by its own folds, which are not the same for all."""

    trials: int
    validation_loss: float | None
    chosen: str
    setting: Setting | None = None


@dataclass(frozen=True)
class Outcome:
    """How one method did.

    subject: model and table; budget_s: the time that each had; turn: when it had its turn, from 1 on, 0 if it was
    skipped; seconds: what it really took. judged: beside the defaults, on held-out rows. reason and remedy: why it was
    skipped or failed, and what to do.
    """

    name: str
    state: State
    subject: str
    budget_s: float
    turn: int = 0
    seconds: float | None = None
    found: Found | None = None
    judged: Judged | None = None
    reason: str = ""
    remedy: str = ""


Predict = Callable[[], np.ndarray]
Method = Callable[[OnTable, float, int], tuple[Found, Predict]]
"""method(problem, seconds, seed) returns what it found, and what foretells the held-out rows by it."""


def run(
    table: Table,
    model: str = "boosted trees",
    seconds: float = 10.0,
    names: Sequence[str] | None = None,
    seed: int = 0,
    *,
    folds: int = 3,
    rows: int | None = None,
    watch: Callable[[str], object] = lambda name: None,
) -> list[Outcome]:
    """Give each method the same seconds on a table, one after the other in random order; return them in their own.

    names: of `METHODS`; None: all. seed: of split, order and methods. rows: that trials see. watch: is told who begins.
    Raise `UserError` for no such method, or no time.
    """
    names = tuple(METHODS) if names is None else tuple(dict.fromkeys(names))
    _check(names, seconds)
    problem = models.problem(model, table, folds, seed, rows)
    reference = problem.predicted(problem.default)
    outcomes = {name: skipped for name in names if (skipped := _skipped(name, problem, seconds))}
    waiting = [name for name in names if name not in outcomes]
    for turn, position in enumerate(np.random.default_rng(seed).permutation(len(waiting)), 1):
        watch(name := waiting[position])
        outcomes[name] = _outcome(name, problem, seconds, seed, turn, reference)
    return [outcomes[name] for name in names]


def _check(names: Sequence[str], seconds: float) -> None:
    for name in names:
        if name not in METHODS:
            near = get_close_matches(name, METHODS, n=1, cutoff=0)[0]
            raise UserError(f"there is no method {name!r}; did you mean {near!r}? There are: {', '.join(METHODS)}")
    if not names:
        raise UserError(f"no method is named; choose from {', '.join(METHODS)}")
    if not 0 < seconds < math.inf:
        raise UserError(f"seconds={seconds} is no time to search in; give a number above 0, as 10")


def _skipped(name: str, problem: OnTable, seconds: float) -> Outcome | None:
    """Return why a method can't take part, if it can't."""
    skipped = partial(Outcome, name, "skipped", problem.name, seconds)
    if name == HALVING and problem.model.name != "boosted trees":
        return skipped(reason=f"it tunes estimators of scikit-learn's kind, which the {problem.model.name} is not",
                       remedy="tune boosted trees")  # fmt: skip
    missing = [module for module in METHODS[name].needs if not _is_here(module)]
    return skipped(reason=f"{missing[0]} is not installed", remedy=METHODS[name].remedy) if missing else None


def _is_here(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec(module) is not None
    return False


# In a process of its own ----------------------------------------------------------------------------------------------


def _outcome(name: str, problem: OnTable, seconds: float, seed: int, turn: int, reference: np.ndarray) -> Outcome:
    outcome, folder = Outcome(name, "failed", problem.name, seconds, turn), tempfile.TemporaryDirectory(prefix="kit-")
    began, spent = time.perf_counter(), None
    worker = SpawnedWorker(threads=1, limit_s=START_LIMIT_S)
    try:
        worker.order("prepare", _packed(METHODS[name], _blind(problem), seconds, seed, folder.name))
        began, worker.limit_s = time.perf_counter(), OVERRUN * seconds
        answer = worker.order("cold")
        found, spent = answer["answer"], answer["wall_s"]
        worker.limit_s = REFIT_LIMIT_S
        result = judged.of_predictions(problem.held, worker.order("again")["answer"], reference)
    except WorkerFailed as failure:
        late = spent is None and worker.limit_s == OVERRUN * seconds and failure.reason.startswith("over ")
        reason = f"it was ended after {words.duration(OVERRUN * seconds)}, not being done" if late else failure.reason
        took_s = time.perf_counter() - began if spent is None else spent
        return replace(outcome, seconds=took_s, reason=reason.removeprefix("UserError: "))
    except UserError as error:
        return replace(outcome, seconds=spent, found=found, reason=str(error))
    finally:
        worker.kill()
        folder.cleanup()
    return replace(outcome, state="measured", seconds=spent, found=found, judged=result)


def _blind(problem: OnTable) -> OnTable:
    """Return the problem without the labels of what is held out."""
    return replace(problem, held=replace(problem.held, labels=np.zeros_like(problem.held.labels)), final=None)


def _packed(*arguments: Any) -> bytes:
    import cloudpickle

    return cloudpickle.dumps((_Turn, arguments))


class _Turn:
    """A method's turn: the first call searches, and the next ones foretell the held-out rows."""

    def __init__(self, entrant: "Entrant", problem: OnTable, seconds: float, seed: int, folder: str) -> None:
        """Import what the method imports, and fit something tiny: neither is the search's fault.

        folder: of what it writes, which goes with it, however it ends.
        """
        tempfile.tempdir = folder
        for module in entrant.imports:
            importlib.import_module(module)
        problem.model.fit(problem.seen.take(np.arange(WARM_ROWS)), problem.default, seed)
        self.search = partial(entrant.method, problem, seconds, seed)
        self.predict: Predict | None = None

    def __call__(self) -> Any:
        if self.predict is None:
            found, self.predict = self.search()
            return found
        return self.predict()


# Searches -------------------------------------------------------------------------------------------------------------


def _defaults(problem: OnTable, seconds: float, seed: int) -> tuple[Found, Predict]:
    """Search for nothing."""
    for step in problem.trial(problem.default, seed):
        loss = step.loss
    return Found(1, loss, "the defaults", problem.default), partial(problem.predicted, problem.default)


def _search(opening: str, problem: OnTable, seconds: float, seed: int) -> tuple[Found, Predict]:
    """Search until the time is up. A trial that is under way then is dropped at its next step."""
    from kit.techniques.tuning.searches import SEARCHES

    deadline = time.perf_counter() + seconds
    search, ended, begun, reason = SEARCHES[opening](problem, PLANNED, seed), [], 0, ""
    while time.perf_counter() < deadline and (asked := search.ask()):
        begun += 1
        try:
            loss, pruned = _trial(search, problem, asked, deadline, seed)
        except TrialFailed as failure:
            reason = str(failure)
            search.tell(asked, None)
            continue
        if loss is None:
            break
        search.tell(asked, loss, pruned)
        if not pruned:
            ended.append((loss, asked.setting))
    if not ended:
        raise none_worked(begun, reason) if reason else UserError(f"no trial ended within {words.duration(seconds)}")
    loss, setting = min(ended, key=lambda one: one[0])
    return Found(begun, loss, _told(setting), dict(setting)), partial(problem.predicted, setting)


def _trial(search: Any, problem: OnTable, asked: Any, deadline: float, seed: int) -> tuple[float | None, bool]:
    """Return the loss of a trial and whether it was pruned; None, if the time was up before its end."""
    loss, chance = None, int(np.random.default_rng([seed, asked.number]).integers(2**31))
    for taken, step in enumerate(problem.trial(asked.setting, chance), 1):
        at, loss = step.at or taken, step.loss
        if not math.isfinite(loss):
            raise TrialFailed(f"its loss was {loss}")
        if search.stops(asked, at, loss):
            return loss, True
        if at >= problem.steps:
            break
        if time.perf_counter() >= deadline:
            return None, False
    return loss, False


def _told(setting: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {words.number(value) if isinstance(value, float) else value}" for name, value in setting.items()
    )


# scikit-learn's halving -----------------------------------------------------------------------------------------------

FACTOR = 3
PILOT_SHARE = 0.15
"""Of the time, to see what fits take."""
MOST_CANDIDATES = 10_000
RAREST = 10
"""Rows of the rarest class at the first rung."""


@dataclass(frozen=True)
class Drawn:
    """One of Optuna's distributions as scikit-learn draws from it."""

    kind: "BaseDistribution"

    def rvs(self, random_state: Any = None) -> Any:
        """Draw a value."""
        kind, random = self.kind, np.random.default_rng(random_state.randint(2**31) if random_state else None)
        if hasattr(kind, "choices"):
            return kind.choices[int(random.integers(len(kind.choices)))]
        whole = isinstance(kind.low, int)
        low, high = (kind.low - 0.5, kind.high + 0.5) if whole else (kind.low, kind.high)
        value = math.exp(random.uniform(math.log(low), math.log(high))) if kind.log else random.uniform(low, high)
        value = min(max(value, kind.low), kind.high)
        return round(value) if whole else value


def _halving(problem: OnTable, seconds: float, seed: int) -> tuple[Found, Predict]:
    """Halve by rows: many settings on few rows, the best third of them on three times as many, and so on to all.

    It takes no time budget. So a few settings are timed first, and it begins with as many as should take four tenths
    of what is left; what they really took tells how many more it is given, until no more would fit. Where time is
    short it has one try, though that may take a little longer than it should.
    """
    deadline = time.perf_counter() + seconds
    space = {name: Drawn(kind) for name, kind in problem.space.items()}
    fit_s = _fit_seconds(problem, space, PILOT_SHARE * seconds, seed)
    left_s, pace, searches, candidates = deadline - time.perf_counter(), 1.0, [], 0
    plan = _plan(problem, 0.4 * left_s, fit_s) or _plan(problem, 1.2 * left_s, fit_s)
    while plan:
        began = time.perf_counter()
        searches.append(_halved(problem, space, plan, seed + len(searches)))
        candidates += plan.candidates
        pace, left_s = (time.perf_counter() - began) / plan.seconds, deadline - time.perf_counter()
        plan = _plan(problem, 0.8 * left_s / pace, fit_s)
    if not searches:
        raise UserError(f"no setting can be judged on all rows within {words.duration(seconds)}")
    best = max(searches, key=lambda search: search.best_score_)
    setting = dict(best.best_params_)
    return Found(candidates, -float(best.best_score_), _told(setting), setting), partial(problem.predicted, setting)


def _halved(problem: OnTable, space: Mapping[str, Drawn], plan: "Plan", seed: int) -> Any:
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingRandomSearchCV

    seen = problem.seen
    return HalvingRandomSearchCV(
        models.estimator(seen, seed),
        dict(space),
        n_candidates=plan.candidates,
        factor=FACTOR,
        min_resources=plan.rows,
        max_resources=len(seen),
        cv=list(problem.folds),
        scoring=partial(_score, seen),
        refit=False,
        return_train_score=False,
        random_state=seed % 2**31,
        n_jobs=1,
    ).fit(seen.features, seen.labels, **models.fit_options(seen))


def _score(seen: Table, fitted: Any, features: np.ndarray, labels: np.ndarray) -> float:
    part = replace(seen, features=features, labels=labels, groups=None)
    return -models.loss(part, models.by_trees(fitted, part))


def _least(seen: Table) -> int:
    """Return how many rows the first rung has, so that of each class a few are to be expected."""
    if seen.kind == "numbers":
        return min(100, len(seen))
    share = np.bincount(seen.labels)[np.unique(seen.labels)].min() / len(seen)
    return min(len(seen), max(100, math.ceil(RAREST / share)))


def _fit_seconds(problem: OnTable, space: Mapping[str, Drawn], seconds: float, seed: int) -> Callable[[float], float]:
    """Return what a fit on so many rows takes, a line through two sizes, timed on random settings for some seconds."""
    random, fitted_on = np.random.RandomState(seed % 2**31), problem.folds[0][0]
    small = min(_least(problem.seen), len(fitted_on))
    sizes, took_s = (small, max(small, len(fitted_on) // FACTOR)), ([], [])
    deadline = time.perf_counter() + seconds
    while not took_s[0] or time.perf_counter() < deadline:
        setting = {name: drawn.rvs(random) for name, drawn in space.items()}
        for size, times in zip(sizes, took_s, strict=True):
            part = problem.seen.take(random.permutation(fitted_on)[:size])
            began = time.perf_counter()
            problem.model.fit(part, setting, seed)(part)
            times.append(time.perf_counter() - began)
    first, second = np.mean(took_s, axis=1)
    slope = max(0.0, second - first) / max(1, sizes[1] - sizes[0])
    return lambda rows: max(first, first + slope * (rows - sizes[0]))


@dataclass(frozen=True)
class Plan:
    """With how many settings and how many rows to begin, and what that should take."""

    candidates: int
    rows: int
    seconds: float


def _plan(problem: OnTable, seconds: float, fit_s: Callable[[float], float]) -> Plan | None:
    """Return the largest plan whose last rung has all rows and that fits into the seconds; None if none does."""
    rows, folds, best, candidates = len(problem.seen), len(problem.folds), None, 1
    most = 1 + int(math.log(rows / _least(problem.seen), FACTOR) + 1e-9)
    while candidates < MOST_CANDIDATES:
        rungs = min(most, 1 + int(math.log(candidates, FACTOR) + 1e-9))
        begin = rows // FACTOR ** (rungs - 1)
        took_s = sum(
            folds * math.ceil(candidates / FACTOR**rung) * fit_s(begin * FACTOR**rung * (folds - 1) / folds)
            for rung in range(rungs)
        )
        if took_s <= seconds:
            best = Plan(candidates, begin, took_s)
        elif took_s > 2 * seconds:  # one rung more may cost less than many settings on one less
            break
        candidates += max(1, candidates // 20)
    return best


# AutoML ---------------------------------------------------------------------------------------------------------------


def _flaml(problem: OnTable, seconds: float, seed: int) -> tuple[Found, Predict]:
    """FLAML chooses kind and setting of the estimator, by folds of its own, and fits it on all when the time is up."""
    from pathlib import Path

    from flaml.automl import AutoML

    seen, automl = problem.seen, AutoML()
    grouped = {} if seen.groups is None else {"split_type": "group", "groups": seen.groups}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        automl.fit(
            X_train=_frame(seen),
            y_train=seen.labels,
            task="classification" if seen.kind == "classes" else "regression",
            metric="log_loss" if seen.kind == "classes" else "rmse",
            time_budget=seconds,
            n_jobs=1,
            seed=seed % 2**31,
            eval_method="cv",
            n_splits=len(problem.folds),
            log_file_name=str(log),
            log_type="all",
            verbose=0,
            **grouped,
        )
        trials = log.read_text().count('"trial_time"') if log.exists() else 0
    if automl.best_estimator is None or automl.model is None:
        raise UserError(f"no trial ended within {words.duration(seconds)}")
    chosen = f"{automl.best_estimator}: {_told(automl.best_config)}"
    return Found(trials, float(automl.best_loss), chosen), partial(_foretold, problem, automl)


def _autogluon(problem: OnTable, seconds: float, seed: int) -> tuple[Found, Predict]:
    """AutoGluon fits kinds of models on the problem's own folds and weighs them together. It takes no seed."""

    from autogluon.tabular import TabularPredictor

    seen, fold = problem.seen, np.zeros(len(problem.seen), int)
    for number, (_, judged_by) in enumerate(problem.folds):
        fold[judged_by] = number
    kind = "regression" if seen.kind == "numbers" else "binary" if len(seen.classes) == 2 else "multiclass"
    metric = "log_loss" if seen.kind == "classes" else "root_mean_squared_error"
    with tempfile.TemporaryDirectory(prefix="autogluon-") as folder:
        predictor = TabularPredictor("target", kind, metric, path=folder, verbosity=0, groups="fold")
        predictor.fit(
            _frame(seen).assign(target=seen.labels, fold=fold),
            time_limit=seconds,
            num_cpus=1,
            num_gpus=0,
            num_bag_folds=len(problem.folds),
            num_stack_levels=0,
        )
        predictor.persist()  # in memory: the folder goes
    best, scores = predictor.model_best, predictor.leaderboard().set_index("model")["score_val"]
    return Found(len(scores), -float(scores[best]), best), partial(_foretold, problem, predictor)


def _foretold(problem: OnTable, model: Any) -> np.ndarray:
    """Return what AutoML's model foretells for the held-out rows. A class that it did not meet gets no chance."""
    held, classes = problem.held, np.unique(problem.seen.labels)
    if held.kind == "numbers":
        return np.asarray(model.predict(_frame(held)), np.float64)
    every = np.zeros((len(held), len(held.classes)))
    every[:, classes] = np.asarray(model.predict_proba(_frame(held)))
    return every


def _frame(table: Table) -> "DataFrame":
    """Return features as pandas has them, codes as categories."""
    import pandas

    frame = pandas.DataFrame(table.features, columns=[f"x{number}" for number in range(len(table.columns))])
    for column in table.categorical:
        codes = np.nan_to_num(table.features[:, column], nan=-1).astype(int)
        frame[f"x{column}"] = pandas.Categorical.from_codes(codes, list(range(table.codes[column])))
    return frame


@dataclass(frozen=True)
class Entrant:
    """A method as it takes part. imports: made before its time begins; needs: modules that must be there; remedy: how
    to have them."""

    method: Method
    imports: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    remedy: str = ""


HALVING = "scikit-learn halving"
_OPTUNA = ("optuna.samplers", "optuna.pruners", "scipy.stats", "kit.techniques.tuning.searches")
METHODS = {
    "defaults": Entrant(_defaults),
    "random": Entrant(partial(_search, "random"), _OPTUNA),
    "TPE": Entrant(partial(_search, "TPE"), _OPTUNA),
    "TPE + pruning": Entrant(partial(_search, "TPE + ASHA"), _OPTUNA),
    "Hyperopt TPE": Entrant(
        partial(_search, "Hyperopt TPE"), (*_OPTUNA, "hyperopt"), ("hyperopt",), "pip install hyperopt"
    ),
    HALVING: Entrant(_halving, ("sklearn.experimental.enable_halving_search_cv",)),
    "FLAML": Entrant(_flaml, ("flaml.automl",), ("flaml", "xgboost"), "pip install 'flaml[automl]'"),
    "AutoGluon": Entrant(
        _autogluon,
        ("autogluon.tabular",),
        ("autogluon.tabular",),
        "pip install --no-deps autogluon.tabular autogluon.core autogluon.features autogluon.common",
    ),
}
"""Who can take part, by name. AutoGluon asks for an older pandas than the kit's, though it works with it: hence
`--no-deps`."""


# Shown ----------------------------------------------------------------------------------------------------------------


def table(outcomes: Sequence[Outcome]) -> Told:
    """Return a row a method: what it took, what it found, and what that is worth on rows that no trial saw."""
    first = next((one.judged for one in outcomes if one.judged), None)
    measure, scores = (first.measure, list(first.scores)) if first else ("loss", [])
    columns = ["method", "seconds", "trials", f"{measure}, own folds", f"{measure}, held out", "less the defaults'",
               "95 % interval", *scores, "pays", "chosen"]  # fmt: skip
    by = f" Held out: {first.by}." if first else ""
    budget = words.duration(outcomes[0].budget_s) if outcomes else "—"
    note = (
        f"Each had {budget}, one thread and a process of its own, in random order; the last fit of what a search chose "
        f"comes on top, that of AutoML does not. Lower loss is better.{by}"
    )
    if left := _left_out(outcomes):
        note += f" {left}"
    subject = outcomes[0].subject if outcomes else "a table"
    return Told(f"The same time for each, {subject}", columns, [_row(one, scores) for one in outcomes], note)


def _row(one: Outcome, scores: Sequence[str]) -> list[Any]:
    found = [one.found.trials, one.found.validation_loss] if one.found else [None, None]
    if one.judged is None:
        return [one.name, one.seconds, *found, None, None, None, *[None] * len(scores), one.state, one.reason]
    result = one.judged
    ends = "" if result.low is None else f"[{words.number(result.low)}, {words.number(result.high)}]"
    pays = "—" if one.name == "defaults" else "yes" if result.pays else "no"
    ours = [result.scores[name][0] for name in scores]
    return [one.name, one.seconds, *found, result.loss, result.difference, ends, *ours, pays, one.found.chosen]


def chart(outcomes: Sequence[Outcome]) -> Chart:
    """Return the difference in held-out loss to the defaults, a bar a method; one that has none is named below.

    Raise `UserError` if there is nobody beside the defaults.
    """
    others = [one for one in outcomes if one.name != "defaults"]
    if not others:
        raise UserError("no method stands beside the defaults, so there is nothing to draw; name some")
    first = next((one.judged for one in others if one.judged), None)
    measure, by = (first.measure, f", {first.by}") if first else ("loss", "")
    note = "Below 0: better than the defaults, on rows that no trial saw; intervals draw those rows anew."
    return Chart(
        f"Worth of {words.duration(others[0].budget_s)} of search: held-out {measure} (lower is better)",
        f"{others[0].subject}{by}",
        f"{measure} less the defaults'",
        [_bar(one) for one in others if one.judged or not first],
        shape="bars",
        note=" ".join(filter(None, (note, _left_out(outcomes)))),
    )


def _bar(one: Outcome) -> Series:
    if one.judged is None:
        return Series(one.name, [one.subject], [None])
    result = one.judged
    ends = (None, None) if result.low is None else ([result.low], [result.high])
    return Series(one.name, [one.subject], [result.difference], *ends)


def _left_out(outcomes: Sequence[Outcome]) -> str:
    """Return in a sentence who is missing, and why."""
    why = [f"{one.name} ({one.state}: {one.reason})" for one in outcomes if one.state != "measured"]
    return f"Without {'; '.join(why)}." if why else ""
