"""Batches: interrupted and resumed, killed, two at once, at a URL, and what they show meanwhile."""

import io
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from batch_project import alive, kit, outputs, start, statuses, write_notebook
from record_factory import make_record

from kit.batch import notebooks, plans, runs
from kit.batch.run import interruptible
from kit.batch.screen import Screen
from kit.record import store

ROOT = Path(__file__).parents[1]

COUNT = """
import os
with open("../executed.txt", "a") as file:
    file.write(os.environ["KIT_NOTEBOOK"] + "\\n")
"""

SLEEP_UNLESS_AWAKE = """
import json, os, subprocess, sys, time
from pathlib import Path
if not Path("../awake").exists():
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(os.environ["KIT_RUN"], "progress.json").write_text(json.dumps({"line": "naps · measuring"}))
    Path("../sleeping.tmp").write_text(json.dumps([os.getppid(), os.getpid(), worker.pid]))
    os.rename("../sleeping.tmp", "../sleeping")
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


def test_a_batch_that_was_ended_goes_on(project):
    """Ctrl-C ends the kernel and all below it and marks the run cancelled. So does the end of a killed batch, of which
    the next one learns. The same command then resumes, executes nothing twice, and leaves the old runs as they were."""
    batch = start(project, "run", "02", "03")
    processes = sleeping(project)
    assert next(line for line in batch.stderr if "naps" in line) == "[1/2] 02_sleeper: naps\n"
    batch.send_signal(signal.SIGINT)
    assert batch.wait(60) == 130
    assert not [pid for pid in processes if alive(pid)]
    assert [line.split()[1:3] for line in batch.stdout.read().splitlines() if line.startswith("[")] == [
        ["02_sleeper", "cancelled"],
        ["03_last", "cancelled"],
    ]
    assert "the same command resumes it" in batch.stderr.read()
    (project / "sleeping").unlink()

    batch = start(project, "run", "02", "03")
    processes = sleeping(project)
    batch.kill()
    batch.communicate()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in processes if alive(pid)]
    assert [s["state"] for s in statuses(project, "02_sleeper")] == ["cancelled", "running"]

    (project / "awake").touch()
    assert kit(project, "run", "02", "03").returncode == 0
    assert executed(project) == ["02_sleeper", "02_sleeper", "02_sleeper", "03_last"]
    first, second, third = statuses(project, "02_sleeper")
    assert (first["state"], second["state"], third["state"]) == ("cancelled", "cancelled", "finished")
    assert second["error"] == "its batch ended before it did"
    assert not list(project.glob("runs/*/*/progress*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_alike(number):
    """A batch that is asked to end, by a scheduler or a closed terminal, ends as with Ctrl-C."""
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)


def test_two_batches_share_the_work(project):
    """Two batches at once on one runs folder execute every run once, one at a time, and both end well."""
    batches = [start(project, "run", "01", "03") for _ in range(2)]
    said = [batch.communicate(timeout=120)[1] for batch in batches]
    assert [batch.returncode for batch in batches] == [0, 0]
    assert sorted(executed(project)) == ["01_first", "03_last"]
    one, other = sorted((s["started"], s["ended"]) for name in ("01_first", "03_last") for s in statuses(project, name))
    assert one[1] <= other[0]
    assert "waiting for another run on this machine to end" in "".join(said)
    assert all(len(re.findall(r"\] \S+: (?:finished|skipped)", text)) == 2 for text in said)


def test_a_run_under_way_elsewhere_is_left_alone(project, monkeypatch):
    """A run that another machine, equal to ours, is at on a shared folder is not executed a second time; the others
    are, so that two machines share a plan."""
    monkeypatch.chdir(project)
    run = plans.asked(["01"], [], [], None)[0]
    claim = runs.at("runs").claim(run, runs.key(run), 1)
    done = kit(project, "run", "01", "03")
    assert "01_first: skipped: another batch is at this run" in done.stderr
    assert executed(project) == ["03_last"]
    claim.log.close()


def test_a_run_that_cant_be_uploaded_is_not_lost(project):
    """When the upload fails, the run failed, and the table says where it still is."""
    (project / "far" / "01_first").mkdir(parents=True)
    write_notebook(
        project / "notebooks" / "01_first.ipynb",
        "import os\nos.rename('../far/01_first', '../gone')\nopen('../far/01_first', 'w')",
    )
    done = kit(project, "run", "01", "--runs", (project / "far").as_uri())
    assert done.returncode == 1
    (staged,) = (project / "home" / "tmp").glob("kit-run-*")
    told = " ".join(done.stdout.split())
    assert f"finished, but it could not be kept at {(project / 'far').as_uri()}" in told
    assert f"it is in {staged}" in told
    assert json.loads((staged / "status.json").read_text())["state"] == "finished"


def test_the_report_is_written_after_each_run(project):
    """With --report the page can be read while the batch still runs, is there when a run fails, which exits with 1, and
    is written even if all was finished before."""
    record = store.write(make_record(), project / "made")
    copy = f"import os, shutil\nshutil.copytree({str(record.parent)!r}, os.environ['KIT_RUN'] + '/records')"
    write_notebook(project / "notebooks" / "04_found.ipynb", copy)
    reads = "print('Polars' in open('../page/index.html').read())"
    write_notebook(project / "notebooks" / "05_reads_and_fails.ipynb", reads, "1 / 0")
    assert kit(project, "run", "04", "05", "--report", "page").returncode == 1
    assert outputs(statuses(project, "05_reads_and_fails")[0]["folder"]) == "True\n"
    assert "ZeroDivisionError: division by zero" in (project / "page" / "index.html").read_text()
    (project / "page" / "index.html").unlink()
    lines = kit(project, "run", "04", "--report", "page").stderr.splitlines()
    assert lines[lines.index("writing the report") + 1] == "report: page/index.html"
    assert (project / "page" / "index.html").exists()


def test_a_notebook_runs_where_jupyter_would_run_it(tmp_path):
    """A notebook runs in its own folder, with its modules and ../data, its name that of a link to it; its runs are
    kept where the command is given. The kit's own notebooks run in the project."""
    folder, elsewhere = tmp_path / "repository" / "notebooks", tmp_path / "elsewhere"
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    real = write_notebook(tmp_path / "kept" / "v2.ipynb", "import near\nprint(near.x, open('../data/a.txt').read())")
    for path, text in ((folder / "near.py", "x = 'near'"), (tmp_path / "repository" / "data" / "a.txt", "far")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (folder / "latest.ipynb").symlink_to(real)
    elsewhere.mkdir()
    done = kit(elsewhere, "run", os.path.relpath(folder / "latest.ipynb", elsewhere))
    assert done.returncode == 0, done.stdout
    assert outputs(statuses(elsewhere, "latest")[0]["folder"]) == "near far\n"
    own = notebooks.read(notebooks.SHIPPED / "notebooks" / "01_dataframes.ipynb")
    assert own.home == ROOT and own.shipped


def progress(screen: Screen, folder: Path, line: str, **more) -> None:
    (folder / "progress.json").write_text(json.dumps({"line": line, **more}))
    screen.progress("[2/7] 02_training", folder)


def test_a_terminal_has_one_line_a_run(tmp_path):
    """On a terminal the line of a run is rewritten in place, and what stays is written over it."""
    screen = Screen(io.StringIO())
    screen.stream.isatty = lambda: True
    progress(screen, tmp_path, "delays at 2,000 rows · measuring DDP · round 7")
    progress(screen, tmp_path, "delays at 2,000 rows · measuring DDP · round 8")
    screen.say("[2/7] 02_training: finished")
    assert screen.stream.getvalue().replace("\x1b[K", "") == (
        "\r[2/7] 02_training: delays at 2,000 rows · measuring DDP · round 7"
        "\r[2/7] 02_training: delays at 2,000 rows · measuring DDP · round 8"
        "\r[2/7] 02_training: finished\n"
    )


def test_elsewhere_lines_are_plain_and_few(tmp_path):
    """Without a terminal there is a line for each size of a comparison, not for each round, and for a cell that takes
    ten seconds."""
    screen = Screen(io.StringIO())
    progress(screen, tmp_path, "cell 2 of 9: load()", after_s=10)
    for number in range(5):
        progress(screen, tmp_path, f"delays at 2,000 rows · measuring DDP · round {number}")
    progress(screen, tmp_path, "delays at 4,000 rows · setup of DDP")
    screen.progress("[2/7] 02_training", tmp_path / "nowhere")
    progress(screen, tmp_path, "cell 3 of 9: plot()", after_s=10)
    os.utime(tmp_path / "progress.json", (time.time() - 11,) * 2)
    screen.progress("[2/7] 02_training", tmp_path)
    assert screen.stream.getvalue().splitlines() == [
        "[2/7] 02_training: delays at 2,000 rows",
        "[2/7] 02_training: delays at 4,000 rows",
        "[2/7] 02_training: cell 3 of 9: plot()",
    ]
