"""What a notebook's parameters name: a trace, the work that a cache is to stand before, a server to be left clean."""

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
import psutil

from kit.errors import UserError
from kit.techniques.address import call, resolve
from kit.techniques.caching import stores, traces
from kit.techniques.caching.layers import work
from kit.techniques.caching.layers.work import Opening, Work
from kit.techniques.caching.policies import POLICIES
from kit.techniques.caching.sampling import sample
from kit.techniques.caching.stores import entry
from kit.techniques.caching.traces import Trace

GENERATED = {
    "zipf": lambda exponent: traces.zipf(300_000, 10_000, exponent),
    "shifting": lambda exponent: traces.shifting(300_000, 10_000, exponent),
}
STORES = (
    "LRU in memory", "SIEVE in memory", "cachetools LRU", "cachebox LRU", "SQLite", "LMDB", "two tiers", "Redis",
)  # fmt: skip
"""Those that both comparisons measure, so that `variants=` can name them."""
LAYERS = ("features", "data")


def check(
    *,
    policies: Sequence[str] = (),
    capacities: Sequence[float] = (),
    layers: Sequence[str] = (),
    variants: Sequence[str] = (),
    redis_url: str = "",
    requests_a_day: float = 1.0,
    seconds: float = 1.0,
) -> None:
    """Raise `UserError` for the first of a notebook's parameters that can't be, and for a server that is not there."""
    for name, given, known in (
        ("policies", policies, tuple(POLICIES)),
        ("layers", layers, LAYERS),
        ("variants", variants, STORES),
    ):
        for unknown in (one for one in given if one not in known):
            near = get_close_matches(str(unknown), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"{name}= names {unknown!r}, which is none; {hint}")
    for name, value in (("requests_a_day", requests_a_day), ("seconds", seconds)):
        if not _above(value, 0):
            raise UserError(f"{name}={value!r} can't be; give a number above 0")
    wrong = [one for one in capacities if not (_above(one, 0) and 1 <= one < 2**53)]
    if wrong:
        raise UserError(
            f"capacities= has {wrong[0]!r}; give numbers from 1 on, as [100, 1_000], or an empty list for ten"
        )
    if redis_url:
        reach(redis_url)


