"""The dataset cache: columns parsed and prepared once, and read as they are from then on.

Each variant is a function of the CSV and a folder that returns the reading of the whole prepared data, ready to be
timed: a pass over a float32 matrix [rows, columns]. What is kept bears the file's version and the preparation's in its
name, so that a changed CSV is prepared anew, and a checksum, so that a damaged file is.
"""

import inspect
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kit import places
from kit.measure.work import Ceiling, Prepared, Reading, engaged
from kit.techniques import kept
from kit.techniques.caching.stores import content, in_memory, key

COLUMNS = "dep_delay arr_delay air_time distance hour minute month day".split()


@dataclass(frozen=True)
class Source:
    """A CSV to read, and a folder for what is made of it."""

    csv: Path
    folder: Path

    @property
    def version(self) -> bytes:
        """What the prepared data depend on: the file's content, hashed anew each time, the code that reads and
        prepares it, and the package that does the work."""
        import pandas

        code = [COLUMNS, *(inspect.getsource(one) for one in (from_csv, prepare, _rows))]
        return key(pandas.__version__, [content(self.csv), code])


def flights(rows: int, folder: Path | str = "data") -> Source:
    """Return the flights from New York in 2013 as a CSV of so many rows, written on the first call."""
    import pyarrow.csv
    import pyarrow.parquet

    from kit.techniques.dataframes.flights import tables

    def write(new: Path) -> None:
        table = pyarrow.parquet.read_table(tables(rows, folder).paths["flights"])
        pyarrow.csv.write_csv(table, new / "flights.csv")

    made = kept.whole_folder(places.project() / folder / f"csv-{rows}-v1", write)
    return Source(made / "flights.csv", made)


def prepare(frame: Any) -> Any:
    """Return the columns that a model of delays is trained with, float32, of a pandas table of flights, row by row."""
    import pandas

    frame = frame.dropna(subset=COLUMNS)
    minute = (60 * frame["hour"] + frame["minute"]) * (2 * np.pi / 1440)
    day = (31 * (frame["month"] - 1) + frame["day"]) * (2 * np.pi / 372)
    return pandas.DataFrame(
        {
            "late": frame["arr_delay"] > 15,
            "dep_delay": frame["dep_delay"].clip(-30, 180) / 60,
            "log_distance": np.log1p(frame["distance"]),
            "speed": frame["distance"] / frame["air_time"],
            "sin_minute": np.sin(minute),
            "cos_minute": np.cos(minute),
            "sin_day": np.sin(day),
            "cos_day": np.cos(day),
        }
    ).astype("float32")


def from_csv(csv: Path) -> np.ndarray:
    """Parse and prepare: shape (rows, 8), float32, a row after the other as training reads it."""
    import pandas

    return _rows(prepare(pandas.read_csv(csv, usecols=COLUMNS, engine="pyarrow")))


# Variants


def no_cache(source: Source) -> Prepared:
    """Parse and prepare the CSV each time."""
    return _reading(partial(from_csv, source.csv), "parses the CSV", parsed=source.csv)


def in_npy(source: Source) -> Prepared:
    """Keep the matrix as .npy, and map it into memory."""
    file = _kept(source, "matrix.npy", lambda path: np.save(path, from_csv(source.csv), allow_pickle=False))
    return _reading(lambda: np.load(file, mmap_mode="r", allow_pickle=False), "maps a file", file)


def in_arrow(source: Source) -> Prepared:
    """Keep the columns as an Arrow IPC file, and map it into memory."""
    import pyarrow as pa

    def write(path: Path) -> None:
        table = _table(from_csv(source.csv))
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)

    def load() -> np.ndarray:
        with pa.memory_map(str(file)) as mapped:
            return _matrix(pa.ipc.open_file(mapped).read_all())

    file = _kept(source, "columns.arrow", write)
    return _reading(load, "maps a file", file)


def in_parquet(source: Source) -> Prepared:
    """Keep the columns as Parquet: the smallest, to be unpacked."""
    import pyarrow.parquet as pq

    file = _kept(source, "columns.parquet", lambda path: pq.write_table(_table(from_csv(source.csv)), path))
    return _reading(lambda: _matrix(pq.read_table(file, memory_map=True)), "unpacks a file", file)


