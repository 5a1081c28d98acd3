"""The variants: a server under load, as a measurement of its capacity, or of its latency at one rate."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from kit.common import load
from kit.common.load import Load
from kit.errors import UserError
from kit.measure.work import Measurement, Setup, fell_back, verified
from kit.record import formatting
from kit.record.document import ExecutionProof
from kit.techniques.serving import containers, models
from kit.techniques.serving.deploy import Plan
from kit.techniques.serving.servers import protocol

HEADERS = {"content-type": "application/octet-stream"}
CHECKED = 16
"""Requests whose answers are compared with offline ones, before the rounds and after them."""
BODIES = 1_000
"""Different requests; after so many they repeat."""
LEAST_BATCH = 1.5
"""Requests per computation, on average: with fewer, batching did not engage."""
STEP, STEPS = 1.225, 8
"""Ratio of two rates that may be offered, and how many there are on either side of the first."""


@dataclass(frozen=True)
class Asked:
    """What each variant is asked.

    model: as in `models.opened`. bound_s: longest latency for the share `percentile` of the requests. rates: requests
    per second, ascending, the same for all variants. bounds: shortest load at one rate, in multiples of the bound.
    peak: the generator's own requests per second, or infinity. log: folder for the loads of all rounds, or None."""

    model: str
    bound_s: float
    percentile: float = 0.99
    rates: tuple[float, ...] = ()
    bounds: float = 50.0
    peak: float = float("inf")
    log: Path | None = None

    @property
    def bound(self) -> str:
        """In words: "p99 ≤ 20 ms"."""
        return f"p{100 * self.percentile:g} ≤ {1e3 * self.bound_s:g} ms"


class Served(AbstractContextManager):
    """A server under load, on `port` of 127.0.0.1 until `close`, and what its answers showed. cold_start_s: from its
    start to the first answer."""

    def __init__(self, plan: Plan, asked: Asked, name: str = ""):
        self.plan, self.asked, self.name, model = plan, asked, name, models.opened(asked.model)
        contents = model.bodies(BODIES)
        self.bodies = [protocol.wrap(number, content) for number, content in enumerate(contents)]
        self.offline = models.offline(model, contents[:CHECKED])
        self.batches, self.replicas, self.queue_s = Counter[int](), Counter[int](), list[float]()
        self.images, self.capacities, self.mixed_up, self._sent = set[str](), list[float](), 0, 0
        self.rates = [rate for rate in asked.rates if rate <= asked.peak / 2] or list(asked.rates[:1])
        self.timeout_s = max(2.0, 20 * asked.bound_s)
        start = time.perf_counter()
        with ExitStack() as stack:
            self.port = plan.start(plan, plan.environment(asked.model), stack)
            self.url = f"http://127.0.0.1:{self.port}/predict"
            self._note(load.closed(self.url, self.bodies[:1], headers=HEADERS), 0)
            self.close = stack.pop_all().close
        self.cold_start_s = time.perf_counter() - start

    def __exit__(self, *_: object) -> None:
        self.close()

    def offer(self, rate: float, requests: int = 60, seed: int = 0) -> Load:
        """Offer requests that differ from those before, as long as there are `BODIES`."""
        start = self._sent % len(self.bodies)
        bodies = (self.bodies[start:] + self.bodies[:start])[:requests]
        found = load.offer(self.url, bodies, rate, requests, seed=seed, headers=HEADERS, timeout_s=self.timeout_s)
        self._sent += requests
        self._note(found, start)
        return found

    def _note(self, found: Load, first: int) -> None:
        for place in np.flatnonzero(found.status == 200):
            answer = msgspec.json.decode(found.answers[place])
            self.mixed_up += answer["number"] != (first + place) % len(self.bodies)
            self.batches[answer["batch"]] += 1
            self.replicas[answer["replica"]] += 1
            self.queue_s.append(answer["queue_s"])
            self.images.add(answer["image"])

    def answer(self) -> dict[str, Any]:
        """Return what `checks.same_answers` looks at: answers to the first requests, the offline ones, how many answers
        were another request's, and the seconds of requests that differ and of one that is repeated, in turn."""
        turns = [body for different in self.bodies[-2 * CHECKED :] for body in (different, self.bodies[0])]
        found = load.closed(self.url, self.bodies[:CHECKED] + turns, headers=HEADERS)
        decoded = [msgspec.json.decode(one) if one[:1] == b"{" else {} for one in found.answers[:CHECKED]]
        served = [(one["number"], *one["output"]) if "output" in one else None for one in decoded]
        offline = [(number, *output) for number, output in enumerate(self.offline)]
        took = found.latency_s[CHECKED:].tolist()
        times = {"different_s": took[::2], "repeated_s": took[1::2]}
        return {"served": served, "offline": offline, "mixed up": self.mixed_up, **times}

    def capacity(self) -> Measurement:
        """Return the seconds per request at the rate where one round's loads cross the bound."""
        bound_s, percentile = self.asked.bound_s, self.asked.percentile
        options = {"percentile": percentile, "bounds": self.asked.bounds, "seed": len(self.capacities)}
        loads = load.enclosing(self.offer, self.rates, np.median(self.capacities or self.rates), bound_s, **options)
        if self.asked.log:
            with open(self.asked.log / self.name, "ab") as log:
                for one in loads:
                    times = one.due_s, one.dispatched_s, one.sent_s, one.ended_s, one.status
                    np.save(log, np.vstack([np.full(one.requests, one.rate), *times]))
        self.capacities.append(load.crossing(loads, bound_s, percentile))
        held = [one for one in loads if one.rate <= self.capacities[-1]]
        metrics = latencies(max(held, key=lambda one: one.rate)) if held else {}
        return Measurement(1 / self.capacities[-1], {"requests_per_s": self.capacities[-1], **metrics}, self.answer)

    def latency(self, rate: float) -> Measurement:
        """Return the 90th percentile of the latency at one rate; a request without an answer counts as timed out."""
        requests = load.requests_of(rate, self.asked.bound_s, 0.9, self.asked.bounds)
        found = self.offer(rate, max(60, requests), seed=self._sent)
        return Measurement(min(self.timeout_s, found.percentile(0.9)), latencies(found), self.answer)

    def proof(self) -> ExecutionProof:
        """Return what ran, by the server's own answers and by /proc; fell back where batching did not engage."""
        answered = self.batches.total()
        if digest := max(self.images, default=""):  # a container's processes have other numbers inside
            processes = containers.processes(self.port)
        else:
            processes = [psutil.Process(pid) for pid in self.replicas if psutil.pid_exists(pid)]
        replicas = max(1, len(self.replicas))
        mean_batch = answered / max(1e-9, sum(number / size for size, number in self.batches.items()))
        facts = {
            "replicas": replicas, "threads": sum(one.num_threads() for one in processes),
            "busiest replica": formatting.percent(max(self.replicas.values(), default=0) / max(1, answered)),
            "mean batch": round(mean_batch, 2),
        }  # fmt: skip
        facts |= {"image": digest[:19]} if digest else {}
        costs = {
            "pss_mib": sum(one.memory_full_info().pss for one in processes) / replicas / 2**20,
            "mean_batch": mean_batch, "queue_ms": 1e3 * float(np.median(self.queue_s or [0])),
            "cold_start_s": self.cold_start_s,
        }  # fmt: skip
        if self.plan.batch > 1 and mean_batch < LEAST_BATCH:
            return fell_back(f"single requests: batches of {mean_batch:.2f} on average, below {LEAST_BATCH}", **facts)
        if self.capacities and not self.rates[0] < np.median(self.capacities) < self.rates[-1]:
            ends = f"{self.rates[0]:.0f} to {self.rates[-1]:.0f} requests/s, at most half of the generator's own"
            return fell_back(f"a capacity beyond the rates offered: {ends} {self.asked.peak:,.0f}", **facts)
        return verified(costs=costs, **facts)


