"""Peak memory of a call, read inside the worker in a pass of its own.

`VmHWM` is the kernel's own high-water mark and is reset by writing 5 to `/proc/<pid>/clear_refs`; `ru_maxrss` cannot be
reset and survives fork and exec. Children of the worker (a local cluster) count too: the sum of their peaks is an upper
bound, and the method says so.
"""

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 2**20
_PROC = Path("/proc/self/clear_refs").exists()


@dataclass(frozen=True)
class Peak:
    """Highest resident memory (MiB) of this process and its children since `reset`, and how it was read."""

    mib: float
    method: str


def reset() -> None:
    """Reset the high-water marks of this process and its children, where the platform can."""
    for pid in _pids():
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:
            continue


def peak() -> Peak:
    """Return the highest resident memory since `reset`; without /proc, the peak of the process's whole life."""
    pids = _pids()
    if not _PROC:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return Peak(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB, "ru_maxrss of the whole life")
    total = sum(_status_mib(pid, "VmHWM") for pid in pids)
    return Peak(total, "VmHWM" if len(pids) == 1 else f"VmHWM summed over {len(pids)} processes")


def resident_mib() -> float:
    """Return the resident memory of this process and its children now."""
    if not _PROC:
        return psutil.Process().memory_info().rss / MIB
    return sum(_status_mib(pid, "VmRSS") for pid in _pids())


def device_mib() -> float | None:
    """Return the device memory of this process and its children now, by the driver; None where it does not tell: no
    device, no pynvml, or a container in which the driver knows the processes by other numbers."""
    try:
        import pynvml

        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        running = [process for device in devices for process in pynvml.nvmlDeviceGetComputeRunningProcesses(device)]
    except Exception:  # a driver may refuse any of these, which must not cost a variant
        return None
    pids = set(_pids())
    used = [process.usedGpuMemory for process in running if process.pid in pids and process.usedGpuMemory]
    return sum(used) / MIB if used else None


def _pids() -> list[int]:
    own = psutil.Process()
    return [own.pid, *(child.pid for child in own.children(recursive=True))]


def _status_mib(pid: int, name: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        pass
    return 0.0
