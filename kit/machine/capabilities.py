"""What works on this machine right now. A capability is probed by doing something tiny with it (allocating on the
device, running one query), never by an import alone, and in a process of its own, so that a probe that crashes or hangs
is reported as broken and harms nobody."""

import ctypes.util
import difflib
import functools
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kit.machine import isolated

PROBE_LIMIT_S = 90.0


@dataclass(frozen=True)
class Missing:
    """Why a capability is not there, and what to do to have it. broken: it is installed, but its probe failed."""

    reason: str
    remedy: str
    broken: bool = False


@dataclass(frozen=True)
class Capability:
    """module: what must be importable; probe: code that uses it; remedy: how to have it; gpu: needs an NVIDIA GPU."""

    module: str
    probe: str
    remedy: str
    gpu: bool = False


def _gpu(module: str, probe: str, remedy: str = "pip install -e '.[gpu]' -c constraints-gpu.txt") -> Capability:
    return Capability(module, probe, f"on a machine with an NVIDIA GPU: {remedy}", gpu=True)


CAPABILITIES = {
    "cuda": Capability("ctypes", "", "use a machine with an NVIDIA GPU and its driver", gpu=True),
    "cupy": _gpu("cupy", "import cupy; assert int(cupy.arange(8).sum()) == 28"),
    "cudf": _gpu("cudf", "import cudf; assert int(cudf.Series([1, 2]).sum()) == 3"),
    "cudf.pandas": _gpu(
        "cudf", "import cudf.pandas as c; c.install(); import pandas; assert int(pandas.Series([1, 2]).sum()) == 3"
    ),
    "polars gpu": _gpu(
        "cudf_polars",
        "import polars as p; e = p.GPUEngine(executor='in-memory', raise_on_fail=True);"
        "assert p.LazyFrame({'x': [1, 2]}).sum().collect(engine=e).item() == 3",
    ),
    "dask-cudf": _gpu(
        "dask_cudf",
        "import cudf, dask_cudf, dask_cuda;"
        "assert int(dask_cudf.from_cudf(cudf.DataFrame({'x': [1, 2]}), npartitions=1).x.sum().compute()) == 3",
    ),
    "torch cuda": _gpu("torch", "import torch; assert int(torch.ones(2, device='cuda').sum()) == 2"),
    "C++ compiler": Capability(
        "subprocess", "import os, subprocess as s, tempfile; f = os.path.join(tempfile.mkdtemp(), 'seven');"
        "s.run([os.environ.get('CXX', 'g++'), '-xc++', '-', '-o', f], input=b'int main() { return 7; }', check=True);"
        "assert s.run([f]).returncode == 7; os.remove(f); os.rmdir(os.path.dirname(f))",
        "install a C++ compiler that is called g++ (apt-get install g++), or name yours in CXX",
    ),
    "executorch": Capability(
        "executorch", "import executorch.runtime as r; assert r.Runtime.get()", "pip install 'ml-scaling-kit[edge]'"
    ),
    "litert_torch": Capability(
        "litert_torch", "import litert_torch as t; assert t.convert", "see kit/techniques/quantization/edge.py"
    ),
    "pyspark": Capability(
        "pyspark", "import os, re, shutil, subprocess as s; e = os.environ;"
        "j = shutil.which('java', path=e['JAVA_HOME'] + '/bin' if 'JAVA_HOME' in e else None);"
        "v = s.run([j, '-version'], capture_output=True, text=True).stderr if j else '';"
        "assert int((re.findall('version .([0-9]+)', v) or [0])[0]) >= 17, 'there is no Java 17 or newer'",
        "apt-get install openjdk-17-jre-headless, or any Java 17+; pip install -e '.[spark]'",
    ),
    "pysail": Capability("pysail", "import pysail.spark as s; assert s", "pip install -e '.[spark]'"),
    "redis server": Capability(
        "redis", "import redis, shutil;"
        "assert any(map(shutil.which, ('redis-server', 'valkey-server'))), 'there is no redis-server on the PATH'",
        "install a Redis or Valkey server (apt-get install redis-server) and pip install redis",
    ),
    "tensorrt": _gpu(
        "tensorrt", "import tensorrt as t; v = t.__version__;"
        "assert int(v.split('.')[0]) >= 11, f'it is version {v}, and 11 or newer is needed';"
        "b = t.Builder(t.Logger(t.Logger.ERROR)); n = b.create_network(); x = n.add_input('x', t.float32, (2, 2));"
        "n.mark_output(n.add_identity(x).get_output(0)); p = b.build_serialized_network(n, b.create_builder_config());"
        "e = t.Runtime(b.logger).deserialize_cuda_engine(p); assert e.num_io_tensors == 2",
        "pip install 'tensorrt>=11'",
    ),
    "tensorrt rtx": Capability(
        "tensorrt_rtx_bindings",
        "import tensorrt_rtx_bindings as t; b = t.Builder(t.Logger(t.Logger.ERROR)); n = b.create_network();"
        "x = n.add_input('x', t.float32, (2, 2)); n.mark_output(n.add_identity(x).get_output(0));"
        "c = b.create_builder_config(); c.num_compute_capabilities = 1;"
        "c.set_compute_capability(t.ComputeCapability.SM89, 0); assert b.build_serialized_network(n, c)",
        "pip install -e '.[test]' (tensorrt-rtx-cu13-libs and -bindings; no GPU is needed)",
    ),
}  # fmt: skip
"""By the name that `requires=` takes. Any other name is taken for a module that must be importable."""


