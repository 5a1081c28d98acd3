"""The machine is told as it is: capabilities by doing, broken ones as broken, no names of hosts or users."""

import getpass
import json
import os
import socket
import subprocess
import sys
import time

import msgspec
import psutil
import pytest

from kit import doctor
from kit.errors import UserError
from kit.machine import capabilities, fingerprint
from kit.machine.capabilities import Capability
from kit.measure.comparison import Comparison


@pytest.fixture(autouse=True)
def _forget():
    """What was probed is remembered for a process's life; each test begins with nothing."""
    capabilities.probe.cache_clear()
    yield
    capabilities.probe.cache_clear()


@pytest.fixture
def declare(monkeypatch):
    """Declare a capability for one test; its module is there already."""

    def declared(probe: str, module: str = "json") -> None:
        made = Capability(module, probe, "do this to have it")
        monkeypatch.setitem(capabilities.CAPABILITIES, "made", made)

    return declared


def test_a_capability_that_works_is_not_missing(declare):
    """A probe that does its tiny work means that nothing is missing."""
    declare("import json; assert json.loads('[1]') == [1]")
    assert capabilities.probe("made") is None
    assert capabilities.missing(["made", "json"]) is None


def test_a_module_that_is_not_there_has_a_remedy():
    """Any importable module is a capability; one that is not there says how to have it."""
    found = capabilities.missing(["json", "no_such_module_anywhere", "nor_this"])
    assert found.reason == "no_such_module_anywhere is not installed"
    assert "no_such_module_anywhere" in found.remedy
    assert not found.broken


@pytest.mark.parametrize("name", ["no.such.module", "a b", "", "os; import sys", "../x", "json.", "__main__"])
def test_odd_names_are_missing_not_errors(name):
    """A name that nothing can have is missing, with a reason, and is never executed."""
    found = capabilities.probe(name)
    assert found is not None
    assert found.reason


