"""Peaks are rates that were really measured, or null with the reason; a probe that breaks costs only itself."""

import subprocess
import sys

import psutil
import pytest

from kit.machine import capabilities, peaks, probes
from kit.record import formatting

COPY, BF16 = "memory_copy_gib_per_s", "matrix_product_bf16_gflop_per_s"


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    """Probes are real but brief, and nothing is remembered from test to test."""
    monkeypatch.setenv(peaks.BUDGET, "0.01")
    monkeypatch.setattr(peaks, "_remembered", {})


@pytest.fixture
def fake_torch(tmp_path, monkeypatch):
    """Put a module before PyTorch that does what a test wants."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda code: (tmp_path / "torch.py").write_text(code)


def test_every_peak_is_a_rate_or_null_with_its_reason():
    """Each name of this machine has a positive finite rate with a unit, or a reason; no process is left of it."""
    before = set(psutil.Process().children(recursive=True))
    found = peaks.examined(peaks.every(), 1)
    assert list(found) == peaks.every()
    assert all(0 < one.rate < float("inf") if one.rate is not None else one.reason for one in found.values())
    assert all(found[name].rate for name in found if name != BF16)
    assert 0.05 < found["memory_copy_gib_per_s"].rate < 10_000
    assert 0.05 < found["matrix_product_fp32_gflop_per_s"].rate < 1_000_000
    assert set(psutil.Process().children(recursive=True)) <= before
    assert set(peaks.ON_CPU + peaks.ON_GPU) == set(probes.PROBES)
    assert all(formatting.peak(name, 1.0)[1].endswith("/s") for name in probes.PROBES)


def test_only_what_is_asked_for_is_measured(fake_torch):
    """A peak that nobody asked for imports no library, and who asks imports none either."""
    fake_torch("raise SystemExit('nobody wanted me')")
    found = peaks.examined([COPY, "no_such_thing_per_s"], 1)
    assert found[COPY].rate
    assert found["no_such_thing_per_s"] == peaks.Found(None, "no such peak is known")
    code = "import sys\nfrom kit.machine import peaks\npeaks.measured(peaks.QUICK[:1], 1)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "onnxruntime"} & set(loaded)


def test_what_was_measured_is_not_measured_again(monkeypatch):
    """A notebook with many comparisons measures once; other threads are another question."""
    first = peaks.measured([COPY], 1)
    monkeypatch.setattr(peaks, "examined", lambda names, threads: {n: peaks.Found(threads) for n in names})
    assert peaks.measured([COPY], 1) == first
    assert peaks.measured([COPY], 2) == {COPY: 2}
    monkeypatch.setattr(peaks, "REMEMBERED_S", 0)
    assert peaks.measured([COPY], 1) == {COPY: 1}


def test_nothing_is_measured_where_that_is_asked(monkeypatch):
    """With a budget of 0 all peaks are null, and no process is started."""
    monkeypatch.setenv(peaks.BUDGET, "0")
    monkeypatch.setattr(peaks, "_probed", None)
    assert set(peaks.measured(peaks.every(), 1).values()) == {None}


def test_a_probe_that_crashes_costs_only_itself(fake_torch):
    """A library that dies of an illegal instruction takes its own peak with it, and the others are measured."""
    fake_torch("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    found = peaks.examined([BF16, COPY], 1)
    assert found[BF16] == peaks.Found(None, "its process was ended by SIGILL")
    assert found[COPY].rate


def test_a_library_that_is_missing_leaves_what_others_have(fake_torch):
    """Without PyTorch FP32 is NumPy's and INT8 ONNX Runtime's; BF16 says what is missing."""
    fake_torch(
        "import os; print('[\"hello\", 1, 2]'); raise ImportError('no torch at ' + os.environ['OMP_NUM_THREADS'])"
    )
    found = peaks.examined(peaks.PRODUCTS, 3)
    assert found["matrix_product_fp32_gflop_per_s"].rate
    assert found["matrix_product_int8_gop_per_s"].rate
    assert found["matrix_product_bf16_gflop_per_s"] == peaks.Found(None, "ImportError: no torch at 3")


def test_the_probes_of_a_gpu_do_their_work(monkeypatch):
    """The code that measures a GPU computes and copies, here with the processor as its device."""
    monkeypatch.setattr(probes, "DEVICE_SIZES", (64, 64))
    monkeypatch.setattr(probes, "DEVICE_COPY_MIB", 4)
    for kind in ("fp32", "bf16", "int8"):
        assert probes.device_product(kind, 1, 0.001, device="cpu") > 0
    assert probes.device_copy(1, 0.001, device="cpu") > 0


def test_without_a_gpu_its_peaks_say_so(monkeypatch):
    """Where there is no driver, a GPU's peaks are not among those of the machine; who asks is told why."""
    monkeypatch.setattr(capabilities, "has_driver", lambda: False)
    assert not set(peaks.ON_GPU) & set(peaks.every())
    assert peaks.examined(peaks.ON_GPU, 1) == dict.fromkeys(peaks.ON_GPU, peaks.Found(None, "no NVIDIA driver"))


@pytest.mark.gpu
@pytest.mark.skipif(not capabilities.has_driver(), reason="no NVIDIA driver")
def test_with_a_gpu_its_peaks_are_measured():
    """Where there is a GPU, its copy and its FP32 product are rates."""
    found = peaks.measured(peaks.ON_GPU, 1)
    assert found["device_copy_gib_per_s"] and found["device_matrix_product_fp32_gflop_per_s"]
