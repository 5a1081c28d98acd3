"""Offer load to a service: an open loop, a closed loop for comparison, and what came of each request."""

import marshal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from kit.common.load.schedule import arrivals, percentile
from kit.common.parameters import at_least, positive
from kit.common.services import Service
from kit.errors import UserError

CONNECTIONS = 64
"""Keep-alive connections, by default: requests that may be under way at once. Further ones wait, and that counts."""
_START_S = 60.0
_GENERATOR = Path(__file__).with_name("generator.py")


@dataclass(frozen=True, eq=False)
class Load:
    """What came of requests at one rate, in order of time.

    rate: requests per second, as intended. Times in seconds after the start, shape (requests,), NaN if it did not
    happen: due_s intended, dispatched_s the generator's turn, sent_s, ended_s answered or given up. status: of HTTP; 0:
    no answer. answers: body by request; request i sent body i modulo the number of bodies. closed: latency counts from
    sending.
    """

    rate: float
    due_s: np.ndarray
    dispatched_s: np.ndarray
    sent_s: np.ndarray
    ended_s: np.ndarray
    status: np.ndarray
    answers: list[bytes]
    closed: bool = False

    @cached_property
    def latency_s(self) -> np.ndarray:
        """Seconds from the intended time to the answer; infinity for errors and time-outs. Shape (requests,)."""
        since = self.sent_s if self.closed else self.due_s
        return np.where((self.status >= 200) & (self.status < 300), self.ended_s - since, np.inf)

    @property
    def requests(self) -> int:
        """How many requests were due."""
        return len(self.due_s)

    @property
    def failed(self) -> int:
        """Requests with an error or with no answer in time."""
        return int(np.isinf(self.latency_s).sum())

    @property
    def sent_rate(self) -> float:
        """Requests per second that were sent; below `rate` where the server's queue, or the generator, was too slow."""
        sent = self.sent_s[~np.isnan(self.sent_s)]
        span = float(np.ptp(sent)) if len(sent) > 1 else 0.0
        return (len(sent) - 1) / span if span else 0.0

    @property
    def answered_rate(self) -> float:
        """Good answers per second, from the first request to the last answer."""
        return (self.requests - self.failed) / float(np.nanmax(self.ended_s) - np.nanmin(self.sent_s))

    @property
    def lag_s(self) -> np.ndarray:
        """Seconds by which the generator itself was late, shape (requests,); part of the latency."""
        return self.dispatched_s - self.due_s

    def over(self, bound_s: float) -> int:
        """Return how many requests were not answered well within the bound."""
        return int((self.latency_s > bound_s).sum())

    def percentile(self, share: float) -> float | None:
        """Return the latency that such a share of the requests did not exceed: see `percentile`."""
        return percentile(self.latency_s, share)


def merged(loads: Sequence[Load]) -> Load:
    """Return several loads at one rate as one: latencies put together, so that percentiles are never averaged."""
    names = ("due_s", "dispatched_s", "sent_s", "ended_s", "status")
    starts = np.cumsum([0.0, *(float(np.nanmax(one.ended_s)) for one in loads)])[:-1]
    columns = {
        name: np.concatenate([getattr(one, name) + (0 if name == "status" else start)
                              for one, start in zip(loads, starts, strict=True)])
        for name in names
    }  # fmt: skip
    answers = [answer for one in loads for answer in one.answers]
    return Load(loads[0].rate, answers=answers, closed=loads[0].closed, **columns)


