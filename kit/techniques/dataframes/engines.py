"""The engines as variants: each loads the tables in its own process and returns the question as the work to time.

`delay_features` and questions from files read in each call; for others, tables are loaded first. To group by text,
pandas and Polars get categories and DuckDB an ENUM; Dask, which gains nothing by them, gets text. A GPU engine asks its
CPU twin's question. Each engine is imported where it is used, so that a process holds one only.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from importlib.metadata import version
from inspect import signature
from logging import ERROR
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from kit.errors import UserError
from kit.machine.fingerprint import allowed_threads
from kit.measure.work import Setup, verified
from kit.record.document import ExecutionProof
from kit.techniques.dataframes import checks, clusters
from kit.techniques.dataframes.columns import bound, read
from kit.techniques.dataframes.questions import FROM_FILES, Tables, workload_of

FLIGHT_TEXT = ("carrier", "origin", "dest", "tailnum")
STEADY, WARM_CALLS, WARM_S = 0.9, 3, 10.0
"""A JVM is warm when three calls in a row took 90 % of the fastest before them or more, or 10 s after the first."""

_spent: dict[str, float] = {}
"""Seconds of setup that are not the engine's start: `load_s`, and `first_query_s` and `warm_up_s` of a JVM."""


def _engine(function: Callable[..., Setup], peak: str = "memory_copy_gib_per_s") -> Callable[..., Setup]:
    """Add to an engine's setup the peak of this machine that bounds it, unless it runs on a cluster, and to its proof
    the seconds of its setup, as costs: `start_s` (import, session) and those of `_spent`."""

    @wraps(function)
    def engine(tables: Tables, question: str, **options: Any) -> Setup:
        began = time.perf_counter()
        _spent.clear()
        setup = function(tables, question, **options)
        costs = {"start_s": time.perf_counter() - began - sum(_spent.values()), **_spent}
        proof = lambda: msgspec.structs.replace(setup.execution_proof(), costs=costs)  # noqa: E731
        bounded = setup.peak or (None if options.get("cluster") else partial(bound, tables, question, peak))
        return replace(setup, execution_proof=proof, peak=bounded)

    return engine


_gpu_engine = partial(_engine, peak="device_copy_gib_per_s")


@_engine
def pandas(tables: Tables, question: str) -> Setup:
    """pandas: one thread but for reading."""
    import pandas as pd
    import pyarrow

    from kit.techniques.dataframes import in_pandas

    pyarrow.set_cpu_count(allowed_threads())
    needed = read(tables, question) if tables.from_files else {}
    load = partial(_pandas_frame, categories="groupby" in question, needed=needed)
    call = asked(in_pandas, question, tables, load, read=partial(pd.read_parquet, read_dictionary=FLIGHT_TEXT))
    proof = partial(verified, version=pd.__version__, threads_reading=pyarrow.cpu_count(), device="CPU")
    return Setup(call, proof)


@_engine
def polars(tables: Tables, question: str) -> Setup:
    """Polars, lazy, collected by its streaming engine."""
    import polars as pl

    proof = partial(checks.threads_engaged, pl.thread_pool_size(), version=pl.__version__, device="CPU")
    return _polars(tables, question, "streaming", proof)


@_engine
def duckdb(tables: Tables, question: str) -> Setup:
    """DuckDB in memory; the answer is fetched as an Arrow table."""
    import duckdb

    from kit.techniques.dataframes import in_sql

    connection = duckdb.connect(config={"threads": allowed_threads()})
    load = in_sql.file if tables.from_files else partial(_duckdb_table, connection, enums="groupby" in question)
    query = asked(in_sql, question, tables, load)()
    [(threads,)] = connection.sql("SELECT current_setting('threads')").fetchall()
    proof = partial(checks.threads_engaged, threads, version=duckdb.__version__, device="CPU")
    return Setup(lambda: connection.sql(query).to_arrow_table(), proof, connection.close)


@_engine
def dask(tables: Tables, question: str, cluster: str | None = None) -> Setup:
    """Dask dataframe: on the cluster at `cluster` (tcp://…), or on one of its own: one process with threads, and
    shuffles by tasks, so that partitions and answers are not copied from process to process."""
    import dask
    from distributed import Client

    if cluster:
        return _dask(tables, question, Client(cluster), verified, device="CPU")
    dask.config.set({"dataframe.shuffle.method": "tasks"})
    one = {"n_workers": 1, "threads_per_worker": allowed_threads(), "processes": False}
    own = Client(**one, dashboard_address=":0", silence_logs=ERROR)
    return _dask(tables, question, own, checks.threads_engaged, device="CPU")


