"""The real work that a cache stands before: predictions of a model, features of an item from its history."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kit.errors import UserError
from kit.measure.work import TIME, Ceiling
from kit.techniques.caching import stores
from kit.techniques.caching.stores import keys


@dataclass(frozen=True)
class Work:
    """Work that is ready: what `Opening` returns.

    items: number of different items that can be asked for. answer: an item's number → its answer, worked out.
    inputs: an item's number → what the answer depends on beside the version, for the key. version: what changes
    whenever answers may. close: frees what must be freed. bound: which of the machine's ceilings bounds an answer that
    is worked out, and how much of it that takes; None where nobody knows.
    """

    items: int
    answer: Callable[[int], Any]
    inputs: Callable[[int], Any]
    version: str
    close: Callable[[], None] = lambda: None
    bound: Callable[[], Ceiling | None] = lambda: None


Opening = Callable[[], Work]
"""Opens the work, in each process that does it; must pickle, as a `functools.partial` of a module's function does."""


def prediction(model: Path, inputs: dict[str, np.ndarray], threads: int = 1) -> Work:
    """Return the predictions of an ONNX model, one sample a request.

    inputs: by name, arrays with the samples along their first dimension; an answer is the model's first output for one
    sample. The version is the hash of the file and of those that it keeps weights in: retrain, quantize or edit it, and
    it is another.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    wanted = [session.get_outputs()[0].name]

    def sample(item: int) -> dict[str, np.ndarray]:
        return {name: values[item : item + 1] for name, values in inputs.items()}

    return Work(
        items=len(next(iter(inputs.values()))),
        answer=lambda item: session.run(wanted, sample(item))[0][0],
        inputs=sample,
        version=f"{content(model)} onnxruntime {onnxruntime.__version__}",
        bound=lambda: _products(model, sample(0), threads),
    )


def _products(model: Path, sample: dict[str, np.ndarray], threads: int) -> Ceiling:
    """Return the products of a prediction, by what ONNX Runtime ran."""
    from kit.techniques.quantization.engines import on_cpu, proof

    ran = proof.profiled(model, sample, on_cpu.session_options(threads), on_cpu.CPU)
    product = "matrix_product_int8_gop_per_s" if ran.share("INT8") else "matrix_product_fp32_gflop_per_s"
    return Ceiling(product, 2 * ran.multiplications / 1e9, "multiplications and additions of the model's products")


def content(model: Path) -> str:
    """Return a hash of an ONNX model: of its file, and of the files beside it that hold weights, if it has any."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    loaded = onnx.load(model, load_external_data=False)
    weights = (tensor for part in (loaded.graph, *loaded.functions) for tensor in _tensors(part))
    files = sorted({ExternalDataInfo(tensor).location for tensor in weights if uses_external_data(tensor)})
    own = keys.content(model)
    return stores.key(own, [keys.content(Path(model).parent / file) for file in files]).hex() if files else own


def _tensors(part: Any) -> Iterator[Any]:
    """Yield the tensors of a graph or function, with those inside its nodes."""
    yield from getattr(part, "initializer", ())
    for node in part.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def quantized(model: Path, path: Path) -> Path:
    """Write a model's INT8 successor to `path`, if it is not there: what is deployed over a cache that lives on."""
    if not path.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        quantize_dynamic(model, partial, weight_type=QuantType.QInt8)
        partial.replace(path)
    return path


def disturbed(model: Path, path: Path, share: float = 0.1, seed: int = 0) -> Path:
    """Write a model's successor to `path`, if it is not there: its weights with noise of such a share of their spread.

    It stands for one that was trained anew, which decides otherwise here and there; say so where it is shown.
    """
    if not path.exists():
        import onnx
        from onnx import numpy_helper

        loaded, chance = onnx.load(model), np.random.default_rng(seed)
        for weight in loaded.graph.initializer:
            values = numpy_helper.to_array(weight)
            if values.dtype == np.float32 and values.ndim > 1:
                noise = chance.normal(scale=share * values.std(), size=values.shape)
                weight.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), weight.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        onnx.save(loaded, partial)
        partial.replace(path)
    return path


FEATURES = """
    select count(*)::double, avg(dep_delay), stddev(arr_delay), quantile_cont(arr_delay, .9), max(distance)::double,
        count(distinct dest)::double, avg((arr_delay > 15)::int), sum(air_time)::double
    from flights where tailnum = $1
"""
"""Of one aircraft, from its year of flights: eight numbers that a model of delays would be given."""


def features(flights: Path, aircraft: list[str], threads: int = 1) -> Work:
    """Return the features of aircraft by their tail numbers, worked out from the table of flights on each request.

    flights: parquet, as `dataframes.flights.tables()` writes it. DuckDB answers from a table in memory with an index on
    the tail number: no straw man. An answer is eight float64; NaN where nothing is known.
    """
    import duckdb

    connection = duckdb.connect(config={"threads": threads})
    connection.execute("create table flights as select * from read_parquet(?)", [str(flights)])
    connection.execute("create index by_aircraft on flights (tailnum)")
    query = FEATURES.replace("$1", "?")

    def answer(item: int) -> np.ndarray:
        return np.array(connection.execute(query, [aircraft[item]]).fetchone(), np.float64)

    return Work(
        items=len(aircraft),
        answer=answer,
        inputs=lambda item: aircraft[item],
        version=f"{stores.key(None, FEATURES).hex()} {keys.content(flights)}",
        close=connection.close,
        bound=lambda: _of_one(connection, len(aircraft)),
    )


def _of_one(connection: Any, aircraft: int) -> Ceiling:
    """Return what `FEATURES` must read of an aircraft: five columns of its flights."""
    ((flights,),) = connection.execute("select count(*) from flights").fetchall()
    rows = flights / max(1, aircraft)
    note = f"five columns of an aircraft's {rows:.0f} flights, the mean, once; not the index"
    return Ceiling("memory_copy_gib_per_s", rows * 5 * 4 / 2**30, note)


def departures(folder: Path | str = "data") -> tuple[Path, list[str], np.ndarray]:
    """Return the table of flights, its aircraft, and the trace of them as scheduled: what `features` is asked for.

    The trace has one number of an aircraft a departure, shape (334,264,), int64.
    """
    import pandas

    from kit.techniques.dataframes.flights import tables

    path = Path(tables(cache=folder).paths["flights"])
    frame = pandas.read_parquet(path, columns=["tailnum", "time_hour", "minute"]).dropna()
    codes, aircraft = pandas.factorize(frame.sort_values(["time_hour", "minute"], kind="stable")["tailnum"])
    return path, [str(one) for one in aircraft], codes.astype(np.int64)


def waiting(seconds: float, items: int = 1000) -> Work:
    """Return work that waits, as for a service elsewhere: for an own trace whose work is not at hand, and for tests.
    An answer is the item's own number, as an array. Raise `UserError` for a time below 0."""
    if not seconds >= 0:
        raise UserError(f"seconds={seconds!r} is no time that work takes; give 0 or more")

    def answer(item: int) -> np.ndarray:
        time.sleep(seconds)
        return np.array([item])

    waits = Ceiling(TIME, seconds, "the waiting itself")
    return Work(items, answer, lambda item: item, f"waits {seconds}", bound=lambda: waits)
