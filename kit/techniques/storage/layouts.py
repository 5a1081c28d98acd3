"""Layouts of a table: codec and level, partitions, number of files; whole or absent, with known bytes."""

import hashlib
import json
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from kit.common import disk_cache
from kit.common.parameters import at_least, one_of
from kit.errors import UserError, nearest
from kit.techniques.storage.servers import Bucket, Server
from kit.techniques.storage.tables import Stored

CODECS = {"none": "NONE", "Snappy": "SNAPPY", "LZ4": "LZ4", "gzip": "GZIP", "zstd": "ZSTD"}
"""Name → pyarrow's name. gzip and zstd take a level: "zstd 3"."""
LEVELS = {"gzip": 9, "zstd": 22}
"""Codec → its highest level."""
ROW_GROUP = 1_048_576  # rows at most, pyarrow's default
FOLDER = "storage"
"""Folder in the cache: each folder in it is a layout, and a bucket of a private server."""
MANIFEST = "_manifest.json"
"""Written last: what has none is not whole. Readers of tables pass over names that begin like it."""


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
    if known not in CODECS or (level and not (known in LEVELS and level.isdecimal())):
        raise UserError(f"codec {name!r} is unknown; {nearest(name, [*CODECS, 'gzip 9', 'zstd 3', 'zstd 10'])}")
    return CODECS[known], at_least(int(level), 1, f"level of {known}", most=LEVELS[known]) if level else None


def written(stored: Stored, layout: Layout, cache: Path | str = disk_cache.CACHE) -> Written:
    """Return the table in this layout, written in this call or an earlier one: its folder gets its name when all files
    are there. Raise `UserError` for an unknown codec or column, and where the disk is full or the path is a file."""
    codec(layout.codec)
    if layout.partition:
        one_of(layout.partition, stored.schema.names, "partition")
    name = re.sub("[^a-z0-9]+", "-", f"{layout.codec} {layout.partition}".lower()).strip("-")
    cache, key = Path(cache) / FOLDER, (stored.path, layout, 2)
    try:
        folder = disk_cache.folder(name, key, lambda to: _write(stored.table(), layout, to), cache=cache)
    except OSError as error:
        reason = f"{cache} can't be written: {error.strerror or error}"
        raise UserError(f"{reason}; free space, or remove the file that is in its place") from None
    return Written(layout, folder, **json.loads((folder / MANIFEST).read_text()))


def _write(table: pa.Table, layout: Layout, folder: Path) -> None:
    """Write the files, by the library's call for a dataset of one or many, and then the manifest."""
    compression, level = codec(layout.codec)
    options = ds.ParquetFileFormat().make_write_options(compression=compression, compression_level=level)
    rows, start = max(1, -(-len(table) // layout.files)), time.perf_counter()
    group = min(layout.row_group or ROW_GROUP, rows)
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
