"""Faults that a served model meets: each is caused for real, and what came of it is a row."""

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit.common import load
from kit.common.load import Load
from kit.common.services import Service
from kit.techniques.serving.deploy import PAGES, Plan, refusal, uvicorn
from kit.techniques.serving.servers import protocol
from kit.techniques.serving.variants import HEADERS, Asked, Served

AFTER_S = 0.5  # when a fault comes, after the beginning of the load


@dataclass(frozen=True)
class Fault:
    """What came of a fault. survived: whether the server answered afterwards, or refused in one sentence.

    failed: share of the requests without a good answer; recovered_s: from the fault until none failed any more."""

    name: str
    survived: bool
    outcome: str
    failed: float | None = None
    recovered_s: float | None = None


@contextmanager
def during(served: Served, rate: float, seconds: float, *loops: Callable) -> Iterator[Callable[[], list[Load]]]:
    """Offer loads meanwhile, by `load.offer` or `load.closed`; the block begins after `AFTER_S`, and gets a function
    that waits for them."""
    options = {"rate": rate, "requests": round(rate * seconds), "headers": HEADERS, "limit_s": seconds + 5}
    with ThreadPoolExecutor() as threads:
        running = [threads.submit(loop, served.url, served.bodies, timeout_s=5.0, **options) for loop in loops]
        time.sleep(AFTER_S)
        yield lambda: [one.result() for one in running]


def stopped(served: Served, rate: float, stop_s: float, *loops: Callable) -> list[Load]:
    """Return loads during which the server hangs (SIGSTOP) for `stop_s`, three quarters of their time: see `during`."""
    with during(served, rate, stop_s / 0.75, *loops) as results:
        for number, wait_s in ((signal.SIGSTOP, stop_s), (signal.SIGCONT, 0)):
            for pid in served.replicas:
                os.kill(pid, number)
            time.sleep(wait_s)
        return results()


def replica_killed(asked: Asked, rate: float, plan: Plan, seconds: float = 2.0) -> Fault:
    """Kill one of several replicas under load."""
    with Served(plan, asked) as served:
        served.offer(rate)
        with during(served, rate, seconds, load.offer) as results:
            os.kill(next(iter(served.replicas)), signal.SIGKILL)
            killed = time.perf_counter()
            (found,) = results()
            since = time.perf_counter() - killed - float(found.due_s[-1])
        recovered_s = max(0.0, since + float(found.due_s[np.isinf(found.latency_s)].max(initial=0)))
        return _under_load("replica killed", served, rate, found, f"{found.failed} failed", recovered_s)


def server_hangs(served: Served, rate: float, stop_s: float = 1.5) -> Fault:
    """Stop a server for a while under load."""
    served.offer(rate)
    (found,) = stopped(served, rate, stop_s, load.offer)
    return _under_load(f"hangs for {stop_s:g} s", served, rate, found, f"median {np.median(found.latency_s):.1f} s")


def _under_load(name: str, served: Served, rate: float, found: Load, outcome: str, recovered_s: float = 0.0) -> Fault:
    share, outcome = found.failed / found.requests, f"{outcome} of {found.requests} requests"
    return Fault(name, served.offer(rate).failed == 0, outcome, share, recovered_s if found.failed else None)


def refused(asked: Asked) -> list[Fault]:
    """Start a server on a port that another program has, and one with a model whose file is cut short."""
    with socket.create_server(("127.0.0.1", 0)) as taken, tempfile.TemporaryDirectory() as folder:
        Path(folder, "cut.onnx").write_bytes(b"\x08\x09")
        np.savez(Path(folder, "cut.npz"), x=np.zeros((1, 2), np.float32))
        command = [sys.executable, "-m", "uvicorn", f"{PAGES}.plain:app", "--port", str(taken.getsockname()[1])]
        on_it = Service("uvicorn", command, environment=Plan(uvicorn).environment(asked.model))
        damaged = Plan(uvicorn), Plan(uvicorn).environment(f"{folder}/cut.onnx"), ExitStack()
        reasons = {"port in use": refusal(on_it.start), "model that does not load": refusal(uvicorn, *damaged)}
    last = {name: why[-120:].partition(" ")[2] for name, why in reasons.items()}
    return [Fault(name, bool(why), f"… {why}" if why else "it started") for name, why in last.items()]


def bad_requests(served: Served) -> list[Fault]:
    """Send a body that is too large, one that is malformed, and go before the answers come."""
    statuses = [*load.closed(served.url, [bytes(protocol.LARGEST_BODY + 8), b"\x00"], headers=HEADERS).status]
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(served.bodies[0])}\r\n\r\n".encode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(head + served.bodies[0])
    statuses += [*load.closed(served.url, served.bodies[:1], headers=HEADERS).status]
    names, allowed = ("body too large", "malformed body", "20 clients gone, then a request"), (4, 4, 2)
    found = zip(names, statuses, allowed, strict=True)
    return [Fault(name, status // 100 == hundreds, f"status {status}") for name, status, hundreds in found]


def every(asked: Asked, rate: float, plans: dict[str, Plan]) -> list[Fault]:
    """Cause all of them."""
    killed = replica_killed(asked, rate, plans["FastAPI, workers" if plans["haproxy"].skip else "haproxy"])
    with Served(plans["FastAPI"], asked) as served:
        return [killed, server_hangs(served, rate), *refused(asked), *bad_requests(served)]
