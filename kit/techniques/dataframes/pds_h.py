"""PDS-H: 22 analytic queries over tpchgen's tables. Derived from TPC-H, and not comparable to its published results."""

import math
import re
import time
from collections.abc import Callable, Collection
from functools import partial
from numbers import Number
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from kit.common.datasets import cached_tables, tpchgen
from kit.common.disk_cache import CACHE
from kit.machine.fingerprint import allowed_threads
from kit.measure.result import Result
from kit.measure.statistics import effect, log_ratios
from kit.measure.work import Measurement, Setup
from kit.measure.worker import one_line
from kit.record.document import CheckResult, Effect
from kit.techniques.dataframes import checks

TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
QUERIES = re.findall(r"^-- (\d+) (.+)\n([^;]+);", Path(__file__).with_suffix(".sql").read_text(), re.MULTILINE)
TITLES = {int(number): title for number, title, _ in QUERIES}


def tables(scale_factor: float, cache: Path | str = CACHE) -> dict[str, str]:
    """Return table → Parquet file: 6 million order lines at scale factor 1. Raise `UserError` without tpchgen-cli."""
    make = partial(tpchgen, f"--scale-factor={scale_factor:g}")
    return cached_tables(cache, f"pds-h-{scale_factor:g}-v1", TABLES, make)


def queries(scale_factor: float, numbers: Collection[int] = ()) -> dict[int, str]:
    """Return number → SQL of these queries, of all 22 by default."""
    fraction = f"{0.0001 / scale_factor:.10f}"
    return {int(n): sql.replace("{fraction}", fraction) for n, _, sql in QUERIES if int(n) in (numbers or TITLES)}


def duckdb(paths: dict[str, str], sql: dict[int, str]) -> Setup:
    """DuckDB, over the files as views."""
    import duckdb

    connection = duckdb.connect(config={"threads": allowed_threads()})
    for name, path in paths.items():
        connection.read_parquet(path).create_view(name)
    [(threads,)] = connection.sql("SELECT current_setting('threads')").fetchall()
    return _asked(lambda text: connection.sql(text).to_arrow_table(), sql, partial(checks.threads_engaged, threads))


def polars(paths: dict[str, str], sql: dict[int, str]) -> Setup:
    """Polars' SQL over the files, lazy, collected by its streaming engine."""
    import polars as pl

    context = pl.SQLContext({name: pl.scan_parquet(path) for name, path in paths.items()})
    proof = partial(checks.threads_engaged, pl.thread_pool_size())
    return _asked(lambda text: context.execute(text).collect(engine="streaming").to_arrow(), sql, proof)


def spark(start: Callable[[], Any], paths: dict[str, str], sql: dict[int, str]) -> Setup:
    """Spark SQL over the files as views, in a session that `start` returns: of PySpark, or of Sail."""
    session = start()
    for name, path in paths.items():
        session.read.parquet(path).createOrReplaceTempView(name)
    return _asked(lambda text: session.sql(text).toArrow(), sql, checks.spark_proof(session), session.stop)


def _asked(run: Callable[[str], Any], sql: dict[int, str], proof: Callable, close: Any = None) -> Setup:
    answered = []

    def ask() -> Measurement:
        seconds, answers = {}, {}
        for number, text in sql.items():
            began = time.perf_counter()
            try:
                answers[number] = run(text)
                seconds[f"q{number}_s"] = time.perf_counter() - began
            except Exception as error:  # costs an engine this query
                answers[number] = f"failed: {one_line(error)}"
        answered.extend(seconds)
        return Measurement(geometric_mean(seconds.values()), seconds, answers)

    return Setup(ask, lambda: proof(calls=len(answered)), close)


def check(answers: dict[int, Any], expected: dict[int, Any]) -> CheckResult:
    """Compare the answers to all queries, row by row in their order, and name each that differs.

    Numbers are equal within 1e-6, absolute or relative: in Spark's SQL, a mean of decimals has six places."""
    wrong = [f"Q{n} {what}" for n in expected if (what := _difference(answers[n], expected[n]))]
    equal = f"{len(expected) - len(wrong)} of {len(expected)} answers equal"
    return CheckResult(state="failed" if wrong else "passed", metric=equal, note="; ".join(wrong))


def _difference(*both: Any) -> str:
    if failed := [answer for answer in both if isinstance(answer, str)]:
        return failed[0]
    rows, expected = (table.to_pylist() for table in both)
    if len(rows) != len(expected):
        return f"has {len(rows)} rows instead of {len(expected)}"
    for name, row, right in ((name, *pair) for pair in zip(rows, expected, strict=True) for name in pair[1]):
        values = row.get(name), right[name]
        close = all(isinstance(one, Number) for one in values) and math.isclose(*values, rel_tol=1e-6, abs_tol=1e-6)
        if not close and values[0] != values[1]:
            return f"has {name} {values[0]} instead of {values[1]}"
    return ""


def ratios(result: Result, name: str) -> dict[int, Effect]:
    """Return query → how many times as fast as the baseline a variant gave its right answer, paired within rounds."""
    [session], wrong = result.record.points[-1].sessions, re.findall(r"Q(\d+) ", result[name].variant.check.note)
    base, own = (session.measurements[one].metrics for one in (result.record.asked.baseline, name))
    right = [q for q in base if q in own and q[1:-2] not in wrong]
    return {int(q[1:-2]): effect(log_ratios(base[q], own[q]), session.starts) for q in right}
