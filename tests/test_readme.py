"""What the README shows is true: its example runs, its plan is taken, its tree and its pictures are there.

That each command it prints is run is held by test_commands.py.
"""

import re
import subprocess
import sys
from pathlib import Path

import printed
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = sorted(path.relative_to(ROOT / "docs") for path in ROOT.glob("docs/**/*.md"))


def test_example_runs(tmp_path, monkeypatch):
    """The Python example is a whole program: it measures, and says its verdict, whatever that is on this machine."""
    monkeypatch.setenv("KIT_RUN", str(tmp_path))
    (tmp_path / "example.py").write_text(printed.blocks(README, "python")[0])
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("Use ", "No winner shown")) and "built in" in done.stdout


def test_plan_is_valid(tmp_path):
    """The plan that the documents show is one that `kit run` takes: two questions times two numbers of groups."""
    from kit.batch import plans

    path = tmp_path / "mine.toml"
    path.write_text(printed.blocks((ROOT / "docs/batches.md").read_text(), "toml")[0])
    assert len(plans.asked([], [str(path)], [], None)) == 4


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{p}" for p in DOCS)])
def test_links_and_pictures_are_there(document):
    """Every file that a document links to exists."""
    path = ROOT / document
    links = [link for link in re.findall(r"\]\((.*?)\)", path.read_text()) if "://" not in link]
    assert not [link for link in links if not (path.parent / link).exists()]


def test_readme_is_one_page():
    """At most 150 lines and 960 words."""
    assert README.count("\n") <= 150 and len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) <= 960
