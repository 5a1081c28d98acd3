"""Starts each server as processes of this machine: how many replicas, on how many threads, behind what."""

import os
import sys
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kit.common import services
from kit.common.services import Service
from kit.errors import UserError
from kit.machine import fingerprint

PAGES = "kit.techniques.serving.servers"
START_S = 150.0  # Ray on a busy machine took one minute
HAPROXY = ["haproxy"], "apt-get install haproxy"
BENTOML = "BentoML wants older packages: name the folder of its environment in KIT_BENTOML; docs/techniques/serving.md"


def answers(port: int) -> bool:
    """Return whether a server on this port is healthy."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answered:
            return answered.status == 200
    except OSError:
        return False


@dataclass(frozen=True)
class Plan:
    """How a server is deployed. start: (plan, environment, stack) → port of 127.0.0.1; the stack ends it. batch:
    most samples per computation; wait_ms: longest wait for them. threads: of each replica, a process that computes; 0:
    its share of the cores. requires, skip: as of `Comparison.variant`."""

    start: Callable[["Plan", dict[str, str], ExitStack], int]
    replicas: int = 1
    batch: int = 1
    wait_ms: float = 2.0
    threads: int = 0
    requires: tuple[str, ...] = ()
    skip: str = ""

    def environment(self, model: str) -> dict[str, str]:
        """Return the variables that a page of `servers/` reads."""
        model = str(Path(model).resolve()) if model.endswith(".onnx") else model
        threads = self.threads or max(1, fingerprint.usable_cores() // self.replicas)
        wanted = {"MODEL": model, "THREADS": threads, "WORKERS": self.replicas, "BATCH": self.batch}
        quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        return {f"KIT_{name}": str(value) for name, value in (wanted | {"WAIT_MS": self.wait_ms}).items()} | quiet


def _python(stack: ExitStack, environment, *arguments: str, ready=answers, python: str = sys.executable) -> int:
    command = [python, "-m", *arguments]
    service = Service(arguments[0], command, ready=ready, environment=environment, start_s=START_S)
    return stack.enter_context(service).start().port


def _uvicorn(stack: ExitStack, environment: Mapping[str, str], page: str, *options: str) -> int:
    quiet = ("--log-level", "warning", "--no-access-log")
    return _python(stack, environment, "uvicorn", f"{PAGES}.{page}:app", "--port", "{port}", *quiet, *options)


def uvicorn(plan: Plan, environment: dict[str, str], stack: ExitStack) -> int:
    """Uvicorn with `plain.py`, or with `batched.py` where samples are to be batched."""
    workers = ("--workers", str(plan.replicas)) if plan.replicas > 1 else ()
    return _uvicorn(stack, environment, "batched" if plan.batch > 1 else "plain", *workers)


def granian(plan: Plan, environment: dict[str, str], stack: ExitStack) -> int:
    """Granian, a server in Rust, with the same application."""
    options = ("--interface", "asgi", "--port", "{port}", "--no-log", "--workers", str(plan.replicas))
    return _python(stack, environment, "granian", *options, f"{PAGES}.plain:app")


def own(page: str, plan: Plan, environment: dict[str, str], stack: ExitStack) -> int:
    """A page that starts a server with workers of its own: LitServe, or Ray Serve on a cluster of this machine."""
    return _python(stack, environment, f"{PAGES}.{page}", "{port}")


def mosec(plan: Plan, environment: dict[str, str], stack: ExitStack) -> int:
    """mosec with its own workers."""
    return _python(stack, environment, f"{PAGES}.with_mosec", "--port", "{port}", ready=services.listens)


def bentoml(python: str, plan: Plan, environment: dict[str, str], stack: ExitStack) -> int:
    """BentoML with its own workers, in an interpreter of its own that imports the kit, and no other package of here."""
    environment = environment | {"PYTHONPATH": str(Path(__file__).parents[3])}
    options = ("--host", "127.0.0.1", "--port", "{port}")
    return _python(stack, environment, "bentoml", "serve", f"{PAGES}.with_bentoml:Model", *options, python=python)


def haproxy(plan: Plan, environment: dict[str, str], stack: ExitStack) -> int:
    """Replicas as servers of their own behind haproxy. Raise `UserError` where it is not installed."""
    program = services.installed(*HAPROXY)
    settings = Path(__file__).with_name("servers").joinpath("haproxy.cfg").read_text(encoding="utf-8")
    ports = [_uvicorn(stack, environment, "plain") for _ in range(plan.replicas)]
    settings += "".join(f"    server r{place} 127.0.0.1:{port}\n" for place, port in enumerate(ports))
    balancer = Service("haproxy", [program, "-db", "-f", "/dev/stdin"], stdin=settings, ready=answers)
    return stack.enter_context(balancer).start().port


def two_services(plan: Plan, environment: dict[str, str], stack: ExitStack) -> int:
    """A service for features and one for the model, whose replicas are behind haproxy: each can be scaled alone."""
    behind = haproxy(plan, environment | {"KIT_DECODED": "1"}, stack)
    return _uvicorn(stack, environment | {"KIT_NEXT": f"http://127.0.0.1:{behind}"}, "features")


def refusal(call: Callable[..., object], *arguments: object) -> str:
    """Return the sentence of the `UserError` that a call raises; empty if it raises none."""
    try:
        call(*arguments)
    except UserError as error:
        return str(error)
    return ""


def plans(workers: int, batch: int) -> dict[str, Plan]:
    """Return how each server is deployed, by name. workers: replicas where there are several, 0: one for each core;
    batch: see `Plan`."""
    workers = workers or fingerprint.usable_cores()
    python = str(Path(os.environ.get("KIT_BENTOML", "/nowhere"), "bin/python"))
    no_haproxy, no_bentoml = refusal(services.installed, *HAPROXY), refusal(services.installed, [python], BENTOML)
    return {
        "FastAPI": Plan(uvicorn),
        "FastAPI, 1 thread": Plan(uvicorn, threads=1),
        "FastAPI, workers": Plan(uvicorn, workers),
        "all threads each": Plan(uvicorn, workers, threads=fingerprint.usable_cores()),
        "micro-batching": Plan(uvicorn, batch=batch),
        "granian": Plan(granian, workers, requires=("granian",)),
        "LitServe": Plan(partial(own, "with_litserve"), workers, requires=("litserve",)),
        "mosec": Plan(mosec, workers, requires=("mosec",)),
        "Ray Serve": Plan(partial(own, "with_ray"), workers, requires=("ray.serve",)),
        "BentoML": Plan(partial(bentoml, python), workers, skip=no_bentoml),
        "haproxy": Plan(haproxy, workers, skip=no_haproxy),
        "two services": Plan(two_services, workers, skip=no_haproxy),
    }
