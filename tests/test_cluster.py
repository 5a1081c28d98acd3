"""`kit run --cluster` on a real Dask cluster: a scheduler and workers as processes, killed, joined and interrupted."""

import io
import json
import os
import shutil
import signal
import time
import zipfile
from pathlib import Path

import pytest
from batch_project import alive, kit, outputs, start, statuses, write_notebook
from dask_cluster import cluster

import kit as the_kit
from kit.batch import plans, remote
from kit.batch.cluster import execute, unpack
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
time.sleep(0.2)
with open("spans.txt", "a") as file:
    file.write(f"{time.time()}\\n")
"""


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """One scheduler for all tests."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """The project of the workers, which has no notebooks."""
    folder = tmp_path_factory.mktemp("there")
    (folder / ".git").mkdir()
    return folder


@pytest.fixture(scope="module")
def workers() -> dict:
    """The worker at each address, by the test that needed it first."""
    return {}


@pytest.fixture
def dask(scheduler, workers, there):
    """The scheduler with two workers that live. They stand on one machine, and have what Dask's nanny sets."""
    for path in [*there.glob("began*"), *there.glob("awake"), *there.glob("spans.txt")]:
        path.unlink()
    for host in ("127.0.0.1", "127.0.0.2"):
        if host not in workers or workers[host].poll() is not None:
            changes = {"KIT_LOCK": str(there.parent / "there.lock"), "OMP_NUM_THREADS": "1"}
            workers[host] = scheduler.worker(there, host=host, **changes)
    scheduler.wait()
    return scheduler


@pytest.fixture
def here(tmp_path) -> Path:
    """The project of the client, which has the notebooks."""
    return tmp_path


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
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not [pid for pid in pids if alive(pid)]


def test_runs_are_executed_on_workers_and_their_folders_gathered(dask, here, there, monkeypatch):
    """Notebooks travel, the client's environment does not; workers of one machine, whatever their addresses, never
    measure at the same time; a failure is one run's own; what is finished is skipped."""
    write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, SPAN, parameters="rows: int = 1")
    write_notebook(here / "notebooks" / "02_fails.ipynb", SPAN, "print('before')\n1 / 0")
    monkeypatch.setenv("PLANTED", "a secret")
    done = kit(here, "run", "01", "02", "--cluster", dask.address)
    assert done.returncode == 1, done.stderr
    (told,), (failed,) = statuses(here, "01_tells"), statuses(here, "02_fails")
    said = json.loads(outputs(told["folder"]))
    assert said | {"home": ""} == {"cwd": str(there), "threads": None, "home": "", "planted": None, "rows": 1}
    assert "a secret" not in "".join(p.read_text() for p in (here / "runs").rglob("*") if p.is_file())
    assert sorted(path.name for path in told["folder"].iterdir() if path.is_file()) == [
        "log.txt", "notebook.ipynb", "status.json",
    ]  # fmt: skip
    assert told["state"] == "finished" and told["kit"] == failed["kit"] and told["seconds"] > 0
    assert (failed["state"], failed["error"]) == ("failed", "ZeroDivisionError: division by zero")
    assert "ZeroDivisionError" in (failed["folder"] / "log.txt").read_text()
    assert "before" in outputs(failed["folder"])
    assert {line.split()[-1].rpartition(":")[0] for line in done.stderr.splitlines() if " on tcp://" in line} == {
        "tcp://127.0.0.1", "tcp://127.0.0.2",
    }  # fmt: skip
    one, other = sorted(tuple(map(float, line.split())) for line in (there / "spans.txt").read_text().splitlines())
    assert one[1] <= other[0]
    assert not (there / "runs").exists()
    again = kit(here, "run", "01", "--cluster", dask.address)
    assert again.returncode == 0 and "skipped" in again.stdout and " on tcp://" not in again.stderr
    assert not [path for path in dask.folder.rglob("kit-run-*")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_an_end_of_the_batch_ends_its_runs(dask, here, there, number):
    """Ctrl-C, and even the death of the client, ends the run on its worker with all its processes; the worker stays."""
    write_notebook(here / "notebooks" / "01_naps.ipynb", NAP)
    batch = start(here, "run", "01", "--cluster", dask.address)
    worker, *processes = began(there)
    batch.send_signal(number)
    printed, said = batch.communicate(timeout=60)
    assert none_lives(processes) and alive(worker)
    if number == signal.SIGINT:
        assert batch.returncode == 130, said
        assert "[1/1] 01_naps  cancelled" in printed
        (status,) = statuses(here, "01_naps")
        assert status["state"] == "cancelled" and "Executing" in (status["folder"] / "log.txt").read_text()


def test_a_worker_with_another_kit_executes_nothing(here, there, tmp_path):
    """What another version would measure can't be compared: a run that comes to such a worker fails and names it."""
    write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, parameters="rows: int = 1")
    other = tmp_path / "other" / "kit"
    shutil.copytree(Path(the_kit.__file__).parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "measure" / "work.py", "a") as file:
        file.write("\n# another version\n")
    with cluster(tmp_path / "cluster") as own:
        own.worker(there, PYTHONPATH=str(other.parent))
        assert kit(here, "run", "01", "--cluster", own.address).returncode == 1
    (status,) = statuses(here, "01_tells")
    assert status["error"].startswith("the kit of worker tcp://127.0.0.1:") and "install there" in status["error"]
    assert outputs(status["folder"]) == ""


