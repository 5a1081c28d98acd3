"""Every notebook is a page of a good book: its shape is kept, and its smoke size runs and is believed."""

import ast
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import record_factory

import kit
from kit.batch import notebooks, parameters, plans
from kit.errors import UserError
from kit.record import store
from kit.techniques import dataframes
from kit.techniques.caching import traces
from kit.techniques.caching.policies import POLICIES
from kit.techniques.quantization.catalog import ENGINES
from kit.techniques.storage import readers
from kit.techniques.storage.training import FORMATS
from kit.techniques.training import strategies
from kit.techniques.tuning import fixed_budget, samplers, workload

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MEASURING = [path for path in NOTEBOOKS if path.stem != "90_compare"]  # that one reads what the others left
FIRST = {run.notebook.name for run in plans.asked([], ["first"], [], None)}
"""Notebooks that `make report` runs on their own data; test_commands.py runs them on a user's, and believes them."""
SMOKED = [path for path in MEASURING if path.stem not in FIRST or path.stem in ("04_quantization", "09_serving")]
"""Also what `first` leaves out: `BROKEN`, and latencies and faults of servers."""


BROKEN = {"04_quantization": {"ONNX Runtime INT8, all operators"}}
"""Variants whose answers are bad on purpose: the lesson of what not to do, which the gate must call invalid."""


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_source_holds_no_outputs(path):
    """A source notebook holds neither outputs nor counts, nor what Papermill leaves."""
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells(path))
    assert "papermill" not in path.read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_shape(path):
    """A claim first, then the parameters, ending with limits; the idea in under 150 words."""
    found = cells(path)
    assert 9 <= len(found) <= 24
    first, last = ("".join(found[i]["source"]) for i in (0, -1))
    assert first.startswith("# ") and "laim" in first and "Costs" in first
    assert found[1]["metadata"]["tags"] == ["parameters"]
    assert "limits" in last
    idea = next("".join(c["source"]) for c in found if "## The idea" in "".join(c["source"]))
    assert len(idea.split("**Prediction")[0].split()) < 150


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters(path):
    """At most ten plain parameters, each annotated and with a comment."""
    told = parameters.read(notebooks.read(path))
    assert 0 < len(told) <= 10 and all(one.comment for one in told)


NAMES = {
    "questions": [name for name in dataframes.QUESTIONS if not name.startswith("own")],
    "strategies": ["DDP", "FSDP2", *strategies.NAMED],
    "objective of 03_tuning": workload.SIMULATED,
    "simulated": workload.SIMULATED,
    "sampler": samplers.SEARCHES,
    "policies": POLICIES,
    "time_unit": traces.TIME_UNITS,
    "formats": FORMATS,
    "trace": traces.NAMED,
    "selections": readers.SELECTIONS,
    "variants of 03_tuning": [*samplers.SEARCHES, *fixed_budget.METHODS],
    "variants of 04_quantization": [f"{engine} {kind}" for engine, (*_, kinds) in ENGINES.items() for kind in kinds],
}
"""What a technique knows, by the parameter that takes it."""


