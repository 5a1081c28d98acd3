"""The house keeps its shape: imports point one way, light commands stay light, the map names every room."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = {
    "record": (
        "kit.charts",
        "kit.machine",
        "kit.measure",
        "kit.common",
        "kit.techniques",
        "kit.batch",
        "kit.runs",
        "kit.compare",
        "kit.report",
    ),
    "machine": ("kit.measure", "kit.common", "kit.techniques", "kit.batch", "kit.runs", "kit.compare", "kit.report"),
    "measure": ("kit.common", "kit.techniques", "kit.batch", "kit.runs", "kit.compare", "kit.report"),
    "common": ("kit.techniques", "kit.batch", "kit.runs", "kit.compare", "kit.report"),
    "techniques": ("kit.batch", "kit.runs", "kit.compare", "kit.report"),
    "batch": ("kit.measure", "kit.common", "kit.techniques"),
    "runs": ("kit.machine", "kit.measure", "kit.common", "kit.techniques", "kit.batch", "kit.compare", "kit.report"),
    "compare": ("kit.machine", "kit.measure", "kit.common", "kit.techniques", "kit.batch", "kit.report"),
    "report": ("kit.machine", "kit.measure", "kit.common", "kit.techniques", "kit.batch"),
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


APART_SOON: dict[str, set[str]] = {}
"""Imports across techniques that are still there; each entry goes with its import."""


@pytest.mark.parametrize("technique", sorted(p.parent.name for p in (ROOT / "kit/techniques").glob("*/__init__.py")))
def test_no_technique_imports_another(technique):
    """What two techniques share is in `kit/common`."""
    found = {
        name.split(".")[2]
        for path in (ROOT / "kit/techniques" / technique).rglob("*.py")
        for name in imported(path)
        if name.startswith("kit.techniques.")
    }
    others = {name for name in found if (ROOT / "kit/techniques" / name).is_dir()} - {technique}
    assert others <= APART_SOON.get(technique, set())


BUDGETS = {
    "": 500, "record": 1_300, "charts": 700, "machine": 600, "measure": 2_500, "batch": 1_500, "runs": 450,
    "compare": 800, "report": 1_000, "common": 1_300, "techniques/dataframes": 1_800, "techniques/training": 1_600,
    "techniques/tuning": 1_600, "techniques/quantization": 1_700, "techniques/caching": 1_600,
    "techniques/storage": 1_200, "techniques/serving": 1_300,
    "common/load": 635,
}  # fmt: skip
"""Lines that each room may have in the end, by `wc -l`; "" is what lies in `kit/` itself.

Load has a budget apart from common's: three techniques share it, and each would otherwise carry it.
"""
TODAY = {
    "record": 1_374, "measure": 2_648, "batch": 1_583, "runs": 479, "compare": 857, "techniques/quantization": 1_719,
}  # fmt: skip
"""Rooms that are above their budget, and the lines that they have today: a number here falls, and never rises."""
TESTS = {"test_dataframes*": 1_200, "test_storage*": 900, "test_serving*": 900, "": 14_450}
"""Lines that the test files of a pattern may have; "" is all the others."""


def lines(paths) -> int:
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def in_room(room: str) -> list[Path]:
    folder = ROOT / "kit" / room
    apart = [ROOT / "kit" / other for other in BUDGETS if room and other.startswith(f"{room}/")]
    files = folder.rglob("*.py") if room else folder.glob("*.py")
    return sorted(path for path in files if not any(path.is_relative_to(other) for other in apart))


@pytest.mark.parametrize("room", BUDGETS)
def test_a_room_keeps_its_budget(room):
    """No room grows beyond its budget, or beyond what it has today where that is more."""
    assert lines(in_room(room)) <= max(BUDGETS[room], TODAY.get(room, 0)), room


def test_every_room_has_a_budget():
    """A new room, or a new technique, states its budget."""
    rooms = {p.parent.name for p in (ROOT / "kit").glob("*/__init__.py")} - {"techniques"}
    techniques = {f"techniques/{p.parent.name}" for p in (ROOT / "kit/techniques").glob("*/__init__.py")}
    assert rooms | techniques <= set(BUDGETS)
    assert all(TODAY[room] > BUDGETS[room] for room in TODAY)  # a room within its budget leaves the list


@pytest.mark.parametrize("pattern", TESTS)
def test_the_tests_keep_their_budget(pattern):
    """Tests that nobody would miss are not kept either."""
    files = {path: next(p for p in TESTS if not p or path.match(f"{p}.py")) for path in (ROOT / "tests").glob("*.py")}
    assert lines(path for path, found in files.items() if found == pattern) <= TESTS[pattern]


MAY_START_PROCESSES = ("kit/measure/process.py", "kit/common/services.py", "kit/batch/", "kit/machine/")
"""Where processes are started: workers, servers, kernels, and probes that may crash."""


@pytest.mark.parametrize(
    ("modules", "allowed"),
    [({"subprocess", "multiprocessing"}, MAY_START_PROCESSES), ({"matplotlib"}, ("kit/charts/",))],
)
def test_what_only_some_rooms_import(modules, allowed):
    """Processes are started, and figures are drawn, in the rooms that are there for it."""
    wrong = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "kit").rglob("*.py")
        if {name.split(".")[0] for name in imported(path) if not name.startswith("multiprocessing.connection")}
        & modules
        if not str(path.relative_to(ROOT)).startswith(allowed)
    }
    assert wrong <= NOT_YET


NOT_YET: set[str] = set()
"""Modules that still start processes or draw elsewhere; each entry goes with its import."""


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_is_short(notebook):
    """No cell over 25 lines, at most 70 lines of code, at most 12 names of the kit imported, in one cell."""
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert max(source.count("\n") + 1 for source in sources) <= 25
    assert sum(source.count("\n") + 1 for source in sources) <= LONGER_NOTEBOOKS.get(notebook.stem, 70)
    importing = [source for source in sources if re.search("^from kit", source, re.MULTILINE)]
    assert len(importing) <= 1
    names = [n for s in importing for n in ast.walk(ast.parse(s)) if isinstance(n, ast.ImportFrom)]
    names = [node for node in names if node.module.startswith("kit")]
    assert sum(len(node.names) for node in names) <= 12


LONGER_NOTEBOOKS = {}
"""Notebooks with more lines of code today: a number here falls, and never rises."""


@pytest.mark.parametrize("code", ["import kit", "from kit.cli import main; main(['list']), main(['help', '01'])"])
def test_light_commands_stay_light(code):
    """`import kit`, `kit list` and `kit help` import no engine, no plotting and no notebook library."""
    heavy = "{'torch', 'dask', 'pandas', 'polars', 'numpy', 'scipy', 'matplotlib', 'nbclient', 'nbformat', 'pyarrow'}"
    check = f"{code}\nimport sys\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "kit").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_its_purpose(path):
    """The first line of every module says what it is for."""
    assert ast.get_docstring(ast.parse(path.read_text())), path


def test_the_map_names_every_room():
    """docs/architecture.md maps every folder, and every module of the ground floors."""
    text = (ROOT / "docs/architecture.md").read_text()
    modules = [p for room in ("", "record", "machine", "measure") for p in (ROOT / "kit" / room).glob("[a-z]*.py")]
    assert not [path.name for path in modules if path.name not in text]
    assert not [p.name for p in (ROOT / "kit").iterdir() if (p / "__init__.py").exists() and f"{p.name}/" not in text]
