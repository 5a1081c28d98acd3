"""Ceilings are rates that were really measured, or null with the reason; a probe that breaks costs only itself."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import batch_project
import psutil
import pytest

from kit.batch.run import Batch
from kit.batch.screen import Screen
from kit.machine import ceilings, fingerprint
from kit.machine.ceilings import device, disk, starts
from kit.machine.ceilings.probe import Conditions, Impossible
from kit.record import words

BRIEF = Conditions(threads=1, budget_s=0.001, folder=".")


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    """Probes are real but brief, and nothing is remembered from test to test."""
    monkeypatch.setenv(ceilings.BUDGET, "0.01")
    monkeypatch.setattr(ceilings, "_remembered", {})


@pytest.fixture
def fake_torch(tmp_path, monkeypatch):
    """Put a module before PyTorch that does what a test wants."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda code: (tmp_path / "torch.py").write_text(code)


# --- what is measured -------------------------------------------------------------------------------------------------


def test_every_ceiling_is_a_rate_or_null_with_its_reason():
    """Each name of this machine has a positive finite rate, or says why not; what every machine has is measured."""
    found = ceilings.examined(ceilings.every(), 1)
    assert list(found) == ceilings.every()
    assert all(0 < one.rate < float("inf") if one.rate is not None else one.reason for one in found.values())
    everywhere = ("memory", "starts", "loopback")
    assert all(found[name].rate for name, module in ceilings.ON_CPU.items() if module in everywhere)
    assert 0.05 < found["memory_copy_gib_per_s"].rate < 10_000
    assert 0.05 < found["matrix_product_fp32_gflop_per_s"].rate < 1_000_000


def test_every_name_says_what_it_is_and_its_unit():
    """All ceilings are rates whose unit the words know from the name."""
    for name in ceilings.ON_CPU | ceilings.ON_GPU:
        assert name.endswith("_per_s")
        assert words.ceiling_name(name)[1].endswith("/s")


def test_only_what_is_asked_for_is_measured(fake_torch):
    """A ceiling that nobody asked for imports no library and takes no time."""
    fake_torch("raise SystemExit('nobody wanted me')")
    found = ceilings.examined(["loopback_round_trips_per_s", "no_such_thing_per_s"], 1)
    assert found["loopback_round_trips_per_s"].rate
    assert found["no_such_thing_per_s"] == ceilings.Found(None, "no such ceiling is known")


def test_the_kernel_imports_nothing_for_it():
    """Whoever asks for ceilings has no library imported by that."""
    code = "import sys\nfrom kit.machine import ceilings\nceilings.measured(ceilings.QUICK[:1], 1)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "onnxruntime"} & set(loaded)


def test_what_was_measured_is_not_measured_again(monkeypatch):
    """A notebook with many comparisons measures once; other threads are another question."""
    first = ceilings.measured(["process_starts_per_s"], 1)
    assert ceilings.measured(["process_starts_per_s"], 1) == first
    monkeypatch.setattr(ceilings, "examined", lambda names, threads: {n: ceilings.Found(threads) for n in names})
    assert ceilings.measured(["process_starts_per_s"], 1) == first
    assert ceilings.measured(["process_starts_per_s"], 2) == {"process_starts_per_s": 2}
    monkeypatch.setattr(ceilings, "REMEMBERED_S", 0)
    assert ceilings.measured(["process_starts_per_s"], 1) == {"process_starts_per_s": 1}


def test_nothing_is_measured_where_that_is_asked(monkeypatch):
    """With a budget of 0 all ceilings are null, and no process is started."""
    monkeypatch.setenv(ceilings.BUDGET, "0")
    monkeypatch.setattr(ceilings, "_probed", None)
    assert set(ceilings.measured(ceilings.every(), 1).values()) == {None}


# --- what breaks ------------------------------------------------------------------------------------------------------

AROUND = ["memory_copy_gib_per_s", "matrix_product_bf16_gflop_per_s", "loopback_round_trips_per_s"]


