"""Every notebook is a page of a good book: its shape is kept, and its smoke size runs and is believed."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import kit
from kit.batch import notebooks, parameters

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


BROKEN = {"04_quantization": {"ONNX Runtime INT8, everything"}}
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
    """Nine to eleven cells: a claim first, then the parameters, ending with limits; the idea in under 150 words."""
    found = cells(path)
    assert 9 <= len(found) <= 11
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
    assert 0 < len(told) <= 10
    assert all(one.comment for one in told)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_code_parses(path):
    """Every code cell is plain Python: no magics, so that it can be read, linted and lifted."""
    for cell in cells(path):
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_smoke(path, tmp_path):
    """The smoke size of the notebook runs in batch, leaves whole records, and every CPU variant's answer holds but
    for those that are there to fail."""
    command = [sys.executable, "-m", "kit.cli", "run", path.stem, "--plan", "smoke", "--runs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [kit.read(file) for file in tmp_path.rglob("records/*.json")]
    assert records and all(record.complete for record in records)
    assert all(record.asked.notebook == path.stem and record.asked.parameters for record in records)
    for record in records:
        for point in record.points:
            measured = [variant for variant in point.variants if variant.state == "measured"]
            assert len(measured) >= 2
            broken = {variant.name for variant in measured if variant.quality.state not in ("held", "reference")}
            assert broken == BROKEN.get(path.stem, set()) & {variant.name for variant in measured}
            assert all(variant.verdict == "invalid" for variant in measured if variant.name in broken)
            assert not [v.reason for v in point.variants if v.state == "failed"]
