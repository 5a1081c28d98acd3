"""Every command line that the documents print is really run: `WAYS` says how, and nothing else may be printed.

A command is run by `Here` as it is printed, by a shell, in a project of its own with the inputs that its text speaks
of; `small` is what is added to make it short, mostly further `-p` values, of which the last one wins. `There` names the
test that runs the very thing already, and `Held` holds what can be held where running it would install something.
"""

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import own_project
import printed
import pytest

import kit
from kit import cli
from kit.batch import plans

ROOT = Path(__file__).parents[1]
NAMES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"]
NAMES += [str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")]
DOCUMENTS = {name: (ROOT / name).read_text() for name in NAMES}
Done = subprocess.CompletedProcess


# What a command leaves


def speaks(project: Path, done: Done) -> None:
    """It prints something."""
    assert done.stdout.strip()


def one_run(project: Path, done: Done) -> None:
    """One run is finished, and says so."""
    states = [json.loads(path.read_text())["state"] for path in project.glob("runs/*/*/status.json")]
    assert states == ["finished"]


def measured(project: Path, done: Done, states: Sequence[str] = ("passed", "reference")) -> None:
    """One run is finished; its records are whole, each with two variants measured and none that failed."""
    one_run(project, done)
    records = [kit.read(path) for path in project.glob("runs/*/*/records/*.json")]
    assert records and all(record.complete for record in records)
    for point in (point for record in records for point in record.points):
        variants = [variant for variant in point.variants if variant.state == "measured"]
        assert len(variants) >= 2 and all(variant.check.state in states for variant in variants)
        assert not [variant.reason for variant in point.variants if variant.state == "failed"]


def tuned(project: Path, done: Done) -> None:
    """The run is as above; what a search of a few trials finds may be worse than the defaults on held-out rows."""
    measured(project, done, ("passed", "failed", "reference"))


def reported(project: Path, done: Done) -> None:
    """The report is there: a page, a text for a pull request, a table."""
    assert {"index.html", "report.md", "results.parquet"} <= {path.name for path in (project / "report").iterdir()}


def batch_reported(project: Path, done: Done) -> None:
    """The run of the plan is finished, and it is in the report."""
    one_run(project, done)
    reported(project, done)


def study(project: Path, done: Done) -> None:
    """The table of false winners is printed."""
    assert "| detected | 10 % slower |" in done.stdout


def costs(project: Path, done: Done) -> None:
    """The table of costs is printed and written."""
    assert (project / "runs" / "own_cost.md").read_text().strip() in done.stdout


def passed(project: Path, done: Done) -> None:
    """Something passed."""
    assert re.search(r"[1-9]\d* passed", done.stdout)


def compared(project: Path, done: Done) -> None:
    """What changed is told, and written for a pull request."""
    speaks(project, done)
    assert [path.name for path in (project / "changes").iterdir()] == ["report.md"]


# What must be there first


def nothing(project: Path) -> None:
    """A project with the notebooks and the inputs is enough."""


def installed(project: Path) -> None:
    """`.venv` as `make` leaves it, with this environment's programs."""
    (project / ".venv" / "bin").mkdir(parents=True)
    for name in ("kit", "jupyter"):
        (project / ".venv" / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    for target in ("report", "lab"):
        (project / ".venv" / f"ready-{target}").touch()


def without_work(project: Path) -> None:
    """The same, with a plan of one notebook that does next to nothing: .ci/run executes the plan itself."""
    installed(project)
    own_project.without_work(project)


def outcomes(project: Path) -> None:
    """Outcomes of a study of false winners."""
    shell(f"python benchmarks/false_winners.py {ONE_TRIAL} --out runs/false_winners.jsonl", project)


def two_sets(project: Path) -> None:
    """Records of the same comparison, twice."""
    from record_factory import make_record

    from kit.record import store

    for number, name in enumerate(("before", "after")):
        store.write(make_record(seed=number), project / "runs" / name / "01_topic" / f"{number:012}" / "records")


def kept(project: Path) -> None:
    """A record of the notebook, of this machine."""
    from record_factory import make_record

    from kit.machine.fingerprint import machine
    from kit.record import store

    record = make_record(notebook="01_dataframes", on=machine())
    store.write(record, project / "runs" / "01_dataframes" / "0123456789ab" / "records")


# What cannot be run here


def extras(command: str) -> None:
    """The extra is one of pyproject.toml, and the file of constraints is there; that their ranges agree is held by
    test_environment."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    words = shlex.split(command)
    asked = re.search(r"\.\[(.+)\]", command)[1].split(",")
    assert set(asked) <= set(known)
    assert all((ROOT / file).is_file() for option, file in pairwise(words) if option == "-c")


def in_ci(command: str) -> None:
    """The check of every submission ends with the README's two commands, and this one is the linter and all tests."""
    assert (ROOT / ".ci" / "run").read_text().strip().endswith(f"\nmake report\n{command}")
    plan = subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(step in plan.stdout for step in ("ruff check", '-m "not alone" -rs', "-m alone -rs"))


# The table


@dataclass(frozen=True)
class Here:
    """Run here. leaves: holds what the text promises. small: added to make it short. before: makes what must be there.
    code: its exit code. probe_s: time for each of the machine's peaks; nothing is measured in no time."""

    leaves: Callable[[Path, Done], None] = speaks
    small: str = ""
    before: Callable[[Path], None] = nothing
    code: int = 0
    probe_s: float = 0


@dataclass(frozen=True)
class There:
    """Run by another test: file::test in tests/."""

    test: str


@dataclass(frozen=True)
class Held:
    """Not run, since it would install something or never end; what can be held of it is."""

    check: Callable[[str], None]


FEW_TRIALS = "-p time_budget_s=0.2 -p trials=3 -p search_budget_s=0.5 -p variants=TPE"
ONE_PRECISION = (
    "-p time_budget_s=0.5 -p batches=1 -p num_calibration=32 -p num_evaluation=100 -p variants='ONNX Runtime INT8'"
)
FEW_ROWS = "-p time_budget_s=0.2 -p sizes=1000 -p variants=Polars"
ONE_STORE = "-p time_budget_s=0.2 -p requests=50 -p variants=SQLite"
ONE_TRIAL = "--trials 1 --budget 0.2 --tools pytest-benchmark --cases 10 --kinds zlib --lengths 0.5"
ONCE = "--benchmark-disable"

WAYS = {
    # README
    "make report": Here(batch_reported, before=without_work),
    "make test": Held(in_ci),
    "make lab": There("test_commands.py::test_lab_opens"),
    "kit help 01_dataframes": Here(),
    "kit copy 01_dataframes": Here(),
    "kit doctor": Here(),
    "kit report": Here(reported, before=two_sets),
    "kit run --plan quick": There("test_batch_plans.py::test_the_plans_of_the_kit_are_whole"),
    'kit run 01_dataframes -p data="tables/*.parquet" -p group_by=customer,day -p values=amount': Here(
        measured, "-p time_budget_s=0.2 -p variants=Polars,DuckDB,Dask,Sail"
    ),
    "kit run 02_training -p model=my_package.nets:build -p data=my_package.tables:load": Here(
        measured, "-p strategies=DDP -p ranks=2 -p batch=32 -p check_steps=2 -p time_budget_s=0.1"
    ),
    'kit run 03_tuning -p data=orders.csv -p target_column="returned by customer"': Here(tuned, FEW_TRIALS),
    "kit run 04_quantization -p model=model.onnx -p data=samples.npz": Here(measured, ONE_PRECISION),
    'kit run 05_caching -p work=my_package.serving:work -p trace=requests.csv -p \'columns=["user", "at"]\'': Here(
        measured, ONE_STORE
    ),
    "kit run analysis/mine.ipynb": Here(one_run),
    "kit plan 01_dataframes --resolve 3%": Here(before=kept),
    "kit compare runs/before runs/after": Here(before=two_sets),
    "kit compare runs/before runs/after --fail-on slower": Here(before=two_sets),
    # docs
    "kit compare runs/before runs/after -o changes --fail-on slower": Here(compared, before=two_sets),
    "kit compare HEAD~1 main": There("test_compare.py::test_commits_have_git_names"),
    "kit run --plan quick --cluster tcp://10.0.0.1:8786": There(
        "test_cluster.py::test_runs_are_executed_on_workers_and_their_folders_gathered"
    ),
    "kit run --plan quick --runs s3://bucket/runs": There(
        "test_runs_s3.py::test_a_batch_is_kept_at_s3_and_read_from_there"
    ),
    "pip install -e '.[s3]'": Held(extras),
    "pip install -e '.[spark]' -c constraints.txt": Held(extras),
    "kit run 01_dataframes -p variants=Polars,PySpark,Sail -p sizes=10000,1000000": Here(measured, FEW_ROWS),
    'kit run 01_dataframes -p questions="join_5,groupby_3 from files"': Here(measured, FEW_ROWS),
    "kit run 01_dataframes -p cluster=tcp://HOST:8786": There(
        "test_dataframes.py::test_a_cluster_elsewhere_is_held_against_no_ceiling_of_this_machine"
    ),
    "kit run 01_bigger_than_memory -p memory_gib=1": There("test_notebooks.py::test_smoke"),
    "kit run 01_pds_h -p variants=Polars,Sail,PySpark -p scale_factors=1": There("test_notebooks.py::test_smoke"),
    "dask scheduler --port 8786": There(
        "test_cluster.py::test_runs_are_executed_on_workers_and_their_folders_gathered"
    ),
    "conda env create -f environment.yml": There("test_environment.py::test_environment_gives_the_gpu_extra"),
    "pip install -e '.[gpu]' -c constraints-gpu.txt": Held(extras),
    "pytest -p kit.pytest_plugin benchmarks --kit-runs runs": There("test_pytest_benchmark.py::suite"),
    # benchmarks/README
    "pip install -e '.[proof]' && apt-get install hyperfine": Held(extras),
    "python benchmarks/false_winners.py --tools kit --cases 0 --trials 25 --out runs/false_winners.jsonl": Here(
        study, ONE_TRIAL
    ),
    "python benchmarks/false_winners.py --minutes 40 --out runs/false_winners.jsonl": Here(study, ONE_TRIAL),
    "python benchmarks/false_winners.py --report runs/false_winners.jsonl": Here(study, before=outcomes),
    "python benchmarks/own_cost.py --out runs/own_cost.md": Here(costs, "--parts measurements"),
    "python benchmarks/capacity_study.py --searches 200": Here(speaks, "--searches 1"),
    "pytest benchmarks/test_own_cost.py": Here(passed, f"{ONCE} -k 'not start'"),
    "pytest benchmarks/test_dataframes.py": Here(passed, f"{ONCE} -k delay_features"),
}
"""How each printed command line is run."""


def is_name(command: str) -> bool:
    """Return whether a sentence only names a command, as `kit run`: a whole line of it is run, or it takes more."""
    if len(command.split()) != 2 or command in WAYS:
        return False
    return any(one.startswith(f"{command} ") for one in WAYS) or takes_more(command)


def takes_more(command: str) -> bool:
    """Return whether the kit knows the command, and refuses it without arguments."""
    program, name = command.split()
    asked = subprocess.run([sys.executable, "-m", "kit.cli", name], cwd=ROOT, capture_output=True, text=True)
    return program == "kit" and "the following arguments are required" in asked.stderr


def ways(kind: type) -> list[str]:
    return [command for command, way in WAYS.items() if isinstance(way, kind)]


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A home for all commands, where libraries keep what they work out once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def project() -> Iterator[Path]:
    """A project with the inputs that the documents speak of, and a folder for temporary files beside it, in which lies
    the lock that runs wait for. Its path is short: a socket's may not be long."""
    with tempfile.TemporaryDirectory(prefix="kit-") as folder:
        for name in ("tmp", "project"):
            Path(folder, name).mkdir()
        yield own_project.make(Path(folder, "project"))


def shell(command: str, project: Path, home: Path | None = None, probe_s: float = 0) -> Done:
    """Run a command line as a person would, with this environment's programs."""
    own = surroundings(project, home) | {"KIT_PROBE_S": str(probe_s)}
    return subprocess.run(["bash", "-c", command], cwd=project, env=own, capture_output=True, text=True)


def surroundings(project: Path, home: Path | None = None) -> dict[str, str]:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": programs, "TMPDIR": str(project.parent / "tmp"), "HOME": str(home or project.parent)}
    own["KIT_LOCK"] = str(project.parent / "kit.lock")
    return {name: value for name, value in os.environ.items() if name != "KIT_RUN"} | own


# What is held


def test_documents_are_collected():
    """Blocks, prompts, comments, lines that go on, and sentences are read; code of a language and output are not."""
    text = "```\nmake a   # why\n$ kit run x \\\n  -p b=1\nkit: no\n```\nAs `pip install\nc`, `kit`.\n"
    text += "```python\nkit = 1\n```\n"
    assert printed.in_blocks(text) == ["make a", "kit run x -p b=1"]
    assert printed.in_sentences(text) == ["pip install c"]
    assert len(printed.in_blocks(DOCUMENTS["README.md"])) > 10


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_printed_command_has_its_way(name):
    """Every command line of the document stands in the table, and so is run."""
    text = DOCUMENTS[name]
    sentences = [command for command in printed.in_sentences(text) if not is_name(command)]
    missing = [command for command in [*printed.in_blocks(text), *sentences] if command not in WAYS]
    assert not missing, (
        f"{name} prints {missing}, which no test runs: add to WAYS in tests/test_commands.py how it is run, "
        "Here(leaves, small) as a rule"
    )


def test_the_table_holds_nothing_else():
    """Every command of the table is printed somewhere."""
    told = {one for text in DOCUMENTS.values() for one in [*printed.in_blocks(text), *printed.in_sentences(text)]}
    assert not (left := [command for command in WAYS if command not in told]), f"printed nowhere: {left}"


@pytest.mark.parametrize("command", ways(Here), ids=ascii)
def test_command_runs(command, project, home):
    """The command does what the text promises, with exit code 0 if nothing else is shown."""
    way = WAYS[command]
    way.before(project)
    done = shell(f"{command} {way.small}", project, home, way.probe_s)
    assert done.returncode == way.code, done.stdout[-2000:] + done.stderr[-2000:]
    way.leaves(project, done)


@pytest.mark.parametrize("command", ways(There))
def test_command_runs_elsewhere(command):
    """The test that runs the command is there."""
    file, _, name = WAYS[command].test.partition("::")
    tests = [node.name for node in ast.parse((ROOT / "tests" / file).read_text()).body if hasattr(node, "name")]
    assert name in tests


@pytest.mark.parametrize("command", ways(Held))
def test_command_is_held(command):
    """What can be held of a command that is not run is held."""
    WAYS[command].check(command)


def asked(command: str) -> list[plans.Run]:
    """Return the runs that a `kit run` would execute, checked by the kit itself."""
    told, rest = cli._parser().parse_known_args(shlex.split(command)[1:])
    return plans.asked([*told.names, *rest], told.plan, told.given, told.timeout)


def in_notebooks() -> list[tuple[str, str]]:
    texts = [(path.stem, printed.of_notebook(path)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    lines = [(name, one) for name, text in texts for one in [*printed.in_blocks(text), *printed.in_sentences(text)]]
    return [(name, command) for name, command in lines if command.startswith("kit run ")]


@pytest.mark.parametrize(("notebook", "command"), in_notebooks())
def test_commands_in_notebooks_are_taken(notebook, command, monkeypatch):
    """Each `kit run` that a notebook prints names a notebook and parameters that there are, with their types."""
    monkeypatch.chdir(ROOT)
    assert asked(command)


def test_commands_in_notebooks_are_found():
    """Each notebook of a technique says how its own data is given."""
    assert {path.stem for path in (ROOT / "notebooks").glob("0*.ipynb")} - {name for name, _ in in_notebooks()} == set()


def test_lab_opens(project, home):
    """`make lab` starts JupyterLab, which answers with the notebooks."""
    installed(project)
    settings = {"allow_root": True, "open_browser": False, "ip": "127.0.0.1", "port_retries": 50}
    (home / ".jupyter").mkdir(exist_ok=True)
    (home / ".jupyter" / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": settings}))
    lab = subprocess.Popen(
        ["make", "lab"], cwd=project, env=surroundings(project, home), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        address = next(found[0] for line in lab.stderr if (found := re.search(r"http://127\S+/lab\?token=\S+", line)))
        contents = address.replace("/lab?", "/api/contents/notebooks?")
        names = {one["name"] for one in json.loads(fetched(contents, lab))["content"]}
        assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} <= names
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        lab.communicate()


def fetched(address: str, server: subprocess.Popen) -> bytes:
    """Return what a server answers that has told its address and may not listen yet."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            time.sleep(0.1)
    raise ChildProcessError(f"it ended with {server.returncode}")
