"""`kit run --cluster` on a real Dask cluster: a scheduler and workers as processes, killed, joined and interrupted."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from batch_project import alive, kit, outputs, start, statuses, write_notebook
from dask_cluster import cluster
from network import two_machines

import kit as the_kit
from kit.batch import plans, remote
from kit.batch.cluster import _unpack, execute
from kit.batch.runs import Claim
from kit.errors import UserError

TELL = """
import json, os
from pathlib import Path
print(json.dumps({"cwd": os.getcwd(), "threads": os.environ.get("OMP_NUM_THREADS"), "home": os.environ["HOME"],
                  "planted": os.environ.get("PLANTED"), "rows": rows}))
Path(os.environ["KIT_RUN"], "records").mkdir(exist_ok=True)
"""

NAP = """
import json, os, subprocess, sys, time
from pathlib import Path
import psutil
mine = Path(os.environ["HOME"], "sleeping")
worker = psutil.Process().parent().parent().pid
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path("began.tmp").write_text(json.dumps([worker, os.getppid(), os.getpid(), child.pid]))
os.rename("began.tmp", f"began-{worker}")
while not Path("awake").exists():
    time.sleep(0.05)
child.kill()
"""

DIES = """
import os, psutil, signal
psutil.Process().parent().parent().send_signal(signal.SIGKILL)
import time; time.sleep(600)
"""

SPAN = """
import time
with open("spans.txt", "a") as file:
    file.write(f"{time.time()} ")
time.sleep(0.5)
with open("spans.txt", "a") as file:
    file.write(f"{time.time()}\\n")
"""


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """One scheduler for all tests; each starts workers of its own."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def dask(scheduler):
    """The scheduler, without the workers of another test."""
    first = len(scheduler.processes)
    yield scheduler
    for process in scheduler.processes[first:]:
        process.kill()
        process.wait()


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """The project of the client, which has the notebooks, and that of the workers, which has none."""
    there = tmp_path / "there"
    (there / ".git").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    return tmp_path / "here", there


def began(there: Path, *but: int) -> list[int]:
    """Wait until a run sleeps on a worker other than these; return the worker and the processes of the run."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in there.glob("began-*"):
            if int(path.name.partition("-")[2]) not in but:
                return json.loads(path.read_text())
        time.sleep(0.05)
    raise AssertionError("no run began")


def none_lives(pids: list[int]) -> bool:
    """Return whether all of these processes end soon."""
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not [pid for pid in pids if alive(pid)]


def test_runs_are_executed_on_workers_and_their_folders_gathered(dask, places, monkeypatch):
    """Notebooks travel, the client's environment does not; a failure is one run's own; what is finished is skipped."""
    here, there = places
    write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, parameters="rows: int = 1")
    write_notebook(here / "notebooks" / "02_fails.ipynb", "print('before')\n1 / 0")
    dask.worker(there, "--nanny")
    dask.worker(there, host="127.0.0.2")
    monkeypatch.setenv("PLANTED", "a secret")
    dask.wait()
    done = kit(here, "run", "01", "02", "--cluster", dask.address)
    assert done.returncode == 1, done.stderr
    (told,), (failed,) = statuses(here, "01_tells"), statuses(here, "02_fails")
    said = json.loads(outputs(told["folder"]))
    assert said | {"home": ""} == {"cwd": str(there), "threads": None, "home": "", "planted": None, "rows": 1}
    assert "a secret" not in "".join(p.read_text() for p in (here / "runs").rglob("*") if p.is_file())
    assert sorted(path.name for path in told["folder"].iterdir() if path.is_file()) == [
        "ceilings.json", "log.txt", "notebook.ipynb", "status.json",
    ]  # fmt: skip
    assert told["state"] == "finished" and told["kit"] == failed["kit"] and told["seconds"] > 0
    assert (failed["state"], failed["error"]) == ("failed", "ZeroDivisionError: division by zero")
    assert "ZeroDivisionError" in (failed["folder"] / "log.txt").read_text()
    assert "before" in outputs(failed["folder"])
    assert {line.split()[-1].rpartition(":")[0] for line in done.stderr.splitlines() if " on tcp://" in line} == {
        "tcp://127.0.0.1", "tcp://127.0.0.2",
    }  # fmt: skip
    assert not (there / "runs").exists()
    again = kit(here, "run", "01", "--cluster", dask.address)
    assert again.returncode == 0 and "skipped" in again.stdout and " on tcp://" not in again.stderr
    assert not [path for path in dask.folder.rglob("kit-run-*")]


def test_a_lost_workers_run_begins_again_elsewhere(dask, places):
    """When a worker is killed its run's processes end, and the run begins again on another; it leaves one folder."""
    here, there = places
    write_notebook(here / "notebooks" / "01_naps.ipynb", NAP)
    dask.worker(there)
    batch = start(here, "run", "01", "--cluster", dask.address)
    first, *processes = began(there)
    dask.worker(there, host="127.0.0.2")
    os.kill(first, signal.SIGKILL)
    began(there, first)
    assert none_lives(processes)
    (there / "awake").touch()
    said = batch.communicate(timeout=60)[1]
    assert batch.returncode == 0, said
    assert "was lost; it begins again elsewhere (2 of 3)" in said
    assert [status["state"] for status in statuses(here, "01_naps")] == ["finished"]


