"""Open and closed loops: offer requests to a function, or over HTTP by a generator in a process of its own."""

import marshal
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from kit.common.load.latency import Load
from kit.common.parameters import at_least, positive
from kit.common.services import Service
from kit.errors import UserError

CONNECTIONS = 64
"""Keep-alive connections, by default: requests that may be under way at once. Further ones wait, and that counts."""
IDLE = threading.local()  # its `generator` waits for this thread's next load, and ends with the thread
_TOKEN = secrets.token_hex()  # begins what the generator accepts
_GENERATOR = "the load generator", [sys.executable, str(Path(__file__).with_name("generator.py")), "{port}"]


def arrivals(rate: float, requests: int, seed: int = 0) -> np.ndarray:
    """Return when requests are due, seconds, shape (requests,): a Poisson process, as in MLPerf's Server scenario."""
    return np.random.default_rng(seed).exponential(1 / positive(rate, "rate"), requests).cumsum()


def open_loop(answer: Callable[[Any], Any], items: Iterable[Any], rate: float, seed: int = 0) -> Load:
    """Let one worker answer items in order as they arrive, whether or not earlier ones are answered.

    The same seed gives the same arrivals. Latency begins when a request was due, so that waiting in the queue counts: a
    loop that sends a request only after the last answer would hide it (coordinated omission).
    """
    items = list(items)
    due_s, times, answers, start = arrivals(rate, len(items), seed), [], [], perf_counter()
    for item, due in zip(items, due_s.tolist(), strict=True):
        sleep(max(0.0, start + due - perf_counter()))
        begun = perf_counter() - start
        answers.append(answer(item))
        times.append((begun, begun, perf_counter() - start))
    return Load(rate, due_s, *np.transpose(times), status=np.full(len(items), 200), answers=answers)


def offer(
    url: str,
    bodies: Sequence[bytes],
    rate: float,
    requests: int | None = None,
    *,
    seed: int = 0,
    timeout_s: float = 10.0,
    connections: int = CONNECTIONS,
    headers: Mapping[str, str] = {},
    closed: bool = False,
    limit_s: float | None = None,
) -> Load:
    """POST requests that arrive on their own (open loop, Poisson), whether or not earlier ones are answered.

    requests: each body once by default; request i has body i modulo their number. timeout_s: since a request was due.
    Latency begins when a request was due, or, if `closed`, when it was sent: see `closed`. limit_s: longest duration.
    Raise `UserError` if nothing accepts connections at the URL.
    """
    count = at_least(len(bodies) if requests is None else requests, 1, "requests", whole=True)
    due_s = np.zeros(count) if rate == float("inf") else arrivals(rate, count, seed)
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise UserError(f"url={url!r} is not allowed; give an http:// address with host and port")
    plan = {
        "due_s": due_s.tolist(), "messages": [_message(parts, body, headers) for body in bodies],
        "host": parts.hostname, "port": parts.port or 80, "closed": closed,
        "timeout_s": positive(timeout_s, "timeout_s"), "limit_s": limit_s or float(due_s[-1]) + timeout_s,
        "num_connections": at_least(connections, 1, "connections", most=500, whole=True),
    }  # fmt: skip
    return Load(rate, due_s, **_executed(plan, url), closed=closed)


def closed(url: str, bodies: Sequence[bytes], requests: int | None = None, **options: Any) -> Load:
    """POST requests of which each connection sends one only after the last is answered (closed loop).

    Latency begins when a request is sent, so that what would have waited meanwhile is hidden (coordinated omission).
    options: of `offer`. rate: by default as fast as answers come: `answered_rate` is the peak throughput with so many
    `connections`, by default 1. What is not answered after `limit_s`, by default 60 s, has failed.
    """
    given = {"rate": float("inf"), "connections": 1, "limit_s": 60.0} | options
    return offer(url, bodies, requests=requests, closed=True, **given)


def _executed(plan: dict, url: str) -> dict[str, Any]:
    """Let a generator execute a plan, and return what it found."""
    generator = vars(IDLE).pop("generator", None) or Service(*_GENERATOR, stdin=_TOKEN).start()
    limit_s = plan["limit_s"] + plan["timeout_s"] + 60  # of grace
    try:
        with socket.create_connection(("127.0.0.1", generator.port), limit_s) as client, client.makefile("rb") as file:
            client.sendall(_TOKEN.encode() + marshal.dumps(plan))
            client.shutdown(socket.SHUT_WR)
            result = marshal.loads(file.read())
    except (OSError, EOFError):
        generator.close()
        raise UserError(f"no load was sent to {url}: the generator was killed") from None
    IDLE.generator = generator
    if isinstance(result, str):
        raise UserError(f"no load was sent to {url}: {result}")
    return {name: one if name == "answers" else np.array(one) for name, one in result.items()}


def _message(parts, body: bytes, headers: Mapping[str, str]) -> bytes:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = {"host": parts.netloc, "content-type": "application/json", "content-length": len(body), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
