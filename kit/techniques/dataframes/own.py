"""The user's own table: CSV or Parquet from anywhere, checked, and written as Parquet for every engine."""

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.common.datasets import ROW_GROUP, cached_tables
from kit.common.disk_cache import CACHE
from kit.errors import UserError
from kit.techniques.dataframes.in_sql import listed
from kit.techniques.dataframes.questions import Tables

if TYPE_CHECKING:
    import pyarrow as pa

    from kit.common.readers import Source

_FORMAT = 3
_NUMBERS = ("int32", "int64", "double")
_RESULTS = ("rows", "position", "key_number")
_AGGREGATES = ("sum", "mean", "min", "max")


def tables(data: str, by: list[str], values: list[str], cache: Path | str = CACHE, **options: Any) -> Tables:
    """Return the user's table as `x`, with the columns `by` and `values`, and as `keys` nine in ten of its keys.

    data, options: see `common.readers.source`. keys: each complete key once, with its number in their order
    (`key_number`), but for every tenth. For all engines to mean the same, integers become int64 (as keys also int32),
    other numbers float64, true and false 1 and 0, dates and times microseconds without a zone, NaN a missing value.
    Raise `UserError` with the remedy if files or columns can't be used, and where integers may sum to more than int64.
    """
    import pyarrow.parquet

    from kit.common import readers

    by, values = list(dict.fromkeys(by)), list(dict.fromkeys(values))
    source = readers.source(data, **options)
    types = _types(source, by, values)
    stamp = hashlib.sha256(repr((source.stamp, types, by)).encode()).hexdigest()[:16]
    paths = cached_tables(cache, f"own-{stamp}-v{_FORMAT}", ("x", "keys"), partial(_write, source, types, by))
    rows = pyarrow.parquet.read_metadata(paths["x"]).num_rows
    other = [f"{name}: {kind}" for name, kind in types.items() if kind != source.field(name).type]
    summary = f"{source.summary}; for all engines {', '.join(other)}" if other else source.summary
    return Tables("own", rows, paths, tuple(by), tuple(values), summary)


def _types(source: "Source", by: list[str], values: list[str]) -> "dict[str, pa.DataType]":
    """Return column → type to write. Raise `UserError` for columns that can't be grouped or summed."""
    types = {}
    for parameter, names in (("by", by), ("values", values)):
        if not names:
            raise UserError(f"{parameter} names no column; choose from: {', '.join(source.schema.names)}")
        fields = [source.in_all(name, parameter) for name in names]
        if odd := next((field for field in fields if _shared_type(field.type) is None), None):
            raise UserError(f"column {odd.name!r} is {odd.type}; use numbers, text, true and false, dates or times")
        types |= {field.name: _shared_type(field.type) for field in fields}
    if text := next((name for name in values if types[name] not in _NUMBERS), None):
        example = f" ({source.misfits[text]} is no number)" if text in source.misfits else ""
        numbers = ", ".join(field.name for field in source.schema if _shared_type(field.type) in _NUMBERS) or "none"
        raise UserError(
            f"column {text!r} is {source.field(text).type}{example}, and values are numbers; fix the file, list what "
            f"is a missing value in missing=, or choose from the columns of numbers: {numbers}"
        )
    _check_results(by, values)
    import pyarrow as pa

    whole = {name: pa.int64() for name in values if pa.types.is_integer(types[name])}  # Polars sums int32 in 32 bits
    return types | whole


def _check_results(by: list[str], values: list[str]) -> None:
    """Raise `UserError` where a result would have two columns of one name, as SQL compares names: whatever the case."""
    taken = {name.casefold() for name in (*_RESULTS, *(f"{v}_{how}" for v in values for how in _AGGREGATES))}
    for name in [*by, *values]:
        if name.casefold() in taken:
            raise UserError(f"column {name!r} would be twice in a result, as key, value, rows or sum; name another")
        taken.add(name.casefold())


def _shared_type(kind: "pa.DataType") -> "pa.DataType | None":
    """Return the type that a column gets; None for one that not all engines can group."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _shared_type(kind.value_type)
    if types.is_boolean(kind) or (types.is_integer(kind) and kind.bit_width < 32) or types.is_int32(kind):
        return pa.int32()
    if types.is_integer(kind) or (types.is_decimal(kind) and kind.scale <= 0):
        return pa.int64()
    if types.is_floating(kind) or types.is_decimal(kind):
        return pa.float64()
    if types.is_date(kind) or types.is_timestamp(kind):
        return pa.timestamp("us")
    return pa.string() if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) else None


def _write(source: "Source", types: "dict[str, pa.DataType]", by: list[str], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet

    schema, present = pa.schema(types), dict.fromkeys(types, 0)
    sums = {f.name: 0.0 for f in schema if pa.types.is_int64(f.type) and f.name not in by}
    with pyarrow.parquet.ParquetWriter(folder / "x.parquet", schema) as writer:
        for batch in source.batches(types):
            part = pa.table([_plain(batch[f.name], f, source, f.name in by) for f in schema], schema=schema)
            writer.write_table(part, row_group_size=ROW_GROUP)
            present = {name: count + len(part) - part[name].null_count for name, count in present.items()}
            sums = {n: s + (pc.sum(pc.abs(part[n].cast("float64", safe=False))).as_py() or 0) for n, s in sums.items()}
    if large := next((name for name, total in sums.items() if total >= 2.0**63), None):
        raise UserError(
            f"the integers of column {large!r} of {source.shown} may sum to {sums[large]:.2g}, where pandas, Polars "
            f"and Dask overflow int64 and DuckDB does not; read them as numbers (read_options type.{large}=number)"
        )
    if empty := next((name for name, count in present.items() if not count), None):
        raise UserError(f"column {empty!r} of {source.shown} is empty: all its values are missing; name another")
    _write_keys(folder, by)


def _plain(column: "pa.ChunkedArray", field: "pa.Field", source: "Source", key: bool) -> "pa.ChunkedArray":
    """Return a column in the type of `field`, with missing values where there was NaN. key: no two values may merge."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        shared = column.cast(field.type)
        if key and pa.types.is_decimal(column.type) and shared.cast(column.type, safe=False) != column:
            raise pa.ArrowInvalid("digits are lost")
        column = shared
    except pa.ArrowInvalid:
        kind, remedy = ("text", "read them as text") if key else ("number", "read them as numbers")
        if pa.types.is_timestamp(field.type):
            kind, remedy = "text", "round them to microseconds"
        raise UserError(
            f"column {field.name!r} of {source.shown} has values of {column.type} that {field.type}, which all engines "
            f"share, can't hold; {remedy} (read_options type.{field.name}={kind})"
        ) from None
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(field.type) else column


def _write_keys(folder: Path, by: list[str]) -> None:
    import duckdb

    names = listed(by)
    with duckdb.connect() as connection:
        x = connection.read_parquet(str(folder / "x.parquet"))
        whole = x.filter(" AND ".join(f"{listed([name])} IS NOT NULL" for name in by))
        numbered = whole.project(names).distinct().project(f"*, row_number() OVER (ORDER BY {names}) AS key_number")
        numbered.filter("key_number % 10 <> 0").write_parquet(str(folder / "keys.parquet"))