def test_a_run_that_loses_every_worker_fails(dask, places):
    """A run whose worker is lost each time is given up after the third, with the reason, and its folder is kept."""
    here, there = places
    write_notebook(here / "notebooks" / "01_dies.ipynb", DIES)
    for number in range(3):
        dask.worker(there, host=f"127.0.0.{number + 1}")
    dask.wait()
    done = kit(here, "run", "01", "--cluster", dask.address)
    assert done.returncode == 1
    assert "its worker was lost 3 times, the last time tcp://127.0.0." in done.stdout
    (status,) = statuses(here, "01_dies")
    assert status["state"] == "failed" and "lost 3 times" in status["error"]


def test_resources_are_honoured_and_a_later_worker_is_used(dask, places):
    """A run goes only to a worker that declares what its plan asks for; without one it fails at once and says what to
    do, and the others go on; a worker that comes later is used."""
    here, there = places
    write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, parameters="rows: int = 1")
    (here / "plan.toml").write_text(
        '[[run]]\nnotebook = "01_tells"\nresources = { gpu = 1 }\nparameters = { rows = 1 }\n'
        '[[run]]\nnotebook = "01_tells"\nparameters = { rows = 2 }\n'
    )
    batch = start(here, "run", "plan.toml", "--cluster", dask.address)
    time.sleep(1)
    dask.worker(there)
    printed = batch.communicate(timeout=60)[0]
    assert batch.returncode == 1
    assert f'no worker declares gpu=1: start one with `dask worker {dask.address} --resources "gpu=1"`' in printed
    assert [json.loads(outputs(s["folder"]))["rows"] for s in statuses(here, "01_tells")] == [2]
    dask.worker(there, "--resources", "gpu=1", host="127.0.0.2")
    dask.wait()
    done = kit(here, "run", "plan.toml", "--cluster", dask.address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "[1/2] 01_tells rows=1: on tcp://127.0.0.2" in done.stderr and "[2/2] 01_tells rows=2: skipped" in done.stderr
    )


def test_two_workers_on_one_machine_take_turns(dask, places):
    """Workers that stand on one machine, whatever their addresses, never measure at the same time."""
    here, there = places
    write_notebook(here / "notebooks" / "01_spans.ipynb", SPAN, parameters="n: int = 1")
    (here / "plan.toml").write_text('[[run]]\nnotebook = "01_spans"\ngrid = { n = [1, 2] }\n')
    (there / "tmp").mkdir()
    for host in ("127.0.0.1", "127.0.0.2"):
        dask.worker(there, host=host, TMPDIR=str(there / "tmp"))
    dask.wait()
    done = kit(here, "run", "plan.toml", "--cluster", dask.address)
    assert done.returncode == 0
    one, other = sorted(tuple(map(float, line.split())) for line in (there / "spans.txt").read_text().splitlines())
    assert one[1] <= other[0]
    assert "waiting for another run on this machine to end" in done.stderr


