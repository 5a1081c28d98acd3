"""Where runs are kept: names that follow from what is run, folders that are claimed once."""

import json
import os
import resource
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import record_factory
from batch_project import write_notebook

from kit.batch import notebooks, plans, runs
from kit.batch.locks import is_locked, machine_to_ourselves
from kit.errors import UserError


@pytest.fixture
def run(tmp_path):
    """A run of a small notebook."""
    path = write_notebook(tmp_path / "notebooks" / "n.ipynb", "print(rows)", parameters="rows: int = 1", title="One")
    return plans.Run(notebooks.read(path), {}, {"rows": 1})


def changed(run, **document):
    """Return the run with another notebook."""
    return replace(run, notebook=replace(run.notebook, document=run.notebook.document | document))


def test_a_key_follows_code_and_parameters(run, monkeypatch):
    """Another value, other code, another tag, another kit or machine make another run; prose and outputs don't."""
    cells = run.notebook.document["cells"]
    prose = changed(run, cells=[cells[0] | {"source": "# Two"}, *cells[1:]])
    code = changed(run, cells=[*cells[:2], cells[2] | {"source": "print(-rows)"}])
    tag = changed(run, cells=[*cells[:2], cells[2] | {"metadata": {"tags": ["raises-exception"]}}])
    assert runs.key(prose) == runs.key(run)
    others = {runs.key(r) for r in (run, code, tag, replace(run, values={"rows": 2}))}
    monkeypatch.setattr(runs, "version", lambda: "another")
    others.add(runs.key(run))
    monkeypatch.setattr(runs, "machine", lambda: record_factory.machine(cpu="Another"))
    others.add(runs.key(run))
    assert len(others) == 6


def test_outputs_and_injected_cells_do_not_count(run, tmp_path):
    """An executed notebook is its source again: what papermill injected would win over the defaults that one reads."""
    document = json.loads((tmp_path / "notebooks" / "n.ipynb").read_text())
    injected = {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": "rows = 9", "outputs": []}
    document["cells"].insert(2, injected)
    document["cells"][3] |= {
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "9"}],
        "execution_count": 7,
    }
    (tmp_path / "again.ipynb").write_text(json.dumps(document))
    assert notebooks.read(tmp_path / "again.ipynb").document == run.notebook.document


def test_a_folder_is_claimed_once(run, tmp_path):
    """Of many that want the same folder at once, one gets it, and finds it whole."""
    place, begin = runs.at(str(tmp_path / "runs")), threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: begin.wait() * 0 or place.claim(run, "key", 1), range(8)))
    assert len([claim for claim in claims if claim]) == 1
    assert sorted(path.name for path in (tmp_path / "runs" / "n").iterdir()) == ["key"]
    assert sorted(p.name for p in (tmp_path / "runs/n/key").iterdir()) == ["log.txt", "notebook.ipynb", "status.json"]


