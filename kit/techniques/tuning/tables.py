"""Boosted trees on a real table, built in or your own, as a tuning problem with held-out rows."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution

from kit.common import datasets, readers
from kit.errors import UserError
from kit.techniques.tuning.workload import Problem, Setting, Space, suggest

if TYPE_CHECKING:
    from optuna.trial import Trial
    from pandas import DataFrame, Series

HELD_OUT, FOLDS = 4, 3
"""One row in so many is held out; the others are cut into so many folds."""
MIN_ROWS, MIN_CLASS_ROWS, MIN_GROUPS = 60, 8, 8
MAX_CLASSES = 20
"""A column of whole numbers with no more different ones, but more than two, could hold classes or a number."""
MAX_TEXTS = 1000
"""A text column with more different values is left out: it names rows, not kinds of rows."""


@dataclass(frozen=True, eq=False)
class Table:
    """Features and labels. labels: positions in `classes`, or numbers where there are none. groups: rows of one stay
    together; None: each row stands alone."""

    name: str
    features: "DataFrame"
    labels: np.ndarray
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    note: str = ""

    def take(self, rows: np.ndarray) -> "Table":
        """Return the rows at these positions."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, features=self.features.iloc[rows], labels=self.labels[rows], groups=groups)

    @property
    def measure(self) -> str:
        """Name of the loss."""
        return "log loss" if self.classes else "mean squared error"

    def losses(self, predicted: np.ndarray) -> np.ndarray:
        """Return the loss of each row, [rows]: minus the log of the true class's probability, or the squared error."""
        if not self.classes:
            return (predicted - self.labels) ** 2
        least = np.finfo(np.float64).eps  # as in scikit-learn's log_loss
        return -np.log(np.clip(predicted[np.arange(len(self.labels)), self.labels], least, 1.0))


DEFAULTS = dict(
    learning_rate=0.1, n_estimators=100, num_leaves=31, min_child_samples=20, colsample_bytree=1.0, subsample=1.0
)
"""LightGBM's own."""

SPACE: Space = {
    "learning_rate": FloatDistribution(0.01, 0.5, log=True),
    "n_estimators": IntDistribution(20, 400, log=True),
    "num_leaves": IntDistribution(4, 128, log=True),
    "min_child_samples": IntDistribution(2, 200, log=True),
    "colsample_bytree": FloatDistribution(0.3, 1.0),
    "subsample": FloatDistribution(0.5, 1.0),
}


def objective(seen: Table, folds: list, trial: "Trial") -> float:
    """Return the mean loss of a trial's parameters over folds; after each fold the trial may be pruned."""
    from optuna import TrialPruned

    setting, losses = suggest(trial, SPACE), []
    for step, (fit_rows, validation_rows) in enumerate(folds, 1):
        validation = seen.take(validation_rows)
        losses.append(validation.losses(predict(fit(seen.take(fit_rows), setting), validation)).mean())
        trial.report(float(np.mean(losses)), step)
        if step < len(folds) and trial.should_prune():
            raise TrialPruned
    return float(np.mean(losses))


def fit(table: Table, setting: Setting) -> Any:
    """Fit LightGBM with `KIT_THREADS` threads, one by default."""
    import lightgbm

    threads = int(os.environ.get("KIT_THREADS") or 1)
    kind = lightgbm.LGBMClassifier if table.classes else lightgbm.LGBMRegressor
    model = kind(n_jobs=threads, random_state=0, deterministic=True, subsample_freq=1, verbose=-1, **setting)
    return model.fit(table.features, table.labels)


def predict(model: Any, table: Table) -> np.ndarray:
    """Return probabilities [rows, classes], or numbers [rows]. A class that the model did not see has probability 0."""
    if not table.classes:
        return np.asarray(model.predict(table.features), np.float64)
    every = np.zeros((len(table.labels), len(table.classes)))
    known = np.asarray(model.classes_, int)
    every[:, known] = model.predict_proba(table.features)[:, : len(known)]  # two columns also where one class was seen
    return every


# As a problem ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class TableProblem(Problem):
    """Boosted trees on a table. seen: rows that trials may use; held: rows that no trial sees; folds: of `seen`."""

    seen: Table
    held: Table
    folds: list


def boosted_trees(data: str, target_column: str = "", rows: int = 0, seed: int = 0, **options: Any) -> TableProblem:
    """Return boosted trees on a table, with a quarter held out. rows: that trials see; 0: all. options: see `load`."""
    table = load(data, target_column, **options)
    seen_rows, held_rows = next(parts(table, HELD_OUT, seed))
    seen, held = table.take(seen_rows), table.take(held_rows)
    if rows and rows < len(seen_rows) / 2:
        some = next(parts(replace(seen, groups=None), round(len(seen_rows) / rows), seed))[1]
        seen = seen.take(some)
    folds, sizes = list(parts(seen, FOLDS, seed)), f"{len(seen.labels):,} rows, {len(held_rows):,} are held out"
    return TableProblem(
        name=f"boosted trees on {table.name}",
        objective=partial(objective, seen, folds),
        space=SPACE,
        default=DEFAULTS,
        note=f"{table.note} Trials see {sizes}. Loss: {table.measure}.",
        seen=seen,
        held=held,
        folds=folds,
    )


