"""The house keeps its shape: imports point one way, light commands stay light, the map names every room."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = {
    "record": (
        "kit.machine",
        "kit.measure",
        "kit.techniques",
        "kit.batch",
        "kit.stored",
        "kit.compare",
        "kit.report",
    ),
    "machine": ("kit.measure", "kit.techniques", "kit.batch", "kit.stored", "kit.compare", "kit.report"),
    "measure": ("kit.techniques", "kit.batch", "kit.stored", "kit.compare", "kit.report"),
    "techniques": ("kit.batch", "kit.stored", "kit.compare", "kit.report"),
    "batch": ("kit.measure", "kit.techniques"),
    "stored": ("kit.machine", "kit.measure", "kit.techniques", "kit.batch", "kit.compare", "kit.report"),
    "compare": ("kit.machine", "kit.measure", "kit.techniques", "kit.batch", "kit.report"),
    "report": ("kit.machine", "kit.measure", "kit.techniques", "kit.batch"),
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room):
    """No room imports one that stands above it."""
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "kit" / room).rglob("*.py")
        for name in imported(path)
        if name.startswith(FORBIDDEN[room])
    }
    assert not wrong


@pytest.mark.parametrize("code", ["import kit", "from kit.cli import main; main(['list'])"])
def test_light_commands_stay_light(code):
    """`import kit` and `kit list` import no engine, no plotting and no notebook library."""
    heavy = "{'torch', 'dask', 'pandas', 'polars', 'numpy', 'scipy', 'matplotlib', 'papermill', 'pyarrow'}"
    check = f"{code}\nimport sys\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "kit").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_its_purpose(path):
    """The first line of every module says what it is for."""
    assert ast.get_docstring(ast.parse(path.read_text())), path


def test_the_map_names_every_room():
    """CONTRIBUTING.md's map names every folder and module of the ground floors."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    modules = [p for room in ("", "record", "machine", "measure") for p in (ROOT / "kit" / room).glob("[a-z]*.py")]
    assert not [path.name for path in modules if path.name not in text]
    assert not [p.name for p in (ROOT / "kit").iterdir() if (p / "__init__.py").exists() and f"{p.name}/" not in text]
