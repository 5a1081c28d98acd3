"""Starts each server as processes of this machine: how many replicas, on how many threads, behind what."""

import sys
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kit.common import services
from kit.common.services import Service
from kit.errors import UserError
from kit.machine import fingerprint

PAGES = "kit.techniques.serving.servers"
START_S = 60.0
HAPROXY = ["haproxy"], "apt-get install haproxy"


@dataclass
class Deployment:
    """A server that runs. services: its processes' parents, the one that answers last. closed: called after them."""

    services: list[Service]
    closed: Callable[[], None] | None = None

    @property
    def port(self) -> int:
        """Where it answers on 127.0.0.1."""
        return self.services[-1].port

    def close(self) -> None:
        """End all of it."""
        for service in reversed(self.services):
            service.close()
        if self.closed:
            self.closed()


def answers(port: int) -> bool:
    """Return whether a server on this port is healthy."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answered:
            return answered.status == 200
    except OSError:
        return False


@dataclass(frozen=True)
class Plan:
    """How a server is deployed. start: (plan, environment) → `Deployment`. batch: most samples per computation;
    wait_ms: longest wait for them. threads: of each replica, which is a process that computes; 0: its share of the
    cores. requires, skip: as of `Comparison.variant`."""

    start: Callable[["Plan", dict[str, str]], Deployment]
    replicas: int = 1
    batch: int = 1
    wait_ms: float = 2.0
    threads: int = 0
    requires: tuple[str, ...] = ()
    skip: str = ""

    def deploy(self, model: str) -> Deployment:
        """Start the server with a model. Raise `UserError` if it does not answer."""
        return self.start(self, self.environment(model))

    def environment(self, model: str) -> dict[str, str]:
        """Return the variables that a page of `servers/` reads."""
        model = str(Path(model).resolve()) if model.endswith(".onnx") else model
        threads = self.threads or max(1, fingerprint.usable_cores() // self.replicas)
        wanted = {"MODEL": model, "THREADS": threads, "WORKERS": self.replicas, "BATCH": self.batch}
        quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        return {f"KIT_{name}": str(value) for name, value in (wanted | {"WAIT_MS": self.wait_ms}).items()} | quiet


def _python(environment: Mapping[str, str], *arguments: str, ready: Callable[[int], bool] = answers) -> Service:
    command = [sys.executable, "-m", *arguments]
    return Service(arguments[0], command, ready=ready, environment=environment, start_s=START_S).start()


def _uvicorn(environment: Mapping[str, str], page: str, *options: str) -> Service:
    quiet = ("--log-level", "warning", "--no-access-log")
    return _python(environment, "uvicorn", f"{PAGES}.{page}:app", "--port", "{port}", *quiet, *options)


def uvicorn(plan: Plan, environment: dict[str, str]) -> Deployment:
    """Uvicorn with `plain.py`, or with `batched.py` where samples are to be batched."""
    workers = ("--workers", str(plan.replicas)) if plan.replicas > 1 else ()
    return Deployment([_uvicorn(environment, "batched" if plan.batch > 1 else "plain", *workers)])


def granian(plan: Plan, environment: dict[str, str]) -> Deployment:
    """Granian, a server in Rust, with the same application."""
    options = ("--interface", "asgi", "--port", "{port}", "--no-log", "--workers", str(plan.replicas))
    return Deployment([_python(environment, "granian", *options, f"{PAGES}.plain:app")])


def litserve(plan: Plan, environment: dict[str, str]) -> Deployment:
    """LitServe with its own workers."""
    return Deployment([_python(environment, f"{PAGES}.with_litserve", "{port}")])


def mosec(plan: Plan, environment: dict[str, str]) -> Deployment:
    """mosec with its own workers."""
    return Deployment([_python(environment, f"{PAGES}.with_mosec", "--port", "{port}", ready=services.listens)])


def haproxy(plan: Plan, environment: dict[str, str]) -> Deployment:
    """Replicas as servers of their own behind haproxy. Raise `UserError` where it is not installed."""
    program = services.installed(*HAPROXY)
    settings = Path(__file__).with_name("servers").joinpath("haproxy.cfg").read_text(encoding="utf-8")
    with ExitStack() as unfinished:
        started = [unfinished.enter_context(_uvicorn(environment, "plain")) for _ in range(plan.replicas)]
        settings += "".join(f"    server r{place} 127.0.0.1:{one.port}\n" for place, one in enumerate(started))
        balancer = Service("haproxy", [program, "-db", "-f", "/dev/stdin"], stdin=settings, ready=answers)
        started.append(unfinished.enter_context(balancer).start())
        unfinished.pop_all()
    return Deployment(started)


def two_services(plan: Plan, environment: dict[str, str]) -> Deployment:
    """A service for features and one for the model, whose replicas are behind haproxy: each can be scaled alone."""
    behind = haproxy(plan, environment | {"KIT_DECODED": "1"})
    try:
        front = _uvicorn(environment | {"KIT_NEXT": f"http://127.0.0.1:{behind.port}"}, "features")
    except BaseException:
        behind.close()
        raise
    return Deployment([*behind.services, front])


def refusal(call: Callable[..., object], *arguments: object) -> str:
    """Return the sentence of the `UserError` that a call raises; empty if it raises none."""
    try:
        call(*arguments)
    except UserError as error:
        return str(error)
    return ""


def plans(workers: int, batch: int) -> dict[str, Plan]:
    """Return how each server is deployed, by name. workers: replicas where there are several; batch: see `Plan`."""
    no_haproxy = refusal(services.installed, *HAPROXY)
    return {
        "FastAPI": Plan(uvicorn),
        "FastAPI, 1 thread": Plan(uvicorn, threads=1),
        "FastAPI, workers": Plan(uvicorn, workers),
        "all threads each": Plan(uvicorn, workers, threads=fingerprint.usable_cores()),
        "micro-batching": Plan(uvicorn, batch=batch),
        "granian": Plan(granian, workers, requires=("granian",)),
        "LitServe": Plan(litserve, workers, requires=("litserve",)),
        "mosec": Plan(mosec, workers, requires=("mosec",)),
        "haproxy": Plan(haproxy, workers, skip=no_haproxy),
        "two services": Plan(two_services, workers, skip=no_haproxy),
    }