def in_store(source: Source) -> Prepared:
    """Keep the matrix in a store of this process."""
    store, version = in_memory.own("LRU", items=4), source.version
    return _reading(lambda: store.fetch(version, partial(from_csv, source.csv)), "in this process")


def by_joblib(source: Source) -> Prepared:
    """Keep what a function returned by joblib.Memory: data scientists' cache, a folder of pickles keyed by arguments.

    Whoever can write into the folder can run code here: it is for a folder of one's own, never for shared data. And a
    path is an argument, its content is not: so the version is made one, or a changed CSV would not be noticed.
    """
    import joblib

    memory = joblib.Memory(source.folder / "joblib", verbose=0)
    cached, version = memory.cache(_from_csv_of_version, ignore=["csv"]), source.version
    return _reading(lambda: cached(source.csv, version), "unpickles a file of its own", memory.location)


def _from_csv_of_version(csv: Path, version: bytes) -> np.ndarray:
    return from_csv(csv)


def by_dask(source: Source) -> Prepared:
    """Persist the prepared partitions in memory, where Dask's workers are: here, in threads of this process."""
    import dask
    import dask.dataframe as dd

    with dask.config.set(scheduler="threads"):
        parsed = dd.read_csv(source.csv, usecols=COLUMNS, blocksize="8MiB", dtype=dict.fromkeys(COLUMNS, "float64"))
        frame = parsed.map_partitions(prepare).persist()

    def load() -> np.ndarray:
        with dask.config.set(scheduler="threads"):
            return _rows(frame.compute())

    return _reading(load, "in this process")


VARIANTS: dict[str, Callable[[Source], Prepared]] = {
    "no cache": no_cache,
    ".npy": in_npy,
    "Arrow IPC": in_arrow,
    "Parquet": in_parquet,
    "memory": in_store,
    "joblib Memory": by_joblib,
    "Dask persist": by_dask,
}


def _reading(
    load: Callable[[], np.ndarray], where: str, file: Path | None = None, parsed: Path | None = None
) -> Prepared:
    """Return a pass over what `load` returns, ready to be timed; the first one, which fills a cache, is not.

    file: where the cache is; parsed: what is parsed each time where there is none.
    """
    moved, what = load().nbytes, "the prepared matrix"

    def read() -> Reading:
        start = time.perf_counter()
        load().mean(axis=0)  # what is only mapped has not been read
        return Reading(time.perf_counter() - start, answer=load)

    mib = _bytes(Path(file)) / 2**20 if file else None
    if parsed:
        moved, what = moved + _bytes(parsed), "the CSV and the prepared matrix"
    cached = ", from the page cache" if parsed or file else ""
    least = Ceiling("memory_copy_gib_per_s", moved / 2**30, f"{what}, read once{cached}")
    return Prepared(read, lambda: engaged(cache=where, costs={"cache_mib": mib}), ceiling=least)


def _bytes(path: Path) -> int:
    return (
        path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    )


def _kept(source: Source, name: str, write: Callable[[Path], Any]) -> Path:
    """Return the file `name` of this version of the source: written now if it is not there or is damaged."""

    def make(folder: Path) -> None:
        write(folder / name)
        (folder / "crc32").write_text(_checksum(folder / name))

    def whole(folder: Path) -> bool:
        try:
            return (folder / "crc32").read_text() == _checksum(folder / name)
        except (OSError, UnicodeDecodeError):
            return False

    return kept.whole_folder(source.folder / f"{source.version.hex()}-{name}", make, whole) / name


def _checksum(file: Path) -> str:
    checksum = 0
    with open(file, "rb") as parts:
        while part := parts.read(2**22):
            checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}"


def _rows(frame: Any) -> np.ndarray:
    return np.ascontiguousarray(frame.to_numpy())


def _table(matrix: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.table({str(number): np.ascontiguousarray(column) for number, column in enumerate(matrix.T)})


def _matrix(table: Any) -> np.ndarray:
    return np.column_stack([column.to_numpy() for column in table.columns])
