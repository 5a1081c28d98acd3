"""Tables at any number of rows: real flights, and those of the database-like-ops benchmark (db-benchmark), seeded.

The latter follow its R scripts (`_data/groupby-datagen.R`, `_data/join-datagen.R` of duckdblabs/db-benchmark).
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kit.common import datasets
from kit.common.datasets import ROW_GROUP, cached_tables
from kit.common.disk_cache import CACHE
from kit.common.parameters import at_least
from kit.errors import UserError
from kit.techniques.dataframes.questions import FROM_FILES, Tables, workload_of

SEED = 1
_FORMAT = 2


def tables(question: str, rows: int, keys: int = 100, missing: float = 0.0, cache: Path | str = CACHE) -> Tables:
    """Return the tables of `question` with so many rows in the main one; those "… from files" are read in each query.
    keys, missing: see `groupby` and `join`. Raise `UserError` for a question of the user's own table."""
    question, files, _ = question.partition(FROM_FILES)
    kind = workload_of(question)
    if kind == "own":
        raise UserError(f"{question} needs your own table; give data=, group_by= and values=, or another question")
    if kind == "flights":
        made = Tables("flights", rows, datasets.flights(rows, cache))
    else:
        made = groupby(rows, keys, missing, cache) if kind == "groupby" else join(rows, missing, cache)
    return replace(made, from_files=bool(files))


def db_benchmark(values: list[int]) -> dict[str, float]:
    """Return the options of `tables` from db-benchmark's K and NA %. Raise `UserError` unless there are two numbers."""
    if len(values) != 2:
        raise UserError(f"db_benchmark={values} is not allowed; give two whole numbers: keys, and % of missing values")
    return {"keys": values[0], "missing": values[1] / 100}


def groupby(rows: int, keys: int = 100, missing: float = 0.0, cache: Path | str = CACHE) -> Tables:
    """Return G1(rows, keys, missing, unsorted): one table `x`.

    id1, id2: text of `keys` different values; id3: text of rows/keys; id4, id5: whole numbers from 1 to `keys`; id6:
    from 1 to rows/keys; v1: 1 to 5; v2: 1 to 15; v3: uniform from 0 to 100, rounded to 6 places. missing: that share of
    the different keys of each id, and of the values of each v, is missing. Raise `UserError` for numbers that no such
    table has.
    """
    at_least(keys, 1, "keys", most=at_least(rows, 1, "rows", whole=True), whole=True)
    write = partial(_write_groupby, rows, keys, at_least(missing, 0, "missing", most=0.99))
    return Tables("groupby", rows, cached_tables(cache, f"groupby-{rows}-{keys}-{missing:g}-v{_FORMAT}", ["x"], write))


def join(rows: int, missing: float = 0.0, cache: Path | str = CACHE) -> Tables:
    """Return J1(rows, missing, unsorted): `x`, and `small`, `medium` and `big` to join it with on id1, id2 and id3.

    small has rows/1e6 keys (here at least 10), medium rows/1e3 (at least 100), big as many as x. Of each permutation
    of 1.1 n keys, n are in x and n in the other table, 90 % of them in both. id4, id5 and id6 are id1, id2 and id3 as
    text; v1 (of x) and v2 (of the others) are uniform from 0 to 100. missing: as in `groupby`, in x only, so that keys
    of the other tables stay unique and present. Raise `UserError` for numbers that no such tables have.
    """
    write = partial(_write_join, at_least(rows, 1, "rows", whole=True), at_least(missing, 0, "missing", most=0.99))
    tables = ("x", "small", "medium", "big")
    return Tables("join", rows, cached_tables(cache, f"join-{rows}-{missing:g}-v{_FORMAT}", tables, write))


def _write_groupby(rows: int, keys: int, missing: float, folder: Path) -> None:
    random, columns = np.random.default_rng(SEED), {}
    many = max(1, rows // keys)
    for number, count, width in ((1, keys, 3), (2, keys, 3), (3, many, 10), (4, keys, 0), (5, keys, 0), (6, many, 0)):
        pool = np.arange(1, count + 1, dtype="int32")
        ids = _with_gaps(random, random.choice(pool, rows), pool, missing)
        columns[f"id{number}"] = _text(ids, width) if width else ids
    values = {"v1": random.integers(1, 6, rows, "int32"), "v2": random.integers(1, 16, rows, "int32")}
    values["v3"] = (random.random(rows) * 100).round(6)
    gone = {name: random.random(rows, dtype="float32") < missing for name in values}
    _write(folder, "x", columns | {name: pa.array(value, mask=gone[name]) for name, value in values.items()})


def _write_join(rows: int, missing: float, folder: Path) -> None:
    random = np.random.default_rng(SEED)
    sizes = {"small": max(10, rows // 1_000_000), "medium": max(100, rows // 1_000), "big": rows}
    left, right = zip(*(_overlapping(random, size) for size in sizes.values()), strict=True)
    drawn = [*(random.choice(pool, rows) for pool in left[:-1]), left[-1]]
    ids = [_with_gaps(random, *pair, missing) for pair in zip(drawn, left, strict=True)]
    v1 = pa.array((random.random(rows) * 100).round(6), mask=random.random(rows, dtype="float32") < missing)
    _write(folder, "x", _ids(ids) | {"v1": v1})
    for number, (name, size) in enumerate(sizes.items()):
        ids = [*(random.choice(pool, size) for pool in right[:number]), right[number]]
        _write(folder, name, _ids(map(pa.array, ids)) | {"v2": (random.random(size) * 100).round(6)})


def _overlapping(random: Any, size: int) -> tuple[Any, Any]:
    """Return two arrays of `size` different keys each, in random order; nine tenths of the keys are in both."""
    common = size * 9 // 10
    drawn = random.permutation(np.arange(1, 2 * size - common + 1, dtype="int32"))
    return random.permutation(drawn[:size]), random.permutation(np.concatenate([drawn[:common], drawn[size:]]))


def _with_gaps(random: Any, drawn: Any, pool: Any, share: float) -> Any:
    """Return the keys `drawn` from a pool, of which exactly that share, rounded down, is missing."""
    return pa.array(drawn, mask=np.isin(drawn, random.choice(pool, int(len(pool) * share), replace=False)))


def _ids(numbers: Iterable[Any]) -> dict[str, Any]:
    """Return id1 to id3, as far as there are numbers, and id4 onwards as their text."""
    ids = {f"id{i}": number for i, number in enumerate(numbers, start=1)}
    return ids | {f"id{i}": _text(number) for i, number in enumerate(ids.values(), start=4)}


def _text(numbers: Any, width: int = 0) -> Any:
    return pc.binary_join_element_wise("id", pc.utf8_lpad(numbers.cast("string"), width, "0"), "")


def _write(folder: Path, name: str, columns: dict[str, Any]) -> None:
    options = {"row_group_size": ROW_GROUP, "store_schema": False}  # so that text stays plain text
    pq.write_table(pa.table(columns), folder / f"{name}.parquet", **options)