def test_a_probe_that_crashes_costs_only_itself(fake_torch):
    """A library that dies of an illegal instruction takes its own ceiling with it, and the others are measured."""
    fake_torch("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    found = ceilings.examined(AROUND, 1)
    assert found[AROUND[1]] == ceilings.Found(None, "its probe was ended by SIGILL")
    assert found[AROUND[0]].rate
    assert found[AROUND[2]].rate


def test_a_probe_that_hangs_is_ended(fake_torch, monkeypatch, tmp_path):
    """A probe that never ends is ended, with what it started; the others are measured."""
    fake_torch(
        "import subprocess, time\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\n"
        "time.sleep(600)"
    )
    monkeypatch.setattr(ceilings, "LIMIT_S", 3.0)
    found = ceilings.examined(AROUND[1:], 1)
    assert found[AROUND[1]] == ceilings.Found(None, "over 3 s")
    assert found[AROUND[2]].rate
    deadline = time.monotonic() + 5
    while (alive := batch_project.alive(int((tmp_path / "pid").read_text()))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def test_a_library_that_is_missing_leaves_what_others_have(fake_torch):
    """Without PyTorch FP32 is NumPy's and INT8 ONNX Runtime's; BF16 says what is missing."""
    fake_torch("raise ImportError('there is no torch')")
    products = [name for name, module in ceilings.ON_CPU.items() if module == "products"]
    found = ceilings.examined(products, 1)
    assert found["matrix_product_fp32_gflop_per_s"].rate
    assert found["matrix_product_int8_gop_per_s"].rate
    assert found["matrix_product_bf16_gflop_per_s"] == ceilings.Found(None, "ImportError: there is no torch")


def test_threads_are_set_before_the_imports(fake_torch):
    """A library finds the number of threads when it is imported."""
    fake_torch("import os; raise ImportError(os.environ['OMP_NUM_THREADS'] + os.environ['MKL_NUM_THREADS'])")
    assert ceilings.examined(AROUND[1:2], 3)[AROUND[1]].reason == "ImportError: 33"


def test_a_library_that_prints_disturbs_nothing(fake_torch):
    """What a library prints on import does not get between what is told."""
    fake_torch("import os; print('[\"hello\", 1, 2]'); os.write(1, b'{'); raise ImportError('no')")
    assert ceilings.examined(AROUND[1:], 1)[AROUND[1]].reason == "ImportError: no"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory at a known place")
def test_memory_is_no_disk(tmp_path):
    """A folder in memory has no disk's speed, and the reason says so."""
    with pytest.raises(Impossible, match="lies in memory"):
        disk.write_mib_per_s(Conditions(1, 0.001, "/dev/shm"))


def test_the_disk_is_left_as_it_was(tmp_path):
    """The file that a disk is measured with is gone afterwards, when it fails too."""
    for probe in disk.PROBES.values():
        try:
            assert probe(Conditions(1, 0.001, str(tmp_path))) > 0
        except Impossible as why:
            assert "page cache" in str(why) or "memory" in str(why)
    assert not list(tmp_path.iterdir())


def test_no_process_is_left():
    """Whatever was started to be measured is at its end."""
    before = set(psutil.Process().children(recursive=True))
    ceilings.examined(["loopback_gib_per_s", "process_starts_per_s"], 2)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_more_threads_start_more_processes_at_a_time(monkeypatch):
    """As many interpreters as threads are started at a time."""
    begun = []

    class Process:
        def __init__(self, command):
            begun.append(command)

        def wait(self):
            begun.append("waited")

    monkeypatch.setattr(starts.subprocess, "Popen", Process)
    starts.starts_per_s(Conditions(3, 0, "."))
    assert begun[3:6] == ["waited"] * 3
    assert begun[0] == begun[2] != "waited"


# --- a GPU's, as far as a processor can tell --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fp32", "tf32", "bf16", "int8"])
def test_the_products_of_a_gpu_are_products(kind):
    """The code that measures a GPU's products does its work, here with the processor as its device."""
    assert device.product_per_s(kind, BRIEF, "cpu", largest=64) > 0


def test_the_copies_of_a_gpu_are_copies(monkeypatch):
    """So do the copies, PyTorch's and those in the language that CuPy shares with NumPy."""
    import numpy as np

    monkeypatch.setattr(device, "COPY_MIB", 4)
    monkeypatch.setattr(device, "TO_DEVICE_MIB", 4)
    monkeypatch.setattr(device, "SMALLEST", 64)
    assert device.copy_gib_per_s(BRIEF, "cpu") > 0
    assert device.to_device_gib_per_s(BRIEF, "cpu") > 0
    assert device.by_cupy(np, "copy", BRIEF) > 0
    assert device.by_cupy(np, "product", BRIEF) > 0


def test_without_a_gpu_its_ceilings_say_so(monkeypatch):
    """Where there is no driver, a GPU's ceilings are not among those of the machine; who asks is told why."""
    monkeypatch.setattr(ceilings.capabilities, "has_driver", lambda: False)
    assert not set(ceilings.ON_GPU) & set(ceilings.every())
    assert ceilings.examined(ceilings.ON_GPU, 1) == dict.fromkeys(
        ceilings.ON_GPU, ceilings.Found(None, "no NVIDIA driver")
    )


@pytest.mark.gpu
@pytest.mark.skipif(not ceilings.capabilities.has_driver(), reason="no NVIDIA driver")
def test_with_a_gpu_its_ceilings_are_measured():
    """Where there is a GPU, its copy and its FP32 product are rates."""
    found = ceilings.measured(ceilings.ON_GPU, 1)
    assert found["device_copy_gib_per_s"]
    assert found["device_matrix_product_fp32_gflop_per_s"]


# --- from the batch to the comparison ---------------------------------------------------------------------------------


def test_a_run_finds_what_its_batch_measured(tmp_path, monkeypatch):
    """What the batch left in the run's folder is taken as it is; for other threads what depends on them is anew."""
    cores = fingerprint.usable_cores()
    told = {"memory_copy_gib_per_s": 8.5, "disk_read_mib_per_s": None, "matrix_product_bf16_gflop_per_s": 3.0}
    (tmp_path / ceilings.FILE).write_text(json.dumps(told))
    monkeypatch.setattr(ceilings, "measured", lambda names, threads: dict.fromkeys(names, float(threads)))
    assert ceilings.of_session(tmp_path, cores) == told
    anew = dict.fromkeys(ceilings.QUICK, cores + 1.0)
    assert ceilings.of_session(tmp_path, cores + 1) == {"disk_read_mib_per_s": None} | anew


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "{}", '{"a": "x"}', '{"a": -1}', '{"a": true}', '{"a": 1e999}'])
def test_a_file_that_no_batch_wrote_is_not_believed(tmp_path, monkeypatch, text):
    """Without a whole file of rates, a comparison measures the quick ones itself."""
    (tmp_path / ceilings.FILE).write_text(text)
    monkeypatch.setattr(ceilings, "measured", lambda names, threads: dict.fromkeys(names, 1.0))
    quick = dict.fromkeys(ceilings.QUICK, 1.0)
    assert ceilings.of_session(tmp_path, fingerprint.usable_cores()) == quick
    assert ceilings.of_session(tmp_path / "nowhere", 1) == ceilings.of_session(None, 1) == quick


