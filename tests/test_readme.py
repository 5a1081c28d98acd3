"""What the README prints is true: its commands exist, its example runs, its tree and its links are there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kit import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = sorted(
    {
        line.removeprefix("$ ").split("  #")[0].strip()
        for language, block in BLOCKS
        if not language
        for line in block.splitlines()
        if line.removeprefix("$ ").startswith(("kit ", "make "))
    }
)


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True)


def test_there_are_commands():
    """The README prints commands, or the tests below would hold nothing."""
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("kit ")])
def test_kit_commands_parse(command):
    """Each `kit` command of the README is one that the command line takes."""
    asked, _ = cli._parser().parse_known_args(shlex.split(command)[1:])
    assert callable(asked.command)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command):
    """Each `make` command of the README has its target."""
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("command", ["kit list", "kit help 01_dataframes", "kit doctor"])
def test_quick_commands_run(command):
    """The commands that only tell run as printed, and print something."""
    assert command in COMMANDS
    done = run("-m", "kit.cli", *shlex.split(command)[1:])
    assert done.returncode == 0 and done.stdout, done.stderr


def test_error_is_as_printed():
    """The error that the README shows is the one that a user gets, with exit code 2."""
    shown = re.search(r"\$ (kit run [^\n]*)\n(kit: [^\n]*)", README)
    done = run("-m", "kit.cli", *shlex.split(shown[1])[1:])
    assert (done.returncode, done.stderr.strip()) == (2, shown[2])


def test_example_runs(tmp_path, monkeypatch):
    """The Python example is a whole program: it measures and says its verdict."""
    monkeypatch.setenv("KIT_RUN", str(tmp_path))
    code = next(block for language, block in BLOCKS if language == "python")
    (tmp_path / "example.py").write_text(code)
    done = run("example.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "built in is" in done.stdout and "faster than loop" in done.stdout


def test_plan_is_valid(tmp_path):
    """The plan that the README shows is one that `kit run` takes: two questions times two numbers of groups."""
    from kit.batch import plans

    path = tmp_path / "mine.toml"
    path.write_text(next(block for language, block in BLOCKS if language == "toml"))
    assert len(plans.asked([], [str(path)], [], None)) == 4


def test_tree_and_pictures_are_there():
    """Every file and folder that the README names exists."""
    tree = README.split("## What is where")[1].split("```")[1]
    names = [
        word.rstrip(":,") for word in tree.split() if word.rstrip(":,").endswith(("/", ".md", ".yml", ".toml", ".txt"))
    ]
    missing = [
        n for n in names if not ((ROOT / n).exists() or (ROOT / "kit" / n).exists() or n in ("runs/", "report/"))
    ]
    assert not [name for name in missing if "*" not in name]
    assert not [p for p in re.findall(r"!\[.*?\]\((.*?)\)", README) if not (ROOT / p).exists()]