def test_a_lost_workers_run_begins_again_elsewhere(dask, here, there):
    """When a worker is killed its run's processes end, and the run begins again on another; it leaves one folder."""
    write_notebook(here / "notebooks" / "01_naps.ipynb", NAP)
    batch = start(here, "run", "01", "--cluster", dask.address)
    first, *processes = began(there)
    os.kill(first, signal.SIGKILL)
    began(there, first)
    assert none_lives(processes)
    (there / "awake").touch()
    assert batch.communicate(timeout=60) and batch.returncode == 0
    assert [status["state"] for status in statuses(here, "01_naps")] == ["finished"]


def test_a_run_that_loses_every_worker_fails(dask, here):
    """A run whose worker is lost each time is given up by Dask, here after the second time, and its folder says why."""
    write_notebook(here / "notebooks" / "01_dies.ipynb", DIES)
    done = kit(here, "run", "01", "--cluster", dask.address)
    assert done.returncode == 1 and "waiting for a worker of the cluster" in done.stderr
    (status,) = statuses(here, "01_dies")
    assert status["state"] == "failed"
    assert "different workers, but all those workers died while running it" in status["error"]


@pytest.mark.parametrize("address", ["nonsense://x", "tcp://user:secret@127.0.0.1:9", ""])
def test_what_is_no_address_is_one_sentence(address):
    """A mistyped address is told at once, and no password in it."""
    with pytest.raises(UserError, match=r"^no Dask scheduler answers at .*start one with `dask scheduler`") as told:
        execute([], None, address)
    assert "secret" not in str(told.value) and "\n" not in str(told.value)


def test_a_worker_can_write_nowhere_but_into_its_runs_folder(tmp_path):
    """Whatever the paths are that a worker hands back, files are written inside the run's folder."""
    (tmp_path / "in" / "run").mkdir(parents=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in ("../out", str(tmp_path / "out"), "records/../../out", "records/a.json"):
            file.writestr(name, "{}")
    unpack(packed.getvalue(), tmp_path / "in" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["in"] and [*(tmp_path / "in").iterdir()] == [
        tmp_path / "in" / "run"
    ]
    assert (tmp_path / "in/run/records/a.json").read_text() == "{}"


def test_what_travels_names_no_path_of_the_client(here):
    """A shipped run has the notebook's name and its cells, not where it lies here."""
    path = write_notebook(here / "notebooks" / "01_tells.ipynb", TELL, parameters="rows: int = 1")
    (run,) = plans.asked([str(path)], [], [], None)
    assert str(here) not in repr(remote.shipped(run))
