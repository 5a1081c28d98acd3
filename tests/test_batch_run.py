"""Batches: interrupted and resumed, killed, two at once, at a URL, and what they show meanwhile."""

import io
import json
import os
import re
import signal
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from batch_project import alive, kit, outputs, start, statuses, write_notebook
from record_factory import make_record

from kit.batch import notebooks, plans, runs
from kit.batch.screen import Screen
from kit.record import store

COUNT = """
import os
with open("executed.txt", "a") as file:
    file.write(os.environ["KIT_NOTEBOOK"] + "\\n")
"""

SLEEP_UNLESS_AWAKE = """
import json, os, subprocess, sys, time
from pathlib import Path
if not Path("awake").exists():
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(os.environ["KIT_RUN"], "progress.json").write_text(json.dumps({"comparison": "naps", "stage": "measuring"}))
    Path("sleeping.tmp").write_text(json.dumps([os.getppid(), os.getpid(), worker.pid]))
    os.rename("sleeping.tmp", "sleeping")
    time.sleep(600)
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """Three notebooks that note that they were executed; the second sleeps until there is a file `awake`."""
    write_notebook(tmp_path / "notebooks" / "01_first.ipynb", COUNT)
    write_notebook(tmp_path / "notebooks" / "02_sleeper.ipynb", COUNT, SLEEP_UNLESS_AWAKE)
    write_notebook(tmp_path / "notebooks" / "03_last.ipynb", COUNT)
    return tmp_path


def sleeping(project: Path) -> list[int]:
    """Wait until the second notebook sleeps, and return the run's processes: runner, kernel, worker."""
    while not (project / "sleeping").exists():
        time.sleep(0.05)
    return json.loads((project / "sleeping").read_text())


def executed(project: Path) -> list[str]:
    """Return the notebooks in the order in which they were executed."""
    return (project / "executed.txt").read_text().split()


def test_an_interrupted_batch_goes_on(project):
    """Ctrl-C ends the kernel and all below it and marks the run cancelled; the same command then goes on with it,
    executes nothing twice, and leaves the interrupted run as it was."""
    batch = start(project, "run", "01", "02", "03")
    processes = sleeping(project)
    time.sleep(1)
    batch.send_signal(signal.SIGINT)
    printed, said = batch.communicate(timeout=30)
    assert batch.returncode == 130
    assert not [pid for pid in processes if alive(pid)]
    assert [line.split()[:2] for line in printed.splitlines()[3:6]] == [
        ["01_first", "finished"],
        ["02_sleeper", "cancelled"],
        ["03_last", "cancelled"],
    ]
    assert "[2/3] 02_sleeper naps" in said
    assert statuses(project, "02_sleeper")[0]["state"] == "cancelled"

    (project / "awake").touch()
    resumed = kit(project, "run", "01", "02", "03")
    assert resumed.returncode == 0
    assert executed(project) == ["01_first", "02_sleeper", "02_sleeper", "03_last"]
    assert [s["state"] for s in statuses(project, "02_sleeper")] == ["cancelled", "finished"]
    assert not list((project / "runs").rglob("progress*"))


def test_sigterm_is_as_orderly(project):
    """A batch that is asked to end, by a scheduler or a closed terminal, ends as with Ctrl-C."""
    batch = start(project, "run", "02")
    processes = sleeping(project)
    batch.terminate()
    assert batch.wait(30) == 130
    assert not [pid for pid in processes if alive(pid)]
    assert statuses(project, "02_sleeper")[0]["state"] == "cancelled"
    batch.communicate()


def test_a_killed_batch_takes_its_run_along(project):
    """When the batch itself is killed, its run does not go on measuring; the next batch says so of it and goes on."""
    batch = start(project, "run", "02")
    processes = sleeping(project)
    batch.kill()
    batch.communicate()
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in processes if alive(pid)]
    assert statuses(project, "02_sleeper")[0]["state"] == "running"
    (project / "awake").touch()
    assert kit(project, "run", "02").returncode == 0
    first, second = statuses(project, "02_sleeper")
    assert (first["state"], first["error"]) == ("cancelled", "its batch ended before it did")
    assert second["state"] == "finished"


