"""The work behind the cache and its requests: features from a table, predictions of a model, or work of your own."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from kit.common import address, datasets, parameters, readers
from kit.errors import UserError
from kit.techniques.caching import traces
from kit.techniques.caching.policies import LRU, POLICIES
from kit.techniques.caching.simulation import MOST_REQUESTS, simulate
from kit.techniques.caching.traces import Trace


@dataclass(frozen=True)
class Work:
    """Work that is ready. Items are numbered from 0.

    answer: item → its answer, computed. inputs: item → all that the answer depends on besides `version`, for the key.
    version: text that changes whenever answers may change. name: for titles. trace: returns the requests that belong
    to this work; None if a trace is to be given. decision: answer → the decision made by it; None if it is not known.
    previous: opens the version before this one, whose answers a cache may still hold.
    """

    items: int
    answer: Callable[[int], Any]
    inputs: Callable[[int], Any]
    version: str
    name: str = "your work"
    trace: Callable[[], Trace] | None = None
    decision: Callable[[Any], Any] | None = None
    previous: "Callable[[], Work] | None" = None


def opening(work: str) -> Callable[[], Work]:
    """Return what opens the work that a parameter names, in each process: "features", "magika", "wait 2.5" (ms),
    "model.onnx" with its inputs beside it in "model.npz", or "package.module:function", which returns a `Work`.

    Raise `UserError` for another name.
    """
    if ":" in work:
        return partial(_own, work)
    if work.endswith(".onnx"):
        return partial(onnx_model, work)
    if work.startswith("wait "):
        return partial(waiting, work.removeprefix("wait "))
    return {"features": features, "magika": magika}[parameters.one_of(work, ("features", "magika"), "work")]


def _own(name: str) -> Work:
    made = address.call(address.resolve(name), {})
    if not isinstance(made, Work):
        raise UserError(f"work={name!r} returns {type(made).__name__}; return a kit.techniques.caching.workload.Work")
    if not (isinstance(made.version, str) and made.version):
        raise UserError(f"{name} has version={made.version!r}; give a text that changes whenever answers may change")
    return made


FEATURES = """
    select count(*)::double, avg(dep_delay), stddev(arr_delay), quantile_cont(arr_delay, .9), max(distance)::double,
        count(distinct dest)::double, avg((arr_delay > 15)::int), sum(air_time)::double
    from flights where tailnum = ?
"""


def features(months: int = 12) -> Work:
    """Return eight features of an aircraft, float64, NaN where unknown, from the first `months` of its flights in 2013.

    DuckDB answers from a table in memory with an index on the aircraft. Requested in the order of departures. The
    decision is whether over a quarter of its flights are late; the version before lacks the last month.
    """
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    columns = "tailnum, dep_delay, arr_delay, distance, dest, air_time"
    source = f"from '{datasets.flights()['flights']}' where tailnum is not null"
    connection.execute(f"create table flights as select {columns} {source} and month <= {months}")
    connection.execute("create index by_aircraft on flights (tailnum)")
    names = [name for (name,) in connection.execute(f"select distinct tailnum {source} order by 1").fetchall()]
    return Work(
        items=len(names),
        answer=lambda item: np.array(connection.execute(FEATURES, [names[item]]).fetchone(), np.float64),
        inputs=lambda item: names[item],
        version=f"{FEATURES} months 1 to {months} duckdb {duckdb.__version__}",
        name="features of an aircraft",
        trace=traces.tail_numbers,
        decision=lambda features: bool(features[6] > 0.25),
        previous=partial(features, 11) if months == 12 else None,
    )


def onnx_model(model: Path | str, inputs: dict[str, np.ndarray] | None = None) -> Work:
    """Return the predictions of an ONNX model on one thread of the CPU, one sample per request: its first output.

    inputs: arrays by name with the samples along the first dimension; None: from the file `.npz` beside the model. The
    decision is the largest output. Raise `UserError` for missing files or inputs.
    """
    import onnxruntime

    model, beside = readers.whole(model, "the path of an ONNX file"), Path(model).with_suffix(".npz")
    if inputs is None:
        with readers.readable(str(readers.whole(beside, "the model's inputs there, by numpy.savez", zipped=True))):
            inputs = dict(np.load(beside, allow_pickle=False))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with readers.readable(str(model)):
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    wanted, names = [session.get_outputs()[0].name], [one.name for one in session.get_inputs()]
    if missing := set(names) - set(inputs):
        raise UserError(f"{beside.name} lacks the model's input {min(missing)!r}; it has {', '.join(inputs)}")

    def sample(item: int) -> dict[str, np.ndarray]:
        return {name: inputs[name][item : item + 1] for name in names}

    return Work(
        items=len(inputs[names[0]]),
        answer=lambda item: session.run(wanted, sample(item))[0][0],
        inputs=sample,
        version=f"{_content(model)} onnxruntime {onnxruntime.__version__}",
        name=f"predictions of {model.stem}",
        decision=lambda output: int(np.argmax(output)),
    )


def _content(model: Path) -> str:
    """Return the hash of an ONNX model and of the files beside it that contain its weights, if it has any."""
    content = model.read_bytes()
    found = re.finditer(rb"\n\x08location\x12(.)", content, re.DOTALL)  # an entry of protobuf, then its length and text
    files = sorted({content[one.end() : one.end() + one[1][0]].decode("utf-8", "replace") for one in found})
    digest = sha256(content)
    for file in (model.parent / name for name in files):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def magika() -> Work:
    """Return the type of a file by magika's model, requested as Python's standard library imports its files."""
    model, contents = (
        datasets.magika_folder() / "model.onnx",
        map(Path.read_bytes, dict.fromkeys(traces.imported_files())),
    )
    found = onnx_model(model, {"bytes": np.stack([datasets.magika_input(content) for content in contents])})
    return replace(found, name="the type of a file", trace=traces.imports)


def waiting(ms: float | str, items: int = 10_000_000) -> Work:
    """Return work that waits, as for another service: the item's number, after so many milliseconds."""
    seconds = parameters.at_least(float(ms), 0, "work='wait …'") / 1000

    def answer(item: int) -> np.ndarray:
        time.sleep(seconds)
        return np.array([item])

    return Work(items, answer, lambda item: item, f"wait {seconds}", f"work of {1000 * seconds:g} ms")