@_gpu_engine
def cudf(tables: Tables, question: str) -> Setup:
    """cuDF on one GPU: pandas' functions on cuDF frames."""
    import cudf

    from kit.techniques.dataframes import in_pandas

    call = asked(in_pandas, question, tables, cudf.read_parquet, read=cudf.read_parquet)
    return Setup(call, lambda: verified(version=cudf.__version__, device=_device()))


@_gpu_engine
def cudf_pandas(tables: Tables, question: str) -> Setup:
    """pandas, accelerated by cudf.pandas. Any function that ran on the CPU, by its profiler, counts as falling back."""
    import cudf.pandas

    cudf.pandas.install()  # before pandas is imported
    import pandas as pd

    from kit.techniques.dataframes import in_pandas

    call = asked(in_pandas, question, tables, pd.read_parquet, read=pd.read_parquet)

    def proof() -> ExecutionProof:
        with cudf.pandas.Profiler() as profiler:
            call()
        return checks.cudf_pandas_engaged(profiler.per_function_stats, version=cudf.__version__, device=_device())

    return Setup(call, proof)


@_gpu_engine
def polars_gpu(tables: Tables, question: str) -> Setup:
    """Polars' lazy questions on one GPU. What the GPU engine can't do raises; it never falls back in silence."""
    import polars as pl

    engine = pl.GPUEngine(executor="in-memory", raise_on_fail=True)
    return _polars(tables, question, engine, lambda: verified(version=pl.__version__, device=_device(), fallbacks=0))


@_gpu_engine
def dask_cudf(tables: Tables, question: str) -> Setup:
    """Dask on cuDF partitions, on all GPUs here: one worker each."""
    import dask
    from dask_cuda import LocalCUDACluster
    from distributed import Client

    dask.config.set({"dataframe.backend": "cudf"})
    client = Client(LocalCUDACluster(dashboard_address=":0"))
    setup = _dask(tables, question, client, verified, device=_device())
    several = len(client.scheduler_info()["workers"]) > 1  # GPUs, whose peak together nobody has measured
    return replace(setup, close=client.shutdown, peak=(lambda: None) if several else None)


@_engine
def pyspark(tables: Tables, question: str, cluster: str = "") -> Setup:
    """PySpark on all allowed threads of this machine, or on the cluster at `cluster` (spark://…, sc://…)."""
    return _spark(tables, question, clusters.spark(cluster), cached=not tables.from_files)


@_engine
def sail(tables: Tables, question: str) -> Setup:
    """Sail: PySpark's code without a JVM, on a server within this process.

    It reads the files in each query, since it keeps no tables in memory: its `cache()` does nothing."""
    return _spark(tables, question, clusters.sail(), cached=False)


def on_cluster(address: str) -> dict[str, tuple[Callable[..., Setup], tuple]]:
    """Return the entry for `ENGINES` of a cluster; none without an address. Raise `UserError` as `clusters.checked`."""
    name, engine = ("Dask", dask) if address.startswith("tcp://") else ("PySpark", pyspark)
    return {name + clusters.CLUSTER: (partial(engine, cluster=address), ())} if clusters.checked(address) else {}


ENGINES = {
    "pandas": (pandas, ()), "Polars": (polars, ()), "DuckDB": (duckdb, ()), "Dask": (dask, ()),
    "Sail": (sail, "pysail"), "PySpark": (pyspark, "pyspark"), "cuDF": (cudf, "cudf"),
    "cudf.pandas": (cudf_pandas, "cudf.pandas"), "Polars on GPU": (polars_gpu, "polars gpu"),
    "Dask-cuDF": (dask_cudf, "dask-cudf"),
}  # fmt: skip
"""Name → the engine, and the capabilities that it requires. The JVM comes late: it may take half of the free memory."""


def asked(idiom: ModuleType, question: str, tables: Tables, load: Callable[[str], Any], **given: Any) -> Callable:
    """Return `question` of `idiom` as a function of nothing: the tables that its signature names are loaded here, by
    `load`: Parquet path → table of the engine. given: further arguments, as the reader. Raise `UserError` if there is
    no such question, or if `tables` are those of another workload."""
    question = question.removesuffix(FROM_FILES)
    if workload_of(question) != tables.workload:
        raise UserError(f"{question} is asked of tables for {workload_of(question)}, not for {tables.workload}")
    function = idiom.QUERIES[question]
    given |= {"paths": tables.paths, "by": list(tables.by), "values": list(tables.values)}
    names = [name for name, p in signature(function).parameters.items() if name in given or p.default is p.empty]

    def loaded() -> dict[str, Any]:
        return {name: given[name] if name in given else load(tables.paths[name]) for name in names}

    if tables.from_files:
        return lambda: function(**loaded())
    began, ready = time.perf_counter(), loaded()
    _spent["load_s"] = time.perf_counter() - began
    return partial(function, **ready)


