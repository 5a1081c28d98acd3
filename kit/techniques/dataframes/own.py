"""The user's own table: any parquet or CSV that fsspec can open, checked, and laid down as parquet for every engine."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kit.errors import UserError
from kit.record.store import clean
from kit.techniques.dataframes.tables import CACHE, ROW_GROUP, Tables, cached

_FORMAT = 1
_CSV = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")


def tables(
    data: str,
    by: list[str],
    values: list[str],
    rows: int | None = None,
    cache: Path | str = CACHE,
    storage_options: dict[str, Any] | None = None,
) -> Tables:
    """Return the user's table as `x`, with the columns `by` and `values`, and as `keys` nine in ten of its keys.

    data: a parquet or CSV file, a glob or a folder, on this machine or at any URL that fsspec knows. rows: only the
    first so many. keys: each whole key once, with its number in their order (`key_number`), but for every tenth.
    For all engines to mean the same, whole numbers become int32 or int64, other numbers float64, true and false 1 and
    0, dates and times microseconds without a zone, NaN a missing value.
    Raise `UserError`, with what to do, if the files or columns are not such as can be used.
    """
    by, values = _names(by), _names(values)
    with _readable(data):
        source, stamp = _opened(data, storage_options)
    kinds = _kinds(source.schema, by, values)
    stamp = hashlib.sha256(repr((stamp, kinds, by, rows)).encode()).hexdigest()[:16]
    with _readable(data):
        paths = cached(
            cache, f"own-{stamp}-v{_FORMAT}", ("x", "keys"), lambda folder: _write(folder, source, kinds, by, rows)
        )
    return Tables("own", _rows(paths["x"]), paths, tuple(by), tuple(values))


@contextmanager
def _readable(data: str) -> Iterator[None]:
    """Turn whatever reading `data` raises into one sentence that shows no credentials of its address."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{_shown(data)} needs a package that is not here: {error}") from None
    except Exception as error:  # each file system and format has errors of its own
        raise UserError(f"{_shown(data)} can't be read: {_reason(error, data)}") from None


def _reason(error: Exception, data: str) -> str:
    """Return an error in one line. Some file systems repeat the user and password of an address without the rest."""
    text = " ".join(str(error).replace(data, _shown(data)).split()) or type(error).__name__
    user, at, _ = data.partition("://")[2].split("/")[0].rpartition("@")
    return clean(text.replace(user + at, "***@") if at else text)[:300]


def _shown(data: str) -> str:
    """Return an address without user, password and query, which may hold a signature."""
    return clean(data.split("?")[0] if "://" in data else data)


def _opened(data: str, storage_options: dict[str, Any] | None) -> tuple[Any, str]:
    """Return a pyarrow dataset over the files of `data`, and what changes when they do."""
    import pyarrow.dataset
    from fsspec.core import url_to_fs

    files_at, path = url_to_fs(data, **(storage_options or {}))
    files = _files(files_at, path)
    if not files:
        raise UserError(
            f"no file matches {_shown(data)!r} (looked for in {_shown(os.getcwd())}); "
            "give a parquet or CSV file, a glob as 'tables/*.parquet', or a URL"
        )
    source = pyarrow.dataset.dataset(
        files, filesystem=files_at, format=_format(files_at, files[0]), partitioning="hive"
    )
    return source, repr([files_at.info(file) for file in files])


def _files(files_at: Any, path: str) -> list[str]:
    """Return the files that `path` names, without the hidden and the marker files that lie beside data."""
    if files_at.isfile(path):
        return [path]
    found = files_at.find(path) if files_at.isdir(path) else files_at.glob(path)
    return sorted(file for file in found if Path(file).name[0] not in "._" and files_at.isfile(file))


def _format(files_at: Any, file: str) -> Any:
    from pyarrow import csv, dataset

    name = Path(file).name
    with files_at.open(file, "rb") as opened:
        first = opened.read(4)
    if first == b"PAR1":
        return dataset.ParquetFileFormat()
    if not name.lower().endswith(_CSV):
        what = (
            "called parquet but begins otherwise" if name.endswith((".parquet", ".pq")) else "neither parquet nor CSV"
        )
        raise UserError(f"{name} is {what}; give a parquet file, or a CSV file that ends in {', '.join(_CSV)}")
    return dataset.CsvFileFormat(
        parse_options=csv.ParseOptions(delimiter="\t" if ".tsv" in name.lower() else ","),
        convert_options=csv.ConvertOptions(strings_can_be_null=True),
    )