def test_a_worker_with_another_kit_is_not_used(dask, places, tmp_path):
    """What another version would measure can't be compared: such a worker is told once, and gets nothing."""
    here, there = places
    write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, parameters="rows: int = 1")
    other = tmp_path / "other" / "kit"
    shutil.copytree(Path(the_kit.__file__).parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "measure" / "work.py", "a") as file:
        file.write("\n# another version\n")
    dask.worker(there, PYTHONPATH=str(other.parent))
    done = kit(here, "run", "01", "--cluster", dask.address)
    assert done.returncode == 1
    (told,) = [line for line in done.stderr.splitlines() if "is not used" in line]
    assert "its kit is " in told and "this one is " in told
    assert "the cluster has no worker that can be used" in done.stdout
    assert not (here / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_an_end_of_the_batch_ends_its_runs(dask, places, number):
    """Ctrl-C, and even the death of the client, ends the run on its worker with all its processes; the worker stays."""
    here, there = places
    write_notebook(here / "notebooks" / "01_naps.ipynb", NAP)
    write_notebook(here / "notebooks" / "02_never.ipynb", "print(1)")
    dask.worker(there)
    batch = start(here, "run", "01", "02", "--cluster", dask.address)
    worker, *processes = began(there)
    batch.send_signal(number)
    printed, said = batch.communicate(timeout=60)
    assert none_lives(processes) and alive(worker)
    (status,) = statuses(here, "01_naps")
    if number == signal.SIGINT:
        assert batch.returncode == 130, said
        assert [line.split()[:2] for line in printed.splitlines()[3:5]] == [
            ["01_naps", "cancelled"],
            ["02_never", "cancelled"],
        ]
        assert status["state"] == "cancelled" and "Executing" in (status["folder"] / "log.txt").read_text()
    (there / "awake").touch()
    again = kit(here, "run", "01", "02", "--cluster", dask.address)
    assert again.returncode == 0, again.stderr
    assert [s["state"] for s in statuses(here, "01_naps")] == ["cancelled", "finished"]


def test_no_cluster_is_one_sentence(places):
    """Where no scheduler answers, it is said in one sentence, and no run begins."""
    here, _ = places
    write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, parameters="rows: int = 1")
    done = kit(here, "run", "01", "--cluster", "tcp://127.0.0.1:9")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("kit: no Dask scheduler answers at ") and len(done.stderr.splitlines()) == 1
    assert not (here / "runs").exists()


@pytest.mark.parametrize("address", ["nonsense://x", "tcp://user:secret@127.0.0.1:9", "8786", "", "tcp://"])
def test_what_is_no_address_is_one_sentence(address):
    """A mistyped address is told at once, and no password in it."""
    with pytest.raises(UserError, match=r"^no Dask scheduler answers at .*start one with `dask scheduler`") as told:
        execute([], None, address)
    assert "secret" not in str(told.value) and "\n" not in str(told.value)


def test_resources_are_numbers_and_say_nothing_on_one_machine(places):
    """A plan's resources are checked before anything starts; a local run says that they do not count."""
    here, _ = places
    write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, parameters="rows: int = 1")
    (here / "plan.toml").write_text('[[run]]\nnotebook = "01_tells"\nresources = { gpu = 0 }\n')
    with pytest.raises(UserError, match=r"plan plan.toml: resources.gpu is 0; it is a number above 0"):
        plans.read(str(here / "plan.toml"))
    (here / "plan.toml").write_text('[[run]]\nnotebook = "01_tells"\nresources = { gpu = 1 }\n')
    done = kit(here, "run", "plan.toml")
    assert done.returncode == 0 and "count on a cluster only: here they are ignored" in done.stderr


def test_a_worker_can_write_nowhere_but_into_its_runs_folder(tmp_path):
    """Names that a worker hands back are paths inside the run's folder, or nothing is written."""
    claim = Claim(tmp_path / "run", "", None, None)
    for name in ("../out", "/tmp/out", "records/../../out", ""):
        with pytest.raises(UserError, match="no path inside"):
            _unpack({name: b""}, claim)
    _unpack({"records/a.json": b"{}"}, claim)
    assert (tmp_path / "run/records/a.json").read_bytes() == b"{}"


def test_what_travels_names_no_path_of_the_client(places):
    """A shipped run has the notebook's name and its cells, not where it lies here."""
    here, _ = places
    path = write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, parameters="rows: int = 1")
    (run,) = plans.asked([str(path)], [], [], None)
    assert str(here) not in repr(remote.shipped(run))


@pytest.fixture
def namespaces():
    """Two network namespaces that a pair of virtual cards joins: 10.78.0.1 and 10.78.0.2."""
    with two_machines("10.78.0") as prefixes:
        yield prefixes


def test_machines_of_a_network_share_a_batch(places, tmp_path, namespaces):
    """A worker in another network namespace, seen through one card only, executes what the client there asks for."""
    here, there = places
    write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, parameters="rows: int = 1")
    with cluster(tmp_path / "cluster", host="10.78.0.1", prefix=namespaces[0]) as far:
        far.worker(there, host="10.78.0.2", prefix=namespaces[1])
        done = kit(here, "run", "01", "--cluster", far.address, prefix=namespaces[0])
    assert done.returncode == 0, done.stderr
    assert "on tcp://10.78.0.2:" in done.stderr
    assert json.loads(outputs(statuses(here, "01_tells")[0]["folder"]))["cwd"] == str(there)
