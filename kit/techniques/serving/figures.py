"""Charts and tables of serving: capacity and its costs, latency over rate, open beside closed loop, replicas."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kit.common import claims, load
from kit.common.load import Load
from kit.measure.result import Result
from kit.record import formatting
from kit.record.document import Chart, Series, Table
from kit.techniques.serving import queue_model
from kit.techniques.serving.faults import Fault
from kit.techniques.serving.variants import Asked


def pooled(log: Path, name: str, asked: Asked) -> float | None:
    """Return the highest rate that holds by the requests of all rounds together; None if there is none."""
    counts = defaultdict(lambda: np.zeros(2, int))
    for line in (log / name).read_text().splitlines() if (log / name).exists() else ():
        rate, *found = line.split()
        counts[float(rate)] += np.array(found, int)
    points = [
        load.Point(rate, None, over, load.verdict(requests, over, asked.percentile))
        for rate, (requests, over) in counts.items()
    ]
    return load.Capacity(asked.bound_s, asked.percentile, tuple(points)).lower or None


def capacities(result: Result, asked: Asked, price_per_hour: float = 0.0) -> Table:
    """Return a row per server: its capacity in the rounds and in all rounds together, and what it costs."""
    rows, bound = [], f"p{100 * asked.percentile:g} ≤ {1e3 * asked.bound_s:g} ms"
    for variant in result.record.points[-1].variants:
        rate, proof = variant.metrics.get("requests_per_s"), variant.execution_proof
        if rate and proof and proof.costs:
            price = price_per_hour / rate / 3600 * 1e6 if price_per_hour else None
            costs = [proof.costs[name] for name in ("mean_batch", "queue_ms", "cold_start_s", "pss_mib")]
            held = pooled(asked.log, variant.name, asked)
            rows.append([variant.name, rate, held, *costs, proof.facts["threads"], price])
    columns = ["server", "requests/s", "holds at", "mean batch", "queue ms", "cold start s", "MiB/replica", "threads"]
    return Table(
        f"Capacity at {bound}, and its costs", [*columns, "price per million"], rows,
        "Requests/s: median of the rounds. Holds at: highest rate that the requests of all rounds show together, by "
        "MLPerf's early stopping. Batch and queue: as the server saw them. MiB: proportional set size (PSS).",
    )  # fmt: skip


def loops(found: Mapping[str, Load], stop_s: float) -> Chart:
    """Return the share of requests that took longer than a time, in an open and in a closed loop, at one rate."""
    series, notes = [], []
    for name, one in found.items():
        longer = np.geomspace(1, 1 / one.requests, 60)
        took = 1e3 * np.quantile(np.minimum(one.latency_s, 60), 1 - longer)
        series.append(Series(name, took.tolist(), (100 * longer).tolist()))
        notes.append(f"{name}: median {formatting.duration(float(np.median(one.latency_s)))}")
    return Chart(
        f"A server that hangs for {stop_s:g} s, as each loop sees it", "latency, ms", "% of requests that took longer",
        series, log_x=True, log_y=True, note=f"{'; '.join(notes)}.",
    )  # fmt: skip


def replicas(result: Result, workers: int, service_s: np.ndarray, bound_s: float, percentile: float) -> Chart:
    """Return the capacity by replicas: measured, and of a queue model for one to eight.

    workers: replicas of "FastAPI, workers"; service_s: seconds of single requests on an idle server with one replica.
    """
    counts = list(range(1, 9))
    modelled = [queue_model.capacity(service_s, count, bound_s, percentile) for count in counts]
    known = {1: "FastAPI, 1 thread", workers: "FastAPI, workers"}
    known = {count: result[name].seconds for count, name in known.items() if name in result}
    measured = {count: 1 / seconds for count, seconds in known.items() if seconds and count in counts}
    differ = [f"{rate:.0f} against {modelled[count - 1]:.0f} at {count}" for count, rate in measured.items()]
    return Chart(
        f"Capacity by replicas at p{100 * percentile:g} ≤ {1e3 * bound_s:g} ms", "replicas", "requests per second",
        [Series("queue model", counts, modelled, style="modelled"),
         *([Series("measured", list(measured), list(measured.values()))] if measured else [])],
        note=f"Measured against the model: {', '.join(differ) or 'nothing'}. The model has a core for each replica.",
    )  # fmt: skip


def faults(found: Sequence[Fault]) -> Table:
    """Return a row per fault."""
    shares = ["" if one.failed is None else formatting.percent(one.failed) for one in found]
    rows = [
        [one.name, "yes" if one.survived else "no", one.outcome, share, one.recovered_s]
        for one, share in zip(found, shares, strict=True)
    ]
    columns = ["fault", "survived", "outcome", "failed requests", "recovered after s"]
    return Table("Faults, caused for real", columns, rows)


def claim(result: Result, batching: Result, bound: str, service_s: float) -> str:
    """Return the claim part by part. batching: the latencies by load; service_s: of a request on an idle server."""
    paid = {
        at.size: claims.holds(batching.at(at.size)["micro-batching"].verdict, ["faster"])
        for at in batching.record.points
    }
    low, high = ([one for load, one in paid.items() if (load <= 60) == under] for under in (True, False))
    workers = result["FastAPI, workers"].verdict if "FastAPI, workers" in result else "skipped"
    others = [result[name].verdict for name in result if name != "FastAPI"]
    parts = {
        f"Several workers of one thread carry more at {bound} than one worker of all threads.":
            claims.holds(workers, ["faster"]),
        "Batching is worth it only above 60 % load.":
            None if None in paid.values() or not (low and high) else any(high) and not any(low),
        f"Nothing beats plain FastAPI for a model of 1 ms (this one: {formatting.duration(service_s)} with HTTP).":
            claims.none(others) if service_s < 0.005 else None,
    }  # fmt: skip
    return claims.lines(parts)
