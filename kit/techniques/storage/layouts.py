"""Layouts of a table: codec and level, partitions, number of files; whole or absent, with known bytes."""

import ctypes
import hashlib
import json
import mmap
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from kit.common import disk_cache
from kit.common.parameters import at_least
from kit.errors import UserError, nearest
from kit.techniques.storage.servers import Bucket, Server
from kit.techniques.storage.tables import Stored

CODECS = {"none": "NONE", "Snappy": "SNAPPY", "LZ4": "LZ4", "gzip": "GZIP", "zstd": "ZSTD"}
"""Name → pyarrow's name. gzip and zstd take a level: "zstd 3"."""
LEVELS = {"gzip": 9, "zstd": 22}
"""Codec → its highest level."""
FOLDER = "storage"
"""Folder in the cache: each folder in it is a layout, and a bucket of a private server."""
MANIFEST = "_manifest.json"
"""Written last; readers of tables pass over names that begin like it. A folder without it is not whole."""
SMALL_FILES = 365


@dataclass(frozen=True)
class Layout:
    """How a table lies in files. codec: as "Snappy" or "zstd 3". partition: column, by whose values rows are kept in
    folders; empty: none. files: of equal numbers of rows, in order. row_group: rows; None: the writer's default."""

    codec: str = "Snappy"
    partition: str = ""
    files: int = 1
    row_group: int | None = None


@dataclass(frozen=True)
class Written:
    """A layout in files. folder: on this machine. table_bytes: of the table in memory. seconds: that writing took,
    once. sizes, digests: bytes and SHA-256 of each file, by its path in the folder."""

    layout: Layout
    folder: Path
    table_bytes: int
    seconds: float
    sizes: dict[str, int] = field(repr=False)
    digests: dict[str, str] = field(repr=False)

    @property
    def first(self) -> str:
        """Path of the first file in the folder."""
        return next(iter(self.sizes))

    @property
    def mib(self) -> float:
        """Size of all files."""
        return sum(self.sizes.values()) / 2**20


def codec(name: str) -> tuple[str, int | None]:
    """Return pyarrow's name of a codec, and its level. Raise `UserError` for an unknown codec or level."""
    known, _, level = name.partition(" ")
    if known not in CODECS or (level and (known not in LEVELS or not level.isdecimal())):
        raise UserError(f"codec {name!r} is unknown; {nearest(name, [*CODECS, 'gzip 9', 'zstd 3', 'zstd 10'])}")
    return CODECS[known], at_least(int(level), 1, f"level of {known}", most=LEVELS[known]) if level else None


def written(stored: Stored, layout: Layout, cache: Path | str = disk_cache.CACHE) -> Written:
    """Return the table in this layout, written in this call or an earlier one.

    A writer that is killed leaves nothing that a reader takes: the folder gets its name when all its files are there.
    Raise `UserError` for an unknown codec or column, and where the disk is full or the path is a file.
    """
    codec(layout.codec)
    if layout.partition not in ("", *stored.schema.names):
        remedy = nearest(layout.partition, stored.schema.names)
        raise UserError(f"{layout.partition!r} is no column of {stored.name}; {remedy}")
    name = re.sub("[^a-z0-9]+", "-", f"{layout.codec} {layout.partition}".lower()).strip("-")
    cache, key = Path(cache) / FOLDER, (stored.path, layout)
    try:
        folder = disk_cache.folder(name, key, lambda to: _write(stored.table(), layout, to), cache=cache)
    except OSError as error:
        reason = f"{cache} can't be written: {error.strerror or error}"
        raise UserError(f"{reason}; free space, or remove the file that is in its place") from None
    return Written(layout, folder, **json.loads((folder / MANIFEST).read_text()))


def _write(table: pa.Table, layout: Layout, folder: Path) -> None:
    start = time.perf_counter()
    (_write_partitions if layout.partition else _write_files)(table, layout, folder)
    manifest: dict[str, Any] = {"table_bytes": table.nbytes, "seconds": time.perf_counter() - start}
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.parquet"))}
    manifest["sizes"] = {name: path.stat().st_size for name, path in files.items()}
    manifest["digests"] = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _write_files(table: pa.Table, layout: Layout, folder: Path) -> None:
    """Write rows in order: the library's call for a file."""
    compression, level = codec(layout.codec)
    rows = max(1, -(-len(table) // layout.files))
    for number, start in enumerate(range(0, max(1, len(table)), rows)):
        path, part = folder / f"part-{number:05}.parquet", table.slice(start, rows)
        pq.write_table(part, path, layout.row_group, compression=compression, compression_level=level)


def _write_partitions(table: pa.Table, layout: Layout, folder: Path) -> None:
    """Write a folder column=value per value: the library's call for a partitioned dataset."""
    compression, level = codec(layout.codec)
    options = ds.ParquetFileFormat().make_write_options(compression=compression, compression_level=level)
    ds.write_dataset(
        table.sort_by(layout.partition),  # else each of many open files gets few rows at a time
        folder, format="parquet", partitioning=partitioning(table.schema, layout), file_options=options,
        max_partitions=1_000_000, basename_template="part-{i}.parquet",
    )  # fmt: skip


def partitioning(schema: pa.Schema, layout: Layout) -> Any:
    """Return how folders become a column again, in the type that it had: a reader that is not given it guesses."""
    return ds.partitioning(pa.schema([schema.field(layout.partition)]), flavor="hive") if layout.partition else None


def places(stored: Stored, cache: Path | str = disk_cache.CACHE) -> dict[str, Written]:
    """Return the layouts that are compared, by name: those by day and by key where the table has such a column."""
    by = {"by day": stored.day, "by key": stored.key}
    shapes = {"one file": Layout()} | {name: Layout(partition=column) for name, column in by.items() if column}
    shapes["many small files"] = Layout(files=SMALL_FILES)
    return {name: written(stored, shape, cache) for name, shape in shapes.items()}


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


def footer(one: Written) -> tuple[str, int]:
    """Return codec and number of row groups, by the first file's own footer."""
    read = pq.read_metadata(one.folder / one.first)
    groups = [read.row_group(number) for number in range(read.num_row_groups)]
    return ", ".join({group.column(0).compression for group in groups}), len(groups)


def cold_read_s(one: Written) -> float:
    """Return the seconds of reading all files from the disk, by bytes; the kernel is asked to drop them from the page
    cache before, and after, so that the next read is cold too. See `resident`."""
    seconds = 0.0
    for name in one.sizes:
        with open(one.folder / name, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = time.perf_counter()
            file.read()
            seconds += time.perf_counter() - start
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return seconds


def resident(one: Written) -> float:
    """Return the share of the layout's pages that are in the page cache, by the kernel's own count (mincore)."""
    held = []
    for name in one.sizes:
        with open(one.folder / name, "r+b") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapped:
            pages, start = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))(), ctypes.c_char.from_buffer(mapped)
            ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), pages)
            del start  # else the mapping can't be closed
            held += [page & 1 for page in pages]
    return sum(held) / len(held)
