"""The engines as variants: each loads the tables in its own process and returns the question as the work to time.

For questions of generated tables and of the user's own, frames are loaded first and only the question is timed; for
`delay_features` reading is part of the work. To group by text, pandas and Polars get it as categories and DuckDB as an
ENUM, as the benchmark's own scripts do: with that they are up to three times as fast; Dask is not, and gets text.
A GPU engine asks its CPU twin's question with the backend switched.
Each engine is imported where it is used, so that a process holds one only, and cudf.pandas comes before pandas.
"""

import os
from collections.abc import Callable
from functools import partial
from inspect import signature
from logging import ERROR
from types import ModuleType
from typing import Any

from kit.errors import UserError
from kit.machine.fingerprint import allowed_threads
from kit.measure.work import Peak, Setup, fell_back, verified
from kit.record.document import ExecutionProof
from kit.techniques.dataframes.columns import DEVICE, MEMORY, bound
from kit.techniques.dataframes.questions import workload_of
from kit.techniques.dataframes.tables import Tables

FLIGHT_TEXT = ("carrier", "origin", "dest", "tailnum")


def pandas(tables: Tables, question: str) -> Setup:
    """pandas: one thread but for reading."""
    import pandas as pd
    import pyarrow

    from kit.techniques.dataframes import in_pandas

    pyarrow.set_cpu_count(allowed_threads())
    load = partial(_pandas_frame, categories=_groups(question))
    call = asked(in_pandas, question, tables, load, pd=pd, text={"read_dictionary": FLIGHT_TEXT})

    def proof() -> ExecutionProof:
        return verified(version=pd.__version__, threads_reading=pyarrow.cpu_count(), device="CPU")

    return Setup(call, proof, peak=partial(bound, tables, question))


def polars(tables: Tables, question: str) -> Setup:
    """Polars, lazy, collected by its streaming engine."""
    import polars as pl

    def proof() -> ExecutionProof:
        return _threads_engaged(pl.thread_pool_size(), version=pl.__version__, device="CPU")

    return _polars(tables, question, "streaming", proof, categories=_groups(question))


def duckdb(tables: Tables, question: str) -> Setup:
    """DuckDB in memory; the answer is fetched as an Arrow table."""
    import duckdb

    from kit.techniques.dataframes import in_sql

    connection = duckdb.connect(config={"threads": allowed_threads()})
    query = asked(in_sql, question, tables, partial(_duckdb_table, connection, enums=_groups(question)))()

    def proof() -> ExecutionProof:
        [(used,)] = connection.sql("SELECT current_setting('threads')").fetchall()
        return _threads_engaged(used, version=duckdb.__version__, device="CPU")

    peak = partial(bound, tables, question)
    return Setup(lambda: connection.sql(query).to_arrow_table(), proof, connection.close, peak=peak)


def dask(tables: Tables, question: str, cluster: str | None = None) -> Setup:
    """Dask dataframe: on a cluster of its own within the thread budget, or on the one at `cluster` (tcp://…).

    Its own cluster is one process with threads, not one-threaded processes: shuffled partitions and answers need no
    copy from process to process then. At a million rows on two cores processes took 1.5 to 8 times as long, whatever
    the question. For the same reason it shuffles by tasks, in memory: the shuffle that is made for many machines (p2p)
    took 1.4 to 1.9 times as long where whole tables are shuffled.
    """
    import dask
    from distributed import Client, LocalCluster

    if cluster:
        return _dask(tables, question, Client(cluster), None, device="CPU")
    dask.config.set({"dataframe.shuffle.method": "tasks"})
    own = LocalCluster(
        1, threads_per_worker=allowed_threads(), processes=False, dashboard_address=":0", silence_logs=ERROR
    )
    return _dask(tables, question, Client(own), own, device="CPU")


def cudf(tables: Tables, question: str) -> Setup:
    """cuDF on one GPU: pandas' functions on cuDF frames."""
    import cudf

    from kit.techniques.dataframes import in_pandas

    call = asked(in_pandas, question, tables, cudf.read_parquet, pd=cudf)
    peak = partial(bound, tables, question, DEVICE)
    return Setup(call, lambda: verified(version=cudf.__version__, device=_device()), peak=peak)


def cudf_pandas(tables: Tables, question: str) -> Setup:
    """pandas, accelerated by cudf.pandas. Any function that ran on the CPU, by its profiler, counts as falling back."""
    import cudf.pandas

    cudf.pandas.install()  # before pandas is imported
    import pandas as pd

    from kit.techniques.dataframes import in_pandas

    call = asked(in_pandas, question, tables, pd.read_parquet, pd=pd)

    def proof() -> ExecutionProof:
        with cudf.pandas.Profiler() as profiler:
            call()
        return _cudf_pandas_engaged(profiler.per_function_stats, version=cudf.__version__, device=_device())

    return Setup(call, proof, peak=partial(bound, tables, question, DEVICE))


def polars_gpu(tables: Tables, question: str) -> Setup:
    """Polars' lazy questions on one GPU. What the GPU engine can't do raises; it never falls back in silence."""
    import polars as pl

    def proof() -> ExecutionProof:
        return verified(version=pl.__version__, device=_device(), fallbacks=0)

    engine = pl.GPUEngine(executor="in-memory", raise_on_fail=True)
    return _polars(tables, question, engine, proof, categories=False)  # which the GPU engine does not have


def dask_cudf(tables: Tables, question: str, cluster: str | None = None) -> Setup:
    """Dask on cuDF partitions: on all GPUs here (one worker each), or on the cluster of GPU workers at `cluster`."""
    import dask
    from dask_cuda import LocalCUDACluster
    from distributed import Client

    dask.config.set({"dataframe.backend": "cudf"})
    own = None if cluster else LocalCUDACluster(dashboard_address=":0")
    return _dask(tables, question, Client(own or cluster), own, gpus=True, device=_device())