@functools.cache
def interpreter(python: str) -> str | Missing:
    """Return the executable of another interpreter: of a path to it, or of the folder of its environment. It must have
    what a worker needs; without it the variant that names it is skipped, with the command that makes it."""
    place = Path(python).expanduser()
    program = place / "bin/python" if place.is_dir() else place
    if not program.is_file():
        folder = place.parent.parent if place.parent.name == "bin" else place
        remedy = f"python -m venv {folder} && {folder}/bin/pip install {' '.join(_OF_A_WORKER)}, and what it is for"
        return Missing(f"no interpreter at {python}", remedy)
    check = f"import sys, {', '.join(_OF_A_WORKER)}; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    status, _, errors = isolated.python(["-c", check], PROBE_LIMIT_S, str(program))
    if status != 0:
        version = "" if errors.strip() or status != 1 else "it is no Python {}.{}".format(*sys.version_info)
        lacks = version or isolated.why_ended(status, errors, PROBE_LIMIT_S)
        return Missing(f"{python} can't run a variant: {lacks}", f"{program} -m pip install {' '.join(_OF_A_WORKER)}")
    return str(program)


_OF_A_WORKER = ("cloudpickle", "msgspec", "numpy", "psutil")


def missing(requires: Iterable[str]) -> Missing | None:
    """Return why the first capability that is not there is missing, or None if all are there."""
    return next((found for name in requires if (found := probe(name))), None)


@functools.cache
def probe(name: str) -> Missing | None:
    """Probe one capability, once a process. Return None if it works."""
    near = difflib.get_close_matches(name, CAPABILITIES, n=1, cutoff=0.8)
    install = f"did you mean requires={near[0]!r}?" if near else f"install the package that has the module {name}"
    known = CAPABILITIES.get(name) or Capability(name, f"import {name}", install)
    if known.gpu and not has_driver():
        return Missing("no NVIDIA driver", known.remedy)
    if not _importable(known.module):
        return Missing(f"{known.module} is not installed", known.remedy)
    if known.module in sys.modules and name not in CAPABILITIES:
        return None
    status, _, errors = isolated.python(["-c", known.probe], PROBE_LIMIT_S)
    if status == 0:
        return None
    why = isolated.why_ended(status, errors, PROBE_LIMIT_S)
    return Missing(f"{name} is broken: {why}", known.remedy, broken=True)


@functools.cache
def has_driver() -> bool:
    """Return whether an NVIDIA driver is there and knows at least one GPU (its own count, asked without CUDA)."""
    try:
        nvml, count = ctypes.CDLL(ctypes.util.find_library("nvidia-ml") or "libnvidia-ml.so.1"), ctypes.c_uint(0)
        return nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


def _importable(module: str) -> bool:
    try:
        return module != "__main__" and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