def offer(
    target: str | Callable[[bytes], bytes],
    bodies: Sequence[bytes],
    rate: float,
    requests: int | None = None,
    *,
    seed: int = 0,
    timeout_s: float = 10.0,
    connections: int = CONNECTIONS,
    headers: Mapping[str, str] = {},
) -> Load:
    """Send requests that arrive on their own (open loop, Poisson), whether or not earlier ones are answered.

    target: URL that each body is sent to by POST, from a process of its own; or a function body → answer, called in
    threads of this process, `connections` at once. Latency begins when a request was due. requests: all bodies once by
    default; request i sends body i modulo their number. timeout_s: since a request was due. Ends at the latest
    `timeout_s` after the last request was due. Raise `UserError` if nothing accepts connections.
    """
    count = at_least(len(bodies) if requests is None else requests, 1, "requests", whole=True)
    due_s = arrivals(rate, count, seed)
    limit_s = float(due_s[-1]) + positive(timeout_s, "timeout_s")
    if callable(target):
        return _call(target, bodies, rate, due_s, timeout_s, connections)
    return _send(target, bodies, rate, due_s, timeout_s, limit_s, connections, headers, closed=False)


def closed(
    url: str,
    bodies: Sequence[bytes],
    requests: int | None = None,
    *,
    rate: float = float("inf"),
    connections: int = 1,
    seed: int = 0,
    timeout_s: float = 10.0,
    limit_s: float = 60.0,
    headers: Mapping[str, str] = {},
) -> Load:
    """Send requests of which each connection sends one only after the last is answered (closed loop).

    Latency begins when a request is sent: what would have waited meanwhile is hidden (coordinated omission). rate: as
    intended, by the same arrivals as `offer`; by default as fast as answers come, and `answered_rate` is the peak
    throughput at so many connections. What is not answered after `limit_s` counts as failed.
    """
    count = at_least(len(bodies) if requests is None else requests, 1, "requests", whole=True)
    due_s = np.zeros(count) if rate == float("inf") else arrivals(rate, count, seed)
    return _send(url, bodies, rate, due_s, timeout_s, limit_s, connections, headers, closed=True)


def _send(url, bodies, rate, due_s, timeout_s, limit_s, connections, headers, *, closed) -> Load:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise UserError(f"url={url!r} is not allowed; give an http:// address with host and port")
    plan = {
        "due_s": due_s.tolist(), "messages": [_message(parts, body, headers) for body in bodies],
        "host": parts.hostname, "port": parts.port or 80, "timeout_s": timeout_s, "limit_s": limit_s, "closed": closed,
        "num_connections": at_least(connections, 1, "connections", most=500, whole=True),
    }  # fmt: skip
    with Service("the load generator", [sys.executable, str(_GENERATOR)], ready=lambda port: True) as process:
        (process.folder / "plan").write_bytes(marshal.dumps(plan))
        process.start()
        deadline = time.monotonic() + limit_s + timeout_s + _START_S
        while process.running and time.monotonic() < deadline:
            time.sleep(0.01)
        if not (process.folder / "result").exists():
            raise UserError(f"no load was sent to {url}: {process.last_output() or 'the generator was killed'}")
        result = marshal.loads((process.folder / "result").read_bytes())
        answers = result.pop("answers")
        times = {name: np.array(values) for name, values in result.items()}
        return Load(rate, due_s, **times, answers=answers, closed=closed)


def _message(parts, body: bytes, headers: Mapping[str, str]) -> bytes:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = {"host": parts.netloc, "content-type": "application/json", "content-length": str(len(body))} | dict(headers)
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _call(answer, bodies, rate, due_s, timeout_s, connections) -> Load:
    """Offer load to a function of this process."""
    count, start = len(due_s), time.perf_counter() + 0.01
    dispatched_s, sent_s, ended_s = (np.full(count, np.nan) for _ in range(3))
    status, answers = np.zeros(count, int), [b""] * count

    def one(request: int) -> None:
        sent_s[request] = time.perf_counter() - start
        try:
            answers[request], status[request] = answer(bodies[request % len(bodies)]), 200
        finally:
            ended_s[request] = time.perf_counter() - start
            status[request] *= ended_s[request] - due_s[request] <= timeout_s

    with ThreadPoolExecutor(connections) as threads:
        for request, due in enumerate(due_s.tolist()):
            time.sleep(max(0.0, start + due - time.perf_counter()))
            dispatched_s[request] = time.perf_counter() - start
            threads.submit(one, request)
    return Load(rate, due_s, dispatched_s, sent_s, ended_s, status, answers)