def parts(table: Table, number: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (other rows, rows of the part) of each part: stratified by class, rows of a group kept together."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    plain, grouped = (StratifiedKFold, StratifiedGroupKFold) if table.classes else (KFold, GroupKFold)
    if table.groups is None:
        return plain(number, shuffle=True, random_state=seed).split(table.features, table.labels)
    groups = len(np.unique(table.groups))
    if groups < MIN_GROUPS:
        raise UserError(f"{table.name} has {groups} groups; give a group column with {MIN_GROUPS} or more, or none")
    splitter = grouped(min(number, groups), shuffle=True, random_state=seed)
    return splitter.split(table.features, table.labels, table.groups)


# Reading --------------------------------------------------------------------------------------------------------------


def load(data: str, target_column: str = "", **options: Any) -> Table:
    """Return a table: "flights", or a CSV or Parquet file at a path or URL.

    target_column: of your own file; "rating as classes" or "rating as number" where whole numbers could be either;
    "rating by customer" keeps the rows of a group together. options: of `readers.source`.
    """
    if data == "flights":
        if target_column:
            raise UserError(f"{data} has a target of its own; leave target_column empty, or give a file as data")
        return _flights()
    if not target_column:
        raise UserError(f"{readers.shown(data)} needs a target; give target_column='price', or 'price by customer'")
    source = readers.source(data, **options)
    plain = target_column in source.schema.names  # a column's own name may contain " by "
    match = None if plain else re.fullmatch(r"(.+?)(?: as (classes|number))?(?: by (.+))?", target_column)
    column, kind, group = match.groups() if match else (target_column, None, None)
    for one in filter(None, (column, group)):
        source.field(one, "target_column")
    frame, name = source.table().to_pandas(), Path(readers.shown(data)).name.split(".")[0]
    return as_table(frame, name, column, group, f"Your own table of {len(frame):,} rows, {source.summary}.", kind)


@cache
def _flights() -> Table:
    import pandas

    schedule = ["month", "day", "sched_dep_time", "sched_arr_time", "carrier", "origin", "dest", "distance"]
    frame = pandas.read_parquet(datasets.flights()["flights"], columns=["arr_delay", *schedule]).dropna()
    frame["late"] = np.where(frame.pop("arr_delay") > 15, "late", "on time")
    frame["date"] = frame["month"] * 100 + frame.pop("day")
    frame["weekday"] = pandas.to_datetime("2013" + frame["date"].astype(str).str.zfill(4)).dt.weekday
    note = f"{len(frame):,} flights from New York in 2013, by their schedule: over 15 minutes late? Days stay together."
    return as_table(frame, "flights", "late", "date", note)


def as_table(
    frame: "DataFrame", name: str, column: str, group: str | None, note: str, kind: str | None = None
) -> Table:
    """Return a frame as a table: times as days, texts as categories. Raise `UserError` if its target cannot be used."""
    import pandas

    labels, classes = _labels(frame[column], column, kind)
    groups = pandas.factorize(frame[group])[0] if group else None
    if groups is not None and (groups < 0).any():
        raise UserError(f"{(groups < 0).sum():,} rows have no group in {group!r}; fill them in or drop those rows")
    coded = {one: _coded(frame[one]) for one in frame.columns if one not in (column, group)}
    used = [values for values in coded.values() if values is not None]
    if not used:
        raise UserError(f"{name} has no column to learn from apart from {column!r}; add numbers, or texts that repeat")
    if left_out := [one for one, values in coded.items() if values is None]:
        note += f" Left out: {', '.join(left_out)} (over {MAX_TEXTS:,} different texts, or none twice)."
    features = pandas.concat(used, axis=1).reset_index(drop=True)
    features.columns = [str(one).replace(":", " ") for one in features.columns]  # LightGBM refuses some characters
    return Table(name, features, labels, classes, groups, note)


def _labels(values: "Series", column: str, kind: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels with their classes; no classes for numbers. kind: "classes", "number" or None."""
    import pandas
    from pandas.api import types

    different, missing = values.nunique(), int(values.isna().sum())
    if missing or len(values) < MIN_ROWS or different < 2:
        found = f"{len(values):,} rows, {missing:,} missing and {different} different values"
        raise UserError(f"target {column!r} has {found}; give {MIN_ROWS} rows or more, none missing, 2 or more values")
    if types.is_numeric_dtype(values) and not types.is_bool_dtype(values):
        numbers = values.to_numpy(np.float64)
        whole = (numbers == np.round(numbers)).all()
        if kind is None and whole and 2 < different <= MAX_CLASSES:
            few = f"{different} whole numbers from {numbers.min():g} to {numbers.max():g}"
            raise UserError(f"target {column!r} has {few}; write '{column} as classes' or '{column} as number'")
        if kind == "number" or (kind is None and not (whole and different == 2)):
            return numbers, ()
    elif kind == "number":
        raise UserError(f"target {column!r} has {values.dtype} values, no numbers; write '{column} as classes'")
    codes, names = pandas.factorize(values, sort=True)
    counts = np.bincount(codes)
    if (least := int(counts.min())) < MIN_CLASS_ROWS:
        rare = str(names[int(counts.argmin())])
        raise UserError(f"class {rare!r} of {column!r} has {least} rows; drop it, or give {MIN_CLASS_ROWS} or more")
    return codes.astype(np.int64), tuple(map(str, names))


def _coded(values: "Series") -> "Series | None":
    """Return a column as LightGBM reads it; None for texts that do not repeat."""
    import pandas
    from pandas.api import types

    if types.is_datetime64_any_dtype(values):
        return (values - values.min()) / pandas.Timedelta(days=1)
    if types.is_numeric_dtype(values):
        numbers = values.astype("float64")
        return numbers.where(np.isfinite(numbers))
    texts = values.astype(str).where(values.notna())
    return texts.astype("category") if 0 < texts.nunique() <= min(MAX_TEXTS, len(values) - 1) else None
