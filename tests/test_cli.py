"""The command line: what it prints, how it ends, and what it does not load."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from batch_project import environment, write_notebook

from kit import cli

OWN = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two notebooks and a run of one."""
    write_notebook(
        tmp_path / "notebooks" / "01_first.ipynb",
        parameters="rows: int = 1_000  # how many\nby: str = ''",
        title="First: *it*",
    )
    write_notebook(tmp_path / "notebooks" / "02_second.ipynb", "1")
    (tmp_path / "runs" / "01_first" / "abc").mkdir(parents=True)
    (tmp_path / "runs" / "01_first" / "abc" / "status.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_shows_the_notebooks(project, capsys):
    """`kit list` names each notebook with its title and the number of its runs, from anywhere in the project, and says
    of one that can't be read why."""
    (project / "notebooks" / "03_broken.ipynb").write_text("{")
    assert cli.main(["list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:6]]
    assert rows[0] == ["01_first", "First:", "*it*", "1"]
    assert rows[1] == ["02_second"]
    assert rows[2][:5] == ["03_broken", "03_broken.ipynb", "is", "not", "a"]


def test_the_project_is_found_from_below(project, monkeypatch, capsys):
    """Commands work in any folder of the project, as git's do."""
    monkeypatch.chdir(project / "notebooks")
    assert cli.main(["list"]) == 0
    assert "01_first" in capsys.readouterr().out


def test_help_shows_the_parameters(project, capsys):
    """`kit help NOTEBOOK` shows names, types, defaults and comments, and a command to start from."""
    assert cli.main(["help", "first"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("01_first: First: *it*")
    assert [line.split() for line in shown.splitlines() if line.startswith((" rows", " by"))] == [
        ["rows", "int", "1_000", "how", "many"],
        ["by", "str", "(empty)"],
    ]
    assert shown.splitlines()[-1] == "kit run first -p rows=1_000"


def test_help_alone_is_the_programs(project, capsys):
    """`kit help` lists the commands; of a notebook without a parameters cell it says so."""
    assert cli.main(["help", "02"]) == 0
    assert "takes no parameters" in capsys.readouterr().out
    assert cli.main(["help"]) == 0
    assert "doctor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["help", "03_first"],
            "kit: there is no notebook 03_first; did you mean '01_first'? Choose from: 01_first, 02_second",
        ),
        (["run"], "kit: name a notebook or a plan"),
        (["run", "nowhere/x.ipynb"], "kit: there is no notebook at nowhere/x.ipynb"),
        (["run", "--plan", "quik"], "kit: there is no plan quik; did you mean 'quick'?"),
        (["run", "mine.toml"], "kit: there is no plan at mine.toml"),
        (["run", "01", "-p", "rows"], "kit: -p takes NAME=VALUE, as in -p rows=1_000_000; got 'rows'"),
        (["run", "01", "--runs", "nope://x"], "kit: runs can't be kept at nope://x: Protocol not known"),
        (["run", "text.ipynb"], "kit: text.ipynb is not a notebook: it is not whole JSON"),
    ],
)
def test_a_mistake_is_one_sentence(project, capsys, arguments, complaint):
    """A user's mistake ends with exit status 2 and one line on stderr, the remedy in it."""
    (project / "text.ipynb").write_text("hello")
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(complaint) and len(printed.err.splitlines()) == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    "arguments",
    [["run", "01", "--nope"], ["run", "01", "--timeout", "0"], ["run", "01", "--timeout", "nan"], ["list", "x"], []],
)
def test_a_wrong_option_is_refused(project, capsys, arguments):
    """What the command line does not know is refused with its usage, and exit status 2."""
    assert cli.main(arguments) == 2
    assert "usage: kit" in capsys.readouterr().err


def test_notebooks_may_stand_anywhere(project, monkeypatch):
    """Notebooks are taken on both sides of options, and a plan's file stands like a notebook."""
    from kit.batch.run import Batch

    asked = []
    monkeypatch.setattr(Batch, "execute", lambda self, runs: asked.extend(runs) or 0)
    assert cli.main(["run", "01", "--force", "02"]) == 0
    (project / "p.toml").write_text('[[run]]\nnotebook = "02"')
    assert cli.main(["run", "p.toml"]) == 0
    assert [r.notebook.name for r in asked] == ["01_first", "02_second", "02_second"]


def test_a_notebook_of_the_kit_is_copied_to_be_edited(project, capsys):
    """`kit copy` puts one of the kit's notebooks here, and never over a file; the copy runs in its own folder."""
    assert cli.main(["copy", "cache_policies"]) == 0
    assert capsys.readouterr().out == "kit run 05_cache_policies.ipynb\n"
    assert (project / "05_cache_policies.ipynb").read_bytes() == (OWN / "05_cache_policies.ipynb").read_bytes()
    assert cli.main(["copy", "cache_policies"]) == 2
    assert "05_cache_policies.ipynb is here already" in capsys.readouterr().err


def test_a_wheel_brings_notebooks_and_plans(tmp_path):
    """Installed from a wheel, far from a checkout, `kit` lists its notebooks, and takes its plans."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"
    for part in ("kit", "notebooks", "benchmarks/plans"):
        shutil.copytree(OWN.parent / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(OWN.parent / part, source)
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run([*pip, *wheel], check=True)
    (built,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(built)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    own = environment(elsewhere / "home") | {"PYTHONPATH": str(tmp_path / "site")}
    code = "import kit; assert 'site' in kit.__file__; from kit.batch.plans import asked; "
    code += "print([(run.notebook.name, str(run.notebook.home)) for run in asked([], ['quick'], [], None)])"
    for command in ([sys.executable, "-m", "kit.cli", "list"], [sys.executable, "-c", code]):
        done = subprocess.run(command, cwd=elsewhere, env=own, capture_output=True, text=True)
        assert done.returncode == 0 and "02_training_scaling" in done.stdout, done.stderr
    assert f"('01_dataframes', '{elsewhere}')" in done.stdout


@pytest.mark.parametrize(
    ("line", "status", "printed"),
    [
        ("{kit} list | true", 141, ""),
        ("{kit} list > /dev/full", 2, ""),
        ("PYTHONUNBUFFERED=1 {kit} doctor > /dev/full", 2, ""),
        ("PYTHONUNBUFFERED= {kit} --version > /dev/full", 2, ""),
        ("{kit} copy cache_policies > /dev/full", 2, ""),
        ("{kit} nonsense 2> /dev/full", 2, ""),
        ("{kit} list >&-", 0, ""),
        ("{kit} help 02 2>&-", 0, "takes no parameters"),
        ("mkdir gone; cd gone; rmdir ../gone; {kit} list", 2, ""),
        ("PYTHONIOENCODING=ascii {kit} list", 0, "Gr??e"),
        ("LC_ALL=en_US.ISO-8859-1 PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {kit} list", 0, "Gr"),
        ("PYTHONIOENCODING=ascii {kit} compare runs Größe", 2, ""),
    ],
)
def test_where_output_goes_is_no_error(project, line, status, printed):
    """A reader that goes away, a closed stream, a deleted folder, another encoding: no traceback, and no gate's 1."""
    write_notebook(project / "notebooks" / "01_first.ipynb", title="Größe → ∞")
    where = {"cwd": project, "env": environment(project / "home")}
    line = "set -o pipefail; " + line.format(kit=f"{sys.executable} -m kit.cli")
    done = subprocess.run(["bash", "-c", line], **where, capture_output=True, text=True, errors="replace")
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert printed in done.stdout and len(done.stderr.splitlines()) <= (status == 2)


def test_an_error_of_the_kits_own_is_no_verdict(project, monkeypatch):
    """What breaks inside ends with 2, since a gate's 1 is a verdict."""
    monkeypatch.setattr("kit.batch.listing.print_list", lambda: 1 / 0)
    assert cli.main(["list"]) == 2