@pytest.mark.parametrize("path", MEASURING, ids=lambda p: p.stem)
def test_a_wrong_value_is_refused_before_anything_starts(path):
    """Numbers have a range and names are known from the notebook's metadata, which hold what the technique has."""
    notebook = notebooks.read(path)
    for one in parameters.read(notebook):
        choices = notebook.choices.get(one.name, [])
        if names := NAMES.get(f"{one.name} of {path.stem}", NAMES.get(one.name)):
            assert {choice for choice in choices if "*" not in choice} == set(names)
        if one.kind in (int, float, list[int], list[float]) or choices:
            with pytest.raises(UserError, match=rf"{one.name} can't be .*(zz|-1)"):
                parameters.checked(notebook, {one.name: "-1" if isinstance(choices[0], int | float) else "zz"}, {})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_code_parses(path):
    """Every code cell is plain Python: no magics, so that it can be read, linted and lifted."""
    for cell in cells(path):
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_names_of_the_kit_exist(path):
    """Every `module.name` that a notebook takes from the kit is there: nothing else reads its cells before they run."""
    sources = ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "kit"]
    names = {alias.asname or alias.name: f"{one.module}.{alias.name}" for one in imports for alias in one.names}
    known = {name: pkgutil.resolve_name(address) for name, address in names.items()}
    used = [(node.value.id, node.attr) for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]  # fmt: skip
    modules = {name: found for name, found in known.items() if inspect.ismodule(found)}
    assert not [f"{name}.{part}" for name, part in used if name in modules and not hasattr(modules[name], part)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_opens_with_its_question(path):
    """The first lines of a notebook ask the question that it answers."""
    title, _, rest = "".join(cells(path)[0]["source"]).partition("\n\n")
    assert "?" in title or "?" in rest.partition("\n\n")[0]


def test_each_notebook_is_executed_on_every_submission():
    """`make report`, with which a submission's check ends, runs on default data what test_smoke leaves out."""
    assert "\nmake report\n" in (ROOT / ".ci" / "run").read_text()
    assert FIRST | {path.stem for path in SMOKED} == {path.stem for path in MEASURING}
    data = [run.values.get(name, "") for run in plans.asked([], ["first"], [], None) for name in ("data", "trace")]
    assert set(data) == {""}


@pytest.mark.parametrize("path", SMOKED, ids=lambda p: p.stem)
def test_smoke(path, tmp_path):
    """The smoke size of the notebook runs in batch, leaves whole records, and every CPU variant's answer holds but
    for those that are there to fail."""
    command = [sys.executable, "-m", "kit.cli", "run", path.stem, "--plan", "smoke", "--runs", str(tmp_path)]
    lock = {"KIT_LOCK": str(tmp_path / "lock")}  # no time is compared here: it shares the machine with other tests
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | lock)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [kit.read(file) for file in tmp_path.rglob("records/*.json")]
    assert records and all(record.complete for record in records)
    assert all(record.asked.notebook == path.stem and record.asked.parameters for record in records)
    for record in records:
        for point in record.points:
            measured = [variant for variant in point.variants if variant.state == "measured"]
            assert len(measured) >= 2
            broken = {variant.name for variant in measured if variant.check.state not in ("passed", "reference")}
            assert broken == BROKEN.get(path.stem, set()) & {variant.name for variant in measured}
            assert all(variant.verdict == "rejected" for variant in measured if variant.name in broken)
            assert not [v.reason for v in point.variants if v.state == "failed"]


def explore(runs: Path, into: Path) -> str:
    """Execute the notebook that explores stored runs, and return what its cells showed, as JSON."""
    source = ROOT / "notebooks" / "90_compare.ipynb"
    options = ["-p", "runs", str(runs), "--kernel", "python3"]
    command = [sys.executable, "-m", "papermill", str(source), str(into), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = [output for cell in cells(into) for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    return json.dumps(outputs, ensure_ascii=False)


def test_stored_runs_are_explored(tmp_path):
    """What two days on two machines left is shown: a table, a result again, what changed; a file that is no record is
    counted as not readable."""
    runs = tmp_path / "runs"
    for number, (day, machine) in enumerate([("21", {}), ("22", {}), ("22", {"cores": 8, "cpu": "Other CPU"})]):
        on = record_factory.machine(**machine)
        record = record_factory.make_record(written=f"2026-11-{day}T10:00:00Z", on=on, seed=number)
        store.write(record, runs / f"01_dataframes/{number}/records")
    (runs / "01_dataframes/0/records/broken.json").write_text("{")
    shown = explore(runs, tmp_path / "executed.ipynb")
    for told in (
        "Stored in",
        "Polars",
        "<svg",
        "Other CPU",
        "noise floor",
        "What to run next",
        "✓ failed, rejected or no longer run or checked: none",
        "1 file could not be read",
    ):
        assert told in shown
    assert "2026-11-21" in shown and "A comparison takes runs" not in shown


def test_without_stored_runs_it_is_said_what_to_do(tmp_path):
    """With nothing stored the notebook of stored runs comes to its end, and says how to make runs."""
    shown = explore(tmp_path / "nothing", tmp_path / "executed.ipynb")
    assert "Nothing is stored" in shown and "kit run --plan smoke" in shown