def _above(value: object, least: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and least < value < float("inf")


def reach(url: str, timeout_s: float = 2.0) -> None:
    """Raise `UserError` unless a server answers at `url` within `timeout_s`; it tells the address without password."""
    try:
        import redis
    except ModuleNotFoundError:
        raise UserError("redis_url= needs the package redis; pip install redis, or leave redis_url= empty") from None
    with stores.Redis(url, timeout_s=timeout_s) as store:
        name = store.name
    try:
        with redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        raise UserError(
            f"redis_url={name!r} does not answer ({type(error).__name__}: {error}); start a server there, mend the "
            "address, or leave redis_url= empty for a private one"
        ) from None


def trace(name: str, columns: list[str]) -> Trace:
    """Return the trace of that name.

    name: a real one, as "tail numbers"; a generated one with its exponent, as "zipf 0.8" or "shifting 1.0", or "scan";
    or the address of an own file. columns: names of an own file's columns of keys, times and sizes.
    Raise `UserError`, with what there is, for another.
    """
    kind, _, exponent = name.partition(" ")
    if name in traces.REAL:
        return traces.REAL[name]()
    if name == "scan":
        return traces.scan(300_000, 10_000)
    if kind in GENERATED:
        return GENERATED[kind](_number(exponent, name))
    if "." not in name and "/" not in name:
        known = [*traces.REAL, "zipf 1.0", "shifting 1.0", "scan"]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
        raise UserError(f"no trace is called {name!r}; {hint} Your own is given as 'path/to/file.csv'")
    if len(columns) != 3:
        raise UserError(f"columns={columns} names {len(columns)} columns; name three: of keys, of times and of sizes")
    return traces.own(name, *columns)


def _number(text: str, name: str) -> float:
    try:
        return float(text or 1.0)
    except ValueError:
        raise UserError(f"trace={name!r} has no number as its exponent; write it as 'zipf 0.8'") from None


@dataclass(frozen=True, eq=False)
class Asked:
    """What is worked out, and for whom.

    name: of the work; opening: opens it; keys: items asked for, in order, int64; note: what it has, in a few words;
    onnx, inputs: the model's file and what it is asked, where there is one.
    """

    name: str
    opening: Opening
    keys: np.ndarray
    note: str = ""
    onnx: Path | None = None
    inputs: dict[str, np.ndarray] = field(default_factory=dict)


def before(model: str, asked: Trace) -> Asked:
    """Return the work that `model` names, and the requests of the trace for it.

    model: "features" (of aircraft, from their flights, asked for in the order of departures); a model as quantization
    knows them, "magika" or "path/to/file.onnx" with its inputs and targets beside it in "path/to/file.npz"; or
    "package.module:function", which returns a `layers.work.Work`. Where the trace has more objects than the work has
    items, requests for so many of the objects are taken, popular and rare ones alike, in their order.
    """
    if model == "features":
        path, aircraft, keys = work.departures()
        note = "eight numbers of an aircraft's flights, by DuckDB"
        if not np.array_equal(keys, asked.keys):
            note += f", in the order of departures, not of {asked.name}"
        return Asked("features of aircraft", partial(work.features, path, aircraft), keys, note)
    if ":" in model:
        opening = resolve(model)
        one = _opened(model, opening)
        if not isinstance(one, Work):
            raise UserError(
                f"model={model!r} returns {type(one).__name__}, not a Work; let it return one, see "
                "kit/techniques/caching/layers/work.py"
            )
        one.close()
        if not (isinstance(one.version, str) and one.version):
            raise UserError(
                f"model={model!r} has version={one.version!r}, so a cache would answer for the old model for ever; "
                "give a text that changes whenever answers may, as stores.content(file)"
            )
        keys, note = _of_items(asked, one.items, model), f"{one.items:,} items"
        return Asked(model, opening, keys, note)
    from kit.techniques.quantization.subjects import models

    data = str(Path(model).with_suffix(".npz")) if model.endswith(".onnx") else ""
    subject = models.subject(model, data, calibration=2, evaluation=10_000)
    opening = partial(work.prediction, subject.onnx, subject.evaluation)
    keys, note = _of_items(asked, subject.samples, model), f"{subject.samples:,} {subject.item}"
    return Asked(f"the model {subject.name}", opening, keys, note, subject.onnx, subject.evaluation)


def successors(asked: Asked, folder: Path) -> dict[str, Work]:
    """Return models that might replace the one asked, by what was done to it; none where the work is no ONNX model."""
    if asked.onnx is None:
        return {}
    from kit.techniques.quantization.smaller.precisions import quiet

    ways = {"weights disturbed, as if trained anew": work.disturbed, "quantized to INT8": work.quantized}
    with quiet():
        files = {change: write(asked.onnx, folder / f"{write.__name__}.onnx") for change, write in ways.items()}
    return {change: work.prediction(file, asked.inputs) for change, file in files.items()}


def _opened(model: str, opening: Opening) -> object:
    try:
        return call(opening, {})
    except UserError:
        raise
    except Exception as error:  # whatever the user's own function raises
        raise UserError(f"model={model!r} can't be opened; mend {type(error).__name__}: {error}") from error


def _of_items(asked: Trace, items: int, model: str) -> np.ndarray:
    """Return the requests for so many of the objects, at most. Raise `UserError` where there is nothing to choose."""
    if not (isinstance(items, Integral) and items > 1):
        raise UserError(f"model={model!r} has items={items!r}, and a cache chooses among some; let it have 2 or more")
    return asked.keys if asked.objects <= items else sample(asked, items / asked.objects, seed=0).trace.keys


def answer_bytes(work: Work) -> int:
    """Return the bytes of an answer: of an array its own, of anything else those that a store would write."""
    answer = work.answer(0)
    return answer.nbytes if isinstance(answer, np.ndarray) else len(entry.pack(b"", answer))


def enough(keys: np.ndarray, least: int = 400, most: int = 5_000) -> np.ndarray:
    """Return the first `least` requests, or more until an item is asked for again, at most `most`."""
    known: set[int] = set()
    for place, item in enumerate(keys[:most].tolist(), 1):
        if item in known:
            return keys[: max(least, 2 * place)]
        known.add(item)
    return keys[:most]


def warmups(keys: np.ndarray, a_reading: int = 50) -> list[int]:
    """Return how many requests to go ahead, few and many, so that the next `a_reading` have a hit; half of them all,
    where the trace is too short. Raise `UserError` where that is too short as well, or has no hits."""
    least = 4 * a_reading
    if len(keys) < least:
        raise UserError(
            f"trace= has {len(keys):,} requests for what model= can answer, too few to warm up and measure; give "
            f"a trace with {least:,} or more of them"
        )

    def fits(ahead: int) -> bool:
        return ahead + a_reading <= len(keys) and bool(np.isin(keys[ahead : ahead + a_reading], keys[:ahead]).any())

    found = [n for n in (100, 1_000, 5_000) if fits(n)][:2] or [n for n in (len(keys) // 2,) if fits(n)]
    if not found or len(np.unique(keys[:5_000])) == len(keys[:5_000]):
        raise UserError(
            "trace= asks for next to nothing again, so a cache has no hits to be measured; give another trace"
        )
    return found


SCRATCH = "kit-caching-"


def scratch() -> tempfile.TemporaryDirectory:
    """Return a folder for what is measured. What runs that were killed have left, an hour ago or more, is removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        number = left.name.removeprefix(SCRATCH).partition("-")[0]
        old = time.time() - left.stat().st_mtime > 3600
        if old and number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", ignore_cleanup_errors=True)


def borrowed(url: str, prefix: str) -> Callable[[], int]:
    """Return what removes all that begins with `prefix` from the server at `url`, and says how many there were. It is
    called when the process ends, too, so that a run which fails leaves nothing behind on a server that was lent."""
    clean = partial(leave_clean, url, prefix)
    atexit.register(clean)
    return clean


def leave_clean(url: str, prefix: str) -> int:
    """Remove all keys that begin with `prefix` from the server at `url`, and return how many there were: none where it
    no longer answers."""
    with stores.Redis(url, prefix=prefix, timeout_s=5) as store:
        return store.clear()