def test_two_batches_share_the_work(project):
    """Two batches at once on one runs folder execute every run once, one at a time, and both end well."""
    (project / "awake").touch()
    batches = [start(project, "run", "01", "02", "03") for _ in range(2)]
    said = [batch.communicate(timeout=120)[1] for batch in batches]
    assert [batch.returncode for batch in batches] == [0, 0]
    assert sorted(executed(project)) == ["01_first", "02_sleeper", "03_last"]
    times = sorted(
        (s["started"], s["ended"]) for name in ("01_first", "02_sleeper", "03_last") for s in statuses(project, name)
    )
    assert all(one[1] <= other[0] for one, other in pairwise(times))
    assert "waiting for another run on this machine to end" in "".join(said)
    assert all(len(re.findall(r"\] \S+: (?:finished|skipped)", text)) == 3 for text in said)


def test_a_failure_in_another_batch_is_not_repeated(project):
    """A run that failed in another batch while ours waited is reported as failed, and not executed again."""
    write_notebook(project / "notebooks" / "04_fails.ipynb", COUNT, "import time\ntime.sleep(2)\n1 / 0")
    batches = [start(project, "run", "04") for _ in range(2)]
    assert [batch.wait(60) for batch in batches] == [1, 1]
    assert executed(project) == ["04_fails"]
    assert all("ZeroDivisionError" in batch.communicate()[0] for batch in batches)


def test_a_run_under_way_elsewhere_is_waited_for(project):
    """A run that another machine, equal to ours, is at on a shared folder is not executed a second time."""
    run = plans.Run(notebooks.read(notebooks.find(str(project / "notebooks" / "01_first.ipynb"))), {}, {})
    place = runs.at(str(project / "runs"))
    claim = place.claim(run, runs.key(run), 1)
    batch = start(project, "run", "01")
    assert "waiting for the same run" in batch.stderr.readline()
    place.keep(claim, msgspec.structs.replace(claim.status, state="finished"))
    assert "skipped" in batch.communicate(timeout=30)[0]
    assert not (project / "executed.txt").exists()


def test_runs_are_kept_at_a_url(project):
    """With a URL, a run is executed here and uploaded whole; what is finished there is skipped; nothing stays here."""
    url = (project / "far").as_uri()
    first = kit(project, "run", "01", "--runs", url)
    assert first.returncode == 0
    (status,) = statuses(project, "01_first", "far")
    assert status["state"] == "finished"
    kept = ["ceilings.json", "log.txt", "notebook.ipynb", "status.json"]
    assert sorted(path.name for path in status["folder"].iterdir()) == kept
    assert f"{url}/01_first/{status['folder'].name}/log.txt" in first.stdout
    assert "skipped" in kit(project, "run", "01", "--runs", url).stdout
    assert executed(project) == ["01_first"]
    assert not (project / "runs").exists()
    assert [path.name for path in (project / "home" / "tmp").glob("kit-*")] == []


def test_a_run_that_cant_be_uploaded_is_not_lost(project):
    """When the upload fails, the run failed, and the table says where it still is."""
    (project / "far" / "01_first").mkdir(parents=True)
    write_notebook(
        project / "notebooks" / "01_first.ipynb",
        "import os\nos.rename('far/01_first', 'gone')\nopen('far/01_first', 'w')",
    )
    done = kit(project, "run", "01", "--runs", (project / "far").as_uri())
    assert done.returncode == 1
    (staged,) = (project / "home" / "tmp").glob("kit-run-*")
    assert f"finished, but it could not be kept at {(project / 'far').as_uri()}" in done.stdout
    assert f"it is in {staged}" in done.stdout
    assert json.loads((staged / "status.json").read_text())["state"] == "finished"


