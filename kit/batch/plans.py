"""Reads plans (docs/batches.md shows one), and turns what was asked into runs, checked before anything starts."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from kit import project
from kit.batch import notebooks, parameters
from kit.batch.notebooks import Notebook
from kit.errors import UserError, nearest
from kit.record import store

TIMEOUT_S = 7200.0  # of a run where no other is given: a kernel that hangs must not hold the machine for ever


@dataclass(frozen=True)
class Run:
    """One execution of one notebook. given: parameters that are set, by name; the rest keeps its default. values: all.
    timeout: in seconds."""

    notebook: Notebook
    given: dict[str, Any]
    values: dict[str, Any]
    timeout: float = TIMEOUT_S

    @property
    def settings(self) -> str:
        """What is set, as on a command line, without the passwords of addresses."""
        return " ".join(f"{name}={parameters.as_text(store.clean(value))}" for name, value in self.given.items())


Seconds = Annotated[float, msgspec.Meta(gt=0, lt=1e9)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[run]]` of a plan."""

    notebook: str
    parameters: dict[str, Any] = {}
    grid: dict[str, Annotated[list[Any], msgspec.Meta(min_length=1)]] = {}
    timeout: Seconds | None = None


class _Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run: Annotated[list[Entry], msgspec.Meta(min_length=1)]
    timeout: Seconds | None = None


def asked(names: list[str], plans: list[str], given: list[str], timeout: float | None) -> list[Run]:
    """Return the runs that were asked for, in order, none twice.

    names: notebooks and files of plans. plans: `first`, `quick`, `full`, `smoke`, or files; notebooks select from them.
    given: `NAME=VALUE`, for every run; they win over a plan. timeout: seconds, wins over a plan.
    Raise `UserError` if a notebook, a plan, a name or a value can't be, before anything has started."""
    if not names and not plans:
        raise UserError("name a notebook or a plan, as in `kit run 01_dataframes` or `kit run --plan first`")
    plans = [*plans, *(name for name in names if name.endswith(".toml"))]
    texts, chosen = dict(map(_pair, given)), [notebooks.find(name) for name in names if not name.endswith(".toml")]
    entries = [one for plan in plans for one in read(plan)] if plans else [(path, Entry("")) for path in chosen]
    there = {path: path.stem for path, _ in entries}
    for path in chosen:
        if path not in there:
            raise UserError(f"the plan has no run of {path.stem}; it has {', '.join(sorted(there.values()))}")
    runs = [run for one in entries if not chosen or one[0] in chosen for run in _runs(*one, texts, timeout)]
    return list({(run.notebook.path, repr(run.values)): run for run in runs}.values())


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f"-p takes NAME=VALUE, as in -p rows=1_000_000; got {text!r}")
    return name.strip(), value


def _runs(path: Path, entry: Entry, given: dict[str, str], timeout: float | None) -> list[Run]:
    notebook = notebooks.read(path)
    points = [dict(zip(entry.grid, values, strict=True)) for values in itertools.product(*entry.grid.values())]
    checked = [parameters.checked(notebook, given, entry.parameters | point) for point in points]
    return [Run(notebook, *both, timeout or entry.timeout or TIMEOUT_S) for both in checked]


def read(plan: str) -> list[tuple[Path, Entry]]:
    """Read a plan, by its name in `benchmarks/plans/` or by its path; raise `UserError` if it is not as above."""
    path, found = _find(plan), []
    try:
        document = msgspec.toml.decode(path.read_bytes(), type=_Plan)
        for entry in document.run:
            if both := entry.grid.keys() & entry.parameters.keys():
                raise UserError(f"{min(both)} stands under both parameters and grid: keep one")
            entry = msgspec.structs.replace(entry, timeout=entry.timeout or document.timeout)
            found.append((notebooks.find(entry.notebook, path.parent), entry))
    except (UserError, msgspec.MsgspecError, ValueError, OSError) as error:
        raise UserError(f"plan {path.name}: {error}; docs/batches.md shows the form of a plan") from None
    return found


def _find(plan: str) -> Path:
    if plan.endswith(".toml"):
        if not Path(plan).is_file():
            raise UserError(f"there is no plan at {plan}")
        return Path(plan)
    roots = [notebooks.SHIPPED, project.project()]  # the project's own plan wins
    plans = {path.stem: path for root in roots for path in sorted(root.glob("benchmarks/plans/*.toml"))}
    if plan not in plans:
        raise UserError(f"there is no plan {plan}; {nearest(plan, plans)}, or give a TOML file")
    return plans[plan]
