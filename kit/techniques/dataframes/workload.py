"""Tables at any number of rows: real flights, and those of the database-like-ops benchmark (db-benchmark), seeded.

The latter follow its R scripts (`_data/groupby-datagen.R`, `_data/join-datagen.R` of duckdblabs/db-benchmark). Rows are
drawn and written a few row groups at a time, so that memory stays small at any size; only the keys of a join with a
table as big as the rows are drawn at once, since they are permutations.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from kit.common import datasets
from kit.common.datasets import ROW_GROUP, cached_tables
from kit.common.disk_cache import CACHE
from kit.common.parameters import at_least
from kit.errors import UserError
from kit.techniques.dataframes.questions import FROM_FILES, workload_of
from kit.techniques.dataframes.tables import Tables

CHUNK = 8 * ROW_GROUP
SEED = 1
_FORMAT = 1


def tables(
    question: str,
    rows: int,
    keys: int = 100,
    missing: float = 0.0,
    cache: Path | str = CACHE,
) -> Tables:
    """Return the tables of `question` with so many rows in the main one; those "… from files" are read in each query.

    keys, missing: of the generated tables, see `groupby` and `join`. Raise `UserError` for a question of the user's
    own table.
    """
    question, files, _ = question.partition(FROM_FILES)
    if files:
        return replace(tables(question, rows, keys, missing, cache), from_files=True)
    kind = workload_of(question)
    if kind == "own":
        raise UserError(f"{question} needs your own table; give data=, by= and values=, or another question")
    if kind == "flights":
        return Tables("flights", rows, datasets.flights(rows, cache))
    if kind == "groupby":
        return groupby(rows, keys, missing, cache)
    return join(rows, missing, cache)


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
    _check(rows, missing)
    at_least(keys, 1, "keys", most=rows, whole=True)
    name = f"groupby-{rows}-{keys}-{missing:g}-v{_FORMAT}"
    write = lambda folder: _write(folder / "x.parquet", _groupby_rows(rows, keys, missing))  # noqa: E731
    return Tables("groupby", rows, cached_tables(cache, name, ["x"], write))


def join(rows: int, missing: float = 0.0, cache: Path | str = CACHE) -> Tables:
    """Return J1(rows, missing, unsorted): `x`, and `small`, `medium` and `big` to join it with on id1, id2 and id3.

    small has rows/1e6 keys (here at least 10), medium rows/1e3 (at least 100), big as many as x. Of each permutation
    of 1.1 n keys, n are in x and n in the other table, 90 % of them in both. id4, id5 and id6 are id1, id2 and id3 as
    text; v1 (of x) and v2 (of the others) are uniform from 0 to 100. missing: as in `groupby`, in x only, so that keys
    of the other tables stay unique and present. Raise `UserError` for numbers that no such tables have.
    """
    _check(rows, missing)
    name = f"join-{rows}-{missing:g}-v{_FORMAT}"
    tables = ("x", "small", "medium", "big")
    return Tables("join", rows, cached_tables(cache, name, tables, partial(_write_join, rows, missing)))


def _check(rows: int, missing: float) -> None:
    at_least(rows, 1, "rows", whole=True)
    at_least(missing, 0, "missing", most=0.99)


def _groupby_rows(rows: int, keys: int, missing: float) -> Iterator[Any]:
    """Yield the rows of G1, a chunk at a time."""
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(SEED)
    many = max(1, rows // keys)
    counts = {"id1": keys, "id2": keys, "id3": many, "id4": keys, "id5": keys, "id6": many}
    gone = {name: _some(random, count, missing) for name, count in counts.items()}
    few = pa.array([f"id{i:03d}" for i in range(1, keys + 1)])
    text = {"id1": few, "id2": few, "id3": pa.array([f"id{i:010d}" for i in range(1, many + 1)])}
    for _, size in _chunks(rows):
        columns = {}
        for name, count in counts.items():
            code = random.integers(count, size=size, dtype="int32")
            whole = pa.array(code if name in text else code + 1, mask=gone[name][code])
            columns[name] = pa.DictionaryArray.from_arrays(whole, text[name]) if name in text else whole
        for name, most in (("v1", 5), ("v2", 15)):
            drawn = random.integers(1, most + 1, size=size, dtype="int32")
            columns[name] = pa.array(drawn, mask=_cells(random, size, missing))
        columns["v3"] = pa.array(_uniform(random, size), mask=_cells(random, size, missing))
        yield pa.table(columns)


def _write_join(rows: int, missing: float, folder: Path) -> None:
    import numpy as np

    random = np.random.default_rng(SEED)
    sizes = {"small": max(10, rows // 1_000_000), "medium": max(100, rows // 1_000), "big": rows}
    pairs = {name: _overlapping(random, size) for name, size in sizes.items()}
    left, right = ([pair[side] for pair in pairs.values()] for side in (0, 1))
    _write(folder / "x.parquet", _join_left(random, left, missing))
    for number, name in enumerate(sizes, start=1):
        _write(folder / f"{name}.parquet", _join_right(random, right[:number]))


def _overlapping(random: Any, size: int) -> tuple[Any, Any]:
    """Return two arrays of `size` different keys each, in random order; nine tenths of the keys are in both."""
    import numpy as np

    common = size * 9 // 10
    drawn = random.permutation(np.arange(1, 2 * size - common + 1, dtype="int32"))
    return random.permutation(drawn[:size]), random.permutation(np.concatenate([drawn[:common], drawn[size:]]))


def _join_left(random: Any, keys: list[Any], missing: float) -> Iterator[Any]:
    """Yield the rows of x, a chunk at a time: keys of the small and the medium table are drawn, those of the big one
    all come once."""
    import numpy as np
    import pyarrow as pa

    rows = len(keys[-1])
    gone = [_some(random, len(pool), missing) for pool in keys]
    for start, size in _chunks(rows):
        places = [random.integers(len(pool), size=size) for pool in keys[:-1]] + [np.arange(start, start + size)]
        ids = [pa.array(pool[at], mask=no[at]) for pool, at, no in zip(keys, places, gone, strict=True)]
        v1 = pa.array(_uniform(random, size), mask=_cells(random, size, missing))
        yield _ids(ids).append_column("v1", v1)


def _join_right(random: Any, keys: list[Any]) -> Iterator[Any]:
    """Yield the rows of small, medium or big: every key of the last of `keys` once, the others drawn."""
    import pyarrow as pa

    for start, size in _chunks(len(keys[-1])):
        ids = [*(random.choice(pool, size) for pool in keys[:-1]), keys[-1][start : start + size]]
        yield _ids([pa.array(part) for part in ids]).append_column("v2", pa.array(_uniform(random, size)))


def _ids(numbers: list[Any]) -> Any:
    """Return id1 to idn as whole numbers, and id4 onwards as their text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = [pc.binary_join_element_wise("id", pc.cast(number, pa.string()), "") for number in numbers]
    names = [f"id{i}" for i in range(1, len(numbers) + 1)] + [f"id{i}" for i in range(4, len(numbers) + 4)]
    return pa.table(dict(zip(names, [*numbers, *text], strict=True)))


def _some(random: Any, count: int, share: float) -> Any:
    """Return for each of `count` keys whether it is one of the missing ones: exactly that share, rounded down."""
    import numpy as np

    gone = np.zeros(count, dtype=bool)
    gone[random.permutation(count)[: int(count * share)]] = True
    return gone


def _cells(random: Any, size: int, share: float) -> Any:
    return random.random(size, dtype="float32") < share if share else None


def _uniform(random: Any, size: int) -> Any:
    return (random.random(size) * 100).round(6)


def _chunks(rows: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of each chunk."""
    return ((start, min(CHUNK, rows - start)) for start in range(0, rows, CHUNK))


def _write(path: Path, parts: Iterator[Any]) -> None:
    """Write the tables in `parts` as one parquet file."""
    import pyarrow.parquet

    first = next(parts)
    with pyarrow.parquet.ParquetWriter(path, first.schema, store_schema=False) as writer:  # text stays plain text
        for part in chain([first], parts):
            writer.write_table(part, row_group_size=ROW_GROUP)