def _groups(question: str) -> bool:
    return "groupby" in question


def asked(idiom: ModuleType, question: str, tables: Tables, load: Callable[[str], Any], **given: Any) -> Callable:
    """Return `question` of `idiom` as a function of nothing: the tables that its signature names are loaded here.

    load: parquet path → table of the engine. given: further arguments, as the module to read with.
    Raise `UserError` if there is no such question, or if `tables` are those of another workload.
    """
    if workload_of(question) != tables.workload:
        raise UserError(
            f"{question} is asked of tables for {workload_of(question)}, and these are for {tables.workload}"
        )
    function = getattr(idiom, question)
    given |= {"paths": tables.paths, "by": list(tables.by), "values": list(tables.values)}
    names = [name for name, p in signature(function).parameters.items() if name in given or p.default is p.empty]
    return partial(function, **{name: given[name] if name in given else load(tables.paths[name]) for name in names})


def _pandas_frame(path: str, categories: bool) -> Any:
    """Return a pandas frame. Whole numbers with missing values stay whole, which they would not as numpy's."""
    import pandas as pd
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(path)
    text = [field.name for field in schema if pyarrow.types.is_string(field.type)]
    table = pyarrow.parquet.read_table(path, read_dictionary=text if categories else None)
    whole = {pyarrow.int32(): pd.Int32Dtype(), pyarrow.int64(): pd.Int64Dtype()}
    columns = {name: table[name] for name in table.column_names}
    return pd.DataFrame(
        {name: c.to_pandas(types_mapper=whole.get if c.null_count else None) for name, c in columns.items()}
    )


def _has_gaps(path: str) -> bool:
    """Return whether a column of whole numbers has missing values, by the statistics in the file's footer."""
    import pyarrow.parquet

    footer = pyarrow.parquet.read_metadata(path)
    whole = [i for i, field in enumerate(footer.schema.to_arrow_schema()) if pyarrow.types.is_integer(field.type)]
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    return any(group.column(i).statistics.null_count for group in groups for i in whole)


def _polars(tables: Tables, question: str, engine: Any, proof: Callable[[], ExecutionProof], categories: bool) -> Setup:
    import polars as pl
    from polars import selectors

    from kit.techniques.dataframes import in_polars

    def load(path: str) -> pl.LazyFrame:
        frame = pl.read_parquet(path)
        return (frame.with_columns(selectors.string().cast(pl.Categorical)) if categories else frame).lazy()

    query = asked(in_polars, question, tables, load)
    peak = partial(bound, tables, question, MEMORY if engine == "streaming" else DEVICE)
    return Setup(lambda: query().collect(engine=engine), proof, peak=peak)


def _threads_engaged(used: int, **facts: Any) -> ExecutionProof:
    if used != allowed_threads():
        return fell_back(f"{used} threads instead of the {allowed_threads()} allowed", threads=used, **facts)
    return verified(threads=used, **facts)


def _duckdb_table(connection: Any, path: str, enums: bool) -> str:
    """Load a table under the name of its file, and return that name."""
    from kit.techniques.dataframes.in_sql import quoted

    table, name, casts = connection.read_parquet(path), os.path.basename(path).removesuffix(".parquet"), []
    text = [column for column, kind in zip(table.columns, table.types, strict=True) if kind == "VARCHAR"]
    for number, column in enumerate(map(quoted, text if enums else [])):
        table.filter(f"{column} IS NOT NULL").project(column).distinct().create_view("texts", replace=True)
        connection.execute(f"CREATE TYPE text_{number} AS ENUM (SELECT * FROM texts)")
        casts.append(f"{column}::text_{number} AS {column}")
    table.project(f"* REPLACE ({', '.join(casts)})" if casts else "*").create(name)
    return name


def _dask(tables: Tables, question: str, client: Any, cluster: Any, *, gpus: bool = False, **facts: Any) -> Setup:
    from importlib.metadata import version

    from distributed import wait

    from kit.techniques.dataframes import in_dask

    nullable = any(map(_has_gaps, tables.paths.values()))  # for all, since keys of one type join

    def load(path: str) -> Any:
        frame = in_dask.read(path, nullable=nullable).persist()
        wait(frame)
        return frame

    def proof() -> ExecutionProof:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        used = sum(worker["nthreads"] for worker in workers)
        facts.update(version=version("dask"), workers=len(workers), partitions=query().npartitions)
        return verified(threads=used, **facts) if cluster is None else _threads_engaged(used, **facts)

    def close() -> None:
        client.close()
        if cluster is not None:
            cluster.close()

    def peak() -> Peak | None:
        if cluster is None or (gpus and len(cluster.workers) > 1):
            return None  # other machines or several GPUs, whose peaks nobody has measured
        return bound(tables, question, DEVICE if gpus else MEMORY)

    try:
        query = asked(in_dask, question, tables, load)
    except BaseException:
        close()
        raise
    return Setup(lambda: query().compute().reset_index(drop=True), proof, close, peak=peak)


def _cudf_pandas_engaged(calls: dict[str, dict[str, list[float]]], **facts: Any) -> ExecutionProof:
    """Judge by the profiler's seconds of each call: function → {"gpu": […], "cpu": […]}."""
    fast, slow = (sum(len(seconds.get(where, ())) for seconds in calls.values()) for where in ("gpu", "cpu"))
    facts |= {"calls_on_gpu": fast, "fallbacks": slow}
    if fast and not slow:
        return verified(**facts)
    names = sorted(name for name, seconds in calls.items() if seconds.get("cpu"))
    return fell_back(f"pandas on the CPU in {', '.join(names) or 'everything'}", **facts)


def _device() -> str:
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