@pytest.mark.parametrize(
    ("probe", "told"),
    [
        ("raise RuntimeError('device is on fire')", "RuntimeError: device is on fire"),
        ("import json; assert json.loads('[1]') == [2]", "AssertionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("import sys; sys.exit(3)", "status 3"),
        ("syntax error", "SyntaxError"),
        ("import sys; sys.stderr.buffer.write(b'\\xff\\xfe odd bytes\\n'); sys.exit(1)", "odd bytes"),
        ("import sys; sys.exit('x' * 5000)", "xxx"),
    ],
)
def test_a_probe_that_breaks_is_broken_not_missing(declare, probe, told):
    """Installed but not working is told as broken, with the last thing it said, in one line, and the remedy."""
    declare(probe)
    found = capabilities.probe("made")
    assert found.broken
    assert found.reason.startswith("made is broken: ")
    assert told in found.reason
    assert "\n" not in found.reason
    assert len(found.reason) < 300
    assert found.remedy == "do this to have it"


def test_a_module_that_breaks_on_import_is_broken(tmp_path, monkeypatch):
    """A package that is installed, but cannot be imported, is broken: finding it is not enough."""
    (tmp_path / "kit_test_broken.py").write_text("raise ImportError('libmagic.so.7: cannot open shared object')")
    monkeypatch.syspath_prepend(tmp_path)
    found = capabilities.probe("kit_test_broken")
    assert found.broken
    assert "libmagic.so.7" in found.reason


def test_a_module_found_by_this_process_is_found_by_its_probe(tmp_path, monkeypatch):
    """A folder that a notebook put on its path counts for the probe as it does for the workers."""
    (tmp_path / "kit_test_mine.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    assert capabilities.probe("kit_test_mine") is None


def test_a_broken_notebook_hides_no_other_from_doctor(tmp_path):
    """`kit doctor` tells of a notebook that it can't read, and examines the others."""
    (tmp_path / "torn.ipynb").write_text('{"cells": [')
    code = {"cell_type": "code", "source": ["c.variant('mine', f, requires='no_such_module')"]}
    (tmp_path / "whole.ipynb").write_text(json.dumps({"nbformat": 4, "cells": [code]}))
    torn, whole = (doctor.examined(tmp_path / f"{name}.ipynb") for name in ("torn", "whole"))
    assert "torn.ipynb is not a notebook" in torn["(can't be read)"].reason
    assert "no_such_module" in whole["mine"].reason


def test_a_probe_that_hangs_is_broken_and_gone(declare, monkeypatch, tmp_path):
    """A probe that never ends is ended, with what it started, and told as broken."""
    pids = tmp_path / "pids"
    monkeypatch.setattr(capabilities, "PROBE_LIMIT_S", 4.0)
    declare(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)"
    )
    found = capabilities.probe("made")
    assert found.broken
    assert "over 4 s" in found.reason
    deadline = time.monotonic() + 60
    started = [int(pid) for pid in pids.read_text().split()]
    while any(alive(pid) for pid in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in started)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_probe_does_not_touch_this_process(declare):
    """Probing happens elsewhere: nothing that it imports or changes stays here."""
    declare("import this, os; os.environ['KIT_LEAK'] = '1'")
    capabilities.probe("made")
    assert "this" not in sys.modules
    assert "KIT_LEAK" not in os.environ


def test_a_probe_runs_once_a_process(declare, tmp_path):
    """Asking again does not probe again."""
    declare(f"open({str(tmp_path / 'count')!r}, 'a').write('x')")
    for _ in range(3):
        capabilities.probe("made")
    assert (tmp_path / "count").read_text() == "x"


@pytest.mark.parametrize("name", [name for name, known in capabilities.CAPABILITIES.items() if known.gpu])
def test_without_a_driver_gpu_capabilities_say_so(monkeypatch, name):
    """Where there is no NVIDIA driver, every GPU capability is missing for this reason, with a remedy."""
    monkeypatch.setattr(capabilities, "has_driver", lambda: False)
    found = capabilities.probe(name)
    assert found.reason == "no NVIDIA driver"
    assert found.remedy


def test_every_probe_does_more_than_import():
    """Each declared probe checks a result of what it did."""
    probes = {name: known.probe for name, known in capabilities.CAPABILITIES.items() if name != "cuda"}
    assert all("assert" in probe for probe in probes.values()), probes


def test_a_broken_capability_skips_its_variant_with_the_reason(declare):
    """A variant that needs what is broken is skipped, and its row says that it is broken, not that it is missing."""
    declare("raise RuntimeError('driver too old')")
    comparison = Comparison("needs", baseline="a", time_budget_s=0.05, isolate=False)
    comparison.variant("a", lambda: lambda: 1)
    comparison.variant("b", lambda: lambda: 1, requires="made")
    outcome = comparison.run()["b"]
    assert outcome.verdict == "skipped"
    assert outcome.reason == "made is broken: RuntimeError: driver too old"
    assert outcome.variant.remedy == "do this to have it"


def test_a_baseline_that_cannot_run_is_told():
    """Without its baseline a comparison does not begin, and says what is missing and what to do."""
    comparison = Comparison("needs", baseline="a")
    comparison.variant("a", lambda: lambda: 1, requires="no_such_module_anywhere")
    with pytest.raises(UserError, match=r"no_such_module_anywhere is not installed; .*install the package"):
        comparison.run()


@pytest.mark.parametrize("name", ["tensorrt rtx"])
def test_what_quantizes_without_a_gpu_works_where_it_is_installed(name):
    """An optional package's probe does its work where the package is; elsewhere its reason and its remedy are told."""
    found = capabilities.probe(name)
    if capabilities._importable(capabilities.CAPABILITIES[name].module):
        assert found is None
    else:
        assert found.reason.endswith("is not installed")
        assert "pip install" in found.remedy


def test_an_older_tensorrt_is_told_by_its_version(tmp_path, monkeypatch):
    """TensorRT before 11 is of another kind: it is told as broken, with its version and the one that is needed."""
    (tmp_path / "tensorrt.py").write_text("__version__ = '10.16.1'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(capabilities, "has_driver", lambda: True)
    found = capabilities.probe("tensorrt")
    assert found.broken
    assert "it is version 10.16.1, and 11 or newer is needed" in found.reason


@pytest.mark.gpu
@pytest.mark.skipif(not capabilities.has_driver(), reason="no NVIDIA driver")
def test_with_a_driver_the_gpu_is_told():
    """Where there is a GPU, it is in the fingerprint, and the bare capability is there."""
    assert capabilities.probe("cuda") is None
    assert fingerprint.machine().gpus


def test_the_machine_is_told_without_naming_it():
    """The fingerprint holds no host name, no user name and no home folder."""
    text = msgspec.json.encode(fingerprint.machine()).decode()
    names = [name for name in (socket.gethostname(), getpass.getuser(), os.path.expanduser("~")) if len(name) > 3]
    assert not [name for name in names if name in text]


def test_the_machine_is_what_it_is():
    """Cores, memory and system agree with what the operating system says."""
    machine = fingerprint.machine()
    assert 1 <= machine.cores <= machine.cores_total == os.cpu_count()
    assert machine.memory_mib == pytest.approx(psutil.virtual_memory().total / 2**20, rel=0.01)
    assert machine.memory_limit_mib is None or machine.memory_limit_mib < machine.memory_mib
    assert 0 < fingerprint.available_mib() < machine.memory_mib
    assert machine.cpu
    assert machine.python == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_cores_are_those_that_may_be_used():
    """A process held to one core has one core, and the key of its machine is another than with two."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from kit.machine import fingerprint as f; print(f.usable_cores(), f.machine().key)"
    )
    cores, key = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert cores == "1"
    assert (key == fingerprint.machine().key) == (fingerprint.usable_cores() == 1)


def test_equal_machines_have_equal_keys():
    """The key does not change from process to process."""
    code = "from kit.machine import fingerprint as f; print(f.machine().key)"
    keys = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    assert keys == {f"{fingerprint.machine().key}\n"}


def test_a_checkout_is_told_with_its_commit_and_changes(tmp_path, monkeypatch):
    """The commit, and whether something was changed since, follow the checkout; outside of one there is neither."""
    monkeypatch.chdir(tmp_path)

    def told():
        fingerprint.git.cache_clear()
        return fingerprint.git()

    try:
        assert told() is None
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run([*git, "init", "-q"], check=True)
        (tmp_path / "file").write_text("1")
        subprocess.run([*git, "add", "file"], check=True)
        subprocess.run([*git, "commit", "-qm", "x"], check=True)
        clean = told()
        assert len(clean.commit) == 40
        assert not clean.dirty
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "mine").write_text("1")
        assert told() == clean
        (tmp_path / "file").write_text("2")
        assert told() == msgspec.structs.replace(clean, dirty=True)
    finally:
        fingerprint.git.cache_clear()


def test_versions_are_of_what_is_installed():
    """Versions of packages in use are told; what is not installed is left out."""
    found = fingerprint.versions()
    assert {"numpy", "pandas", "ml-scaling-kit"} <= found.keys()
    assert all(version[0].isdigit() for version in found.values())
