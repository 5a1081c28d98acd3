"""What this machine could do at best, measured in the same session: what a technique's speed is held against.

Every ceiling is a rate, best of its repeats. They are measured in a process of their own, its thread counts set before
its imports: whoever asks imports no library for them, and a probe that crashes or hangs costs only itself.
"""

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from kit import places
from kit.machine import capabilities
from kit.machine.fingerprint import usable_cores

ON_CPU = {
    "memory_copy_gib_per_s": "memory",
    "matrix_product_fp32_gflop_per_s": "products",
    "matrix_product_bf16_gflop_per_s": "products",
    "matrix_product_int8_gop_per_s": "products",
    "disk_read_mib_per_s": "disk",
    "disk_write_mib_per_s": "disk",
    "loopback_round_trips_per_s": "loopback",
    "loopback_gib_per_s": "loopback",
    "process_starts_per_s": "starts",
}
"""By name the module here whose `PROBES` has its probe."""

ON_GPU = dict.fromkeys(
    (
        "device_copy_gib_per_s",
        "host_to_device_gib_per_s",
        "device_matrix_product_fp32_gflop_per_s",
        "device_matrix_product_tf32_gflop_per_s",
        "device_matrix_product_bf16_gflop_per_s",
        "device_matrix_product_int8_gop_per_s",
    ),
    "device",
)
"""Of the first GPU. Asked for where there is a driver."""

BY_THREADS = ("memory", "products", "starts")
"""Modules whose ceilings depend on the number of threads."""

QUICK = ("memory_copy_gib_per_s", "matrix_product_fp32_gflop_per_s")
"""Measured by every comparison that no batch has measured them for."""

FILE = "ceilings.json"
"""In a run's folder: what the batch that executes it has measured."""

BUDGET = "KIT_PROBE_S"
"""Environment variable: seconds that each probe repeats its work for; 0: nothing is measured, all is null."""
BUDGET_S = 0.25
LIMIT_S = 60.0
"""Longest time without news from the probes' process: a first import from a slow disk may take most of it."""
REMEMBERED_S = 600.0
"""A notebook with many comparisons measures once; a kernel that lives for days does not believe the first day's."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_remembered: dict[tuple[str, int], tuple[float, "Found"]] = {}


@dataclass(frozen=True)
class Found:
    """One ceiling: its rate, or None and the reason."""

    rate: float | None
    reason: str = ""


def every() -> list[str]:
    """Return the names of all ceilings that this machine may have: those of a GPU where there is a driver."""
    return [*ON_CPU, *(ON_GPU if capabilities.has_driver() else ())]


def of_session(folder: Path | None, threads: int) -> dict[str, float | None]:
    """Return the ceilings that the batch measured for the run in `folder`; without them the quick ones, taken now.

    The batch measures with all cores: for another number of threads, what depends on it is taken anew."""
    kept = (_kept(folder) if folder else None) or {}
    if kept and threads == usable_cores():
        return kept
    return {name: rate for name, rate in kept.items() if ON_CPU.get(name) not in BY_THREADS} | measured(QUICK, threads)


def _kept(folder: Path) -> dict[str, float | None] | None:
    try:
        told = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    rates = told.values() if isinstance(told, dict) else [told]
    return told if told and all(rate is None or _is_rate(rate) for rate in rates) else None


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def at_hand() -> bool:
    """Return whether `leave` would take no time: all was measured of late, or nothing is to be measured."""
    now = time.monotonic()
    return _budget_s() == 0 or all(_is_fresh(name, usable_cores(), now) for name in every())


def _is_fresh(name: str, threads: int, now: float) -> bool:
    return (name, threads) in _remembered and now - _remembered[name, threads][0] <= REMEMBERED_S


def leave(folder: Path) -> None:
    """Measure all ceilings, with all cores, and leave them in a run's folder for `of_session` to find, whole or not at
    all. What this process measured within ten minutes is good enough for the next run."""
    rates = measured(every(), usable_cores())
    partial = folder / f".{FILE}.{uuid4().hex[:8]}"
    partial.write_text(json.dumps(rates, indent=1))
    partial.replace(folder / FILE)


def measured(names: Iterable[str], threads: int) -> dict[str, float | None]:
    """Measure these ceilings with so many threads; null where this machine can't, and for a name that is none.

    What this process has measured within ten minutes is not measured again.
    """
    asked, now = list(dict.fromkeys(names)), time.monotonic()
    for name, found in examined([name for name in asked if not _is_fresh(name, threads, now)], threads).items():
        _remembered[name, threads] = now, found
    return {name: _remembered[name, threads][1].rate for name in asked}


def examined(names: Iterable[str], threads: int) -> dict[str, Found]:
    """Measure these ceilings now, each with the reason where it is null."""
    asked = list(dict.fromkeys(names))
    known = {name: Found(None, "no such ceiling is known") for name in asked if name not in ON_CPU | ON_GPU}
    if not capabilities.has_driver():
        known |= {name: Found(None, "no NVIDIA driver") for name in asked if name in ON_GPU}
    todo = [name for name in asked if name not in known]
    if (budget_s := _budget_s()) == 0:
        known |= {name: Found(None, f"{BUDGET}=0") for name in todo}
    while left := [name for name in todo if name not in known]:
        known |= _probed(left, threads, budget_s)
    return {name: known[name] for name in asked}


def _budget_s() -> float:
    try:
        return max(0.0, float(os.environ.get(BUDGET) or BUDGET_S))
    except ValueError:
        return BUDGET_S


def _probed(names: list[str], threads: int, budget_s: float) -> dict[str, Found]:
    """Probe in one process, in this order, until it is through or ended; the one at which it ended is told as broken,
    so that at least one name is known after each call."""
    environment = os.environ | dict.fromkeys(_THREADS, str(threads))
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    found: dict[str, Found] = {}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kit.machine.ceilings.probe", str(threads), str(budget_s), _place(), *names],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            for name, rate, reason in _news(process):
                found[name] = Found(rate if _is_rate(rate) else None, reason)
            in_time = process.poll() is not None or _ends(process)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        if len(found) < len(names):
            broken = next(name for name in names if name not in found)
            found[broken] = Found(None, _ended(process.returncode, errors) if in_time else f"over {LIMIT_S:g} s")
    return found


def _place() -> str:
    """Return the folder whose disk is measured: the project's, where data and runs lie, if it can be written to."""
    project = places.project()
    return str(project) if os.access(project, os.W_OK) else tempfile.gettempdir()


def _news(process: subprocess.Popen) -> Iterator[list]:
    """Yield what the process tells, a line a ceiling, until it ends or is silent for too long."""
    told = b""
    while select.select([process.stdout], [], [], LIMIT_S)[0] and (read := os.read(process.stdout.fileno(), 2**16)):
        *lines, told = (told + read).split(b"\n")
        yield from map(json.loads, lines)


def _ends(process: subprocess.Popen) -> bool:
    """Return whether a process that has closed its output ends by itself; one that was silent too long has not."""
    if not select.select([process.stdout], [], [], 0)[0]:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    return True


def _ended(status: int, errors: Any) -> str:
    if status < 0 and status != -signal.SIGKILL:
        return f"its probe was ended by {signal.Signals(-status).name}"
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return f"its probe ended: {lines[-1][:200]}" if lines else f"its probe ended with status {status}"
