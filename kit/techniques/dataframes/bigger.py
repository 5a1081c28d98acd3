"""A query over more data than memory, by engines that may spill to disk, each in a process tree under a bound.

An engine is a function that starts it and returns the query, and its own counter of bytes written to its spill folder,
shuffles of Dask and Spark included. `python -m kit.techniques.dataframes.bigger` runs one, its order as JSON on stdin.
"""

import json
import os
import re
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace as Order
from typing import Any

import psutil

from kit.common import datasets, disk, memory_bound, parameters
from kit.errors import UserError
from kit.machine.fingerprint import allowed_threads
from kit.measure import answers
from kit.measure.work import Measurement, Setup, verified
from kit.measure.worker import one_line

SQL = """SELECT {0}, count(*) num_groups, sum(num) num, sum(total) total, sum(amount) amount, avg(most) most
FROM (SELECT {by}, count(*) num, sum({1}) total, sum({2}) amount, max({3}) most FROM x GROUP BY {by}) GROUP BY {0}"""
NEEDS_GIB = {"DuckDB": 0.25, "Polars streaming": 0.25, "Polars": 0.25, "pandas": 0.25, "Dask": 0.5, "PySpark": 1.0}
"""Bound under which an engine does not start, or has no memory left for data."""


def query(data: str, gib: float) -> dict:
    """Return the query over at least `gib` GiB of `data`: groups by all keys, and of these by the first key."""
    *keys, total, amount, most = datasets.PARTS[parameters.one_of(data, datasets.PARTS, "data")]
    sql = SQL.format(keys[0], total, amount, most, by=", ".join(keys))
    return {"paths": datasets.parts(data, gib), "keys": keys, "values": [total, amount, most], "sql": sql}


def variant(engine: str, asked: dict, bound_gib: float, limit_s: float = 600.0, spill: str = "") -> Setup:
    """Return the query by one engine, from files that no cache holds, in a process tree of its own at each call, which
    may take `limit_s`. spill: folder to spill to, by default next to the data."""
    import pyarrow as pa

    facts: dict[str, Any] = {"file_cache": "dropped before each call"}

    def call() -> Measurement:
        disk.drop_cached(asked["paths"])
        with tempfile.TemporaryDirectory(prefix="spill-", dir=spill or Path(asked["paths"][0]).parents[1]) as folder:
            order = asked | {"engine": engine, "memory_mib": 1024 * bound_gib, "spill": folder}
            command = [sys.executable, "-P", "-m", "kit.techniques.dataframes.bigger"]
            found = memory_bound.run(command, json.dumps(order), bound_gib, limit_s)
        if error := found.get("error"):
            full = re.search("max_temp_directory_size|No space left", error) and "the disk of its spill folder is full"
            memory = re.search("KilledWorker|OutOfMemory|heap space", error)
            why = full or (memory and f"out of memory under {bound_gib:g} GiB")
            raise UserError(f"{why}: {error}" if why else error)
        facts["bounded_by"], answer, seconds = (found.pop(name) for name in ("bounded_by", "answer", "seconds"))
        return Measurement(seconds, found | {"disk_mib_per_s": found["disk_mib"] / seconds}, pa.table(answer))

    return Setup(call, lambda: verified(**facts))


def _grouped(x: Any, order: Order, **options: Any) -> Any:
    """Ask a frame of pandas or Dask. options: of Dask's first `agg`."""
    (total, amount, most), sums = order.values, {name: (name, "sum") for name in ("num", "total", "amount")}
    inner = {"num": (total, "size"), "total": (total, "sum"), "amount": (amount, "sum"), "most": (most, "max")}
    groups = x.groupby(order.keys).agg(**inner, **options).reset_index().groupby(order.keys[0])
    return groups.agg(num_groups=("num", "size"), **sums, most=("most", "mean")).reset_index()


def _pandas(order: Order) -> tuple:
    import pandas as pd

    return lambda: _grouped(pd.read_parquet(order.paths), order), lambda: 0


def _polars(order: Order, engine: str = "in-memory") -> tuple:
    import polars as pl

    asked = pl.SQLContext(x=pl.scan_parquet(order.paths)).execute(order.sql)
    return partial(asked.collect, engine=engine), lambda: 0