def test_a_full_disk_leaves_no_half_folder(run, tmp_path):
    """A folder that can't be filled is not left half made, and the place is named."""
    place, limits = runs.at(str(tmp_path / "runs")), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(UserError, match=f"runs can't be kept at {tmp_path}/runs: .*File too large"):
            place.claim(run, "key", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [*(tmp_path / "runs" / "n").iterdir()] == []


def test_the_machines_lock_is_for_every_user(tmp_path, monkeypatch):
    """Whoever makes the lock's file, with whatever umask, others can wait for it."""
    monkeypatch.setenv("KIT_LOCK", str(tmp_path / "lock"))
    before = os.umask(0o077)
    try:
        with machine_to_ourselves(print):
            assert is_locked(tmp_path / "lock") and (tmp_path / "lock").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_attempts_stand_beside_each_other(run, tmp_path, scheme):
    """A second attempt gets the next number; what is kept is found again, here and at a URL."""
    place = runs.at(f"{scheme}{tmp_path / 'runs'}")
    for number in (1, 2):
        claim = place.claim(run, "key", number)
        assert place.claim(run, "key", number) is None
        (claim.folder / "records").mkdir()
        (claim.folder / "records" / "a.json").write_text("{}")
        place.keep(claim, state=("failed", "finished")[number - 1])
    assert [(a.number, a.status.state, a.alive) for a in place.attempts("n", "key")] == [
        (1, "failed", False),
        (2, "finished", False),
    ]
    assert place.attempts("n", "ke") == place.attempts("other", "key") == []
    assert (tmp_path / "runs/n/key.2/records/a.json").read_text() == "{}"


def test_a_status_that_is_broken_is_no_finished_run(run, tmp_path):
    """A status.json that can't be read counts as a failure, and its folder is left alone."""
    place = runs.at(str(tmp_path / "runs"))
    place.claim(run, "key", 1).log.close()
    (tmp_path / "runs/n/key/status.json").write_text('{"state": "fini')
    (attempt,) = place.attempts("n", "key")
    assert attempt.status.state == "failed"
    assert "can't be read" in attempt.status.error


@pytest.mark.parametrize("code", ["1", "read('table.csv')", 'read("./tab*.csv")'])
def test_changed_data_is_another_run(tmp_path, code):
    """A run's key has the content of the files that its parameters name, or its code in quotes; large ones by size."""
    notebook = write_notebook(tmp_path / "data.ipynb", code, parameters='data: str = ""  # a table')
    table, keys = tmp_path / "table.csv", []
    given = [f"data={table}"] if code == "1" else []
    for size, text in enumerate(("a\n1\n", "a\n1\n", "a\n2\n", "", "")):
        table.write_text(text)
        if not text:
            os.truncate(table, 2**26 + 1 + size)  # without its blocks on the disk
        (run,) = plans.asked([str(notebook)], [], given, None)
        keys.append(runs.key(run))
    assert keys[0] == keys[1] and len({*keys}) == 4
    notebook = write_notebook(tmp_path / "data.ipynb", "frame.to_csv('table.csv')\nopen('table.csv', 'a')")
    keys = [(table.write_text(text), runs.key(plans.asked([str(notebook)], [], [], None)[0]))[1] for text in "ab"]
    assert keys[0] == keys[1]  # what a run writes is its result


def test_a_changed_project_is_another_run(tmp_path, monkeypatch):
    """A commit, a changed module anywhere in the checkout, a new one, another folder and another name make another run;
    prose, outputs and the kit's own files, committed or not, do not."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    notebook = write_notebook(tmp_path / "notebooks" / "n.ipynb", "import helpers", title="One")
    (tmp_path / "src").mkdir()
    (tmp_path / "report").mkdir()
    monkeypatch.chdir(tmp_path)

    def key() -> str:
        return runs.key(plans.asked([str(notebook)], [], [], None)[0])

    subprocess.run([*git, "init", "-q"], check=True)
    keys = []
    for text in ("x = 1", "x = 2"):
        (tmp_path / "src" / "helpers.py").write_text(text)
        (tmp_path / "report" / "report.md").write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", "one"], check=True)
        keys.append(key())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "status.json").write_text("{}")
    (tmp_path / "report" / "report.md").write_text("another")
    write_notebook(notebook, "import helpers", title="Two")
    assert key() == keys[-1]
    (tmp_path / "src" / "helpers.py").write_text("x = 3")
    keys.append(key())
    (tmp_path / "more.py").write_text("y = 1")
    keys.append(key())
    for place in ("m.ipynb", "../spring/m.ipynb", "../autumn/m.ipynb"):
        (notebook.parent / place).parent.mkdir(exist_ok=True)
        notebook = notebook.rename(notebook.parent / place)
        keys.append(key())
    assert len(set(keys)) == 7


def test_a_module_beside_the_notebook_is_in_the_key_without_git(tmp_path):
    """Outside a checkout a changed module near the notebook makes another run."""
    notebook = write_notebook(tmp_path / "n.ipynb", "from package import part")
    (tmp_path / "package").mkdir()
    keys = []
    for text in ("x = 1", "x = 2"):
        (tmp_path / "package" / "part.py").write_text(text)
        keys.append(runs.key(plans.asked([str(notebook)], [], [], None)[0]))
    assert keys[0] != keys[1]


def test_another_package_is_another_run(run, monkeypatch):
    """An upgraded package, or another Python, is measured again."""
    before = runs.key(run)
    monkeypatch.setattr(runs, "_packages", lambda: ["3.99", "polars-9.dist-info"])
    assert runs.key(run) != before