def variant(plan: Plan, name: str) -> Callable[..., Setup]:
    """Return the variant that measures the capacity of a server, or its latency where `run` gives a rate as well."""

    def under_load(asked: Asked, rate: float | None = None) -> Setup:
        served = Served(plan, asked, name)
        call = served.capacity if rate is None else partial(served.latency, rate)
        return Setup(call, served.proof, served.close)

    under_load.__wrapped__ = getattr(plan.start, "func", plan.start)  # the record keeps its source
    return under_load


def ladder(server: Served) -> tuple[float, ...]:
    """Return the rates that servers are offered: 0.2 to 5 times what this one answers at most, eight requests at a
    time. Raise `UserError` if one request alone is not within the bound."""
    asked, alone = server.asked, load.closed(server.url, server.bodies[:50], headers=HEADERS)
    alone_s = float(np.median(alone.latency_s))
    if alone_s >= asked.bound_s:
        raise UserError(f"a request alone takes {1e3 * alone_s:.1f} ms; raise bound_ms={1e3 * asked.bound_s:g}")
    most = load.closed(server.url, server.bodies[:300], connections=8, headers=HEADERS).answered_rate
    return tuple(most * STEP**step for step in range(-STEPS, STEPS + 1))


def latencies(found: Load) -> dict[str, float]:
    """Return percentiles of a load in milliseconds, those that have enough requests beyond them, and its failures."""
    known = {f"p{100 * share:.0f}_ms": found.percentile(share) for share in (0.5, 0.9, 0.99)}
    known = {name: 1e3 * took for name, took in known.items() if took is not None and np.isfinite(took)}
    return known | {"failed_share": found.failed / found.requests}
