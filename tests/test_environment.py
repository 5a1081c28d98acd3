"""environment.yml, pyproject.toml and the constraints say the same."""

import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {
    "duckdb": "python-duckdb",
    "redis": "redis-py",
    "torch": "pytorch",
    "cudf-cu13": "cudf",
    "cudf-polars-cu13": "cudf-polars",
    "cupy-cuda13x": "cupy",
    "dask-cudf-cu13": "dask-cudf",
}


def ranges(lines: list[str]) -> dict[str, str]:
    parsed = [Requirement(line) for line in lines]
    return {one.name.lower(): str(one.specifier) for one in parsed}


def of_environment() -> dict[str, str]:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    plain = [entry for entry in listed if isinstance(entry, str) and not entry.startswith("cuda-version")]
    return ranges([*plain, *(line for line in pip if not line.startswith("-"))])


def test_environment_gives_what_pyproject_asks():
    """Every core, GPU and test dependency stands in environment.yml with the same range, and nothing else does."""
    extras = PROJECT["optional-dependencies"]
    asked = ranges([*PROJECT["dependencies"], *extras["gpu"], *extras["test"]])
    asked = {CONDA_NAMES.get(name, name): span for name, span in asked.items()}
    given = of_environment()
    assert {name: span for name, span in given.items() if name not in ("python", "pip")} == asked
    assert given["python"].startswith(PROJECT["requires-python"]) or PROJECT["requires-python"] in given["python"]


def test_constraints_lie_within_the_ranges():
    """Each version that was tried together is one that pyproject.toml allows."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {one.name.lower(): str(one.specifier).removeprefix("==") for one in map(Requirement, lines)}
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras["test"], *extras["proof"]]:
        asked = Requirement(line)
        version = pinned.get(asked.name.lower())
        assert version is not None, f"constraints.txt does not pin {asked.name}"
        assert Version(version) in asked.specifier, f"{asked.name} {version} is outside {asked.specifier}"


def test_gpu_constraints_lie_within_the_ranges():
    """The GPU's own lines of pandas and Polars are ones that the core accepts."""
    core = ranges(PROJECT["dependencies"])
    lines = [x for x in (ROOT / "constraints-gpu.txt").read_text().splitlines() if x and not x.startswith("#")]
    for one in map(Requirement, lines):
        floor = core[one.name].removeprefix(">=")
        assert Version(floor) in one.specifier
