"""What this machine is: processor, cores and memory that may be used, GPUs. Names no host and no user."""

import functools
import hashlib
import math
import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil

from kit.record.document import Git, Gpu, Machine

MIB = 2**20

PACKAGES = (
    "ml-scaling-kit numpy scipy pandas polars duckdb pyarrow dask distributed torch optuna onnx onnxruntime openvino "
    "tensorrt torch-pruning torchao nvidia-modelopt "
    "cupy-cuda13x cudf-cu13 cudf-polars-cu13 dask-cudf-cu13 dask-cuda papermill jupyterlab matplotlib pytest-benchmark"
).split()
"""Distributions whose versions `kit doctor` and every record name."""


@functools.cache
def machine() -> Machine:
    """Return what this machine is, without its peaks (see `peaks.py`). Read once a process."""
    cpu, cores, memory_mib, gpus = _cpu(), usable_cores(), _memory_mib(), _gpus()
    text = repr((cpu, cores, round(memory_mib / 1024), [gpu.name for gpu in gpus]))
    return Machine(
        key=hashlib.sha256(text.encode()).hexdigest()[:10],
        cpu=cpu,
        cores=cores,
        cores_total=os.cpu_count() or cores,
        memory_mib=memory_mib,
        memory_limit_mib=_memory_limit_mib(),
        system=f"{platform.system()} {platform.release()}",
        arch=platform.machine(),
        python=platform.python_version(),
        gpus=gpus,
        cuda=_cuda() if gpus else None,
        instructions=[name for flag, name in INSTRUCTIONS.items() if flag in _cpuinfo("flags", "features").split()],
    )


def in_words(this: Machine) -> str:
    """Return the machine in one line: `2 cores of Intel Xeon, 24 GiB, no GPU`."""
    memory_gib = (this.memory_limit_mib or this.memory_mib) / 1024
    gpus = " + ".join(gpu.name for gpu in this.gpus) or "no GPU"
    cores = "1 core" if this.cores == 1 else f"{this.cores} cores"
    return f"{cores} of {this.cpu}, {memory_gib:.0f} GiB, {gpus}"


def usable_cores() -> int:
    """Return the number of cores that this process may use: affinity and cgroup quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, max(1, math.floor(int(quota[0]) / int(quota[1]))))
    return cores


def allowed_threads() -> int:
    """Return how many threads a variant may use: those of its comparison, else all cores that this process may use."""
    return int(os.environ.get("KIT_THREADS") or usable_cores())


def versions() -> dict[str, str]:
    """Return the installed versions of `PACKAGES`; what is not installed is left out."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@functools.cache
def git(name: str = "HEAD") -> Git | None:
    """Return a commit by its name, and whether the checkout in the working directory is dirty; None outside one, or
    where it has no such commit. What the kit writes there makes nothing dirty."""
    commit = _output("git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    own = [f":(top,exclude){name}" for name in ("runs", "report", "data")]
    return Git(commit=commit, dirty=bool(_output("git", "status", "--porcelain", "--", ":/", *own))) if commit else None


def available_mib() -> float:
    """Return the memory that could be taken now without swapping, within the cgroup's limit."""
    available = psutil.virtual_memory().available / MIB
    limit, used = _memory_limit_mib(), _cgroup("memory.current")
    return min(available, limit - int(used) / MIB) if limit and used else available


def _cpuinfo(*names: str) -> str:
    """Return the first value of these names in Linux's description of the processor, or nothing."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(names):
                return line.split(":", 1)[1].strip()
    return ""


def _cpu() -> str:
    named = _cpuinfo("model name") or _output("sysctl", "-n", "machdep.cpu.brand_string")
    return named or platform.processor() or platform.machine()


INSTRUCTIONS = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI",
    "avx512_bf16": "AVX-512 BF16", "avx512_fp16": "AVX-512 FP16", "amx_int8": "AMX INT8", "amx_bf16": "AMX BF16",
    "asimddp": "NEON dot product", "i8mm": "NEON INT8 matrix product", "bf16": "NEON BF16", "sve": "SVE",
}  # fmt: skip
"""Names by the flags of Linux, x86 and ARM: those that widen arithmetic or make it of smaller numbers."""


def _memory_mib() -> float:
    return round(psutil.virtual_memory().total / MIB, 1)


def _memory_limit_mib() -> float | None:
    limit = _cgroup("memory.max")
    if not limit.isdigit() or int(limit) / MIB >= _memory_mib():
        return None
    return round(int(limit) / MIB, 1)


def _cgroup(name: str) -> str:
    """Return the text of a cgroup v2 file of this process, or of the root that a container sees, or nothing."""
    own, root = "", Path("/sys/fs/cgroup")
    with suppress(OSError):
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
    for folder in (root / own, root):
        with suppress(OSError):
            return (folder / name).read_text().strip()
    return ""


def _gpus() -> list[Gpu]:
    query = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    rows = [line.split(", ") for line in query.splitlines() if line.count(", ") == 2]
    return [Gpu(name=n, memory_mib=float(mib) if mib.isdigit() else 0.0, driver=driver) for n, mib, driver in rows]


def _cuda() -> str | None:
    """Return the newest CUDA version that the driver supports, as its banner says."""
    banner = _output("nvidia-smi")
    return banner.split("CUDA Version:", 1)[1].split()[0] if "CUDA Version:" in banner else None


def _output(*command: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    return ""