def _names(columns: list[str] | str) -> list[str]:
    """Return each name once. One name may stand without its list."""
    return list(dict.fromkeys([columns] if isinstance(columns, str) else columns))


def _kinds(schema: Any, by: list[str], values: list[str]) -> dict[str, Any]:
    """Return column → pyarrow type to lay it down with. Raise `UserError` for what can't be grouped or summed."""
    for given, what in ((by, "by"), (values, "values")):
        if not given:
            raise UserError(f"{what} names no column; choose from: {', '.join(schema.names)}")
    for name in [*by, *values]:
        if name not in schema.names:
            nearest = get_close_matches(name, schema.names, n=1, cutoff=0)[0]
            raise UserError(
                f"there is no column {name!r}; did you mean {nearest!r}? There are: {', '.join(schema.names)}"
            )
    if both := set(by) & set(values):
        raise UserError(f"column {min(both)!r} stands in both by and values; name it in one of them")
    kinds = {name: _kind(name, schema.field(name).type) for name in [*by, *values]}
    for name in values:
        if str(kinds[name]) not in ("int32", "int64", "double"):
            numbers = [field.name for field in schema if _is_number(field.type)]
            raise UserError(
                f"column {name!r} holds {_held(kinds[name])} and values are numbers; numbers are: {', '.join(numbers)}"
            )
    _check_results(by, values)
    return kinds


def _check_results(by: list[str], values: list[str]) -> None:
    """Raise `UserError` where a result would have two columns of one name, as SQL sees names: whatever the case."""
    results = [
        "rows",
        "position",
        "key_number",
        *(f"{v}_{how}" for v in values for how in ("sum", "mean", "min", "max")),
    ]
    seen = {name.casefold() for name in results}
    for name in [*by, *values]:
        if name.casefold() in seen:
            raise UserError(
                f"column {name!r} would stand twice in a result, beside {', '.join(results[:4])} …; rename it"
            )
        seen.add(name.casefold())


def _kind(name: str, kind: Any) -> Any:
    """Return the type that a column of type `kind` gets. Raise `UserError` for one that not all engines can group."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _kind(name, kind.value_type)
    if types.is_boolean(kind) or (types.is_integer(kind) and kind.bit_width < 32) or types.is_int32(kind):
        return pa.int32()
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind) or types.is_decimal(kind):
        return pa.float64()
    if types.is_date(kind) or types.is_timestamp(kind):
        return pa.timestamp("us")
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    raise UserError(
        f"column {name!r} holds {kind}; columns of numbers, text, true and false, dates or times can be used"
    )


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _held(kind: Any) -> str:
    return "text" if str(kind) == "string" else "times"


def _write(folder: Path, source: Any, kinds: dict[str, Any], by: list[str], rows: int | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    schema, left, present = pa.schema(kinds), rows, dict.fromkeys(kinds, 0)
    with pyarrow.parquet.ParquetWriter(folder / "x.parquet", schema) as writer:
        for batch in source.to_batches(columns=list(kinds)):
            part = _plain(pa.table(batch), schema).slice(0, left)
            writer.write_table(part, row_group_size=ROW_GROUP)
            present = {name: count + len(part) - part[name].null_count for name, count in present.items()}
            left = None if left is None else left - len(part)
            if left == 0:
                break
    if not any(present.values()):
        raise UserError("the table is empty: none of the columns that you named has a value in it")
    for name, count in present.items():
        if not count:
            raise UserError(f"column {name!r} is empty: all its values are missing")
    _write_keys(folder, by)


def _plain(table: Any, schema: Any) -> Any:
    """Return a table in the types of `schema`, with missing values where there was NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [table[field.name].cast(field.type) for field in schema]
    columns = [pc.if_else(pc.is_nan(c), None, c) if pa.types.is_floating(c.type) else c for c in columns]
    return pa.table(columns, schema=schema)


def _write_keys(folder: Path, by: list[str]) -> None:
    import duckdb

    quoted = ['"' + name.replace('"', '""') + '"' for name in by]
    names, whole = ", ".join(quoted), " AND ".join(f"{name} IS NOT NULL" for name in quoted)
    with duckdb.connect() as connection:
        connection.read_parquet(str(folder / "x.parquet")).create_view("x")
        keys = f"SELECT DISTINCT {names} FROM x WHERE {whole}"
        numbered = connection.sql(f"SELECT *, row_number() OVER (ORDER BY {names}) AS key_number FROM ({keys})")
        numbered.filter("key_number % 10 <> 0").write_parquet(str(folder / "keys.parquet"))


def _rows(path: str) -> int:
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(path).num_rows