def test_the_report_is_written_anew_after_each_run(project):
    """With --report the page can be read while the batch still runs, and is there even if all was finished before."""
    record = store.write(make_record(), project / "made")
    copy = f"import os, shutil\nshutil.copytree({str(record.parent)!r}, os.environ['KIT_RUN'] + '/records')"
    write_notebook(project / "notebooks" / "04_found.ipynb", copy)
    write_notebook(project / "notebooks" / "05_reads.ipynb", "print('Polars' in open('page/index.html').read())")
    assert kit(project, "run", "04", "05", "--report", "page").returncode == 0
    assert outputs(statuses(project, "05_reads")[0]["folder"]) == "True\n"
    (project / "page" / "index.html").unlink()
    assert "report: page/index.html" in kit(project, "run", "04", "05", "--report", "page").stderr
    assert (project / "page" / "index.html").exists()


def test_a_users_own_notebook_runs_in_its_checkout(tmp_path):
    """A notebook outside notebooks/ runs in its git checkout, else in its own folder; its runs stay where one is."""
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    own = write_notebook(tmp_path / "repository" / "deep" / "own.ipynb", "open('here.txt', 'w')")
    (tmp_path / "elsewhere").mkdir()
    assert kit(tmp_path / "elsewhere", "run", os.path.relpath(own, tmp_path / "elsewhere")).returncode == 0
    assert (tmp_path / "repository" / "here.txt").exists()
    assert (tmp_path / "elsewhere" / "runs" / "own").is_dir()


SCRATCH = "import tempfile; scratch = tempfile.TemporaryDirectory(); open(scratch.name + '/large', 'w').write('x')"


def test_a_run_leaves_nothing_in_the_temporary_folder(tmp_path):
    """What a notebook left there goes with its run, finished, failed, or past its time."""
    write_notebook(tmp_path / "notebooks" / "01_finishes.ipynb", SCRATCH)
    write_notebook(tmp_path / "notebooks" / "02_fails.ipynb", SCRATCH, "1 / 0")
    write_notebook(tmp_path / "notebooks" / "03_sleeps.ipynb", SCRATCH, "import time; time.sleep(600)")
    kit(tmp_path, "run", "01", "02")
    kit(tmp_path, "run", "03", "--timeout", "6")
    states = [statuses(tmp_path, name)[0]["state"] for name in ("01_finishes", "02_fails", "03_sleeps")]
    assert states == ["finished", "failed", "failed"]
    left = [path.name for path in (tmp_path / "home" / "tmp").iterdir()]
    assert [name for name in left if not name.endswith(".lock")] == []


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


MEASURING = {"comparison": "delays", "stage": "measuring", "variant": "DDP", "size": 2_000, "unit": "rows", "round": 7}


def test_a_terminal_has_one_line_a_run():
    """On a terminal the line of a run is rewritten in place, and what stays is written over it."""
    screen = Screen(Terminal())
    screen.progress("[2/7] 02_training", MEASURING | {"half_width": 0.03})
    screen.progress("[2/7] 02_training", MEASURING | {"round": 8, "half_width": None})
    screen.say("[2/7] 02_training: finished")
    assert screen.stream.getvalue().replace("\x1b[K", "") == (
        "\r[2/7] 02_training delays: measuring DDP at 2,000 rows, round 7, ±3 %"
        "\r[2/7] 02_training delays: measuring DDP at 2,000 rows, round 8"
        "\r[2/7] 02_training: finished\n"
    )


def test_elsewhere_lines_are_plain_and_few():
    """Without a terminal there is a line for each size of a comparison, not for each round."""
    screen = Screen(io.StringIO())
    for size in (2_000, 4_000):
        for number in range(5):
            screen.progress("[1/1] n", MEASURING | {"size": size, "round": number})
    screen.progress("[1/1] n", {})
    assert screen.stream.getvalue() == "[1/1] n delays at 2,000 rows\n[1/1] n delays at 4,000 rows\n"
