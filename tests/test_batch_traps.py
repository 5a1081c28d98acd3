"""What papermill gets wrong, `kit run` gets right: one real batch of real notebooks, then a promise a test."""

import json
import sys
from pathlib import Path

import pytest
from batch_project import alive, kit, outputs, statuses, write_notebook
from record_factory import make_record

from kit.batch.run import Batch, Outcome, _found
from kit.record import store

RECORD = """
import os
from pathlib import Path
records = Path(os.environ["KIT_RUN"], "records")
records.mkdir()
(records / "delays.json").write_bytes(Path("RECORD").read_bytes())
"""

ORPHAN = """
import os, subprocess, sys
from pathlib import Path
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path("PID").write_text(str(left.pid))
"""

SCRATCH = "import tempfile; kept = tempfile.TemporaryDirectory(); open(kept.name + '/large', 'w').write('x')"

NOTEBOOKS = {
    "01_fine{x}": [
        "import os, sys\nprint(rows, repr(name), sys.executable, os.getcwd(), os.environ['KIT_NOTEBOOK'])",
        "sys.modules['ipywidgets'] = None\nimport tqdm.auto",  # must print no warning
    ],
    "02_killed": [
        ORPHAN.replace("PID", "killed.pid"),
        "print('before')",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "print('after')",
    ],
    "03_shell": ["try:\n    x = !false\nexcept Exception as error:\n    print(error)", "!echo heard; exit 3"],
    "05_raises": [SCRATCH, "raise ValueError('no such\\n\\x1b[31mthing')"],
    "06_endless": [SCRATCH, ORPHAN.replace("PID", "endless.pid"), "import time\ntime.sleep(600)"],
    "07_record": [RECORD.replace("RECORD", "../whole.json")],
    "08_interrupted_record": [RECORD.replace("RECORD", "../interrupted.json")],
    "10_left_over": [SCRATCH, ORPHAN.replace("PID", "left.pid")],
}

PLAN = """
[[run]]
notebook = "01_fine{x}"
parameters = { rows = 5, name = "08" }
""" + "".join(
    f'[[run]]\nnotebook = "{name}"\n{"timeout = 6" if name == "06_endless" else ""}\n' for name in list(NOTEBOOKS)[1:]
)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project whose notebooks do what papermill trips over, with a kernelspec of the user's in the way."""
    folder = tmp_path_factory.mktemp("project {y}")
    for name, cells in NOTEBOOKS.items():
        parameters = "rows: int = 1\nname: \"str | None\" = 'a=b'" if name == "01_fine{x}" else ""
        asking_for_another = {"kernelspec": {"name": "python3", "display_name": "R", "language": "python"}}
        write_notebook(folder / "notebooks" / f"{name}.ipynb", *cells, parameters=parameters, **asking_for_another)
    whole = store.write(make_record(), folder / "made")
    (folder / "whole.json").write_bytes(whole.read_bytes())
    (folder / "interrupted.json").write_bytes(store.write(make_record(complete=False), folder / "made2").read_bytes())
    (folder / "plan.toml").write_text(PLAN)
    shadow = folder / "home" / ".local" / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    shadow.parent.mkdir(parents=True)
    shadow.write_text(json.dumps({"argv": ["false", "{connection_file}"], "display_name": "x", "language": "python"}))
    return folder


@pytest.fixture(scope="module")
def done(project):
    """The one batch: what `kit run plan.toml` printed and returned."""
    return kit(project, "run", "plan.toml")


def ended(project, name: str) -> dict:
    """Return the status of a notebook's only run."""
    (status,) = statuses(project, name)
    return status


def test_one_failure_stops_nothing(project, done):
    """Every run of the batch is executed, whatever became of those before, and the batch then says that some failed."""
    states = {name: ended(project, name)["state"] for name in NOTEBOOKS}
    finished = {"01_fine{x}", "07_record", "10_left_over"}
    assert states == {name: "finished" if name in finished else "failed" for name in NOTEBOOKS}
    assert done.returncode == 1


def test_the_table_is_whole(project, done, capsys):
    """The table names each run with its result, its recommendations or last error line and its log, in 80 columns."""
    told = " ".join(done.stdout.split())
    for number, name in enumerate(NOTEBOOKS, 1):
        status = ended(project, name)
        assert f"[{number}/{len(NOTEBOOKS)}] {name} {status['state']} {status['seconds']:.1f}" in told
        assert status["error"] in told
        assert (f"runs/{name}/{status['folder'].name}/log.txt" in told) == (status["state"] == "failed")
    assert "delays: Use Polars" in told
    assert Batch(None).summary({f"[1/1] {'long' * 30}": Outcome("cancelled", 9999.9)}) == 130
    assert max(map(len, (done.stdout + capsys.readouterr().out).splitlines())) <= 80


