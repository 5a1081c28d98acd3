"""The command line: what it prints, how it ends, and what it does not load."""

import json
import subprocess
import sys

import pytest
from batch_project import environment, kit, write_notebook

from kit import cli

HEAVY = {"torch", "dask", "pandas", "polars", "matplotlib", "papermill", "scipy", "nbformat", "jupyter_client", "numpy"}


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


def test_help_of_a_notebook_without_parameters(project, capsys):
    """A notebook without a parameters cell says so."""
    assert cli.main(["help", "02"]) == 0
    assert "takes no parameters" in capsys.readouterr().out


def test_help_alone_is_the_programs(project, capsys):
    """`kit help` lists the commands."""
    assert cli.main(["help"]) == 0
    assert "doctor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["help", "03_first"],
            "kit: there is no notebook 03_first; did you mean 01_first? There are: 01_first, 02_second",
        ),
        (["run"], "kit: name a notebook or a plan"),
        (["run", "nowhere/x.ipynb"], "kit: there is no notebook nowhere/x.ipynb at that path"),
        (["run", "--plan", "quik"], "kit: there is no plan quik; did you mean quick?"),
        (["run", "01", "--runs", "nope://x"], "kit: runs can't be kept at nope://x: Protocol not known"),
        (["run", "R.ipynb"], "kit: R.ipynb is a notebook in R; the kit executes Python notebooks"),
        (["run", "old.ipynb"], "kit: old.ipynb is not a notebook of format 4"),
        (["run", "cells.ipynb"], "kit: cells.ipynb is not a notebook of format 4"),
        (["run", "text.ipynb"], "kit: text.ipynb is not a notebook: it is not whole JSON"),
    ],
)
def test_a_mistake_is_one_sentence(project, capsys, arguments, complaint):
    """A user's mistake ends with exit status 2 and one line on stderr, the remedy in it."""
    write_notebook(project / "R.ipynb", kernelspec={"language": "R"})
    (project / "old.ipynb").write_text(json.dumps({"nbformat": 3, "worksheets": []}))
    (project / "cells.ipynb").write_text(json.dumps({"nbformat": 4, "cells": ["print(1)"]}))
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
    with pytest.raises(SystemExit) as refused:
        cli.main(arguments)
    assert refused.value.code == 2
    assert "usage: kit" in capsys.readouterr().err


def test_notebooks_may_stand_anywhere(project, monkeypatch):
    """Notebooks are taken on both sides of options, and a plan's file stands like a notebook."""
    from kit.batch import run

    asked = []
    monkeypatch.setattr(run, "execute", lambda runs, *rest: asked.extend(runs) or 0)
    assert cli.main(["run", "01", "--force", "02"]) == 0
    (project / "p.toml").write_text('[[run]]\nnotebook = "02"')
    assert cli.main(["run", "p.toml"]) == 0
    assert [r.notebook.name for r in asked] == ["01_first", "02_second", "02_second"]


@pytest.mark.parametrize("arguments", [["list"], ["help", "01"], ["--version"]])
def test_looking_loads_nothing_heavy(project, arguments):
    """Listing and helping answer at once: no engine, no plotting library, not even numpy is loaded."""
    code = (
        f"import sys, atexit; atexit.register(lambda: print(sorted({HEAVY} & set(sys.modules)))); from kit import cli"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; cli.main({arguments})"],
        capture_output=True,
        text=True,
        cwd=project,
        env=environment(project / "home"),
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error(project):
    """`kit list | head -0` ends without a traceback."""
    done = subprocess.run(
        f"{sys.executable} -m kit.cli list | true", shell=True, cwd=project, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr


def test_the_program_exits_with_what_the_command_returns(project):
    """`kit` as a process ends with the command's exit status."""
    assert kit(project, "list").returncode == 0
    assert kit(project, "help", "nothing").returncode == 2