def _polars_streaming(order: Order) -> tuple:
    """Without a budget it never spills. It logs what it writes."""
    budget = {"MEMORY_BUDGET_MB": f"{0.5 * (order.memory_mib - 64):.0f}", "SPILL_DIR": order.spill, "LOG_METRICS": "1"}
    os.environ |= {f"POLARS_OOC_{name}": value for name, value in budget.items()}  # read at its import
    logged = partial(re.findall, r"written=([\d.]+)")
    return _polars(order, "streaming")[0], lambda: 1e6 * sum(map(float, logged(Path("service.log").read_text())))


def _duckdb(order: Order) -> tuple:
    import duckdb

    limits = {"memory_limit": f"{0.7 * order.memory_mib:.0f}MiB", "temp_directory": order.spill}
    connection = duckdb.connect(config=limits | {"threads": allowed_threads(), "preserve_insertion_order": False})
    connection.execute("PRAGMA enable_profiling = 'no_output'")
    connection.read_parquet(order.paths).create_view("x")
    profile = partial(connection.get_profiling_information, "json")
    written = lambda: json.loads(profile())["io"]["total_bytes_written"]  # noqa: E731
    return lambda: connection.sql(order.sql).to_arrow_table(), written


def _dask(order: Order) -> tuple:
    """One worker with all threads; where its nanny has to restart it, the query fails at once."""
    import dask
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    dask.config.set({"dataframe.parquet.minimum-partition-size": 1, "distributed.scheduler.allowed-failures": 0})
    own = LocalCluster(1, threads_per_worker=allowed_threads(), memory_limit=f"{0.6 * order.memory_mib:.0f}MiB",
                       local_directory=order.spill, dashboard_address=None, silence_logs=50)  # fmt: skip
    client, parts = Client(own), max(allowed_threads(), len(order.paths) // 4)
    asked = _grouped(dd.read_parquet(order.paths), order, split_out=parts, shuffle_method="p2p")
    return asked.compute, lambda: sum(client.run(_disk_writes).values())


def _disk_writes(dask_worker: Any) -> float:
    return sum(n for name, n in dask_worker.digests_total.items() if {"disk-write", "bytes"} <= set(name))


def _pyspark(order: Order) -> tuple:
    from kit.techniques.dataframes import clusters

    os.environ["SPARK_LOCAL_DIRS"] = order.spill
    spark = clusters.spark(memory_mib=0.6 * order.memory_mib)
    spark.conf.set("spark.sql.shuffle.partitions", max(allowed_threads(), len(order.paths) // 2))
    spark.read.parquet(*order.paths).createOrReplaceTempView("x")
    no_quantiles = spark.sparkContext._gateway.new_array(spark.sparkContext._jvm.double, 0)

    def written() -> int:
        stages = spark.sparkContext._jsc.sc().statusStore().stageList(None, False, False, no_quantiles, None)
        each = [stages.apply(number) for number in range(stages.size())]
        return sum(stage.diskBytesSpilled() + stage.shuffleWriteBytes() for stage in each)

    return spark.sql(order.sql).toArrow, written


ENGINES = {"DuckDB": _duckdb, "Polars streaming": _polars_streaming, "Dask": _dask, "PySpark": _pyspark,
           "Polars": _polars, "pandas": _pandas}  # fmt: skip


def main() -> None:
    """Carry out an order and write `answer.json`: columns of the answer, seconds, and what it took."""
    order, began = json.load(sys.stdin, object_hook=lambda found: Order(**found)), time.perf_counter()
    try:
        asked, written = ENGINES[order.engine](order)
        started = time.perf_counter()
        found = {"answer": answers.portable(asked()).to_pydict(), "seconds": time.perf_counter() - started}
        used = [one.io_counters() for one in (psutil.Process(), *psutil.Process().children(recursive=True))]
        disk = sum(one.read_bytes + one.write_bytes for one in used)
        found |= {"start_s": started - began, "spilled_mib": written() / 2**20, "disk_mib": disk / 2**20}
    except Exception as error:  # whatever an engine raises at its limit, or where its disk is full
        found = {"error": one_line(error)[:300]}
    Path("answer.json").write_text(json.dumps(found, default=int))  # DuckDB's sum of integers is a Decimal
    os._exit(0)  # without waiting for anything that the engine still tidies


if __name__ == "__main__":
    main()