def test_parameters_are_what_they_were_said_to_be(project, done):
    """A quoted type, a default with `=` and a text like `08` arrive as they are; the status holds all values."""
    folder = ended(project, "01_fine{x}")["folder"]
    assert outputs(folder).startswith("5 '08' ")
    assert ended(project, "01_fine{x}")["parameters"] == {"rows": 5, "name": "08"}
    assert "unknown parameter" not in (folder / "log.txt").read_text()


def test_the_kernel_is_ours(project, done):
    """A kernelspec that the user installed under the same name does not get in: the kernel is this interpreter, in the
    notebook's folder."""
    assert (
        outputs(ended(project, "01_fine{x}")["folder"]).split("'08' ")[1]
        == f"{sys.executable} {project}/notebooks 01_fine{{x}}\n"
    )


def test_a_killed_kernel_is_a_failure(project, done):
    """A kernel that was killed fails its run with the signal, and its notebook claims nothing about cells not run."""
    status = ended(project, "02_killed")
    assert status["error"].startswith("the kernel died (killed by signal 9, SIGKILL")
    notebook = (status["folder"] / "notebook.ipynb").read_text()
    assert "papermill" not in notebook and "completed" not in notebook
    assert outputs(status["folder"]) == "before\n"


def test_a_failed_command_is_a_failure(project, done):
    """`!command` and `x = !command` fail where the command fails, and what it printed is kept."""
    assert "non-zero exit status 3" in ended(project, "03_shell")["error"]
    printed = outputs(ended(project, "03_shell")["folder"])
    assert "'false' returned non-zero exit status 1" in printed and "heard" in printed


def test_an_exception_is_said_in_one_line(project, done):
    """The error of a run is one line without a terminal's colours; the log holds the whole."""
    status = ended(project, "05_raises")
    assert status["error"] == "ValueError: no such thing"
    assert "Traceback" in (status["folder"] / "log.txt").read_text()


def test_a_run_past_its_time_is_ended(project, done):
    """A run over its timeout fails as such."""
    status = ended(project, "06_endless")
    assert status["error"] == "over 6 s; --timeout gives it more"
    assert status["seconds"] >= 6


@pytest.mark.parametrize("left", ["killed.pid", "endless.pid", "left.pid"])
def test_no_process_is_left(project, done, left):
    """What a notebook started ends with it, in a session of its own or not: of a killed kernel, of one past its time,
    and of one that finished."""
    assert not alive(int((project / "notebooks" / left).read_text()))


def test_nothing_is_left_in_the_temporary_folder(project, done):
    """What a notebook left there goes with its run, finished, failed, or past its time."""
    assert [path.name for path in (project / "home" / "tmp").iterdir() if path.suffix != ".lock"] == []


def test_records_must_be_whole(project, done, tmp_path):
    """A run whose notebook got through, but left a record that is incomplete or broken, failed."""
    assert "is not complete" in ended(project, "08_interrupted_record")["error"]
    record = next((ended(project, "07_record")["folder"] / "records").iterdir())
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "cut.json").write_bytes(record.read_bytes()[:-100])
    assert _found(tmp_path)[0].startswith("record cut.json: it is not whole JSON")


def test_the_terminal_is_quiet(project, done):
    """What the kernel and papermill print goes to the log; the terminal shows a short line as a run begins and ends,
    its parameters once."""
    lines = done.stderr.splitlines()
    heads = [f"[{number}/{len(NOTEBOOKS)}] {name}" for number, name in enumerate(NOTEBOOKS, 1)]
    assert lines[::2] == [f"{heads[0]} rows=5 name=08", *heads[1:]]
    assert all(line.startswith(f"{head}: ") for line, head in zip(lines[1::2], heads, strict=True))


def test_what_is_finished_is_skipped_and_what_failed_is_run_again(project, done):
    """The same run again is skipped and said so; a failed one is executed beside the old one, which is left as it was;
    --force runs a finished one again, also beside."""
    old = {name: ended(project, name) for name in ("07_record", "05_raises")}
    before = {path: path.read_bytes() for status in old.values() for path in status["folder"].rglob("*.*")}
    again = kit(project, "run", "07", "05")
    assert again.returncode == 1
    assert "07_record: skipped: finished" in again.stderr and "--force runs it again" in again.stderr
    assert len(statuses(project, "05_raises")) == 2
    forced = kit(project, "run", "07", "--force")
    assert forced.returncode == 0
    assert [s["folder"].name for s in statuses(project, "07_record")] == [
        old["07_record"]["folder"].name,
        old["07_record"]["folder"].name + ".2",
    ]
    assert {path: path.read_bytes() for path in before} == before


def test_a_users_mistake_starts_nothing(project, done):
    """A value of another type ends with exit status 2 and one sentence, before any kernel starts."""
    before = sorted((project / "runs").rglob("*"))
    refused = kit(project, "run", "05", "01", "-p", "rows=x")
    assert refused.returncode == 2
    assert refused.stderr.startswith("kit: 05_raises takes no parameters, and got rows")
    assert len(refused.stderr.splitlines()) == 1
    assert sorted((project / "runs").rglob("*")) == before
