"""Batches for training: rows as a float32 matrix, in each file format, and the storages that files are read from."""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from kit.common import parameters, readers
from kit.errors import UserError
from kit.techniques.storage import link, servers

Fetch = Callable[[str], Any]
"""Key of a file → a buffer of its bytes."""
SMALL_FILES = 16
"""Files per batch of the format that has many."""


def matrix(table: pa.Table) -> np.ndarray:
    """Return the table as float32 [rows, columns], in C order; null is NaN."""
    return np.column_stack([one.to_numpy(zero_copy_only=False).astype(np.float32) for one in table.itercolumns()])


def _read_parquet(content: Any) -> np.ndarray:
    return matrix(parquet.read_table(pa.BufferReader(pa.py_buffer(content)), use_threads=False))


_NPY = (lambda table, file: np.save(file, matrix(table)), lambda content: np.load(io.BytesIO(content)))
FORMATS = {
    "Parquet Snappy": (partial(parquet.write_table, compression="snappy"), _read_parquet, 1),
    "Parquet zstd": (partial(parquet.write_table, compression="zstd"), _read_parquet, 1),
    "Parquet, no codec": (partial(parquet.write_table, compression="none"), _read_parquet, 1),
    "npy": (*_NPY, 1),
    "npy, small files": (*_NPY, SMALL_FILES),
}
"""How a table is written into a file, how the file's bytes become a matrix again, and how many files a batch has."""


def keys(name: str, number: int) -> list[str]:
    """Return the keys of the files of one batch in a format."""
    folder = re.sub(r"\W+", "-", name).lower()
    return [f"{folder}/{number:05d}.{part:02d}" for part in range(FORMATS[name][2])]


def write(table: pa.Table, batch: int, formats: Sequence[str], folder: Path) -> int:
    """Write batches of `batch` rows of the table's numbers in each format into a folder; return how many batches.

    Raise `UserError` for an unknown format, a table without a column of numbers or without a whole batch."""
    parameters.several(formats, FORMATS, "formats", least=1)
    kinds = (pa.types.is_integer, pa.types.is_floating)
    numeric = table.select([one.name for one in table.schema if any(kind(one.type) for kind in kinds)])
    if len(table) < SMALL_FILES:
        raise UserError(f"data has {len(table)} rows; give at least {SMALL_FILES}")
    if not numeric.column_names:
        raise UserError(f"data has no column of numbers, only {', '.join(table.column_names)[:200]}; add one")
    parameters.at_least(batch, SMALL_FILES, "batch", most=len(table), whole=True)
    for number in range(len(table) // batch):
        for name in formats:
            write_one, _, files = FORMATS[name]
            for part, key in enumerate(keys(name, number)):
                first, end = (number * batch + batch * edge // files for edge in (part, part + 1))
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                with open(folder / key, "wb") as file:
                    write_one(numeric.slice(first, end - first), file)
    return len(table) // batch


def decoded(name: str, contents: Sequence[Any]) -> np.ndarray:
    """Return the batch of these files, in their order."""
    return np.concatenate([FORMATS[name][1](content) for content in contents])


def digest(arrays: Iterable[Any]) -> str:
    """Return the SHA-256 of the bytes of all arrays or tensors, one after the other."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def from_folder(folder: Path) -> Fetch:
    """Return the reader of files in a folder."""
    return lambda key: (folder / key).read_bytes()


def from_memory(folder: Path) -> Fetch:
    """Return the reader of files that a folder had, from the memory of this process."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*")}.__getitem__


def from_bucket(bucket: servers.Bucket) -> Fetch:
    """Return the reader of objects in an S3 bucket, by obstore; within its namespace, if it has one."""
    link.enter(bucket.namespace)
    store = bucket.obstore()
    return bucket.reached()(lambda key: store.get(key).bytes())


def from_url(url: str) -> Fetch:
    """Return the reader of files below an address."""
    files, root = file_system(url)
    return readers.readable(url)(lambda key: files.cat_file(f"{root}/{key}"))


def upload(folder: Path, url: str) -> None:
    """Write all files of a folder below an address."""
    files, root = file_system(url)
    with readers.readable(url):
        for path in filter(Path.is_file, folder.rglob("*")):
            files.pipe_file(f"{root}/{path.relative_to(folder)}", path.read_bytes())


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path in it: az:// by adlfs, hdfs:// by hdfs-native.

    Raise `UserError` with the remedy where its package is missing, or it can't be used."""
    if url.startswith("s3://"):
        bucket = servers.at(url)
        return bucket.s3fs(), bucket.path()
    hdfs = "hdfs_native.fsspec.HdfsFileSystem"
    fsspec.register_implementation("hdfs", hdfs, clobber=True, errtxt="pip install hdfs-native")
    # 15 attempts to reach a NameNode would take minutes
    options = {"dfs.client.failover.max.attempts": "3"} if url.startswith("hdfs://") else {}
    with readers.readable(url):
        return fsspec.core.url_to_fs(url, **options)
