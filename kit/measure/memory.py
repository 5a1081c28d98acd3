"""Peak memory of a call, read inside the worker in a pass of its own.

`VmHWM` is the kernel's own high-water mark and is reset by writing 5 to `/proc/<pid>/clear_refs`; `ru_maxrss` cannot be
reset and survives fork and exec. Of children (ranks, a local cluster) only pages that they share with no process count:
those that they share with the worker, libraries and what was there at a fork, are counted once, in the worker. The sum
of several peaks is an upper bound, since they need not come at the same time.
"""

import contextlib
import resource
import sys
from pathlib import Path

import psutil

MIB = 2**20
_PROC = Path("/proc/self/clear_refs").exists()


def reset() -> None:
    """Reset the high-water marks of this process and its children, where the platform can."""
    for pid in _pids():
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak() -> tuple[float, str]:
    """Return the highest resident memory (MiB) of this process and its children since `reset`, and how it was read;
    without /proc, the peak of the process's whole life."""
    pids = _pids()
    if not _PROC:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB, "ru_maxrss of the whole life"
    method = "VmHWM" if len(pids) == 1 else f"VmHWM of {len(pids)} processes, shared pages counted once"
    return _total_mib(pids, "VmHWM"), method


def resident_mib() -> float:
    """Return the resident memory of this process and its children now."""
    if not _PROC:
        return psutil.Process().memory_info().rss / MIB
    return _total_mib(_pids(), "VmRSS")


def _pids() -> list[int]:
    own = psutil.Process()
    return [own.pid, *(child.pid for child in own.children(recursive=True))]


def _total_mib(pids: list[int], name: str) -> float:
    """Return a figure of this process, which is the first, and of its children, less what these share."""
    shared = sum(mib(pid, "smaps_rollup", "Shared_Clean", "Shared_Dirty") for pid in pids[1:])
    return sum(mib(pid, "status", name) for pid in pids) - shared


def mib(pid: int, file: str, *names: str) -> float:
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()]
    except OSError:  # it has ended
        return 0.0
    return sum(int(line[1]) for line in lines if line and line[0].removesuffix(":") in names) / 1024
