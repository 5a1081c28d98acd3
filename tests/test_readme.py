"""What the README shows is true: its example runs, its plan is taken, its tree and its pictures are there.

That each command it prints is run is held by test_commands.py.
"""

import re
import subprocess
import sys
from pathlib import Path

import printed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_example_runs(tmp_path, monkeypatch):
    """The Python example is a whole program: it measures and says its verdict."""
    monkeypatch.setenv("KIT_RUN", str(tmp_path))
    (tmp_path / "example.py").write_text(printed.blocks(README, "python")[0])
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "built in is" in done.stdout and "faster than loop" in done.stdout


def test_plan_is_valid(tmp_path):
    """The plan that the README shows is one that `kit run` takes: two questions times two numbers of groups."""
    from kit.batch import plans

    path = tmp_path / "mine.toml"
    path.write_text(printed.blocks(README, "toml")[0])
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
