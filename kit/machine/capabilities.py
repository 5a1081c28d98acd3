"""What works on this machine right now. A capability is probed by doing something tiny with it (allocating on the
device, running one query), never by an import alone, and in a process of its own, so that a probe that crashes or hangs
is reported as broken and harms nobody."""

import contextlib
import ctypes.util
import difflib
import functools
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

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


_GPU_EXTRA = "on a machine with an NVIDIA GPU: pip install -e '.[gpu]' -c constraints-gpu.txt"

CAPABILITIES = {
    "cuda": Capability("ctypes", "", "use a machine with an NVIDIA GPU and its driver", gpu=True),
    "cupy": Capability("cupy", "import cupy; assert int(cupy.arange(8).sum()) == 28", _GPU_EXTRA, gpu=True),
    "cudf": Capability("cudf", "import cudf; assert int(cudf.Series([1, 2]).sum()) == 3", _GPU_EXTRA, gpu=True),
    "cudf.pandas": Capability(
        "cudf",
        "import cudf.pandas; cudf.pandas.install(); import pandas; assert int(pandas.Series([1, 2]).sum()) == 3",
        _GPU_EXTRA,
        gpu=True,
    ),
    "polars gpu": Capability(
        "cudf_polars",
        "import polars as p; e = p.GPUEngine(executor='in-memory', raise_on_fail=True);"
        "assert p.LazyFrame({'x': [1, 2]}).sum().collect(engine=e).item() == 3",
        _GPU_EXTRA,
        gpu=True,
    ),
    "dask-cudf": Capability(
        "dask_cudf",
        "import cudf, dask_cudf, dask_cuda;"
        "assert int(dask_cudf.from_cudf(cudf.DataFrame({'x': [1, 2]}), npartitions=1).x.sum().compute()) == 3",
        _GPU_EXTRA,
        gpu=True,
    ),
    "torch": Capability(
        "torch", "import torch; assert int(torch.ones(2).sum()) == 2", "pip install torch -c constraints.txt"
    ),
    "torch cuda": Capability(
        "torch", "import torch; assert int(torch.ones(2, device='cuda').sum()) == 2", _GPU_EXTRA, gpu=True
    ),
    "C++ compiler": Capability(
        "subprocess",
        "import os, subprocess as s, tempfile; f = os.path.join(tempfile.mkdtemp(), 'seven');"
        "s.run([os.environ.get('CXX', 'g++'), '-xc++', '-', '-o', f], input=b'int main() { return 7; }', check=True);"
        "assert s.run([f]).returncode == 7; os.remove(f); os.rmdir(os.path.dirname(f))",
        "install a C++ compiler that is called g++ (apt-get install g++), or name yours in CXX",
    ),
    "executorch": Capability(
        "executorch",
        "from executorch.runtime import Runtime; assert Runtime.get()",
        "pip install -e '.[edge]' -c constraints.txt",
    ),
    "litert_torch": Capability(
        "litert_torch",
        "import litert_torch; assert litert_torch.convert",
        "its packages are named in kit/techniques/quantization/engines/edge.py",
    ),
    "redis server": Capability(
        "redis",
        "import redis, shutil;"
        "assert any(map(shutil.which, ('redis-server', 'valkey-server'))), 'there is no redis-server on the PATH'",
        "install a Redis or Valkey server (apt-get install redis-server) and pip install redis",
    ),
    "tensorrt": Capability(
        "tensorrt",
        "import tensorrt as t; v = t.__version__;"
        "assert int(v.split('.')[0]) >= 11, f'it is version {v}, and 11 or newer is needed';"
        "b = t.Builder(t.Logger(t.Logger.ERROR)); n = b.create_network(); x = n.add_input('x', t.float32, (2, 2));"
        "n.mark_output(n.add_identity(x).get_output(0)); p = b.build_serialized_network(n, b.create_builder_config());"
        "e = t.Runtime(b.logger).deserialize_cuda_engine(p); assert e.num_io_tensors == 2",
        "on a machine with an NVIDIA GPU: pip install 'tensorrt>=11'",
        gpu=True,
    ),
    "tensorrt rtx": Capability(
        "tensorrt_rtx_bindings",
        "import tensorrt_rtx_bindings as t; b = t.Builder(t.Logger(t.Logger.ERROR)); n = b.create_network();"
        "x = n.add_input('x', t.float32, (2, 2)); n.mark_output(n.add_identity(x).get_output(0));"
        "c = b.create_builder_config(); c.num_compute_capabilities = 1;"
        "c.set_compute_capability(t.ComputeCapability.SM89, 0); assert b.build_serialized_network(n, c)",
        "pip install -e '.[test]' (tensorrt-rtx-cu13-libs and -bindings; no GPU is needed)",
    ),
    "onnxruntime cuda": Capability(
        "onnxruntime",
        "import numpy as n, onnx.helper as h, onnxruntime as o;"
        "v = [h.make_tensor_value_info(x, 1, [2]) for x in 'xy'];"
        "g = h.make_graph([h.make_node('Neg', ['x'], ['y'])], 'g', v[:1], v[1:]);"
        "m = h.make_model(g, opset_imports=[h.make_opsetid('', 17)], ir_version=8).SerializeToString();"
        "s = o.InferenceSession(m, providers=['CUDAExecutionProvider']);"
        "assert s.get_providers()[0] == 'CUDAExecutionProvider', 'onnxruntime-gpu is missing or fits another CUDA';"
        "assert s.run(None, {'x': n.ones(2, 'f')})[0].sum() == -2",
        "on a machine with an NVIDIA GPU: pip uninstall onnxruntime, then pip install onnxruntime-gpu",
        gpu=True,
    ),
    "torchao": Capability(
        "torchao",
        "import torch as t, torchao.quantization as q; m = t.nn.Sequential(t.nn.Linear(16, 16)); x = t.ones(4, 16);"
        "y = m(x); q.quantize_(m, q.Int8DynamicActivationInt8WeightConfig());"
        "assert 0 < (m(x) - y).norm() < 0.1 * y.norm()",
        "pip install torchao",
    ),
    "modelopt": Capability(
        "modelopt",
        "import os, tempfile, numpy as n, onnx, onnx.helper as h;"
        "d = tempfile.TemporaryDirectory(); f = os.path.join(d.name, 'm.onnx');"
        "w = onnx.numpy_helper.from_array(n.eye(64, dtype='f'), 'w');"
        "v = [h.make_tensor_value_info(x, 1, [64, 64]) for x in 'xy'];"
        "g = h.make_graph([h.make_node('MatMul', ['x', 'w'], ['y'], 'm')], 'g', v[:1], v[1:], [w]);"
        "onnx.save(h.make_model(g, opset_imports=[h.make_opsetid('', 19)], ir_version=9), f);"
        "from modelopt.onnx.quantization import quantize; quantize(f, quantize_mode='fp8', calibration_eps=['cpu'],"
        "calibration_data={'x': n.ones((64, 64), 'f')}, high_precision_dtype='fp32', output_path=f + '.fp8');"
        "assert any(o.op_type == 'QuantizeLinear' for o in onnx.load(f + '.fp8').graph.node)",
        "in an environment of its own: pip install 'nvidia-modelopt[onnx]' (it pins other versions of onnx)",
    ),
}
"""By the name that `needs=` takes. Any other name is taken for a module that must be importable."""


