"""The user's own table: CSV or Parquet from anywhere, checked, and written as Parquet for every engine."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kit.common import readers
from kit.common.datasets import ROW_GROUP, cached_tables
from kit.common.disk_cache import CACHE
from kit.errors import UserError
from kit.techniques.dataframes.in_sql import listed
from kit.techniques.dataframes.questions import Tables

_FORMAT = 3
_NUMBERS = ("int64", "double")
_RESULTS = ("rows", "position", "key_number")
_AGGREGATES = ("sum", "mean", "min", "max")


def tables(data: str, by: list[str], values: list[str], cache: Path | str = CACHE, **options: Any) -> Tables:
    """Return the user's table as `x`, with the columns `by` and `values`, and as `keys` nine in ten of its keys.

    data, options: see `common.readers.source`. keys: each complete key once, with its number in their order
    (`key_number`), but for every tenth. For all engines to mean the same, values become float64, keys int64 or
    float64, true and false 1 and 0, dates and times microseconds without a zone, NaN a missing value.
    Raise `UserError` with the remedy if files or columns can't be used.
    """
    by, values = list(dict.fromkeys(by)), list(dict.fromkeys(values))
    source = readers.source(data, **options)
    types = _types(source, by, values)
    stamp = hashlib.sha256(repr((source.stamp, types, by)).encode()).hexdigest()[:16]
    paths = cached_tables(cache, f"own-{stamp}-v{_FORMAT}", ("x", "keys"), partial(_write, source, types, by))
    rows = pq.read_metadata(paths["x"]).num_rows
    return Tables("own", rows, paths, tuple(by), tuple(values), source.summary)


def _types(source: readers.Source, by: list[str], values: list[str]) -> dict[str, pa.DataType]:
    """Return column → type to write. Raise `UserError` for columns that can't be grouped or summed, and where a result
    would have two columns of one name, as SQL compares names: whatever the case."""
    types = {}
    for parameter, names in (("group_by", by), ("values", values)):
        if not names:
            raise UserError(f"{parameter} names no column; choose from: {', '.join(source.schema.names)}")
        for field in (source.in_all(name, parameter) for name in names):
            types[field.name] = _shared_type(field.type)
            if types[field.name] is None:
                kinds = "use numbers, text, true and false, dates or times"
                raise UserError(f"column {field.name!r} is {field.type}; {kinds}")
    if text := next((name for name in values if types[name] not in _NUMBERS), None):
        example = f" ({source.misfits[text]} is no number)" if text in source.misfits else ""
        numbers = ", ".join(field.name for field in source.schema if _shared_type(field.type) in _NUMBERS) or "none"
        raise UserError(
            f"column {text!r} is {source.field(text).type}{example}, and values are numbers; fix the file, list what "
            f"is a missing value in read_options as missing=, or choose from the columns of numbers: {numbers}"
        )
    taken = [name.casefold() for name in (*_RESULTS, *by, *values, *(f"{v}_{a}" for v in values for a in _AGGREGATES))]
    if twice := next((name for name in reversed([*by, *values]) if taken.count(name.casefold()) > 1), None):
        raise UserError(f"column {twice!r} would be twice in a result, as key, value, rows or sum; name another")
    return types | dict.fromkeys(values, pa.float64())


def _shared_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type that a column gets; None for one that not all engines can group."""
    types = pa.types
    if types.is_dictionary(kind):
        return _shared_type(kind.value_type)
    if types.is_boolean(kind) or types.is_integer(kind) or (types.is_decimal(kind) and kind.scale <= 0):
        return pa.int64()
    if types.is_floating(kind) or types.is_decimal(kind):
        return pa.float64()
    if types.is_date(kind) or types.is_timestamp(kind):
        return pa.timestamp("us")
    return pa.string() if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) else None


def _write(source: readers.Source, types: dict[str, pa.DataType], by: list[str], folder: Path) -> None:
    schema, present, names = pa.schema(types), dict.fromkeys(types, 0), listed(by)
    with pq.ParquetWriter(folder / "x.parquet", schema) as writer:
        for batch in source.batches(types):
            part = pa.table([_plain(batch[f.name], f, source, f.name in by) for f in schema], schema=schema)
            writer.write_table(part, row_group_size=ROW_GROUP)
            present = {name: count + len(part) - part[name].null_count for name, count in present.items()}
    if empty := next((name for name, count in present.items() if not count), None):
        raise UserError(f"column {empty!r} of {source.shown} is empty: all its values are missing; name another")
    with duckdb.connect() as connection:
        x = connection.read_parquet(str(folder / "x.parquet"))
        whole = x.filter(" AND ".join(f"{listed([name])} IS NOT NULL" for name in by))
        numbered = whole.project(names).distinct().project(f"*, row_number() OVER (ORDER BY {names}) AS key_number")
        numbered.filter("key_number % 10 <> 0").write_parquet(str(folder / "keys.parquet"))


def _plain(column: pa.ChunkedArray, field: pa.Field, source: readers.Source, key: bool) -> pa.ChunkedArray:
    """Return a column in the type of `field`, with missing values where there was NaN. key: no two values may merge."""
    try:
        shared = column.cast(field.type, safe=key)
        lost = key and pa.types.is_decimal(column.type) and shared.cast(column.type, safe=False) != column
    except pa.ArrowInvalid:
        lost = True
    if lost:
        raise UserError(
            f"column {field.name!r} of {source.shown} has values of {column.type} that {field.type}, which all engines "
            f"share, can't hold; read them as text (read_options type.{field.name}=text)"
        )
    return pc.if_else(pc.is_nan(shared), None, shared) if pa.types.is_floating(field.type) else shared
