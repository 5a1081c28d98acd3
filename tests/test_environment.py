"""environment.yml, pyproject.toml, the constraints and the Makefile agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TECHNIQUES = sorted(path.name for path in (ROOT / "kit" / "techniques").iterdir() if (path / "__init__.py").exists())
CONDA_NAMES = {
    "cudf-cu13": "cudf",
    "cudf-polars-cu13": "cudf-polars",
    "cupy-cuda13x": "cupy",
    "dask-cudf-cu13": "dask-cudf",
}
NOT_PINNED = ("gpu", "edge")
"""Extras of their own constraints, or of one exact version."""


def lines(file: str) -> list[str]:
    return [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]


def ranges(requirements: list[str]) -> dict[str, str]:
    asked = [one for one in map(Requirement, requirements) if one.name != PROJECT["name"]]
    return {one.name.lower(): str(one.specifier) for one in asked}


def test_each_technique_has_an_extra():
    """The extra of a technique bears the name of its folder, and `[all]` holds them all and nothing else."""
    assert set(TECHNIQUES) <= set(EXTRAS)
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == PROJECT["name"] and sorted(everything.extras) == TECHNIQUES


def test_a_package_has_one_range():
    """A package that several extras name has the same range in each."""
    found = [item for extra in EXTRAS.values() for item in ranges(extra).items()]
    assert not {name for name, span in found if any(name == other and span != told for other, told in found)}


def test_environment_gives_the_gpu_extra():
    """environment.yml names the packages of the extra `gpu` with the same ranges; pip brings the rest."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    plain = [entry for entry in listed if isinstance(entry, str) and not entry.startswith("cuda-version")]
    given = ranges([*plain, *(line for line in pip if not line.startswith("--"))])
    asked = {CONDA_NAMES.get(name, name): span for name, span in ranges(EXTRAS["gpu"]).items()}
    assert {name: span for name, span in given.items() if name not in ("python", "pip")} == asked
    assert PROJECT["requires-python"] in given["python"]
    assert pip[-2:] == ["--constraint constraints-gpu.txt", "--editable .[test]"]


@pytest.mark.parametrize("extra", ["", *sorted(EXTRAS.keys() - set(NOT_PINNED))])
def test_constraints_lie_within_the_ranges(extra):
    """constraints.txt pins each package that is asked for, to a version that pyproject.toml allows."""
    pinned = {name: span.removeprefix("==") for name, span in ranges(lines("constraints.txt")).items()}
    for asked in map(Requirement, EXTRAS[extra] if extra else PROJECT["dependencies"]):
        if asked.name != PROJECT["name"]:
            version = pinned.get(asked.name.lower())
            assert version is not None, f"constraints.txt does not pin {asked.name}"
            assert Version(version) in asked.specifier, f"{asked.name} {version} is outside {asked.specifier}"


def test_gpu_constraints_lie_within_the_ranges():
    """The GPU's own lines of pandas and Polars are ones that the extra `dataframes` accepts."""
    asked = ranges(EXTRAS["dataframes"])
    for one in map(Requirement, lines("constraints-gpu.txt")):
        assert Version(asked[one.name].removeprefix(">=")) in one.specifier


def test_make_installs_known_extras():
    """Each environment that the Makefile makes is an extra of pyproject.toml."""
    asked = re.findall(r"^EXTRAS_\w+ := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(asked) == 3 and set(",".join(asked).split(",")) <= set(EXTRAS)