@dataclass(frozen=True, eq=False)
class Requests:
    """What each variant answers.

    work: opens it. earlier: items requested before, in order: they fill the cache. items: the requests that are
    measured; later: those and four times as many after them. known: item → answer, of the later ones. hit_ratio: of
    the first policy, over the whole trace.
    """

    work: Callable[[], Work]
    earlier: list[int]
    items: list[int]
    later: list[int]
    known: dict[int, Any]
    hit_ratio: float


def trace_of(work: Work, given: Trace | None = None) -> Trace:
    """Return the last 100,000 requests for the work: its own, or `given`, whose objects then are the work's items.

    Raise `UserError` where there are none, or where there are more objects than items.
    """
    if not (given or work.trace):
        raise UserError(f"no requests belong to {work.name}; give trace=")
    trace = given or work.trace()
    if (objects := int(trace.keys.max()) + 1) > work.items:
        raise UserError(f"{trace.name} has {objects:,} objects, and {work.name} {work.items:,}; give its own trace")
    return trace.last(MOST_REQUESTS)


def requests(
    work: Callable[[], Work], opened: Work, trace: Trace, capacity: int, *, measured: int = 200,
    policies: Sequence[str] = ("LRU",), replay: int = 0,
) -> Requests:  # fmt: skip
    """Return `measured` requests in a row of the trace's second half, whose hit ratios are the nearest to those of the
    whole trace for all `policies` at this capacity; and the requests that go before.

    replay: how many go before; 0: one for each item that an LRU holds then, the oldest first. Raise `UserError` for a
    trace that is too short, or that requests nothing twice.
    """
    if len(trace) < 12 * parameters.at_least(measured, 10, "requests", whole=True):
        raise UserError(f"trace {trace.name!r} has {len(trace):,} requests; give 12 × requests={measured} at least")
    hits = np.array([simulate(POLICIES[name](capacity), trace.keys) for name in policies])
    ratios = hits.mean(axis=1, keepdims=True)
    if not hits[0].any():
        raise UserError(
            f"{policies[0]} with {capacity:,} items hits nothing of trace {trace.name!r}; give another trace"
        )
    counts = np.cumsum(np.pad(hits, ((0, 0), (1, 0))), axis=1)
    windows = (counts[:, measured:] - counts[:, :-measured]) / measured
    start = len(trace) // 2
    start += int(np.abs(windows[:, start : len(trace) - 5 * measured] - ratios).max(axis=0).argmin())
    items = trace.keys[start : start + 5 * measured].tolist()
    earlier = trace.keys[:start][-replay:].tolist() if replay else _held(trace.keys[:start], capacity)
    known = {item: opened.answer(item) for item in dict.fromkeys(items)}
    return Requests(work, earlier, items[:measured], items, known, float(ratios[0, 0]))


def _held(keys: np.ndarray, capacity: int) -> list[int]:
    """Return what an LRU holds after these requests, the least recently used first."""
    cache = LRU(capacity)
    simulate(cache, keys)
    return list(cache)
