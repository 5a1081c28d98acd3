"""Where runs are kept: names that follow from what is run, folders that are claimed once."""

import json
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
from batch_project import write_notebook

from kit.batch import notebooks, plans, runs


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
    monkeypatch.setattr(runs, "machine_key", lambda: "another")
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


CLAIM = """
import sys
from dataclasses import replace
from pathlib import Path
from kit.batch import notebooks, plans, runs
run = plans.Run(notebooks.read(Path(sys.argv[1])), {}, {"rows": 1})
sys.stdin.read()
claim = runs.at(sys.argv[2]).claim(run, "key", 1)
print(claim is not None)
"""


def test_a_folder_is_claimed_once(run, tmp_path):
    """Of many processes that want the same folder at once, one gets it, and finds it whole."""
    place = str(tmp_path / "runs")
    command = [sys.executable, "-c", CLAIM, str(run.notebook.path), place]
    racers = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(4)]
    for racer in racers:
        racer.stdin.close()
    assert sorted(racer.stdout.read().strip() for racer in racers) == ["False", "False", "False", "True"]
    assert [racer.wait() for racer in racers] == [0, 0, 0, 0]
    assert sorted(path.name for path in (tmp_path / "runs" / "n").iterdir()) == ["key"]
    assert sorted(p.name for p in (tmp_path / "runs/n/key").iterdir()) == ["log.txt", "notebook.ipynb", "status.json"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_attempts_stand_beside_each_other(run, tmp_path, scheme):
    """A second attempt gets the next number; what is kept is found again, here and at a URL."""
    place = runs.at(f"{scheme}{tmp_path / 'runs'}")
    for number in (1, 2):
        claim = place.claim(run, "key", number)
        assert place.claim(run, "key", number) is None
        (claim.folder / "records").mkdir()
        (claim.folder / "records" / "a.json").write_text("{}")
        place.keep(claim, msgspec.structs.replace(claim.status, state=("failed", "finished")[number - 1]))
    assert [(a.number, a.status.state, a.alive) for a in place.attempts("n", "key")] == [
        (1, "failed", False),
        (2, "finished", False),
    ]
    assert place.attempts("n", "ke") == place.attempts("other", "key") == []
    assert (tmp_path / "runs/n/key.2/records/a.json").read_text() == "{}"


def test_a_run_lives_as_long_as_its_log_is_held(run, tmp_path):
    """An attempt is alive while a process holds its log, and is buried when none does."""
    place = runs.at(str(tmp_path / "runs"))
    claim = place.claim(run, "key", 1)
    assert [attempt.alive for attempt in place.attempts("n", "key")] == [True]
    place.bury(place.attempts("n", "key")[0])
    assert place.attempts("n", "key")[0].status.state == "running"
    claim.log.close()
    place.bury(place.attempts("n", "key")[0])
    (buried,) = place.attempts("n", "key")
    assert (buried.status.state, buried.status.error) == ("cancelled", "its batch ended before it did")


def test_a_status_that_is_broken_is_no_finished_run(run, tmp_path):
    """A status.json that can't be read counts as a failure, and its folder is left alone."""
    place = runs.at(str(tmp_path / "runs"))
    place.claim(run, "key", 1).log.close()
    (tmp_path / "runs/n/key/status.json").write_text('{"state": "fini')
    (attempt,) = place.attempts("n", "key")
    assert attempt.status.state == "failed"
    assert "can't be read" in attempt.status.error


def test_a_status_holds_no_secret(run, tmp_path):
    """Credentials in a parameter are masked in what is kept."""
    secret = replace(run, values={"data": "s3://key:secret@bucket/x"})
    runs.at(str(tmp_path / "runs")).claim(secret, "key", 1)
    assert "secret" not in (tmp_path / "runs/n/key/status.json").read_text()


def test_changed_data_is_another_run(tmp_path):
    """A run's key tells the files that its parameters name by size and time: changed data is measured again."""
    notebook = write_notebook(tmp_path / "data.ipynb", "1", parameters='data: str = ""  # a table')
    table, keys = tmp_path / "table.csv", []
    for text in ("a\n1\n", None, "a\n1\n2\n"):
        if text:
            table.write_text(text)
        (run,) = plans.asked([str(notebook)], [], [f"data={table}"], None)
        keys.append(runs.key(run))
    assert keys[0] == keys[1] != keys[2]