def _pandas_frame(path: str, categories: bool, needed: dict[str, list[str]]) -> Any:
    """Return a pandas frame, of all columns where none are `needed`, by table. Whole numbers stay whole where some are
    missing, which they would not as numpy's."""
    import pandas as pd
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(path)
    texts = [field.name for field in schema if pyarrow.types.is_string(field.type)] if categories else None
    table = pyarrow.parquet.read_table(path, columns=needed.get(Path(path).stem), read_dictionary=texts)
    whole = {pyarrow.int32(): pd.Int32Dtype(), pyarrow.int64(): pd.Int64Dtype()}
    columns = zip(table.column_names, table.columns, strict=True)
    return pd.DataFrame({name: x.to_pandas(types_mapper=whole.get if x.null_count else None) for name, x in columns})


def _has_gaps(path: str) -> bool:
    """Return whether a column of whole numbers has missing values, by the statistics in the file's footer."""
    import pyarrow.parquet

    footer = pyarrow.parquet.read_metadata(path)
    whole = [i for i, field in enumerate(footer.schema.to_arrow_schema()) if pyarrow.types.is_integer(field.type)]
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    return any(group.column(i).statistics.null_count for group in groups for i in whole)


def _polars(tables: Tables, question: str, engine: Any, proof: Callable[[], ExecutionProof]) -> Setup:
    import polars as pl
    from polars import selectors

    from kit.techniques.dataframes import in_polars

    categories = "groupby" in question and engine == "streaming"  # which the GPU engine does not have

    def load(path: str) -> pl.LazyFrame:
        if tables.from_files:
            return pl.scan_parquet(path)
        frame = pl.read_parquet(path)
        return (frame.with_columns(selectors.string().cast(pl.Categorical)) if categories else frame).lazy()

    query = asked(in_polars, question, tables, load)
    return Setup(lambda: query().collect(engine=engine), proof)


def _duckdb_table(connection: Any, path: str, enums: bool) -> str:
    """Load a table under the name of its file, and return that name."""
    from kit.techniques.dataframes.in_sql import quoted

    table, name, casts = connection.read_parquet(path), Path(path).stem, []
    text = [column for column, kind in zip(table.columns, table.types, strict=True) if kind == "VARCHAR"]
    for number, column in enumerate(map(quoted, text if enums else [])):
        table.filter(f"{column} IS NOT NULL").project(column).distinct().create_view("texts", replace=True)
        connection.execute(f"CREATE TYPE text_{number} AS ENUM (SELECT * FROM texts)")
        casts.append(f"{column}::text_{number} AS {column}")
    table.project(f"* REPLACE ({', '.join(casts)})" if casts else "*").create(name)
    return name


def _dask(tables: Tables, question: str, client: Any, judge: Callable[..., ExecutionProof], **facts: Any) -> Setup:
    """Return the question to Dask. judge: of the threads of all workers."""
    from distributed import wait

    from kit.techniques.dataframes import in_dask

    nullable = any(map(_has_gaps, tables.paths.values()))  # for all, since keys of one type join

    def load(path: str) -> Any:
        frame = in_dask.read(path, nullable=nullable)
        if not tables.from_files:
            frame = frame.persist()
            wait(frame)
        return frame

    def proof() -> ExecutionProof:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        facts.update(version=version("dask"), workers=len(workers), partitions=query().npartitions)
        return judge(threads=sum(worker["nthreads"] for worker in workers), **facts)

    query = asked(in_dask, question, tables, load)
    return Setup(lambda: query().compute().reset_index(drop=True), proof, client.close)


def _spark(tables: Tables, question: str, session: Any, cached: bool) -> Setup:
    """Return the question to an engine that speaks PySpark, warm."""
    from kit.techniques.dataframes import in_spark

    def load(path: str) -> Any:
        frame = session.read.parquet(path)
        if cached:
            frame.cache().count()
        return frame

    query, took, n = asked(in_spark, question, tables, load, spark=session), [], WARM_CALLS

    def call() -> Any:
        began = time.perf_counter()
        answer = query().toArrow()
        took.append(time.perf_counter() - began)
        return answer

    while sum(took[1:]) < WARM_S and (len(took) <= n or min(took[-n:]) < STEADY * min(took[:-n])):
        call()
    _spent.update(first_query_s=took[0], warm_up_s=sum(took[1:]))
    warm, proof = len(took), checks.spark_proof(session)
    return Setup(call, lambda: proof(calls=len(took) - warm), session.stop)


def _device() -> str:
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
