"""What a notebook's parameters name: a trace, the work that a cache is to stand before, a server to be left clean."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np

from kit.errors import UserError
from kit.techniques.address import resolve
from kit.techniques.caching import traces
from kit.techniques.caching.layers import work
from kit.techniques.caching.layers.work import Opening, Work
from kit.techniques.caching.sampling import sample
from kit.techniques.caching.traces import Trace

GENERATED = {
    "zipf": lambda exponent: traces.zipf(300_000, 10_000, exponent),
    "shifting": lambda exponent: traces.shifting(300_000, 10_000, exponent),
}


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
        return Asked("features of aircraft", partial(work.features, path, aircraft), keys, note)
    if ":" in model:
        opening = resolve(model)
        one = opening()
        keys, note = _of_items(asked, one.items), f"{one.items:,} items"
        one.close()
        return Asked(model, opening, keys, note)
    from kit.techniques.quantization.subjects import models

    data = str(Path(model).with_suffix(".npz")) if model.endswith(".onnx") else ""
    subject = models.subject(model, data, calibration=2, evaluation=10_000)
    opening = partial(work.prediction, subject.onnx, subject.evaluation)
    keys, note = _of_items(asked, subject.samples), f"{subject.samples:,} {subject.item}"
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


def _of_items(asked: Trace, items: int) -> np.ndarray:
    """Return the requests for so many of the objects, at most."""
    return asked.keys if asked.objects <= items else sample(asked, items / asked.objects, seed=0).trace.keys


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
    where the trace is too short."""
    hits = (n for n in (100, 1_000, 5_000) if np.isin(keys[n : n + a_reading], keys[:n]).any())
    return [n for n in hits if n + a_reading <= len(keys)][:2] or [len(keys) // 2]


def leave_clean(url: str, prefix: str) -> int:
    """Remove all keys that begin with `prefix` from the server at `url`, and return how many there were."""
    import redis

    with redis.Redis.from_url(url) as client:
        literal = "".join(f"[{one}]" if one in "*?[" else one for one in prefix)
        return sum(client.unlink(key) for key in client.scan_iter(f"{literal}*", count=1_000))
