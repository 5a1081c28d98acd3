"""Tables, a figure and comparisons of shares for 06_storage_training."""

from collections.abc import Sequence
from pathlib import Path
from timeit import timeit

import numpy as np

from kit import Chart, Series, Table
from kit.common import claims
from kit.measure.result import Result
from kit.record.document import Point
from kit.record.formatting import percent
from kit.record.intervals import sign_test_interval
from kit.techniques.storage import batches
from kit.techniques.storage.training import FED, OVER_LINK, SHARES


def costs(folder: Path, formats: Sequence[str], count: int, step_s: float) -> Table:
    """Return a row per format: its files, bytes and decoding per batch, and what one consumer needs for its steps."""
    rows = []
    for name in formats:
        contents = [[(folder / key).read_bytes() for key in batches.keys(name, number)] for number in range(count)]
        decoding_s = timeit(lambda name=name, of=contents: [batches.decoded(name, one) for one in of], number=1) / count
        size = sum(len(file) for each in contents for file in each) / count
        cost = size / 1024, 1e3 * decoding_s, step_s / decoding_s, size * 8e-6 / step_s
        rows.append([name, len(contents[0]), *cost])
    columns = ["format", "files", "KiB", "decoding, ms", "consumers per core", "Mbit/s per consumer"]
    note = f"A consumer takes a batch every {1e3 * step_s:g} ms. Decoded by one thread, from memory."
    return Table(f"A batch by format, mean of {count}", columns, rows, note)


def shares(point: Point, name: str, metric: str) -> np.ndarray:
    """Return a metric of a variant in each round; empty where it was not measured."""
    found = [one.measurements[name].metrics[metric] for one in point.sessions if name in one.measurements]
    return np.array(found[0] if found else [], float)


def positive(values: np.ndarray) -> bool | None:
    """Return whether the median is above 0, by its 95 % sign-test interval; None where that holds 0, or is missing."""
    ends = sign_test_interval(values, 0.95)
    return None if ends is None or ends[0] <= 0 <= ends[1] else ends[0] > 0


def more(result: Result, one: tuple[str, str], other: tuple[str, str]) -> bool | None:
    """Return whether a share is larger than another in the same rounds, at most consumers: (variant, metric) each."""
    values = [shares(result.record.points[-1], *which) for which in (one, other)]
    rounds = min(map(len, values))
    return positive(values[0][:rounds] - values[1][:rounds])


def fed(result: Result) -> Table:
    """Return a row per variant: utilisation by number of consumers, whether they are fed, and what they wait for."""
    points, rows = result.record.points, []
    for name in result:
        found = [shares(point, name, SHARES[0]) for point in points]
        if all(map(len, found)):
            marks = [{True: "✓", False: "✗"}.get(positive(values - FED), "?") for values in found]
            used = [f"{percent(np.median(values))} {mark}" for values, mark in zip(found, marks, strict=True)]
            waits = [np.median(shares(points[-1], name, metric)) for metric in SHARES[1:]]
            cause = "–" if np.median(found[-1]) >= FED else "decoding" if waits[1] > waits[0] else "bytes"
            rows.append([name, *used, cause])
    sizes = [f"utilisation of {point.size:g}" for point in points]
    note = f"Fed (✓): utilisation of at least {percent(FED)}, by the 95 % interval of its median; ?: inconclusive."
    return Table("Consumers fed", ["variant", *sizes, f"{points[-1].size:g} wait for"], rows, note)


def time_spent(result: Result) -> Chart:
    """Return how the consumers' time divides, at most consumers: computing, and waiting by cause."""
    point = result.record.points[-1]
    names = [name for name in result if len(shares(point, name, SHARES[0]))]
    parts = [[100 * float(np.median(shares(point, name, metric))) for name in names] for metric in SHARES]
    labels = ("computing", "waiting for bytes", "waiting for decoding")
    series = [Series(label, names, part) for label, part in zip(labels, parts, strict=True)]
    title, note = f"Time of {point.size:g} consumers: more computing is better", "Medians. The rest: switching threads."
    return Chart(title, "variant", "% of the time", series, shape="stacked", note=note)


def claim(result: Result, saved: Result) -> str:
    """Return the parts of the notebook's claim, a line each, on its default formats and storages, at most consumers."""
    (used, on_bytes, on_decoding), raw = SHARES, "npy, memory"
    parquet, small, early = "Parquet Snappy, memory", "npy, small files, S3", "torch.save, no fsync"
    found = {
        "from memory, consumers of Parquet wait longer for decoding than for bytes":
            more(result, (parquet, on_decoding), (parquet, on_bytes)),
        "from memory, consumers of npy compute for more of their time than those of Parquet":
            more(result, (raw, used), (parquet, used)),
        "over the link, consumers of Parquet compute for more of their time than those of npy":
            more(result, (f"Parquet Snappy, {OVER_LINK}", used), (f"npy, {OVER_LINK}", used)),
        "many small files: consumers of S3 wait longer for bytes than for decoding":
            more(result, (small, on_bytes), (small, on_decoding)),
        "torch.save without fsync ends earlier": claims.holds(saved[early].verdict, ["faster"]),
    }  # fmt: skip
    for what, one in (("every variant's batches", result), ("every checkpoint that is read back", saved)):
        checks = [variant.check for point in one.record.points for variant in point.variants if variant.check]
        found[f"{what}: equal SHA-256"] = all(check.state in ("passed", "reference") for check in checks)
    return claims.lines(found)


def rates(result: Result) -> Table:
    """Return a row per library: the rates of writing a checkpoint and of reading it back."""
    variants = [one for one in result.record.points[-1].variants if one.metrics]
    rows = [[one.name, *(one.metrics.get(name) for name in ("write_gib_per_s", "read_gib_per_s"))] for one in variants]
    return Table("Rates of checkpoints", ["variant", "write, GiB/s", "read back, GiB/s"], rows)
