"""Reads plans, and turns what was asked into the list of runs to execute, checked before anything starts.

A plan is a TOML file:

    timeout = 600                      # seconds a run may take; optional

    [[run]]                            # as many as wanted, the same notebook as often as wanted
    notebook = "01_dataframes"         # a name in notebooks/, or a path, which may be relative to this file
    timeout = 120                      # for these runs only; optional
    resources = { gpu = 1 }            # what a worker of a cluster must declare to get these runs; optional

    [run.parameters]                   # the notebook's parameters; what is not set keeps its default
    rows = 1_000_000

    [run.grid]                         # lists: one run for each combination
    workload = ["flights", "groupby"]
    threads = [1, 2]
"""

import itertools
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import kit
from kit.batch import notebooks, parameters
from kit.batch.notebooks import Notebook
from kit.errors import UserError
from kit.record import store


@dataclass(frozen=True)
class Run:
    """One execution of one notebook with one set of parameters.

    given: what is set, by name; the rest keeps its default. values: all parameters. timeout: seconds, or None.
    resources: what a worker of a cluster must declare to get it; on one machine it says nothing.
    """

    notebook: Notebook
    given: dict[str, Any]
    values: dict[str, Any]
    timeout: float | None = None
    resources: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The notebook's name and what is set, for people: without the passwords of addresses."""
        told = (f"{name}={parameters.as_text(store.clean(value))}" for name, value in self.given.items())
        return " ".join([self.notebook.name, *told])


@dataclass(frozen=True)
class Entry:
    """One `[[run]]` of a plan."""

    notebook: Path
    parameters: dict[str, Any]
    grid: dict[str, list[Any]]
    timeout: float | None
    resources: dict[str, float] = field(default_factory=dict)


def asked(names: list[str], plans: list[str], given: list[str], timeout: float | None) -> list[Run]:
    """Return the runs that were asked for, in order, none twice.

    names: notebooks; with plans, they select from these. plans: `smoke`, `quick`, `full`, or TOML files.
    given: `NAME=VALUE`, for every run; they win over a plan. timeout: seconds, wins over a plan.
    Raise `UserError` if a notebook, a plan, a name or a value can't be, before anything has started.
    """
    if not names and not plans:
        raise UserError("name a notebook or a plan, as in `kit run 01_dataframes` or `kit run --plan quick`")
    paths, texts = [notebooks.find(name) for name in names], dict(_pair(text) for text in given)
    entries = [entry for plan in plans for entry in read(plan)]
    entries = _selected(entries, paths) if plans else [Entry(path, {}, {}, None) for path in paths]
    runs = [run for entry in entries for run in _runs(entry, texts, timeout)]
    return [run for n, run in enumerate(runs) if not any(_same(run, other) for other in runs[:n])]


def _runs(entry: Entry, given: dict[str, str], timeout: float | None) -> list[Run]:
    """Return the runs of an entry: the product of its grid."""
    notebook = notebooks.read(entry.notebook)
    points = [dict(zip(entry.grid, values, strict=True)) for values in itertools.product(*entry.grid.values())]
    checked = [parameters.checked(notebook, given, entry.parameters | point) for point in points]
    return [Run(notebook, *settings, timeout or entry.timeout, entry.resources) for settings in checked]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f"-p takes NAME=VALUE, as in -p rows=1_000_000; got {text!r}")
    return name.strip(), value


def _same(one: Run, other: Run) -> bool:
    return one.notebook.path == other.notebook.path and one.values == other.values


def _selected(entries: list[Entry], paths: list[Path]) -> list[Entry]:
    there = {entry.notebook for entry in entries}
    if missing := [path for path in paths if path not in there]:
        names = ", ".join(sorted(path.stem for path in there))
        raise UserError(f"the plan has no run of {missing[0].stem}; it has {names}")
    return [entry for entry in entries if not paths or entry.notebook in paths]


def read(plan: str) -> list[Entry]:
    """Read a plan, by its name in `benchmarks/plans/` or by its path; raise `UserError` if it is not as above."""
    path = _find(plan)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        _only(document, {"timeout": int | float, "run": list}, "the plan")
        entries = [_entry(entry, document.get("timeout"), path.parent) for entry in document.get("run", [])]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"plan {path.name}: it is not TOML: {error}") from None
    except UserError as error:
        raise UserError(f"plan {path.name}: {error}") from None
    if not entries:
        raise UserError(f"plan {path.name}: it has no [[run]]")
    return entries


def _find(plan: str) -> Path:
    if plan.endswith(".toml"):
        if not Path(plan).is_file():
            raise UserError(f"there is no plan at {plan}")
        return Path(plan)
    folders = [notebooks.project() or Path.cwd(), Path(kit.__file__).parents[1]]
    plans = {path.stem: path for folder in folders for path in sorted((folder / "benchmarks" / "plans").glob("*.toml"))}
    if plan not in plans:
        raise UserError(f"there is no plan {plan}{_nearest(plan, plans)}, or give a TOML file")
    return plans[plan]


def _entry(table: Any, timeout: float | None, folder: Path) -> Entry:
    allowed = {"notebook": str, "timeout": int | float, "resources": dict, "parameters": dict, "grid": dict}
    _only(table, allowed, "a [[run]]")
    if "notebook" not in table:
        raise UserError('a [[run]] has no notebook: write `notebook = "01_dataframes"`')
    given, grid = table.get("parameters", {}), table.get("grid", {})
    for name, values in grid.items():
        if name in given:
            raise UserError(f"{name} stands under both parameters and grid: keep one")
        if not isinstance(values, list) or not values:
            raise UserError(f"grid.{name} is {values!r}; a grid takes lists, as {name} = [1, 2]")
    resources = table.get("resources", {})
    for name, amount in resources.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < float("inf"):
            raise UserError(f"resources.{name} is {amount!r}; it is a number above 0, as resources = {{ gpu = 1 }}")
    return Entry(notebooks.find(table["notebook"], folder), given, grid, table.get("timeout", timeout), resources)


def _only(table: Any, allowed: dict[str, Any], where: str) -> None:
    if not isinstance(table, dict):
        raise UserError(f"{where} is {table!r}, not a table")
    for name, value in table.items():
        if name not in allowed:
            raise UserError(f"{where} has an unknown key {name}{_nearest(name, allowed)}")
        if not isinstance(value, allowed[name]) or isinstance(value, bool):
            raise UserError(f"{name} in {where} is {value!r}; `kit run --help` says the form of a plan")
    if table.get("timeout", 1) <= 0:
        raise UserError(f"timeout in {where} is {table['timeout']!r}; it is a number of seconds above 0")


def _nearest(name: str, names: Any) -> str:
    close = get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}? Known: {', '.join(names)}" if close else f"; known: {', '.join(names)}"
