"""Generated tables: those of the database-like-ops benchmark (db-benchmark), seeded, at any number of rows.

After its R scripts (`_data/groupby-datagen.R`, `_data/join-datagen.R` of duckdblabs/db-benchmark). Rows are drawn and
written a few row groups at a time, so that memory stays small at any size; only the keys of a join with a table as big
as the rows are drawn at once, since they are permutations.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from kit.errors import UserError
from kit.techniques.dataframes.questions import workload
from kit.techniques.dataframes.tables import CACHE, ROW_GROUP, Tables, cached

CHUNK = 8 * ROW_GROUP
JOINED = ("x", "small", "medium", "big")
_FORMAT = 1


def tables(
    question: str,
    rows: int,
    keys: int = 100,
    missing: float = 0.0,
    sort: bool = False,
    seed: int = 1,
    cache: Path | str = CACHE,
) -> Tables:
    """Return the generated tables of `question`: those of `groupby` or of `join`, which has no `keys`.

    Raise `UserError` if the question is of neither.
    """
    kind = workload(question)
    if kind not in ("groupby", "join"):
        raise UserError(f"{question} is not asked of generated tables; ask groupby_1 … groupby_10 or join_1 … join_5")
    if kind == "groupby":
        return groupby(rows, keys, missing, sort, seed, cache)
    return join(rows, missing, sort, seed, cache)


def groupby(
    rows: int,
    keys: int = 100,
    missing: float = 0.0,
    sort: bool = False,
    seed: int = 1,
    cache: Path | str = CACHE,
) -> Tables:
    """Return G1(rows, keys, missing, sort): one table `x`.

    id1, id2: text of `keys` different values; id3: text of rows/keys; id4, id5: whole numbers from 1 to `keys`; id6:
    from 1 to rows/keys; v1: 1 to 5; v2: 1 to 15; v3: uniform from 0 to 100, rounded to 6 places. missing: that share of
    the different keys of each id, and of the values of each v, is missing. sort: by id1 to id6.
    Raise `UserError` for numbers that no such table has.
    """
    _check(rows, missing)
    if not 1 <= keys <= rows:
        raise UserError(f"keys={keys}: a table of {rows:,} rows has 1 to {rows:,} different keys")
    name = f"groupby-{rows}-{keys}-{missing:g}{'-sorted' if sort else ''}-{seed}-v{_FORMAT}"
    paths = cached(
        cache, name, ("x",), lambda folder: _write(folder / "x.parquet", _groupby_rows(rows, keys, missing, seed), sort)
    )
    return Tables("groupby", rows, paths)


def join(rows: int, missing: float = 0.0, sort: bool = False, seed: int = 1, cache: Path | str = CACHE) -> Tables:
    """Return J1(rows, missing, sort): `x`, and `small`, `medium` and `big` to join it with on id1, id2 and id3.

    small has rows/1e6 keys (here at least 10), medium rows/1e3 (at least 100), big as many as x. Of each permutation
    of 1.1 n keys, n are in x and n in the other table, 90 % of them in both. id4, id5 and id6 are id1, id2 and id3 as
    text; v1 (of x) and v2 (of the others) are uniform from 0 to 100. missing: as in `groupby`, in x only, so that keys
    of the other tables stay unique and present. sort: each by its columns, from the left.
    Raise `UserError` for numbers that no such tables have.
    """
    _check(rows, missing)
    name = f"join-{rows}-{missing:g}{'-sorted' if sort else ''}-{seed}-v{_FORMAT}"
    paths = cached(cache, name, JOINED, lambda folder: _write_join(folder, rows, missing, sort, seed))
    return Tables("join", rows, paths)


def _check(rows: int, missing: float) -> None:
    if rows < 1:
        raise UserError(f"rows={rows}: a table needs at least 1 row")
    if not 0 <= missing < 1:
        raise UserError(f"missing={missing}: the share of missing values is from 0 to below 1, as 0.05 for 5 %")


def _groupby_rows(rows: int, keys: int, missing: float, seed: int) -> Iterator[Any]:
    """Yield the rows of G1, a chunk at a time."""
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(seed)
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


def _write_join(folder: Path, rows: int, missing: float, sort: bool, seed: int) -> None:
    import numpy as np

    random = np.random.default_rng(seed)
    sizes = {"small": max(10, rows // 1_000_000), "medium": max(100, rows // 1_000), "big": rows}
    pairs = {name: _overlapping(random, size) for name, size in sizes.items()}
    left, right = ([pair[side] for pair in pairs.values()] for side in (0, 1))
    _write(folder / "x.parquet", _join_left(random, left, missing), sort)
    for number, name in enumerate(sizes, start=1):
        _write(folder / f"{name}.parquet", _join_right(random, right[:number]), sort)


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


def _write(path: Path, parts: Iterable[Any], sort: bool) -> None:
    """Write the tables in `parts` as one parquet file, sorted by all columns from the left if asked for."""
    import pyarrow.parquet

    parts = iter(parts)
    first = next(parts)
    target = path.with_suffix(".unsorted") if sort else path
    with pyarrow.parquet.ParquetWriter(target, first.schema, store_schema=False) as writer:  # text stays plain text
        for part in chain([first], parts):
            writer.write_table(part, row_group_size=ROW_GROUP)
    if sort:
        _sort(target, path)


def _sort(source: Path, target: Path) -> None:
    """Sort a parquet file by DuckDB, which spills to disk what does not fit in memory."""
    import duckdb

    with duckdb.connect(config={"temp_directory": str(target.parent / "spill")}) as connection:
        rows = connection.read_parquet(str(source)).order("ALL")
        rows.write_parquet(str(target), row_group_size=ROW_GROUP)
    source.unlink()