def missing(needs: Iterable[str]) -> Missing | None:
    """Return why the first unmet need of `needs` is not met, or None if all are."""
    return next((found for need in needs if (found := probe(need))), None)


@functools.cache
def probe(name: str) -> Missing | None:
    """Probe one capability, once a process. Return None if it works."""
    capability = CAPABILITIES.get(name) or Capability(name, f"import {name}", _install(name))
    if capability.gpu and not has_driver():
        return Missing("no NVIDIA driver", capability.remedy)
    if not _importable(capability.module):
        return Missing(f"{capability.module} is not installed", capability.remedy)
    if capability.module in sys.modules and not capability.gpu and name not in CAPABILITIES:
        return None
    return _run(name, capability)


def _install(module: str) -> str:
    """Say how to have an unknown need: it may be a capability misspelt; a module's package may bear another name."""
    near = difflib.get_close_matches(module, CAPABILITIES, n=1, cutoff=0.8)
    return f"did you mean needs={near[0]!r}?" if near else f"install the package that has the module {module}"


def has_driver() -> bool:
    """Return whether an NVIDIA driver is there and knows at least one GPU (its own count, asked without CUDA)."""
    return _gpu_count() > 0


@functools.cache
def _gpu_count() -> int:
    library = ctypes.util.find_library("nvidia-ml") or "libnvidia-ml.so.1"
    try:
        nvml = ctypes.CDLL(library)
        count = ctypes.c_uint(0)
        return count.value if nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 else 0
    except (OSError, AttributeError):
        return 0


def _importable(module: str) -> bool:
    try:
        return module != "__main__" and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _run(name: str, capability: Capability) -> Missing | None:
    code, errors = _executed(capability.probe)
    if code == 0:
        return None
    if code is None:
        return Missing(f"{name} is broken: its probe took over {PROBE_LIMIT_S:g} s", capability.remedy, broken=True)
    said = [line.strip() for line in errors.splitlines() if line.strip()]
    last = said[-1] if said else f"its process ended with status {code}"
    return Missing(f"{name} is broken: {last[:200]}", capability.remedy, broken=True)


def _executed(code: str) -> tuple[int | None, str]:
    """Run Python code in a process that finds the modules that this one finds. Return its status (None: it took too
    long, and was ended with all that it started) and what it wrote to stderr."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            status = process.wait(PROBE_LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        return status, errors.read().decode(errors="replace")
