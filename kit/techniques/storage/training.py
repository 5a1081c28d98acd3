"""Batches for training from a storage: rows as a float32 matrix in each file format, and the consumers that take them.

A consumer is an accelerator that takes a batch, computes for `step_s` (it sleeps, as in MLPerf Storage) and takes the
next. Utilisation can't show why one waits, so each wait is split by what its reader does meanwhile."""

import hashlib
import io
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from kit.common import disk, parameters, readers
from kit.errors import UserError
from kit.measure.work import TIME, Measurement, Peak, Setup, fell_back, verified
from kit.record.document import ExecutionProof
from kit.techniques.storage import link, servers

Fetch = Callable[[str], Any]
"""Key of a file → a buffer of its bytes."""
SMALL_FILES = 16  # per batch of the format that has many


def matrix(table: pa.Table) -> np.ndarray:
    """Return the table as float32 [rows, columns], in C order; null is NaN."""
    return np.column_stack([one.to_numpy(zero_copy_only=False).astype(np.float32) for one in table.itercolumns()])


_PARQUET = lambda content: matrix(parquet.read_table(pa.py_buffer(content), use_threads=False))  # noqa: E731
_NPY = (lambda table, file: np.save(file, matrix(table)), lambda content: np.load(io.BytesIO(content)))
FORMATS = {
    "Parquet Snappy": (partial(parquet.write_table, compression="snappy"), _PARQUET, 1),
    "Parquet zstd": (partial(parquet.write_table, compression="zstd"), _PARQUET, 1),
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
    paths = [path for path in folder.rglob("*") if path.is_file()]
    with readers.readable(url), ThreadPoolExecutor(32) as pool:  # HDFS takes half a second to close some files
        list(pool.map(lambda path: files.pipe_file(f"{root}/{path.relative_to(folder)}", path.read_bytes()), paths))


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path in it: az:// by adlfs, hdfs:// by hdfs-native.

    Raise `UserError` with the remedy where its package is missing, or it can't be used."""
    if url.startswith("s3://"):
        bucket = servers.at(url)
        return bucket.s3fs(), bucket.path()
    hdfs = "hdfs_native.fsspec.HdfsFileSystem"
    fsspec.register_implementation("hdfs", hdfs, clobber=True, errtxt="pip install hdfs-native")
    options = {"dfs.client.failover.max.attempts": "3"} if url.startswith("hdfs://") else {}  # 15 take minutes
    with readers.readable(url):
        return fsspec.core.url_to_fs(url, **options)


FED = 0.9
"""Least utilisation of a consumer that is fed: MLPerf Storage's bound for ResNet-50 and 3D U-Net."""
STEPS = 20  # batches of each consumer per measurement
OVER_LINK = "S3 link"
PREFETCH = 2  # batches that a reader is ahead of its consumer at most, as a worker of PyTorch's DataLoader is
SHARES = ("utilisation", "waiting_for_bytes", "waiting_for_decoding")
"""Metrics of a variant: shares of its consumers' time, the mean over consumers."""


def read(fetch: Fetch, name: str, number: int) -> tuple[np.ndarray, list[float]]:
    """Return a batch of a format, and when fetching began, decoding began, and decoding ended, in seconds."""
    times_s = [time.perf_counter()]
    contents = [fetch(key) for key in keys(name, number)]
    times_s.append(time.perf_counter())
    batch = np.concatenate([FORMATS[name][1](content) for content in contents])
    return batch, [*times_s, time.perf_counter()]


def consume(fetch: Fetch, name: str, numbers: Sequence[int], step_s: float) -> np.ndarray:
    """Take these batches, read ahead by a thread, and compute for `step_s` on each; return `SHARES` of the time."""
    reads, waits, computed_s, start = [], [], 0.0, time.perf_counter()
    with ThreadPoolExecutor(1) as thread:
        pending = (thread.submit(read, fetch, name, number) for number in numbers)
        ahead = [*islice(pending, PREFETCH)]
        while ahead:
            waiting = time.perf_counter()
            reads.append(ahead.pop(0).result()[1])
            waits.append((waiting, begun := time.perf_counter()))
            ahead += islice(pending, 1)
            time.sleep(step_s)
            computed_s += time.perf_counter() - begun
        elapsed_s = time.perf_counter() - start
    times, waits = np.array(reads), np.array(waits)
    return np.array([computed_s, _common_s(waits, times[:, :2]), _common_s(waits, times[:, 1:])]) / elapsed_s


def _common_s(some: np.ndarray, others: np.ndarray) -> float:
    """Return the seconds that spans [n, 2] have in common with others [m, 2]."""
    ends, starts = np.minimum.outer(some[:, 1], others[:, 1]), np.maximum.outer(some[:, 0], others[:, 0])
    return float(np.maximum(ends - starts, 0).sum())


def feed(fetch: Fetch, name: str, count: int, consumers: int, step_s: float) -> Measurement:
    """Feed so many consumers for `STEPS` batches at the same time, each beginning at another of the `count` batches."""
    numbers = [[(count * who // consumers + step) % count for step in range(STEPS)] for who in range(consumers)]
    start = time.perf_counter()
    with ThreadPoolExecutor(consumers) as pool:
        shares = list(pool.map(lambda some: consume(fetch, name, some, step_s), numbers))
    seconds = time.perf_counter() - start
    metrics = dict(zip(SHARES, np.mean(shares, axis=0).tolist(), strict=True))
    return Measurement(seconds, metrics, lambda: digest(read(fetch, name, number)[0] for number in range(count)))


@dataclass(frozen=True)
class Storage:
    """Where batches are. opened: opens it, in the variant's process. cold: folder whose files are dropped from the page
    cache before each call. served: private bucket whose server's traffic proves that it was read."""

    opened: Callable[[], Fetch]
    cold: Path | None = None
    served: servers.Bucket = servers.Bucket("")  # noqa: RUF009 (frozen)


def fed(name: str, count: int, step_s: float, storage: Storage) -> Callable[[int], Setup]:
    """Return a variant, a function of the number of consumers: `count` batches in a format, from a storage."""
    every = [key for number in range(count) for key in keys(name, number)]
    cold = [storage.cold / key for key in every] if storage.cold else []

    def variant(consumers: int) -> Setup:
        fetch = storage.opened()

        def call() -> Measurement:
            disk.drop_cached(cold)
            return feed(fetch, name, count, consumers, step_s)

        def proof() -> ExecutionProof:
            disk.drop_cached(cold)
            size, costs = servers.counted(storage.served, lambda: sum(len(fetch(key)) for key in every))
            counter = "sent_mib" if storage.served.log else "disk_mib"
            facts = {"files": len(every), "read": f"{size / 2**20:.2f} MiB"}
            facts |= {"GETs": costs["gets"], "sent": f"{costs.get(counter, 0):.2f} MiB"} if storage.served.log else {}
            if (cold or storage.served.log) and costs.get(counter, 0) < size / 2**20:
                return fell_back("the page cache, or a file system in memory", **facts)
            return verified(**facts)

        return Setup(call, proof, peak=Peak(TIME, STEPS * step_s, "each consumer computes and never waits"))

    return variant


def storages(
    opened: ExitStack, folder: Path, wanted: Sequence[str], mbit_per_s: float, url: str
) -> tuple[dict[str, Storage], dict[str, str]]:
    """Return a folder's storages that are wanted, by name: its disk, memory, S3 of this machine, S3 over a link of this
    bandwidth, and `url`, if given; and why one is missing. opened: ends the servers."""
    found = {"disk": Storage(partial(from_folder, folder), folder), "memory": Storage(partial(from_memory, folder))}
    wanted = parameters.several(wanted, [*found, "S3", OVER_LINK], "storages", least=1)
    permitted = link.shaping_permitted()
    missing = {} if permitted is True else {OVER_LINK: f"{permitted.reason}; {permitted.remedy}"}
    for name in sorted({"S3", OVER_LINK} & {*wanted}):
        server = servers.Server(folder.parent, mbit_per_s if name == OVER_LINK and not missing else 0)
        bucket = opened.enter_context(server.start()).bucket(folder.name)
        found[name] = Storage(partial(from_bucket, bucket), served=bucket)
    if url:
        upload(folder, url)
        wanted, found["your storage"] = [*wanted, "your storage"], Storage(partial(from_url, url))
    return {name: found[name] for name in wanted}, missing
