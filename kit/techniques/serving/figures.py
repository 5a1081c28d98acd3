"""Charts and tables of serving: capacity and its costs, latency over rate, open beside closed loop, replicas."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from kit.common import claims, load
from kit.common.load import Load
from kit.measure.result import Result
from kit.record import formatting
from kit.record.document import Chart, Series, Table
from kit.techniques.serving import queue_model
from kit.techniques.serving.faults import Fault
from kit.techniques.serving.variants import Asked


def capacity(result: Result, name: str, asked: Asked) -> load.Capacity:
    """Return a server's capacity by the loads of all rounds together, and by round; an interval from 0 if there are
    none."""
    loads, log = [], asked.log / name
    if log.exists():
        with open(log, "rb") as logged:
            while logged.tell() < log.stat().st_size:
                (rate, *_), *times = np.load(logged)
                loads.append(Load(rate, *times, answers=[]))
    rounds = [one.measurements[name] for one in result.record.points[-1].sessions if name in one.measurements]
    found = load.pooled(loads, asked.bound_s, asked.percentile)
    return replace(found, rounds=tuple(1 / seconds for one in rounds for seconds in one.wall_s))


def capacities(result: Result, asked: Asked, price_per_hour: float = 0.0) -> Table:
    """Return a row per server: its capacity in the rounds and in all rounds together, and what it costs."""
    rows = []
    for variant in result.record.points[-1].variants:
        rate, proof = variant.metrics.get("requests_per_s"), variant.execution_proof
        if rate and proof and proof.costs:
            price = price_per_hour / rate / 3600 * 1e6 if price_per_hour else None
            costs = [proof.costs[name] for name in ("mean_batch", "queue_ms", "cold_start_s", "pss_mib")]
            found = capacity(result, variant.name, asked)
            ends = [end if 0 < end < np.inf else None for end in (found.lower, found.upper)]
            rows.append([variant.name, rate, *ends, *costs, proof.facts["threads"], price])
    columns = ["server", "requests/s", "holds at", "fails at", "mean batch", "queue ms", "cold start s", "MiB/replica"]
    return Table(
        f"Capacity at {asked.bound}, and its costs", [*columns, "threads", "price per million"], rows,
        "Requests/s: median over the rounds of the rate that crosses the bound. Holds, fails: the loads of all rounds "
        "together, at 99 % confidence (MLPerf's early stopping), where requests that wait together count as fewer. "
        "Batch and queue: as the server saw them. MiB: PSS. Fails below requests/s: something disturbed single rounds.",
    )  # fmt: skip


def loops(found: Mapping[str, Load], stop_s: float) -> Chart:
    """Return the share of requests that took longer than a time, in an open and in a closed loop, at one rate."""
    series, notes = [], []
    for name, one in found.items():
        longer = np.geomspace(1, 1 / one.requests, 60)
        took = 1e3 * np.quantile(np.minimum(one.latency_s, 60), 1 - longer, method="higher")
        series.append(Series(name, took.tolist(), (100 * longer).tolist()))
        notes.append(f"{name}: median {formatting.duration(float(np.median(one.latency_s)))}")
    return Chart(
        f"A server that hangs for {stop_s:g} s, as each loop sees it", "latency, ms", "% of requests that took longer",
        series, log_x=True, log_y=True, note=f"{'; '.join(notes)}.",
    )  # fmt: skip


def replicas(result: Result, workers: int, asked: Asked, service_s: np.ndarray) -> Chart:
    """Return the capacity by replicas: measured, and of a queue model for one to eight.

    workers: replicas of "FastAPI, workers"; service_s: seconds of single requests on an idle server."""
    counts = list(range(1, 9))
    modelled = [queue_model.capacity(service_s, count, asked.bound_s, asked.percentile) for count in counts]
    known = {1: "FastAPI, 1 thread", workers: "FastAPI, workers"}
    found = {count: capacity(result, name, asked) for count, name in known.items()}
    measured = {count: float(np.median(one.rounds)) for count, one in found.items() if one.rounds and count in counts}
    known = ", ".join(f"{rate:.0f} against {modelled[count - 1]:.0f} at {count}" for count, rate in measured.items())
    notes = [f"Measured against the model: {known or 'none of one thread'}. The model has a core for each replica."]
    if len(measured) == 2:
        ratio, low, high = found[workers].ratio(found[1])
        interval = f"95 % CI {low:.1f}–{high:.1f}" if low else "too few rounds for an interval"
        notes.append(f"{workers} replicas of one thread carry {ratio:.1f}× as much as one ({interval}).")
    return Chart(
        f"Capacity by replicas at {asked.bound}", "replicas",
        "requests per second", [Series("queue model", counts, modelled, style="modelled"),
         *([Series("measured", list(measured), list(measured.values()))] if measured else [])], note=" ".join(notes),
    )  # fmt: skip


def faults(found: Sequence[Fault]) -> Table:
    """Return a row per fault."""
    share = lambda one: "" if one.failed is None else formatting.percent(one.failed)  # noqa: E731
    rows = [[one.name, "yes" if one.survived else "no", one.outcome, share(one), one.recovered_s] for one in found]
    columns = ["fault", "survived", "outcome", "failed requests", "recovered after s"]
    return Table("Faults, caused for real", columns, rows)


def claim(result: Result, batching: Result | None, bound: str, service_s: float) -> str:
    """Return the claim part by part. batching: latencies by load, if any; service_s: of a request on an idle server."""
    paid = {
        at.size: claims.holds(batching.at(at.size)["micro-batching"].verdict, ["faster"])
        for at in (batching.record.points if batching else ())
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