def test_a_batch_measures_before_the_notebook_starts(tmp_path, monkeypatch):
    """The notebook finds the ceilings in its run's folder, and the screen says that they are measured."""
    look = "import os\nprint(open(os.environ['KIT_RUN'] + '/ceilings.json').read())"
    batch_project.write_notebook(tmp_path / "notebooks" / "01_look.ipynb", look)
    surroundings = batch_project.environment(tmp_path / "home") | {ceilings.BUDGET: "0.01"}
    monkeypatch.setattr(batch_project, "environment", lambda home: surroundings)
    done = batch_project.kit(tmp_path, "run", "01")
    assert done.returncode == 0, done.stderr
    assert "01_look: measuring what this machine can do at best\n" in done.stderr
    (status,) = batch_project.statuses(tmp_path, "01_look")
    told = json.loads(batch_project.outputs(status["folder"]))
    assert told == json.loads((status["folder"] / ceilings.FILE).read_bytes())
    assert list(told) == ceilings.every()
    assert told["process_starts_per_s"] > 0


def test_the_next_run_of_a_batch_has_what_the_first_was_given(tmp_path, monkeypatch):
    """What was measured of late is left in the next run's folder too, and nobody is told to wait for it."""
    monkeypatch.setattr(ceilings, "examined", lambda names, threads: {name: ceilings.Found(2.5) for name in names})
    assert not ceilings.at_hand()
    ceilings.leave(tmp_path)
    assert ceilings.at_hand()
    monkeypatch.setattr(ceilings, "examined", lambda names, threads: {name: ceilings.Found(9.0) for name in names})
    ceilings.leave(tmp_path)
    assert set(json.loads((tmp_path / ceilings.FILE).read_text()).values()) == {2.5}
    monkeypatch.setattr(ceilings, "REMEMBERED_S", 0)
    assert not ceilings.at_hand()


def test_a_machine_that_cannot_be_measured_costs_no_run(tmp_path, monkeypatch, capsys):
    """Whatever goes wrong with the ceilings, the run goes on, and the screen says what it was."""
    monkeypatch.setenv(ceilings.BUDGET, "0")
    batch, turn = Batch(None, Screen()), SimpleNamespace(head="[1/1] 01_look")
    batch._measure_ceilings(turn, tmp_path / "nowhere")
    assert "[1/1] 01_look: what this machine can do at best could not be measured: " in capsys.readouterr().err
    batch._measure_ceilings(turn, tmp_path)
    assert os.listdir(tmp_path) == [ceilings.FILE]
